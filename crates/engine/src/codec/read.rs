//! Decoding: all operations of a blob, or those on some rows.

use std::ops::Range;

use super::bytes::Input;
use super::forms::Scratch;
use super::head::{self, Head, Sections, tag};
use super::name;
use super::origins::Origins;
use super::rows::RowSet;
use super::shapes::Shapes;
use super::values::Column;
use crate::EventId;
use crate::alloc;
use crate::error::Result;
use crate::limits::{Budget, Limits, within, within_sum};
use crate::ops::{OpBuf, Origin, Said, Sym, kind};
use crate::value::ValueRef;

/// Appends all operations of a blob and returns which they are; on an error nothing stays appended (names stay
/// interned). Errors: [`crate::Error::Malformed`], [`crate::Error::TooLarge`], [`crate::Error::Unsupported`], [`crate::Error::NulCharacter`],
/// [`crate::Error::DuplicateColumn`], [`crate::Error::ClockRange`], [`crate::Error::OutOfMemory`].
pub fn decode(bytes: &[u8], limits: &Limits, into: &mut OpBuf) -> Result<Range<usize>> {
    within_sum("bytes of a request", bytes.len(), limits.request_bytes)?;
    decode_within(bytes, &mut Budget::new(limits), into)
}

/// [`decode`], for one of many blobs that share limits.
pub(crate) fn decode_within(bytes: &[u8], budget: &mut Budget<'_>, into: &mut OpBuf) -> Result<Range<usize>> {
    let mark = into.mark();
    let from = into.len();
    let mut all = |into: &mut OpBuf| {
        let (head, body) = head::open(bytes, budget)?;
        Reader::new(&head, Sections::read(&body)?, budget)?.append(&head, budget, into, None)
    };
    match all(into) {
        Ok(_) => Ok(from..into.len()),
        Err(e) => {
            into.truncate(mark);
            Err(e)
        }
    }
}

/// Appends the operations of a blob on some rows; for each returns how many counters of the blob come before it. On an
/// error nothing stays appended. Errors as for [`decode`].
pub fn decode_rows(bytes: &[u8], limits: &Limits, wanted: &RowSet<'_>, into: &mut OpBuf) -> Result<Vec<u64>> {
    within_sum("bytes of a request", bytes.len(), limits.request_bytes)?;
    let mark = into.mark();
    let some = |into: &mut OpBuf| {
        let mut budget = Budget::new(limits);
        let (head, body) = head::open(bytes, &mut budget)?;
        Reader::new(&head, Sections::read(&body)?, &mut budget)?.append_rows(&head, &mut budget, wanted, into)
    };
    some(into).inspect_err(|_| into.truncate(mark))
}

/// What the operations of a blob on some rows do, by the first of its `len` bytes or all: as [`decode_rows`], but every value
/// is null. `None` where the bytes do not tell. A few do for a run of operations on one table that did not get smaller by LZ4.
pub fn decode_rows_start(
    start: &[u8],
    len: usize,
    limits: &Limits,
    wanted: &RowSet<'_>,
    into: &mut OpBuf,
) -> Option<Vec<u64>> {
    let mark = into.mark();
    let some = |into: &mut OpBuf| {
        let mut budget = Budget::new(limits);
        let missing = len.saturating_sub(start.len());
        let (head, body) = head::open_start(start, missing, &mut budget)?;
        let mut reader = Reader::new(&head, Sections::read_start(&body, missing)?, &mut budget)?;
        reader.values = false;
        reader.append_rows(&head, &mut budget, wanted, into)
    };
    // Whatever is wrong, who then reads all of it is told.
    some(into).inspect_err(|_| into.truncate(mark)).ok()
}

/// The events that a blob's derived updates name, as often as they do. Errors as for [`decode`].
pub fn roots(bytes: &[u8], limits: &Limits) -> Result<Vec<EventId>> {
    within_sum("bytes of a request", bytes.len(), limits.request_bytes)?;
    let mut budget = Budget::new(limits);
    let (head, body) = head::open(bytes, &mut budget)?;
    let mut roots = Vec::new();
    if Sections::read(&body)?.get(tag::ORIGINS).is_empty() {
        return Ok(roots);
    }
    let mut reader = Reader::new(&head, Sections::read(&body)?, &mut budget)?;
    let Some(origins) = &mut reader.origins else { return Ok(roots) };
    for _ in 0..reader.shapes.of_kind(kind::UPDATE) {
        if let Origin::Rewrite(root) | Origin::Default(Some(root)) = origins.next()? {
            alloc::push(&mut roots, root.id.clone())?;
        }
    }
    Ok(roots)
}

