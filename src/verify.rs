//! Where table and log disagree: `crdt.verify`. What to do then is [`crate::repair`]'s.
//!
//! They disagree when somebody wrote past the triggers (`DISABLE TRIGGER`, `session_replication_role`), and when a column
//! came to be after events that name it. Both are read under one snapshot, in batches.

use std::collections::BTreeMap;
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use crdt_engine::id::Dot;
use crdt_engine::merge::{Candidate, RowView, replay_row};
use crdt_engine::value::same;
use crdt_engine::{OpBuf, ValueRef, codec};

use crate::apply::KeyArrays;
use crate::capture::{self, RowNow};
use crate::catalog::{self, Table};
use crate::committed;
use crate::error::Result;
use crate::pg::function::{Args, Col, Out, Rows};
use crate::pg::relation::{Cmp, Field, IndexScan, Lock, Relation, RowMemory, Snapshot, quote};
use crate::pg::types::Column;
use crate::pg::{datum, entry, spi, xact};
use crate::store;

/// Rows compared at a time.
const BATCH: usize = 1000;
/// Nesting of JSON values that the log or the table holds already.
pub const JSON_DEPTH: usize = 6500;

/// One disagreement. Values are JSON.
pub struct Difference {
    /// The doc.
    pub doc: i64,
    /// The row.
    pub row: String,
    /// What differs.
    pub what: What,
}

/// What differs in a row.
pub enum What {
    /// The log says there is no such row. Its cells in the table.
    OnlyInTable(Vec<(String, String)>),
    /// The table does not have the row. Its cells in the log.
    OnlyInLog(Vec<(String, String)>),
    /// A cell. `in_log` is `None` when no event wrote it.
    Cell { column: String, in_table: String, in_log: Option<String> },
}

/// `crdt.verify(tbl)`
pub fn verify(args: &Args<'_>) -> Result<Out> {
    let table = catalog::tracked(args.oid(0, "tbl")?)?;
    let mut lines = Rows::new(args)?;
    differences(&table, &mut |difference| {
        let row = Col::Text(&difference.row);
        match &difference.what {
            What::OnlyInTable(cells) => lines.push(&[row, Col::Null, Col::Jsonb(&object(cells)?), Col::Null]),
            What::OnlyInLog(cells) => lines.push(&[row, Col::Null, Col::Null, Col::Jsonb(&object(cells)?)]),
            What::Cell { column, in_table, in_log } => {
                let in_log = in_log.as_deref().map_or(Col::Null, Col::Jsonb);
                lines.push(&[row, Col::Text(column), Col::Jsonb(in_table), in_log]);
            }
        }
        Ok(())
    })?;
    Ok(Out::Null)
}

/// Calls `each` with every disagreement of a table and its log, this transaction's own writes included.
pub fn differences(table: &Rc<Table>, each: &mut dyn FnMut(Difference) -> Result<()>) -> Result<()> {
    if capture::pending() {
        capture::flush_all()?;
    }
    let table = &catalog::tracked(table.root)?;
    let _now = xact::ActiveSnapshot::push_latest();
    let _pinned = datum::PinnedSettings::pin();
    let mut comparison = Comparison { table, peers: FxHashMap::default(), each };
    comparison.table_rows()?;
    comparison.log_rows()
}

/// A table and its log being compared.
struct Comparison<'t, 'e> {
    table: &'t Table,
    peers: FxHashMap<i32, Rc<str>>,
    each: &'e mut dyn FnMut(Difference) -> Result<()>,
}

impl Comparison<'_, '_> {
    /// Compares every row of the table with what the log says of it.
    fn table_rows(&mut self) -> Result<()> {
        let sql = format!("SELECT {} FROM {} AS t", self.select_list(), self.table.sql_name);
        let mut batch: Vec<(String, RowNow)> = Vec::new();
        spi::as_role(catalog::names()?.owner, || {
            spi::connect(|c| {
                let mut memory = RowMemory::new();
                c.each_now(&sql, &[], |rows, i| {
                    memory.row(|| {
                        batch.push(capture::row_now(self.table, rows, i)?);
                        if batch.len() == BATCH { self.compare(&std::mem::take(&mut batch)) } else { Ok(()) }
                    })
                })
            })
        })?;
        self.compare(&batch)
    }

