//! What the clients counted.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Failures of each kind whose text is kept.
const TEXTS: usize = 20;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A GET over a kept connection.
    GetKept,
    /// A GET over a new connection.
    GetNew,
    /// A POST with a unique id.
    Post,
    /// An upload that drips.
    SlowUpload,
    /// A download that drips.
    SlowDownload,
    /// A WebSocket, from its connection to its end.
    #[serde(rename = "websocket")]
    WebSocket,
    /// A GET in a stream of HTTP/2.
    Http2,
    /// A call of gRPC, from its first message to its status.
    Grpc,
    /// A GET with a cookie; a client that is moved back has failed.
    Sticky,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 9] = [
        Kind::GetKept,
        Kind::GetNew,
        Kind::Post,
        Kind::SlowUpload,
        Kind::SlowDownload,
        Kind::WebSocket,
        Kind::Http2,
        Kind::Grpc,
        Kind::Sticky,
    ];

    /// Returns the kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::GetKept => "get_kept",
            Kind::GetNew => "get_new",
            Kind::Post => "post",
            Kind::SlowUpload => "slow_upload",
            Kind::SlowDownload => "slow_download",
            Kind::WebSocket => "websocket",
            Kind::Http2 => "http2",
            Kind::Grpc => "grpc",
            Kind::Sticky => "sticky",
        }
    }
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Milliseconds from the start of the load until the failure.
    pub at_ms: u64,
    /// How long the request had taken by then.
    pub took_ms: u64,
    /// What happened.
    pub text: String,
}

/// Counts of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct KindReport {
    /// Requests whose outcome is known.
    pub sent: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of the failed, those whose kept connection was closed before any byte of an answer: a client that repeats
    /// them on a new connection, as browsers do with GETs, hides them.
    pub stale: u64,
    /// Answered with an error that the service itself intended; not failed.
    pub intended_errors: u64,
    /// The first failures.
    pub failures: Vec<Failure>,
}

/// How often a version answered, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VersionSeen {
    /// Answers.
    pub answers: u64,
    /// Milliseconds from the start of the load until its first answer.
    pub first_ms: u64,
    /// Milliseconds from the start of the load until its last answer.
    pub last_ms: u64,
}

/// One answered request on the load's own clock: microseconds since its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// When it was begun; no byte of it had been sent before.
    pub sent_us: u64,
    /// When its answer was complete.
    pub answered_us: u64,
    /// Who answered.
    pub version: String,
    /// With an error that the service intended.
    pub intended_error: bool,
}

/// What became of the POSTs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Receipts {
    /// Ids of this load that the services recorded, each counted once.
    pub received: u64,
    /// Acknowledged to the client, yet never recorded.
    pub never: u64,
    /// Recorded more than once.
    pub twice: u64,
    /// Failed for the client, yet recorded once.
    pub unacknowledged: u64,
}

/// Everything the clients counted.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Counts by kind; a kind that was not sent is missing.
    pub kinds: BTreeMap<Kind, KindReport>,
    /// Who answered.
    pub versions: BTreeMap<String, VersionSeen>,
    /// Answers by another version than was expected; see `Load::expect_version`.
    pub strays: u64,
    /// The first strays.
    pub stray_texts: Vec<String>,
    /// Messages that WebSockets sent and got back.
    pub messages: u64,
    /// Close frames that ended WebSockets from the other side, by code. 1001 (going away) and 1012 (restarting)
    /// tell the client to come back, any other is a failure.
    pub closed: BTreeMap<u16, u64>,
    /// The POSTs, once they were checked.
    pub receipts: Option<Receipts>,
    /// How long the load ran.
    pub ran_ms: u64,
    /// Every answered request in the order of the answers, where [`Options::timeline`](super::Options) asks for it.
    #[serde(skip)]
    pub timeline: Vec<Answered>,
    #[serde(skip)]
    pub(crate) run: String,
    #[serde(skip)]
    pub(crate) posts: Vec<Posts>,
}

/// The POSTs of one client, numbered from 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Posts {
    pub(crate) sent: u64,
    pub(crate) failed: Vec<u64>,
}

impl Report {
    /// Returns how many requests were sent, of all kinds.
    pub fn sent(&self) -> u64 {
        self.kinds.values().map(|kind| kind.sent).sum()
    }

    /// Returns how many requests failed, of all kinds.
    pub fn failed(&self) -> u64 {
        self.kinds.values().map(|kind| kind.failed).sum()
    }

    /// Returns the counts of one kind.
    pub fn kind(&self, kind: Kind) -> KindReport {
        self.kinds.get(&kind).cloned().unwrap_or_default()
    }

