//! Push and pull against what plain SQL needs for the same rows.

use std::io::Read;

use crdt_engine::Limits;
use crdt_engine::wire::{PullRequest, PullResponse, Versions, binary, json as wire_json};
use postgres::types::ToSql;
use postgres::{Client, SimpleQueryMessage, ToStatement};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Bench;
use crate::data::{create_source, create_table, fill, track, variant};
use crate::measure::{Cost, Pair, backend_cost, turns};
use crate::report::{Line, Unit};

/// Cells of each pushed row.
const CELLS: usize = 4;

/// A push of 100,000 cells in 25,000 rows, nothing concurrent and with a tenth of the rows written by others; the same
/// again. The statement is prepared once, as a client does that pushes often: planned anew each time, PostgreSQL copies the
/// request four times, which is most of what the same JSON costs again.
pub fn push(bench: &Bench) -> Vec<Line> {
    let rows = 25_000 / bench.options.shrink;
    let database = bench.cluster.create_database("push");
    let mut client = bench.cluster.connect(&database);
    create_source(&mut client, rows);
    let source = Source::read(&mut client);
    let mut lines = Vec::new();
    for form in [Form::Binary, Form::Json] {
        let prepared = client.prepare(form.push_sql()).expect("crdt.push");
        let mut again = Pair::default();
        for conflicting in [false, true] {
            let mut pair = Pair::default();
            for (round, ours) in turns(bench.options.repeats) {
                let table = format!("push_{form:?}_{conflicting}_{}_{round}", variant(ours)).to_lowercase();
                let doc = create_table(&mut client, &table, ours);
                if conflicting {
                    let sql = format!("INSERT INTO {table} SELECT * FROM source WHERE id % 10 = 0");
                    client.batch_execute(&sql).expect("the concurrent rows");
                }
                client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
                let Some(doc) = doc else {
                    pair.push(false, source.upsert(&mut client, &table));
                    continue;
                };
                let request = Push::new(form, source.push_request(&table, "laptop"));
                let first = request.cost(&mut client, &prepared, doc, rows);
                pair.push(true, first);
                again.push(false, first);
                again.push(true, request.cost(&mut client, &prepared, doc, 0));
            }
            let case = if conflicting { "10% conflicting" } else { "nothing concurrent" };
            lines.push(Line {
                what: format!("push of {} cells in {rows} rows, {}, {case}", CELLS * rows, form.name()),
                reference: "INSERT ... SELECT unnest ... ON CONFLICT DO UPDATE",
                measured: Some(pair.cpu_ratio()),
                reach: 2.0,
                aim: 1.25,
                unit: Unit::Times,
                detail: pair.detail(),
            });
        }
        lines.push(Line {
            what: format!("pushing the same again, {}", form.name()),
            reference: "first push",
            measured: Some(again.cpu_ratio()),
            reach: 1.0 / 30.0,
            aim: 1.0 / 100.0,
            unit: Unit::Times,
            detail: again.detail(),
        });
    }
    lines
}

/// A pull of everything by somebody who has nothing, against a binary COPY of the plain table.
pub fn pull_everything(bench: &Bench) -> Vec<Line> {
    let rows = 100_000 / bench.options.shrink;
    let database = bench.cluster.create_database("pull");
    let mut client = bench.cluster.connect(&database);
    create_source(&mut client, rows);
    let doc = create_table(&mut client, "pulled", true).expect("a doc");
    let step = rows.div_ceil(10);
    for first in (1..=rows).step_by(step) {
        fill(&mut client, "pulled", first, (first + step - 1).min(rows));
    }
    let mut line = |form: Form, reach: f64, aim: f64| {
        let mut pair = Pair::default();
        let mut bytes = [0; 2];
        for (_, ours) in turns(bench.options.repeats) {
            let (cost, size) = if ours { pull_all(&mut client, doc, form) } else { copy_out(&mut client, "pulled") };
            bytes[usize::from(ours)] = size;
            pair.push(ours, cost);
        }
        Line {
            what: format!("pull of everything ({rows} rows), {}", form.name()),
            reference: "binary COPY of the plain table",
            measured: Some(pair.cpu_ratio()),
            reach,
            aim,
            unit: Unit::Times,
            detail: format!("{}, {} bytes against {}", pair.detail(), bytes[1], bytes[0]),
        }
    };
    vec![line(Form::Binary, 1.0, 0.3), line(Form::Json, 8.0, 3.0)]
}

