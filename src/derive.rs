//! What a table made of merged events: defaults that filled in, triggers that rewrote, cascades (design, rule 2.3).
//!
//! Capture was on while the rows were written. What it saw is compared with what was meant: equal is silent, a cell that
//! differs becomes a derived update, and anything else is an event of this database.

use crdt_engine::id::{Dot, EventId};
use crdt_engine::merge::{LastDelete, RowMerge, replay_row};
use crdt_engine::oplog::Rows;
use crdt_engine::ops::{EventRef, OpBuf};
use crdt_engine::value::same;
use crdt_engine::{OpRef, Origin, ValueRef};

use crate::apply::{Action, RowChange, TableChange};
use crate::catalog::Table;
use crate::competition::Competition;
use crate::error::Result;
use crate::materialize::Captured;
use crate::rows::{self, RowNow};

/// What was seen of one row that was meant to change.
#[derive(Default)]
struct Seen<'c> {
    /// It was inserted last (true), deleted last (false), or neither.
    alive: Option<bool>,
    /// Its cells as seen, the last of each column last.
    cells: Vec<(&'c str, ValueRef<'c>)>,
}

/// The updates to log, by doc. `captured` is what the statements did.
pub fn derive(
    doc: i64,
    rows: &Rows<'_>,
    merges: &[RowMerge<'_>],
    changes: &[TableChange<'_>],
    captured: Captured,
) -> Result<Vec<(i64, OpBuf)>> {
    let mut work = Deriving { doc, rows, merges, out: OpBuf::new(), pending: Vec::new() };
    let meant: Vec<Vec<usize>> = changes.iter().map(|change| places(rows, change)).collect();
    let mut seen: Vec<Option<Seen<'_>>> = Vec::new();
    seen.resize_with(rows.len(), || None);
    meant.iter().flatten().for_each(|at| seen[*at] = Some(Seen::default()));
    let mut others = Vec::new();
    let mut next = 0;
    for (other, ops) in &captured {
        let mut hub = OpBuf::new();
        for op in ops.iter() {
            let found = op.row_key().filter(|_| *other == doc).and_then(|key| rows.find_near(next, key));
            match found.and_then(|at| Some((at, seen[at].as_mut()?))) {
                Some((at, seen)) => {
                    note(seen, op);
                    next = at + 1;
                }
                None => hub.push(op)?,
            }
        }
        others.push((*other, hub));
    }
    for (change, meant) in changes.iter().zip(&meant) {
        let seen = || meant.iter().map(|at| seen[*at].as_ref().expect("it was meant"));
        let now = rows::read_rows(&change.table, &doubtful_rows(change, seen()))?;
        for ((row, index), seen) in change.rows.iter().zip(meant).zip(seen()) {
            work.row(&change.table, row, *index, seen, now.get(row.row))?;
        }
    }
    work.defaults()?;
    let mut out = vec![(doc, work.out)];
    out.extend(others);
    out.retain(|(_, ops)| !ops.is_empty());
    Ok(out)
}

/// Which rows of the push those of a change are.
fn places(rows: &Rows<'_>, change: &TableChange<'_>) -> Vec<usize> {
    let mut next = 0;
    let place = |row: &RowChange<'_>| {
        let at = rows.find_near(next, (&change.table.alias, row.row)).expect("a row of the push");
        next = at + 1;
        at
    };
    change.rows.iter().map(place).collect()
}

fn note<'c>(seen: &mut Seen<'c>, op: OpRef<'c>) {
    match op {
        OpRef::Insert { cells, .. } => {
            seen.alive = Some(true);
            seen.cells = cells.iter().collect();
        }
        OpRef::Update { col, value, .. } => match seen.cells.iter_mut().find(|(c, _)| *c == col) {
            Some((_, known)) => *known = value,
            None => seen.cells.push((col, value)),
        },
        OpRef::Delete { .. } => {
            seen.alive = Some(false);
            seen.cells.clear();
        }
        OpRef::Opaque { .. } => {}
    }
}

/// Rows of which capture does not tell what they show now: reset ones, inserted ones that were not seen (a trigger gave
/// them another key, or capture is switched off), and updated ones where a cell that was written was not seen to change
/// (it was equal before, or a trigger put the old value back).
fn doubtful_rows<'c, 's>(change: &'c TableChange<'_>, seen: impl Iterator<Item = &'s Seen<'s>>) -> Vec<&'c str> {
    let doubtful = |row: &RowChange<'_>, seen: &Seen<'_>| match row.action {
        Action::Reset => true,
        Action::Insert => seen.alive.is_none(),
        Action::Update => row.cells.iter().any(|(index, _)| {
            let name = change.table.columns[*index].name.as_str();
            seen.alive.is_none() && !seen.cells.iter().any(|(col, _)| *col == name)
        }),
        Action::Delete => false,
    };
    change.rows.iter().zip(seen).filter(|(row, seen)| doubtful(row, seen)).map(|(row, _)| row.row).collect()
}

struct Deriving<'d, 'b> {
    doc: i64,
    rows: &'d Rows<'b>,
    merges: &'d [RowMerge<'d>],
    out: OpBuf,
    /// Defaults of rows whose last delete is not known yet: row, column, value in a buffer of its own.
    pending: Vec<(usize, OpBuf)>,
}

