//! The data plane: listeners that never close, a route table with leases, and exact counts per revision.
//!
//! A *holder* process owns the listening sockets, a *worker* process serves. Who dies with whom:
//!
//! - worker killed: the holder starts another; new connections wait in the kernel's queue meanwhile
//! - holder killed: the worker serves on; the next holder on the folder takes its sockets over
//! - server (control plane) killed: nothing changes, until the candidate's lease lapses
//! - SIGHUP to the holder: a new worker takes over, the old one finishes its requests
//! - SIGTERM to the holder: the worker finishes its requests, then both end

mod access;
mod access_file;
mod acme;
mod admin;
mod aftermath;
mod assets;
mod balance;
mod body;
mod cells;
mod certificate;
mod checks;
mod claim;
mod client;
mod clients;
mod compat;
mod compiled;
mod control;
mod count;
mod crowd;
mod descriptors;
mod doors;
mod drain;
mod error;
mod event_stream;
mod exhausted;
mod extended;
mod fds;
mod files;
mod forward;
mod frames;
mod framing;
mod gate;
mod greet;
mod grpc;
mod headers;
mod holder;
mod http2;
mod hung;
mod judging;
mod limits;
mod lock;
mod metrics;
mod mirror;
mod moment;
mod multiplex;
mod names;
mod paced;
mod passing;
mod paths;
mod pin;
mod pool;
mod preview;
#[cfg(any(test, feature = "fuzzing"))]
pub mod promises;
mod protocol;
mod proxy_header;
mod readiness;
mod redirect;
mod refusal;
mod retries;
mod rewind;
mod room;
mod route;
mod service;
mod sticky;
mod store;
mod supervise;
mod table;
mod thread;
mod tls;
mod traffic;
mod trust;
mod tunnel;
mod turn;
mod upload;
mod validate;
mod wait;
mod worker;
mod x509;

pub use access::{AccessFormat, AccessLog};
pub use acme::{AcmeIssuer, AcmeObservation};
pub use aftermath::Probed;
pub use checks::TargetChecks;
pub use client::Client;
pub use clients::PerClient;
pub use compat::{OLDEST_PROTOCOL, PROTOCOL};
pub use count::{Arm, Counts, Histogram};
pub use error::{ErrorKind, ProxyError};
pub use exhausted::EXHAUSTED;
pub use forward::BRIDGED_HEADER;
pub use holder::{ADMIN_SOCKET, HolderOptions, run_holder};
pub use judging::{JudgeQuestion, JudgeStanding, Judged};
pub use limits::{HeaderLimit, Limits};
pub use mirror::MIRROR_HEADER;
pub use passing::Passing;
pub use pin::{PIN_COOKIE, PIN_HEADER, sign_pin};
pub use protocol::{
    ArmObservation, DrainReply, Event, EventKind, GuardNumbers, Hello, Observation, RenewReply,
    RevisionObservation, ServiceObservation, SetReply, TargetObservation,
};
pub use proxy_header::{ProxyHeader, parse_proxy_header};
pub use refusal::{BLAME_HEADER, REASON_HEADER, REASONS, Reason};
pub use retries::Retries;
pub use sticky::{SEAT_COOKIE, Sticky};
pub use table::{
    CandidateLease, Guard, JudgeTerms, PinKey, SCHEMA, ServiceTable, Table, Target, TargetProtocol, Track,
    WHOLE,
};
pub use tls::{CertificateObservation, TlsRoute};
pub use traffic::{MAX_PAGE, Traffic, Waiting};
pub use trust::Balance;
pub use upload::Pace;
pub use worker::{WorkerOptions, run_worker};
pub use x509::day;
