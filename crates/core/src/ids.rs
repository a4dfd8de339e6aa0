//! Names that the whole house shares. Plain text inside, but no function takes one for another.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Makes the name from its text.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<&str> for $type {
            fn from(text: &str) -> Self {
                Self(text.to_string())
            }
        }
    };
}

name!(
    /// The service that releases replace, as the release file names it.
    ServiceName
);
name!(
    /// One release of one service: `shop-7` is the seventh.
    ReleaseId
);
name!(
    /// An immutable description of what runs, named by its content: `r-` and twelve hex digits on local.
    RevisionId
);
name!(
    /// One running copy of a revision.
    InstanceId
);
name!(
    /// A process beside the routed one, as the release file names it: `worker`, `clock`.
    ProcessName
);

impl ProcessName {
    /// Tells whether a process can be called this: a lower-case word of at most 20 characters.
    pub fn is_usable(name: &str) -> bool {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        (1..=20).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(word)
    }
}

impl ReleaseId {
    /// Names release `number` (from 1) of `service`.
    pub fn numbered(service: &ServiceName, number: u64) -> Self {
        Self(format!("{service}-{number}"))
    }
}

/// A moment on the engine's clock, in milliseconds: it never steps back, and goes on counting over a reboot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// Returns the moment `ms` later.
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Returns the milliseconds since `earlier`, zero if that is later.
    pub const fn ms_since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Orders the effects of one service: an edge that can fence refuses one lower than the highest it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// Raised each time a driver takes the service over.
    pub epoch: u64,
    /// Rises with each call to an edge within an epoch. Drawn when the call is made, so that a tail and a newer release
    /// of one service never fence each other.
    pub sequence: u64,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}
