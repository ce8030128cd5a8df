//! Plain SQL into operations: what statement-level triggers see goes into a buffer of this session, and from there into
//! the log when the transaction commits ([`crate::flush`]).

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crdt_engine::ops::{Mark, OpBuf, Sym};
use crdt_engine::{Origin, ValueRef};
use pgrx::pg_sys::Oid;
use rustc_hash::FxHashMap;

use crate::catalog::{self, Table};
use crate::error::{Error, Result, state};
use crate::flush;
use crate::pg::function::{Args, Out};
use crate::pg::relation::{Lock, Relation, RowMemory};
use crate::pg::spi;
use crate::pg::trigger::{self, Call, Event, Tuple};
use crate::pg::{datum, entry, executor, relation, types, xact};

/// Past this many bytes, what is buffered for a doc is written as runs before the transaction ends.
const EARLY_FLUSH_BYTES: usize = 8 << 20;
/// A buffer of more than this, or with more names, is not kept for the next transaction.
const SPARE_BYTES: usize = 64 << 10;
const SPARE_NAMES: usize = 256;
/// Rows between two looks at interrupts and the size of the buffer.
const ROWS_A_LOOK: usize = 256;

/// What this transaction has written and not yet logged.
#[derive(Default)]
pub struct Buffer {
    docs: FxHashMap<i64, DocBuffer>,
    segments: Vec<Segment>,
    /// Nothing is logged from here: a push looks at what its statements did.
    scratch: bool,
    /// The log's table is locked, so that a lock wait happens in a statement and not at commit.
    locked: bool,
    /// An empty buffer of an earlier transaction: its memory, and the names it has interned.
    spare: OpBuf,
}

/// The operations of one doc. What was written as runs inside of a savepoint is gone from the log when that is rolled
/// back, so the operations from before the savepoint are kept until they are written for good.
#[derive(Default)]
pub struct DocBuffer {
    /// The operations.
    pub ops: OpBuf,
    /// Up to here they stand in the log, as long as no savepoint is rolled back.
    flushed: Mark,
    /// Open savepoints in which something was written.
    savepoints: Vec<Savepoint>,
}

/// Where a savepoint's operations begin, and what was in the log then.
struct Savepoint {
    level: i32,
    start: Mark,
    flushed: Mark,
}

/// Rows that statements captured earlier have written, for a statement captured after them that may have written the
/// same rows before them: one that fired the trigger they run in, or another part of the same query.
struct Segment {
    root: Oid,
    depth: i32,
    rows: Rows,
}

/// Rows that were written.
#[derive(Default)]
struct Rows {
    touched: FxHashMap<(i64, String), Touched>,
    /// Too many to remember: any row may be among them.
    any: bool,
}

/// Rows remembered of one table and depth.
const SEGMENT_ROWS: usize = 65_536;

/// What happened to a row.
enum Touched {
    Whole,
    Columns(Vec<String>),
}

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::new(Buffer::default());
}

/// The buffer, taken out while PostgreSQL may be called; put back when dropped, also when an error passes.
struct Lent {
    buffer: Option<Buffer>,
    level: i32,
}

impl Lent {
    fn take() -> Lent {
        Lent { buffer: Some(BUFFER.take()), level: xact::nest_level() }
    }

    fn get(&mut self) -> &mut Buffer {
        self.buffer.as_mut().expect("lent until dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            BUFFER.set(buffer);
        }
    }
}

impl Buffer {
    fn keep(&mut self, root: Oid, depth: i32, rows: Rows) {
        match self.segments.iter_mut().rev().take_while(|s| s.depth == depth).find(|s| s.root == root) {
            Some(known) => known.rows.add(rows),
            None => self.segments.push(Segment { root, depth, rows }),
        }
    }

    /// Keeps rows of a depth below the deeper ones that are kept already.
    fn keep_below(&mut self, root: Oid, depth: i32, rows: Rows) {
        let at = self.segments.iter().rposition(|s| s.depth <= depth).map_or(0, |last| last + 1);
        let deeper = self.segments.split_off(at);
        self.keep(root, depth, rows);
        self.segments.extend(deeper);
    }

