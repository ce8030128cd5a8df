//! Operations in memory: one flat buffer that is appended to, truncated and read back.
//!
//! All text lies in one `String`, operations and cells are small records that point into it. Appending costs no
//! allocation per value, and rolling back to a savepoint is four truncations.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::alloc;
use crate::error::{Error, Result};
use crate::id::EventId;
use crate::value::ValueRef;

/// Kinds of operations by their registered number (see `docs/format.md`).
pub mod kind {
    /// Counters that stand for nothing.
    pub const SKIP: u64 = 0;
    /// `insert`.
    pub const INSERT: u64 = 1;
    /// `update`.
    pub const UPDATE: u64 = 2;
    /// `delete`.
    pub const DELETE: u64 = 3;
    /// Reserved: an event whose effect was withdrawn.
    pub const VOID: u64 = 4;
    /// Reserved: counters.
    pub const ADD: u64 = 5;
    /// Reserved: operations inside a JSON value.
    pub const PATH: u64 = 6;
    /// Reserved: character-level text.
    pub const TEXT: u64 = 7;

    /// The `type`s of JSON, by kind.
    pub const NAMES: [&str; 8] = ["skip", "insert", "update", "delete", "void", "add", "path", "text"];

    /// The `type` of a kind in JSON, if it is registered.
    pub fn name(kind: u64) -> Option<&'static str> {
        NAMES.get(usize::try_from(kind).ok()?).copied()
    }

    /// The kind a `type` in JSON stands for.
    pub fn number(name: &str) -> Option<u64> {
        NAMES.iter().position(|n| *n == name).map(|n| n as u64)
    }
}

/// An interned table or column name of one [`OpBuf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sym(u32);

impl Sym {
    /// Its number, which is below [`OpBuf::names`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The event that a derived update names, with its lamport where the buffer's maker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRef {
    /// Its name.
    pub id: EventId,
    /// Its lamport. JSON does not carry it: `None` until it has been looked up in the log.
    pub lamport: Option<u64>,
}

/// Why an update exists (design, rule 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Somebody wrote it.
    Explicit,
    /// A trigger changed what `root` wrote (`derived_from`).
    Rewrite(&'a EventRef),
    /// A default filled a cell nobody wrote (`default_since`): the row's greatest delete at that time.
    Default(Option<&'a EventRef>),
}

/// What kind of moment a number counts to from 2000-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// In days.
    Date,
    /// In microseconds; no zone is written.
    WithoutZone,
    /// In microseconds, in UTC, which is written as `+00`.
    WithZone,
}

/// A text that is kept as the number it says: what is captured is encoded and forgotten, and mostly nobody reads the text.
/// Whoever reads operations has it written out before, by [`crate::codec::spell_out`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// As PostgreSQL writes it in the ISO style under UTC; [`crate::codec::moment`] makes it.
    Moment(Moment, i64),
    /// Times ten to the power of how many digits stand behind the point: 18 at most.
    Decimal(i64, u8),
}

/// A cell's value as it is appended.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// As everybody reads it.
    Value(ValueRef<'a>),
    /// A text that a number says.
    Number(Number),
}

impl<'a> From<ValueRef<'a>> for Given<'a> {
    fn from(value: ValueRef<'a>) -> Self {
        Given::Value(value)
    }
}

/// One operation, borrowed from an [`OpBuf`].
#[derive(Clone, Copy, Debug)]
pub enum OpRef<'a> {
    /// A row comes to be, with some of its cells.
    Insert {
        /// Table name on the wire.
        tbl: &'a str,
        /// Row id.
        row: &'a str,
        /// The cells.
        cells: Cells<'a>,
    },
    /// One cell changes.
    Update {
        /// Table name on the wire.
        tbl: &'a str,
        /// Row id.
        row: &'a str,
        /// Column name.
        col: &'a str,
        /// New value.
        value: ValueRef<'a>,
        /// Why.
        origin: Origin<'a>,
    },
    /// A row ends.
    Delete {
        /// Table name on the wire.
        tbl: &'a str,
        /// Row id.
        row: &'a str,
    },
    /// An operation this version does not apply: kept and forwarded as it came.
    Opaque {
        /// Its registered number.
        kind: u64,
        /// How many counters (and lamports) it takes.
        span: u64,
        /// Its bytes.
        payload: &'a [u8],
    },
}

