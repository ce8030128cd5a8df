//! A document in memory: what a client holds, and a hub in simulations.
//!
//! A replica writes as one peer, pushes what others lack, and applies what it is given by the window rule over its own
//! [`Oplog`]: the same steps the database takes, without a database. With [`Hooks`] it is a hub whose tables have
//! defaults and triggers, and writes derived events down where events enter. What it was given by another hub
//! ([`Replica::pull_in`]) is shown as it says.

mod hooks;
mod rows;

#[cfg(test)]
mod tests;

use crate::admit::{Admitted, Clock, admit};
use crate::error::Result;
use crate::id::{EventId, MAX_CLOCK};
use crate::merge::{LastDelete, Merged, Patch, RowMerge, merge_row, merge_row_with_history, replay_row};
use crate::oplog::{Found, History, Oplog, Page, Rows};
use crate::ops::{OpBuf, Origin};
use crate::planted::{self, Bug};
use crate::value::ValueRef;
use crate::wire::{Batch, Run, Versions};

pub use hooks::{Hooks, NoHooks};
pub use rows::{Change, Row, Tables, Value};

/// A document in memory.
#[derive(Clone, Debug)]
pub struct Replica<H = NoHooks> {
    peer: String,
    log: Oplog,
    tables: Tables,
    hooks: H,
}

/// What applying a batch came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Events that were new.
    pub accepted: u64,
    /// Events that were known, or told twice.
    pub duplicate: u64,
    /// What is shown otherwise now.
    pub changes: Vec<Change>,
    /// Rows that were merged, and how many of them needed their whole history.
    pub rows: usize,
    /// See `rows`.
    pub rows_by_history: usize,
}

impl Replica<NoHooks> {
    /// An empty document written to as `peer`, which nobody else may use.
    pub fn new(peer: impl Into<String>) -> Self {
        Replica::with_hooks(peer, NoHooks)
    }
}

impl<H: Hooks> Replica<H> {
    /// An empty document whose tables have a will of their own.
    pub fn with_hooks(peer: impl Into<String>, hooks: H) -> Self {
        Replica { peer: peer.into(), log: Oplog::new(), tables: Tables::new(), hooks }
    }

    /// Who writes here.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The log.
    pub fn log(&self) -> &Oplog {
        &self.log
    }

    /// All rows that exist.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// A row, if it exists.
    pub fn row(&self, tbl: &str, row: &str) -> Option<&Row> {
        self.tables.get(tbl)?.get(row)
    }

    /// Per peer the greatest counter known.
    pub fn versions(&self) -> Versions {
        self.log.versions()
    }

    /// The heads of what is known.
    pub fn frontier(&self) -> Vec<EventId> {
        self.log.frontier()
    }

    /// Runs that `known` does not hold, in a page of about `limit` operations.
    pub fn pull(&self, known: &Versions, limit: usize) -> Result<Page> {
        self.log.page(known, limit)
    }