/// What 100 new events cost when the log is long: in a log of 1,000,000 against one of 10,000.
pub fn growth(bench: &Bench) -> Vec<Line> {
    let database = bench.cluster.create_database("growth");
    let mut client = bench.cluster.connect(&database);
    let events = 1_000_000 / bench.options.shrink;
    let mut long = Log::fill(&mut client, "long_log", events);
    let mut short = Log::fill(&mut client, "short_log", events / 100);
    client.batch_execute("VACUUM ANALYZE").expect("VACUUM");
    client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
    let [mut pulls, mut pushes, mut strangers] = [const { Vec::new() }; 3];
    // Each costs little: more of them make a steady median.
    for (round, ours) in turns(8 * bench.options.repeats) {
        let log = if ours { &mut long } else { &mut short };
        pulls.push((ours, log.pull_new(&mut client, round)));
        pushes.push((ours, log.push_up_to_date(&mut client, round)));
        strangers.push((ours, log.push_as_stranger(&mut client, round)));
    }
    let line = |what: &str, costs: Vec<(bool, Cost)>| {
        let mut pair = Pair::default();
        costs.into_iter().for_each(|(ours, cost)| pair.push(ours, cost));
        Line {
            what: format!("{what}, log of {events}"),
            reference: "the same with a log a hundredth as long",
            measured: Some(pair.cpu_ratio()),
            reach: 1.5,
            aim: 1.05,
            unit: Unit::Times,
            detail: pair.detail(),
        }
    };
    vec![
        line("pull of 100 new events", pulls),
        line("push of 100 by an up-to-date peer", pushes),
        line("push of 100 by a peer that never pulled", strangers),
    ]
}

/// A tracked table whose log has a given length.
struct Log {
    table: &'static str,
    doc: i64,
    rows: usize,
    /// Rows inserted after `fill`, so that each pull has something new.
    added: usize,
    /// The up-to-date peer's next counter.
    counter: usize,
}

impl Log {
    const CHANGES: usize = 100;

    fn fill(client: &mut Client, table: &'static str, events: usize) -> Log {
        client.batch_execute(&format!("CREATE TABLE {table} (id bigint PRIMARY KEY, v text)")).expect("CREATE TABLE");
        let doc = track(client, table);
        let step = 1_000.min(events);
        for first in (1..=events).step_by(step) {
            let last = (first + step - 1).min(events);
            let rows = format!("SELECT i, md5(i::text) FROM generate_series({first}, {last}) AS i");
            client.batch_execute(&format!("INSERT INTO {table} {rows}")).expect("INSERT");
        }
        Log { table, doc, rows: events, added: 0, counter: 0 }
    }

    fn version(&self, client: &mut Client) -> Value {
        client.query_one("SELECT crdt.version($1)::text::json", &[&self.doc]).expect("crdt.version").get(0)
    }

    fn pull_new(&mut self, client: &mut Client, round: usize) -> Cost {
        let version: Versions = serde_json::from_value(self.version(client)).expect("a version vector");
        let request = pull_request(version);
        let first = self.rows + self.added + 1;
        self.added += Self::CHANGES;
        let rows =
            format!("SELECT i, 'round {round}' FROM generate_series({first}, {}) AS i", first + Self::CHANGES - 1);
        client.batch_execute(&format!("INSERT INTO {} {rows}", self.table)).expect("INSERT");
        let (cost, answer) = backend_cost(client, |client| pull_page(client, self.doc, Form::Json, &request));
        assert_eq!(Form::Json.read(&answer).batch.ops.len(), Self::CHANGES, "the pull brings what is new");
        cost
    }

    fn push_up_to_date(&mut self, client: &mut Client, round: usize) -> Cost {
        let frontier: Value =
            client.query_one("SELECT crdt.frontier($1)::text::json", &[&self.doc]).expect("crdt.frontier").get(0);
        // Everything in the log is at most this old: an event a line, and one push of the stranger's a round.
        let lamport = self.rows + self.added + (round + 1) * 4 * Self::CHANGES;
        let request = self.changes("guest", self.counter, lamport, frontier, round);
        self.counter += Self::CHANGES;
        request.cost(client, Form::Json.push_sql(), self.doc, Self::CHANGES)
    }

