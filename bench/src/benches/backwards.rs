//! Reads from the answers of a load when the last request went to a candidate.

use anyhow::{Result, ensure};
use cutover_bench::load::Answered;

use super::numbers::Samples;

/// Candidates that lost their traffic by their failures.
#[derive(Debug, Default)]
pub(super) struct Trips {
    pub(super) count: usize,
    /// Requests begun after the deciding answer had reached its client, and given to the candidate all the same.
    pub(super) after: u64,
    /// Requests that the candidate had when the deciding answer reached its client.
    pub(super) in_flight: u64,
    /// Everything that the candidates answered: each one is an error.
    pub(super) answers: u64,
    /// From the deciding answer to the candidate's last.
    pub(super) last: Samples,
    /// From the deciding answer to the end of the command that says so.
    pub(super) told: Samples,
}

/// Candidates that a person took back.
#[derive(Debug, Default)]
pub(super) struct Backs {
    pub(super) count: usize,
    /// Requests begun after the command had returned, and given to the candidate all the same.
    pub(super) after: u64,
    /// From the start of the command to the last request that was begun and went to the candidate.
    pub(super) sent: Samples,
    /// From the start of the command to the candidate's last answer.
    pub(super) answered: Samples,
    /// The command.
    pub(super) command: Samples,
}

impl Trips {
    /// Adds a candidate; its answer number `decides` is the one that decides.
    pub(super) fn add(
        &mut self,
        timeline: &[Answered],
        version: &str,
        decides: u64,
        told_us: Option<u64>,
    ) -> Result<()> {
        let answers: Vec<&Answered> = timeline.iter().filter(|one| one.version == version).collect();
        ensure!(answers.len() as u64 >= decides, "it answered {} requests, {decides} decide", answers.len());
        let decided_us = answers[decides as usize - 1].answered_us;
        self.count += 1;
        self.answers += answers.len() as u64;
        self.after += answers.iter().filter(|one| one.sent_us > decided_us).count() as u64;
        let flying = |one: &&&Answered| one.sent_us <= decided_us && one.answered_us > decided_us;
        self.in_flight += answers.iter().filter(flying).count() as u64;
        let last_us = answers.iter().map(|one| one.answered_us).max().unwrap_or(decided_us);
        self.last.add_us(last_us.saturating_sub(decided_us) as f64);
        if let Some(told_us) = told_us {
            self.told.add_us(told_us.saturating_sub(decided_us) as f64);
        }
        Ok(())
    }
}

impl Backs {
    /// Adds a command that ran from `begin_us` to `end_us`; what happened after `until_us` is another's.
    pub(super) fn add(
        &mut self,
        timeline: &[Answered],
        version: &str,
        begin_us: u64,
        end_us: u64,
        until_us: u64,
    ) {
        let since = |one: &&Answered| one.version == version && (begin_us..until_us).contains(&one.sent_us);
        let answers: Vec<&Answered> = timeline.iter().filter(since).collect();
        self.count += 1;
        self.after += answers.iter().filter(|one| one.sent_us > end_us).count() as u64;
        let last = |time: fn(&Answered) -> u64| answers.iter().map(|one| time(one)).max().unwrap_or(begin_us);
        self.sent.add_us((last(|one| one.sent_us) - begin_us) as f64);
        self.answered.add_us((last(|one| one.answered_us) - begin_us) as f64);
        self.command.add_us((end_us - begin_us) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(sent_us: u64, answered_us: u64, version: &str) -> Answered {
        Answered { sent_us, answered_us, version: version.into(), intended_error: false }
    }

    #[test]
    fn a_request_after_the_deciding_answer_is_seen() {
        let timeline =
            [one(0, 10, "bad"), one(5, 20, "bad"), one(6, 21, "old"), one(19, 30, "bad"), one(21, 40, "bad")];
        let mut trips = Trips::default();
        trips.add(&timeline, "bad", 2, Some(50)).unwrap();
        assert_eq!((trips.after, trips.in_flight, trips.answers), (1, 1, 4));
        assert_eq!((trips.last.median(), trips.told.median()), (20.0, 30.0));
        assert!(trips.add(&timeline, "bad", 5, None).is_err(), "four answers cannot hold the fifth");
    }

    #[test]
    fn a_request_after_the_command_is_seen() {
        let timeline =
            [one(1, 2, "new"), one(9, 14, "new"), one(11, 16, "old"), one(13, 17, "new"), one(90, 91, "new")];
        let mut backs = Backs::default();
        backs.add(&timeline, "new", 8, 12, 50);
        assert_eq!((backs.after, backs.sent.median(), backs.answered.median()), (1, 5.0, 9.0));
        backs.add(&timeline, "none", 8, 12, 50);
        assert_eq!((backs.after, backs.count), (1, 2));
    }
}
