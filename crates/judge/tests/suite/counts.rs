//! That a verdict is a function of counts: in any order, over any number of threads, again from the journal.

use cutover_judge::sim::Random;
use cutover_judge::{Arm, Block, Counts, Epoch, Judge, Outcome, Scraped, Settings, State, Tally, replay};
use proptest::prelude::*;

use crate::{MARGINS, history, judge, latency, rates, send};

/// Requests of which the candidate's are no worse, so that no failure ends the counting.
fn requests(random: &mut Random, n: usize) -> Vec<(Arm, Outcome)> {
    let outcome = |random: &mut Random| match random.unit() {
        x if x < 0.02 => Outcome::Error,
        x if x < 0.04 => Outcome::ClientError,
        x if x < 0.05 => Outcome::Hung,
        x if x < 0.06 => Outcome::Untimed,
        _ => Outcome::Ok { latency_us: latency(random) },
    };
    (0..n).map(|_| (random.arm(0.1), outcome(random))).collect()
}

fn shuffled<T: Clone>(all: &[T], random: &mut Random) -> Vec<T> {
    let mut all = all.to_vec();
    for at in (1..all.len()).rev() {
        all.swap(at, (random.unit() * (at + 1) as f64) as usize);
    }
    all
}

/// All that a judge knows but the windows of shared failures, which are in the order of the requests.
fn summed(judge: &Judge) -> serde_json::Value {
    let mut state = serde_json::to_value(judge.state()).expect("a state is JSON");
    state.as_object_mut().expect("a state has names").remove("guard");
    state
}

