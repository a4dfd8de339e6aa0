//! One thread's view of the table, and the choice of track and target.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use cutover_judge::{Arm as Side, Outcome};
use tokio::sync::Notify;

use crate::balance::{Picked, pick};
use crate::cells::{ArmCell, ArmKey, Places, RevisionCell, TargetCell};
use crate::claim::Claim;
use crate::clients::Guest;
use crate::compiled::{Compiled, CompiledService, CompiledTrack};
use crate::count::Arm;
use crate::drain::apart;
use crate::gate::Gate;
use crate::hung::OpenRequests;
use crate::judging::Bet;
use crate::room::TrackRoom;
use crate::service::{self, ServiceCell};
use crate::sticky;
use crate::table::{Target, WHOLE};

/// Most attempts for one request.
pub(crate) const MAX_ATTEMPTS: usize = 4;
/// Counters of revisions that are not routed any more are kept for this many of a thread.
const MAX_OLD_ARMS: usize = 512;

/// Service and revision.
type RevisionKey = (Arc<str>, Arc<str>);
/// Service, revision and address.
type TargetKey = (Arc<str>, Arc<str>, SocketAddr);

/// What one thread routes by.
#[derive(Debug, Default)]
pub(crate) struct Router {
    pub(crate) compiled: RefCell<Arc<Compiled>>,
    /// Tracks of each compiled service, same order.
    tracks: RefCell<Vec<Vec<TrackCells>>>,
    /// Cells of each compiled service, same order.
    services: RefCell<Vec<Rc<ServiceCell>>>,
    pub(crate) revisions: RefCell<HashMap<RevisionKey, Rc<RevisionCell>>>,
    pub(crate) targets: RefCell<HashMap<TargetKey, Rc<TargetCell>>>,
    pub(crate) arms: RefCell<HashMap<ArmKey, Rc<ArmCell>>>,
    /// How many threads there are: each has its part of what is limited for all.
    pub(crate) threads: Cell<usize>,
    /// The thread drains everything, and ends then.
    pub(crate) leaving: Cell<bool>,
    pub(crate) open_requests: OpenRequests,
    pub(crate) unrouted: RefCell<BTreeMap<&'static str, u64>>,
    pub(crate) connections: Cell<u64>,
    /// Copies for a candidate that are under way.
    pub(crate) mirrors: Cell<u64>,
    /// The thread ends: nobody waits any longer.
    pub(crate) closing: Cell<bool>,
    /// Woken when something that a drain waits for may have happened.
    pub(crate) changed: Rc<Notify>,
}

#[derive(Debug)]
struct TrackCells {
    revision: Rc<RevisionCell>,
    arm: Rc<ArmCell>,
    targets: Vec<(Rc<TargetCell>, bool)>,
    /// Who waits for one of the targets, where their places are limited.
    room: Option<Arc<TrackRoom>>,
}

/// What asking for a target came to.
pub(crate) enum Tried {
    Claimed(Claim),
    /// All targets of the revision have as many requests as they may.
    Full(Arc<str>, Arc<TrackRoom>),
    /// No target is there to be asked.
    Nobody,
}

/// What is known about a request before a target is chosen.
pub(crate) struct Wish {
    pub(crate) service: Rc<ServiceCell>,
    /// Where it was in the table.
    pub(crate) at: usize,
    /// It has waited: it is not behind those that wait.
    pub(crate) in_line: bool,
    /// Its place among what its client may have at once.
    pub(crate) guest: Option<Guest>,
    /// The operator's flow let it through.
    pub(crate) passed: bool,
    /// Revision of a valid pin header.
    pub(crate) pinned: Option<String>,
    /// Where its client sits; none: it is given to a revision by chance.
    pub(crate) seat: Option<u16>,
    /// Targets that failed, in the order they were asked.
    pub(crate) tried: Vec<SocketAddr>,
    /// Revision of the last attempt, or of the draw it waits for: its targets come first.
    pub(crate) last: Option<Arc<str>>,
    /// What the judge knows of its first draw.
    pub(crate) first_draw: FirstDraw,
}

/// A request is drawn by lottery once, whatever it waits for and whoever answers it.
#[derive(Default)]
pub(crate) struct FirstDraw {
    made: Cell<bool>,
    bet: RefCell<Option<(Arc<Gate>, Bet)>>,
}

impl FirstDraw {
    /// Notes the draw, unless it was made already.
    fn make(&self, bet: impl FnOnce() -> Option<(Arc<Gate>, Bet)>) {
        if !self.made.replace(true) {
            *self.bet.borrow_mut() = bet();
        }
    }

