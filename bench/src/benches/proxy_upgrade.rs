//! The proxy put in its own place, again and again, under mixed load: what is refused, what is cut.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cutover_bench::load::{Kind, Load, Mix, Options, Pace, Report, Secure};
use cutover_proxy::{Client, Hello};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value, json};

use super::certificate::Certificate;
use super::numbers::{Samples, Spread};
use super::scratch::{Running, Scratch};
use super::services::Revision;
use super::shifts::{Routed, SECURE, SHIFTS, STREAMS};
use super::switches::{MIX, STREAM_MIX};
use super::{Outcome, Setting};

const GOAL: &str = "0 refused and 0 cut over 100 upgrades of the worker and 100 of the holder";
/// A load and the service that it asks. What lasts ends well within the grace of an upgrade.
struct Part {
    name: &'static str,
    routed: &'static Routed,
    mix: Mix,
    /// GETs and POSTs per second.
    rate: f64,
    /// How its clients come.
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Clear,
    Tls,
}

/// HTTP/1.1 and HTTP/2 (with prior knowledge in the clear, by ALPN with TLS) in each; calls where the targets can take them.
const PARTS: [Part; 3] = [
    Part {
        name: "in the clear, to targets of HTTP/1.1",
        routed: &SHIFTS,
        mix: Mix { http2: 4, ..MIX },
        rate: 500.0,
        way: Way::Clear,
    },
    Part {
        name: "in the clear, to targets of HTTP/2",
        routed: &STREAMS,
        mix: STREAM_MIX,
        rate: 250.0,
        way: Way::Clear,
    },
    Part {
        name: "TLS, to targets of HTTP/2",
        routed: &SECURE,
        mix: Mix { get_new: 2, ..STREAM_MIX },
        rate: 250.0,
        way: Way::Tls,
    },
];
/// How long the next worker may take until it answers.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two upgrades: the load has to get somewhere.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn run(setting: &Setting) -> Result<Outcome> {
    let count = if setting.quick { 10 } else { 100 };
    let mut scratch = Scratch::new(setting.cutover()?)?;
    let received = scratch.path().join("received.txt");
    std::fs::write(&received, "")?;
    let certificate = Certificate::make(scratch.path())?;
    let (client, listen) = scratch.start_proxy().await?;
    let secure = client.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let revisions = [Revision::start("s1", 2, &received)?, Revision::start("s2", 1, &received)?];
    let mut loads = Vec::new();
    for part in &PARTS {
        let mut table = part.routed.table(&revisions, 0);
        if part.way == Way::Tls {
            table.tls = vec![certificate.route(secure)];
        }
        client.set(part.routed.name, 0, 1, &table).await?;
        loads.push(match part.way {
            Way::Clear => part.start(listen, None)?,
            Way::Tls => part.start(secure, Some(certificate.users()?))?,
        });
    }
    let (mut workers, mut holders) = (Samples::default(), Samples::default());
    for _ in 0..count {
        workers.add(next_worker(&client).await?);
        tokio::time::sleep(PAUSE).await;
    }
    for _ in 0..count {
        holders.add(next_holder(&mut scratch, &client).await?);
        tokio::time::sleep(PAUSE).await;
    }
    let mut reports: Vec<Report> = loads.into_iter().map(Load::stop).collect();
    for (part, report) in PARTS.iter().zip(&mut reports) {
        report.check_received(&[&received])?;
        println!("{}:\n{report}\n", part.name);
    }
    println!("{}", Spread::head(&format!("{count} upgrades each")));
    println!("{}", workers.spread().row("SIGHUP until the next worker answers"));
    println!("{}", holders.spread().row("next holder until its worker answers"));
    let failed: u64 = reports.iter().map(Report::failed).sum();
    let parts: Map<String, Value> =
        PARTS.iter().zip(&reports).map(|(part, report)| (part.name.to_owned(), by_kind(report))).collect();
    Ok(Outcome {
        bench: "proxy-upgrade",
        ours: json!({
            "upgrades_of_the_worker": count,
            "upgrades_of_the_holder": count,
            "requests": reports.iter().map(Report::sent).sum::<u64>(),
            "failed": failed,
            "refused": reports.iter().map(refused).sum::<usize>(),
            "parts": parts,
            "next_worker": workers.spread(),
            "next_holder": holders.spread(),
        }),
        peers: json!({}),
        ratio: None,
        goal: GOAL,
        holds: failed == 0,
    })
}

impl Part {
    /// Starts its load, and waits until it is under way.
    fn start(&self, address: SocketAddr, secure: Option<Secure>) -> Result<Load> {
        let mut options = Options::new(address, self.routed.host).mix(self.mix);
        options = options.pace(Pace::PerSecond(self.rate));
        options.slow = Duration::from_millis(200);
        options.websocket_life = Duration::from_secs(2);
        options.secure = secure;
        let load = Load::start(options);
        ensure!(load.wait_for(100, PATIENCE), "{}: does not get going:\n{}", self.name, load.report());
        Ok(load)
    }
}

/// Returns how many of the failures that are kept were refusals.
fn refused(report: &Report) -> usize {
    let failures = Kind::ALL.into_iter().flat_map(|kind| report.kind(kind).failures);
    failures.filter(|failure| failure.text.contains("refused")).count()
}

fn by_kind(report: &Report) -> Value {
    let counted = |kind: &Kind| report.kinds.contains_key(kind);
    let counts = |kind: Kind| {
        let counts = report.kind(kind);
        (kind.name().to_owned(), json!({"sent": counts.sent, "failed": counts.failed}))
    };
    Value::Object(Kind::ALL.into_iter().filter(counted).map(counts).collect())
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
