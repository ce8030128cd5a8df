//! A small tracked table, and requests of clients for it.

use std::collections::BTreeMap;

use postgres::Client;

use crate::Cluster;
use crate::expect::rows;
use crate::log::wrong_spans;

/// A database with a tracked table `t (id int, v text)` in doc 1, and two SQL functions that make push requests:
/// `inserts(peer, lamport, first, last)` of rows and `update(peer, counter, lamport, id, v)` of one cell.
pub fn database(cluster: &Cluster, prefix: &str) -> String {
    let database = cluster.create_database(prefix);
    cluster
        .connect(&database)
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             SELECT crdt.track('t', crdt.create_doc('hub'));
             CREATE FUNCTION request(peer text, counter bigint, lamport bigint, ops json) RETURNS json LANGUAGE sql AS $$
                 SELECT json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', json_build_array(
                     json_build_object('peer', peer, 'counter_start', counter, 'lamport_start', lamport,
                         'deps', '[]'::json, 'ops', ops))) $$;
             CREATE FUNCTION inserts(peer text, lamport bigint, first int, last int) RETURNS json LANGUAGE sql AS $$
                 SELECT request(peer, 0, lamport,
                     (SELECT json_agg(json_build_object('type', 'insert', 'tbl', 't', 'row_id', i::text, 'values',
                         json_build_array(json_build_array('v', 'pushed')))) FROM generate_series(first, last) AS i)) $$;
             CREATE FUNCTION update(peer text, counter bigint, lamport bigint, id int, v text) RETURNS json LANGUAGE sql AS $$
                 SELECT request(peer, counter, lamport, json_build_array(json_build_object(
                     'type', 'update', 'tbl', 't', 'row_id', id::text, 'col', 'v', 'value', v))) $$;",
        )
        .expect("a database with a tracked table");
    database
}

/// Table and log say the same, and the log is in order.
pub fn agrees(client: &mut Client) {
    assert_eq!(wrong_spans(client), Vec::<String>::new());
    assert_eq!(rows(client, "SELECT * FROM crdt.verify('t')"), Vec::<String>::new());
}

/// All events of doc 1 by `(peer, counter)`, each as its lamport and operation.
pub fn events(client: &mut Client) -> BTreeMap<(String, i64), String> {
    let sql = "SELECT run ->> 'peer', (run ->> 'counter_start')::bigint + n - 1,
                      concat_ws(' ', (run ->> 'lamport_start')::bigint + n - 1, op)
                 FROM jsonb_array_elements(crdt.doc_get_pending(1, '{}')) AS run,
                      jsonb_array_elements(run -> 'ops') WITH ORDINALITY AS o (op, n)";
    let found = client.query(sql, &[]).expect("crdt.doc_get_pending");
    found.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
}
