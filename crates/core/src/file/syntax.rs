//! What is wrong with YAML, in the words of somebody who writes the file: the parser speaks of tokens and contexts.

use super::error::FileError;
use super::foreign::Words;
use super::source::lines;
use super::tree::{Place, short};

/// Explains what the parser says (`text`) of `place`.
pub(super) fn explain(place: Place, text: &str, source: &str, words: &Words) -> FileError {
    if let Some(error) =
        conflict(source).or_else(|| tabbed(source, place)).or_else(|| template(source, place, words))
    {
        return error;
    }
    if text.contains("mapping values are not allowed")
        && let Some(error) = unspaced(source, place)
    {
        return error;
    }
    // "mismatched bracket '[' closed by '}'" needs its two characters.
    if let Some((open, close)) =
        text.strip_prefix("mismatched bracket '").and_then(|rest| rest.split_once("' closed by '"))
    {
        let close = close.chars().next().unwrap_or_default();
        let what = format!("this `{open}` is closed by `{close}`");
        return FileError::new(
            place,
            what,
            "`[` is closed by `]`, `{` by `}`; is one of them missing or too many?",
        );
    }
    if text.contains("multiple YAML documents") {
        return FileError::new(place, "a second document begins here", words.document);
    }
    let (what, hint) = WORDS
        .iter()
        .find(|(part, _, _)| text.contains(part))
        .map_or((text, GENERAL), |(_, what, hint)| (*what, *hint));
    if what == TAGS {
        return FileError::new(place, format!("{TAGS} in {}", words.file), words.tag);
    }
    let what = if what.trim().is_empty() { "this is not YAML" } else { what };
    FileError::new(place, short(what), hint)
}

