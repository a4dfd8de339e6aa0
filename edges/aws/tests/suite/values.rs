//! Numbers: which period they are of, how old, and what is none.

use cutover_sources::AskErrorKind;
use serde_json::json;

use super::server::Server;
use super::setting::{MINUTE, NOON, error, metric, setting, source, value};

const CPU: &str = "AWS/ECS CPUUtilization{ServiceName=shop-r-2} Average";

fn cpu() -> serde_json::Value {
    let dimensions = json!({"ServiceName": "{{service}}-{{revision}}"});
    json!({"metric": {"namespace": "AWS/ECS", "name": "CPUUtilization", "dimensions": dimensions}})
}

#[tokio::test]
async fn a_number_is_of_a_final_period_of_this_bake() {
    let server = Server::start(NOON);
    let source = source(&server, cpu());
    // Stable's minutes before the bake, and the bake's own, which are shown early and grow.
    server.put(CPU, NOON - 3 * MINUTE, 99.0, 0);
    server.put(CPU, NOON, 1.0, NOON + MINUTE);
    server.put(CPU, NOON, 10.0, NOON + 2 * MINUTE);
    server.put(CPU, NOON + MINUTE, 2.0, NOON + 2 * MINUTE);
    server.put(CPU, NOON + MINUTE, 20.0, NOON + 3 * MINUTE);
    let (kind, what) = error(source.ask().await);
    assert_eq!((kind, &*what), (AskErrorKind::NoData, "the first period of this bake is final in 3m"));
    server.pass(3 * MINUTE - 1_000);
    assert_eq!(error(source.ask().await).1, "the first period of this bake is final in 1s");
    server.pass(1_000);
    // Two minutes after its end, with all that came meanwhile.
    assert_eq!(value(source.ask().await), (10.0, Some(2 * MINUTE)));
    server.pass(30_000);
    assert_eq!(value(source.ask().await), (10.0, Some(150_000)));
    server.pass(30_000);
    assert_eq!(value(source.ask().await), (20.0, Some(2 * MINUTE)));
    // Nothing comes any more: for a while it is told how old that is, and then it is no data.
    server.pass(8 * MINUTE);
    assert_eq!(value(source.ask().await).1, Some(10 * MINUTE));
    server.pass(MINUTE);
    let (kind, what) = error(source.ask().await);
    assert_eq!((kind, &*what), (AskErrorKind::NoData, "CloudWatch has no data of this bake"));
}

#[tokio::test]
async fn a_bake_that_begins_within_a_period_does_not_take_it_for_its_own() {
    let server = Server::start(NOON + 10 * MINUTE);
    let mut setting = setting(&server);
    setting.since_ms = NOON + 1;
    let sources = cutover_aws::AwsSources::beside(cutover_sources::OwnSources);
    let source = cutover_sources::Sources::metric(&sources, &metric(&server, cpu()), &setting).unwrap();
    server.put(CPU, NOON, 1.0, 0);
    assert_eq!(error(source.ask().await).0, AskErrorKind::NoData);
    server.put(CPU, NOON + MINUTE, 2.0, 0);
    assert_eq!(value(source.ask().await).0, 2.0);
}

#[tokio::test]
async fn all_pages_are_one_answer() {
    let server = Server::start(NOON + 8 * MINUTE);
    server.world().page = Some(2);
    for minute in 0..5 {
        server.put(CPU, NOON + minute * MINUTE, minute as f64, 0);
    }
    assert_eq!(value(source(&server, cpu()).ask().await).0, 4.0);
    assert!(server.world().asked.len() >= 3);
}

#[tokio::test]
async fn an_expression_is_asked_with_what_it_is_made_of() {
    let server = Server::start(NOON + 10 * MINUTE);
    let part = |name: &str| json!({"namespace": "Shop", "name": name, "stat": "Sum"});
    let source = source(
        &server,
        json!({"expression": "100 * errors / result", "metrics": {"errors": part("E"), "result": part("R")}}),
    );
    server.put("100 * errors / result", NOON, 12.5, 0);
    assert_eq!(value(source.ask().await).0, 12.5);
    let asked = server.world().asked[0].1.clone();
    let queries = asked["MetricDataQueries"].as_array().unwrap();
    let told: Vec<_> =
        queries.iter().map(|query| (query["Id"].as_str().unwrap(), query["ReturnData"].as_bool())).collect();
    assert_eq!(told, [("errors", Some(false)), ("result", Some(false)), ("result_", Some(true))]);
    assert_eq!((&queries[2]["Period"], queries[0].get("Period")), (&json!(60), None));
}

