//! The values of secrets in what a build says: a step may print what it read, and output is shown, kept and journaled.

use std::cmp::Reverse;

use crate::image::obtain::BuildSecrets;

/// What a secret's value is shown as.
const SHOWN: &str = "***";
/// Shorter values are not looked for: they stand everywhere.
const SHORTEST: usize = 4;

/// What must not be shown.
pub(super) struct Hidden(Vec<String>);

impl Hidden {
    pub(super) fn of(secrets: &BuildSecrets) -> Hidden {
        let lines = secrets.values().flat_map(|secret| secret.expose().lines().map(str::trim));
        let mut values: Vec<String> =
            lines.filter(|line| line.len() >= SHORTEST).map(str::to_owned).collect();
        // The longest first: one may be a part of another.
        values.sort_by_key(|value| Reverse(value.len()));
        Hidden(values)
    }

    /// Returns the text without them.
    pub(super) fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, value| text.replace(value, SHOWN))
    }
}

#[cfg(test)]
mod tests {
    use cutover_ports::Secret;

    use super::*;

    #[test]
    fn each_line_of_a_value_is_hidden_and_the_longest_first() {
        let secrets = [("A", "word"), ("B", "password\nsecond line\n"), ("C", "abc")];
        let secrets = secrets.map(|(name, value)| (name.to_owned(), Secret::new(value)));
        let hidden = Hidden::of(&secrets.into());
        assert_eq!(hidden.hide("password word, a second line, abc"), "*** ***, a ***, abc");
    }
}
