//! How large the log is, and how much memory a push takes.

use postgres::Client;

use crate::Bench;
use crate::data::{VALUE_COLUMNS, create_source, create_table};
use crate::measure::peak_memory;
use crate::remote::{Form, Push, synthetic_push};
use crate::report::{Line, Unit};

/// Bytes the log grows by beyond the values themselves, for each cell, everything counted: keys, indexes, TOAST.
pub fn log_size(bench: &Bench) -> Vec<Line> {
    let rows = 100_000 / bench.options.shrink;
    let database = bench.cluster.create_database("size");
    let mut client = bench.cluster.connect(&database);
    create_source(&mut client, rows);
    create_table(&mut client, "sized", true);
    let set = "a = md5(a), b = b || '!', c = c + 1, d = d + interval '1 s', e = e + 1";
    let insert = growth_of_log(&mut client, "INSERT INTO sized SELECT * FROM source");
    let inserted = values(&mut client);
    let update = growth_of_log(&mut client, &format!("UPDATE sized SET {set}"));
    let updated = values(&mut client);
    let line = |verb: &str, grown: i64, values: i64| {
        let cells = (rows * VALUE_COLUMNS) as f64;
        Line {
            what: format!("log size of an {verb} of {rows} rows x {VALUE_COLUMNS} columns, a cell"),
            reference: "values' own bytes",
            measured: Some((grown - values) as f64 / cells),
            reach: 4.0,
            aim: 2.0,
            unit: Unit::BytesPerCell,
            detail: format!("{grown} bytes for {values} of values"),
        }
    };
    vec![line("INSERT", insert, inserted), line("UPDATE", update, updated)]
}

fn growth_of_log(client: &mut Client, sql: &str) -> i64 {
    let before = log_bytes(client);
    client.batch_execute(sql).expect("the statement");
    log_bytes(client) - before
}

fn log_bytes(client: &mut Client) -> i64 {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
        WHERE relnamespace = 'crdt'::regnamespace AND relkind = 'r'";
    client.query_one(sql, &[]).expect("the log's size").get(0)
}

// Text as it is, numbers and times as PostgreSQL stores them.
fn values(client: &mut Client) -> i64 {
    let sql = "SELECT sum(octet_length(a) + octet_length(b) + 4 + 8 + pg_column_size(e))::bigint FROM sized";
    client.query_one(sql, &[]).expect("the values' size").get(0)
}

/// The backend's private memory at the peak of a push, beyond 64 MiB, against the size of its payload.
pub fn push_memory(bench: &Bench) -> Vec<Line> {
    let database = bench.cluster.create_database("memory");
    let line = |rows: usize, form: Form| {
        // A backend of its own: memory that an earlier push left behind would hide this one's.
        let mut client = bench.cluster.connect(&database);
        let table = format!("memory_{rows}_{form:?}").to_lowercase();
        let doc = create_table(&mut client, &table, true).expect("a doc");
        let request = Push::new(form, synthetic_push(&table, rows));
        let payload = request.size() as f64;
        let (peak, _) = peak_memory(&mut client, |client| request.send(client, form.push_sql(), doc));
        Line {
            what: format!("peak memory of a push of {:.1} MB ({form:?}) beyond 64 MiB", payload / 1e6),
            reference: "payload",
            measured: Some((peak as f64 - 64.0 * 1024.0 * 1024.0).max(0.0) / payload),
            reach: 10.0,
            aim: 4.0,
            unit: Unit::Times,
            detail: format!("{:.1} MB", peak as f64 / 1e6),
        }
    };
    let sizes = [(25_000, Form::Json), (250_000, Form::Json), (250_000, Form::Binary)];
    sizes.map(|(rows, form)| line(rows / bench.options.shrink, form)).into()
}
