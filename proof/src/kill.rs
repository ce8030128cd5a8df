//! Backends and the postmaster die, and the server is stopped without a checkpoint, at any moment under 16 writers. What was
//! acknowledged is there; so is what a reader was given, also of local writers that commit asynchronously.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crdt_engine::testkit::Rng;
use crdt_live::Cluster;
use crdt_live::hub::Nature;
use crdt_live::resource::kill;
use postgres::NoTls;

use crate::Outcome;
use crate::args::Args;
use crate::client::Kind;
use crate::round::{Plan, Round, Sum, strange_crashes, sweep};

/// Deaths between two checks of everything.
const DEATHS: u64 = 20;

/// How the server is hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Death {
    /// `kill -9` of somebody's backend: the postmaster starts all anew.
    Backend,
    /// `kill -9` of a process that works in the background.
    Auxiliary,
    /// `kill -9` of the postmaster.
    Postmaster,
    /// `pg_ctl stop -m immediate`.
    Immediate,
}

/// `--cycles` deaths.
pub fn run(args: &Args) -> Outcome {
    let (cycles, first) = (args.number("cycles", 20), args.number("seed", 1));
    let fsync: &[&str] = if args.has("fsync") { &["--fsync"] } else { &[] };
    let cluster = Cluster::start("kill", fsync);
    let databases = vec![cluster.create_database("one")];
    let (start, mut total, mut deaths) = (Instant::now(), Sum::default(), BTreeMap::new());
    let (mut killed, mut done, mut rounds) = (BTreeSet::new(), 0, 0);
    while done < cycles {
        let seed = first + rounds;
        let mut rng = Rng::new(seed);
        let nature = *rng.pick(&Nature::ALL);
        let what = format!("round of seed {seed}, {nature:?}");
        let round = Round::start(&cluster, &databases, plan(seed, nature, &mut rng));
        for _ in 0..DEATHS.min(cycles - done) {
            std::thread::sleep(Duration::from_millis(20 + rng.below(600) as u64));
            let death = hurt(&cluster, &databases[0], &mut killed, &mut rng)?;
            *deaths.entry(death).or_insert(0) += 1;
            done += 1;
        }
        let sum = round.end().map_err(|wrong| format!("{what}, after {done} deaths: {wrong}"))?;
        println!(
            "{what}: {} events, {} acknowledged, {done} deaths so far, {:.0?}",
            sum.events,
            sum.acknowledged,
            start.elapsed()
        );
        total.events += sum.events;
        total.acknowledged += sum.acknowledged;
        rounds += 1;
        let strange = strange_crashes(&cluster, &killed);
        if !strange.is_empty() {
            return Err(format!("{what}: I7: {strange:?}"));
        }
    }
    sweep();
    Ok(format!(
        "{done} deaths ({deaths:?}) under 16 writers, {} events, {} acknowledged, in {:.0?}",
        total.events,
        total.acknowledged,
        start.elapsed()
    ))
}

/// 16 writers, some of them asynchronous, and two readers.
fn plan(seed: u64, nature: Nature, rng: &mut Rng) -> Plan {
    let mut kinds = vec![Kind::Reader; 2];
    kinds.extend([Kind::Sql; 6]);
    kinds.extend([Kind::Async; 5]);
    kinds.extend([Kind::Replica; 5]);
    Plan {
        seed,
        kinds,
        nature,
        second: false,
        keys: *rng.pick(&[10, 200]),
        pause: *rng.pick(&[5, 30]),
        mortal: true,
        shifting: false,
    }
}

/// Hurts the server, and waits until it answers again.
fn hurt(cluster: &Cluster, database: &str, killed: &mut BTreeSet<i32>, rng: &mut Rng) -> Result<Death, String> {
    let death = *rng.pick(&[Death::Backend, Death::Backend, Death::Auxiliary, Death::Postmaster, Death::Immediate]);
    match death {
        Death::Backend | Death::Auxiliary => {
            let wanted = if death == Death::Backend { "=" } else { "<>" };
            let sql = format!(
                "SELECT pid FROM pg_stat_activity WHERE backend_type {wanted} 'client backend' AND pid <> pg_backend_pid() ORDER BY pid"
            );
            let mut client = connection(cluster, database)?;
            let pids: Vec<i32> =
                client.query(&sql, &[]).map_err(|error| format!("{error:?}"))?.iter().map(|row| row.get(0)).collect();
            if !pids.is_empty() {
                let pid = *rng.pick(&pids);
                killed.insert(pid);
                if kill(pid.into()) {
                    // Our own connection goes down with all others.
                    let start = Instant::now();
                    while client.simple_query("SELECT 1").is_ok() && start.elapsed() < Duration::from_secs(10) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            }
        }
        Death::Postmaster => {
            cluster.crash();
            cluster.start_again(&[]);
        }
        Death::Immediate => cluster.restart_immediately(),
    }
    connection(cluster, database).map(|_| death)
}

/// A connection, as soon as the server answers.
fn connection(cluster: &Cluster, database: &str) -> Result<postgres::Client, String> {
    let start = Instant::now();
    loop {
        match cluster.config(database).connect(NoTls) {
            Ok(client) => return Ok(client),
            Err(error) if start.elapsed() > Duration::from_secs(120) => {
                return Err(format!("the server did not come back: {error:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