impl<'a> OpRef<'a> {
    /// `(table, row id)` of a row operation.
    pub fn row_key(&self) -> Option<(&'a str, &'a str)> {
        match *self {
            OpRef::Insert { tbl, row, .. } | OpRef::Update { tbl, row, .. } | OpRef::Delete { tbl, row } => {
                Some((tbl, row))
            }
            OpRef::Opaque { .. } => None,
        }
    }

    /// How many counters the operation takes.
    pub fn span(&self) -> u64 {
        match *self {
            OpRef::Opaque { span, .. } => span,
            _ => 1,
        }
    }
}

/// The cells of one insert.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a> {
    buf: &'a OpBuf,
    from: u32,
    to: u32,
}

impl<'a> Cells<'a> {
    /// How many cells.
    pub fn len(&self) -> usize {
        (self.to - self.from) as usize
    }

    /// No cell at all.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// `(column, value)` in the order they were pushed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        let buf = self.buf;
        buf.cells[self.from as usize..self.to as usize].iter().map(move |c| (buf.name(c.col), buf.value(c.value)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    from: u32,
    to: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Span),
    Json(Span),
    /// A text too.
    Number(Number),
}

// Of a moment or a decimal no more is kept than of a text.
const _: () = assert!(size_of::<Stored>() == 16);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub col: Sym,
    pub value: Stored,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Insert,
    Update {
        origin: OriginSlot,
    },
    Delete,
    /// How many counters it takes stands before its payload.
    Opaque(Halves),
}

/// A number that needs no more than four bytes' alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Halves(u32, u32);

impl Halves {
    fn new(n: u64) -> Self {
        Halves(n as u32, (n >> 32) as u32)
    }

    pub fn get(self) -> u64 {
        u64::from(self.0) | u64::from(self.1) << 32
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginSlot {
    Explicit,
    Rewrite(u32),
    Default(Option<u32>),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub kind: Kind,
    pub tbl: Sym,
    /// Row id in `text`; when opaque, span and payload in `bytes`.
    pub row: Span,
    cells_from: u32,
    cells_to: u32,
}

// A large push is as many of them.
const _: () = assert!(size_of::<Op>() == 32);

/// A text in a buffer that the next one of its column may be equal to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said(Option<Span>);

/// A place in an [`OpBuf`] to truncate back to; the default is the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    ops: usize,
    cells: usize,
    text: usize,
    bytes: usize,
    refs: usize,
}

impl Mark {
    /// How many operations lie before it.
    pub fn ops(&self) -> usize {
        self.ops
    }
}

/// So many names are found by looking at each.
const FEW: usize = 8;

/// Operations in the order they were made.
#[derive(Clone, Debug, Default)]
pub struct OpBuf {
    /// Where each name lies in `name_text`.
    names: Vec<Span>,
    name_text: String,
    /// The symbols of the names, once there are more than [`FEW`]: a map costs a batch of some operations more than they do.
    syms: FxHashMap<Box<str>, Sym>,
    ops: Vec<Op>,
    cells: Vec<Cell>,
    text: String,
    bytes: Vec<u8>,
    refs: Vec<EventRef>,
}

impl OpBuf {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// No operation at all.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of memory the operations take, roughly: what a budget is compared with.
    pub fn memory(&self) -> usize {
        self.memory_since(Mark::default())
    }

    /// The same for what was appended after `mark`.
    pub fn memory_since(&self, mark: Mark) -> usize {
        let ops = (self.ops.len() - mark.ops) * size_of::<Op>();
        let cells = (self.cells.len() - mark.cells) * size_of::<Cell>();
        self.text.len() - mark.text + self.bytes.len() - mark.bytes + ops + cells
    }

