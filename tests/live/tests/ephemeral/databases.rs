//! Several databases; databases and the extension come, go and change names while workers are connected.

use std::time::{Duration, Instant};

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::listener::{Listener, Message};
use crdt_live::session::wait_until;
use postgres::Client;
use serde_json::{Value, json};

use crate::{database, set, value, worker};

#[test]
fn two_databases_see_nothing_of_each_other() {
    let cluster = Cluster::shared();
    let names = ["this", "that"].map(|name| database(cluster, name));
    let mut clients = names.each_ref().map(|name| cluster.connect(name));
    let mut listeners = names.each_ref().map(|name| Listener::on(cluster, name, &["crdt_ephemeral", "crdt_changes"]));
    // The same docs, namespaces and keys, in turns.
    for round in 0..20 {
        for (i, client) in clients.iter_mut().enumerate() {
            set(client, "k", format!("{i} {round}"));
            set(client, &format!("{i}"), round);
        }
    }
    for (i, (client, listener)) in clients.iter_mut().zip(&mut listeners).enumerate() {
        listener.hear_value(1, "ns", "k", &json!(format!("{i} 19")));
        listener.hear_value(1, "ns", &format!("{i}"), &json!(19));
        let all: Value = client.query_one("SELECT crdt.ephemeral_get_all(1, 'ns')", &[]).unwrap().get(0);
        assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), [&i.to_string(), "k"]);
        assert_eq!(rows(client, "SELECT key FROM crdt.ephemeral ORDER BY key"), [&i.to_string(), "k"]);
        assert_eq!(rows(client, "SELECT entries, sets, ephemeral_listeners FROM crdt.stat_ephemeral"), ["2|40|1"]);
        let since: Value = client.query_one("SELECT crdt.ephemeral_since(1, NULL)", &[]).unwrap().get(0);
        assert_eq!(since["entries"]["ns"], all);
    }
    clients[0].batch_execute("SELECT crdt.ephemeral_clear(1)").unwrap();
    assert_eq!(value(&mut clients[1], "k"), "1 19");
    let hears_k_go =
        |listener: &Listener| listener.heard.iter().any(|m| m.event("ns", "k").is_some_and(|e| e.0 == "leave"));
    listeners[0].hear("the clear", |listener| hears_k_go(listener).then_some(()));
    for (i, listener) in listeners.iter_mut().enumerate() {
        let other = (1 - i).to_string();
        listener.listen_for(Duration::from_millis(200));
        assert_eq!(hears_k_go(listener), i == 0, "the clear, in one of them");
        assert!(listener.heard.iter().all(|m| m.event("ns", &other).is_none()), "{i} heard of the other one");
    }
}

/// All of these want nobody connected to the database, not even a worker: one stays for a while when its listeners leave.
#[test]
fn a_database_is_renamed_copied_moved_and_dropped_beside_its_worker() {
    let cluster = Cluster::shared();
    let name = database(cluster, "moving");
    let mut admin = cluster.connect("postgres");
    let leave_a_worker = |database: &str, expected: Value| {
        let mut listener = Listener::on(cluster, database, &["crdt_ephemeral"]);
        let mut client = cluster.connect(database);
        assert_eq!(value(&mut client, "k"), expected);
        set(&mut client, "seen by", database);
        listener.hear_value(1, "ns", "seen by", &json!(database));
        assert!(worker(&mut client).is_some());
    };
    let mut client = cluster.connect(&name);
    client.batch_execute("SELECT crdt.ephemeral_set(1, 'ns', 'k', '7', ttl => '1 hour')").unwrap();
    let oid = rows(&mut client, "SELECT oid FROM pg_database WHERE datname = current_database()").remove(0);
    drop(client);
    admin.batch_execute("SET allow_in_place_tablespaces = on").unwrap();
    admin.batch_execute("CREATE TABLESPACE moving LOCATION ''").unwrap();

    leave_a_worker(&name, json!(7));
    let begun = Instant::now();
    admin.batch_execute(&format!("ALTER DATABASE {name} RENAME TO {name}_renamed")).unwrap();
    leave_a_worker(&format!("{name}_renamed"), json!(7));
    admin.batch_execute(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}_renamed")).unwrap();
    // The copy is a database of its own, and its registers are.
    leave_a_worker(&format!("{name}_copy"), Value::Null);
    leave_a_worker(&format!("{name}_renamed"), json!(7));
    admin.batch_execute(&format!("ALTER DATABASE {name}_renamed SET TABLESPACE moving")).unwrap();
    leave_a_worker(&format!("{name}_renamed"), json!(7));
    admin.batch_execute(&format!("DROP DATABASE {name}_renamed")).unwrap();
    admin.batch_execute(&format!("DROP DATABASE {name}_copy")).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(40), "nothing waits for a worker: {:?}", begun.elapsed());
    admin.batch_execute("DROP TABLESPACE moving").unwrap();
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE datid = {oid}");
    assert_eq!(rows(&mut admin, &left), ["0"]);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

