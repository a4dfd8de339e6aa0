//! A service of a web process, two workers and a clock: who works when, by what they themselves write down.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::Signal;

use crate::harness::{Scratch, alive, get, kill, wait};
use crate::service;

/// Writes the release file of the service at `version`; `work` is what its workers do after they said that they began.
fn file(scratch: &Scratch, version: &str, work: &str, more: &str) {
    let diary = scratch.path().join("diary.txt");
    let script = |name: &str, work: &str| {
        let say = |word: &str| format!("echo {name} {word} $VERSION $$ >> '{}'", diary.display());
        let script =
            format!("trap '{}; exit 0' TERM; {}; {work}", say("ends").replace('\'', "\""), say("begins"));
        serde_json::json!(["sh", "-c", script.replace("TICK", &say("ticks"))])
    };
    let processes = format!(
        "processes:\n  worker: {{command: {}, replicas: 2}}\n  clock: {{command: {}, overlap: false}}\n",
        script("worker", work),
        script("clock", "while :; do TICK; sleep 0.02; done")
    );
    service::file(scratch, version, "", &format!("{processes}{more}"));
}

const WORK: &str = "echo at work; while :; do sleep 0.02; done";

/// What was written down, line by line: process, word, version, pid.
fn diary(scratch: &Scratch) -> Vec<[String; 4]> {
    let text = fs::read_to_string(scratch.path().join("diary.txt")).unwrap_or_default();
    let line = |line: &str| {
        let words: Vec<String> = line.split(' ').map(String::from).collect();
        <[String; 4]>::try_from(words).unwrap_or_else(|words| panic!("half a line: {words:?}"))
    };
    text.lines().map(line).collect()
}

/// Follows the diary: a clock begins only when none runs, and nobody else ticks. Returns who is at work, by version and
/// process.
fn at_work(scratch: &Scratch) -> BTreeMap<(String, String), Vec<i32>> {
    let diary = diary(scratch);
    let mut clock: Option<&String> = None;
    let mut working: BTreeMap<(String, String), Vec<i32>> = BTreeMap::new();
    for (at, [process, word, version, pid]) in diary.iter().enumerate() {
        let story = || format!("line {at}: {process} {word} {version} {pid}\n{diary:?}");
        let mine = working.entry((version.clone(), process.clone())).or_default();
        let number: i32 = pid.parse().unwrap();
        match word.as_str() {
            "begins" => mine.push(number),
            "ends" => mine.retain(|known| *known != number),
            _ => {}
        }
        if process == "clock" {
            match word.as_str() {
                "begins" => assert_eq!(clock.replace(pid), None, "two clocks at once, {}", story()),
                "ends" => assert_eq!(clock.take(), Some(pid), "{}", story()),
                _ => assert_eq!(clock, Some(pid), "a clock ticks that is not there, {}", story()),
            }
        }
    }
    // One that ended since the diary was read has written so before it did.
    let dead: Vec<i32> = working.values().flatten().copied().filter(|pid| !alive(*pid)).collect();
    if !dead.is_empty() {
        let ended = self::diary(scratch).into_iter().filter(|[_, word, ..]| word == "ends");
        let ended: Vec<String> = ended.map(|[.., pid]| pid).collect();
        assert!(dead.iter().all(|pid| ended.contains(&pid.to_string())), "{dead:?} said nothing: {diary:?}");
    }
    for pids in working.values_mut() {
        pids.retain(|pid| !dead.contains(pid));
    }
    working.retain(|_, pids| !pids.is_empty());
    working
}

/// Waits until exactly those of one version are at work, and the clock ticks.
fn settled(scratch: &Scratch, version: &str) -> BTreeMap<(String, String), Vec<i32>> {
    let count = |working: &BTreeMap<(String, String), Vec<i32>>, name: &str| {
        working.get(&(version.to_string(), name.to_string())).map_or(0, Vec::len)
    };
    let working = wait("the processes of one version", || {
        let working = at_work(scratch);
        (working.len() == 2 && count(&working, "worker") == 2 && count(&working, "clock") == 1)
            .then_some(working)
    });
    let before = diary(scratch).len();
    wait("a tick", || (diary(scratch).len() > before + 2).then_some(()));
    at_work(scratch);
    working
}

