//! Broken release files, every kind that people write: what is said of each lies in `corpus/*.txt`, to be read as by
//! somebody at 3 AM. Update with `UPDATE_EXPECT=1 cargo test -p cutover-core --test corpus`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::fmt::Write;

use cutover_core::file::{Checked, Document, FileErrors};
use expect_test::{ExpectFile, expect_file};

const GOOD: &str = r#"service: shop
platform:
  local: {command: [./shop]}
route:
  - proxy: {listen: "127.0.0.1:8080"}
"#;

/// What `cutover check` finds.
fn check(bytes: &[u8]) -> Result<Checked, FileErrors> {
    Document::read("cutover.yaml", bytes)?.check()
}

/// Checks each case; all of them must be refused, each with a place inside the file, a text, and something to do.
fn refused(cases: &[(&str, Vec<u8>)], wanted: &ExpectFile) {
    let (mut told, mut wrong) = (String::new(), Vec::new());
    for (name, bytes) in cases {
        let Err(errors) = check(bytes) else {
            wrong.push(format!("{name}: it is accepted"));
            continue;
        };
        let text = errors.to_string();
        writeln!(told, "== {name}\n{text}\n").unwrap();
        let lines = u64::try_from(bytes.split(|byte| matches!(byte, b'\n' | b'\r')).count()).unwrap();
        for error in errors.errors() {
            if !(1..=lines).contains(&error.line()) || error.column() == 0 {
                wrong.push(format!("{name}: its place is not in the file: {error:?}"));
            }
            if error.what().is_empty() || error.hint().is_empty() {
                wrong.push(format!("{name}: it does not say what to do: {error:?}"));
            }
        }
        if errors.errors().is_empty() || text.chars().any(|c| c != '\n' && c != '\t' && c.is_control()) {
            wrong.push(format!("{name}: no message, or one that disturbs a terminal: {text:?}"));
        }
    }
    wanted.assert_eq(&told);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn case(name: &'static str, text: impl Into<String>) -> (&'static str, Vec<u8>) {
    (name, text.into().into_bytes())
}

/// The good file with `text` in place of `part`.
fn with(part: &str, text: &str) -> String {
    assert!(GOOD.contains(part), "{part}");
    GOOD.replace(part, text)
}

/// The good file with more keys at its end.
fn and(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

/// The good file with more keys in `platform.local`.
fn local(more: &str) -> String {
    with("[./shop]}", &format!("[./shop], {more}}}"))
}

fn health(check: &str) -> String {
    and(&format!("checks: {{health: [{check}]}}"))
}

#[test]
fn what_is_no_text() {
    let mut latin = GOOD.replace("shop\n", "caf").into_bytes();
    latin.extend(b"\xe9\n");
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(GOOD.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    refused(
        &[
            case("an empty file", ""),
            case("white space alone", "\n \n\t\n"),
            case("comments alone", "# a comment\n\n  # another\n"),
            case("a byte order mark alone", "\u{feff}"),
            case("a document mark alone", "---\n"),
            ("latin-1", latin),
            ("a binary", b"\x7fELF\x02\x01\x01\0\0\xff\xff".to_vec()),
            ("UTF-16", utf16),
            case("a NUL", with("shop\n", "sh\0op\n")),
            case("a NUL on the third line", with("./shop", "./sh\0op")),
            case("a terminal's escape", with("service: shop", "service: \u{1b}[31mshop")),
            case("a bell in quotes", local("env: {A: \"\u{7}\"}")),
            ("ten megabytes", vec![b'#'; 10 << 20]),
            ("ten megabytes of no text", vec![0xff; 10 << 20]),
        ],
        &expect_file!["corpus/text.txt"],
    );
}

#[test]
fn what_is_no_yaml() {
    refused(
        &[
            case("a tab as indentation", "service: shop\nplatform:\n\tlocal: {command: [./shop]}\n"),
            case(
                "a tab before a list item",
                "service: shop\nroute:\n\t- proxy: {listen: \"127.0.0.1:80\"}\n",
            ),
            case("a tab after spaces", "service: shop\nplatform:\n  local:\n  \tcommand: [./shop]\n"),
            case("a key one space too deep", "service: shop\n platform: {}\n"),
            case(
                "a key one space too shallow",
                "service: shop\nplatform:\n  local:\n    command: [a]\n   replicas: 2\n",
            ),
            case("keys on one line", "service: shop platform: {}\n"),
            case("no space after the colon", with("service: shop", "service:shop")),
            case("a key without a colon", with("service: shop", "service: shop\nbake")),
            case("a bracket that is not closed", with("[./shop]", "[./shop")),
            case("a brace that is not closed", with("[./shop]}", "[./shop]")),
            case("a bracket that closes a brace", with("[./shop]}", "[./shop}]")),
            case("a bracket too many", with("[./shop]}", "[./shop]]}")),
            case("a bracket open before a list", with("route:", "route: [")),
            case("a quote that is not closed", with("\"127.0.0.1:8080\"", "\"127.0.0.1:8080")),
            case("text after a quote", with("service: shop", "service: \"shop\" one")),
            case("a backslash in double quotes", local("env: {A: \"C:\\path\"}")),
            case("a percent sign first", with("service: shop", "service: %shop")),
            case("an at sign first", with("service: shop", "service: @shop")),
            case("a backtick first", with("service: shop", "service: `shop`")),
            case("an asterisk first", with("service: shop", "service: *shop")),
            case("an ampersand alone", with("service: shop", "service: & shop")),
            case("an exclamation mark first", with("service: shop", "service: !shop")),
            case("a custom tag", with("service: shop", "service: !env SHOP")),
            case("a colon in a text", and("checks: {health: [{run: curl http: //x}]}")),
            case("a list item on the key's line", with("route:\n  - proxy", "route: - proxy")),
            case("a list and keys together", with("route:\n", "route:\n  a: b\n")),
            case("two documents", and("---\nservice: other")),
            case("three documents", and("---\na: b\n---\nc: d")),
            case("the end of a document", and("...\nbake: 1m")),
            case("an unknown alias", with("[./shop]", "*command")),
            case("an alias of itself", with("[./shop]", "&a [*a]")),
            case("a merge of a text", and("guard: {<<: text}")),
            case("a merge of an unknown alias", and("guard: {<<: *strict}")),
            case("a key twice", and("service: again")),
            case("a key twice in braces", local("replicas: 2, replicas: 3")),
            case("an environment variable twice", local("env: {A: 1, A: 2}")),
            case("a list as a key", and("[a, b]: c")),
            case("keys as a key", and("{a: b}: c")),
            case("nothing as a key", and(": c")),
            case("a list as the whole", "- service: shop\n"),
            case("a text as the whole", "service shop\n"),
            case("JSON with a comma too many", "{\"service\": \"shop\",, \"route\": []}\n"),
            case(
                "a merge conflict",
                with("service: shop", "<<<<<<< HEAD\nservice: shop\n=======\nservice: store\n>>>>>>> new"),
            ),
            case("a template", with("service: shop", "service: {{ name }}")),
            case("a diff's plus", "+service: shop\n+route: []\n"),
            case("carriage returns alone", GOOD.replace("./shop]", "./shop").replace('\n', "\r")),
            case("a broken line with CRLF", GOOD.replace("./shop]", "./shop").replace('\n', "\r\n")),
        ],
        &expect_file!["corpus/yaml.txt"],
    );
}

#[test]
fn what_is_too_much() {
    let laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_string()
        + &('b'..='i')
            .map(|c| {
                let before = char::from_u32(u32::from(c) - 1).unwrap();
                format!("{c}: &{c} [{}]\n", vec![format!("*{before}"); 9].join(", "))
            })
            .collect::<String>();
    let anchors: String = (0..2000).map(|i| format!("k{i}: &a{i} x\n")).collect();
    let blocks: String = (0..200).map(|depth| format!("{}a:\n", "  ".repeat(depth))).collect();
    refused(
        &[
            case("a billion laughs", laughs),
            case("thousands of anchors", anchors),
            case("a thousand brackets", format!("service: {}{}\n", "[".repeat(1000), "]".repeat(1000))),
            case("two hundred levels", blocks),
            case("a hundred thousand items", with("[./shop]", &format!("[{}./shop]", "a, ".repeat(100_000)))),
            case(
                "a hundred thousand keys",
                and(&(0..30_000).map(|i| format!("k{i}: 1\n")).collect::<String>()),
            ),
            case("a long line", with("service: shop", &format!("service: {}", "shop".repeat(5000)))),
            case("a hundred unknown keys", and(&(0..100).map(|i| format!("k{i}: 1\n")).collect::<String>())),
        ],
        &expect_file!["corpus/limits.txt"],
    );
}

#[test]
fn keys_that_are_unknown_or_missing() {
    refused(
        &[
            case("no service", with("service: shop\n", "")),
            case("no platform", "service: shop\nroute: []\n"),
            case("no route", "service: shop\nplatform: {local: {command: [a]}}\n"),
            case("no command", with("command: [./shop]", "")),
            case("no address", with("listen: \"127.0.0.1:8080\"", "host: shop.test")),
            case("a slip at the top", with("service:", "sevrice:")),
            case("a hyphen for an underscore", and("keep-warm: 5m")),
            case("camel case", and("keepWarm: 5m")),
            case("the plural", with("route:", "routes:")),
            case("upper case", with("service:", "Service:")),
            case("a slip in local", with("command:", "comand:")),
            case("a slip in the platform", with("local:", "locl:")),
            case("a slip in a route", with("proxy:", "prox:")),
            case("a slip in the proxy", with("listen:", "lisen:")),
            case("a slip in the checks", and("checks: {healt: []}")),
            case("a slip in a check", health("{path: /, intervall: 1s}")),
            case("a slip in what is expected", health("{path: /, expect: {staus: 200}}")),
            case("a slip in the guard", and("guard: {sucess: 99%}")),
            case("a slip in the strategy", and("strategy: {bluegreen: {}}")),
            case("a key in blue_green", and("strategy: {blue_green: {weights: [5%]}}")),
            case("another tool's key", and("replicas: 3")),
            case("kubernetes' words", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\n"),
            case("another platform", with("  local: {command: [./shop]}", "  kubernetes: {image: shop}")),
            case("an unknown platform", with("  local: {command: [./shop]}", "  nomad: {image: shop}")),
            case("two platforms", with("route:", "  docker: {image: shop}\nroute:")),
            case("smoke tests", and("checks: {smoke: [{get: /, expected: {status: 200}}]}")),
            case("a method in capitals", and("checks: {smoke: [{GET: /}]}")),
            case("load tests", and("checks: {load: [{path: /}]}")),
            case("environment instead of environments", and("environment: staging")),
            case(
                "many at once",
                "sevice: shop\nplatform:\n  local: {comand: [./shop], replicas: two}\nroute:\n  - proxy: {listen: here}\nbake: 10\n",
            ),
        ],
        &expect_file!["corpus/keys.txt"],
    );
}

#[test]
fn values_of_the_wrong_kind() {
    refused(
        &[
            case("a service without a value", with("service: shop", "service:")),
            case("a service that is a list", with("service: shop", "service: [shop]")),
            case("a service that is keys", with("service: shop", "service: {name: shop}")),
            case(
                "a platform that is a word",
                with("platform:\n  local: {command: [./shop]}", "platform: local"),
            ),
            case("a platform without a value", with("  local: {command: [./shop]}\n", "")),
            case("a platform that is a list", with("  local:", "  - local:")),
            case("an empty platform", with("platform:\n  local: {command: [./shop]}", "platform: {}")),
            case("local without a value", with("local: {command: [./shop]}", "local:")),
            case("a command that is a text", with("[./shop]", "./shop --port $PORT")),
            case("a command without a value", with("[./shop]", "")),
            case("a command with an empty item", with("[./shop]", "[./shop, ~]")),
            case("a command with keys in it", with("[./shop]", "[./shop, port: 80]")),
            case("a route that is keys", with("  - proxy", "  proxy")),
            case(
                "a route that is a word",
                with("route:\n  - proxy: {listen: \"127.0.0.1:8080\"}", "route: proxy"),
            ),
            case("a route of addresses", with("proxy: {listen: \"127.0.0.1:8080\"}", "\"127.0.0.1:8080\"")),
            case("replicas that are a text", local("replicas: two")),
            case("replicas with a point", local("replicas: 2.0")),
            case("replicas that are negative", local("replicas: -1")),
            case("replicas that are huge", local("replicas: 99999999999999999999999999999999999999999999")),
            case("replicas in hexadecimal", local("replicas: 0x10")),
            case("replicas that are a list", local("replicas: [1]")),
            case("replicas that are not finite", local("replicas: .inf")),
            case("environment variables in a list", local("env: [LOG=info]")),
            case("an environment variable that is a list", local("env: {LOG: [a, b]}")),
            case("an environment variable without a value", local("env: {LOG: }")),
            case("secrets with values", local("secrets: {TOKEN: abc}")),
            case("an unknown signal", local("stop_signal: KILL")),
            case("a signal with its prefix", local("stop_signal: SIGTERM")),
            case("a signal in lower case", local("stop_signal: term")),
            case("checks that are a list", and("checks: [{path: /}]")),
            case("a health check that is a path", health("/health")),
            case("health that is keys", and("checks: {health: {path: /health}}")),
            case("a yes", health("{tcp: yes}")),
            case("a quoted true", health("{tcp: 'true'}")),
            case("a tcp check with a port", health("{tcp: 8080}")),
            case("a status that is none", health("{path: /, expect: {status: ok}}")),
            case("a status out of range", health("{path: /, expect: {status: 99}}")),
            case("a range of statuses backwards", health("{path: /, expect: {status: 399-200}}")),
            case("a strategy that is a word", and("strategy: blue_green")),
            case("an unknown strategy", and("strategy: {big_bang: {}}")),
            case("an unknown strategy's word", and("strategy: yolo")),
            case("a strategy without a value", and("strategy:")),
            case("settings without a value", and("strategy: {blue_green: }")),
            case("a guard that is a share", and("guard: 99%")),
            case("an approval that is a word", and("approve: before_promote")),
            case("an unknown approval", and("approve: [before_lunch]")),
            case("what happens when inconclusive", and("guard: {on_inconclusive: retry}")),
        ],
        &expect_file!["corpus/kinds.txt"],
    );
}

#[test]
fn durations_sizes_shares_and_addresses() {
    refused(
        &[
            case("a duration without its unit", and("bake: 10")),
            case("a duration in words", and("bake: ten minutes")),
            case("a duration with a long unit", and("bake: 10min")),
            case("a duration with a point", and("bake: 1.5h")),
            case("a negative duration", and("bake: -5m")),
            case("an empty duration", and("bake: ''")),
            case("a duration of years", and("keep_warm: 1000d")),
            case("a duration beyond all numbers", and("keep_warm: 99999999999999999999999h")),
            case("a duration that is a list", and("bake: [1m]")),
            case("a size in megabytes", local("memory: 512MB")),
            case("a size with a point", local("memory: 1.5Gi")),
            case("a size in words", local("memory: a lot")),
            case("a size beyond all numbers", local("log_size: 99999999999Ti")),
            case("a share as a fraction", and("guard: {success: 0.995}")),
            case("a share without percent", and("guard: {success: 99}")),
            case("a share above everything", and("guard: {success: 101%}")),
            case("a share with three places", and("guard: {success: 99.999%}")),
            case("a negative share", and("guard: {success: -1%}")),
            case("requests with a unit", and("guard: {min_requests: 1k}")),
            case("an address without a port", with("127.0.0.1:8080", "127.0.0.1")),
            case("a port alone", with("\"127.0.0.1:8080\"", "8080")),
            case("a colon and a port", with("127.0.0.1:8080", ":8080")),
            case("localhost", with("127.0.0.1:8080", "localhost:8080")),
            case("a host name", with("127.0.0.1:8080", "shop.example.com:80")),
            case("an URL", with("127.0.0.1:8080", "http://127.0.0.1:8080")),
            case("a port too large", with("127.0.0.1:8080", "127.0.0.1:80800")),
            case("an IPv6 address without brackets", with("127.0.0.1:8080", "::1:8080:x")),
        ],
        &expect_file!["corpus/quantities.txt"],
    );
}

#[test]
fn what_does_not_fit_together() {
    refused(
        &[
            case("a service in capitals", with("service: shop", "service: Shop")),
            case("a service with a space", with("service: shop", "service: my shop")),
            case("an empty service", with("service: shop", "service: ''")),
            case("a service of 41 letters", with("service: shop", &format!("service: {}", "a".repeat(41)))),
            case("an empty command", with("[./shop]", "[]")),
            case("a command of an empty text", with("[./shop]", "['']")),
            case("an empty route", with("route:\n  - proxy: {listen: \"127.0.0.1:8080\"}", "route: []")),
            case("the same route twice", and("  - proxy: {listen: \"127.0.0.1:8080\"}")),
            case("port 0", with("8080", "0")),
            case("a host with a scheme", with("\"}", "\", host: 'http://shop.test'}")),
            case("an empty artifact", local("artifact: ''")),
            case("no replicas", local("replicas: 0")),
            case("too many replicas", local("replicas: 4000000000")),
            case("the port as a variable", local("env: {PORT: '80'}")),
            case("cutover's own variable", local("env: {CUTOVER_REVISION: x}")),
            case("the port as a secret", local("secrets: [PORT]")),
            case("a variable with an equals sign", local("env: {'A=B': c}")),
            case("a variable without a name", local("env: {'': c}")),
            case("a variable that is a secret too", local("env: {A: b}, secrets: [A]")),
            case("a secret twice", local("secrets: [A, A]")),
            case("a variable with a dot", local("env: {'a.b': c, PORT: d}")),
            case("a log too small", local("log_size: 1Ki")),
            case("two kinds of check", health("{path: /, tcp: true}")),
            case("no kind of check", health("{timeout: 1s}")),
            case("a path without a slash", health("{path: health}")),
            case("a path that is a URL", health("{path: 'http://localhost/health'}")),
            case("an answer to expect of tcp", health("{tcp: true, expect: {status: 200}}")),
            case("no successes", health("{path: /, successes: 0}")),
            case("no time to answer", health("{path: /, timeout: 0s}")),
            case("no time to start", and("checks: {within: 0s}")),
            case("no share at all", and("guard: {success: 0%}")),
            case("no requests", and("guard: {min_requests: 0}")),
            case("an approval twice", and("approve: [before_shift, before_shift]")),
            case("a bake longer than the deadline", and("bake: 3h")),
            case("a NUL in an environment variable", local("env: {A: \"\\0\"}")),
            case("a NUL in the command", with("[./shop]", "[\"./sh\\0op\"]")),
            case("a smoke test of nothing", and("checks: {smoke: [{name: idle}]}")),
            case("two requests in one", and("checks: {smoke: [{get: /a, post: /b}]}")),
            case("a smoke test of no path", and("checks: {smoke: [{get: products}]}")),
            case(
                "a command with a request's keys",
                and("checks: {smoke: [{run: ./a.sh, expect: {status: 200}}]}"),
            ),
            case("two bodies", and("checks: {smoke: [{post: /, body: a, json: {a: 1}}]}")),
            case("no JSON path", and("checks: {smoke: [{get: /, expect: {json: {items: 1}}}]}")),
            case("an unknown wish", and("checks: {smoke: [{get: /, expect: {json: {$.a: {mim: 1}}}}]}")),
            case("a capture of nothing", and("checks: {smoke: [{get: /, capture: {id: header}}]}")),
            case(
                "a capture of a name that is taken",
                and("checks: {smoke: [{get: /, capture: {PATH: $.a}}]}"),
            ),
            case("a captured value that nobody captured", and("checks: {smoke: [{get: '/${id}'}]}")),
            case(
                "a captured value that comes too late",
                and("checks: {smoke: [{get: '/${id}', capture: {id: $.id}}]}"),
            ),
            case("a command through the route", and("checks: {health: [{run: ./a.sh, through: route}]}")),
            case("two kinds of check", and("checks: {health: [{path: /, grpc: shop}]}")),
            case("a service of gRPC with a space", and("checks: {health: [{grpc: 'a b'}]}")),
        ],
        &expect_file!["corpus/together.txt"],
    );
}

/// The good file with containers of this section.
fn docker(keys: &str) -> String {
    with("local: {command: [./shop]}", &format!("docker: {{{keys}}}"))
}

#[test]
fn containers() {
    refused(
        &[
            case("no image", docker("replicas: 2")),
            case("image and build", docker("image: shop, build: {}")),
            case("an address as an image", docker("image: 'https://registry.example/shop'")),
            case("an image in capitals", docker("image: registry.example/Shop:1")),
            case("a slip in the section", docker("image: shop, replica: 2")),
            case("a slip in the build", docker("build: {contexts: .}")),
            case("when to pull", docker("image: shop, pull: sometimes")),
            case("how to reach", docker("image: shop, reach: host")),
            case("a port of zero", docker("image: shop, port: 0")),
            case("a port in quotes", docker("image: shop, port: 'http'")),
            case("ports as compose has them", docker("image: shop, ports: ['80:8080']")),
            case("an empty program", docker("image: shop, command: ['']")),
            case("a command that is a text", docker("image: shop, command: ./shop serve")),
            case("a user with a space", docker("image: shop, user: 'a b'")),
            case("a volume without a path", docker("image: shop, volumes: [data]")),
            case("a volume in a mode", docker("image: shop, volumes: ['data:/data:z']")),
            case("two volumes at one path", docker("image: shop, volumes: ['a:/data', 'b:/data:ro']")),
            case("the host's network", docker("image: shop, networks: [host]")),
            case("a network twice", docker("image: shop, networks: [backend, backend]")),
            case("a reserved variable", docker("image: shop, env: {PORT: '80'}")),
            case("a secret in env as well", docker("image: shop, env: {TOKEN: x}, secrets: [TOKEN]")),
            case("a build's secret among its args", docker("build: {args: {T: x}, secrets: [T]}")),
            case("a push to a tag", docker("build: {push: 'registry.example/shop:latest'}")),
            case("no replicas", docker("image: shop, replicas: 0")),
            case("little memory", docker("image: shop, memory: 64")),
            case("a web process", format!("{}processes: {{web: {{command: [x]}}}}\n", docker("image: shop"))),
            case("an artifact", docker("image: shop, artifact: target/release/shop")),
        ],
        &expect_file!["corpus/docker.txt"],
    );
}

#[test]
fn processes() {
    let process = |text: &str| and(&format!("processes: {text}"));
    let worker = |text: &str| process(&format!("{{worker: {{command: [./shop, work]{text}}}}}"));
    refused(
        &[
            case("processes without a value", process("")),
            case("processes in a list", process("[worker]")),
            case("a process as a Procfile has it", process("{worker: ./shop work}")),
            case("a process that is its command", process("{worker: [./shop, work]}")),
            case("a process without a value", process("{worker: }")),
            case("a process without a command", process("{worker: {replicas: 2}}")),
            case("a slip in a process", worker(", replica: 2")),
            case("a process with a platform's key", worker(", env: {LOG: debug}")),
            case("a process with an empty command", process("{worker: {command: []}}")),
            case("a NUL in a process", process("{worker: {command: [\"./sh\\0op\"]}}")),
            case(
                "a process with a port",
                worker(", --port, $PORT").replace("work],", "work,").replace("$PORT", "'$PORT']"),
            ),
            case("no replicas of a process", worker(", replicas: 0")),
            case("an overlap that is a word", worker(", overlap: never")),
            case("a grace without its unit", worker(", stop_grace: 60")),
            case("the routed process among the others", process("{web: {command: [./shop]}}")),
            case("a Procfile's release", process("{release: {command: [./migrate]}}")),
            case("a process in capitals", process("{Worker: {command: [./shop]}}")),
            case("a process with a dot", process("{work.er: {command: [./shop]}}")),
            case("a process that begins with a digit", process("{2nd: {command: [./shop]}}")),
            case(
                "a process of 21 letters",
                process(&format!("{{{}: {{command: [./shop]}}}}", "a".repeat(21))),
            ),
            case("a process twice", process("{worker: {command: [a]}, worker: {command: [b]}}")),
            case("processes within the platform", local("processes: {worker: {command: [./shop]}}")),
            case(
                "a process that an environment completes wrongly",
                worker("") + "environments: {staging: {processes: {worker: {replicas: 0}}}}\n",
            ),
        ],
        &expect_file!["corpus/processes.txt"],
    );
}

#[test]
fn environments() {
    let env = |text: &str| and(&format!("environments:\n{text}"));
    let staging = |text: &str| env(&format!("  staging: {text}"));
    refused(
        &[
            case("environments without a value", and("environments:")),
            case("environments in a list", and("environments: [staging, production]")),
            case("environments that are a word", and("environments: staging")),
            case("an environment that is a word", staging("true")),
            case("an environment that is a list", staging("[{bake: 1m}]")),
            case("an environment with a bad name", env("  Staging Area: {bake: 1m}")),
            case("an environment twice", env("  staging: {bake: 1m}\n  staging: {bake: 2m}")),
            case("environments in an environment", staging("{environments: {a: {}}}")),
            case("a slip in an environment", staging("{bak: 1m}")),
            case("a slip deep in an environment", staging("{platform: {local: {replica: 4}}}")),
            case("a bad value in an environment", staging("{bake: 10}")),
            case(
                "a mistake of the base shows once",
                with("./shop]", "./shop], replicas: 0") + "environments: {a: {}, b: {}}\n",
            ),
            case(
                "a mistake of several environments",
                and("deadline: 10m\nenvironments:\n  a: &long {bake: 20m}\n  b: *long\n  c: {bake: 1m}"),
            ),
            case(
                "a base that fits alone but not with its environment",
                and("bake: 1h\nenvironments: {staging: {deadline: 30m}}"),
            ),
            case(
                "an environment that removes what is needed",
                staging("{platform: {local: {command: null}}}"),
            ),
            case("an environment that removes a whole section", staging("{route: null}")),
            case(
                "an environment that removes what is not there",
                staging("{platform: {local: {artefact: null, comand: ~}}}"),
            ),
            case("an environment with two strategies", staging("{strategy: {blue_green: {}, yolo: {}}}")),
            case("an environment with keys for a text", staging("{service: {name: shop}}")),
            case("an environment with a text for keys", staging("{platform: local}")),
            case("lists are replaced whole", staging("{route: [{proxy: {host: shop.test}}]}")),
            case(
                "a base that lacks what one environment lacks too",
                with("command: [./shop]", "replicas: 1")
                    + "environments:\n  a: {platform: {local: {command: [a]}}}\n  b: {}\n",
            ),
        ],
        &expect_file!["corpus/environments.txt"],
    );
}

#[test]
fn what_looks_odd_but_is_good() {
    let checks = [
        case("as it is", GOOD),
        case("with CRLF", GOOD.replace('\n', "\r\n")),
        case("with a byte order mark", format!("\u{feff}{GOOD}")),
        case("with a document mark", format!("---\n{GOOD}...\n")),
        case("without a newline at its end", GOOD.trim_end()),
        case("with a comment on top", format!("# é 漢字 🚀\n\n{GOOD}")),
        case(
            "as JSON",
            r#"{"service": "shop", "platform": {"local": {"command": ["./shop"]}}, "route": [{"proxy": {"listen": "127.0.0.1:8080"}}]}"#,
        ),
        case("with an alias", and("guard: {mean: &t 1s, p95: *t}")),
        case(
            "with a merge key",
            local("env: &e {A: b}") + "environments: {staging: {platform: {local: {env: {<<: *e, B: c}}}}}\n",
        ),
        case(
            "with numbers as text",
            local("env: {A: 1.10, B: 007, C: 1_000, D: yes, E: true, F: 0x1F, G: 1e3, H: .inf}"),
        ),
        case("with a tag of YAML's own", with("service: shop", "service: !!str shop")),
        case("with a directive", format!("%YAML 1.2\n---\n{GOOD}")),
        case("with an empty environment", and("environments: {production: , staging: {}}")),
        case("with no environment", and("environments: {}")),
    ];
    for (name, bytes) in &checks {
        if let Err(errors) = check(bytes) {
            panic!("{name}:\n{errors}");
        }
    }
}

#[test]
fn a_scalar_keeps_its_spelling() {
    let text = local(
        "env: {A: 1.10, B: 007, C: 1_000, D: yes, E: true, F: 0x1F, G: 1e3, H: .inf, I: \"a\\tb\", J: &x 2.50, K: *x}",
    );
    let file = check(text.as_bytes()).unwrap().base.unwrap();
    let cutover_core::file::Platform::Local(local) = &file.platform else { panic!("local") };
    let all: Vec<String> = local.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        all,
        [
            "A=1.10", "B=007", "C=1_000", "D=yes", "E=true", "F=0x1F", "G=1e3", "H=.inf", "I=a\tb", "J=2.50",
            "K=2.50"
        ]
    );
}

/// The good file with a metric of Prometheus that has these keys.
fn metric(keys: &str) -> String {
    and(&format!("guard: {{metrics: [{{name: errors, {keys}}}]}}"))
}

fn counters(keys: &str) -> String {
    and(&format!("guard: {{counters: {{prometheus: {{address: \"http://p:9090\", {keys}}}}}}}"))
}

#[test]
fn metrics_and_counters() {
    let asked = "prometheus: {address: \"http://p:9090\", query: x}";
    let http = "http: {url: \"http://d/q\", value: a.b";
    let queries = |errors: &str| {
        counters(&format!(
            "queries: {{stable_requests: a, stable_errors: {errors}, candidate_requests: c, candidate_errors: d}}"
        ))
    };
    refused(
        &[
            case("a metric of nothing", metric("max: 1")),
            case("a metric of two kinds", metric(&format!("run: ./n, {asked}, max: 1"))),
            case("a metric that says nothing", metric(asked)),
            case(
                "a range and a condition",
                metric(&format!("{asked}, max: 1, success_condition: result > 0")),
            ),
            case("a range upside down", metric(&format!("{asked}, min: 2, max: 1"))),
            case("a limit that is a word", metric(&format!("{asked}, max: few"))),
            case(
                "a condition in another language",
                metric(&format!("{asked}, success_condition: \"len(result) > 0\"")),
            ),
            case(
                "a condition on a second number",
                metric(&format!("{asked}, failure_condition: \"result[1] > 0\"")),
            ),
            case("no measurement", metric(&format!("{asked}, max: 1, count: 0"))),
            case("more measurements than a bake has", metric(&format!("{asked}, max: 1, count: 9"))),
            case("Argo's spelling", metric(&format!("{asked}, max: 1, failureLimit: 3"))),
            case("an outage that fails", metric(&format!("{asked}, max: 1, on_outage: abort"))),
            case("no pause", metric(&format!("{asked}, max: 1, interval: 0s"))),
            case("an empty name", and(&format!("guard: {{metrics: [{{name: \"\", {asked}, max: 1}}]}}"))),
            case(
                "a name twice",
                and(&format!(
                    "guard:\n  metrics:\n    - {{name: a, {asked}, max: 1}}\n    - {{name: a, run: b, max: 1}}"
                )),
            ),
            case(
                "an address without a scheme",
                metric("prometheus: {address: \"p:9090\", query: x}, max: 1"),
            ),
            case(
                "a password in the address",
                metric("prometheus: {address: \"http://a:b@p\", query: x}, max: 1"),
            ),
            case(
                "a query and a preset",
                metric("prometheus: {address: \"http://p\", query: x, preset: istio}, max: 1"),
            ),
            case("an unknown preset", metric("prometheus: {address: \"http://p\", preset: nginx}, max: 1")),
            case(
                "a preset without workloads",
                metric("prometheus: {address: \"http://p\", preset: istio}, max: 1"),
            ),
            case(
                "an unknown placeholder",
                metric("prometheus: {address: \"http://p\", query: \"x{a=\\\"{{args.pod}}\\\"}\"}, max: 1"),
            ),
            case(
                "a placeholder without its key",
                metric("prometheus: {address: \"http://p\", query: \"x{a=\\\"{{namespace}}\\\"}\"}, max: 1"),
            ),
            case(
                "a step longer than its range",
                metric("prometheus: {address: \"http://p\", query: x, range: 5s}, max: 1"),
            ),
            case("a path that is none", metric("http: {url: \"http://d/q\", value: \"a[x]\"}, max: 1")),
            case(
                "a secret that is written out",
                metric(&format!("{http}, secret_headers: {{DD-API-KEY: \"a-b c\"}}}}, max: 1")),
            ),
            case("an empty command", metric("run: \" \", max: 1")),
            case(
                "metrics without a bake",
                and(&format!("bake: 0s\nguard: {{metrics: [{{name: a, {asked}, max: 1}}]}}")),
            ),
            case("counters of nothing", counters("namespace: a")),
            case(
                "counters of one workload",
                counters("preset: linkerd, namespace: a, stable: b, candidate: b"),
            ),
            case("counters that are rates", queries("\"rate(x[1m])\"")),
            case("counters without a query", queries("\"\"")),
        ],
        &expect_file!["corpus/metrics.txt"],
    );
}
