#![no_main]

#[path = "../../dataplane/ofproto/tests/fuzz/body.rs"]
#[allow(dead_code)] // Each target uses one half.
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    body::tables(data);
});
