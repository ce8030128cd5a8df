//! A pull scanner over JSON text: borrows what it can, never recurses, checks depth, NUL and surrogates as it goes.
//!
//! Errors say where in bytes; whoever knows the path (`events[3].ops[17]`) puts it in front with `Error::inside`.

use std::borrow::Cow;

use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::within;

/// Digits that PostgreSQL's `numeric` has room for, before the point and behind it.
const WHOLE_DIGITS: usize = 131_072;
const FRACTION_DIGITS: usize = 16_383;

/// A place in a JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    pos: usize,
    depth_limit: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str, depth_limit: usize) -> Self {
        Scanner { text, pos: 0, depth_limit }
    }

    pub fn bad(&self, what: impl Into<String>) -> Error {
        Error::Malformed { at: String::new(), what: format!("{} (byte {})", what.into(), self.pos) }
    }

    #[inline]
    fn current(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    /// The next byte that is not a blank.
    #[inline]
    pub fn peek(&mut self) -> Result<u8> {
        while let Some(b) = self.current() {
            match b {
                b' ' | b'\n' | b'\t' | b'\r' => self.pos += 1,
                _ => return Ok(b),
            }
        }
        Err(self.bad("the JSON ends here, more is needed"))
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<()> {
        if self.current() == Some(byte) {
            self.pos += 1;
            return Ok(());
        }
        self.expect_past_blanks(byte)
    }

    #[inline(never)]
    fn expect_past_blanks(&mut self, byte: u8) -> Result<()> {
        let found = self.peek()?;
        if found != byte {
            return Err(self.bad(format!("expected '{}'{}", byte as char, self.shown())));
        }
        self.pos += 1;
        Ok(())
    }

    fn shown(&self) -> String {
        match self.text.get(self.pos..).and_then(|rest| rest.chars().next()) {
            Some(c) => format!(", found {c:?}"),
            None => String::new(),
        }
    }

    /// Whether nothing but blanks is left; the error otherwise.
    pub fn end(&mut self) -> Result<()> {
        match self.peek() {
            Ok(_) => Err(self.bad(format!("text after the end of the JSON{}", self.shown()))),
            Err(_) => Ok(()),
        }
    }

    /// Opens an object; [`Scanner::key`] follows.
    pub fn object(&mut self) -> Result<()> {
        match self.peek()? {
            b'{' => self.expect(b'{'),
            _ => Err(self.bad(format!("expected an object{}", self.shown()))),
        }
    }

    /// The next key of an object, or `None` after its end. `first` is the caller's: true before the first.
    pub fn key(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>> {
        if self.peek()? == b'}' {
            self.pos += 1;
            return Ok(None);
        }
        if !std::mem::take(first) {
            self.expect(b',')?;
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(Some(key))
    }

    /// Opens an array; [`Scanner::item`] follows.
    pub fn array(&mut self) -> Result<()> {
        match self.peek()? {
            b'[' => self.expect(b'['),
            _ => Err(self.bad(format!("expected an array{}", self.shown()))),
        }
    }

    /// Whether another item of the array follows; passes over the comma or the end.
    pub fn item(&mut self, first: &mut bool) -> Result<bool> {
        if self.peek()? == b']' {
            self.pos += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.expect(b',')?;
            self.peek()?;
        }
        Ok(true)
    }

    /// A string, borrowed unless it holds escapes.
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        if self.peek()? != b'"' {
            return Err(self.bad(format!("expected a string{}", self.shown())));
        }
        self.pos += 1;
        let from = self.pos;
        let escaped = self.skip_string()?;
        let inside = &self.text[from..self.pos - 1];
        if escaped { unescape(inside).map(Cow::Owned) } else { Ok(Cow::Borrowed(inside)) }
    }

    /// Passes over what is left of a string after its first quote and checks it; whether it holds escapes.
    fn skip_string(&mut self) -> Result<bool> {
        let mut escaped = false;
        loop {
            self.pos += plain(&self.text.as_bytes()[self.pos..]);
            match self.current() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.skip_escape()?;
                }
                Some(0) => return Err(Error::NulCharacter { at: String::new() }),
                Some(b) => return Err(self.bad(format!("control character {b:#04x} in a string"))),
                None => return Err(self.bad("a string without end")),
            }
        }
    }

    fn skip_escape(&mut self) -> Result<()> {
        let bytes = &self.text.as_bytes()[self.pos..];
        match bytes.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 2,
            Some(b'u') => {
                let unit = hex4(&bytes[2..]).ok_or_else(|| self.bad("\\u without four hexadecimal digits"))?;
                self.pos += match unit {
                    0 => return Err(Error::NulCharacter { at: String::new() }),
                    0xd800..=0xdbff => match bytes[6..].strip_prefix(b"\\u").and_then(hex4) {
                        Some(0xdc00..=0xdfff) => 12,
                        _ => return Err(self.bad("half of a surrogate pair")),
                    },
                    0xdc00..=0xdfff => return Err(self.bad("half of a surrogate pair")),
                    _ => 6,
                };
            }
            _ => return Err(self.bad("unknown escape in a string")),
        }
        Ok(())
    }

    /// A number as it stands in the text. Errors with [`Error::TooLarge`] for one that PostgreSQL's `numeric` cannot hold: it
    /// could be kept, but never be shown in a `jsonb`.
    pub fn number(&mut self) -> Result<&'a str> {
        self.peek()?;
        let from = self.pos;
        let digits = |s: &mut Self| {
            let from = s.pos;
            while matches!(s.current(), Some(b'0'..=b'9')) {
                s.pos += 1;
            }
            s.pos - from
        };
        if self.current() == Some(b'-') {
            self.pos += 1;
        }
        let zero = self.current() == Some(b'0');
        let whole = digits(self);
        if whole == 0 || (zero && whole > 1) {
            return Err(self.bad(format!("expected a value{}", self.shown())));
        }
        let (mut fraction, mut exponent) = (0, 0);
        if self.current() == Some(b'.') {
            self.pos += 1;
            fraction = digits(self);
            if fraction == 0 {
                return Err(self.bad("a number without digits after its point"));
            }
        }
        if let Some(b'e' | b'E') = self.current() {
            self.pos += 1;
            let minus = self.current() == Some(b'-');
            if let Some(b'+' | b'-') = self.current() {
                self.pos += 1;
            }
            let from = self.pos;
            if digits(self) == 0 {
                return Err(self.bad("a number without digits in its exponent"));
            }
            let far = self.text[from..self.pos].parse().unwrap_or(i64::MAX).min(i64::from(i32::MAX)) as isize;
            exponent = if minus { -far } else { far };
        }
        within("digits of a number before its point", whole.saturating_add_signed(exponent), WHOLE_DIGITS)?;
        within("digits of a number behind its point", fraction.saturating_add_signed(-exponent), FRACTION_DIGITS)?;
        Ok(&self.text[from..self.pos])
    }

    fn literal(&mut self, word: &str) -> Result<()> {
        if !self.text.as_bytes()[self.pos..].starts_with(word.as_bytes()) {
            return Err(self.bad(format!("expected a value{}", self.shown())));
        }
        self.pos += word.len();
        Ok(())
    }

    /// `true` or `false`.
    pub fn boolean(&mut self) -> Result<bool> {
        let yes = self.peek()? == b't';
        self.literal(if yes { "true" } else { "false" })?;
        Ok(yes)
    }

    /// `null`, if it is one.
    pub fn null(&mut self) -> Result<bool> {
        match self.peek()? {
            b'n' => self.literal("null").map(|()| true),
            _ => Ok(false),
        }
    }

    /// Passes over any value, checks it whole, and returns its text.
    pub fn skip(&mut self) -> Result<&'a str> {
        self.peek()?;
        let from = self.pos;
        let mut open = Open::default();
        loop {
            match self.peek()? {
                b'{' => {
                    self.pos += 1;
                    within("nesting of a JSON value", open.len + 1, self.depth_limit)?;
                    open.push(true)?;
                    if self.peek()? != b'}' {
                        self.skip_key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.pos += 1;
                    within("nesting of a JSON value", open.len + 1, self.depth_limit)?;
                    open.push(false)?;
                    if self.peek()? != b']' {
                        continue;
                    }
                }
                b'"' => {
                    self.pos += 1;
                    self.skip_string()?;
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                _ => self.number().map(|_| ())?,
            }
            if self.after_value(&mut open)? {
                return Ok(&self.text[from..self.pos]);
            }
        }
    }

    /// After a value inside of `open`: closes what ends here. Whether everything is closed; else a value follows.
    fn after_value(&mut self, open: &mut Open) -> Result<bool> {
        loop {
            let Some(object) = open.top() else { return Ok(true) };
            match (self.peek()?, object) {
                (b',', _) => {
                    self.pos += 1;
                    if object {
                        self.skip_key()?;
                    }
                    return Ok(false);
                }
                (b'}', true) | (b']', false) => {
                    self.pos += 1;
                    open.pop();
                }
                _ => {
                    let close = if object { '}' } else { ']' };
                    return Err(self.bad(format!("expected ',' or '{close}'{}", self.shown())));
                }
            }
        }
    }

    fn skip_key(&mut self) -> Result<()> {
        self.expect(b'"')?;
        self.skip_string()?;
        self.expect(b':')
    }
}

