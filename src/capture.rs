//! Plain SQL into operations: what statement-level triggers see goes into the session's [`crate::buffer`], and from there
//! into the log when the transaction commits ([`crate::flush`]).

use std::collections::hash_map::Entry;
use std::rc::Rc;

use crdt_engine::ops::{Given, OpBuf};
use crdt_engine::{Origin, ValueRef};
use rustc_hash::FxHashMap;

use crate::buffer::{self, Lent, Scribbles, Symbols};
use crate::catalog::{self, Table};
use crate::error::{Error, Result, state};
use crate::flush;
use crate::pg::function::{Args, Out};
use crate::pg::relation::{Relation, RowMemory};
use crate::pg::spi;
use crate::pg::trigger::{self, Call, Event, Tuple};
use crate::pg::{datum, entry, executor, relation, types, xact};
use crate::rows;
use crate::touched::{Rows, Touched};

/// Rows between two looks at interrupts and the size of the buffer.
const ROWS_A_LOOK: usize = 256;

/// In a path of queries: some query inside of the one before it.
const INNER: u64 = u64::MAX;

/// `crdt.capture()`, the trigger function.
pub fn trigger_function(args: &Args<'_>) -> Result<Out> {
    let call = args.trigger().ok_or_else(|| {
        Error::new(state::NOT_SUPPORTED, "crdt.capture() is a trigger function")
            .hint("Its triggers are made by crdt.track().")
    })?;
    on_trigger(&call)?;
    Ok(Out::Done)
}

/// What the triggers do: `AFTER INSERT OR UPDATE OR DELETE ... FOR EACH STATEMENT`, and `BEFORE TRUNCATE`.
fn on_trigger(call: &Call<'_>) -> Result<()> {
    let rel = call.relation();
    let Some(table) = catalog::table(rel.oid())? else {
        let what = "has triggers of crdt_db and is not tracked: its writes are not captured";
        entry::warn(
            format!("table {} {what}", rel.sql_name()),
            "Unless a backup is being restored: SELECT crdt.track('schema.table').",
        );
        return Ok(());
    };
    buffer::lock_log()?;
    let mut statement = Statement::begin(&table, call);
    match call.event() {
        Event::Insert => {
            let rows = call.new_rows();
            statement.expect_inserts(rows.as_ref().map_or(0, trigger::Tuples::count));
            statement.each(rows, Statement::insert)?;
        }
        Event::Delete => statement.each(call.old_rows(), Statement::delete)?,
        Event::Update if table.partitioned => statement.update_by_key(call)?,
        Event::Update => statement.update_in_step(call)?,
        Event::Truncate => {
            if !table.partitioned {
                statement.truncate(&rel)?;
            }
        }
    }
    statement.finish()?;
    flush::if_past_commit()
}

/// One statement being captured.
struct Statement<'t> {
    table: &'t Rc<Table>,
    lent: Lent,
    /// Rows of this table that statements captured earlier wrote, perhaps after this one.
    deeper: Rows,
    /// Rows of `deeper` that this statement wrote too.
    shared: Vec<((i64, String), bool)>,
    /// Rows this statement wrote, kept when a statement captured later may have to know.
    own: Option<Rows>,
    /// Columns that a row's update changed.
    changed: Vec<usize>,
    row: String,
    text: String,
    other: String,
    seen: usize,
    /// So much has been captured that it should not wait for [`ROWS_A_LOOK`].
    large: bool,
}

