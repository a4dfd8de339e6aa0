//! A world, a journal that can be cut off at any append, and engines on both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::text::story_text;
use cutover_core::{
    Event, Machine, ProcessCounts, ProcessName, Record, ReleaseFile, ReleaseId, RevisionId, ServiceName,
    Weight,
};
use cutover_engine::store::{
    Append, Claimed, Journal, Memo, Opening, ReleaseRow, ServiceRow, StoreError, StoreErrorKind, Stored,
    Tenant,
};
use cutover_engine::{
    DeployRequest, Engine, EngineError, EngineOptions, FakeClock, Started, Store, Timeouts,
};
use cutover_ports::fake::World;
use cutover_sources::{OwnSources, Sources};
use tokio::sync::Notify;

pub fn shop() -> ServiceName {
    ServiceName::new("shop")
}

pub fn file(revision: &str, more: &str) -> ReleaseFile {
    let mut text = format!(
        "service: shop\nplatform: {{local: {{command: [./shop], replicas: 2, env: {{REVISION: {revision}}}}}}}\n\
         route: [{{proxy: {{listen: \"127.0.0.1:8080\"}}}}]\n"
    );
    let defaults = [("bake", "5s"), ("keep_warm", "20s"), ("drain", "5s"), ("deadline", "10m")];
    for (key, value) in defaults {
        if !more.contains(&format!("{key}:")) {
            text += &format!("{key}: {value}\n");
        }
    }
    ReleaseFile::read("cutover.yaml", &(text + more)).unwrap()
}

pub fn request(revision: &str, more: &str) -> DeployRequest {
    DeployRequest {
        file: file(revision, more),
        base: PathBuf::from("/app"),
        secrets: BTreeMap::new(),
        by: "ann".into(),
        again: false,
        supersede: false,
    }
}

/// Everything that outlives an engine.
pub struct House {
    pub world: Arc<World>,
    pub clock: Arc<FakeClock>,
    pub folder: tempfile::TempDir,
    /// What metrics and counters are made of.
    pub sources: Arc<dyn Sources>,
}

impl House {
    pub fn new() -> House {
        House {
            world: World::new(),
            clock: Arc::new(FakeClock::new(1_700_000_000_000, "boot-1")),
            folder: tempfile::tempdir().unwrap(),
            sources: Arc::new(OwnSources),
        }
    }

    /// An engine of that name, on a journal that can be cut.
    pub async fn engine(&self, owner: &str, sole: bool) -> (Arc<Engine>, Arc<Cut>) {
        let store = steady(Store::open(&self.folder.path().join("journal.db"))).await.unwrap();
        let cut = Arc::new(Cut::new(store.journal()));
        let timeouts = Timeouts { build: Duration::from_secs(60), ..Timeouts::default() };
        let options = EngineOptions {
            clock: self.clock.clone(),
            sole,
            timeouts,
            sources: self.sources.clone(),
            ..EngineOptions::new(owner)
        };
        let engine = Engine::open(Store::new(cut.clone()), self.world.edges(), options).await.unwrap();
        (engine, cut)
    }

    /// An engine that released `r-1` as the service's first revision.
    pub async fn with_stable(&self) -> (Arc<Engine>, Arc<Cut>) {
        self.with_stable_of("").await
    }

    /// The same, with more in its release file.
    pub async fn with_stable_of(&self, more: &str) -> (Arc<Engine>, Arc<Cut>) {
        let (engine, cut) = self.engine("host:1", true).await;
        let id = started(engine.deploy(request("r-1", more)).await);
        assert_eq!(ended(&engine, &id).await.exit_code(), Some(0));
        cut.appends.store(0, Ordering::SeqCst);
        (engine, cut)
    }

    /// Checks that exactly these revisions run, all traffic is on the first, and nothing hurt a user.
    pub fn settled(&self, revisions: &[&str]) {
        let world = &self.world;
        let weights = vec![(RevisionId::new(revisions[0]), Weight::FULL)];
        assert_eq!(world.weights("shop"), weights, "{:#?}", world.calls());
        let mut running: Vec<String> = world.running("shop").keys().map(RevisionId::to_string).collect();
        let mut wanted: Vec<String> = revisions.iter().map(ToString::to_string).collect();
        running.sort();
        wanted.sort();
        assert_eq!(running, wanted, "{:#?}", world.calls());
        self.unhurt();
    }

    pub fn unhurt(&self) {
        assert_eq!(self.world.violations(), Vec::<String>::new());
        assert_eq!(self.world.view("shop").failed_by_router, 0);
    }
}

/// A service with two workers that may overlap, and a clock that may not.
pub const PROCESSES: &str = "processes:
  worker: {command: [./shop, work], replicas: 2}
  clock: {command: [./shop, tick], overlap: false}
";

/// The processes of [`PROCESSES`], all of one revision.
pub fn staff(revision: &str) -> BTreeMap<RevisionId, ProcessCounts> {
    let counts = [(ProcessName::new("worker"), 2), (ProcessName::new("clock"), 1)];
    [(RevisionId::new(revision), counts.into())].into()
}

pub fn started(started: Result<Started, EngineError>) -> ReleaseId {
    match started.unwrap() {
        Started::Release { id, .. } => id,
        other => panic!("{other:?}"),
    }
}