    /// The buffer of a doc, at the savepoint nesting level given.
    fn doc(&mut self, doc: i64, level: i32) -> &mut DocBuffer {
        let spare = &mut self.spare;
        let buffer =
            self.docs.entry(doc).or_insert_with(|| DocBuffer { ops: std::mem::take(spare), ..Default::default() });
        buffer.enter(level);
        buffer
    }
}

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
    let Some(table) = catalog::table(rel.oid())? else { return Ok(()) };
    lock_log()?;
    let mut statement = Statement::begin(&table, call.event());
    match call.event() {
        Event::Insert => statement.each(call.new_rows(), Statement::insert)?,
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

/// Takes the log's lock once a transaction.
fn lock_log() -> Result<()> {
    if BUFFER.with_borrow(|b| b.locked) {
        return Ok(());
    }
    if !crate::docstate::ready() {
        return Err(flush::not_preloaded());
    }
    drop(Relation::open(catalog::names()?.run, Lock::RowExclusive));
    BUFFER.with_borrow_mut(|b| b.locked = true);
    Ok(())
}

/// One statement being captured.
struct Statement<'t> {
    table: &'t Rc<Table>,
    lent: Lent,
    depth: i32,
    /// The same query's inserts are captured next.
    half: bool,
    /// Rows of this table that statements captured earlier wrote, perhaps after this one.
    deeper: Rows,
    /// Rows of `deeper` that this statement wrote too.
    shared: Vec<((i64, String), bool)>,
    /// Rows this statement wrote, kept when a statement captured later may have to know.
    own: Option<Rows>,
    /// Inserts of key changes, which come after all deletes.
    late: FxHashMap<i64, OpBuf>,
    names: FxHashMap<i64, Symbols>,
    /// Columns that a row's update changed.
    changed: Vec<usize>,
    row: String,
    text: String,
    other: String,
    seen: usize,
}

struct Symbols {
    tbl: Sym,
    cols: Vec<Sym>,
}