    /// Hands on what is to be scored, once.
    fn take(&self) -> Option<(Arc<Gate>, Bet)> {
        self.bet.borrow_mut().take()
    }

    /// The arm that was drawn did not take it.
    pub(crate) fn refused(&self) {
        if let Some((gate, bet)) = self.take()
            && let Some(desk) = &gate.desk
        {
            desk.score(bet, Outcome::Error);
        }
    }
}

impl Wish {
    /// Begins with the cell of a service and its place in the table.
    pub(crate) fn new(service: Rc<ServiceCell>, at: usize, pinned: Option<String>) -> Self {
        Self {
            service,
            at,
            in_line: false,
            passed: false,
            guest: None,
            pinned,
            seat: None,
            tried: Vec::new(),
            last: None,
            first_draw: FirstDraw::default(),
        }
    }
}

impl Router {
    /// Lets a connection of a client in, if it may have one more; dropped, the guest leaves.
    pub(crate) fn admit(&self, listener: SocketAddr, client: IpAddr) -> io::Result<Option<Guest>> {
        let compiled = self.compiled.borrow();
        let Some(most) = compiled.doors.connections(listener) else { return Ok(None) };
        compiled.connected.connect(client, most).ok_or_else(|| {
            *self.unrouted.borrow_mut().entry("client-connections").or_default() += 1;
            io::ErrorKind::ConnectionRefused.into()
        })
    }

    /// Takes a new table: from here on nothing is claimed by the old one.
    pub(crate) fn swap(&self, compiled: Arc<Compiled>) {
        let mut targets = self.targets.borrow_mut();
        let mut revisions = self.revisions.borrow_mut();
        for target in targets.values() {
            target.gone.set(true);
        }
        for revision in revisions.values() {
            revision.weighted.set(false);
        }
        let (weighted, now) = (compiled.weighted(), Instant::now());
        let mut all = Vec::with_capacity(compiled.services.len());
        for service in &compiled.services {
            let mut tracks = Vec::with_capacity(service.tracks.len());
            for (at, track) in service.tracks.iter().enumerate() {
                let key = (service.name.clone(), track.revision.clone());
                let revision = revisions
                    .entry(key.clone())
                    .or_insert_with(|| Rc::new(RevisionCell::new(key.0.clone(), key.1.clone())))
                    .clone();
                revision.balance.set(service.balance);
                let place = |target: &Target| (key.0.clone(), key.1.clone(), target.address);
                let joins = track.targets.iter().any(|target| targets.contains_key(&place(target)));
                // While the thread leaves its drains go on, whoever has weight elsewhere.
                if weighted.contains(&key) && !self.leaving.get() {
                    revision.weighted.set(true);
                    revision.draining.set(false);
                }
                let cells = track.targets.iter().map(|target| {
                    let cell = targets.entry(place(target)).or_insert_with(|| {
                        let cell = TargetCell::new(target.address, revision.clone(), self.changed.clone());
                        if joins {
                            cell.trust.join(now);
                        }
                        Rc::new(cell)
                    });
                    follow(cell, service, track, now);
                    cell.unverified.set(compiled.unverified.contains(&target.address));
                    (cell.clone(), target.ready)
                });
                let cells = cells.collect();
                let arm = if service.candidate == Some(at) { Arm::Candidate } else { Arm::Stable };
                let arm = self.arm(service, &track.revision, arm);
                let room = service.limits.per_target.map(|_| track.room.clone());
                tracks.push(TrackCells { revision, arm, targets: cells, room });
            }
            all.push(tracks);
        }
        for target in targets.values().filter(|target| target.gone.get()) {
            target.purge();
        }
        let services = service::follow(&self.services.borrow(), &compiled);
        *self.services.borrow_mut() = services;
        *self.tracks.borrow_mut() = all;
        *self.compiled.borrow_mut() = compiled;
        // Who waits for a target may find it elsewhere now.
        self.wake_waiting();
        drop((targets, revisions));
        // A drain whose targets are wanted again ends.
        self.changed.notify_waiters();
        self.forget();
    }

    /// Returns the least time between two connections of a service that a drain closes on this thread.
    pub(crate) fn apart(&self, service: &str) -> std::time::Duration {
        let compiled = self.compiled.borrow();
        let limits =
            compiled.services.iter().find(|compiled| *compiled.name == *service).map(|found| &found.limits);
        apart(limits.and_then(|limits| limits.closes), self.threads.get())
    }

