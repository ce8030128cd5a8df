//! Decoding: all operations of a blob, or those on some rows.

use std::ops::Range;

use super::bytes::Input;
use super::forms::Scratch;
use super::head::{self, Head, Sections, tag};
use super::name;
use super::origins::Origins;
use super::shapes::Shapes;
use super::values::Column;
use crate::EventId;
use crate::alloc;
use crate::error::Result;
use crate::limits::{Budget, Limits, within};
use crate::ops::{OpBuf, Origin, Sym, kind};

/// Appends all operations of a blob and returns which they are; on an error nothing stays appended (names stay
/// interned). Errors: [`crate::Error::Malformed`], [`crate::Error::TooLarge`], [`crate::Error::Unsupported`], [`crate::Error::NulCharacter`],
/// [`crate::Error::DuplicateColumn`], [`crate::Error::ClockRange`], [`crate::Error::OutOfMemory`].
pub fn decode(bytes: &[u8], limits: &Limits, into: &mut OpBuf) -> Result<Range<usize>> {
    within("bytes of a request", bytes.len(), limits.request_bytes)?;
    decode_within(bytes, &mut Budget::new(limits), into)
}

/// [`decode`], for one of many blobs that share limits.
pub(crate) fn decode_within(bytes: &[u8], budget: &mut Budget<'_>, into: &mut OpBuf) -> Result<Range<usize>> {
    let mark = into.mark();
    let from = into.len();
    let mut all = |into: &mut OpBuf| {
        let (head, body) = head::open(bytes, budget)?;
        Reader::new(&head, &body, budget)?.append(&head, budget, into, |_, _| Ok(true))
    };
    match all(into) {
        Ok(_) => Ok(from..into.len()),
        Err(e) => {
            into.truncate(mark);
            Err(e)
        }
    }
}

/// Appends the operations of a blob on rows that `wanted(table, row id)` picks; for each returns how many counters of the
/// blob come before it. `wanted` is asked once for each row operation, in order. On an error nothing stays appended. Errors as for
/// [`decode`].
pub fn decode_rows(
    bytes: &[u8],
    limits: &Limits,
    wanted: &mut dyn FnMut(&str, &str) -> bool,
    into: &mut OpBuf,
) -> Result<Vec<u64>> {
    within("bytes of a request", bytes.len(), limits.request_bytes)?;
    let mark = into.mark();
    let mut some = |into: &mut OpBuf| {
        let mut budget = Budget::new(limits);
        let (head, body) = head::open(bytes, &mut budget)?;
        let mut reader = Reader::new(&head, &body, &mut budget)?;
        let picked = reader.pick(&head, limits, wanted)?;
        if !picked.contains(&true) {
            return Ok(Vec::new());
        }
        let mut counters = Vec::new();
        reader.append(&head, &mut budget, into, |i, counter| {
            if picked[i] {
                alloc::push(&mut counters, counter)?;
            }
            Ok(picked[i])
        })?;
        Ok(counters)
    };
    some(into).inspect_err(|_| into.truncate(mark))
}

/// The events that a blob's derived updates name, as often as they do. Errors as for [`decode`].
pub fn roots(bytes: &[u8], limits: &Limits) -> Result<Vec<EventId>> {
    within("bytes of a request", bytes.len(), limits.request_bytes)?;
    let mut budget = Budget::new(limits);
    let (head, body) = head::open(bytes, &mut budget)?;
    let mut roots = Vec::new();
    if Sections::read(&body)?.get(tag::ORIGINS).is_empty() {
        return Ok(roots);
    }
    let mut reader = Reader::new(&head, &body, &mut budget)?;
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
}

struct Reader<'a> {
    names: Vec<&'a str>,
    shapes: Shapes,
    streams: Vec<Lazy<'a>>,
    /// How many values of each stream to pass over before the next.
    behind: Vec<usize>,
    origins: Option<Origins<'a>>,
    opaque: Input<'a>,
}

impl<'a> Reader<'a> {
    fn new(head: &Head, body: &'a [u8], budget: &mut Budget<'_>) -> Result<Self> {
        budget.add_ops(head.ops)?;
        let sections = Sections::read(body)?;
        let mut names = Vec::new();
        let mut input = Input::new(sections.get(tag::NAMES));
        while !input.is_empty() {
            within("different names", names.len() + 1, budget.limits.names)?;
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
            streams.push(Lazy::Closed(input.bytes()?));
        }
        input.done()?;
        let origins = match sections.get(tag::ORIGINS) {
            [] => None,
            bytes => Some(Origins::read(bytes, shapes.of_kind(kind::UPDATE), budget)?),
        };
        let behind = alloc::filled(0, streams.len())?;
        Ok(Reader { names, shapes, streams, behind, origins, opaque: Input::new(sections.get(tag::OPAQUE)) })
    }

