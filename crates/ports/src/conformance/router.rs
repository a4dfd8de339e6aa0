//! What every router promises.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cutover_core::file::{Guard, Route};
use cutover_core::{Blame, Evidence, Lease, ReleaseId, RevisionId, ServiceName, Shift, Weight};

use super::{Fences, check, fenced, fine};
use crate::{LeaseSupport, Router, RouterView, Target};

/// What the suite needs of a router under test. Each case uses a service of its own.
#[async_trait]
pub trait RouterFixture: Send + Sync {
    /// The router.
    fn router(&self) -> Arc<dyn Router>;

    /// Where requests for the service come in.
    fn routes(&self, service: &ServiceName) -> Vec<Route>;

    /// Two targets of the revision that answer.
    async fn targets(&self, service: &ServiceName, revision: &RevisionId) -> Vec<Target>;

    /// Changes the service's weights behind the router's back; false where that cannot be done.
    async fn edit(&self, service: &ServiceName) -> bool;

    /// Lets the router take the candidate's traffic away by itself; false where it has no such way.
    async fn trip(&self, service: &ServiceName) -> bool;
}

/// Runs all cases. Returns the names of those that passed.
///
/// # Errors
/// The first case that broke: its name, and the promise that does not hold.
pub async fn router_cases(fixture: &dyn RouterFixture) -> Result<Vec<&'static str>, String> {
    let mut passed = Vec::new();
    macro_rules! case {
        ($name:ident) => {
            let service = ServiceName::new(concat!("case-", stringify!($name)).replace('_', "-"));
            let mut case = Case::new(fixture, service).await;
            let answer = case.$name().await;
            let fence = case.fences.next();
            let removed = fine(case.router.remove(fence, &case.service).await, "remove the service");
            answer.and(removed).map_err(|error| format!("{}: {error}", stringify!($name)))?;
            passed.push(stringify!($name));
        };
    }
    case!(an_unknown_service_is_empty);
    case!(set_is_in_force_when_it_returns);
    case!(the_same_again_changes_nothing);
    case!(wrong_sums_are_refused);
    case!(nobody_can_have_all_traffic);
    case!(targets_change_alone);
    case!(a_pin_reaches_without_weight);
    case!(drain_needs_weight_zero);
    case!(targets_drain_one_by_one);
    case!(leases_are_renewed_by_their_release);
    case!(a_trip_leaves_what_the_lease_retains);
    case!(a_trip_without_anybody_to_take_over_moves_nothing);
    case!(old_fences_are_refused);
    case!(a_foreign_edit_stops_a_set);
    case!(counts_begin_at_nothing);
    case!(trips_are_waited_for);
    case!(remove_twice_is_once);
    case!(a_stamp_tells_of_every_change);
    Ok(passed)
}

struct Case<'a> {
    fixture: &'a dyn RouterFixture,
    router: Arc<dyn Router>,
    service: ServiceName,
    fences: Fences,
    stable: RevisionId,
    candidate: RevisionId,
    targets: Vec<Target>,
}

