//! What must be shown, from a log alone.

use std::collections::BTreeMap;

use crate::admit::{Clock, EventView, admit, digest};
use crate::id::{EventId, MAX_CLOCK};
use crate::merge::oracle::replay_row_slowly;
use crate::oplog::{Batch, Oplog};
use crate::replica::{Tables, Value};

/// A log rebuilt from all of its runs: says so when they do not hang together.
pub(super) fn log_of(mut batch: Batch) -> Result<Oplog, String> {
    let mut log = Oplog::new();
    let clock = Clock { greatest: MAX_CLOCK, events: 0 };
    let admitted = admit(&mut batch, &mut &log, clock).map_err(|error| format!("a log that is not sound: {error}"))?;
    log.append(&batch, &admitted).map_err(|error| error.to_string())?;
    Ok(log)
}

/// The tables that a log stands for.
pub(super) fn tables_of(log: &Oplog) -> Tables {
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

/// Every event of a log with a digest of its content.
pub(super) fn digests(log: &Oplog) -> BTreeMap<EventId, u64> {
    let digest_of = |event: crate::merge::Candidate<'_>| {
        let (peer, counter, lamport) = (event.dot.peer, event.dot.counter, event.dot.lamport);
        let view = EventView { peer, counter, lamport, op: event.op, deps: &[] };
        (EventId::new(peer, counter), digest(&view))
    };
    log.events().map(digest_of).collect()
}
