//! Files of other tools: the same reader, with places and explanations, for what is no release file.

pub use super::tree::{Entry, Kind, Node, Place, Scalar, Value, short};

use super::error::{FileError, FileErrors};
use super::{source, yaml};

/// How messages speak of the file that is read, and what they advise.
pub(super) struct Words {
    /// "a release file".
    pub(super) file: &'static str,
    /// "any release file".
    pub(super) any: &'static str,
    pub(super) right: &'static str,
    pub(super) empty: &'static str,
    pub(super) needs: &'static str,
    pub(super) document: &'static str,
    pub(super) template: &'static str,
    pub(super) tag: &'static str,
}

pub(super) const RELEASE_FILE: Words = Words {
    file: "a release file",
    any: "any release file",
    right: "is this the right file? Name it with -f FILE",
    empty: "the release file is empty",
    needs: "it needs at least service, platform and route: `cutover init` writes one",
    document: "a release file is one document: remove the line `---` or `...` above; what differs per environment goes under `environments:`",
    template: "fill it in before, or use `environments:`; quote a text that contains braces",
    tag: "remove the tag; quote a text that begins with `!`",
};

const OTHER_FILE: Words = Words {
    file: "a file to import",
    any: "a file to import may",
    right: "is this the right file?",
    empty: "the file is empty",
    needs: "name a compose file or a Kamal deploy.yml",
    document: "only files of one document are read: import each document by itself",
    template: "fill it in before; quote a text that contains braces",
    tag: "let its own tool write it out first, such as: docker compose config > whole.yaml",
};

/// The file of another tool: good YAML, whatever it says.
#[derive(Clone, Debug)]
pub struct Foreign {
    name: String,
    source: String,
    root: Node,
}

impl Foreign {
    /// Reads YAML or JSON; `name` is how messages call it. Anchors and merge keys are resolved.
    ///
    /// # Errors
    /// When it is no text, no YAML, or far too large: where, and what to do.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Foreign, FileErrors> {
        let fail = |source: &str, error| FileErrors::new(name, source, vec![error]);
        let source = source::decode(bytes, &OTHER_FILE).map_err(|error| {
            // A binary or a huge file has no line worth showing.
            let shown = if error.place == Place::START { &[] } else { bytes };
            fail(&String::from_utf8_lossy(shown), error)
        })?;
        let root = yaml::read(source, &OTHER_FILE).map_err(|error| fail(source, error))?;
        Ok(Foreign { name: name.into(), source: source.into(), root })
    }

    /// Returns what it says.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Makes the message that `what` is wrong at `place`, with the line it stands on.
    pub fn error(&self, place: Place, what: impl Into<String>, hint: impl Into<String>) -> FileErrors {
        FileErrors::new(&self.name, &self.source, vec![FileError::new(place, what, hint)])
    }
}