impl<'t> Statement<'t> {
    fn begin(table: &'t Rc<Table>, call: &Call<'_>) -> Statement<'t> {
        let mut lent = Lent::take();
        let buffer = lent.get();
        // Cascades of several foreign keys may update and delete rows within one query, captured in another order.
        let cascades = matches!(call.event(), Event::Update | Event::Delete) && call.refers_to_others();
        let mixed = cascades || executor::is_mixed();
        buffer.segments.forget_ended(executor::ended());
        let deeper = match call.event() {
            // What triggers wrote before goes as well: nothing is left to settle, but by a query further out.
            Event::Truncate => Rows::default(),
            _ => buffer.segments.take_inner(table.root, executor::current(), mixed),
        };
        let own = (mixed || !executor::is_outermost()).then(Rows::default);
        let Scribbles { row, text, other, changed } = buffer.take_scribbles();
        Statement { table, lent, deeper, shared: Vec::new(), own, changed, row, text, other, seen: 0, large: false }
    }

    /// Reads the row id of a tuple into `self.row`.
    fn read_row_id(&mut self, tuple: Tuple<'_>) {
        rows::row_id(self.table, tuple, &mut self.row, &mut self.text, &mut self.other);
    }

    /// The doc of a row; `None` when its doc column is null or empty: a row that was written while nobody looked.
    #[inline(always)]
    fn doc_of(&mut self, tuple: Tuple<'_>) -> Result<Option<i64>> {
        if let Some(doc) = self.table.doc {
            return Ok(Some(doc));
        }
        self.doc_by_column(tuple)
    }

    fn doc_by_column(&mut self, tuple: Tuple<'_>) -> Result<Option<i64>> {
        let column = &self.table.columns[self.table.doc_column.expect("no doc, so a column names it")];
        let Some(value) = tuple.attr(column.attno) else { return Ok(None) };
        let value = datum::to_value(&column.ty, value, &mut self.text);
        let name = datum::key_text(value, &mut self.other).to_owned();
        rows::doc_by_name(&name)
    }

    /// The doc of a row that is being written.
    #[inline(always)]
    fn doc_of_new(&mut self, tuple: Tuple<'_>) -> Result<i64> {
        self.doc_of(tuple)?.ok_or_else(|| rows::no_doc(self.table))
    }

    /// Notes that this statement wrote a row; `None` as column: all of it.
    #[inline(always)]
    fn note(&mut self, doc: i64, column: Option<&str>) {
        if !self.deeper.is_empty() || self.own.is_some() {
            self.note_for_others(doc, column);
        }
    }

    fn note_for_others(&mut self, doc: i64, column: Option<&str>) {
        let key = (doc, self.row.clone());
        let what = || column.map_or(Touched::Whole, |c| Touched::Columns(vec![c.to_owned()]));
        if self.deeper.contains(&key) {
            self.shared.push((key.clone(), column.is_none()));
        }
        if let Some(own) = &mut self.own {
            own.touch(key, what());
        }
    }

    fn symbols(&mut self, doc: i64) -> (&mut OpBuf, &Symbols) {
        let buffer = self.lent.get_doc(doc);
        self.large |= buffer.is_large();
        buffer.with_symbols(self.table)
    }

    /// Takes memory for inserts at once, for as many as are buffered before they are written.
    fn expect_inserts(&mut self, rows: usize) {
        if let Some(doc) = self.table.doc.filter(|_| rows > 0) {
            self.lent.get_doc(doc).expect_inserts(rows, self.table.columns.len());
        }
    }

    fn insert(&mut self, tuple: Tuple<'_>) -> Result<()> {
        self.read_row_id(tuple);
        let doc = self.doc_of_new(tuple)?;
        self.note(doc, None);
        let table = self.table;
        let row = std::mem::take(&mut self.row);
        let mut text = std::mem::take(&mut self.text);
        let (ops, symbols) = self.symbols(doc);
        ops.insert(symbols.tbl, &row)?;
        for (column, col) in table.columns.iter().zip(&symbols.cols) {
            ops.cell(*col, given(column, tuple, &mut text))?;
        }
        (self.row, self.text) = (row, text);
        Ok(())
    }

    fn delete(&mut self, tuple: Tuple<'_>) -> Result<()> {
        self.read_row_id(tuple);
        let Some(doc) = self.doc_of(tuple)? else { return Ok(()) };
        self.delete_row(doc)
    }

    fn each(
        &mut self,
        rows: Option<trigger::Tuples<'_>>,
        capture: fn(&mut Self, Tuple<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut rows = rows.ok_or_else(missing_transition_table)?;
        let _pinned = datum::PinnedSettings::pin();
        let mut memory = RowMemory::new();
        while let Some(tuple) = rows.next_tuple() {
            memory.row(|| capture(self, tuple))?;
            self.look()?;
        }
        Ok(())
    }

    /// Now and then: interrupts, and an early write of what has become large.
    fn look(&mut self) -> Result<()> {
        self.seen += 1;
        if !std::mem::take(&mut self.large) && !self.seen.is_multiple_of(ROWS_A_LOOK) {
            return Ok(());
        }
        entry::check_interrupts();
        self.lent.get().write_parts()
    }

    /// OLD and NEW run in step: row by row, changed columns only, in the order in which it was done. Cascades of foreign keys are
    /// part of the statement, so a row may come more than once.
    fn update_in_step(&mut self, call: &Call<'_>) -> Result<()> {
        let mut old_rows = call.old_rows().ok_or_else(missing_transition_table)?;
        let mut new_rows = call.new_rows().ok_or_else(missing_transition_table)?;
        let _pinned = datum::PinnedSettings::pin();
        let mut memory = RowMemory::new();
        while let (Some(old), Some(new)) = (old_rows.next_tuple(), new_rows.next_tuple()) {
            memory.row(|| {
                if self.same_key_and_doc(old, new) {
                    return self.update(old, new);
                }
                self.delete(old)?;
                self.insert(new)
            })?;
            self.look()?;
        }
        Ok(())
    }

    fn same_key_and_doc(&self, old: Tuple<'_>, new: Tuple<'_>) -> bool {
        self.table.key.iter().chain(self.table.doc_column.as_ref()).all(|i| {
            let column = &self.table.columns[*i];
            same(column, old, new)
        })
    }

    fn update(&mut self, old: Tuple<'_>, new: Tuple<'_>) -> Result<()> {
        let columns = &self.table.columns;
        let mut changed = std::mem::take(&mut self.changed);
        changed.clear();
        changed.extend((0..columns.len()).filter(|&i| !same(&columns[i], old, new)));
        if !changed.is_empty() {
            self.update_columns(new, &changed)?;
        }
        self.changed = changed;
        Ok(())
    }

    fn update_columns(&mut self, new: Tuple<'_>, changed: &[usize]) -> Result<()> {
        let table = self.table;
        self.read_row_id(new);
        let doc = self.doc_of_new(new)?;
        changed.iter().for_each(|&i| self.note(doc, Some(&table.columns[i].name)));
        let row = std::mem::take(&mut self.row);
        let mut text = std::mem::take(&mut self.text);
        let (ops, symbols) = self.symbols(doc);
        for (nth, &i) in changed.iter().enumerate() {
            let value = given(&table.columns[i], new, &mut text);
            match nth {
                0 => ops.update(symbols.tbl, &row, symbols.cols[i], value, Origin::Explicit)?,
                _ => ops.update_same_row(symbols.cols[i], value)?,
            }
        }
        (self.row, self.text) = (row, text);
        Ok(())
    }

    /// Rows may have moved between partitions, and a trigger may have dropped one on the way: match by key. The old rows
    /// are remembered as inserts in a side buffer and compared value by value. What came of a key that stands among the old
    /// or the new rows twice, by cascades of foreign keys, is read from the table.
    fn update_by_key(&mut self, call: &Call<'_>) -> Result<()> {
        let mut side = OpBuf::new();
        let mut index: FxHashMap<(i64, String), Old> = FxHashMap::default();
        let _pinned = datum::PinnedSettings::pin();
        let mut memory = RowMemory::new();
        let mut old_rows = call.old_rows().ok_or_else(missing_transition_table)?;
        while let Some(old) = old_rows.next_tuple() {
            memory.row(|| {
                self.read_row_id(old);
                let Some(doc) = self.doc_of(old)? else { return Ok(()) };
                match index.entry((doc, self.row.clone())) {
                    Entry::Occupied(mut twice) => drop(twice.insert(Old::Settled)),
                    Entry::Vacant(first) => drop(first.insert(Old::At(side.len()))),
                }
                self.remember(old, &mut side)
            })?;
            self.look()?;
        }
        drop(old_rows);
        let mut new_rows = call.new_rows().ok_or_else(missing_transition_table)?;
        while let Some(new) = new_rows.next_tuple() {
            memory.row(|| {
                self.read_row_id(new);
                let doc = self.doc_of_new(new)?;
                match index.insert((doc, self.row.clone()), Old::Met) {
                    None => self.insert(new),
                    Some(Old::At(at)) => self.update_against(new, doc, &side, at),
                    Some(Old::Met | Old::Settled) => {
                        index.insert((doc, self.row.clone()), Old::Settled);
                        Ok(())
                    }
                }
            })?;
            self.look()?;
        }
        for ((doc, row), old) in index {
            if let Old::Met = old {
                continue;
            }
            if let Old::Settled = old {
                self.shared.push(((doc, row.clone()), true));
            }
            self.row = row;
            self.delete_row(doc)?;
        }
        Ok(())
    }

    /// The row of `self.row` is gone.
    fn delete_row(&mut self, doc: i64) -> Result<()> {
        self.note(doc, None);
        let row = std::mem::take(&mut self.row);
        let (ops, symbols) = self.symbols(doc);
        ops.delete(symbols.tbl, &row)?;
        self.row = row;
        Ok(())
    }

    fn remember(&mut self, old: Tuple<'_>, side: &mut OpBuf) -> Result<()> {
        let tbl = side.sym(&self.table.alias);
        side.insert(tbl, &self.row)?;
        for column in &self.table.columns {
            let col = side.sym(&column.name);
            let value =
                old.attr(column.attno).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, &mut self.text));
            side.cell(col, value)?;
        }
        Ok(())
    }

    fn update_against(&mut self, new: Tuple<'_>, doc: i64, side: &OpBuf, at: usize) -> Result<()> {
        let crdt_engine::OpRef::Insert { cells, .. } = side.get(at) else { unreachable!("only inserts are kept") };
        let table = self.table;
        for (i, ((_, old), column)) in cells.iter().zip(&table.columns).enumerate() {
            let mut text = std::mem::take(&mut self.text);
            let value = new.attr(column.attno).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, &mut text));
            if value != old {
                self.note(doc, Some(&column.name));
                let row = std::mem::take(&mut self.row);
                let (ops, symbols) = self.symbols(doc);
                ops.update(symbols.tbl, &row, symbols.cols[i], value, Origin::Explicit)?;
                self.row = row;
            }
            self.text = text;
        }
        Ok(())
    }

    /// The rows that TRUNCATE is about to remove, whoever wrote them: read under a snapshot of now.
    fn truncate(&mut self, rel: &Relation) -> Result<()> {
        let _latest = xact::ActiveSnapshot::push_latest();
        let _pinned = datum::PinnedSettings::pin();
        let table = self.table;
        let wanted: Vec<usize> = table.key.iter().copied().chain(table.doc_column).collect();
        let names: Vec<String> = wanted.iter().map(|i| relation::quote(&table.columns[*i].name)).collect();
        let sql = format!("SELECT {} FROM ONLY {}", names.join(", "), rel.sql_name());
        spi::as_role(catalog::names()?.owner, || {
            spi::connect(|c| {
                c.each_now(&sql, &[], |rows, i| {
                    let mut texts = Vec::with_capacity(wanted.len());
                    for (col, at) in wanted.iter().enumerate() {
                        let ty = &table.columns[*at].ty;
                        let (mut text, mut key) = (String::new(), String::new());
                        texts.push(rows.raw(i, col as i32 + 1).map(|d| {
                            let value = datum::to_value(ty, d, &mut text);
                            datum::key_text(value, &mut key).to_owned()
                        }));
                    }
                    self.truncated(texts)
                })
            })
        })
    }

    fn truncated(&mut self, mut texts: Vec<Option<String>>) -> Result<()> {
        let doc = match self.table.doc {
            Some(doc) => Some(doc),
            None => texts.pop().flatten().map_or(Ok(None), |name| rows::doc_by_name(&name))?,
        };
        let Some(doc) = doc else { return Ok(()) };
        let texts: Vec<String> = texts.into_iter().map(Option::unwrap_or_default).collect();
        self.row = rows::join_key(&texts);
        self.delete_row(doc)?;
        self.look()
    }

    /// Appends what had to wait: the final state of rows that triggers wrote as well.
    fn finish(mut self) -> Result<()> {
        if !self.shared.is_empty() {
            self.settle()?;
        }
        let root = self.table.root;
        let buffer = self.lent.get();
        buffer.keep_scribbles(Scribbles { row: self.row, text: self.text, other: self.other, changed: self.changed });
        if !self.deeper.is_empty() {
            // Another statement of the query may be captured yet: the other half of an upsert, one of a cascade.
            let path = [executor::path(), vec![INNER]].concat();
            buffer.segments.keep(root, path, self.deeper);
        }
        if let Some(rows) = self.own.filter(|rows| !rows.is_empty()) {
            buffer.segments.keep(root, executor::path(), rows);
        }
        buffer.end_parts()
    }

    /// Rows written by this statement and, after it but captured before, by its triggers: what they show now is what
    /// comes last.
    fn settle(&mut self) -> Result<()> {
        let mut rows: FxHashMap<(i64, String), Touched> = FxHashMap::default();
        for (key, whole) in std::mem::take(&mut self.shared) {
            if whole {
                rows.insert(key, Touched::Whole);
                continue;
            }
            let columns = match self.deeper.touched.get(&key) {
                Some(Touched::Columns(columns)) => Touched::Columns(columns.clone()),
                _ => Touched::Whole,
            };
            rows.entry(key).or_insert(columns);
        }
        let table = self.table.clone();
        let keys: Vec<&str> = rows.keys().map(|(_, row)| row.as_str()).collect();
        let state = rows::read_rows(&table, &keys)?;
        for ((doc, row), touched) in &rows {
            let ops = &mut self.lent.get_doc(*doc).ops;
            let tbl = ops.sym(&table.alias);
            let now = state.get(row).filter(|r| r.doc == Some(*doc));
            match (now, touched) {
                (None, _) => ops.delete(tbl, row)?,
                (Some(now), Touched::Whole) => ops.push(now.ops.get(0))?,
                (Some(now), Touched::Columns(columns)) => {
                    for name in columns {
                        if let Some(value) = now.cell(name) {
                            let col = ops.sym(name);
                            ops.update(tbl, row, col, value, Origin::Explicit)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// A row's key in an update that is matched by key.
enum Old {
    /// Among the old rows: where in the side buffer.
    At(usize),
    /// Among the new rows, and captured.
    Met,
    /// Among either twice: its final state is read.
    Settled,
}

/// What a column of a row is given as to the buffer.
#[inline(always)]
fn given<'a>(column: &types::Column, tuple: Tuple<'_>, text: &'a mut String) -> Given<'a> {
    match tuple.attr(column.attno) {
        None => Given::Value(ValueRef::Null),
        Some(datum) => datum::to_given(&column.ty, datum, text),
    }
}

fn same(column: &types::Column, old: Tuple<'_>, new: Tuple<'_>) -> bool {
    match (old.attr(column.attno), new.attr(column.attno)) {
        (None, None) => true,
        (Some(a), Some(b)) => datum::same_datum(&column.ty, a, b),
        _ => false,
    }
}

fn missing_transition_table() -> Error {
    Error::new(state::INTERNAL, "crdt.capture() was called without transition tables")
        .hint("Its triggers are made by crdt.track(); do not make them by hand.")
}
