//! Part 3: two people move their cursors over a doc, and a third session hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crdt_live::Cluster;
use fallible_iterator::FallibleIterator;
use postgres::Client;
use serde_json::Value;

use crate::show::{self, Progress, number};

const SECONDS: u64 = 3;
/// How often a cursor moves.
const MOVE: Duration = Duration::from_millis(4);
/// Messages shown as they came.
const SHOWN: usize = 4;

/// Shows it.
pub fn show(cluster: &Cluster) {
    show::part("Part 3. Cursors and presence: registers in memory, and who hears of them");
    let database = cluster.create_database("cursors");
    let mut client = cluster.connect(&database);
    let doc: i64 = client.query_one("SELECT crdt.create_doc('hub', 'drawing')", &[]).expect("a doc").get(0);
    show::text(
        "Ann and Bob move their cursors over one drawing. Each move is an ephemeral register set in shared memory: last \
         writer wins, no row, no WAL. A third session listens.",
    );
    let heard = play(cluster, &database, doc);
    tell(&heard);
    leave(cluster, &database, doc);
    counters(&mut client);
}

/// What the listener heard: when, and what.
struct Heard {
    messages: Vec<(Duration, Value)>,
    moves: u64,
    wal: i64,
}

fn play(cluster: &Cluster, database: &str, doc: i64) -> Heard {
    show::step("two cursors move");
    show::typed("LISTEN crdt_ephemeral;");
    show::typed(&format!("SELECT crdt.ephemeral_set({doc}, 'cursors', 'ann', '{{\"x\": 120, \"y\": 80}}');"));
    let stop = Arc::new(AtomicBool::new(false));
    let mut listener = cluster.connect(database);
    listener.batch_execute("LISTEN crdt_ephemeral").expect("LISTEN");
    let wal = |client: &mut Client| -> i64 {
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        client.query_one(sql, &[]).expect("the WAL's end").get(0)
    };
    let mut observer = cluster.connect(database);
    let before = wal(&mut observer);
    let start = Instant::now();
    let hearing = std::thread::spawn({
        let stop = stop.clone();
        move || hear(&mut listener, &stop, start)
    });
    let people = ["ann", "bob"].map(|name| {
        let client = cluster.connect(database);
        std::thread::spawn(move || move_about(client, doc, name))
    });
    let mut progress = Progress::new("moving:", SECONDS * 1000);
    while start.elapsed() < Duration::from_secs(SECONDS) {
        progress.at(start.elapsed().as_millis() as u64, "");
        std::thread::sleep(Duration::from_millis(100));
    }
    progress.done();
    let moves = people.into_iter().map(|person| person.join().expect("somebody who moves")).sum();
    std::thread::sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    Heard { messages: hearing.join().expect("the listener"), moves, wal: wal(&mut observer) - before }
}

/// A cursor on its way around. Returns how often it moved.
fn move_about(mut client: Client, doc: i64, name: &str) -> u64 {
    let set =
        "SELECT crdt.ephemeral_set($1, 'cursors', $2, jsonb_build_object('x', $3::int, 'y', $4::int), peer => $2)";
    let set = client.prepare(set).expect("prepare");
    let start = Instant::now();
    let mut moves = 0;
    while start.elapsed() < Duration::from_secs(SECONDS) {
        let angle = start.elapsed().as_secs_f64() * if name == "ann" { 2.0 } else { -3.0 };
        let (x, y) = ((200.0 + 100.0 * angle.cos()) as i32, (200.0 + 100.0 * angle.sin()) as i32);
        client.query(&set, &[&doc, &name, &x, &y]).expect("ephemeral_set");
        moves += 1;
        std::thread::sleep(MOVE);
    }
    moves
}

fn hear(listener: &mut Client, stop: &AtomicBool, start: Instant) -> Vec<(Duration, Value)> {
    let mut heard = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut messages = listener.notifications();
        let mut messages = messages.timeout_iter(Duration::from_millis(50));
        while let Some(message) = messages.next().expect("a connection") {
            heard.push((start.elapsed(), serde_json::from_str(message.payload()).expect("JSON")));
        }
    }
    heard
}

