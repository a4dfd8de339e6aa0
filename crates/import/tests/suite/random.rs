//! Whatever comes in, something is said of it: no panic, no release file that is not one, no key without a finding.

use std::fs;
use std::path::Path;

use cutover_core::ReleaseFile;
use proptest::prelude::*;

use crate::of;

/// The fixtures, line by line.
fn fixtures() -> Vec<Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all = Vec::new();
    for kind in ["compose", "kamal"] {
        for entry in fs::read_dir(folder.join(kind)).unwrap().flatten() {
            if entry.path().extension().is_some_and(|end| end != "out") {
                let text = fs::read_to_string(entry.path()).unwrap();
                all.push(text.lines().map(str::to_string).collect());
            }
        }
    }
    all
}

/// Takes a line away, or gives its key another value.
fn mutate(lines: &mut Vec<String>, at: usize, value: Option<&str>) {
    match (value, lines[at].split_once(": ")) {
        (Some(value), Some((key, _))) => lines[at] = format!("{key}: {value}"),
        _ => {
            lines.remove(at);
        }
    }
}

/// A value of any shape.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_string()),
        "[a-z0-9:./$\\{\\}-]{0,12}".prop_map(|text| format!("\"{text}\"")),
        any::<i64>().prop_map(|number| number.to_string()),
        "\\PC{0,8}".prop_map(|text| format!("{:?}", text).replace("\\u{", "\\\\u{").replace("\\'", "'")),
        Just("true".to_string()),
        Just("\"\\0\"".to_string()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = prop_oneof![
            Just("target"),
            Just("source"),
            Just("published"),
            Just("clear"),
            Just("secret"),
            Just("hosts"),
            Just("memory"),
            Just("limits"),
            Just("test"),
            Just("context"),
            Just("args"),
            Just("A"),
            Just("driver"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map(key, inner, 0..4).prop_map(|map| {
                let pairs: Vec<String> =
                    map.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
                format!("{{{}}}", pairs.join(", "))
            }),
        ]
    })
}

fn survives(text: &str) {
    for service in [None, Some("web")] {
        let import = match of("compose.yaml", text.as_bytes(), service) {
            Ok(import) => import,
            Err(errors) => {
                // What is wrong is said of a value of the input, not of what was made of it.
                let said = errors.to_string();
                assert!(!said.contains("no good release file"), "{said}\nof\n{text}");
                continue;
            }
        };
        ReleaseFile::read("cutover.yaml", &import.text)
            .unwrap_or_else(|errors| panic!("{errors}\nfrom\n{text}"));
        assert!(!import.report().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = of("compose.yaml", &bytes, None);
    }

    #[test]
    fn any_change_of_a_real_file_is_survived(
        pick in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(value())), 1..5)
    ) {
        let mut lines = pick.get(&fixtures()).clone();
        for (at, value) in changes {
            let at = at.index(lines.len());
            mutate(&mut lines, at, value.as_deref());
        }
        survives(&lines.join("\n"));
    }

    #[test]
    fn a_compose_file_of_any_values_is_survived(
        picks in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..8)
    ) {
        let keys: Vec<&str> = cutover_import::fields(cutover_import::Tool::Compose)
            .map(|field| field.key.split('.').next().unwrap())
            .filter(|key| *key != "image" && *key != "services")
            .collect();
        let mut text = String::from("services:\n  db: {image: postgres}\n  web:\n    image: shop\n");
        let mut seen = Vec::new();
        for (pick, value) in picks {
            let key = *pick.get(&keys);
            if !seen.contains(&key) {
                seen.push(key);
                text += &format!("    {key}: {value}\n");
            }
        }
        survives(&text);
    }

    #[test]
    fn a_kamal_file_of_any_values_is_survived(
        picks in prop::collection::vec((any::<prop::sample::Index>(), value()), 1..8)
    ) {
        let keys: Vec<&str> = cutover_import::fields(cutover_import::Tool::Kamal)
            .map(|field| field.key.split('.').next().unwrap())
            .filter(|key| *key != "image" && *key != "service")
            .collect();
        let mut text = String::from("service: shop\nimage: acme/shop\n");
        let mut seen = Vec::new();
        for (pick, value) in picks {
            let key = *pick.get(&keys);
            if !seen.contains(&key) {
                seen.push(key);
                text += &format!("{key}: {value}\n");
            }
        }
        survives(&text);
    }
}
