//! Turns the files of other tools, compose files and Kamal's `deploy.yml`, into release files.
//!
//! Text in, release file and findings out. Every key of the input is accounted for: taken over, taken over differently
//! (with how), or not honoured (with what that means and what to do). Values of secrets are in neither.

mod compose;
mod cursor;
mod draft;
mod fields;
mod finding;
mod import;
mod kamal;
mod ledger;
mod probe;
mod quantity;
mod secret;
mod variables;
mod words;

pub use fields::{Field, fields};
pub use finding::{Fate, Finding, Tool};
pub use import::{Import, Input, import};
