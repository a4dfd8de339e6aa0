//! The tests' own service: this test binary, run again as the service of the load library.

use crate::harness::Scratch;

/// Not a test of anything by itself: the entry point when an instance runs this binary.
#[test]
fn entry() {
    if std::env::var_os("E2E_SERVICE").is_some() {
        std::process::exit(i32::from(cutover_bench::service::run().unwrap_or(1)));
    }
}

/// Writes the release file of the service at `version`.
pub(crate) fn file(scratch: &Scratch, version: &str, env: &str, more: &str) {
    let exe = std::env::current_exe().unwrap();
    let received = scratch.path().join("received.txt");
    std::fs::OpenOptions::new().create(true).append(true).open(&received).unwrap();
    let local = format!(
        "command: ['{}', '--exact', 'service::entry', '--nocapture'], replicas: 2, stop_grace: 10s, \
         env: {{E2E_SERVICE: '1', VERSION: {version}, RECEIVED: '{}'{env}}}",
        exe.display(),
        received.display()
    );
    scratch.file(
        &local,
        &format!("checks: {{health: [{{path: /health, interval: 100ms}}], within: 30s}}\n{more}"),
    );
}