impl<'t> Statement<'t> {
    fn begin(table: &'t Rc<Table>, event: Event) -> Statement<'t> {
        let mut lent = Lent::take();
        let depth = trigger::depth();
        let buffer = lent.get();
        let kind = executor::kind(depth);
        let mixed = kind == Some(executor::Kind::Mixed);
        let half = kind == Some(executor::Kind::Upsert) && event == Event::Update;
        let mut deeper = Rows::default();
        let mut others = Vec::new();
        while buffer.segments.last().is_some_and(|s| s.depth > depth || (mixed && s.depth == depth)) {
            let segment = buffer.segments.pop().expect("just seen");
            if segment.root == table.root {
                deeper.add(segment.rows);
            } else {
                others.push(segment);
            }
        }
        let own = (mixed || depth > 1).then(Rows::default);
        if half {
            others.drain(..).rev().for_each(|s| buffer.keep(s.root, depth + 1, s.rows));
        } else if own.is_some() {
            // Another table's, and a statement further out may be that table's.
            others.into_iter().rev().for_each(|s| buffer.keep(s.root, depth, s.rows));
        }
        Statement {
            table,
            lent,
            depth,
            half,
            deeper,
            shared: Vec::new(),
            own,
            late: FxHashMap::default(),
            names: FxHashMap::default(),
            changed: Vec::new(),
            row: String::new(),
            text: String::new(),
            other: String::new(),
            seen: 0,
        }
    }

    /// Reads the row id of a tuple into `self.row`.
    fn read_row_id(&mut self, tuple: Tuple<'_>) {
        row_id(self.table, tuple, &mut self.row, &mut self.text, &mut self.other);
    }

    /// The doc of a row; `None` when its doc column is null: a row that was written while nobody looked.
    fn doc_of(&mut self, tuple: Tuple<'_>) -> Result<Option<i64>> {
        if let Some(doc) = self.table.doc {
            return Ok(Some(doc));
        }
        let column = &self.table.columns[self.table.doc_column.expect("no doc, so a column names it")];
        let Some(value) = tuple.attr(column.attno) else { return Ok(None) };
        let value = datum::to_value(&column.ty, value, &mut self.text);
        let name = datum::key_text(value, &mut self.other).to_owned();
        doc_by_name(&name).map(Some)
    }

    /// The doc of a row that is being written.
    fn doc_of_new(&mut self, tuple: Tuple<'_>) -> Result<i64> {
        self.doc_of(tuple)?.ok_or_else(|| no_doc(self.table))
    }

    /// Notes that this statement wrote a row; `None` as column: all of it.
    fn note(&mut self, doc: i64, column: Option<&str>) {
        if self.deeper.is_empty() && self.own.is_none() {
            return;
        }
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
        let ops = &mut self.lent.get_doc(doc).ops;
        let symbols = self.names.entry(doc).or_insert_with(|| Symbols {
            tbl: ops.sym(&self.table.alias),
            cols: self.table.columns.iter().map(|c| ops.sym(&c.name)).collect(),
        });
        (ops, symbols)
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
            let value = tuple.attr(column.attno).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, &mut text));
            ops.cell(*col, value)?;
        }
        (self.row, self.text) = (row, text);
        Ok(())
    }

    fn delete(&mut self, tuple: Tuple<'_>) -> Result<()> {
        self.read_row_id(tuple);
        let Some(doc) = self.doc_of(tuple)? else { return Ok(()) };
        self.note(doc, None);
        let row = std::mem::take(&mut self.row);
        let (ops, symbols) = self.symbols(doc);
        ops.delete(symbols.tbl, &row)?;
        self.row = row;
        Ok(())
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

    /// Now and then: interrupts, and an early flush of what has become large.
    fn look(&mut self) -> Result<()> {
        self.seen += 1;
        if !self.seen.is_multiple_of(ROWS_A_LOOK) {
            return Ok(());
        }
        entry::check_interrupts();
        self.lent.get().flush_large()
    }

    /// OLD and NEW run in step: row by row, changed columns only.
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
                self.insert_late(new)
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
        for &i in changed {
            let column = &table.columns[i];
            let value = new.attr(column.attno).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, &mut text));
            ops.update(symbols.tbl, &row, symbols.cols[i], value, Origin::Explicit)?;
        }
        (self.row, self.text) = (row, text);
        Ok(())
    }

    /// A key change's new row, to be appended after all deletes.
    fn insert_late(&mut self, new: Tuple<'_>) -> Result<()> {
        self.read_row_id(new);
        let doc = self.doc_of_new(new)?;
        self.note(doc, None);
        let ops = self.late.entry(doc).or_default();
        let tbl = ops.sym(&self.table.alias);
        ops.insert(tbl, &self.row)?;
        for column in &self.table.columns {
            let col = ops.sym(&column.name);
            let value =
                new.attr(column.attno).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, &mut self.text));
            ops.cell(col, value)?;
        }
        Ok(())
    }

    /// Rows may have moved between partitions, and a trigger may have dropped one on the way: match by key. The old rows
    /// are remembered as inserts in a side buffer and compared value by value.
    fn update_by_key(&mut self, call: &Call<'_>) -> Result<()> {
        let mut side = OpBuf::new();
        let mut index: FxHashMap<(i64, String), usize> = FxHashMap::default();
        let _pinned = datum::PinnedSettings::pin();
        let mut memory = RowMemory::new();
        let mut old_rows = call.old_rows().ok_or_else(missing_transition_table)?;
        while let Some(old) = old_rows.next_tuple() {
            memory.row(|| {
                self.read_row_id(old);
                let Some(doc) = self.doc_of(old)? else { return Ok(()) };
                index.insert((doc, self.row.clone()), side.len());
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
                match index.remove(&(doc, self.row.clone())) {
                    None => self.insert_late(new),
                    Some(at) => self.update_against(new, doc, &side, at),
                }
            })?;
            self.look()?;
        }
        for ((doc, row), _) in index {
            self.row = row;
            self.note(doc, None);
            let row = std::mem::take(&mut self.row);
            let (ops, symbols) = self.symbols(doc);
            ops.delete(symbols.tbl, &row)?;
        }
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
        // What triggers wrote before goes as well: nothing is left to settle.
        self.deeper = Rows::default();
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
            Some(doc) => doc,
            None => match texts.pop().flatten() {
                Some(name) => doc_by_name(&name)?,
                None => return Ok(()),
            },
        };
        let texts: Vec<String> = texts.into_iter().map(Option::unwrap_or_default).collect();
        self.row = join_key(&texts);
        self.note(doc, None);
        let row = std::mem::take(&mut self.row);
        let (ops, symbols) = self.symbols(doc);
        ops.delete(symbols.tbl, &row)?;
        self.lent.get().flush_large()
    }

    /// Appends what had to wait: inserts of key changes, then the final state of rows that triggers wrote as well.
    fn finish(mut self) -> Result<()> {
        for (doc, late) in std::mem::take(&mut self.late) {
            let ops = &mut self.lent.get_doc(doc).ops;
            for op in late.iter() {
                ops.push(op)?;
            }
        }
        if !self.shared.is_empty() {
            self.settle()?;
        }
        let (root, depth) = (self.table.root, self.depth);
        let own = self.own.take();
        let deeper = std::mem::take(&mut self.deeper);
        let buffer = self.lent.get();
        if self.half {
            if let Some(rows) = own {
                buffer.keep_below(root, depth, rows);
            }
            buffer.keep(root, depth + 1, deeper);
        } else if let Some(mut rows) = own {
            rows.add(deeper);
            buffer.keep(root, depth, rows);
        } else {
            buffer.segments.clear();
        }
        buffer.flush_large()
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
        let state = read_rows(&table, &keys)?;
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

impl Lent {
    fn get_doc(&mut self, doc: i64) -> &mut DocBuffer {
        let level = self.level;
        self.get().doc(doc, level)
    }
}

fn same(column: &types::Column, old: Tuple<'_>, new: Tuple<'_>) -> bool {
    match (old.attr(column.attno), new.attr(column.attno)) {
        (None, None) => true,
        (Some(a), Some(b)) => datum::same_datum(&column.ty, a, b),
        _ => false,
    }
}

impl Rows {
    fn is_empty(&self) -> bool {
        !self.any && self.touched.is_empty()
    }

    fn contains(&self, row: &(i64, String)) -> bool {
        self.any || self.touched.contains_key(row)
    }

    fn add(&mut self, more: Rows) {
        self.any |= more.any;
        for (row, touched) in more.touched {
            self.touch(row, touched);
        }
    }

    fn touch(&mut self, row: (i64, String), touched: Touched) {
        if self.any || self.touched.len() >= SEGMENT_ROWS {
            self.any = true;
            self.touched = FxHashMap::default();
            return;
        }
        match (self.touched.get_mut(&row), touched) {
            (None, touched) => {
                self.touched.insert(row, touched);
            }
            (Some(Touched::Whole), _) => {}
            (Some(known), Touched::Whole) => *known = Touched::Whole,
            (Some(Touched::Columns(known)), Touched::Columns(more)) => {
                for name in more {
                    if !known.contains(&name) {
                        known.push(name);
                    }
                }
            }
        }
    }
}

/// A row's doc column is null.
pub fn no_doc(table: &Table) -> Error {
    let column = table.doc_column.map_or("", |i| &table.columns[i].name);
    Error::new(
        state::NO_DOC_VALUE,
        format!("column \"{column}\" of table {} names each row's doc and is null", table.sql_name),
    )
    .hint("Give the row a doc, and make the column NOT NULL.")
}

fn missing_transition_table() -> Error {
    Error::new(state::INTERNAL, "crdt.capture() was called without transition tables")
        .hint("Its triggers are made by crdt.track(); do not make them by hand.")
}

/// The row id of a tuple: the key's text, or a JSON array of texts.
fn row_id(table: &Table, tuple: Tuple<'_>, row: &mut String, text: &mut String, other: &mut String) {
    row.clear();
    let mut key_text = |index: usize, out: &mut String, json: bool| {
        let column = &table.columns[index];
        let value = tuple.attr(column.attno).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, text));
        let value = datum::key_text(value, other);
        if json {
            ValueRef::Text(value).write_json(out).expect("memory for a value");
        } else {
            out.push_str(value);
        }
    };
    if let [one] = table.key[..] {
        key_text(one, row, false);
        return;
    }
    row.push('[');
    for (i, index) in table.key.iter().enumerate() {
        if i > 0 {
            row.push(',');
        }
        key_text(*index, row, true);
    }
    row.push(']');
}

