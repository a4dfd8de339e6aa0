//! The docker platform: what the engine is asked for, and what is remembered of it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use cutover_core::{After, Blame, Fault, Fence, InstanceId, ProcessCounts, RevisionId, ServiceName, file};
use cutover_keep::{Values, Wish, disk};
use cutover_ports::{ObservedRevision, Platform, RevisionSpec};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::container::Container;
use crate::containers::Containers;
use crate::image::{self, Images, Watch};
use crate::logs::{self, Kept};
use crate::memory::Memory;
use crate::options::Options;
use crate::ports::Ports;
use crate::revisions::{Named, Revisions};
use crate::wishes::{Service, Wishes};
use crate::{Engine, body, events, losses, preflight, seen, upkeep, vouch};

/// Containers of one engine. Dropping it, or the death of this process, leaves them running; the next open adopts them.
pub struct DockerPlatform {
    shared: Arc<Shared>,
    closing: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the platform's tasks share.
pub(crate) struct Shared {
    pub(crate) containers: Containers,
    pub(crate) images: Images,
    pub(crate) revisions: Revisions,
    pub(crate) wishes: Wishes,
    pub(crate) kept: Kept,
    pub(crate) memory: Memory,
    pub(crate) ports: Ports,
    pub(crate) options: Options,
    builds: PathBuf,
}

impl DockerPlatform {
    /// Opens the platform whose state lies in `<state_dir>/docker`. What runs is adopted, what was cut short is finished and
    /// what is missing is started while it is open, as soon as the engine can be reached: it need not be yet. One process at a
    /// time; needs a tokio runtime with I/O and time.
    pub async fn open(state_dir: &Path, engine: Engine, options: Options) -> Result<DockerPlatform, Fault> {
        let folder = state_dir.join("docker");
        let shared = Arc::new(blocking(move || Shared::open(&folder, engine, options)).await?);
        let closing = watch::channel(false).0;
        let tasks = vec![
            tokio::spawn(events::follow(shared.clone(), closing.subscribe())),
            tokio::spawn(upkeep::follow(shared.clone(), closing.subscribe())),
        ];
        Ok(DockerPlatform { shared, closing, tasks })
    }

    /// Lets go of the containers, which go on running, and returns when no task of the platform is left.
    pub async fn shutdown(mut self) {
        self.closing.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            if let Err(error) = task.await {
                tracing::error!(%error, "looking after the containers ended badly");
            }
        }
    }

    /// Tells whether the service was ever asked for here.
    pub fn knows(&self, service: &ServiceName) -> bool {
        self.shared.wishes.find(service).is_some()
    }

    /// Returns what a stored revision was made from. Its secrets stay sealed.
    pub fn spec(&self, revision: &RevisionId) -> Result<RevisionSpec, Fault> {
        let manifest = self.shared.revisions.stored(revision)?;
        Ok(RevisionSpec {
            service: manifest.service,
            platform: file::Platform::Docker(Box::new(manifest.platform)),
            processes: manifest.processes,
            settings: String::new(),
            base: manifest.base,
            secrets: Default::default(),
        })
    }
}

impl Drop for DockerPlatform {
    /// Ends the tasks, not the containers.
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

impl Shared {
    fn open(folder: &Path, engine: Engine, options: Options) -> Result<Shared, Fault> {
        disk::ensure_folder(folder, 0o700)?;
        let owner = owner(folder)?;
        let images = Images::of(&engine, &owner, options.credentials.clone(), options.retry)?;
        let begin = u16::from_str_radix(&owner[..4], 16).unwrap_or_default();
        let builds = folder.join("builds");
        disk::ensure_folder(&builds, 0o700)?;
        Ok(Shared {
            containers: Containers { engine, owner },
            images,
            revisions: Revisions::open(folder)?,
            wishes: Wishes::open(folder.join("services"))?,
            kept: Kept { folder: folder.join("logs") },
            memory: Memory::default(),
            ports: Ports::beginning(begin, options.elsewhere),
            options,
            builds,
        })
    }

