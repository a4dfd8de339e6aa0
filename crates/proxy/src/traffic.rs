//! What an operator lets the traffic of a service do: pass, wait, flow in order, or read a page.

use serde::{Deserialize, Serialize};

/// Longest page for maintenance.
pub const MAX_PAGE: usize = 1 << 20;
/// Most requests that may be made to wait.
const MAX_WAITING: u32 = 100_000;

/// What the requests of a service do. Kept by the proxy beside its table until somebody says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Traffic {
    /// They pass.
    #[default]
    Open,
    /// They wait.
    Queue(Waiting),
    /// They pass in the order in which they came, that many per second.
    Flow {
        /// Requests per second, at least 1.
        per_second: u32,
        /// Those that wait meanwhile.
        #[serde(flatten)]
        waiting: Waiting,
    },
    /// They are answered 503 with a page.
    Maintenance {
        /// The page.
        page: String,
        /// Its `Content-Type`.
        content_type: String,
        /// Value of `Retry-After`, in seconds.
        retry_after_s: u32,
    },
}

/// How many requests may wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Most requests that wait at once; the next one is answered 503.
    pub limit: u32,
    /// How long one waits; then it is answered 503.
    pub wait_ms: u64,
}

impl Traffic {
    /// Says what makes it impossible.
    pub(crate) fn mistake(&self) -> Option<String> {
        match self {
            Self::Open => None,
            Self::Queue(waiting) => waiting.mistake(),
            Self::Flow { per_second: 0, .. } => {
                Some("a flow of 0 requests per second is a queue: say so".into())
            }
            Self::Flow { waiting, .. } => waiting.mistake(),
            Self::Maintenance { page, .. } if page.len() > MAX_PAGE => {
                Some(format!("the page has {} bytes of at most {MAX_PAGE}", page.len()))
            }
            Self::Maintenance { content_type, .. } => {
                let usable = http::HeaderValue::from_str(content_type).is_ok();
                (!usable).then(|| format!("\"{}\" is no content type", content_type.escape_debug()))
            }
        }
    }

    /// Returns its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Queue(_) => "queue",
            Self::Flow { .. } => "flow",
            Self::Maintenance { .. } => "maintenance",
        }
    }

    /// Returns what waits, where requests do.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        match self {
            Self::Queue(waiting) | Self::Flow { waiting, .. } => Some(*waiting),
            Self::Open | Self::Maintenance { .. } => None,
        }
    }
}

impl Waiting {
    pub(crate) fn mistake(&self) -> Option<String> {
        if self.limit > MAX_WAITING {
            return Some(format!("{} requests cannot wait at once, at most {MAX_WAITING}", self.limit));
        }
        (self.wait_ms == 0).then(|| "a request that may not wait at all cannot be queued".into())
    }
}
