//! Operations as bytes: what the log stores and what travels on the binary wire. `docs/format.md` draws it byte by byte.
//!
//! A blob is a head (magic, version, feature bits, how many operations and counters) and a body of tagged sections, as a
//! whole compressed with LZ4 where that pays. Operations are taken apart: looks (`shapes`), row ids and values each with
//! their kind (`values`, `ints`, `texts`), why updates exist (`origins`), so that like lies beside like.

mod bytes;
mod forms;
mod head;
mod ints;
mod origins;
mod read;
mod rows;
mod shapes;
mod texts;
mod times;
mod types;
mod values;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

pub(crate) use bytes::{Input, put_bytes, put_sized, put_varint, text, unzigzag, zigzag};
pub(crate) use head::{compress, expand};
pub(crate) use read::decode_within;
pub use read::{decode, decode_rows, decode_rows_start, roots};
pub use rows::RowSet;
pub use times::{moment, write_moment};
pub use values::spell_out;

use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::{Limits, within};
use crate::ops::{Kind, OpBuf, Stored};
use head::{Head, tag};
use shapes::Plan;

/// Encodes a range of operations. Errors: [`Error::OutOfMemory`]; [`Error::Malformed`] when an opaque operation claims to
/// be of a kind that is not.
pub fn encode(buf: &OpBuf, range: Range<usize>) -> Result<Vec<u8>> {
    Encoder::default().encode(buf, range)
}

/// Encodes ranges of operations one after the other: a transaction of one row would pay more for memory than for its
/// bytes.
#[derive(Default)]
pub struct Encoder {
    plan: Plan,
    body: Vec<u8>,
    ends: Vec<usize>,
    values: Vec<Stored>,
    /// Bodies that will not be compressed: like follows like, and trying is a sixth of the cost of encoding.
    untried: u32,
}

/// So many bodies are not tried after one that did not get smaller.
const UNTRIED: u32 = 7;

/// Memory that an encoder keeps for the next range, in bytes.
const KEPT: usize = 256 << 10;

impl Encoder {
    /// As [`encode`].
    pub fn encode(&mut self, buf: &OpBuf, range: Range<usize>) -> Result<Vec<u8>> {
        let encoded = self.encode_range(buf, range);
        if self.held() > KEPT {
            *self = Encoder { untried: self.untried, ..Encoder::default() };
        }
        encoded
    }

    fn encode_range(&mut self, buf: &OpBuf, range: Range<usize>) -> Result<Vec<u8>> {
        self.plan.make(buf, range.clone())?;
        self.sort_by_stream(buf, range.clone())?;
        let Encoder { plan, body, .. } = self;
        body.clear();
        let mut names = plan.names.iter().map(|&name| buf.name(name).as_bytes());
        put_section(body, tag::NAMES, |out| names.try_for_each(|name| put_bytes(out, name)))?;
        put_section(body, tag::SHAPES, |out| plan.put(out))?;
        self.put_streams(buf)?;
        let body = &mut self.body;
        put_section(body, tag::ORIGINS, |out| origins::put(out, buf, range.clone()))?;
        let spans = put_section(body, tag::OPAQUE, |out| put_opaque(out, buf, range.clone()))?;
        let packed = self.compress()?;
        head::seal(Head { ops: range.len(), spans }, &self.body, packed)
    }

    /// The body compressed, where that pays.
    fn compress(&mut self) -> Result<Option<Vec<u8>>> {
        if self.untried > 0 {
            self.untried -= 1;
            return Ok(None);
        }
        let packed = head::compress(&self.body)?;
        if packed.is_none() && self.body.len() >= head::LZ4_FROM {
            self.untried = UNTRIED;
        }
        Ok(packed)
    }

    /// Row ids and values, sorted by stream, each stream behind its length.
    fn put_streams(&mut self, buf: &OpBuf) -> Result<()> {
        let Encoder { plan, body, ends, values, .. } = self;
        put_section(body, tag::STREAMS, |out| {
            for (stream, &end) in plan.streams.iter().zip(ends.iter()) {
                put_sized(out, |out| values::put(out, buf, &values[end - stream.len..end]))?;
            }
            Ok(())
        })
    }

