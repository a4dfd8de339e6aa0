//! Who is told what happens while an image is pulled, built or pushed.

use std::fmt;
use std::sync::Arc;

/// Takes a line for people at a time.
#[derive(Clone)]
pub struct Watch(Arc<dyn Fn(&str) + Send + Sync>);

impl Watch {
    /// Hands each line to `take`, which must not block.
    pub fn new(take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Tells nobody.
    pub fn nobody() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn line(&self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch(…)")
    }
}
