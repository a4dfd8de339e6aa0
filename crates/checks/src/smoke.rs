//! Smoke tests: all of them once, in order, each with what the ones before it captured.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cutover_core::file::answer::{Capture, Captured, JsonPath, JsonWish, filled, filled_json, plain};
use cutover_core::file::{SmokeExpect, SmokeTest, Through};
use cutover_core::{Blame, CheckKind, CheckOutcome, CheckResult, Fault, check};
use cutover_ports::CheckRequest;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::time::timeout;

use crate::checker::us;
use crate::gate::{LOG_BYTES, Logged, RanEnd, logged, output_at};
use crate::http::{Ask, broken, contains, exchange, read, wrong};
use crate::reach;
use crate::tries::Miss;

/// A longer body is not read: its assertions fail.
const BODY_BYTES: usize = 4 << 20;

/// What a test came to: what it says where it passed, with what it captured.
type Tried = Result<(String, Captured), Miss>;

/// What came of an answer that has been read to its end.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    whole: bool,
}

/// Tries all tests; the fault has the results of all of them.
pub(crate) async fn all(request: &CheckRequest, log: &Path) -> Result<Vec<CheckResult>, Fault> {
    let mut captured = Captured::new();
    let mut results = Vec::new();
    let mut hint = String::new();
    for test in &request.checks.smoke {
        let began = Instant::now();
        let tried = match &test.run {
            Some(run) => command(request, test, run, &captured, log).await,
            None => {
                let limit = test.limit().unwrap_or(cutover_core::file::SMOKE_TIMEOUT);
                let late = || Err(Miss::no(format!("no answer within {limit}")));
                timeout(limit.duration(), ask(request, test, &captured)).await.unwrap_or_else(|_| late())
            }
        };
        if test.run.is_some() && tried.is_err() {
            hint = output_at(log);
        }
        let result = |outcome, blame, detail, output| CheckResult {
            kind: CheckKind::Smoke,
            check: test.title(),
            instance: request.instance.id.clone(),
            outcome,
            blame,
            duration_us: us(began.elapsed()),
            tries: 1,
            detail,
            output,
        };
        results.push(match tried {
            Ok((answer, new)) => {
                captured.extend(new);
                result(CheckOutcome::Passed, None, answer, Vec::new())
            }
            Err(Miss::No { outcome, why, shown, lines }) => {
                result(outcome, Some(Blame::Candidate), format!("{why}{shown}"), lines)
            }
            Err(Miss::CannotRun(fault)) => {
                result(CheckOutcome::Error, Some(fault.blame), fault.what, fault.lines)
            }
        });
    }
    if results.iter().all(CheckResult::passed) { Ok(results) } else { Err(fault(request, results, &hint)) }
}

fn fault(request: &CheckRequest, results: Vec<CheckResult>, hint: &str) -> Fault {
    let failed: Vec<&CheckResult> = results.iter().filter(|result| !result.passed()).collect();
    let texts: Vec<String> = failed.iter().map(|result| format!("smoke test {}", result.line())).collect();
    let what = format!("{} (asked on {})", texts.join("; "), request.instance.address);
    // One that said no is enough; where none did, the tests are at fault.
    let blames: Vec<Blame> = failed.iter().filter_map(|result| result.blame).collect();
    let own = blames.iter().find(|blame| **blame == Blame::Candidate);
    let blame = own.or(blames.first()).copied();
    let lines: Vec<String> = failed.iter().flat_map(|result| result.output.clone()).collect();
    let fault = Fault::new(blame.unwrap_or(Blame::Candidate), cutover_core::After::Final, what);
    fault.hint(hint).lines(lines).results(results)
}

/// A test that needs what no answer had is not asked: what it would ask is something else.
fn missing(name: &str) -> Miss {
    Miss::No {
        outcome: CheckOutcome::Failed,
        why: format!("needs `{name}`, which was not captured: see the test before that captures it"),
        shown: String::new(),
        lines: Vec::new(),
    }
}

async fn ask(request: &CheckRequest, test: &SmokeTest, captured: &Captured) -> Tried {
    let cannot = |what: String| Miss::CannotRun(Fault::configuration(what));
    let text = |text: &str| filled(text, captured).map_err(|name| missing(&name));
    let Some((method, path)) = test.request() else {
        return Err(cannot("a smoke test asks nothing".into()));
    };
    let path = text(path)?;
    let mut headers = Vec::new();
    let body = match (&test.json, &test.body) {
        (Some(json), _) => {
            headers.push(("content-type".to_string(), "application/json".to_string()));
            filled_json(json, captured).map_err(|name| missing(&name))?.to_string()
        }
        (None, Some(body)) => text(body)?,
        (None, None) => String::new(),
    };
    for (name, value) in &test.headers {
        headers.push((name.clone(), text(value)?));
    }
    let expect = SmokeExpect {
        headers: test
            .expect
            .headers
            .iter()
            .map(|(name, value)| Ok((name.clone(), text(value)?)))
            .collect::<Result<_, Miss>>()?,
        body: test.expect.body.as_deref().map(text).transpose()?,
        json: test
            .expect
            .json
            .iter()
            .map(|(path, wish)| {
                Ok((path.clone(), filled_json(wish, captured).map_err(|name| missing(&name))?))
            })
            .collect::<Result<_, Miss>>()?,
        ..test.expect.clone()
    };
    let method: Method = method.parse().map_err(|error| cannot(format!("{method}: {error}")))?;
    let ask =
        Ask { method, path: &path, headers, body: Bytes::from(body), through: test.through, http2: false };
    let began = Instant::now();
    let answer = exchange(request, &ask, async |response| {
        let (head, body) = response.into_parts();
        let (body, whole) = read(body, BODY_BYTES).await.map_err(|(_, error)| broken(&error))?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body, whole })
    })
    .await?;
    let took = began.elapsed();
    judge(&answer, &expect, took)?;
    Ok((answer.status.to_string(), capture(test, &answer)?))
}