    /// For each operation whether it is wanted.
    fn pick(&self, head: &Head, limits: &Limits, wanted: &mut dyn FnMut(&str, &str) -> bool) -> Result<Vec<bool>> {
        let mut picked = Vec::new();
        alloc::reserve(&mut picked, head.ops)?;
        let mut rows: Vec<Option<Column<'a>>> = Vec::new();
        alloc::reserve(&mut rows, self.streams.len())?;
        for (stream, lazy) in self.shapes.streams.iter().zip(&self.streams) {
            let Lazy::Closed(bytes) = lazy else { continue };
            let is_rows = stream.rows as usize == rows.len();
            rows.push(if is_rows { Some(Column::new(bytes, stream.len)?) } else { None });
        }
        let mut scratch = Scratch::new();
        for (shape, n) in self.shapes.runs() {
            if !matches!(shape.kind, kind::INSERT | kind::UPDATE | kind::DELETE) {
                picked.extend(std::iter::repeat_n(false, n));
                continue;
            }
            let tbl = self.names[self.shapes.streams[shape.rows as usize].name as usize];
            let rows = rows[shape.rows as usize].as_mut().expect("a stream of row ids");
            for _ in 0..n {
                picked.push(wanted(tbl, rows.next_row(&mut scratch, limits)?));
            }
        }
        Ok(picked)
    }

    /// Appends the operations that `wanted(index, counters before it)` picks.
    fn append(
        &mut self,
        head: &Head,
        budget: &mut Budget<'_>,
        into: &mut OpBuf,
        mut wanted: impl FnMut(usize, u64) -> Result<bool>,
    ) -> Result<()> {
        let mut syms = Vec::new();
        alloc::reserve(&mut syms, self.names.len())?;
        for name in &self.names {
            syms.push(into.intern(name)?);
        }
        within("different names", into.names(), budget.limits.names)?;
        let (mut counter, mut index) = (0u64, 0);
        let mut scratch = Scratch::new();
        let shapes = std::mem::take(&mut self.shapes);
        for (shape, n) in shapes.runs() {
            for _ in 0..n {
                let take = wanted(index, counter)?;
                index += 1;
                counter = counter.saturating_add(match (shape.kind, take) {
                    (kind::INSERT | kind::UPDATE | kind::DELETE, false) => self.pass(&shapes, shape)?,
                    (kind::INSERT | kind::UPDATE | kind::DELETE, true) => {
                        self.row_op(&shapes, shape, &syms, budget, into, &mut scratch)?
                    }
                    (kind, take) => self.opaque_op(kind, take, budget, into)?,
                });
            }
        }
        if counter != head.spans {
            return Err(self.opaque.bad(format!("{counter} counters where the head says {}", head.spans)));
        }
        self.opaque.done()
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
                    let values = column(&mut self.streams, &mut self.behind, shapes, c)?;
                    into.cell(sym(c), values.next(scratch, budget)?)?;
                }
            }
            kind::UPDATE => {
                let c = shapes.columns(shape)[0];
                let origin = match &mut self.origins {
                    Some(origins) => origins.next()?,
                    None => Origin::Explicit,
                };
                let values = column(&mut self.streams, &mut self.behind, shapes, c)?;
                into.update(tbl, row, sym(c), values.next(scratch, budget)?, origin)?;
            }
            _ => into.delete(tbl, row)?,
        }
        Ok(1)
    }

    /// Passes over a row operation nobody wants.
    fn pass(&mut self, shapes: &Shapes, shape: &super::shapes::Shape) -> Result<u64> {
        self.behind[shape.rows as usize] += 1;
        shapes.columns(shape).iter().for_each(|&c| self.behind[c as usize] += 1);
        if let (kind::UPDATE, Some(origins)) = (shape.kind, &mut self.origins) {
            origins.next()?;
        }
        Ok(1)
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
    let Lazy::Open(column) = lazy else { unreachable!("just opened") };
    let skip = std::mem::take(&mut behind[number as usize]);
    if skip > 0 {
        column.skip(skip)?;
    }
    Ok(column)
}