    fn sort_by_stream(&mut self, buf: &OpBuf, range: Range<usize>) -> Result<()> {
        let Encoder { plan, ends, values, .. } = self;
        ends.clear();
        alloc::reserve(ends, plan.streams.len())?;
        let mut total = 0;
        for stream in &plan.streams {
            ends.push(total);
            total += stream.len;
        }
        // Each stream's part of `values` is filled from its start; its end moves along.
        values.clear();
        alloc::reserve(values, total)?;
        values.resize(total, Stored::Null);
        let ops = buf.stored_ops(range.clone());
        if let Some((row, columns)) = plan.streams_of_all() {
            fill(values, &mut ends[row as usize], ops.iter().map(|op| Stored::Text(op.row)));
            let cells = buf.stored_cells_of(range);
            for (nth, column) in columns.iter().enumerate() {
                let of_column = cells.chunks_exact(columns.len()).map(|cells| cells[nth].value);
                fill(values, &mut ends[column.stream as usize], of_column);
            }
            return Ok(());
        }
        let mut put = |stream: u32, value: Stored| {
            let end = &mut ends[stream as usize];
            values[*end] = value;
            *end += 1;
        };
        for (op, streams) in ops.iter().zip(plan.streams_of_ops()) {
            let Some((row, columns)) = streams else { continue };
            put(row, Stored::Text(op.row));
            columns.iter().zip(buf.stored_cells(op)).for_each(|(column, cell)| put(column.stream, cell.value));
        }
        Ok(())
    }

    fn held(&self) -> usize {
        self.body.capacity() + self.values.capacity() * size_of::<Stored>() + self.plan.held()
    }
}

/// Appends a section to a body unless it is empty.
fn put_section<R>(body: &mut Vec<u8>, tag: u64, section: impl FnOnce(&mut Vec<u8>) -> Result<R>) -> Result<R> {
    let at = body.len();
    alloc::reserve(body, 20)?;
    put_varint(body, tag);
    let from = body.len();
    let result = put_sized(body, section)?;
    if body.len() == from + 1 {
        body.truncate(at);
    }
    Ok(result)
}

/// Fills a stream from where it ends on.
fn fill(values: &mut [Stored], end: &mut usize, more: impl ExactSizeIterator<Item = Stored>) {
    let part = &mut values[*end..*end + more.len()];
    *end += more.len();
    part.iter_mut().zip(more).for_each(|(to, value)| *to = value);
}

/// How many counters (and lamports) the operations of a blob take: reads the head only. Errors: [`Error::Malformed`],
/// [`Error::Unsupported`].
pub fn spans(bytes: &[u8]) -> Result<u64> {
    Ok(Head::read(&mut Input::new(bytes))?.0.spans)
}

/// Operations that are kept as they came: counter span, length and payload each. Returns the counters of all operations.
fn put_opaque(out: &mut Vec<u8>, buf: &OpBuf, range: Range<usize>) -> Result<u64> {
    let mut spans = 0u64;
    for i in range {
        let op = buf.stored_op(i);
        if !matches!(op.kind, Kind::Opaque(_)) {
            spans = spans.saturating_add(1);
            continue;
        }
        let (span, payload) = buf.stored_opaque(op);
        alloc::reserve(out, 10)?;
        put_varint(out, span);
        put_bytes(out, payload)?;
        spans = spans.saturating_add(span);
    }
    if spans > crate::id::MAX_CLOCK {
        return Err(Error::ClockRange { what: "counter span", value: spans.to_string() });
    }
    Ok(spans)
}

/// A table, column, peer or type name: text, not empty, within the limit.
pub(crate) fn name<'a>(what: &'static str, bytes: &'a [u8], limits: &Limits) -> Result<&'a str> {
    within("bytes of a name", bytes.len(), limits.name_bytes)?;
    if bytes.is_empty() {
        return Err(Error::Malformed { at: what.into(), what: "an empty name".into() });
    }
    text(bytes)
}
