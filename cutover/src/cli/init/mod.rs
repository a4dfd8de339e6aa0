//! `cutover init`: writes a release file from what is in the folder.
//!
//! It guesses, so it says what it guessed from: in the file as comments, and on the terminal with the next command.

mod compiled;
mod dockerfile;
mod draft;
mod procfile;
mod scripted;
mod shell;

use std::io::Write;
use std::path::Path;

use cutover_core::ReleaseFile;

use super::args::Global;
use crate::cli::view::print;
use crate::exit;
use crate::failure::Failure;
use draft::Draft;

/// Looks at the folder for one kind of project.
type Look = fn(&Path) -> Option<Found>;

/// The kinds, the most telling first: a Procfile says what runs; a Dockerfile comes last, because the image that its
/// command was written for is not there.
const KINDS: [(&str, Look); 7] = [
    ("Procfile", procfile::look),
    ("Cargo.toml", compiled::cargo),
    ("go.mod", compiled::go),
    ("Gemfile", scripted::ruby),
    ("pyproject.toml", scripted::python),
    ("package.json", scripted::node),
    ("Dockerfile", dockerfile::look),
];

/// What a file of the folder says.
enum Found {
    /// How the service runs.
    Service(Box<Draft>),
    /// Why it does not say how the service runs.
    Unclear(String),
}

impl Found {
    fn service(draft: Draft) -> Option<Found> {
        Some(Found::Service(Box::new(draft)))
    }

    fn unclear(why: impl Into<String>) -> Option<Found> {
        Some(Found::Unclear(why.into()))
    }
}

/// `cutover init`.
pub(super) fn init(global: &Global, force: bool) -> Result<u8, Failure> {
    let path = &global.file;
    let shown = path.display();
    if !force && path.exists() {
        let what = format!("{shown} is there already, and left as it is");
        return Err(Failure::new(exit::USAGE, what)
            .hint("look at it: cutover check; or write it anew: cutover init --force"));
    }
    let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let folder =
        folder.ok_or_else(|| Failure::new(exit::USAGE, format!("{shown} has no folder to look at")))?;
    let (kind, draft, seen) = choose(&folder)?;
    let text = draft.text(kind, &folder);
    // What we write ourselves must be good; anything else is our mistake, not the user's.
    let file = ReleaseFile::read(&shown.to_string(), &text)
        .map_err(|errors| Failure::own(format!("failed to write a good release file:\n{errors}")))?;
    write(path, &text, force)?;
    let next: Vec<String> =
        draft.next.iter().cloned().chain(["cutover check".into(), "cutover deploy".into()]).collect();
    if global.json() {
        let told = serde_json::json!({
            "written": path, "service": file.service, "from": kind, "command": draft.command,
            "seen": seen, "next": next,
        });
        print(&told.to_string());
        return Ok(exit::OK);
    }
    for line in &seen {
        print(&line.to_string());
    }
    print(&format!("{shown} is written: {} by `{}`", file.service, draft.command.join(" ")));
    print("it must listen on 127.0.0.1:$PORT; what was guessed stands in the file's comments");
    print(&format!("next: {}", next.join("\n      ")));
    Ok(exit::OK)
}

/// Takes the first kind that says how the service runs; tells what each of them was taken for.
fn choose(folder: &Path) -> Result<(&'static str, Draft, Vec<String>), Failure> {
    let mut chosen: Option<(&'static str, Draft)> = None;
    let mut seen = Vec::new();
    for (kind, look) in KINDS {
        match (look(folder), &chosen) {
            (None, _) => {}
            (Some(Found::Service(draft)), None) => {
                seen.push(format!("found {kind}: {}", draft.why));
                chosen = Some((kind, *draft));
            }
            (Some(Found::Service(_)), Some((first, _))) => {
                seen.push(format!("found {kind}: not used, {first} says what runs"));
            }
            (Some(Found::Unclear(why)), _) => seen.push(format!("found {kind}: not used, {why}")),
        }
    }
    match chosen {
        Some((kind, draft)) => Ok((kind, draft, seen)),
        None => {
            let names: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
            let what = match seen.is_empty() {
                true => format!("found nothing to run in {}: no {}", folder.display(), names.join(", ")),
                false => format!("found nothing to run in {}", folder.display()),
            };
            let hint = "say it in a Procfile, such as `web: ./shop --port $PORT`, and run cutover init again";
            let failure = Failure { lines: seen, ..Failure::new(exit::USAGE, what).hint(hint) };
            Err(failure)
        }
    }
}

/// Writes a release file: whole, or not at all.
pub(super) fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::own(format!("failed to write {}: {error}", path.display()));
    if force {
        // A half-written release file must not take the place of a whole one.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut scratch = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        scratch.write_all(text.as_bytes()).map_err(failed)?;
        // Readable as other files of the project are, not private as scratch files are.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        scratch.as_file().set_permissions(mode).map_err(failed)?;
        scratch.persist(path).map_err(|error| failed(error.error))?;
        return Ok(());
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// Reads a file of the folder, if it is there and a text of sensible size.
fn text(folder: &Path, name: &str) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(folder.join(name)).ok()?.take(1 << 20).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the value of `key = "value"` in a section of a TOML file: enough for the names that are looked for here.
fn toml<'a>(text: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line.trim_matches(['[', ']']).trim() == section;
        } else if inside
            && let Some((name, value)) = line.split_once('=')
            && name.trim().trim_matches('"') == key
        {
            let value = value.trim().trim_start_matches(['"', '\'']);
            return value.split(['"', '\'']).next().filter(|value| !value.is_empty());
        }
    }
    None
}
