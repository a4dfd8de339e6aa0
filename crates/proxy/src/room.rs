//! Room at the targets of a service, and those who wait for it. Shared by all threads: a limit that each thread had for
//! itself would refuse requests on one while another is idle. Nothing of it is touched where no limit is set.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::clients::Clients;
use crate::traffic::Traffic;

/// Who waits for a service, and what it has room for.
#[derive(Debug, Default)]
pub(crate) struct ServiceRoom {
    /// The operator lets requests do something else than pass.
    kept: AtomicBool,
    traffic: Mutex<Arc<Traffic>>,
    waiting: AtomicU32,
    /// Wakes who waits for the operator, in the order of their coming.
    pub(crate) held: Notify,
    tracks: Mutex<HashMap<String, Arc<TrackRoom>>>,
    slots: Mutex<HashMap<SocketAddr, Arc<Slots>>>,
    /// What single clients have used up.
    pub(crate) clients: Arc<Clients>,
}

/// Who waits for a target of a track.
#[derive(Debug, Default)]
pub(crate) struct TrackRoom {
    waiting: AtomicU32,
    /// Wakes who waits for a target, in the order of their coming.
    pub(crate) freed: Notify,
}

/// Requests in flight to one target.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    used: AtomicU32,
}

impl ServiceRoom {
    /// Returns what the operator lets requests do, unless they just pass.
    pub(crate) fn kept(&self) -> Option<Arc<Traffic>> {
        let kept = self.kept.load(Ordering::Acquire).then(|| self.traffic());
        kept.filter(|traffic| **traffic != Traffic::Open)
    }

    pub(crate) fn traffic(&self) -> Arc<Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what requests do from now on. Those that wait stay in their order, unless nobody has to wait any more.
    pub(crate) fn keep(&self, traffic: &Traffic) {
        *self.traffic.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(traffic.clone());
        self.kept.store(*traffic != Traffic::Open, Ordering::Release);
        if traffic.waiting().is_none() {
            // Said first, told then: who begins to wait in between sees it.
            self.held.notify_waiters();
        }
    }

    pub(crate) fn track(&self, revision: &str) -> Arc<TrackRoom> {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.entry(revision.to_owned()).or_default().clone()
    }

    pub(crate) fn slots(&self, address: SocketAddr) -> Arc<Slots> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(address).or_default().clone()
    }

    /// Forgets tracks and targets that nobody holds any more.
    pub(crate) fn tidy(&self) {
        let mut tracks = self.tracks.lock().unwrap_or_else(PoisonError::into_inner);
        tracks.retain(|_, track| Arc::strong_count(track) > 1);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slots| Arc::strong_count(slots) > 1);
    }

    /// Lets one more wait, if fewer than `limit` do.
    pub(crate) fn enter(self: &Arc<Self>, limit: u32) -> Option<InLine> {
        if self.waiting.fetch_add(1, Ordering::AcqRel) < limit {
            return Some(InLine(self.clone()));
        }
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        None
    }

    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Acquire)
    }
}

/// One who waits; dropped when it is served, gives up, or its client goes.
#[derive(Debug)]
pub(crate) struct InLine(Arc<ServiceRoom>);

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl TrackRoom {
    /// Tells whether somebody was here before: who comes now must not go first.
    pub(crate) fn has_line(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    pub(crate) fn enter(self: &Arc<Self>) -> AtTrack {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        AtTrack(self.clone())
    }
}

/// One who waits for a target of a track.
#[derive(Debug)]
pub(crate) struct AtTrack(pub(crate) Arc<TrackRoom>);

impl Drop for AtTrack {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Slots {
    pub(crate) fn is_full(&self, limit: u32) -> bool {
        self.used.load(Ordering::Acquire) >= limit
    }

    /// Takes a slot; None: another thread was faster.
    pub(crate) fn take(self: &Arc<Self>, limit: u32, track: &Arc<TrackRoom>) -> Option<Slot> {
        if self.used.fetch_add(1, Ordering::AcqRel) < limit {
            return Some(Slot { slots: self.clone(), track: track.clone() });
        }
        self.used.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

/// A place at a target, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    track: Arc<TrackRoom>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.used.fetch_sub(1, Ordering::AcqRel);
        self.track.freed.notify_one();
    }
}
