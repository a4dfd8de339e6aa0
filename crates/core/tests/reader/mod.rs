//! What holds of the release file's reader for every input: told to the property tests and to the fuzzer
//! (`fuzz/fuzz_targets/release_file.rs`).

use cutover_core::ReleaseFile;
use cutover_core::file::{Document, FileErrors};

/// Panics where the reader panics, or breaks a promise.
pub(crate) fn holds(bytes: &[u8]) {
    let document = match Document::read("cutover.yaml", bytes) {
        Ok(document) => document,
        Err(errors) => return told(&errors, bytes),
    };
    match document.check() {
        Ok(checked) => {
            for file in checked.base.iter().chain(&checked.environments) {
                reads_as_it_prints(file);
            }
        }
        Err(errors) => told(&errors, bytes),
    }
    if let Err(errors) = document.base() {
        told(&errors, bytes);
    }
    let names: Vec<&str> = document.environments().collect();
    for name in names {
        if let Err(errors) = document.environment(name) {
            told(&errors, bytes);
        }
    }
    if let Err(errors) = document.environment("nowhere") {
        told(&errors, bytes);
    }
}

/// Each mistake has a place inside the file, a text, something to do, and disturbs no terminal.
fn told(errors: &FileErrors, bytes: &[u8]) {
    let lines = 1 + bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    assert!(!errors.errors().is_empty(), "mistakes without a mistake");
    for error in errors.errors() {
        let line = usize::try_from(error.line()).unwrap_or(usize::MAX);
        assert!(
            (1..=lines).contains(&line) && error.column() >= 1,
            "its place is not in the file: {error:?}"
        );
        // Behind the last line nobody would look for it.
        let behind = line == lines && line > 1 && matches!(bytes.last(), Some(b'\n' | b'\r'));
        assert!(!behind, "its place is behind the file's last line: {error:?}");
        let column = usize::try_from(error.column()).unwrap_or(usize::MAX);
        assert!(column <= bytes.len() + 1, "its column is not in the file: {error:?}");
        assert!(
            !error.what().trim().is_empty() && !error.hint().trim().is_empty(),
            "nothing is said: {error:?}"
        );
    }
    let text = errors.to_string();
    assert!(text.len() < 64 << 10, "a message of {} bytes", text.len());
    let odd = text.chars().find(|c| c.is_control() && *c != '\n' && *c != '\t');
    assert_eq!(odd, None, "{text:?}");
}

/// JSON is YAML: what a file prints as is read as the same file, and laid over itself it changes nothing.
pub(crate) fn reads_as_it_prints(file: &ReleaseFile) {
    let base = ReleaseFile { environment: None, ..file.clone() };
    let printed = print(&base);
    match ReleaseFile::read("printed", &printed) {
        Ok(again) => assert_eq!(again, base, "{printed}"),
        Err(errors) => panic!("{printed}\n{errors}"),
    }
    let with_itself = format!(
        "{},\"environments\":{{\"itself\":{printed},\"nothing\":{{}}}}}}",
        &printed[..printed.len() - 1]
    );
    let document = match Document::read("printed", with_itself.as_bytes()) {
        Ok(document) => document,
        Err(errors) => panic!("{with_itself}\n{errors}"),
    };
    for name in ["itself", "nothing"] {
        match document.environment(name) {
            Ok(merged) => assert_eq!(ReleaseFile { environment: None, ..merged }, base, "{with_itself}"),
            Err(errors) => panic!("{with_itself}\n{errors}"),
        }
    }
}

/// Prints a file as JSON, with control characters escaped, which YAML wants and JSON does not.
fn print(file: &ReleaseFile) -> String {
    let json = match serde_json::to_string(file) {
        Ok(json) => json,
        Err(error) => panic!("{error}"),
    };
    let escaped = |c: char| match c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' || c == '\u{feff}' {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    json.chars().map(escaped).collect()
}
