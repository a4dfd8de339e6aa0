//! One host that fails, hangs, loses answers or lies, and what is said of all.

use std::time::Duration;

use cutover_core::file::LostHost;
use cutover_core::{After, Fault, Weight};
use cutover_ports::fake::{Call, Mishap};
use cutover_ports::{Platform, Router};

use super::harness::{Two, fence, release, shop};

const TENTH: Weight = Weight::from_bp(1_000);

#[tokio::test(start_paused = true)]
async fn a_set_that_fails_on_one_host_is_unknown_and_goes_back_on_all() {
    for mishap in [Mishap::FailRetry, Mishap::FailFinal, Mishap::Hang, Mishap::LoseAnswer, Mishap::Unknown] {
        let two = Two::both().await;
        two.shift(Weight::ZERO).await.unwrap();
        two.worlds[1].spoil(Call::Set, mishap.clone());
        let fault = two.shift(TENTH).await.unwrap_err();
        assert_eq!(fault.after, After::Unknown, "{mishap:?}: {fault}");
        assert!(fault.what.contains("(host b)") && fault.what.ends_with("done on a"), "{fault}");
        assert_eq!(two.weights()[0], TENTH, "{mishap:?}");
        // The way back, over both whatever became of them.
        two.shift(Weight::ZERO).await.unwrap();
        assert_eq!(two.weights(), [Weight::ZERO; 2], "{mishap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_everywhere_did_not_happen() {
    let two = Two::both().await;
    two.shift(Weight::ZERO).await.unwrap();
    for world in &two.worlds {
        world.spoil(Call::Set, Mishap::FailRetry);
    }
    let fault = two.shift(TENTH).await.unwrap_err();
    assert_eq!(fault.after, After::Retry, "{fault}");
    assert_eq!(two.weights(), [Weight::ZERO; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_lies_is_seen_in_the_view() {
    let two = Two::both().await;
    two.shift(Weight::ZERO).await.unwrap();
    two.worlds[1].spoil(Call::Set, Mishap::Lie);
    two.shift(TENTH).await.unwrap();
    let view = two.router.observe(&shop()).await.unwrap();
    let candidate = view.tracks.iter().find(|track| track.revision.as_str() == "r-2").unwrap();
    assert_eq!(candidate.weight, Weight::ZERO, "the one that gives it least is shown");
    assert!(view.notes.iter().any(|note| note.contains("host a gives r-2 10%")), "{:?}", view.notes);
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_shown_as_seen_last() {
    let two = Two::both().await;
    two.shift(TENTH).await.unwrap();
    let before = (two.targets().await, two.router.observe(&shop()).await.unwrap());
    two.worlds[1].spoil(Call::ObserveInstances, Mishap::Hang);
    two.worlds[1].spoil(Call::ObserveRouter, Mishap::FailRetry);
    let seen = two.platform.observe(&shop()).await.unwrap();
    let why = |host: &str| {
        let mut instances = seen.iter().flat_map(|seen| &seen.instances);
        instances.find(|one| one.id.as_str().ends_with(host)).unwrap().why.clone()
    };
    assert_eq!(why("@a"), "");
    assert!(why("@b").contains("as seen last") && why("@b").contains("(host b)"), "{}", why("@b"));
    let view = two.router.observe(&shop()).await.unwrap();
    assert!(view.notes.iter().any(|note| note.contains("host b does not answer")), "{:?}", view.notes);
    let known = |view: cutover_ports::RouterView| -> Vec<_> {
        view.tracks.into_iter().map(|track| (track.revision, track.weight, track.targets)).collect()
    };
    assert_eq!((two.targets().await, known(view)), (before.0, known(before.1)), "nothing seems to be gone");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_one_host_does_not_renew_lapses_there_and_only_there() {
    let two = Two::both().await;
    two.shift(TENTH).await.unwrap();
    for _ in 0..6 {
        two.worlds[1].spoil(Call::Renew, Mishap::FailRetry);
        let fault: Fault = two.router.renew(fence(), &shop(), &release()).await.unwrap_err();
        assert!(fault.what.contains("(host b)"), "{fault}");
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(two.weights(), [TENTH, Weight::ZERO]);
    let trips = two.router.trips(0, Duration::from_secs(1)).await.unwrap();
    assert_eq!(trips.len(), 1, "{trips:?}");
    assert_eq!(trips[0].release, Some(release()));
}

#[tokio::test(start_paused = true)]
async fn trips_of_hosts_have_one_sequence_and_are_acknowledged_where_they_came_from() {
    let two = Two::both().await;
    two.shift(TENTH).await.unwrap();
    two.worlds[1].trip("shop", "first");
    let first = two.router.trips(0, Duration::from_secs(1)).await.unwrap();
    two.worlds[0].trip("shop", "second");
    let both = two.router.trips(0, Duration::from_secs(1)).await.unwrap();
    let told: Vec<_> = both.iter().map(|trip| (trip.number, trip.why.as_str())).collect();
    assert_eq!(first[0].number, 1);
    assert_eq!(told.len(), 2, "what is not acknowledged is told again: {told:?}");
    assert!(told[0].1.contains("first") && told[1].1.contains("second"), "{told:?}");
    two.router.acknowledge(1).await.unwrap();
    assert_eq!([two.worlds[0].open_trips(), two.worlds[1].open_trips()], [1, 0]);
    two.router.acknowledge(2).await.unwrap();
    assert_eq!(two.worlds[0].open_trips(), 0);
    assert!(two.router.trips(2, Duration::from_millis(100)).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_lost_takes_the_release_back_if_that_is_the_rule() {
    for (rule, back) in [(LostHost::Abort, true), (LostHost::Wait, false)] {
        let two = Two::with(rule);
        two.run("r-1", 2).await;
        two.run("r-2", 2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        two.shift(TENTH).await.unwrap();
        let mut told = Vec::new();
        for _ in 0..6 {
            two.worlds[1].spoil(Call::Trips, Mishap::FailRetry);
            told = two.router.trips(0, Duration::from_millis(500)).await.unwrap();
        }
        assert_eq!(!told.is_empty(), back, "{rule:?}: {told:?}");
        if let Some(trip) = told.first() {
            assert_eq!((told.len(), trip.release.clone()), (1, Some(release())));
            assert!(trip.why.contains("host b is lost"), "{}", trip.why);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn counts_are_spread_evenly_and_the_first_ones_stay() {
    let two = Two::new();
    let revision = two.run("r-1", 3).await;
    assert_eq!(two.worlds.each_ref().map(|world| world.running("shop")[&revision]), [2, 1]);
    let three = two.targets().await;
    two.platform.ensure(fence(), &shop(), &revision, 2).await.unwrap();
    assert_eq!(two.targets().await, three[..2], "those that leave are the last ones");
}

#[tokio::test(start_paused = true)]
async fn no_request_crosses_hosts() {
    let two = Two::new();
    two.run("r-1", 2).await;
    two.run("r-2", 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    two.shift(Weight::ZERO).await.unwrap();
    let fault = two.shift(TENTH).await.unwrap_err();
    assert!(fault.what.contains("none of its instances runs (host b)"), "{fault}");
}

#[tokio::test(start_paused = true)]
async fn a_build_that_fails_on_one_host_is_no_build() {
    let two = Two::new();
    let spec = super::harness::spec(&shop(), "r-1");
    two.worlds[1].spoil(Call::Build, Mishap::FailFinal);
    let fault = two.platform.build(fence(), &spec, &"r-1".into()).await.unwrap_err();
    assert!(fault.what.contains("(host b)"), "{fault}");
    assert_eq!(fault.after, After::Unknown);
}
