//! Words of commands, and words for how a process ended.

/// Says which signal ended a process: `killed by signal 9 (KILL)`.
pub fn killed_by(signal: i32) -> String {
    format!("killed by signal {signal}{}", signal_name(signal))
}

fn signal_name(number: i32) -> String {
    let names =
        [(1, "HUP"), (2, "INT"), (3, "QUIT"), (4, "ILL"), (6, "ABRT"), (7, "BUS"), (8, "FPE"), (9, "KILL")];
    let more = [(11, "SEGV"), (13, "PIPE"), (15, "TERM"), (31, "SYS")];
    let name = names.iter().chain(&more).find(|(known, _)| *known == number);
    name.map(|(_, name)| format!(" ({name})")).unwrap_or_default()
}

/// Replaces `$PORT` and `${PORT}`, but not the beginning of a longer name.
pub fn with_port(word: &str, port: &str) -> String {
    let word = word.replace("${PORT}", port);
    let mut parts = word.split("$PORT");
    let mut replaced = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let longer = part.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_');
        replaced.push_str(if longer { "$PORT" } else { port });
        replaced.push_str(part);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_replaces_only_its_own_name() {
        let cases = [
            ("$PORT", "8000"),
            ("--listen=127.0.0.1:${PORT}", "--listen=127.0.0.1:8000"),
            ("$PORT:$PORT/", "8000:8000/"),
            ("$PORTAL $PORT_A ${PORTAL} $port", "$PORTAL $PORT_A ${PORTAL} $port"),
        ];
        for (word, replaced) in cases {
            assert_eq!(with_port(word, "8000"), replaced);
        }
    }
}
