//! Runs effects over the edges: each with a deadline, each call with a fence of its own.

mod check;
pub(crate) mod gate;
mod load;
mod metrics;
mod pinned;
mod shrink;
mod smoke;
mod steady;
mod traffic;
mod unwell;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cutover_core::effect::BackStage;
use cutover_core::{
    After, Effect, EffectKey, EffectName, Event, Evidence, Fault, Fence, Outcome, Release, ReleaseFile,
    RevisionId, ServiceName, StepKey,
};
use cutover_ports::{Edges, RevisionSpec, Secret};
use serde_json::json;

use crate::engine::Shared;
use crate::options::Timeouts;
use crate::service::Service;

pub(crate) use metrics::Measuring;
pub(crate) use traffic::{running_targets, shift_now};

/// How often a call is repeated with a higher fence when another call of the same engine overtook it.
const OVERTAKEN: u32 = 5;

/// One effect on its way.
pub(crate) struct Act {
    pub(crate) shared: Arc<Shared>,
    pub(crate) service: Arc<Service>,
    pub(crate) release: Arc<Release>,
    pub(crate) secrets: Arc<BTreeMap<String, Secret>>,
}

impl Act {
    /// Runs the effect. Returns what came of it, and where requests may be lost also what was counted.
    pub(crate) async fn run(&self, key: &EffectKey, effect: &Effect) -> (Outcome, Vec<Event>) {
        let outcome = match self.deadline(effect) {
            Some(deadline) => match tokio::time::timeout(deadline, self.act(key, effect)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    Err(Fault::unknown(format!("{}: no answer after {} s", key.name, deadline.as_secs())))
                }
            },
            None => self.act(key, effect).await,
        };
        // Counted before the result is journaled: what decides a release also ends its account.
        let settles = matches!(key.name, EffectName::Shift | EffectName::Settle)
            || key.step == StepKey::Back(BackStage::Retire)
            || key.step == StepKey::Back(BackStage::Traffic);
        if outcome.is_err() || !settles {
            return (outcome, Vec::new());
        }
        // Once nothing more is compared, what the verdicts were computed from is kept for good.
        let compared = key.name == EffectName::Settle || key.step == StepKey::Back(BackStage::Traffic);
        let judged = if compared { traffic::judged(self).await } else { None };
        (outcome, counted(&self.shared, &self.service.name).await.into_iter().chain(judged).collect())
    }

    fn edges(&self) -> &Edges {
        &self.shared.edges
    }

    fn timeouts(&self) -> &Timeouts {
        &self.shared.options.timeouts
    }

    /// Returns how long the effect may take; none where it lasts as long as it is wanted, and each of its calls has
    /// a deadline.
    fn deadline(&self, effect: &Effect) -> Option<Duration> {
        let (times, file) = (self.timeouts(), &self.release.file);
        let stop = file.platform.stop_grace().duration() + times.retire_beyond;
        Some(match effect {
            Effect::Preflight { .. } => times.preflight,
            Effect::Build { .. } => times.build,
            Effect::Provision { .. } => times.provision,
            Effect::Check { .. } | Effect::Steady { .. } => {
                file.checks.within.duration() + times.check_beyond
            }
            Effect::Processes { grace, .. } => times.provision + grace.duration() + times.retire_beyond,
            Effect::Shift(_) | Effect::Lower(_) | Effect::Settle(_) => times.shift,
            Effect::Drain { within, .. } => within.duration() + times.drain_beyond,
            Effect::Shrink { within, .. } => within.duration() + times.shift + times.drain_beyond + stop,
            Effect::Retire { .. } => stop,
            Effect::Judge { guard, .. } => times.look + metrics::longest(guard),
            Effect::Load { test, .. } => {
                // The last batch begins within the time, and pauses when it is answered.
                let last = test.timeout.plus(test.pause.unwrap_or_default());
                test.span.plus(last).duration() + times.check_beyond
            }
            // A test suite takes what it takes; the release's own deadline bounds it.
            Effect::Gate { .. } | Effect::Smoke { .. } | Effect::KeepLease { .. } | Effect::Watch { .. } => {
                return None;
            }
        })
    }

    async fn act(&self, key: &EffectKey, effect: &Effect) -> Outcome {
        let (name, platform) = (&self.service.name, &self.edges().platform);
        let note = |text: String| if text.is_empty() { Evidence::Plain } else { Evidence::Note { text } };
        match effect {
            Effect::Preflight { candidate, beside, processes } => {
                self.edges().router.preflight(name, &self.release.file.route).await?;
                let mut spec = self.spec();
                spec.platform.set_replicas(*beside);
                for (name, process) in &mut spec.processes {
                    process.replicas = processes.get(name).copied().unwrap_or(0);
                }
                let told = platform.preflight(&spec, candidate).await?;
                let asked = metrics::preflight(self).await?;
                Ok(note(
                    [told, asked].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "),
                ))
            }
            Effect::Gate { command } => gate::gate(self, key, command).await,
            Effect::Build { revision } => {
                let spec = self.spec();
                let built = fenced(&self.service, |fence| platform.build(fence, &spec, revision)).await;
                built.map(note)
            }
            Effect::Provision { revision, count } => {
                let ensured =
                    fenced(&self.service, |fence| platform.ensure(fence, name, revision, *count)).await;
                ensured.map(|()| Evidence::Plain)
            }
            Effect::Check { revision, count } => check::check(self, revision, *count).await,
            Effect::Smoke { revision } => smoke::smoke(self, key, revision).await,
            Effect::Load { revision, beside, test } => {
                load::load(self, revision, beside.as_ref(), test).await
            }
            Effect::Processes { revision, run, .. } => {
                let ensured =
                    fenced(&self.service, |fence| platform.ensure_processes(fence, name, revision, run))
                        .await;
                ensured.map(|()| Evidence::Plain)
            }
            Effect::Steady { revision, run } => steady::steady(self, revision, run).await,
            Effect::Lower(shift) => traffic::lower(self, shift).await,
            Effect::Shrink { revision, count, shift, within } => {
                shrink::shrink(self, key, &shrink::Wish { revision, count: *count, shift, within: *within })
                    .await
            }
            Effect::Shift(shift) | Effect::Settle(shift) => traffic::shift(self, shift).await,
            Effect::KeepLease { release } => traffic::keep_lease(self, release).await,
            Effect::Watch { revision, guard, prove } => {
                let traffic = || traffic::watch(self, revision, guard, prove.as_ref());
                metrics::beside(self, key, guard, traffic).await
            }
            Effect::Judge { revision, guard, prove } => {
                let traffic = traffic::judge(self, revision, guard, prove.as_ref());
                metrics::verdict(self, key, guard, traffic).await
            }
            Effect::Drain { revision, within } => {
                let (router, within) = (&self.edges().router, within.duration());
                fenced(&self.service, |fence| router.drain(fence, name, revision, within)).await
            }
            Effect::Retire { revision } => {
                // With its instances goes what they ended of.
                let ended = match key.step {
                    StepKey::Back(_) => check::ended(self, revision).await,
                    StepKey::Forward(_) => String::new(),
                };
                if matches!(key.step, StepKey::Back(_)) {
                    pinned::forget(self, revision).await?;
                }
                self.retire(revision).await.map(|()| note(ended))
            }
        }
    }

    async fn retire(&self, revision: &RevisionId) -> Result<(), Fault> {
        let platform = &self.edges().platform;
        fenced(&self.service, |fence| platform.retire(fence, &self.service.name, revision)).await
    }

    fn spec(&self) -> RevisionSpec {
        spec_of(&self.release, (*self.secrets).clone())
    }
}