/// Such a statement that fails leaves everything as it was: the worker comes back.
#[test]
fn a_database_that_could_not_be_dropped_goes_on() {
    let cluster = Cluster::shared();
    let name = database(cluster, "staying");
    let mut listener = Listener::on(cluster, &name, &["crdt_ephemeral"]);
    let mut client = cluster.connect(&name);
    let mut admin = cluster.connect("postgres");
    let failing = [
        (format!("DROP DATABASE {name}"), "55006"),
        (format!("ALTER DATABASE {name} RENAME TO {name}_renamed"), "55006"),
        (format!("CREATE DATABASE {name}_copy TEMPLATE {name}"), "55006"),
        (format!("BEGIN; DROP DATABASE {name}; COMMIT"), "25001"),
    ];
    for (i, (sql, state)) in failing.iter().enumerate() {
        set(&mut client, "k", i);
        listener.hear_value(1, "ns", "k", &json!(i));
        let (admin_sql, state) = (sql.clone(), *state);
        expect_error(admin.batch_execute(&admin_sql), state);
        let _ = admin.batch_execute("ROLLBACK");
        // Nobody writes: what is told next is told by a worker that came back by itself.
        wait_until("the worker to be back", || worker(&mut client).is_some());
    }
    set(&mut client, "k", "last");
    listener.hear_value(1, "ns", "k", &json!("last"));
}

/// Another database, or installation, of the same name has docs of the same numbers: what somebody knew of the former ones'
/// registers says nothing of these.
#[test]
fn positions_of_a_former_database_or_installation_are_too_old() {
    let cluster = Cluster::shared();
    let name = database(cluster, "former");
    let mut admin = cluster.connect("postgres");
    let since = |client: &mut Client, position: Option<i64>| -> Value {
        client.query_one("SELECT crdt.ephemeral_since(1, $1)", &[&position]).unwrap().get(0)
    };
    let known = |client: &mut Client| {
        set(client, "k", 1);
        let position = since(client, None)["position"].as_i64();
        assert_eq!(since(client, position)["reset"], Value::Null);
        position
    };
    let make = "CREATE EXTENSION crdt_db; SELECT crdt.create_doc('one')";
    let forgotten = |client: &mut Client, position: Option<i64>| {
        let answer = since(client, position);
        assert_eq!((&answer["reset"], &answer["entries"]), (&json!(true), &json!({})));
        known(client);
    };

    let mut client = cluster.connect(&name);
    let before = known(&mut client);
    drop(client);
    admin.batch_execute(&format!("DROP DATABASE {name}")).unwrap();
    admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).unwrap();
    let mut client = cluster.connect(&name);
    client.batch_execute(make).unwrap();
    forgotten(&mut client, before);

    let before = known(&mut client);
    client.batch_execute("DROP EXTENSION crdt_db CASCADE").unwrap();
    client.batch_execute(make).unwrap();
    forgotten(&mut client, before);
}

