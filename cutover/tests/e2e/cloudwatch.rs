//! CloudWatch as an operator uses it, with moto in its place: an outage holds a release, a bad number and an alarm take it
//! back, and who asks there is nobody else's business.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Said, Scratch, kill, servers_wanted, wait};
use crate::service::{Shop, bakes_at, pids, status};

const SECRET: &str = "cloudwatch-hunter2";

/// Ends with its standard input, which ends with this process at the latest.
struct Moto {
    child: Child,
    /// Where the SDK asks, and where moto itself is.
    url: String,
    moto: String,
    /// What the service's errors are said to be from now on.
    errors: Arc<Mutex<Option<f64>>>,
}

impl Drop for Moto {
    fn drop(&mut self) {
        *self.errors.lock().unwrap() = None;
        // It may have been stopped.
        kill(self.child.id().cast_signed(), Signal::CONT);
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Moto {
    fn start() -> Moto {
        let python = std::env::var("CUTOVER_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../edges/aws/tests/clients/bridge.py");
        let mut command = Command::new(python);
        let command = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        let mut word = || words.next().expect("moto is installed by ./test, and says where it is");
        Moto { child, url: word(), moto: word(), errors: Arc::new(Mutex::new(Some(0.0))) }
    }

    fn says(&self, errors: f64) {
        *self.errors.lock().unwrap() = Some(errors);
    }

    /// Goes on to publish the number, as a service does, until this is dropped.
    fn publish(&self) {
        let (errors, moto) = (self.errors.clone(), self.moto.clone());
        std::thread::spawn(move || {
            loop {
                let Some(number) = *errors.lock().unwrap() else { return };
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                let datum = json!({"MetricName": "Errors", "Timestamp": now, "Value": number, "StorageResolution": 1});
                ask(&moto, "PutMetricData", &json!({"Namespace": "Shop", "MetricData": [datum]}));
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    }

    fn alarm(&self, state: &str) {
        let alarm = json!({
            "AlarmName": "shop-5xx", "Namespace": "Shop", "MetricName": "Errors", "Statistic": "Sum", "Period": 60,
            "EvaluationPeriods": 1, "Threshold": 1.0, "ComparisonOperator": "GreaterThanThreshold",
        });
        let set = json!({"AlarmName": "shop-5xx", "StateValue": state, "StateReason": "a test says so"});
        assert!(ask(&self.moto, "PutMetricAlarm", &alarm) && ask(&self.moto, "SetAlarmState", &set));
    }
}

/// Asks moto in the form that it speaks. Tells whether it did it; it may be stopped, or gone.
fn ask(moto: &str, operation: &str, body: &Value) -> bool {
    let body = body.to_string();
    let exchange = || {
        let mut stream = TcpStream::connect(moto.strip_prefix("http://")?).ok()?;
        write!(
            stream,
            "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-amz-target: GraniteServiceVersion20100801.\
             {operation}\r\ncontent-type: application/x-amz-json-1.0\r\nauthorization: AWS4-HMAC-SHA256 Credential=test/\
             20260101/eu-central-1/monitoring/aws4_request, SignedHeaders=host, Signature=0\r\ncontent-length: \
             {}\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains(" 200 ").then_some(())
    };
    exchange().is_some()
}

fn file(scratch: &Scratch, version: &str) {
    let more = "bake: 4s\nkeep_warm: 0s\ndrain: 1s\nguard:\n  on_inconclusive: advance\n  metrics:\n    - name: errors\n      \
                cloudwatch: {metric: {namespace: Shop, name: Errors}, period: 1s, settle: 0s}\n      max: 1\n      interval: \
                300ms\n      timeout: 2s\n    - {name: alarm, cloudwatch: {alarms: [shop-5xx]}, interval: 300ms, timeout: 2s}\n";
    Shop { version, more, ..Shop::default() }.file(scratch);
}

fn deploy(scratch: &Scratch, moto: &Moto) -> Command {
    let mut command = scratch.command(&["deploy", "--output", "json"]);
    command
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_ENDPOINT_URL", &moto.url)
        .env("AWS_REGION", "eu-central-1")
        .env("AWS_ACCESS_KEY_ID", "AKIDTEST")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn cloudwatch_holds_a_release_in_an_outage_and_takes_it_back_for_a_number_or_an_alarm() {
    if !servers_wanted("cloudwatch_holds_a_release_in_an_outage_and_takes_it_back_for_a_number_or_an_alarm") {
        return;
    }
    let scratch = Scratch::new();
    let moto = Moto::start();
    moto.alarm("OK");
    moto.publish();
    file(&scratch, "v1");
    Said::from(deploy(&scratch, &moto).output().unwrap()).expect(0);

    // An outage: it is there, and does not answer.
    file(&scratch, "v2");
    let under_way = deploy(&scratch, &moto).spawn().unwrap();
    bakes_at(&scratch, "100%");
    kill(moto.child.id().cast_signed(), Signal::STOP);
    wait("the hold", || {
        let current = &status(&scratch)?["service"]["current"];
        current["state"].as_str()?.contains("held: not measured (measure ").then_some(())
    });
    for pid in pids(&scratch, "v2") {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(
            !String::from_utf8_lossy(&environment).contains(SECRET),
            "the service got the store's secret"
        );
    }
    moto.says(0.5);
    kill(moto.child.id().cast_signed(), Signal::CONT);
    let report = Said::from(under_way.wait_with_output().unwrap()).expect(0).report().to_string();
    assert!(report.contains("metric alarm: shop-5xx is OK; "), "{report}");
    assert!(report.contains("metric errors: 0"), "{report}");

    moto.says(9.0);
    file(&scratch, "v3");
    let report = Said::from(deploy(&scratch, &moto).output().unwrap()).expect(4).report().to_string();
    // The second in which it began to say so may hold both numbers.
    assert!(report.contains("metric errors: ") && report.contains(" is more than 1 (sampled "), "{report}");

    moto.says(0.0);
    file(&scratch, "v4");
    let under_way = deploy(&scratch, &moto).spawn().unwrap();
    bakes_at(&scratch, "100%");
    moto.alarm("ALARM");
    let report = Said::from(under_way.wait_with_output().unwrap()).expect(4).report().to_string();
    assert!(report.contains("metric alarm: shop-5xx is in ALARM since "), "{report}");
    assert!(report.contains(": a test says so; 1 of "), "{report}");

    // What cannot be asked is told before anything moves.
    file(&scratch, "v5");
    let mut nobody = deploy(&scratch, &moto);
    nobody.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let said = Said::from(nobody.output().unwrap()).expect(3);
    assert!(said.out.contains("CloudWatch in eu-central-1 cannot be asked: no credentials ("), "{said:?}");
    let mut nowhere = deploy(&scratch, &moto);
    nowhere.env_remove("AWS_REGION").env_remove("AWS_DEFAULT_REGION");
    let said = Said::from(nowhere.output().unwrap()).expect(3);
    assert!(said.out.contains("CloudWatch cannot be asked: no region is known"), "{said:?}");
    assert!(!scratch.run(&["history", "--output", "json"]).expect(0).out.contains(SECRET));
    let log = fs::read_to_string(scratch.state().join("server.log")).unwrap();
    assert!(!log.contains(SECRET) && !log.contains("AKIDTEST"), "{log}");
}
