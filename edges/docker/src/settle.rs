//! Makes what runs of a service what was asked for.

use std::time::Duration;

use cutover_core::{Fault, Fence, ProcessName, RevisionId};
use cutover_keep::disk;
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::body::{self, For};
use crate::container::Container;
use crate::containers::{Found, Made, Started};
use crate::names::Place;
use crate::platform::Shared;
use crate::revisions::Manifest;

/// A port may be taken between the question and the start, more than once on a busy machine.
const TRIES: usize = 20;
/// After so long the engine is asked again whether a container is gone.
const GOING_AGAIN: Duration = Duration::from_millis(250);
/// So many containers are started at once.
const AT_ONCE: usize = 4;
/// Where nothing is known of a revision any more.
const SOME_GRACE_S: i64 = 30;

impl Shared {
    /// Ensures that the containers 1 to `count` of this kind run. The caller holds the service's `acting`.
    pub(crate) async fn run(
        &self,
        fence: Fence,
        manifest: &Manifest,
        revision: &RevisionId,
        beside: Option<&ProcessName>,
        count: u32,
    ) -> Result<(), Fault> {
        let found = self.containers.of(&manifest.service).await?;
        let places: Vec<Place> = (1..=count)
            .map(|number| Place { revision: revision.clone(), beside: beside.cloned(), number })
            .collect();
        for some in places.chunks(AT_ONCE) {
            let begun = some.iter().map(|place| {
                let there = found.iter().find(|one| one.labels.place == *place);
                self.run_one(fence, manifest, place, there.cloned())
            });
            join_all(begun).await.into_iter().collect::<Result<(), Fault>>()?;
        }
        Ok(())
    }

    /// Ensures that the container of this place runs; `there` is what was found of it.
    pub(crate) async fn run_one(
        &self,
        fence: Fence,
        manifest: &Manifest,
        place: &Place,
        there: Option<Container>,
    ) -> Result<(), Fault> {
        let name = place.container(&manifest.service);
        let (spec, mut there) = (body::spec_hash(manifest)?, there);
        // What a crash left may have the first of its networks alone, for as long as it lives.
        let mut is_whole = manifest.platform.networks.len() < 2;
        for _ in 0..TRIES {
            match there.take() {
                Some(one) if one.is_going() => {
                    self.containers.remove(&one.id).await?;
                    // The engine takes its time, and its name is not free before.
                    sleep(GOING_AGAIN).await;
                }
                Some(one) if one.is_down() && one.labels.spec != spec || one.is_new() && !is_whole => {
                    self.containers.remove(&one.id).await?;
                }
                Some(one) if !one.is_down() => return Ok(()),
                Some(one) => match self.start(&one).await? {
                    Started::Yes => return Ok(()),
                    // Its port is part of it: with another one it is another container.
                    Started::PortTaken => self.containers.remove(&one.id).await?,
                    Started::Gone => {}
                },
                None => {
                    let (made, all) = self.make(fence, manifest, place, &name).await?;
                    (there, is_whole) = (made, is_whole || all);
                }
            }
        }
        Err(Fault::platform(format!(
            "start container {name}: tried {TRIES} times, each time something was in its way"
        ))
        .hint(format!("Look at what happens to it: docker events --filter container={name}")))
    }

    async fn start(&self, one: &Container) -> Result<Started, Fault> {
        let started = self.containers.start(&one.id).await;
        self.memory.changed();
        started
    }

    /// Makes the container, or finds that it is there. Says as well whether it was made here, and so is in all its networks.
    async fn make(
        &self,
        fence: Fence,
        manifest: &Manifest,
        place: &Place,
        name: &str,
    ) -> Result<(Option<Container>, bool), Fault> {
        let secrets = self.revisions.secrets(&place.revision, manifest)?;
        let random =
            disk::random_hex(4).map_err(|error| Fault::platform(format!("name an instance: {error}")))?;
        let published = match manifest.publishes(place) {
            true => Some(self.ports.choose(&self.containers.published().await?)?),
            false => None,
        };
        let instance = place.instance(&random);
        let whose = For { owner: &self.containers.owner, place, instance, fence, published };
        let body = body::of(manifest, &whose, &secrets)?;
        let made = self.containers.make(name, body, &manifest.platform.networks).await;
        self.memory.changed();
        match made? {
            Made::New(id) => Ok((self.containers.look(&id).await?, true)),
            Made::Taken => match self.containers.find(name).await? {
                Found::Ours(one) if one.labels.service == manifest.service && one.labels.place == *place => {
                    Ok((Some(*one), false))
                }
                Found::Nobodys => Ok((None, false)),
                Found::Ours(_) | Found::Foreign => Err(foreign(name)),
            },
        }
    }

    /// Stops these containers and removes them, all at once. Returns when none is left.
    pub(crate) async fn end(&self, containers: &[Container]) -> Result<(), Fault> {
        let ended = containers.iter().map(|one| self.end_one(one));
        join_all(ended).await.into_iter().collect()
    }

    /// Stops a container and removes it. The end of its log is kept.
    pub(crate) async fn end_one(&self, one: &Container) -> Result<(), Fault> {
        let _stopping = self.memory.stop(&one.id);
        let place = &one.labels.place;
        let manifest = self.revisions.manifest(&place.revision).ok().flatten();
        let grace = manifest
            .map_or(SOME_GRACE_S, |manifest| body::seconds(manifest.stop_grace(place.beside.as_ref()).ms()));
        let stopped = self.containers.stop(&one.id, grace).await;
        self.memory.changed();
        stopped?;
        self.kept.keep(&self.containers, one).await;
        self.containers.remove(&one.id).await?;
        self.memory.forget(&one.id);
        self.memory.changed();
        tracing::info!(instance = %one.labels.instance, "container stopped and removed");
        Ok(())
    }
}

/// What is said of a container that has our name, and somebody else made.
pub(crate) fn foreign(name: &str) -> Fault {
    Fault::configuration(format!("make container {name}: there is one of that name that this cutover did not make"))
        .hint(format!(
            "See whose it is: docker inspect {name}. Rename it (docker rename {name} NEW) or remove it; cutover never touches it."
        ))
}
