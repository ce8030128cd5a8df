//! Operations: `insert`, `update`, `delete`, and registered others that are kept as they came.

use std::borrow::Cow;

use super::fields::{Reader, Slot, shortened};
use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::{within, within_sum};
use crate::ops::{EventRef, Origin, Sym, kind};
use crate::scan::Scanner;
use crate::value::{Parsed, ValueRef};
use crate::{EventId, OpBuf};

/// What an operation holds, whatever its type.
struct Fields<'a> {
    kind: Slot<u64>,
    tbl: Slot<Cow<'a, str>>,
    row: Slot<Cow<'a, str>>,
    col: Slot<Cow<'a, str>>,
    value: Slot<Parsed<'a>>,
    values: Slot<Values<'a>>,
    derived_from: Slot<EventId>,
    default_since: Slot<Option<EventId>>,
    span: Slot<u64>,
    payload: Slot<Cow<'a, str>>,
}

enum Values<'a> {
    /// Already in the buffer, with their insert.
    Read,
    /// They came before type, table and row id: read them from here.
    At(Scanner<'a>),
}

impl<'a> Reader<'a, '_> {
    /// Reads an operation into the buffer; how many counters it takes.
    pub fn op(&mut self) -> Result<u64> {
        self.budget.add_ops(1)?;
        let mut f = Fields {
            kind: Slot::new("type"),
            tbl: Slot::new("tbl"),
            row: Slot::new("row_id"),
            col: Slot::new("col"),
            value: Slot::new("value"),
            values: Slot::new("values"),
            derived_from: Slot::new("derived_from"),
            default_since: Slot::new("default_since"),
            span: Slot::new("span"),
            payload: Slot::new("payload"),
        };
        self.fields(|r, key| match key {
            "type" => f.kind.set(r.kind()),
            "tbl" => f.tbl.set(r.short("table name")),
            "row_id" => f.row.set(r.row_id()),
            "col" => f.col.set(r.short("column name")),
            "value" => f.value.set(r.value()),
            "values" => {
                let values = r.values(&f);
                f.values.set(values)
            }
            "derived_from" => f.derived_from.set(r.event_id()),
            "default_since" => f.default_since.set(r.or_null(Self::event_id)),
            "span" => f.span.set(r.clock("span")),
            "payload" => f.payload.set(r.scanner.string()),
            _ => r.pass(key),
        })?;
        self.finish(f)
    }

    fn finish(&mut self, mut f: Fields<'a>) -> Result<u64> {
        match f.kind.need()? {
            kind::INSERT => self.finish_insert(f)?,
            kind::UPDATE => self.finish_update(f)?,
            kind::DELETE => {
                let tbl = self.sym(&f.tbl.need()?)?;
                self.buf.delete(tbl, &f.row.need()?)?;
            }
            kind => return self.finish_opaque(kind, f),
        }
        Ok(1)
    }

    fn finish_insert(&mut self, mut f: Fields<'a>) -> Result<()> {
        if let Values::At(at) = f.values.need()? {
            let tbl = self.sym(&f.tbl.need()?)?;
            self.buf.insert(tbl, &f.row.need()?)?;
            let after = std::mem::replace(&mut self.scanner, at);
            self.cells().map_err(|e| e.inside("values"))?;
            self.scanner = after;
        }
        Ok(())
    }

    fn finish_update(&mut self, mut f: Fields<'a>) -> Result<()> {
        let (tbl, col) = (self.sym(&f.tbl.need()?)?, self.sym(&f.col.need()?)?);
        self.budget.add_cells(1)?;
        let event = |id| EventRef { id, lamport: None };
        let (root, since) = (f.derived_from.take().map(event), f.default_since.take().map(|s| s.map(event)));
        let origin = match (&root, &since) {
            (None, None) => Origin::Explicit,
            (Some(root), None) => Origin::Rewrite(root),
            (None, Some(since)) => Origin::Default(since.as_ref()),
            (Some(_), Some(_)) => {
                let what = "an update is derived from an event or a default, not both".into();
                return Err(Error::Malformed { at: "default_since".into(), what });
            }
        };
        self.buf.update(tbl, &f.row.need()?, col, f.value.need()?.value(), origin)
    }

    /// An operation that is kept but not applied. One whose fields are not those known here is of a later version, and
    /// would come back changed: refused like an unknown type.
    fn finish_opaque(&mut self, kind: u64, mut f: Fields<'a>) -> Result<u64> {
        let span = f.span.take().unwrap_or(1);
        let payload = match (f.payload.take(), kind) {
            (Some(hex), _) => from_hex(&hex)?,
            (None, kind::SKIP) => Vec::new(),
            (None, _) => {
                let name = alloc::string(kind::name(kind).unwrap_or("?"))?;
                return Err(Error::UnknownOpType { at: "type".into(), name });
            }
        };
        within("bytes of an operation", payload.len(), self.budget.limits.value_bytes)?;
        if span == 0 {
            return Err(Error::Malformed { at: "span".into(), what: "an operation that takes no counter".into() });
        }
        self.buf.opaque(kind, span, &payload)?;
        Ok(span)
    }

    fn kind(&mut self) -> Result<u64> {
        let name = self.scanner.string()?;
        let unknown = || Error::UnknownOpType { at: String::new(), name: shortened(&name).into() };
        kind::number(&name).ok_or_else(unknown)
    }

    fn row_id(&mut self) -> Result<Cow<'a, str>> {
        let row = self.scanner.string()?;
        within("bytes of a row id", row.len(), self.budget.limits.row_id_bytes)?;
        Ok(row)
    }

    fn value(&mut self) -> Result<Parsed<'a>> {
        let value = ValueRef::scan(&mut self.scanner)?;
        if let ValueRef::Text(t) | ValueRef::Json(t) = value.value() {
            within("bytes of a value", t.len(), self.budget.limits.value_bytes)?;
        }
        Ok(value)
    }

    /// A symbol of the request's buffer.
    fn sym(&mut self, name: &str) -> Result<Sym> {
        let sym = self.buf.intern(name)?;
        within_sum("different names", self.buf.names(), self.budget.limits.names)?;
        Ok(sym)
    }

    /// Cells straight into the buffer where their insert is known already, as it is when `values` comes last.
    fn values(&mut self, f: &Fields<'a>) -> Result<Values<'a>> {
        if let (None, Some(&kind::INSERT), Some(tbl), Some(row)) =
            (f.values.get(), f.kind.get(), f.tbl.get(), f.row.get())
        {
            let tbl = self.sym(tbl)?;
            self.buf.insert(tbl, row)?;
            self.cells()?;
            return Ok(Values::Read);
        }
        let at = self.scanner.clone();
        self.scanner.skip()?;
        Ok(Values::At(at))
    }

    /// Cells for [`super::decode_cells`]: under an insert of nothing in a buffer of their own.
    pub fn cells_apart(&mut self) -> Result<usize> {
        let tbl = self.buf.intern("")?;
        self.buf.insert(tbl, "")?;
        self.cells()
    }

    /// `[["col",v],...]` or `{"col":v,...}`, added to the insert appended last. How many.
    fn cells(&mut self) -> Result<usize> {
        self.columns.clear();
        match self.scanner.peek()? {
            b'{' => {
                let mut first = true;
                self.scanner.object()?;
                while let Some(col) = self.scanner.key(&mut first)? {
                    within("bytes of a name", col.len(), self.budget.limits.name_bytes)?;
                    if col.is_empty() {
                        return Err(self.scanner.bad("an empty column name"));
                    }
                    self.cell(&col).map_err(|e| e.inside(shortened(&col)))?;
                }
            }
            _ => self.items(|r, _| r.pair())?,
        }
        self.check_distinct()?;
        Ok(self.columns.len())
    }

    fn pair(&mut self) -> Result<()> {
        let mut first = true;
        self.scanner.array()?;
        if !self.scanner.item(&mut first)? {
            return Err(self.scanner.bad("expected a column and its value"));
        }
        let col = self.short("column name").map_err(|e| e.inside("[0]"))?;
        if !self.scanner.item(&mut first)? {
            return Err(self.scanner.bad("expected a column and its value"));
        }
        self.cell(&col).map_err(|e| e.inside("[1]"))?;
        match self.scanner.item(&mut first)? {
            true => Err(self.scanner.bad("expected a column and its value, no more")),
            false => Ok(()),
        }
    }

    fn cell(&mut self, col: &str) -> Result<()> {
        self.budget.add_cells(1)?;
        let value = self.value()?;
        let col = self.sym(col)?;
        alloc::push(&mut self.columns, col)?;
        self.buf.cell(col, value.value())
    }

    fn check_distinct(&mut self) -> Result<()> {
        if self.columns == self.distinct {
            return Ok(());
        }
        self.distinct.clear();
        alloc::extend(&mut self.distinct, &self.columns)?;
        self.distinct.sort_unstable();
        let twice = self.distinct.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        self.distinct.clear();
        match twice {
            Some(col) => {
                let name = alloc::string(self.buf.name(col))?;
                Err(Error::DuplicateColumn { at: String::new(), name })
            }
            None => alloc::extend(&mut self.distinct, &self.columns),
        }
    }
}

impl OpBuf {
    /// Adds the cells of the only insert of another buffer to the insert appended last here.
    pub(super) fn take_cells(&mut self, from: &OpBuf) -> Result<()> {
        let crate::OpRef::Insert { cells, .. } = from.get(0) else { return Ok(()) };
        for (col, value) in cells.iter() {
            let col = self.intern(col)?;
            self.cell(col, value)?;
        }
        Ok(())
    }
}

fn from_hex(hex: &str) -> Result<Vec<u8>> {
    let bad = || Error::Malformed { at: "payload".into(), what: "not an even number of hexadecimal digits".into() };
    if hex.len() % 2 == 1 {
        return Err(bad());
    }
    let mut bytes = Vec::new();
    alloc::reserve(&mut bytes, hex.len() / 2)?;
    for pair in hex.as_bytes().chunks_exact(2) {
        let digit = |b: u8| (b as char).to_digit(16).ok_or_else(bad);
        bytes.push((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    }
    Ok(bytes)
}
