//! A column of texts as bytes. Whoever reads it knows how many there are.
//!
//! | mode | payload |
//! |---|---|
//! | 0 | one text: its bytes. More: byte length of the lengths, the lengths as integers, all bytes |
//! | 1 | dictionary: how many entries, byte length of the entries, the entries as in mode 0, an index each as integers |
//! | 2 | decimal numbers: the scale as a byte, then integers |
//! | 3 | UUIDs: 16 bytes each |
//! | 4 | dates or timestamps: a byte that says the form, then integers |

use rustc_hash::FxHashMap;

use super::bytes::{Input, put_bytes, put_varint, text};
use super::forms::{self, MAX_SCALE, Scratch};
use super::ints::{self, Ints};
use super::times::Time;
use crate::alloc;
use crate::error::{Error, Result};

const PLAIN: u8 = 0;
const DICTIONARY: u8 = 1;
const DECIMALS: u8 = 2;
const UUIDS: u8 = 3;
const TIMES: u8 = 4;

/// Appends a column and returns its mode, which the caller stores.
pub(crate) fn put(out: &mut Vec<u8>, texts: &[&str]) -> Result<u8> {
    let first = texts.first().copied().unwrap_or("");
    if let Some(b'0'..=b'9' | b'-' | b'a'..=b'f') = first.as_bytes().first() {
        for attempt in [decimals, uuids, times] {
            if let Some(mode) = attempt(out, texts)? {
                return Ok(mode);
            }
        }
    }
    if texts.len() > 2
        && let Some((entries, indices)) = dictionary(texts)?
    {
        put_varint(out, entries.len() as u64);
        let mut bytes = Vec::new();
        plain(&mut bytes, &entries)?;
        put_bytes(out, &bytes)?;
        ints::put(out, &indices)?;
        return Ok(DICTIONARY);
    }
    plain(out, texts)?;
    Ok(PLAIN)
}

fn plain(out: &mut Vec<u8>, texts: &[&str]) -> Result<()> {
    if texts.len() > 1 {
        let mut lengths = Vec::new();
        alloc::reserve(&mut lengths, texts.len())?;
        lengths.extend(texts.iter().map(|t| t.len() as i64));
        let mut bytes = Vec::new();
        ints::put(&mut bytes, &lengths)?;
        put_bytes(out, &bytes)?;
    }
    alloc::reserve(out, texts.iter().map(|t| t.len()).sum())?;
    texts.iter().for_each(|t| out.extend_from_slice(t.as_bytes()));
    Ok(())
}

/// The numbers of all texts, unless one has none.
fn numbers(texts: &[&str], number: impl Fn(&str) -> Option<i64>) -> Result<Option<Vec<i64>>> {
    if texts.first().and_then(|t| number(t)).is_none() {
        return Ok(None);
    }
    let mut ints: Vec<i64> = Vec::new();
    alloc::reserve(&mut ints, texts.len())?;
    let mut last = None;
    for t in texts {
        // A row's id is one text for all updates of the row in turn.
        let known = ints.last().copied().filter(|_| last.is_some_and(|last| std::ptr::eq::<str>(last, *t)));
        last = Some(*t);
        match known.or_else(|| number(t)) {
            Some(n) => ints.push(n),
            None => return Ok(None),
        }
    }
    Ok(Some(ints))
}

fn decimals(out: &mut Vec<u8>, texts: &[&str]) -> Result<Option<u8>> {
    let Some(scale) = forms::scale(texts[0]) else { return Ok(None) };
    if let [one] = texts {
        let number = crate::scan::decimal(one, scale);
        return number.map(|n| put_decimals(out, scale, &[n])).transpose();
    }
    let Some(found) = numbers(texts, |t| crate::scan::decimal(t, scale))? else { return Ok(None) };
    put_decimals(out, scale, &found).map(Some)
}

/// Appends decimals of this scale and returns the mode.
pub(crate) fn put_decimals(out: &mut Vec<u8>, scale: u8, found: &[i64]) -> Result<u8> {
    alloc::push(out, scale)?;
    ints::put(out, found)?;
    Ok(DECIMALS)
}

fn uuids(out: &mut Vec<u8>, texts: &[&str]) -> Result<Option<u8>> {
    if texts.iter().any(|t| forms::uuid(t).is_none()) {
        return Ok(None);
    }
    alloc::reserve(out, 16 * texts.len())?;
    texts.iter().filter_map(|t| forms::uuid(t)).for_each(|bytes| out.extend_from_slice(&bytes));
    Ok(Some(UUIDS))
}

fn times(out: &mut Vec<u8>, texts: &[&str]) -> Result<Option<u8>> {
    for form in Time::candidates(texts[0]) {
        if let Some(mut found) = numbers(texts, |t| form.parse(t))? {
            return put_times(out, form, &mut found).map(Some);
        }
    }
    Ok(None)
}

/// Appends times, which are coarsened, and returns the mode.
pub(crate) fn put_times(out: &mut Vec<u8>, form: Time, found: &mut [i64]) -> Result<u8> {
    let form = form.coarsen(found);
    alloc::push(out, form.to_byte())?;
    ints::put(out, found)?;
    Ok(TIMES)
}

