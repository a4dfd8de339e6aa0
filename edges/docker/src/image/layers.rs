//! How far the layers of an image are, from what the engine says while it pulls or pushes.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::refusal::Refusal;
use super::watch::Watch;

/// One line of the engine during a pull or a push.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Said {
    pub(crate) id: Option<String>,
    pub(crate) status: Option<String>,
    #[serde(rename = "progressDetail")]
    pub(crate) progress: Option<Amount>,
    pub(crate) error: Option<String>,
    #[serde(rename = "errorDetail")]
    pub(crate) detail: Option<Detail>,
    pub(crate) aux: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Amount {
    current: Option<u64>,
    total: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Detail {
    message: String,
}

impl Said {
    /// Returns what went wrong, if this says so.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        let detail =
            self.detail.as_ref().map(|detail| detail.message.as_str()).filter(|text| !text.is_empty());
        detail.or(self.error.as_deref()).map(Refusal::said)
    }
}

/// Tells a line for each layer's next state, and for each quarter of one that takes long.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    at: BTreeMap<String, (String, u64)>,
    bytes: BTreeMap<String, u64>,
}

impl Layers {
    /// Takes in what the engine said.
    pub(crate) fn hear(&mut self, said: &Said, watch: &Watch) {
        // What has no id is about the whole image.
        let (Some(id), Some(status)) = (&said.id, &said.status) else { return };
        let amount = said.progress.as_ref().and_then(|amount| Some((amount.current?, amount.total?)));
        let quarter =
            amount.map_or(0, |(current, total)| (current * 4).checked_div(total).unwrap_or(0).min(4));
        if let Some((_, total)) = amount {
            let most = self.bytes.entry(id.clone()).or_default();
            *most = total.max(*most);
        }
        let now = (status.clone(), quarter);
        if self.at.get(id) == Some(&now) {
            return;
        }
        watch.line(&match amount {
            Some((current, total)) if total > 0 => {
                format!("{id}: {status}: {} of {}", size(current), size(total))
            }
            _ => format!("{id}: {status}"),
        });
        self.at.insert(id.clone(), now);
    }

    /// Returns how many layers there were, and what moved, such as `3 layers, 45.0 MB`.
    pub(crate) fn summary(&self) -> String {
        let layers =
            self.at.keys().filter(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())).count();
        let noun = if layers == 1 { "layer" } else { "layers" };
        format!("{layers} {noun}, {}", size(self.bytes.values().sum()))
    }
}

/// Spells bytes as the engine does, in powers of ten.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn each_layer_is_told_by_state_and_quarter() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let into = told.clone();
        let watch = Watch::new(move |line| into.lock().unwrap().push(line.to_owned()));
        let mut layers = Layers::default();
        let mut hear = |json: &str| layers.hear(&serde_json::from_str(json).unwrap(), &watch);
        hear(r#"{"status":"Pulling from shop","id":"1.4"}"#);
        hear(r#"{"status":"Pulling fs layer","progressDetail":{},"id":"0123456789ab"}"#);
        for current in [1, 2, 300, 301, 1000] {
            hear(&format!(
                r#"{{"status":"Downloading","progressDetail":{{"current":{current}000,"total":1000000}},"id":"0123456789ab"}}"#
            ));
        }
        hear(r#"{"status":"Pull complete","progressDetail":{},"id":"0123456789ab"}"#);
        hear(r#"{"status":"Digest: sha256:00"}"#);
        assert_eq!(
            *told.lock().unwrap(),
            [
                "1.4: Pulling from shop",
                "0123456789ab: Pulling fs layer",
                "0123456789ab: Downloading: 1.0 kB of 1.0 MB",
                "0123456789ab: Downloading: 300.0 kB of 1.0 MB",
                "0123456789ab: Downloading: 1.0 MB of 1.0 MB",
                "0123456789ab: Pull complete",
            ]
        );
        assert_eq!(layers.summary(), "1 layer, 1.0 MB");
    }

    #[test]
    fn an_error_is_found_in_both_of_its_places() {
        let said: Said = serde_json::from_str(r#"{"errorDetail":{"message":"a"},"error":"b"}"#).unwrap();
        assert_eq!(said.refusal().unwrap().text, "a");
        let said: Said = serde_json::from_str(r#"{"error":"b"}"#).unwrap();
        assert_eq!(said.refusal().unwrap().text, "b");
    }
}
