//! What operations look like, apart from their rows and values: each different look is a *shape*, an operation is the
//! number of its shape. Values of a column lie together in one *stream*, so do the row ids of a table.
//!
//! Shapes: how many; each its kind and, if it is a row operation, references to streams: its row ids, then (insert) how
//! many cells and a stream each, or (update) one stream. A reference: 0 is a new stream named by the next name not
//! used yet, 1 a new stream followed by the number of its name, r from 2 on the stream r - 2. Then, unless there is just one
//! shape, the shapes of the operations: 2 * shape for one, 2 * shape + 1 and n for n + 2 of them.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::bytes::{Input, put_varint};
use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::{Budget, within, within_sum};
use crate::ops::{Cell, Kind, Op, OpBuf, Sym, kind};

/// The shapes of operations that are about to be encoded.
#[derive(Default)]
pub(crate) struct Plan {
    /// Names in the order of their numbers.
    pub names: Vec<Sym>,
    /// Streams in the order of their numbers.
    pub streams: Vec<PlanStream>,
    shapes: Vec<PlanShape>,
    columns: Vec<PlanColumn>,
    /// The shape of each operation.
    of_ops: Vec<u32>,
    bytes: Vec<u8>,
    name_numbers: Numbers<Sym>,
    stream_numbers: Numbers<(Sym, Option<Sym>)>,
    /// The latest shape by a hash of its look; others of the same hash follow by [`PlanShape::before`].
    by_look: FxHashMap<u64, u32>,
    /// How many shapes are in `by_look`.
    indexed: usize,
}

pub(crate) struct PlanStream {
    /// How many values.
    pub len: usize,
}

/// A cell of a shape.
pub(crate) struct PlanColumn {
    name: Sym,
    /// The stream of its values.
    pub stream: u32,
}

struct PlanShape {
    kind: u64,
    tbl: Sym,
    /// The stream of its row ids.
    row: u32,
    columns: Range<usize>,
    ops: usize,
    look: u64,
    before: Option<u32>,
    /// The shape that came after it last.
    next: u32,
}

fn is_row(kind: u64) -> bool {
    matches!(kind, kind::INSERT | kind::UPDATE | kind::DELETE)
}

fn kind_of(op: &Op) -> u64 {
    match op.kind {
        Kind::Insert => kind::INSERT,
        Kind::Update { .. } => kind::UPDATE,
        Kind::Delete => kind::DELETE,
        Kind::Opaque(kind) => kind.get(),
    }
}

/// A transaction of one row has a handful of names and shapes: those are searched, not hashed.
const SEARCHED: usize = 16;

/// Numbers things from 0 in the order they come.
struct Numbers<K> {
    list: Vec<K>,
    map: FxHashMap<K, u32>,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Numbers { list: Vec::new(), map: FxHashMap::default() }
    }
}

impl<K: Copy + Eq + std::hash::Hash> Numbers<K> {
    fn get(&self, key: K) -> Option<u32> {
        match self.list.len() {
            0..=SEARCHED => self.list.iter().position(|k| *k == key).map(|n| n as u32),
            _ => self.map.get(&key).copied(),
        }
    }

    fn clear(&mut self) {
        self.list.clear();
        self.map.clear();
    }

    fn add(&mut self, key: K) -> Result<()> {
        alloc::push(&mut self.list, key)?;
        if self.list.len() <= SEARCHED {
            return Ok(());
        }
        for (n, &k) in self.list.iter().enumerate().skip(self.map.len()) {
            room(&mut self.map)?;
            self.map.insert(k, n as u32);
        }
        Ok(())
    }
}

impl Plan {
    /// Finds the shapes of a range of operations. Ranges that look alike follow each other, as transactions of one
    /// statement do: then the plan stays as it is.
    pub fn make(&mut self, buf: &OpBuf, range: Range<usize>) -> Result<()> {
        if self.fits(buf, range.clone()) {
            return Ok(());
        }
        let made = self.make_anew(buf, range);
        if made.is_err() {
            self.clear();
        }
        made
    }

    /// Is it the plan of this range too? Of names only their numbers matter.
    fn fits(&self, buf: &OpBuf, range: Range<usize>) -> bool {
        let ops = buf.stored_ops(range);
        let looks = |(op, &shape): (&Op, &u32)| self.looks(&self.shapes[shape as usize], op, buf.stored_cells(op));
        ops.len() == self.of_ops.len() && ops.iter().zip(&self.of_ops).all(looks)
    }

