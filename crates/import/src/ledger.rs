//! The book in which every key of the input has its finding.

use std::collections::BTreeMap;

use crate::cursor::{Cursor, Path};
use crate::fields::{self, Field};
use crate::finding::{Fate, Finding, Tool};

const BY_HAND: &str = "look what it does, and write it by hand if you need it";

/// Findings by path. A finding of a value stands for all that is in it.
pub(crate) struct Ledger {
    tool: Tool,
    found: BTreeMap<Path, Vec<Finding>>,
}

impl Ledger {
    pub(crate) fn new(tool: Tool) -> Self {
        Ledger { tool, found: BTreeMap::new() }
    }

    /// It became what its field says.
    pub(crate) fn took(&mut self, at: &Cursor<'_>) {
        match fields::of(self.tool, &at.path) {
            Some(field) if field.fate != Fate::NotHonoured => {
                self.note(at, field.fate, field.becomes, field.what, field.next);
            }
            _ => self.note(at, Fate::Honoured, "", "", ""),
        }
    }

    /// It became what its field says, and not in all the same.
    pub(crate) fn differs(&mut self, at: &Cursor<'_>, what: impl Into<String>, next: impl Into<String>) {
        let becomes = fields::of(self.tool, &at.path).map_or("", |field| field.becomes);
        self.note(at, Fate::Differently, becomes, what, next);
    }

    /// It became what `becomes` says, and means the same.
    pub(crate) fn became_same(&mut self, at: &Cursor<'_>, becomes: &str) {
        self.note(at, Fate::Honoured, becomes, "", "");
    }

    /// It became something else than its field says.
    pub(crate) fn became(
        &mut self,
        at: &Cursor<'_>,
        becomes: &str,
        what: impl Into<String>,
        next: impl Into<String>,
    ) {
        self.note(at, Fate::Differently, becomes, what, next);
    }

    /// It is not honoured.
    pub(crate) fn left(&mut self, at: &Cursor<'_>, what: impl Into<String>, next: impl Into<String>) {
        self.note(at, Fate::NotHonoured, "", what, next);
    }

    fn note(
        &mut self,
        at: &Cursor<'_>,
        fate: Fate,
        becomes: &str,
        what: impl Into<String>,
        next: impl Into<String>,
    ) {
        let finding = Finding {
            key: at.path.to_string(),
            line: at.place.line,
            column: at.place.column,
            fate,
            becomes: becomes.into(),
            what: what.into(),
            next: next.into(),
        };
        let known = self.found.entry(at.path.clone()).or_default();
        if !known.contains(&finding) {
            known.push(finding);
        }
    }

    /// Gives every key below `at` that has no finding yet the one of its field.
    pub(crate) fn settle(&mut self, at: &Cursor<'_>) {
        for child in at.children() {
            if self.found.contains_key(&child.path) {
                continue;
            }
            let parts = fields::has_parts(self.tool, &child.path);
            if (parts || self.has_below(&child.path)) && !child.children().is_empty() {
                self.settle(&child);
                continue;
            }
            if child.is_null() || (child.text().is_none() && child.children().is_empty()) {
                self.note(&child, Fate::Honoured, "", "nothing is written there", "");
                continue;
            }
            match fields::of(self.tool, &child.path) {
                Some(field) => self.settle_field(&child, field),
                None if parts => {
                    self.left(&child, format!("keys are expected here, not {}", child.node.noun()), BY_HAND)
                }
                None => self.unknown(&child),
            }
        }
    }

    fn settle_field(&mut self, at: &Cursor<'_>, field: &Field) {
        match field.fate {
            Fate::Honoured if !field.becomes.is_empty() => {
                let what = format!("{} cannot be read as this key", at.node.noun());
                self.left(at, what, format!("write {} by hand, if you need it", field.becomes));
            }
            _ => self.note(at, field.fate, field.becomes, field.what, field.next),
        }
    }

    fn unknown(&mut self, at: &Cursor<'_>) {
        if at.key().starts_with("x-") {
            return self.note(at, Fate::Honoured, "", "an extension: the tool itself ignores it", "");
        }
        let what = format!("no {} key that cutover knows", self.tool.file().replace(" file", ""));
        self.left(at, what, BY_HAND);
    }

    fn has_below(&self, path: &Path) -> bool {
        let next = self.found.range(path.clone()..).next();
        next.is_some_and(|(found, _)| found.is_within(path))
    }

    /// Returns the findings in the order of the file.
    pub(crate) fn finish(self) -> Vec<Finding> {
        let mut all = Vec::new();
        for (_, mut found) in self.found {
            // That it was taken over says nothing more beside how it differs.
            if found.iter().any(|finding| finding.fate != Fate::Honoured) {
                found.retain(|finding| finding.fate != Fate::Honoured);
            }
            all.extend(found);
        }
        all.sort_by_key(|finding| (finding.line, finding.column));
        all
    }
}
