//! The background worker is killed, cannot start, or cannot send. Writers notice nothing, and nobody misses the latest value.

use std::time::{Duration, Instant};

use crdt_live::Cluster;
use crdt_live::listener::Listener;
use crdt_live::session::wait_until;
use serde_json::json;

use crate::{count, database, set, value, worker};

/// Longer than a set takes on a busy machine, shorter than anything that waits.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn a_worker_that_is_terminated_comes_back() {
    let cluster = Cluster::shared();
    let database = database(cluster, "terminated");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    set(&mut client, "k", 0);
    listener.hear_value(1, "ns", "k", &json!(0));
    for i in 1..=5 {
        let pid = worker(&mut client).expect("a worker");
        let sql = format!("SELECT {}({pid})", if i == 5 { "pg_cancel_backend" } else { "pg_terminate_backend" });
        client.batch_execute(&sql).unwrap();
        set(&mut client, "k", i);
        listener.hear_value(1, "ns", "k", &json!(i));
        if i < 5 {
            wait_until("another worker", || worker(&mut client).is_some_and(|other| other != pid));
        }
    }
    // Nobody writes any more: what was set while there was no worker is told all the same.
    let pid = worker(&mut client).expect("a worker");
    let sql = "SELECT pg_terminate_backend($1, 10000)";
    client.execute(sql, &[&(pid as i32)]).unwrap();
    set(&mut client, "k", 100);
    listener.hear_value(1, "ns", "k", &json!(100));
}

#[test]
fn without_a_free_worker_slot_writers_go_on() {
    let cluster = Cluster::start("slots", &["max_worker_processes=1", "max_logical_replication_workers=0"]);
    let [first, second] = ["first", "second"].map(|name| database(&cluster, name));
    let mut occupant = Listener::on(&cluster, &first, &["crdt_ephemeral"]);
    set(&mut occupant.client, "k", 1);
    occupant.hear_value(1, "ns", "k", &json!(1));
    let mut client = cluster.connect(&second);
    let mut listener = Listener::on(&cluster, &second, &["crdt_ephemeral", "crdt_changes"]);
    let begun = Instant::now();
    for i in 0..1_500 {
        set(&mut client, "k", i);
        if i % 500 == 0 {
            // The next attempt is made a second after the last one.
            std::thread::sleep(Duration::from_millis(1_100));
        }
    }
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT crdt.track('t', 1); INSERT INTO t VALUES (1)")
        .unwrap();
    assert!(begun.elapsed() < 15 * AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!((worker(&mut client), value(&mut client, "k")), (None, json!(1_499)));
    assert_eq!(listener.listen_for(Duration::from_millis(200)).len(), 0);
    // The slot becomes free: the next writer has a worker started, which tells what was not told.
    drop(occupant);
    cluster.connect("postgres").batch_execute(&format!("DROP DATABASE {first} WITH (FORCE)")).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    set(&mut client, "other", 1);
    listener.hear_value(1, "ns", "k", &json!(1_499));
    listener.hear("the commit", |l| l.heard.iter().any(|m| m.channel == "crdt_changes" && m.doc() == 1).then_some(()));
}

/// A listener that reads nothing from its connection: its own process stops at some time, and nobody else.
#[test]
fn a_listener_that_does_not_read_holds_nobody_up() {
    let cluster = Cluster::shared();
    let database = database(cluster, "deaf");
    let deaf = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    let mut client = cluster.connect(&database);
    let large = "v".repeat(7_000);
    for i in 0..400 {
        let begun = Instant::now();
        set(&mut client, "k", format!("{i} {large}"));
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        if i % 4 == 0 {
            listener.hear_value(1, "ns", "k", &json!(format!("{i} {large}")));
        }
    }
    set(&mut client, "k", "last");
    listener.hear_value(1, "ns", "k", &json!("last"));
    assert_eq!(count(&mut client, "failures"), 0);
    drop(deaf);
}

/// A listener in an open transaction keeps the queue of notifications from being emptied. Before PostgreSQL 17 the queue has
/// 8 GB and is not filled in a test: there only that nobody is held up is tested.
#[test]
fn a_full_queue_of_notifications_holds_nobody_up() {
    let small = std::env::var("CRDT_PG").is_ok_and(|major| major.parse::<u32>().is_ok_and(|major| major >= 17));
    let cluster = Cluster::start("queue", if small { &["max_notify_queue_pages=64"] } else { &[] });
    let database = database(&cluster, "queue");
    let mut stalled = Listener::on(&cluster, &database, &["crdt_ephemeral"]);
    let mut listener = Listener::on(&cluster, &database, &["crdt_ephemeral"]);
    stalled.client.batch_execute("BEGIN; SELECT 1").unwrap();
    let mut client = cluster.connect(&database);
    let large = "v".repeat(7_000);
    // 64 pages of 8 kB hold fewer than this.
    for i in 0..200 {
        let begun = Instant::now();
        set(&mut client, "k", format!("{i} {large}"));
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        if !small || i < 30 {
            listener.hear_value(1, "ns", "k", &json!(format!("{i} {large}")));
        } else {
            std::thread::sleep(Duration::from_millis(12));
        }
    }
    if small {
        wait_until("a batch that cannot be sent", || count(&mut client, "failures") > 0);
        let failures = count(&mut client, "failures");
        assert!(cluster.log().contains("too many notifications in the NOTIFY queue"));
        for i in 0..2_000 {
            let begun = Instant::now();
            set(&mut client, "k", i);
            assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        }
        assert!(count(&mut client, "failures") < failures + 10, "it is not tried again and again");
    }
    set(&mut client, "k", "last");
    stalled.client.batch_execute("COMMIT").unwrap();
    listener.hear_value(1, "ns", "k", &json!("last"));
    assert_eq!(small, count(&mut client, "failures") > 0);
}

/// With the extension's table locked the worker waits, and nobody else.
#[test]
fn a_worker_that_waits_for_a_lock_holds_nobody_up() {
    let cluster = Cluster::shared();
    let database = database(cluster, "locked");
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    let mut client = cluster.connect(&database);
    set(&mut client, "k", 1);
    listener.hear_value(1, "ns", "k", &json!(1));
    let mut locker = cluster.connect(&database);
    // What stands in the worker's way and not in the writers': they have the doc in their cache.
    locker.batch_execute("BEGIN; LOCK crdt.doc IN ACCESS EXCLUSIVE MODE").unwrap();
    for i in 0..200 {
        let begun = Instant::now();
        set(&mut client, "k", i);
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
    locker.batch_execute("ROLLBACK").unwrap();
    listener.hear_value(1, "ns", "k", &json!(199));
}
