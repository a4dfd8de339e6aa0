//! What the switches came to, in tables and as a line.

use cutover_bench::load::{Kind, Report};
use serde_json::{Map, Value, json};

use super::Outcome;
use super::numbers::{Samples, Spread};
use super::releases::Releases;
use super::rises::Rises;
use super::shifts::Shifts;

const GOAL: &str = "0 requests failed, over shifts and over releases of each strategy, with HTTP/2, calls of gRPC, clients \
                    with seats (none moved back) and copies for the candidate too; 0 claimed for the old revision, or \
                    answered by it, after a shift's acknowledgement; acknowledgement p99 <= 5 ms as the client sees it";
const ACKNOWLEDGED_US: f64 = 5_000.0;

/// The releases of one strategy, and the load over them.
pub(super) struct OfStrategy {
    pub(super) name: &'static str,
    pub(super) releases: Releases,
    pub(super) report: Report,
}

/// What was measured beside the shifts, under the same load.
pub(super) struct Beside {
    pub(super) pipe: Samples,
    pub(super) disk: Samples,
}

/// Everything that was measured.
pub(super) struct Told {
    pub(super) shifts: Shifts,
    pub(super) over_shifts: Report,
    /// Under streams of HTTP/2 and calls of gRPC.
    pub(super) streams: (Shifts, Report),
    /// Under clients with seats, and with copies for the candidate.
    pub(super) rises: (Rises, Report),
    pub(super) releases: Vec<OfStrategy>,
    pub(super) beside: Beside,
    pub(super) nginx: Option<(Samples, Report)>,
}

impl Told {
    /// Prints it, and judges it.
    pub(super) fn outcome(&self) -> Outcome {
        self.print_counts();
        for (name, report) in self.reports() {
            print_load(name, report);
        }
        for of in &self.releases {
            of.releases.wrong.iter().for_each(|text| println!("          {text}"));
        }
        self.print_times();
        let own: Vec<&Report> = self.own().collect();
        let failed: u64 = own.iter().map(|report| report.failed()).sum();
        let strays: u64 = own.iter().map(|report| report.strays).sum();
        let wrong: usize = self.releases.iter().map(|of| of.releases.wrong.len()).sum();
        let claimed_after = self.shifts.claimed_after + self.streams.0.claimed_after;
        let rises = &self.rises.0;
        let called = self.shifts.called.spread();
        let pipe = self.beside.pipe.spread();
        let by_strategy: Map<String, Value> =
            self.releases.iter().map(|of| (of.name.to_owned(), of.json())).collect();
        Outcome {
            bench: "switches",
            ours: json!({
                "requests": own.iter().map(|report| report.sent()).sum::<u64>(),
                "failed": failed,
                "shifts": self.shifts.made,
                "releases": self.releases.iter().map(|of| of.releases.made).sum::<usize>(),
                "releases_failed": wrong,
                "claimed_after": claimed_after,
                "shifts_under_streams": self.streams.0.made,
                "rises": rises.made,
                "copies_compared": rises.compared,
                "copies_differ": rises.differ,
                "answered_by_old_after": strays,
                "cut_by_drains": self.shifts.cut + self.streams.0.cut + rises.cut,
                "shift_called": called,
                "shift_acknowledged": self.shifts.acknowledged.spread(),
                "shift_persisted": self.shifts.persisted.spread(),
                "shift_beyond_disk": self.shifts.beyond_disk.spread(),
                "over_shifts": by_kind(&self.over_shifts),
                "over_streams": by_kind(&self.streams.1),
                "over_rises": by_kind(&self.rises.1),
                "by_strategy": by_strategy,
            }),
            peers: json!({
                "pipe_round_trip": pipe,
                "durable_file": self.beside.disk.spread(),
                "nginx_reload": self.nginx.as_ref().map(|(took, report)| reloads(took, report)),
            }),
            ratio: (pipe.p99_us > 0.0).then(|| (called.p99_us / pipe.p99_us * 100.0).round() / 100.0),
            goal: GOAL,
            holds: failed == 0
                && claimed_after == 0
                && rises.compared > 0
                && rises.differ == 0
                && strays == 0
                && wrong == 0
                && called.p99_us <= ACKNOWLEDGED_US,
        }
    }

    /// The loads over cutover.
    fn own(&self) -> impl Iterator<Item = &Report> {
        [&self.over_shifts, &self.streams.1, &self.rises.1]
            .into_iter()
            .chain(self.releases.iter().map(|of| &of.report))
    }

    fn reports(&self) -> Vec<(&'static str, &Report)> {
        let mut all =
            vec![("shifts", &self.over_shifts), ("streams", &self.streams.1), ("rises", &self.rises.1)];
        all.extend(self.releases.iter().map(|of| (of.name, &of.report)));
        all.extend(self.nginx.iter().map(|(_, report)| ("nginx reload", report)));
        all
    }