/// Waits until the machine is as wanted; with a deadline in (paused) time.
pub async fn until(engine: &Engine, id: &ReleaseId, wanted: impl Fn(&Machine) -> bool) -> Machine {
    let mut from = 0;
    for _ in 0..5_000 {
        let machine = engine.machine(id).await.unwrap();
        if wanted(&machine) {
            return machine;
        }
        let records = engine.follow(id, from, Duration::from_secs(1)).await.unwrap();
        from = records.last().map_or(from, |record| record.sequence + 1);
    }
    panic!("never came:\n{}", story(engine, id).await);
}

pub async fn ended(engine: &Engine, id: &ReleaseId) -> Machine {
    until(engine, id, Machine::ended).await
}

pub async fn decided(engine: &Engine, id: &ReleaseId) -> Machine {
    until(engine, id, |machine| !machine.holds_service()).await
}

pub async fn at_step(engine: &Engine, id: &ReleaseId, step: &str) -> Machine {
    until(engine, id, |machine| machine.step().name() == step).await
}

pub async fn story(engine: &Engine, id: &ReleaseId) -> String {
    story_text(&engine.records(id, 0).await.unwrap())
}

/// Replays a journal as a reader would.
pub fn replayed(records: &[Record]) -> Machine {
    let Event::Opened { plan, .. } = &records[0].event else { panic!("no beginning") };
    let mut machine = Machine::open((**plan).clone(), records[0].at);
    for (sequence, record) in records.iter().enumerate().skip(1) {
        assert_eq!(record.sequence, sequence as u64);
        machine.apply(&record.event, record.at).unwrap();
    }
    machine
}

/// Keeps paused time from running on while `call` waits for the journal's thread: tokio does not advance it while a
/// blocking task runs.
pub async fn steady<T>(call: impl Future<Output = T>) -> T {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || {
        let _ = ended.recv();
    });
    let answer = call.await;
    drop(end);
    let _ = blocking.await;
    answer
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    Before,
    After,
}

/// A journal that dies at a chosen append, and everything with it.
pub struct Cut {
    inner: Arc<dyn Journal>,
    pub appends: AtomicUsize,
    at: Mutex<Option<(usize, When)>>,
    dead: AtomicBool,
    pub died: Notify,
    /// So many appends from now on fail as on a full disk.
    pub full: AtomicUsize,
}

impl Cut {
    fn new(inner: Arc<dyn Journal>) -> Cut {
        Cut {
            inner,
            appends: AtomicUsize::new(0),
            at: Mutex::new(None),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            full: AtomicUsize::new(0),
        }
    }

    pub fn die_at(&self, append: usize, when: When) {
        *self.at.lock().unwrap() = Some((append, when));
    }

    async fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
        std::future::pending::<()>().await;
    }

    async fn alive(&self) {
        if self.dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    async fn write<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.alive().await;
        if self.full.load(Ordering::SeqCst) > 0 {
            self.full.fetch_sub(1, Ordering::SeqCst);
            return Err(StoreError::new(StoreErrorKind::Full, "the disk is full"));
        }
        let at = *self.at.lock().unwrap();
        let mine = self.appends.fetch_add(1, Ordering::SeqCst);
        let hit = at.filter(|(append, _)| *append == mine).map(|(_, when)| when);
        if hit == Some(When::Before) {
            self.die().await;
        }
        let answer = steady(call).await;
        if hit == Some(When::After) {
            self.die().await;
        }
        answer
    }

    async fn read<T>(&self, call: impl Future<Output = T>) -> T {
        self.alive().await;
        steady(call).await
    }
}

#[async_trait]
impl Journal for Cut {
    async fn open_release(&self, opening: &Opening) -> Result<u64, StoreError> {
        self.write(self.inner.open_release(opening)).await
    }
    async fn claim(
        &self,
        service: &ServiceName,
        tenant: &Tenant,
        force: bool,
    ) -> Result<Claimed, StoreError> {
        self.read(self.inner.claim(service, tenant, force)).await
    }
    async fn append(&self, append: &Append) -> Result<(), StoreError> {
        self.write(self.inner.append(append)).await
    }
    async fn remember(&self, memo: &Memo) -> Result<(), StoreError> {
        self.read(self.inner.remember(memo)).await
    }
    async fn remembered(&self, release: &ReleaseId) -> Result<BTreeMap<String, String>, StoreError> {
        self.read(self.inner.remembered(release)).await
    }
    async fn renew(&self, service: &ServiceName, epoch: u64, tenant: &Tenant) -> Result<(), StoreError> {
        self.read(self.inner.renew(service, epoch, tenant)).await
    }
    async fn vacate(&self, service: &ServiceName, epoch: u64) -> Result<(), StoreError> {
        self.read(self.inner.vacate(service, epoch)).await
    }
    async fn destroy(&self, service: &ServiceName, epoch: u64) -> Result<(), StoreError> {
        self.read(self.inner.destroy(service, epoch)).await
    }
    async fn records(&self, release: &ReleaseId, from: u64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        self.read(self.inner.records(release, from, limit)).await
    }
    async fn services(&self) -> Result<Vec<ServiceRow>, StoreError> {
        self.read(self.inner.services()).await
    }
    async fn releases(
        &self,
        service: Option<&ServiceName>,
        limit: u32,
    ) -> Result<Vec<ReleaseRow>, StoreError> {
        self.read(self.inner.releases(service, limit)).await
    }
    async fn release(&self, id: &ReleaseId) -> Result<Option<ReleaseRow>, StoreError> {
        self.read(self.inner.release(id)).await
    }
}
