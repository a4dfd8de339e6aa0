//! From a file of another tool to a release file.

use std::collections::BTreeMap;
use std::fmt::Write;

use cutover_core::ReleaseFile;
use cutover_core::file::FileErrors;
use cutover_core::file::foreign::{Foreign, Place};
use serde::Serialize;

use crate::cursor::Cursor;
use crate::draft::Draft;
use crate::finding::{Fate, Finding, Tool};
use crate::ledger::Ledger;
use crate::variables::{Filled, Variables};
use crate::{compose, kamal, secret, words};

/// A file to import, and what it may refer to.
pub struct Input<'a> {
    /// How messages call the file.
    pub name: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
    /// The way from the release file's folder to the file's own: `.`, `deploy`, or absolute.
    pub folder: &'a str,
    /// How compose calls the project where the file does not say: the name of the file's folder.
    pub project: &'a str,
    /// The service to release; none where the file has only one that can be meant.
    pub service: Option<&'a str>,
    /// Variables of the shell and of `.env`, for `${VARIABLE}`. Values of secrets are not looked at.
    pub variables: &'a BTreeMap<String, String>,
    /// Reads a file that the input names, relative to it. Only names of variables are taken from what is in it.
    pub read: &'a dyn Fn(&str) -> Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Import {
    /// Whose file it was.
    pub from: Tool,
    /// The service of the release file.
    pub service: String,
    /// The release file.
    #[serde(skip)]
    pub text: String,
    /// What became of each key, in the order of the file.
    pub findings: Vec<Finding>,
    /// Names of the variables that `cutover deploy` must find in its environment.
    pub secrets: Vec<String>,
    /// What to do, step by step.
    pub next: Vec<String>,
}

/// What an importer works on.
pub(crate) struct Work<'a> {
    pub(crate) input: &'a Input<'a>,
    pub(crate) file: &'a Foreign,
    pub(crate) variables: Variables<'a>,
    pub(crate) ledger: Ledger,
    pub(crate) draft: Draft,
    pub(crate) next: Vec<String>,
    /// Secrets that a file of `next` gives.
    pub(crate) loaded: Vec<String>,
}

impl Work<'_> {
    /// Returns a single text with its variables filled in, and says so; `key` is where it ends in the release file.
    pub(crate) fn value(&mut self, at: &Cursor<'_>, key: &'static str) -> Option<String> {
        let filled = self.variables.fill(at.text()?);
        if !filled.unset.is_empty() {
            let names = Filled { unset: filled.unset, ..Filled::default() }.names();
            let what = format!("{names} has no value here, so nothing stands in its place");
            self.ledger.differs(at, what, "write what it should be into the release file");
            self.draft.decide(key, format!("{names} had no value"));
        } else if !filled.is_plain() {
            let what = format!("{} is filled in as it is now", filled.names());
            self.ledger.differs(at, what, "change it in the release file: cutover fills in nothing");
        }
        Some(filled.text)
    }

    /// Returns the words of a command, written as a list or as one line.
    pub(crate) fn command(&mut self, at: &Cursor<'_>, key: &'static str) -> Option<Vec<String>> {
        let words = match at.text() {
            Some(_) => words::split(&self.value(at, key)?)?,
            None => at.items().iter().map(|item| self.value(item, key)).collect::<Option<Vec<_>>>()?,
        };
        if words.iter().any(|word| secret::is_secret_argument(word)) {
            let what =
                "a word of it looks like a secret, and is written as it is: a command is no place for one";
            self.ledger.differs(
                at,
                what,
                "let the program read a variable, and name it in platform.docker.secrets",
            );
        }
        let good = words.first().is_some_and(|word| !word.is_empty());
        (good && !words.iter().any(|word| word.contains('\0'))).then_some(words)
    }

    /// Takes a variable by its name from the environment of `cutover deploy`.
    pub(crate) fn secret(&mut self, at: &Cursor<'_>, name: &str, why: &str, next: String) {
        self.draft.secret(name);
        self.ledger.became(at, "platform.docker.secrets", why, next);
    }

    /// Returns a path of the input as the release file's folder sees it; none where it is somebody's home.
    pub(crate) fn path(&self, path: &str) -> Option<String> {
        if path.starts_with('/') {
            return Some(path.to_string());
        }
        if path.starts_with('~') || path.contains('\0') {
            return None;
        }
        let path = path.strip_prefix("./").unwrap_or(path);
        let folder = match self.input.folder {
            "" | "." => ".".to_string(),
            folder if folder.starts_with(['/', '.']) => folder.trim_end_matches('/').to_string(),
            folder => format!("./{}", folder.trim_end_matches('/')),
        };
        Some(match path {
            "" | "." => folder,
            path if folder == "." && path.starts_with("..") => path.to_string(),
            path => format!("{folder}/{path}"),
        })
    }
}

