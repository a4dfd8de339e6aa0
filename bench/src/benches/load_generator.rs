//! What sending a request costs: processor time of cutover's load tests, of oha and of wrk, in the same run, by turns.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cutover_load::{Against, Pace, Protocol, Scenario, Side, Spec, Target};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Map, Value, json};

use super::numbers::Samples;
use super::{Outcome, Setting, wire};

const GOAL: &str =
    "CPU per request of a load test <= oha's (one worker thread), in the middle over the cases";
const OHA: &str = "1.16.0";

/// What is sent.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    body: usize,
    /// Clients; with HTTP/2, streams of one connection.
    clients: usize,
    /// Requests a second; none is as fast as it goes.
    rate: Option<u64>,
    http2: bool,
}

const CASES: [Case; 5] = [
    Case { name: "64 clients, 64 B", body: 64, clients: 64, rate: None, http2: false },
    Case { name: "1 client, 64 B", body: 64, clients: 1, rate: None, http2: false },
    Case { name: "64 clients, 16 KiB", body: 16 << 10, clients: 64, rate: None, http2: false },
    Case { name: "2,000 requests a second, 64 B", body: 64, clients: 64, rate: Some(2_000), http2: false },
    Case { name: "HTTP/2, 64 streams, 64 B", body: 64, clients: 64, rate: None, http2: true },
];

/// One who sends load.
struct Generator {
    name: &'static str,
    program: PathBuf,
    arguments: fn(&Case, SocketAddr, u64) -> Option<Vec<String>>,
    /// Reads from what it printed how many requests were answered.
    answered: fn(&str) -> Option<u64>,
}

struct Row {
    case: Case,
    us: Vec<(&'static str, f64)>,
}

pub(super) fn run(setting: &Setting) -> Result<Outcome> {
    let (seconds, rounds) = if setting.quick { (1, 2) } else { (5, 5) };
    let generators = generators()?;
    let mut rows = Vec::new();
    for case in CASES {
        let role =
            if case.http2 { vec!["origin-h2".into()] } else { vec!["origin".into(), case.body.to_string()] };
        let (_origin, _, target) = wire::start(&role)?;
        let able: Vec<_> = generators
            .iter()
            .filter_map(|generator| Some((generator, (generator.arguments)(&case, target, seconds)?)))
            .collect();
        let mut samples = vec![Samples::default(); able.len()];
        for _ in 0..rounds {
            for ((generator, arguments), samples) in able.iter().zip(&mut samples) {
                samples.add_us(per_request(generator, arguments).with_context(|| case.name)?);
            }
        }
        let us =
            able.iter().zip(&samples).map(|((generator, _), samples)| (generator.name, samples.median()));
        rows.push(Row { case, us: us.collect() });
    }
    Ok(tell(&rows))
}

fn generators() -> Result<Vec<Generator>> {
    let ours = std::env::current_exe().context("failed to find this program")?;
    let mut all = vec![Generator {
        name: "cutover",
        program: ours,
        arguments: |case, target, seconds| {
            let mut arguments = vec!["load".into(), target.to_string(), format!("/{}", case.body)];
            arguments.extend([case.clients.to_string(), seconds.to_string()]);
            arguments.extend(case.rate.map(|rate| format!("--rate={rate}")));
            arguments.extend(case.http2.then(|| "--http2".into()));
            Some(arguments)
        },
        answered: |text| text.trim().parse().ok(),
    }];
    match oha() {
        Some(program) => all.push(Generator {
            name: "oha",
            program,
            arguments: |case, target, seconds| {
                let url = format!("http://{target}/{}", case.body);
                let clients = case.clients.to_string();
                let mut arguments: Vec<String> = match case.http2 {
                    true => ["--http2", "-c", "1", "-p", &clients].map(String::from).to_vec(),
                    false => vec!["-c".into(), clients],
                };
                arguments.extend(
                    ["--no-tui", "--output-format", "json", "--worker-threads", "1"].map(String::from),
                );
                arguments.extend(["-z".into(), format!("{seconds}s")]);
                if let Some(rate) = case.rate {
                    arguments.extend(["-q".into(), rate.to_string(), "--latency-correction".into()]);
                }
                arguments.push(url);
                Some(arguments)
            },
            answered: |text| {
                let said: Value = serde_json::from_str(text).ok()?;
                said["statusCodeDistribution"]["200"].as_u64()
            },
        }),
        None => println!("oha is not there: cargo install --locked oha --version {OHA}; it is not measured"),
    }
    if present(Path::new("wrk")) {
        all.push(Generator {
            name: "wrk",
            program: "wrk".into(),
            // It has neither a rate nor HTTP/2.
            arguments: |case, target, seconds| {
                (case.rate.is_none() && !case.http2).then(|| {
                    let url = format!("http://{target}/{}", case.body);
                    vec!["-t1".into(), format!("-c{}", case.clients), format!("-d{seconds}s"), url]
                })
            },
            answered: |text| {
                let line = text.lines().find(|line| line.contains(" requests in "))?;
                line.split_whitespace().next()?.parse().ok()
            },
        });
    } else {
        println!("wrk is not installed: it is not measured");
    }
    Ok(all)
}

/// Returns where oha is: installed, or in the folder of tools that `./test` keeps.
fn oha() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/cutover-test-tools"));
    let tools = std::env::var_os("CUTOVER_TEST_TOOLS").map(PathBuf::from).or_else(home)?;
    [PathBuf::from("oha"), tools.join("bin/oha")].into_iter().find(|program| present(program))
}

