//! Candidates that fail half of their requests: how many failed before the deciding one, and what came after.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cutover_judge::Verdict;
use cutover_proxy::{Client, EventKind};

use super::arms::Had;
use super::service::{Service, plan};
use crate::benches::numbers::Samples;

const WEIGHT_BP: u16 = 1_000;
const FAILING_BP: u32 = 5_000;
/// A candidate that is found in none of this is missed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests of a service after the verdict: one that would still be given to the candidate is among them.
const AFTERWARDS: u64 = 100;

/// When a candidate begins to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// With its first request.
    AtOnce,
    /// After it has done well for so long.
    After(Duration),
}

/// What the candidates of one kind came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Trips {
    /// Failed requests of users up to the deciding one, of each run.
    pub(super) failed: Vec<u64>,
    /// Requests that the candidate had when the deciding answer was written, and that failed too.
    pub(super) in_flight: u64,
    /// Sent after the deciding answer had reached its user, and given to the candidate all the same.
    pub(super) after: u64,
    /// From the deciding answer, as the candidate writes it, to the last request that reaches the candidate.
    pub(super) last: Samples,
    /// The same to the proxy's word that the weight is 0 on all threads, and written down.
    pub(super) weight_0: Samples,
    /// Not found in time.
    pub(super) missed: usize,
    /// Taken back before they failed.
    pub(super) early: usize,
}

impl Trips {
    pub(super) fn add(&mut self, other: Trips) {
        self.failed.extend(other.failed);
        self.in_flight += other.in_flight;
        self.after += other.after;
        self.last.extend(other.last);
        self.weight_0.extend(other.weight_0);
        self.missed += other.missed;
        self.early += other.early;
    }

    pub(super) fn runs(&self) -> usize {
        self.failed.len() + self.missed + self.early
    }
}

/// What the proxy did by itself, heard as it happens.
#[derive(Default)]
pub(super) struct Told(Mutex<HashMap<String, Instant>>);

impl Told {
    /// Listens until it is aborted.
    pub(super) fn listen(proxy: &Client) -> (Arc<Told>, tokio::task::JoinHandle<Result<()>>) {
        let (told, proxy) = (Arc::new(Told::default()), proxy.clone());
        let kept = told.clone();
        let listening = tokio::spawn(async move {
            let mut last = 0;
            loop {
                let events = proxy.watch(last, Duration::from_secs(10)).await?;
                let now = Instant::now();
                let mut told = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
                for event in events {
                    last = last.max(event.number);
                    if let (EventKind::Trip, Some(release)) = (event.kind, event.release) {
                        told.entry(release).or_insert(now);
                    }
                }
            }
        });
        (told, listening)
    }

    fn when(&self, release: &str) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(release).copied()
    }

    async fn within(&self, release: &str, limit: Duration) -> Option<Instant> {
        let end = Instant::now() + limit;
        while self.when(release).is_none() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.when(release)
    }
}

/// Makes so many releases of a service, one after the other.
pub(super) async fn make(
    service: Arc<Service>,
    told: Arc<Told>,
    begins: Begins,
    runs: std::ops::Range<usize>,
) -> Result<Trips> {
    let mut trips = Trips::default();
    for run in runs {
        let release = format!("{}-{run}", service.name);
        trips.add(one(&service, &told, begins, &release).await.with_context(|| release.clone())?);
    }
    Ok(trips)
}

async fn one(service: &Service, told: &Told, begins: Begins, release: &str) -> Result<Trips> {
    let mut trips = Trips::default();
    let (_, terms) = plan(&[WEIGHT_BP, 2_500, 5_000, 10_000]);
    service.candidate.fail(if begins == Begins::AtOnce { FAILING_BP } else { 0 });
    service.candidate.begin();
    service.users.begin();
    service.route(Some((release, WEIGHT_BP, &terms))).await?;
    if let Begins::After(well) = begins {
        if told.within(release, well).await.is_some() {
            trips.early = 1;
        }
        service.candidate.fail(FAILING_BP);
    }
    match told.within(release, PATIENCE).await {
        _ if trips.early > 0 => {}
        None => trips.missed = 1,
        Some(heard) => {
            service.further(AFTERWARDS).await?;
            let judged = service.judge(release, terms.margins_ppb[0], false).await?;
            let Verdict::Fail(failure) = judged.verdict else { anyhow::bail!("tripped: {}", judged.verdict) };
            ensure!(service.weight_bp().await? == 0, "tripped, and the candidate has weight");
            let decides = usize::try_from(failure.seen.candidate.errors)?;
            trips.count(&service.candidate.had_so_far(), &service.users.end(), decides, heard)?;
        }
    }
    service.users.end();
    service.candidate.fail(0);
    service.route(None).await?;
    Ok(trips)
}

impl Trips {
    /// Counts a candidate whose failed answer number `decides` was the deciding one.
    fn count(
        &mut self,
        had: &[Had],
        users: &HashMap<u64, [Instant; 2]>,
        decides: usize,
        heard: Instant,
    ) -> Result<()> {
        let failed: Vec<&Had> = had.iter().filter(|one| one.failed).collect();
        ensure!((1..=failed.len()).contains(&decides), "{decides} of {} failures decided", failed.len());
        let deciding = failed[decides - 1];
        let [_, reached] = *users.get(&deciding.number).context("the deciding answer reached its user")?;
        self.failed.push(decides as u64);
        self.in_flight += (failed.len() - decides) as u64;
        let sent_after = |one: &&Had| users.get(&one.number).is_none_or(|[sent, _]| *sent > reached);
        self.after += had.iter().filter(sent_after).count() as u64;
        let last = had.iter().map(|one| one.arrived).max().unwrap_or(deciding.answered);
        self.last.add(last.saturating_duration_since(deciding.answered));
        self.weight_0.add(heard.saturating_duration_since(deciding.answered));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_flight_is_told_from_what_was_assigned_after() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let had = |number, arrived, answered, failed| Had {
            number,
            arrived: at(arrived),
            answered: at(answered),
            failed,
        };
        let all = [
            had(1, 1, 2, true),
            had(2, 3, 4, false),
            had(3, 5, 6, true),
            had(4, 6, 8, true),
            had(5, 9, 10, true),
        ];
        let users = [(1, [0, 3]), (2, [2, 5]), (3, [4, 7]), (4, [5, 9]), (5, [8, 11])];
        let users = users.map(|(number, times)| (number, times.map(at))).into();
        let mut trips = Trips::default();
        trips.count(&all, &users, 2, at(12)).unwrap();
        assert_eq!((trips.failed.clone(), trips.in_flight, trips.after), (vec![2], 2, 1));
        assert_eq!((trips.last.median(), trips.weight_0.median()), (3_000.0, 6_000.0));
        assert!(trips.count(&all, &users, 5, at(12)).is_err(), "there were four failures");
    }
}
