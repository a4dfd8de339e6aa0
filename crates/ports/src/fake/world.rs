//! What is true outside of cutover, and how it misbehaves.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cutover_core::{After, Fault, Fence, ProcessCounts, ProcessName, RevisionId, ServiceName, Weight};
use tokio::time::Instant;

use super::state::{State, Table};
use super::{FakeChecker, FakePlatform, FakeRouter};
use crate::{Edges, RouterView};

/// How long the fake router's leases hold.
pub const LEASE: Duration = Duration::from_secs(10);

/// How the instances of a revision behave.
#[derive(Clone, Debug)]
pub struct Behavior {
    /// How long an instance takes until it listens.
    pub start: Duration,
    /// It exits at once, with these words and this output.
    pub exits: Option<(String, Vec<String>)>,
    /// This process of it exits at once, with these words and this output.
    pub process_exits: Option<(ProcessName, String, Vec<String>)>,
    /// Its checks fail with this.
    pub unhealthy: Option<String>,
    /// It listens on another port than it was told.
    pub wrong_port: bool,
    /// Of a hundred of its requests, so many fail.
    pub failing: u64,
}

impl Default for Behavior {
    fn default() -> Self {
        Behavior {
            start: Duration::from_millis(50),
            exits: None,
            process_exits: None,
            unhealthy: None,
            wrong_port: false,
            failing: 0,
        }
    }
}

/// The calls of the three ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Call {
    Identify,
    Losses,
    Preflight,
    PreflightRoutes,
    Build,
    Ensure,
    EnsureProcesses,
    ObserveInstances,
    Vouch,
    Restart,
    Retire,
    Stored,
    Discard,
    Logs,
    Check,
    Smoke,
    Load,
    Gate,
    Set,
    SetTargets,
    Pin,
    ObserveRouter,
    Renew,
    Drain,
    DrainTargets,
    Counts,
    Trips,
    Acknowledge,
    Remove,
}

impl Call {
    /// Tells whether the call changes something.
    pub fn acts(self) -> bool {
        use Call::{
            Build, Discard, Drain, DrainTargets, Ensure, EnsureProcesses, Remove, Renew, Retire, Set,
            SetTargets,
        };
        matches!(
            self,
            Build
                | Ensure
                | EnsureProcesses
                | Retire
                | Discard
                | Set
                | SetTargets
                | Renew
                | Drain
                | DrainTargets
                | Remove
        )
    }
}

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Mishap {
    /// It fails, and would succeed later.
    FailRetry,
    /// It fails for good.
    FailFinal,
    /// It never answers, and does nothing.
    Hang,
    /// It takes hold, and the answer is lost: it never comes.
    LoseAnswer,
    /// It takes hold, and an error says that this is not known.
    Unknown,
    /// It takes so long.
    Delay(Duration),
    /// It takes hold, and once more after so long.
    Duplicate(Duration),
    /// The answer is lost at once, and it takes hold after so long.
    Late(Duration),
    /// It says that it succeeded, and does nothing.
    Lie,
    /// It panics.
    Panic,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// Which.
    pub call: Call,
    /// For which service.
    pub service: ServiceName,
    /// On what: a revision, weights.
    pub what: String,
    /// Under which fence.
    pub fence: Option<Fence>,
    /// How it went, once it went.
    pub refused: Option<String>,
}

/// The world that fakes act on. Cheap to share.
pub struct World {
    state: Mutex<State>,
    mishaps: Mutex<BTreeMap<Call, VecDeque<(u32, Mishap)>>>,
    asked: Mutex<BTreeMap<Call, usize>>,
    acting: Mutex<Vec<(ServiceName, String, u64)>>,
}

impl World {
    /// Makes an empty world.
    pub fn new() -> Arc<World> {
        Arc::new(World {
            state: Mutex::new(State::new()),
            mishaps: Mutex::default(),
            asked: Mutex::default(),
            acting: Mutex::default(),
        })
    }

