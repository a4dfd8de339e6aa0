//! The machine under every single fault, and (with `--ignored`, as `./test` does) under every pair.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::sync::Mutex;

use cutover_core::sim::{Campaign, Fate, Injection, Sabotage, Scenario, Schedule, Tally, run};
use cutover_core::{Observed, Release, ReleaseFile, ReleaseId, ReleaseKind, RevisionId};

const FILE: &str = r#"
service: shop
platform: {local: {command: [./shop], replicas: 2}}
route: [{proxy: {listen: "127.0.0.1:8080"}}]
"#;
const SMOKE: &str = "checks: {smoke: [{get: /api}, {run: ./smoke.sh}]}";
const LOAD: &str = "checks: {smoke: [{get: /api}], load: [{path: /api, concurrency: 2, for: 1s}, {path: /, rate: 5/s, for: 1s, against: both}]}";
const TIMES: &str = "bake: 5s\nkeep_warm: 20s\ndeadline: 10m\n";

fn scenario(name: &'static str, more: &str) -> Scenario {
    let times = if more.contains("keep_warm") { "" } else { TIMES };
    let file = ReleaseFile::read("cutover.yaml", &format!("{FILE}{times}{more}")).unwrap();
    Scenario {
        name,
        release: Release {
            id: ReleaseId::new("shop-2"),
            service: file.service.clone(),
            kind: ReleaseKind::Deploy,
            candidate: RevisionId::new("r-2"),
            file,
            base: "/srv".into(),
            by: "ann".into(),
        },
        observed: Observed { stable: Some(RevisionId::new("r-1")), ..Observed::default() },
        bad_gate: false,
        bad_checks: false,
        bad_smoke: false,
        bad_load: false,
        bad_processes: false,
        bad_traffic: false,
        no_traffic: false,
    }
}

/// The releases of a service that has more than its routed process: a clock that must be alone, and workers.
fn with_processes(mut scenario: Scenario) -> Scenario {
    let processes = "processes:\n  worker: {command: [./shop, work], replicas: 2}\n  \
                     clock: {command: [./shop, tick], overlap: false}\n";
    let file = |more: &str| ReleaseFile::read("cutover.yaml", &format!("{FILE}{processes}{more}")).unwrap();
    scenario.release.file.processes = file("").processes;
    if scenario.observed.stable.is_some() {
        // What only stable has comes to its end as well.
        scenario.observed.stable_processes = file("  mailer: {command: [./shop, mail]}\n").processes;
    }
    scenario
}

fn process_scenarios() -> Vec<Scenario> {
    let named = |name: &'static str, more: &str| with_processes(scenario(name, more));
    let mut first = scenario("processes, first release", "");
    first.observed.stable = None;
    let mut rollback = named("processes, rollback", "");
    rollback.release.kind = ReleaseKind::Rollback;
    let rolling = "strategy: {rolling: {max_surge: 0, max_unavailable: 1, bake: 5s}}";
    vec![
        named("processes", ""),
        Scenario { bad_processes: true, ..named("processes, crashing", "") },
        Scenario { bad_traffic: true, ..named("processes, bad traffic", "") },
        Scenario { bad_traffic: true, ..named("processes, bad rolling", rolling) },
        with_processes(first),
        rollback,
    ]
}

fn with_replicas(mut scenario: Scenario, replicas: u32) -> Scenario {
    scenario.release.file.platform.set_replicas(replicas);
    scenario
}

/// Those that pairs are tried on: a pair costs the square of a release's length, so the short ones of each kind.
fn short_scenarios() -> Vec<Scenario> {
    let short = |name, more: &str| scenario(name, &format!("bake: 5s\nkeep_warm: 0s\ndeadline: 10m\n{more}"));
    let mut all = scenarios();
    all.retain(|scenario| {
        scenario.release.file.strategy.name() == "blue_green"
            && !["gated", "bad smoke", "load", "bad load"].contains(&scenario.name)
    });
    // With the one process that matters most, and without a bake: a pair costs the square of the release's length.
    let mut clock = with_processes(scenario("clock", "bake: 0s\nkeep_warm: 0s\ndeadline: 10m\n"));
    for processes in [&mut clock.release.file.processes, &mut clock.observed.stable_processes] {
        processes.retain(|_, process| !process.overlap);
    }
    all.push(clock);
    all.push(short("canary", "strategy: {canary: {weights: [50%, 100%], bake: 5s}}"));
    all.push(short("rolling", "strategy: {rolling: {max_surge: 1, bake: 0s}}"));
    all
}

