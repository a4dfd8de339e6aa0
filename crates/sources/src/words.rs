//! Numbers as people read them.

use cutover_core::Span;

/// "400ms", "12s", "1m30s": to the second from one second on.
pub(crate) fn span(ms: u64) -> String {
    Span::from_ms(if ms < 1_000 { ms } else { ms / 1_000 * 1_000 }).to_string()
}

/// A number with four places that count: "0.9973", "12", "1.5e12".
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor();
    if !(-5.0..12.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let places = (3.0 - magnitude).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// What somebody else's server said, in one line that disturbs no terminal.
pub(crate) fn shown(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().filter(|letter| !letter.is_control()).take(200).collect();
    if short.is_empty() { "nothing".into() } else { format!("\"{short}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        for (value, text) in [
            (0.997_312, "0.9973"),
            (12.0, "12"),
            (123_456.7, "123457"),
            (0.000_012_345, "0.00001234"),
            (-0.5, "-0.5"),
            (1.5e15, "1.500e15"),
            (0.0, "0"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn what_others_say_is_one_line() {
        assert_eq!(shown("<html>\n\u{1b}[2J  oops</html>"), "\"<html> [2J oops</html>\"");
        assert_eq!(shown(" \n"), "nothing");
    }
}
