//! The router: one proxy per host, each of which sends requests to the instances of its own host alone.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::{
    Account, Counts, Evidence, Fault, Fence, JudgeProgress, Judgement, Prove, ReleaseId, RevisionId,
    ServiceName, Shift, Traffic, Verdict, Weight, file,
};
use cutover_ports::{LeaseSupport, Router, RouterView, Target, Trip};
use futures_util::future::join_all;

use crate::answers::{acted, asked};
use crate::hosts::{Hosts, Member};
use crate::view;

/// Splits traffic alike on every host.
pub struct HostsRouter(pub Arc<Hosts>);

impl HostsRouter {
    /// Returns the targets on this host, as the host knows them.
    fn own(member: &Member, targets: &[Target]) -> Vec<Target> {
        let at = format!("@{}", member.name);
        let own = targets.iter().filter_map(|target| {
            let instance = target.instance.as_str().strip_suffix(&at)?;
            let address = member.reach.there(target.address);
            Some(Target { instance: instance.into(), address, ..target.clone() })
        });
        own.collect()
    }

    fn routes(member: &Member, routes: &[file::Route]) -> Vec<file::Route> {
        let Some(listen) = member.listen else { return routes.to_vec() };
        let own = routes.iter().map(|file::Route::Proxy(route)| {
            let listen = SocketAddr::new(listen, route.listen.port());
            file::Route::Proxy(file::ProxyRoute { listen, ..route.clone() })
        });
        own.collect()
    }

    /// Finds releases that go back because a host is lost, and says so as if its proxy had.
    fn tell_of_lost(&self, answers: Vec<(usize, Result<(), Fault>)>) {
        for (index, answer) in answers {
            let silent = self.0.hears(index, answer.is_ok());
            let (Some(silent), Err(fault)) = (silent, answer) else { continue };
            if silent < self.0.patience.lost || self.0.lost_host != file::LostHost::Abort {
                continue;
            }
            for (service, (release, _)) in self.0.leased() {
                self.0.lease(&service, None);
                let why = format!(
                    "host {} is lost: silent for {} s ({}); the plan's rule takes the release back on all hosts",
                    self.0.members[index].name,
                    silent.as_secs(),
                    fault.what
                );
                self.0.trips.tell(Trip { number: 0, service, release: Some(release), why, shared: false });
            }
        }
    }
}

#[async_trait]
impl Router for HostsRouter {
    fn lease_support(&self) -> LeaseSupport {
        let support = |member: &Member| member.router.lease_support();
        let all = |wanted| self.0.members.iter().all(|member| support(member) == wanted);
        if all(LeaseSupport::Yes) { LeaseSupport::Yes } else { LeaseSupport::No }
    }

    async fn preflight(&self, service: &ServiceName, routes: &[file::Route]) -> Result<(), Fault> {
        let call = |_, member: &Member| {
            let (router, routes) = (member.router.clone(), Self::routes(member, routes));
            async move { router.preflight(service, &routes).await }
        };
        asked(self.0.each(Some(self.0.patience.act), call).await).map(drop)
    }

    async fn set(
        &self,
        fence: Fence,
        service: &ServiceName,
        routes: &[file::Route],
        shift: &Shift,
        targets: &[Target],
    ) -> Result<Evidence, Fault> {
        // Before: whatever becomes of the call, there may be a candidate with weight.
        if let Some(lease) = &shift.lease {
            self.0.lease(service, Some((lease.release.clone(), lease.candidate.clone())));
        }
        let call = |_, member: &Member| {
            let (router, routes) = (member.router.clone(), Self::routes(member, routes));
            let own = Self::own(member, targets);
            async move {
                lacking(shift, &own)?;
                router.set(fence, service, &routes, shift, &own).await
            }
        };
        let answers = acted(&self.0.names(), self.0.each(Some(self.0.patience.act), call).await)?;
        if shift.lease.is_none() {
            self.0.lease(service, None);
        }
        Ok(shifted(answers))
    }

