#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| darwin_fuzz::target("index").expect("a target").run(input));
