//! A column of values as bytes. Whoever reads it knows how many there are.
//!
//! The first byte holds the type in its low three bits and that type's mode in the others: 0 null, 1 bool, 2 int, 3
//! float, 4 text, 5 JSON text; 7 says that types differ. Then which type each value is (`types`), then for each type
//! but null that occurs, in order: byte length, mode, column.
//!
//! | type | mode | payload |
//! |---|---|---|
//! | bool | 0, 1 | all false, all true: nothing |
//! | | 2 | a bit each, the lowest first |
//! | int | those of `ints` | as there |
//! | float | 0 | eight bytes each, low first |
//! | | 1 + s, s from 0 to 6 | integers, to be divided by ten to the s |
//! | text, JSON text | those of `texts` | as there |

use super::bytes::{Input, put_bytes};
use super::forms::Scratch;
use super::ints::{self, Ints};
use super::rows::Ids;
use super::texts::{self, Texts};
use super::times::Time;
use super::types::{self, Types};
use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::{Budget, Limits, within};
use crate::ops::{Number, OpBuf, Stored};
use crate::value::ValueRef;

pub(crate) const NULL: u8 = 0;
pub(crate) const BOOL: u8 = 1;
pub(crate) const INT: u8 = 2;
pub(crate) const FLOAT: u8 = 3;
pub(crate) const TEXT: u8 = 4;
pub(crate) const JSON: u8 = 5;
/// How many types there are.
pub(crate) const TYPES: usize = 6;
const MIXED: u8 = 7;

const FLOAT_SCALES: [f64; 7] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6];
const EXACT: f64 = (1u64 << 53) as f64;

fn type_of(value: &Stored) -> u8 {
    match value {
        Stored::Null => NULL,
        Stored::Bool(_) => BOOL,
        Stored::Int(_) => INT,
        Stored::Float(_) => FLOAT,
        Stored::Text(_) | Stored::Number(_) => TEXT,
        Stored::Json(_) => JSON,
    }
}

/// Appends a column.
pub(crate) fn put(out: &mut Vec<u8>, buf: &OpBuf, values: &[Stored]) -> Result<()> {
    let Some(first) = values.first() else { return Ok(()) };
    if values.len() == 1 {
        return put_one(out, buf, *first);
    }
    let first = type_of(first);
    let at = out.len();
    alloc::push(out, first)?;
    if let Some(mode) = put_typed(out, buf, values, first)? {
        out[at] |= mode << 3;
        return Ok(());
    }
    out[at] = MIXED;
    let mut of_each = Vec::new();
    alloc::reserve(&mut of_each, values.len())?;
    of_each.extend(values.iter().map(type_of));
    types::put(out, &of_each)?;
    for wanted in BOOL..=JSON {
        let mut some = Vec::new();
        for v in values.iter().filter(|v| type_of(v) == wanted) {
            alloc::push(&mut some, *v)?;
        }
        if !some.is_empty() {
            let mut bytes = vec![0];
            bytes[0] = put_typed(&mut bytes, buf, &some, wanted)?.expect("of one type");
            put_bytes(out, &bytes)?;
        }
    }
    Ok(())
}

/// Appends a column of one value, as in a transaction of one row: nothing has to be gathered.
fn put_one(out: &mut Vec<u8>, buf: &OpBuf, value: Stored) -> Result<()> {
    let at = out.len();
    alloc::push(out, type_of(&value))?;
    let mode = match value {
        Stored::Null => 0,
        Stored::Bool(b) => b as u8,
        Stored::Int(n) => ints::put_payload(out, &[n])?,
        Stored::Float(f) => put_floats(out, &[f])?,
        Stored::Text(s) | Stored::Json(s) => texts::put(out, &[buf.text(s)])?,
        Stored::Number(Number::Moment(kind, n)) => texts::put_times(out, Time::of(kind), &mut [n])?,
        Stored::Number(Number::Decimal(n, scale)) => texts::put_decimals(out, scale, &[n])?,
    };
    out[at] |= mode << 3;
    Ok(())
}

