//! A Dockerfile, as far as it says what runs: the image it builds is not there, so its command runs on this machine.

use std::path::Path;

use super::draft::Draft;
use super::{Found, shell, text};

/// Looks for the command of a Dockerfile's last stage.
pub(super) fn look(folder: &Path) -> Option<Found> {
    let text = text(folder, "Dockerfile").or_else(|| text(folder, "Containerfile"))?;
    let stage = Stage::last(&text);
    let (command, from) = match (&stage.entrypoint, &stage.cmd) {
        // In the exec form both together are one command; a shell's entrypoint ignores CMD.
        (Some(Form::Exec(entry)), Some(Form::Exec(cmd))) => {
            (entry.iter().chain(cmd).cloned().collect(), "ENTRYPOINT and CMD")
        }
        (Some(entry), _) => (entry.words(), "ENTRYPOINT"),
        (None, Some(cmd)) => (cmd.words(), "CMD"),
        (None, None) => return Found::unclear("it has neither CMD nor ENTRYPOINT in its last stage"),
    };
    if command.first().is_none_or(String::is_empty) {
        return Found::unclear(format!("its {from} is empty"));
    }
    let command = shell::with_port(command, &stage.ports);
    let mut draft = Draft {
        why: format!("its {from} is the service, run on this machine: there is no docker platform yet"),
        from: format!("From Dockerfile: {from} of its last stage, run on this machine and not in the image"),
        command: command.iter().map(|word| stage.beside(word)).collect(),
        env: stage.env,
        stop_signal: stage.stop_signal,
        health: stage.health,
        notes: stage.notes,
        ..Draft::default()
    };
    draft.notes.push("what the image installs and copies must be here: its programs, its files".into());
    Found::service(draft)
}

/// The two forms of a command.
#[derive(Debug, PartialEq)]
enum Form {
    Exec(Vec<String>),
    Shell(String),
}

impl Form {
    fn read(text: &str) -> Form {
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(words) => Form::Exec(words),
            Err(_) => Form::Shell(text.to_string()),
        }
    }

    fn words(&self) -> Vec<String> {
        match self {
            Form::Exec(words) => words.clone(),
            Form::Shell(line) => shell::command(line),
        }
    }
}

/// What the last stage of a Dockerfile says.
#[derive(Debug, Default)]
struct Stage {
    entrypoint: Option<Form>,
    cmd: Option<Form>,
    env: Vec<(String, String)>,
    ports: Vec<String>,
    folder: String,
    stop_signal: Option<String>,
    health: Option<String>,
    notes: Vec<String>,
}

impl Stage {
    fn last(text: &str) -> Stage {
        let mut stage = Stage::default();
        for (instruction, rest) in instructions(text) {
            if instruction == "FROM" {
                stage = Stage::default();
            }
            stage.take(&instruction, &rest);
        }
        stage
    }

    fn take(&mut self, instruction: &str, rest: &str) {
        match instruction {
            "ENTRYPOINT" => self.entrypoint = Some(Form::read(rest)),
            "CMD" => self.cmd = Some(Form::read(rest)),
            "WORKDIR" => self.folder = rest.trim_end_matches('/').to_string(),
            "EXPOSE" => {
                let ports = rest.split_whitespace().map(|port| port.split('/').next().unwrap_or(port));
                self.ports.extend(ports.map(String::from));
                self.notes.push(format!("EXPOSE {rest}: each instance gets a port of its own in $PORT"));
            }
            "ENV" => self.set(rest),
            "STOPSIGNAL" => {
                let name = rest.trim_start_matches("SIG");
                match ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"].contains(&name) {
                    true => self.stop_signal = Some(name.into()),
                    false => self.notes.push(format!("STOPSIGNAL {rest}")),
                }
            }
            "HEALTHCHECK" => match health(rest) {
                Some(path) => self.health = Some(path),
                None => self.notes.push(format!("HEALTHCHECK {rest}: write it as `health: [{{run: …}}]`")),
            },
            "USER" => {
                self.notes.push(format!("USER {rest}: set `user:`; it needs a server that runs as root"))
            }
            "FROM" | "RUN" | "COPY" | "ADD" | "VOLUME" | "SHELL" | "ARG" => {
                self.notes.push(format!("{instruction} {rest}"));
            }
            _ => {}
        }
    }

    /// `ENV A=b C="d e"`, and the old `ENV A b`.
    fn set(&mut self, rest: &str) {
        let old = rest.split_once(char::is_whitespace).filter(|(key, _)| !key.contains('='));
        let pairs: Vec<(String, String)> = match old {
            Some((key, value)) => vec![(key.to_string(), value.trim().to_string())],
            None => quoted_words(rest)
                .iter()
                .filter_map(|word| word.split_once('='))
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
        };
        for (key, value) in pairs {
            if key == "PORT" || key.starts_with("CUTOVER_") {
                self.ports.push(value);
                self.notes.push(format!("ENV {key}: cutover sets it for each instance"));
            } else if value.contains('$') || key == "PATH" {
                self.notes.push(format!("ENV {key}={value}: it depends on the image"));
            } else {
                self.env.retain(|(known, _)| *known != key);
                self.env.push((key, value));
            }
        }
    }

    /// A path of the image's work folder is one of this folder.
    fn beside(&self, word: &str) -> String {
        match word.strip_prefix(&self.folder).and_then(|rest| rest.strip_prefix('/')) {
            Some(rest) if !self.folder.is_empty() => format!("./{rest}"),
            _ => word.to_string(),
        }
    }
}

