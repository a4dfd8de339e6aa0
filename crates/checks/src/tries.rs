//! Tries one check until it passed often enough in a row, or its time is over.

use std::fmt;
use std::time::Duration;

use cutover_core::{CheckOutcome, Fault, Span, file};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// The first pause after a failed try; doubled up to the check's interval, so that what starts at once is
/// released at once.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause between tries that pass.
const PASS_PAUSE: Duration = Duration::from_millis(100);

/// What came of one try: the answer in a word where it passed.
pub(crate) type Try = Result<String, Miss>;

/// A try that did not pass.
#[derive(Debug)]
pub(crate) enum Miss {
    /// The instance did not answer as it should; a later try may pass.
    No {
        /// Failed where there was an answer, an error where there was none.
        outcome: CheckOutcome,
        /// Why, as a fragment: `connection refused (errno 111)`.
        why: String,
        /// What shows it, on the same line: `; body begins: …`.
        shown: String,
        /// Lines that show it.
        lines: Vec<String>,
    },
    /// The check itself cannot run; no try will.
    CannotRun(Fault),
}

impl Miss {
    /// Makes a miss without an answer, whose reason says all about it.
    pub(crate) fn no(why: impl Into<String>) -> Miss {
        Miss::No { outcome: CheckOutcome::Error, why: why.into(), shown: String::new(), lines: Vec::new() }
    }

    /// Makes a miss of an I/O error: `connection refused (errno 111)`.
    pub(crate) fn io(error: &std::io::Error) -> Miss {
        let text = error.to_string().replace("(os error ", "(errno ");
        let mut letters = text.chars();
        let first = letters.next().map(|letter| letter.to_ascii_lowercase());
        Miss::no(first.into_iter().chain(letters).collect::<String>())
    }
}

/// A check that came to its end.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) took: Duration,
    pub(crate) tries: u32,
    pub(crate) end: End,
}

/// How a check came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// It passed often enough in a row; the last answer in a word.
    Passed(String),
    /// Its time is over.
    Missed(Failed),
    /// No try will pass.
    CannotRun(Fault),
}

/// A check whose time is over: the last miss, and how often it was tried.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) outcome: CheckOutcome,
    why: String,
    shown: String,
    within: Span,
    tries: u32,
    pub(crate) lines: Vec<String>,
}

impl Failed {
    /// Returns the last miss alone.
    pub(crate) fn detail(&self) -> String {
        format!("{}{}", self.why.trim_end_matches(','), self.shown)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.tries == 1 { "try" } else { "tries" };
        write!(f, "{} for {}, {} {plural}{}", self.why, self.within, self.tries, self.shown)
    }
}

/// Tries until the check passed, its time is over, or `cut` says that nobody waits for more than one try.
pub(crate) async fn until_passed<F: Future<Output = Try>>(
    check: &file::Check,
    within: Duration,
    mut cut: watch::Receiver<bool>,
    mut ask: impl FnMut() -> F,
) -> Tried {
    let (begin, limit, interval) = (Instant::now(), check.timeout.duration(), check.interval.duration());
    let (mut in_a_row, mut tries, mut pause) = (0, 0, FIRST_PAUSE);
    let mut last: Option<(CheckOutcome, String, String, Vec<String>)> = None;
    loop {
        let left = within.saturating_sub(begin.elapsed());
        tries += 1;
        let ended = |end| Tried { took: begin.elapsed(), tries, end };
        let rest = match timeout(limit.min(left), ask()).await {
            Ok(Ok(answer)) => {
                in_a_row += 1;
                if in_a_row >= check.successes {
                    return ended(End::Passed(answer));
                }
                pause = FIRST_PAUSE;
                let why = format!("passed {in_a_row} times in a row, {} wanted,", check.successes);
                last = Some((CheckOutcome::Failed, why, String::new(), Vec::new()));
                interval.min(PASS_PAUSE)
            }
            Ok(Err(Miss::CannotRun(fault))) => return ended(End::CannotRun(fault)),
            Ok(Err(Miss::No { outcome, why, shown, lines })) => {
                in_a_row = 0;
                last = Some((outcome, why, shown, lines));
                grown(&mut pause, interval)
            }
            Err(_) => {
                in_a_row = 0;
                // A try cut short by the end tells less than the one before it.
                if left > limit || last.is_none() {
                    let cut = span(limit.min(left));
                    let verb = if check.run.is_some() { "did not finish" } else { "no answer" };
                    let why = format!("{verb} within {cut}");
                    last = Some((CheckOutcome::Error, why, String::new(), Vec::new()));
                }
                grown(&mut pause, interval)
            }
        };
        let left = within.saturating_sub(begin.elapsed());
        let over = left <= rest || *cut.borrow();
        if over || timeout(rest, cut.wait_for(|cut| *cut)).await.is_ok_and(|cut| cut.is_ok()) {
            let (outcome, why, shown, lines) =
                last.expect("each try that did not end it left what it came to");
            let within = if left <= rest { within } else { begin.elapsed() };
            return ended(End::Missed(Failed { outcome, why, shown, within: span(within), tries, lines }));
        }
    }
}