    async fn pin(
        &self,
        fence: Fence,
        service: &ServiceName,
        routes: &[file::Route],
        revision: &RevisionId,
        targets: &[Target],
    ) -> Result<(String, String), Fault> {
        let call = |_, member: &Member| {
            let (router, routes) = (member.router.clone(), Self::routes(member, routes));
            let own = Self::own(member, targets);
            async move { router.pin(fence, service, &routes, revision, &own).await }
        };
        let headers = acted(&self.0.names(), self.0.each(Some(self.0.patience.act), call).await)?;
        match headers.as_slice() {
            [first, rest @ ..] if rest.iter().all(|header| header == first) => Ok(first.clone()),
            _ => Err(Fault::configuration("pin a revision on all hosts: their proxies have other keys")),
        }
    }

    async fn set_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
    ) -> Result<(), Fault> {
        let call = |_, member: &Member| {
            let (router, own) = (member.router.clone(), Self::own(member, targets));
            async move { router.set_targets(fence, service, &own).await }
        };
        acted(&self.0.names(), self.0.each(Some(self.0.patience.act), call).await).map(drop)
    }

    /// Of a host that is silent it shows what was seen last, and says so. Fails where all are silent.
    async fn observe(&self, service: &ServiceName) -> Result<RouterView, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.observe(service).await }
        };
        let answers = self.0.each(Some(self.0.patience.look), call).await;
        if answers.iter().all(Result::is_err) {
            return asked(answers).map(|_: Vec<RouterView>| RouterView::default());
        }
        let mut views = Vec::new();
        for (index, (member, answer)) in self.0.members.iter().zip(answers).enumerate() {
            let seen = self.0.last_view(index, service, answer.as_ref().ok());
            let silent = answer.err().map(|fault| fault.what);
            views.push((member, seen.unwrap_or_default(), silent));
        }
        let candidate = self.0.leased().remove(service).map(|(_, candidate)| candidate);
        view::of_all(views, candidate.as_ref())
    }

    async fn stamp(&self) -> Option<u64> {
        let mut hash = DefaultHasher::new();
        for stamp in join_all(self.0.members.iter().map(|member| member.router.stamp())).await {
            stamp?.hash(&mut hash);
        }
        Some(hash.finish())
    }

    /// Renews on each host. One that is not reached lapses by itself; the fault says which.
    async fn renew(
        &self,
        fence: Fence,
        service: &ServiceName,
        release: &ReleaseId,
    ) -> Result<Duration, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.renew(fence, service, release).await }
        };
        let holds = acted(&self.0.names(), self.0.each(Some(self.0.patience.look), call).await)?;
        holds.into_iter().min().ok_or_else(|| Fault::cutover("renew a lease: there are no hosts"))
    }

    async fn drain(
        &self,
        fence: Fence,
        service: &ServiceName,
        revision: &RevisionId,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.drain(fence, service, revision, within).await }
        };
        let limit = within + self.0.patience.act;
        Ok(drained(acted(&self.0.names(), self.0.each(Some(limit), call).await)?))
    }

    async fn drain_targets(
        &self,
        fence: Fence,
        service: &ServiceName,
        targets: &[Target],
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let call = |_, member: &Member| {
            let (router, own) = (member.router.clone(), Self::own(member, targets));
            async move { router.drain_targets(fence, service, &own, within).await }
        };
        let limit = within + self.0.patience.act;
        Ok(drained(acted(&self.0.names(), self.0.each(Some(limit), call).await)?))
    }

    async fn counts(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        revision: &RevisionId,
    ) -> Result<Counts, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.counts(service, release, revision).await }
        };
        let all = asked(self.0.each(Some(self.0.patience.look), call).await)?;
        Ok(all.into_iter().fold(Counts::default(), sum))
    }

    async fn traffic(&self, service: &ServiceName) -> Result<Option<Traffic>, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.traffic(service).await }
        };
        // The plan's estimates may rest on one host: they are all alike, and a hundredth more is no other plan.
        let all = asked(self.0.each(Some(self.0.patience.look), call).await)?;
        Ok(all.into_iter().flatten().max_by_key(|traffic| traffic.per_hour))
    }

    /// Each proxy compares what it sees: one that finds the candidate worse is enough, and all must find it good.
    async fn verdict(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        prove: &Prove,
    ) -> Result<Verdict, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.verdict(service, release, prove).await }
        };
        let all = asked(self.0.each(Some(self.0.patience.look), call).await)?;
        let counts = all.iter().map(|verdict| verdict.counts).fold(Counts::default(), sum);
        let rank = |verdict: &Verdict| match verdict.judgement {
            Judgement::Fail => 0,
            Judgement::Inconclusive => 1,
            Judgement::Pass => 2,
        };
        let worst = all.into_iter().zip(self.0.names()).min_by_key(|(verdict, _)| rank(verdict));
        let (verdict, host) = worst.ok_or_else(|| Fault::cutover("judge: there are no hosts"))?;
        Ok(Verdict { counts, why: format!("{} (host {host})", verdict.why), epoch: None, ..verdict })
    }

    async fn progress(
        &self,
        service: &ServiceName,
        release: &ReleaseId,
        prove: &Prove,
    ) -> Result<Option<JudgeProgress>, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.progress(service, release, prove).await }
        };
        let all = asked(self.0.each(Some(self.0.patience.look), call).await)?;
        // Each host has its own proof: the release goes on when the last of them has it.
        Ok(all.into_iter().flatten().min_by_key(|progress| progress.toward_proof().unwrap_or(0)))
    }

    async fn account(&self, service: &ServiceName, release: &ReleaseId) -> Result<Option<Account>, Fault> {
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.account(service, release).await }
        };
        let accounts = asked(self.0.each(Some(self.0.patience.look), call).await)?;
        // One comparison can be replayed; a mixture of several could not.
        Ok(accounts.into_iter().flatten().find(|account| account.failure.is_some()))
    }

    async fn trips(&self, after: u64, wait: Duration) -> Result<Vec<Trip>, Fault> {
        let (trips, answers) = self.0.trips.trips(after, wait).await;
        let all_silent = !answers.is_empty() && answers.iter().all(|(_, answer)| answer.is_err());
        let failed = answers.iter().find_map(|(_, answer)| answer.as_ref().err().cloned());
        self.tell_of_lost(answers);
        match failed {
            Some(fault) if all_silent && trips.is_empty() => Err(fault),
            _ => Ok(trips),
        }
    }

    async fn acknowledge(&self, number: u64) -> Result<(), Fault> {
        self.0.trips.acknowledge(number).await
    }

    async fn remove(&self, fence: Fence, service: &ServiceName) -> Result<(), Fault> {
        self.0.lease(service, None);
        let call = |_, member: &Member| {
            let router = member.router.clone();
            async move { router.remove(fence, service).await }
        };
        acted(&self.0.names(), self.0.each(Some(self.0.patience.act), call).await).map(drop)
    }
}

