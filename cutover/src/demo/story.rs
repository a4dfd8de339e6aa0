//! The demo's story: first release, a good one, one that is refused, one that breaks after the switch.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use cutover_core::text::{Report, ReportOutcome, Story, count};
use cutover_core::{ReleaseFile, ReleaseId};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::load::{Load, Tally};
use super::scratch::Scratch;
use crate::exit;
use crate::failure::Failure;
use crate::server::Client;
use crate::server::protocol::{DeployAnswer, DeployBody, RecordsAnswer};

/// One line of the demo's result.
#[derive(Serialize)]
struct Told {
    strategy: &'static str,
    outcome: ReportOutcome,
    requests: u64,
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback_ms: Option<u64>,
}

struct Chapter {
    title: &'static str,
    env: &'static str,
    expect: ReportOutcome,
}

const CHAPTERS: [Chapter; 4] = [
    Chapter { title: "1. The first release", env: "DEMO_VERSION: v1", expect: ReportOutcome::Released },
    Chapter {
        title: "2. A good revision, under load",
        env: "DEMO_VERSION: v2",
        expect: ReportOutcome::Released,
    },
    Chapter {
        title: "3. A broken revision: it fails its health check",
        env: "DEMO_VERSION: v3, DEMO_HEALTH: sick",
        expect: ReportOutcome::Refused,
    },
    Chapter {
        title: "4. A revision that breaks after the switch",
        env: "DEMO_VERSION: v4, DEMO_BREAKS_AFTER: '150'",
        expect: ReportOutcome::RolledBack,
    },
];

