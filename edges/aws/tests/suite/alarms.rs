//! Alarms as they come over the wire.

use cutover_core::file::Metric;
use cutover_sources::{Analysis, AskErrorKind, Found, Rules, Standing};
use serde_json::{Value, json};

use super::server::Server;
use super::setting::{MINUTE, NOON, error, metric, source};

fn alarm(name: &str, state: &str, since_ms: u64) -> Value {
    json!({"AlarmName": name, "StateValue": state, "StateReason": "2 of 2 datapoints", "StateTransitionedTimestamp": since_ms})
}

fn composite(name: &str, state: &str, since_ms: u64) -> Value {
    let mut alarm = alarm(name, state, since_ms);
    alarm["AlarmRule"] = json!("ALARM(a)");
    alarm
}

#[tokio::test]
async fn alarms_of_both_kinds_and_on_all_pages_guard_a_release() {
    let server = Server::start(NOON + MINUTE);
    server.world().page = Some(1);
    server.world().alarms = vec![alarm("a", "OK", 0), composite("b", "OK", 0), alarm("other", "ALARM", NOON)];
    let keys = json!({"alarms": ["a", "b"]});
    let source = source(&server, keys.clone());
    let good = source.ask().await;
    assert_eq!(good.as_ref().unwrap().found, Found::State { good: true, said: "a, b are OK".into() });
    server.world().alarms[1] = composite("b", "INSUFFICIENT_DATA", NOON);
    let unsure = source.ask().await;
    assert_eq!(error(unsure.clone()), (AskErrorKind::NoData, "b has INSUFFICIENT_DATA".into()));
    server.world().alarms[1] = composite("b", "ALARM", NOON + 20_000);
    let bad = source.ask().await;
    server.world().alarms.remove(0);
    server.world().alarms.remove(0);
    assert_eq!(error(source.ask().await).0, AskErrorKind::Wrong);

    // What that comes to in a bake.
    let metric: Metric = metric(&server, keys);
    let stands = |answer| {
        let mut analysis = Analysis::new(Rules::of(&metric), 0);
        analysis.record(&answer, 30_000);
        analysis.standing()
    };
    assert_eq!(stands(good), Standing::Passed("a, b are OK; 1 of 1 measurements succeeded".into()));
    assert!(matches!(stands(unsure), Standing::Inconclusive(_)));
    let why = "b is in ALARM since 40s: 2 of 2 datapoints; 1 of 1 measurements failed";
    assert_eq!(stands(bad), Standing::Failed(why.into()));
}