/// The different texts and which of them each is, when that is shorter.
fn dictionary<'t>(texts: &[&'t str]) -> Result<Option<(Vec<&'t str>, Vec<i64>)>> {
    let mut known: FxHashMap<&str, i64> = FxHashMap::default();
    let (mut entries, mut indices) = (Vec::new(), Vec::new());
    alloc::reserve(&mut indices, texts.len())?;
    let (mut all, mut once) = (0usize, 0usize);
    for (i, &t) in texts.iter().enumerate() {
        // Mostly different: stop looking early, hashing is what costs here.
        if entries.len() > 16 + i / 2 {
            return Ok(None);
        }
        all += t.len() + 1;
        known.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: size_of::<(&str, i64)>() })?;
        let next = entries.len() as i64;
        let index = *known.entry(t).or_insert(next);
        if index == next {
            alloc::push(&mut entries, t)?;
            once += t.len() + 1;
        }
        indices.push(index);
    }
    let index_bytes = match entries.len() {
        1 => 2,
        n if n <= 256 => texts.len(),
        _ => 2 * texts.len(),
    };
    Ok((once + index_bytes + 3 < all).then_some((entries, indices)))
}

/// Reads a column of texts one by one.
#[derive(Clone, Debug)]
pub(crate) enum Texts<'a> {
    /// The only one.
    One(&'a str),
    /// Lengths and what is left of the bytes.
    Plain(Ints<'a>, &'a str),
    Dictionary(Vec<&'a str>, Ints<'a>),
    Decimals(u8, Ints<'a>),
    Uuids(Input<'a>),
    Times(Time, Ints<'a>),
}

impl<'a> Texts<'a> {
    /// A column of `len` texts.
    pub fn new(bytes: &'a [u8], mode: u8, len: usize) -> Result<Self> {
        let mut input = Input::new(bytes);
        Ok(match mode {
            PLAIN => plain_reader(bytes, len)?,
            DICTIONARY => {
                let count = input.size()?;
                let bytes = input.bytes()?;
                // A dictionary saves only where texts repeat: more entries than texts is an attempt at our memory.
                if count > len {
                    return Err(input.bad(format!("a dictionary of {count} entries for {len} texts")));
                }
                let mut reader = plain_reader(bytes, count)?;
                let mut entries = Vec::new();
                alloc::reserve(&mut entries, count)?;
                for _ in 0..count {
                    entries.push(reader.next_plain()?);
                }
                Texts::Dictionary(entries, Ints::new(input.rest(), len)?)
            }
            DECIMALS => {
                let scale = input.byte()?;
                if scale > MAX_SCALE {
                    return Err(input.bad(format!("a scale of {scale}")));
                }
                Texts::Decimals(scale, Ints::new(input.rest(), len)?)
            }
            UUIDS => Texts::Uuids(input),
            TIMES => {
                let form = input.byte()?;
                let form = Time::from_byte(form).ok_or_else(|| input.bad(format!("unknown form of time {form}")))?;
                Texts::Times(form, Ints::new(input.rest(), len)?)
            }
            _ => return Err(input.bad(format!("unknown mode {mode} of a column of texts"))),
        })
    }

    /// The next text; `scratch` holds it where it had to be written out.
    #[inline]
    pub fn next<'s>(&mut self, scratch: &'s mut Scratch) -> Result<&'s str>
    where
        'a: 's,
    {
        match self {
            Texts::One(_) | Texts::Plain(..) => self.next_plain(),
            Texts::Dictionary(entries, indices) => {
                let index = indices.next_size()?;
                entries.get(index).copied().ok_or_else(|| bad(format!("entry {index} of a shorter dictionary")))
            }
            Texts::Decimals(scale, ints) => {
                scratch.decimal(ints.next()?, *scale);
                Ok(scratch.text())
            }
            Texts::Uuids(input) => {
                scratch.uuid(input.take(16)?);
                Ok(scratch.text())
            }
            Texts::Times(form, ints) => {
                let n = ints.next()?;
                match scratch.time(*form, n) {
                    true => Ok(scratch.text()),
                    false => Err(bad(format!("moment {n} outside of the years 1 to 9999"))),
                }
            }
        }
    }

    #[inline]
    fn next_plain(&mut self) -> Result<&'a str> {
        match self {
            Texts::One(text) => Ok(std::mem::take(text)),
            Texts::Plain(lengths, rest) => {
                let len = lengths.next_size()?;
                let (text, after) = rest
                    .split_at_checked(len)
                    .ok_or_else(|| bad(format!("a text of {len} bytes where {} are left", rest.len())))?;
                *rest = after;
                Ok(text)
            }
            _ => Err(bad("not a plain column".into())),
        }
    }

    /// Passes over `n` of them.
    pub fn skip(&mut self, n: usize) -> Result<()> {
        match self {
            Texts::One(_) | Texts::Plain(..) => (0..n).try_for_each(|_| self.next_plain().map(|_| ())),
            Texts::Dictionary(_, ints) | Texts::Decimals(_, ints) | Texts::Times(_, ints) => ints.skip(n),
            Texts::Uuids(input) => input.take(n.saturating_mul(16)).map(|_| ()),
        }
    }
}

fn plain_reader(bytes: &[u8], len: usize) -> Result<Texts<'_>> {
    if len == 1 {
        return Ok(Texts::One(text(bytes)?));
    }
    let mut input = Input::new(bytes);
    let lengths = Ints::new(if len == 0 { &[] } else { input.bytes()? }, len)?;
    Ok(Texts::Plain(lengths, text(input.rest())?))
}

fn bad(what: String) -> Error {
    Error::Malformed { at: "a column of texts".into(), what }
}