    async fn stored_image_port(&self, docker: &file::DockerPlatform, id: &str) -> Result<u16, Fault> {
        if let Some(port) = docker.port {
            return Ok(port);
        }
        let engine = &self.containers.engine;
        let found = engine.docker().await?.inspect_image(id).await;
        let found = found.map_err(|error| engine.fault(format!("look at image {id}"), &error))?;
        let exposed = found.config.and_then(|config| config.exposed_ports).unwrap_or_default();
        let ports: Vec<u16> =
            exposed.iter().filter_map(|text| text.strip_suffix("/tcp")?.parse().ok()).collect();
        match ports.as_slice() {
            [] => Ok(file::DOCKER_PORT),
            [port] => Ok(*port),
            _ => {
                let list = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(Fault::configuration(format!("find the service's port: the image exposes {list}"))
                    .hint("Say which of them takes requests: platform.docker.port"))
            }
        }
    }
}

/// Returns by which containers are told from those of other state folders; made once.
fn owner(folder: &Path) -> Result<String, Fault> {
    let path = folder.join("owner.json");
    if let Some(owner) = disk::read_json::<String>(&path)?.filter(|owner| owner.len() == 16) {
        return Ok(owner);
    }
    let owner = disk::random_hex(8).map_err(|error| disk::fault("make", &path, &error))?;
    disk::write_json(&path, &owner)?;
    Ok(owner)
}

/// Runs what waits on the disk where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(Fault::cutover(format!("finish a task: {error}"))))
}

#[async_trait]
impl Platform for DockerPlatform {
    async fn identify(&self, spec: &RevisionSpec) -> Result<RevisionId, Fault> {
        let pinned = self.shared.images.pin(crate::revisions::docker(spec)?, &spec.base).await?;
        let (shared, spec) = (self.shared.clone(), spec.clone());
        blocking(move || shared.revisions.name(&spec, &pinned)).await
    }

    async fn losses(&self, spec: &RevisionSpec) -> Result<Vec<String>, Fault> {
        losses::of(&self.shared.containers.engine, crate::revisions::docker(spec)?).await
    }

    async fn preflight(&self, spec: &RevisionSpec, candidate: &RevisionId) -> Result<String, Fault> {
        preflight::look(&self.shared, spec, candidate).await
    }

    async fn build(&self, fence: Fence, spec: &RevisionSpec, revision: &RevisionId) -> Result<String, Fault> {
        let shared = &self.shared;
        let service = shared.wishes.of(&spec.service)?;
        let acting = service.acting.lock().await;
        shared.admit(fence, &spec.service, &service, |_| ())?;
        let _building = shared.memory.build(revision);
        drop(acting);
        // What is stored was pulled, built and pushed before: a way back waits for no registry.
        if let Ok(Some(manifest)) = shared.revisions.manifest(revision)
            && shared.images.has(&manifest.image).await?.is_some()
        {
            shared.images.tag(&manifest.image, &shared.images.name(&spec.service, revision)).await?;
            return Ok(format!("{revision} is stored, and the engine has its image"));
        }
        let docker = crate::revisions::docker(spec)?;
        let (named, secrets) = match shared.revisions.named(revision)? {
            Some(named) => named,
            None => self.name_again(spec, revision).await?,
        };
        let log = shared.builds.join(format!("{revision}.log"));
        let of = revision.clone();
        let watch = Watch::new(move |line| tracing::info!(revision = %of, line, "image")).kept_in(&log)?;
        let obtained =
            shared.images.obtain(&named.pinned, (&spec.service, revision), &secrets, &watch).await?;
        let port = shared.stored_image_port(docker, &obtained.id).await?;
        let mut line = obtained.line;
        if let Some(to) = docker.build.as_ref().and_then(|build| build.push.as_ref()) {
            let pushed = shared.images.push(&obtained.id, &format!("{to}:{revision}"), &watch).await?;
            line = format!("{line}; {}", pushed.line);
        }
        shared.revisions.store(spec, revision, obtained.id, port)?;
        Ok(line)
    }

    async fn build_output(&self, revision: &RevisionId, from: u64) -> Result<Vec<u8>, Fault> {
        let log = self.shared.builds.join(format!("{revision}.log"));
        blocking(move || image::output(&log, from)).await
    }

    fn build_may_drop(&self, _revision: &RevisionId) -> bool {
        true
    }

