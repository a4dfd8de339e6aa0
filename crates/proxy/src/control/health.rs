//! Asks the targets all the time, once per worker, and takes those that fail off every thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Control;
use crate::checks::{Row, TargetChecks};
use crate::protocol::TargetObservation;
use crate::table::{ServiceTable, Table, TargetProtocol};

/// Most checks under way at once: a thousand targets must not take a thousand descriptors.
const MOST_AT_ONCE: usize = 64;
/// Checks that are due within this are made together: each waking up costs more than a check.
const TOGETHER: Duration = Duration::from_millis(20);

/// Service and address.
type Key = (String, SocketAddr);

/// A check that is due: what, how, and as which host.
type Due = (Key, Rc<TargetChecks>, Option<Rc<str>>, TargetProtocol);

/// What the checks of this worker have found.
#[derive(Default)]
pub(crate) struct Health {
    targets: RefCell<BTreeMap<Key, Checked>>,
    /// The table changed, or a check ended.
    stir: Notify,
}

struct Checked {
    checks: Rc<TargetChecks>,
    host: Option<Rc<str>>,
    protocol: TargetProtocol,
    row: Row,
    due: Instant,
    under_way: bool,
}

impl Health {
    /// Follows the table: new targets begin as up, those that left are forgotten. `vouched`: somebody has just said
    /// that they can take requests; else the first check, at once, decides.
    pub(super) fn follow(&self, table: &Table, vouched: bool) {
        let mut known = self.targets.borrow_mut();
        let mut wanted = BTreeSet::new();
        let now = Instant::now();
        for (name, service) in &table.services {
            let host = service.hosts.iter().find(|host| *host != "*").map(|host| Rc::from(host.as_str()));
            for track in &service.tracks {
                let Some(checks) = track.checks.clone().map(Rc::new) else { continue };
                for target in &track.targets {
                    let key = (name.clone(), target.address);
                    // Spread over the interval, the same for every worker: never all at once.
                    let first = if vouched { now + spread(&key, checks.interval()) } else { now };
                    let entry = known.entry(key.clone()).or_insert_with(|| Checked {
                        checks: checks.clone(),
                        host: None,
                        protocol: track.protocol,
                        row: Row::new(vouched),
                        due: first,
                        under_way: false,
                    });
                    if entry.checks != checks {
                        entry.due = entry.due.min(first);
                        entry.checks = checks.clone();
                    }
                    entry.host.clone_from(&host);
                    entry.protocol = track.protocol;
                    wanted.insert(key);
                }
            }
        }
        known.retain(|key, _| wanted.contains(key));
        drop(known);
        self.stir.notify_one();
    }

    /// Returns the targets of a service that get no requests as long as another one can take them.
    pub(super) fn down(&self, service: &str) -> BTreeSet<SocketAddr> {
        let known = self.targets.borrow();
        let down = known.iter().filter(|((name, _), checked)| name == service && !checked.row.up);
        down.map(|((_, address), _)| *address).collect()
    }

    /// Returns what is known of the targets of a service that are checked.
    pub(crate) fn observe(&self, name: &str, service: &ServiceTable) -> Vec<TargetObservation> {
        let known = self.targets.borrow();
        let mut seen = Vec::new();
        for track in &service.tracks {
            for target in &track.targets {
                let Some(checked) = known.get(&(name.to_owned(), target.address)) else { continue };
                seen.push(TargetObservation {
                    revision: track.revision.clone(),
                    instance: target.instance.clone(),
                    address: target.address,
                    up: checked.row.up,
                    check: checked.checks.name(),
                    asked: checked.row.asked,
                    why: checked.row.why.clone(),
                });
            }
        }
        seen
    }

    /// Takes what is due now and can be asked; returns when to look again.
    fn due(&self, free: usize) -> (Vec<Due>, Option<Instant>) {
        let soon = Instant::now() + TOGETHER;
        let (mut due, mut next) = (Vec::new(), None);
        for (key, checked) in self.targets.borrow_mut().iter_mut().filter(|(_, checked)| !checked.under_way) {
            if checked.due <= soon && due.len() < free {
                checked.under_way = true;
                due.push((key.clone(), checked.checks.clone(), checked.host.clone(), checked.protocol));
            } else if checked.due > soon {
                next = Some(next.map_or(checked.due, |next: Instant| next.min(checked.due)));
            }
        }
        (due, next)
    }

    /// Notes an answer; true when the target came up or went down.
    fn answered(&self, key: &Key, answer: Result<(), String>) -> bool {
        let mut known = self.targets.borrow_mut();
        // It may have left meanwhile.
        let Some(checked) = known.get_mut(key) else { return false };
        checked.under_way = false;
        let turned = checked.row.judge(answer, &checked.checks);
        checked.due = Instant::now() + checked.row.pause(&checked.checks);
        if turned {
            let (service, address, up) = (&key.0, key.1, checked.row.up);
            let why = checked.row.why.as_deref().unwrap_or("it passes its checks again");
            tracing::warn!(service, %address, up, why, "target turned");
        }
        turned
    }
}

impl Control {
    /// Asks every target of the table all the time, until the worker ends.
    pub(crate) async fn watch_targets(self: Rc<Self>) {
        let under_way = Rc::new(std::cell::Cell::new(0_usize));
        loop {
            let (due, next) = self.health.due(MOST_AT_ONCE.saturating_sub(under_way.get()));
            for (key, checks, host, protocol) in due {
                under_way.set(under_way.get() + 1);
                let (control, under_way) = (self.clone(), under_way.clone());
                tokio::task::spawn_local(async move {
                    let answer = checks.ask(key.1, host.as_deref(), protocol).await;
                    under_way.set(under_way.get() - 1);
                    let turned = control.health.answered(&key, answer);
                    control.health.stir.notify_one();
                    if turned {
                        control.take_turn().await;
                    }
                });
            }
            match next {
                Some(next) => {
                    let _ = tokio::time::timeout_at(next, self.health.stir.notified()).await;
                }
                None => self.health.stir.notified().await,
            }
        }
    }

    /// Tells the threads who is up and who is down now.
    async fn take_turn(&self) {
        // Not beside a change: a thread must never get an older table after a newer one was acknowledged.
        let _changing = self.changing.lock().await;
        if let Err(error) = self.swap().await {
            tracing::error!(%error, "a thread does not know yet which targets are down");
        }
    }
}

/// Returns the place of a target within the interval.
fn spread(key: &Key, interval: Duration) -> Duration {
    let mut hash = DefaultHasher::new();
    key.hash(&mut hash);
    interval.mul_f64((hash.finish() >> 11) as f64 / (1_u64 << 53) as f64)
}