    /// Lets everybody who waits for a target look again.
    pub(crate) fn wake_waiting(&self) {
        let compiled = self.compiled.borrow();
        for track in compiled.services.iter().flat_map(|service| &service.tracks) {
            track.room.freed.notify_waiters();
        }
    }

    /// Lets everybody who waits for anything give up.
    pub(crate) fn give_up_waiting(&self) {
        self.closing.set(true);
        self.wake_waiting();
        for service in &self.compiled.borrow().services {
            service.room.held.notify_waiters();
        }
    }

    fn arm(&self, service: &CompiledService, revision: &Arc<str>, arm: Arm) -> Rc<ArmCell> {
        let key = ArmKey {
            service: service.name.clone(),
            revision: revision.clone(),
            release: service.release.clone(),
            arm,
        };
        let mut arms = self.arms.borrow_mut();
        arms.entry(key).or_insert_with(|| Rc::new(ArmCell { arm, counts: RefCell::default() })).clone()
    }

    /// Drops cells nothing refers to any more.
    pub(crate) fn forget(&self) {
        let mut targets = self.targets.borrow_mut();
        targets.retain(|_, target| {
            !target.gone.get() || target.in_flight.get() > 0 || !target.open.borrow().is_empty()
        });
        let routed = self.compiled.borrow();
        self.revisions.borrow_mut().retain(|(service, name), revision| {
            let in_table = routed.services.iter().any(|routed| {
                routed.name == *service && routed.tracks.iter().any(|track| track.revision == *name)
            });
            in_table || revision.in_flight.get() > 0 || Rc::strong_count(revision) > 1
        });
        let mut arms = self.arms.borrow_mut();
        if arms.len() > MAX_OLD_ARMS {
            arms.retain(|_, arm| Rc::strong_count(arm) > 1);
        }
    }

    /// Returns the cell of a compiled service.
    pub(crate) fn service(&self, at: usize) -> Option<Rc<ServiceCell>> {
        self.services.borrow().get(at).cloned()
    }

    /// Chooses and claims a target.
    pub(crate) fn claim(&self, wish: &Wish) -> Tried {
        let compiled = self.compiled.borrow();
        let same = |service: &CompiledService| service.name == wish.service.name;
        let at = Some(wish.at).filter(|at| compiled.services.get(*at).is_some_and(same));
        let at = at.or_else(|| compiled.services.iter().position(same));
        at.and_then(|at| self.claim_at(&compiled, at, wish)).unwrap_or(Tried::Nobody)
    }

    fn claim_at(&self, compiled: &Compiled, at: usize, wish: &Wish) -> Option<Tried> {
        let service = &compiled.services[at];
        let tracks = self.tracks.borrow();
        let tracks = tracks.get(at)?;
        let now = Instant::now();
        let first = wish.tried.is_empty();
        if let Some(pinned) = &wish.pinned {
            let index = service.tracks.iter().position(|track| *track.revision == **pinned)?;
            if tracks[index].revision.draining.get() {
                return None;
            }
            return Some(match pick(&tracks[index].targets, &wish.tried, now) {
                Picked::Target(target, slot) => {
                    let arm = self.arm(service, &service.tracks[index].revision, Arm::Pinned);
                    Tried::Claimed(Claim::new((target, slot), arm, first))
                }
                Picked::Full => full(&tracks[index])?,
                Picked::Nobody => return None,
            });
        }
        let closed = service.gate.as_ref().is_some_and(|gate| gate.is_closed());
        let weights = service.drawn_by();
        // What was drawn once stays drawn, as long as it has weight.
        let last = wish.last.as_ref().and_then(|last| {
            service.tracks.iter().position(|track| track.revision == *last).filter(|at| weights[*at] > 0)
        });
        let drawn = last.or_else(|| match wish.seat {
            Some(seat) => sticky::drawn(weights, service.candidate, seat),
            None => draw(weights),
        })?;
        let gate = service.gate.as_ref().filter(|_| first && !closed);
        if let Some(gate) = gate {
            let bet = || Some((gate.clone(), service.bet(gate, weights, drawn, wish.seat)?));
            wish.first_draw.make(bet);
        }
        let mut order: Option<usize> = Some(drawn);
        let mut asked = 0_u64;
        while let Some(index) = order {
            asked |= 1 << (index & 63);
            let track = &tracks[index];
            if weights[index] > 0 {
                if !wish.in_line && track.room.as_ref().is_some_and(|room| room.has_line()) {
                    return full(track);
                }
                match pick(&track.targets, &wish.tried, now) {
                    Picked::Target(target, slot) => {
                        let mut claim = Claim::new((target, slot), track.arm.clone(), first);
                        if let Some(gate) = service.gate.as_ref().filter(|_| first && index == drawn) {
                            let judged = service.candidate == Some(index) && !closed;
                            let (arm, since) = (track.arm.clone(), claim.started);
                            // One that waited was drawn by the table that was in force then, whose gate scores it; unless
                            // it is given to another arm now.
                            let ours =
                                if service.candidate == Some(index) { Side::Candidate } else { Side::Stable };
                            let first_draw = wish.first_draw.take().filter(|(_, bet)| bet.side() == ours);
                            let (scores, bet) = match first_draw {
                                Some((drawn_by, bet)) => (drawn_by, Some(bet)),
                                None => (gate.clone(), None),
                            };
                            claim.open =
                                Some(self.open_requests.add(arm, gate.clone(), judged, scores, bet, since));
                        }
                        return Some(Tried::Claimed(claim));
                    }
                    // It waits: to give it to another revision would move the weights.
                    Picked::Full => return full(track),
                    // The arm that was drawn has nobody to answer: that is its failure, whoever helps out.
                    Picked::Nobody if index == drawn => wish.first_draw.refused(),
                    Picked::Nobody => {}
                }
            }
            order = (0..weights.len())
                .filter(|other| asked & (1 << (other & 63)) == 0 && weights[*other] > 0)
                .max_by_key(|other| weights[*other]);
        }
        None
    }
}