/// Returns what the release's candidate is made from.
pub(crate) fn spec_of(release: &Release, secrets: BTreeMap<String, Secret>) -> RevisionSpec {
    RevisionSpec {
        service: release.service.clone(),
        platform: release.file.platform.clone(),
        processes: release.file.processes.clone(),
        settings: settings_of(&release.file),
        base: PathBuf::from(&release.base),
        // What metrics stores want to see is none of the service's business.
        secrets: secrets
            .into_iter()
            .filter(|(name, _)| release.file.platform.secrets().contains(&name.as_str()))
            .collect(),
    }
}

fn settings_of(file: &ReleaseFile) -> String {
    let beside: BTreeMap<_, _> =
        file.processes.iter().map(|(name, process)| (name, process.replicas)).collect();
    json!({ "replicas": file.platform.replicas(), "processes": beside, "route": file.route }).to_string()
}

/// Calls an edge with a fence. Where a later call of this engine arrived first, the call is repeated with a higher
/// one; where the service is lost, the refusal stands.
pub(crate) async fn fenced<T, F>(service: &Arc<Service>, call: impl Fn(Fence) -> F) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut tries = 0;
    loop {
        if service.lost() {
            return Err(Fault::fenced(format!("{}: another driver took the service over", service.name)));
        }
        match call(service.draw()).await {
            Err(fault) if fault.after == After::Fenced && tries < OVERTAKEN => tries += 1,
            answer => return answer,
        }
    }
}

/// Asks the router how many requests there were so far; none where it cannot say.
pub(crate) async fn counted(shared: &Shared, service: &ServiceName) -> Option<Event> {
    let look = shared.options.timeouts.look.min(Duration::from_secs(1));
    let view = tokio::time::timeout(look, shared.edges.router.observe(service)).await.ok()?.ok()?;
    let cutover_ports::RouterView { requests, failed, failed_by_router, .. } = view;
    Some(Event::Counted { requests, failed, failed_by_router })
}