/// A row id from its key's texts.
pub fn join_key(texts: &[String]) -> String {
    if let [one] = texts {
        return one.clone();
    }
    let mut out = String::from("[");
    for (i, text) in texts.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        ValueRef::Text(text).write_json(&mut out).expect("memory for a value");
    }
    out.push(']');
    out
}

/// The doc named by a doc column's value, made at need.
pub fn doc_by_name(name: &str) -> Result<i64> {
    catalog::ensure_doc(name)
}

/// One row as the table shows it.
pub struct RowNow {
    /// The doc it belongs to; `None` when its doc column is null or names a doc that is not there.
    pub doc: Option<i64>,
    /// One insert with all columns.
    pub ops: OpBuf,
}

impl RowNow {
    /// The value of a column.
    pub fn cell(&self, name: &str) -> Option<ValueRef<'_>> {
        let crdt_engine::OpRef::Insert { cells, .. } = self.ops.get(0) else { unreachable!("one insert") };
        cells.iter().find(|(col, _)| *col == name).map(|(_, value)| value)
    }
}

/// The rows of these ids as the table shows them to its owner, our own writes included.
pub fn read_rows(table: &Table, row_ids: &[&str]) -> Result<FxHashMap<String, RowNow>> {
    relation::in_scratch_memory(|| read_these_rows(table, row_ids))
}

