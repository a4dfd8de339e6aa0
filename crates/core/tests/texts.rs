//! Snapshots of every text that a person sees: update with `UPDATE_EXPECT=1 cargo test -p cutover-core`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use cutover_core::sim::{Scenario, Schedule, run};
use cutover_core::text::{Report, junit, plan_text, story_text};
use cutover_core::{
    CheckKind, CheckOutcome, CheckResult, Event, Evidence, Fault, LoadOutcome, LoadReason, LoadResult,
    LoadShare, Observed, Record, Release, ReleaseFile, ReleaseId, ReleaseKind, RevisionId, Span, Track,
};
use expect_test::{Expect, expect};

const FILE: &str = r#"
service: shop
platform: {local: {command: [./shop], replicas: 2}}
route: [{proxy: {listen: "127.0.0.1:8080"}}]
"#;

fn scenario(more: &str) -> Scenario {
    let file = ReleaseFile::read("cutover.yaml", &format!("{FILE}{more}")).unwrap();
    Scenario {
        name: "text",
        release: Release {
            id: ReleaseId::new("shop-2"),
            service: file.service.clone(),
            kind: ReleaseKind::Deploy,
            candidate: RevisionId::new("r-2"),
            file,
            base: "/srv".into(),
            by: "ann".into(),
        },
        observed: Observed {
            stable: Some(RevisionId::new("r-1")),
            ready_ms: Some(1200),
            ..Observed::default()
        },
        bad_gate: false,
        bad_checks: false,
        bad_smoke: false,
        bad_load: false,
        bad_processes: false,
        bad_traffic: false,
        no_traffic: false,
    }
}

fn told(scenario: &Scenario, wanted: &Expect) {
    let finished = run(scenario, &Schedule::default());
    assert_eq!(finished.broken, None);
    let journal = &finished.run.journal;
    wanted.assert_eq(&format!("{}{}\n", story_text(journal), Report::of(journal).unwrap()));
}

