//! One database with the extension in it, as a client sees it.

use crdt_engine::Limits;
use crdt_engine::wire::{Batch, PullRequest, PullResponse, PushRequest, PushResponse, Versions, binary, json};
use crdt_live::Cluster;
use postgres::Client;
use postgres::types::Json;
use serde_json::value::RawValue;

/// Operations a page of a pull holds.
const PAGE: u64 = 20_000;

/// A database and the doc in it that the demo is about.
pub struct Hub {
    /// What its own events are authored as.
    pub name: &'static str,
    /// The database.
    pub database: String,
    /// A connection to it.
    pub client: Client,
    /// The doc.
    pub doc: i64,
}

impl Hub {
    /// A new database with a doc whose peer has the hub's name.
    pub fn create(cluster: &Cluster, name: &'static str) -> Hub {
        let database = cluster.create_database(name);
        let mut client = cluster.connect(&database);
        let doc = client.query_one("SELECT crdt.create_doc($1)", &[&name]).expect("a doc").get(0);
        Hub { name, database, client, doc }
    }

    /// One number.
    pub fn number(&mut self, sql: &str) -> u64 {
        let row = self.client.query_one(sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        row.get::<_, i64>(0) as u64
    }

    /// Sends events with `crdt.push`.
    pub fn push_json(&mut self, sender: &str, batch: Batch) -> PushResponse {
        let mut text = String::new();
        let request = PushRequest { peer_id: sender.to_owned(), batch, frontier: vec![] };
        json::write_push(&mut text, &request).expect("a request");
        let row = self.client.query_one("SELECT crdt.push($1, $2::text)", &[&self.doc, &text]);
        let answer: Json<Box<RawValue>> = row.unwrap_or_else(|e| panic!("crdt.push: {e:?}")).get(0);
        json::decode_push_response(answer.0.get().as_bytes(), &Limits::default()).expect("an answer")
    }

    /// Sends events with `crdt.push_binary`. Answers also how many bytes were sent.
    pub fn push(&mut self, sender: &str, batch: Batch) -> (PushResponse, u64) {
        let request = PushRequest { peer_id: sender.to_owned(), batch, frontier: vec![] };
        let bytes = binary::encode_push(&request).expect("a request");
        let row = self.client.query_one("SELECT crdt.push_binary($1, $2)", &[&self.doc, &bytes]);
        let answer: Vec<u8> = row.unwrap_or_else(|e| panic!("crdt.push_binary: {e:?}")).get(0);
        (binary::decode_push_response(&answer, &Limits::default()).expect("an answer"), bytes.len() as u64)
    }

    /// A page of what `known` does not hold, by `crdt.pull_binary`, and how many bytes came.
    pub fn pull(&mut self, sender: &str, known: &Versions) -> (PullResponse, u64) {
        let (peer_id, known) = (Some(sender.to_owned()), known.clone());
        let request = PullRequest { peer_id, known, limit: Some(PAGE), accept: vec![] };
        let bytes = binary::encode_pull(&request).expect("a request");
        let row = self.client.query_one("SELECT crdt.pull_binary($1, $2)", &[&self.doc, &bytes]);
        let answer: Vec<u8> = row.unwrap_or_else(|e| panic!("crdt.pull_binary: {e:?}")).get(0);
        (binary::decode_pull_response(&answer, &Limits::trusted()).expect("an answer"), answer.len() as u64)
    }

    /// What the hub knows.
    pub fn version(&mut self) -> Versions {
        let row = self.client.query_one("SELECT crdt.version($1)", &[&self.doc]).expect("crdt.version");
        let text: Json<Box<RawValue>> = row.get(0);
        json::decode_versions(text.0.get().as_bytes(), &Limits::trusted()).expect("versions")
    }

    /// Brings over what another hub has, page by page. Answers events and bytes.
    pub fn fetch_from(&mut self, other: &mut Hub, mut progress: impl FnMut(u64)) -> (u64, u64) {
        let (mut events, mut bytes) = (0, 0);
        let courier = format!("courier from {} to {}", other.name, self.name);
        loop {
            let known = self.version();
            let (page, size) = other.pull(&courier, &known);
            if page.batch.runs.is_empty() {
                return (events, bytes);
            }
            let (answer, _) = self.push(&courier, page.batch);
            (events, bytes) = (events + answer.accepted, bytes + size);
            progress(events);
            if !page.has_more {
                return (events, bytes);
            }
        }
    }

    /// A table as text, sorted bytewise by its key: see `crate::authors::table_text`.
    pub fn table_text(&mut self, table: &str, key: &str, columns: &[String], except: &[String]) -> String {
        let cells: String = columns.iter().map(|c| format!(" || E'\\t' || coalesce({c}::text, '\\N')")).collect();
        let sql = format!(
            "SELECT coalesce(string_agg({key}::text{cells} || E'\\n', '' ORDER BY {key}::text COLLATE \"C\"), '') \
             FROM {table} WHERE NOT {key}::text = ANY ($1)"
        );
        self.client.query_one(&sql, &[&except]).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }

    /// What `crdt.verify` says of a table: nothing, one hopes.
    pub fn differences(&mut self, table: &str) -> Vec<String> {
        let sql = format!("SELECT d::text FROM crdt.verify('{table}') AS d");
        let rows = self.client.query(&sql, &[]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        rows.iter().map(|row| format!("{}: {}", self.name, row.get::<_, String>(0))).collect()
    }

    /// The MD5 of a text.
    pub fn md5(&mut self, text: &str) -> String {
        self.client.query_one("SELECT md5($1)", &[&text]).expect("md5").get(0)
    }
}
