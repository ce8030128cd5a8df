//! The head of a blob, compression, and taking sections apart.

use std::borrow::Cow;

use lz4_flex::block;

use super::bytes::{Input, put_varint};
use crate::alloc;
use crate::error::{Error, Result};
use crate::id::MAX_CLOCK;
use crate::limits::{Budget, within};

const MAGIC: u8 = 0xcd;
const VERSION: u8 = 1;
/// Critical feature: the body is its length as a varint and one LZ4 block.
const LZ4: u64 = 1;
/// Bodies below do not gain enough to be worth an attempt.
pub(super) const LZ4_FROM: usize = 200;
/// LZ4 cannot expand more: whoever announces more wants our memory.
const LZ4_RATIO: usize = 255;

/// Tags of sections.
pub(super) mod tag {
    pub const NAMES: u64 = 1;
    pub const SHAPES: u64 = 2;
    pub const STREAMS: u64 = 3;
    pub const ORIGINS: u64 = 4;
    pub const OPAQUE: u64 = 5;
}

/// What is known without looking into the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub ops: usize,
    pub spans: u64,
}

impl Head {
    /// The head and its critical features.
    pub fn read(input: &mut Input<'_>) -> Result<(Self, u64)> {
        if input.byte()? != MAGIC {
            return Err(input.bad("not a blob of operations"));
        }
        let version = input.byte()?;
        if version != VERSION {
            return Err(Error::Unsupported { what: "format version of operations", value: version as u64 });
        }
        let critical = input.varint()?;
        if critical & !LZ4 != 0 {
            return Err(Error::Unsupported { what: "critical features of operations", value: critical & !LZ4 });
        }
        let _optional = input.varint()?;
        let ops = input.size()?;
        let spans = input.varint()?.checked_add(ops as u64).filter(|&n| n <= MAX_CLOCK);
        let spans = spans.ok_or_else(|| input.bad("more counters than there are"))?;
        Ok((Head { ops, spans }, critical))
    }

    fn put(&self, out: &mut Vec<u8>, critical: u64) {
        out.extend_from_slice(&[MAGIC, VERSION]);
        put_varint(out, critical);
        put_varint(out, 0);
        put_varint(out, self.ops as u64);
        put_varint(out, self.spans.saturating_sub(self.ops as u64));
    }
}

/// One LZ4 block, where that is worth it.
pub(crate) fn compress(body: &[u8]) -> Result<Option<Vec<u8>>> {
    if body.len() < LZ4_FROM {
        return Ok(None);
    }
    let mut packed = alloc::filled(0, block::get_maximum_output_size(body.len()))?;
    match block::compress_into(body, &mut packed) {
        Ok(len) if len + len / 16 + 10 < body.len() => {
            packed.truncate(len);
            Ok(Some(packed))
        }
        _ => Ok(None),
    }
}

/// The inverse: a length as a varint and an LZ4 block up to the end.
pub(crate) fn expand(input: &mut Input<'_>, budget: &mut Budget<'_>) -> Result<Vec<u8>> {
    let len = input.size()?;
    let packed = input.rest();
    within("bytes to decompress", len, packed.len().saturating_mul(LZ4_RATIO).saturating_add(64))?;
    budget.add_expanded(len)?;
    let mut body = alloc::filled(0, len)?;
    match block::decompress_into(packed, &mut body) {
        Ok(written) if written == len => Ok(body),
        _ => Err(input.bad("a damaged LZ4 block")),
    }
}

/// A blob from its head and body, and the body compressed where that was worth it.
pub(super) fn seal(head: Head, body: &[u8], packed: Option<Vec<u8>>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    alloc::reserve(&mut out, packed.as_ref().map_or(body.len(), Vec::len) + 48)?;
    match packed {
        Some(packed) => {
            head.put(&mut out, LZ4);
            put_varint(&mut out, body.len() as u64);
            out.extend_from_slice(&packed);
        }
        None => {
            head.put(&mut out, 0);
            out.extend_from_slice(body);
        }
    }
    Ok(out)
}

/// The head and the body, expanded where it was compressed.
pub(super) fn open<'a>(bytes: &'a [u8], budget: &mut Budget<'_>) -> Result<(Head, Cow<'a, [u8]>)> {
    open_start(bytes, 0, budget)
}

/// The same of a blob of which `missing` bytes at the end are not here, and so not of the body. Errors when it was compressed.
pub(super) fn open_start<'a>(
    start: &'a [u8],
    missing: usize,
    budget: &mut Budget<'_>,
) -> Result<(Head, Cow<'a, [u8]>)> {
    let mut input = Input::new(start);
    let (head, critical) = Head::read(&mut input)?;
    match critical & LZ4 {
        0 => Ok((head, Cow::Borrowed(input.rest()))),
        _ if missing > 0 => Err(input.bad("a part of a compressed body")),
        _ => Ok((head, Cow::Owned(expand(&mut input, budget)?))),
    }
}

/// The sections this version knows, each empty when absent.
#[derive(Default)]
pub(super) struct Sections<'a> {
    known: [&'a [u8]; 5],
    /// The streams come last and are not here to their end.
    pub cut: bool,
}

impl<'a> Sections<'a> {
    /// Takes a body apart; tags this version does not know are passed over.
    pub fn read(body: &'a [u8]) -> Result<Self> {
        Self::read_start(body, 0)
    }

    /// The same for a body of which `missing` bytes at its end are not here. Errors unless they are of the streams.
    pub fn read_start(body: &'a [u8], missing: usize) -> Result<Self> {
        let mut input = Input::new(body);
        let mut sections = Sections::default();
        let mut seen = 0u8;
        while !input.is_empty() {
            let tag = input.varint()?;
            let len = input.size()?;
            sections.cut = missing > 0 && tag == tag::STREAMS && len == input.remaining().saturating_add(missing);
            let bytes = if sections.cut { input.rest() } else { input.take(len)? };
            if let tag @ tag::NAMES..=tag::OPAQUE = tag {
                if seen >> tag & 1 == 1 {
                    return Err(input.bad(format!("section {tag} twice")));
                }
                seen |= 1 << tag;
                sections.known[tag as usize - 1] = bytes;
            }
        }
        if missing > 0 && !sections.cut {
            return Err(input.bad("the end of the body is not of its streams"));
        }
        Ok(sections)
    }

    pub fn get(&self, tag: u64) -> &'a [u8] {
        self.known[tag as usize - 1]
    }
}
