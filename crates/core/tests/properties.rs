//! What holds of the release file's reader for every input; seeds are printed by proptest when one fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod reader;

use cutover_core::ReleaseFile;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const FULL: &str = r#"service: shop
platform:
  local:
    command: [./shop, --port, $PORT]
    replicas: 2
    env: &env {LOG: info, RATE: 1.10, "A B": ""}
    secrets: [TOKEN]
    stop_signal: INT
    stop_grace: 10s
    memory: 512Mi
processes:
  worker: {command: [./shop, work], replicas: 2, stop_grace: 1m}
  clock: {command: [./shop, tick], overlap: false}
route:
  - proxy: {listen: "127.0.0.1:8080", host: shop.test}
  - proxy: {listen: "[::]:80"}
checks:
  health:
    - {path: /health, timeout: 1s, expect: {status: 200-299, body: "ok"}}
    - {run: "./check.sh", successes: 3}
  within: 90s
guard: {success: 99.5%, p95: 500ms, on_inconclusive: hold}
approve: [before_promote]
bake: 1m30s
environments:
  staging:
    platform: {local: {env: {<<: *env, LOG: debug}, memory: null}}
    bake: 10s
  production:
"#;

/// Pieces that mean something to YAML or to a release file, put where they do not belong.
const PIECES: [&str; 44] = [
    ":",
    ": ",
    "- ",
    "-",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "|\n",
    ">\n",
    "!!str ",
    "!x ",
    "%YAML 1.2\n",
    "---\n",
    "...\n",
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "  ",
    "null",
    "~",
    "true",
    "0",
    "-1",
    "1e999",
    ".nan",
    "99%",
    "10m",
    "service",
    "environments: ",
    "local",
    "\u{feff}",
    "\u{0}",
    "\u{85}",
    "é",
];

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![4 => select(&PIECES[..]).prop_map(String::from), 1 => "\\PC{0,4}", 1 => any::<char>().prop_map(String::from)]
}

/// Puts a piece in place of up to eight characters of the file, several times.
fn mutated() -> impl Strategy<Value = String> {
    proptest::collection::vec((any::<Index>(), 0..8_usize, piece()), 1..5).prop_map(|edits| {
        edits.into_iter().fold(FULL.to_string(), |text, (at, cut, piece)| {
            let chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len() + 1);
            let rest = (at + cut).min(chars.len());
            chars[..at].iter().copied().chain(piece.chars()).chain(chars[rest..].iter().copied()).collect()
        })
    })
}

/// Takes the file's lines in another order, some of them twice, some of them not.
fn shuffled() -> impl Strategy<Value = String> {
    let lines: Vec<&str> = FULL.lines().collect();
    proptest::collection::vec(select(lines), 0..30).prop_map(|lines| lines.join("\n"))
}

fn duration() -> impl Strategy<Value = String> {
    (0..100_000_u64).prop_map(|ms| cutover_core::Span::from_ms(ms).to_string())
}

/// Good files of many shapes, as JSON.
fn good() -> impl Strategy<Value = serde_json::Value> {
    let word = "[ -~é漢\u{85}\t\n]{1,12}";
    let local = (
        proptest::collection::vec(word, 1..4),
        1..1000_u32,
        proptest::collection::btree_map("[A-Z_.\\[\\] -]{1,6}", word, 0..4),
        proptest::option::of(word),
        duration(),
        proptest::option::of((0..1_u64 << 50).prop_map(|bytes| bytes.to_string())),
    );
    let check = prop_oneof![
        "/[a-z/?=]{0,9}".prop_map(|path| serde_json::json!({ "path": path, "expect": { "status": "204" } })),
        Just(serde_json::json!({ "tcp": true })),
        word.prop_map(|run| serde_json::json!({ "run": run, "successes": 2 })),
    ];
    (local, proptest::collection::vec(check, 0..3), 1..=10_000_u16, duration(), any::<bool>()).prop_map(
        |((command, replicas, env, artifact, grace, memory), health, success, bake, approve)| {
            serde_json::json!({
                "service": "shop",
                "platform": { "local": {
                    "command": command, "replicas": replicas, "env": env, "artifact": artifact,
                    "stop_grace": grace, "memory": memory,
                } },
                "route": [{ "proxy": { "listen": "127.0.0.1:8080" } }],
                "checks": { "health": health },
                "guard": { "success": cutover_core::Weight::from_bp(success).to_string() },
                "approve": if approve { vec!["before_shift"] } else { vec![] },
                "bake": bake,
            })
        },
    )
}

/// Found by the mutations below: a hint quoted a key of the file with its control character.
#[test]
fn a_hint_disturbs_no_terminal() {
    let file = "service: shop\nplatform: {local: {command: [./shop], \u{85}memory: 1Gi}}\nenvironments:\n  a:\n    \
                platform: {local: {memory: null}}\n";
    reader::holds(file.as_bytes());
}

proptest! {
    // Enough to find what is wrong, few enough to wait for; the fuzzer takes the rest.
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused_with_a_place(text in "\\PC{0,200}") {
        reader::holds(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_read_or_refused_with_a_place(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        reader::holds(&bytes);
    }

    #[test]
    fn pieces_of_yaml_are_read_or_refused_with_a_place(pieces in proptest::collection::vec(piece(), 0..40)) {
        reader::holds(pieces.concat().as_bytes());
    }

    #[test]
    fn a_mutated_file_is_read_or_refused_with_a_place(text in mutated()) {
        reader::holds(text.as_bytes());
    }

    #[test]
    fn a_shuffled_file_is_read_or_refused_with_a_place(text in shuffled()) {
        reader::holds(text.as_bytes());
    }

    #[test]
    fn a_good_file_is_read_as_it_prints(file in good()) {
        // Through serde alone, as the journal reads it; then through the reader.
        let file: ReleaseFile = serde_json::from_value(file).unwrap();
        reader::reads_as_it_prints(&file);
    }
}

#[test]
fn the_full_file_is_good() {
    cutover_core::file::Document::read("full", FULL.as_bytes()).unwrap().check().unwrap();
    reader::holds(FULL.as_bytes());
}
