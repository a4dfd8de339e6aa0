//! Load tests in the release file: what reads, and what is said of what does not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use cutover_core::ReleaseFile;
use expect_test::{Expect, expect};

fn check(load: &str, wanted: &Expect) {
    let file = format!(
        "service: shop\nplatform:\n  local: {{command: [./shop]}}\nroute:\n  - proxy: {{listen: \"127.0.0.1:8080\"}}\n\
         checks:\n  load:\n{load}"
    );
    match ReleaseFile::read("cutover.yaml", &file) {
        Ok(file) => {
            let said: Vec<String> =
                file.checks.load.iter().map(|test| format!("{}\n", test.name())).collect();
            wanted.assert_eq(&said.concat());
        }
        Err(errors) => wanted.assert_eq(&format!("{errors}\n")),
    }
}

#[test]
fn the_articles_scenarios_are_three_lines() {
    check(
        "    - {path: /api/users, concurrency: 10, pause: 1s}\n    \
         - {path: /api/products, concurrency: 20, for: 30s, require: {success: 95%, mean: 2s}}\n    \
         - {path: /api/orders, concurrency: 5, require: {requests: 15}}\n",
        &expect![[r#"
            GET /api/users, 10 clients for 30s
            GET /api/products, 20 clients for 30s
            GET /api/orders, 5 clients for 30s
        "#]],
    );
}

#[test]
fn a_rate_with_scenarios_against_both() {
    check(
        "    - rate: 200/s\n      against: both\n      protocol: h2c\n      open: 500\n      scenarios:\n      \
         - {path: /, weight: 9}\n      \
         - {name: order, path: /api/orders, method: POST, headers: {Content-Type: application/json}, body: '{}', status: 201}\n      \
         require: {p50: 20ms, p95: 100ms, p99: 500ms}\n",
        &expect![[r#"
            2 scenarios, 200/s for 30s, stable beside
        "#]],
    );
}

#[test]
fn a_test_is_one_thing_at_one_pace() {
    check(
        "    - {concurrency: 20}\n",
        &expect![[r#"
        cutover.yaml:8:7: a load test has either a `path` or `scenarios`
          8 |     - {concurrency: 20}
            |       ^
          hint: such as `path: /api/products`, or `scenarios: [{path: /, weight: 9}, {path: /cart}]`
    "#]],
    );
    check(
        "    - {path: /}\n",
        &expect![[r#"
        cutover.yaml:8:7: a load test has either a `rate` or a `concurrency`
          8 |     - {path: /}
            |       ^
          hint: such as `rate: 200/s` for requests that are due, or `concurrency: 20` for clients that wait
    "#]],
    );
    check(
        "    - {path: /, rate: 5/s, concurrency: 2, pause: 1s}\n",
        &expect![[r#"
        cutover.yaml:8:7: a load test has either a `rate` or a `concurrency`
          8 |     - {path: /, rate: 5/s, concurrency: 2, pause: 1s}
            |       ^
          hint: such as `rate: 200/s` for requests that are due, or `concurrency: 20` for clients that wait
    "#]],
    );
    check(
        "    - {path: /, concurrency: 2, open: 5}\n",
        &expect![[r#"
        cutover.yaml:8:39: only a `rate` has requests that nobody waits for
          8 |     - {path: /, concurrency: 2, open: 5}
            |                                       ^
          hint: remove it; see `concurrency`
    "#]],
    );
    check(
        "    - {rate: 5/s, pause: 1s, method: POST, scenarios: [{path: /}]}\n",
        &expect![[r#"
        cutover.yaml:8:26: only clients pause, a `rate` does not
          8 |     - {rate: 5/s, pause: 1s, method: POST, scenarios: [{path: /}]}
            |                          ^
          hint: remove it, or give `concurrency`
        cutover.yaml:8:38: this is about `path`, and there is none beside `scenarios`
          8 |     - {rate: 5/s, pause: 1s, method: POST, scenarios: [{path: /}]}
            |                                      ^
          hint: say it of each scenario
    "#]],
    );
}

#[test]
fn quantities_are_possible() {
    check(
        "    - {path: /, concurrency: 0, for: 0s, timeout: 0s, require: {success: 0%, p95: 0s}}\n",
        &expect![[r#"
            cutover.yaml:8:30: 0 clients are not possible
              8 |     - {path: /, concurrency: 0, for: 0s, timeout: 0s, require: {success: 0%, p95: 0s}}
                |                              ^
              hint: give 1 to 1000
            cutover.yaml:8:38: a load test of 0s is not possible
              8 |     - {path: /, concurrency: 0, for: 0s, timeout: 0s, require: {success: 0%, p95: 0s}}
                |                                      ^
              hint: give 1s to 1h, such as `for: 30s`
            cutover.yaml:8:51: an answer needs some time, and not for ever
              8 |     - {path: /, concurrency: 0, for: 0s, timeout: 0s, require: {success: 0%, p95: 0s}}
                |                                                   ^
              hint: such as `timeout: 10s`
            cutover.yaml:8:74: a success of 0% requires nothing
              8 |     - {path: /, concurrency: 0, for: 0s, timeout: 0s, require: {success: 0%, p95: 0s}}
                |                                                                          ^
              hint: give the least share, such as 99%
            cutover.yaml:8:83: nothing is answered in no time
              8 |     - {path: /, concurrency: 0, for: 0s, timeout: 0s, require: {success: 0%, p95: 0s}}
                |                                                                                   ^
              hint: give what you can accept, such as 500ms
        "#]],
    );
    check(
        "    - {path: /, rate: 200}\n",
        &expect![[r#"
        cutover.yaml:8:23: "200" is not a rate
          8 |     - {path: /, rate: 200}
            |                       ^
          hint: write requests a second from 0.001/s to 100000/s, such as 200/s or 0.5/s
    "#]],
    );
    check(
        "    - {path: /, rate: 5/s, for: 2h}\n",
        &expect![[r#"
        cutover.yaml:8:5: the deadline of 2h leaves no time beside load tests of 2h together
          8 |     - {path: /, rate: 5/s, for: 2h}
            |     ^
          hint: give the whole release longer than its load tests
        cutover.yaml:8:33: a load test of 2h is not possible
          8 |     - {path: /, rate: 5/s, for: 2h}
            |                                 ^
          hint: give 1s to 1h, such as `for: 30s`
    "#]],
    );
    check(
        "    - {path: /, rate: 5/s, for: 1h}\n    - {path: /, rate: 5/s, for: 1h}\n",
        &expect![[r#"
        cutover.yaml:8:5: the deadline of 2h leaves no time beside load tests of 2h together
          8 |     - {path: /, rate: 5/s, for: 1h}
            |     ^
          hint: give the whole release longer than its load tests
    "#]],
    );
}

#[test]
fn requests_are_requests_to_the_candidate() {
    check(
        "    - {path: \"http://elsewhere.test/\", rate: 5/s}\n",
        &expect![[r#"
        cutover.yaml:8:14: `http://elsewhere.test/` is not the path of a request
          8 |     - {path: "http://elsewhere.test/", rate: 5/s}
            |              ^
          hint: begin it with / and percent-encode what is not ASCII, such as `path: /api/products?page=2`
    "#]],
    );
    check(
        "    - {path: /, rate: 5/s, method: get, headers: {Connection: close, \"a b\": c}}\n",
        &expect![[r#"
        cutover.yaml:8:36: `get` is not a method of HTTP
          8 |     - {path: /, rate: 5/s, method: get, headers: {Connection: close, "a b": c}}
            |                                    ^
          hint: such as `method: POST`
        cutover.yaml:8:63: `Connection` is about the connection, or follows from the body
          8 |     - {path: /, rate: 5/s, method: get, headers: {Connection: close, "a b": c}}
            |                                                               ^
          hint: remove it
        cutover.yaml:8:77: `a b` is not the name of a header
          8 |     - {path: /, rate: 5/s, method: get, headers: {Connection: close, "a b": c}}
            |                                                                             ^
          hint: such as `Content-Type`
    "#]],
    );
    check(
        "    - {rate: 5/s, scenarios: [{path: /a b, weight: 0}, {path: /, method: CONNECT}]}\n",
        &expect![[r#"
        cutover.yaml:8:38: `/a b` is not the path of a request
          8 |     - {rate: 5/s, scenarios: [{path: /a b, weight: 0}, {path: /, method: CONNECT}]}
            |                                      ^
          hint: begin it with / and percent-encode what is not ASCII, such as `path: /api/products?page=2`
        cutover.yaml:8:52: a weight of 0 is not possible
          8 |     - {rate: 5/s, scenarios: [{path: /a b, weight: 0}, {path: /, method: CONNECT}]}
            |                                                    ^
          hint: give 1 to 1000000
        cutover.yaml:8:74: CONNECT opens a tunnel, and asks for nothing
          8 |     - {rate: 5/s, scenarios: [{path: /a b, weight: 0}, {path: /, method: CONNECT}]}
            |                                                                          ^
          hint: such as `method: POST`
    "#]],
    );
}

#[test]
fn unknown_keys_name_the_nearest() {
    check(
        "    - {path: /, concurency: 20}\n",
        &expect![[r#"
        cutover.yaml:8:17: unknown key `concurency`
          8 |     - {path: /, concurency: 20}
            |                 ^
          hint: did you mean `concurrency`? Expected one of: `path`, `method`, `headers`, `body`, `status`, `scenarios`, `rate`, `open`, `concurrency`, `pause`, `for`, `timeout`, `against`, `protocol`, `require`
    "#]],
    );
    check(
        "    - {path: /, rate: 5/s, require: {p90: 1s}}\n",
        &expect![[r#"
        cutover.yaml:8:38: unknown key `p90`
          8 |     - {path: /, rate: 5/s, require: {p90: 1s}}
            |                                      ^
          hint: did you mean `p50`? Expected one of: `success`, `mean`, `p50`, `p95`, `p99`, `requests`
    "#]],
    );
    check(
        "    - {path: /, rate: 5/s, against: stable}\n",
        &expect![[r#"
        cutover.yaml:8:37: unknown value `stable`
          8 |     - {path: /, rate: 5/s, against: stable}
            |                                     ^
          hint: expected one of: `candidate`, `both`
    "#]],
    );
}
