//! What listeners of registers hear.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crdt_live::Cluster;
use crdt_live::expect::rows;
use crdt_live::listener::Listener;
use crdt_live::session::wait_until;
use postgres::Client;
use serde_json::{Value, json};

use crate::{count, database, set, set_in, value, worker};

const QUIET: Duration = Duration::from_millis(300);

#[test]
fn join_update_and_leave() {
    let cluster = Cluster::shared();
    let database = database(cluster, "events");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    let mut step = |sql: &str, expected: &str| {
        let from = listener.heard.len();
        let position = listener.heard.last().map(|message| message.position());
        client.batch_execute(sql).unwrap();
        let (event, entry) = listener.hear_event(from, "ns", "k");
        assert_eq!(event, expected, "{sql}");
        assert_eq!(entry.is_null(), expected == "leave");
        let message = &listener.heard[from];
        assert_eq!((message.doc(), message.channel.as_str()), (1, "crdt_ephemeral"));
        assert!(position.is_none_or(|before| before < message.position()), "positions ascend");
        entry
    };
    let entry = step("SELECT crdt.ephemeral_set(1, 'ns', 'k', '{\"x\": 1}', peer => 'ann')", "join");
    assert_eq!((&entry["key"], &entry["value"], &entry["peer"]), (&json!("k"), &json!({"x": 1}), &json!("ann")));
    assert!(entry["timestamp"].as_f64().unwrap() > 1.7e12);
    step("SELECT crdt.ephemeral_set(1, 'ns', 'k', '2')", "update");
    step("SELECT crdt.ephemeral_remove(1, 'ns', 'k')", "leave");
    step("SELECT crdt.ephemeral_set(1, 'ns', 'k', '3')", "join");
    step("SELECT crdt.ephemeral_clear(1, 'ns')", "leave");
    step("SELECT crdt.ephemeral_set(1, 'ns', 'k', '4', 5)", "join");
    step(
        "SELECT crdt.ephemeral_merge(1, '{\"ns\": {\"k\": {\"value\": 5, \"timestamp\": 6, \"peer\": \"p\"}}}')",
        "update",
    );
    step("SELECT crdt.ephemeral_set(1, 'ns', 'k', '6', ttl => '200 ms')", "update");
    // Nobody touches it any more: it leaves by itself.
    let from = listener.heard.len();
    assert_eq!(listener.hear_event(from, "ns", "k").0, "leave");
    assert_eq!(value(&mut client, "k"), Value::Null);
    assert!(count(&mut client, "expiries") >= 1);
}

#[test]
fn two_sessions_of_one_person() {
    let cluster = Cluster::shared();
    let database = database(cluster, "presence");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    client
        .batch_execute(
            "SELECT crdt.presence_set(1, 'ann/b', 'tab 1', '{\"at\": 1}'),
                    crdt.presence_set(1, 'ann/b', 'tab 2', '{\"at\": 2}', '1 s')",
        )
        .unwrap();
    for key in ["ann%2Fb/tab 1", "ann%2Fb/tab 2"] {
        assert_eq!(listener.hear_event(0, "presence", key).0, "join");
    }
    let here = "SELECT jsonb_path_query_array(crdt.presence(1), '$.\"ann/b\".session')";
    assert_eq!(rows(&mut client, here), ["[\"tab 1\", \"tab 2\"]"]);
    // Renewed once, then not: the session leaves, and the person stays as the other one.
    let renewed = Instant::now();
    client.batch_execute("SELECT crdt.presence_set(1, 'ann/b', 'tab 2', '{\"at\": 2}', '1 s')").unwrap();
    let left = |listener: &mut Listener, key: &str| {
        listener.hear("a session to leave", |l| {
            let mut events =
                l.heard.iter().filter_map(|m| m.event("presence", key).map(|(event, _)| (event.to_owned(), m.at)));
            events.next_back().filter(|(event, _)| event == "leave").map(|(_, at)| at)
        })
    };
    assert!(left(&mut listener, "ann%2Fb/tab 2").duration_since(renewed) > Duration::from_millis(950));
    assert_eq!(rows(&mut client, here), ["[\"tab 1\"]"]);
    client.batch_execute("SELECT crdt.presence_remove(1, 'ann/b', 'tab 1')").unwrap();
    left(&mut listener, "ann%2Fb/tab 1");
    assert_eq!(rows(&mut client, "SELECT crdt.presence(1)"), ["{}"]);
}

