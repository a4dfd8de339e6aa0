//! Whatever cookies a client sends, its seat is one of ours, and the target sees nothing of it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| cutover_proxy::promises::cookies(bytes));
