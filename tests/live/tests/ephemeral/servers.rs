//! Restart, crash, standby; and what is written to the write-ahead log.

use std::time::Duration;

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::listener::Listener;
use crdt_live::session::wait_until;
use postgres::Client;
use serde_json::{Value, json};

use crate::{count, database, set, value};

fn since(client: &mut Client, position: i64) -> Value {
    client.query_one("SELECT crdt.ephemeral_since(1, $1)", &[&position]).unwrap().get(0)
}

#[test]
fn a_restart_empties_and_a_position_of_before_is_known_as_such() {
    let cluster = Cluster::start("epochs", &[]);
    let database = database(&cluster, "epochs");
    let mut position = 0;
    for round in 0..3 {
        let mut client = cluster.connect(&database);
        let answer = since(&mut client, position);
        assert_eq!((&answer["reset"], &answer["entries"]), (&json!(true), &json!({})), "round {round}");
        let now = answer["position"].as_i64().unwrap();
        assert!(now > position, "positions grow from one start to the next");
        assert_eq!(value(&mut client, "k"), Value::Null);
        assert_eq!(count(&mut client, "entries"), 0);
        set(&mut client, "k", round);
        let answer = since(&mut client, now);
        assert_eq!((&answer["reset"], &answer["entries"]["ns"]["k"]["value"]), (&Value::Null, &json!(round)));
        position = answer["position"].as_i64().unwrap();
        match round {
            0 => cluster.restart(),
            1 => cluster.restart_immediately(),
            _ => {}
        }
    }
}

#[test]
fn a_standby_has_registers_of_its_own() {
    let cluster = Cluster::start("primary", &[]);
    let database = database(&cluster, "primary");
    let standby = cluster.copy("standby");
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    standby.start_again(&[&format!("primary_conninfo={}", cluster.conninfo()), "hot_standby_feedback=on"]);
    let mut client = standby.connect(&database);
    assert_eq!(rows(&mut client, "SELECT pg_is_in_recovery()"), ["t"]);
    expect_error(client.batch_execute("LISTEN crdt_ephemeral"), "25006");
    expect_error(client.batch_execute("LISTEN crdt_changes"), "25006");
    set(&mut client, "k", 1);
    client
        .batch_execute(
            "BEGIN READ ONLY; SELECT crdt.ephemeral_set(1, 'ns', 'k', '2'); COMMIT;
             SELECT crdt.ephemeral_merge(1, '{\"ns\": {\"m\": {\"value\": 1, \"timestamp\": 1, \"peer\": \"p\"}}}');
             SELECT crdt.ephemeral_set(1, 'ns', 'gone', '1', ttl => '100 ms'), crdt.ephemeral_remove(1, 'ns', 'm');
             SELECT crdt.presence_set(1, 'ann', 'tab', '1'), crdt.presence(1), crdt.ephemeral_since(1, NULL);
             SELECT * FROM crdt.ephemeral; SELECT crdt.ephemeral_get_all(1, 'ns'); SELECT crdt.stat_ephemeral_reset()",
        )
        .unwrap();
    assert_eq!((value(&mut client, "k"), value(&mut client, "m")), (json!(2), Value::Null));
    assert_eq!(value(&mut cluster.connect(&database), "k"), Value::Null, "the primary has its own");
    // Nobody can listen, so nobody is told, and nothing fails over and over.
    let counts = "SELECT ephemeral_listeners, changes_listeners, failures, worker_pid FROM crdt.stat_ephemeral";
    std::thread::sleep(Duration::from_millis(1_200));
    set(&mut client, "k", 3);
    assert_eq!(rows(&mut client, counts), ["0|0|0|<null>"]);
    assert!(!standby.log().contains("could not notify"), "{}", standby.log());
    // A database that is dropped on the primary goes here too.
    let other = crate::database(&cluster, "passing");
    wait_until("the other database", || standby.config(&other).connect(postgres::NoTls).is_ok());
    wait_until("its doc", || {
        standby.connect(&other).batch_execute("SELECT crdt.ephemeral_set(1, 'ns', 'k', '1')").is_ok()
    });
    cluster.connect("postgres").batch_execute(&format!("DROP DATABASE {other}")).unwrap();
    wait_until("the other database to go", || standby.config(&other).connect(postgres::NoTls).is_err());
    // Promoted, it keeps what it has, and listeners hear.
    client.batch_execute("SELECT pg_promote()").unwrap();
    assert_eq!(value(&mut client, "k"), 3);
    let mut listener = Listener::on(&standby, &database, &["crdt_ephemeral"]);
    set(&mut client, "k", 4);
    listener.hear_value(1, "ns", "k", &json!(4));
}

/// Nobody else writes on this cluster.
#[test]
fn registers_write_nothing_to_the_log() {
    const SETS: i64 = 100_000;
    let cluster = Cluster::start("quiet", &["wal_level=minimal", "max_wal_senders=0", "autovacuum=off"]);
    let database = database(&cluster, "quiet");
    let mut client = cluster.connect(&database);
    // One statement and so one snapshot each, committed one by one, as clients do it; the sets of a statement are as many calls.
    let many = format!(
        "SELECT count(crdt.ephemeral_set(1, 'ns', (i % 1000)::text, to_jsonb(i))) FROM generate_series(1, {}) AS i",
        SETS - 1_000
    );
    let written = |client: &mut Client, work: &mut dyn FnMut(&mut Client)| {
        let position = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
        let at = |client: &mut Client| client.query_one(position, &[]).unwrap().get::<_, i64>(0);
        let before = at(client);
        work(client);
        at(client) - before
    };
    // What a session reads of the catalogs for the first time it may tidy up, which is logged.
    client.batch_execute(&many).unwrap();
    set(&mut client, "one by one", 0);
    let mut all = |client: &mut Client| {
        client.batch_execute(&many).unwrap();
        (0..1_000).for_each(|i| set(client, "one by one", i));
    };
    assert_eq!(written(&mut client, &mut all), 0, "bytes for {SETS} sets");
    assert!(count(&mut client, "sets") >= SETS);
    let mut others = |client: &mut Client| {
        let sql = "SELECT crdt.ephemeral_remove(1, 'ns', '1'), crdt.ephemeral_get_all(1, 'ns'), crdt.ephemeral_since(1, 0);
                   SELECT crdt.ephemeral_clear(1); SELECT * FROM crdt.stat_ephemeral; SELECT crdt.stat_ephemeral_reset()";
        client.batch_execute(sql).unwrap();
    };
    others(&mut client);
    assert_eq!(written(&mut client, &mut others), 0);

    // With a listener each batch is a transaction that notifies: PostgreSQL gives it an id and logs its commit.
    let mut listener = Listener::on(&cluster, &database, &["crdt_ephemeral"]);
    let mut heard = |client: &mut Client| {
        client.batch_execute(&many).unwrap();
        set(client, "k", "last");
        listener.hear_value(1, "ns", "k", &json!("last"));
    };
    let bytes = written(&mut client, &mut heard);
    let (notifications, batches) = (listener.heard.len(), bytes / 34);
    eprintln!("{bytes} bytes of log for {SETS} sets with a listener, who heard {notifications} messages");
    assert!(bytes > 0 && batches <= notifications as i64 * 20, "{bytes} bytes for {notifications} messages");
}