fn tell(judge: &mut Judge, requests: &[(Arm, Outcome)]) {
    for (arm, outcome) in requests {
        let ticket = judge.assign(*arm);
        judge.score(ticket, *outcome);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_order_of_requests_does_not_matter(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let requests = requests(&mut random, 1_000);
        let (mut one, mut other) = (judge(20, 1_000), judge(20, 1_000));
        tell(&mut one, &requests);
        tell(&mut other, &shuffled(&requests, &mut random));
        prop_assume!(one.failure().is_none() && other.failure().is_none());
        prop_assert_eq!(one.close(), other.close());
        prop_assert_eq!(summed(&one), summed(&other));
    }

    #[test]
    fn threads_add_up_to_one(seed in any::<u64>(), threads in 1usize..5) {
        let mut random = Random::new(seed);
        let requests = requests(&mut random, 1_000);
        let (mut one, mut several) = (judge(20, 1_000), judge(20, 1_000));
        tell(&mut one, &requests);
        let sheet = several.sheet().clone();
        let mut tallies = vec![Tally::new(&sheet); threads];
        for (arm, outcome) in &requests {
            let tally = &mut tallies[(random.unit() * threads as f64) as usize];
            let ticket = sheet.ticket(*arm);
            tally.assign(ticket);
            tally.score(&sheet, ticket, *outcome);
        }
        for tally in &tallies {
            several.merge(tally);
        }
        prop_assume!(one.failure().is_none() && several.failure().is_none());
        prop_assert_eq!(one.shared(), several.shared());
        prop_assert_eq!(one.close(), several.close());
    }

    #[test]
    fn a_body_that_breaks_off_is_a_failure_and_no_second_request(seed in any::<u64>()) {
        let mut random = Random::new(seed);
        let requests = requests(&mut random, 300);
        let (mut late, mut at_once) = (judge(20, 1_000), judge(20, 1_000));
        for (arm, outcome) in requests {
            let breaks_off = matches!(outcome, Outcome::Ok { .. }) && random.unit() < 0.01;
            let ticket = late.assign(arm);
            late.score(ticket, outcome);
            let told = at_once.assign(arm);
            at_once.score(told, if breaks_off { Outcome::Error } else { outcome });
            if breaks_off {
                late.spoil(ticket, outcome);
            }
        }
        prop_assume!(late.failure().is_none() && at_once.failure().is_none());
        let (late, at_once) = (late.close(), at_once.close());
        prop_assert_eq!(&late[0].counts, &at_once[0].counts);
        prop_assert_eq!(&late[0].ledger.wealth, &at_once[0].ledger.wealth);
    }

    /// The judge decides by sums that it keeps request by request; what is written down is computed from counts.
    #[test]
    fn a_release_is_judged_the_same_again(seed in any::<u64>(), worse in 0.0f64..0.2) {
        let (settings, journal, judge) = release(seed, worse);
        let replayed = replay(&settings, &journal, judge.failure());
        prop_assert_eq!(&replayed.differences, &Vec::<String>::new());
        prop_assert_eq!(replayed.failure.as_ref(), judge.failure());
    }

    #[test]
    fn a_worse_outcome_never_looks_better(seed in any::<u64>(), at in 0usize..300) {
        let mut random = Random::new(seed);
        let good: Vec<_> = (0..300).map(|_| (random.arm(0.5), Outcome::Untimed)).collect();
        let mut bad = good.clone();
        bad[at].1 = Outcome::Error;
        let wealth = |requests: &[(Arm, Outcome)]| {
            let mut judge = judge(20, 5_000);
            tell(&mut judge, requests);
            judge.close().pop().expect("one epoch").ledger.wealth
        };
        let (good, worse) = (wealth(&good), wealth(&bad));
        let candidate = bad[at].0 == Arm::Candidate;
        for process in 0..8 {
            prop_assert_eq!(worse[process] > good[process], candidate, "error expert {}", process);
        }
        for process in 18..21 {
            prop_assert_eq!(worse[process] < good[process], candidate, "margin {}", process);
        }
    }
}

/// A release with steps, blocks and restarts; what it left in the journal.
fn release(seed: u64, worse: f64) -> (Settings, Vec<Epoch>, Judge) {
    let mut random = Random::new(seed);
    let settings = Settings::new(MARGINS.to_vec());
    let mut judge = Judge::new(settings.clone(), history(10)).expect("good settings");
    let mut journal = Vec::new();
    for share_bp in [500u16, 2_500, 5_000] {
        journal.extend(judge.set_share(share_bp));
        for _ in 0..3 {
            for _ in 0..300 {
                let ticket = judge.assign(random.arm(f64::from(share_bp) / 10_000.0));
                let outcome = rates(0.001, 0.001 + worse)(&mut random, ticket.arm());
                judge.score(ticket, outcome);
            }
            let candidate = Scraped { requests: 10, errors: random.poisson(10.0 * worse).min(10) };
            judge.block(Block { stable: Scraped { requests: 90, errors: 0 }, candidate });
            journal.extend(judge.next_epoch());
            judge = restarted(&judge);
        }
    }
    journal.extend(judge.close());
    (settings, journal, judge)
}

/// As after a crash: from what was written down.
fn restarted(judge: &Judge) -> Judge {
    let written = serde_json::to_string(judge.state()).expect("plain data");
    let state: State = serde_json::from_str(&written).expect("what was just written");
    assert_eq!(&state, judge.state());
    Judge::resume(state).expect("a state")
}

#[test]
fn a_journal_that_was_changed_is_noticed() {
    let (settings, journal, judge) = release(7, 0.1);
    assert!(judge.failure().is_some());

    let mut changed = journal.clone();
    changed[2].counts.scored[1][18] += 1;
    let found = replay(&settings, &changed, judge.failure());
    assert!(
        found.differences[0]
            .contains("the wealth after epoch 2 comes out differently: counts or wealth were changed")
    );

    let mut shorter = journal.clone();
    shorter.remove(1);
    assert!(replay(&settings, &shorter, judge.failure()).differences[0].contains("epoch 1 is missing"));

    let mut version = journal.clone();
    version[0].fingerprint ^= 1;
    assert!(
        replay(&settings, &version, judge.failure()).differences[0].contains("another version of the judge")
    );

    let silent = replay(&settings, &journal, None);
    assert_eq!(
        silent.differences,
        ["the counts prove that the candidate failed, and the journal does not say so"]
    );
}

#[test]
fn a_journal_survives_being_written_down() {
    let (settings, journal, judge) = release(3, 0.0);
    let written = serde_json::to_string(&journal).expect("plain data");
    let read: Vec<Epoch> = serde_json::from_str(&written).expect("what was just written");
    assert_eq!(replay(&settings, &read, judge.failure()).differences, [""; 0]);
}

/// A restart at any moment neither forgets wealth nor spends α again.
#[test]
fn a_restart_in_the_middle_of_an_epoch_changes_nothing() {
    let mut random = Random::new(5);
    let requests = requests(&mut random, 400);
    let (mut steady, mut restarting) = (judge(20, 1_000), judge(20, 1_000));
    for request in &requests {
        tell(&mut steady, std::slice::from_ref(request));
        tell(&mut restarting, std::slice::from_ref(request));
        restarting = restarted(&restarting);
    }
    assert_eq!(steady.close(), restarting.close());
}

#[test]
fn a_failure_is_for_good_and_survives_a_restart() {
    let mut judge = judge(10, 1_000);
    let mut random = Random::new(1);
    send(&mut judge, &mut random, 1_000, rates(0.001, 0.9));
    let failure = judge.failure().expect("nine in ten fail").clone();
    let mut judge = restarted(&judge);
    send(&mut judge, &mut random, 1_000, rates(0.0, 0.0));
    judge.set_share(5_000);
    assert_eq!(judge.failure(), Some(&failure));
    assert_eq!(judge.seen(), failure.seen, "what comes after it is not counted");
}

#[test]
fn counts_saturate_instead_of_wrapping() {
    let mut counts = Counts { assigned: [u64::MAX - 1; 2], scored: [[u64::MAX - 1; 20]; 2] };
    counts.merge(&counts.clone());
    assert_eq!((counts.assigned[0], counts.requests(Arm::Stable)), (u64::MAX, u64::MAX));
}

/// What no journal of ours holds is refused, never a panic or a verdict.
#[test]
fn a_foreign_state_is_refused() {
    let good = serde_json::to_value(judge(1, 100).state()).expect("plain data");
    for (place, value, why) in [
        ("/open/0/terms/share_bp", serde_json::json!(10_001), "10001 basis points"),
        ("/open/0/counts/scored/0/3", serde_json::json!(u64::MAX), "are the most that one counts"),
        ("/open/0/terms/estimates/errors_ppb", serde_json::json!(0), "no rate"),
        ("/open/0/terms/estimates/latency/up_to_ppb/4", serde_json::json!(0), "do not ascend"),
        ("/open/0/terms/margins_ppb/0", serde_json::json!(0), "margins"),
        ("/ledger/wealth/0", serde_json::json!(i64::MAX), "no release can have"),
        ("/open", serde_json::json!([]), "no open epoch"),
    ] {
        let mut changed = good.clone();
        *changed.pointer_mut(place).expect(place) = value;
        let state: State = serde_json::from_value(changed).expect("it has the shape");
        let told = Judge::resume(state).expect_err(place);
        assert!(told.contains(why), "{place}: {told}");
    }
    let (settings, mut journal, judge) = release(7, 0.0);
    journal[1].counts.scored[0][3] = u64::MAX;
    let found = replay(&settings, &journal, judge.failure());
    assert!(found.differences[0].contains("no judge wrote this: epoch 1 has"), "{:?}", found.differences);
}
