//! The demo: what it tells is data at its end, and it leaves nothing behind, also when it is interrupted.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Scratch, kill, servers_wanted};

fn nothing_left(scratch: &Scratch) {
    let mut last = Vec::new();
    for _ in 0..100 {
        last = scratch.processes();
        if last.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(last.is_empty(), "left: {last:?}");
    let left: Vec<_> =
        std::fs::read_dir(scratch.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn it_ends_with_one_json_line_and_leaves_nothing() {
    if !servers_wanted("it_ends_with_one_json_line_and_leaves_nothing") {
        return;
    }
    let scratch = Scratch::new();
    let output =
        scratch.command(&["demo", "--output", "json"]).env("TMPDIR", scratch.path()).output().unwrap();
    let said: crate::harness::Said = output.into();
    let said = said.expect(0);
    assert_eq!(said.out.lines().count(), 1, "only the result is data: {}", said.out);
    let told = said.json();
    let releases = told["releases"].as_array().unwrap();
    let outcomes: Vec<&str> = releases.iter().map(|release| release["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["released", "released", "refused", "rolled_back"]);
    for good in &releases[..3] {
        assert_eq!(good["failed"], 0, "{told}");
        assert_eq!(good["strategy"], "blue_green");
    }
    let bad = &releases[3];
    assert!(bad["failed"].as_u64().unwrap() > 0 && bad["rollback_ms"].is_u64(), "{bad}");
    let sum: u64 = releases.iter().map(|release| release["failed"].as_u64().unwrap()).sum();
    assert_eq!(told["failed"].as_u64().unwrap(), sum, "{told}");
    nothing_left(&scratch);
}

#[test]
fn interrupted_it_leaves_nothing_either() {
    let scratch = Scratch::new();
    for (signal, moment) in [(Signal::INT, "A shop on"), (Signal::INT, "✔ check"), (Signal::TERM, "… bake")]
    {
        let mut demo = scratch
            .command(&["demo"])
            .env("TMPDIR", scratch.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(demo.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(moment) {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the demo ended before \"{moment}\"");
        }
        kill(demo.id().cast_signed(), signal);
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(demo.wait().unwrap().code(), Some(7), "{rest}");
        nothing_left(&scratch);
    }
}
