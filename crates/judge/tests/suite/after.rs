//! The watch after the switch, and the probe after its alarm.

use cutover_judge::sim::Random;
use cutover_judge::{Attribution, Judge, Outcome, Probe, Settings, Tick, Watch, WatchState};

use crate::{history, latency, rates};

fn watch(errors: u64) -> Watch {
    let judge = Judge::new(Settings::new(vec![]), history(errors)).expect("good settings");
    Watch::new(judge.sheet().terms().estimates.clone(), 100, 1_800).expect("good estimates")
}

/// The second of the alarm and the failures until then, of a watch at 100 requests/s that breaks at `from`.
fn alarm(watch: &mut Watch, seed: u64, from: u64, rate: f64) -> Option<(u64, u64)> {
    let mut random = Random::new(seed);
    let mut failed = 0;
    for second in 0..1_800 {
        if second > 0 && second * 1000 % watch.tick_ms() == 0 {
            watch.tick();
        }
        let broken = second >= from;
        let rate = if broken { rate } else { 0.001 };
        for _ in 0..100 {
            let fails = random.unit() < rate;
            failed += u64::from(fails && broken);
            if watch.score(if fails { Outcome::Error } else { Outcome::Untimed }) {
                return Some((second, failed));
            }
        }
    }
    None
}

#[test]
fn a_candidate_that_breaks_after_the_switch_is_noticed_at_once() {
    for (from, most) in [(0, 6), (900, 9)] {
        let (second, failed) = alarm(&mut watch(10), 3, from, 0.5).expect("half of it fails");
        assert!(second == from && failed <= most, "after {second} s and {failed} failures");
    }
}

#[test]
fn a_good_candidate_raises_no_alarm() {
    assert_eq!((0..60).filter(|seed| alarm(&mut watch(10), *seed, 1_800, 0.0).is_some()).count(), 0);
    // Nor does one that fails half as often again: what is known of stable is no more exact than that.
    assert_eq!((0..20).filter(|seed| alarm(&mut watch(10), *seed, 0, 0.0015).is_some()).count(), 0);
}

#[test]
fn a_slow_candidate_raises_one() {
    let mut watch = watch(10);
    let mut random = Random::new(1);
    let slow = |random: &mut Random| if random.unit() < 0.3 { 5_000_000 } else { latency(random) };
    let found = (0..400).find(|_| watch.score(Outcome::Ok { latency_us: slow(&mut random) }));
    assert!(found.is_some_and(|requests| requests < 40), "{found:?}");
    let mut hanging = self::watch(10);
    assert!((0..5).any(|_| hanging.score(Outcome::Hung)));
}

#[test]
fn a_restart_changes_nothing() {
    let mut steady = watch(10);
    let mut restarting = watch(10);
    let mut random = Random::new(6);
    for request in 0..3_000 {
        let outcome = if random.unit() < 0.004 { Outcome::Error } else { Outcome::Untimed };
        assert_eq!(steady.score(outcome), restarting.score(outcome));
        if request % 100 == 99 {
            steady.tick();
            restarting.tick();
        }
        let written = serde_json::to_string(restarting.state()).expect("plain data");
        restarting =
            Watch::resume(serde_json::from_str::<WatchState>(&written).expect("what was just written"))
                .expect("a state");
        assert_eq!(steady.state(), restarting.state());
    }
    while !steady.alarm() {
        steady.score(Outcome::Error);
    }
    // What comes after it does not undo it, not even in what is written down.
    for _ in 0..10_000 {
        steady.score(Outcome::Untimed);
    }
    assert!(
        steady.alarm() && Watch::resume(steady.state().clone()).expect("a state").alarm(),
        "an alarm is for good"
    );
}

#[test]
fn what_is_written_down_of_a_watch_is_bounded() {
    let judge = Judge::new(Settings::new(vec![]), history(10)).expect("good settings");
    let mut watch =
        Watch::new(judge.sheet().terms().estimates.clone(), 100, 7 * 24 * 3600).expect("good estimates");
    for _ in 0..5_000 {
        watch.add(Tick { requests: 1_000, errors: 0, timed: 0, slow: 0 });
        watch.tick();
    }
    assert!(watch.over() && !watch.alarm());
    let size = serde_json::to_string(watch.state()).expect("plain data").len();
    assert!(size < 50_000, "{size}");
}

/// What a probe says after at most `n` requests, and how many it took.
fn probe(seed: u64, n: usize, stable: f64, candidate: f64) -> (Attribution, usize) {
    let mut probe = Probe::new(history(10), 100).expect("good settings");
    let mut random = Random::new(seed);
    for sent in 1..=n {
        let ticket = probe.assign(random.arm(0.5));
        let outcome = rates(stable, candidate)(&mut random, ticket.arm());
        let told = probe.score(ticket, outcome);
        if told != Attribution::Unclear {
            return (told, sent);
        }
        probe.next_epoch();
        if sent % 10 == 0 {
            let written = serde_json::to_string(&probe.state()).expect("plain data");
            probe = Probe::resume(serde_json::from_str(&written).expect("what was just written"))
                .expect("a state");
        }
    }
    (Attribution::Unclear, n)
}

#[test]
fn a_probe_tells_a_bad_release_from_a_shared_outage() {
    for seed in 0..20 {
        let (told, sent) = probe(seed, 1_000, 0.001, 0.5);
        assert!(matches!(told, Attribution::Candidate(_)), "{told:?}");
        assert!(sent < 80, "{sent} requests");
        let (told, sent) = probe(seed, 1_000, 0.5, 0.5);
        assert!(matches!(told, Attribution::Shared(_)), "{told:?}");
        assert!(sent < 40, "{sent} requests");
    }
    assert_eq!(probe(1, 2_000, 0.001, 0.001).0, Attribution::Unclear, "it is over");
}

#[test]
fn slowness_that_is_shared_is_shared() {
    let mut probe = Probe::new(history(10), 100).expect("good settings");
    let mut random = Random::new(1);
    let told = (0..100).map(|_| {
        let ticket = probe.assign(random.arm(0.5));
        probe.score(ticket, Outcome::Ok { latency_us: 4_000_000 })
    });
    assert!(told.last().is_some_and(|told| matches!(told, Attribution::Shared(_))));
}
