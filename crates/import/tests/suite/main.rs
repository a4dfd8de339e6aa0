//! What comes of whole files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

mod bad;
mod docs;
mod fixtures;
mod keys;
mod random;

use std::collections::BTreeMap;

use cutover_core::file::FileErrors;
use cutover_import::{Import, Input, import};

/// Imports a text as if it lay beside the release file, in a folder called `shop`.
fn of(name: &str, text: &[u8], service: Option<&str>) -> Result<Import, FileErrors> {
    let variables = [("TAG", "1.4"), ("API_KEY", "hunter2"), ("FEED_HOST", "hunter2.example")];
    let variables: BTreeMap<String, String> =
        variables.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let read = |path: &str| {
        (path == ".env.production")
            .then(|| "# ours\nMAIL_TOKEN=hunter2\nexport LOCALE=de\nPORT=1\n".to_string())
    };
    let folder = if name.ends_with("deploy.yml") { "config" } else { "." };
    import(&Input { name, bytes: text, folder, project: "shop", service, variables: &variables, read: &read })
}
