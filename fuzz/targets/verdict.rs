#![no_main]
//! libFuzzer on one property.

libfuzzer_sys::fuzz_target!(|data: &[u8]| arqon_fuzz::verdict(data));
