//! What the judge says, and when.

use cutover_judge::sim::Random;
use cutover_judge::{
    Arm, Cause, History, Inconclusive, Judge, Outcome, Question, Settings, Verdict, ladder, plan,
};

use crate::{MARGINS, judge, latency, question, rates, send};

fn inconclusive(judge: &Judge, question: &Question) -> Inconclusive {
    match judge.verdict(question) {
        Verdict::Inconclusive(inconclusive) => inconclusive,
        other => panic!("{other}"),
    }
}

#[test]
fn without_traffic_nothing_passes() {
    let judge = judge(10, 500);
    let told = inconclusive(&judge, &Question { candidate_per_hour: 0, ..question(MARGINS[2]) });
    assert_eq!(told.cause, Cause::NoTraffic);
    assert_eq!(told.needs.expect("a number").seconds, None);
    assert!(told.to_string().contains("and none are coming"), "{told}");
}

#[test]
fn traffic_that_stops_proves_nothing_and_what_was_seen_stays() {
    let mut judge = judge(10, 1_000);
    send(&mut judge, &mut Random::new(1), 1_000, rates(0.0, 0.0));
    let told = inconclusive(&judge, &question(MARGINS[0]));
    let seen = told.seen.candidate.requests;
    assert!(seen > 0 && told.needs.as_ref().expect("a number").seconds.is_some(), "{told}");
    let stopped =
        inconclusive(&judge, &Question { candidate_per_hour: 0, step_ms: 3_600_000, ..question(MARGINS[0]) });
    assert_eq!(stopped.seen.candidate.requests, seen);
    let needs = stopped.needs.as_ref().expect("a number");
    assert!(needs.candidate_requests > 0 && needs.seconds.is_none(), "{needs:?}");
    assert!(stopped.to_string().contains("and none are coming"), "{stopped}");
}

#[test]
fn what_is_needed_is_said_in_requests_and_time() {
    let mut judge =
        Judge::new(Settings::new(MARGINS.to_vec()), History { requests: 10_000, ..History::default() })
            .unwrap();
    judge.set_share(1_000);
    let mut random = Random::new(1);
    send(&mut judge, &mut random, 20, rates(0.0, 0.0));
    let first = inconclusive(&judge, &question(MARGINS[0]));
    let needs = first.needs.expect("a number");
    assert!((900..=1_000).contains(&needs.candidate_requests), "{needs:?}");
    assert_eq!(needs.seconds, Some(needs.candidate_requests.div_ceil(10)));
    send(&mut judge, &mut random, 5_000, rates(0.0, 0.0));
    let later = inconclusive(&judge, &question(MARGINS[0]));
    let less = needs.candidate_requests - later.needs.expect("a number").candidate_requests;
    let sent = later.seen.candidate.requests - first.seen.candidate.requests;
    assert!(less.abs_diff(sent) < 30, "{less} fewer after {sent} requests");
    assert_eq!(later.proven_ppb, Some(MARGINS[1]));
    let told = later.to_string();
    assert!(told.contains("proven so far: it does not fail 2 percentage points more often"), "{told}");
    send(&mut judge, &mut random, 6_000, rates(0.0, 0.0));
    assert!(matches!(judge.verdict(&question(MARGINS[0])), Verdict::Pass(_)));
}

#[test]
fn a_pass_waits_for_the_floor_and_the_warm_up() {
    let mut judge = judge(0, 5_000);
    send(&mut judge, &mut Random::new(1), 2_000, rates(0.0, 0.0));
    let asked = question(MARGINS[2]);
    assert!(matches!(judge.verdict(&asked), Verdict::Pass(_)));
    assert_eq!(inconclusive(&judge, &Question { step_ms: 1_999, ..asked }).cause, Cause::TooSoon);
    judge.warm_up(true);
    assert_eq!(inconclusive(&judge, &asked).cause, Cause::TooSoon);
}

#[test]
fn a_margin_that_was_not_bet_on_is_never_proven() {
    let mut judge = judge(0, 5_000);
    send(&mut judge, &mut Random::new(1), 5_000, rates(0.0, 0.0));
    let told = inconclusive(&judge, &question(77));
    assert_eq!((told.cause, told.needs), (Cause::Evidence, None));
}

