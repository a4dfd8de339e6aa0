//! Release files that are wrong: each message says where, what was expected and what to write instead.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use cutover_core::ReleaseFile;
use expect_test::{Expect, expect};

const GOOD: &str = r#"service: shop
platform:
  local: {command: [./shop]}
route:
  - proxy: {listen: "127.0.0.1:8080"}
"#;

fn check(source: &str, wanted: &Expect) {
    match ReleaseFile::read("cutover.yaml", source) {
        Ok(_) => wanted.assert_eq("ok\n"),
        Err(errors) => wanted.assert_eq(&format!("{errors}\n")),
    }
}

fn with(change: &str, to: &str) -> String {
    assert!(GOOD.contains(change), "{change}");
    GOOD.replace(change, to)
}

#[test]
fn ten_lines_are_enough() {
    check(
        GOOD,
        &expect![[r#"
        ok
    "#]],
    );
}

#[test]
fn the_sample_of_the_readme_is_good() {
    let readme = include_str!("../../../README.md");
    let begins = readme.find("    service: shop").unwrap();
    let lines = readme[begins..].lines().take_while(|line| line.starts_with("    "));
    let sample: String = lines.map(|line| format!("{}\n", &line[4..])).collect();
    assert!(sample.lines().count() >= 10, "{sample}");
    ReleaseFile::read("README.md", &sample).unwrap();
}

#[test]
fn unknown_keys_point_at_the_nearest() {
    check(
        &with("service:", "sevrice:"),
        &expect![[r#"
            cutover.yaml:1:1: unknown key `sevrice`
              1 | sevrice: shop
                | ^
              hint: did you mean `service`? Expected one of: `service`, `platform`, `route`, `processes`, `gate`, `checks`, `strategy`, `guard`, `approve`, `bake`, `keep_warm`, `drain`, `deadline`, `environments`
        "#]],
    );
    check(
        &with("command:", "comand:"),
        &expect![[r#"
        cutover.yaml:3:11: unknown key `comand`
          3 |   local: {comand: [./shop]}
            |           ^
          hint: did you mean `command`? Expected one of: `command`, `artifact`, `replicas`, `env`, `secrets`, `user`, `stop_signal`, `stop_grace`, `memory`, `cpu`, `pids`, `log_size`
    "#]],
    );
    check(
        &format!("{GOOD}keepwarm: 5m\n"),
        &expect![[r#"
            cutover.yaml:6:1: unknown key `keepwarm`
              6 | keepwarm: 5m
                | ^
              hint: did you mean `keep_warm`? Expected one of: `service`, `platform`, `route`, `processes`, `gate`, `checks`, `strategy`, `guard`, `approve`, `bake`, `keep_warm`, `drain`, `deadline`, `environments`
        "#]],
    );
    check(
        &format!("{GOOD}checks: {{health: [{{path: /health, expct: {{status: 200}}}}]}}\n"),
        &expect![[r#"
            cutover.yaml:6:35: unknown key `expct`
              6 | checks: {health: [{path: /health, expct: {status: 200}}]}
                |                                   ^
              hint: did you mean `expect`? Expected one of: `path`, `tcp`, `grpc`, `run`, `timeout`, `interval`, `successes`, `expect`, `through`
        "#]],
    );
    check(
        &format!("{GOOD}banana: 1\n"),
        &expect![[r#"
            cutover.yaml:6:1: unknown key `banana`
              6 | banana: 1
                | ^
              hint: expected one of: `service`, `platform`, `route`, `processes`, `gate`, `checks`, `strategy`, `guard`, `approve`, `bake`, `keep_warm`, `drain`, `deadline`, `environments`
        "#]],
    );
}

#[test]
fn what_is_not_supported_yet_is_never_ignored() {
    check(
        &format!("{GOOD}gate: [cargo test]\n"),
        &expect![[r#"
            ok
        "#]],
    );
    check(
        &format!("{GOOD}strategy: {{canary: {{weights: [5%]}}}}\n"),
        &expect![[r#"
            cutover.yaml:6:31: the last weight is 5%: the release would never be complete
              6 | strategy: {canary: {weights: [5%]}}
                |                               ^
              hint: end the list with 100%
        "#]],
    );
}

#[test]
fn values_say_what_was_expected() {
    check(
        &format!("{GOOD}bake: 10\n"),
        &expect![[r#"
            cutover.yaml:6:7: "10" is not a duration
              6 | bake: 10
                |       ^
              hint: did you mean `10s`, `10m` or `10ms`? Write a number with its unit, such as 500ms, 30s, 10m, 2h or 1h30m
        "#]],
    );
    check(
        &format!("{GOOD}guard: {{success: 0.99}}\n"),
        &expect![[r#"
            cutover.yaml:6:18: "0.99" is not a share in percent
              6 | guard: {success: 0.99}
                |                  ^
              hint: did you mean `99%`? Write a share from 0% to 100%, in steps of 0.01, such as 5% or 99.9%
        "#]],
    );
    check(
        &format!("{GOOD}approve: [before_lunch]\n"),
        &expect![[r#"
        cutover.yaml:6:11: unknown value `before_lunch`
          6 | approve: [before_lunch]
            |           ^
          hint: expected one of: `before_shift`, `before_promote`
    "#]],
    );
    check(
        &with("\"127.0.0.1:8080\"", "localhost"),
        &expect![[r#"
            cutover.yaml:5:21: this is not an address with a port
              5 |   - proxy: {listen: localhost}
                |                     ^
              hint: Write an IP address and a port in quotes, such as "127.0.0.1:8080" or "[::]:80"
        "#]],
    );
    check(
        &with("[./shop]", "./shop"),
        &expect![[r#"
            cutover.yaml:3:20: a list is expected here, not the text "./shop"
              3 |   local: {command: ./shop}
                |                    ^
              hint: write it in brackets, such as `[./shop]`
        "#]],
    );
    check(
        &with("platform:\n  local: {command: [./shop]}", "platform: {docker: {}}"),
        &expect![[r#"
            cutover.yaml:2:20: neither `image` nor `build` says what runs
              2 | platform: {docker: {}}
                |                    ^
              hint: add `image: registry.example/shop:1.4`, or `build: {}` for the Dockerfile beside this file
        "#]],
    );
}

#[test]
fn limits_that_nothing_lives_within_are_named() {
    check(
        &with("[./shop]", "[./shop], memory: 512Mi, cpu: 0.5, pids: 200"),
        &expect![[r#"
        ok
    "#]],
    );
    check(
        &with("[./shop]", "[./shop], memory: 512, cpu: 0.001, pids: 0"),
        &expect![[r#"
        cutover.yaml:3:38: no process lives within 512 bytes of memory
          3 |   local: {command: [./shop], memory: 512, cpu: 0.001, pids: 0}
            |                                      ^
          hint: give it with its unit, such as `memory: 512Mi`
        cutover.yaml:3:48: 0.001 cores are too few to be given
          3 |   local: {command: [./shop], memory: 512, cpu: 0.001, pids: 0}
            |                                                ^
          hint: give at least 0.01
        cutover.yaml:3:61: 0 processes are not possible
          3 |   local: {command: [./shop], memory: 512, cpu: 0.001, pids: 0}
            |                                                             ^
          hint: give at least 1
    "#]],
    );
    check(
        &with("[./shop]", "[./shop], cpu: 500m"),
        &expect![[r#"
            cutover.yaml:3:35: "500m" is not a number of cores in steps of 0.001, such as 0.5 or 2
              3 |   local: {command: [./shop], cpu: 500m}
                |                                   ^
              hint: give less
        "#]],
    );
}

#[test]
fn what_is_missing_is_named() {
    check(
        "",
        &expect![[r#"
            cutover.yaml:1:1: the release file is empty
              hint: it needs at least service, platform and route: `cutover init` writes one
        "#]],
    );
    check(
        &with("service: shop\n", ""),
        &expect![[r#"
            cutover.yaml:1:1: the key `service` is missing
              1 | platform:
                | ^
              hint: give the service a name: `service: shop`
        "#]],
    );
    check(
        &with("command: [./shop]", ""),
        &expect![[r#"
            cutover.yaml:3:10: the key `command` is missing in `platform.local`
              3 |   local: {}
                |          ^
              hint: say what runs: `command: [./shop, --quiet]`
        "#]],
    );
}

#[test]
fn what_cannot_be_together_is_named_all_at_once() {
    let file = format!(
        "{}bake: 3h\nchecks: {{health: [{{path: /health, tcp: true}}, {{path: health}}, {{}}]}}\nguard: {{success: 0%}}\n",
        with("service: shop", "service: Shop!")
            .replace("[./shop]}", "[./shop], env: {PORT: '1', A: b}, secrets: [A], replicas: 0}")
    );
    check(
        &file,
        &expect![[r#"
            cutover.yaml:1:10: the service name "Shop!" is not usable
              1 | service: Shop!
                |          ^
              hint: use 1 to 40 lower-case letters, digits and dashes, such as `shop-api`
            cutover.yaml:3:42: `PORT` is set by cutover for each instance
              3 |   local: {command: [./shop], env: {PORT: '1', A: b}, secrets: [A], replicas: 0}
                |                                          ^
              hint: leave it out and read it in the service
            cutover.yaml:3:64: `A` stands in env and in secrets
              3 |   local: {command: [./shop], env: {PORT: '1', A: b}, secrets: [A], replicas: 0}
                |                                                                ^
              hint: keep it in secrets alone
            cutover.yaml:3:78: 0 replicas are not possible
              3 |   local: {command: [./shop], env: {PORT: '1', A: b}, secrets: [A], replicas: 0}
                |                                                                              ^
              hint: give 1 to 1000
            cutover.yaml:6:7: the deadline of 2h leaves no time beside bakes of 3h together
              6 | bake: 3h
                |       ^
              hint: give the whole release longer than its bakes
            cutover.yaml:7:19: a health check is exactly one of `path`, `tcp: true`, `grpc` and `run`
              7 | checks: {health: [{path: /health, tcp: true}, {path: health}, {}]}
                |                   ^
              hint: such as `- path: /health`
            cutover.yaml:7:54: the path must begin with / and have no spaces
              7 | checks: {health: [{path: /health, tcp: true}, {path: health}, {}]}
                |                                                      ^
              hint: such as `path: /health`
            cutover.yaml:7:63: a health check is exactly one of `path`, `tcp: true`, `grpc` and `run`
              7 | checks: {health: [{path: /health, tcp: true}, {path: health}, {}]}
                |                                                               ^
              hint: such as `- path: /health`
            cutover.yaml:8:18: a success of 0% guards nothing
              8 | guard: {success: 0%}
                |                  ^
              hint: give the least share, such as 99%
        "#]],
    );
}

#[test]
fn broken_yaml_has_a_place() {
    check(
        "service: shop\n  platform: [\n",
        &expect![[r#"
            cutover.yaml:2:11: `key: value` is not possible here
              2 |   platform: [
                |           ^
              hint: put it on a line of its own, as deep as its neighbours; quote a text that contains ": "
        "#]],
    );
    check(
        &with("route:", "route: ["),
        &expect![[r#"
            cutover.yaml:5:3: a list item `- …` is not possible inside brackets
              5 |   - proxy: {listen: "127.0.0.1:8080"}
                |   ^
              hint: close the bracket that is open above, or separate items with commas
        "#]],
    );
    check(
        &format!("{GOOD}service: again\n"),
        &expect![[r#"
        cutover.yaml:6:1: the key `service` stands here twice
          6 | service: again
            | ^
          hint: keep one of them
    "#]],
    );
    check(
        "\tservice: shop\n",
        &expect![[r#"
            cutover.yaml:1:2: the key `platform` is missing
              1 | 	service: shop
                | 	^
              hint: say what runs: `platform: {local: {command: [./shop]}}`
        "#]],
    );
    check(
        "- service\n",
        &expect![[r#"
            cutover.yaml:1:1: keys with values are expected here, not a list
              1 | - service
                | ^
              hint: write `key: value`, without the dash or the brackets
        "#]],
    );
}

#[test]
fn targets_are_spoken_to_in_one_protocol() {
    check(
        &with("8080\"}", "8080\", target_protocol: h2c}"),
        &expect![[r#"
        ok
    "#]],
    );
    check(
        &with("8080\"}", "8080\", target_protocol: grpc}"),
        &expect![[r#"
        cutover.yaml:5:56: unknown value `grpc`
          5 |   - proxy: {listen: "127.0.0.1:8080", target_protocol: grpc}
            |                                                        ^
          hint: expected one of: `http1`, `h2c`
    "#]],
    );
    check(
        &with("8080\"}", "8080\"}\n  - proxy: {listen: \"127.0.0.1:8081\", target_protocol: h2c}"),
        &expect![[r#"
            cutover.yaml:6:12: the routes say different things of the same instances
              6 |   - proxy: {listen: "127.0.0.1:8081", target_protocol: h2c}
                |            ^
              hint: give each route the same `target_protocol`
        "#]],
    );
}

#[test]
fn checks_of_targets_are_possible() {
    check(
        &with(
            "8080\"}",
            "8080\", checks: {path: /up, expect: {status: 200}, interval: 5s, timeout: 1s, fall: 2, rise: 1}}",
        ),
        &expect![[r#"
            ok
        "#]],
    );
    check(
        &with(
            "8080\"}",
            "8080\", checks: {path: up, tcp: true, interval: 1ms, fall: 0}}\n  - proxy: {listen: \"127.0.0.1:8081\", \
             checks: {expect: {status: 204}, timeout: 0s}}",
        ),
        &expect![[r#"
            cutover.yaml:5:47: a check is either `path` or `tcp: true`
              5 |   - proxy: {listen: "127.0.0.1:8080", checks: {path: up, tcp: true, interval: 1ms, fall: 0}}
                |                                               ^
              hint: remove one of them
            cutover.yaml:5:54: the path must begin with / and have no spaces
              5 |   - proxy: {listen: "127.0.0.1:8080", checks: {path: up, tcp: true, interval: 1ms, fall: 0}}
                |                                                      ^
              hint: such as `path: /health`
            cutover.yaml:5:79: checks every 1ms would be a load of their own
              5 |   - proxy: {listen: "127.0.0.1:8080", checks: {path: up, tcp: true, interval: 1ms, fall: 0}}
                |                                                                               ^
              hint: give at least `100ms`, or `0s` for no checks
            cutover.yaml:5:90: 0 checks in a row are not possible
              5 |   - proxy: {listen: "127.0.0.1:8080", checks: {path: up, tcp: true, interval: 1ms, fall: 0}}
                |                                                                                          ^
              hint: give 1 to 1000
            cutover.yaml:6:47: two routes to the same targets differ in `checks`
              6 |   - proxy: {listen: "127.0.0.1:8081", checks: {expect: {status: 204}, timeout: 0s}}
                |                                               ^
              hint: leave `checks` to one of the routes
            cutover.yaml:6:56: only a check with `path` has an answer to expect
              6 |   - proxy: {listen: "127.0.0.1:8081", checks: {expect: {status: 204}, timeout: 0s}}
                |                                                        ^
              hint: remove `expect`, or give a `path`
            cutover.yaml:6:80: a check needs some time
              6 |   - proxy: {listen: "127.0.0.1:8081", checks: {expect: {status: 204}, timeout: 0s}}
                |                                                                                ^
              hint: such as `timeout: 2s`
        "#]],
    );
}

#[test]
fn limits_that_let_nothing_through_are_mistakes() {
    check(
        &with(
            "8080\"}",
            "8080\", limits: {body: 10Mi, headers: {}, per_client: {rate: 5, at_once: 2, connections: 9}, upload: {least: 1Ki}, download: {}}}",
        ),
        &expect![[r#"
            ok
        "#]],
    );
    check(
        &with(
            "8080\"}",
            "8080\", limits: {per_client: {burst: 0}, upload: {within: 0s}, download: {least: 0}}}",
        ),
        &expect![[r#"
            cutover.yaml:5:60: a client with a limit of 0 gets nothing
              5 |   - proxy: {listen: "127.0.0.1:8080", limits: {per_client: {burst: 0}, upload: {within: 0s}, download: {least: 0}}}
                |                                                            ^
              hint: give at least 1, or leave the key out
            cutover.yaml:5:60: neither rate nor open requests nor connections of a client are limited here
              5 |   - proxy: {listen: "127.0.0.1:8080", limits: {per_client: {burst: 0}, upload: {within: 0s}, download: {least: 0}}}
                |                                                            ^
              hint: give a `rate`, how many `at_once`, or how many `connections`
            cutover.yaml:5:80: no body is ever slower than nothing
              5 |   - proxy: {listen: "127.0.0.1:8080", limits: {per_client: {burst: 0}, upload: {within: 0s}, download: {least: 0}}}
                |                                                                                ^
              hint: such as `upload: {least: 1Ki, within: 30s}`
            cutover.yaml:5:104: no body is ever slower than nothing
              5 |   - proxy: {listen: "127.0.0.1:8080", limits: {per_client: {burst: 0}, upload: {within: 0s}, download: {least: 0}}}
                |                                                                                                        ^
              hint: such as `download: {least: 1Ki, within: 30s}`
        "#]],
    );
    check(
        &with("8080\"}", "8080\", limits: {per_target: 50, queue: {limit: 100, wait: 2s}}}"),
        &expect![[r#"
            ok
        "#]],
    );
    check(
        &with("8080\"}", "8080\", limits: {per_target: 0, queue: {limit: 100001, wait: 0s}}}"),
        &expect![[r#"
            cutover.yaml:5:60: 0 requests at once let nothing through
              5 |   - proxy: {listen: "127.0.0.1:8080", limits: {per_target: 0, queue: {limit: 100001, wait: 0s}}}
                |                                                            ^
              hint: leave it out for no limit
            cutover.yaml:5:78: 100001 requests cannot wait at once
              5 |   - proxy: {listen: "127.0.0.1:8080", limits: {per_target: 0, queue: {limit: 100001, wait: 0s}}}
                |                                                                              ^
              hint: give at most 100000
            cutover.yaml:5:92: a request needs some time to wait
              5 |   - proxy: {listen: "127.0.0.1:8080", limits: {per_target: 0, queue: {limit: 100001, wait: 0s}}}
                |                                                                                            ^
              hint: such as `wait: 5s`
        "#]],
    );
    check(
        &with("8080\"}", "8080\", limits: {queue: {}}}"),
        &expect![[r#"
        cutover.yaml:5:55: without `per_target` nobody ever waits
          5 |   - proxy: {listen: "127.0.0.1:8080", limits: {queue: {}}}
            |                                                       ^
          hint: add it, or remove `queue`
    "#]],
    );
}

#[test]
fn paths_and_seats_that_cannot_be_are_mistakes() {
    for good in ["path: /api", "path: /", "sticky: {by: cookie}", "sticky: {by: header, name: x-user-id}"] {
        check(
            &with("8080\"}", &format!("8080\", {good}}}")),
            &expect![[r#"
                ok
            "#]],
        );
    }
    check(
        &with("8080\"}", "8080\", path: api, sticky: {by: header}}"),
        &expect![[r#"
            cutover.yaml:5:45: "api" is not the beginning of a path
              5 |   - proxy: {listen: "127.0.0.1:8080", path: api, sticky: {by: header}}
                |                                             ^
              hint: begin it with / and end it with a whole segment, such as `/api`
            cutover.yaml:5:58: no header is named
              5 |   - proxy: {listen: "127.0.0.1:8080", path: api, sticky: {by: header}}
                |                                                          ^
              hint: add its name, such as `name: x-user-id`
        "#]],
    );
    check(
        &with("8080\"}", "8080\", path: \"/a?b\", sticky: {by: cookie, name: \"a=b\"}}"),
        &expect![[r#"
            cutover.yaml:5:45: "/a?b" is not the beginning of a path
              5 |   - proxy: {listen: "127.0.0.1:8080", path: "/a?b", sticky: {by: cookie, name: "a=b"}}
                |                                             ^
              hint: begin it with / and end it with a whole segment, such as `/api`
            cutover.yaml:5:80: "a=b" is not a name
              5 |   - proxy: {listen: "127.0.0.1:8080", path: "/a?b", sticky: {by: cookie, name: "a=b"}}
                |                                                                                ^
              hint: use letters, digits and dashes
        "#]],
    );
    check(
        &with("8080\"}", "8080\", sticky: {by: cooky}}\n  - proxy: {listen: \"127.0.0.1:8081\"}"),
        &expect![[r#"
            cutover.yaml:5:52: unknown value `cooky`
              5 |   - proxy: {listen: "127.0.0.1:8080", sticky: {by: cooky}}
                |                                                    ^
              hint: did you mean `cookie`? Expected one of: `cookie`, `header`
        "#]],
    );
    check(
        &with("8080\"}", "8080\", sticky: {by: cookie}}\n  - proxy: {listen: \"127.0.0.1:8081\"}"),
        &expect![[r#"
            ok
        "#]],
    );
}

#[test]
fn an_access_log_has_a_sample_and_a_size() {
    check(
        &with("8080\"}", "8080\", access_log: {}}"),
        &expect![[r#"
            ok
        "#]],
    );
    check(
        &with("8080\"}", "8080\", access_log: {format: combined, sample: 0%, size: 1Ki}}"),
        &expect![[r#"
            cutover.yaml:5:78: a sample of nothing is no log
              5 |   - proxy: {listen: "127.0.0.1:8080", access_log: {format: combined, sample: 0%, size: 1Ki}}
                |                                                                              ^
              hint: leave out `access_log`
            cutover.yaml:5:88: a log of 1Ki is put aside all the time
              5 |   - proxy: {listen: "127.0.0.1:8080", access_log: {format: combined, sample: 0%, size: 1Ki}}
                |                                                                                        ^
              hint: give at least `64Ki`
        "#]],
    );
}

/// What the proxy is told to ask, for a file that ends so.
fn asked(rest: &str) -> String {
    let file = ReleaseFile::read("cutover.yaml", &format!("{GOOD}{rest}")).unwrap();
    let cutover_core::file::Route::Proxy(route) = file.routes().remove(0);
    let checks = route.checks.unwrap();
    let what = checks.path.unwrap_or_else(|| format!("tcp {}", checks.tcp));
    format!(
        "{what} expects {} every {}, of the revision: {}",
        checks.expect.status, checks.interval, checks.of_revision
    )
}

#[test]
fn targets_are_asked_what_let_them_in_unless_the_route_says_otherwise() {
    assert_eq!(asked(""), "tcp true expects 200-399 every 10s, of the revision: true");
    let health = "checks: {health: [{run: ./check.sh}, {tcp: true}, {path: /up, expect: {status: 204}}]}\n";
    assert_eq!(asked(health), "/up expects 204 every 10s, of the revision: true");
    assert_eq!(
        asked("checks: {health: [{run: ./check.sh}]}\n"),
        "tcp true expects 200-399 every 10s, of the revision: true"
    );
}

#[test]
fn https_has_its_files_and_its_redirect_a_goal() {
    let tls = "tls: {cert: /c.pem, key: /k.pem, hsts: 365d}";
    let good = format!("8443\", {tls}}}\n  - proxy: {{listen: \"127.0.0.1:8080\", redirect: https}}");
    check(
        &with("8080\"}", &good),
        &expect![[r#"
        ok
    "#]],
    );
    check(
        &with("8080\"}", "8080\", redirect: https, tls: {cert: c.pem, key: k.pem}}"),
        &expect![[r#"
        cutover.yaml:5:49: this route speaks HTTPS already
          5 |   - proxy: {listen: "127.0.0.1:8080", redirect: https, tls: {cert: c.pem, key: k.pem}}
            |                                                 ^
          hint: remove `redirect`
        cutover.yaml:5:68: the proxy needs an absolute path
          5 |   - proxy: {listen: "127.0.0.1:8080", redirect: https, tls: {cert: c.pem, key: k.pem}}
            |                                                                    ^
          hint: it reads the file for as long as it runs, wherever the release file lies
        cutover.yaml:5:80: the proxy needs an absolute path
          5 |   - proxy: {listen: "127.0.0.1:8080", redirect: https, tls: {cert: c.pem, key: k.pem}}
            |                                                                                ^
    "#]],
    );
    check(
        &with("8080\"}", "8080\", redirect: https}"),
        &expect![[r#"
        cutover.yaml:5:49: no route speaks HTTPS
          5 |   - proxy: {listen: "127.0.0.1:8080", redirect: https}
            |                                                 ^
          hint: give another route `tls: {cert: …, key: …}`
    "#]],
    );
    let mixed =
        format!("8080\", host: a.test, {tls}}}\n  - proxy: {{listen: \"127.0.0.1:8080\", host: b.test}}");
    check(
        &with("8080\"}", &mixed),
        &expect![[r#"
        cutover.yaml:6:12: 127.0.0.1:8080 speaks TLS for another route
          6 |   - proxy: {listen: "127.0.0.1:8080", host: b.test}
            |            ^
          hint: give this route its `tls`, or another address
    "#]],
    );
}

#[test]
fn a_certificate_is_from_files_or_from_an_authority() {
    let with_tls = |keys: &str, tls: &str| with("8080\"}", &format!("8443\"{keys}, tls: {tls}}}"));
    for tls in [
        "{acme: {}}",
        "{acme: {email: ops@a.test}, hsts: 365d}",
        "{acme: {directory: https://ca.test/acme/directory, root: /etc/ca.pem}}",
    ] {
        check(
            &with_tls(", host: a.test", tls),
            &expect![[r#"
                ok
            "#]],
        );
    }
    check(
        &with_tls("", "{acme: {}}"),
        &expect![[r#"
        cutover.yaml:5:51: an authority signs for a host, which this route does not name
          5 |   - proxy: {listen: "127.0.0.1:8443", tls: {acme: {}}}
            |                                                   ^
          hint: give the route its `host`, such as `host: shop.example.com`
    "#]],
    );
    check(
        &with_tls(", host: 192.0.2.1", "{acme: {}}"),
        &expect![[r#"
        cutover.yaml:5:68: an authority signs for a host, which this route does not name
          5 |   - proxy: {listen: "127.0.0.1:8443", host: 192.0.2.1, tls: {acme: {}}}
            |                                                                    ^
          hint: give the route its `host`, such as `host: shop.example.com`
    "#]],
    );
    check(
        &with_tls(", host: a.test", "{cert: /c.pem, acme: {}}"),
        &expect![[r#"
        cutover.yaml:5:79: the certificate comes from files or from an authority, not from both
          5 |   - proxy: {listen: "127.0.0.1:8443", host: a.test, tls: {cert: /c.pem, acme: {}}}
            |                                                                               ^
          hint: remove `acme`, or `cert` and `key`
    "#]],
    );
    check(
        &with_tls(", host: a.test", "{cert: /c.pem}"),
        &expect![[r#"
        cutover.yaml:5:58: there is no certificate to speak HTTPS with
          5 |   - proxy: {listen: "127.0.0.1:8443", host: a.test, tls: {cert: /c.pem}}
            |                                                          ^
          hint: give `cert` and `key`, or `acme: {}` for one of Let's Encrypt
    "#]],
    );
    check(
        &with_tls(", host: a.test", "{hsts: 1d}"),
        &expect![[r#"
        cutover.yaml:5:58: there is no certificate to speak HTTPS with
          5 |   - proxy: {listen: "127.0.0.1:8443", host: a.test, tls: {hsts: 1d}}
            |                                                          ^
          hint: give `cert` and `key`, or `acme: {}` for one of Let's Encrypt
    "#]],
    );
    check(
        &with_tls(", host: a.test", "{acme: {directory: \"http://ca.test/\", email: ops, root: ca.pem}}"),
        &expect![[r#"
            cutover.yaml:5:77: an authority is asked by https
              5 | …en: "127.0.0.1:8443", host: a.test, tls: {acme: {directory: "http://ca.test/", email: ops, root: ca.pem}}}
                |                                                              ^
              hint: give the address of its directory, such as https://ca.internal/acme/acme/directory
            cutover.yaml:5:103: this is no mail address
              5 | …: a.test, tls: {acme: {directory: "http://ca.test/", email: ops, root: ca.pem}}}
                |                                                              ^
              hint: such as `email: ops@example.com`
            cutover.yaml:5:114: the proxy needs an absolute path
              5 | …ls: {acme: {directory: "http://ca.test/", email: ops, root: ca.pem}}}
                |                                                              ^
              hint: it reads the file for as long as it runs, wherever the release file lies
        "#]],
    );
    check(
        &with_tls(", host: a.test", "{acme: {mail: ops@a.test}}"),
        &expect![[r#"
        cutover.yaml:5:66: unknown key `mail`
          5 |   - proxy: {listen: "127.0.0.1:8443", host: a.test, tls: {acme: {mail: ops@a.test}}}
            |                                                                  ^
          hint: did you mean `email`? Expected one of: `email`, `directory`, `root`
    "#]],
    );
}

#[test]
fn whom_the_proxy_believes_is_a_network() {
    check(
        &with("8080\"}", "8080\", trust: [10.0.0.0/8, \"2001:db8::1\"], forwarded: true, request_id: true}"),
        &expect![[r#"
            ok
        "#]],
    );
    check(
        &with(
            "8080\"}",
            "8080\", host: a.test, proxy_protocol: true, trust: [10.0.0.0/33, lb]}\n  - proxy: {listen: \"127.0.0.1:8080\", host: b.test}",
        ),
        &expect![[r#"
            cutover.yaml:5:83: `10.0.0.0/33` is not a network
              5 |   - proxy: {listen: "127.0.0.1:8080", host: a.test, proxy_protocol: true, trust: [10.0.0.0/33, lb]}
                |                                                                                   ^
              hint: give networks or addresses, such as `10.0.0.0/8` or `192.0.2.1`
            cutover.yaml:5:96: `lb` is not a network
              5 |   - proxy: {listen: "127.0.0.1:8080", host: a.test, proxy_protocol: true, trust: [10.0.0.0/33, lb]}
                |                                                                                                ^
            cutover.yaml:6:12: 127.0.0.1:8080 has `proxy_protocol: true` for another route
              6 |   - proxy: {listen: "127.0.0.1:8080", host: b.test}
                |            ^
              hint: say it for all routes of the address: it is about the connection
        "#]],
    );
}

#[test]
fn assets_are_named_by_their_folders() {
    check(
        &with("8080\"}", "8080\", assets: [/assets/, /static/app/]}"),
        &expect![[r#"
        ok
    "#]],
    );
    check(
        &with("8080\"}", "8080\", assets: [/, assets/, /a, /a/../b/, '/a?b/', /b/, /b/]}"),
        &expect![[r#"
            cutover.yaml:5:48: assets below `/` would be every path
              5 |   - proxy: {listen: "127.0.0.1:8080", assets: [/, assets/, /a, /a/../b/, '/a?b/', /b/, /b/]}
                |                                                ^
              hint: name their folder, such as `/assets/`
            cutover.yaml:5:51: `assets/` is not a path prefix of assets
              5 |   - proxy: {listen: "127.0.0.1:8080", assets: [/, assets/, /a, /a/../b/, '/a?b/', /b/, /b/]}
                |                                                   ^
              hint: write it as it is asked for, from / to /, such as `/assets/`
            cutover.yaml:5:60: `/a` is not a path prefix of assets
              5 |   - proxy: {listen: "127.0.0.1:8080", assets: [/, assets/, /a, /a/../b/, '/a?b/', /b/, /b/]}
                |                                                            ^
            cutover.yaml:5:64: `/a/../b/` is not a path prefix of assets
              5 |   - proxy: {listen: "127.0.0.1:8080", assets: [/, assets/, /a, /a/../b/, '/a?b/', /b/, /b/]}
                |                                                                ^
            cutover.yaml:5:74: `/a?b/` is not a path prefix of assets
              5 |   - proxy: {listen: "127.0.0.1:8080", assets: [/, assets/, /a, /a/../b/, '/a?b/', /b/, /b/]}
                |                                                                          ^
            cutover.yaml:5:88: `/b/` stands here twice
              5 |   - proxy: {listen: "127.0.0.1:8080", assets: [/, assets/, /a, /a/../b/, '/a?b/', /b/, /b/]}
                |                                                                                        ^
              hint: remove one of them
        "#]],
    );
}

#[test]
fn what_the_page_on_metrics_shows_is_good() {
    let page = include_str!("../../../docs/metrics.md");
    let samples: Vec<&str> =
        page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(samples.len(), 2);
    for sample in samples {
        ReleaseFile::read("metrics.md", &format!("{GOOD}{sample}"))
            .unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn metrics_and_counters_are_read() {
    let file = ReleaseFile::read(
        "cutover.yaml",
        &format!(
            "{GOOD}{}",
            r#"bake: 5m
guard:
  metrics:
    - name: success
      prometheus: {address: "http://p:9090", preset: istio, namespace: shop, candidate: shop-canary}
      min: 0.99
      failure_limit: 3
    - name: queue
      http: {url: "https://api.example.com/v1/query?from={{since}}&to={{now}}", value: "series[0].pointlist[-1][1]", secret_headers: {DD-API-KEY: DD_KEY}}
      success_condition: result[0] < 100
      failure_condition: result > 1000
      count: 3
    - {name: backlog, run: ./backlog.sh, max: 5, on_outage: advance, initial_delay: 0s}
  counters:
    prometheus: {address: "http://p:9090", preset: linkerd, namespace: shop, stable: shop, candidate: shop-canary, secret_headers: {Authorization: PROM}}
"#
        ),
    )
    .unwrap();
    assert_eq!(file.metric_secrets(), ["DD_KEY", "PROM"]);
    let [success, queue, backlog] = &file.guard.metrics[..] else { panic!("{:?}", file.guard) };
    assert_eq!((success.first_after(), success.failure_limit), (success.interval, 3));
    assert!(queue.success_condition.as_ref().is_some_and(|holds| holds.holds(99.0) && !holds.holds(100.0)));
    assert_eq!((backlog.first_after().ms(), backlog.max), (0, Some(5.0)));
    let written = serde_json::to_string(&file).unwrap();
    assert_eq!(serde_json::from_str::<ReleaseFile>(&written).unwrap(), file);
}
