//! Builds: what goes in, how it is sent, and what the engine says meanwhile.

mod context;
mod hidden;
mod ignore;
mod proto;
mod run;
mod session;
mod trace;
mod transfer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cutover_core::Fault;
use cutover_core::file::DockerBuild;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::context::Context;

/// What to build, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// The folder that the Dockerfile's COPY takes from.
    context: PathBuf,
    dockerfile: PathBuf,
    target: Option<String>,
    args: BTreeMap<String, String>,
    /// The names alone: a value is in no name, no image and no journal.
    secrets: Vec<String>,
}

impl Recipe {
    pub(crate) fn new(build: &DockerBuild, base: &Path) -> Recipe {
        // Without the dots in between: the path is shown.
        let context: PathBuf = base.join(&build.context).components().collect();
        let dockerfile = context.join(&build.dockerfile);
        let mut secrets = build.secrets.clone();
        secrets.sort();
        secrets.dedup();
        Recipe { context, dockerfile, target: build.target.clone(), args: build.args.clone(), secrets }
    }

    /// Returns the hash of all that goes into the image.
    pub(crate) async fn name(&self) -> Result<String, Fault> {
        Ok(self.read().await?.1)
    }

    /// Reads the context as it is now, and names it. Files are hashed and not kept.
    async fn read(&self) -> Result<(Arc<Context>, String), Fault> {
        let recipe = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let context = Context::read(&recipe.context, &recipe.dockerfile)?;
            let name = recipe.name_with(&context)?;
            Ok((Arc::new(context), name))
        });
        read.await
            .unwrap_or_else(|error| Err(Fault::cutover(format!("read the context of the build: {error}"))))
    }

    fn name_with(&self, context: &Context) -> Result<String, Fault> {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        field(b"cutover build 1");
        field(self.target.as_deref().unwrap_or_default().as_bytes());
        field(&(self.args.len() as u64).to_be_bytes());
        for (key, value) in &self.args {
            field(key.as_bytes());
            field(value.as_bytes());
        }
        field(&(self.secrets.len() as u64).to_be_bytes());
        self.secrets.iter().for_each(|name| field(name.as_bytes()));
        field(&context.dockerfile);
        context.hash(&mut hash)?;
        Ok(format!("sha256:{}", hex(&hash.finalize())))
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the build of {}", self.context.display())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
