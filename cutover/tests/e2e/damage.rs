//! Damaged state: a clear error with what to do, traffic goes on, and never a silently empty table.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Scratch, alive, get, kill, wait};

const PYTHON: &str = "command: [python3, -m, http.server, $PORT, --bind, 127.0.0.1]";

fn released() -> Scratch {
    let scratch = Scratch::new();
    fs::write(scratch.path().join("index.html"), "up\n").unwrap();
    scratch.file(PYTHON, "bake: 0s\nkeep_warm: 0s");
    scratch.deploy().expect(0);
    scratch
}

fn serves(scratch: &Scratch) {
    assert_eq!(get(scratch.address, "/"), Some((200, "up\n".into())));
}

#[test]
fn a_truncated_journal_is_named_and_traffic_goes_on() {
    if !crate::harness::python_there("a_truncated_journal_is_named_and_traffic_goes_on") {
        return;
    }
    let scratch = released();
    scratch.run(&["server", "stop"]).expect(0);
    let journal = scratch.state().join("journal.db");
    let whole = fs::read(&journal).unwrap();
    for length in [0, 10, whole.len() / 2] {
        fs::write(&journal, &whole[..length]).unwrap();
        let _ = fs::remove_file(scratch.state().join("journal.db-wal"));
        let said = scratch.run(&["deploy"]).expect(1);
        assert!(said.err.contains("journal.db"), "{length}: {}", said.err);
        assert!(said.err.contains("traffic"), "{length}: what it means for traffic: {}", said.err);
        assert_eq!(fs::read(&journal).unwrap().len(), length, "the damaged file is left as it is");
        serves(&scratch);
    }
    fs::write(&journal, &whole).unwrap();
    scratch.run(&["deploy"]).expect(0);
}

fn stop_proxy(scratch: &Scratch) {
    scratch.run(&["server", "stop"]).expect(0);
    let (holder, worker) = scratch.proxy_pids();
    for pid in [holder, worker] {
        kill(pid, Signal::KILL);
        wait("the proxy to be dead", || (!alive(pid)).then_some(()));
    }
}

#[test]
fn a_half_written_table_is_replaced_by_the_previous_one_and_said() {
    if !crate::harness::python_there("a_half_written_table_is_replaced_by_the_previous_one_and_said") {
        return;
    }
    let scratch = released();
    // A second write, so that there is a previous copy with this service in it.
    scratch.file(&format!("{PYTHON}, env: {{A: b}}"), "bake: 0s\nkeep_warm: 0s");
    scratch.deploy().expect(0);
    stop_proxy(&scratch);
    let table = scratch.state().join("proxy/table.json");
    let text = fs::read(&table).unwrap();
    fs::write(&table, &text[..text.len() / 2]).unwrap();
    let status = scratch.run(&["status"]).expect(0);
    wait("traffic", || (get(scratch.address, "/") == Some((200, "up\n".into()))).then_some(()));
    let log = fs::read_to_string(scratch.state().join("server.log")).unwrap();
    let said = format!("{}{log}", status.out);
    assert!(said.contains("table.json") && said.contains("the copy before it is served"), "{said}");
}

#[test]
fn two_damaged_tables_are_never_an_empty_one() {
    if !crate::harness::python_there("two_damaged_tables_are_never_an_empty_one") {
        return;
    }
    let scratch = released();
    stop_proxy(&scratch);
    for name in ["table.json", "table.prev.json"] {
        fs::write(scratch.state().join("proxy").join(name), "{").unwrap();
    }
    scratch.run(&["status"]).expect(0);
    // The journal knows what is stable: the server says that the table was lost and restores it.
    wait("traffic", || (get(scratch.address, "/") == Some((200, "up\n".into()))).then_some(()));
    let log = fs::read_to_string(scratch.state().join("server.log")).unwrap();
    assert!(log.contains("stable gets all traffic again"), "{log}");
}

#[test]
fn a_read_only_state_folder_changes_nothing_and_says_so() {
    if !crate::harness::python_there("a_read_only_state_folder_changes_nothing_and_says_so") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a_read_only_state_folder: only root can mount");
        return;
    }
    let scratch = released();
    let state = scratch.state();
    let mount = |args: &[&str]| Command::new("mount").args(args).arg(&state).status().unwrap().success();
    let text = state.to_string_lossy().into_owned();
    assert!(
        mount(&["--bind", &text]) && mount(&["-o", "remount,ro,bind"]),
        "failed to make the folder read-only"
    );
    scratch.file(&format!("{PYTHON}, env: {{A: b}}"), "bake: 0s\nkeep_warm: 0s");
    let said = scratch.run(&["deploy"]);
    serves(&scratch);
    let unmounted = Command::new("umount").arg("-l").arg(&state).status().unwrap().success();
    assert!(unmounted);
    assert_ne!(said.code, 0, "{said:?}");
    let all = format!("{}{}", said.out, said.err).to_lowercase();
    assert!(all.contains("read-only") || all.contains("readonly"), "{all}");
    serves(&scratch);
}
