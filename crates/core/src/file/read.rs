//! What to say of keys that are unknown, missing, or not honoured yet.

use super::tree::short;
use super::{Document, FileErrors, ReleaseFile};

/// Platforms of the format that this version does not know yet.
const NOT_YET_PLATFORMS: [&str; 2] = ["kubernetes", "ecs"];

impl ReleaseFile {
    /// Reads the base of a release file; `name` is how messages call it.
    ///
    /// # Errors
    /// Every mistake that could be found, with line, column, what was expected and the nearest key.
    pub fn read(name: &str, source: &str) -> Result<ReleaseFile, FileErrors> {
        Document::read(name, source.as_bytes())?.base()
    }
}

pub(super) fn unknown_key(unknown: &str, known: &[&str], word: &str) -> (String, String) {
    if NOT_YET_PLATFORMS.contains(&unknown) && known.contains(&"local") {
        return (
            format!("the platform `{unknown}` is not supported by this version of cutover yet"),
            "use `platform: {local: {command: [./shop]}}`: processes on this machine, or `docker`: containers on it".into(),
        );
    }
    // Set by the reader, never written: what people write is its plural.
    let mut known: Vec<&str> = known.iter().copied().filter(|key| *key != "environment").collect();
    if known.contains(&"service") {
        known.push("environments");
    }
    let known = known.as_slice();
    let what = format!("unknown {word} `{}`", short(unknown));
    let list = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let hint = match nearest(unknown, known) {
        Some(key) => format!("did you mean `{key}`? Expected one of: {list}"),
        None if known.is_empty() => format!("no {word} is expected here"),
        None => format!("expected one of: {list}"),
    };
    (what, hint)
}

pub(super) fn example(key: &str) -> &'static str {
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
pub(super) fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace(['-', '_'], "");
    // A signal may be written as C does.
    let unknown = plain(unknown.strip_prefix("SIG").unwrap_or(unknown));
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