    fn make_anew(&mut self, buf: &OpBuf, range: Range<usize>) -> Result<()> {
        self.clear();
        alloc::reserve(&mut self.of_ops, range.len())?;
        let (mut last, mut guess) = (None, 0);
        for i in range {
            let op = buf.stored_op(i);
            let cells = buf.stored_cells(op);
            // Operations that look alike follow each other, or take turns as the columns of updated rows do.
            let shape = match self.shapes.get(guess as usize) {
                Some(guessed) if self.looks(guessed, op, cells) => guess,
                _ => self.shape(op, cells)?,
            };
            if let Some(last) = last.replace(shape) {
                self.shapes[last as usize].next = shape;
            }
            guess = self.shapes[shape as usize].next;
            self.shapes[shape as usize].ops += 1;
            self.of_ops.push(shape);
        }
        for shape in self.shapes.iter().filter(|shape| is_row(shape.kind)) {
            self.streams[shape.row as usize].len += shape.ops;
            let columns = &self.columns[shape.columns.clone()];
            columns.iter().for_each(|c| self.streams[c.stream as usize].len += shape.ops);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.names.clear();
        self.streams.clear();
        self.shapes.clear();
        self.columns.clear();
        self.of_ops.clear();
        self.bytes.clear();
        self.name_numbers.clear();
        self.stream_numbers.clear();
        self.by_look.clear();
        self.indexed = 0;
    }

    /// Bytes of memory it keeps, roughly.
    pub fn held(&self) -> usize {
        let shapes =
            self.shapes.capacity() * size_of::<PlanShape>() + self.columns.capacity() * size_of::<PlanColumn>();
        shapes + self.of_ops.capacity() * size_of::<u32>() + self.bytes.capacity()
    }

    /// The streams of the row ids and of the cells of each row operation, `None` for others, in order.
    pub fn streams_of_ops(&self) -> impl Iterator<Item = Option<(u32, &[PlanColumn])>> {
        self.of_ops.iter().map(|&shape| self.streams_of(&self.shapes[shape as usize]))
    }

    /// The same where all operations look alike.
    pub fn streams_of_all(&self) -> Option<(u32, &[PlanColumn])> {
        let [only] = &self.shapes[..] else { return None };
        self.streams_of(only)
    }

    fn streams_of(&self, shape: &PlanShape) -> Option<(u32, &[PlanColumn])> {
        is_row(shape.kind).then(|| (shape.row, &self.columns[shape.columns.clone()]))
    }

    /// Appends shapes and the shapes of operations.
    pub fn put(&self, out: &mut Vec<u8>) -> Result<()> {
        alloc::reserve(out, self.bytes.len() + 10 + self.of_ops.len())?;
        put_varint(out, self.shapes.len() as u64);
        out.extend_from_slice(&self.bytes);
        if self.shapes.len() == 1 {
            return Ok(());
        }
        for run in self.of_ops.chunk_by(|a, b| a == b) {
            alloc::reserve(out, 20)?;
            put_varint(out, (run[0] as u64) << 1 | (run.len() > 1) as u64);
            if run.len() > 1 {
                put_varint(out, run.len() as u64 - 2);
            }
        }
        Ok(())
    }

    #[inline]
    fn looks(&self, shape: &PlanShape, op: &Op, cells: &[Cell]) -> bool {
        let of_table = match op.kind {
            Kind::Opaque(_) => !is_row(shape.kind),
            _ => shape.tbl == op.tbl,
        };
        shape.kind == kind_of(op)
            && of_table
            && shape.columns.len() == cells.len()
            && self.columns[shape.columns.clone()].iter().zip(cells).all(|(c, cell)| c.name == cell.col)
    }

    fn shape(&mut self, op: &Op, cells: &[Cell]) -> Result<u32> {
        if self.shapes.len() <= SEARCHED {
            if let Some(shape) = self.shapes.iter().position(|shape| self.looks(shape, op, cells)) {
                return Ok(shape as u32);
            }
            return self.declare(op, cells);
        }
        for shape in self.indexed..self.shapes.len() {
            room(&mut self.by_look)?;
            self.shapes[shape].before = self.by_look.insert(self.shapes[shape].look, shape as u32);
            self.indexed = shape + 1;
        }
        let mut candidate = self.by_look.get(&look(op, cells)).copied();
        while let Some(shape) = candidate {
            if self.looks(&self.shapes[shape as usize], op, cells) {
                return Ok(shape);
            }
            candidate = self.shapes[shape as usize].before;
        }
        self.declare(op, cells)
    }

    /// A shape not seen before.
    fn declare(&mut self, op: &Op, cells: &[Cell]) -> Result<u32> {
        let shape = self.write_shape(op, cells)?;
        alloc::push(&mut self.shapes, shape)?;
        Ok(self.shapes.len() as u32 - 1)
    }

    fn write_shape(&mut self, op: &Op, cells: &[Cell]) -> Result<PlanShape> {
        let kind = kind_of(op);
        alloc::reserve(&mut self.bytes, 20)?;
        put_varint(&mut self.bytes, kind);
        let from = self.columns.len();
        let next = self.shapes.len() as u32;
        let look = look(op, cells);
        let mut shape = PlanShape { kind, tbl: op.tbl, row: 0, columns: from..from, ops: 0, look, before: None, next };
        match op.kind {
            Kind::Opaque(_) if matches!(kind, kind::INSERT | kind::UPDATE | kind::DELETE) => {
                let what = format!("kind {kind} is a row operation and cannot be opaque");
                return Err(Error::Malformed { at: "operation".into(), what });
            }
            Kind::Opaque(_) => return Ok(shape),
            _ => shape.row = self.stream(op.tbl, None)?,
        }
        alloc::reserve(&mut self.columns, cells.len())?;
        if let Kind::Insert = op.kind {
            alloc::reserve(&mut self.bytes, 10)?;
            put_varint(&mut self.bytes, cells.len() as u64);
        }
        for cell in cells {
            let stream = self.stream(op.tbl, Some(cell.col))?;
            self.columns.push(PlanColumn { name: cell.col, stream });
        }
        shape.columns = from..self.columns.len();
        Ok(shape)
    }

    /// The number of a stream, which is written as a reference.
    fn stream(&mut self, tbl: Sym, col: Option<Sym>) -> Result<u32> {
        alloc::reserve(&mut self.bytes, 20)?;
        if let Some(number) = self.stream_numbers.get((tbl, col)) {
            put_varint(&mut self.bytes, number as u64 + 2);
            return Ok(number);
        }
        let name = col.unwrap_or(tbl);
        match self.name_numbers.get(name) {
            Some(known) => {
                put_varint(&mut self.bytes, 1);
                put_varint(&mut self.bytes, known as u64);
            }
            None => {
                put_varint(&mut self.bytes, 0);
                self.name_numbers.add(name)?;
                alloc::push(&mut self.names, name)?;
            }
        }
        let number = self.streams.len() as u32;
        alloc::push(&mut self.streams, PlanStream { len: 0 })?;
        self.stream_numbers.add((tbl, col))?;
        Ok(number)
    }
}

/// A hash of what [`Plan::looks`] compares.
fn look(op: &Op, cells: &[Cell]) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut look = rustc_hash::FxHasher::default();
    (kind_of(op), op.tbl, cells.len()).hash(&mut look);
    cells.iter().for_each(|c| c.col.hash(&mut look));
    look.finish()
}