    fn push_as_stranger(&mut self, client: &mut Client, round: usize) -> Cost {
        let request = self.changes(&format!("stranger {round}"), 0, 1, json!([]), round);
        request.cost(client, Form::Json.push_sql(), self.doc, Self::CHANGES)
    }

    /// A push that updates rows spread over the first hundredth of the long log, which both logs have.
    fn changes(&self, peer: &str, counter: usize, lamport: usize, deps: Value, round: usize) -> Push {
        let spread = self.rows / Self::CHANGES;
        let ops: Vec<Value> = (0..Self::CHANGES)
            .map(|i| {
                let row = 1 + (i * spread + round * 7) % self.rows;
                json!({"type": "update", "tbl": self.table, "row_id": row.to_string(), "col": "v", "value": format!("by {peer}")})
            })
            .collect();
        Push::new(Form::Json, push_request(peer, counter, lamport, deps, ops))
    }
}

/// Rows to push, read once.
struct Source {
    ids: Vec<i64>,
    a: Vec<String>,
    b: Vec<String>,
    c: Vec<i32>,
    d: Vec<String>,
}

impl Source {
    fn read(client: &mut Client) -> Source {
        client.batch_execute("SET timezone = 'UTC'").expect("SET");
        let rows = client.query("SELECT id, a, b, c, d::text FROM source ORDER BY id", &[]).expect("the source");
        Source {
            ids: rows.iter().map(|row| row.get(0)).collect(),
            a: rows.iter().map(|row| row.get(1)).collect(),
            b: rows.iter().map(|row| row.get(2)).collect(),
            c: rows.iter().map(|row| row.get(3)).collect(),
            d: rows.iter().map(|row| row.get(4)).collect(),
        }
    }

    fn push_request(&self, table: &str, peer: &str) -> Box<RawValue> {
        let insert = |i: usize| {
            let values = json!([["a", self.a[i]], ["b", self.b[i]], ["c", self.c[i]], ["d", self.d[i]]]);
            json!({"type": "insert", "tbl": table, "row_id": self.ids[i].to_string(), "values": values})
        };
        push_request(peer, 0, 1, json!([]), (0..self.ids.len()).map(insert).collect())
    }

    fn upsert(&self, client: &mut Client, table: &str) -> Cost {
        let sql = format!(
            "INSERT INTO {table} (id, a, b, c, d) SELECT r.id, r.a, r.b, r.c, r.d::timestamptz \
             FROM unnest($1::bigint[], $2::text[], $3::text[], $4::int[], $5::text[]) AS r (id, a, b, c, d) \
             ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b, c = excluded.c, d = excluded.d"
        );
        let (cost, written) = backend_cost(client, |client| {
            client.execute(&sql, &[&self.ids, &self.a, &self.b, &self.c, &self.d]).expect("the upsert")
        });
        assert_eq!(written as usize, self.ids.len());
        cost
    }
}

/// Also used by the measurement of memory: rows `1..=rows` of made-up values for `table`.
pub fn synthetic_push(table: &str, rows: usize) -> Box<RawValue> {
    let insert = |i: usize| {
        let values = json!([
            ["a", format!("text number {i} of many")],
            ["b", "Springfield"],
            ["c", i],
            ["d", "2026-01-01 00:00:00+00"]
        ]);
        json!({"type": "insert", "tbl": table, "row_id": i.to_string(), "values": values})
    };
    push_request("laptop", 0, 1, json!([]), (1..=rows).map(insert).collect())
}

fn push_request(peer: &str, counter: usize, lamport: usize, deps: Value, ops: Vec<Value>) -> Box<RawValue> {
    let frontier = json!([[peer, counter + ops.len() - 1]]);
    let run = json!({"peer": peer, "counter_start": counter, "lamport_start": lamport, "deps": deps, "ops": ops});
    let request = json!({"peer_id": peer, "events": [run], "frontier": frontier});
    RawValue::from_string(request.to_string()).expect("JSON")
}