/// Appends values of one type and returns the mode; `None`, and nothing, if they are of several.
fn put_typed(out: &mut Vec<u8>, buf: &OpBuf, values: &[Stored], of: u8) -> Result<Option<u8>> {
    match of {
        NULL => Ok(values.iter().all(|v| type_of(v) == NULL).then_some(0)),
        BOOL => {
            let bits = pick(values, |v| if let Stored::Bool(b) = v { Some(*b) } else { None })?;
            bits.map(|bits| put_bools(out, &bits)).transpose()
        }
        INT => {
            let ints = pick(values, |v| if let Stored::Int(n) = v { Some(*n) } else { None })?;
            ints.map(|ints| ints::put_payload(out, &ints)).transpose()
        }
        FLOAT => {
            let floats = pick(values, |v| if let Stored::Float(f) = v { Some(*f) } else { None })?;
            floats.map(|floats| put_floats(out, &floats)).transpose()
        }
        JSON => {
            let texts = pick(values, |v| if let Stored::Json(s) = v { Some(buf.text(*s)) } else { None })?;
            texts.map(|texts| texts::put(out, &texts)).transpose()
        }
        _ => {
            if let Some(mode) = put_numbers(out, values)? {
                return Ok(Some(mode));
            }
            let texts = pick(values, |v| if let Stored::Text(s) = v { Some(buf.text(*s)) } else { None })?;
            match texts {
                Some(texts) => texts::put(out, &texts).map(Some),
                None if values.iter().all(|v| type_of(v) == TEXT) => put_spelled(out, buf, values).map(Some),
                None => Ok(None),
            }
        }
    }
}

/// What `one` says of each value, unless it says nothing of one.
fn pick<'v, T>(values: &'v [Stored], one: impl Fn(&'v Stored) -> Option<T>) -> Result<Option<Vec<T>>> {
    let mut picked = Vec::new();
    alloc::reserve(&mut picked, values.len())?;
    picked.extend(values.iter().map_while(one));
    Ok((picked.len() == values.len()).then_some(picked))
}

/// Appends numbers that are all of one form, as [`texts::put`] would find them to be, and returns the mode.
fn put_numbers(out: &mut Vec<u8>, values: &[Stored]) -> Result<Option<u8>> {
    match values[0] {
        Stored::Number(Number::Moment(kind, _)) => {
            let moments = pick(values, |v| match v {
                Stored::Number(Number::Moment(k, n)) if *k == kind => Some(*n),
                _ => None,
            })?;
            moments.map(|mut moments| texts::put_times(out, Time::of(kind), &mut moments)).transpose()
        }
        Stored::Number(Number::Decimal(_, scale)) => {
            let decimals = pick(values, |v| match v {
                Stored::Number(Number::Decimal(n, s)) if *s == scale => Some(*n),
                _ => None,
            })?;
            decimals.map(|decimals| texts::put_decimals(out, scale, &decimals)).transpose()
        }
        _ => Ok(None),
    }
}

/// Appends texts some of which are numbers, and returns the mode.
fn put_spelled(out: &mut Vec<u8>, buf: &OpBuf, values: &[Stored]) -> Result<u8> {
    let (mut all, mut ends) = (String::new(), Vec::new());
    alloc::reserve(&mut ends, values.len())?;
    for v in values {
        match v {
            Stored::Number(n) => spell(*n, &mut all)?,
            Stored::Text(s) => alloc::push_str(&mut all, buf.text(*s))?,
            _ => continue,
        }
        ends.push(all.len());
    }
    let mut texts = Vec::new();
    alloc::reserve(&mut texts, ends.len())?;
    let mut from = 0;
    for to in ends {
        texts.push(&all[from..to]);
        from = to;
    }
    texts::put(out, &texts)
}

/// Appends the text of a number.
fn spell(number: Number, out: &mut String) -> Result<()> {
    let mut scratch = Scratch::new();
    match number {
        Number::Moment(kind, n) => {
            let within = scratch.time(Time::of(kind), n);
            debug_assert!(within, "a moment outside of the years 1 to 9999");
        }
        Number::Decimal(n, scale) => scratch.decimal(n, scale),
    }
    alloc::push_str(out, scratch.text())
}

/// Writes out the texts that a buffer keeps as numbers, so that they can be read. No mark that was taken before may be
/// truncated to after. Errors: [`Error::OutOfMemory`], [`Error::TooLarge`] past 4 GiB of text.
pub fn spell_out(buf: &mut OpBuf) -> Result<()> {
    buf.spell(spell)
}