impl Deriving<'_, '_> {
    fn row(
        &mut self,
        table: &Table,
        row: &RowChange<'_>,
        index: usize,
        seen: &Seen<'_>,
        now: Option<&RowNow>,
    ) -> Result<()> {
        match (row.action, seen.alive) {
            (Action::Delete, Some(true)) => self.revived(table, row.row, seen),
            (Action::Delete, _) => Ok(()),
            (Action::Insert | Action::Reset, None) if now.is_none_or(|n| n.doc != Some(self.doc)) => {
                self.gone(table, row.row)
            }
            (_, Some(false)) => self.gone(table, row.row),
            (Action::Update, None) => self.updated(table, row, index, seen, now),
            _ => self.made(table, row, index, seen, now),
        }
    }

    /// The row is not there after all: a trigger deleted it, or moved it to another key or doc.
    fn gone(&mut self, table: &Table, row: &str) -> Result<()> {
        let tbl = self.out.sym(&table.alias);
        Ok(self.out.delete(tbl, row)?)
    }

    /// A trigger put a deleted row back.
    fn revived(&mut self, table: &Table, row: &str, seen: &Seen<'_>) -> Result<()> {
        let tbl = self.out.sym(&table.alias);
        self.out.insert(tbl, row)?;
        for (col, value) in &seen.cells {
            let col = self.out.sym(col);
            self.out.cell(col, *value)?;
        }
        Ok(())
    }

    /// Some cells were written: every cell seen to change, or found to be different, is compared.
    fn updated(
        &mut self,
        table: &Table,
        row: &RowChange<'_>,
        index: usize,
        seen: &Seen<'_>,
        now: Option<&RowNow>,
    ) -> Result<()> {
        for (col, value) in &seen.cells {
            let meant = row.cells.iter().find(|(i, _)| table.columns[*i].name == *col);
            if meant.is_none_or(|(_, meant)| !same(*meant, *value)) {
                self.rewrite(table, row.row, index, col, *value)?;
            }
        }
        for (at, meant) in &row.cells {
            let col = table.columns[*at].name.as_str();
            if seen.cells.iter().any(|(c, _)| *c == col) {
                continue;
            }
            if let Some(value) = now.and_then(|n| n.cell(col))
                && !same(*meant, value)
            {
                self.rewrite(table, row.row, index, col, value)?;
            }
        }
        Ok(())
    }

    /// The whole row was made: what nobody wrote and the table fills is a default, what differs is a rewrite.
    fn made(
        &mut self,
        table: &Table,
        row: &RowChange<'_>,
        index: usize,
        seen: &Seen<'_>,
        now: Option<&RowNow>,
    ) -> Result<()> {
        for (at, column) in table.columns.iter().enumerate() {
            if table.key.contains(&at) {
                continue;
            }
            let col = column.name.as_str();
            let shown = match now {
                Some(now) => now.cell(col),
                None => seen.cells.iter().find(|(c, _)| *c == col).map(|(_, value)| *value),
            };
            let Some(value) = shown else { continue };
            match row.cells.iter().find(|(i, _)| *i == at) {
                Some((_, meant)) if same(*meant, value) => {}
                Some(_) => self.rewrite(table, row.row, index, col, value)?,
                None if value == ValueRef::Null => {}
                None => self.default(table, row.row, index, col, value)?,
            }
        }
        Ok(())
    }

    fn rewrite(&mut self, table: &Table, row: &str, index: usize, col: &str, value: ValueRef<'_>) -> Result<()> {
        let (tbl, column) = (self.out.sym(&table.alias), self.out.sym(col));
        match self.merges[index].root_for(col) {
            Some(root) => {
                let root = event_ref(root);
                self.out.update(tbl, row, column, value, Origin::Rewrite(&root))?;
            }
            None => self.out.update(tbl, row, column, value, Origin::Explicit)?,
        }
        Ok(())
    }

    fn default(&mut self, table: &Table, row: &str, index: usize, col: &str, value: ValueRef<'_>) -> Result<()> {
        match self.merges[index].last_delete {
            LastDelete::Known(since) => {
                let since = since.map(event_ref);
                let (tbl, column) = (self.out.sym(&table.alias), self.out.sym(col));
                self.out.update(tbl, row, column, value, Origin::Default(since.as_ref()))?;
            }
            LastDelete::Unknown => {
                let mut op = OpBuf::new();
                let (tbl, column) = (op.sym(&table.alias), op.sym(col));
                op.update(tbl, row, column, value, Origin::Explicit)?;
                self.pending.push((index, op));
            }
        }
        Ok(())
    }

    /// Defaults of rows whose last delete has to be looked up in the log.
    fn defaults(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut wanted: Vec<usize> = self.pending.iter().map(|(i, _)| *i).collect();
        wanted.dedup();
        let found = Competition::history(self.doc, self.rows, &wanted)?;
        let history = found.by_row();
        for (index, op) in std::mem::take(&mut self.pending) {
            let events = history.events(index).iter().chain(self.rows.events(index)).copied();
            let since = replay_row(events).last_delete.map(event_ref);
            let OpRef::Update { tbl, row, col, value, .. } = op.get(0) else { unreachable!("one update") };
            let (tbl, col) = (self.out.sym(tbl), self.out.sym(col));
            self.out.update(tbl, row, col, value, Origin::Default(since.as_ref()))?;
        }
        Ok(())
    }
}

fn event_ref(dot: Dot<'_>) -> EventRef {
    EventRef { id: EventId::new(dot.peer, dot.counter), lamport: Some(dot.lamport) }
}