fn room<K: std::hash::Hash + Eq, V>(map: &mut FxHashMap<K, V>) -> Result<()> {
    map.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: size_of::<(K, V)>() })
}

/// A stream as it was declared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// The number of its name: a table for row ids, a column for values.
    pub name: u32,
    /// The stream of the row ids of its table; itself if it is that.
    pub rows: u32,
    /// How many values.
    pub len: usize,
}

/// A shape as it was declared.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub kind: u64,
    /// The stream of its row ids.
    pub rows: u32,
    columns: Range<usize>,
    ops: usize,
}

impl Shape {
    /// Is it one of an operation on a row?
    pub fn is_row(&self) -> bool {
        is_row(self.kind)
    }
}

/// The shapes of operations that are about to be decoded.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    pub streams: Vec<Stream>,
    shapes: Vec<Shape>,
    columns: Vec<u32>,
    /// Shapes of the operations, and of how many in a row.
    runs: Vec<(u32, usize)>,
}

impl Shapes {
    /// Reads what [`Plan::put`] wrote for `ops` operations over `names`, charging their cells to `budget`.
    pub fn read(bytes: &[u8], ops: usize, names: &[&str], budget: &mut Budget<'_>) -> Result<Self> {
        let mut input = Input::new(bytes);
        let mut shapes = Shapes::default();
        let count = input.size()?;
        if count > ops {
            return Err(input.bad(format!("{count} shapes for {ops} operations")));
        }
        let mut next_name = 0;
        for _ in 0..count {
            shapes.declare(&mut input, &mut next_name, names, budget)?;
        }
        shapes.read_runs(&mut input, ops)?;
        shapes.count(budget)?;
        Ok(shapes)
    }

    /// Shape by shape, how many operations in a row have it.
    pub fn runs(&self) -> impl Iterator<Item = (&Shape, usize)> {
        self.runs.iter().map(|&(shape, n)| (&self.shapes[shape as usize], n))
    }