fn put_bools(out: &mut Vec<u8>, bits: &[bool]) -> Result<u8> {
    if bits.iter().all(|&b| b == bits[0]) {
        return Ok(bits[0] as u8);
    }
    types::put_bits(out, bits.iter().copied())?;
    Ok(2)
}

fn put_floats(out: &mut Vec<u8>, floats: &[f64]) -> Result<u8> {
    let scaled = |f: f64, by: f64| {
        let n = (f * by).round();
        (n.abs() < EXACT && (n as i64 as f64 / by).to_bits() == f.to_bits()).then_some(n as i64)
    };
    let mut scale = 0;
    for &f in floats {
        while scale < FLOAT_SCALES.len() && scaled(f, FLOAT_SCALES[scale]).is_none() {
            scale += 1;
        }
    }
    if let Some(&by) = FLOAT_SCALES.get(scale) {
        let mut ints = Vec::new();
        alloc::reserve(&mut ints, floats.len())?;
        ints.extend(floats.iter().map_while(|&f| scaled(f, by)));
        if ints.len() == floats.len() {
            ints::put(out, &ints)?;
            return Ok(1 + scale as u8);
        }
    }
    alloc::reserve(out, 8 * floats.len())?;
    floats.iter().for_each(|f| out.extend_from_slice(&f.to_le_bytes()));
    Ok(0)
}