fn judge(answer: &Answer, expect: &SmokeExpect, took: Duration) -> Result<(), Miss> {
    let no = |why: String| Err(wrong(why, &answer.body));
    if !expect.status.contains(answer.status) {
        return no(format!("answered {}, expected {}", answer.status, expect.status));
    }
    for (name, wanted) in &expect.headers {
        let values = answer.headers.get_all(name.as_str()).iter().map(|value| value.as_bytes());
        let values: Vec<String> = values.map(|value| String::from_utf8_lossy(value).into_owned()).collect();
        if values.is_empty() {
            return no(format!("the answer has no header {name}, expected \"{wanted}\""));
        }
        if !values.iter().any(|value| value.contains(wanted.as_str())) {
            let shown = values.join(", ");
            return no(format!("header {name} is \"{shown}\", which does not contain \"{wanted}\""));
        }
    }
    let needs_body = expect.body.is_some() || !expect.json.is_empty();
    if needs_body && !answer.whole {
        return no(format!("the body has more than {} MiB, which is not read", BODY_BYTES >> 20));
    }
    if let Some(text) = &expect.body
        && !contains(&answer.body, text.as_bytes())
    {
        return no(format!("body does not contain \"{text}\""));
    }
    if !expect.json.is_empty() {
        let document = document(answer)?;
        for (path, wish) in &expect.json {
            let unread = |what: String| Miss::CannotRun(Fault::configuration(what));
            let (at, wish) = (JsonPath::parse(path).map_err(unread)?, JsonWish::parse(wish).map_err(unread)?);
            if let Err(why) = wish.holds(at.find(&document)) {
                return no(format!("{path} {why}"));
            }
        }
    }
    match expect.within {
        Some(within) if took > within.duration() => Err(Miss::No {
            outcome: CheckOutcome::Failed,
            why: format!("took {}, expected at most {within}", check::took(us(took))),
            shown: String::new(),
            lines: Vec::new(),
        }),
        _ => Ok(()),
    }
}

fn document(answer: &Answer) -> Result<Value, Miss> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| wrong(format!("the body is not JSON ({error})"), &answer.body))
}

fn capture(test: &SmokeTest, answer: &Answer) -> Result<Captured, Miss> {
    let mut captured = Captured::new();
    for (name, source) in &test.capture {
        let source_read =
            Capture::parse(source).map_err(|what| Miss::CannotRun(Fault::configuration(what)))?;
        let value = match source_read {
            Capture::Header(header) => {
                answer.headers.get(header).and_then(|value| value.to_str().ok()).map(Value::from)
            }
            Capture::Json(path) => match path.find(&document(answer)?) {
                None | Some(Value::Null) => None,
                Some(value) => Some(value.clone()),
            },
        };
        match value {
            Some(value) => drop(captured.insert(name.clone(), value)),
            None => return Err(wrong(format!("has no {source} to capture as `{name}`"), &answer.body)),
        }
    }
    Ok(captured)
}

async fn command(
    request: &CheckRequest,
    test: &SmokeTest,
    run: &str,
    captured: &Captured,
    log: &Path,
) -> Tried {
    let address = request.instance.address;
    let mut env = vec![
        ("CUTOVER_SERVICE", request.service.to_string()),
        ("CUTOVER_REVISION", request.revision.to_string()),
        ("PORT", address.port().to_string()),
    ];
    match test.through {
        Through::Instance => env.push(("CUTOVER_URL", format!("http://{address}"))),
        Through::Route => {
            let route = reach::route(request)?;
            let scheme = if route.tls.is_some() { "https" } else { "http" };
            env.push(("CUTOVER_URL", format!("{scheme}://{}", route.address)));
            env.push(("CUTOVER_PIN", format!("{}: {}", route.pin.0, route.pin.1)));
        }
    }
    env.extend(request.host.iter().map(|host| ("CUTOVER_HOST", host.clone())));
    env.extend(captured.iter().map(|(name, value)| (name.as_str(), plain(value))));
    let limit = test.limit().map(|limit| limit.duration());
    let cannot = |why: String| Miss::CannotRun(Fault::configuration(format!("run {run}: {why}")));
    let ran = logged(&Logged { command: run, base: &request.base, log, env, limit }).await.map_err(cannot)?;
    let no = |why: String| {
        Err(Miss::No { outcome: CheckOutcome::Failed, why, shown: String::new(), lines: ran.tail.clone() })
    };
    match ran.end {
        RanEnd::Exited(status) if status.success() => Ok(("exit status 0".into(), Captured::new())),
        RanEnd::Exited(status) => match status.code() {
            Some(code @ (126 | 127)) => {
                let why = if code == 127 { "command not found" } else { "not executable" };
                let fault =
                    Fault::configuration(format!("{why} (exit status {code}) in {}", request.base.display()));
                Err(Miss::CannotRun(fault.lines(ran.tail)))
            }
            Some(code) => no(format!("exit status {code}")),
            None => no("killed by a signal".into()),
        },
        RanEnd::WroteTooMuch => no(format!("wrote more than {} MiB and was stopped", LOG_BYTES >> 20)),
        RanEnd::TookTooLong => {
            let limit = test.limit().unwrap_or_default();
            let lines = ran.tail;
            let why = format!("did not end within {limit}");
            Err(Miss::No { outcome: CheckOutcome::Error, why, shown: String::new(), lines })
        }
    }
}