fn tell(heard: &Heard) {
    show::text("What the listener heard, the first few as they came:");
    for (at, message) in heard.messages.iter().take(SHOWN) {
        let cursors = message["entries"]["cursors"].as_object().expect("cursors");
        let cursor = |(name, entry): (&String, &Value)| {
            let event = message["events"]["cursors"][name].as_str().expect("an event");
            format!("{name} {event} at ({}, {})", entry["value"]["x"], entry["value"]["y"])
        };
        show::answered(&format!(
            "{:>7.1} ms   {}",
            at.as_secs_f64() * 1000.0,
            cursors.iter().map(cursor).collect::<Vec<_>>().join(", ")
        ));
    }
    show::text(&format!(
        "{} moves in {SECONDS} seconds, told in {} messages: what changes within a tick of 10 ms is told together. The database \
         wrote {} bytes of WAL meanwhile, for the commits of the notifying worker; a set itself writes none.",
        number(heard.moves),
        number(heard.messages.len() as u64),
        number(heard.wal.max(0) as u64),
    ));
    let joins = heard.messages.iter().flat_map(|(_, m)| m["events"]["cursors"].as_object().into_iter().flatten());
    let joins = joins.filter(|(_, event)| *event == "join").count();
    show::check(
        "both were seen to join once, and heard of in fewer messages than moves",
        joins == 2 && (heard.messages.len() as u64) < heard.moves,
    );
}

/// Presence: two sessions of one person, of which one leaves and the other is not renewed.
fn leave(cluster: &Cluster, database: &str, doc: i64) {
    show::step("who is here");
    let mut client = cluster.connect(database);
    let mut listener = cluster.connect(database);
    listener.batch_execute("LISTEN crdt_ephemeral").expect("LISTEN");
    let statements = [
        format!("SELECT crdt.presence_set({doc}, 'ann', 'laptop', '{{\"doing\": \"drawing\"}}', '1 s')"),
        format!("SELECT crdt.presence_set({doc}, 'ann', 'phone', '{{\"doing\": \"looking\"}}', '1 s')"),
        format!("SELECT crdt.presence_remove({doc}, 'ann', 'phone')"),
    ];
    for statement in &statements {
        show::typed(&format!("{statement};"));
        client.batch_execute(statement).expect("presence");
        std::thread::sleep(Duration::from_millis(50));
    }
    show::typed(&format!("SELECT crdt.presence({doc});"));
    let here: Value = client.query_one("SELECT crdt.presence($1)", &[&doc]).expect("presence").get(0);
    show::answered(&here.to_string());
    let start = Instant::now();
    let mut events = Vec::new();
    while start.elapsed() < Duration::from_secs(10)
        && events.iter().filter(|e: &&String| e.ends_with("leave")).count() < 2
    {
        let mut messages = listener.notifications();
        let mut messages = messages.timeout_iter(Duration::from_millis(50));
        while let Some(message) = messages.next().expect("a connection") {
            let message: Value = serde_json::from_str(message.payload()).expect("JSON");
            let here = message["events"]["presence"].as_object().into_iter().flatten();
            events.extend(here.map(|(session, event)| format!("{session} {}", event.as_str().expect("an event"))));
        }
    }
    show::text(&format!("The listener heard: {}.", events.join(", ")));
    show::check(
        "one session left, the other was not renewed and left a second later",
        events == ["ann/laptop join", "ann/phone join", "ann/phone leave", "ann/laptop leave"],
    );
}

fn counters(client: &mut Client) {
    show::step("the counters");
    let names = ["entries", "bytes", "sets", "losses", "expiries", "notifications", "lag_us", "longest_lag_us"];
    show::typed(&format!("SELECT {} FROM crdt.stat_ephemeral;", names.join(", ")));
    let row = client.query_one(&format!("SELECT {} FROM crdt.stat_ephemeral", names.join(", ")), &[]).expect("a line");
    let values = (0..names.len()).map(|i| row.get::<_, i64>(i).to_string()).collect();
    show::table(&names, &[values]);
}