    /// Bytes of memory it holds, in use or not; names and references do not count.
    pub fn capacity(&self) -> usize {
        let (ops, cells) = (self.ops.capacity() * size_of::<Op>(), self.cells.capacity() * size_of::<Cell>());
        self.text.capacity() + self.bytes.capacity() + ops + cells
    }

    /// The symbol of a name, interned at need. For names from the catalog; [`OpBuf::intern`] is for names from outside.
    pub fn sym(&mut self, name: &str) -> Sym {
        self.intern(name).expect("memory for a name")
    }

    /// The symbol of a name, interned at need. Errors: [`Error::OutOfMemory`], [`Error::TooLarge`] past 2^32 names.
    pub fn intern(&mut self, name: &str) -> Result<Sym> {
        if let Some(sym) = self.find(name) {
            return Ok(sym);
        }
        let sym = Sym(offset(self.names.len())?);
        let from = offset(self.name_text.len())?;
        let to = offset(self.name_text.len() + name.len())?;
        alloc::reserve(&mut self.names, 1)?;
        alloc::reserve_text(&mut self.name_text, name.len())?;
        if self.names.len() >= FEW {
            self.hash(name)?;
        }
        self.names.push(Span { from, to });
        self.name_text.push_str(name);
        Ok(sym)
    }

    /// Enters a new name into `syms`, after those that are not in it yet.
    fn hash(&mut self, name: &str) -> Result<()> {
        for at in self.syms.len()..=self.names.len() {
            let sym = Sym(at as u32);
            let key = alloc::string(if at < self.names.len() { self.name(sym) } else { name })?.into_boxed_str();
            self.syms.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: size_of::<(Box<str>, Sym)>() })?;
            self.syms.insert(key, sym);
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Sym> {
        if self.names.len() > FEW {
            return self.syms.get(name).copied();
        }
        let is = |at: &Span| &self.name_text.as_bytes()[at.from as usize..at.to as usize] == name.as_bytes();
        self.names.iter().position(is).map(|at| Sym(at as u32))
    }

    /// How many different names have been interned.
    pub fn names(&self) -> usize {
        self.names.len()
    }

    /// The name behind a symbol of this buffer.
    pub fn name(&self, sym: Sym) -> &str {
        let at = self.names[sym.0 as usize];
        &self.name_text[at.from as usize..at.to as usize]
    }

    /// Takes memory for so many inserts of so many cells at once, their texts aside, but no more than `most` bytes. Not
    /// having it is no error: it grows as it is needed.
    pub fn expect_inserts(&mut self, inserts: usize, cells: usize, most: usize) {
        let inserts = inserts.min(most / (size_of::<Op>() + cells * size_of::<Cell>()));
        let _ = self.ops.try_reserve(inserts);
        let _ = self.cells.try_reserve(inserts * cells);
    }

    /// Appends an insert without cells; [`OpBuf::cell`] adds them. Errors: [`Error::TooLarge`] past 4 GiB of text.
    pub fn insert(&mut self, tbl: Sym, row: &str) -> Result<()> {
        let row = self.span(row)?;
        self.without_cells(Kind::Insert, tbl, row)
    }

    /// Adds a cell to the insert appended last.
    #[inline]
    pub fn cell<'v>(&mut self, col: Sym, value: impl Into<Given<'v>>) -> Result<()> {
        debug_assert!(matches!(self.ops.last(), Some(Op { kind: Kind::Insert, .. })));
        self.push_cell(col, value.into())
    }

    /// The same in a decoded column: a text that is the one before again is kept once.
    pub(crate) fn cell_again(&mut self, col: Sym, value: ValueRef<'_>, said: &mut Said) -> Result<()> {
        let ValueRef::Text(text) = value else { return self.cell(col, value) };
        let span = match said.0 {
            Some(span) if self.bytes_of(span) == text.as_bytes() => span,
            _ => self.span(text)?,
        };
        said.0 = Some(span);
        self.push_stored(col, Stored::Text(span))
    }

