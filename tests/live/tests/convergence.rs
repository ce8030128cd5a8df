//! The engine's convergence suite with a PostgreSQL among the replicas: plain SQL, pushes and pulls in random schedules
//! with partitions, losses, doubles, late and re-cut runs; then all must be equal and right.
//!
//! `CRDT_SCHEDULES=n` sets how many schedules, `CRDT_SEED=s` replays one, `CRDT_TRACE=1` tells what the hub is told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crdt_engine::testkit::{Backend, Rng, Stats, Will, World, memory};
use crdt_live::Cluster;
use crdt_live::hub::{Hub, Nature, Place};

/// How long the schedules may take when nobody says how many.
const TIME: Duration = Duration::from_secs(45);
/// The schedules of a run when nobody says how many.
const SCHEDULES: u64 = 3_000;

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn text_of(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    format!("panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?"))
}

/// A hub in the database, sometimes a second one that does nothing on its own, and replicas in memory.
fn world(cluster: &Cluster, database: &str, seed: u64) -> World {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut rng = Rng::new(seed);
    let nature = *rng.pick(&Nature::ALL);
    let generic = nature != Nature::Spilling && rng.chance(50);
    let mut natures = vec![(nature, generic)];
    if rng.chance(20) {
        natures.push((Nature::Plain, rng.chance(50)));
    }
    let mut nodes: Vec<Box<dyn Backend>> = vec![];
    for (hub, (nature, generic)) in natures.into_iter().enumerate() {
        let mut client = cluster.connect(database);
        let schema = format!("h{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let place = Place::make(&mut client, &schema, ["m", "Hub"][hub], nature, generic);
        nodes.push(Box::new(Hub::new(client, place, nature, Rng::new(rng.next_u64()))));
    }
    for peer in ["a", "é", "zz"].iter().take(1 + rng.below(3)) {
        nodes.push(memory(peer, Will::None));
    }
    World::of(rng, nodes)
}

fn run_one(cluster: &Cluster, database: &str, seed: u64) -> Result<Stats, String> {
    let run = || {
        let mut world = world(cluster, database, seed);
        world.run().map(|()| world.stats)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(text_of(panic)))
}

#[test]
fn replicas_and_databases_converge() {
    let cluster = Cluster::shared();
    let database = cluster.create_database("convergence");
    if let Some(seed) = env("CRDT_SEED") {
        match run_one(cluster, &database, seed) {
            Ok(stats) => println!("seed {seed}: {stats:?}"),
            Err(what) => panic!("seed {seed}: {what}"),
        }
        return;
    }
    let (count, time) = env("CRDT_SCHEDULES").map_or((SCHEDULES, TIME), |count| (count, Duration::MAX));
    let first = env("CRDT_FIRST").unwrap_or(1);
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let work = || {
        let (mut stats, mut failures) = (Stats::default(), vec![]);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || start.elapsed() > time || failures.len() > 2 {
                return (stats, failures);
            }
            match run_one(cluster, &database, first + at) {
                Ok(more) => stats += more,
                Err(what) => failures.push((first + at, what)),
            }
        }
    };
    let (stats, failures) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        let (mut stats, mut failures) = (Stats::default(), vec![]);
        for thread in threads {
            let (more, failed) = thread.join().expect("panics are caught within");
            stats += more;
            failures.extend(failed);
        }
        (stats, failures)
    });
    println!("{stats:?} in {:?}", start.elapsed());
    for (seed, what) in &failures {
        eprintln!("seed {seed}: {what}\nreplay with CRDT_SEED={seed} scripts/live --test convergence");
    }
    assert!(failures.is_empty(), "{} schedules failed", failures.len());
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}