    async fn ensure(
        &self,
        fence: Fence,
        name: &ServiceName,
        revision: &RevisionId,
        count: u32,
    ) -> Result<(), Fault> {
        let shared = &self.shared;
        let manifest = shared.revisions.stored(revision)?;
        let service = shared.wishes.of(name)?;
        let acting = service.acting.lock().await;
        shared.admit(fence, name, &service, |wish| {
            match count {
                0 => wish.desired.remove(revision),
                _ => wish.desired.insert(revision.clone(), count),
            };
        })?;
        shared.run(fence, &manifest, revision, None, count).await?;
        let surplus = |one: &Container| {
            let place = &one.labels.place;
            place.revision == *revision && place.beside.is_none() && place.number > count
        };
        let found = shared.containers.of(name).await?;
        drop(acting);
        shared.end(&found.into_iter().filter(surplus).collect::<Vec<_>>()).await
    }

    async fn ensure_processes(
        &self,
        fence: Fence,
        name: &ServiceName,
        revision: &RevisionId,
        run: &ProcessCounts,
    ) -> Result<(), Fault> {
        let shared = &self.shared;
        let run: ProcessCounts =
            run.iter().filter(|(_, count)| **count > 0).map(|(name, count)| (name.clone(), *count)).collect();
        // Ending what runs must not need the revision.
        let manifest = if run.is_empty() {
            shared.revisions.manifest(revision)?
        } else {
            Some(shared.revisions.stored(revision)?)
        };
        for process in run.keys() {
            manifest.iter().try_for_each(|manifest| manifest.command(Some(process)).map(drop))?;
        }
        let service = shared.wishes.of(name)?;
        let acting = service.acting.lock().await;
        shared.admit(fence, name, &service, |wish| {
            match run.is_empty() {
                true => wish.processes.remove(revision),
                false => wish.processes.insert(revision.clone(), run.clone()),
            };
        })?;
        if let Some(manifest) = &manifest {
            for (process, count) in &run {
                shared.run(fence, manifest, revision, Some(process), *count).await?;
            }
        }
        let surplus = |one: &Container| {
            let place = &one.labels.place;
            let wanted = place.beside.as_ref().map(|process| run.get(process).copied().unwrap_or(0));
            place.revision == *revision && wanted.is_some_and(|count| place.number > count)
        };
        let found = shared.containers.of(name).await?;
        drop(acting);
        shared.end(&found.into_iter().filter(surplus).collect::<Vec<_>>()).await
    }

    async fn observe(&self, name: &ServiceName) -> Result<Vec<ObservedRevision>, Fault> {
        match self.shared.wishes.find(name) {
            Some(service) => self.look(name, &service.wish()).await,
            None => Ok(Vec::new()),
        }
    }

    async fn stamp(&self, name: &ServiceName) -> Option<u64> {
        if let Some(stamp) = self.shared.memory.stamp(name) {
            return Some(stamp);
        }
        let generation = self.shared.memory.generation();
        let mut hash = DefaultHasher::new();
        if self.knows(name) {
            let listed = self.shared.containers.list(name).await.ok()?;
            let mut all: Vec<String> = listed.iter().map(seen::summary).collect();
            all.sort();
            all.hash(&mut hash);
        } else {
            Vec::<String>::new().hash(&mut hash);
        }
        let stamp = hash.finish();
        self.shared.memory.note_stamp(name, generation, stamp);
        Some(stamp)
    }

    async fn vouch(&self, service: &ServiceName, instance: &InstanceId) -> Result<(), Fault> {
        let one = self.find(service, instance).await?;
        let elsewhere = self.shared.options.elsewhere;
        blocking(move || vouch::vouch(&one, elsewhere)).await
    }

    async fn restart(
        &self,
        fence: Fence,
        name: &ServiceName,
        instance: &InstanceId,
        why: &str,
    ) -> Result<(), Fault> {
        let service = self.shared.wishes.of(name)?;
        let acting = service.acting.lock().await;
        self.shared.admit(fence, name, &service, |_| ())?;
        drop(acting);
        let one = self.find(name, instance).await?;
        self.shared.memory.restart(one.id, why);
        Ok(())
    }

    async fn retire(&self, fence: Fence, name: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let shared = &self.shared;
        let service = shared.wishes.of(name)?;
        let acting = service.acting.lock().await;
        shared.admit(fence, name, &service, |wish| {
            wish.desired.remove(revision);
            wish.processes.remove(revision);
        })?;
        let mut found = shared.containers.of(name).await?;
        drop(acting);
        found.retain(|one| one.labels.place.revision == *revision);
        shared.end(&found).await
    }

    async fn stored(&self, service: &ServiceName) -> Result<Vec<RevisionId>, Fault> {
        let (shared, service) = (self.shared.clone(), service.clone());
        blocking(move || shared.revisions.list(&service)).await
    }

