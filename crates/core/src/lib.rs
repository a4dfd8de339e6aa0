//! The core of cutover: release file, plan, machine, events, and the texts that people see.
//!
//! Pure: no async, clock, randomness, file, socket or environment. Time is an argument, facts are values.

pub mod check;
pub mod effect;
pub mod event;
pub mod fault;
pub mod file;
pub mod guard;
pub mod ids;
pub mod load;
pub mod machine;
pub mod plan;
pub mod release;
pub mod sim;
pub mod text;
pub mod units;

pub use check::{CheckKind, CheckOutcome, CheckResult};
pub use effect::{Effect, EffectKey, EffectName, Evidence, Lease, Outcome, Shift, StepKey};
pub use event::{Account, Command, Event, HoldDefault, Record};
pub use fault::{After, Blame, Fault};
pub use file::{FileErrors, ReleaseFile};
pub use guard::{Counts, JudgeProgress, Judgement, Verdict};
pub use ids::{Fence, InstanceId, Moment, ProcessName, ReleaseId, RevisionId, ServiceName};
pub use load::{LoadOutcome, LoadProgress, LoadReason, LoadResult, LoadShare};
pub use machine::{Ending, Machine, Mode, Wanted};
pub use plan::{Compare, Expects, FLOOR, Plan, PlanError, ProcessCounts, Prove, Step, Track};
pub use release::{Observed, Release, ReleaseKind, Traffic};
pub use units::{Cores, Rate, Size, Span, Weight};