fn scenarios() -> Vec<Scenario> {
    let mut first = scenario("first release", "");
    first.observed.stable = None;
    let mut rollback = scenario("rollback", "");
    rollback.release.kind = ReleaseKind::Rollback;
    let canary = "strategy: {canary: {weights: [25%, 50%, 100%], bake: 5s}}";
    let auto = "strategy: {canary: {weights: [25%, 100%], bake: auto, at_most: 30s}}";
    let rolling = |surge: u32, unavailable: u32| {
        let strategy = format!(
            "strategy: {{rolling: {{max_surge: {surge}, max_unavailable: {unavailable}, bake: 5s}}}}"
        );
        with_replicas(scenario("rolling", &strategy), 3)
    };
    let named = |name: &'static str, scenario: Scenario| Scenario { name, ..scenario };
    let mut rolling_rollback = named("rolling rollback", rolling(1, 0));
    rolling_rollback.release.kind = ReleaseKind::Rollback;
    vec![
        scenario("good", ""),
        scenario("gated", "gate: [cargo test, ./load.sh]"),
        Scenario { bad_gate: true, ..scenario("bad gate", "gate: [cargo test]") },
        with_replicas(scenario("canary", &format!("{canary}\napprove: [before_shift, before_promote]")), 4),
        Scenario { bad_traffic: true, ..scenario("bad canary", canary) },
        named("rolling 1/0", rolling(1, 0)),
        named("rolling 1/1", rolling(1, 1)),
        named("rolling 0/1", rolling(0, 1)),
        named("rolling 2/1 of 5", with_replicas(rolling(2, 1), 5)),
        Scenario { bad_traffic: true, ..named("bad rolling", rolling(1, 0)) },
        rolling_rollback,
        scenario("approved", "approve: [before_shift, before_promote]"),
        first,
        rollback,
        Scenario { bad_checks: true, ..scenario("bad checks", "") },
        scenario("smoke", SMOKE),
        Scenario { bad_smoke: true, ..scenario("bad smoke", SMOKE) },
        scenario("load", LOAD),
        Scenario { bad_load: true, ..scenario("bad load", LOAD) },
        Scenario { bad_traffic: true, ..scenario("bad traffic", "") },
        scenario("auto", auto),
        Scenario { bad_traffic: true, ..scenario("bad auto", auto) },
        Scenario { no_traffic: true, ..scenario("auto without traffic", auto) },
        Scenario { no_traffic: true, ..scenario("no traffic, hold", "guard: {on_inconclusive: hold}") },
        Scenario { no_traffic: true, ..scenario("no traffic, abort", "guard: {on_inconclusive: abort}") },
        Scenario { no_traffic: true, ..scenario("no traffic, advance", "") },
    ]
}

