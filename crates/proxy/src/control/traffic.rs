//! What operators let the requests of services do: kept on disk, in force on every thread at once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Control;
use super::fence::unknown;
use crate::error::{ErrorKind, ProxyError};
use crate::room::ServiceRoom;
use crate::traffic::Traffic;

/// How often a flow lets requests through.
const BEAT: Duration = Duration::from_millis(10);

/// Rooms of all services, shared with the threads.
#[derive(Default)]
pub(crate) struct Rooms {
    rooms: RefCell<BTreeMap<String, Arc<ServiceRoom>>>,
    /// A flow began.
    flows: Notify,
}

impl Rooms {
    pub(crate) fn of(&self, service: &str) -> Arc<ServiceRoom> {
        let mut rooms = self.rooms.borrow_mut();
        let room = rooms.entry(service.to_owned()).or_default();
        room.tidy();
        room.clone()
    }

    /// Puts in force what is stored; services that are not named are open.
    pub(super) fn follow(&self, stored: &BTreeMap<String, Traffic>) {
        for name in stored.keys() {
            self.of(name);
        }
        for (name, room) in self.rooms.borrow().iter() {
            let traffic = stored.get(name).cloned().unwrap_or_default();
            if *room.traffic() != traffic {
                room.keep(&traffic);
            }
        }
        self.flows.notify_one();
    }

    fn flowing(&self) -> Vec<(String, Arc<ServiceRoom>, u32)> {
        let flow = |(name, room): (&String, &Arc<ServiceRoom>)| match *room.kept()? {
            Traffic::Flow { per_second, .. } => Some((name.clone(), room.clone(), per_second)),
            _ => None,
        };
        self.rooms.borrow().iter().filter_map(flow).collect()
    }
}

impl Control {
    /// Lets the requests of a service do something else from now on.
    pub(crate) async fn let_traffic(&self, name: &str, traffic: Traffic) -> Result<(), ProxyError> {
        let _changing = self.changing.lock().await;
        let mut stored = self.state.borrow().stored.clone();
        if !stored.table.services.contains_key(name) {
            return Err(unknown(name));
        }
        if let Some(mistake) = traffic.mistake() {
            return Err(ProxyError::new(ErrorKind::Invalid, format!("service \"{name}\": {mistake}")));
        }
        match &traffic {
            Traffic::Open => stored.traffic.remove(name),
            kept => stored.traffic.insert(name.to_owned(), kept.clone()),
        };
        // On disk first: a worker that dies right after must not forget that requests are held.
        self.store.save(&stored)?;
        self.rooms.follow(&stored.traffic);
        self.state.borrow_mut().stored = stored;
        tracing::warn!(service = name, traffic = traffic.name(), "operator decides on traffic");
        Ok(())
    }

    /// Lets requests through where they flow, until the worker ends.
    pub(crate) async fn pump(self: std::rc::Rc<Self>) {
        // Requests that may pass, by service; less than one of them is kept for the next beat.
        let mut due: BTreeMap<String, f64> = BTreeMap::new();
        let mut last = Instant::now();
        loop {
            let flowing = self.rooms.flowing();
            due.retain(|name, _| flowing.iter().any(|(flowing, ..)| flowing == name));
            if flowing.is_empty() {
                self.rooms.flows.notified().await;
                last = Instant::now();
                continue;
            }
            tokio::time::sleep(BEAT).await;
            // However late the beat is, it makes up for no more than a few.
            let passed = last.elapsed().min(BEAT * 10);
            last = Instant::now();
            for (name, room, per_second) in flowing {
                let due = due.entry(name).or_default();
                *due += passed.as_secs_f64() * f64::from(per_second);
                let waiting = f64::from(room.waiting());
                while *due >= 1.0 && waiting > 0.0 {
                    room.held.notify_one();
                    *due -= 1.0;
                }
                // Nobody saves up for a burst.
                *due = due.min(1.0);
            }
        }
    }
}
