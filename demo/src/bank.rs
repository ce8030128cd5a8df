//! Part 2: pgbench's own tables, followed by a second database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crdt_live::Cluster;

use crate::hub::Hub;
use crate::show::{self, Progress, number, rate, seconds, size};

const SECONDS: u64 = 10;
const CLIENTS: &str = "4";
/// How often the second bank asks the first.
const TICK: Duration = Duration::from_millis(200);
/// Table, key, the other columns, the balance.
const TABLES: [(&str, &str, &[&str], &str); 4] = [
    ("pgbench_accounts", "aid", &["bid", "abalance", "filler"], "abalance"),
    ("pgbench_tellers", "tid", &["bid", "tbalance", "filler"], "tbalance"),
    ("pgbench_branches", "bid", &["bbalance", "filler"], "bbalance"),
    ("pgbench_history", "id", &["tid", "bid", "aid", "delta", "mtime", "filler"], "delta"),
];

/// Shows it.
pub fn show(cluster: &Cluster) {
    show::part("Part 2. pgbench's bank, and a second database that follows it");
    let (mut first, mut second) = (Hub::create(cluster, "bank1"), Hub::create(cluster, "bank2"));
    create_tables(cluster, &mut first, &mut second);
    track(&mut first, true);
    track(&mut second, false);
    copy_all(&mut first, &mut second);
    let (first, mut second) = run(cluster, first, second);
    compare(first, &mut second);
}

fn create_tables(cluster: &Cluster, first: &mut Hub, second: &mut Hub) {
    show::step("two databases");
    cluster.run("pgbench", &["-i", "-q", "-s", "1", &first.database]);
    cluster.run("pgbench", &["-i", "-q", "-s", "1", "-I", "dtp", &second.database]);
    show::text("Database bank1: pgbench -i -s 1, 100,000 accounts. Database bank2: the same tables, empty.");
}

/// `crdt.track` of all four tables; the last one needs a key first.
fn track(hub: &mut Hub, show_refusal: bool) {
    if show_refusal {
        show::step("tracking pgbench's tables");
        refusal(hub);
    }
    let add = "ALTER TABLE pgbench_history ADD COLUMN id uuid DEFAULT gen_random_uuid() PRIMARY KEY";
    hub.client.batch_execute(add).expect("a key for pgbench_history");
    let start = Instant::now();
    for (table, ..) in TABLES {
        hub.client.execute(&format!("SELECT crdt.track('{table}', $1)"), &[&hub.doc]).expect("crdt.track");
    }
    if show_refusal {
        show::text("As the hint says, it gets a key; pgbench does not mind. Then all four are tracked:");
        show::typed(&format!("{add};"));
        show::typed(&format!(
            "SELECT crdt.track(t, {}) FROM unnest('{{pgbench_accounts,...}}'::regclass[]) AS t;",
            hub.doc
        ));
        show::answered(&format!("the rows that are there become history: {}", seconds(start.elapsed())));
    }
}

fn refusal(hub: &mut Hub) {
    show::text("pgbench_history has no primary key. crdt_db refuses it, and says what to do:");
    show::typed("SELECT crdt.track('pgbench_history');");
    let error = hub.client.execute("SELECT crdt.track('pgbench_history')", &[]).expect_err("a refusal");
    let error = error.as_db_error().expect("an error of the server");
    show::answered(&format!("ERROR:  {}: {}", error.code().code(), error.message()));
    show::answered(&format!("HINT:  {}", error.hint().unwrap_or("none")));
    println!();
}

/// What stood in the first bank before the second one follows it.
fn copy_all(first: &mut Hub, second: &mut Hub) {
    show::step("the second database gets what is there");
    let total = first.number("SELECT sum(counter_end - counter_start + 1)::bigint FROM crdt.event_run");
    let mut progress = Progress::new("first copy:", total);
    let (events, bytes) = second.fetch_from(first, |events| progress.at(events, &number(events)));
    let time = progress.done();
    show::text(&format!(
        "{} events, {} on the wire, pulled from bank1 and pushed into bank2 in {}: {} events/s. (pgbench fills its rows with \
         numbers in a row and equal values: columns that take next to nothing.)",
        number(events),
        size(bytes),
        seconds(time),
        rate(events, time),
    ));
}

struct Followed {
    events: u64,
    bytes: u64,
    rounds: u64,
    slowest: Duration,
}

