//! Attacks that need crashes, restarts, many locks or cancels.

use std::time::{Duration, Instant};

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::sample::{agrees, database as prepare};
use crdt_live::session::{wait_until, wait_until_blocked};
use postgres::Client;

#[test]
fn a_prepared_transaction_outlives_restarts() {
    let cluster = Cluster::start("prepared", &[]);
    let database = prepare(&cluster, "prepared");
    let mut client = cluster.connect(&database);
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    client.batch_execute("BEGIN; UPDATE t SET v = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'p'").unwrap();
    cluster.restart_immediately();
    let mut client = cluster.connect(&database);
    client.batch_execute("INSERT INTO t VALUES (2, 'meanwhile'), (3, 'meanwhile')").unwrap();
    let sql = cluster.session(&database);
    let push = cluster.session(&database);
    let after = sql.execute("UPDATE t SET v = v || ', then SQL' WHERE id = 1");
    wait_until_blocked(&mut client, &sql);
    let pushed = push.execute("SELECT crdt.push(1, inserts('p', 2, 1, 1))");
    wait_until_blocked(&mut client, &push);
    cluster.connect(&database).batch_execute("COMMIT PREPARED 'p'").unwrap();
    after.wait().unwrap();
    pushed.wait().unwrap();
    client.batch_execute("INSERT INTO t VALUES (4, 'after')").unwrap();
    // Whoever comes first once the row is free, SQL is newer than both others.
    let shown = rows(&mut client, "SELECT v FROM t WHERE id = 1").join("");
    assert!(["prepared, then SQL", "pushed, then SQL"].contains(&shown.as_str()), "{shown}");
    agrees(&mut client);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM (SELECT FROM crdt.peers WHERE doc = 1) AS p"), ["4"]);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

#[test]
fn nothing_that_was_pulled_is_lost_in_a_crash() {
    let cluster = Cluster::start("pulled", &["--fsync", "synchronous_commit=off", "wal_writer_delay=10s"]);
    let database = prepare(&cluster, "pulled");
    let mut client = cluster.connect(&database);
    client.batch_execute("CHECKPOINT").unwrap();
    for i in 0..50 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({i}, 'x')")).unwrap();
    }
    let pulled = rows(&mut client, "SELECT crdt.pull(1, '{\"peer_id\": \"c\", \"known_peers\": {}}') -> 'versions'")
        .join("")
        .replace(' ', "");
    cluster.crash();
    cluster.start_again(&[]);
    let mut client = cluster.connect(&database);
    assert_eq!(rows(&mut client, "SELECT crdt.version(1)").join("").replace(' ', ""), pulled);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), ["50"]);
    client.batch_execute("INSERT INTO t VALUES (1000, 'after')").unwrap();
    agrees(&mut client);
    // A start of its own writes under a name of its own.
    assert_eq!(rows(&mut client, "SELECT count(*) FROM jsonb_object_keys(crdt.version(1))"), ["2"]);
}

#[test]
fn many_rows_in_one_push_need_few_locks() {
    let cluster = Cluster::shared();
    let database = prepare(cluster, "locks");
    let mut client = cluster.connect(&database);
    let accepted = "SELECT crdt.push(1, inserts('p', 10, 1, 25000)) -> 'accepted'";
    assert_eq!(rows(&mut client, accepted), ["25000"]);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), ["25000"]);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM crdt.verify('t')"), ["0"]);
}

#[test]
fn a_strong_lock_on_the_log_meets_the_statement_timeout() {
    let cluster = Cluster::shared();
    let database = prepare(cluster, "timeout");
    let mut blocker = cluster.connect(&database);
    let mut client = cluster.connect(&database);
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    blocker.batch_execute("BEGIN; LOCK TABLE crdt.event_run IN ACCESS EXCLUSIVE MODE").unwrap();
    client.batch_execute("SET statement_timeout = '200ms'").unwrap();
    expect_error(client.batch_execute("INSERT INTO t VALUES (2, 'b')"), "57014");
    blocker.batch_execute("COMMIT").unwrap();
    client.batch_execute("INSERT INTO t VALUES (3, 'c')").unwrap();
    agrees(&mut client);
}