/// Runs a campaign over each scenario, on all cores.
fn over(scenarios: Vec<Scenario>, campaign: fn(&Campaign) -> Tally) -> Tally {
    let left = Mutex::new(scenarios);
    let sum = Mutex::new(Tally::default());
    let work = || loop {
        let Some(scenario) = left.lock().unwrap().pop() else { return };
        let tally = campaign(&Campaign::new(vec![scenario]));
        sum.lock().unwrap().merge(tally);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    sum.into_inner().unwrap()
}

fn all_scenarios() -> Vec<Scenario> {
    scenarios().into_iter().chain(process_scenarios()).collect()
}

#[test]
fn every_single_fault_keeps_every_promise() {
    let tally = over(all_scenarios(), Campaign::singles);
    println!("simulator, singles: {tally}");
    // What is legal where, cell by cell: a transition that appears, or goes, shows here.
    let cells: String = tally.cells.iter().map(|cell| format!("{cell}\n")).collect();
    expect_test::expect_file!["cells.txt"].assert_eq(&cells);
    assert!(
        tally.broken.is_empty(),
        "{} broken:\n{}",
        tally.broken.len(),
        tally.broken[..tally.broken.len().min(12)].join("\n")
    );
}

#[test]
#[ignore = "every pair of faults takes about a minute: ./test runs it, optimised"]
fn every_pair_of_faults_keeps_every_promise() {
    let tally = over(short_scenarios(), Campaign::pairs);
    println!("simulator, pairs: {tally}");
    assert!(
        tally.broken.is_empty(),
        "{} broken:\n{}",
        tally.broken.len(),
        tally.broken[..tally.broken.len().min(12)].join("\n")
    );
}

/// Takes one guard away at a time: the invariants must notice each. A guard nobody misses is a guard nobody tests.
#[test]
fn planted_faults_are_caught() {
    let good = scenario("good", "");
    let bad = Scenario { bad_traffic: true, ..scenario("bad traffic", "") };
    let calm = Schedule::default;
    let late = |effect| Schedule { fates: vec![(effect, Fate::LateApplied)], ..Schedule::default() };
    let rolling = with_replicas(scenario("rolling", "strategy: {rolling: {max_surge: 1, bake: 5s}}"), 3);
    // Two batches in, one instance of stable left: then the candidate breaks.
    let turned =
        |at: usize| Schedule { injections: vec![(at, Injection::TrafficTurnsBad)], ..Schedule::default() };
    let staffed = with_processes(scenario("processes", ""));
    let (smoke, load) = (scenario("smoke", SMOKE), scenario("load", LOAD));
    let bad_staffed = Scenario { bad_traffic: true, ..staffed.clone() };
    let one_staff = "in the end the processes of one revision run, and of one alone";
    let cases: [(Sabotage, &Scenario, Schedule, &str); 24] = [
        (
            Sabotage::RunTwoClocks,
            &staffed,
            calm(),
            "a process that is to be alone never runs in two revisions at once",
        ),
        (
            Sabotage::StopWorkersEarly,
            &staffed,
            calm(),
            "what need not make room of stable's processes runs until the release is decided",
        ),
        (
            Sabotage::SkipSteady,
            &staffed,
            calm(),
            "a candidate's processes have stayed up before it takes traffic",
        ),
        (
            Sabotage::SkipSmoke,
            &smoke,
            calm(),
            "a candidate has passed its smoke tests before it takes traffic",
        ),
        (Sabotage::SkipLoad, &load, calm(), "a candidate has held its load tests before it takes traffic"),
        (Sabotage::ForgetProcesses, &bad_staffed, calm(), one_staff),
        (Sabotage::KeepOldProcesses, &staffed, calm(), one_staff),
        (Sabotage::SkipDrain, &good, calm(), "what is stopped has no weight and nothing in flight"),
        (Sabotage::SkipCheck, &good, calm(), "a revision with weight has checked instances to carry it"),
        (Sabotage::ForgetRetire, &bad, calm(), "nothing is orphaned when a release ends"),
        (Sabotage::StayOnCandidate, &bad, calm(), "a release taken back leaves all traffic on stable, whole"),
        (
            Sabotage::StopStableEarly,
            &good,
            calm(),
            "stable keeps the instances of its plan until the release is decided",
        ),
        (
            Sabotage::StopPredecessorAtPromote,
            &good,
            calm(),
            "the predecessor is only stopped after the tail drained it",
        ),
        (Sabotage::EmptyRoute, &good, calm(), "some revision always takes traffic"),
        (
            Sabotage::KeepLeaseAfterSettle,
            &good,
            calm(),
            "a released candidate takes all traffic, without a lease",
        ),
        (
            Sabotage::ShiftWithoutLease,
            &good,
            calm(),
            "a leased weight outlives its driver by the lease at most",
        ),
        (Sabotage::ShiftWhileChecking, &good, calm(), "refused means that traffic never moved"),
        (Sabotage::BlameOutage, &good, calm(), "only the candidate's fault fails a verdict"),
        (Sabotage::ActBeforeJournal, &good, calm(), "replaying the journal does not give the same machine"),
        (
            Sabotage::ShrinkTooFar,
            &rolling,
            calm(),
            "stable keeps the instances of its plan until the release is decided",
        ),
        (Sabotage::SurgeTooMuch, &rolling, calm(), "never more run than the plan allows"),
        (
            Sabotage::ForgetRestore,
            &rolling,
            turned(40),
            "a release taken back leaves all traffic on stable, whole",
        ),
        (
            Sabotage::ReturnTooMuch,
            &rolling,
            turned(40),
            "a revision with weight has checked instances to carry it",
        ),
        (Sabotage::IgnoreFences, &bad, late(2), "nothing is orphaned when a release ends"),
    ];
    for (sabotage, scenario, schedule, promise) in cases {
        let honest = run(scenario, &schedule);
        assert_eq!(honest.broken, None, "{sabotage:?}: the same schedule without the planted fault");
        let broken = run(scenario, &Schedule { sabotage: Some(sabotage), ..schedule }).broken;
        let broken = broken.unwrap_or_else(|| panic!("nobody noticed {sabotage:?}"));
        assert!(broken.starts_with(promise), "{sabotage:?} was noticed as: {broken}");
    }
}

/// A platform that says "started" and started nothing is found by the checks; nothing else stands on its word.
#[test]
fn a_lying_platform_is_found_before_traffic() {
    for effect in [1, 2] {
        let finished =
            run(&scenario("lie", ""), &Schedule { fates: vec![(effect, Fate::Lie)], ..Schedule::default() });
        assert_eq!(finished.broken, None);
        assert_eq!(finished.run.machine.exit_code(), Some(3), "{:?}", finished.run.machine.mode());
    }
}

/// The exit codes of design §7, from the state alone.
#[test]
fn endings_have_their_exit_codes() {
    let code = |scenario: &Scenario| run(scenario, &Schedule::default()).run.machine.exit_code();
    assert_eq!(code(&scenario("good", "")), Some(0));
    assert_eq!(code(&Scenario { bad_checks: true, ..scenario("bad checks", "") }), Some(3));
    assert_eq!(code(&Scenario { bad_traffic: true, ..scenario("bad traffic", "") }), Some(4));
    // Without traffic the release file says what becomes of it, also where a proof was asked for. Nobody answers the hold.
    for strategy in ["", "strategy: {canary: {weights: [10%, 100%], bake: auto, at_most: 1m}}\n"] {
        for (then, expected) in [("advance", 0), ("abort", 4), ("hold", 4)] {
            let file = format!("{strategy}guard: {{on_inconclusive: {then}}}");
            let quiet = Scenario { no_traffic: true, ..scenario("no traffic", &file) };
            assert_eq!(code(&quiet), Some(expected), "{file}");
        }
    }
}

/// A release that takes longer than its deadline goes back: refused before traffic moved, rolled back after.
#[test]
fn a_release_that_takes_too_long_goes_back() {
    let slow = |effects: &[usize]| Schedule {
        fates: effects.iter().map(|effect| (*effect, Fate::Slow)).collect(),
        ..Schedule::default()
    };
    let late = scenario("deadline", "").with_deadline(30);
    for (schedule, code, moved) in [(slow(&[2, 3]), 3, false), (slow(&[3, 4]), 4, true)] {
        let finished = run(&late, &schedule);
        assert_eq!(finished.broken, None);
        let machine = &finished.run.machine;
        assert_eq!((machine.exit_code(), machine.moved()), (Some(code), moved));
        let why = format!("{:?}", machine.mode());
        assert!(why.contains("longer than its deadline of 30s"), "{why}");
    }
}

trait WithDeadline {
    fn with_deadline(self, seconds: u64) -> Self;
}

impl WithDeadline for Scenario {
    fn with_deadline(mut self, seconds: u64) -> Self {
        self.release.file.deadline = cutover_core::Span::from_secs(seconds);
        self
    }
}
