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
use super::texts::{self, Texts};
use super::types::{self, Types};
use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::{Budget, within};
use crate::ops::{OpBuf, Stored};
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
        Stored::Text(_) => TEXT,
        Stored::Json(_) => JSON,
    }
}

/// Appends a column.
pub(crate) fn put(out: &mut Vec<u8>, buf: &OpBuf, values: &[Stored]) -> Result<()> {
    let Some(first) = values.first() else { return Ok(()) };
    let first = type_of(first);
    let at = out.len();
    if values.iter().all(|v| type_of(v) == first) {
        alloc::push(out, first)?;
        let mode = put_typed(out, buf, values, first)?;
        out[at] |= mode << 3;
        return Ok(());
    }
    alloc::push(out, MIXED)?;
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
            bytes[0] = put_typed(&mut bytes, buf, &some, wanted)?;
            put_bytes(out, &bytes)?;
        }
    }
    Ok(())
}

/// Appends values of one type and returns the mode.
fn put_typed(out: &mut Vec<u8>, buf: &OpBuf, values: &[Stored], of: u8) -> Result<u8> {
    match of {
        NULL => Ok(0),
        BOOL => put_bools(out, values),
        INT => {
            let ints = pick(values, |v| if let Stored::Int(n) = v { Some(*n) } else { None })?;
            ints::put_payload(out, &ints)
        }
        FLOAT => {
            let floats = pick(values, |v| if let Stored::Float(f) = v { Some(*f) } else { None })?;
            put_floats(out, &floats)
        }
        _ => {
            let texts = pick(values, |v| match v {
                Stored::Text(s) | Stored::Json(s) => Some(buf.text(*s)),
                _ => None,
            })?;
            texts::put(out, &texts)
        }
    }
}

fn pick<'v, T>(values: &'v [Stored], one: impl Fn(&'v Stored) -> Option<T>) -> Result<Vec<T>> {
    let mut picked = Vec::new();
    alloc::reserve(&mut picked, values.len())?;
    picked.extend(values.iter().filter_map(one));
    Ok(picked)
}