/// pgbench on the first, while the second follows.
fn run(cluster: &Cluster, mut first: Hub, second: Hub) -> (Hub, Hub) {
    show::step("bank1 at work, and bank2 follows");
    let stop = Arc::new(AtomicBool::new(false));
    let follower = follow(cluster, &first, second, stop.clone());
    let load = cluster.command("pgbench");
    let time = SECONDS.to_string();
    let start = Instant::now();
    let pgbench = std::thread::spawn({
        let mut load = load;
        let database = first.database.clone();
        move || load.args(["-n", "-c", CLIENTS, "-T", &time, "-M", "prepared", &database]).output().expect("pgbench")
    });
    let mut progress = Progress::new("pgbench:", SECONDS * 1000);
    while !pgbench.is_finished() {
        progress.at((start.elapsed().as_millis() as u64).min(SECONDS * 1000), "");
        std::thread::sleep(Duration::from_millis(100));
    }
    progress.done();
    let output = pgbench.join().expect("pgbench");
    let (took, ended) = (start.elapsed(), Instant::now());
    assert!(output.status.success(), "pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    stop.store(true, Ordering::Relaxed);
    let (second, followed) = follower.join().expect("the follower");
    let transactions = first.number("SELECT count(*) FROM pgbench_history");
    show::text(&format!(
        "pgbench -c {CLIENTS} -T {SECONDS}, its standard transaction (three UPDATEs, one SELECT, one INSERT): {} transactions, \
         {}/s. bank2 asked bank1 {} times, every {} ms, and took {} events ({} on the wire); its slowest round took {}. \
         When pgbench ended, bank2 was even {} later.",
        number(transactions),
        rate(transactions, took),
        number(followed.rounds),
        TICK.as_millis(),
        number(followed.events),
        size(followed.bytes),
        seconds(followed.slowest),
        seconds(ended.elapsed()),
    ));
    (first, second)
}

/// The second bank's loop, on a thread of its own: until told to stop, and then once more.
fn follow(
    cluster: &Cluster,
    first: &Hub,
    mut second: Hub,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<(Hub, Followed)> {
    let client = cluster.connect(&first.database);
    let mut source = Hub { name: first.name, database: first.database.clone(), client, doc: first.doc };
    std::thread::spawn(move || {
        let mut followed = Followed { events: 0, bytes: 0, rounds: 0, slowest: Duration::ZERO };
        loop {
            let last = stop.load(Ordering::Relaxed);
            let start = Instant::now();
            let (events, bytes) = second.fetch_from(&mut source, |_| {});
            followed.events += events;
            followed.bytes += bytes;
            followed.rounds += 1;
            followed.slowest = followed.slowest.max(start.elapsed());
            if last {
                return (second, followed);
            }
            std::thread::sleep(TICK.saturating_sub(start.elapsed()));
        }
    })
}

fn compare(mut first: Hub, second: &mut Hub) {
    show::step("equal balances");
    let mut rows = vec![];
    let (mut equal, mut sums) = (true, vec![]);
    for (table, key, columns, balance) in TABLES {
        let columns: Vec<String> = columns.iter().map(|c| (*c).to_owned()).collect();
        let texts = [&mut first, &mut *second].map(|hub| hub.table_text(table, key, &columns, &[]));
        equal &= texts[0] == texts[1];
        for (hub, text) in [&mut first, &mut *second].into_iter().zip(&texts) {
            let sum = format!("SELECT coalesce(sum({balance}), 0)::bigint FROM {table}");
            let sum = hub.client.query_one(&sum, &[]).expect("a sum").get::<_, i64>(0);
            sums.push(sum);
            let count = number(text.lines().count() as u64);
            rows.push(vec![table.to_owned(), hub.name.to_owned(), count, sum.to_string(), hub.md5(text)]);
        }
    }
    show::table(&["table", "database", "rows", "sum of balances", "md5 of the table, sorted by key"], &rows);
    show::check("every table is equal in both databases", equal);
    show::check("accounts, tellers, branches and history sum up to the same", sums.iter().all(|s| *s == sums[0]));
    let (mut found, mut progress) = (vec![], Progress::new("crdt.verify:", 2 * TABLES.len() as u64));
    for (i, hub) in [&mut first, second].into_iter().enumerate() {
        for (j, (table, ..)) in TABLES.iter().enumerate() {
            progress.at((i * TABLES.len() + j) as u64, table);
            found.extend(hub.differences(table));
        }
    }
    progress.done();
    show::none("crdt.verify finds no difference between table and log, in either", &found);
}