impl Router {
    /// Claims a target of a revision that was not asked yet, whatever its weight: an asset may lie with a predecessor
    /// that takes no requests any more. More weight comes first.
    pub(crate) fn claim_other(&self, service: &str, asked: &[Arc<str>]) -> Option<Claim> {
        let compiled = self.compiled.borrow();
        let at = compiled.services.iter().position(|compiled| *compiled.name == *service)?;
        let (service, tracks) = (&compiled.services[at], self.tracks.borrow());
        let tracks = tracks.get(at)?;
        let now = Instant::now();
        let open = |index: &usize| {
            let revision = &tracks[*index].revision;
            !revision.draining.get() && !asked.contains(&revision.revision)
        };
        let mut others: Vec<usize> = (0..tracks.len()).filter(open).collect();
        others.sort_by_key(|index| std::cmp::Reverse(service.weights[*index]));
        others.into_iter().find_map(|index| {
            let Picked::Target(target, slot) = pick(&tracks[index].targets, &[], now) else { return None };
            let arm = self.arm(service, &service.tracks[index].revision, Arm::Bridged);
            Some(Claim::new((target, slot), arm, false))
        })
    }
}

impl Router {
    /// Claims a target of the candidate for a copy of a request that was given to another revision.
    pub(crate) fn claim_mirror(&self, wish: &Wish) -> Option<Claim> {
        let compiled = self.compiled.borrow();
        let at = compiled.services.iter().position(|service| service.name == wish.service.name)?;
        let (service, tracks) = (&compiled.services[at], self.tracks.borrow());
        let candidate = service.candidate?;
        let track = tracks.get(at)?.get(candidate)?;
        // One that was taken back gets nothing any more, not even copies.
        if service.is_withdrawn() || track.revision.draining.get() {
            return None;
        }
        let Picked::Target(target, slot) = pick(&track.targets, &[], Instant::now()) else { return None };
        let arm = self.arm(service, &service.tracks[candidate].revision, Arm::Mirrored);
        Some(Claim::new((target, slot), arm, true))
    }
}

/// Lets a target's cell do as the table says.
fn follow(cell: &TargetCell, service: &CompiledService, track: &CompiledTrack, now: Instant) {
    cell.gone.set(false);
    if cell.http2.replace(track.http2) != track.http2 {
        cell.purge();
    }
    if !cell.revision.draining.get() {
        cell.cutting.set(false);
    }
    *cell.places.borrow_mut() = service.limits.per_target.map(|limit| Places {
        slots: service.room.slots(cell.address),
        track: track.room.clone(),
        limit,
    });
    let down = service.down.contains(&cell.address);
    if cell.down.replace(down) && !down {
        cell.trust.join(now);
    }
}

fn full(track: &TrackCells) -> Option<Tried> {
    Some(Tried::Full(track.revision.revision.clone(), track.room.clone()?))
}

fn draw(weights: &[u16]) -> Option<usize> {
    let mut at = fastrand::u16(0..WHOLE);
    for (index, weight) in weights.iter().enumerate() {
        if at < *weight {
            return Some(index);
        }
        at -= weight;
    }
    None
}
