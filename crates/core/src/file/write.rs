//! Parts of a release file that is written as text, with comments for the person who reads it.

/// Returns a text that ends where its line ends, and holds nothing that YAML forbids in a comment.
pub fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_string()
}

/// Writes a text as YAML in one line: plain where it is plainly a text, else as JSON, which YAML reads as well.
pub fn scalar(text: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '+' | '=' | '$' | '@');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '$'))
        || (text.starts_with('-') && text.len() > 1);
    let word =
        !matches!(text.to_lowercase().as_str(), "null" | "true" | "false" | "yes" | "no" | "on" | "off");
    if begins && word && text.chars().all(plain) && !text.starts_with("---") && !text.starts_with("...") {
        return text.to_string();
    }
    let json = serde_json::Value::from(text).to_string();
    json.chars()
        .map(|c| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() })
        .collect()
}

/// Writes texts as a YAML list in one line.
pub fn list<T: AsRef<str>>(texts: &[T]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| scalar(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

/// Returns the service name that is nearest to `name`; none where nothing of it can stay.
pub fn service_name(name: &str) -> Option<String> {
    // Of `@scope/name` and `example.com/name` the last part is the name.
    let name = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let words: Vec<&str> = name.split('-').filter(|word| !word.is_empty()).collect();
    let name: String = words.join("-").chars().take(40).collect();
    Some(name.trim_matches('-').to_string()).filter(|name| !name.is_empty())
}
