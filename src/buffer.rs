//! Operations of this transaction that are not in the log yet, doc by doc, and what savepoints do to them.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crdt_engine::codec;
use crdt_engine::ops::{Mark, OpBuf, Sym};
use pgrx::pg_sys::Oid;
use rustc_hash::FxHashMap;

use crate::catalog::{self, Table};
use crate::error::Result;
use crate::flush;
use crate::pg::relation::{Lock, Relation};
use crate::pg::{self, entry, spi, xact};
use crate::tail::Batch;
use crate::touched::Segments;

/// Past this many bytes, what is buffered for a doc is written as runs before the transaction ends.
const EARLY_FLUSH_BYTES: usize = 8 << 20;
/// And past this many before the statement ends: memory that is used again stays in the processor's cache, and a page of
/// memory that is touched first costs as much as the cells of ten rows.
const PART_BYTES: usize = 1 << 20;
/// Keys of what a statement wrote in parts that are held back to become one set.
const BATCH_KEYS: usize = 1 << 17;

/// A buffer of more than this, or with more names, is not kept for the next transaction.
const SPARE_BYTES: usize = 64 << 10;
const SPARE_NAMES: usize = 256;
/// Nor are the symbols of more tables.
const SPARE_TABLES: usize = 16;

/// What this transaction has written and not yet logged.
#[derive(Default)]
pub struct Buffer {
    /// Boxed, because they are kept and handed on.
    docs: FxHashMap<i64, Box<DocBuffer>>,
    /// What statements wrote, for those captured after them.
    pub segments: Segments,
    /// Nothing is logged from here: a push looks at what its statements did.
    scratch: bool,
    /// The log's table is locked, so that a lock wait happens in a statement and not at commit.
    locked: bool,
    /// An empty buffer of an earlier transaction: its memory, and the names it has interned.
    spare: Option<Box<DocBuffer>>,
    /// Memory of an earlier statement's capture.
    scribbles: Scribbles,
}

/// What the capture of a statement writes over and over.
#[derive(Default)]
pub struct Scribbles {
    /// A row's id.
    pub row: String,
    /// A value's text.
    pub text: String,
    /// A text made of that.
    pub other: String,
    /// Columns that a row's update changed.
    pub changed: Vec<usize>,
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
    /// Tables whose names have been interned, the one asked for last at the front.
    symbols: Vec<Symbols>,
    /// What has been written in parts so far.
    pub batch: Option<Batch>,
    /// And in which savepoint.
    pub batch_level: i32,
    /// What is written need not reach a reader in one piece: see [`in_parts`].
    pub apart: bool,
}

/// A table's names in a buffer.
pub struct Symbols {
    table: Rc<Table>,
    /// Its own.
    pub tbl: Sym,
    /// Those of its columns.
    pub cols: Vec<Sym>,
}

/// Where a savepoint's operations begin, and what was in the log then.
struct Savepoint {
    level: i32,
    start: Mark,
    flushed: Mark,
}

thread_local! {
    /// Boxed, because it is taken out and put back several times a transaction; none before the first time, or while lent.
    static BUFFER: RefCell<Option<Box<Buffer>>> = const { RefCell::new(None) };
}

/// The buffer, taken out while PostgreSQL may be called; put back when dropped, also when an error passes.
pub struct Lent {
    buffer: Option<Box<Buffer>>,
    level: i32,
}

impl Lent {
    /// Takes it out.
    pub fn take() -> Lent {
        Lent { buffer: Some(BUFFER.take().unwrap_or_default()), level: xact::nest_level() }
    }

    /// The buffer.
    pub fn get(&mut self) -> &mut Buffer {
        self.buffer.as_mut().expect("lent until dropped")
    }

    /// The buffer of a doc.
    pub fn get_doc(&mut self, doc: i64) -> &mut DocBuffer {
        let level = self.level;
        self.get().doc(doc, level)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        BUFFER.set(self.buffer.take());
    }
}

impl Buffer {
    /// The buffer of a doc, at the savepoint nesting level given.
    fn doc(&mut self, doc: i64, level: i32) -> &mut DocBuffer {
        let spare = &mut self.spare;
        let buffer = self.docs.entry(doc).or_insert_with(|| spare.take().unwrap_or_default());
        buffer.enter(level);
        buffer
    }