    fn select_list(&self) -> String {
        let columns: Vec<String> = self.table.columns.iter().map(|c| format!("t.{}", quote(&c.name))).collect();
        columns.join(", ")
    }

    fn compare(&mut self, batch: &[(String, RowNow)]) -> Result<()> {
        let mut by_doc: BTreeMap<i64, Vec<&(String, RowNow)>> = BTreeMap::new();
        for line in batch {
            by_doc.entry(line.1.doc).or_default().push(line);
        }
        for (doc, lines) in by_doc {
            let rows: FxHashSet<&str> = lines.iter().map(|(row, _)| row.as_str()).collect();
            let events = self.events(doc, &rows)?;
            for (row, now) in lines {
                let view = replay_row(events.on(row));
                self.compare_row(doc, row, now, &view)?;
            }
        }
        Ok(())
    }

    fn compare_row(&mut self, doc: i64, row: &str, now: &RowNow, view: &RowView<'_>) -> Result<()> {
        let mut tell = |what| (self.each)(Difference { doc, row: row.to_owned(), what });
        if !view.exists() {
            let crdt_engine::OpRef::Insert { cells, .. } = now.ops.get(0) else { unreachable!("one insert") };
            return tell(What::OnlyInTable(cells.iter().map(json_cell).collect::<Result<_>>()?));
        }
        for (i, column) in self.table.columns.iter().enumerate() {
            if view.cell(&column.name).is_none() && (self.table.key.contains(&i) || self.table.doc_column == Some(i)) {
                // The row's id says it, or the doc.
                continue;
            }
            let in_table = now.cell(&column.name).unwrap_or(ValueRef::Null);
            let in_log = view.cell(&column.name).map(|cell| cell.value);
            if !agrees(column, in_table, in_log.unwrap_or(ValueRef::Null))? {
                let in_log = in_log.map(json).transpose()?;
                tell(What::Cell { column: column.name.clone(), in_table: json(in_table)?, in_log })?;
            }
        }
        Ok(())
    }

    /// Looks for rows that stand in the log and not in the table.
    fn log_rows(&mut self) -> Result<()> {
        let names = catalog::names()?;
        let rel = Relation::open(names.run, Lock::AccessShare);
        for doc in committed::docs_of(self.table)? {
            let mut rows: FxHashSet<String> = FxHashSet::default();
            let keys = [(1, Cmp::Eq, Field::I64(doc))];
            let mut scan = IndexScan::new(&rel, names.run_pkey, Snapshot::Active, &keys, false);
            while let Some(run) = scan.next_row() {
                entry::check_interrupts();
                let alias = self.table.alias.as_str();
                let mut note = |tbl: &str, row: &str| {
                    if tbl == alias && !rows.contains(row) {
                        rows.insert(row.to_owned());
                    }
                    false
                };
                let ops = run.bytes(11).unwrap_or_default();
                codec::decode_rows(&ops, &store::stored_limits(), &mut note, &mut OpBuf::new())?;
                if rows.len() >= BATCH {
                    self.look_for(doc, &std::mem::take(&mut rows))?;
                }
            }
            self.look_for(doc, &rows)?;
        }
        Ok(())
    }

