//! Reads a release file, and turns what the YAML library says into a place, an expectation and a next step.

use super::error::{FileError, FileErrors};
use super::locate::Places;
use super::{ReleaseFile, validate};

/// Keys of the format that this version does not honour yet. Silence would be worse than an error:
/// a `smoke:` that is not run, for one, lets an untested revision pass.
const NOT_YET: [(&str, &str); 4] = [
    ("environments", "keep one release file per environment and name it with -f"),
    ("smoke", "ask the same with `health: [{path: …}]` or `health: [{run: …}]`"),
    ("load", "run the load test from a `health: [{run: …}]` command"),
    ("processes", "give each process a release file of its own"),
];

impl ReleaseFile {
    /// Reads a release file; `name` is how messages call it.
    ///
    /// # Errors
    /// Every mistake that could be found, with line, column, what was expected and the nearest key.
    pub fn read(name: &str, source: &str) -> Result<ReleaseFile, FileErrors> {
        let fail = |errors| Err(FileErrors::new(name, source, errors));
        if source.trim().is_empty() {
            return fail(vec![FileError {
                line: 0,
                column: 0,
                what: "the release file is empty".into(),
                hint: "it needs at least service, platform and route: see the README's ten lines".into(),
            }]);
        }
        let file: ReleaseFile = match serde_saphyr::from_str(source) {
            Ok(file) => file,
            Err(error) => return fail(vec![explain(&error)]),
        };
        let found = validate::mistakes(&file);
        if found.is_empty() {
            return Ok(file);
        }
        let places = Places::of(source);
        let mut errors: Vec<FileError> = found
            .into_iter()
            .map(|mistake| {
                let (line, column) = places.find(&mistake.path);
                FileError { line, column, what: mistake.what, hint: mistake.hint }
            })
            .collect();
        errors.sort_by_key(|error| (error.line, error.column));
        fail(errors)
    }
}

fn explain(error: &serde_saphyr::Error) -> FileError {
    use serde_saphyr::Error;
    let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
    let error = error.without_snippet();
    let (what, hint) = match error {
        Error::SerdeUnknownField { field, expected, .. } => unknown_key(field, expected, "key"),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown_key(variant, expected, "value"),
        Error::SerdeMissingField { field, .. } => {
            (format!("the key `{field}` is missing"), example(field).into())
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("?");
            (format!("the key `{key}` stands here twice"), "keep one of them".into())
        }
        other => reword(strip_place(&other.to_string())),
    };
    FileError { line, column, what, hint }
}

/// Cuts the library's own "at line …" from the text: the place is printed once, in front.
fn strip_place(text: &str) -> &str {
    let text = text.lines().next().unwrap_or(text);
    text.find(" at line ").map_or(text, |cut| &text[..cut])
}

/// What the YAML library says of shapes, in the words of somebody who writes the file.
fn reword(text: &str) -> (String, String) {
    let (what, hint) = match text {
        "expected sequence start" => {
            ("a list is expected here", "write it in brackets, such as `[one, two]`")
        }
        "expected mapping start" => {
            ("keys with values are expected here", "such as `{key: value}`, or one `key: value` a line")
        }
        "invalid socket address syntax" => (
            "this is not an address with a port",
            "write an IP address and a port in quotes, such as \"127.0.0.1:8080\" or \"[::]:80\"",
        ),
        other => (other, ""),
    };
    (what.into(), hint.into())
}

fn unknown_key(unknown: &str, known: &[&str], word: &str) -> (String, String) {
    if let Some((_, instead)) = NOT_YET.iter().find(|(key, _)| key == &unknown) {
        return (format!("`{unknown}` is not supported by this version of cutover yet"), (*instead).into());
    }
    let what = format!("unknown {word} `{unknown}`");
    let list = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let hint = match nearest(unknown, known) {
        Some(key) => format!("did you mean `{key}`? Expected one of: {list}"),
        None if known.is_empty() => format!("no {word} is expected here"),
        None => format!("expected one of: {list}"),
    };
    (what, hint)
}

fn example(key: &str) -> &'static str {
    match key {
        "service" => "give the service a name: `service: shop`",
        "platform" => "say what runs: `platform: {local: {command: [./shop]}}`",
        "route" => "say where requests come in: `route: [{proxy: {listen: \"127.0.0.1:8080\"}}]`",
        "command" => "say what runs: `command: [./shop, --quiet]`",
        "listen" => "give the address: `listen: \"127.0.0.1:8080\"`",
        _ => "",
    }
}

/// Returns the known key closest to `unknown`, if it is close enough to be a slip.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', '_'], "");
    let unknown = plain(unknown);
    known
        .iter()
        .map(|key| (distance(&unknown, &plain(key)), *key))
        .min()
        .filter(|(distance, key)| *distance <= 1 + key.len() / 4)
        .map(|(_, key)| key)
}

/// Levenshtein's distance, with a swap of neighbours as one edit (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = usize::from(a[i - 1] != b[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_a_slip_away_or_none() {
        let keys = ["service", "platform", "route", "keep_warm"];
        assert_eq!(nearest("sevrice", &keys), Some("service"));
        assert_eq!(nearest("keepWarm", &keys), Some("keep_warm"));
        assert_eq!(nearest("routes", &keys), Some("route"));
        assert_eq!(nearest("nonsense", &keys), None);
    }
}