    /// Memory for a statement's capture.
    pub fn take_scribbles(&mut self) -> Scribbles {
        std::mem::take(&mut self.scribbles)
    }

    /// Keeps it for the next statement.
    pub fn keep_scribbles(&mut self, scribbles: Scribbles) {
        let Scribbles { row, text, other, .. } = &scribbles;
        if [row, text, other].iter().all(|text| text.capacity() < SPARE_BYTES) {
            self.scribbles = scribbles;
        }
    }

    /// Writes parts of what a statement does, unless a push is only looking. Its end is [`Buffer::end_parts`].
    pub fn write_parts(&mut self) -> Result<()> {
        if self.scratch {
            return Ok(());
        }
        for (doc, buffer) in &mut self.docs {
            if buffer.is_part() {
                flush::write_part(*doc, buffer)?;
            }
            if buffer.batch.as_ref().is_some_and(|batch| batch.keys() > BATCH_KEYS) {
                flush::end_batch(*doc, buffer)?;
            }
        }
        Ok(())
    }

    /// Writes the rest of what was written in parts, and what has become large or stays apart.
    pub fn end_parts(&mut self) -> Result<()> {
        if self.scratch {
            return Ok(());
        }
        for (doc, buffer) in &mut self.docs {
            if buffer.batch.is_some() || buffer.apart || buffer.unwritten_memory() > EARLY_FLUSH_BYTES {
                flush::write(*doc, buffer)?;
            }
            buffer.apart = false;
        }
        Ok(())
    }
}

/// Takes the log's lock once a transaction.
pub fn lock_log() -> Result<()> {
    if BUFFER.with_borrow(|b| b.as_ref().is_some_and(|b| b.locked)) {
        return Ok(());
    }
    if !crate::docstate::ready() {
        return Err(flush::not_preloaded());
    }
    drop(Relation::open(catalog::names()?.run, Lock::RowExclusive));
    BUFFER.with_borrow_mut(|b| b.get_or_insert_default().locked = true);
    Ok(())
}

impl DocBuffer {
    /// The operations, to append to, and the symbols of a table's names in them.
    #[inline]
    pub fn with_symbols(&mut self, table: &Rc<Table>) -> (&mut OpBuf, &Symbols) {
        if self.symbols.first().is_none_or(|first| !Rc::ptr_eq(&first.table, table)) {
            self.find_symbols(table);
        }
        (&mut self.ops, &self.symbols[0])
    }

    fn find_symbols(&mut self, table: &Rc<Table>) {
        if let Some(at) = self.symbols.iter().position(|s| Rc::ptr_eq(&s.table, table)) {
            self.symbols.swap(0, at);
            return;
        }
        let tbl = self.ops.sym(&table.alias);
        let cols = table.columns.iter().map(|c| self.ops.sym(&c.name)).collect();
        self.symbols.push(Symbols { table: table.clone(), tbl, cols });
        let last = self.symbols.len() - 1;
        self.symbols.swap(0, last);
    }

    /// Is it small enough to be kept for the next transaction?
    fn is_small(&self) -> bool {
        self.ops.capacity() < SPARE_BYTES && self.ops.names() < SPARE_NAMES && self.symbols.len() < SPARE_TABLES
    }

    /// Empties it; names and symbols stay.
    fn clear(&mut self) {
        self.ops.clear();
        self.savepoints.clear();
        self.flushed = Mark::default();
        self.batch = None;
        self.apart = false;
    }

    /// Notes where a savepoint's operations begin, the first time something is done in it.
    fn enter(&mut self, level: i32) {
        if level > 1 && self.savepoints.last().is_none_or(|s| s.level < level) {
            self.savepoints.push(Savepoint { level, start: self.ops.mark(), flushed: self.flushed });
        }
    }

    /// Takes memory for inserts at once, if there is some: growing step by step copies what is there.
    pub fn expect_inserts(&mut self, rows: usize, columns: usize) {
        self.ops.expect_inserts(rows, columns, PART_BYTES);
    }

    /// The operations that are not in the log yet.
    pub fn unwritten(&self) -> Range<usize> {
        self.flushed.ops()..self.ops.len()
    }

    /// Do they make a part of what a statement writes?
    fn is_part(&self) -> bool {
        self.unwritten_memory() > PART_BYTES
    }

