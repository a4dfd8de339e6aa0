//! Two hosts in memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::file::{Guard, LostHost, Route};
use cutover_core::{
    Evidence, Fault, Fence, Lease, ReleaseFile, ReleaseId, RevisionId, ServiceName, Shift, Weight,
};
use cutover_hosts::{Direct, Hosts, HostsPlatform, HostsRouter, Member, Patience, Reach};
use cutover_ports::fake::World;
use cutover_ports::{Platform, RevisionSpec, Router, Target};

/// Ports of host b are reached here at others.
struct Beyond;

/// So far from its own.
pub(crate) const BEYOND: u16 = 20_000;

impl Reach for Beyond {
    fn here(&self, there: SocketAddr) -> Result<SocketAddr, Fault> {
        Ok((there.ip(), there.port() + BEYOND).into())
    }

    fn there(&self, here: SocketAddr) -> SocketAddr {
        (here.ip(), here.port() - BEYOND).into()
    }

    fn broken(&self) -> Option<Fault> {
        None
    }
}

/// Hosts a and b.
pub(crate) struct Two {
    pub(crate) worlds: [Arc<World>; 2],
    pub(crate) platform: Arc<HostsPlatform>,
    pub(crate) router: Arc<HostsRouter>,
}

impl Two {
    pub(crate) fn new() -> Two {
        Two::with(LostHost::Abort)
    }

    pub(crate) fn with(lost_host: LostHost) -> Two {
        let worlds = [World::new(), World::new()];
        let members = ["a", "b"].into_iter().zip(&worlds).map(|(name, world)| {
            let edges = world.edges();
            let (platform, router) = (edges.platform, edges.router);
            let reach: Arc<dyn Reach> = if name == "a" { Arc::new(Direct) } else { Arc::new(Beyond) };
            Member { name: name.into(), platform, router, listen: None, reach }
        });
        let patience = Patience { lost: Duration::from_secs(1), ..Patience::default() };
        let hosts = Hosts::new(members.collect(), patience, lost_host);
        let (platform, router) = (Arc::new(HostsPlatform(hosts.clone())), Arc::new(HostsRouter(hosts)));
        Two { worlds, platform, router }
    }

    /// Stores a revision and runs so many of it on all hosts together.
    pub(crate) async fn run(&self, variant: &str, count: u32) -> RevisionId {
        let spec = spec(&shop(), variant);
        let revision = self.platform.identify(&spec).await.unwrap();
        self.platform.build(fence(), &spec, &revision).await.unwrap();
        self.platform.ensure(fence(), &shop(), &revision, count).await.unwrap();
        revision
    }

    /// Returns where all that runs is reached.
    pub(crate) async fn targets(&self) -> Vec<Target> {
        let seen = self.platform.observe(&shop()).await.unwrap();
        let of = |seen: cutover_ports::ObservedRevision| {
            let revision = seen.revision.clone();
            seen.instances.into_iter().map(move |one| Target {
                revision: revision.clone(),
                instance: one.id,
                address: one.address,
            })
        };
        seen.into_iter().flat_map(of).collect()
    }

    /// Gives r-2 this weight, leased, and r-1 the rest.
    pub(crate) async fn shift(&self, weight: Weight) -> Result<Evidence, Fault> {
        let lease = Lease {
            release: release(),
            candidate: "r-2".into(),
            fallback: "r-1".into(),
            retain: Weight::ZERO,
            guard: Guard::default(),
            compare: None,
        };
        let weights = vec![("r-1".into(), weight.rest()), ("r-2".into(), weight)];
        let shift = Shift { weights, lease: Some(lease) };
        let targets = self.targets().await;
        self.router.set(fence(), &shop(), &file("r-1").route, &shift, &targets).await
    }

    /// Returns the weight that r-2 has on each host.
    pub(crate) fn weights(&self) -> [Weight; 2] {
        let of = |world: &World| {
            let all = world.weights("shop");
            all.into_iter()
                .find(|(revision, _)| revision.as_str() == "r-2")
                .map_or(Weight::ZERO, |(_, weight)| weight)
        };
        [of(&self.worlds[0]), of(&self.worlds[1])]
    }

    /// Two instances of r-1 and of r-2 on each host.
    pub(crate) async fn both() -> Two {
        let two = Two::new();
        two.run("r-1", 4).await;
        two.run("r-2", 4).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        two
    }
}

pub(crate) fn shop() -> ServiceName {
    "shop".into()
}

pub(crate) fn release() -> ReleaseId {
    ReleaseId::new("shop-2")
}

/// Returns the next fence.
pub(crate) fn fence() -> Fence {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    Fence { epoch: 1, sequence: LAST.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 }
}

pub(crate) fn file(variant: &str) -> ReleaseFile {
    let text = format!(
        "service: shop\nplatform: {{local: {{command: [./shop], env: {{REVISION: {variant}}}}}}}\n\
         route: [{{proxy: {{listen: \"127.0.0.1:8080\"}}}}]\n"
    );
    ReleaseFile::read("cutover.yaml", &text).unwrap()
}

pub(crate) fn routes() -> Vec<Route> {
    file("r-1").route
}

pub(crate) fn spec(service: &ServiceName, variant: &str) -> RevisionSpec {
    RevisionSpec {
        service: service.clone(),
        platform: file(variant).platform,
        processes: Default::default(),
        settings: String::new(),
        base: PathBuf::from("/"),
        secrets: Default::default(),
    }
}
