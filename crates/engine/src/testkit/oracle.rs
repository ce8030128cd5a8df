//! What must be shown, from a log alone.

use std::collections::BTreeMap;

use crate::admit::{Clock, EventView, admit, digest};
use crate::id::MAX_CLOCK;
use crate::merge::oracle::replay_row_slowly;
use crate::oplog::Oplog;
use crate::replica::{Row, Tables, Value};
use crate::wire::Batch;

/// A log rebuilt from all of its runs: says so when they do not hang together.
pub fn log_of(mut batch: Batch) -> Result<Oplog, String> {
    let mut log = Oplog::new();
    let clock = Clock { greatest: MAX_CLOCK, events: 0 };
    let admitted = admit(&mut batch, &mut &log, clock).map_err(|error| format!("a log that is not sound: {error}"))?;
    log.append(&batch, &admitted).map_err(|error| error.to_string())?;
    Ok(log)
}

/// The tables that a log stands for.
pub fn tables_of(log: &Oplog) -> Tables {
    let mut tables = Tables::new();
    for (tbl, row) in log.row_keys() {
        let events: Vec<_> = log.row(tbl, row).collect();
        if let Some(cells) = replay_row_slowly(&events) {
            let cells = cells.into_iter().map(|(col, (value, _))| (col.into(), Value::from(value)));
            tables.entry(tbl.into()).or_default().insert(row.into(), cells.collect());
        }
    }
    tables
}

/// Columns of a database's table that stand elsewhere already: those of its key in the row's id, and which doc it is.
const SAID: [&str; 3] = ["id", "k", "doc_name"];

/// Tables but for what a database's table cannot tell apart: NULL is a cell that nobody wrote, and [`SAID`].
pub fn visible(tables: &Tables) -> Tables {
    let rows = |rows: &BTreeMap<Box<str>, Row>| rows.iter().map(|(id, row)| (id.clone(), visible_row(row))).collect();
    tables.iter().map(|(tbl, of)| (tbl.clone(), rows(of))).collect()
}

fn visible_row(row: &Row) -> Row {
    let cells = row.iter().filter(|(col, value)| **value != Value::Null && !SAID.contains(&&***col));
    cells.map(|(col, value)| (col.clone(), value.clone())).collect()
}

/// The content of all events in one number, and how many they are, whatever the order and the cuts.
pub fn fingerprint(batch: &Batch) -> (u64, usize) {
    let mut sum = 0u64;
    for run in &batch.runs {
        let (mut counter, mut lamport) = (run.counter_start, run.lamport_start);
        for op in batch.ops.range(run.ops.clone()) {
            sum = sum.wrapping_add(digest(&EventView { peer: &run.peer, counter, lamport, op, deps: &[] }));
            counter += op.span();
            lamport += op.span();
        }
    }
    (sum, batch.ops.len())
}
