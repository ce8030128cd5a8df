//! The engine's convergence suite with a PostgreSQL among the replicas: plain SQL, pushes and pulls in random schedules
//! with partitions, losses, doubles, late and re-cut runs; then all must be equal and right.
//!
//! `CRDT_SCHEDULES=n` sets how many schedules, `CRDT_FIRST=s` the first one's seed, `CRDT_SEED=s` replays one, `CRDT_TRACE=1` tells what the hub is told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crdt_engine::testkit::{Backend, Refusal, Rng, Stats, Will, World, Write, memory, oracle};
use crdt_engine::wire::{Batch, Versions};
use crdt_live::Cluster;
use crdt_live::hub::{Hub, Nature, Place};
use postgres::Client;

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

/// A hub in the database, sometimes a second one that does nothing on its own or has its own mind, and replicas in memory.
fn world(cluster: &Cluster, database: &str, seed: u64) -> World {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut rng = Rng::new(seed);
    let nature = *rng.pick(&Nature::ALL);
    let generic = !nature.wants_s() && rng.chance(50);
    let mut natures = vec![(nature, generic)];
    if nature.may_have_another() && rng.chance(30) {
        natures.push((*rng.pick(&[Nature::Plain, Nature::Other]), rng.chance(50)));
    }
    let mut nodes: Vec<Box<dyn Backend>> = vec![];
    for (hub, (nature, generic)) in natures.into_iter().enumerate() {
        let mut client = cluster.connect(database);
        let schema = format!("h{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let place = Place::make(&mut client, &schema, ["m", "Hub"][hub], nature, generic);
        nodes.push(Box::new(Hub::new(client, cluster.connect(database), place, nature, Rng::new(rng.next_u64()))));
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
    // One for each thread: what one schedule leaves in the catalog is no other's business.
    let databases = [0, 1].map(|_| cluster.create_database("convergence"));
    if let Some(seed) = env("CRDT_SEED") {
        match run_one(cluster, &databases[0], seed) {
            Ok(stats) => println!("seed {seed}: {stats:?}"),
            Err(what) => panic!("seed {seed}: {what}"),
        }
        return;
    }
    let (count, time) = env("CRDT_SCHEDULES").map_or((SCHEDULES, TIME), |count| (count, Duration::MAX));
    let first = env("CRDT_FIRST").unwrap_or(1);
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let work = |database: &str| {
        let (mut stats, mut failures) = (Stats::default(), vec![]);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || start.elapsed() > time || failures.len() > 2 {
                return (stats, failures);
            }
            match run_one(cluster, database, first + at) {
                Ok(more) => stats += more,
                Err(what) => failures.push((first + at, what)),
            }
        }
    };
    let (stats, failures) = std::thread::scope(|scope| {
        let threads: Vec<_> = databases.iter().map(|database| scope.spawn(|| work(database))).collect();
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

/// Pushes that fail for a missing parent before a client stops to wait for it.
const PATIENCE: usize = 20;

/// What may go wrong with any write that meets others, and is tried again.
fn is_rivalry(state: &str) -> bool {
    ["40P01", "40001", "23505", "23503", "CR016"].contains(&state)
}

fn random_write(rng: &mut Rng, stamp: i64) -> Write {
    let tbl = if rng.chance(80) { "t" } else { "s" };
    let row = *rng.pick(&["1", "1", "2", "4"]);
    const COLS: [&str; 4] = ["x", "y", "d", "u"];
    match rng.below(10) {
        0..4 => {
            let chosen = COLS.into_iter().enumerate().filter(|_| rng.chance(35));
            Write::Insert(tbl, row, chosen.map(|(i, col)| (col, stamp + i as i64)).collect())
        }
        4..6 => Write::Delete(tbl, row),
        _ => Write::Update(tbl, row, rng.pick::<&str>(&COLS), stamp),
    }
}

/// A session of plain SQL: transactions of a few statements, some rolled back, with a nap before most commits.
fn sql_session(client: &mut Client, place: &Place, mut rng: Rng, mut stamp: i64, rounds: usize) -> Result<(), String> {
    for _ in 0..rounds {
        let level = *rng.pick(&["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
        let mut sql = format!("BEGIN ISOLATION LEVEL {level};");
        for _ in 0..1 + rng.below(3) {
            stamp += 10;
            sql.push_str(&match rng.chance(25) {
                true => place.odd_sql(&mut rng),
                // The functions of a doc want READ COMMITTED, as a push does.
                false => match random_write(&mut rng, stamp) {
                    Write::Insert("s", ..) | Write::Update("s", ..) | Write::Delete("s", _)
                        if place.generic && level != "READ COMMITTED" =>
                    {
                        String::new()
                    }
                    write => place.sql(&write),
                },
            });
            if rng.chance(30) {
                sql.push_str(&format!("SELECT pg_sleep({});", rng.below(8) as f64 / 1000.0));
            }
        }
        let prepared = rng.chance(15) && !sql.contains("crdt.doc_");
        sql.push_str(&match prepared {
            true => format!("PREPARE TRANSACTION '{}_{stamp}';", place.schema),
            false => if rng.chance(90) { "COMMIT;" } else { "ROLLBACK;" }.to_owned(),
        });
        let mut result = client.batch_execute(&sql);
        if prepared && result.is_ok() {
            std::thread::sleep(Duration::from_millis(rng.below(10) as u64));
            let end = if rng.chance(80) { "COMMIT" } else { "ROLLBACK" };
            result = client.batch_execute(&format!("{end} PREPARED '{}_{stamp}'", place.schema));
        }
        if let Err(error) = result {
            let _ = client.batch_execute("ROLLBACK");
            let answer = error.as_db_error().ok_or_else(|| format!("{error:?}"))?;
            if !is_rivalry(answer.code().code()) {
                return Err(format!("{sql}: {answer:?}"));
            }
        }
    }
    Ok(())
}

/// A client with its own replica, offline most of the time.
fn pushing_client(
    client: &mut Client,
    place: &Place,
    replica: &mut dyn Backend,
    mut rng: Rng,
    mut stamp: i64,
    rounds: usize,
) -> Result<(), String> {
    let refused = |what: &str, refusal: Refusal| format!("{what} refused: {refusal:?}");
    for _ in 0..rounds {
        for _ in 0..rng.below(3) {
            stamp += 10;
            let writes: Vec<Write> = (0..1 + rng.below(3)).map(|_| random_write(&mut rng, stamp)).collect();
            replica.write(&writes).map_err(|refusal| refused("a local write", refusal))?;
        }
        match rng.below(3) {
            0 => pull_some(client, place, replica, &mut rng)?,
            1 => push_all(client, place, replica, &mut rng)?,
            _ => std::thread::sleep(Duration::from_millis(rng.below(10) as u64)),
        }
    }
    Ok(())
}

fn pull_some(client: &mut Client, place: &Place, replica: &mut dyn Backend, rng: &mut Rng) -> Result<(), String> {
    let limit = if rng.chance(50) { 1 + rng.below(20) as u64 } else { 1_000_000 };
    let page = place.pull(client, &replica.versions(), limit, rng.chance(50)).map_err(|r| format!("pull: {r:?}"))?;
    replica.push(page.batch, true).map_err(|refusal| format!("a page the hub handed out: {refusal:?}")).map(drop)
}

/// Pushes what the hub lacks, and checks that it is there afterwards. A row that it brings back may have a cell that somebody
/// wrote while it was gone, and that names a parent which has gone since: the client, whose business that is, brings back
/// the parents.
fn push_all(client: &mut Client, place: &Place, replica: &mut dyn Backend, rng: &mut Rng) -> Result<(), String> {
    let mut orphaned = 0;
    loop {
        let known = place.versions(client);
        let page = replica.pull(&known, usize::MAX).map_err(|r| format!("own log: {r:?}"))?;
        let told = page.batch.clone();
        match place.push(client, page.batch, rng.chance(50)) {
            Ok(_) => {
                let reached = place.versions(client);
                let last = |run: &crdt_engine::wire::Run| run.counter_start + run.span(&told.ops) - 1;
                return match told.runs.iter().all(|run| reached.get(&run.peer).is_some_and(|at| *at >= last(run))) {
                    true => Ok(()),
                    false => Err(format!("a push was acknowledged and is not there: {reached:?}")),
                };
            }
            Err(Refusal::Other(what)) if is_rivalry(&what[..5]) => orphaned += usize::from(what.starts_with("23503")),
            Err(refusal) => return Err(format!("a push: {refusal:?}")),
        }
        if orphaned == PATIENCE {
            let parents = ["1", "2", "4"].map(|row| Write::Insert("t", row, vec![]));
            replica.write(&parents).map_err(|refusal| format!("parents refused: {refusal:?}"))?;
            orphaned = 0;
        }
    }
}

/// A writer that counts itself out, also when it panics.
struct Leaving<'w>(&'w AtomicU64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Reads the log page by page while it grows.
fn reader(
    client: &mut Client,
    place: &Place,
    mut rng: Rng,
    done: &AtomicU64,
) -> Result<(Versions, (u64, usize)), String> {
    let (mut known, mut sum, mut count) = (Versions::new(), 0u64, 0);
    loop {
        let last = done.load(Ordering::SeqCst) == 0;
        let limit = 1 + rng.below(30) as u64;
        let page = place.pull(client, &known, limit, rng.chance(50)).map_err(|r| format!("pull: {r:?}"))?;
        let (part, events) = oracle::fingerprint(&page.batch);
        (sum, count) = (sum.wrapping_add(part), count + events);
        known = page.versions;
        if last && !page.has_more {
            return Ok((known, (sum, count)));
        }
    }
}

/// Several sessions and clients at once on one hub; then all must be equal and right. Returns the number of events.
fn run_at_once(cluster: &Cluster, database: &str, seed: u64) -> Result<usize, String> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut rng = Rng::new(seed);
    let nature = *rng.pick(&Nature::ALL);
    let generic = !nature.wants_s() && rng.chance(50);
    // Writers in any order deadlock all the time.
    let connect = || {
        let mut client = cluster.connect(database);
        client.batch_execute("SET deadlock_timeout = '10ms'").expect("SET");
        client
    };
    let mut client = connect();
    let schema = format!("c{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let place = Place::make(&mut client, &schema, "m", nature, generic);
    let mut replicas: Vec<Box<dyn Backend + Send>> = ["a", "zz"].iter().map(|peer| memory(peer, Will::None)).collect();
    let rounds = 5 + rng.below(30);
    let sessions = 2 + rng.below(2);
    let writers = AtomicU64::new((sessions + replicas.len()) as u64);
    let (writers, place) = (&writers, &place);
    let read = std::thread::scope(|scope| {
        let mut threads = vec![];
        for n in 0..sessions {
            let (rng, stamp) = (Rng::new(rng.next_u64()), 1_000_000 * (n as i64 + 1));
            let mut client = connect();
            threads.push(scope.spawn(move || {
                let _leaving = Leaving(writers);
                let result = sql_session(&mut client, place, rng, stamp, rounds);
                result.map_err(|what| format!("session {n}: {what}"))
            }));
        }
        for (n, replica) in replicas.iter_mut().enumerate() {
            let (rng, stamp) = (Rng::new(rng.next_u64()), 1_000_000 * (n as i64 + 5));
            let mut client = connect();
            threads.push(scope.spawn(move || {
                let _leaving = Leaving(writers);
                let result = pushing_client(&mut client, place, replica.as_mut(), rng, stamp, rounds);
                result.map_err(|what| format!("client {n}: {what}"))
            }));
        }
        let rng = Rng::new(rng.next_u64());
        let mut client = connect();
        let reading = scope.spawn(move || reader(&mut client, place, rng, writers));
        for thread in threads {
            thread.join().map_err(text_of)??;
        }
        reading.join().map_err(text_of)?
    })?;
    for replica in &mut replicas {
        push_all(&mut client, place, replica.as_mut(), &mut rng)?;
    }
    let all = |client: &mut Client| -> Result<Batch, String> {
        Ok(place.pull(client, &Versions::new(), 1_000_000, true).map_err(|r| format!("{r:?}"))?.batch)
    };
    place.check(&mut client, &mut rng)?;
    let log = oracle::log_of(all(&mut client)?)?;
    let (shown, right) = (oracle::visible(&place.rows(&mut client)), oracle::visible(&oracle::tables_of(&log)));
    if shown != right {
        return Err(format!("{nature:?}: the hub shows {shown:?}, its log stands for {right:?}"));
    }
    for replica in &mut replicas {
        replica.push(all(&mut client)?, true).map_err(|r| format!("the hub's log: {r:?}"))?;
        if oracle::visible(&replica.rows()) != right || replica.versions() != log.versions() {
            return Err(format!("a client shows {:?}, the hub {right:?}", replica.rows()));
        }
    }
    // The reader was told everything that had been committed when the last writer ended.
    let page = place.pull(&mut client, &read.0, 1_000_000, true).map_err(|r| format!("{r:?}"))?;
    let (rest, events) = oracle::fingerprint(&page.batch);
    let whole = oracle::fingerprint(&all(&mut client)?);
    if (read.1.0.wrapping_add(rest), read.1.1 + events) != whole {
        return Err(format!("a reader got {} events and {events} more, the log has {}", read.1.1, whole.1));
    }
    place.drop(&mut client);
    Ok(whole.1)
}

/// Threads cannot be replayed: a seed repeats what is written, and perhaps what happens.
#[test]
fn writers_at_once_converge() {
    let cluster = Cluster::shared();
    let database = cluster.create_database("at_once");
    let first = env("CRDT_SEED").or(env("CRDT_FIRST")).unwrap_or(1);
    let (count, time) = match env("CRDT_SEED") {
        Some(_) => (20, Duration::MAX),
        None => env("CRDT_SCHEDULES").map_or((SCHEDULES, TIME), |count| (count, Duration::MAX)),
    };
    let (start, mut events, mut done) = (Instant::now(), 0, 0);
    for at in 0..count {
        if start.elapsed() > time {
            break;
        }
        let seed = if env("CRDT_SEED").is_some() { first } else { first + at };
        match run_at_once(cluster, &database, seed) {
            Ok(more) => (events, done) = (events + more, done + 1),
            Err(what) => panic!(
                "seed {seed}: {what}\nrun it again with CRDT_SEED={seed} scripts/live --test convergence at_once, 20 times"
            ),
        }
    }
    println!("{done} runs of writers at once, {events} events, in {:?}", start.elapsed());
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

/// A transaction writes, another one is prepared, which makes everybody read the heads again, and the first one writes
/// once more: what it wrote before must not become a head for others, since it may be rolled back.
#[test]
fn nobody_builds_on_what_is_rolled_back() {
    let cluster = Cluster::shared();
    let database = cluster.create_database("rolled_back");
    let (mut one, mut two) = (cluster.connect(&database), cluster.connect(&database));
    let place = Place::make(&mut one, "h", "m", Nature::Plain, true);
    let sql = |write| place.sql(&write);
    one.batch_execute(&format!("BEGIN; {}", sql(Write::Insert("s", "1", vec![("x", 1)])))).unwrap();
    two.batch_execute(&format!("BEGIN; {} PREPARE TRANSACTION 'p';", sql(Write::Insert("t", "1", vec![])))).unwrap();
    one.batch_execute(&sql(Write::Update("s", "1", "x", 2))).unwrap();
    two.batch_execute(&sql(Write::Insert("t", "2", vec![]))).unwrap();
    one.batch_execute("ROLLBACK").unwrap();
    two.batch_execute("COMMIT PREPARED 'p'").unwrap();
    two.batch_execute(&sql(Write::Insert("t", "3", vec![]))).unwrap();
    place.check(&mut two, &mut Rng::new(1)).unwrap();
}

/// A clone of a hub, as a careless copy of its storage would be, writes on under the hub's present name: nobody who knows
/// the hub's own events takes the clone's, nor the other way round, and nothing changes by trying.
#[test]
fn a_clone_of_a_hub_is_found_out() {
    let cluster = Cluster::shared();
    let database = cluster.create_database("clones");
    let mut client = cluster.connect(&database);
    let hub = Place::make(&mut client, "h", "m", Nature::Plain, true);
    let [told_first, told_late] = ["w1", "w2"].map(|name| Place::make(&mut client, name, name, Nature::Other, true));
    client.batch_execute(&hub.sql(&Write::Insert("t", "1", vec![("x", 1)]))).unwrap();
    let everything =
        |client: &mut Client, place: &Place| place.pull(client, &Versions::new(), 1000, true).unwrap().batch;
    let before = everything(&mut client, &hub);
    let mut clone = memory(&before.runs[0].peer.clone(), Will::None);
    clone.push(before, true).unwrap();
    clone.write(&[Write::Update("t", "1", "x", 2), Write::Update("t", "1", "y", 2)]).unwrap();
    client.batch_execute(&hub.sql(&Write::Update("t", "1", "x", 3))).unwrap();
    let clones = clone.pull(&Versions::new(), usize::MAX).unwrap().batch;
    let hubs = everything(&mut client, &hub);
    told_first.push(&mut client, hubs.clone(), false).unwrap();
    told_late.push(&mut client, clones.clone(), true).unwrap();
    for (place, batch) in [(&told_first, &clones), (&told_late, &hubs)] {
        for in_binary in [false, true] {
            let shown = (place.rows(&mut client), place.versions(&mut client));
            match place.push(&mut client, batch.clone(), in_binary) {
                Err(Refusal::Equivocation(known, got)) if known != got => {}
                other => panic!("{other:?}"),
            }
            assert_eq!((place.rows(&mut client), place.versions(&mut client)), shown);
        }
        place.check(&mut client, &mut Rng::new(1)).unwrap();
    }
    // The hub itself has less to say than its clone: what it does not know is its own all the same.
    match hub.push(&mut client, clones, false) {
        Err(Refusal::Other(what)) if what.starts_with("CR009") => {}
        other => panic!("{other:?}"),
    }
    hub.check(&mut client, &mut Rng::new(1)).unwrap();
}

/// Events of two peers that the hub has not heard of, in one push, one made on top of the other.
#[test]
fn deps_on_a_peer_as_new_are_kept() {
    let cluster = Cluster::shared();
    let database = cluster.create_database("new_peers");
    let mut client = cluster.connect(&database);
    let place = Place::make(&mut client, "h", "m", Nature::Plain, true);
    let (mut first, mut second) = (memory("z", Will::None), memory("a", Will::None));
    first.write(&[Write::Insert("t", "1", vec![("x", 1)])]).unwrap();
    second.push(first.pull(&Versions::new(), usize::MAX).unwrap().batch, true).unwrap();
    second.write(&[Write::Update("t", "1", "x", 2)]).unwrap();
    let all = second.pull(&Versions::new(), usize::MAX).unwrap().batch;
    place.push(&mut client, all, false).unwrap();
    assert_eq!(place.frontier(&mut client), second.frontier());
}

/// `ON CONFLICT DO UPDATE` and MERGE fire several statement triggers, and a trigger's own writes concern each of them.
#[test]
fn upserts_and_merges_are_captured_with_what_triggers_make_of_them() {
    let cluster = Cluster::shared();
    let database = cluster.create_database("upserts");
    let mut client = cluster.connect(&database);
    let place = Place::make(&mut client, "h", "m", Nature::Nested, false);
    for sql in [
        "INSERT INTO h.t (id, u) VALUES ('1', 113) ON CONFLICT (id) DO UPDATE SET u = excluded.u",
        "INSERT INTO h.t (id, x, u) VALUES ('1', 5, 7), ('2', 6, 8) ON CONFLICT (id) DO UPDATE SET u = excluded.u, x = 9",
        "MERGE INTO h.t USING (VALUES ('1', 20), ('3', 30)) AS n (id, x) ON t.id = n.id
         WHEN MATCHED THEN UPDATE SET x = n.x, u = 0 WHEN NOT MATCHED THEN INSERT (id, x, u) VALUES (n.id, n.x, 0)",
        "MERGE INTO h.t USING (VALUES (1, '1'), (2, '9')) AS n (n, id) ON t.id = n.id
         WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, x) VALUES ('1', 40)",
    ] {
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        place.check(&mut client, &mut Rng::new(1)).unwrap_or_else(|what| panic!("{sql}: {what}"));
    }
}
