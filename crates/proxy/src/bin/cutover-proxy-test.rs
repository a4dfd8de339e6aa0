//! Holder and worker as processes for the tests of this crate; people use `cutover proxy`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use cutover_proxy::{HolderOptions, ProxyError, WorkerOptions, run_holder, run_worker};

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("{error}{cause}");
            ExitCode::FAILURE
        }
    }
}

/// Arguments: `holder DIR GRACE_MS [ADDRESS…]` or `worker DIR GRACE_MS`.
fn run(arguments: Vec<OsString>) -> Result<(), ProxyError> {
    let text = |at: usize| arguments.get(at).and_then(|text| text.to_str()).unwrap_or_default();
    let dir = PathBuf::from(text(1));
    // A test may have more patience than the others.
    let patience = std::env::var("CUTOVER_TEST_GRACE_MS").ok().and_then(|text| text.parse().ok());
    let grace = Duration::from_millis(patience.or(text(2).parse().ok()).unwrap_or(5_000));
    if text(0) == "worker" {
        // A program that is broken: it ends before it serves.
        if dir.join("broken").exists() {
            std::fs::write(dir.join("broken.seen"), "").unwrap_or_default();
            std::process::exit(3);
        }
        return run_worker(WorkerOptions { dir, threads: 2, grace });
    }
    let program = std::env::current_exe().map(OsString::from).unwrap_or_default();
    let worker_command = vec![program, "worker".into(), dir.clone().into(), text(2).into()];
    let listen = (3..arguments.len()).filter_map(|at| text(at).parse().ok()).collect();
    run_holder(HolderOptions { dir, worker_command, listen, grace })
}
