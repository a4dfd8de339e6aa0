//! cutover's own proxy as a router: translates shifts into its table, and its events into trips.

mod faults;
mod judge;
mod router;
mod table;

pub use router::{LEASE_MS, ProxyRouter};