/// Reads values of one type one by one.
#[derive(Clone, Debug)]
pub(crate) enum Typed<'a> {
    Null,
    Bool(bool),
    /// Bits, and the next of them.
    Bits(&'a [u8], usize),
    Int(Ints<'a>),
    Float(Input<'a>),
    /// Floats by what they are to be divided by.
    Scaled(Ints<'a>, f64),
    Text(Texts<'a>),
    Json(Texts<'a>),
}

impl<'a> Typed<'a> {
    fn new(of: u8, mode: u8, bytes: &'a [u8], len: usize) -> Result<Self> {
        Ok(match (of, mode) {
            (NULL, 0) => Typed::Null,
            (BOOL, 0 | 1) => Typed::Bool(mode == 1),
            (BOOL, 2) if bytes.len() >= len.div_ceil(8) => Typed::Bits(bytes, 0),
            (INT, _) => Typed::Int(Ints::with_mode(bytes, mode)?),
            (FLOAT, 0) => Typed::Float(Input::new(bytes)),
            (FLOAT, 1..=7) => Typed::Scaled(Ints::new(bytes, len)?, FLOAT_SCALES[mode as usize - 1]),
            (TEXT, _) => Typed::Text(Texts::new(bytes, mode, len)?),
            (JSON, _) => Typed::Json(Texts::new(bytes, mode, len)?),
            _ => return Err(bad(format!("type {of} in mode {mode} of {len} values"))),
        })
    }

    #[inline]
    fn next<'s>(&mut self, scratch: &'s mut Scratch, budget: &mut Budget<'_>) -> Result<ValueRef<'s>>
    where
        'a: 's,
    {
        match self {
            Typed::Null => Ok(ValueRef::Null),
            Typed::Bool(b) => Ok(ValueRef::Bool(*b)),
            Typed::Bits(bits, at) => {
                *at += 1;
                Ok(ValueRef::Bool(bits.get((*at - 1) / 8).is_some_and(|b| b >> ((*at - 1) % 8) & 1 == 1)))
            }
            Typed::Int(ints) => ints.next().map(ValueRef::Int),
            Typed::Float(input) => {
                let bytes = input.take(8)?.try_into().map_err(|_| bad("a short float".into()))?;
                let f = f64::from_le_bytes(bytes);
                if f.is_finite() { Ok(ValueRef::Float(f)) } else { Err(bad(format!("{f} is no JSON number"))) }
            }
            Typed::Scaled(ints, by) => Ok(ValueRef::Float(ints.next()? as f64 / *by)),
            Typed::Text(texts) => charged(texts.next(scratch)?, budget).map(ValueRef::Text),
            Typed::Json(texts) => {
                let text = charged(texts.next(scratch)?, budget)?;
                ValueRef::check_json(text, budget.limits.depth)?;
                Ok(ValueRef::Json(text))
            }
        }
    }

    fn skip(&mut self, n: usize) -> Result<()> {
        match self {
            Typed::Null | Typed::Bool(_) => Ok(()),
            Typed::Bits(_, at) => {
                *at += n;
                Ok(())
            }
            Typed::Float(input) => input.take(n.saturating_mul(8)).map(|_| ()),
            Typed::Int(ints) | Typed::Scaled(ints, _) => ints.skip(n),
            Typed::Text(texts) | Typed::Json(texts) => texts.skip(n),
        }
    }
}

/// A text within the limits of a value, charged to the budget.
#[inline]
fn charged<'s>(text: &'s str, budget: &mut Budget<'_>) -> Result<&'s str> {
    within("bytes of a value", text.len(), budget.limits.value_bytes)?;
    budget.add_text(text.len())?;
    Ok(text)
}

/// Reads a column of values one by one.
#[derive(Clone, Debug)]
pub(crate) enum Column<'a> {
    /// All of one type.
    One(Typed<'a>),
    /// Types, and a reader for each type by its number.
    Mixed(Types<'a>, Vec<Typed<'a>>),
}

impl<'a> Column<'a> {
    /// A column of `len` values.
    pub fn new(bytes: &'a [u8], len: usize) -> Result<Self> {
        let mut input = Input::new(bytes);
        if len == 0 {
            input.done()?;
            return Ok(Column::One(Typed::Null));
        }
        let head = input.byte()?;
        let (of, mode) = (head & 7, head >> 3);
        if of != MIXED {
            return Ok(Column::One(Typed::new(of, mode, input.rest(), len)?));
        }
        let (types, counts) = Types::read(&mut input, len)?;
        let mut columns = Vec::new();
        alloc::reserve(&mut columns, TYPES)?;
        for of in NULL..=JSON {
            columns.push(match counts[of as usize] {
                0 => Typed::Null,
                _ if of == NULL => Typed::Null,
                n => {
                    let mut typed = Input::new(input.bytes()?);
                    let mode = typed.byte()?;
                    Typed::new(of, mode, typed.rest(), n)?
                }
            });
        }
        input.done()?;
        Ok(Column::Mixed(types, columns))
    }

    /// The next value, within the limits of `budget`; `scratch` holds it where it had to be written out.
    #[inline]
    pub fn next<'s>(&mut self, scratch: &'s mut Scratch, budget: &mut Budget<'_>) -> Result<ValueRef<'s>>
    where
        'a: 's,
    {
        match self {
            Column::One(typed) => typed.next(scratch, budget),
            Column::Mixed(types, columns) => columns[types.next()? as usize].next(scratch, budget),
        }
    }

    /// The next row id: a text within the limits.
    #[inline]
    pub fn next_row<'s>(&mut self, scratch: &'s mut Scratch, limits: &Limits) -> Result<&'s str>
    where
        'a: 's,
    {
        let Column::One(Typed::Text(texts)) = self else {
            return Err(bad("a row id that is no text".into()));
        };
        let text = texts.next(scratch)?;
        within("bytes of a row id", text.len(), limits.row_id_bytes)?;
        Ok(text)
    }

    /// Passes over `n` row ids; those that are among `ids` are found at their positions, the first of them being `from`.
    pub fn find_rows(
        &mut self,
        ids: &Ids<'_>,
        (from, n): (usize, usize),
        scratch: &mut Scratch,
        limits: &Limits,
        found: &mut Vec<usize>,
    ) -> Result<()> {
        let mut at = from;
        if let Column::One(Typed::Text(Texts::Decimals(0, ints))) = self {
            while at < from + n {
                let (first, step, some) = ints.next_steps(from + n - at)?;
                ids.positions(first, step, some, found, at)?;
                at += some;
            }
            return Ok(());
        }
        while at < from + n {
            if ids.has_text(self.next_row(scratch, limits)?) {
                alloc::push(found, at)?;
            }
            at += 1;
        }
        Ok(())
    }

    /// Passes over `n` values.
    pub fn skip(&mut self, n: usize) -> Result<()> {
        match self {
            Column::One(typed) => typed.skip(n),
            Column::Mixed(types, columns) => {
                let counts = types.skip(n)?;
                columns.iter_mut().zip(counts).try_for_each(|(typed, n)| typed.skip(n))
            }
        }
    }
}

fn bad(what: String) -> Error {
    Error::Malformed { at: "a column of values".into(), what }
}
