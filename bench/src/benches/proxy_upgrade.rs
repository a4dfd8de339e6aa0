//! The proxy put in its own place, again and again, under mixed load: what is refused, what is cut.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cutover_bench::load::{Kind, Load, Mix, Options, Pace};
use cutover_proxy::{Client, Hello};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

use super::numbers::{Samples, Spread};
use super::scratch::{Running, Scratch};
use super::services::Revision;
use super::{Outcome, Setting, shifts};

const GOAL: &str = "0 refused and 0 cut over 100 upgrades of the worker and 100 of the holder";
/// What lasts ends well within the grace of an upgrade.
const MIX: Mix = Mix {
    get_kept: 4,
    get_new: 2,
    post: 4,
    slow_upload: 2,
    slow_download: 2,
    websocket: 4,
    http2: 0,
    grpc: 0,
    sticky: 0,
};
/// How long the next worker may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two upgrades: the load has to get somewhere.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let count = if setting.quick { 10 } else { 100 };
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let received = scratch.path().join("received.txt");
    std::fs::write(&received, "")?;
    let (client, listen) = scratch.start_proxy().await?;
    let revisions = [Revision::start("s1", 2, &received)?, Revision::start("s2", 1, &received)?];
    shifts::open(&client, &shifts::SHIFTS, &revisions).await?;
    let mut options = Options::new(listen, shifts::SHIFTS.host).mix(MIX).pace(Pace::PerSecond(1_000.0));
    options.slow = Duration::from_millis(200);
    options.websocket_life = Duration::from_secs(2);
    let load = Load::start(options);
    ensure!(load.wait_for(100, PATIENCE), "the load does not get going:\n{}", load.report());
    let (mut workers, mut holders) = (Samples::default(), Samples::default());
    for _ in 0..count {
        workers.add(next_worker(&client).await?);
        tokio::time::sleep(PAUSE).await;
    }
    for _ in 0..count {
        holders.add(next_holder(&mut scratch, &client).await?);
        tokio::time::sleep(PAUSE).await;
    }
    let mut report = load.stop();
    report.check_received(&[&received])?;
    println!("{report}");
    println!("{}", Spread::head(&format!("{count} upgrades each")));
    println!("{}", workers.spread().row("SIGHUP until the next worker answers"));
    println!("{}", holders.spread().row("next holder until its worker answers"));
    let failures = Kind::ALL.into_iter().flat_map(|kind| report.kind(kind).failures);
    let refused = failures.filter(|failure| failure.text.contains("refused")).count();
    let by_kind: Map<String, Value> = Kind::ALL
        .into_iter()
        .map(|kind| {
            let counts = report.kind(kind);
            (kind.name().to_owned(), json!({"sent": counts.sent, "failed": counts.failed}))
        })
        .collect();
    Ok(Outcome {
        bench: "proxy-upgrade",
        ours: json!({
            "upgrades_of_the_worker": count,
            "upgrades_of_the_holder": count,
            "requests": report.sent(),
            "failed": report.failed(),
            "refused": refused,
            "kinds": by_kind,
            "next_worker": workers.spread(),
            "next_holder": holders.spread(),
        }),
        peers: json!({}),
        ratio: None,
        goal: GOAL,
        holds: report.failed() == 0,
    })
}

/// What an operator does after putting another program in the place of the proxy's.
async fn next_worker(client: &Client) -> Result<Duration> {
    let before = client.hello().await?;
    let holder = before.holder_pid.context("the proxy has a holder")?;
    signal(holder, Signal::HUP)?;
    let begun = Instant::now();
    until(client, |hello| hello.worker_pid != before.worker_pid && hello.holder_pid == Some(holder)).await?;
    Ok(begun.elapsed())
}

/// The holder goes, and the next one takes over from the worker that is left.
async fn next_holder(scratch: &mut Scratch, client: &Client) -> Result<Duration> {
    let before = client.hello().await?;
    let holder = before.holder_pid.context("the proxy has a holder")?;
    signal(holder, Signal::KILL)?;
    until(client, |hello| hello.holder_pid.is_none()).await?;
    let begun = Instant::now();
    let child = scratch.command(&["proxy"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let next = child.id();
    scratch.adopt(Running::new(child));
    until(client, |hello| hello.holder_pid == Some(next)).await?;
    Ok(begun.elapsed())
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("a process has a number")?;
    kill_process(pid, signal).with_context(|| format!("failed to signal process {pid:?}"))
}

async fn until(client: &Client, there: impl Fn(&Hello) -> bool) -> Result<()> {
    let begun = Instant::now();
    // In between nobody may answer for a moment.
    while !client.hello().await.is_ok_and(|hello| there(&hello)) {
        ensure!(begun.elapsed() < PATIENCE, "the next proxy does not answer after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
