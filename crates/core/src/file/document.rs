//! A release file as it was written: a base, and the environments to lay over it.

use serde::Deserialize;

use super::error::{FileError, FileErrors, MOST_MISTAKES};
use super::foreign::RELEASE_FILE;
use super::misfit::{Misfit, MisfitKind};
use super::overlay::{self, Merged};
use super::read::{example, nearest};
use super::tree::{Entry, Node, Place, Value, short};
use super::{ReleaseFile, source, validate, yaml};

/// A release file that is good YAML; what it says is not looked at yet.
#[derive(Clone, Debug)]
pub struct Document {
    name: String,
    source: String,
    base: Node,
    environments: Vec<Entry>,
}

/// A release file that is good, with all of its environments.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The base; none where it lacks what each environment adds.
    pub base: Option<ReleaseFile>,
    /// What the base lacks, as a message says it; empty where it is complete.
    pub lacks: String,
    /// The environments, each laid over the base.
    pub environments: Vec<ReleaseFile>,
}

/// Mistakes, and whether all of them are keys that are not there.
struct Found {
    errors: Vec<FileError>,
    only_missing: bool,
}

impl Document {
    /// Reads the YAML of a release file; `name` is how messages call it.
    ///
    /// # Errors
    /// When it is no text, no YAML, or far too large; when its environments are not keys with values.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Document, FileErrors> {
        let fail = |source: &str, error| FileErrors::new(name, source, vec![error]);
        let source = source::decode(bytes, &RELEASE_FILE).map_err(|error| {
            // A binary or a huge file has no line worth showing.
            let shown = if error.place == Place::START { &[] } else { bytes };
            fail(&String::from_utf8_lossy(shown), error)
        })?;
        let mut base = yaml::read(source, &RELEASE_FILE).map_err(|error| fail(source, error))?;
        let environments = environments(base.take("environments"))
            .map_err(|errors| FileErrors::new(name, source, errors))?;
        Ok(Document { name: name.into(), source: source.into(), base, environments })
    }

    /// Returns the names of its environments, in the order of the file.
    pub fn environments(&self) -> impl Iterator<Item = &str> {
        self.environments.iter().map(|entry| entry.key.as_str())
    }

    /// Returns what the file says without any environment.
    ///
    /// # Errors
    /// Every mistake that could be found. Where environments could complete it, the message says so.
    pub fn base(&self) -> Result<ReleaseFile, FileErrors> {
        let mut found = match decode(&self.base) {
            Ok(file) => return Ok(file),
            Err(found) => found,
        };
        if found.only_missing && !self.environments.is_empty() {
            let names: Vec<&str> = self.environments().collect();
            for error in &mut found.errors {
                error.hint = format!(
                    "name an environment that has it: --env {}; or {}",
                    names.join(", --env "),
                    error.hint
                );
            }
        }
        Err(self.fail(found.errors))
    }

    /// Returns what the file says for an environment.
    ///
    /// # Errors
    /// When there is no such environment, with the nearest; every mistake that could be found.
    pub fn environment(&self, name: &str) -> Result<ReleaseFile, FileErrors> {
        match self.environments.iter().find(|entry| entry.key == name) {
            Some(entry) => self.merged(entry).map_err(|errors| self.fail(errors)),
            None => {
                let known: Vec<&str> = self.environments().collect();
                let list = known.join(", ");
                let hint = match (nearest(name, &known), known.is_empty()) {
                    (_, true) => "it has none: leave --env out, or add `environments:` to it".to_string(),
                    (Some(near), _) => format!("did you mean `{near}`? There are: {list}"),
                    (None, _) => format!("there are: {list}"),
                };
                let place = self.environments.first().map_or(Place::START, |entry| entry.place);
                let what = format!("the release file has no environment `{}`", short(name));
                Err(self.fail(vec![FileError::new(place, what, hint)]))
            }
        }
    }

    /// Looks at the base and at every environment.
    ///
    /// # Errors
    /// Every mistake that could be found, each once, with the environments in which it is one.
    pub fn check(&self) -> Result<Checked, FileErrors> {
        let mut errors: Vec<FileError> = Vec::new();
        let (mut base, mut lacks) = (None, String::new());
        match decode(&self.base) {
            Ok(file) => base = Some(file),
            Err(found) if found.only_missing && !self.environments.is_empty() => {
                lacks = found.errors.iter().map(|error| error.what.clone()).collect::<Vec<_>>().join("; ");
            }
            Err(found) => errors = found.errors,
        }
        let mut environments = Vec::new();
        for entry in &self.environments {
            match self.merged(entry) {
                Ok(file) => environments.push(file),
                Err(found) => {
                    for error in found {
                        let same =
                            |known: &&mut FileError| known.place == error.place && known.what == error.what;
                        match errors.iter_mut().find(same) {
                            // Wrong in the base already, or in an environment before: said once.
                            Some(known) if known.environments.is_empty() => {}
                            Some(known) => known.environments.extend(error.environments),
                            None => errors.push(error),
                        }
                    }
                }
            }
        }
        if errors.is_empty() { Ok(Checked { base, lacks, environments }) } else { Err(self.fail(errors)) }
    }

    fn merged(&self, environment: &Entry) -> Result<ReleaseFile, Vec<FileError>> {
        let Merged { root, removed, mistakes } = overlay::merge(&self.base, &environment.value);
        let mut errors = mistakes;
        match decode(&root) {
            Ok(mut file) if errors.is_empty() => {
                file.environment = Some(environment.key.clone());
                return Ok(file);
            }
            Ok(_) => {}
            Err(found) => errors.extend(found.errors.into_iter().map(|error| blame_removal(error, &removed))),
        }
        for error in &mut errors {
            error.environments = vec![environment.key.clone()];
        }
        Err(errors)
    }

    fn fail(&self, errors: Vec<FileError>) -> FileErrors {
        FileErrors::new(&self.name, &self.source, errors)
    }
}