/// Returns the duration for people: `40ms`, `1.4s`.
pub(crate) fn seconds(duration: Duration) -> String {
    if duration < Duration::from_millis(100) {
        format!("{}ms", duration.as_millis())
    } else {
        format!("{:.1}s", duration.as_secs_f64())
    }
}

fn grown(pause: &mut Duration, most: Duration) -> Duration {
    let now = (*pause).min(most);
    *pause = (now * 2).max(FIRST_PAUSE);
    now
}

/// Returns the duration as the release file writes it.
fn span(duration: Duration) -> Span {
    Span::from_ms(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(timeout_ms: u64, interval_ms: u64, successes: u32) -> file::Check {
        let (timeout, interval) = (Span::from_ms(timeout_ms), Span::from_ms(interval_ms));
        file::Check { tcp: true, timeout, interval, successes, ..file::Check::default() }
    }

    /// Runs a check whose tries end as `tries` says, the last for ever; returns the outcome, the tries, and
    /// the time in ms.
    async fn run(check: &file::Check, within_ms: u64, tries: &[bool]) -> (String, usize, u128) {
        let (mut asked, begin) = (0, Instant::now());
        let (_cut, uncut) = watch::channel(false);
        let outcome = until_passed(check, Duration::from_millis(within_ms), uncut, || {
            let passes = *tries.get(asked).or(tries.last()).unwrap();
            asked += 1;
            async move { if passes { Ok("200".into()) } else { Err(Miss::no("refused")) } }
        });
        let tried = outcome.await;
        let text = match tried.end {
            End::Passed(_) => seconds(tried.took),
            End::Missed(failed) => failed.to_string(),
            End::CannotRun(fault) => fault.to_string(),
        };
        (text, asked, begin.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_tries_come_quickly_and_then_by_the_interval() {
        let tries = [vec![false; 7], vec![true]].concat();
        // 10 + 20 + 40 + 80 + 160 + 200 + 200
        assert_eq!(run(&check(2000, 200, 1), 60_000, &tries).await, ("0.7s".into(), 8, 710));
        assert_eq!(run(&check(2000, 1000, 1), 60_000, &[true]).await, ("0ms".into(), 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn successes_count_only_in_a_row() {
        let tries = [true, true, false, true, true, true];
        let (_, asked, _) = run(&check(2000, 1000, 3), 60_000, &tries).await;
        assert_eq!(asked, 6);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_kept_and_the_tries_are_told() {
        let (text, asked, ms) = run(&check(2000, 1000, 1), 60_000, &[false]).await;
        assert_eq!(text, format!("refused for 1m, {asked} tries"));
        assert!((59_000..=60_000).contains(&ms) && asked > 60, "{asked} tries in {ms} ms");
        let (text, ..) = run(&check(2000, 1000, 9), 300, &[true]).await;
        assert_eq!(text, "passed 3 times in a row, 9 wanted, for 300ms, 3 tries");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_cut_by_the_timeout_of_a_try() {
        let silent = check(2000, 1000, 1);
        let (cut, uncut) = watch::channel(false);
        let tried = until_passed(&silent, Duration::from_secs(10), uncut.clone(), std::future::pending).await;
        let End::Missed(failed) = tried.end else { panic!("{tried:?}") };
        assert_eq!(failed.to_string(), "no answer within 2s for 10s, 5 tries");
        assert_eq!((failed.detail().as_str(), failed.outcome), ("no answer within 2s", CheckOutcome::Error));
        // Where another check cannot run, nobody waits for the rest of the time.
        cut.send(true).unwrap();
        let tried = until_passed(&silent, Duration::from_secs(10), uncut, std::future::pending).await;
        assert_eq!((tried.tries, tried.took), (1, Duration::from_secs(2)));
    }
}
