//! Checks by a command.

use std::time::Duration;

use cutover_core::file::Check;
use cutover_core::{Blame, Span};

use super::harness::{ask_in, nowhere, run, told};

#[tokio::test]
async fn the_environment_is_cleared_but_for_what_a_check_needs() {
    let folder = tempfile::tempdir().unwrap();
    let address = nowhere().await;
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")), "something there is to clear");
    ask_in(folder.path(), address, 5000, vec![run("env > seen; pwd > where")]).await.unwrap();
    let seen = std::fs::read_to_string(folder.path().join("seen")).unwrap();
    let mut names: Vec<&str> = seen.lines().filter_map(|line| line.split('=').next()).collect();
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["CUTOVER_REVISION", "CUTOVER_URL", "HOME", "PATH", "PORT"]);
    assert!(
        seen.contains(&format!("CUTOVER_URL=http://{address}\n"))
            && seen.contains(&format!("PORT={}\n", address.port()))
    );
    let at = std::fs::read_to_string(folder.path().join("where")).unwrap();
    assert_eq!(std::path::Path::new(at.trim()), folder.path().canonicalize().unwrap());
}

#[tokio::test]
async fn an_exit_status_and_a_signal_are_told_with_the_output() {
    let (folder, address) = (tempfile::tempdir().unwrap(), nowhere().await);
    let fault = ask_in(folder.path(), address, 300, vec![run("echo cart is empty; echo oops >&2; exit 3")])
        .await
        .unwrap_err();
    let text = "run echo cart is empty; echo oops >&2; exit 3 on ADDRESS: exit status 3 for 300ms, N tries";
    assert_eq!((told(&fault, address).as_str(), fault.blame), (text, Blame::Candidate));
    let mut lines = fault.lines.clone();
    lines.sort();
    assert_eq!(lines, ["cart is empty", "oops"]);
    let fault = ask_in(folder.path(), address, 300, vec![run("kill -9 $$")]).await.unwrap_err();
    assert!(fault.what.contains("killed by signal 9 for 300ms"), "{fault}");
}

#[tokio::test]
async fn a_command_that_cannot_run_is_the_files_fault_at_once() {
    let (folder, address) = (tempfile::tempdir().unwrap(), nowhere().await);
    std::fs::write(folder.path().join("plain.sh"), "exit 0").unwrap();
    for (command, why) in [("./missing.sh", "command not found"), ("./plain.sh", "not executable")] {
        let fault = ask_in(folder.path(), address, 60_000, vec![run(command)]).await.unwrap_err();
        assert!(
            fault.blame == Blame::Configuration && fault.what.contains(why) && !fault.hint.is_empty(),
            "{fault:?}"
        );
    }
    let fault = ask_in(&folder.path().join("gone"), address, 60_000, vec![run("true")]).await.unwrap_err();
    assert_eq!(fault.blame, Blame::Configuration, "{fault}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let (folder, address) = (tempfile::tempdir().unwrap(), nowhere().await);
    let check = Check { timeout: Span::from_ms(300), ..run("sleep 1000 & echo $! > child; wait") };
    let fault = ask_in(folder.path(), address, 400, vec![check]).await.unwrap_err();
    assert!(fault.what.contains("did not finish within 300ms"), "{fault}");
    let child: u32 = std::fs::read_to_string(folder.path().join("child")).unwrap().trim().parse().unwrap();
    let alive =
        || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    let begin = std::time::Instant::now();
    while alive() {
        assert!(begin.elapsed() < Duration::from_secs(10), "child {child} is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_running_does_not_hold_the_check() {
    let (folder, address) = (tempfile::tempdir().unwrap(), nowhere().await);
    let begin = std::time::Instant::now();
    ask_in(folder.path(), address, 60_000, vec![run("sleep 5 & exit 0")]).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn much_output_does_not_block() {
    let (folder, address) = (tempfile::tempdir().unwrap(), nowhere().await);
    let check = run("exec 2>&1; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 1");
    let fault = ask_in(folder.path(), address, 1000, vec![check]).await.unwrap_err();
    assert_eq!(fault.lines.last().map(String::as_str), Some("line 19999"));
    assert_eq!(fault.lines.len(), 20);
}
