//! What happened: the journal's records. Replaying them gives the same machine.

use std::fmt;

use cutover_judge::{Epoch, Failure, Settings};
use serde::{Deserialize, Serialize};

use crate::effect::{EffectKey, Evidence};
use crate::fault::Fault;
use crate::ids::{Moment, ReleaseId};
use crate::plan::Plan;
use crate::release::Release;
use crate::units::Span;

/// The version of the events' form in the journal; a driver refuses a journal with a higher one.
pub const JOURNAL_SCHEMA: u32 = 1;

/// Everything that a judge counted in a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// What it was asked to prove.
    pub settings: Settings,
    /// Its closed epochs, from the first.
    pub epochs: Vec<Epoch>,
    /// The failure that it told, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Failure>>,
    /// The probe after the switch, which is a judgement of its own; none if there was no alarm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Box<Account>>,
}

/// Something that happened to a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The release began. Always the first record.
    Opened {
        /// What is to be released.
        release: Box<Release>,
        /// The steps it takes.
        plan: Box<Plan>,
    },
    /// A driver took the release over: after a crash, an upgrade or an expired lease.
    TakenOver {
        /// The new driver.
        owner: String,
    },
    /// An effect succeeded.
    Done {
        /// Which.
        effect: EffectKey,
        /// What it has to show.
        evidence: Evidence,
    },
    /// An effect failed, or its answer was lost.
    Failed {
        /// Which.
        effect: EffectKey,
        /// How.
        fault: Fault,
    },
    /// A timer of the machine is due.
    Tick,
    /// A person, or another release, said something.
    Commanded {
        /// What.
        command: Command,
        /// Who.
        by: String,
    },
    /// The router took the candidate's traffic away by itself.
    Tripped {
        /// The trip's number at the router, to acknowledge it by.
        number: u64,
        /// Why, with numbers.
        why: String,
        /// Stable fails as well: the release is not to blame, and may come again unchanged.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        shared: bool,
    },
    /// Everything that the judge counted; legal in every state, changes none. Its verdicts can be computed again from it.
    Judged {
        /// What it counted.
        account: Box<Account>,
    },
    /// The service's request counters at this moment; legal in every state, changes none.
    Counted {
        /// Requests whose outcome is known, since the router began to count.
        requests: u64,
        /// Of these, answered with a server error by the service.
        failed: u64,
        /// Of these, failed by the router itself: no target, a reset, a cut.
        failed_by_router: u64,
    },
}

/// What a person, or another release, can say to a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "say")]
pub enum Command {
    /// Stop going forward for a while.
    Pause {
        /// How long at most.
        span: Span,
        /// What happens then.
        then: HoldDefault,
    },
    /// Go on after a pause or an inconclusive verdict.
    Resume,
    /// Answer the approval that is asked for.
    Approve,
    /// End the current bake, go to the next weight.
    Advance,
    /// Skip the remaining weights and bakes.
    Promote,
    /// Go back.
    Abort,
    /// Go back, because a newer release wants the service.
    Supersede,
    /// The predecessor is being released again: leave it running.
    Adopt {
        /// The release that adopts it.
        release: ReleaseId,
    },
    /// The tail's predecessor is no longer anybody's way back: retire it now.
    Hurry {
        /// The release that was promoted since.
        release: ReleaseId,
    },
}

impl Command {
    /// Returns the command's name as the CLI writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Pause { .. } => "pause",
            Command::Resume => "resume",
            Command::Approve => "approve",
            Command::Advance => "advance",
            Command::Promote => "promote",
            Command::Abort => "abort",
            Command::Supersede => "supersede",
            Command::Adopt { .. } => "adopt",
            Command::Hurry { .. } => "hurry",
        }
    }
}

/// What happens when a hold's deadline passes and nobody said anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldDefault {
    /// Go on.
    Resume,
    /// Go back.
    Abort,
}

impl fmt::Display for HoldDefault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HoldDefault::Resume => "go on",
            HoldDefault::Abort => "go back",
        })
    }
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position in the release's journal, from 0.
    pub sequence: u64,
    /// The epoch of the driver that wrote it.
    pub epoch: u64,
    /// When, on the engine's clock.
    pub at: Moment,
    /// When, on the wall: milliseconds since 1970.
    pub wall_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