    /// Checks the POSTs against the files that the services recorded them in, one id per line.
    ///
    /// A POST that was acknowledged and is not recorded, or is recorded twice, counts as failed from here on. A
    /// second call changes nothing.
    pub fn check_received(&mut self, files: &[impl AsRef<Path>]) -> io::Result<Receipts> {
        if let Some(done) = self.receipts {
            return Ok(done);
        }
        let mut times: HashMap<(usize, u64), u32> = HashMap::new();
        for file in files {
            for line in BufReader::new(File::open(file)?).lines() {
                if let Some(post) = parse_id(&line?, &self.run) {
                    *times.entry(post).or_default() += 1;
                }
            }
        }
        let mut receipts = Receipts { received: times.len() as u64, ..Receipts::default() };
        let mut wrong = Vec::new();
        for (client, posts) in self.posts.iter().enumerate() {
            let failed: std::collections::HashSet<u64> = posts.failed.iter().copied().collect();
            for number in 0..posts.sent {
                let known = failed.contains(&number);
                match times.get(&(client, number)) {
                    None if !known => {
                        receipts.never += 1;
                        wrong.push(format!(
                            "{} was acknowledged and never received",
                            id(&self.run, client, number)
                        ));
                    }
                    Some(1) if known => receipts.unacknowledged += 1,
                    Some(twice) if *twice > 1 => {
                        receipts.twice += 1;
                        let text = format!("{} was received {twice} times", id(&self.run, client, number));
                        // One that failed already is not counted again.
                        if !known {
                            wrong.push(text);
                        }
                    }
                    _ => {}
                }
            }
        }
        if !wrong.is_empty() {
            let kind = self.kinds.entry(Kind::Post).or_default();
            kind.failed += wrong.len() as u64;
            let texts = wrong.into_iter().take(TEXTS);
            kind.failures.extend(texts.map(|text| Failure { at_ms: self.ran_ms, took_ms: 0, text }));
        }
        self.receipts = Some(receipts);
        Ok(receipts)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, counts) in &self.kinds {
            writeln!(f, "{:<14} {:>9} sent {:>6} failed", kind.name(), counts.sent, counts.failed)?;
            for failure in &counts.failures {
                writeln!(f, "    +{} ms, after {} ms: {}", failure.at_ms, failure.took_ms, failure.text)?;
            }
        }
        write!(f, "{:<14} {:>9} sent {:>6} failed", "all", self.sent(), self.failed())
    }
}

/// Returns the id of a POST.
pub(crate) fn id(run: &str, client: usize, number: u64) -> String {
    format!("{run}-{client}-{number}")
}

fn parse_id(line: &str, run: &str) -> Option<(usize, u64)> {
    let (client, number) = line.strip_prefix(run)?.strip_prefix('-')?.split_once('-')?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

/// What one answered request came to.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) intended_error: bool,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) text: String,
    pub(crate) stale: bool,
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self { text, stale: false }
    }
}

/// Counts while the load runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) report: Report,
}

impl Tally {
    /// Counts a request.
    pub(crate) fn count(
        &mut self,
        kind: Kind,
        begun: Instant,
        start: Instant,
        outcome: Result<&Answer, Trouble>,
    ) {
        let now_ms = ms(start.elapsed());
        let counts = self.report.kinds.entry(kind).or_default();
        counts.sent += 1;
        match outcome {
            Ok(answer) => {
                counts.intended_errors += u64::from(answer.intended_error);
                if !self.report.versions.contains_key(&answer.version) {
                    let seen = VersionSeen { first_ms: now_ms, ..VersionSeen::default() };
                    self.report.versions.insert(answer.version.clone(), seen);
                }
                if let Some(seen) = self.report.versions.get_mut(&answer.version) {
                    seen.answers += 1;
                    seen.last_ms = now_ms;
                }
            }
            Err(trouble) => {
                counts.failed += 1;
                counts.stale += u64::from(trouble.stale);
                if counts.failures.len() < TEXTS {
                    let took_ms = ms(begun.elapsed());
                    counts.failures.push(Failure { at_ms: now_ms, took_ms, text: trouble.text });
                }
            }
        }
    }

    /// Counts an answer by another version than was expected.
    pub(crate) fn stray(&mut self, kind: Kind, start: Instant, expected: &str, answered: &str) {
        self.report.strays += 1;
        if self.report.stray_texts.len() < TEXTS {
            self.report.stray_texts.push(format!(
                "+{} ms: {} answered by {answered}, when {expected} had taken over",
                ms(start.elapsed()),
                kind.name()
            ));
        }
    }
}

pub(crate) fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
