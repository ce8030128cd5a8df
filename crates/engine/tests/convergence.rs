//! Whatever the order, the cuts and the losses: equal knowledge shows equal rows, and the right ones.
//!
//! `CRDT_SCHEDULES=n` sets how many schedules, `CRDT_FIRST=s` the first one's seed, `CRDT_THREADS=n` on how many threads,
//! `CRDT_SEED=s` replays one.

use crdt_engine::testkit::{check_all, run_one};

/// Much of a schedule's time is small allocations, and this is what they are quickest with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn replicas_converge() {
    if let Some(seed) = env("CRDT_SEED") {
        match run_one(seed) {
            Ok(stats) => println!("seed {seed}: {stats:?}"),
            Err(what) => panic!("seed {seed}: {what}"),
        }
        return;
    }
    let count = env("CRDT_SCHEDULES").unwrap_or(if cfg!(debug_assertions) { 2_000 } else { 200_000 });
    let processors = std::thread::available_parallelism().map_or(2, |n| n.get());
    let threads = env("CRDT_THREADS").map_or(processors, |n| n as usize);
    let start = std::time::Instant::now();
    let first = env("CRDT_FIRST").unwrap_or(1);
    let report = check_all(first, count, threads);
    if let Some((seed, what)) = report.failure {
        panic!(
            "seed {seed}: {what}\nreplay with CRDT_SEED={seed} cargo test -p crdt_engine --all-features --test convergence"
        );
    }
    println!("from seed {first}: {:?} in {:?}", report.stats, start.elapsed());
}
