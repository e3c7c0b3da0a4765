#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| darwin_fuzz::target("shares").expect("a target").run(input));