    async fn discard(&self, fence: Fence, name: &ServiceName, revision: &RevisionId) -> Result<(), Fault> {
        let shared = &self.shared;
        let service = shared.wishes.of(name)?;
        let _acting = service.acting.lock().await;
        shared.admit(fence, name, &service, |_| ())?;
        let wish = service.wish();
        let wanted = wish.desired.contains_key(revision) || wish.processes.contains_key(revision);
        let found = shared.containers.of(name).await?;
        if shared.memory.is_building(revision) {
            return Err(Fault::platform(format!("throw {revision} away: it is being built")));
        }
        if wanted || found.iter().any(|one| one.labels.place.revision == *revision) {
            return Err(Fault::platform(format!("throw {revision} away: instances of it run or are wanted")));
        }
        if !shared.revisions.list(name)?.contains(revision) {
            return Ok(());
        }
        // What cannot be read keeps its image as well: it may be what a rollback needs.
        let mut all = shared.revisions.all()?;
        all.remove(revision);
        // Its image first: what a crash leaves is still a revision, and is thrown away again.
        shared.images.prune(name, &all).await?;
        shared.kept.forget(name, revision);
        let log = shared.builds.join(format!("{revision}.log"));
        disk::remove(&log).map_err(|error| disk::fault("remove", &log, &error))?;
        shared.revisions.forget(revision)
    }

    async fn logs(
        &self,
        service: &ServiceName,
        revision: &RevisionId,
        lines: usize,
    ) -> Result<Vec<(InstanceId, Vec<String>)>, Fault> {
        let shared = &self.shared;
        let mut all = Vec::new();
        for one in shared.containers.of(service).await? {
            if one.labels.place.revision == *revision {
                all.push((
                    one.labels.instance.clone(),
                    logs::tail(&shared.containers, &one.id, lines).await?,
                ));
            }
        }
        let shown = all.iter().map(|(id, _)| id.clone()).collect();
        all.extend(shared.kept.read(service, revision, &shown, lines)?);
        Ok(all)
    }
}

impl DockerPlatform {
    /// Returns what runs, from memory where the engine told of no change and that is only a moment ago: checks look many
    /// times a second, and each look is several questions for each container.
    async fn look(&self, name: &ServiceName, wish: &Wish) -> Result<Vec<ObservedRevision>, Fault> {
        let memory = &self.shared.memory;
        if let Some(seen) = memory.seen(name) {
            return Ok(seen);
        }
        let generation = memory.generation();
        let seen = seen::of(&self.shared, name, wish).await?;
        memory.note_seen(name, generation, &seen);
        Ok(seen)
    }

    /// Names the revision once more: it was thrown away as one that nobody needs, before its release had begun.
    async fn name_again(&self, spec: &RevisionSpec, revision: &RevisionId) -> Result<(Named, Values), Fault> {
        let now = self.identify(spec).await?;
        if now != *revision {
            let what =
                format!("build {revision}: what it is made from changed since it was named, it is {now} now");
            return Err(Fault::new(Blame::Configuration, After::Retry, what).hint("Deploy again."));
        }
        let named = self.shared.revisions.named(revision)?;
        named.ok_or_else(|| Fault::cutover(format!("build {revision}: it was not named")))
    }

    async fn find(&self, service: &ServiceName, instance: &InstanceId) -> Result<Container, Fault> {
        let found = self.shared.containers.of_instance(service, instance).await?;
        found.ok_or_else(|| {
            Fault::cutover(format!("find instance {instance} of {service}: it is not there")).fatal()
        })
    }
}

impl Shared {
    /// Notes the fence and what `change` makes of the wish; what is shown of the service is another thing then.
    fn admit(
        &self,
        fence: Fence,
        name: &ServiceName,
        service: &Service,
        change: impl FnOnce(&mut Wish),
    ) -> Result<(), Fault> {
        self.wishes.admit(fence, name, service, change)?;
        self.memory.changed();
        Ok(())
    }

    /// Returns how long the container gets to stop, in seconds.
    pub(crate) fn grace_s(&self, one: &Container) -> Option<i64> {
        let place = &one.labels.place;
        let manifest = self.revisions.manifest(&place.revision).ok().flatten()?;
        Some(body::seconds(manifest.stop_grace(place.beside.as_ref()).ms()))
    }
}
