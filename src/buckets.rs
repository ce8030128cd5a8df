//! Operations put into buckets by row. Who compares all of a log with all of a table, row by row, reads each once and then
//! one bucket after the other: memory holds a bucket, files the rest (the partitioning of a Grace hash join, Kitsuregawa
//! et al. 1983). A bucket that is too large is split. The events of one row are always in one bucket.

use crdt_engine::ops::OpBuf;
use crdt_engine::{OpRef, codec};

use crate::error::{Error, Result, state};
use crate::pg::{entry, spill::Spill};
use crate::store::{get_varint, put_varint, row_hash, stored_limits};

/// A bucket's operations are set aside when they take this much memory.
const PIECE_BYTES: usize = 32 << 10;

/// Where an operation comes from; of a table's row only the doc counts.
#[derive(Clone, Copy, Default)]
pub struct Source {
    pub doc: i64,
    pub peer: i32,
    pub counter: u64,
    pub lamport: u64,
}

/// Buckets between which rows are divided, by the hash of the row.
pub struct Buckets {
    level: u32,
    all: Vec<Bucket>,
}

/// The operations of some rows.
pub struct Bucket {
    aside: Spill,
    aside_bytes: usize,
    ops: OpBuf,
    sources: Vec<Source>,
}

impl Buckets {
    /// So many empty buckets, 65,536 at most. They live in the current memory context. `level`: those of another level
    /// divide rows differently.
    pub fn new(count: usize, level: u32) -> Buckets {
        let empty = || Bucket { aside: Spill::new(count), aside_bytes: 0, ops: OpBuf::new(), sources: Vec::new() };
        Buckets { level, all: (0..count).map(|_| empty()).collect() }
    }

    /// Adds an operation on a row.
    pub fn put(&mut self, op: OpRef<'_>, source: Source) -> Result<()> {
        let (tbl, row) = op.row_key().expect("an operation on a row");
        let at = (row_hash(tbl, row) as u64).rotate_right(16 * self.level) % self.all.len() as u64;
        let bucket = &mut self.all[at as usize];
        bucket.ops.push(op)?;
        bucket.sources.push(source);
        if bucket.ops.memory() > PIECE_BYTES {
            bucket.set_aside()?;
        }
        Ok(())
    }

    /// One bucket after the other.
    pub fn into_iter(self) -> impl Iterator<Item = Bucket> {
        self.all.into_iter()
    }
}

impl Bucket {
    /// Bytes of memory that all of its operations would take.
    pub fn memory(&self) -> usize {
        self.aside_bytes + self.ops.memory()
    }

    /// Divides it further: `level` must be another one than that of the buckets it is of.
    pub fn split(self, count: usize, level: u32) -> Result<Buckets> {
        let mut parts = Buckets::new(count, level);
        self.read(|ops, sources| ops.iter().zip(sources).try_for_each(|(op, source)| parts.put(op, *source)))?;
        Ok(parts)
    }

    fn set_aside(&mut self) -> Result<()> {
        let mut piece = Vec::new();
        put_varint(&mut piece, self.sources.len() as u64);
        for source in &self.sources {
            for number in [source.doc as u64, source.peer as u64, source.counter, source.lamport] {
                put_varint(&mut piece, number);
            }
        }
        let ops = std::mem::take(&mut self.ops);
        self.aside_bytes += ops.memory();
        piece.extend_from_slice(&codec::encode(&ops, 0..ops.len())?);
        self.sources.clear();
        self.aside.write(&piece);
        Ok(())
    }

    /// Calls `each` with the operations in the order they came, some at a time.
    pub fn read(mut self, mut each: impl FnMut(&OpBuf, &[Source]) -> Result<()>) -> Result<()> {
        while let Some(piece) = self.aside.next_piece() {
            entry::check_interrupts();
            let (mut at, mut sources, mut ops) = (0, Vec::new(), OpBuf::new());
            let mut number = || get_varint(&piece, &mut at).ok_or_else(cut_short);
            for _ in 0..number()? {
                let [doc, peer, counter, lamport] = [number()?, number()?, number()?, number()?];
                sources.push(Source { doc: doc as i64, peer: peer as i32, counter, lamport });
            }
            codec::decode(&piece[at..], &stored_limits(), &mut ops)?;
            each(&ops, &sources)?;
        }
        each(&self.ops, &self.sources)
    }
}

fn cut_short() -> Error {
    Error::new(state::INTERNAL, "a piece of a bucket ends early")
}
