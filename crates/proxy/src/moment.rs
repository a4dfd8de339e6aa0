//! Death at a chosen moment of an upgrade, for the kill tests: debug builds only.
//!
//! `CUTOVER_TEST_MOMENT` names a file with the name of a moment and `KILL` or `STOP`. The first process that reaches
//! the moment removes the file and gets the signal.

/// Says that the process is at this moment of an upgrade.
#[cfg(debug_assertions)]
pub(crate) fn reached(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};

    let Some(file) = std::env::var_os("CUTOVER_TEST_MOMENT") else { return };
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    let Some((moment, signal)) = wanted.split_once(' ').filter(|(moment, _)| *moment == name) else { return };
    let signal = if signal == "KILL" { Signal::KILL } else { Signal::STOP };
    if std::fs::remove_file(&file).is_ok() {
        tracing::warn!(moment, "a test stops this process");
        // Fails for nobody: it is ourselves.
        let _ = kill_process(getpid(), signal);
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn reached(_name: &str) {}