#[tokio::test]
async fn several_series_are_no_number() {
    let server = Server::start(NOON + 10 * MINUTE);
    let source = source(&server, json!({"expression": "search"}));
    server.put("search-1", NOON, 1.0, 0);
    assert_eq!(value(source.ask().await).0, 1.0);
    server.put("search-2", NOON, 1.0, 0);
    let (kind, what) = error(source.ask().await);
    assert_eq!(kind, AskErrorKind::Wrong);
    assert_eq!(what, "CloudWatch answers with 2 series (search-1, search-2, …), one is needed");
}

#[tokio::test]
async fn a_target_group_is_measured_by_what_its_load_balancer_counts() {
    let server = Server::start(NOON + 10 * MINUTE);
    let green = "LoadBalancer=app/shop/50dc,TargetGroup=targetgroup/green/73e2";
    let put = |name: &str, minute: u64, number: f64| {
        server.put(&format!("AWS/ApplicationELB {name}{{{green}}} Sum"), NOON + minute * MINUTE, number, 0);
    };
    let alb = |measure: &str| {
        json!({
            "preset": "alb",
            "measure": measure,
            "load_balancer": "arn:aws:elasticloadbalancing:eu-central-1:1:loadbalancer/app/shop/50dc",
            "candidate": "arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/green/73e2",
        })
    };
    // Failures alone are no traffic.
    put("HTTPCode_Target_5XX_Count", 0, 3.0);
    assert_eq!(error(source(&server, alb("error_rate")).ask().await).0, AskErrorKind::NoData);
    put("RequestCount", 1, 600.0);
    assert_eq!(value(source(&server, alb("error_rate")).ask().await).0, 0.0);
    put("HTTPCode_Target_5XX_Count", 1, 60.0);
    put("TargetConnectionErrorCount", 1, 90.0);
    assert_eq!(value(source(&server, alb("error_rate")).ask().await).0, 0.25);
    assert_eq!(value(source(&server, alb("success_rate")).ask().await).0, 0.75);
    assert_eq!(value(source(&server, alb("request_rate")).ask().await).0, 10.0);
    server.put(&format!("AWS/ApplicationELB TargetResponseTime{{{green}}} p99"), NOON, 0.5, 0);
    assert_eq!(value(source(&server, alb("latency_p99")).ask().await).0, 0.5);
    // More failures than requests: one tried to connect several times.
    put("TargetConnectionErrorCount", 1, 900.0);
    assert_eq!(value(source(&server, alb("error_rate")).ask().await).0, 1.0);
}

#[tokio::test]
async fn which_period_is_final_is_a_question_of_cloudwatchs_clock() {
    // This machine is five minutes ahead.
    let server = Server::start(NOON + 5 * MINUTE);
    server.world().ahead_ms = -300_000;
    let mut setting = setting(&server);
    setting.since_ms = NOON + 5 * MINUTE;
    let sources = cutover_aws::AwsSources::beside(cutover_sources::OwnSources);
    let source = cutover_sources::Sources::metric(&sources, &metric(&server, cpu()), &setting).unwrap();
    server.put(CPU, NOON - 2 * MINUTE, 99.0, 0);
    server.put(CPU, NOON, 1.0, NOON + MINUTE);
    server.put(CPU, NOON, 10.0, NOON + 2 * MINUTE);
    assert_eq!(error(source.ask().await).1, "the first period of this bake is final in 3m");
    server.pass(3 * MINUTE);
    let reading = source.ask().await.unwrap();
    assert_eq!(reading.age(), "sampled 2m before, its clock is 5m behind");
    assert_eq!(value(Ok(reading)).0, 10.0);
}
