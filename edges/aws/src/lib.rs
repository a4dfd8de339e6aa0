//! AWS: CloudWatch as a source of truth.
//!
//! [`AwsSources`] makes what a release file asks of CloudWatch, and leaves everything else to the sources it is given.
//! Nothing here decides: values go to thresholds, counts to the judge, as those of other stores do.

mod alarms;
mod budget;
mod counts;
mod data;
mod periods;
mod queries;
mod skew;
mod sources;
mod store;
mod trouble;
mod value;

pub use sources::AwsSources;