/// What version control leaves behind.
fn conflict(source: &str) -> Option<FileError> {
    let index =
        lines(source).position(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "))?;
    let place = Place { line: u64::try_from(index + 1).ok()?, column: 1 };
    Some(FileError::new(place, "a merge conflict was left in the file", "keep one side and remove the marks"))
}

/// A tab where YAML counts spaces: the commonest cause of messages that speak of something else.
fn tabbed(source: &str, place: Place) -> Option<FileError> {
    let line = line(source, place.line)?;
    line.chars().take_while(|c| matches!(c, ' ' | '\t')).any(|c| c == '\t').then(|| {
        FileError::new(
            place,
            "this line is indented with a tab",
            "indent with spaces; YAML does not count tabs",
        )
    })
}

/// Braces of a template language are mappings to YAML.
fn template(source: &str, place: Place, words: &Words) -> Option<FileError> {
    let line = line(source, place.line)?;
    (line.contains("{{") || line.contains("{%"))
        .then(|| FileError::new(place, format!("{} is no template", words.file), words.template))
}

/// `service:shop` is a text of its own, and the next line is blamed for it.
fn unspaced(source: &str, place: Place) -> Option<FileError> {
    let above = place.line.checked_sub(1)?;
    let line = line(source, above)?;
    let (key, value) = line.split_once(':')?;
    let is_key = key.trim().chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !key.trim().is_empty();
    let unspaced = value.starts_with(|c: char| !c.is_whitespace() && c != '/');
    let column = u64::try_from(key.chars().count()).ok()? + 1;
    (is_key && unspaced).then(|| {
        FileError::new(
            Place { line: above, column },
            "no space after the colon",
            format!("write `{}: {}`", short(key.trim()), short(value.trim())),
        )
    })
}

fn line(source: &str, number: u64) -> Option<&str> {
    lines(source).nth(usize::try_from(number).ok()?.checked_sub(1)?)
}

const GENERAL: &str =
    "this is not YAML: look at this line and the one above for indentation, quotes and brackets";
const TAGS: &str = "YAML tags (`!name`) mean nothing";
const QUOTES: &str = "put the value into quotes";

/// A part of the parser's text, what we say, what to do.
const WORDS: [(&str, &str, &str); 31] = [
    (
        "mapping values are not allowed",
        "`key: value` is not possible here",
        "put it on a line of its own, as deep as its neighbours; quote a text that contains \": \"",
    ),
    (
        "mapping keys are not allowed",
        "a key is not possible here",
        "put it on a line of its own, as deep as its neighbours",
    ),
    (
        "block sequence entries are not allowed",
        "a list item `- …` is not possible here",
        "put it on a line of its own, below its key",
    ),
    (
        "\"-\" is only valid inside a block",
        "a list item `- …` is not possible inside brackets",
        "close the bracket that is open above, or separate items with commas",
    ),
    (
        "simple key expect",
        "a key without its colon",
        "write `key: value`, and indent what belongs to the key above deeper than it",
    ),
    (
        "implicit flow mapping",
        "an item is missing, or a bracket is not closed",
        "one comma stands between two items; `[` is closed by `]`, `{` by `}`",
    ),
    (
        "while parsing a flow mapping",
        "a brace `{` is open here and not closed",
        "write `{key: value, key: value}`; quote a text that contains \": \" or \", \"",
    ),
    (
        "while parsing a flow sequence",
        "a bracket `[` is open here and not closed",
        "write `[one, two]`; quote a text that contains \", \"",
    ),
    (
        "while parsing a block mapping",
        "this does not fit the keys above",
        "write `key: value`, as deep as its neighbours",
    ),
    (
        "while parsing a block collection",
        "this does not fit the list above",
        "write `- item`, as deep as its neighbours",
    ),
    ("while parsing node", "a value is expected here", "write it after the key, or indented below it"),
    ("misplaced bracket", "this bracket closes nothing", "remove it, or open it"),
    ("unclosed bracket", "this bracket is not closed", "`[` is closed by `]`, `{` by `}`"),
    (
        "invalid indentation",
        "this is not as deep as what it belongs to",
        "indent what is inside brackets or quotes deeper than its key",
    ),
    ("unclosed quote", "this quote is not closed", "close it on the same line"),
    (
        "while scanning a quoted scalar",
        "a quote is not closed, or its text is broken off",
        "close it on the same line",
    ),
    (
        "invalid trailing content after",
        "text after a closing quote",
        "put the whole value into one pair of quotes",
    ),
    (
        "escape",
        "this escape is not known in double quotes",
        "write the backslash twice, or use single quotes",
    ),
    (
        "unknown anchor",
        "this alias names an anchor that does not stand above",
        "define it first: `key: &name value`, then `*name`; quote a text that begins with `*`",
    ),
    (
        "anchor or alias",
        "`&` and `*` need a name",
        "such as `&name`; quote a text that begins with `&` or `*`",
    ),
    (
        "recursive references",
        "this alias stands inside of what it repeats",
        "write the value out instead of `*name`",
    ),
    ("unexpected character", "a value cannot begin with this character", QUOTES),
    ("any token", "a value cannot begin with this character", QUOTES),
    ("plain scalar cannot start", "a value cannot begin like this", QUOTES),
    (
        "expected string scalar",
        "a key is one word, not a list and not keys",
        "write `key: value`; quote a text that begins with a bracket or a brace",
    ),
    ("null into string", "a key is missing before the colon", "write `key: value`"),
    ("tag", TAGS, ""),
    (
        "directive",
        "YAML directives (`%…`) mean nothing in a release file",
        "remove the line; quote a text that begins with `%`",
    ),
    (
        "document start",
        "this does not belong to the file's keys",
        "every line is `key: value` or deeper than its key; close quotes and brackets before",
    ),
    (
        "merge",
        "`<<` takes keys with values, or a list of them",
        "write `<<: *name`, where `&name` stands before keys with values",
    ),
    (
        "tab",
        "a tab where YAML wants spaces",
        "indent with spaces; put a text that begins with a tab into quotes",
    ),
];