    /// Returns edges that act on it.
    pub fn edges(self: &Arc<Self>) -> Edges {
        Edges {
            platform: Arc::new(FakePlatform(self.clone())),
            router: Arc::new(FakeRouter(self.clone())),
            checker: Arc::new(FakeChecker(self.clone())),
        }
    }

    /// Says how a revision's instances behave from now on.
    pub fn behave(&self, revision: &str, behavior: Behavior) {
        self.state().behaviors.insert(RevisionId::new(revision), behavior);
    }

    /// Lets the next such call go wrong.
    pub fn spoil(&self, call: Call, mishap: Mishap) {
        self.spoil_after(call, 0, mishap);
    }

    /// Lets one such call go wrong, after `skip` that do not.
    pub fn spoil_after(&self, call: Call, skip: u32, mishap: Mishap) {
        lock(&self.mishaps).entry(call).or_default().push_back((skip, mishap));
    }

    /// Returns the route weights in force, without zeros.
    pub fn weights(&self, service: &str) -> Vec<(RevisionId, Weight)> {
        let state = self.state();
        let table = state.tables.get(&ServiceName::new(service));
        let weights = table.map(Table::weights).unwrap_or_default();
        weights.into_iter().filter(|(_, weight)| *weight > Weight::ZERO).collect()
    }

    /// Returns how many instances run, by revision.
    pub fn running(&self, service: &str) -> BTreeMap<RevisionId, usize> {
        let state = self.state();
        let mine = state.sets.iter().filter(|((name, _), _)| name.as_str() == service);
        mine.map(|((_, revision), set)| (revision.clone(), set.instances.len()))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    /// Returns what runs beside the routed instances, by revision.
    pub fn processes(&self, service: &str) -> BTreeMap<RevisionId, ProcessCounts> {
        self.state().processes(&ServiceName::new(service))
    }

    /// Returns what the router would show.
    pub fn view(&self, service: &str) -> RouterView {
        self.state().view(&ServiceName::new(service))
    }

    /// Tells whether a lease is in force.
    pub fn leased(&self, service: &str) -> bool {
        self.state().tables.get(&ServiceName::new(service)).is_some_and(|table| table.lease.is_some())
    }

    /// Returns what would have hurt a user, or broke a contract.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Returns the calls made so far that change something.
    pub fn calls(&self) -> Vec<Called> {
        self.state().log.clone()
    }

    /// Lets the router take the candidate's traffic away.
    pub fn trip(&self, service: &str, why: &str) {
        self.state().trip(&ServiceName::new(service), why);
    }

    /// Lets the router say from now on that each candidate's traffic is proven to be good.
    pub fn prove(&self) {
        self.state().proven = true;
    }

    /// Lets the router forget everything, as when its disk was lost.
    pub fn lose_table(&self, service: &str) {
        self.state().tables.remove(&ServiceName::new(service));
    }

    /// Returns how often a call was made, those included that only look.
    pub fn asked(&self, call: Call) -> usize {
        lock(&self.asked).get(&call).copied().unwrap_or_default()
    }

    /// Changes the router's table behind cutover's back.
    pub fn edit_table(&self, service: &str) {
        if let Some(table) = self.state().tables.get_mut(&ServiceName::new(service)) {
            table.edited = true;
            table.generation += 1;
        }
    }

    /// Lets an instance of the revision be started again on another port.
    pub fn move_instance(&self, service: &str, revision: &str) {
        self.state().move_instance(&ServiceName::new(service), &RevisionId::new(revision));
    }

    /// Stops every instance of every service, as a reboot does.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.sets.clear();
        state.staff.values_mut().for_each(|staff| staff.workers.clear());
    }

    /// Returns trips that nobody acknowledged.
    pub fn open_trips(&self) -> usize {
        self.state().trips.len()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        state.pass(Instant::now());
        state
    }