/// Reads the keys of `environments:`, which the base does not have.
fn environments(entry: Option<Entry>) -> Result<Vec<Entry>, Vec<FileError>> {
    let Some(entry) = entry else { return Ok(Vec::new()) };
    let like = "such as `environments: {staging: {bake: 1m}}`";
    let Value::Map(mut environments) = entry.value.value.clone() else {
        let what = format!("environments with their keys are expected here, not {}", entry.value.noun());
        return Err(vec![FileError::new(entry.value.place, what, like)]);
    };
    let mut errors = Vec::new();
    for environment in &mut environments {
        let Entry { key, place, value } = environment;
        if !validate::is_name(key) {
            let what = format!("the environment's name \"{}\" is not usable", short(key));
            errors.push(FileError::new(
                *place,
                what,
                "use 1 to 40 lower-case letters, digits and dashes, such as `staging`",
            ));
        }
        if value.is_null() {
            // `production:` with nothing below says that the base is meant as it is.
            *value = Node::empty_map(value.place);
        }
        if !matches!(value.value, Value::Map(_)) {
            let what = format!("the keys that differ are expected here, not {}", value.noun());
            errors.push(FileError::new(value.place, what, like));
        }
        if let Some(nested) = value.take("environments") {
            errors.push(FileError::new(
                nested.place,
                "an environment cannot have environments",
                "move it one level up",
            ));
        }
    }
    if errors.is_empty() { Ok(environments) } else { Err(errors) }
}

/// A key that is missing because the environment removed it is shown where it was removed.
fn blame_removal(mut error: FileError, removed: &[(Place, Entry)]) -> FileError {
    let blamed = removed.iter().find(|(place, entry)| {
        *place == error.place && error.what.starts_with(&format!("the key `{}` is missing", entry.key))
    });
    if let Some((_, entry)) = blamed {
        error.place = entry.place;
        error.hint =
            format!("`{}: null` removes the base's: give it a value, or leave it out here", entry.key);
    }
    error
}

/// Reads the types from the tree, and says all that does not fit them; then what does not fit together.
fn decode(root: &Node) -> Result<ReleaseFile, Found> {
    let mut found = Found { errors: Vec::new(), only_missing: true };
    let mut rest = root.clone();
    if let Some(written) = rest.take("environment") {
        found.only_missing = false;
        found.errors.push(FileError::new(
            written.place,
            "unknown key `environment`",
            "did you mean `environments`? One is chosen with --env",
        ));
    }
    // What does not fit is said and cut out, so that the next mistake shows too. What a cut leaves behind around it
    // may not fit any more; that is our doing and not said.
    let mut around: Vec<Place> = Vec::new();
    while found.errors.len() < MOST_MISTAKES {
        let misfit = match ReleaseFile::deserialize(&rest) {
            Ok(file) if found.errors.is_empty() => return validated(file, root),
            Ok(_) => break,
            Err(misfit) => misfit,
        };
        let place = misfit.place.unwrap_or(root.place);
        let of_key = misfit.kind == MisfitKind::Key;
        if !of_key && around.contains(&place) {
            break;
        }
        found.only_missing &= matches!(misfit.kind, MisfitKind::Missing(_));
        found.errors.push(say(misfit, root, place));
        let cut = rest.cut(place, of_key);
        if cut.is_empty() {
            break;
        }
        around.extend(cut);
    }
    Err(found)
}

fn say(misfit: Misfit, root: &Node, place: Place) -> FileError {
    match misfit.kind {
        MisfitKind::Missing(key) => {
            let path = if place == root.place { None } else { root.path_of(place) };
            let within = path.map(|path| format!(" in `{path}`")).unwrap_or_default();
            FileError::new(place, format!("the key `{key}` is missing{within}"), example(key))
        }
        _ => FileError::new(place, misfit.what, misfit.hint),
    }
}

fn validated(file: ReleaseFile, root: &Node) -> Result<ReleaseFile, Found> {
    let mistakes = validate::mistakes(&file);
    if mistakes.is_empty() {
        return Ok(file);
    }
    let errors = mistakes
        .into_iter()
        .take(MOST_MISTAKES)
        .map(|mistake| FileError::new(root.find(&mistake.path), mistake.what, mistake.hint))
        .collect();
    Err(Found { errors, only_missing: false })
}
