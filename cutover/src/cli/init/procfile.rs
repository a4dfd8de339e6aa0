//! A Procfile: `web: COMMAND`, one process a line.

use std::path::Path;

use super::draft::Draft;
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
        draft.notes.push(match *other {
            "release" => format!("release: {line} (run it before `cutover deploy`)"),
            other => format!(
                "{other}: {line} (not released: only one process is; give it a release file of its own)"
            ),
        });
    }
    // What it runs may have to be built first.
    if let Some(Found::Service(built)) = compiled::cargo(folder).or_else(|| compiled::go(folder)) {
        draft.next = built.next;
    }
    Found::service(draft)
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
