//! Everything that is no answer: who is told what, and what is asked again.

use cutover_aws::AwsSources;
use cutover_sources::{AskErrorKind, OwnSources, Sources};
use serde_json::json;

use super::server::{Does, Server};
use super::setting::{MINUTE, NOON, error, metric, setting, source, value};

const ONE: &str = "Shop Errors{} Average";

fn one() -> serde_json::Value {
    json!({"metric": {"namespace": "Shop", "name": "Errors"}})
}

fn server() -> Server {
    let server = Server::start(NOON + 10 * MINUTE);
    server.put(ONE, NOON, 4.0, 0);
    server
}

#[tokio::test]
async fn what_passes_is_asked_again() {
    let server = server();
    for does in [Does::Refuses(400, "Throttling"), Does::Refuses(500, "InternalServiceFault"), Does::HangsUp]
    {
        server.world().does.push_back(does);
    }
    assert_eq!(value(source(&server, one()).ask().await).0, 4.0);
    assert_eq!(server.world().asked.len(), 4);
}

#[tokio::test]
async fn a_throttle_that_lasts_is_an_outage() {
    let server = server();
    server.world().does.extend(vec![Does::Refuses(400, "Throttling"); 5]);
    let (kind, what) = error(source(&server, one()).ask().await);
    assert_eq!(kind, AskErrorKind::Down);
    assert_eq!(what, "CloudWatch in eu-central-1 throttles this account (Throttling: so it is)");
    assert_eq!(server.world().asked.len(), 5);
    assert_eq!(value(source(&server, one()).ask().await).0, 4.0);
}

#[tokio::test]
async fn a_part_of_an_answer_is_none() {
    let server = server();
    for (status, kind, words) in [
        ("PartialData", AskErrorKind::Down, "CloudWatch has only a part of the data of `result` by now"),
        ("InternalError", AskErrorKind::Down, "CloudWatch has an error of its own for `result`"),
        ("Forbidden", AskErrorKind::Wrong, "CloudWatch denies the data of `result`"),
    ] {
        server.world().does.push_back(Does::Status(status));
        assert_eq!(error(source(&server, one()).ask().await), (kind, words.to_string()));
    }
    server.world().messages = vec![json!({"Code": "MaxMetricsExceeded", "Value": "more than\n100"})];
    let (kind, what) = error(source(&server, one()).ask().await);
    assert_eq!(kind, AskErrorKind::Wrong);
    assert_eq!(what, "CloudWatch answers in part (MaxMetricsExceeded: more than 100)");
}

#[tokio::test]
async fn what_does_not_pass_is_told_at_once_with_what_to_do() {
    let server = server();
    for (code, kind, words, hint) in [
        (
            (403, "AccessDenied"),
            AskErrorKind::Wrong,
            "denies cloudwatch:GetMetricData",
            "allow cloudwatch:GetMetricData",
        ),
        ((403, "ExpiredToken"), AskErrorKind::Wrong, "does not accept the credentials", "AWS_PROFILE"),
        ((400, "ValidationError"), AskErrorKind::Wrong, "refuses the question", "keys"),
    ] {
        server.world().does.push_back(Does::Refuses(code.0, code.1));
        let before = server.world().asked.len();
        let error = source(&server, one()).ask().await.unwrap_err();
        assert_eq!(error.kind, kind, "{error:?}");
        assert!(error.what.contains(words) && error.hint.contains(hint), "{error:?}");
        assert_eq!(server.world().asked.len(), before + 1);
    }
    server.world().does.push_back(Does::Says("<html>a proxy's page</html>"));
    assert_eq!(error(source(&server, one()).ask().await).0, AskErrorKind::Down);
}

#[tokio::test]
async fn nobody_there_is_an_outage() {
    let server = server();
    let mut asked = metric(&server, one());
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    asked.cloudwatch.as_mut().unwrap().endpoint = Some(format!("http://{free}"));
    let source = AwsSources::beside(OwnSources).metric(&asked, &setting(&server)).unwrap();
    let (kind, what) = error(source.ask().await);
    assert_eq!(kind, AskErrorKind::Down);
    assert!(
        what.starts_with("CloudWatch in eu-central-1 does not answer: ") && what.contains("refused"),
        "{what}"
    );
}

#[tokio::test]
async fn who_asks_is_who_the_release_says() {
    let server = server();
    let signed = |server: &Server| {
        let world = server.world();
        let head = &world.asked.last().unwrap().0;
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization:")).unwrap();
        let credential = line.split("Credential=").nth(1).unwrap();
        let parts: Vec<_> = credential.split(',').next().unwrap().split('/').map(str::to_owned).collect();
        format!("{} {} {}", parts[0], parts[2], parts[3])
    };
    assert_eq!(value(source(&server, one()).ask().await).0, 4.0);
    assert_eq!(signed(&server), "AKIDTEST eu-central-1 monitoring");
    assert!(!server.world().asked.last().unwrap().0.contains("hunter2"));

    // A profile that the file names comes before variables; its region only after the file's and the variables'.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    std::fs::write(&path, "[prod]\naws_access_key_id = AKIDPROD\naws_secret_access_key = hunter3\n").unwrap();
    let mut of_profile = setting(&server);
    of_profile.secrets.insert("AWS_SHARED_CREDENTIALS_FILE".into(), path.display().to_string());
    let mut keys = one();
    keys["profile"] = json!("prod");
    keys["region"] = json!("us-east-2");
    let sources = AwsSources::beside(OwnSources);
    let asked = sources.metric(&metric(&server, keys.clone()), &of_profile).unwrap();
    assert_eq!(value(asked.ask().await).0, 4.0);
    assert_eq!(signed(&server), "AKIDPROD us-east-2 monitoring");

    keys["profile"] = json!("nobody");
    let asked = sources.metric(&metric(&server, keys), &of_profile).unwrap();
    let error = asked.ask().await.unwrap_err();
    assert_eq!(error.kind, AskErrorKind::Wrong, "{error:?}");
    assert!(error.what.starts_with("CloudWatch in us-east-2 cannot be asked: no credentials ("), "{error:?}");
    assert!(error.hint.contains("AWS_PROFILE"), "{error:?}");
}
