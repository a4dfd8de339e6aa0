//! An engine, a state folder, and a service whose image is busybox.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cutover_core::{Fence, ReleaseFile, RevisionId, ServiceName, file};
use cutover_docker::{DockerPlatform, Engine, Options};
use cutover_ports::{InstanceState, ObservedInstance, ObservedRevision, Platform, RevisionSpec};

/// Everything a test waits for comes within this, or not at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// The image of the tests: a shell, a web server, and little else.
pub(crate) const IMAGE: &str = "busybox";
/// A web server that stops when it is asked to, which a first process does only if it says so.
const SERVES: &str = "trap 'kill $!; exit 0' TERM; echo begins; httpd -f -p $PORT & wait";

/// Whether engines must be there: `./test` says so, a bare `cargo test` does not.
pub(crate) fn engines_wanted(test: &str) -> bool {
    if std::env::var_os("CUTOVER_TEST_SERVERS").is_none() {
        println!("skipped: {test}: it needs a Docker engine; ./test runs it");
        return false;
    }
    if !cutover_docker_engine::possible() && std::env::var_os("CI").is_none() {
        println!("skipped: {test}: it needs root, dockerd, docker and ip");
        return false;
    }
    true
}

/// An engine with the image, and a state folder.
pub(crate) struct World {
    pub(crate) engine: cutover_docker_engine::Engine,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        let world =
            World { engine: cutover_docker_engine::Engine::start(), folder: tempfile::tempdir().unwrap() };
        world.image(IMAGE, &[]);
        world
    }

    /// Builds an image out of busybox and `lines` of a Dockerfile.
    pub(crate) fn image(&self, name: &str, lines: &[&str]) -> String {
        let mut all = vec!["RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]"];
        all.extend(lines);
        self.engine.image(name, &[(Path::new("/bin/busybox"), "/bin/busybox")], &all)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) async fn open(&self) -> DockerPlatform {
        self.open_in(&self.state()).await
    }

    pub(crate) async fn open_in(&self, state: &Path) -> DockerPlatform {
        let engine = Engine::at(&self.engine.host()).unwrap();
        DockerPlatform::open(state, engine, quick()).await.unwrap()
    }

    /// A spec with these keys below `platform.docker`, as YAML writes them in braces.
    pub(crate) fn spec(&self, keys: &str) -> RevisionSpec {
        self.spec_of(&shop(), keys)
    }

    pub(crate) fn spec_of(&self, service: &ServiceName, keys: &str) -> RevisionSpec {
        let text = format!(
            "service: {service}\nplatform: {{docker: {{image: {IMAGE}, stop_grace: 5s, {keys}}}}}\n\
             route: [{{proxy: {{listen: '127.0.0.1:1'}}}}]\n"
        );
        RevisionSpec {
            service: service.clone(),
            platform: ReleaseFile::read("test", &text).unwrap().platform,
            processes: Default::default(),
            settings: String::new(),
            base: self.folder.path().to_path_buf(),
            secrets: Default::default(),
        }
    }

    /// A spec that serves, and stops when asked.
    pub(crate) fn serving(&self, more: &str) -> RevisionSpec {
        self.spec(&format!("{}, {more}", serves()))
    }
}

/// Returns the keys of what serves, and stops when asked.
pub(crate) fn serves() -> String {
    format!("command: [sh, -c, \"{SERVES}\"]")
}

/// The defaults, but quicker.
fn quick() -> Options {
    Options {
        upkeep_every: Duration::from_millis(500),
        start_first: Duration::from_millis(50),
        reserve_bytes: 1 << 20,
        ..Options::default()
    }
}

pub(crate) fn shop() -> ServiceName {
    "shop".into()
}

/// Returns a fence above all before.
pub(crate) fn fence() -> Fence {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Fence { epoch: 1, sequence: NEXT.fetch_add(1, Ordering::SeqCst) }
}

/// Returns the docker section of the spec.
pub(crate) fn docker(spec: &mut RevisionSpec) -> &mut file::DockerPlatform {
    match &mut spec.platform {
        file::Platform::Docker(docker) => docker,
        file::Platform::Local(_) => panic!("docker"),
    }
}

/// Names and stores a revision.
pub(crate) async fn store(platform: &DockerPlatform, spec: &RevisionSpec) -> RevisionId {
    let revision = platform.identify(spec).await.unwrap();
    platform.build(fence(), spec, &revision).await.unwrap();
    revision
}

/// Waits until `get` gives something.
pub(crate) async fn wait<T, F>(what: &str, mut get: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        if let Some(got) = get().await {
            return got;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns what runs of the revision now.
pub(crate) async fn seen(platform: &DockerPlatform, revision: &RevisionId) -> Option<ObservedRevision> {
    let all = platform.observe(&shop()).await.unwrap();
    all.into_iter().find(|seen| seen.revision == *revision)
}

/// Waits until exactly `count` instances run and vouch for themselves.
pub(crate) async fn up(
    platform: &DockerPlatform,
    revision: &RevisionId,
    count: usize,
) -> Vec<ObservedInstance> {
    wait(&format!("{count} instances"), || async {
        let instances = seen(platform, revision).await?.instances;
        let running = instances.iter().filter(|one| one.state == InstanceState::Running).count();
        if (running, instances.len()) != (count, count) {
            return None;
        }
        for one in &instances {
            platform.vouch(&shop(), &one.id).await.ok()?;
        }
        Some(instances)
    })
    .await
}

/// Runs a test with time and I/O.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// A platform that several share.
pub(crate) type Shared = Arc<DockerPlatform>;
