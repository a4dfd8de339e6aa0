//! The hosts, and how all of them are asked at once.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cutover_core::{Fault, InstanceId, ReleaseId, RevisionId, ServiceName, file};
use cutover_ports::{ObservedRevision, Platform, Router, RouterView};
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::answers::on;
use crate::merge::Merge;

/// What stands between an instance and its host in the instance's name: `d-012345-1-00ff@b.example`.
const AT: char = '@';

/// How addresses of a host are reached from here. A host's proxy reaches its instances at the host's own addresses.
pub trait Reach: Send + Sync {
    /// Returns where the host's address `there` is reached from here.
    ///
    /// # Errors
    /// No way to it can be opened.
    fn here(&self, there: SocketAddr) -> Result<SocketAddr, Fault>;

    /// Returns the host's address that `here` leads to; `here` itself where that leads nowhere else.
    fn there(&self, here: SocketAddr) -> SocketAddr;

    /// Says why the host cannot be reached; none while it can.
    fn broken(&self) -> Option<Fault>;
}

/// A host whose addresses are those of this machine.
pub struct Direct;

impl Reach for Direct {
    fn here(&self, there: SocketAddr) -> Result<SocketAddr, Fault> {
        Ok(there)
    }

    fn there(&self, here: SocketAddr) -> SocketAddr {
        here
    }

    fn broken(&self) -> Option<Fault> {
        None
    }
}

/// One host.
#[derive(Clone)]
pub struct Member {
    /// What it is called; unique among the hosts.
    pub name: String,
    /// Runs its instances.
    pub platform: Arc<dyn Platform>,
    /// Its proxy.
    pub router: Arc<dyn Router>,
    /// Where its proxy listens in place of the address of each route.
    pub listen: Option<IpAddr>,
    /// How its addresses are reached.
    pub reach: Arc<dyn Reach>,
}

/// How long hosts are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the answer of one host to a look; the others are shown without it then.
    pub look: Duration,
    /// For the answer of one host to a change of weights. What others did is known then, and no lease has lapsed meanwhile.
    pub act: Duration,
    /// How long a host may be silent until it is lost.
    pub lost: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { look: Duration::from_secs(3), act: Duration::from_secs(8), lost: Duration::from_secs(15) }
    }
}

/// All hosts of a service or of several: those that have the same.
pub struct Hosts {
    pub(crate) members: Vec<Member>,
    pub(crate) patience: Patience,
    pub(crate) lost_host: file::LostHost,
    pub(crate) trips: Merge,
    known: Mutex<Known>,
}

/// What was seen and done last.
#[derive(Default)]
struct Known {
    instances: HashMap<(usize, ServiceName), Vec<ObservedRevision>>,
    views: HashMap<(usize, ServiceName), RouterView>,
    /// The release and the candidate whose weight is leased.
    leased: BTreeMap<ServiceName, (ReleaseId, RevisionId)>,
    silent: HashMap<usize, Instant>,
}

impl Hosts {
    /// Makes one of several; `lost_host` decides what becomes of a release whose host is lost.
    pub fn new(members: Vec<Member>, patience: Patience, lost_host: file::LostHost) -> Arc<Hosts> {
        let trips = Merge::new(members.iter().map(|member| member.router.clone()).collect());
        Arc::new(Hosts { members, patience, lost_host, trips, known: Mutex::default() })
    }

    /// Calls all hosts at once, each for at most `within`. Returns their answers in the order of the hosts.
    pub(crate) async fn each<'a, T, F>(
        &'a self,
        within: Option<Duration>,
        call: impl Fn(usize, &'a Member) -> F,
    ) -> Vec<Result<T, Fault>>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        join_all(self.members.iter().enumerate().map(|(index, member)| {
            let call = call(index, member);
            async move {
                if let Some(fault) = member.reach.broken() {
                    return Err(on(&member.name, fault));
                }
                let answer = match within {
                    None => call.await,
                    Some(within) => timeout(within, call).await.unwrap_or_else(|_| {
                        Err(Fault::unknown(format!("hear from the host within {} s", within.as_secs_f32())))
                    }),
                };
                answer.map_err(|fault| on(&member.name, fault))
            }
        }))
        .await
    }

    /// Returns the names, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.name.as_str()).collect()
    }

    /// Returns the host of an instance, and what the host calls it.
    pub(crate) fn home(&self, instance: &InstanceId) -> Result<(&Member, InstanceId), Fault> {
        let parts = instance.as_str().rsplit_once(AT);
        let found = parts.and_then(|(own, host)| {
            let member = self.members.iter().find(|member| member.name == host)?;
            Some((member, InstanceId::new(own)))
        });
        found.ok_or_else(|| Fault::platform(format!("find the host of {instance}: none is called so")))
    }

    /// Notes what a host was asked to show, and returns what it showed last where it is silent.
    pub(crate) fn last_instances(
        &self,
        index: usize,
        service: &ServiceName,
        seen: Option<&[ObservedRevision]>,
    ) -> Vec<ObservedRevision> {
        let mut known = self.known();
        let entry = known.instances.entry((index, service.clone())).or_default();
        if let Some(seen) = seen {
            entry.clear();
            entry.extend_from_slice(seen);
        }
        entry.clone()
    }

    /// The same of what its router shows.
    pub(crate) fn last_view(
        &self,
        index: usize,
        service: &ServiceName,
        seen: Option<&RouterView>,
    ) -> Option<RouterView> {
        let mut known = self.known();
        match seen {
            Some(view) => {
                known.views.insert((index, service.clone()), view.clone());
                Some(view.clone())
            }
            None => known.views.get(&(index, service.clone())).cloned(),
        }
    }

    /// Notes whose weight is leased; none where nobody's is.
    pub(crate) fn lease(&self, service: &ServiceName, leased: Option<(ReleaseId, RevisionId)>) {
        match leased {
            Some(leased) => drop(self.known().leased.insert(service.clone(), leased)),
            None => drop(self.known().leased.remove(service)),
        }
    }

    /// Returns the services with a release under way.
    pub(crate) fn leased(&self) -> BTreeMap<ServiceName, (ReleaseId, RevisionId)> {
        self.known().leased.clone()
    }

    /// Notes whether a host answers. Returns since when it is silent.
    pub(crate) fn hears(&self, index: usize, answers: bool) -> Option<Duration> {
        let mut known = self.known();
        if answers {
            known.silent.remove(&index);
            return None;
        }
        Some(known.silent.entry(index).or_insert_with(Instant::now).elapsed())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Returns what the composite calls an instance of this host.
    pub(crate) fn named(&self, instance: &InstanceId) -> InstanceId {
        InstanceId::new(format!("{instance}{AT}{}", self.name))
    }
}
