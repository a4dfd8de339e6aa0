//! The same questions to moto, which nobody here wrote: it accepts what we send, and we read what it has.
//!
//! It has no metric math, no percentiles, no pages, no throttles and no late data; those are the small server's.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{ComparisonOperator, Dimension, MetricDatum, StateValue, Statistic};
use cutover_aws::AwsSources;
use cutover_core::file::{Counters, Metric};
use cutover_sources::{AskErrorKind, Found, OwnSources, Setting, Source, Sources};
use serde_json::{Value, json};

use super::server::Server;
use super::setting::{counted, error, setting, value};

/// Ends with its standard input.
struct Moto {
    child: Child,
    url: String,
    client: Client,
    /// When it was ready, on a whole second.
    began_ms: u64,
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Moto {
    /// None where it is not installed, which is said in one line and fails where nothing may be left out.
    fn start(test: &str) -> Option<Moto> {
        let python = std::env::var("CUTOVER_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        let imports =
            Command::new(&python).args(["-c", "import boto3, moto.server"]).stderr(Stdio::null()).status();
        if !imports.is_ok_and(|status| status.success()) {
            assert!(
                std::env::var_os("CUTOVER_TEST_SERVERS").is_none(),
                "moto is missing; ./test installs it"
            );
            println!("skipped: {test}: {python} has no moto");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/bridge.py");
        let mut command = Command::new(python);
        let command = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().next().expect("moto says where it is").to_string();
        let config = aws_sdk_cloudwatch::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .region(Region::new("eu-central-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(&url);
        let client = Client::from_conf(config.build());
        Some(Moto { child, url, client, began_ms: now_ms() / 1_000 * 1_000 })
    }

    async fn put(&self, namespace: &str, name: &str, dimensions: &[(&str, &str)], at_ms: u64, number: f64) {
        let dimensions =
            dimensions.iter().map(|(name, value)| Dimension::builder().name(*name).value(*value).build());
        let datum = MetricDatum::builder()
            .metric_name(name)
            .set_dimensions(Some(dimensions.collect()))
            .timestamp(DateTime::from_millis(i64::try_from(at_ms).unwrap()))
            .storage_resolution(1)
            .value(number)
            .build();
        self.client.put_metric_data().namespace(namespace).metric_data(datum).send().await.unwrap();
    }

    /// The release and its bake began twenty seconds ago.
    fn setting(&self) -> Setting {
        let mut setting = setting(&Server::start(0));
        setting.wall = Arc::new(now_ms);
        (setting.opened_ms, setting.since_ms) = (self.began_ms - 20_000, self.began_ms - 20_000);
        setting
    }

    fn source(&self, mut keys: Value) -> Box<dyn Source> {
        keys["endpoint"] = json!(self.url);
        let metric: Metric = serde_json::from_value(json!({"name": "errors", "cloudwatch": keys})).unwrap();
        AwsSources::beside(OwnSources).metric(&metric, &self.setting()).unwrap()
    }

    async fn alarm(&self, name: &str, state: StateValue) {
        let put = self.client.put_metric_alarm().alarm_name(name).namespace("Shop").metric_name("Errors");
        let put = put.comparison_operator(ComparisonOperator::GreaterThanThreshold).threshold(1.0);
        put.period(60).evaluation_periods(1).statistic(Statistic::Sum).send().await.unwrap();
        let set =
            self.client.set_alarm_state().alarm_name(name).state_value(state).state_reason("a test says so");
        set.send().await.unwrap();
    }
}

#[tokio::test]
async fn moto_has_the_numbers_that_we_read() {
    let Some(moto) = Moto::start("moto_has_the_numbers_that_we_read") else { return };
    let metric = |stat: &str| {
        let series = json!({
            "namespace": "Shop",
            "name": "Errors",
            "dimensions": {"Revision": "{{revision}}", "Service": "shop"},
            "stat": stat,
        });
        moto.source(json!({"metric": series, "period": "1s", "settle": "0s"}))
    };
    let (kind, what) = error(metric("Sum").ask().await);
    assert_eq!((kind, &*what), (AskErrorKind::NoData, "CloudWatch has no data of this bake"));
    let of = [("Revision", "r-2"), ("Service", "shop")];
    for number in [3.0, 5.0] {
        moto.put("Shop", "Errors", &of, moto.began_ms - 10_000, number).await;
    }
    moto.put("Shop", "Errors", &of, moto.began_ms - 30_000, 99.0).await;
    moto.put("Shop", "Errors", &[("Revision", "r-1"), ("Service", "shop")], moto.began_ms - 5_000, 99.0)
        .await;
    for (stat, number) in [("Sum", 8.0), ("Average", 4.0), ("SampleCount", 2.0), ("Maximum", 5.0)] {
        let (found, lag) = value(metric(stat).ask().await);
        assert_eq!(found, number, "{stat}");
        assert!(lag.is_some_and(|lag| lag >= 9_000), "{lag:?}");
    }
}

#[tokio::test]
async fn moto_counts_two_target_groups() {
    let Some(moto) = Moto::start("moto_counts_two_target_groups") else { return };
    let counters: Counters = serde_json::from_value(json!({"cloudwatch": {
        "endpoint": moto.url, "preset": "alb", "load_balancer": "app/shop/50dc", "stable": "targetgroup/blue/1",
        "candidate": "targetgroup/green/2", "period": "1s", "settle": "0s",
    }}))
    .unwrap();
    let source = AwsSources::beside(OwnSources).counters(&counters, &moto.setting()).unwrap();
    for (group, name, ago, number) in [
        ("targetgroup/blue/1", "RequestCount", 10, 90.0),
        ("targetgroup/green/2", "RequestCount", 10, 6.0),
        ("targetgroup/green/2", "RequestCount", 5, 4.0),
        ("targetgroup/green/2", "HTTPCode_Target_5XX_Count", 5, 2.0),
        ("targetgroup/green/2", "TargetConnectionErrorCount", 5, 1.0),
        ("targetgroup/green/2", "RequestCount", 30, 500.0),
    ] {
        let of = [("LoadBalancer", "app/shop/50dc"), ("TargetGroup", group)];
        moto.put("AWS/ApplicationELB", name, &of, moto.began_ms - ago * 1_000, number).await;
    }
    assert_eq!(counted(source.ask().await), [(90, 0), (10, 3)]);
    assert_eq!(counted(source.ask().await), [(90, 0), (10, 3)]);
}

#[tokio::test]
async fn moto_has_the_states_of_alarms() {
    let Some(moto) = Moto::start("moto_has_the_states_of_alarms") else { return };
    moto.alarm("shop-5xx", StateValue::Ok).await;
    let source = moto.source(json!({"alarms": ["shop-5xx"]}));
    let found = source.ask().await.unwrap().found;
    assert_eq!(found, Found::State { good: true, said: "shop-5xx is OK".into() });
    moto.alarm("shop-5xx", StateValue::InsufficientData).await;
    assert_eq!(error(source.ask().await), (AskErrorKind::NoData, "shop-5xx has INSUFFICIENT_DATA".into()));
    moto.alarm("shop-5xx", StateValue::Alarm).await;
    let Found::State { good: false, said } = source.ask().await.unwrap().found else {
        panic!("it is in ALARM")
    };
    assert!(said.starts_with("shop-5xx is in ALARM since ") && said.ends_with(": a test says so"), "{said}");
    let source = moto.source(json!({"alarms": ["shop-5xx-typo"]}));
    assert_eq!(
        error(source.ask().await),
        (AskErrorKind::Wrong, "CloudWatch has no alarm shop-5xx-typo".into())
    );
}