fn read_these_rows(table: &Table, row_ids: &[&str]) -> Result<FxHashMap<String, RowNow>> {
    let mut found = FxHashMap::default();
    let keys = crate::apply::KeyArrays::new(table, row_ids.iter().copied())?;
    let sql = format!(
        "SELECT {} FROM {} AS t, {} WHERE {}",
        table.columns.iter().map(|c| format!("t.{}", relation::quote(&c.name))).collect::<Vec<_>>().join(", "),
        table.sql_name,
        keys.from(1),
        keys.matches("t"),
    );
    let _pinned = datum::PinnedSettings::pin();
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            c.each(&sql, keys.params(), |rows, i| {
                let (row, now) = row_now(table, rows, i)?;
                found.insert(row, now);
                Ok(())
            })
        })
    })?;
    Ok(found)
}

/// One row of a query for all of a table's columns, as its row id and an insert. Its doc is made at need.
pub fn row_now(table: &Table, rows: &spi::Rows, i: usize) -> Result<(String, RowNow)> {
    row_of(table, rows, i, |name| doc_by_name(name).map(Some))
}

/// The same; `doc_named` tells the doc that a doc column names.
pub fn row_of(
    table: &Table,
    rows: &spi::Rows,
    i: usize,
    doc_named: impl FnOnce(&str) -> Result<Option<i64>>,
) -> Result<(String, RowNow)> {
    let (mut text, mut other) = (String::new(), String::new());
    let mut value_text = |index: usize| {
        let datum = rows.raw(i, index as i32 + 1)?;
        let value = datum::to_value(&table.columns[index].ty, datum, &mut text);
        Some(datum::key_text(value, &mut other).to_owned())
    };
    let texts: Vec<String> = table.key.iter().map(|k| value_text(*k).unwrap_or_default()).collect();
    let doc = match (table.doc, table.doc_column) {
        (Some(doc), _) => Some(doc),
        (None, Some(column)) => value_text(column).map_or(Ok(None), |name| doc_named(&name))?,
        (None, None) => unreachable!("a table has a doc or a doc column"),
    };
    let row = join_key(&texts);
    let mut ops = OpBuf::new();
    let tbl = ops.sym(&table.alias);
    ops.insert(tbl, &row)?;
    for (at, column) in table.columns.iter().enumerate() {
        let col = ops.sym(&column.name);
        let value = rows.raw(i, at as i32 + 1).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, &mut text));
        ops.cell(col, value)?;
    }
    Ok((row, RowNow { doc, ops }))
}

impl Buffer {
    /// Writes what has become large as runs, unless a push is only looking.
    fn flush_large(&mut self) -> Result<()> {
        if self.scratch {
            return Ok(());
        }
        for (doc, buffer) in &mut self.docs {
            if buffer.unwritten_memory() > EARLY_FLUSH_BYTES {
                flush::write(*doc, buffer)?;
            }
        }
        Ok(())
    }
}

impl DocBuffer {
    /// Notes where a savepoint's operations begin, the first time something is done in it.
    fn enter(&mut self, level: i32) {
        if level > 1 && self.savepoints.last().is_none_or(|s| s.level < level) {
            self.savepoints.push(Savepoint { level, start: self.ops.mark(), flushed: self.flushed });
        }
    }

