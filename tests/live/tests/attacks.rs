//! Attacks that need crashes, restarts, many locks, cancels or a server of their own.

use std::time::Duration;

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::session::{wait_until, wait_until_blocked};
use postgres::Client;

/// A database with a tracked table `t (id int, v text)` in doc 1, and what an insert by a client looks like.
fn prepare(cluster: &Cluster, prefix: &str) -> String {
    let database = cluster.create_database(prefix);
    cluster
        .connect(&database)
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             SELECT crdt.track('t', crdt.create_doc('hub'));
             CREATE FUNCTION inserts(peer text, lamport bigint, first int, last int) RETURNS json LANGUAGE sql AS $$
                 SELECT json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', json_build_array(json_build_object(
                     'peer', peer, 'counter_start', 0, 'lamport_start', lamport, 'deps', '[]'::json, 'ops',
                     (SELECT json_agg(json_build_object('type', 'insert', 'tbl', 't', 'row_id', i::text, 'values',
                         json_build_array(json_build_array('v', 'pushed')))) FROM generate_series(first, last) AS i)))) $$;",
        )
        .unwrap();
    database
}

fn agrees(client: &mut Client) {
    assert_eq!(rows(client, "SELECT * FROM crdt.verify('t')"), Vec::<String>::new());
}

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
    assert_eq!(rows(&mut client, "SELECT v FROM t WHERE id = 1"), ["prepared, then SQL"]);
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
fn the_extension_comes_and_goes_in_one_session() {
    let cluster = Cluster::shared();
    let database = cluster.create_plain_database("lifecycle");
    let mut client = cluster.connect(&database);
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text)").unwrap();
    for i in 0..3 {
        client.batch_execute("CREATE EXTENSION crdt_db; SELECT crdt.track('t')").unwrap();
        client.batch_execute(&format!("INSERT INTO t VALUES ({i}, 'x')")).unwrap();
        client.batch_execute("UPDATE t SET v = v || '!'").unwrap();
        agrees(&mut client);
        client.batch_execute("DROP EXTENSION crdt_db CASCADE").unwrap();
        client.batch_execute(&format!("INSERT INTO t VALUES ({}, 'untracked')", i + 100)).unwrap();
        assert!(client.batch_execute("SELECT crdt.doc('default')").is_err());
    }
    client
        .batch_execute(
            "BEGIN; CREATE EXTENSION crdt_db; SELECT crdt.track('t'); INSERT INTO t VALUES (50, 'y'); ROLLBACK",
        )
        .unwrap();
    client.batch_execute("INSERT INTO t VALUES (51, 'y')").unwrap();
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

#[test]
fn a_statement_that_runs_out_of_memory_fails_alone() {
    let cluster = Cluster::shared();
    let database = prepare(cluster, "memory");
    let mut client = cluster.connect(&database);
    client
        .batch_execute("INSERT INTO t SELECT i, repeat(md5(i::text), 94) FROM generate_series(1, 30000) AS i")
        .unwrap();
    limit_memory(&mut client, 60 << 20);
    // New keys are held back until all old ones are gone.
    expect_error(client.batch_execute("UPDATE t SET id = id + 1000000"), "53200");
    client.batch_execute("UPDATE t SET v = v || 'x'").unwrap();
    client.batch_execute("INSERT INTO t VALUES (0, 'after')").unwrap();
    let mut other = cluster.connect(&database);
    assert_eq!(rows(&mut other, "SELECT count(*), min(id), max(id) FROM t"), ["30001|0|30000"]);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

/// Lets a session's process take so many more bytes and no more.
fn limit_memory(client: &mut Client, more: u64) {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let (theirs, ours) = (process_status(&pid.to_string()), process_status("self"));
    let bytes = status_field(&theirs, "VmSize:").parse::<u64>().unwrap() * 1024 + more;
    let (user, group) = (status_field(&theirs, "Uid:"), status_field(&theirs, "Gid:"));
    // A process may lower the limits of its own user's processes; root without all its rights has to become that user.
    let mut command = if user == status_field(&ours, "Uid:") {
        std::process::Command::new("prlimit")
    } else {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &group, "--clear-groups", "prlimit"]);
        command
    };
    let done = command.args(["--pid", &pid.to_string(), &format!("--as={bytes}")]).status();
    assert!(done.is_ok_and(|status| status.success()), "cannot limit the memory of process {pid}");
}

fn process_status(pid: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in:\n{status}"));
    line.split_whitespace().nth(1).unwrap().to_owned()
}
