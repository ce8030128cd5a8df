//! Every history of a few operations, in every order and every cut.
//!
//! `CRDT_OPERATIONS=n` sets how many operations, `CRDT_STRIDE=n` takes every n-th history only, `CRDT_FIRST=n` begins
//! with that one.

use crdt_engine::testkit::Model;

/// Much of a delivery's time is small allocations, and this is what they are quickest with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn every_order_of_a_small_history_shows_the_same() {
    let operations = env("CRDT_OPERATIONS").unwrap_or(3) as usize;
    let model = Model { operations, stride: env("CRDT_STRIDE").unwrap_or(1), first: env("CRDT_FIRST").unwrap_or(0) };
    let start = std::time::Instant::now();
    let tried = model.check().unwrap_or_else(|what| panic!("{what}"));
    println!("{operations} operations, one in {} histories: {tried:?} in {:?}", model.stride, start.elapsed());
    assert!(tried.histories > 0);
}
