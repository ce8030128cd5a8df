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
mod shapes;
mod texts;
mod times;
mod types;
mod values;

#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

pub(crate) use bytes::{Input, put_bytes, put_varint, text, unzigzag, zigzag};
pub(crate) use head::{compress, expand};
pub(crate) use read::decode_within;
pub use read::{decode, decode_rows};

use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::{Limits, within};
use crate::ops::{Kind, OpBuf, Stored};
use head::{Head, tag};
use shapes::Plan;

/// Encodes a range of operations. Errors: [`Error::OutOfMemory`]; [`Error::Malformed`] when an opaque operation claims to
/// be of a kind that is not.
pub fn encode(buf: &OpBuf, range: Range<usize>) -> Result<Vec<u8>> {
    let plan = Plan::new(buf, range.clone())?;
    let mut body = Vec::new();
    let mut section = Vec::new();
    alloc::reserve(&mut body, 256)?;
    alloc::reserve(&mut section, 128)?;
    for &name in &plan.names {
        put_bytes(&mut section, buf.name(name).as_bytes())?;
    }
    put_section(&mut body, tag::NAMES, &mut section)?;
    plan.put(&mut section)?;
    put_section(&mut body, tag::SHAPES, &mut section)?;
    put_streams(&mut section, buf, range.clone(), &plan)?;
    put_section(&mut body, tag::STREAMS, &mut section)?;
    origins::put(&mut section, buf, range.clone())?;
    put_section(&mut body, tag::ORIGINS, &mut section)?;
    let spans = put_opaque(&mut section, buf, range.clone())?;
    put_section(&mut body, tag::OPAQUE, &mut section)?;
    head::seal(Head { ops: range.len(), spans }, body)
}

/// How many counters (and lamports) the operations of a blob take: reads the head only. Errors: [`Error::Malformed`],
/// [`Error::Unsupported`].
pub fn spans(bytes: &[u8]) -> Result<u64> {
    Ok(Head::read(&mut Input::new(bytes))?.0.spans)
}

/// Appends a section unless it is empty, and empties it.
fn put_section(body: &mut Vec<u8>, tag: u64, section: &mut Vec<u8>) -> Result<()> {
    if !section.is_empty() {
        alloc::reserve(body, 10)?;
        put_varint(body, tag);
        put_bytes(body, section)?;
        section.clear();
    }
    Ok(())
}

/// Row ids and values, sorted by stream, each stream behind its length.
fn put_streams(out: &mut Vec<u8>, buf: &OpBuf, range: Range<usize>, plan: &Plan) -> Result<()> {
    let mut ends = Vec::new();
    alloc::reserve(&mut ends, plan.streams.len())?;
    let mut total = 0;
    for stream in &plan.streams {
        ends.push(total);
        total += stream.len;
    }
    // Each stream's part of `values` is filled from its start; its end moves along.
    let mut values = alloc::filled(Stored::Null, total)?;
    for (nth, i) in range.enumerate() {
        let op = buf.stored_op(i);
        if let Kind::Opaque { .. } = op.kind {
            continue;
        }
        let (row, columns) = plan.streams_of(nth);
        values[ends[row as usize]] = Stored::Text(op.row);
        ends[row as usize] += 1;
        for (&column, cell) in columns.iter().zip(buf.stored_cells(op)) {
            values[ends[column as usize]] = cell.value;
            ends[column as usize] += 1;
        }
    }
    let mut bytes = Vec::new();
    for (stream, &end) in plan.streams.iter().zip(&ends) {
        values::put(&mut bytes, buf, &values[end - stream.len..end])?;
        put_bytes(out, &bytes)?;
        bytes.clear();
    }
    Ok(())
}

/// Operations that are kept as they came: counter span, length and payload each. Returns the counters of all operations.
fn put_opaque(out: &mut Vec<u8>, buf: &OpBuf, range: Range<usize>) -> Result<u64> {
    let mut spans = 0u64;
    for i in range {
        let Kind::Opaque { span, .. } = buf.stored_op(i).kind else {
            spans = spans.saturating_add(1);
            continue;
        };
        let crate::OpRef::Opaque { payload, .. } = buf.get(i) else { continue };
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
