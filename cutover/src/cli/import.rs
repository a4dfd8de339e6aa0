//! `cutover import`: writes a release file from another tool's, and says what became of each of its keys.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use cutover_import::{Import, Input};

use super::args::Global;
use super::init;
use crate::cli::view::print;
use crate::exit;
use crate::failure::Failure;

/// More than any of these files has; the reader itself says what is too large.
const ENOUGH: u64 = 16 << 20;

/// What the command line says.
pub(super) struct Wanted {
    pub(super) from: PathBuf,
    pub(super) out: Option<PathBuf>,
    pub(super) service: Option<String>,
    pub(super) force: bool,
}

/// `cutover import`.
pub(super) fn import(global: &Global, wanted: &Wanted) -> Result<u8, Failure> {
    let out = wanted.out.as_ref().unwrap_or(&global.file);
    let to_stdout = out.as_os_str() == "-";
    if !wanted.force && !to_stdout && out.exists() {
        let what = format!("{} is there already, and left as it is", out.display());
        return Err(Failure::new(exit::USAGE, what)
            .hint("name another with -o FILE, look at the file alone with -o -, or write it anew: --force"));
    }
    let imported = read(&wanted.from, if to_stdout { Path::new(".") } else { out }, wanted)?;
    if to_stdout {
        eprintln!("{}", imported.report());
        print(imported.text.trim_end());
        return Ok(exit::OK);
    }
    init::write(out, &imported.text, wanted.force)?;
    if global.json() {
        print(&serde_json::json!({ "written": out, "import": imported }).to_string());
        return Ok(exit::OK);
    }
    print(&imported.report());
    let (out, from) = (out.display(), wanted.from.display());
    print(&format!("{out} is written: {} from {from}, a {}", imported.service, imported.from.file()));
    let decisions = imported.text.lines().filter(|line| line.trim_start().starts_with("# decide:")).count();
    if decisions > 0 {
        print(&format!("{decisions} of its lines need your decision: look for `decide:`"));
    }
    print(&format!("next: {}", imported.next.join("\n      ")));
    Ok(exit::OK)
}

fn read(from: &Path, out: &Path, wanted: &Wanted) -> Result<Import, Failure> {
    let name = from.display().to_string();
    let mut bytes = Vec::new();
    let read = std::fs::File::open(from).and_then(|file| file.take(ENOUGH).read_to_end(&mut bytes));
    read.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "name a compose file, or Kamal's config/deploy.yml",
            std::io::ErrorKind::IsADirectory => "name the file in it",
            std::io::ErrorKind::PermissionDenied => "give yourself the right to read it",
            _ => "",
        };
        Failure::new(exit::USAGE, format!("failed to read {name}: {error}")).hint(hint)
    })?;
    let folder = folder_of(from);
    let variables = variables(&folder);
    let beside = |path: &str| text(&folder.join(path));
    let input = Input {
        name: &name,
        bytes: &bytes,
        folder: &way(&folder_of(out), &folder),
        project: &folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        service: wanted.service.as_deref(),
        variables: &variables,
        read: &beside,
    };
    cutover_import::import(&input).map_err(|errors| Failure::new(exit::USAGE, errors.to_string()))
}

/// The whole path of the folder that a file lies in.
fn folder_of(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.canonicalize().or_else(|_| std::path::absolute(folder)).unwrap_or_else(|_| folder.to_path_buf())
}

/// The way from one folder to another: relative where it leads down, so that both can be moved together.
fn way(from: &Path, to: &Path) -> String {
    match to.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".into(),
        Ok(rest) => rest.display().to_string(),
        Err(_) => to.display().to_string(),
    }
}

/// What compose fills in: the shell's variables, and those of `.env` that the shell does not have.
fn variables(folder: &Path) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for line in text(&folder.join(".env")).unwrap_or_default().lines() {
        let line = line.trim();
        let pair = line.strip_prefix("export ").unwrap_or(line).split_once('=');
        if let Some((name, value)) = pair.filter(|(name, _)| !name.starts_with('#')) {
            let value = value.trim().trim_matches(['"', '\'']);
            variables.insert(name.trim().to_string(), value.to_string());
        }
    }
    let shell = std::env::vars_os();
    variables.extend(
        shell.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
    );
    variables
}

fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    // Another kind than a file may never end, or never begin.
    let file = std::fs::metadata(path)
        .ok()
        .filter(std::fs::Metadata::is_file)
        .and_then(|_| std::fs::File::open(path).ok());
    file?.take(1 << 20).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_relative_where_it_leads_down() {
        let say = |from: &str, to: &str| way(Path::new(from), Path::new(to));
        assert_eq!(say("/srv/shop", "/srv/shop"), ".");
        assert_eq!(say("/srv/shop", "/srv/shop/config"), "config");
        assert_eq!(say("/srv/shop/out", "/srv/shop"), "/srv/shop");
    }
}
