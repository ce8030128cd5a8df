//! Ephemeral registers and notifications, against what people use instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fallible_iterator::FallibleIterator;
use postgres::Client;
use serde_json::Value;

use crate::Bench;
use crate::local::pgbench;
use crate::measure::{Cost, Pair, median, turns};
use crate::report::{Line, Unit};

const SET: &str = "\\set k random(1, 1000)\nSELECT crdt.ephemeral_set(1, 'cursors', :k, :position);\n";
const GET: &str = "\\set k random(1, 1000)\nSELECT crdt.ephemeral_get(1, 'cursors', :k);\n";
const SELECT_1: &str = "SELECT 1;\n";
const UPSERT: &str = "\\set k random(1, 1000)\n\
    INSERT INTO cursors VALUES (:k, :position, now()) ON CONFLICT (k) DO UPDATE SET v = excluded.v, at = excluded.at;\n";
const NOTIFY: &str = "\\set k random(1, 1000)\nSELECT pg_notify('cursors', :k);\n";
const POSITION: &str = "position={\"x\":120,\"y\":80}";
/// Clients that keep both ends busy: what a process costs that falls asleep after each statement is its waking up.
const BUSY: usize = 4;
/// Statements of a run.
const STATEMENTS: usize = 60_000;

/// set and get against `SELECT 1`, an UNLOGGED upsert and `pg_notify`.
pub fn registers(bench: &Bench) -> Vec<Line> {
    let database = database(bench);
    let mut costs: [Vec<Cost>; 5] = Default::default();
    let scripts = [SELECT_1, SET, GET, UPSERT, NOTIFY];
    for (_, forward) in turns(bench.options.repeats) {
        // Every second round in the other order.
        let order: Vec<usize> = if forward { (0..5).collect() } else { (0..5).rev().collect() };
        for i in order {
            costs[i].push(run(bench, &database, scripts[i], BUSY, 1));
        }
    }
    let [select, set, get, upsert, notify] = costs;
    let against = |ours: &[Cost], reference: &[Cost]| Pair { ours: ours.to_vec(), reference: reference.to_vec() };
    let beyond = |costs: &[Cost]| median(costs.iter().map(|c| c.cpu)) - median(select.iter().map(|c| c.cpu));
    let line = |what: &str, reference: &'static str, pair: Pair, reach: f64, aim: f64| Line {
        what: what.into(),
        reference,
        measured: Some(pair.cpu_ratio()),
        reach,
        aim,
        unit: Unit::Times,
        detail: pair.detail(),
    };
    vec![
        line("ephemeral_set, prepared", "SELECT 1", against(&set, &select), 1.25, 1.1),
        line("ephemeral_get, prepared", "SELECT 1", against(&get, &select), 1.25, 1.1),
        Line {
            what: "ephemeral_set, prepared, beyond what SELECT 1 costs".into(),
            reference: "UNLOGGED upsert, beyond the same",
            measured: Some(beyond(&set) / beyond(&upsert)),
            reach: 1.0 / 3.0,
            aim: 1.0 / 3.0,
            unit: Unit::Times,
            detail: format!("whole statements: {}", against(&set, &upsert).detail()),
        },
        line("ephemeral_set, prepared", "SELECT pg_notify(...), nobody listening", against(&set, &notify), 1.0, 0.5),
    ]
}

/// The rate of sets while nobody, one, 8 and 64 sessions listen.
pub fn listeners(bench: &Bench) -> Vec<Line> {
    let database = database(bench);
    let counts = [0, 1, 8, 64];
    let mut walls: [Vec<f64>; 4] = Default::default();
    let mut heard = [0; 4];
    for (_, forward) in turns(bench.options.repeats) {
        let order: Vec<usize> = if forward { (0..4).collect() } else { (0..4).rev().collect() };
        for i in order {
            let audience = Audience::new(bench, &database, counts[i]);
            walls[i].push(run(bench, &database, SET, 1, counts[i] + 1).wall);
            heard[i] = audience.leave();
        }
    }
    let rate = |i: usize| (STATEMENTS / bench.options.shrink) as f64 / median(walls[i].iter().copied());
    (1..4)
        .map(|i| Line {
            what: format!("rate of ephemeral_set, one client, {} listening", counts[i]),
            reference: "the same, nobody listening",
            measured: Some(rate(i) / rate(0)),
            reach: 0.8,
            aim: 0.95,
            unit: Unit::Rate,
            detail: format!("{:.0} against {:.0} a second; {} messages heard", rate(i), rate(0), heard[i]),
        })
        .collect()
}

