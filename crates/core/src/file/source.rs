//! From bytes to text: what is no text, or far too much of it, is said before YAML is read.

use super::error::FileError;
use super::foreign::Words;
use super::tree::Place;
use super::yaml::MAX_BYTES;

/// Returns the text of a file, without its byte order mark.
pub(super) fn decode<'a>(bytes: &'a [u8], words: &Words) -> Result<&'a str, FileError> {
    if bytes.len() > MAX_BYTES {
        return Err(FileError::new(
            Place::START,
            format!("the file has {} MB; {} has at most 1", bytes.len().div_ceil(1_000_000), words.file),
            words.right,
        ));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(FileError::new(Place::START, "the file is UTF-16", "save it as UTF-8"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        if bytes.contains(&0) {
            let what = "the file is not a text";
            return FileError::new(Place::START, what, words.right);
        }
        let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        FileError::new(
            place_after(good),
            format!("the byte 0x{:02x} is not UTF-8", bytes[error.valid_up_to()]),
            "save the file as UTF-8; a character such as é was saved in another encoding",
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // YAML allows few control characters, and each would end in another message.
    let control =
        |c: char| (c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}')) || c == '\u{fffe}';
    if let Some(at) = text.find(control) {
        let c = text[at..].chars().next().unwrap_or_default();
        return Err(FileError::new(
            place_after(&text[..at]),
            format!("the control character U+{:04X} cannot stand in {}", u32::from(c), words.file),
            "remove it; in double quotes it can be written as an escape",
        ));
    }
    let says =
        |line: &str| !matches!(line.trim(), "" | "---" | "..." | "{}") && !line.trim_start().starts_with('#');
    if !lines(text).any(says) {
        return Err(FileError::new(Place::START, words.empty, words.needs));
    }
    Ok(text)
}

/// The place of what follows `before`.
fn place_after(before: &str) -> Place {
    let mut line = 1;
    let mut column = 1;
    let mut chars = before.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' | '\r' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
    }
    Place { line, column }
}

/// The lines of a text as YAML counts them: a carriage return alone ends one too.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'))
}

/// Moves a place that lies behind the end of the text to its last character: the end is where something is missing.
pub(super) fn inside(place: Place, text: &str) -> Place {
    let asked = usize::try_from(place.line.max(1)).unwrap_or(usize::MAX);
    let all: Vec<&str> = lines(text).collect();
    if let Some(line) = all.get(asked - 1)
        && (asked < all.len() || !line.is_empty() || all.len() == 1)
    {
        let columns = u64::try_from(line.chars().count()).unwrap_or(u64::MAX) + 1;
        return Place { line: place.line.max(1), column: place.column.clamp(1, columns) };
    }
    let last = all.iter().rposition(|line| !line.trim().is_empty()).unwrap_or(0);
    let columns = all.get(last).map_or(0, |line| line.trim_end().chars().count());
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Place { line: number(last + 1), column: number(columns + 1) }
}