/// A stream that is opened when its first value is asked for. Most are: boxing the open ones would gain nothing.
#[allow(clippy::large_enum_variant)]
enum Lazy<'a> {
    Closed(&'a [u8]),
    Open(Column<'a>),
    /// Its bytes are not here.
    Missing,
}

struct Reader<'a> {
    names: Vec<&'a str>,
    shapes: Shapes,
    streams: Vec<Lazy<'a>>,
    /// How many values of each stream to pass over before the next.
    behind: Vec<usize>,
    /// The last text of each stream.
    said: Vec<Said>,
    origins: Option<Origins<'a>>,
    opaque: Input<'a>,
    /// Values are wanted, and not only what was done.
    values: bool,
}

impl<'a> Reader<'a> {
    fn new(head: &Head, sections: Sections<'a>, budget: &mut Budget<'_>) -> Result<Self> {
        budget.add_ops(head.ops)?;
        let mut names = Vec::new();
        let mut input = Input::new(sections.get(tag::NAMES));
        while !input.is_empty() {
            within_sum("different names", names.len() + 1, budget.limits.names)?;
            alloc::push(&mut names, name("name", input.bytes()?, budget.limits)?)?;
        }
        let shapes = match sections.get(tag::SHAPES) {
            [] if head.ops == 0 => Shapes::default(),
            bytes => Shapes::read(bytes, head.ops, &names, budget)?,
        };
        let mut streams = Vec::new();
        alloc::reserve(&mut streams, shapes.streams.len())?;
        let mut input = Input::new(sections.get(tag::STREAMS));
        for _ in &shapes.streams {
            streams.push(match input.bytes() {
                Ok(bytes) => Lazy::Closed(bytes),
                Err(_) if sections.cut => break,
                Err(e) => return Err(e),
            });
        }
        if sections.cut {
            streams.resize_with(shapes.streams.len(), || Lazy::Missing);
        } else {
            input.done()?;
        }
        let origins = match sections.get(tag::ORIGINS) {
            [] => None,
            bytes => Some(Origins::read(bytes, shapes.of_kind(kind::UPDATE), budget)?),
        };
        let behind = alloc::filled(0, streams.len())?;
        let said = alloc::filled(Said::default(), streams.len())?;
        let opaque = Input::new(sections.get(tag::OPAQUE));
        Ok(Reader { names, shapes, streams, behind, said, origins, opaque, values: true })
    }

    /// Appends the operations on some rows.
    fn append_rows(
        &mut self,
        head: &Head,
        budget: &mut Budget<'_>,
        wanted: &RowSet<'_>,
        into: &mut OpBuf,
    ) -> Result<Vec<u64>> {
        let picked = self.pick(budget.limits, wanted)?;
        if picked.is_empty() {
            return Ok(Vec::new());
        }
        self.append(head, budget, into, Some(&picked))
    }

    /// The positions of the operations on wanted rows.
    fn pick(&self, limits: &Limits, wanted: &RowSet<'_>) -> Result<Vec<usize>> {
        // Of each stream of row ids, a reader and what is wanted of its table.
        let mut rows = Vec::new();
        alloc::reserve(&mut rows, self.streams.len())?;
        for (stream, lazy) in self.shapes.streams.iter().zip(&self.streams) {
            let ids = wanted.of(self.names[stream.name as usize]).filter(|_| stream.rows as usize == rows.len());
            rows.push(match (ids, lazy) {
                (None, _) => None,
                (Some(ids), Lazy::Closed(bytes)) => Some((Column::new(bytes, stream.len)?, ids)),
                (Some(_), _) => return Err(self.opaque.bad("row ids that are not here")),
            });
        }
        let (mut picked, mut from) = (Vec::new(), 0);
        let mut scratch = Scratch::new();
        for (shape, n) in self.shapes.runs() {
            match rows.get_mut(shape.rows as usize).filter(|_| shape.is_row()) {
                Some(Some((_, ids))) if ids.all() => {
                    alloc::reserve(&mut picked, n)?;
                    picked.extend(from..from + n);
                }
                Some(Some((column, ids))) => column.find_rows(ids, (from, n), &mut scratch, limits, &mut picked)?,
                _ => {}
            }
            from += n;
        }
        Ok(picked)
    }