/// Imports a file.
///
/// # Errors
/// When it is not YAML, neither a compose file nor Kamal's, or does not say what runs: where, and what to do.
pub fn import(input: &Input<'_>) -> Result<Import, FileErrors> {
    // Kamal's files are templates: what is Ruby in them has another shape than YAML.
    let masked = kamal::masked(input.bytes);
    let file = Foreign::read(input.name, &masked)?;
    let root = Cursor::root(file.root());
    let tool = tool(&file, &root)?;
    let mut work = Work {
        input,
        file: &file,
        variables: Variables(input.variables),
        ledger: Ledger::new(tool),
        draft: Draft::default(),
        next: Vec::new(),
        loaded: Vec::new(),
    };
    match tool {
        Tool::Compose => compose::import(&mut work, &root)?,
        Tool::Kamal => kamal::import(&mut work, &root)?,
    }
    work.ledger.settle(&root);
    finish(work, tool)
}

fn tool(file: &Foreign, root: &Cursor<'_>) -> Result<Tool, FileErrors> {
    let has = |key: &str| root.get(key).is_some();
    if has("services") {
        return Ok(Tool::Compose);
    }
    if has("service") && (has("image") || has("servers") || has("registry")) {
        return Ok(Tool::Kamal);
    }
    if has("include") {
        let hint = "write it out first: docker compose config > whole.yaml, and import that";
        return Err(file.error(Place::START, "the file has no services of its own", hint));
    }
    let old =
        root.entries().into_iter().find(|(_, at)| at.get("image").is_some() || at.get("build").is_some());
    if let Some((_, at)) = old {
        let hint = "put the services below `services:`, and import it again";
        return Err(file.error(
            at.place,
            "this is a compose file of the oldest form, without `services:`",
            hint,
        ));
    }
    let hint =
        "a compose file has `services:`; Kamal's config/deploy.yml has `service:`, `image:` and `servers:`";
    Err(file.error(Place::START, "this is neither a compose file nor Kamal's", hint))
}

fn finish(mut work: Work<'_>, from: Tool) -> Result<Import, FileErrors> {
    let draft = &mut work.draft;
    draft.heading.insert(
        0,
        format!(
            "The release file of {}, written by `cutover import` from {}.",
            draft.service, work.input.name
        ),
    );
    draft
        .heading
        .push("`decide:` marks what only you know; docs/import.md says what becomes of each key.".into());
    let text = draft.text();
    if let Err(errors) = ReleaseFile::read("cutover.yaml", &text) {
        // Each value was looked at before; what slipped through is said rather than written.
        let first = &errors.errors()[0];
        let what = format!("no good release file comes of this: {}", first.what());
        return Err(work.file.error(Place::START, what, first.hint()));
    }
    let mut secrets = draft.secrets.clone();
    secrets.extend(draft.build.iter().flat_map(|build| build.secrets.clone()));
    let wanted = secrets.iter().filter(|name| !work.loaded.contains(name));
    let wanted: Vec<String> = wanted.map(|name| format!("{name}=…")).collect();
    if !wanted.is_empty() {
        // What files give may be what these are made of.
        let loads = work.next.iter().take_while(|line| line.starts_with("set -a")).count();
        work.next.insert(loads, format!("export {}", wanted.join(" ")));
    }
    work.next.push("cutover plan".into());
    work.next.push("cutover deploy".into());
    let service = draft.service.clone();
    Ok(Import { from, service, text, findings: work.ledger.finish(), secrets, next: work.next })
}

impl Import {
    /// Returns how many keys came to an end.
    pub fn count(&self, fate: Fate) -> usize {
        self.findings.iter().filter(|finding| finding.fate == fate).count()
    }

    /// Returns the findings for people: what is not honoured, what is honoured differently, and how much is as it was.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for fate in [Fate::NotHonoured, Fate::Differently] {
            let count = self.count(fate);
            if count == 0 {
                continue;
            }
            let _ = writeln!(text, "{} ({count}):", fate.name());
            for finding in self.findings.iter().filter(|finding| finding.fate == fate) {
                for line in finding.to_string().lines() {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
        let _ = write!(text, "{} as it was: {}", Fate::Honoured.name(), self.count(Fate::Honoured));
        text
    }
}
