//! Many schedules on many threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Rng, Stats, World};

/// What a suite came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Sums over all schedules that passed.
    pub stats: Stats,
    /// The first failure found: its seed and what it says.
    pub failure: Option<(u64, String)>,
}

/// One schedule in memory. A panic is a failure like any other.
pub fn run_one(seed: u64) -> Result<Stats, String> {
    let run = || {
        let mut world = World::in_memory(Rng::new(seed));
        world.run().map(|()| world.stats)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    })
}

/// Runs the schedules `first..first + count` on `threads` threads, until one fails.
pub fn check_all(first: u64, count: u64, threads: usize) -> Report {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut report = Report::default();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || stop.load(Ordering::Relaxed) {
                return report;
            }
            let seed = first.wrapping_add(at);
            match run_one(seed) {
                Ok(stats) => report.stats += stats,
                Err(what) => {
                    stop.store(true, Ordering::Relaxed);
                    report.failure = Some((seed, what));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut total = Report::default();
        for thread in threads {
            let report = thread.join().expect("panics are caught within");
            total.stats += report.stats;
            let both = total.failure.take().into_iter().chain(report.failure);
            total.failure = both.min_by_key(|(seed, _)| *seed);
        }
        total
    })
}