#[test]
fn an_error_at_commit_is_an_ordinary_error() {
    let cluster = Cluster::shared();
    let database = prepare(cluster, "full");
    let mut client = cluster.connect(&database);
    client.batch_execute("INSERT INTO t VALUES (1, 'a')").unwrap();
    client
        .batch_execute("ALTER TABLE crdt.event_run ADD CONSTRAINT no_more CHECK (counter_start < 0) NOT VALID")
        .unwrap();
    for _ in 0..3 {
        expect_error(client.batch_execute("INSERT INTO t VALUES (2, 'b')"), "23514");
        expect_error(client.batch_execute("BEGIN; INSERT INTO t VALUES (2, 'b'); COMMIT"), "23514");
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t"), ["1"]);
    client.batch_execute("ALTER TABLE crdt.event_run DROP CONSTRAINT no_more").unwrap();
    client.batch_execute("INSERT INTO t VALUES (2, 'b')").unwrap();
    agrees(&mut client);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

#[test]
fn long_statements_can_be_cancelled() {
    let cluster = Cluster::shared();
    let database = prepare(cluster, "cancel");
    let mut client = cluster.connect(&database);
    client.batch_execute("CREATE TABLE payload AS SELECT inserts('p', 10, 1, 50000) AS request").unwrap();
    for (what, sql) in [
        ("insert", "INSERT INTO t SELECT i, repeat(md5(i::text), 94) FROM generate_series(1, 100000) AS i"),
        ("push", "SELECT crdt.push(1, request) FROM payload"),
    ] {
        for delay in [50, 200, 800] {
            let session = cluster.session(&database);
            let pid = session.backend_pid();
            let answer = session.execute(sql);
            std::thread::sleep(Duration::from_millis(delay));
            client.batch_execute(&format!("SELECT pg_cancel_backend({pid})")).unwrap();
            let mut left = Some(answer);
            wait_until(what, || match left.as_ref().and_then(|a| a.poll()) {
                Some(result) => {
                    if result.is_err() {
                        expect_error(result, "57014");
                    }
                    left = None;
                    true
                }
                None => false,
            });
            session.execute("SELECT 1").wait().unwrap();
        }
        client.batch_execute("TRUNCATE t").unwrap();
        assert_eq!(rows(&mut client, "SELECT count(*) FROM crdt.verify('t')"), ["0"]);
    }
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

#[test]
fn eight_serializable_clients_on_rows_of_their_own_do_not_disturb_each_other() {
    let cluster = Cluster::shared();
    let database = prepare(cluster, "serializable");
    let mut client = cluster.connect(&database);
    client.batch_execute("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 8000) AS i; ANALYZE t").unwrap();
    let failures: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let mut client = cluster.connect(&database);
                scope.spawn(move || {
                    (0..50)
                        .filter(|i| {
                            let sql = format!(
                                "BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE t SET v = v || '.' WHERE id = {}; COMMIT",
                                worker * 1000 + 500 + i
                            );
                            let failed = client.batch_execute(&sql).is_err();
                            if failed {
                                client.batch_execute("ROLLBACK").unwrap();
                            }
                            failed
                        })
                        .count()
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    assert!(failures <= 8, "{failures} of 400 transactions failed");
    assert_eq!(rows(&mut client, "SELECT count(*) FROM crdt.verify('t')"), ["0"]);
}

/// Rows are found in tails of several slots after the server start that wrote them is over. A tail ends when the next start
/// first uses its slot, which it cannot while a prepared transaction of the former one holds it.
#[test]
fn tails_of_a_former_start_are_taken_over() {
    let cluster = Cluster::start("tails", &[]);
    let database = prepare(&cluster, "tails");
    let mut client = cluster.connect(&database);
    let update = |id: usize, v: &str| format!("UPDATE t SET v = '{v}' WHERE id = {id}");
    client.batch_execute("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 100) AS g").unwrap();
    client.batch_execute(&update(5, "slot 0")).unwrap();
    client.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'p'", update(1, "slot 0, prepared"))).unwrap();
    let held = cluster.session(&database);
    held.execute("BEGIN").wait().unwrap();
    held.execute("SELECT crdt.doc_update(1, 't', '2', 'v', '\"slot 1\"')").wait().unwrap();
    client.batch_execute(&update(3, "slot 2")).unwrap();
    held.execute("COMMIT").wait().unwrap();
    let slots =
        "SELECT substring(name from ':([0-9]+)$') FROM crdt.event_tail JOIN crdt.peer USING (doc, peer) ORDER BY 1";
    let starts =
        "SELECT count(DISTINCT split_part(name, ':', 2)) FROM crdt.event_tail JOIN crdt.peer USING (doc, peer)";
    assert_eq!(
        (rows(&mut client, slots), rows(&mut client, starts).join("")),
        (["0", "1", "2"].map(String::from).into(), "1".into())
    );

    // Younger than all tails: what is written after the restart is younger still.
    rows(
        &mut client,
        "SELECT crdt.push(1, update('young', 0, (SELECT lamport + 20 FROM crdt.docs WHERE doc = 1), 4, 'pushed'))",
    );

    cluster.restart_immediately();
    let mut client = cluster.connect(&database);
    let written = "SELECT string_agg((SELECT count(DISTINCT (peer, counter)) FROM crdt.history('t', id::text))::text, ' ' ORDER BY id)
                     FROM generate_series(1, 5) AS id";
    assert_eq!(rows(&mut client, written), ["1 2 2 2 2"]);
    client.batch_execute(&update(4, "slot 1")).unwrap();
    assert_eq!(
        (rows(&mut client, slots), rows(&mut client, starts).join("")),
        (["0", "1", "2"].map(String::from).into(), "2".into())
    );
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    client.batch_execute(&update(4, "slot 0")).unwrap();
    assert_eq!(rows(&mut client, slots), ["0", "1", "2"]);
    assert_eq!(rows(&mut client, written), ["2 2 2 4 2"]);
    // All of these are newer, wherever they lie.
    for id in 1..=5 {
        rows(&mut client, &format!("SELECT crdt.push(1, update('p{id}', 0, 50, {id}, 'old'))"));
    }
    let shown = rows(&mut client, "SELECT v FROM t WHERE id <= 5 ORDER BY id");
    assert_eq!(shown, ["slot 0, prepared", "slot 1", "slot 2", "slot 0", "slot 0"]);
    agrees(&mut client);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

/// Long functions show how far they are, until they end in whatever way.
#[test]
fn long_functions_can_be_watched() {
    let cluster = Cluster::shared();
    let database = prepare(cluster, "progress");
    let mut observer = cluster.connect(&database);
    observer
        .batch_execute(
            "CREATE TABLE many (id int PRIMARY KEY, v text);
             INSERT INTO many SELECT i, md5(i::text) FROM generate_series(1, 200000) AS i; ANALYZE many",
        )
        .unwrap();
    let seen = "SELECT pid, function, tbl::text, step, expected FROM crdt.progress WHERE done BETWEEN 1 AND 199999";
    let watch = |observer: &mut Client, wanted: &str| {
        let start = Instant::now();
        loop {
            let lines = rows(observer, seen);
            if lines.iter().any(|line| line == wanted) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "not seen: {wanted}; at last {lines:?}");
        }
    };
    let session = cluster.session(&database);
    let pid = session.backend_pid();
    let tracked = session.execute("SELECT crdt.track('many', 1)");
    watch(&mut observer, &format!("{pid}|crdt.track|many|reading the table|200000"));
    tracked.wait().unwrap();
    assert_eq!(rows(&mut observer, "SELECT * FROM crdt.progress"), Vec::<String>::new());
    let verified = session.execute("SELECT * FROM crdt.verify('many')");
    watch(&mut observer, &format!("{pid}|crdt.verify|many|reading the log|<null>"));
    watch(&mut observer, &format!("{pid}|crdt.verify|many|comparing|200000"));
    verified.wait().unwrap();
    // A process that is ended does not come to take its line back.
    for cancel in ["pg_cancel_backend", "pg_terminate_backend"] {
        let repaired = session.execute("SELECT crdt.repair('many', 'log')");
        watch(&mut observer, &format!("{pid}|crdt.repair|many|reading the table|200000"));
        rows(&mut observer, &format!("SELECT {cancel}({pid})"));
        repaired.wait().unwrap_err();
        wait_until("the line to go", || rows(&mut observer, "SELECT * FROM crdt.progress").is_empty());
    }
    // Who waits for the table is seen as well.
    observer.batch_execute("BEGIN; LOCK TABLE many").unwrap();
    let session = cluster.session(&database);
    let pid = session.backend_pid();
    let verified = session.execute("SELECT * FROM crdt.verify('many')");
    let waiting = format!("{pid}|crdt.verify|many|waiting for the table|0|<null>|t");
    let all =
        "SELECT pid, function, tbl::text, step, done, expected, started_at < clock_timestamp() FROM crdt.progress";
    wait_until("it to wait", || rows(&mut observer, all) == [waiting.clone()]);
    observer.batch_execute("COMMIT").unwrap();
    verified.wait().unwrap();
}
