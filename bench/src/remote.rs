//! Push and pull against what plain SQL needs for the same rows.

use std::io::Read;

use postgres::Client;
use postgres::types::Json;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Bench;
use crate::data::{create_source, create_table, fill, track, variant};
use crate::measure::{Cost, Pair, backend_cost, turns};
use crate::report::{Line, Unit};

/// Cells of each pushed row.
const CELLS: usize = 4;

/// A push of 100,000 cells in 25,000 rows, nothing concurrent and with a tenth of the rows written by others; the same
/// again.
pub fn push(bench: &Bench) -> Vec<Line> {
    let rows = 25_000 / bench.options.shrink;
    let database = bench.cluster.create_database("push");
    let mut client = bench.cluster.connect(&database);
    create_source(&mut client, rows);
    let source = Source::read(&mut client);
    let mut lines = Vec::new();
    let mut again = Pair::default();
    for (suffix, conflicting) in [("nothing concurrent", 0), ("10% conflicting", 10)] {
        let mut pair = Pair::default();
        for (round, ours) in turns(bench.options.repeats) {
            let table = format!("push_{conflicting}_{}_{round}", variant(ours));
            let doc = create_table(&mut client, &table, ours);
            if conflicting > 0 {
                let sql = format!("INSERT INTO {table} SELECT * FROM source WHERE id % {conflicting} = 0");
                client.batch_execute(&sql).expect("the concurrent rows");
            }
            client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
            match doc {
                Some(doc) => {
                    let request = source.push_request(&table, "laptop");
                    let first = push_cost(&mut client, doc, &request, rows);
                    pair.push(true, first);
                    again.reference.push(first);
                    again.ours.push(push_cost(&mut client, doc, &request, 0));
                }
                None => pair.push(false, source.upsert(&mut client, &table)),
            }
        }
        lines.push(Line {
            what: format!("push of {} cells in {rows} rows as JSON, {suffix}", CELLS * rows),
            reference: "INSERT ... SELECT unnest ... ON CONFLICT DO UPDATE",
            measured: Some(pair.cpu_ratio()),
            reach: 2.0,
            aim: 1.25,
            unit: Unit::Times,
            detail: pair.detail(),
        });
    }
    lines.push(Line {
        what: "pushing the same again".into(),
        reference: "first push",
        measured: Some(again.cpu_ratio()),
        reach: 1.0 / 30.0,
        aim: 1.0 / 100.0,
        unit: Unit::Times,
        detail: again.detail(),
    });
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
    let mut pair = Pair::default();
    let mut bytes = [0; 2];
    for (_, ours) in turns(bench.options.repeats) {
        let (cost, size) = if ours { pull_all(&mut client, doc) } else { copy_out(&mut client, "pulled") };
        bytes[usize::from(ours)] = size;
        pair.push(ours, cost);
    }
    vec![Line {
        what: format!("pull of everything ({rows} rows), JSON"),
        reference: "binary COPY of the plain table",
        measured: Some(pair.cpu_ratio()),
        reach: 8.0,
        aim: 3.0,
        unit: Unit::Times,
        detail: format!("{}, {} bytes against {}", pair.detail(), bytes[1], bytes[0]),
    }]
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
        let request = json!({"peer_id": "reader", "known_peers": self.version(client)});
        let first = self.rows + self.added + 1;
        self.added += Self::CHANGES;
        let rows =
            format!("SELECT i, 'round {round}' FROM generate_series({first}, {}) AS i", first + Self::CHANGES - 1);
        client.batch_execute(&format!("INSERT INTO {} {rows}", self.table)).expect("INSERT");
        let (cost, answer) = backend_cost(client, |client| pull_page(client, self.doc, &request));
        assert_eq!(operations(&answer), Self::CHANGES, "the pull brings what is new");
        cost
    }

    fn push_up_to_date(&mut self, client: &mut Client, round: usize) -> Cost {
        let frontier: Value =
            client.query_one("SELECT crdt.frontier($1)::text::json", &[&self.doc]).expect("crdt.frontier").get(0);
        // Everything in the log is at most this old: an event a line, and one push of the stranger's a round.
        let lamport = self.rows + self.added + (round + 1) * 4 * Self::CHANGES;
        let request = self.changes("guest", self.counter, lamport, frontier, round);
        self.counter += Self::CHANGES;
        push_cost(client, self.doc, &request, Self::CHANGES)
    }

    fn push_as_stranger(&mut self, client: &mut Client, round: usize) -> Cost {
        let request = self.changes(&format!("stranger {round}"), 0, 1, json!([]), round);
        push_cost(client, self.doc, &request, Self::CHANGES)
    }

    /// A push that updates rows spread over the first hundredth of the long log, which both logs have.
    fn changes(&self, peer: &str, counter: usize, lamport: usize, deps: Value, round: usize) -> Box<RawValue> {
        let spread = self.rows / Self::CHANGES;
        let ops: Vec<Value> = (0..Self::CHANGES)
            .map(|i| {
                let row = 1 + (i * spread + round * 7) % self.rows;
                json!({"type": "update", "tbl": self.table, "row_id": row.to_string(), "col": "v", "value": format!("by {peer}")})
            })
            .collect();
        push_request(peer, counter, lamport, deps, ops)
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

/// Pushes, and checks how many events the hub took that it did not have.
pub fn push_cost(client: &mut Client, doc: i64, request: &RawValue, expected: usize) -> Cost {
    let (cost, answer) = backend_cost(client, |client| push_now(client, doc, request));
    assert_eq!(answer["accepted"], json!(expected), "what the hub answered: {answer}");
    cost
}

/// Pushes and answers what the hub said.
pub fn push_now(client: &mut Client, doc: i64, request: &RawValue) -> Value {
    let row = client.query_one("SELECT crdt.push($1, $2)", &[&doc, &Json(request)]);
    row.unwrap_or_else(|error| panic!("crdt.push: {error:?}")).get(0)
}

fn pull_page(client: &mut Client, doc: i64, request: &Value) -> String {
    let row = client.simple_query(&format!("SELECT crdt.pull({doc}, '{}')", request.to_string().replace('\'', "''")));
    let messages = row.unwrap_or_else(|error| panic!("crdt.pull: {error:?}"));
    let answer = messages.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    answer.expect("an answer").to_owned()
}

fn operations(answer: &str) -> usize {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    let runs = answer["events"].as_array().expect("events");
    runs.iter().map(|run| run["ops"].as_array().expect("ops").len()).sum()
}

// Reading the answer is the client's work: it is not in the backend's CPU time, but it is in the wall time.
fn pull_all(client: &mut Client, doc: i64) -> (Cost, usize) {
    let (mut total, mut bytes, mut known) = (Cost::default(), 0, json!({}));
    loop {
        let request = json!({"peer_id": "reader", "known_peers": known});
        let (cost, answer) = backend_cost(client, |client| pull_page(client, doc, &request));
        total = Cost { wall: total.wall + cost.wall, cpu: total.cpu + cost.cpu };
        bytes += answer.len();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        if answer["has_more"] != json!(true) {
            return (total, bytes);
        }
        known = answer["versions"].clone();
    }
}

fn copy_out(client: &mut Client, table: &str) -> (Cost, usize) {
    backend_cost(client, |client| {
        let mut reader = client.copy_out(&format!("COPY {table} TO STDOUT (FORMAT binary)")).expect("COPY");
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).expect("COPY's data")
    })
}