fn put_bools(out: &mut Vec<u8>, values: &[Stored]) -> Result<u8> {
    let bits = pick(values, |v| if let Stored::Bool(b) = v { Some(*b) } else { None })?;
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

#[derive(Clone, Debug)]
enum Bools<'a> {
    All(bool),
    Bits(&'a [u8], usize),
}

#[derive(Clone, Debug)]
enum Floats<'a> {
    Raw(Input<'a>),
    Scaled(Ints<'a>, f64),
}

/// Reads a column of values one by one.
#[derive(Clone, Debug)]
pub(crate) struct Column<'a> {
    types: Types<'a>,
    bools: Bools<'a>,
    ints: Option<Ints<'a>>,
    floats: Option<Floats<'a>>,
    texts: Option<Texts<'a>>,
    jsons: Option<Texts<'a>>,
}

impl<'a> Column<'a> {
    /// A column of `len` values.
    pub fn new(bytes: &'a [u8], len: usize) -> Result<Self> {
        let mut input = Input::new(bytes);
        let mut column = Column {
            types: Types::all(NULL),
            bools: Bools::All(false),
            ints: None,
            floats: None,
            texts: None,
            jsons: None,
        };
        if len == 0 {
            input.done()?;
            return Ok(column);
        }
        let head = input.byte()?;
        let (of, mode) = (head & 7, head >> 3);
        if of != MIXED {
            column.types = Types::all(of);
            column.open(of, mode, input.rest(), len)?;
            return Ok(column);
        }
        let (types, counts) = Types::read(&mut input, len)?;
        column.types = types;
        for of in BOOL..=JSON {
            if counts[of as usize] > 0 {
                let mut typed = Input::new(input.bytes()?);
                let mode = typed.byte()?;
                column.open(of, mode, typed.rest(), counts[of as usize])?;
            }
        }
        input.done()?;
        Ok(column)
    }

    fn open(&mut self, of: u8, mode: u8, bytes: &'a [u8], len: usize) -> Result<()> {
        match (of, mode) {
            (NULL, _) => {}
            (BOOL, 0 | 1) => self.bools = Bools::All(mode == 1),
            (BOOL, 2) if bytes.len() >= len.div_ceil(8) => self.bools = Bools::Bits(bytes, 0),
            (INT, _) => self.ints = Some(Ints::with_mode(bytes, mode)?),
            (FLOAT, 0) => self.floats = Some(Floats::Raw(Input::new(bytes))),
            (FLOAT, 1..=7) => {
                self.floats = Some(Floats::Scaled(Ints::new(bytes, len)?, FLOAT_SCALES[mode as usize - 1]))
            }
            (TEXT, _) => self.texts = Some(Texts::new(bytes, mode, len)?),
            (JSON, _) => self.jsons = Some(Texts::new(bytes, mode, len)?),
            _ => return Err(bad(format!("type {of} in mode {mode}"))),
        }
        Ok(())
    }

    /// The next value, within the limits of `budget`; `scratch` holds it where it had to be written out.
    #[inline]
    pub fn next<'s>(&mut self, scratch: &'s mut Scratch, budget: &mut Budget<'_>) -> Result<ValueRef<'s>>
    where
        'a: 's,
    {
        match self.types.next()? {
            NULL => Ok(ValueRef::Null),
            BOOL => Ok(ValueRef::Bool(match &mut self.bools {
                Bools::All(b) => *b,
                Bools::Bits(bits, at) => {
                    *at += 1;
                    bits.get((*at - 1) / 8).is_some_and(|b| b >> ((*at - 1) % 8) & 1 == 1)
                }
            })),
            INT => self.ints.as_mut().ok_or_else(missing)?.next().map(ValueRef::Int),
            FLOAT => {
                let f = match self.floats.as_mut().ok_or_else(missing)? {
                    Floats::Raw(input) => f64::from_le_bytes(input.take(8)?.try_into().map_err(|_| missing())?),
                    Floats::Scaled(ints, by) => ints.next()? as f64 / *by,
                };
                if f.is_finite() { Ok(ValueRef::Float(f)) } else { Err(bad(format!("{f} is no JSON number"))) }
            }
            TEXT => {
                let text = self.texts.as_mut().ok_or_else(missing)?.next(scratch)?;
                within("bytes of a value", text.len(), budget.limits.value_bytes)?;
                budget.add_text(text.len())?;
                Ok(ValueRef::Text(text))
            }
            _ => {
                let text = self.jsons.as_mut().ok_or_else(missing)?.next(scratch)?;
                within("bytes of a value", text.len(), budget.limits.value_bytes)?;
                budget.add_text(text.len())?;
                ValueRef::check_json(text, budget.limits.depth)?;
                Ok(ValueRef::Json(text))
            }
        }
    }

    /// The next row id: a text within the limits.
    #[inline]
    pub fn next_row<'s>(&mut self, scratch: &'s mut Scratch, limits: &crate::Limits) -> Result<&'s str>
    where
        'a: 's,
    {
        if self.types.next()? != TEXT {
            return Err(bad("a row id that is no text".into()));
        }
        let text = self.texts.as_mut().ok_or_else(missing)?.next(scratch)?;
        within("bytes of a row id", text.len(), limits.row_id_bytes)?;
        Ok(text)
    }

    /// Passes over `n` values.
    pub fn skip(&mut self, n: usize) -> Result<()> {
        let counts = self.types.skip(n)?;
        if let Bools::Bits(_, at) = &mut self.bools {
            *at += counts[BOOL as usize];
        }
        if let Some(ints) = &mut self.ints {
            ints.skip(counts[INT as usize])?;
        }
        match &mut self.floats {
            Some(Floats::Raw(input)) => input.take(counts[FLOAT as usize].saturating_mul(8)).map(|_| ())?,
            Some(Floats::Scaled(ints, _)) => ints.skip(counts[FLOAT as usize])?,
            None => {}
        }
        if let Some(texts) = &mut self.texts {
            texts.skip(counts[TEXT as usize])?;
        }
        if let Some(jsons) = &mut self.jsons {
            jsons.skip(counts[JSON as usize])?;
        }
        Ok(())
    }
}

fn missing() -> Error {
    bad("a value of a type without a column".into())
}

fn bad(what: String) -> Error {
    Error::Malformed { at: "a column of values".into(), what }
}