    /// Appends operations: all, or those at some positions, in order. Of these returns how many counters come before each.
    fn append(
        &mut self,
        head: &Head,
        budget: &mut Budget<'_>,
        into: &mut OpBuf,
        only: Option<&[usize]>,
    ) -> Result<Vec<u64>> {
        let mut syms = Vec::new();
        alloc::reserve(&mut syms, self.names.len())?;
        for name in &self.names {
            syms.push(into.intern(name)?);
        }
        within_sum("different names", into.names(), budget.limits.names)?;
        let mut counters = Vec::new();
        alloc::reserve(&mut counters, only.map_or(0, <[usize]>::len))?;
        let (mut counter, mut index) = (0u64, 0);
        let mut scratch = Scratch::new();
        let shapes = std::mem::take(&mut self.shapes);
        for (shape, n) in shapes.runs() {
            let end = index + n;
            while index < end {
                if let Some(positions) = only {
                    let next = positions.get(counters.len()).map_or(end, |&at| at.min(end));
                    if next > index {
                        counter = counter.saturating_add(self.pass(&shapes, shape, next - index, budget, into)?);
                        index = next;
                        continue;
                    }
                    counters.push(counter);
                }
                counter = counter.saturating_add(match shape.is_row() {
                    true => self.row_op(&shapes, shape, &syms, budget, into, &mut scratch)?,
                    false => self.opaque_op(shape.kind, true, budget, into)?,
                });
                index += 1;
            }
        }
        if counter != head.spans {
            return Err(self.opaque.bad(format!("{counter} counters where the head says {}", head.spans)));
        }
        self.opaque.done()?;
        Ok(counters)
    }

    #[inline]
    fn row_op(
        &mut self,
        shapes: &Shapes,
        shape: &super::shapes::Shape,
        syms: &[Sym],
        budget: &mut Budget<'_>,
        into: &mut OpBuf,
        scratch: &mut Scratch,
    ) -> Result<u64> {
        let sym = |stream: u32| syms[shapes.streams[stream as usize].name as usize];
        let tbl = sym(shape.rows);
        let mut row_scratch = Scratch::new();
        let rows = column(&mut self.streams, &mut self.behind, shapes, shape.rows)?;
        let row = rows.next_row(&mut row_scratch, budget.limits)?;
        budget.add_text(row.len())?;
        match shape.kind {
            kind::INSERT => {
                into.insert(tbl, row)?;
                for &c in shapes.columns(shape) {
                    if !self.values {
                        into.cell(sym(c), ValueRef::Null)?;
                        continue;
                    }
                    let values = column(&mut self.streams, &mut self.behind, shapes, c)?;
                    into.cell_again(sym(c), values.next(scratch, budget)?, &mut self.said[c as usize])?;
                }
            }
            kind::UPDATE => {
                let c = shapes.columns(shape)[0];
                let origin = match &mut self.origins {
                    Some(origins) => origins.next()?,
                    None => Origin::Explicit,
                };
                let value = match self.values {
                    true => column(&mut self.streams, &mut self.behind, shapes, c)?.next(scratch, budget)?,
                    false => ValueRef::Null,
                };
                into.update(tbl, row, sym(c), value, origin)?;
            }
            _ => into.delete(tbl, row)?,
        }
        Ok(1)
    }

    /// Passes over `n` operations of a shape that nobody wants; how many counters they take.
    fn pass(
        &mut self,
        shapes: &Shapes,
        shape: &super::shapes::Shape,
        n: usize,
        budget: &mut Budget<'_>,
        into: &mut OpBuf,
    ) -> Result<u64> {
        if !shape.is_row() {
            let mut counters = 0u64;
            for _ in 0..n {
                counters = counters.saturating_add(self.opaque_op(shape.kind, false, budget, into)?);
            }
            return Ok(counters);
        }
        self.behind[shape.rows as usize] += n;
        shapes.columns(shape).iter().for_each(|&c| self.behind[c as usize] += n);
        if let (kind::UPDATE, Some(origins)) = (shape.kind, &mut self.origins) {
            for _ in 0..n {
                origins.next()?;
            }
        }
        Ok(n as u64)
    }

    fn opaque_op(&mut self, kind: u64, take: bool, budget: &mut Budget<'_>, into: &mut OpBuf) -> Result<u64> {
        let span = self.opaque.varint()?;
        let payload = self.opaque.bytes()?;
        if span == 0 {
            return Err(self.opaque.bad("an operation that takes no counter"));
        }
        if take {
            within("bytes of an operation", payload.len(), budget.limits.value_bytes)?;
            into.opaque(kind, span, payload)?;
        }
        Ok(span)
    }
}

/// A stream, opened, its next value the one wanted.
#[inline]
fn column<'s, 'a>(
    streams: &'s mut [Lazy<'a>],
    behind: &mut [usize],
    shapes: &Shapes,
    number: u32,
) -> Result<&'s mut Column<'a>> {
    let lazy = &mut streams[number as usize];
    if let Lazy::Closed(bytes) = lazy {
        *lazy = Lazy::Open(Column::new(bytes, shapes.streams[number as usize].len)?);
    }
    let Lazy::Open(column) = lazy else { unreachable!("what is missing is not asked for") };
    let skip = std::mem::take(&mut behind[number as usize]);
    if skip > 0 {
        column.skip(skip)?;
    }
    Ok(column)
}
