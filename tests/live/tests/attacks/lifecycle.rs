//! The extension and its database come, go and change names, beside sessions that use them.

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::sample::{agrees, database, events};

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

/// Also inside savepoints and beside a session that has all of it cached.
#[test]
fn the_extension_comes_and_goes_under_other_sessions() {
    let cluster = Cluster::shared();
    let database = database(cluster, "swapped");
    let (mut one, mut two) = (cluster.connect(&database), cluster.connect(&database));
    let mut names = std::collections::BTreeSet::new();
    for i in 0..5 {
        two.batch_execute(&format!("INSERT INTO t VALUES ({i}, 'two')")).unwrap();
        one.batch_execute("UPDATE t SET v = v || ' one'").unwrap();
        agrees(&mut two);
        for (peer, _) in events(&mut two).into_keys() {
            names.insert((i, peer));
        }
        one.batch_execute(
            "BEGIN; SAVEPOINT a; DROP EXTENSION crdt_db CASCADE; ROLLBACK TO a; INSERT INTO t VALUES (-1, 'kept'); COMMIT",
        )
        .unwrap();
        agrees(&mut one);
        one.batch_execute(
            "DELETE FROM t WHERE id = -1; DROP EXTENSION crdt_db CASCADE;
             CREATE EXTENSION crdt_db; SELECT crdt.track('t', crdt.create_doc('hub'))",
        )
        .unwrap();
    }
    // The doc has the same number and name each time; who wrote has not.
    let peers: std::collections::BTreeSet<&str> = names.iter().map(|(_, peer)| peer.as_str()).collect();
    assert_eq!(peers.len(), names.len(), "{names:?}");
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

#[test]
fn a_database_is_copied_renamed_moved_and_dropped() {
    let cluster = Cluster::shared();
    let origin = database(cluster, "origin");
    let mut client = cluster.connect(&origin);
    client.batch_execute("INSERT INTO t VALUES (1, 'a'); SELECT crdt.push(1, update('p', 0, 5, 1, 'pushed'))").unwrap();
    let mut admin = cluster.connect("postgres");
    let copy = format!("CREATE DATABASE copied TEMPLATE {origin}");
    expect_error(admin.batch_execute(&copy), "55006");
    drop(client);
    wait_until_alone(&mut admin, &origin);
    admin.batch_execute(&copy).unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {origin} RENAME TO renamed")).unwrap();
    let mut both = ["renamed", "copied"].map(|name| cluster.connect(name));
    for client in &mut both {
        client.batch_execute("INSERT INTO t VALUES (2, 'b'); UPDATE t SET v = v || '.'").unwrap();
        agrees(client);
    }
    // The same number for the log, in the same start of the server, and yet no name in common.
    let [one, two] = both.each_mut().map(events);
    let shared: Vec<_> = one.iter().filter(|(id, _)| two.contains_key(id)).collect();
    assert_eq!(shared.len(), 2, "what was there before the copy: {shared:?}");
    assert!(shared.iter().all(|(id, content)| two[*id] == **content));
    drop(both);
    wait_until_alone(&mut admin, "renamed");
    admin.batch_execute(&format!("ALTER DATABASE renamed RENAME TO {origin}")).unwrap();
    admin.batch_execute("DROP DATABASE copied WITH (FORCE)").unwrap();
    let mut client = cluster.connect(&origin);
    client.batch_execute("INSERT INTO t VALUES (3, 'c')").unwrap();
    agrees(&mut client);
    // Dropped under a session that writes: that session alone ends.
    client.batch_execute("BEGIN; INSERT INTO t VALUES (4, 'd')").unwrap();
    admin.batch_execute(&format!("DROP DATABASE {origin} WITH (FORCE)")).unwrap();
    assert!(client.batch_execute("COMMIT").is_err());
    assert_eq!(rows(&mut admin, "SELECT count(*) FROM pg_database WHERE datname IN ('renamed', 'copied')"), ["0"]);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

fn wait_until_alone(admin: &mut postgres::Client, database: &str) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'");
    crdt_live::session::wait_until("sessions to leave", || rows(admin, &sql) == ["0"]);
}

/// Each of the log's tables is rewritten and each of its indexes replaced while sessions know them, idle or inside of a
/// transaction. Nobody is refused, nobody reads an index that is not written any more.
#[test]
fn the_log_is_rebuilt_beside_sessions() {
    let cluster = Cluster::shared();
    let database = database(cluster, "rebuilt");
    let [mut keeper, mut idle, mut busy, mut other] = [(); 4].map(|()| cluster.connect(&database));
    let tables = rows(
        &mut keeper,
        "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'crdt'::regnamespace AND relkind = 'r' ORDER BY relname",
    );
    assert!(tables.len() > 10, "{tables:?}");
    idle.batch_execute("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 300) AS i").unwrap();
    let mut next = 0;
    for table in &tables {
        for rebuild in ["REINDEX TABLE CONCURRENTLY", "VACUUM FULL"] {
            next += 1;
            busy.batch_execute("BEGIN; SELECT 1; SAVEPOINT a").unwrap();
            keeper.batch_execute(&format!("{rebuild} {table}")).unwrap();
            other.batch_execute(&format!("UPDATE t SET v = 'other {next}' WHERE id = 1")).unwrap();
            busy.batch_execute(&format!("UPDATE t SET v = 'busy {next}' WHERE id = 2; COMMIT")).unwrap();
            idle.batch_execute(&format!(
                "SELECT crdt.push(1, update('idle', {}, {next}, 1, 'stale'));
                 SELECT crdt.pull(1, '{{}}'), crdt.frontier(1), crdt.version(1);
                 UPDATE t SET v = 'idle {next}' WHERE id = 3",
                next - 1
            ))
            .unwrap_or_else(|error| panic!("after {rebuild} {table}: {error:?}"));
            let shown = rows(&mut other, "SELECT v FROM t WHERE id < 4 ORDER BY id");
            assert_eq!(shown, ["other", "busy", "idle"].map(|who| format!("{who} {next}")), "{rebuild} {table}");
        }
    }
    agrees(&mut keeper);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

/// A transaction that goes on after a savepoint was rolled back is one transaction to readers, also where VACUUM FULL has
/// given the log another file, and slots another name, since its name was noted.
#[test]
fn a_transaction_keeps_its_name_while_the_log_is_rewritten() {
    let cluster = Cluster::shared();
    let database = database(cluster, "renamed_log");
    let (mut client, mut keeper) = (cluster.connect(&database), cluster.connect(&database));
    client.batch_execute("INSERT INTO t VALUES (0, 'a')").unwrap();
    keeper.batch_execute("VACUUM FULL crdt.event_run").unwrap();
    let known = rows(&mut client, "SELECT crdt.version(1)").join("");
    client
        .batch_execute(
            "BEGIN; INSERT INTO t SELECT i, '0' FROM generate_series(1, 30000) AS i; SAVEPOINT s;
             UPDATE t SET v = v || 'y' WHERE id < 20000; ROLLBACK TO s; UPDATE t SET v = 'done' WHERE id = 1; COMMIT",
        )
        .unwrap();
    let page = format!("SELECT crdt.pull(1, '{{\"known_peers\": {known}, \"limit\": 1}}') ->> 'has_more'");
    assert_eq!(rows(&mut client, &page), ["false"], "a page holds a whole transaction");
    agrees(&mut client);
}
