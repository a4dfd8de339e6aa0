//! What the placeholders of queries, URLs and commands stand for.

use cutover_core::file::Selection;

/// The names of a release that queries can be about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The service.
    pub service: String,
    /// The candidate's revision.
    pub revision: String,
    /// Stable's revision; empty in a first release.
    pub stable_revision: String,
}

impl Names {
    /// Fills in a PromQL query. What stands in for a placeholder is escaped as the inside of a quoted string.
    pub(crate) fn query(&self, text: &str, selection: &Selection) -> String {
        let some = |name: &Option<String>| quoted(name.as_deref().unwrap_or_default());
        let words = [
            ("service", quoted(&self.service)),
            ("revision", quoted(&self.revision)),
            ("stable_revision", quoted(&self.stable_revision)),
            ("namespace", some(&selection.namespace)),
            ("stable", some(&selection.stable)),
            ("candidate", some(&selection.candidate)),
            ("window", promql_span(selection.window)),
        ];
        fill(text, &words)
    }

    /// Fills in a text that nothing can be broken out of: only the service and its revisions.
    pub fn plain(&self, text: &str) -> String {
        let words = [
            ("service", self.service.clone()),
            ("revision", self.revision.clone()),
            ("stable_revision", self.stable_revision.clone()),
        ];
        fill(text, &words)
    }

    /// Fills in a URL. What stands in for a placeholder is percent-encoded.
    pub(crate) fn url(&self, text: &str, now_s: u64, window_s: u64) -> String {
        let words = [
            ("service", percent(&self.service)),
            ("revision", percent(&self.revision)),
            ("stable_revision", percent(&self.stable_revision)),
            ("now", now_s.to_string()),
            ("since", now_s.saturating_sub(window_s).to_string()),
        ];
        fill(text, &words)
    }
}

/// Prometheus knows milliseconds, but its parts must come from long to short, as ours do.
pub(crate) fn promql_span(span: cutover_core::Span) -> String {
    format!("{}ms", span.ms())
}

/// Escapes a text for the inside of a quoted PromQL string.
pub(crate) fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Percent-encodes a text for the query of a URL.
pub(crate) fn percent(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// One pass, so that what stands in is never filled in again.
fn fill(text: &str, words: &[(&str, String)]) -> String {
    let mut parts = text.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let known = part
            .split_once("}}")
            .and_then(|(word, rest)| Some((&words.iter().find(|(name, _)| *name == word)?.1, rest)));
        match known {
            Some((value, rest)) => {
                filled += value;
                filled += rest;
            }
            None => {
                filled += "{{";
                filled += part;
            }
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use cutover_core::Span;

    use super::*;

    fn names() -> Names {
        Names { service: "shop".into(), revision: "r-2".into(), stable_revision: "r-1".into() }
    }

    #[test]
    fn a_query_is_filled_in_and_cannot_be_broken_out_of() {
        let selection = Selection {
            namespace: Some("a\"} or vector(1) #".into()),
            stable: Some("{{service}}".into()),
            candidate: None,
            window: Span::from_secs(90),
        };
        assert_eq!(
            names().query(
                "rate(x{r=\"{{revision}}\",n=\"{{namespace}}\",s=\"{{stable}}\"}[{{window}}])",
                &selection
            ),
            "rate(x{r=\"r-2\",n=\"a\\\"} or vector(1) #\",s=\"{{service}}\"}[90000ms])"
        );
    }

    #[test]
    fn a_url_is_filled_in_and_encoded() {
        let names = Names { service: "shop & co".into(), ..names() };
        assert_eq!(
            names.url("http://d/q?q=svc:{{service}}&from={{since}}&to={{now}}", 1_000, 60),
            "http://d/q?q=svc:shop%20%26%20co&from=940&to=1000"
        );
    }
}