    fn print_counts(&self) {
        let reports = self.reports();
        let row = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!(" {cell:>14}")).collect();
            println!("{name:<16}{cells}");
        };
        println!();
        row("requests/failed", reports.iter().map(|(name, _)| (*name).to_owned()).collect());
        for kind in Kind::ALL {
            let of = |report: &Report| report.kind(kind);
            let cell = |report: &Report| format!("{}/{}", of(report).sent, of(report).failed);
            row(kind.name(), reports.iter().map(|(_, report)| cell(report)).collect());
        }
        let all = |report: &Report| format!("{}/{}", report.sent(), report.failed());
        row("all", reports.iter().map(|(_, report)| all(report)).collect());
        println!(
            "failed: refused, reset, truncated, wrong status or body, WebSocket cut without close frame, POST not exactly once"
        );
    }

    fn print_times(&self) {
        let Told { shifts, beside, .. } = self;
        println!("\n{}", Spread::head(&format!("{} shifts", shifts.made)));
        println!("{}", shifts.called.spread().row("shift, as its client sees it"));
        println!("{}", shifts.acknowledged.spread().row("  receipt to last acknowledgement"));
        println!("{}", shifts.persisted.spread().row("  of which writing the table to disk"));
        println!("{}", shifts.beyond_disk.spread().row("  of which until every thread has it"));
        println!("{}", beside.pipe.spread().row("peer: a byte through a pipe and back"));
        println!("{}", beside.disk.spread().row("limit: a bare file of that size made durable"));
        if let Some((took, _)) = &self.nginx {
            println!("{}", took.spread().row("peer: nginx -s reload returns"));
        }
        let (streams, rises) = (&self.streams.0, &self.rises.0);
        let label = format!("{} shifts under HTTP/2 and gRPC, as seen", streams.made);
        println!("{}", streams.called.spread().row(&label));
        println!("{}", shifts.drained.spread().row("drain of the old revision (window 1.2 s)"));
        for OfStrategy { name, releases, .. } in &self.releases {
            println!("{}", releases.took.spread().row(&format!("cutover deploy, 2 instances, {name}")));
            println!("{}", releases.took_behind.spread().row("  behind the drain of the release before"));
        }
        println!(
            "claimed for the old revision after the acknowledgement: {}; drains {}, of which run to their end {}, requests \
             they cut {}, WebSockets they closed {}",
            shifts.claimed_after, shifts.drains, shifts.drains_finished, shifts.cut, shifts.websockets_closed
        );
        println!(
            "under HTTP/2 and gRPC: claimed after the acknowledgement {}, cut {}; over {} rises of a candidate: copies {}, \
             compared {}, with another status {}, cut {}",
            streams.claimed_after,
            streams.cut,
            rises.made,
            rises.copies,
            rises.compared,
            rises.differ,
            rises.cut
        );
    }
}

impl OfStrategy {
    fn json(&self) -> Value {
        json!({
            "releases": self.releases.made,
            "requests": self.report.sent(),
            "failed": self.report.failed(),
            "deploy": self.releases.took.spread(),
            "deploy_behind_a_drain": self.releases.took_behind.spread(),
            "kinds": by_kind(&self.report),
        })
    }
}

fn print_load(name: &str, report: &Report) {
    println!(
        "{name:<12} {:.0} requests/s; WebSockets: {} messages, asked to leave {:?}; POSTs {:?}; strays {}",
        report.sent() as f64 * 1_000.0 / report.ran_ms.max(1) as f64,
        report.messages,
        report.closed,
        report.receipts.unwrap_or_default(),
        report.strays,
    );
    for (kind, counts) in &report.kinds {
        for failure in counts.failures.iter().take(5) {
            let (at, took) = (failure.at_ms, failure.took_ms);
            println!("          {} +{at} ms, after {took} ms: {}", kind.name(), failure.text);
        }
    }
    report.stray_texts.iter().take(3).for_each(|text| println!("          {text}"));
}

fn reloads(took: &Samples, report: &Report) -> Value {
    json!({
        "reloads": took.spread().count,
        "requests": report.sent(),
        "failed": report.failed(),
        "stale": report.kinds.values().map(|kind| kind.stale).sum::<u64>(),
        "answered_by_old_after": report.strays,
        "reload": took.spread(),
        "kinds": by_kind(report),
    })
}

fn by_kind(report: &Report) -> Value {
    let kinds = report.kinds.iter().map(|(kind, counts)| {
        let counts = json!({"sent": counts.sent, "failed": counts.failed, "stale": counts.stale});
        (kind.name().to_owned(), counts)
    });
    Value::Object(kinds.collect())
}
