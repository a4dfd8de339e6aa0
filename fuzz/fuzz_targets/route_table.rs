//! A table that is taken keeps its promises, whatever is in it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cutover_proxy::promises::table(bytes);
});