#[test]
fn latency_is_proven_where_it_is_asked_for() {
    let mut random = Random::new(4);
    let asked = Question { latency: true, ..question(MARGINS[0]) };
    let mut good = judge(10, 5_000);
    send(&mut good, &mut random, 10_000, rates(0.001, 0.001));
    let told = good.verdict(&asked).to_string();
    assert!(
        told.contains(
            "pass: the candidate does not fail 0.5 percentage points more often than stable, nor slower"
        ),
        "{told}"
    );

    // Slower by less than it takes to fail, and by too much to pass.
    let mut slower = judge(10, 5_000);
    send(&mut slower, &mut random, 3_000, |random, arm| {
        let more = if arm == Arm::Candidate { 1.07 } else { 1.0 };
        Outcome::Ok { latency_us: (latency(random) as f64 * more) as u64 }
    });
    assert!(!matches!(slower.verdict(&asked), Verdict::Pass(_)));
    assert!(matches!(slower.verdict(&question(MARGINS[0])), Verdict::Pass(_)), "errors alone");

    let mut unknown =
        Judge::new(Settings::new(MARGINS.to_vec()), History { requests: 10_000, ..History::default() })
            .unwrap();
    unknown.set_share(5_000);
    send(&mut unknown, &mut random, 4_000, |_, _| Outcome::Untimed);
    assert_eq!(inconclusive(&unknown, &asked).cause, Cause::LatencyUnknown);
}

#[test]
fn a_failure_says_what_it_saw() {
    let mut judge = judge(10, 1_000);
    send(&mut judge, &mut Random::new(2), 5_000, rates(0.001, 0.06));
    let told = judge.verdict(&question(MARGINS[0])).to_string();
    for part in [
        "fail: the candidate is worse, as with about ",
        "more errors than stable",
        "requests failed at the candidate, ",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_slower_candidate_fails() {
    for (what, slow) in [
        ("slower", (|random: &mut Random| (latency(random) as f64 * 1.5) as u64) as fn(&mut Random) -> u64),
        ("very slow", |random| if random.unit() < 0.1 { 3_000_000 } else { latency(random) }),
    ] {
        let mut judge = judge(10, 1_000);
        send(&mut judge, &mut Random::new(3), 5_000, |random, arm| match arm {
            Arm::Candidate => Outcome::Ok { latency_us: slow(random) },
            Arm::Stable => Outcome::Ok { latency_us: latency(random) },
        });
        let failure = judge.failure().unwrap_or_else(|| panic!("{what}")).to_string();
        assert!(failure.contains("slow") || failure.contains("hanging"), "{what}: {failure}");
    }
}

#[test]
fn a_candidate_that_answers_404_fails() {
    let mut judge = judge(10, 1_000);
    send(&mut judge, &mut Random::new(3), 400, |random, arm| match arm {
        Arm::Candidate => Outcome::ClientError,
        Arm::Stable => Outcome::Ok { latency_us: latency(random) },
    });
    let failure = judge.failure().expect("all of them").to_string();
    assert!(failure.contains("4xx"), "{failure}");
}

#[test]
fn the_plan_says_what_each_weight_takes_and_may_miss() {
    let history = History { requests: 10_000, errors: 10, ..History::default() };
    let weights = [500, 2_500, 5_000, 10_000];
    assert_eq!(ladder(&weights, &history), [50_000_000, 20_000_000, 5_000_000]);
    let told: Vec<String> =
        plan(&weights, false, &history, 360_000).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "5 %: about 98 requests to the candidate, 20 s at this rate, to prove that it does not fail 5 percentage points \
             more often; a regression below 3.12 percentage points may be missed",
            "25 %: about 174 requests to the candidate, 7 s at this rate, to prove that it does not fail 2 percentage points \
             more often; a regression below 1.79 percentage points may be missed",
            "50 %: about 1280 requests to the candidate, 26 s at this rate, to prove that it does not fail 0.5 percentage \
             points more often; a regression below 0.75 percentage points may be missed",
        ]
    );
    let idle = plan(&weights, true, &History::default(), 0);
    assert!(idle[0].to_string().contains("without traffic none come"), "{}", idle[0]);
    // The service's own error rate is a margin too, where it is the larger one.
    let failing = History { requests: 10_000, errors: 1_000, ..History::default() };
    assert!(ladder(&weights, &failing).iter().all(|margin| *margin > 99_000_000));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let of = |settings| Judge::new(settings, History::default()).expect_err("no sense");
    assert!(of(Settings { alpha_bp: 0, ..Settings::new(vec![]) }).contains("basis points"));
    assert!(of(Settings::new(vec![5; 7])).contains("give 6 at most"));
    assert!(of(Settings::new(vec![1_000_000_000])).contains("no share of requests"));
}