/// A long tick, so that much happens in each.
#[test]
fn one_batch_for_each_doc_and_tick_split_into_messages() {
    const TICK: Duration = Duration::from_millis(400);
    let cluster = Cluster::start("ticks", &["crdt_db.notify_interval=400ms", "crdt_db.ephemeral_max_value=32kB"]);
    let database = database(&cluster, "ticks");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(&cluster, &database, &["crdt_ephemeral"]);
    let (begun, mut sets) = (Instant::now(), 0);
    while begun.elapsed() < 6 * TICK {
        sets += 1;
        set_in(&mut client, 1 + sets % 2, "k", sets);
        std::thread::sleep(Duration::from_millis(1));
    }
    listener.hear_value(1 + sets % 2, "ns", "k", &json!(sets));
    for doc in [1, 2] {
        let times: Vec<Instant> = listener.heard.iter().filter(|m| m.doc() == doc).map(|m| m.at).collect();
        let ticks = begun.elapsed().as_millis() / TICK.as_millis() + 1;
        assert!((3..=ticks as usize).contains(&times.len()), "{} messages in {ticks} ticks, {sets} sets", times.len());
    }

    // Many registers at once; values and names too large for a message.
    let from = listener.heard.len();
    client
        .batch_execute(
            "SELECT crdt.ephemeral_merge(1, jsonb_build_object('many', jsonb_object_agg('key ' || i,
                 jsonb_build_object('value', repeat('v', i % 200), 'timestamp', 1, 'peer', 'p'))))
               FROM generate_series(1, 2000) AS i;
             SELECT crdt.ephemeral_set(1, 'large', 'value', to_jsonb(repeat('v', 20000)));
             SELECT crdt.ephemeral_set(1, 'large', repeat(chr(1), 1000), '1');
             SELECT crdt.ephemeral_set(1, 'large', 'last', '2')",
        )
        .unwrap();
    listener.hear_value(1, "large", "last", &json!(2));
    let messages = &listener.heard[from..];
    assert!(messages.windows(2).all(|pair| pair[0].position() < pair[1].position()), "positions ascend");
    assert!(messages.len() > 20 && messages.iter().filter(|m| m.len > 5_000).count() > 20, "messages are filled");
    let mut told = BTreeMap::<String, usize>::new();
    for message in messages {
        for (key, _) in message.payload["events"]["many"].as_object().into_iter().flatten() {
            *told.entry(key.clone()).or_default() += 1;
        }
    }
    assert!(told.len() == 2000 && told.values().all(|times| *times == 1), "each register is told once");
    let shown = &listener.shown[&(1, "large".to_owned(), "value".to_owned())];
    assert!(shown.get("value").is_none() && shown.get("timestamp").is_some(), "announced without its value: {shown}");
    assert_eq!(listener.unknown, [1], "a name that does not fit is not told");
    let holds: BTreeSet<&str> = listener.shown.keys().filter(|k| k.1 == "many").map(|k| k.2.as_str()).collect();
    assert_eq!(holds.len(), 2000);
    for key in ["key 1", "key 1999"] {
        let entry = &listener.shown[&(1, "many".to_owned(), key.to_owned())];
        let stored: Value = client.query_one("SELECT crdt.ephemeral_get(1, 'many', $1)", &[&key]).unwrap().get(0);
        assert_eq!(*entry, stored);
    }
}

#[test]
fn notifications_without_payload() {
    let cluster = Cluster::shared();
    let database = database(cluster, "bare");
    let mut client = cluster.connect(&database);
    client
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY); SELECT crdt.track('t', 1);
             CREATE TABLE u (id int PRIMARY KEY); SELECT crdt.track('u', 2);
             ALTER DATABASE {database} SET crdt_db.notify_payload = off"
        ))
        .unwrap();
    let both = ["crdt_ephemeral", "crdt_changes"];
    let fields = |listener: &mut Listener, channel: &str, doc: i64, from: usize| {
        listener.hear("a message", |l| {
            let message = l.heard[from..].iter().find(|m| m.channel == channel && m.doc() == doc)?;
            Some(message.payload.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>().join(","))
        })
    };
    let mut listener = Listener::on(cluster, &database, &both);
    set(&mut client, "k", 1);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(fields(&mut listener, "crdt_ephemeral", 1, 0), "doc,position");
    assert_eq!(fields(&mut listener, "crdt_changes", 1, 0), "doc");
    listener.listen_for(QUIET);
    assert!(listener.heard.iter().all(|m| m.payload.as_object().unwrap().len() <= 2));

    // Of one doc only. The worker that read the database's setting leaves for another one, and not before the commit.
    let other_worker = |client: &mut Client, sql: &str| {
        let pid = worker(client).expect("a worker");
        client.batch_execute(&format!("BEGIN; {sql}; ROLLBACK; BEGIN; {sql}")).unwrap();
        std::thread::sleep(QUIET);
        assert_eq!(worker(client), Some(pid), "{sql} is not committed");
        client.batch_execute("COMMIT").unwrap();
        wait_until("another worker", || worker(client).is_some_and(|other| other != pid));
    };
    other_worker(&mut client, &format!("ALTER DATABASE {database} RESET crdt_db.notify_payload"));
    other_worker(&mut client, &format!("ALTER ROLE ALL IN DATABASE {database} RESET ALL"));
    client.batch_execute("SELECT crdt.set_notify_payload(2, false)").unwrap();
    let from = listener.heard.len();
    set_in(&mut client, 2, "k", 1);
    set_in(&mut client, 1, "k", 2);
    client.batch_execute("INSERT INTO u VALUES (1); INSERT INTO t VALUES (2)").unwrap();
    assert_eq!(fields(&mut listener, "crdt_ephemeral", 2, from), "doc,position");
    assert_eq!(fields(&mut listener, "crdt_changes", 2, from), "doc");
    assert_eq!(fields(&mut listener, "crdt_ephemeral", 1, from), "doc,entries,events,position");
    assert_eq!(fields(&mut listener, "crdt_changes", 1, from), "doc,frontier");
    client.batch_execute("SELECT crdt.set_notify_payload(2, true)").unwrap();
    let from = listener.heard.len();
    set_in(&mut client, 2, "k", 2);
    assert_eq!(fields(&mut listener, "crdt_ephemeral", 2, from), "doc,entries,events,position");
}

