//! Where table and log disagree: `crdt.verify`. What to do then is [`crate::repair`]'s.
//!
//! They disagree when somebody wrote past the triggers (`DISABLE TRIGGER`, `session_replication_role`), and when a column
//! came to be after events that name it. Both are read once, under one snapshot, and compared in parts that memory holds.

use std::collections::BTreeMap;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crdt_engine::codec::{self, RowSet};
use crdt_engine::id::Dot;
use crdt_engine::merge::{Candidate, RowView, replay_row};
use crdt_engine::ops::Cells;
use crdt_engine::value::same;
use crdt_engine::{OpBuf, ValueRef};

use crate::buckets::{Bucket, Buckets, Source};
use crate::buffer;
use crate::catalog::{self, Table};
use crate::committed;
use crate::error::{Error, Result, state};
use crate::pg::function::{Args, Col, Out, Rows};
use crate::pg::relation::{Cmp, Field, IndexScan, Lock, Relation, RowMemory, Snapshot, in_scratch_memory, quote};
use crate::pg::types::Column;
use crate::pg::{datum, entry, spi, xact};
use crate::progress::{Progress, Step, Task};
use crate::rows;
use crate::store;

/// Buckets that table and log are compared in at first.
const BUCKETS: usize = 16;
/// A bucket with more of the log in memory is split.
const BUCKET_BYTES: usize = 16 << 20;
/// Into so many parts at most, each with a buffer and perhaps two files.
const MAX_PARTS: usize = 128;
/// And so often: what is too large then is the history of a row.
const MAX_LEVEL: u32 = 2;
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
    let relid = args.oid(0, "tbl")?;
    let progress = Progress::begin(Task::Verify, relid);
    let table = catalog::tracked(relid)?;
    check_reader(&table)?;
    let mut lines = Rows::new(args)?;
    differences(&table, Docs::Find, &progress, &mut |difference| {
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

/// Errors with 42501 unless the current user may read every row of a table.
fn check_reader(table: &Table) -> Result<()> {
    if spi::reads_relation(table.root) {
        return Ok(());
    }
    Err(Error::new(state::PRIVILEGE, format!("must be owner of table {}, or read all of it", table.sql_name))
        .hint("What disagrees is shown: it wants SELECT, and no row security policy that holds for the role."))
}

/// What is done about a row of a table with a doc column that names a doc which does not exist, or none.
#[derive(Clone, Copy)]
pub enum Docs {
    /// It is made; none is an error.
    Make,
    /// The row has no doc, and nothing in the log: for those who only look.
    Find,
}

/// Stands for a doc that is not there: no doc has this number.
const NO_DOC: i64 = i64::MIN;

impl Docs {
    fn named(self, name: &str) -> Result<Option<i64>> {
        match self {
            Docs::Make => catalog::ensure_doc(name).map(Some),
            Docs::Find => catalog::find_doc(name),
        }
    }

    /// The number of a row's doc.
    fn number(self, table: &Table, doc: Option<i64>) -> Result<i64> {
        match (doc, self) {
            (Some(doc), _) => Ok(doc),
            (None, Docs::Find) => Ok(NO_DOC),
            (None, Docs::Make) => Err(rows::no_doc(table)),
        }
    }
}

/// Calls `each` with every disagreement of a table and its log, this transaction's own writes included.
pub fn differences(
    table: &Rc<Table>,
    docs: Docs,
    progress: &Progress,
    each: &mut dyn FnMut(Difference) -> Result<()>,
) -> Result<()> {
    if buffer::pending() {
        buffer::flush_all()?;
    }
    // Whoever looks at a table by a snapshot from before it was truncated or rewritten sees it empty.
    lock(table, "ACCESS SHARE")?;
    let table = &catalog::tracked(table.root)?;
    let _now = xact::ActiveSnapshot::push_latest();
    let _pinned = datum::PinnedSettings::pin();
    Comparison { table, docs, progress, rows: 0, peers: FxHashMap::default(), each }.run()
}

/// Locks a table and all of its partitions.
pub fn lock(table: &Table, mode: &str) -> Result<()> {
    let sql = format!("LOCK TABLE {} IN {mode} MODE", table.sql_name);
    spi::as_role(catalog::names()?.owner, || spi::connect(|c| c.run(&sql, &[], false).map(|_| ())))
}

/// A table and its log being compared.
struct Comparison<'t, 'e> {
    table: &'t Table,
    docs: Docs,
    progress: &'t Progress,
    /// Rows that the table has.
    rows: u64,
    peers: FxHashMap<i32, Rc<str>>,
    each: &'e mut dyn FnMut(Difference) -> Result<()>,
}

impl Comparison<'_, '_> {
    /// Reads log and table once each and compares them row by row.
    fn run(&mut self) -> Result<()> {
        let (mut log, mut rows) = (Buckets::new(BUCKETS, 0), Buckets::new(BUCKETS, 0));
        self.progress.step(Step::ReadingLog, None);
        for doc in committed::docs_of(self.table)? {
            self.read_log(doc, &mut log)?;
        }
        self.read_table(&mut rows)?;
        self.progress.step(Step::Comparing, Some(self.rows));
        self.compare_all(log, rows, 0)
    }

    fn read_log(&self, doc: i64, into: &mut Buckets) -> Result<()> {
        let names = catalog::names()?;
        let wanted = RowSet::table(&self.table.alias);
        let rel = Relation::open(names.run, Lock::AccessShare);
        let mut scan = IndexScan::new(&rel, names.run_pkey, Snapshot::Active, &[(1, Cmp::Eq, Field::I64(doc))], false);
        let mut memory = RowMemory::new();
        while let Some(run) = scan.next_row() {
            entry::check_interrupts();
            memory.row(|| -> Result<()> {
                let (peer, counter, lamport) = (run.i32(2), run.i64(3) as u64, run.i64(5) as u64);
                let mut ops = OpBuf::new();
                let decode = |bytes: &[u8]| codec::decode_rows(bytes, &store::stored_limits(), &wanted, &mut ops);
                let offsets = store::as_stored(run.with_bytes(11, decode).unwrap_or_else(|| Ok(Vec::new())))?;
                for (op, offset) in ops.iter().zip(offsets) {
                    let source = Source { doc, peer, counter: counter + offset, lamport: lamport + offset };
                    into.put(op, source)?;
                    self.progress.add(1);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn read_table(&mut self, into: &mut Buckets) -> Result<()> {
        let expected = Relation::open(self.table.root, Lock::AccessShare).expected_rows();
        self.progress.step(Step::ReadingTable, expected);
        let columns: Vec<String> = self.table.columns.iter().map(|c| format!("t.{}", quote(&c.name))).collect();
        let sql = format!("SELECT {} FROM {} AS t", columns.join(", "), self.table.sql_name);
        let mut memory = RowMemory::new();
        spi::as_role(catalog::names()?.owner, || {
            spi::connect(|c| {
                c.each_now(&sql, &[], |rows, i| {
                    self.rows += 1;
                    self.progress.add(1);
                    memory.row(|| {
                        let (_, now) = rows::row_of(self.table, rows, i, |name| self.docs.named(name))?;
                        let source = Source { doc: self.docs.number(self.table, now.doc)?, ..Source::default() };
                        into.put(now.ops.get(0), source)
                    })
                })
            })
        })
    }

    /// Compares bucket by bucket; what is too large for memory, in parts. The events of one row stay together.
    fn compare_all(&mut self, log: Buckets, rows: Buckets, level: u32) -> Result<()> {
        for (log, rows) in log.into_iter().zip(rows.into_iter()) {
            let parts = (log.memory() / BUCKET_BYTES + 1).min(MAX_PARTS);
            if parts == 1 || level == MAX_LEVEL {
                self.compare(log, rows)?;
            } else {
                let (log, rows) = (log.split(parts, level + 1)?, rows.split(parts, level + 1)?);
                self.compare_all(log, rows, level + 1)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, log: Bucket, rows: Bucket) -> Result<()> {
        let mut events = OpBuf::new();
        let mut sources = Vec::new();
        log.read(|ops, of| {
            sources.extend_from_slice(of);
            ops.iter().try_for_each(|op| Ok(events.push(op)?))
        })?;
        let peers = sources.iter().map(|source| self.peer(source.peer)).collect::<Result<Vec<_>>>()?;
        let mut by_row: BTreeMap<(i64, &str), Vec<Candidate<'_>>> = BTreeMap::new();
        for ((at, source), peer) in sources.iter().enumerate().zip(&peers) {
            let (_, row) = events.row_key(at).expect("only operations on rows were put there");
            let dot = Dot { lamport: source.lamport, peer, counter: source.counter };
            by_row.entry((source.doc, row)).or_default().push(Candidate::new(&events, at, dot));
        }
        // In the order of the rows; taken when the table has the row.
        let mut by_row: Vec<_> = by_row.into_iter().map(|(key, events)| (key, Some(events))).collect();
        rows.read(|ops, of| {
            for (op, source) in ops.iter().zip(of) {
                self.progress.add(1);
                let crdt_engine::OpRef::Insert { row, cells, .. } = op else { unreachable!("a row of the table") };
                let found = by_row.binary_search_by(|(key, _)| key.cmp(&(source.doc, row)));
                let view = replay_row(found.ok().and_then(|at| by_row[at].1.take()).unwrap_or_default());
                self.compare_row(source.doc, row, cells, &view)?;
            }
            Ok(())
        })?;
        for ((doc, row), events) in by_row {
            let view = replay_row(events.unwrap_or_default());
            if view.exists() {
                let cells = view.cells.iter().map(|c| json_cell((c.col, c.value))).collect::<Result<_>>()?;
                (self.each)(Difference { doc, row: row.to_owned(), what: What::OnlyInLog(cells) })?;
            }
        }
        Ok(())
    }

    fn compare_row(&mut self, doc: i64, row: &str, cells: Cells<'_>, view: &RowView<'_>) -> Result<()> {
        let mut tell = |what| (self.each)(Difference { doc, row: row.to_owned(), what });
        if !view.exists() {
            return tell(What::OnlyInTable(cells.iter().map(json_cell).collect::<Result<_>>()?));
        }
        for (i, (column, (name, in_table))) in self.table.columns.iter().zip(cells.iter()).enumerate() {
            assert_eq!(column.name, name, "a row has its table's columns");
            let in_log = view.cell(name).map(|cell| cell.value);
            if in_log.is_none() && (self.table.key.contains(&i) || self.table.doc_column == Some(i)) {
                // The row's id says it, or the doc.
                continue;
            }
            if !agrees(column, in_table, in_log.unwrap_or(ValueRef::Null))? {
                let in_log = in_log.map(json).transpose()?;
                tell(What::Cell { column: column.name.clone(), in_table: json(in_table)?, in_log })?;
            }
        }
        Ok(())
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

/// Does the table show what the log says, in whatever spelling?
fn agrees(column: &Column, in_table: ValueRef<'_>, in_log: ValueRef<'_>) -> Result<bool> {
    if in_table == in_log || same(in_table, in_log) {
        return Ok(true);
    }
    // The log keeps what a client wrote, the table what the type made of it.
    // Around the attempt: what a refused value leaves is given back too.
    let same = || datum::same_when_written(&column.ty, column.typmod, in_log, in_table);
    Ok(in_scratch_memory(|| attempt(same)).unwrap_or(false))
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