#[test]
fn a_plan_names_way_back_time_and_losses() {
    let plan = scenario("approve: [before_promote]\nguard: {success: 99%}").plan();
    expect![[r#"
        shop-2: r-1 → r-2

         1  preflight    both revisions fit beside each other                       under 1s
                         way back: nothing has changed
                         if cutover dies here: the next server goes on from the journal
         2  build        r-2 lies complete in the store                             as the copy takes
                         way back: nothing runs yet
                         if cutover dies here: the next server goes on from the journal; half a copy is thrown away
         3  provision    2 instances of r-2 run, all without traffic                under 1s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         4  check        every instance passes its checks                           about 1.2s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         5  shift 100%   all requests go to r-2; r-1 stays ready                    at once
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         6  bake         observed: 99% must succeed, and no worse than stable was   1m
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         7  approve      a person approves (before_promote)                         until approved, at most 2h
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         8  promote      r-2 becomes stable                                         at once
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: before it is journaled: the router gives all traffic to r-1 when the lease of 10s lapses; after: nothing changes
            ── the release is decided: exit code 0, the service is free for the next one ──
         9  warm         r-1 stays ready                                            10m
                         way back: cutover rollback: a weight change, at once
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
        10  drain        r-1 finishes what it has                                   at most 30s
                         way back: cutover rollback: checks first, then a weight change
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
            ── point of no return: from here the way back is a release of r-1 ──
        11  retire       r-1 stops; its files stay for a rollback                   at most its stop grace
                         way back: cutover rollback: r-1 starts again and passes its checks first
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal

        Not free of downtime:
          - what stable still answers 30s after its drain begins is cut: downloads, uploads, server-sent events; WebSockets get a close frame

        If it is not decided within 2h, it goes back by itself."#]].assert_eq(&plan_text(&plan, Some(Span::from_secs(10))));
}

#[test]
fn a_first_release_has_no_way_back_and_says_so() {
    let mut first = scenario("");
    first.observed.stable = None;
    expect![[r#"
        shop-2: nothing → r-2

         1  preflight    both revisions fit beside each other                       under 1s
                         way back: nothing has changed
                         if cutover dies here: the next server goes on from the journal
         2  build        r-2 lies complete in the store                             as the copy takes
                         way back: nothing runs yet
                         if cutover dies here: the next server goes on from the journal; half a copy is thrown away
         3  provision    2 instances of r-2 run, all without traffic                under 1s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         4  check        every instance passes its checks                           about 1.2s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         5  shift 100%   all requests go to r-2; no one stays ready                 at once
                         way back: the route answers 503, as before the first release
                         if cutover dies here: r-2 keeps the traffic; the next server goes on from the journal
         6  promote      r-2 becomes stable                                         at once
                         way back: the route answers 503, as before the first release
                         if cutover dies here: before it is journaled: r-2 keeps the traffic; the next server goes on from the journal; after: nothing changes
            ── the release is decided: exit code 0, the service is free for the next one ──
            ── no point of no return: there is no predecessor ──

        Not free of downtime:
          - first release: until it takes traffic the route answers 503, and there is no predecessor to go back to

        If it is not decided within 2h, it goes back by itself."#]].assert_eq(&plan_text(&first.plan(), Some(Span::from_secs(10))));
}

const PROCESSES: &str = "processes:
  worker: {command: [./shop, work], replicas: 2}
  clock: {command: [./shop, tick], overlap: false}
";

fn with_processes(more: &str) -> Scenario {
    let mut scenario = scenario(&format!("{PROCESSES}{more}"));
    scenario.observed.stable_processes = scenario.release.file.processes.clone();
    scenario
}

#[test]
fn a_plan_says_when_which_processes_run() {
    let plan = with_processes("").plan();
    expect![[r#"
        shop-2: r-1 → r-2

         1  preflight    both revisions fit beside each other                       under 1s
                         way back: nothing has changed
                         if cutover dies here: the next server goes on from the journal
         2  build        r-2 lies complete in the store                             as the copy takes
                         way back: nothing runs yet
                         if cutover dies here: the next server goes on from the journal; half a copy is thrown away
         3  provision    2 instances of r-2 run, all without traffic                under 1s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         4  check        every instance passes its checks                           about 1.2s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         5  processes    ends clock of r-1: never two revisions at once             at most 30s
                         way back: stop r-2; it never had traffic; r-1 runs clock again
                         if cutover dies here: nobody does the work of clock until the next server goes on
         6  processes    clock and 2 × worker of r-2 run beside it                  under 1s
                         way back: stop r-2; it never had traffic; r-1 runs clock again
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         7  steady       each of them runs for 2s without ending                    2s
                         way back: stop r-2; it never had traffic; r-1 runs clock again
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         8  shift 100%   all requests go to r-2; r-1 stays ready                    at once
                         way back: all traffic to r-1, a weight change, at once; the processes of r-2 stop; r-1 runs clock again
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses; the processes of r-2 run on
         9  bake         observed: 95% must succeed, and no worse than stable was   1m
                         way back: all traffic to r-1, a weight change, at once; the processes of r-2 stop; r-1 runs clock again
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses; the processes of r-2 run on
        10  promote      r-2 becomes stable                                         at once
                         way back: all traffic to r-1, a weight change, at once; the processes of r-2 stop; r-1 runs clock again
                         if cutover dies here: before it is journaled: the router gives all traffic to r-1 when the lease of 10s lapses; the processes of r-2 run on; after: nothing changes
            ── the release is decided: exit code 0, the service is free for the next one ──
        11  processes    ends worker of r-1; all its work is r-2's now              at most 30s
                         way back: cutover rollback: a weight change, at once; then the processes of r-1
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
        12  warm         r-1 stays ready                                            10m
                         way back: cutover rollback: a weight change, at once; then the processes of r-1
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
        13  drain        r-1 finishes what it has                                   at most 30s
                         way back: cutover rollback: checks first, then a weight change
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
            ── point of no return: from here the way back is a release of r-1 ──
        14  retire       r-1 stops; its files stay for a rollback                   at most its stop grace
                         way back: cutover rollback: r-1 starts again and passes its checks first
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal

        Not free of downtime:
          - what stable still answers 30s after its drain begins is cut: downloads, uploads, server-sent events; WebSockets get a close frame
          - clock: two revisions of it never run at once, so nobody does its work from the old one's end to the new one's start; the same on the way back

        If it is not decided within 2h, it goes back by itself."#]].assert_eq(&plan_text(&plan, Some(Span::from_secs(10))));
}

/// What made room has ended: nothing is left to be ended after promote.
#[test]
fn a_clock_alone_is_handed_over_once() {
    let mut clock = with_processes("");
    for processes in [&mut clock.release.file.processes, &mut clock.observed.stable_processes] {
        processes.retain(|_, process| !process.overlap);
    }
    let steps: Vec<String> = clock.plan().steps.iter().map(cutover_core::Step::name).collect();
    let steps = steps.join(", ");
    expect!["preflight, build, provision, check, processes, processes, steady, shift 100%, bake, promote, warm, drain, retire"].assert_eq(&steps);
}

/// Users first: in a rollback the processes follow the traffic.
#[test]
fn a_rollback_moves_traffic_before_processes() {
    let mut rollback = with_processes("");
    rollback.release.kind = ReleaseKind::Rollback;
    told(
        &rollback,
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ shift       all traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  ✔ processes   clock of r-1 stopped  0.0s
           +0.0s  ✔ processes   clock and 2 × worker of r-2 run  0.0s
           +0.0s  ✔ promote     r-2 is stable, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  ✔ processes   worker of r-1 stopped  0.0s
           +0.1s  ✔ drain       r-1 is empty, nothing was cut  0.0s
           +0.1s  ✔ retire      r-1 is stopped  0.0s
           +0.1s  ✔ shop-2 is complete
        shop-2: shop runs r-2, released in 0.0s
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

#[test]
fn processes_follow_the_traffic_back() {
    told(
        &Scenario { bad_traffic: true, ..with_processes("") },
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ processes   clock of r-1 stopped  0.0s
           +0.0s  ✔ processes   clock and 2 × worker of r-2 run  0.0s
           +0.0s  ✔ steady  0.0s
           +0.0s  ✔ shift       all traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  … bake        observed for 1m
           +0.0s  ✘ bake        fail: 50 of 100 requests failed  0.0s
           +0.0s  ✘ goes back: all traffic returns to r-1
           +0.1s  ✔ back        all traffic is on r-1, every worker acknowledged in 0.10 ms  0.0s
           +0.1s  ✔ back        the processes of r-2 stopped  0.0s
           +0.1s  ✔ back        clock and 2 × worker of r-1 run  0.0s
           +0.1s  ✔ drain       r-2 is empty, nothing was cut  0.0s
           +0.1s  ✔ retire      r-2 is stopped  0.0s
           +0.1s  ✘ shop-2 was rolled back: 50 of 100 requests failed
        shop-2: rolled back after 0.1s (traffic was back 10 ms after the decision); shop runs r-1
          because 50 of 100 requests failed
          verdict fail: 50 of 100 requests failed
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

#[test]
fn a_worker_that_does_not_stay_up_is_refused() {
    told(
        &Scenario { bad_processes: true, ..with_processes("") },
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ processes   clock of r-1 stopped  0.0s
           +0.0s  ✔ processes   clock and 2 × worker of r-2 run  0.0s
           +0.0s  ✘ failed to keep the processes up: worker does not stay up: exit status 1
           +0.0s  ✘ goes back: no traffic had moved; r-2 is stopped
           +0.0s  ✔ back        the processes of r-2 stopped  0.0s
           +0.0s  ✔ back        clock and 2 × worker of r-1 run  0.0s
           +0.1s  ✔ retire      r-2 is stopped  0.0s
           +0.1s  ✘ shop-2 was refused before any traffic moved: worker does not stay up: exit status 1
        shop-2: refused after 0.1s, before any traffic moved; shop runs r-1 as before
          because worker does not stay up: exit status 1
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

#[test]
fn a_good_release_tells_its_story() {
    told(
        &scenario(""),
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ shift       all traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  … bake        observed for 1m
          +1m00s  ✔ bake        pass: 100 of 100 requests succeeded  1m00s
          +1m00s  ✔ promote     r-2 is stable, every worker acknowledged in 0.10 ms  0.0s
          +1m00s  … warm        the predecessor stays ready for 10m: cutover rollback
         +11m00s  ✔ drain       r-1 is empty, nothing was cut  0.0s
         +11m00s  ✔ retire      r-1 is stopped  0.0s
         +11m00s  ✔ shop-2 is complete
        shop-2: shop runs r-2, released in 1m00s
          verdict pass: 100 of 100 requests succeeded
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

#[test]
fn a_candidate_that_fails_its_checks_is_refused() {
    told(
        &Scenario { bad_checks: true, ..scenario("") },
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✘ failed to pass the checks: GET /health answered 500, expected 200-399
           +0.0s  ✘ goes back: no traffic had moved; r-2 is stopped
           +0.0s  ✔ retire      r-2 is stopped  0.0s
           +0.0s  ✘ shop-2 was refused before any traffic moved: GET /health answered 500, expected 200-399
        shop-2: refused after 0.0s, before any traffic moved; shop runs r-1 as before
          because GET /health answered 500, expected 200-399
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

#[test]
fn a_candidate_that_breaks_after_the_switch_is_taken_back() {
    told(
        &Scenario { bad_traffic: true, ..scenario("") },
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ shift       all traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  … bake        observed for 1m
           +0.0s  ✘ bake        fail: 50 of 100 requests failed  0.0s
           +0.0s  ✘ goes back: all traffic returns to r-1
           +0.0s  ✔ back        all traffic is on r-1, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  ✔ drain       r-2 is empty, nothing was cut  0.0s
           +0.0s  ✔ retire      r-2 is stopped  0.0s
           +0.0s  ✘ shop-2 was rolled back: 50 of 100 requests failed
        shop-2: rolled back after 0.0s (traffic was back 10 ms after the decision); shop runs r-1
          because 50 of 100 requests failed
          verdict fail: 50 of 100 requests failed
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

#[test]
fn nobody_answers_an_approval() {
    told(
        &scenario("approve: [before_shift]"),
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  … held        waits for approval (before_shift), goes back in 1h59m: cutover approve, cutover abort
          +2h00m  ✘ goes back: nobody answered the hold (approval before_shift); no traffic had moved; r-2 is stopped
          +2h00m  ✔ retire      r-2 is stopped  0.0s
          +2h00m  ✘ shop-2 was refused before any traffic moved: nobody answered the hold (approval before_shift)
        shop-2: refused after 2h00m, before any traffic moved; shop runs r-1 as before
          because nobody answered the hold (approval before_shift)
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

/// The lines of a plan that say what its bakes take.
fn bakes(plan: &str) -> String {
    plan.lines()
        .filter(|line| line.contains(" bake  ") || line.contains("needs:"))
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

#[test]
fn a_canary_that_waits_for_proof_says_what_that_takes_and_what_it_may_miss() {
    let mut auto = scenario("strategy: {canary: {weights: [5%, 25%, 50%, 100%], bake: auto}}");
    let history = cutover_judge::History { requests: 100_000, errors: 100, ..Default::default() };
    auto.observed.traffic = Some(cutover_core::Traffic { history, per_hour: Some(360_000) });
    expect![[r#"
        6  bake         proven that it does not fail 5 points more often           about 20s, at most 20m
        needs: about 98 requests to r-2, at the recent rate; a regression below 3.1 points may be missed
        8  bake         proven that it does not fail 2 points more often           about 7s, at most 20m
        needs: about 174 requests to r-2, at the recent rate; a regression below 1.8 points may be missed
        12  bake         proven that it does not fail 0.5 points more often, nor slower about 37s, at most 20m
        needs: about 1,841 requests to r-2, at the recent rate; a regression below 0.6 points may be missed
        14  bake         observed: 95% must succeed, and no worse than stable was   1m
    "#]]
    .assert_eq(&bakes(&plan_text(&auto.plan(), None)));
    auto.observed.traffic = None;
    expect![[r#"
        6  bake         proven that it does not fail 5 points more often           at most 20m
        needs: about 118 requests to r-2, the recent rate is not known; a regression below 4 points may be missed
        8  bake         proven that it does not fail 2 points more often           at most 20m
        needs: about 273 requests to r-2, the recent rate is not known; a regression below 2.1 points may be missed
        12  bake         proven that it does not fail 0.5 points more often, nor slower at most 20m
        needs: about 3,564 requests to r-2, the recent rate is not known; a regression below 0.7 points may be missed
        14  bake         observed: 95% must succeed, and no worse than stable was   1m
    "#]].assert_eq(&bakes(&plan_text(&auto.plan(), None)));
}

#[test]
fn a_canary_plan_says_what_each_weight_is_for() {
    let mut canary =
        scenario("strategy: {canary: {weights: [10%, 50%, 100%], bake: 30s}}\ngate: [cargo test]");
    canary.observed.ready_ms = None;
    expect![[r#"
        shop-2: r-1 → r-2

         1  preflight    both revisions fit beside each other                       under 1s
                         way back: nothing has changed
                         if cutover dies here: the next server goes on from the journal
         2  gate         `cargo test` must exit 0                                   as it takes
                         way back: nothing has changed
                         if cutover dies here: the next server goes on from the journal, and runs it again
         3  build        r-2 lies complete in the store                             as the copy takes
                         way back: nothing runs yet
                         if cutover dies here: the next server goes on from the journal; half a copy is thrown away
         4  provision    1 instance of r-2 runs, all without traffic                under 1s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         5  check        every instance passes its checks                           unknown until first run
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         6  shift 10%    10% of requests go to r-2, the rest to r-1                 at once
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         7  bake         observed: 95% must succeed, and no worse than stable       30s
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         8  provision    2 instances of r-2 run, the new ones without traffic       under 1s
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         9  check        every instance passes its checks                           unknown until first run
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
        10  shift 50%    50% of requests go to r-2, the rest to r-1                 at once
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
        11  bake         observed: 95% must succeed, and no worse than stable       30s
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
        12  shift 100%   all requests go to r-2; r-1 stays ready                    at once
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
        13  bake         observed: 95% must succeed, and no worse than stable was   1m
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
        14  promote      r-2 becomes stable                                         at once
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: before it is journaled: the router gives all traffic to r-1 when the lease of 10s lapses; after: nothing changes
            ── the release is decided: exit code 0, the service is free for the next one ──
        15  warm         r-1 stays ready                                            10m
                         way back: cutover rollback: a weight change, at once
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
        16  drain        r-1 finishes what it has                                   at most 30s
                         way back: cutover rollback: checks first, then a weight change
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
            ── point of no return: from here the way back is a release of r-1 ──
        17  retire       r-1 stops; its files stay for a rollback                   at most its stop grace
                         way back: cutover rollback: r-1 starts again and passes its checks first
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal

        Not free of downtime:
          - what stable still answers 30s after its drain begins is cut: downloads, uploads, server-sent events; WebSockets get a close frame

        If it is not decided within 2h, it goes back by itself."#]].assert_eq(&plan_text(&canary.plan(), Some(Span::from_secs(10))));
}

#[test]
fn a_rolling_plan_says_who_is_ready_and_what_the_way_back_takes() {
    let rolling = scenario("strategy: {rolling: {max_surge: 1, bake: 5s}}");
    expect![[r#"
        shop-2: r-1 → r-2

         1  preflight    both revisions fit beside each other                       under 1s
                         way back: nothing has changed
                         if cutover dies here: the next server goes on from the journal
         2  build        r-2 lies complete in the store                             as the copy takes
                         way back: nothing runs yet
                         if cutover dies here: the next server goes on from the journal; half a copy is thrown away
         3  provision    1 instance of r-2 runs, all without traffic                under 1s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         4  check        every instance passes its checks                           about 1.2s
                         way back: stop r-2; it never had traffic
                         if cutover dies here: its instances run on without traffic; the next server goes on from the journal
         5  shift 50%    50% of requests go to r-2, the rest to r-1                 at once
                         ready at least: 2 of r-1, 1 of r-2, 2 together
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         6  bake         observed: 95% must succeed, and no worse than stable       5s
                         ready at least: 2 of r-1, 1 of r-2, 2 together
                         way back: all traffic to r-1, a weight change, at once
                         if cutover dies here: the router gives all traffic to r-1 when the lease of 10s lapses
         7  shrink       all but 1 instance of r-1 finish what they have, then stop at most 30s and the stop grace
                         ready at least: 1 of r-1, 1 of r-2, 2 together
                         way back: the batches reversed: r-1 starts, is checked, takes its share; 1 batch, about 1.2s
                         if cutover dies here: the router leaves r-2 at most 50% when the lease of 10s lapses, as r-1 carries the rest
         8  provision    2 instances of r-2 run, the new ones without traffic       under 1s
                         ready at least: 1 of r-1, 1 of r-2, 2 together
                         way back: the batches reversed: r-1 starts, is checked, takes its share; 1 batch, about 1.2s
                         if cutover dies here: the router leaves r-2 at most 50% when the lease of 10s lapses, as r-1 carries the rest
         9  check        every instance passes its checks                           about 1.2s
                         ready at least: 1 of r-1, 1 of r-2, 2 together
                         way back: the batches reversed: r-1 starts, is checked, takes its share; 1 batch, about 1.2s
                         if cutover dies here: the router leaves r-2 at most 50% when the lease of 10s lapses, as r-1 carries the rest
        10  shift 100%   all requests go to r-2; 1 instance of r-1 stays ready      at once
                         ready at least: 1 of r-1, 2 of r-2, 2 together
                         way back: 50% of traffic to r-1 at once, then the batches reversed: r-1 starts, is checked, takes its share; 1 batch, about 1.2s
                         if cutover dies here: the router leaves r-2 at most 50% when the lease of 10s lapses, as r-1 carries the rest
        11  bake         observed: 95% must succeed, and no worse than stable was   1m
                         ready at least: 1 of r-1, 2 of r-2, 2 together
                         way back: 50% of traffic to r-1 at once, then the batches reversed: r-1 starts, is checked, takes its share; 1 batch, about 1.2s
                         if cutover dies here: the router leaves r-2 at most 50% when the lease of 10s lapses, as r-1 carries the rest
        12  promote      r-2 becomes stable                                         at once
                         way back: 50% of traffic to r-1 at once, then the batches reversed: r-1 starts, is checked, takes its share; 1 batch, about 1.2s
                         if cutover dies here: before it is journaled: the router leaves r-2 at most 50% when the lease of 10s lapses, as r-1 carries the rest; after: nothing changes
            ── the release is decided: exit code 0, the service is free for the next one ──
        13  warm         1 instance of r-1 stays ready                              10m
                         way back: cutover rollback: r-1 starts again, batch by batch, after its checks
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
        14  drain        r-1 finishes what it has                                   at most 30s
                         way back: cutover rollback: checks first, then a weight change
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal
            ── point of no return: from here the way back is a release of r-1 ──
        15  retire       r-1 stops; its files stay for a rollback                   at most its stop grace
                         way back: cutover rollback: r-1 starts again and passes its checks first
                         if cutover dies here: traffic stays on r-2; the next server goes on from the journal

        Not free of downtime:
          - what stable still answers 30s after its drain begins is cut: downloads, uploads, server-sent events; WebSockets get a close frame
          - rolling: stable stops batch by batch, so the way back starts its instances again, batch by batch

        If it is not decided within 2h, it goes back by itself."#]].assert_eq(&plan_text(&rolling.plan(), Some(Span::from_secs(10))));
}

#[test]
fn a_rolling_release_that_breaks_tells_its_batches() {
    let mut late = scenario("strategy: {rolling: {max_surge: 1, bake: 0s}}");
    late.bad_traffic = true;
    told(
        &late,
        &expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   1 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ shift       50% of traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  ✔ shrink      r-1 keeps 1, nothing was cut  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ shift       all traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  … bake        observed for 1m
           +0.1s  ✘ bake        fail: 50 of 100 requests failed  0.0s
           +0.1s  ✘ goes back: traffic returns to r-1 as its instances do, batch by batch
           +0.1s  ✔ back        50% of traffic is on r-1, every worker acknowledged in 0.10 ms  0.0s
           +0.1s  ✔ back        r-2 keeps 1, nothing was cut  0.0s
           +0.1s  ✔ back        2 × r-1  0.0s
           +0.1s  ✔ back        r-1 is checked  0.0s
           +0.1s  ✔ back        all traffic is on r-1, every worker acknowledged in 0.10 ms  0.0s
           +0.1s  ✔ drain       r-2 is empty, nothing was cut  0.0s
           +0.1s  ✔ retire      r-2 is stopped  0.0s
           +0.1s  ✘ shop-2 was rolled back: 50 of 100 requests failed
        shop-2: rolled back after 0.1s (traffic was back 50 ms after the decision); shop runs r-1
          because 50 of 100 requests failed
          verdict fail: 50 of 100 requests failed
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]],
    );
}

fn result(kind: CheckKind, check: &str, outcome: CheckOutcome, detail: &str) -> CheckResult {
    CheckResult {
        kind,
        check: check.into(),
        instance: "a1-1".into(),
        outcome,
        blame: None,
        duration_us: 40_000,
        tries: 1,
        detail: detail.into(),
        output: Vec::new(),
    }
}

/// Puts results where the simulated edges have nothing to show.
fn with_results(journal: &mut [Record], smoke: &[CheckResult]) {
    let health = |check: &str| result(CheckKind::Health, check, CheckOutcome::Passed, "200");
    for record in journal {
        match &mut record.event {
            Event::Done { effect, evidence } if effect.name.to_string() == "check" => {
                let results = vec![health("GET /health"), health("GET /ready")];
                *evidence = Evidence::Checked { results };
            }
            Event::Done { effect, evidence } if effect.name.to_string() == "smoke" => {
                *evidence = Evidence::Checked { results: smoke.to_vec() };
            }
            Event::Failed { effect, fault } if effect.name.to_string() == "smoke" => {
                *fault = Fault::candidate("smoke test POST /carts failed: answered 500, expected 201")
                    .results(smoke.to_vec());
            }
            _ => {}
        }
    }
}

const SMOKE: &str = "checks: {smoke: [{get: /api/products}, {post: /carts}, {run: ./smoke.sh}]}\n\
                     keep_warm: 0s\nbake: 0s\n";

#[test]
fn smoke_tests_are_a_step_before_anybody_approves() {
    let plan = scenario(&format!("{SMOKE}approve: [before_shift]")).plan();
    let text = plan_text(&plan, Some(Span::from_secs(10)));
    let steps: Vec<&str> = text.lines().skip(8).take(9).map(str::trim).collect();
    expect![[r#"
        3  provision    2 instances of r-2 run, all without traffic                under 1s
        way back: stop r-2; it never had traffic
        if cutover dies here: its instances run on without traffic; the next server goes on from the journal
        4  check        every instance passes its checks                           about 1.2s
        way back: stop r-2; it never had traffic
        if cutover dies here: its instances run on without traffic; the next server goes on from the journal
        5  smoke        all 3 smoke tests pass on one of its instances             as it takes
        way back: stop r-2; it never had traffic
        if cutover dies here: its instances run on without traffic; the next server goes on from the journal, and tries them again
    "#]].assert_eq(&format!("{}\n", steps.join("\n")));
}

#[test]
fn a_report_names_each_check_that_did_not_pass() {
    let passed = |check: &str| result(CheckKind::Smoke, check, CheckOutcome::Passed, "200");
    let mut good = run(&scenario(SMOKE), &Schedule::default()).run.journal;
    with_results(&mut good, &[passed("GET /api/products"), passed("POST /carts")]);
    expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check       GET /health passed in 40ms; GET /ready passed in 40ms  0.0s
           +0.0s  ✔ smoke       2 of 2 smoke tests passed on instance a1-1  0.0s
           +0.0s  ✔ shift       all traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  ✔ promote     r-2 is stable, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  ✔ drain       r-1 is empty, nothing was cut  0.0s
           +0.0s  ✔ retire      r-1 is stopped  0.0s
           +0.0s  ✔ shop-2 is complete
        shop-2: shop runs r-2, released in 0.0s
          2 of 2 health checks passed
          2 of 2 smoke tests passed
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]]
    .assert_eq(&format!("{}{}\n", story_text(&good), Report::of(&good).unwrap()));
    let refused = Scenario { bad_smoke: true, ..scenario(SMOKE) };
    let mut journal = run(&refused, &Schedule::default()).run.journal;
    let failed = [
        passed("GET /api/products"),
        result(CheckKind::Smoke, "POST /carts", CheckOutcome::Failed, "answered 500, expected 201"),
        result(CheckKind::Smoke, "run ./smoke.sh", CheckOutcome::Error, "did not end within 1m"),
    ];
    with_results(&mut journal, &failed);
    expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check       GET /health passed in 40ms; GET /ready passed in 40ms  0.0s
           +0.0s  ✘ failed to pass the smoke tests: smoke test POST /carts failed: answered 500, expected 201
           +0.0s  ✘ goes back: no traffic had moved; r-2 is stopped
           +0.0s  ✔ retire      r-2 is stopped  0.0s
           +0.0s  ✘ shop-2 was refused before any traffic moved: smoke test POST /carts failed: answered 500, expected 201
        shop-2: refused after 0.0s, before any traffic moved; shop runs r-1 as before
          because smoke test POST /carts failed: answered 500, expected 201
          2 of 2 health checks passed
          1 of 3 smoke tests passed
            POST /carts failed: answered 500, expected 201 (a1-1)
            run ./smoke.sh had no answer: did not end within 1m (a1-1)
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]].assert_eq(&format!("{}{}\n", story_text(&journal), Report::of(&journal).unwrap()));
}

const LOAD: &str = "checks: {smoke: [{get: /}], load: [{path: /api/products, concurrency: 20}, {rate: 200/s, for: 1m, against: \
                    both, scenarios: [{path: /, weight: 9}, {path: /cart}]}]}\nkeep_warm: 0s\nbake: 0s\n";

fn share(track: Track, scenario: Option<&str>, requests: u64, failed: u64, latency_us: u64) -> LoadShare {
    LoadShare {
        track,
        scenario: scenario.map(Into::into),
        requests,
        failed,
        failures: String::new(),
        latency_us_mean: latency_us,
        latency_us_p50: latency_us,
        latency_us_p95: latency_us * 2,
        latency_us_p99: latency_us * 3,
        latency_us_max: latency_us * 4,
        histogram: "HIST".into(),
    }
}

fn load(outcome: LoadOutcome, why: &str, shares: Vec<LoadShare>) -> LoadResult {
    let reasons = vec![LoadReason { outcome, text: why.into() }];
    LoadResult { test: String::new(), outcome, reasons, took_ms: 1000, due: 0, missed: 0, shares }
}

/// Puts what load tests came to where the simulated edges have nothing to show.
fn with_loads(journal: &mut [Record], loads: &[LoadResult]) {
    let mut loads = loads.iter();
    for record in journal {
        let load_of = |effect: &cutover_core::EffectKey| effect.name.to_string() == "load";
        match &mut record.event {
            Event::Done { effect, evidence } if load_of(effect) => {
                let result = loads.next().unwrap().clone();
                *evidence = Evidence::Loaded { result: Box::new(result) };
            }
            Event::Failed { effect, fault } if load_of(effect) => {
                *fault = fault.clone().load(loads.next().unwrap().clone());
            }
            _ => {}
        }
    }
}

#[test]
fn load_tests_are_steps_after_the_smoke_tests() {
    let plan = scenario(&format!("{LOAD}approve: [before_shift]")).plan();
    let steps = |text: String| {
        text.lines().skip(17).take(6).map(|line| format!("{}\n", line.trim())).collect::<String>()
    };
    expect![[r#"
        6  load         its instances hold GET /api/products, 20 clients for 30s   30s
        way back: stop r-2; it never had traffic
        if cutover dies here: its instances run on without traffic; the next server goes on from the journal, and sends it again
        7  load         its instances hold 2 scenarios, 200/s for 1m, stable beside 1m
        way back: stop r-2; it never had traffic
        if cutover dies here: its instances run on without traffic; the next server goes on from the journal, and sends it again
    "#]].assert_eq(&steps(plan_text(&plan, Some(Span::from_secs(10)))));
    let mut first = scenario(LOAD);
    first.observed.stable = None;
    let text = plan_text(&first.plan(), None);
    let alone: Vec<&str> = text.lines().filter(|line| line.contains("  load  ")).map(str::trim).collect();
    expect![[r#"
         6  load         its instances hold GET /api/products, 20 clients for 30s   30s
         7  load         its instances hold 2 scenarios, 200/s for 1m, stable beside; in a first release there is no stable to stand beside it 1m
    "#]].assert_eq(&format!("{}\n", alone.join("\n")));
}

#[test]
fn a_report_has_the_numbers_of_load_tests() {
    let named = |result: LoadResult, test: &str| LoadResult { test: test.into(), ..result };
    let products = "GET /api/products, 20 clients for 30s";
    let mixed = "2 scenarios, 200/s for 1m, stable beside";
    let good = named(
        load(
            LoadOutcome::Passed,
            "1200 requests, 60 needed",
            vec![share(Track::Candidate, None, 1200, 1, 12_300)],
        ),
        products,
    );
    let beside = named(
        load(
            LoadOutcome::Passed,
            "",
            vec![
                share(Track::Candidate, None, 12_000, 0, 900),
                share(Track::Candidate, Some("GET /"), 10_800, 0, 800),
                share(Track::Candidate, Some("GET /cart"), 1200, 0, 1_900),
                share(Track::Stable, None, 12_000, 0, 950),
            ],
        ),
        mixed,
    );
    let mut journal = run(&scenario(LOAD), &Schedule::default()).run.journal;
    with_loads(&mut journal, &[good.clone(), beside]);
    expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ smoke  0.0s
           +0.0s  ✔ load        GET /api/products, 20 clients for 30s passed: 1200 requests, 1 failed, mean 12.3 ms, p50 12.3 ms, p95 24.6 ms, p99 36.9 ms  0.0s
           +0.0s  ✔ load        2 scenarios, 200/s for 1m, stable beside passed: 12000 requests, 0 failed, mean 0.9 ms, p50 0.9 ms, p95 1.8 ms, p99 2.7 ms  0.0s
           +0.0s  ✔ shift       all traffic is on r-2, every worker acknowledged in 0.10 ms  0.0s
           +0.0s  ✔ promote     r-2 is stable, every worker acknowledged in 0.10 ms  0.0s
           +0.1s  ✔ drain       r-1 is empty, nothing was cut  0.0s
           +0.1s  ✔ retire      r-1 is stopped  0.0s
           +0.1s  ✔ shop-2 is complete
        shop-2: shop runs r-2, released in 0.0s
          load GET /api/products, 20 clients for 30s passed: 1200 requests, 1 failed, mean 12.3 ms, p50 12.3 ms, p95 24.6 ms, p99 36.9 ms
          load 2 scenarios, 200/s for 1m, stable beside passed: 12000 requests, 0 failed, mean 0.9 ms, p50 0.9 ms, p95 1.8 ms, p99 2.7 ms
            candidate all: 12000 requests, 0 failed, mean 0.9 ms, p50 0.9 ms, p95 1.8 ms, p99 2.7 ms
            candidate GET /: 10800 requests, 0 failed, mean 0.8 ms, p50 0.8 ms, p95 1.6 ms, p99 2.4 ms
            candidate GET /cart: 1200 requests, 0 failed, mean 1.9 ms, p50 1.9 ms, p95 3.8 ms, p99 5.7 ms
            stable    all: 12000 requests, 0 failed, mean 0.9 ms, p50 0.9 ms, p95 1.9 ms, p99 2.8 ms
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]].assert_eq(&format!("{}{}\n", story_text(&journal), Report::of(&journal).unwrap()));

    let refused = Scenario { bad_load: true, ..scenario(LOAD) };
    let mut journal = run(&refused, &Schedule::default()).run.journal;
    let slow = vec![share(Track::Candidate, None, 480, 0, 2_100_000)];
    let slow = named(load(LoadOutcome::Failed, "mean 2100 ms, 2000 ms allowed", slow), products);
    with_loads(&mut journal, &[slow]);
    let report = Report::of(&journal).unwrap();
    expect![[r#"
           +0.0s  · shop-2 opened by ann: r-1 → r-2
           +0.0s  ✔ preflight  0.0s
           +0.0s  ✔ build  0.0s
           +0.0s  ✔ provision   2 × r-2  0.0s
           +0.0s  ✔ check  0.0s
           +0.0s  ✔ smoke  0.0s
           +0.0s  ✘ failed to hold the load test: load test GET /api/products, 20 clients for 30s failed: p95 700.0 ms, 500.0 ms allowed
           +0.0s  ✘ goes back: no traffic had moved; r-2 is stopped
           +0.0s  ✔ retire      r-2 is stopped  0.0s
           +0.0s  ✘ shop-2 was refused before any traffic moved: load test GET /api/products, 20 clients for 30s failed: p95 700.0 ms, 500.0 ms allowed
        shop-2: refused after 0.0s, before any traffic moved; shop runs r-1 as before
          because load test GET /api/products, 20 clients for 30s failed: p95 700.0 ms, 500.0 ms allowed
          load GET /api/products, 20 clients for 30s failed: mean 2100 ms, 2000 ms allowed
            480 requests, 0 failed, mean 2100 ms, p50 2100 ms, p95 4200 ms, p99 6300 ms
          requests 0, failed 0 (0 by the service, 0 by the router)
    "#]].assert_eq(&format!("{}{report}\n", story_text(&journal)));
    expect![[r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="shop-2" tests="1" failures="1" errors="0" time="1.000">
          <testsuite name="load tests" tests="1" failures="1" errors="0" time="1.000">
            <testcase classname="shop.load" name="GET /api/products, 20 clients for 30s" time="1.000">
              <failure message="mean 2100 ms, 2000 ms allowed"/>
            </testcase>
          </testsuite>
        </testsuites>
    "#]]
    .assert_eq(&junit(&report));
    // Whoever reads the report as JSON has all of it.
    assert_eq!(report.loads[0].shares[0].histogram, "HIST");
}

#[test]
fn junit_has_a_case_for_each_test_and_its_output() {
    let gated = Scenario { bad_smoke: true, ..scenario(&format!("{SMOKE}gate: [cargo test]")) };
    let mut journal = run(&gated, &Schedule::default()).run.journal;
    let mut command = result(CheckKind::Smoke, "run a<b && \"c\"", CheckOutcome::Failed, "exit status 3");
    command.output = vec!["\u{1b}[31mred\u{1b}[0m".into(), "1 < 2 & 3".into()];
    let late = result(CheckKind::Smoke, "GET /late", CheckOutcome::Error, "no answer within 10s");
    with_results(&mut journal, &[command, late]);
    expect![[r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="shop-2" tests="5" failures="1" errors="1" time="0.170">
          <testsuite name="gate" tests="1" failures="0" errors="0" time="0.010">
            <testcase classname="shop.gate" name="cargo test" time="0.010"/>
          </testsuite>
          <testsuite name="health checks" tests="2" failures="0" errors="0" time="0.080">
            <testcase classname="shop.health.a1-1" name="GET /health" time="0.040"/>
            <testcase classname="shop.health.a1-1" name="GET /ready" time="0.040"/>
          </testsuite>
          <testsuite name="smoke tests" tests="2" failures="1" errors="1" time="0.080">
            <testcase classname="shop.smoke.a1-1" name="run a&lt;b &amp;&amp; &quot;c&quot;" time="0.040">
              <failure message="exit status 3"/>
              <system-out>?[31mred?[0m
        1 &lt; 2 &amp; 3</system-out>
            </testcase>
            <testcase classname="shop.smoke.a1-1" name="GET /late" time="0.040">
              <error message="no answer within 10s"/>
            </testcase>
          </testsuite>
        </testsuites>
    "#]]
    .assert_eq(&junit(&Report::of(&journal).unwrap()));
}

#[test]
fn a_plan_says_what_is_measured_while_it_bakes() {
    let metric = |name: &str| format!("{{name: {name}, run: ./{name}, max: 1}}");
    let plan = scenario(&format!(
        "guard: {{metrics: [{}, {}], counters: {{prometheus: {{address: \"http://p\", preset: envoy, stable: a, candidate: b}}}}}}",
        metric("errors"),
        metric("backlog")
    ))
    .plan();
    let text = plan_text(&plan, None);
    let bake = text.lines().find(|line| line.contains(" bake ")).unwrap();
    expect![" 6  bake         observed: 95% must succeed, the metrics errors, backlog hold, counters be compared, and no worse than stable was 1m"]
        .assert_eq(bake);
}
