//! What CloudWatch does with data and questions, as far as we ask: on virtual time, with data that comes late and grows,
//! pages, throttles, and answers that are only a part.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aws_sdk_cloudwatch::primitives::{DateTime, DateTimeFormat};
use serde_json::{Value, json};

use super::wire;

/// A server of one region. It ends with the test's process.
#[derive(Clone)]
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    address: SocketAddr,
}

#[derive(Default)]
pub(crate) struct World {
    /// This machine's time, and what CloudWatch's clock is ahead of it.
    pub(crate) now_ms: u64,
    pub(crate) ahead_ms: i64,
    data: Vec<Datum>,
    /// What `DescribeAlarms` finds.
    pub(crate) alarms: Vec<Value>,
    /// At most so many points, or alarms, on a page.
    pub(crate) page: Option<usize>,
    /// What is done instead of answering, to one request each.
    pub(crate) does: VecDeque<Does>,
    /// What each answer to `GetMetricData` has beside its results.
    pub(crate) messages: Vec<Value>,
    /// What was asked, with the head of each request.
    pub(crate) asked: Vec<(String, Value)>,
}

struct Datum {
    series: String,
    start_ms: u64,
    value: f64,
    shown_ms: u64,
}

#[derive(Clone)]
pub(crate) enum Does {
    /// Refuses, as CloudWatch does.
    Refuses(u16, &'static str),
    /// Says something else.
    Says(&'static str),
    /// Says of all results that this is their status.
    Status(&'static str),
    /// Closes the connection.
    HangsUp,
}

impl Server {
    pub(crate) fn start(now_ms: u64) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World { now_ms, ..World::default() }));
        let server = Server { world, address };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, ms: u64) {
        self.world().now_ms += ms;
    }

    /// What time it is for this machine.
    pub(crate) fn now_ms(&self) -> u64 {
        self.world().now_ms
    }

    /// Puts a value into the period that begins at `start_ms`. It is shown from `shown_ms` on, in place of what was before.
    pub(crate) fn put(&self, series: &str, start_ms: u64, value: f64, shown_ms: u64) {
        self.world().data.push(Datum { series: series.into(), start_ms, value, shown_ms });
    }

