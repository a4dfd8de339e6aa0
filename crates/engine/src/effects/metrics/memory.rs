//! What was measured, kept for the driver that takes a release over.

use std::collections::BTreeMap;

use cutover_core::StepKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::super::Act;
use crate::store::Memo;

/// Where the sources of one bake keep what they measured.
pub(super) struct Memory<'a> {
    pub(super) act: &'a Act,
    pub(super) step: StepKey,
}

impl Memory<'_> {
    /// Keeps what a source measured. Where that fails only a crash before the next time would notice: it is no fault of
    /// the release.
    pub(super) async fn keep(&self, name: &str, measured: &impl Serialize) {
        let text = match serde_json::to_string(measured) {
            Ok(text) => text,
            Err(error) => return warn!(name, %error, "what was measured cannot be written down"),
        };
        let Act { shared, service, release, .. } = self.act;
        let memo = Memo {
            service: service.name.clone(),
            epoch: service.epoch(),
            release: release.id.clone(),
            name: name.into(),
            text,
        };
        if let Err(error) = shared.store.remember(&memo).await {
            warn!(release = %release.id, name, %error, "what was measured is not kept");
        }
    }

    /// Returns what earlier drivers of the release kept.
    pub(super) async fn kept(&self) -> Kept {
        let release = &self.act.release.id;
        match self.act.shared.store.remembered(release).await {
            Ok(kept) => Kept(kept),
            Err(error) => {
                warn!(%release, %error, "what was measured before is not known; it is measured anew");
                Kept(BTreeMap::new())
            }
        }
    }
}

/// What was kept, by name.
#[derive(Default)]
pub(super) struct Kept(BTreeMap<String, String>);

impl Kept {
    /// Returns what a source kept; none where it kept nothing that can be read.
    pub(super) fn of<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let text = self.0.get(name)?;
        serde_json::from_str(text)
            .inspect_err(|error| warn!(name, %error, "what was measured before cannot be read"))
            .ok()
    }
}