fn present(program: &Path) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok()
}

/// Returns microseconds of processor time per request that was answered, the generator's start and end among them.
fn per_request(generator: &Generator, arguments: &[String]) -> Result<f64> {
    let before = of_children()?;
    let output = Command::new(&generator.program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("failed to start {}", generator.name))?;
    let after = of_children()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{} {arguments:?}: {}", generator.name, String::from_utf8_lossy(&output.stderr));
    }
    let answered = (generator.answered)(&text);
    let answered =
        answered.with_context(|| format!("{} did not say how much it sent: {text}", generator.name))?;
    ensure!(answered > 0, "{} was answered nothing", generator.name);
    Ok((after - before) / answered as f64)
}

/// Microseconds of processor time of all children that have ended. One runs at a time, so differences are one child's.
fn of_children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64)
}

/// Sends load as a load test of a release does, and prints how many requests were answered: the program that is measured.
pub(crate) fn send(
    target: SocketAddr,
    path: &str,
    clients: usize,
    seconds: u64,
    rate: Option<u64>,
    http2: bool,
) -> Result<()> {
    let pace = match rate {
        Some(rate) => Pace::Rate { per_1000_s: rate * 1000, open: clients },
        None => Pace::Clients { count: clients, pause: None },
    };
    let spec = Spec {
        scenarios: vec![Scenario {
            name: path.into(),
            weight: 1,
            method: hyper::Method::GET,
            path: path.parse()?,
            headers: hyper::HeaderMap::new(),
            body: bytes::Bytes::new(),
            expect: 200..=200,
        }],
        pace,
        span: Duration::from_secs(seconds),
        timeout: Duration::from_secs(10),
        protocol: if http2 { Protocol::Http2 } else { Protocol::Http1 },
        against: Against::Candidate,
    };
    let running = cutover_load::start(spec, &[Target { side: Side::Candidate, address: target }])?;
    let report = tokio::runtime::Builder::new_current_thread().build()?.block_on(running)?;
    let seen = report.total(Side::Candidate).context("the candidate was asked")?;
    ensure!(seen.failed == 0, "{} of {} requests failed: {}", seen.failed, seen.requests, seen.first_failure);
    println!("{}", seen.requests);
    Ok(())
}

fn tell(rows: &[Row]) -> Outcome {
    const NAMES: [&str; 3] = ["cutover", "oha", "wrk"];
    let of = |row: &Row, name| row.us.iter().find(|(other, _)| *other == name).map(|(_, us)| *us);
    let heads: String = NAMES.iter().map(|name| format!(" {name:>9}")).collect();
    println!("\n  {:<42}{heads} {:>9}", "µs of CPU per request", "by oha");
    let mut ratios = Samples::default();
    let mut named: Vec<(&str, Map<String, Value>)> = NAMES.map(|name| (name, Map::new())).to_vec();
    for row in rows {
        let ratio = of(row, "cutover").zip(of(row, "oha")).map(|(ours, oha)| ours / oha);
        if let Some(ratio) = ratio {
            ratios.add_us(ratio);
        }
        let cell = |us: Option<f64>| us.map_or("-".into(), |us| format!("{us:.1}"));
        let cells: String = NAMES.iter().map(|name| format!(" {:>9}", cell(of(row, name)))).collect();
        println!(
            "  {:<42}{cells} {:>9}",
            row.case.name,
            ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"))
        );
        for (name, cases) in &mut named {
            if let Some(us) = of(row, name) {
                cases.insert(row.case.name.into(), json!((us * 10.0).round() / 10.0));
            }
        }
    }
    let measured = rows.iter().any(|row| of(row, "oha").is_some());
    let ratio = measured.then(|| (ratios.median() * 100.0).round() / 100.0);
    let mut named = named.into_iter();
    let ours = named.next().map(|(_, cases)| json!(cases)).unwrap_or_default();
    let peers: Map<String, Value> = named.map(|(name, cases)| (name.into(), json!(cases))).collect();
    Outcome {
        bench: "load-generator",
        ours,
        peers: Value::Object(peers),
        ratio,
        goal: GOAL,
        holds: ratio.is_some_and(|ratio| ratio <= 1.0),
    }
}