/// Runs the demo; on Ctrl-C too it leaves nothing behind.
pub(crate) async fn run(json: bool, keep: bool) -> Result<u8, Failure> {
    // Before there is anything to leave behind.
    let listen =
        |kind| signal(kind).map_err(|error| Failure::own(format!("failed to listen to signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let scratch = Scratch::make()?;
    let told = tokio::select! {
        told = tell(&scratch, json) => told,
        _ = interrupt.recv() => Err(Failure::new(exit::WITHDRAWN, "interrupted")),
        _ = hangup.recv() => Err(Failure::new(exit::WITHDRAWN, "the terminal is gone")),
        _ = terminate.recv() => Err(Failure::new(exit::WITHDRAWN, "terminated")),
    };
    if keep && told.is_ok() {
        say(
            json,
            &format!(
                "\nStill running, to look around:\n  export CUTOVER_STATE={}",
                scratch.state.path().display()
            ),
        );
        say(
            json,
            &format!(
                "  curl http://{}/   and   cutover status\nTo end it: cutover destroy shop --yes; cutover server stop; cutover proxy stop",
                scratch.address
            ),
        );
        scratch.keep();
    } else {
        say(json, "\nCleaning up…");
        for left in scratch.clean("shop").await {
            eprintln!("left behind: {left}");
        }
    }
    told
}

async fn tell(scratch: &Scratch, json: bool) -> Result<u8, Failure> {
    say(json, &format!("A shop on http://{}/, state in {}", scratch.address, scratch.state.path().display()));
    say(json, "Two instances a revision; eight clients send about 200 requests a second.\n");
    let client = Client::connect_or_start(&scratch.state).await?;
    let mut load: Option<Load> = None;
    let mut told = Vec::new();
    let mut as_told = true;
    for chapter in &CHAPTERS {
        say(json, chapter.title);
        let before = load.as_ref().map(Load::tally).unwrap_or_default();
        if let Some(load) = &load {
            load.forget_failures();
        }
        let report = release(&client, scratch, chapter, json).await?;
        // Traffic only begins once there is something to call.
        let load = load.get_or_insert_with(|| Load::start(scratch.address));
        // The last answers of this release are still under way.
        tokio::time::sleep(Duration::from_millis(700)).await;
        let after = load.tally();
        as_told &= report.outcome == chapter.expect;
        let line = Told {
            strategy: "blue_green",
            outcome: report.outcome,
            requests: after.sent - before.sent,
            failed: after.failed - before.failed,
            rollback_ms: (report.outcome == ReportOutcome::RolledBack).then(|| {
                load.failing_for().map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
            }),
        };
        say(json, "");
        told.push(line);
    }
    let Some(load) = load else { return Ok(exit::FAILED) };
    let total: Tally = load.stop().await;
    if json {
        println!(
            "{}",
            serde_json::json!({ "requests": total.sent, "failed": total.failed, "releases": told })
        );
    } else {
        summary(&told, total);
    }
    Ok(if as_told { exit::OK } else { exit::FAILED })
}

fn summary(told: &[Told], total: Tally) {
    println!("What the clients saw:");
    for (told, chapter) in told.iter().zip(&CHAPTERS) {
        let outcome = match told.outcome {
            ReportOutcome::Released => "released",
            ReportOutcome::Refused => "refused",
            ReportOutcome::RolledBack => "rolled back",
            ReportOutcome::Withdrawn => "withdrawn",
            ReportOutcome::UnderWay => "under way",
        };
        let fast = told
            .rollback_ms
            .map(|ms| format!("; traffic was off the bad revision {ms} ms after its first failure"))
            .unwrap_or_default();
        println!(
            "  {:<48} {outcome:<12} {:>6} requests {:>4} failed{fast}",
            chapter.title,
            count(told.requests),
            count(told.failed)
        );
    }
    println!("  {:<61} {:>6} requests {:>4} failed", "in all", count(total.sent), count(total.failed));
}

async fn release(
    client: &Client,
    scratch: &Scratch,
    chapter: &Chapter,
    json: bool,
) -> Result<Report, Failure> {
    let body = DeployBody {
        file: file(scratch, chapter.env)?,
        base: scratch.path.clone(),
        secrets: BTreeMap::new(),
        by: "the demo".into(),
        again: false,
        supersede: false,
    };
    match client.post("/v1/deploy", &body).await? {
        DeployAnswer::Started { release, .. } => follow(client, &release, json).await,
        DeployAnswer::UpToDate { revision, .. } => Err(Failure::own(format!("{revision} runs already"))),
    }
}

async fn follow(client: &Client, release: &ReleaseId, json: bool) -> Result<Report, Failure> {
    let mut records = Vec::new();
    let mut story = Story::default();
    loop {
        let path = format!("/v1/releases/{release}/records?from={}&wait_ms=5000", records.len());
        let answer: RecordsAnswer = client.get(&path).await?;
        for record in answer.records {
            for line in story.tell(&record) {
                let mut rows = line.text.lines();
                say(json, &format!("  {} {}", line.mark.sign(), rows.next().unwrap_or_default()));
                for row in rows.chain(line.details.iter().map(String::as_str)) {
                    say(json, &format!("      {row}"));
                }
            }
            records.push(record);
        }
        let decided = story.machine().is_some_and(|machine| machine.exit_code().is_some());
        if decided && let Some(report) = Report::of(&records) {
            return Ok(report);
        }
    }
}

fn file(scratch: &Scratch, env: &str) -> Result<ReleaseFile, Failure> {
    let exe = std::env::current_exe()
        .map_err(|error| Failure::own(format!("failed to find cutover itself: {error}")))?;
    let source = format!(
        "service: shop\n\
         platform:\n  local:\n    command: ['{}', demo-service]\n    replicas: 2\n    stop_grace: 3s\n    env: {{{env}}}\n\
         route:\n  - proxy: {{listen: '{}'}}\n\
         checks: {{health: [{{path: /health}}], within: 3s}}\n\
         guard: {{success: 99%, min_requests: 20}}\n\
         bake: 3s\nkeep_warm: 2s\ndrain: 2s\n",
        exe.display(),
        scratch.address
    );
    ReleaseFile::read("the demo's release file", &source).map_err(|errors| Failure::own(errors.to_string()))
}

/// With `--output json` only the result is data; the story goes to standard error.
fn say(json: bool, text: &str) {
    if json {
        let _ = writeln!(std::io::stderr(), "{text}");
    } else {
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
