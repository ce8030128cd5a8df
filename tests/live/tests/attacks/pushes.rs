//! Attacks on pushes: rolled back ones, held ones, honest ones with unusual clocks.

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::sample::{agrees, database};

const GREATEST: &str = "SELECT max(lamport_end) FROM crdt.event_run WHERE doc = ";

#[test]
fn pushes_that_are_rolled_back_do_not_move_clocks() {
    let cluster = Cluster::shared();
    let database = database(cluster, "rolled_back");
    let mut client = cluster.connect(&database);
    let mut other = cluster.connect(&database);
    client
        .batch_execute(
            "CREATE TABLE u (id int PRIMARY KEY, v text);
             SELECT crdt.track('u', crdt.create_doc('hub', 'other'));
             INSERT INTO t VALUES (1, 'a')",
        )
        .unwrap();
    // The farthest that an honest client of an empty doc could be, 30 times.
    for i in 0..30 {
        client.batch_execute("BEGIN; SELECT crdt.push(1, update('far', 0, 65000, 1, 'never'))").unwrap();
        // While it holds, another doc is as it was, for plain SQL and for pushes.
        other.batch_execute(&format!("INSERT INTO u VALUES ({i}, 'b')")).unwrap();
        let push = format!(
            "SELECT crdt.push(2, '{{\"peer_id\":\"q\",\"frontier\":[],\"events\":[{{\"peer\":\"q\",\"counter_start\":{i},
             \"lamport_start\":{},\"deps\":[],\"ops\":[{{\"type\":\"update\",\"tbl\":\"u\",\"row_id\":\"{i}\",\"col\":\"v\",\"value\":\"c\"}}]}}]}}')",
            10 * i + 1
        );
        other.batch_execute(&push).unwrap();
        client.batch_execute("ROLLBACK").unwrap();
    }
    client.batch_execute("INSERT INTO t VALUES (2, 'b')").unwrap();
    assert_eq!(rows(&mut client, &format!("{GREATEST}1")), ["2"], "two inserts");
    let greatest: i64 = rows(&mut client, &format!("{GREATEST}2"))[0].parse().unwrap();
    assert!(greatest < 400, "{greatest}");
    // What is written beside a running push is above it, whatever becomes of it, and within the bound.
    for round in 1..=5 {
        let greatest: i64 = rows(&mut client, &format!("{GREATEST}1"))[0].parse().unwrap();
        client
            .batch_execute(&format!("BEGIN; SELECT crdt.push(1, update('far', 0, {}, 1, 'never'))", greatest + 65_000))
            .unwrap();
        other.batch_execute(&format!("INSERT INTO t VALUES (10{round}, 'beside')")).unwrap();
        client.batch_execute("ROLLBACK").unwrap();
        let then: i64 = rows(&mut client, &format!("{GREATEST}1"))[0].parse().unwrap();
        assert_eq!(then, greatest + 65_001, "round {round}");
    }
    expect_error(client.batch_execute("SELECT crdt.push(1, update('far', 0, 9007199254740990, 1, 'never'))"), "CR006");
    agrees(&mut client);
    assert_eq!(rows(&mut client, "SELECT * FROM crdt.verify('u')"), Vec::<String>::new());
    assert_eq!(rows(&mut client, "SELECT count(*) FROM crdt.peers WHERE peer = 'far'"), ["0"]);
}

/// A client of the system that is followed raises its clock to the greatest it has seen and adds one for each event it
/// receives. It has received 100,000 events of 100 peers that knew nothing of each other.
#[test]
fn an_honest_client_that_received_very_much_may_push() {
    let cluster = Cluster::start("honest", &[]);
    let database = database(&cluster, "honest");
    let mut client = cluster.connect(&database);
    for peer in 0..100 {
        let push = format!(
            "SELECT crdt.push(1, request('peer {peer}', 0, 1, (SELECT json_agg(json_build_object(
                 'type', 'update', 'tbl', 't', 'row_id', (i % 50)::text, 'col', 'v', 'value', i::text))
               FROM generate_series(1, 1000) AS i))) -> 'accepted'"
        );
        assert_eq!(rows(&mut client, &push), ["1000"]);
    }
    assert_eq!(rows(&mut client, &format!("{GREATEST}1")), ["1000"]);
    // The greatest is 1,000. Told in the worst order, the greatest first, its clock stands at 101,000; one more is its own.
    let push = |lamport: i64| format!("SELECT crdt.push(1, update('honest', 0, {lamport}, 1, 'honest')) -> 'accepted'");
    for _ in 0..2 {
        expect_error(client.simple_query(&push(101_002)), "CR006");
        client.batch_execute("BEGIN").unwrap();
        assert_eq!(rows(&mut client, &push(101_001)), ["1"]);
        client.batch_execute("ROLLBACK").unwrap();
        // Then all that shared memory held is read from the log.
        cluster.restart_immediately();
        client = cluster.connect(&database);
    }
    assert_eq!(rows(&mut client, &push(101_001)), ["1"]);
    client.batch_execute("INSERT INTO t VALUES (1, 'plain')").unwrap();
    agrees(&mut client);
}
