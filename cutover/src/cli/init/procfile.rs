//! A Procfile: `web: COMMAND`, one process a line.

use std::path::Path;

use cutover_core::ProcessName;

use super::draft::{Beside, Draft};
use super::{Found, compiled, shell, text};

/// Looks for a Procfile's `web`, else its only process.
pub(super) fn look(folder: &Path) -> Option<Found> {
    let text = text(folder, "Procfile")?;
    let all = processes(&text);
    let named = |name: &str| all.iter().find(|(process, _)| *process == name);
    let serving: Vec<&(&str, &str)> = all.iter().filter(|(name, _)| *name != "release").collect();
    let chosen = match (named("web"), serving.as_slice()) {
        (Some(web), _) => web,
        (None, [only]) => only,
        (None, []) => return Found::unclear("it has no process"),
        (None, _) => return Found::unclear("none of its processes is called web"),
    };
    let (name, line) = *chosen;
    let mut draft = Draft {
        why: format!("its process `{name}` is the service"),
        from: format!("From Procfile: {name}: {line}"),
        command: shell::command(line),
        ..Draft::default()
    };
    for (other, line) in all.iter().filter(|(other, _)| *other != name) {
        match beside(other, line) {
            Ok(beside) if draft.processes.iter().all(|known| known.name != beside.name) => {
                draft.processes.push(beside);
            }
            Ok(_) => draft.notes.push(format!("{other}: {line} (there is one of that name already)")),
            Err(why) => draft.notes.push(format!("{other}: {line} ({why})")),
        }
    }
    if !draft.processes.is_empty() {
        let names: Vec<&str> = draft.processes.iter().map(|beside| beside.name.as_str()).collect();
        draft.why += &format!(", and beside it run: {}", names.join(", "));
    }
    // What it runs may have to be built first.
    if let Some(Found::Service(built)) = compiled::cargo(folder).or_else(|| compiled::go(folder)) {
        draft.next = built.next;
    }
    Found::service(draft)
}

/// Takes a process for one that runs beside the service, or says why it cannot.
fn beside(name: &str, line: &str) -> Result<Beside, &'static str> {
    let name = name.to_lowercase();
    if name == "release" {
        return Err("run it before `cutover deploy`, or as a `gate:`");
    }
    if line.contains("$PORT") || line.contains("${PORT") {
        return Err("only the service gets a port; give it a release file of its own");
    }
    if !ProcessName::is_usable(&name) || name == "web" {
        return Err("give it a name of at most 20 lower-case letters, and add it to `processes:`");
    }
    // Two of these would do all they do twice.
    let alone = ["clock", "cron", "sched", "beat"].iter().any(|word| name.contains(word));
    Ok(Beside { command: shell::command(line), alone, name })
}

fn processes(text: &str) -> Vec<(&str, &str)> {
    let named = |line: &'_ str| {
        let (name, command) = line.split_once(':')?;
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        (is_name && !command.trim().is_empty()).then_some(())
    };
    text.lines()
        .filter(|line| named(line).is_some())
        .filter_map(|line| line.split_once(':'))
        .map(|(name, command)| (name, command.trim()))
        .collect()
}