    /// The operations that are not in the log yet.
    pub fn unwritten(&self) -> Range<usize> {
        self.flushed.ops()..self.ops.len()
    }

    /// Bytes of memory they take.
    fn unwritten_memory(&self) -> usize {
        self.ops.memory_since(self.flushed)
    }

    /// They have been written as runs.
    pub fn written(&mut self) {
        let level = xact::nest_level();
        self.enter(level);
        let keep = if level > 1 { self.savepoints.last().expect("entered").start } else { Mark::default() };
        self.ops.truncate(keep);
        self.flushed = keep;
    }

    fn roll_back_to(&mut self, level: i32) {
        while self.savepoints.last().is_some_and(|s| s.level >= level) {
            let savepoint = self.savepoints.pop().expect("just seen");
            self.ops.truncate(savepoint.start);
            self.flushed = savepoint.flushed;
        }
    }

    fn release(&mut self, level: i32) {
        let Some(last) = self.savepoints.len().checked_sub(1) else { return };
        if self.savepoints[last].level != level {
            return;
        }
        let parent_is_open = last > 0 && self.savepoints[last - 1].level == level - 1;
        if parent_is_open || level == 2 {
            self.savepoints.pop();
        } else {
            self.savepoints[last].level = level - 1;
        }
    }
}

/// Appends operations of our own to a doc's buffer.
pub fn append(doc: i64, make: impl FnOnce(&mut OpBuf) -> Result<()>) -> Result<()> {
    lock_log()?;
    make(&mut Lent::take().get_doc(doc).ops)
}

/// Writes everything buffered as runs. Docs in ascending order, so that two transactions meet in one order.
pub fn flush_all() -> Result<()> {
    let mut lent = Lent::take();
    let buffer = lent.get();
    let mut docs: Vec<i64> =
        buffer.docs.iter().filter(|(_, b)| !b.unwritten().is_empty()).map(|(doc, _)| *doc).collect();
    docs.sort_unstable();
    for doc in docs {
        flush::write(doc, buffer.docs.get_mut(&doc).expect("listed"))?;
    }
    Ok(())
}

/// Is something waiting to be logged?
pub fn pending() -> bool {
    BUFFER.with_borrow(|b| b.docs.values().any(|d| !d.unwritten().is_empty()))
}

/// Runs statements whose capture is looked at and not logged: by doc, what they did.
pub fn observe<R>(body: impl FnOnce() -> Result<R>) -> Result<(R, FxHashMap<i64, OpBuf>)> {
    /// Puts the transaction's own buffer back, also when an error passes.
    struct Own(Option<Buffer>);
    impl Drop for Own {
        fn drop(&mut self) {
            if let Some(own) = self.0.take() {
                BUFFER.set(own);
            }
        }
    }
    lock_log()?;
    let mut own = Own(Some(BUFFER.replace(Buffer { scratch: true, locked: true, ..Buffer::default() })));
    let result = body()?;
    let seen = BUFFER.replace(own.0.take().expect("put back once"));
    Ok((result, seen.docs.into_iter().map(|(doc, b)| (doc, b.ops)).collect()))
}

/// The transaction is over.
pub fn reset() {
    BUFFER.with_borrow_mut(|b| {
        let small = |ops: &OpBuf| ops.capacity() < SPARE_BYTES && ops.names() < SPARE_NAMES;
        if let Some(mut ops) = b.docs.drain().map(|(_, doc)| doc.ops).find(small) {
            ops.clear();
            b.spare = ops;
        }
        b.segments.clear();
        b.scratch = false;
        b.locked = false;
    });
}

/// A savepoint of this level was rolled back.
pub fn sub_aborted(level: i32) {
    BUFFER.with_borrow_mut(|b| {
        // The lock may have been taken inside and be gone.
        b.locked = false;
        b.docs.values_mut().for_each(|d| d.roll_back_to(level));
    });
}

/// A savepoint of this level was released into its parent.
pub fn sub_committed(level: i32) {
    BUFFER.with_borrow_mut(|b| {
        b.docs.values_mut().for_each(|d| d.release(level));
    });
}
