//! The convergence suite catches every planted bug, each within a minute.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crdt_engine::planted::{Bug, with};
use crdt_engine::testkit::run_one;

/// Much of a schedule's time is small allocations, and this is what they are quickest with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Schedules a bug may survive.
const PATIENCE: u64 = 20_000;
/// And how long it may.
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn every_planted_bug_is_caught() {
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut lines = vec![];
        while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            let mut seeds = (1..=PATIENCE).take_while(|_| start.elapsed() < MINUTE);
            let caught = seeds.find_map(|seed| Some((seed, with(bug, || run_one(seed)).err()?)));
            lines.push((bug, caught, start.elapsed()));
        }
        lines
    };
    let mut lines = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic outside of schedules")).collect::<Vec<_>>()
    });
    let _ = std::panic::take_hook();
    lines.sort_by_key(|(bug, ..)| Bug::ALL.iter().position(|b| b == bug));
    for (bug, caught, time) in &lines {
        match caught {
            Some((seed, what)) => {
                let what: String = what.chars().take(90).collect();
                println!("{:<26} caught after {seed:>5} schedules, {time:>7.1?}: {what}", format!("{bug:?}"));
            }
            None => println!("{:<26} NOT caught in {PATIENCE} schedules and {time:.1?}", format!("{bug:?}")),
        }
    }
    assert!(lines.iter().all(|(_, caught, _)| caught.is_some()), "a planted bug was not caught");
    assert!(lines.len() >= 20);
}
