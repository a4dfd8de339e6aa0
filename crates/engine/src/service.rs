//! One service in this engine: its epoch and fences, what acts on it right now, and the releases driven here.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use cutover_core::effect::{BackStage, Resource};
use cutover_core::{
    Command, Fence, InstanceId, Machine, Mode, Release, ReleaseId, RevisionId, ServiceName, Step,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::effects::Measuring;
use crate::error::EngineError;
use crate::util::lock;

/// What other tasks say to a driver.
pub(crate) enum Message {
    Command { command: Command, by: String, reply: Option<oneshot::Sender<Result<(), EngineError>>> },
    Trip { number: u64, why: String, shared: bool, journaled: oneshot::Sender<()> },
}

/// A release that is driven here.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) number: u64,
    pub(crate) release: Arc<Release>,
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) state: watch::Receiver<LiveState>,
}

impl Live {
    pub(crate) fn machine(&self) -> Machine {
        self.state.borrow().machine.clone()
    }

    pub(crate) fn look<T>(&self, at: impl FnOnce(&Machine) -> T) -> T {
        at(&self.state.borrow().machine)
    }
}

/// A driver's state as others see it.
#[derive(Clone)]
pub(crate) struct LiveState {
    pub(crate) machine: Machine,
    /// The sequence of the next record.
    pub(crate) next: u64,
}

pub(crate) struct Service {
    pub(crate) name: ServiceName,
    /// The epoch under which this engine drives the service, and the last fence given out.
    fence: Mutex<Fence>,
    /// Appends and openings come one after the other, so that no append meets an epoch that its own engine raised.
    pub(crate) journal: tokio::sync::Mutex<()>,
    held: Mutex<Vec<Resource>>,
    live: Mutex<BTreeMap<ReleaseId, Live>>,
    /// Instances that are being drained, of a revision that stays.
    departing: Mutex<Vec<InstanceId>>,
    /// Counts changes of what others may wait for: a freed resource, a release's state, the loss of the service.
    changed: watch::Sender<u64>,
    lost: watch::Sender<bool>,
    /// The service is being destroyed: no release begins.
    pub(crate) closing: AtomicBool,
    /// What other sources of truth said of the release that bakes.
    pub(crate) measuring: Measuring,
}

impl Service {
    pub(crate) fn new(name: ServiceName, epoch: u64) -> Service {
        Service {
            name,
            fence: Mutex::new(Fence { epoch, sequence: 0 }),
            journal: tokio::sync::Mutex::new(()),
            held: Mutex::default(),
            live: Mutex::default(),
            departing: Mutex::default(),
            changed: watch::Sender::new(0),
            lost: watch::Sender::new(false),
            closing: AtomicBool::new(false),
            measuring: Measuring::default(),
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        lock(&self.fence).epoch
    }

    /// Goes on under a higher epoch; what was fenced with a lower one is refused by the edges from the next call on.
    pub(crate) fn raise(&self, epoch: u64) {
        let mut fence = lock(&self.fence);
        if epoch > fence.epoch {
            *fence = Fence { epoch, sequence: 0 };
        }
    }

    /// Returns a fence above all before. It is drawn when a call is made, not when its effect became wanted: a tail
    /// and a newer release act on one service at the same time, and neither shall fence the other.
    pub(crate) fn draw(&self) -> Fence {
        let mut fence = lock(&self.fence);
        fence.sequence += 1;
        *fence
    }

    /// Takes hold of a resource; none while something else of this service acts on it.
    pub(crate) fn hold(self: &Arc<Self>, resource: Resource) -> Option<Hold> {
        if resource != Resource::Nothing {
            let mut held = lock(&self.held);
            if held.contains(&resource) {
                return None;
            }
            held.push(resource.clone());
        }
        Some(Hold { service: self.clone(), resource })
    }

    pub(crate) fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Another engine has the service now.
    pub(crate) fn lose(&self) {
        self.lost.send_replace(true);
        self.bump();
    }

    pub(crate) fn lost(&self) -> bool {
        *self.lost.borrow()
    }

    pub(crate) fn enter(&self, id: ReleaseId, live: Live) {
        lock(&self.live).insert(id, live);
        self.bump();
    }

    pub(crate) fn leave(&self, id: &ReleaseId) {
        lock(&self.live).remove(id);
        self.bump();
    }

    pub(crate) fn live(&self, id: &ReleaseId) -> Option<Live> {
        lock(&self.live).get(id).cloned()
    }

    pub(crate) fn lives(&self) -> Vec<Live> {
        lock(&self.live).values().cloned().collect()
    }

    pub(crate) fn others(&self, id: &ReleaseId) -> Vec<Live> {
        lock(&self.live).iter().filter(|(other, _)| *other != id).map(|(_, live)| live.clone()).collect()
    }

    pub(crate) fn idle(&self) -> bool {
        lock(&self.live).is_empty()
    }

    /// Marks instances as leaving until the result is dropped: no router gets them as targets.
    pub(crate) fn depart(self: &Arc<Self>, instances: Vec<InstanceId>) -> Departing {
        lock(&self.departing).extend(instances.iter().cloned());
        Departing { service: self.clone(), instances }
    }

    pub(crate) fn departs(&self, instance: &InstanceId) -> bool {
        lock(&self.departing).contains(instance)
    }

    /// Returns the revisions on their way out: drained or being stopped. No router gets them as targets any more.
    pub(crate) fn leaving(&self) -> Vec<RevisionId> {
        self.lives().iter().filter_map(|live| live.look(leaving)).collect()
    }
}

fn leaving(machine: &Machine) -> Option<RevisionId> {
    match (machine.mode(), machine.step()) {
        (Mode::Back(_), _) if has_left(machine) => Some(machine.plan().candidate.clone()),
        (Mode::Back(_) | Mode::Ended { .. }, _) => None,
        (_, Step::Drain | Step::Retire) => machine.plan().stable.clone(),
        _ => None,
    }
}

/// Tells whether the way back is past the candidate's last request.
fn has_left(machine: &Machine) -> bool {
    machine.gone_back().iter().any(|stage| matches!(stage, BackStage::Drain | BackStage::Retire))
}

/// Instances marked as leaving; no longer when dropped.
pub(crate) struct Departing {
    service: Arc<Service>,
    instances: Vec<InstanceId>,
}

impl Drop for Departing {
    fn drop(&mut self) {
        lock(&self.service.departing).retain(|departing| !self.instances.contains(departing));
        // What stayed all the same is a target again.
        self.service.bump();
    }
}

/// A resource held; freed when dropped.
pub(crate) struct Hold {
    service: Arc<Service>,
    resource: Resource,
}

impl Hold {
    pub(crate) fn is_look(&self) -> bool {
        self.resource == Resource::Nothing
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.resource != Resource::Nothing {
            lock(&self.service.held).retain(|held| held != &self.resource);
            self.service.bump();
        }
    }
}
