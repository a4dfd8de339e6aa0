//! How a release is shown while it runs: aligned lines, a live last line on a terminal, JSON lines for programs.

use std::io::{IsTerminal, Write};

use cutover_core::text::{Line, Mark, Report, count, elapsed};
use cutover_core::{JudgeProgress, LoadProgress, Machine, Mode, Record, Step};
use cutover_ports::TrackView;

/// Prints a release's lines.
pub(super) struct View {
    json: bool,
    live: bool,
    colour: bool,
    shown: bool,
}

impl View {
    /// Makes the view of standard output: live only on a terminal, colours only where they are wanted.
    pub(super) fn new(json: bool) -> View {
        let terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        View { json, live: terminal && !json, colour: terminal && !plain && !json, shown: false }
    }

    /// Returns how long one question for news may take: short enough for a live line.
    pub(super) fn patience_ms(&self) -> u64 {
        if self.live { 500 } else { 10_000 }
    }

    /// Prints a record.
    pub(super) fn record(&mut self, record: &Record, lines: &[Line]) {
        if self.json {
            return print(&serde_json::json!(record).to_string());
        }
        self.clear();
        for line in lines {
            let mut rows = line.text.lines();
            let at = format!("+{}", elapsed(line.at_ms));
            print(&format!("{at:>8}  {} {}", self.sign(line.mark), rows.next().unwrap_or_default()));
            for row in rows {
                print(&format!("            {row}"));
            }
            for detail in &line.details {
                print(&format!("            | {detail}"));
            }
        }
    }

    /// Prints the output of a command that runs, as details are.
    pub(super) fn output(&mut self, text: &str) {
        self.clear();
        for row in text.lines() {
            print(&format!("            | {row}"));
        }
    }

    /// Tells whether people read it.
    pub(super) fn is_text(&self) -> bool {
        !self.json
    }

    /// Prints the report.
    pub(super) fn report(&mut self, report: &Report) {
        self.clear();
        if self.json {
            print(&serde_json::json!({ "report": report }).to_string());
        } else {
            print(&report.to_string());
        }
    }

    /// Says something that is not data.
    pub(super) fn say(&mut self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// Shows where the release is, on the last line of a terminal.
    pub(super) fn live(&mut self, machine: &Machine, records: &[Record], tracks: &[TrackView]) {
        let plan = machine.plan();
        let sides = |track: &&TrackView| {
            track.revision == plan.candidate || Some(&track.revision) == plan.stable.as_ref()
        };
        let split: String = tracks.iter().filter(sides).map(track_text).collect();
        self.last_line(machine, records, &split);
    }

    /// Shows where the release's load test is, on the last line of a terminal.
    pub(super) fn live_load(
        &mut self,
        machine: &Machine,
        records: &[Record],
        progress: Option<LoadProgress>,
    ) {
        let progress = progress.map(|progress| format!(" {progress}")).unwrap_or_default();
        self.last_line(machine, records, &progress);
    }

    /// Shows how far the judge is, on the last line of a terminal.
    pub(super) fn live_judge(&mut self, machine: &Machine, records: &[Record], progress: &JudgeProgress) {
        self.last_line(machine, records, &format!("  {progress}"));
    }

    /// Says how far the judge is in a line of its own.
    pub(super) fn judge(&mut self, records: &[Record], progress: &JudgeProgress) {
        let at = format!("+{}", elapsed(passed_ms(records)));
        print(&format!("{at:>8}  {} {progress}", self.sign(Mark::Says)));
    }

    fn last_line(&mut self, machine: &Machine, records: &[Record], more: &str) {
        if !self.live || records.is_empty() {
            return;
        }
        let step = machine.step();
        let what = match (machine.mode(), step) {
            (Mode::Held(_), _) => "held".to_string(),
            (Mode::Back(_), _) => "going back".to_string(),
            (_, Step::Bake { span, .. }) => format!("bake, {span} in all"),
            _ => step.name(),
        };
        let text = format!("{:>8}  … {what}{more}", format!("+{}", elapsed(passed_ms(records))));
        let _ = write!(std::io::stdout(), "\r\x1b[K{text}");
        let _ = std::io::stdout().flush();
        self.shown = true;
    }

    /// Tells whether a live line is wanted at all.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Takes the live line away.
    pub(super) fn clear(&mut self) {
        if self.shown {
            let _ = write!(std::io::stdout(), "\r\x1b[K");
            let _ = std::io::stdout().flush();
            self.shown = false;
        }
    }

    fn sign(&self, mark: Mark) -> String {
        let code = match mark {
            Mark::Done => "32",
            Mark::Failed => "31",
            Mark::Waits => "33",
            Mark::Says => "2",
        };
        if self.colour { format!("\x1b[{code}m{}\x1b[0m", mark.sign()) } else { mark.sign().to_string() }
    }
}

/// Returns how long ago the release began; 0 before its first record.
fn passed_ms(records: &[Record]) -> u64 {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let wall = u64::try_from(wall.as_millis()).unwrap_or(0);
    records.first().map_or(0, |record| wall.saturating_sub(record.wall_ms))
}

/// One track of the live split: `  r-1 75% 1,234 requests 0 failed`.
fn track_text(track: &TrackView) -> String {
    let TrackView { revision, weight, requests, failed, .. } = track;
    format!("  {revision} {weight} {} requests {} failed", count(*requests), count(*failed))
}

/// Prints a line; a reader that went away (`| head`) is no failure of ours.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