/// Whoever listens all the while is told that nothing is as it was, at the latest when what was there would have expired.
#[test]
fn listeners_hear_that_an_installation_is_gone() {
    let cluster = Cluster::shared();
    let name = database(cluster, "gone");
    let mut client = cluster.connect(&name);
    let mut listener = Listener::on(cluster, &name, &["crdt_ephemeral"]);
    let again = "DROP EXTENSION crdt_db CASCADE; CREATE EXTENSION crdt_db; SELECT crdt.create_doc('one')";
    for (ttl, use_it) in [("1 hour", true), ("500 ms", false)] {
        let sql = format!("SELECT crdt.ephemeral_set(1, 'ns', 'k', '\"{ttl}\"', ttl => '{ttl}')");
        client.batch_execute(&sql).unwrap();
        listener.hear_value(1, "ns", "k", &json!(ttl));
        let from = listener.heard.len();
        client.batch_execute(again).unwrap();
        if use_it {
            assert_eq!(value(&mut client, "k"), Value::Null);
        }
        let is_reset = |m: &Message| m.payload["doc"] == Value::Null && m.payload["reset"] == true;
        listener.hear("a reset of every doc", |l| l.heard[from..].iter().any(is_reset).then_some(()));
    }
}

#[test]
fn the_extension_is_dropped_and_made_again_beside_listeners() {
    let cluster = Cluster::shared();
    let name = database(cluster, "again");
    let mut listener = Listener::on(cluster, &name, &["crdt_ephemeral", "crdt_changes"]);
    let mut client = cluster.connect(&name);
    for round in 0..3 {
        let value = json!(format!("round {round}"));
        set(&mut client, "k", value.clone());
        listener.hear_value(1, "ns", "k", &value);
        let drop_and_make = "DROP EXTENSION crdt_db CASCADE; CREATE EXTENSION crdt_db; SELECT crdt.create_doc('hub')";
        // In turns by the session that listens and by another one, and once in a transaction that takes it back first.
        if round == 2 {
            client.batch_execute("BEGIN; DROP EXTENSION crdt_db CASCADE; ROLLBACK").unwrap();
            assert_eq!(crate::value(&mut client, "k"), value);
        }
        let session = if round % 2 == 0 { &mut client } else { &mut listener.client };
        session.batch_execute(drop_and_make).unwrap();
        assert_eq!(crate::value(&mut client, "k"), Value::Null, "of another installation");
        assert_eq!(rows(&mut client, "SELECT * FROM crdt.ephemeral"), Vec::<String>::new());
        assert_eq!(crate::value(&mut listener.client, "k"), Value::Null);
    }
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT crdt.track('t', 1)").unwrap();
    let from = listener.heard.len();
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    listener.hear("the commit", |l| l.heard[from..].iter().any(|m| m.channel == "crdt_changes").then_some(()));
    // While it is gone nobody is told, and nothing fails.
    client.batch_execute("DROP EXTENSION crdt_db CASCADE").unwrap();
    client.batch_execute("INSERT INTO t VALUES (2); LISTEN crdt_ephemeral").unwrap();
    expect_error(client.batch_execute("SELECT crdt.ephemeral_get(1, 'ns', 'k')"), "42883");
    client.batch_execute("CREATE EXTENSION crdt_db; SELECT crdt.create_doc('hub')").unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    set(&mut client, "k", "after");
    listener.hear_value(1, "ns", "k", &json!("after"));
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

#[test]
fn listening_where_the_extension_is_not_there() {
    let cluster = Cluster::shared();
    let name = cluster.create_plain_database("without");
    let mut client = cluster.connect(&name);
    client.batch_execute("LISTEN crdt_changes; LISTEN crdt_ephemeral; LISTEN other; UNLISTEN *; NOTIFY other").unwrap();
    drop(client);
    cluster.connect("postgres").batch_execute(&format!("DROP DATABASE {name}")).unwrap();
}
