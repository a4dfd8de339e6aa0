//! Command lines of Procfiles, scripts and Dockerfiles, as a list of words or as a shell's.

/// Makes a command of a line: its words where it has nothing but words, else a shell that becomes it.
pub(super) fn command(line: &str) -> Vec<String> {
    let line = line.trim();
    // The port is the one variable that cutover fills in by itself.
    let plain = line.replace("${PORT}", "$PORT");
    if let Some(words) = words(&plain) {
        return words;
    }
    let several = line.contains([';', '|', '&', '\n'])
        || ["exec ", "cd ", "if ", "for ", "while "].iter().any(|word| line.starts_with(word));
    let assigns = line
        .split_whitespace()
        .next()
        .is_some_and(|word| word.split(['/', '"', '\'']).next().is_some_and(|head| head.contains('=')));
    // The shell must become the service: a stop signal to the shell would not reach it.
    let line = match (several, assigns) {
        (true, _) => line.to_string(),
        (false, true) => format!("exec env {line}"),
        (false, false) => format!("exec {line}"),
    };
    vec!["sh".into(), "-c".into(), line]
}

/// Splits a line that a shell would do nothing to, except for quotes around plain words.
fn words(line: &str) -> Option<Vec<String>> {
    let unquoted = line.replace("$PORT", "");
    if unquoted.contains([
        '$', '`', '|', '&', ';', '<', '>', '(', ')', '*', '?', '[', ']', '{', '}', '~', '#', '!', '\\', '"',
        '\'', '\n',
    ]) {
        return None;
    }
    let words: Vec<String> = line.split_whitespace().map(String::from).collect();
    let program = words.first()?;
    let built_in = ["cd", "exec", "export", "set", "source", ".", "if", "for", "while", "eval"];
    (!program.contains('=') && !built_in.contains(&program.as_str())).then_some(words)
}

/// Puts `$PORT` in place of a number that the service was told to listen on, and keeps it on this machine.
pub(super) fn with_port(words: Vec<String>, ports: &[String]) -> Vec<String> {
    let listen = |word: String| {
        let mut word = word;
        for port in ports {
            if word == *port {
                word = "$PORT".into();
            }
            for sign in [':', '='] {
                if let Some(head) = word.strip_suffix(&format!("{sign}{port}")) {
                    word = format!("{head}{sign}$PORT");
                }
            }
        }
        if word == "0.0.0.0" { "127.0.0.1".into() } else { word.replace("0.0.0.0:$PORT", "127.0.0.1:$PORT") }
    };
    words.into_iter().map(listen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_words_needs_no_shell() {
        for (line, wanted) in [
            ("python3 app.py --port $PORT", "python3|app.py|--port|$PORT"),
            ("./shop -p ${PORT}", "./shop|-p|$PORT"),
            ("puma -e ${RACK_ENV:-development}", "sh|-c|exec puma -e ${RACK_ENV:-development}"),
            ("node \"my app.js\"", "sh|-c|exec node \"my app.js\""),
            ("LOG=info ./shop", "sh|-c|exec env LOG=info ./shop"),
            ("cd web && npm start", "sh|-c|cd web && npm start"),
            ("exec ./shop", "sh|-c|exec ./shop"),
            ("./migrate; ./shop", "sh|-c|./migrate; ./shop"),
        ] {
            assert_eq!(command(line).join("|"), wanted, "{line}");
        }
    }

    #[test]
    fn a_fixed_port_becomes_the_instances() {
        let words =
            ["--port", "8000", "--bind", "0.0.0.0:8000", "--host=0.0.0.0", "0.0.0.0", "-p=8000", "18000"];
        let words = with_port(words.map(String::from).to_vec(), &["8000".into()]);
        assert_eq!(
            words.join(" "),
            "--port $PORT --bind 127.0.0.1:$PORT --host=0.0.0.0 127.0.0.1 -p=$PORT 18000"
        );
    }
}
