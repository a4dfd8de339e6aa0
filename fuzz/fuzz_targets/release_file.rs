//! Whatever bytes a release file consists of, its reader keeps its promises.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/core/tests/reader/mod.rs"]
mod reader;

fuzz_target!(|bytes: &[u8]| reader::holds(bytes));