/// Refuses to give weight to a revision that has no instance on this host: no request crosses hosts.
fn lacking(shift: &Shift, own: &[Target]) -> Result<(), Fault> {
    let lacks = |revision: &RevisionId| !own.iter().any(|target| &target.revision == revision);
    match shift.weights.iter().find(|(revision, weight)| *weight > Weight::ZERO && lacks(revision)) {
        Some((revision, weight)) => {
            Err(Fault::platform(format!("give {revision} {weight} of traffic: none of its instances runs")))
        }
        None => Ok(()),
    }
}

fn shifted(answers: Vec<Evidence>) -> Evidence {
    let mut all = Evidence::Plain;
    for answer in answers {
        all = match (all, answer) {
            (
                Evidence::Shifted { generation, acknowledged_us },
                Evidence::Shifted { generation: more, acknowledged_us: other },
            ) => Evidence::Shifted {
                generation: generation + more,
                acknowledged_us: acknowledged_us.max(other),
            },
            (Evidence::Plain, other) => other,
            (all, _) => all,
        };
    }
    all
}

fn drained(answers: Vec<Evidence>) -> Evidence {
    let (mut all_cut, mut all_closed) = (0, 0);
    for answer in answers {
        if let Evidence::Drained { cut, closed } = answer {
            all_cut += cut;
            all_closed += closed;
        }
    }
    Evidence::Drained { cut: all_cut, closed: all_closed }
}

/// Adds what two hosts counted. Below the larger of the two times lie 95 % of all answers at least.
fn sum(one: Counts, other: Counts) -> Counts {
    Counts {
        requests: one.requests + other.requests,
        failed: one.failed + other.failed,
        latency_us_sum: one.latency_us_sum + other.latency_us_sum,
        latency_us_p95: one.latency_us_p95.max(other.latency_us_p95),
    }
}