/// In which of its two forms a request and its answer travel.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Json,
    Binary,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Form::Json => "JSON",
            Form::Binary => "binary",
        }
    }

    /// The statement that pushes in this form: the doc, the request.
    pub fn push_sql(self) -> &'static str {
        match self {
            Form::Json => "SELECT crdt.push($1, $2::text)",
            Form::Binary => "SELECT crdt.push_binary($1, $2)",
        }
    }

    fn read(self, answer: &[u8]) -> PullResponse {
        let read = match self {
            Form::Json => wire_json::decode_pull_response(answer, &Limits::trusted()),
            Form::Binary => binary::decode_pull_response(answer, &Limits::trusted()),
        };
        read.expect("an answer to pull")
    }
}

/// A push ready to be sent.
pub enum Push {
    Json(Box<RawValue>),
    Binary(Vec<u8>),
}

impl Push {
    pub fn new(form: Form, request: Box<RawValue>) -> Push {
        match form {
            Form::Json => Push::Json(request),
            Form::Binary => {
                let decoded = wire_json::decode_push(request.get().as_bytes(), &Limits::trusted()).expect("a push");
                Push::Binary(binary::encode_push(&decoded).expect("a push"))
            }
        }
    }

    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        match self {
            Push::Json(request) => request.get().len(),
            Push::Binary(request) => request.len(),
        }
    }

    /// Sends it by a [`Form::push_sql`], and answers how many events the hub took that it did not have.
    pub fn send(&self, client: &mut Client, sql: &(impl ToStatement + ?Sized), doc: i64) -> u64 {
        let request: &(dyn ToSql + Sync) = match self {
            Push::Json(request) => &request.get(),
            Push::Binary(request) => request,
        };
        let row = client.query_one(sql, &[&doc, request]).unwrap_or_else(|error| panic!("a push: {error:?}"));
        match self {
            Push::Json(_) => {
                let answer: Value = row.get(0);
                answer["accepted"].as_u64().unwrap_or_else(|| panic!("crdt.push answered {answer}"))
            }
            Push::Binary(_) => {
                let answer: Vec<u8> = row.get(0);
                binary::decode_push_response(&answer, &Limits::trusted()).expect("an answer to push").accepted
            }
        }
    }

    fn cost(&self, client: &mut Client, sql: &(impl ToStatement + ?Sized), doc: i64, expected: usize) -> Cost {
        let (cost, accepted) = backend_cost(client, |client| self.send(client, sql, doc));
        assert_eq!(accepted as usize, expected, "events that the hub took");
        cost
    }
}

fn pull_request(known: Versions) -> PullRequest {
    PullRequest { peer_id: Some("reader".into()), known, ..PullRequest::default() }
}

fn pull_page(client: &mut Client, doc: i64, form: Form, request: &PullRequest) -> Vec<u8> {
    match form {
        Form::Json => {
            let mut text = String::new();
            wire_json::write_pull(&mut text, request).expect("a pull");
            // Simple queries bring the text as the server made it.
            let answer = client.simple_query(&format!("SELECT crdt.pull({doc}, '{}')", text.replace('\'', "''")));
            let messages = answer.unwrap_or_else(|error| panic!("crdt.pull: {error:?}"));
            let row = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            row.expect("an answer").as_bytes().to_vec()
        }
        Form::Binary => {
            let request = binary::encode_pull(request).expect("a pull");
            let row = client.query_one("SELECT crdt.pull_binary($1, $2)", &[&doc, &request]);
            row.unwrap_or_else(|error| panic!("crdt.pull_binary: {error:?}")).get(0)
        }
    }
}

// Reading the answers is the client's work and not measured.
fn pull_all(client: &mut Client, doc: i64, form: Form) -> (Cost, usize) {
    let (mut total, mut bytes, mut request) = (Cost::default(), 0, pull_request(Versions::new()));
    loop {
        let (cost, answer) = backend_cost(client, |client| pull_page(client, doc, form, &request));
        total = Cost { wall: total.wall + cost.wall, cpu: total.cpu + cost.cpu };
        bytes += answer.len();
        let answer = form.read(&answer);
        if !answer.has_more {
            return (total, bytes);
        }
        request.known = answer.versions;
    }
}

fn copy_out(client: &mut Client, table: &str) -> (Cost, usize) {
    backend_cost(client, |client| {
        let mut reader = client.copy_out(&format!("COPY {table} TO STDOUT (FORMAT binary)")).expect("COPY");
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("COPY's data")
    })
}
