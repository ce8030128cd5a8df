//! What listeners of durable changes hear.

use std::time::Duration;

use crdt_live::Cluster;
use crdt_live::expect::expect_error;
use crdt_live::listener::Listener;
use crdt_live::sample;
use postgres::Client;
use serde_json::Value;

use crate::{set, value};

const QUIET: Duration = Duration::from_millis(300);

fn frontier(client: &mut Client) -> Value {
    client.query_one("SELECT crdt.frontier(1)", &[]).unwrap().get(0)
}

/// Listens until doc 1 is told to be where it is now.
fn hear_frontier(listener: &mut Listener, from: usize, client: &mut Client) {
    let now = frontier(client);
    listener.hear(&format!("the frontier {now}"), |l| {
        let mut messages = l.heard[from..].iter().filter(|m| m.channel == "crdt_changes" && m.doc() == 1);
        messages.any(|message| message.payload["frontier"] == now).then_some(())
    });
}

#[test]
fn every_way_to_commit_is_heard() {
    let cluster = Cluster::shared();
    let database = sample::database(cluster, "commits");
    let mut client = cluster.connect(&database);
    // A session of its own prepared it, before anybody listened.
    cluster
        .connect(&database)
        .batch_execute("BEGIN; INSERT INTO t VALUES (100, 'early'); PREPARE TRANSACTION 'early_commits'")
        .unwrap();
    let mut listener = Listener::on(cluster, &database, &["crdt_changes"]);
    listener.listen_for(QUIET);
    for sql in [
        "INSERT INTO t VALUES (1, 'a')",
        "BEGIN; UPDATE t SET v = 'b'; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT",
        "SELECT crdt.push(1, inserts('p', 5, 10, 20))",
        "BEGIN; UPDATE t SET v = 'c'; SELECT crdt.push(1, update('p', 11, 30, 10, 'd')); COMMIT",
        "DO $$ BEGIN INSERT INTO t VALUES (60); COMMIT; INSERT INTO t VALUES (61); COMMIT; END $$",
        "TRUNCATE t",
    ] {
        let (from, before) = (listener.heard.len(), frontier(&mut client));
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        if frontier(&mut client) != before {
            hear_frontier(&mut listener, from, &mut client);
        }
    }
    let from = listener.heard.len();
    client.batch_execute("COMMIT PREPARED 'early_commits'").unwrap();
    hear_frontier(&mut listener, from, &mut client);
}

#[test]
fn what_is_not_committed_is_not_heard() {
    let cluster = Cluster::shared();
    let database = sample::database(cluster, "uncommitted");
    let mut client = cluster.connect(&database);
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    let mut listener = Listener::on(cluster, &database, &["crdt_changes"]);
    listener.listen_for(QUIET);
    let from = listener.heard.len();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2); ROLLBACK").unwrap();
    expect_error(client.batch_execute("INSERT INTO t VALUES (1)"), "23505");
    expect_error(client.batch_execute("BEGIN; INSERT INTO t VALUES (3); SELECT 1/0; COMMIT"), "22012");
    client.batch_execute("ROLLBACK; BEGIN; INSERT INTO t VALUES (4); PREPARE TRANSACTION 'never_commits'").unwrap();
    client.batch_execute("SELECT count(*) FROM t; UPDATE t SET v = 'x' WHERE false").unwrap();
    assert_eq!(listener.listen_for(QUIET).len(), 0, "{:?}", listener.heard.last());
    client.batch_execute("ROLLBACK PREPARED 'never_commits'").unwrap();
    listener.listen_for(QUIET);
    assert!(listener.heard[from..].is_empty(), "{:?}", listener.heard.last());
}

/// What PostgreSQL refuses to prepare it still does, and what it prepares is prepared, whoever listens.
#[test]
fn preparing_beside_listeners() {
    let cluster = Cluster::shared();
    let database = sample::database(cluster, "preparing");
    let mut listener = Listener::on(cluster, &database, &["crdt_changes", "crdt_ephemeral"]);
    let mut client = cluster.connect(&database);
    for statement in ["LISTEN crdt_changes", "LISTEN crdt_ephemeral", "NOTIFY crdt_ephemeral"] {
        client.batch_execute(&format!("BEGIN; {statement}")).unwrap();
        expect_error(client.batch_execute("PREPARE TRANSACTION 'listening'"), "0A000");
        client.batch_execute("ROLLBACK").unwrap();
    }
    // By a session that listens itself, with a register set on the way: it is set before the transaction is prepared.
    let from = listener.heard.len();
    listener.client.batch_execute("BEGIN; INSERT INTO t VALUES (1, 'a')").unwrap();
    set(&mut listener.client, "k", 1);
    listener.client.batch_execute("PREPARE TRANSACTION 'preparing_1'").unwrap();
    assert_eq!(value(&mut client, "k"), 1);
    listener.client.batch_execute("COMMIT PREPARED 'preparing_1'").unwrap();
    hear_frontier(&mut listener, from, &mut client);
    sample::agrees(&mut client);
}

/// After a crash nobody knows who was told of what: everything is announced once.
#[test]
fn every_doc_is_announced_after_a_crash() {
    let cluster = Cluster::start("announce", &["crdt_db.notify_interval=50ms"]);
    let database = sample::database(&cluster, "announce");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(
            "SELECT count(crdt.create_doc('hub', 'doc ' || i)) FROM generate_series(2, 2500) AS i;
             INSERT INTO t VALUES (1, 'a')",
        )
        .unwrap();
    client.batch_execute("BEGIN; UPDATE t SET v = 'b'; PREPARE TRANSACTION 'over'").unwrap();
    cluster.crash();
    cluster.start_again(&[]);
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(&cluster, &database, &["crdt_changes"]);
    let docs = |listener: &mut Listener, from: usize| {
        listener.hear("every doc", |l| {
            let mut docs: Vec<i64> = l.heard[from..].iter().map(|message| message.doc()).collect();
            docs.sort_unstable();
            docs.dedup();
            (docs.len() == 2500).then_some(())
        });
    };
    docs(&mut listener, 0);
    hear_frontier(&mut listener, 0, &mut client);
    // What was prepared before the crash wrote nobody knows where.
    let from = listener.heard.len();
    client.batch_execute("COMMIT PREPARED 'over'").unwrap();
    docs(&mut listener, from);
    hear_frontier(&mut listener, from, &mut client);
}
