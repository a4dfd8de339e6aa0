//! `cutover demo`: four releases of a small shop under steady load, two of them bad, on this machine alone.

mod load;
mod scratch;
mod service;
mod story;

pub(crate) use service::run as service;
pub(crate) use story::run;