    /// The streams of the cells of a shape.
    pub fn columns(&self, shape: &Shape) -> &[u32] {
        &self.columns[shape.columns.clone()]
    }

    /// How many operations are of a kind.
    pub fn of_kind(&self, kind: u64) -> usize {
        self.shapes.iter().filter(|s| s.kind == kind).map(|s| s.ops).sum()
    }

    fn declare(&mut self, input: &mut Input<'_>, next: &mut u32, names: &[&str], budget: &Budget<'_>) -> Result<()> {
        let kind = input.varint()?;
        let from = self.columns.len();
        let mut rows = 0;
        if is_row(kind) {
            rows = self.stream(input, next, names, None, budget)?;
            let cells = match kind {
                kind::INSERT => input.size()?,
                kind::UPDATE => 1,
                _ => 0,
            };
            // Each takes a byte at least.
            if cells > input.remaining() {
                return Err(input.bad(format!("{cells} cells announced")));
            }
            within("columns of an operation", cells, budget.limits.cells)?;
            alloc::reserve(&mut self.columns, cells)?;
            for _ in 0..cells {
                let column = self.stream(input, next, names, Some(rows), budget)?;
                self.columns.push(column);
            }
            self.distinct(from, names)?;
        }
        alloc::push(&mut self.shapes, Shape { kind, rows, columns: from..self.columns.len(), ops: 0 })
    }

    /// Refuses a shape that names a column twice.
    fn distinct(&self, from: usize, names: &[&str]) -> Result<()> {
        let mut used = Vec::new();
        alloc::reserve(&mut used, self.columns.len() - from)?;
        used.extend(self.columns[from..].iter().map(|&c| names[self.streams[c as usize].name as usize]));
        used.sort_unstable();
        match used.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::DuplicateColumn { at: "an insert".into(), name: alloc::string(pair[0])? }),
            None => Ok(()),
        }
    }

    fn stream(
        &mut self,
        input: &mut Input<'_>,
        next: &mut u32,
        names: &[&str],
        rows: Option<u32>,
        budget: &Budget<'_>,
    ) -> Result<u32> {
        let reference = input.varint()?;
        if reference >= 2 {
            let known = self.streams.get(usize::try_from(reference - 2).unwrap_or(usize::MAX));
            let number = (reference - 2) as u32;
            // A column belongs to the table whose row ids come before it; row ids are no column.
            return match known {
                Some(s) if s.rows == rows.unwrap_or(number) && (rows.is_none() || s.rows != number) => Ok(number),
                _ => Err(input.bad(format!("stream {number} is not one of this table"))),
            };
        }
        let name = match reference {
            0 => *next,
            _ => u32::try_from(input.varint()?).unwrap_or(u32::MAX),
        };
        *next += (reference == 0) as u32;
        if name as usize >= names.len() {
            return Err(input.bad(format!("name {name} of {}", names.len())));
        }
        let number = self.streams.len();
        within_sum("columns in a run", number + 1, budget.limits.names)?;
        let number = number as u32;
        alloc::push(&mut self.streams, Stream { name, rows: rows.unwrap_or(number), len: 0 })?;
        Ok(number)
    }

    fn read_runs(&mut self, input: &mut Input<'_>, ops: usize) -> Result<()> {
        if self.shapes.len() == 1 {
            alloc::push(&mut self.runs, (0, ops))?;
            return input.done();
        }
        let mut left = ops;
        while left > 0 {
            let head = input.varint()?;
            let n = if head & 1 == 1 { input.size()?.saturating_add(2) } else { 1 };
            if head >> 1 >= self.shapes.len() as u64 || n > left {
                return Err(input.bad(format!("shape {} for {n} operations, {left} are left", head >> 1)));
            }
            left -= n;
            alloc::push(&mut self.runs, ((head >> 1) as u32, n))?;
        }
        input.done()
    }

    /// Counts operations by shape and values by stream.
    fn count(&mut self, budget: &mut Budget<'_>) -> Result<()> {
        for &(shape, n) in &self.runs {
            self.shapes[shape as usize].ops += n;
        }
        for shape in &self.shapes {
            if !shape.is_row() {
                continue;
            }
            let columns = &self.columns[shape.columns.clone()];
            budget.add_cells(shape.ops.saturating_mul(columns.len()))?;
            self.streams[shape.rows as usize].len += shape.ops;
            columns.iter().for_each(|&c| self.streams[c as usize].len += shape.ops);
        }
        Ok(())
    }
}