/// The path of a health check that asks over HTTP.
fn health(rest: &str) -> Option<String> {
    let url = &rest[rest.find("http://")? + 7..];
    let end = url
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '|' | ';' | ',' | ')'))
        .unwrap_or(url.len());
    let path = url[..end].find('/').map_or("/", |slash| &url[slash..end]);
    Some(path.to_string()).filter(|path| !path.contains('$'))
}

/// The instructions with their lines joined, without comments.
fn instructions(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut open = String::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        match line.trim_end().strip_suffix('\\') {
            Some(head) => open += &format!("{} ", head.trim_start()),
            None => {
                let whole = format!("{open}{}", line.trim());
                open.clear();
                let whole = whole.trim();
                let (instruction, rest) = whole.split_once(char::is_whitespace).unwrap_or((whole, ""));
                if !instruction.is_empty() {
                    all.push((instruction.to_uppercase(), rest.trim().to_string()));
                }
            }
        }
    }
    all
}

/// Splits at spaces outside of double and single quotes, which are taken away.
fn quoted_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c.is_whitespace() => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()))
            }
            _ => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_says_what_runs() {
        let stage = Stage::last(
            "# syntax=docker/dockerfile:1\nFROM rust AS build\nRUN cargo build\nCMD [\"no\"]\nFROM debian\nWORKDIR /app/\n\
             ENV A=1 B=\"two words\" \\\n    PORT=8000\nENV OLD style value\nENV P=$A/bin\nEXPOSE 9000/tcp\nSTOPSIGNAL SIGINT\n\
             HEALTHCHECK --interval=5s CMD curl -f http://localhost:8000/healthz || exit 1\n\
             entrypoint [\"/app/shop\", \"--port\"]\nCMD [\"8000\"]\n",
        );
        assert_eq!(stage.entrypoint, Some(Form::Exec(vec!["/app/shop".into(), "--port".into()])));
        assert_eq!(stage.cmd, Some(Form::Exec(vec!["8000".into()])));
        let env: Vec<String> = stage.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(env, ["A=1", "B=two words", "OLD=style value"]);
        assert_eq!(stage.ports, ["8000", "9000"]);
        assert_eq!((stage.stop_signal.as_deref(), stage.health.as_deref()), (Some("INT"), Some("/healthz")));
        assert_eq!(stage.beside("/app/shop"), "./shop");
        assert_eq!(stage.beside("/application"), "/application");
        assert!(stage.notes.iter().any(|note| note.starts_with("ENV P=")), "{:?}", stage.notes);
    }

    #[test]
    fn the_shell_form_keeps_its_shell() {
        let stage = Stage::last("FROM a\nCMD python app.py --port ${PORT:-80}\n");
        assert_eq!(
            stage.cmd.map(|cmd| cmd.words().join("|")),
            Some("sh|-c|exec python app.py --port ${PORT:-80}".into())
        );
    }
}
