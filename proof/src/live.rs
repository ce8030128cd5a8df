//! Clients with replicas of their own and plain SQL beside each other on one server, round after round, and the
//! invariants after each.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crdt_engine::testkit::Rng;
use crdt_live::Cluster;
use crdt_live::hub::Nature;

use crate::Outcome;
use crate::args::Args;
use crate::client::Kind;
use crate::round::{Plan, Round, Sum, strange_crashes, sweep};

/// Events of a round, about: so that memory and the checks stay small.
const EVENTS: u64 = 20_000;

/// Until both the time and the events are reached.
pub fn run(args: &Args) -> Outcome {
    let (time, events) = (Duration::from_secs(args.number("seconds", 20)), args.number("events", 0));
    let first = args.number("seed", 1);
    let cluster = Cluster::start("live", &[]);
    let databases: Vec<String> = ["one", "two"].iter().map(|name| cluster.create_database(name)).collect();
    let (start, mut total, mut clients, mut rounds) = (Instant::now(), Sum::default(), 0, 0);
    while start.elapsed() < time || (total.events as u64) < events {
        let seed = first + rounds;
        let plan = plan(seed, args.number("clients", 0) as usize);
        let what = format!("round of seed {seed}: {} clients, {:?}", plan.kinds.len(), plan.nature);
        clients += plan.kinds.len();
        let left = time.saturating_sub(start.elapsed()).max(Duration::from_secs(1));
        let round = Round::start(&cluster, &databases, plan);
        let begun = Instant::now();
        // A round of the short version is as short as what is left.
        while round.events().is_some_and(|events| events < EVENTS)
            && begun.elapsed() < left.min(Duration::from_secs(60))
        {
            std::thread::sleep(Duration::from_millis(200));
        }
        let sum = round.end().map_err(|wrong| format!("{what}: {wrong}"))?;
        println!("{what}, {} events, {} acknowledged, {:.0?}", sum.events, sum.acknowledged, begun.elapsed());
        total.events += sum.events;
        total.acknowledged += sum.acknowledged;
        rounds += 1;
        let strange = strange_crashes(&cluster, &BTreeSet::new());
        if !strange.is_empty() {
            return Err(format!("{what}: I7: {strange:?}"));
        }
    }
    sweep();
    Ok(format!(
        "{rounds} rounds of {clients} client processes, {} events, {} acknowledged, in {:.0?}",
        total.events,
        total.acknowledged,
        start.elapsed()
    ))
}

fn plan(seed: u64, clients: usize) -> Plan {
    let mut rng = Rng::new(seed);
    let clients = if clients > 0 { clients } else { 2 + rng.below(31) };
    let nature = *rng.pick(&Nature::ALL);
    let second = nature.may_have_another() && rng.chance(50);
    let mut kinds = vec![Kind::Replica, Kind::Sql];
    if second {
        kinds.push(Kind::Courier);
    }
    while kinds.len() < clients {
        kinds.push(*rng.pick(&[Kind::Replica, Kind::Replica, Kind::Sql, Kind::Sql, Kind::Async, Kind::Reader]));
    }
    Plan {
        seed,
        kinds,
        nature,
        second,
        keys: *rng.pick(&[10, 100, 2_000]),
        pause: *rng.pick(&[0, 5, 30]),
        mortal: false,
        shifting: false,
    }
}
