//! Whatever bytes a connection begins with, the reader of PROXY protocol headers keeps its promises.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/proxy/tests/reader/mod.rs"]
mod reader;

fuzz_target!(|bytes: &[u8]| reader::holds(bytes));
