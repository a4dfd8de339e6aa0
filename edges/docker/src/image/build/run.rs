//! Runs a build on the engine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cutover_core::{After, Blame, Fault};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Recipe;
use super::hidden::Hidden;
use super::session::{Answers, Session};
use super::trace::Trace;
use crate::image::obtain::{BuildSecrets, Obtained};
use crate::image::reference::short;
use crate::image::refusal::{Refusal, Trouble};
use crate::image::wire::{Ask, Lines};
use crate::image::{Images, Watch};

/// The label that says what an image was built from.
const LABEL: &str = "cutover.content";

/// One line of the engine during a build.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    id: String,
    aux: Option<Value>,
    error: Option<String>,
}

impl Images {
    pub(crate) async fn obtain_built(
        &self,
        recipe: &Recipe,
        content: &str,
        name: &str,
        secrets: &BuildSecrets,
        watch: &Watch,
    ) -> Result<Obtained, Fault> {
        if let Some(found) = self.has(name).await? {
            let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
            if labels.get(LABEL).is_some_and(|built| built == content) {
                return Ok(Obtained { id: found.id, line: format!("{recipe} is in the engine as {name}") });
            }
        }
        self.builds_here().await?;
        let secrets = recipe.secrets(secrets)?;
        let (context, now) = recipe.read().await?;
        if now != content {
            return Err(recipe.changed());
        }
        let hidden = Hidden::of(&secrets);
        let doing = format!("build {}", recipe.dockerfile.display());
        let failed = |refusal: Refusal| refusal.fault(&doing, "the engine");
        let answers = Answers { context, secrets, credentials: self.credentials.clone() };
        let session = Session::open(&self.wire, content, answers).await.map_err(failed)?;
        watch.line(&format!("build {} as {name}", recipe.dockerfile.display()));
        let lines = self.wire.lines(recipe.ask(content, &session.id)).await.map_err(failed)?;
        let id = heard(lines, &hidden, watch, &doing).await?;
        // The context is read while it is built: what was written to meanwhile made another image than the one named.
        if recipe.name().await? != content {
            return Err(recipe.changed());
        }
        self.tag(&id, name).await?;
        Ok(Obtained { line: format!("built {} as {name} ({})", recipe.dockerfile.display(), short(&id)), id })
    }

    /// Tells whether the engine has BuildKit: without it a secret would end up in a layer.
    async fn builds_here(&self) -> Result<(), Fault> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Version {
            #[serde(default)]
            components: Vec<Component>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Component {
            name: String,
        }
        let asked = self.wire.json::<Version>(Ask::new(Method::GET, "/version")).await;
        let version =
            asked.map_err(|refusal| refusal.fault("ask the engine for its version", "the engine"))?;
        if version.components.iter().any(|part| part.name.to_lowercase().contains("podman")) {
            return Err(Fault::configuration(
                "build the image: this engine is podman, which has no BuildKit",
            )
            .hint(
                "Build it with podman build, push it or keep it there, and name it by platform.docker.image.",
            ));
        }
        Ok(())
    }
}

impl Recipe {
    /// Returns the question that begins the build.
    fn ask<'a>(&self, content: &str, session: &str) -> Ask<'a> {
        let mut ask = Ask::new(Method::POST, "/build")
            .query("version", "2")
            .query("remote", "client-session")
            .query("session", session)
            .query("buildid", session)
            .query("dockerfile", "Dockerfile")
            .query("rm", "1")
            .query("labels", json!({LABEL: content}).to_string())
            .query("buildargs", json!(self.args).to_string());
        if let Some(target) = &self.target {
            ask = ask.query("target", target);
        }
        ask
    }

    /// Returns the values of exactly the secrets that it names.
    fn secrets(&self, given: &BuildSecrets) -> Result<BuildSecrets, Fault> {
        let value = |name: &String| match given.get(name) {
            Some(secret) => Ok((name.clone(), secret.clone())),
            None => Err(Fault::configuration(format!(
                "build {}: the secret {name} has no value",
                self.dockerfile.display()
            ))
            .hint(format!("Set {name} in the environment of cutover deploy."))),
        };
        self.secrets.iter().map(value).collect()
    }

    fn changed(&self) -> Fault {
        let what =
            format!("build {}: the context changed since the release began", self.dockerfile.display());
        Fault::new(Blame::Configuration, After::Final, what).hint(
            "Wait until nothing writes to it, or name what changes in .dockerignore; then deploy again.",
        )
    }
}

/// Takes in all that the engine says, and returns the id of the image.
async fn heard(mut lines: Lines, hidden: &Hidden, watch: &Watch, doing: &str) -> Result<String, Fault> {
    let mut trace = Trace::default();
    let mut id = None;
    loop {
        let said = match lines.next::<Said>().await {
            Ok(Some(said)) => said,
            Ok(None) => break,
            Err(refusal) => return Err(refusal.fault(doing, "the engine")),
        };
        if let Some(error) = said.error {
            let error = hidden.hide(&error);
            watch.line(&format!("error: {error}"));
            return Err(failed(&error, &trace, hidden, doing));
        }
        match (said.id.as_str(), said.aux) {
            ("moby.image.id", Some(aux)) => id = aux.get("ID").and_then(Value::as_str).map(str::to_owned),
            ("moby.buildkit.trace", Some(Value::String(aux))) => {
                for line in trace.hear(&STANDARD.decode(aux).unwrap_or_default()) {
                    watch.line(&hidden.hide(&line));
                }
            }
            _ => {}
        }
    }
    id.ok_or_else(|| {
        Fault::new(Blame::Platform, After::Retry, format!("{doing}: the engine ended it without an image"))
            .hint("Try again; look at the engine's log if it stays: journalctl -u docker.")
    })
}

/// Says why a build failed: the network, the disk, or what a step of the Dockerfile did.
fn failed(error: &str, trace: &Trace, hidden: &Hidden, doing: &str) -> Fault {
    let refusal = Refusal::said(error);
    let step = trace.failed();
    let ran = error.contains("exit code: ") || error.contains("did not complete successfully");
    let fault = match (&step, refusal.trouble()) {
        (Some(step), _) if ran => {
            Fault::candidate(format!("{doing}: {} failed: {error}", hidden.hide(&step.name)))
                .hint("Its last lines are above; all of them are in the log of the build.")
        }
        (_, Trouble::Other) => Fault::configuration(format!("{doing}: {error}")).hint(
            "Correct the Dockerfile, or what it takes from the context; .dockerignore may leave it out.",
        ),
        (_, _) => refusal.fault(doing, "the registry of the base image"),
    };
    fault.lines(step.into_iter().flat_map(|step| step.last).map(|line| hidden.hide(&line)))
}