    #[inline]
    fn push_cell(&mut self, col: Sym, value: Given<'_>) -> Result<()> {
        let value = self.store(value)?;
        self.push_stored(col, value)
    }

    #[inline]
    fn push_stored(&mut self, col: Sym, value: Stored) -> Result<()> {
        alloc::push(&mut self.cells, Cell { col, value })?;
        self.ops.last_mut().expect("a cell follows its operation").cells_to += 1;
        Ok(())
    }

    /// Appends an update of one cell.
    pub fn update<'v>(
        &mut self,
        tbl: Sym,
        row: &str,
        col: Sym,
        value: impl Into<Given<'v>>,
        origin: Origin<'_>,
    ) -> Result<()> {
        let origin = match origin {
            Origin::Explicit => OriginSlot::Explicit,
            Origin::Rewrite(root) => OriginSlot::Rewrite(self.reference(root)?),
            Origin::Default(None) => OriginSlot::Default(None),
            Origin::Default(Some(since)) => OriginSlot::Default(Some(self.reference(since)?)),
        };
        let row = self.row(row)?;
        self.updated(Kind::Update { origin }, tbl, row, col, value.into())
    }

    /// Appends an explicit update of another cell of the row that the operation appended last is about.
    #[inline]
    pub fn update_same_row<'v>(&mut self, col: Sym, value: impl Into<Given<'v>>) -> Result<()> {
        let Op { tbl, row, .. } = *self.ops.last().expect("an update follows another");
        self.updated(Kind::Update { origin: OriginSlot::Explicit }, tbl, row, col, value.into())
    }

    /// An update has exactly one cell, also when memory for it runs out half way.
    #[inline]
    fn updated(&mut self, kind: Kind, tbl: Sym, row: Span, col: Sym, value: Given<'_>) -> Result<()> {
        let value = self.store(value)?;
        let cells_from = offset(self.cells.len())?;
        alloc::push(&mut self.cells, Cell { col, value })?;
        let op = Op { kind, tbl, row, cells_from, cells_to: cells_from + 1 };
        alloc::push(&mut self.ops, op).inspect_err(|_| self.cells.truncate(cells_from as usize))
    }

    /// Appends a delete.
    pub fn delete(&mut self, tbl: Sym, row: &str) -> Result<()> {
        let row = self.row(row)?;
        self.without_cells(Kind::Delete, tbl, row)
    }

    /// Appends an operation that is kept but not applied; it takes `span` counters.
    pub fn opaque(&mut self, kind: u64, span: u64, payload: &[u8]) -> Result<()> {
        let from = offset(self.bytes.len())?;
        alloc::extend(&mut self.bytes, &span.to_le_bytes())?;
        alloc::extend(&mut self.bytes, payload)?;
        let row = Span { from, to: offset(self.bytes.len())? };
        self.without_cells(Kind::Opaque(Halves::new(kind)), Sym(0), row)
    }

    /// Span and payload of an opaque operation.
    pub(crate) fn stored_opaque(&self, op: &Op) -> (u64, &[u8]) {
        let bytes = &self.bytes[op.row.from as usize..op.row.to as usize];
        let (span, payload) = bytes.split_first_chunk().expect("a span was put there");
        (u64::from_le_bytes(*span), payload)
    }

    /// Appends a copy of an operation of any buffer.
    pub fn push(&mut self, op: OpRef<'_>) -> Result<()> {
        match op {
            OpRef::Insert { tbl, row, cells } => {
                let tbl = self.intern(tbl)?;
                self.insert(tbl, row)?;
                for (col, value) in cells.iter() {
                    let col = self.intern(col)?;
                    self.cell(col, value)?;
                }
                Ok(())
            }
            OpRef::Update { tbl, row, col, value, origin } => {
                let (tbl, col) = (self.intern(tbl)?, self.intern(col)?);
                self.update(tbl, row, col, value, origin)
            }
            OpRef::Delete { tbl, row } => {
                let tbl = self.intern(tbl)?;
                self.delete(tbl, row)
            }
            OpRef::Opaque { kind, span, payload } => self.opaque(kind, span, payload),
        }
    }

    /// Appends copies of a range of another buffer's operations. After an error some of them are there.
    pub fn extend(&mut self, from: &OpBuf, range: Range<usize>) -> Result<()> {
        let mut syms = alloc::filled(None, from.names.len())?;
        for op in &from.ops[range] {
            let mut sym = |buf: &mut Self, sym: Sym| match syms[sym.0 as usize] {
                Some(known) => Ok(known),
                None => buf.intern(from.name(sym)).inspect(|&new| syms[sym.0 as usize] = Some(new)),
            };
            let kind = match op.kind {
                Kind::Opaque(kind) => {
                    let (span, payload) = from.stored_opaque(op);
                    self.opaque(kind.get(), span, payload)?;
                    continue;
                }
                Kind::Update { origin } => Kind::Update { origin: self.copy_origin(from, origin)? },
                kind => kind,
            };
            let tbl = sym(self, op.tbl)?;
            let before = self.mark();
            let row = self.row(from.text(op.row))?;
            self.without_cells(kind, tbl, row)?;
            for cell in from.stored_cells(op) {
                let copied = sym(self, cell.col).and_then(|col| self.push_cell(col, from.given(cell.value)));
                if let Err(error) = copied {
                    // No update without its cell, and no insert with some of them.
                    self.truncate(before);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn copy_origin(&mut self, from: &OpBuf, origin: OriginSlot) -> Result<OriginSlot> {
        let mut copy = |at: u32| self.reference(&from.refs[at as usize]);
        Ok(match origin {
            OriginSlot::Explicit => OriginSlot::Explicit,
            OriginSlot::Rewrite(root) => OriginSlot::Rewrite(copy(root)?),
            OriginSlot::Default(since) => OriginSlot::Default(since.map(copy).transpose()?),
        })
    }

    /// The operation at `index`.
    pub fn get(&self, index: usize) -> OpRef<'_> {
        let op = &self.ops[index];
        let text = |s: Span| self.text(s);
        match op.kind {
            Kind::Insert => OpRef::Insert {
                tbl: self.name(op.tbl),
                row: text(op.row),
                cells: Cells { buf: self, from: op.cells_from, to: op.cells_to },
            },
            Kind::Update { origin } => {
                let cell = self.cells[op.cells_from as usize];
                OpRef::Update {
                    tbl: self.name(op.tbl),
                    row: text(op.row),
                    col: self.name(cell.col),
                    value: self.value(cell.value),
                    origin: match origin {
                        OriginSlot::Explicit => Origin::Explicit,
                        OriginSlot::Rewrite(r) => Origin::Rewrite(&self.refs[r as usize]),
                        OriginSlot::Default(d) => Origin::Default(d.map(|r| &self.refs[r as usize])),
                    },
                }
            }
            Kind::Delete => OpRef::Delete { tbl: self.name(op.tbl), row: text(op.row) },
            Kind::Opaque(kind) => {
                let (span, payload) = self.stored_opaque(op);
                OpRef::Opaque { kind: kind.get(), span, payload }
            }
        }
    }

    /// Operations of a range of indices, in order.
    pub fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = OpRef<'_>> + ExactSizeIterator {
        range.map(|i| self.get(i))
    }

    /// Table and row id of the operation at `index`: [`OpRef::row_key`].
    pub fn row_key(&self, index: usize) -> Option<(&str, &str)> {
        let op = &self.ops[index];
        (!matches!(op.kind, Kind::Opaque(_))).then(|| (self.name(op.tbl), self.text(op.row)))
    }

    /// The columns that the operation at `index` writes: of an insert those it names.
    pub fn columns(&self, index: usize) -> impl ExactSizeIterator<Item = Sym> {
        self.stored_cells(&self.ops[index]).iter().map(|cell| cell.col)
    }

    /// Is the operation at `index` a delete?
    pub fn is_delete(&self, index: usize) -> bool {
        matches!(self.ops[index].kind, Kind::Delete)
    }

    /// How many counters the operation at `index` takes: [`OpRef::span`].
    pub fn span_of(&self, index: usize) -> u64 {
        let op = &self.ops[index];
        match op.kind {
            Kind::Opaque(_) => self.stored_opaque(op).0,
            _ => 1,
        }
    }

    /// The event that the operation at `index` names, a derived update.
    pub fn named(&self, index: usize) -> Option<&EventRef> {
        match self.ops[index].kind {
            Kind::Update { origin: OriginSlot::Rewrite(at) | OriginSlot::Default(Some(at)) } => {
                Some(&self.refs[at as usize])
            }
            _ => None,
        }
    }

    /// Is the operation at `index` on the row of the one before it? False may also mean that one row's id is kept twice.
    pub fn shares_row(&self, index: usize) -> bool {
        let [before, op] = [&self.ops[index - 1], &self.ops[index]];
        let on_row = |op: &Op| !matches!(op.kind, Kind::Opaque(_));
        (before.tbl, before.row) == (op.tbl, op.row) && on_row(before) && on_row(op)
    }

    /// The bytes of the texts of a range of operations, eight for any other value.
    pub fn weight(&self, range: Range<usize>) -> usize {
        let span = |s: Span| (s.to - s.from) as usize;
        let cell = |cell: &Cell| match cell.value {
            Stored::Text(s) | Stored::Json(s) => span(s),
            _ => 8,
        };
        let rows = self.ops[range.clone()].iter().map(|op| span(op.row)).sum::<usize>();
        rows + self.stored_cells_of(range).iter().map(cell).sum::<usize>()
    }

    /// All operations, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = OpRef<'_>> + ExactSizeIterator {
        self.range(0..self.len())
    }

    /// Every event that a derived update of this buffer names, to fill in lamports that the wire left out.
    pub fn refs_mut(&mut self) -> &mut [EventRef] {
        &mut self.refs
    }

    /// The present end.
    pub fn mark(&self) -> Mark {
        Mark {
            ops: self.ops.len(),
            cells: self.cells.len(),
            text: self.text.len(),
            bytes: self.bytes.len(),
            refs: self.refs.len(),
        }
    }

    /// Drops everything appended after `mark`. Names stay interned.
    pub fn truncate(&mut self, mark: Mark) {
        self.ops.truncate(mark.ops);
        self.cells.truncate(mark.cells);
        self.text.truncate(mark.text);
        self.bytes.truncate(mark.bytes);
        self.refs.truncate(mark.refs);
    }

    /// Drops all operations and keeps the memory and the names.
    pub fn clear(&mut self) {
        self.truncate(Mark { ops: 0, cells: 0, text: 0, bytes: 0, refs: 0 });
    }

    fn without_cells(&mut self, kind: Kind, tbl: Sym, row: Span) -> Result<()> {
        let cells = offset(self.cells.len())?;
        alloc::push(&mut self.ops, Op { kind, tbl, row, cells_from: cells, cells_to: cells })
    }

    /// Keeps a row's id; once for what happens to the row in turn.
    fn row(&mut self, row: &str) -> Result<Span> {
        match self.ops.last() {
            Some(last) if !matches!(last.kind, Kind::Opaque(_)) && self.bytes_of(last.row) == row.as_bytes() => {
                Ok(last.row)
            }
            _ => self.span(row),
        }
    }

    fn reference(&mut self, event: &EventRef) -> Result<u32> {
        let at = offset(self.refs.len())?;
        let id = EventId { peer: alloc::string(&event.id.peer)?, counter: event.id.counter };
        alloc::push(&mut self.refs, EventRef { id, lamport: event.lamport })?;
        Ok(at)
    }

    #[inline]
    fn span(&mut self, text: &str) -> Result<Span> {
        let from = offset(self.text.len())?;
        alloc::push_str(&mut self.text, text)?;
        Ok(Span { from, to: offset(self.text.len())? })
    }

    #[inline(always)]
    fn store(&mut self, value: Given<'_>) -> Result<Stored> {
        Ok(match value {
            Given::Number(n) => Stored::Number(n),
            Given::Value(ValueRef::Null) => Stored::Null,
            Given::Value(ValueRef::Bool(b)) => Stored::Bool(b),
            Given::Value(ValueRef::Int(i)) => Stored::Int(i),
            Given::Value(ValueRef::Float(f)) => Stored::Float(f),
            Given::Value(ValueRef::Text(t)) => Stored::Text(self.span(t)?),
            Given::Value(ValueRef::Json(t)) => Stored::Json(self.span(t)?),
        })
    }

    /// Puts a text in the place of every number: `write` says it.
    pub(crate) fn spell(&mut self, mut write: impl FnMut(Number, &mut String) -> Result<()>) -> Result<()> {
        for cell in &mut self.cells {
            if let Stored::Number(number) = cell.value {
                let from = offset(self.text.len())?;
                write(number, &mut self.text)?;
                cell.value = Stored::Text(Span { from, to: offset(self.text.len())? });
            }
        }
        Ok(())
    }

    pub(crate) fn stored_op(&self, index: usize) -> &Op {
        &self.ops[index]
    }

    pub(crate) fn stored_ops(&self, range: Range<usize>) -> &[Op] {
        &self.ops[range]
    }

    /// The cells of a range of operations: those of each follow those of the one before.
    pub(crate) fn stored_cells_of(&self, range: Range<usize>) -> &[Cell] {
        let ops = &self.ops[range];
        let (Some(first), Some(last)) = (ops.first(), ops.last()) else { return &[] };
        &self.cells[first.cells_from as usize..last.cells_to as usize]
    }

    pub(crate) fn stored_cells(&self, op: &Op) -> &[Cell] {
        &self.cells[op.cells_from as usize..op.cells_to as usize]
    }

    pub(crate) fn stored_ref(&self, at: u32) -> &EventRef {
        &self.refs[at as usize]
    }

    pub(crate) fn text(&self, s: Span) -> &str {
        &self.text[s.from as usize..s.to as usize]
    }

    fn bytes_of(&self, s: Span) -> &[u8] {
        &self.text.as_bytes()[s.from as usize..s.to as usize]
    }

    fn given(&self, stored: Stored) -> Given<'_> {
        match stored {
            Stored::Number(number) => Given::Number(number),
            read => Given::Value(self.value(read)),
        }
    }

    fn value(&self, stored: Stored) -> ValueRef<'_> {
        let text = |s: Span| self.text(s);
        match stored {
            Stored::Null => ValueRef::Null,
            Stored::Bool(b) => ValueRef::Bool(b),
            Stored::Int(i) => ValueRef::Int(i),
            Stored::Float(f) => ValueRef::Float(f),
            Stored::Text(s) => ValueRef::Text(text(s)),
            Stored::Json(s) => ValueRef::Json(text(s)),
            Stored::Number(_) => unreachable!("numbers are spelled out before they are read"),
        }
    }
}

#[inline]
fn offset(at: usize) -> Result<u32> {
    u32::try_from(at).map_err(|_| Error::TooLarge {
        what: "operations",
        bytes: at as u64,
        limit: u32::MAX as u64,
        splits: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_among_few_and_among_many() {
        let mut buf = OpBuf::new();
        let names: Vec<String> = (0..3 * FEW).map(|n| format!("name {n}")).collect();
        for (count, name) in names.iter().enumerate() {
            let sym = buf.sym(name);
            assert_eq!((buf.name(sym), buf.names()), (name.as_str(), count + 1));
            names[..=count].iter().for_each(|known| assert_eq!(buf.name(buf.find(known).unwrap()), known));
            assert_eq!((buf.find("name"), buf.find("")), (None, None));
        }
        names.iter().for_each(|name| assert_eq!(buf.sym(name), buf.find(name).unwrap()));
        assert_eq!(buf.names(), names.len());
    }
}
