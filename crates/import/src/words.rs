//! Splits a command line as a shell does, without a shell's expansions.

/// Returns the words; none where a quote is not closed or a backslash ends the text.
pub(crate) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                quoted(&mut chars, word)?;
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Reads up to the closing double quote, in which a backslash speaks only of itself, quotes, `$` and backquotes.
fn quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '"' => return Some(()),
            '\\' => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                '\n' => {}
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

/// Quotes a word for a line that a person gives to a shell.
pub(crate) fn for_shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    match word.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        let say = |text: &str| split(text).map(|words| words.join("|"));
        assert_eq!(
            say("bundle exec  puma -C config/puma.rb").as_deref(),
            Some("bundle|exec|puma|-C|config/puma.rb")
        );
        assert_eq!(
            say("sh -c 'a && b' \"c \\\"d\\\"\" e\\ f ''").as_deref(),
            Some("sh|-c|a && b|c \"d\"|e f|")
        );
        assert_eq!(say("\n  ").as_deref(), Some(""));
        assert_eq!(say("a 'b"), None);
        assert_eq!(say("a \\"), None);
    }
}