    /// Writes an insert. A local write takes part by the same rules as any other: an insert of a row that is there sets
    /// the cells it names.
    pub fn insert(&mut self, tbl: &str, row: &str, values: &[(&str, ValueRef<'_>)]) -> Result<EventId> {
        let mut ops = OpBuf::new();
        let sym = ops.sym(tbl);
        ops.insert(sym, row)?;
        for &(col, value) in values {
            let col = ops.sym(col);
            ops.cell(col, value)?;
        }
        self.write(ops)
    }

    /// Writes an update of one cell. Of a row that is not there it changes nothing.
    pub fn update(&mut self, tbl: &str, row: &str, col: &str, value: ValueRef<'_>) -> Result<EventId> {
        let mut ops = OpBuf::new();
        let (tbl, col) = (ops.sym(tbl), ops.sym(col));
        ops.update(tbl, row, col, value, Origin::Explicit)?;
        self.write(ops)
    }

    /// Writes a delete.
    pub fn delete(&mut self, tbl: &str, row: &str) -> Result<EventId> {
        let mut ops = OpBuf::new();
        let tbl = ops.sym(tbl);
        ops.delete(tbl, row)?;
        self.write(ops)
    }

    /// Writes operations, at least one, as one transaction: consecutive events. Returns the last one's name.
    pub fn write(&mut self, ops: OpBuf) -> Result<EventId> {
        let mut batch = self.author(ops);
        let last = batch.runs[0].counter_start + (batch.ops.len() as u64).saturating_sub(1);
        let clock = Clock { greatest: MAX_CLOCK, events: 0 };
        let admitted = admit(&mut batch, &mut &self.log, clock)?;
        self.take(&batch, &admitted, false)?;
        Ok(EventId::new(self.peer.as_str(), last))
    }

    /// Takes what a client pushed: all of it or, on an error, nothing. Derived events are written down here.
    pub fn apply(&mut self, mut batch: Batch) -> Result<Applied> {
        let clock = Clock { greatest: self.log.graph().max_lamport(), events: self.log.len() as u64 };
        let admitted = admit(&mut batch, &mut &self.log, clock)?;
        self.log.compare(&batch, &admitted)?;
        self.take(&batch, &admitted, true)
    }

    /// Takes what was pulled from a hub: all of it or, on an error, nothing. The hub's clock is trusted, and what derives
    /// from the events the hub has written down itself.
    pub fn pull_in(&mut self, mut batch: Batch) -> Result<Applied> {
        let admitted = admit(&mut batch, &mut &self.log, Clock { greatest: MAX_CLOCK, events: 0 })?;
        self.log.compare(&batch, &admitted)?;
        self.take(&batch, &admitted, false)
    }

    /// A run of new events of this replica.
    fn author(&self, ops: OpBuf) -> Batch {
        let graph = self.log.graph();
        let next = graph.find_peer(&self.peer).map_or(0, |peer| graph.next_counter(peer));
        let run = Run {
            peer: self.peer.clone(),
            counter_start: next + u64::from(planted::is(Bug::CounterSkipped) && self.log.len() > 20),
            lamport_start: match planted::is(Bug::ClockNotRaised) {
                true => graph.find_peer(&self.peer).map_or(0, |peer| graph.next_counter(peer)) + 1,
                false => graph.max_lamport() + 1,
            },
            deps: self.frontier(),
            ops: 0..ops.len(),
            ..Run::default()
        };
        Batch { ops, runs: vec![run] }
    }

    /// Merges admitted events into the tables and appends them. `derive`: they enter the system here.
    fn take(&mut self, batch: &Batch, admitted: &Admitted, derive: bool) -> Result<Applied> {
        let rows = Rows::group(admitted.events(batch));
        let (mut window, mut past) = (Found::new(), Found::new());
        let (merges, rows_by_history) =
            self.merge(&rows, self.window_start(batch, admitted), derive, &mut window, &mut past)?;
        self.log.append(batch, admitted)?;
        let mut applied = Applied {
            accepted: admitted.accepted,
            duplicate: admitted.duplicate,
            changes: vec![],
            rows: rows.len(),
            rows_by_history,
        };
        let mut derived = OpBuf::new();
        for (key, merge) in rows.keys().zip(&merges) {
            self.show(key, merge, derive.then_some(&mut derived), &mut applied.changes)?;
        }
        if !derived.is_empty() {
            let mut batch = self.author(derived);
            let admitted = admit(&mut batch, &mut &self.log, Clock { greatest: MAX_CLOCK, events: 0 })?;
            self.log.append(&batch, &admitted)?;
        }
        Ok(applied)
    }

    /// L, the lamport at which the competition begins.
    fn window_start(&self, batch: &Batch, admitted: &Admitted) -> u64 {
        if planted::is(Bug::WindowFromLooseAncestor) {
            let graph = self.log.graph();
            let deps = admitted.new.iter().flat_map(|part| &batch.runs[part.run].deps);
            let known = deps.filter_map(|dep| graph.lamport(graph.local(dep)?));
            return known.max().map_or(0, |ancestor| ancestor + 1);
        }
        admitted.least_effective
    }

    /// Decides every row, and counts those whose history was read. The two buffers hold what the log finds.
    fn merge<'a>(
        &self,
        rows: &Rows<'a>,
        least: u64,
        derive: bool,
        window: &'a mut Found,
        past: &'a mut Found,
    ) -> Result<(Vec<RowMerge<'a>>, usize)> {
        (&self.log).events_on(&rows.keys().collect::<Vec<_>>(), least, window)?;
        let window = window.by_row(rows.len());
        let exists = |row: usize| self.row(rows.key(row).0, rows.key(row).1).is_some();
        let decide = |row| match merge_row(exists(row), window.events(row), rows.events(row)) {
            Merged::Row(merge) if !(derive && self.asks_last_delete(rows.key(row).0, &merge)) => Some(merge),
            _ => None,
        };
        let mut merges: Vec<Option<RowMerge<'a>>> = (0..rows.len()).map(decide).collect();
        let open: Vec<usize> = (0..merges.len()).filter(|&row| merges[row].is_none()).collect();
        let keys: Vec<_> = open.iter().map(|&row| rows.key(row)).collect();
        (&self.log).events_on(&keys, 0, past)?;
        let history = past.by_row(keys.len());
        for (at, &row) in open.iter().enumerate() {
            merges[row] = Some(merge_row_with_history(exists(row), history.events(at), rows.events(row)));
        }
        Ok((merges.into_iter().flatten().collect(), open.len()))
    }

    /// Defaults may fill in, and name the row's last delete, which the window did not show.
    fn asks_last_delete(&self, tbl: &str, merge: &RowMerge<'_>) -> bool {
        fills(merge) && merge.last_delete == LastDelete::Unknown && !self.hooks.defaults(tbl).is_empty()
    }

    /// Writes a patch to the table, through the hooks when events enter here.
    fn show(
        &mut self,
        key: (&str, &str),
        merge: &RowMerge<'_>,
        derived: Option<&mut OpBuf>,
        changes: &mut Vec<Change>,
    ) -> Result<()> {
        if merge.patch.is_none() {
            return Ok(());
        }
        let before = self.row(key.0, key.1).cloned();
        let after = match (derived, rows::patched(before.as_ref(), merge)) {
            (Some(ops), Some(row)) => {
                let hooked = hooks::run(&self.hooks, key.0, before.as_ref(), row, fills(merge));
                hooks::derive(key, merge, &hooked, ops)?;
                Some(hooked.row)
            }
            (_, row) => row,
        };
        rows::changes(key, before.as_ref(), after.as_ref(), changes);
        match after {
            Some(row) => {
                self.tables.entry(key.0.into()).or_default().insert(key.1.into(), row);
            }
            None => {
                let table = self.tables.get_mut(key.0).expect("the row was there");
                table.remove(key.1);
                if table.is_empty() {
                    self.tables.remove(key.0);
                }
            }
        }
        Ok(())
    }

    /// The tables as a replay of the whole log shows them: what [`Replica::tables`] must be.
    pub fn replayed(&self) -> Tables {
        let mut tables = Tables::new();
        for (tbl, row) in self.log.row_keys() {
            let view = replay_row(self.log.row(tbl, row));
            if view.exists() {
                let cells = view.cells.iter().map(|cell| (Box::from(cell.col), Value::from(cell.value)));
                tables.entry(tbl.into()).or_default().insert(row.into(), cells.collect());
            }
        }
        tables
    }

    /// Asserts that the log is sound and the tables show it.
    pub fn check(&self) {
        self.log.check();
        assert_eq!(self.tables, self.replayed(), "tables differ from a replay of the log");
    }
}

/// Columns without a value get their default.
fn fills(merge: &RowMerge<'_>) -> bool {
    matches!(merge.patch, Patch::Insert(_) | Patch::Reset(_))
}