    fn serve(&self, mut stream: TcpStream) {
        while let Some((head, body)) = request(&mut stream) {
            let Some(answer) = self.answer(&head, &body) else { return };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }

    fn answer(&self, head: &str, body: &[u8]) -> Option<Vec<u8>> {
        let mut world = self.world();
        let asked = wire::read(body);
        world.asked.push((head.to_string(), asked.clone()));
        let mut status = None;
        match world.does.pop_front() {
            Some(Does::HangsUp) => return None,
            Some(Does::Refuses(code, kind)) => {
                let body =
                    json!({"__type": format!("com.amazonaws.cloudwatch#{kind}"), "message": "so it is"});
                return Some(world.response(code, &wire::write(&body)));
            }
            Some(Does::Says(text)) => return Some(world.response(200, text.as_bytes())),
            Some(Does::Status(said)) => status = Some(said),
            None => {}
        }
        let operation = head.split_whitespace().nth(1).unwrap().rsplit('/').next().unwrap().to_string();
        let answer = match operation.as_str() {
            "GetMetricData" => world.metric_data(&asked, status),
            "DescribeAlarms" => world.describe_alarms(&asked),
            other => panic!("nobody asks for {other}"),
        };
        Some(world.response(200, &wire::write(&answer)))
    }
}

impl World {
    fn response(&self, status: u16, body: &[u8]) -> Vec<u8> {
        let seconds = i64::try_from(self.now_ms).unwrap() + self.ahead_ms;
        let date = DateTime::from_secs(seconds / 1_000).fmt(DateTimeFormat::HttpDate).unwrap();
        let head = format!(
            "HTTP/1.1 {status} Said\r\nsmithy-protocol: rpc-v2-cbor\r\ncontent-type: application/cbor\r\ndate: \
             {date}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    /// What is shown by now of one series, in a span.
    fn shown(&self, series: &str, from: u64, to: u64) -> BTreeMap<u64, f64> {
        let now = self.now_ms.saturating_add_signed(self.ahead_ms);
        let here = |datum: &&Datum| {
            datum.series == series && datum.shown_ms <= now && (from..to).contains(&datum.start_ms)
        };
        self.data.iter().filter(here).map(|datum| (datum.start_ms, datum.value)).collect()
    }

    fn metric_data(&self, asked: &Value, status: Option<&str>) -> Value {
        let span = ["StartTime", "EndTime"].map(|key| asked[key].as_u64().unwrap());
        let mut points = Vec::new();
        for query in asked["MetricDataQueries"].as_array().unwrap() {
            if query["ReturnData"] == json!(false) {
                continue;
            }
            let id = query["Id"].as_str().unwrap();
            // A search finds several: `search-1`, `search-2`.
            let names = match query["Expression"].as_str() {
                Some("search") => vec!["search-1".to_string(), "search-2".to_string()],
                Some(expression) => vec![expression.to_string()],
                None => vec![name(&query["MetricStat"])],
            };
            for name in names {
                let shown = self.shown(&name, span[0], span[1]);
                points.extend(shown.into_iter().map(|(at, value)| (id.to_string(), name.clone(), at, value)));
            }
        }
        let begin: usize = asked["NextToken"].as_str().map_or(0, |token| token.parse().unwrap());
        let end = self.page.map_or(points.len(), |page| (begin + page).min(points.len()));
        let more = end < points.len();
        let mut results: BTreeMap<(String, String), (Vec<u64>, Vec<f64>)> = BTreeMap::new();
        for query in asked["MetricDataQueries"].as_array().unwrap() {
            if query["ReturnData"] != json!(false) && query["Expression"].as_str() != Some("search") {
                let id = query["Id"].as_str().unwrap().to_string();
                let label =
                    query["Expression"].as_str().map_or_else(|| name(&query["MetricStat"]), str::to_owned);
                results.insert((id, label), Default::default());
            }
        }
        for (id, label, at, value) in &points[begin..end] {
            let of = results.entry((id.clone(), label.clone())).or_default();
            of.0.push(*at);
            of.1.push(*value);
        }
        let status = status.unwrap_or(if more { "PartialData" } else { "Complete" });
        let results: Vec<_> = results
            .into_iter()
            .map(|((id, label), (at, values))| {
                json!({"Id": id, "Label": label, "Timestamps": at, "Values": values, "StatusCode": status})
            })
            .collect();
        let mut answer = json!({"MetricDataResults": results, "Messages": self.messages});
        if more {
            answer["NextToken"] = json!(end.to_string());
        }
        answer
    }

    fn describe_alarms(&self, asked: &Value) -> Value {
        let wanted = |alarm: &&Value| asked["AlarmNames"].as_array().unwrap().contains(&alarm["AlarmName"]);
        let all: Vec<&Value> = self.alarms.iter().filter(wanted).collect();
        let begin: usize = asked["NextToken"].as_str().map_or(0, |token| token.parse().unwrap());
        let end = self.page.map_or(all.len(), |page| (begin + page).min(all.len()));
        let (composite, metric): (Vec<&Value>, Vec<&Value>) =
            all[begin..end].iter().partition(|alarm| alarm["AlarmRule"].is_string());
        let mut answer = json!({"MetricAlarms": metric, "CompositeAlarms": composite});
        if end < all.len() {
            answer["NextToken"] = json!(end.to_string());
        }
        answer
    }
}

/// `Namespace Name{A=1,B=2} Stat` is how the tests call a series.
fn name(stat: &Value) -> String {
    let metric = &stat["Metric"];
    let mut dimensions: Vec<String> = metric["Dimensions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|dimension| {
            format!("{}={}", dimension["Name"].as_str().unwrap(), dimension["Value"].as_str().unwrap())
        })
        .collect();
    dimensions.sort();
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let (namespace, name, stat) =
        (text(&metric["Namespace"]), text(&metric["MetricName"]), text(&stat["Stat"]));
    format!("{namespace} {name}{{{}}} {stat}", dimensions.join(","))
}

fn request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_string();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if read.len() >= end + 4 + length.unwrap_or(0) {
                return Some((head, read[end + 4..].to_vec()));
            }
        }
        match stream.read(&mut part) {
            Ok(0) | Err(_) => return None,
            Ok(more) => read.extend(&part[..more]),
        }
    }
}
