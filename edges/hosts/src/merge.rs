//! The trips of several routers in one rising sequence.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cutover_core::Fault;
use cutover_ports::{Router, Trip};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

/// Numbers the trips of several routers, each of which numbers its own.
pub struct Merge {
    sources: Mutex<Vec<Arc<dyn Router>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: u64,
    /// By our number: whose trip it is, and the number that it has there; none of a trip that we found ourselves.
    open: BTreeMap<u64, (Option<(usize, u64)>, Trip)>,
    /// The highest number heard of each.
    heard: BTreeMap<usize, u64>,
}

impl Merge {
    /// Merges these routers.
    pub fn new(sources: Vec<Arc<dyn Router>>) -> Merge {
        Merge { sources: Mutex::new(sources), state: Mutex::default() }
    }

    /// Adds a router.
    pub fn add(&self, source: Arc<dyn Router>) {
        self.sources().push(source);
    }

    /// Adds a trip that no router told.
    pub fn tell(&self, trip: Trip) {
        self.state().keep(None, trip);
    }

    /// Waits at most `wait` for trips above `after`. Returns them with what failed, by router.
    pub async fn trips(&self, after: u64, wait: Duration) -> (Vec<Trip>, Vec<(usize, Result<(), Fault>)>) {
        // What nobody acknowledged is told at once; what is new meanwhile comes with it.
        let end = Instant::now() + if self.above(after).is_empty() { wait } else { Duration::ZERO };
        let sources: Vec<_> = self.sources().clone();
        let mut asked: FuturesUnordered<_> = sources
            .iter()
            .enumerate()
            .map(|(index, source)| {
                let heard = self.state().heard.get(&index).copied().unwrap_or(0);
                let left = end.saturating_duration_since(Instant::now());
                async move { (index, source.trips(heard, left).await) }
            })
            .collect();
        let mut answers = Vec::new();
        let late = end + Duration::from_secs(2);
        loop {
            let (index, answer) = tokio::select! {
                next = asked.next() => match next {
                    Some(next) => next,
                    None => break,
                },
                () = sleep_until(late) => break,
            };
            match answer {
                Ok(trips) => {
                    for trip in trips {
                        self.state().hear(index, trip);
                    }
                    answers.push((index, Ok(())));
                }
                Err(fault) => answers.push((index, Err(fault))),
            }
            if !self.above(after).is_empty() {
                break;
            }
        }
        if asked.is_empty()
            && answers.iter().all(|(_, answer)| answer.is_err())
            && self.above(after).is_empty()
        {
            // Nobody is to be waited for: whoever asks again at once would do nothing else.
            sleep_until(end).await;
        }
        (self.above(after), answers)
    }

    /// Acknowledges all up to `number`, each where it came from.
    ///
    /// # Errors
    /// A router that does not take it; it is then told again.
    pub async fn acknowledge(&self, number: u64) -> Result<(), Fault> {
        let mut highest: BTreeMap<usize, u64> = BTreeMap::new();
        for (origin, _) in self.state().open.range(..=number).map(|(_, open)| open.clone()) {
            if let Some((index, own)) = origin {
                let entry = highest.entry(index).or_default();
                *entry = own.max(*entry);
            }
        }
        let sources: Vec<_> = self.sources().clone();
        for (index, own) in highest {
            if let Some(source) = sources.get(index) {
                source.acknowledge(own).await?;
            }
        }
        self.state().open.retain(|open, _| *open > number);
        Ok(())
    }

    fn above(&self, after: u64) -> Vec<Trip> {
        let state = self.state();
        state.open.range(after.saturating_add(1)..).map(|(_, (_, trip))| trip.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, Vec<Arc<dyn Router>>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hear(&mut self, index: usize, trip: Trip) {
        let heard = self.heard.entry(index).or_default();
        if trip.number > *heard {
            *heard = trip.number;
            self.keep(Some((index, trip.number)), trip);
        }
    }

    fn keep(&mut self, origin: Option<(usize, u64)>, trip: Trip) {
        self.last += 1;
        self.open.insert(self.last, (origin, Trip { number: self.last, ..trip }));
    }
}