    /// Are they so many that a part should be written at once?
    pub fn is_large(&self) -> bool {
        self.unwritten_memory() > 2 * PART_BYTES
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
        if self.batch_level >= level {
            self.batch = None;
        }
        self.apart = false;
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

/// Appends operations of our own, not many, to a doc's buffer.
pub fn append(doc: i64, make: impl FnOnce(&mut OpBuf) -> Result<()>) -> Result<()> {
    lock_log()?;
    make(&mut Lent::take().get_doc(doc).ops)
}

/// Runs `body`, which appends operations of our own, perhaps so many that they go to the log in parts. As the current role,
/// whatever `body` does as another. Unless an application writes in this transaction before it, each part is pulled by itself:
/// a table's rows are pages of a first pull, not one that holds all of them.
pub fn in_parts<R>(body: impl FnOnce(&Parts) -> Result<R>) -> Result<R> {
    let apart = !pending() && !flush::has_joined();
    let result = body(&Parts { author: pg::current_role().into(), apart })?;
    Lent::take().get().end_parts()?;
    Ok(result)
}

/// How `body` of [`in_parts`] appends.
pub struct Parts {
    author: Oid,
    apart: bool,
}

impl Parts {
    /// Appends operations to a doc's buffer.
    pub fn append(&self, doc: i64, make: impl FnOnce(&mut OpBuf) -> Result<()>) -> Result<()> {
        lock_log()?;
        let mut lent = Lent::take();
        let buffer = lent.get_doc(doc);
        buffer.apart = self.apart;
        make(&mut buffer.ops)?;
        if buffer.is_large() {
            entry::check_interrupts();
            spi::as_role(self.author, || lent.get().write_parts())?;
        }
        Ok(())
    }
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
    BUFFER.with_borrow(|b| b.as_ref().is_some_and(|b| b.docs.values().any(|d| !d.unwritten().is_empty())))
}

/// Runs statements whose capture is looked at and not logged: by doc, what they did.
pub fn observe<R>(body: impl FnOnce() -> Result<R>) -> Result<(R, FxHashMap<i64, OpBuf>)> {
    /// Puts the transaction's own buffer back, also when an error passes.
    struct Own(Option<Option<Box<Buffer>>>);
    impl Own {
        /// The buffer that was there instead. A query that these statements run in will have to know what they wrote.
        fn put_back(&mut self) -> Option<Box<Buffer>> {
            let mut own = self.0.take()?;
            let mut seen = BUFFER.take();
            if let (Some(own), Some(seen)) = (&mut own, &mut seen) {
                own.segments = std::mem::take(&mut seen.segments);
            }
            BUFFER.set(own);
            seen
        }
    }
    impl Drop for Own {
        fn drop(&mut self) {
            self.put_back();
        }
    }
    lock_log()?;
    let mut own = BUFFER.take();
    let segments = own.as_mut().map(|own| std::mem::take(&mut own.segments)).unwrap_or_default();
    BUFFER.set(Some(Box::new(Buffer { scratch: true, locked: true, segments, ..Buffer::default() })));
    let mut own = Own(Some(own));
    let result = body()?;
    let seen = own.put_back();
    let mut captured = FxHashMap::default();
    for (doc, mut buffer) in seen.map(|seen| seen.docs).into_iter().flatten() {
        codec::spell_out(&mut buffer.ops)?;
        captured.insert(doc, buffer.ops);
    }
    Ok((result, captured))
}

/// The transaction is over.
pub fn reset() {
    with_buffer(|b| {
        if let Some(mut spare) = b.docs.drain().map(|(_, doc)| doc).find(|doc| doc.is_small()) {
            spare.clear();
            b.spare = Some(spare);
        }
        b.segments.clear();
        b.scratch = false;
        b.locked = false;
    });
}

/// A savepoint of this level was rolled back.
pub fn sub_aborted(level: i32) {
    with_buffer(|b| {
        // The lock may have been taken inside and be gone.
        b.locked = false;
        b.docs.values_mut().for_each(|d| d.roll_back_to(level));
    });
}

/// A savepoint of this level was released into its parent.
pub fn sub_committed(level: i32) {
    with_buffer(|b| b.docs.values_mut().for_each(|d| d.release(level)));
}

/// Does something to the buffer, if there is one.
fn with_buffer(body: impl FnOnce(&mut Buffer)) {
    BUFFER.with_borrow_mut(|b| b.as_deref_mut().map(body));
}
