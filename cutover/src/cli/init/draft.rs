//! What was found out about a service, and the release file that says it.

use std::fmt::Write;
use std::path::Path;

use cutover_core::file::write::{comment, list, scalar, service_name};

/// What was found out. All texts but `command` and the like become comments.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// How the project calls itself, if it does.
    pub(super) name: Option<String>,
    /// What was taken for what; one line.
    pub(super) why: String,
    /// What the command was made from.
    pub(super) from: String,
    pub(super) command: Vec<String>,
    pub(super) artifact: Option<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) stop_signal: Option<String>,
    /// The path of an HTTP health check.
    pub(super) health: Option<String>,
    /// What runs beside it.
    pub(super) processes: Vec<Beside>,
    /// What is not honoured, and what to know; one line each.
    pub(super) notes: Vec<String>,
    /// What to run before `cutover deploy`.
    pub(super) next: Vec<String>,
}

/// A process beside the service's own.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) name: String,
    pub(super) command: Vec<String>,
    /// Its name says that there is to be one of it alone.
    pub(super) alone: bool,
}

impl Draft {
    /// Writes the release file.
    pub(super) fn text(&self, kind: &str, folder: &Path) -> String {
        let service = service(self.name.as_deref(), folder);
        let mut text = format!("# The release file of {service}, written by `cutover init` from {kind}.\n");
        for step in &self.next {
            let _ = writeln!(text, "# Before each `cutover deploy`: {}", comment(step));
        }
        let _ = writeln!(text, "service: {service}\nplatform:\n  local:");
        let _ = writeln!(text, "    # {}", comment(&self.from));
        let _ = writeln!(text, "    # The service must listen on 127.0.0.1:$PORT and stop on its signal.");
        let _ = writeln!(text, "    command: {}", list(&self.command));
        match &self.artifact {
            Some(artifact) => {
                let _ =
                    writeln!(text, "    # Copied for each release: a new build touches nothing that runs.");
                let _ = writeln!(text, "    artifact: {}", scalar(artifact));
            }
            None => {
                let _ = writeln!(
                    text,
                    "    # Without an artifact it runs in this folder, and a change of its files is no new revision for `deploy`."
                );
                let _ = writeln!(
                    text,
                    "    # artifact: .     # a file or folder that is copied for each release; the command runs in the copy"
                );
            }
        }
        let _ = writeln!(text, "    replicas: 1");
        if let Some(signal) = &self.stop_signal {
            let _ = writeln!(text, "    stop_signal: {signal}");
        }
        if self.env.is_empty() {
            let _ = writeln!(text, "    # env: {{LOG: info}}");
        } else {
            let _ = writeln!(text, "    env:");
            for (key, value) in &self.env {
                let _ = writeln!(text, "      {}: {}", scalar(key), scalar(value));
            }
        }
        let _ = writeln!(
            text,
            "    # secrets: [DATABASE_URL]   # values come from the environment of `cutover deploy`"
        );
        let _ =
            writeln!(text, "route:\n  # Where your users call.\n  - proxy: {{listen: \"127.0.0.1:8080\"}}");
        let _ = writeln!(text, "checks:");
        match &self.health {
            Some(path) => {
                let _ = writeln!(text, "  health: [{{path: {}}}]", scalar(path));
            }
            None => {
                let _ = writeln!(
                    text,
                    "  # That it accepts a connection. Better is to ask it how it is: [{{path: /health}}]"
                );
                let _ = writeln!(text, "  health: [{{tcp: true}}]");
            }
        }
        text += &self.processes_text();
        if !self.notes.is_empty() {
            let _ = writeln!(text, "\n# Not taken over from {kind}:");
            for note in &self.notes {
                let _ = writeln!(text, "# - {}", comment(note));
            }
        }
        text
    }
}

impl Draft {
    fn processes_text(&self) -> String {
        let mut text = String::new();
        if !self.processes.is_empty() {
            let _ = writeln!(
                text,
                "# What runs beside it, without a port. Two revisions of a process overlap until"
            );
            let _ = writeln!(
                text,
                "# the new one is stable; `overlap: false` ends the old one before the new one starts."
            );
            let _ = writeln!(text, "processes:");
        }
        for Beside { name, command, alone } in &self.processes {
            let alone = if *alone { ", overlap: false" } else { "" };
            let _ = writeln!(text, "  {name}: {{command: {}{alone}}}", list(command));
        }
        text
    }
}

/// The service's name: the project's own, else the folder's, as far as a release file allows.
fn service(name: Option<&str>, folder: &Path) -> String {
    let folder = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.and_then(service_name).or_else(|| service_name(&folder)).unwrap_or_else(|| "app".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_written_so_that_it_reads_back() {
        let words = [
            "python3",
            "-m",
            "$PORT",
            "a b",
            "it's",
            "\"q\"",
            "{x}",
            "[y]",
            "# no",
            "a: b",
            "true",
            "null",
            "",
            "-",
            "--",
            "---",
            "é",
            "tab\there",
            "\u{1b}[0m",
            "%x",
            "*a",
            "&b",
            "1.10",
            "0x1",
            "~",
            "<<",
            "a\\b",
            "\u{7f}",
        ];
        let command: Vec<String> = words.iter().map(ToString::to_string).collect();
        let env = words.iter().enumerate().map(|(i, word)| (format!("V{i}"), word.to_string())).collect();
        let draft = Draft { command: command.clone(), env, notes: vec!["a\nb".into()], ..Draft::default() };
        let text = draft.text("Procfile", Path::new("/srv/My App_2"));
        let file =
            cutover_core::ReleaseFile::read("cutover.yaml", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let cutover_core::file::Platform::Local(local) = &file.platform else { panic!("local") };
        assert_eq!(local.command, command);
        assert!(local.env.values().all(|value| command.contains(value)));
        assert_eq!(file.service.as_str(), "my-app-2");
    }

    #[test]
    fn a_service_is_named_by_its_project_or_its_folder() {
        let named = |name| service(name, Path::new("/srv/shop"));
        assert_eq!(named(Some("@acme/Web_Store")), "web-store");
        assert_eq!(named(Some("漢字")), "shop");
        assert_eq!(named(Some(&"a".repeat(60))), "a".repeat(40));
        assert_eq!(service(None, Path::new("/")), "app");
    }
}