impl<'a> Case<'a> {
    async fn new(fixture: &'a dyn RouterFixture, service: ServiceName) -> Case<'a> {
        let (stable, candidate) = (RevisionId::new("r-stable"), RevisionId::new("r-candidate"));
        let mut targets = fixture.targets(&service, &stable).await;
        targets.extend(fixture.targets(&service, &candidate).await);
        Case { fixture, router: fixture.router(), service, fences: Fences(0), stable, candidate, targets }
    }

    fn release() -> ReleaseId {
        ReleaseId::new("case-2")
    }

    /// So much for the candidate, the rest for stable; leased where it is a release under way.
    fn shift(&self, weight: Weight, leased: bool) -> Shift {
        let lease = leased.then(|| Lease {
            release: Self::release(),
            candidate: self.candidate.clone(),
            fallback: self.stable.clone(),
            retain: Weight::ZERO,
            guard: Guard::default(),
        });
        Shift { weights: vec![(self.stable.clone(), weight.rest()), (self.candidate.clone(), weight)], lease }
    }

    /// The same, and on a trip the candidate keeps `retain`.
    fn retaining(&self, weight: Weight, retain: Weight) -> Shift {
        let mut shift = self.shift(weight, true);
        if let Some(lease) = &mut shift.lease {
            lease.retain = retain;
        }
        shift
    }

    async fn set(&mut self, shift: &Shift) -> Result<Evidence, cutover_core::Fault> {
        let routes = self.fixture.routes(&self.service);
        self.router.set(self.fences.next(), &self.service, &routes, shift, &self.targets).await
    }

    async fn view(&self) -> Result<RouterView, String> {
        fine(self.router.observe(&self.service).await, "observe")
    }

    async fn in_force(&self, stable: Weight, candidate: Weight) -> Result<(), String> {
        let view = self.view().await?;
        let weight = |revision: &RevisionId| {
            view.tracks
                .iter()
                .find(|track| &track.revision == revision)
                .map_or(Weight::ZERO, |track| track.weight)
        };
        let found = (weight(&self.stable), weight(&self.candidate));
        let promise = format!(
            "stable has {stable} and the candidate {candidate}, observed {} and {}",
            found.0, found.1
        );
        check(found == (stable, candidate), &promise)
    }

    async fn an_unknown_service_is_empty(&mut self) -> Result<(), String> {
        let view = self.view().await?;
        check(
            view.generation == 0 && view.tracks.is_empty(),
            "an unknown service has generation 0 and no tracks",
        )?;
        let drain =
            self.router.drain(self.fences.next(), &self.service, &self.stable, Duration::from_secs(1));
        fine(drain.await, "drain a revision that is not there").map(drop)
    }

    async fn set_is_in_force_when_it_returns(&mut self) -> Result<(), String> {
        for (weight, leased) in [(0, false), (500, true), (5_000, true), (10_000, true), (10_000, false)] {
            let weight = Weight::from_bp(weight);
            let shift = self.shift(weight, leased);
            fine(self.set(&shift).await, &format!("set {weight}"))?;
            self.in_force(weight.rest(), weight).await?;
        }
        let view = self.view().await?;
        let all =
            self.targets.iter().all(|target| view.tracks.iter().any(|track| track.targets.contains(target)));
        check(all, "every target given is a target, with weight or without")
    }

    async fn the_same_again_changes_nothing(&mut self) -> Result<(), String> {
        let shift = self.shift(Weight::from_bp(2_500), true);
        fine(self.set(&shift).await, "set")?;
        let generation = self.view().await?.generation;
        check(generation > 0, "a service that was set has a generation")?;
        fine(self.set(&shift).await, "set the same again")?;
        check(self.view().await?.generation == generation, "the same again is the same generation")?;
        let other = self.shift(Weight::from_bp(5_000), true);
        fine(self.set(&other).await, "set")?;
        check(self.view().await?.generation > generation, "a change raises the generation")
    }

    async fn a_stamp_tells_of_every_change(&mut self) -> Result<(), String> {
        let Some(before) = self.router.stamp().await else { return Ok(()) };
        let half = self.shift(Weight::from_bp(5_000), false);
        fine(self.set(&half).await, "set")?;
        let set = self.router.stamp().await;
        check(set != Some(before), "a new service is another stamp")?;
        fine(self.set(&half).await, "set the same again")?;
        check(self.router.stamp().await == set, "where no generation changes the stamp stays")?;
        let one = self.targets[..1].to_vec();
        fine(self.router.set_targets(self.fences.next(), &self.service, &one).await, "set the targets")?;
        check(self.router.stamp().await != set, "other targets are another stamp")?;
        if self.fixture.edit(&self.service).await {
            let edited = self.router.stamp().await;
            check(edited != set, "somebody else's edit is another stamp")?;
        }
        Ok(())
    }

    async fn a_pin_reaches_without_weight(&mut self) -> Result<(), String> {
        let routes = self.fixture.routes(&self.service);
        let (router, service) = (self.router.clone(), self.service.clone());
        let of = |revision: &RevisionId| -> Vec<Target> {
            self.targets.iter().filter(|target| &target.revision == revision).cloned().collect()
        };
        let (stable, candidate) = (of(&self.stable), of(&self.candidate));
        let all = Shift { weights: vec![(self.stable.clone(), Weight::FULL)], lease: None };
        let set = router.set(self.fences.next(), &service, &routes, &all, &stable).await;
        fine(set, "set")?;
        let mut headers = Vec::new();
        for _ in 0..2 {
            let fence = self.fences.next();
            let pinned = router.pin(fence, &service, &routes, &self.candidate, &candidate).await;
            headers.push(fine(pinned, "pin")?);
            self.in_force(Weight::FULL, Weight::ZERO).await?;
        }
        check(headers[0] == headers[1] && !headers[0].1.is_empty(), "the same header reaches it again")?;
        let there = |view: &RouterView| view.tracks.iter().any(|track| track.revision == self.candidate);
        check(there(&self.view().await?), "a pinned revision is in the table")?;
        let drain = router.drain(self.fences.next(), &service, &self.candidate, Duration::from_secs(1));
        fine(drain.await, "drain what was pinned")?;
        check(!there(&self.view().await?), "a drain takes it back")?;
        let old = router.pin(Fences::old(), &service, &routes, &self.candidate, &candidate).await;
        fenced(old, "pin")?;
        self.in_force(Weight::FULL, Weight::ZERO).await
    }

    async fn wrong_sums_are_refused(&mut self) -> Result<(), String> {
        let good = self.shift(Weight::ZERO, false);
        fine(self.set(&good).await, "set")?;
        let half = Weight::from_bp(5_000);
        let bad = Shift {
            weights: vec![(self.stable.clone(), half), (self.candidate.clone(), Weight::FULL)],
            lease: None,
        };
        check(self.set(&bad).await.is_err(), "weights that add up to 150% are refused")?;
        let bad = Shift { weights: vec![(self.stable.clone(), half)], lease: None };
        check(self.set(&bad).await.is_err(), "weights that add up to 50% are refused")?;
        self.in_force(Weight::FULL, Weight::ZERO).await
    }

    async fn nobody_can_have_all_traffic(&mut self) -> Result<(), String> {
        let shift = Shift { weights: vec![(self.candidate.clone(), Weight::FULL)], lease: None };
        fine(self.set(&shift).await, "set a first release")?;
        self.in_force(Weight::ZERO, Weight::FULL).await?;
        let none = Shift { weights: Vec::new(), lease: None };
        fine(self.set(&none).await, "take a first release back")?;
        self.in_force(Weight::ZERO, Weight::ZERO).await
    }

    async fn targets_change_alone(&mut self) -> Result<(), String> {
        let shift = self.shift(Weight::from_bp(2_500), true);
        fine(self.set(&shift).await, "set")?;
        let fewer: Vec<Target> = self.targets.iter().skip(1).cloned().collect();
        let fence = self.fences.next();
        fine(self.router.set_targets(fence, &self.service, &fewer).await, "set the targets")?;
        self.in_force(Weight::from_bp(7_500), Weight::from_bp(2_500)).await?;
        let gone = &self.targets[0];
        let view = self.view().await?;
        check(
            !view.tracks.iter().any(|track| track.targets.contains(gone)),
            "what is not given is no target",
        )?;
        if self.router.lease_support() == LeaseSupport::Yes {
            let fence = self.fences.next();
            fine(self.router.renew(fence, &self.service, &Self::release()).await, "renew: the lease stays")?;
        }
        Ok(())
    }

    async fn drain_needs_weight_zero(&mut self) -> Result<(), String> {
        let shift = self.shift(Weight::FULL, true);
        fine(self.set(&shift).await, "set")?;
        let within = Duration::from_secs(5);
        let drain = self.router.drain(self.fences.next(), &self.service, &self.candidate, within).await;
        check(drain.is_err(), "a revision with weight is not drained")?;
        self.in_force(Weight::ZERO, Weight::FULL).await?;
        for _ in 0..2 {
            let drained = self.router.drain(self.fences.next(), &self.service, &self.stable, within).await;
            check(matches!(fine(drained, "drain")?, Evidence::Drained { .. }), "a drain says what was cut")?;
        }
        let view = self.view().await?;
        check(
            !view.tracks.iter().any(|track| track.revision == self.stable),
            "what is drained leaves the table",
        )?;
        self.in_force(Weight::ZERO, Weight::FULL).await
    }

    async fn targets_drain_one_by_one(&mut self) -> Result<(), String> {
        let within = Duration::from_secs(5);
        let gone = vec![self.targets[0].clone()];
        let early = self.router.drain_targets(self.fences.next(), &self.service, &gone, within).await;
        fine(early, "drain a target of an unknown service")?;
        let shift = self.shift(Weight::from_bp(2_500), true);
        fine(self.set(&shift).await, "set")?;
        for target in [&self.targets[0], &self.targets[3]] {
            let one = std::slice::from_ref(target);
            let drain = self.router.drain_targets(self.fences.next(), &self.service, one, within).await;
            match drain {
                Err(fault) if fault.blame == Blame::Platform => {}
                Err(fault) => {
                    return Err(format!("a target in the table is refused by the platform: {fault}"));
                }
                Ok(_) => return Err("a target in the table is not drained".into()),
            }
        }
        self.in_force(Weight::from_bp(7_500), Weight::from_bp(2_500)).await?;
        self.targets.remove(0);
        fine(self.set(&shift).await, "set without the target")?;
        for _ in 0..2 {
            let drained = self.router.drain_targets(self.fences.next(), &self.service, &gone, within).await;
            let evidence = fine(drained, "drain the target")?;
            check(matches!(evidence, Evidence::Drained { .. }), "a drain says what was cut")?;
        }
        self.in_force(Weight::from_bp(7_500), Weight::from_bp(2_500)).await
    }

    async fn leases_are_renewed_by_their_release(&mut self) -> Result<(), String> {
        if self.router.lease_support() != LeaseSupport::Yes {
            return Ok(());
        }
        let shift = self.shift(Weight::from_bp(1_000), true);
        fine(self.set(&shift).await, "set")?;
        let fence = self.fences.next();
        let holds = fine(self.router.renew(fence, &self.service, &Self::release()).await, "renew")?;
        check(holds > Duration::ZERO, "a lease holds for a while")?;
        let stranger = self.router.renew(self.fences.next(), &self.service, &ReleaseId::new("case-9")).await;
        check(stranger.is_err(), "another release cannot renew it")?;
        let settled = self.shift(Weight::FULL, false);
        fine(self.set(&settled).await, "settle")?;
        let late = self.router.renew(self.fences.next(), &self.service, &Self::release()).await;
        check(late.is_err(), "what is settled has no lease")
    }

    async fn a_trip_leaves_what_the_lease_retains(&mut self) -> Result<(), String> {
        let bp = Weight::from_bp;
        let more = self.retaining(bp(6_000), bp(6_001));
        check(self.set(&more).await.is_err(), "a candidate cannot keep more than it has")?;
        for (retain, lowered) in [(3_000, 1_500), (0, 0)] {
            let shift = self.retaining(bp(6_000), bp(retain));
            fine(self.set(&shift).await, "set")?;
            self.in_force(bp(4_000), bp(6_000)).await?;
            if !self.fixture.trip(&self.service).await {
                return Ok(());
            }
            self.in_force(bp(retain).rest(), bp(retain)).await?;
            let raise = self.shift(bp(retain + 1), false);
            check(self.set(&raise).await.is_err(), "what was tripped gets no more than it has")?;
            let raise = self.shift(bp(6_000), true);
            check(self.set(&raise).await.is_err(), "nor with its lease")?;
            for lower in [retain, lowered, lowered, 0] {
                fine(self.set(&self.shift(bp(lower), false)).await, &format!("lower it to {lower}"))?;
                self.in_force(bp(lower).rest(), bp(lower)).await?;
            }
            let raise = self.shift(bp(1), false);
            check(self.set(&raise).await.is_err(), "nor after it was lowered")?;
            fine(self.router.remove(self.fences.next(), &self.service).await, "remove the service")?;
        }
        Ok(())
    }

    async fn a_trip_without_anybody_to_take_over_moves_nothing(&mut self) -> Result<(), String> {
        let all = self.retaining(Weight::FULL, Weight::FULL);
        fine(self.set(&all).await, "set")?;
        self.fixture.trip(&self.service).await;
        self.in_force(Weight::ZERO, Weight::FULL).await?;
        if self.router.lease_support() == LeaseSupport::Yes {
            let renewed = self.router.renew(self.fences.next(), &self.service, &Self::release()).await;
            fine(renewed, "renew: it was not tripped")?;
        }
        Ok(())
    }

    async fn old_fences_are_refused(&mut self) -> Result<(), String> {
        let shift = self.shift(Weight::from_bp(1_000), true);
        fine(self.set(&shift).await, "set")?;
        let (old, within) = (Fences::old(), Duration::from_secs(1));
        let routes = self.fixture.routes(&self.service);
        let other = self.shift(Weight::from_bp(9_000), true);
        let (router, service) = (&self.router, &self.service);
        fenced(router.set(old, service, &routes, &other, &self.targets).await, "set")?;
        fenced(router.set_targets(old, service, &self.targets[1..]).await, "set_targets")?;
        fenced(router.drain(old, service, &RevisionId::new("r-none"), within).await, "drain")?;
        fenced(router.drain_targets(old, service, &[], within).await, "drain_targets")?;
        fenced(router.remove(old, service).await, "remove")?;
        if router.lease_support() == LeaseSupport::Yes {
            fenced(router.renew(old, service, &Self::release()).await, "renew")?;
        }
        self.in_force(Weight::from_bp(9_000), Weight::from_bp(1_000)).await
    }

    async fn a_foreign_edit_stops_a_set(&mut self) -> Result<(), String> {
        let shift = self.shift(Weight::from_bp(1_000), true);
        fine(self.set(&shift).await, "set")?;
        if !self.fixture.edit(&self.service).await {
            return Ok(());
        }
        let next = self.shift(Weight::from_bp(5_000), true);
        check(self.set(&next).await.is_err(), "someone else's edit, seen since the last set, stops it")
    }

    async fn counts_begin_at_nothing(&mut self) -> Result<(), String> {
        let shift = self.shift(Weight::from_bp(1_000), true);
        fine(self.set(&shift).await, "set")?;
        let counts = self.router.counts(&self.service, &Self::release(), &self.candidate).await;
        let counts = fine(counts, "count")?;
        check(counts.failed <= counts.requests, "no more requests fail than there are")?;
        let other =
            self.router.counts(&self.service, &ReleaseId::new("case-9"), &RevisionId::new("r-none")).await;
        check(
            fine(other, "count what is not there")?.requests == 0,
            "a revision without traffic has no requests",
        )
    }

    async fn trips_are_waited_for(&mut self) -> Result<(), String> {
        let begun = tokio::time::Instant::now();
        let trips =
            fine(self.router.trips(u64::MAX - 1, Duration::from_millis(200)).await, "wait for trips")?;
        check(trips.is_empty(), "there are no trips above the last")?;
        check(begun.elapsed() < Duration::from_secs(5), "the wait for trips ends")?;
        fine(self.router.acknowledge(0).await, "acknowledge nothing")
    }

    async fn remove_twice_is_once(&mut self) -> Result<(), String> {
        let shift = self.shift(Weight::ZERO, false);
        fine(self.set(&shift).await, "set")?;
        for _ in 0..2 {
            fine(self.router.remove(self.fences.next(), &self.service).await, "remove")?;
        }
        check(self.view().await?.tracks.is_empty(), "what is removed is not there")
    }
}