/// From a set to the listener, at 5,000 sets a second.
pub fn latency(bench: &Bench) -> Vec<Line> {
    const RATE: f64 = 5_000.0;
    let database = database(bench);
    let stop = Arc::new(AtomicBool::new(false));
    let mut listener = bench.cluster.connect(&database);
    listener.batch_execute("LISTEN crdt_ephemeral").expect("LISTEN");
    let start = Instant::now();
    let hearing = std::thread::spawn({
        let stop = stop.clone();
        move || hear(&mut listener, &stop, start)
    });
    let mut writer = bench.cluster.connect(&database);
    let set = writer.prepare("SELECT crdt.ephemeral_set(1, 'latency', $1, $2)").expect("prepare");
    let sets = 50_000 / bench.options.shrink;
    let begun = start.elapsed();
    for i in 0..sets {
        let due = begun + Duration::from_secs_f64(i as f64 / RATE);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let sent = Value::from(start.elapsed().as_nanos() as u64);
        writer.query(&set, &[&format!("key{}", i % 1000), &postgres::types::Json(sent)]).expect("ephemeral_set");
    }
    let took = (start.elapsed() - begun).as_secs_f64();
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let mut latencies = hearing.join().expect("the listener");
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    let line = |name: &str, part: f64, reach: f64| Line {
        what: format!("from set to listener, {name}"),
        reference: "notify_interval of 10 ms",
        measured: Some(at(part)),
        reach,
        aim: 10.0,
        unit: Unit::Millis,
        detail: format!("{} heard of {sets} sets, {:.0} a second", latencies.len(), sets as f64 / took),
    };
    vec![line("p50", 0.5, 20.0), line("p99", 0.99, 20.0)]
}

/// What a set costs beside 100,000 live registers, and what memory they take.
pub fn many_keys(bench: &Bench) -> Vec<Line> {
    let keys = 100_000 / bench.options.shrink;
    let (few, many) = (database(bench), database(bench));
    let mut client = bench.cluster.connect(&many);
    let mut pair = Pair::default();
    for (_, ours) in turns(bench.options.repeats) {
        if ours {
            fill(&mut client, keys);
        }
        // The observer and the client above stay.
        pair.push(ours, run(bench, if ours { &many } else { &few }, SET, BUSY, 2));
    }
    fill(&mut client, keys);
    let live = client.query_one("SELECT entries, bytes FROM crdt.stat_ephemeral", &[]).expect("stat_ephemeral");
    let (entries, bytes): (i64, i64) = (live.get(0), live.get(1));
    vec![Line {
        what: format!("ephemeral_set beside {keys} live registers"),
        reference: "the same beside 1,000",
        measured: Some(pair.cpu_ratio()),
        reach: 1.25,
        aim: 1.1,
        unit: Unit::Times,
        detail: format!("{}; {entries} registers take {bytes} bytes", pair.detail()),
    }]
}

fn fill(client: &mut Client, keys: usize) {
    let sql = "SELECT count(crdt.ephemeral_set(1, 'live', 'key' || i, '{\"x\":120,\"y\":80}', ttl => '1 hour')) \
               FROM generate_series(1, $1::bigint) AS i";
    client.query_one(sql, &[&(keys as i64)]).expect("live registers");
}

fn database(bench: &Bench) -> String {
    let database = bench.cluster.create_database("ephemeral");
    let mut client = bench.cluster.connect(&database);
    let tables = "CREATE UNLOGGED TABLE cursors (k text PRIMARY KEY, v jsonb, at timestamptz); \
                  SELECT crdt.create_doc('hub', 'cursors')";
    client.batch_execute(tables).expect("a doc and a table");
    database
}

/// `others`: sessions that stay connected meanwhile, the observer among them.
fn run(bench: &Bench, database: &str, script: &str, clients: usize, others: usize) -> Cost {
    pgbench(bench, database, script, clients, STATEMENTS / bench.options.shrink, &["-D", POSITION], others)
}

/// Sessions that listen, each on a thread.
struct Audience {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<usize>>,
}

impl Audience {
    fn new(bench: &Bench, database: &str, count: usize) -> Audience {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients: Vec<Client> = (0..count).map(|_| bench.cluster.connect(database)).collect();
        clients.iter_mut().for_each(|client| client.batch_execute("LISTEN crdt_ephemeral").expect("LISTEN"));
        let listen = |mut client: Client| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut heard = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut messages = client.notifications();
                    let mut messages = messages.timeout_iter(Duration::from_millis(200));
                    while messages.next().expect("a connection").is_some() {
                        heard += 1;
                    }
                }
                heard
            })
        };
        let threads = clients.into_iter().map(listen).collect();
        Audience { stop, threads }
    }

    /// How many messages were heard, by all together.
    fn leave(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("a listener")).sum()
    }
}

/// Milliseconds from each set that was heard of to its message.
fn hear(listener: &mut Client, stop: &AtomicBool, start: Instant) -> Vec<f64> {
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut messages = listener.notifications();
        let mut messages = messages.timeout_iter(Duration::from_millis(50));
        while let Some(message) = messages.next().expect("a connection") {
            let now = start.elapsed();
            let message: Value = serde_json::from_str(message.payload()).expect("JSON");
            for entry in message["entries"]["latency"].as_object().into_iter().flat_map(|keys| keys.values()) {
                let sent = Duration::from_nanos(entry["value"].as_u64().expect("when it was sent"));
                latencies.push((now - sent).as_secs_f64() * 1_000.0);
            }
        }
    }
    latencies
}
