//! `.dockerignore`: which files are not part of the context.
//!
//! The rules are those of Docker's own matcher: Go's `filepath.Match` with `**`, later lines before earlier ones, and what is
//! in an ignored folder is ignored unless a later `!` line says otherwise.

use cutover_core::Fault;

/// The lines of a `.dockerignore`.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    /// It begins with `!`: what it fits is part of the context after all.
    keeps: bool,
    parts: Vec<Part>,
    /// As text, if it has nothing but letters.
    plain: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Part {
    Letter(char),
    /// `?`: one letter.
    One,
    /// `*`: any letters within one name.
    Name,
    /// `**/`: any number of whole folders, none included.
    Folders,
    /// `**` at the end: anything.
    Rest,
    /// `[a-z]` or `[^a-z]`.
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Which patterns fit a folder: they fit all that is in it.
pub(super) type Fits = Vec<bool>;

impl Ignore {
    /// Reads the lines; `file` names them in a fault.
    pub(super) fn read(text: &str, file: &str) -> Result<Ignore, Fault> {
        let mut patterns = Vec::new();
        for (number, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            // As Docker does it: only what begins with it is a comment.
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let pattern = Pattern::read(line.trim()).map_err(|why| {
                Fault::configuration(format!("read {file}, line {}: {why}: {}", number + 1, line.trim()))
                    .hint("Correct the line; docs/images.md says what lines may be.")
            })?;
            patterns.push(pattern);
        }
        Ok(Ignore { patterns })
    }

    /// What fits the context's own folder: nothing.
    pub(super) fn nothing(&self) -> Fits {
        vec![false; self.patterns.len()]
    }

    /// Tells whether the path is ignored, given what fits the folder that it is in, and what fits itself.
    pub(super) fn look(&self, path: &str, folder: &Fits) -> (bool, Fits) {
        let mut ignored = false;
        let mut fits = self.nothing();
        for (i, pattern) in self.patterns.iter().enumerate() {
            let fit = match folder[i] {
                true => true,
                // One that would change nothing need not be looked at.
                false if pattern.keeps != ignored => false,
                false => pattern.fits(path),
            };
            fits[i] = fit;
            if fit {
                ignored = !pattern.keeps;
            }
        }
        (ignored, fits)
    }

    /// Tells whether something in this ignored folder may be part of the context after all.
    pub(super) fn may_keep_in(&self, folder: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.keeps).any(|pattern| match &pattern.plain {
            Some(plain) => plain.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
            None => true,
        })
    }
}

impl Pattern {
    fn read(line: &str) -> Result<Pattern, &'static str> {
        let (keeps, text) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if text.is_empty() {
            return Err("a `!` keeps nothing without a pattern");
        }
        let text = clean(text);
        let parts = parts(&text)?;
        let letters: Option<String> = parts
            .iter()
            .map(|part| match part {
                Part::Letter(letter) => Some(*letter),
                _ => None,
            })
            .collect();
        Ok(Pattern { keeps, parts, plain: letters })
    }

    /// Tells whether the whole path fits.
    fn fits(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        // at[i]: the parts so far can stand for the first i letters. Each part moves that on, so that no pattern takes long.
        let mut at = vec![false; path.len() + 1];
        at[0] = true;
        for part in &self.parts {
            at = part.step(&at, &path);
        }
        at[path.len()]
    }
}

impl Part {
    fn step(&self, at: &[bool], path: &[char]) -> Vec<bool> {
        let mut next = vec![false; at.len()];
        let mut open = false;
        for i in 0..at.len() {
            let before = i.checked_sub(1).map(|i| path[i]);
            next[i] = match self {
                Part::Letter(letter) => before == Some(*letter) && at[i - 1],
                Part::One => before.is_some_and(|letter| letter != '/') && at[i - 1],
                Part::Class { not, ranges } => before.is_some_and(|letter| {
                    at[i - 1] && ranges.iter().any(|(from, to)| (*from..=*to).contains(&letter)) != *not
                }),
                Part::Name => {
                    open = at[i] || (open && before != Some('/'));
                    open
                }
                Part::Rest => {
                    open |= at[i];
                    open
                }
                Part::Folders => {
                    let whole = open && before == Some('/');
                    open |= at[i];
                    at[i] || whole
                }
            };
        }
        next
    }
}

/// Shortens a path as Go's `filepath.Clean` does, and takes the leading slash: patterns start from the context.
fn clean(text: &str) -> String {
    let rooted = text.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if rooted => {}
            name => names.push(name),
        }
    }
    match names.is_empty() {
        true if rooted => "/".into(),
        true => ".".into(),
        false => names.join("/"),
    }
}

fn parts(text: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        parts.push(match letter {
            '*' if letters.next_if_eq(&'*').is_some() => {
                let _ = letters.next_if_eq(&'/');
                if letters.peek().is_none() { Part::Rest } else { Part::Folders }
            }
            '*' => Part::Name,
            '?' => Part::One,
            '\\' => Part::Letter(letters.next().ok_or("a `\\` at the end escapes nothing")?),
            '[' => class(&mut letters)?,
            letter => Part::Letter(letter),
        });
    }
    Ok(parts)
}

fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Part, &'static str> {
    const OPEN: &str = "a `[` is not closed, or holds nothing";
    let not = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let from = match letters.next().ok_or(OPEN)? {
            ']' if ranges.is_empty() => return Err(OPEN),
            ']' => return Ok(Part::Class { not, ranges }),
            '-' => return Err("a `-` in `[…]` has no beginning"),
            '\\' => letters.next().ok_or(OPEN)?,
            letter => letter,
        };
        let to = match letters.next_if_eq(&'-') {
            Some(_) => match letters.next().ok_or(OPEN)? {
                ']' | '-' => return Err("a `-` in `[…]` has no end"),
                '\\' => letters.next().ok_or(OPEN)?,
                letter => letter,
            },
            None => from,
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at the path by way of its folders, as a walk does.
    fn ignored(lines: &str, path: &str) -> bool {
        let ignore = Ignore::read(lines, ".dockerignore").unwrap();
        let mut fits = ignore.nothing();
        let mut ignored = false;
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            (ignored, fits) = ignore.look(&path[..end], &fits);
        }
        ignored
    }

    #[test]
    fn a_line_fits_paths_as_docker_says() {
        let check = |lines: &str, yes: &[&str], no: &[&str]| {
            yes.iter().for_each(|path| assert!(ignored(lines, path), "{lines:?} ignores {path}"));
            no.iter().for_each(|path| assert!(!ignored(lines, path), "{lines:?} keeps {path}"));
        };
        check("a", &["a", "a/b/c"], &["b/a", "ab"]);
        check("/a", &["a"], &["b/a"]);
        check("a/", &["a", "a/b"], &["b"]);
        check("./a/../b", &["b"], &["a"]);
        check("*.log", &["x.log"], &["d/x.log", "xlog"]);
        check("*/*.log", &["d/x.log"], &["x.log", "a/b/x.log"]);
        check("**/*.log", &["x.log", "a/b/x.log"], &["x.logs"]);
        check("**", &["a", "a/b", ".x"], &[]);
        check("a/**", &["a/b", "a/b/c"], &["a", "ab"]);
        check("a/**/z", &["a/z", "a/b/z", "a/b/c/z", "a/b/z/y"], &["a/bz", "z"]);
        check("**/node_modules", &["node_modules/x", "a/b/node_modules/x/y"], &["node_modules2"]);
        check("f?o", &["foo"], &["f/o", "fo"]);
        check("f[a-c]o", &["fao", "fbo"], &["fdo", "f/o"]);
        // As Docker does it: a class may be a slash.
        check("f[^a-c]o", &["fdo", "f/o"], &["fao"]);
        check(r"a\*b", &["a*b"], &["axb"]);
        check("a.b+(c)|$", &["a.b+(c)|$"], &["axb+(c)|$"]);
        check("# a\n\n  b  \n #c", &["b", "#c"], &["a", "# a"]);
        check("\u{feff}a", &["a"], &[]);
        check("ä?", &["äö", "äö/x"], &["ä"]);
    }

    #[test]
    fn the_last_line_that_fits_decides() {
        let check = |lines: &str, yes: &[&str], no: &[&str]| {
            yes.iter().for_each(|path| assert!(ignored(lines, path), "{lines:?} ignores {path}"));
            no.iter().for_each(|path| assert!(!ignored(lines, path), "{lines:?} keeps {path}"));
        };
        check("*.md\n!README.md", &["a.md"], &["README.md"]);
        check("!README.md\n*.md", &["README.md"], &[]);
        check("*.md\n!README*.md\nREADME-secret.md", &["README-secret.md", "a.md"], &["README-x.md"]);
        check("a\n!a/keep", &["a", "a/x"], &["a/keep", "a/keep/y"]);
        check("*\n!src/**/*.rs", &["src/x", "y.rs"], &["src/a.rs", "src/a/b.rs"]);
        check("**\n! keep", &["x"], &["keep"]);
    }

    #[test]
    fn a_folder_is_passed_by_only_where_nothing_in_it_is_kept() {
        let may = |lines: &str, folder: &str| Ignore::read(lines, "x").unwrap().may_keep_in(folder);
        assert!(!may("a", "a"));
        assert!(may("a\n!a/b/c", "a") && may("a\n!a/b/c", "a/b"));
        assert!(!may("a\n!a/b/c", "ab") && !may("a\n!b", "a"));
        assert!(may("a\n!**/x", "a"));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        let check = |line: &str, why: &str| {
            let fault = Ignore::read(&format!("ok\n{line}"), ".dockerignore").unwrap_err();
            assert_eq!(fault.what, format!("read .dockerignore, line 2: {why}: {line}"));
        };
        check("!", "a `!` keeps nothing without a pattern");
        check("a[", "a `[` is not closed, or holds nothing");
        check("a[]", "a `[` is not closed, or holds nothing");
        check("a[b-]", "a `-` in `[…]` has no end");
        check("a\\", "a `\\` at the end escapes nothing");
    }

    #[test]
    fn no_pattern_takes_long() {
        let lines = "**/*a*".repeat(40);
        assert!(!ignored(&lines, &"a".repeat(200)));
    }
}
