//! Control groups, version 1 and 2: limits of instances, and a place that outlives whoever started cutover.
//!
//! All groups of a state folder lie in one tree per hierarchy, `cutover-` and a hash of the folder's path: `server` and
//! `proxy` for cutover's own processes, `i-…` for each instance. The tree lies as high as this user may make one, so that
//! it is outside of the session, job or unit that cutover was started in: what ends that does not end it.

mod group;
mod hierarchy;
mod place;

pub(crate) use group::{Group, Groups, Kills, Limit};
pub use place::{leave, shared_with, tidy};
