//! What the examples and docs/strategies.md say is read, planned, and simulated.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, helpers included")]

use std::fs;
use std::path::{Path, PathBuf};

use cutover_core::file::Document;
use cutover_core::sim::{Scenario, Schedule, run};
use cutover_core::text::{Report, plan_text};
use cutover_core::{Observed, Release, ReleaseFile, ReleaseId, ReleaseKind, RevisionId, Span, Step};

const BASE: &str = "service: shop\nplatform: {local: {command: [./shop], replicas: 4}}\n\
                    route: [{proxy: {listen: \"127.0.0.1:8080\"}}]\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A second release of the file: something runs already.
fn scenario(file: ReleaseFile, name: &'static str) -> Scenario {
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

/// Every release that an example can mean.
fn examples() -> Vec<(String, ReleaseFile)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let document = Document::read(&name, &fs::read(&path).unwrap()).unwrap();
        let checked = document.check().unwrap_or_else(|errors| panic!("{errors}"));
        let files = checked.base.into_iter().chain(checked.environments);
        found.extend(files.map(|file| (name.clone(), file)));
    }
    found
}

#[test]
fn every_example_is_good_and_its_release_succeeds() {
    let examples = examples();
    assert!(examples.len() >= 6, "four files, one with two environments");
    for (name, file) in examples {
        let scenario = scenario(file, "example");
        let plan = plan_text(&scenario.plan(), Some(Span::from_secs(10)));
        assert!(plan.contains("way back"), "{name}:\n{plan}");
        let finished = run(&scenario, &Schedule::default());
        assert_eq!(finished.broken, None, "{name}");
        let report = Report::of(&finished.run.journal).unwrap().to_string();
        // Where a person is asked and nobody answers, it goes back.
        let expected = if scenario.release.file.approve.is_empty() { "runs r-2" } else { "nobody answered" };
        assert!(report.contains(expected), "{name}: {report}");
    }
}

#[test]
fn the_canary_example_is_half_an_hour_in_six_weights() {
    let (_, file) = examples().into_iter().find(|(name, _)| name == "canary.yaml").unwrap();
    let plan = scenario(file, "canary").plan();
    let weights = plan.steps.iter().filter_map(|step| match step {
        Step::Shift { weight } => Some(weight.to_string()),
        _ => None,
    });
    assert_eq!(weights.collect::<Vec<_>>(), ["5%", "10%", "25%", "50%", "75%", "100%"]);
    let bakes = plan.steps.iter().filter_map(|step| match step {
        Step::Bake { span, .. } => Some(span.ms()),
        _ => None,
    });
    assert_eq!(bakes.sum::<u64>(), 1_800_000);
}

/// The indented lines of a page that begin with a key, block by block.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in page.lines() {
        match line.strip_prefix("    ") {
            Some(line) => *blocks.last_mut().unwrap() += &format!("{line}\n"),
            None if !blocks.last().unwrap().is_empty() => blocks.push(String::new()),
            None => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

#[test]
fn what_the_page_about_strategies_shows_is_good() {
    let page = fs::read_to_string(root().join("docs/strategies.md")).unwrap();
    let blocks = blocks(&page);
    assert_eq!(blocks.len(), 4, "{blocks:?}");
    for block in blocks {
        let read = ReleaseFile::read("strategies.md", &format!("{BASE}{block}"));
        read.unwrap_or_else(|errors| panic!("{block}: {errors}"));
    }
}

/// "of 4 replicas 1 at 5 % and 10 %, 2 at 25 %, 3 at 50 %, 4 at 75 %", as the page says.
#[test]
fn a_canary_has_the_instances_that_the_page_says() {
    let file = "strategy: {canary: {weights: [5%, 10%, 25%, 50%, 75%, 100%]}}\n";
    let file = ReleaseFile::read("canary.yaml", &format!("{BASE}{file}")).unwrap();
    let plan = scenario(file, "canary").plan();
    let at = plan.steps.iter().enumerate().filter_map(|(at, step)| match step {
        Step::Shift { weight } => Some(format!("{} at {weight}", plan.candidate_at(at))),
        _ => None,
    });
    let said = ["1 at 5%", "1 at 10%", "2 at 25%", "3 at 50%", "4 at 75%", "4 at 100%"];
    assert_eq!(at.collect::<Vec<_>>(), said);
}