    fn look_for(&mut self, doc: i64, rows: &FxHashSet<String>) -> Result<()> {
        let present = self.present(doc, rows)?;
        let missing: FxHashSet<&str> = rows.iter().map(String::as_str).filter(|r| !present.contains(*r)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let events = self.events(doc, &missing)?;
        let mut missing: Vec<&str> = missing.into_iter().collect();
        missing.sort_unstable();
        for row in missing {
            let view = replay_row(events.on(row));
            if view.exists() {
                let cells = view.cells.iter().map(|c| json_cell((c.col, c.value))).collect::<Result<_>>()?;
                (self.each)(Difference { doc, row: row.to_owned(), what: What::OnlyInLog(cells) })?;
            }
        }
        Ok(())
    }

    /// Those of the rows that the table has in this doc.
    fn present(&self, doc: i64, rows: &FxHashSet<String>) -> Result<FxHashSet<String>> {
        // A row id that is no key of this table is not in it.
        let possible = |row: &&str| attempt(|| self.table.key_texts(row)).is_some();
        let all: Vec<&str> = rows.iter().map(String::as_str).collect();
        let keys = match attempt(|| KeyArrays::new(self.table, all.iter().copied())) {
            Some(keys) => keys,
            None => KeyArrays::new(self.table, all.iter().copied().filter(possible))?,
        };
        let sql = format!(
            "SELECT {} FROM {} AS t, {} WHERE {}",
            self.select_list(),
            self.table.sql_name,
            keys.from(1),
            keys.matches("t")
        );
        let mut present = FxHashSet::default();
        spi::as_role(catalog::names()?.owner, || {
            spi::connect(|c| {
                c.each_now(&sql, keys.params(), |found, i| {
                    let (row, now) = capture::row_now(self.table, found, i)?;
                    if now.doc == doc {
                        present.insert(row);
                    }
                    Ok(())
                })
            })
        })?;
        Ok(present)
    }

    fn events(&mut self, doc: i64, rows: &FxHashSet<&str>) -> Result<Events> {
        let alias = self.table.alias.as_str();
        let hashes: Vec<i64> = rows.iter().map(|row| store::row_hash(alias, row)).collect();
        let mut wanted = |tbl: &str, row: &str| tbl == alias && rows.contains(row);
        let found = store::events_on_rows(doc, &hashes, &mut wanted, Snapshot::Active)?;
        let mut events =
            Events { ops: found.ops, of: Vec::with_capacity(found.of.len()), by_row: FxHashMap::default() };
        for (at, (peer, counter, lamport)) in found.of.into_iter().enumerate() {
            events.of.push((self.peer(peer)?, counter, lamport));
            if let Some((_, row)) = events.ops.get(at).row_key() {
                events.by_row.entry(row.to_owned()).or_default().push(at);
            }
        }
        Ok(events)
    }

    fn peer(&mut self, number: i32) -> Result<Rc<str>> {
        if let Some(name) = self.peers.get(&number) {
            return Ok(name.clone());
        }
        let name: Rc<str> = catalog::peer_name(number)?.into();
        self.peers.insert(number, name.clone());
        Ok(name)
    }
}

/// The log's events on some rows.
struct Events {
    ops: OpBuf,
    of: Vec<(Rc<str>, u64, u64)>,
    by_row: FxHashMap<String, Vec<usize>>,
}

impl Events {
    fn on<'e>(&'e self, row: &str) -> impl Iterator<Item = Candidate<'e>> + use<'e> {
        self.by_row.get(row).into_iter().flatten().map(|at| {
            let (peer, counter, lamport) = &self.of[*at];
            Candidate { op: self.ops.get(*at), dot: Dot { lamport: *lamport, peer, counter: *counter } }
        })
    }
}

/// Does the table show what the log says, in whatever spelling?
fn agrees(column: &Column, in_table: ValueRef<'_>, in_log: ValueRef<'_>) -> Result<bool> {
    if in_table == in_log || same(in_table, in_log) {
        return Ok(true);
    }
    // The log keeps what a client wrote, the table what the type made of it.
    Ok(attempt(|| datum::same_when_written(&column.ty, column.typmod, in_log, in_table)).unwrap_or(false))
}

/// Asks a type about a value; `None` when it refuses it.
fn attempt<R>(body: impl FnOnce() -> Result<R>) -> Option<R> {
    match entry::catch(|| xact::subtransaction(|| body().map(Some))) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => None,
        Err(caught) if caught.is_refused_value() => None,
        Err(caught) => caught.resume(),
    }
}

fn json(value: ValueRef<'_>) -> Result<String> {
    let mut out = String::new();
    value.write_json(&mut out)?;
    Ok(out)
}

fn json_cell((column, value): (&str, ValueRef<'_>)) -> Result<(String, String)> {
    Ok((column.to_owned(), json(value)?))
}

/// Cells as a JSON object.
fn object(cells: &[(String, String)]) -> Result<String> {
    let mut out = String::from("{");
    for (i, (column, value)) in cells.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        ValueRef::Text(column).write_json(&mut out)?;
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    Ok(out)
}