/// How many bytes in front stand for themselves inside a string: no quote, backslash or control character. Eight at a
/// time, by a subtraction that borrows from the top bit of each byte that is below a bound.
fn plain(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let below = |eight: u64, bound: u64| eight.wrapping_sub(EACH * bound) & !eight & (EACH << 7);
    let (eights, rest) = bytes.as_chunks::<8>();
    for (i, eight) in eights.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        let is = |byte: u8| below(eight ^ (EACH * u64::from(byte)), 1);
        let ends = below(eight, 0x20) | is(b'"') | is(b'\\');
        if ends != 0 {
            // A borrow may reach further, never to a byte in front of the first one found.
            return 8 * i + ends.trailing_zeros() as usize / 8;
        }
    }
    let end = rest.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20);
    8 * eights.len() + end.unwrap_or(rest.len())
}

/// The containers that are open: a bit each, true for an object.
#[derive(Default)]
struct Open {
    len: usize,
    bits: u64,
    /// The 64 bits below, and the 64 below those.
    below: Vec<u64>,
}

impl Open {
    fn push(&mut self, object: bool) -> Result<()> {
        if self.len > 0 && self.len.is_multiple_of(64) {
            alloc::push(&mut self.below, self.bits)?;
        }
        self.bits = self.bits << 1 | object as u64;
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.len -= 1;
        self.bits >>= 1;
        if self.len > 0 && self.len.is_multiple_of(64) {
            self.bits = self.below.pop().unwrap_or(0);
        }
    }