/// The worker does not see a doc that is not committed, and may not say what it does not know to be allowed.
#[test]
fn a_doc_that_is_not_committed_tells_no_payload() {
    let cluster = Cluster::shared();
    let database = database(cluster, "hidden");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    client.batch_execute("BEGIN; SELECT crdt.set_notify_payload(crdt.create_doc('three'), false)").unwrap();
    set_in(&mut client, 3, "k", "secret");
    let fields = |listener: &mut Listener, from: usize| {
        listener.hear("a message", |l| Some(l.heard.get(from)?.payload.as_object().unwrap().len()))
    };
    assert_eq!(fields(&mut listener, 0), 2, "{:?}", listener.heard[0]);
    client.batch_execute("COMMIT").unwrap();
    set_in(&mut client, 3, "k", "secret too");
    assert_eq!(fields(&mut listener, 1), 2, "{:?}", listener.heard[1]);
}

#[test]
fn a_forged_notification_changes_nothing() {
    let cluster = Cluster::shared();
    let database = database(cluster, "forged");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral"]);
    set(&mut client, "k", 1);
    listener.hear_value(1, "ns", "k", &json!(1));
    let role = format!("nobody_{database}");
    client.batch_execute(&format!("CREATE ROLE {role} LOGIN")).unwrap();
    let forged = r#"{"doc":1,"position":9007199254740991,"entries":{"ns":{"k":null}},"events":{"ns":{"k":"leave"}}}"#;
    cluster.connect_as(&database, &role).batch_execute(&format!("NOTIFY crdt_ephemeral, '{forged}'")).unwrap();
    listener.hear("the forged message", |l| l.heard.last()?.payload.to_string().contains("leave").then_some(()));
    // Whoever asks with the forged position is given everything; the real one goes on.
    let since = "SELECT crdt.ephemeral_since(1, 9007199254740991)";
    let answer: Value = client.query_one(since, &[]).unwrap().get(0);
    assert_eq!((&answer["reset"], &answer["entries"]["ns"]["k"]["value"]), (&json!(true), &json!(1)));
    assert_eq!(value(&mut client, "k"), 1);
    let from = listener.heard.len();
    set(&mut client, "k", 2);
    listener.hear_value(1, "ns", "k", &json!(2));
    assert_eq!(listener.hear_event(from, "ns", "k").0, "update");
    assert!(listener.heard.last().unwrap().position() < 9_007_199_254_740_991);
    client.batch_execute(&format!("DROP ROLE {role}")).unwrap();
}

#[test]
fn a_rolled_back_transaction_sets_all_the_same() {
    let cluster = Cluster::shared();
    let database = database(cluster, "rolled");
    let mut client = cluster.connect(&database);
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT crdt.track('t', 1)").unwrap();
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral", "crdt_changes"]);
    listener.listen_for(QUIET);
    let from = listener.heard.len();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").unwrap();
    set(&mut client, "k", 1);
    // Before the transaction ends, too.
    listener.hear_value(1, "ns", "k", &json!(1));
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(value(&mut client, "k"), 1);
    listener.listen_for(QUIET);
    assert!(listener.heard[from..].iter().all(|message| message.channel == "crdt_ephemeral"));
}

#[test]
fn nobody_is_woken_when_nothing_happens() {
    let cluster = Cluster::shared();
    let database = database(cluster, "idle");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(cluster, &database, &["crdt_ephemeral", "crdt_changes"]);
    client.batch_execute("SELECT crdt.ephemeral_set(1, 'ns', 'k', '1', ttl => '1 day')").unwrap();
    listener.hear_value(1, "ns", "k", &json!(1));
    let pid = crate::worker(&mut client).expect("a worker");
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // It may still be on its way to sleep, and other tests drop databases of this cluster, which wakes everybody once.
    let quiet = (0..10).any(|_| {
        std::thread::sleep(QUIET);
        let before = switches();
        std::thread::sleep(Duration::from_secs(2));
        switches() == before
    });
    assert!(quiet, "the worker wakes though nothing changes");
    assert_eq!(
        rows(
            &mut client,
            "SELECT count(*) FROM pg_stat_activity WHERE query = 'waiting for changes' AND datname = current_database()"
        ),
        ["1"]
    );
}
