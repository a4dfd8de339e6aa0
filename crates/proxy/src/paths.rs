//! Services by path: the longest prefix wins, and a prefix covers whole segments.

/// Returns how much of `path` the prefix covers; none where it is not below it. `/` and the empty prefix cover all.
pub(crate) fn covers(prefix: &str, path: &str) -> Option<usize> {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix)?;
    // `/api` is not the prefix of `/apiary`.
    (rest.is_empty() || rest.starts_with('/') || prefix.is_empty()).then_some(prefix.len())
}

/// Returns how much of `path` the longest of the prefixes covers; without any prefix all paths are covered.
pub(crate) fn longest(prefixes: &[String], path: &str) -> Option<usize> {
    if prefixes.is_empty() {
        return Some(0);
    }
    prefixes.iter().filter_map(|prefix| covers(prefix, path)).max()
}

/// Returns a prefix that both lists have, as it is compared; none: each request is one service's alone.
pub(crate) fn shared(ours: &[String], theirs: &[String]) -> Option<String> {
    let normal = |prefixes: &[String]| -> Vec<String> {
        if prefixes.is_empty() {
            return vec![String::new()];
        }
        prefixes.iter().map(|prefix| prefix.trim_end_matches('/').to_owned()).collect()
    };
    let theirs = normal(theirs);
    let both = normal(ours).into_iter().find(|prefix| theirs.contains(prefix))?;
    Some(if both.is_empty() { "/".to_owned() } else { both })
}

/// Says what makes a prefix impossible.
pub(crate) fn mistake(prefix: &str) -> Option<String> {
    let plain = prefix.starts_with('/') && !prefix.contains(['?', '#']) && !prefix.contains("//");
    (!plain).then(|| format!("path \"{prefix}\": it begins with / and has no query, such as /api"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_segments() {
        for (prefix, path, covered) in [
            ("/api", "/api", Some(4)),
            ("/api", "/api/", Some(4)),
            ("/api/", "/api", Some(4)),
            ("/api", "/api/v1", Some(4)),
            ("/api", "/apiary", None),
            ("/api", "/API", None),
            ("/api", "/", None),
            ("/", "/anything", Some(0)),
            ("", "*", Some(0)),
        ] {
            assert_eq!(covers(prefix, path), covered, "{prefix} {path}");
        }
    }

    #[test]
    fn two_services_may_not_have_the_same_prefix() {
        let list = |prefixes: &[&str]| prefixes.iter().map(|prefix| (*prefix).to_owned()).collect::<Vec<_>>();
        assert_eq!(shared(&[], &[]), Some("/".into()));
        assert_eq!(shared(&[], &list(&["/"])), Some("/".into()));
        assert_eq!(shared(&list(&["/api/"]), &list(&["/shop", "/api"])), Some("/api".into()));
        assert_eq!(shared(&list(&["/api"]), &list(&["/api/v2"])), None);
        assert_eq!(shared(&[], &list(&["/api"])), None);
    }
}
