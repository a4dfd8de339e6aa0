//! The Ruby in Kamal's files (ERB). It is not run: what it makes must be written by hand.

use std::borrow::Cow;

use crate::cursor::Cursor;
use crate::import::Work;

/// What stands where Ruby stood.
const MARK: &str = "<%";

/// Takes the Ruby out of a file, so that the rest is YAML; every character keeps its place.
pub(crate) fn masked(bytes: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Cow::Borrowed(bytes) };
    if !text.contains(MARK) {
        return Cow::Borrowed(bytes);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let Some(end) = rest[at..].find("%>") else { break };
        out += &rest[..at];
        let code = &rest[at..at + end + 2];
        let before = out.rsplit('\n').next().unwrap_or_default();
        let behind = rest[at + end + 2..].split('\n').next().unwrap_or_default();
        // A line of Ruby alone makes no YAML: it becomes a comment.
        let alone = before.trim().is_empty() && behind.trim().is_empty();
        let first = if alone { '#' } else { '<' };
        for (i, c) in code.chars().enumerate() {
            out.push(match (i, c) {
                (_, '\n') => '\n',
                (0, _) => first,
                (1, _) => '%',
                _ if alone => ' ',
                (_, '%' | '>') => c,
                _ => '_',
            });
        }
        rest = &rest[at + end + 2..];
    }
    out += rest;
    Cow::Owned(out.into_bytes())
}

/// Tells whether a text was made by Ruby.
pub(super) fn is_ruby(text: &str) -> bool {
    text.contains(MARK)
}

/// Says every value that Ruby makes.
pub(super) fn say(work: &mut Work<'_>, at: &Cursor<'_>) {
    for child in at.children() {
        if child.text().is_some_and(is_ruby) {
            let what = "Ruby makes this value, and is not run";
            work.ledger.left(
                &child,
                what,
                "write the value by hand; a secret is named in platform.docker.secrets",
            );
        } else {
            say(work, &child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ruby_is_taken_out_and_all_else_keeps_its_place() {
        let text = "<% require \"x\" %>\na: <%= ENV[\"A: b\"] %>-x\n  <%# c\nd %>\nb: 1\n";
        let masked = String::from_utf8(masked(text.as_bytes()).into_owned()).unwrap();
        assert_eq!(masked, "#%               \na: <%______________%>-x\n  #%   \n    \nb: 1\n");
        assert_eq!(super::masked(b"a: 1 <% open"), Cow::<[u8]>::Borrowed(b"a: 1 <% open"));
        assert_eq!(super::masked(&[0xff, 0xfe]).as_ref(), [0xff, 0xfe]);
    }
}