    fn top(&self) -> Option<bool> {
        (self.len > 0).then_some(self.bits & 1 == 1)
    }
}

fn hex4(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.get(..4)?;
    digits.iter().try_fold(0, |n, &b| Some(n << 4 | (b as char).to_digit(16)?))
}

/// The text of a string that [`Scanner::skip_string`] accepted.
fn unescape(inside: &str) -> Result<String> {
    let mut text = String::new();
    text.try_reserve(inside.len()).map_err(|_| Error::OutOfMemory { bytes: inside.len() })?;
    let mut rest = inside;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escape = &rest.as_bytes()[at..];
        let (c, len) = match escape[1] {
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            b'u' => match hex4(&escape[2..]).unwrap_or(0) {
                high @ 0xd800..=0xdbff => {
                    let low = hex4(&escape[8..]).unwrap_or(0) & 0x3ff;
                    (char::from_u32(0x10000 + ((high & 0x3ff) << 10) + low).unwrap_or('\u{fffd}'), 12)
                }
                unit => (char::from_u32(unit).unwrap_or('\u{fffd}'), 6),
            },
            itself => (itself as char, 2),
        };
        text.push(c);
        rest = &rest[at + len..];
    }
    text.push_str(rest);
    Ok(text)
}

/// Appends a string as JSON. Errors: [`Error::OutOfMemory`].
pub fn write_string(out: &mut String, text: &str) -> Result<()> {
    let room = |out: &mut String, n: usize| out.try_reserve(n).map_err(|_| Error::OutOfMemory { bytes: n });
    room(out, text.len() + 2)?;
    out.push('"');
    let mut from = 0;
    for (at, b) in text.bytes().enumerate() {
        if b >= 0x20 && b != b'"' && b != b'\\' {
            continue;
        }
        // The rest and an escape, so that what is pushed below never grows the text by itself.
        room(out, text.len() - from + 8)?;
        out.push_str(&text[from..at]);
        from = at + 1;
        out.push('\\');
        match b {
            b'"' | b'\\' => out.push(b as char),
            0x08 => out.push('b'),
            0x0c => out.push('f'),
            b'\n' => out.push('n'),
            b'\r' => out.push('r'),
            b'\t' => out.push('t'),
            _ => {
                out.push_str(if b < 16 { "u000" } else { "u001" });
                out.push(char::from_digit((b & 15) as u32, 16).unwrap_or('0'));
            }
        }
    }
    out.push_str(&text[from..]);
    room(out, 1)?;
    out.push('"');
    Ok(())
}

/// `-12.50` with scale 2 is -1250: an optional minus, no superfluous zero in front, exactly `scale` digits after the
/// point (no point when 0), no minus zero, within 64 bits.
pub(crate) fn decimal(text: &str, scale: u8) -> Option<i64> {
    let bytes = text.as_bytes();
    let (minus, digits) = match bytes.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, bytes),
    };
    let whole = if scale == 0 { digits.len() } else { digits.len().checked_sub(scale as usize + 1)? };
    if digits.len() > 20 || whole == 0 || (digits[0] == b'0' && whole > 1) || (scale > 0 && digits[whole] != b'.') {
        return None;
    }
    let mut n = 0u64;
    for (i, b) in digits.iter().enumerate() {
        if scale > 0 && i == whole {
            continue;
        }
        let d = b.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        n = n.checked_mul(10)?.checked_add(d as u64)?;
    }
    match minus {
        false => i64::try_from(n).ok(),
        true if n == 0 => None,
        true => 0i64.checked_sub_unsigned(n),
    }
}

#[cfg(test)]
mod tests;