    /// Makes a call: logs it, lets it go wrong as planned, else lets it act.
    pub(super) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        about: About,
        instead: T,
        act: impl Fn(&mut State) -> Result<T, Fault> + Clone + Send + 'static,
    ) -> Result<T, Fault> {
        let _acting = self.begin(&about);
        let index = self.note(&about);
        let done = |answer: &Result<T, Fault>| {
            if let (Some(index), Err(fault)) = (index, answer) {
                self.state().log[index].refused = Some(fault.what.clone());
            }
        };
        let fault =
            |after| Err(Fault { after, ..Fault::platform(format!("{:?}: planned fault", about.call)) });
        let answer = match self.mishap(about.call) {
            None => act(&mut self.state()),
            Some(Mishap::FailRetry) => fault(After::Retry),
            Some(Mishap::FailFinal) => fault(After::Final),
            Some(Mishap::Hang) => never().await,
            Some(Mishap::LoseAnswer) => {
                let _ = act(&mut self.state());
                never().await
            }
            Some(Mishap::Unknown) => {
                let _ = act(&mut self.state());
                fault(After::Unknown)
            }
            Some(Mishap::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                act(&mut self.state())
            }
            Some(Mishap::Duplicate(after)) => {
                self.later(after, act.clone());
                act(&mut self.state())
            }
            Some(Mishap::Late(after)) => {
                self.later(after, act.clone());
                fault(After::Unknown)
            }
            Some(Mishap::Lie) => Ok(instead),
            // A planned panic is what this fault is.
            #[allow(clippy::panic)]
            Some(Mishap::Panic) => panic!("{:?}: planned panic", about.call),
        };
        done(&answer);
        answer
    }

    fn later<T>(
        self: &Arc<Self>,
        after: Duration,
        act: impl Fn(&mut State) -> Result<T, Fault> + Send + 'static,
    ) {
        let world = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let _ = act(&mut world.state());
        });
    }

    fn mishap(&self, call: Call) -> Option<Mishap> {
        let mut mishaps = lock(&self.mishaps);
        let queue = mishaps.get_mut(&call)?;
        match queue.front_mut()? {
            (0, _) => queue.pop_front().map(|(_, mishap)| mishap),
            (skip, _) => {
                *skip -= 1;
                None
            }
        }
    }

    fn note(&self, about: &About) -> Option<usize> {
        *lock(&self.asked).entry(about.call).or_default() += 1;
        if !about.call.acts() && about.call != Call::Check {
            return None;
        }
        let mut state = self.state();
        state.log.push(Called {
            call: about.call,
            service: about.service.clone(),
            what: about.what.clone(),
            fence: about.fence,
            refused: None,
        });
        Some(state.log.len() - 1)
    }

    /// Notes that two calls act on one thing at once: a driver must not do that.
    fn begin(self: &Arc<Self>, about: &About) -> Option<Acting> {
        let fence = about.fence?;
        let resource = match about.call {
            Call::Build | Call::Ensure | Call::EnsureProcesses | Call::Retire => about.what.clone(),
            Call::Set | Call::SetTargets | Call::Drain | Call::DrainTargets | Call::Remove => {
                "the router".to_string()
            }
            _ => return None,
        };
        let entry = (about.service.clone(), resource, fence.epoch);
        let mut acting = lock(&self.acting);
        if acting.contains(&entry) {
            let what = format!("two calls act on {} of {} at once", entry.1, entry.0);
            self.state().violations.push(what);
        }
        acting.push(entry.clone());
        Some(Acting { world: self.clone(), entry })
    }
}

/// What a call is about.
pub(super) struct About {
    pub(super) call: Call,
    pub(super) service: ServiceName,
    pub(super) what: String,
    pub(super) fence: Option<Fence>,
}

impl About {
    pub(super) fn new(call: Call, service: &ServiceName, what: impl ToString, fence: Option<Fence>) -> About {
        About { call, service: service.clone(), what: what.to_string(), fence }
    }
}

struct Acting {
    world: Arc<World>,
    entry: (ServiceName, String, u64),
}

impl Drop for Acting {
    fn drop(&mut self) {
        let mut acting = lock(&self.world.acting);
        if let Some(index) = acting.iter().position(|entry| entry == &self.entry) {
            acting.remove(index);
        }
    }
}

fn never<T>() -> impl Future<Output = T> {
    std::future::pending()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