#[test]
fn workers_and_a_clock_follow_a_release_there_and_back() {
    let scratch = Scratch::new();
    let more = "bake: 0s\nkeep_warm: 1h\ndrain: 1s";
    file(&scratch, "v1", WORK, more);
    scratch.deploy().expect(0);
    let first = settled(&scratch, "v1");
    file(&scratch, "v2", WORK, more);
    let planned = scratch.run(&["plan"]).expect(0).out;
    assert!(planned.contains("clock: two revisions of it never run at once"), "{planned}");
    let told = scratch.run(&["deploy"]).expect(0).out;
    assert!(told.contains("clock of") && told.contains("3 ran for 2s without ending"), "{told}");
    settled(&scratch, "v2");
    // Workers overlap: the new ones began before the old ones ended. The clock does not, which `at_work` saw.
    let diary = diary(&scratch);
    let at = |word: &str, version: &str| {
        diary.iter().position(|[p, w, v, _]| p == "worker" && w == word && v == version).unwrap()
    };
    assert!(at("begins", "v2") < at("ends", "v1"), "{diary:?}");
    assert_eq!(get(scratch.address, "/"), Some((200, "v2\n".into())));

    let status = scratch.run(&["status"]).expect(0).out;
    let workers = status.lines().filter(|line| line.contains("-worker-") && line.contains("running")).count();
    assert_eq!(workers, 2, "{status}");
    let logs = scratch.run(&["logs", "shop"]).expect(0).out;
    assert!(logs.lines().any(|line| line.contains("-worker-") && line.ends_with("| at work")), "{logs}");

    scratch.run(&["rollback", "shop"]).expect(0);
    let again = settled(&scratch, "v1");
    assert_ne!(first, again, "they were started again");
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
    scratch.run(&["destroy", "shop", "--yes"]).expect(0);
    assert!(at_work(&scratch).is_empty());
}

#[test]
fn an_abort_after_the_servers_death_brings_the_old_ones_back() {
    let scratch = Scratch::new();
    file(&scratch, "v1", WORK, "bake: 0s\nkeep_warm: 0s\ndrain: 1s");
    scratch.deploy().expect(0);
    let first = settled(&scratch, "v1");
    file(&scratch, "v2", WORK, "bake: 1h\nkeep_warm: 0s\ndrain: 1s");
    scratch.run(&["deploy", "--detach"]).expect(8);
    let v2 = wait("traffic on the candidate", || {
        (get(scratch.address, "/") == Some((200, "v2\n".into()))).then(|| at_work(&scratch))
    });
    assert_eq!(v2.len(), 3, "workers of both, a clock of one: {v2:?}");
    kill(scratch.server_pid(), Signal::KILL);
    wait("the next server", || (scratch.run(&["status"]).code == 0).then_some(()));
    assert_eq!(at_work(&scratch), v2, "the next server found them at work");
    scratch.run(&["abort", "shop"]).expect(0);
    let back = settled(&scratch, "v1");
    let of = |working: &BTreeMap<(String, String), Vec<i32>>, name: &str| {
        working[&("v1".to_string(), name.to_string())].clone()
    };
    assert_eq!(of(&back, "worker"), of(&first, "worker"), "what overlaps was never stopped");
    assert_ne!(of(&back, "clock"), of(&first, "clock"));
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
}

#[test]
fn a_worker_that_crashes_at_once_refuses_the_release() {
    let scratch = Scratch::new();
    let more = "bake: 0s\nkeep_warm: 0s\ndrain: 1s";
    file(&scratch, "v1", WORK, more);
    scratch.deploy().expect(0);
    let first = settled(&scratch, "v1");
    file(
        &scratch,
        "v2",
        "echo cannot reach the queue; trap - TERM; echo worker ends $VERSION $$ >> diary.txt; exit 3",
        more,
    );
    let said = scratch.run(&["deploy"]).expect(3);
    assert!(said.out.contains("process worker (") && said.out.contains("exit status 3"), "{}", said.out);
    assert!(said.out.contains("| cannot reach the queue"), "its last lines: {}", said.out);
    assert!(said.out.contains("before any traffic moved"), "{}", said.out);
    let back = settled(&scratch, "v1");
    let workers = ("v1".to_string(), "worker".to_string());
    assert_eq!(back[&workers], first[&workers]);
    assert_eq!(get(scratch.address, "/"), Some((200, "v1\n".into())));
}
