//! The gate effect: one of the user's own tests.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use cutover_core::{EffectKey, Evidence, Fault, Outcome, StepKey};
use cutover_ports::GateRequest;

use super::Act;

/// Logs of gates that are kept, over all services.
const LOGS_KEPT: usize = 200;
/// As much output as one answer carries.
const PART: u64 = 64 << 10;

pub(super) async fn gate(act: &Act, key: &EffectKey, command: &str) -> Outcome {
    let StepKey::Forward(step) = key.step else {
        return Err(Fault::cutover("a way back has no gate").fatal());
    };
    let request = GateRequest {
        service: act.service.name.clone(),
        release: act.release.id.clone(),
        revision: act.release.candidate.clone(),
        command: command.to_string(),
        base: PathBuf::from(&act.release.base),
        log: log_for(act, step)?,
    };
    act.edges().checker.gate(&request).await.map(|text| Evidence::Note { text })
}

/// Makes room for the output of a step's command; returns where it goes.
pub(super) fn log_for(act: &Act, step: usize) -> Result<PathBuf, Fault> {
    let folder = &act.shared.options.gate_logs;
    prepare(folder).map_err(|error| Fault::cutover(format!("make {}: {error}", folder.display())))?;
    Ok(log_of(folder, act.release.id.as_str(), step))
}

/// Returns where the output of a release's gate, or of its smoke tests, goes.
pub(crate) fn log_of(folder: &Path, release: &str, step: usize) -> PathBuf {
    folder.join(format!("{release}-{}.log", step + 1))
}

/// Returns what a gate has written from a position on, at most [`PART`] bytes; nothing where it has not begun.
pub(crate) fn read(log: &Path, from: u64) -> std::io::Result<Vec<u8>> {
    let mut file = match fs::File::open(log) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    file.seek(SeekFrom::Start(from))?;
    let mut part = Vec::new();
    file.take(PART).read_to_end(&mut part)?;
    Ok(part)
}

/// Makes the folder, and throws away the oldest logs.
fn prepare(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut logs: Vec<(std::time::SystemTime, PathBuf)> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    logs.sort();
    for (_, old) in logs.iter().take(logs.len().saturating_sub(LOGS_KEPT)) {
        // Somebody may have been quicker.
        let _ = fs::remove_file(old);
    }
    Ok(())
}
