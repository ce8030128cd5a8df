//! Ephemeral registers and notifications over real connections.
//!
//! | module | tests |
//! |---|---|
//! | [`events`] | what listeners of registers hear: join, update, leave; batches; what is not told |
//! | [`commits`] | what listeners of durable changes hear |
//! | [`workers`] | the background worker is killed, cannot start, has a stalled listener or a full queue |
//! | [`databases`] | several databases; databases and the extension come, go and change names |
//! | [`memory`] | memory is full, of everybody and of one role |
//! | [`servers`] | restart, crash, standby; what is written to the log |

mod commits;
mod databases;
mod events;
mod memory;
mod servers;
mod workers;

use crdt_live::Cluster;
use postgres::Client;
use serde_json::Value;

/// A database with two docs, 1 and 2.
fn database(cluster: &Cluster, prefix: &str) -> String {
    let database = cluster.create_database(prefix);
    cluster.connect(&database).batch_execute("SELECT crdt.create_doc('one'), crdt.create_doc('two')").unwrap();
    database
}

/// Sets a register of doc 1.
fn set(client: &mut Client, key: &str, value: impl Into<Value>) {
    set_in(client, 1, key, value);
}

fn set_in(client: &mut Client, doc: i64, key: &str, value: impl Into<Value>) {
    client.execute("SELECT crdt.ephemeral_set($1, 'ns', $2, $3)", &[&doc, &key, &value.into()]).unwrap();
}

/// The value of a register of doc 1.
fn value(client: &mut Client, key: &str) -> Value {
    client
        .query_one("SELECT crdt.ephemeral_get(1, 'ns', $1) -> 'value'", &[&key])
        .unwrap()
        .get::<_, Option<_>>(0)
        .unwrap_or_default()
}

/// The worker's process, if there is one.
fn worker(client: &mut Client) -> Option<i64> {
    client.query_one("SELECT worker_pid FROM crdt.stat_ephemeral", &[]).unwrap().get(0)
}

/// One of the counts of `crdt.stat_ephemeral`.
fn count(client: &mut Client, what: &str) -> i64 {
    client.query_one(&format!("SELECT {what} FROM crdt.stat_ephemeral"), &[]).unwrap().get(0)
}
