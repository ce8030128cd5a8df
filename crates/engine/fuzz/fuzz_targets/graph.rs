#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| crdt_engine::testkit::fuzz::graph(bytes));
