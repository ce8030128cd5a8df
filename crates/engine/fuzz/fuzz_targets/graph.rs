#![no_main]

/// Much of an execution is small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| crdt_engine::testkit::fuzz::graph(bytes));
