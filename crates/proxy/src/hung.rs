//! Requests that hang while a release is under way: nothing comes of them that could be counted, so their age is.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cells::{ArmCell, ArmKey};
use crate::count::{Arm, Histogram};
use crate::gate::Gate;

/// What stable's slowest requests take is known from so many on.
const KNOWN_FROM: u64 = 1_000;
/// Until then nobody hangs before this.
const UNTIL_KNOWN: Duration = Duration::from_secs(30);

/// A first attempt without an answer yet.
#[derive(Debug)]
pub(crate) struct Open {
    service: Arc<str>,
    arm: Rc<ArmCell>,
    gate: Option<Arc<Gate>>,
    since: Instant,
    hung: Cell<bool>,
    scored: Cell<bool>,
}

impl Open {
    /// Tells whether the guard has scored its age.
    pub(crate) fn is_scored(&self) -> bool {
        self.scored.get()
    }

    /// Returns whether it is to be looked at again.
    fn look(&self, age: Duration, limit: Duration) -> bool {
        if age <= limit {
            return true;
        }
        if !self.hung.replace(true) {
            self.arm.counts.borrow_mut().hung += 1;
        }
        let Some((gate, limit)) = self.gate.as_ref().and_then(|gate| Some((gate, gate.slow_after()?))) else {
            return false;
        };
        if age > limit {
            self.scored.set(true);
            gate.score(false, u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        }
        age <= limit
    }
}

/// The open requests of one thread; who is answered leaves by itself.
#[derive(Debug, Default)]
pub(crate) struct OpenRequests(RefCell<Vec<Weak<Open>>>);

impl OpenRequests {
    pub(crate) fn add(
        &self,
        service: Arc<str>,
        arm: Rc<ArmCell>,
        gate: Option<Arc<Gate>>,
        since: Instant,
    ) -> Rc<Open> {
        let open =
            Rc::new(Open { service, arm, gate, since, hung: Cell::new(false), scored: Cell::new(false) });
        self.0.borrow_mut().push(Rc::downgrade(&open));
        open
    }

    /// Counts those that are older than the slowest in a thousand of their service's stable revision, and has the guard
    /// score those that are older than it allows.
    pub(crate) fn look(&self, arms: &HashMap<ArmKey, Rc<ArmCell>>, now: Instant) {
        let mut limits: HashMap<Arc<str>, Duration> = HashMap::new();
        self.0.borrow_mut().retain(|open| {
            let Some(open) = open.upgrade() else { return false };
            let limit = *limits.entry(open.service.clone()).or_insert_with(|| limit(&open.service, arms));
            open.look(now.saturating_duration_since(open.since), limit)
        });
    }
}

fn limit(service: &str, arms: &HashMap<ArmKey, Rc<ArmCell>>) -> Duration {
    let mut stable = Histogram::default();
    let ours = arms.iter().filter(|(key, _)| *key.service == *service && key.arm == Arm::Stable);
    ours.for_each(|(_, cell)| stable.merge(&cell.counts.borrow().latency));
    if stable.count() < KNOWN_FROM {
        return UNTIL_KNOWN;
    }
    Duration::from_micros(stable.quantile_us(0.999))
}
