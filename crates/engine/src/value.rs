//! Values of cells: their variants, their JSON, and when two of them say the same.

mod same;

use std::fmt::Write as _;

use crate::alloc;
use crate::error::{Error, Result};
use crate::scan::{Scanner, write_string};

pub use same::same;

/// One value, borrowed. What JSON scalars cannot carry without loss travels as [`ValueRef::Json`] or as text.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// JSON `null`, SQL NULL.
    Null,
    /// JSON `true` or `false`.
    Bool(bool),
    /// A JSON number that is an integer of 64 bits in its usual text (not `-0`, `1.0`, `1e3`).
    Int(i64),
    /// Any other finite JSON number that stands in the text [`ValueRef::write_json`] gives it: the shortest digits that
    /// mean this double, with a point (`1.0`, `-0.0`, `0.25`) where 1e-4 <= |x| < 1e16 or x is zero, else with an exponent
    /// (`1e16`, `1.5e-7`).
    Float(f64),
    /// A JSON string.
    Text(&'a str),
    /// The text of a JSON object or array, or of a number whose text neither `Int` nor `Float` gives back (`1.10`, `1e5`,
    /// `1e400`). Never the text of null, a bool, a string, or a number one of the others holds; no blanks around it.
    Json(&'a str),
}

impl PartialEq for ValueRef<'_> {
    /// Bit for bit: `0.0` and `-0.0` differ, so do `1` and `1.0`, and JSON texts that differ in a blank.
    fn eq(&self, other: &Self) -> bool {
        use ValueRef::*;
        match (*self, *other) {
            (Null, Null) => true,
            (Bool(a), Bool(b)) => a == b,
            (Int(a), Int(b)) => a == b,
            (Float(a), Float(b)) => a.to_bits() == b.to_bits(),
            (Text(a), Text(b)) | (Json(a), Json(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for ValueRef<'_> {}

/// A value read from JSON: borrowed from it, unless a string had to be unescaped.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed<'a> {
    /// As it stands in the text.
    Borrowed(ValueRef<'a>),
    /// A string that held escapes.
    Unescaped(String),
}

impl Parsed<'_> {
    /// The value.
    pub fn value(&self) -> ValueRef<'_> {
        match self {
            Parsed::Borrowed(value) => *value,
            Parsed::Unescaped(text) => ValueRef::Text(text),
        }
    }
}

impl<'a> ValueRef<'a> {
    /// The value a JSON text says; blanks around it are ignored. Errors: [`Error::Malformed`],
    /// [`Error::TooLarge`] when nested deeper than `depth_limit`, [`Error::NulCharacter`], [`Error::OutOfMemory`].
    pub fn parse_json(text: &'a str, depth_limit: usize) -> Result<Parsed<'a>> {
        let mut scanner = Scanner::new(text, depth_limit);
        let value = Self::scan(&mut scanner)?;
        scanner.end()?;
        Ok(value)
    }

    /// The next value of a scanner.
    pub(crate) fn scan(scanner: &mut Scanner<'a>) -> Result<Parsed<'a>> {
        use std::borrow::Cow;
        Ok(Parsed::Borrowed(match scanner.peek()? {
            b'"' => match scanner.string()? {
                Cow::Borrowed(text) => ValueRef::Text(text),
                Cow::Owned(text) => return Ok(Parsed::Unescaped(text)),
            },
            b'{' | b'[' => ValueRef::Json(scanner.skip()?),
            b't' | b'f' => ValueRef::Bool(scanner.boolean()?),
            b'n' => {
                scanner.null()?;
                ValueRef::Null
            }
            _ => Self::number(scanner.number()?),
        }))
    }

    /// The variant that holds a JSON number so that its text comes back.
    fn number(text: &'a str) -> Self {
        if let Some(n) = crate::scan::decimal(text, 0) {
            return ValueRef::Int(n);
        }
        let mut again = Shown::default();
        match text.parse::<f64>() {
            Ok(f) if f.is_finite() && write!(again, "{f:?}").is_ok() && again.text() == text => ValueRef::Float(f),
            _ => ValueRef::Json(text),
        }
    }

    /// Checks a text that claims to be [`ValueRef::Json`]: well-formed, no blanks around it, and not what another
    /// variant holds. Errors as for [`ValueRef::parse_json`].
    pub(crate) fn check_json(text: &str, depth_limit: usize) -> Result<()> {
        let bad = |what: &str| Err(Error::Malformed { at: String::new(), what: what.into() });
        let mut scanner = Scanner::new(text, depth_limit);
        let whole = scanner.skip()?;
        scanner.end()?;
        match text.as_bytes()[0] {
            _ if whole.len() != text.len() => bad("blanks around a JSON value"),
            b'{' | b'[' => Ok(()),
            b'-' | b'0'..=b'9' if matches!(ValueRef::number(text), ValueRef::Json(_)) => Ok(()),
            _ => bad("a scalar sent as JSON text"),
        }
    }

    /// Appends the value as JSON; [`ValueRef::parse_json`] gives it back bit for bit. Errors: [`Error::OutOfMemory`].
    pub fn write_json(&self, out: &mut String) -> Result<()> {
        let mut shown = Shown::default();
        let text = match *self {
            ValueRef::Null => "null",
            ValueRef::Bool(true) => "true",
            ValueRef::Bool(false) => "false",
            ValueRef::Int(n) => return write_int(n, out),
            // Not finite is no JSON; such a value is never made, and null is the one thing that can be said of it.
            ValueRef::Float(f) if !f.is_finite() => "null",
            ValueRef::Float(f) => {
                let _ = write!(shown, "{f:?}");
                shown.text()
            }
            ValueRef::Text(t) => return write_string(out, t),
            ValueRef::Json(t) => t,
        };
        alloc::push_str(out, text)
    }
}

/// A short text on the stack.
#[derive(Default)]
struct Shown {
    bytes: [u8; 32],
    len: usize,
}

impl Shown {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

/// Every pair of decimal digits.
const PAIRS: &str = "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

/// Appends an integer; row ids are made with this, and formatting takes several times as long.
fn write_int(n: i64, out: &mut String) -> Result<()> {
    if out.capacity() - out.len() < 20 {
        out.try_reserve(20).map_err(|_| Error::OutOfMemory { bytes: 20 })?;
    }
    if n < 0 {
        out.push('-');
    }
    let mut pairs = [0; 10];
    let (mut from, mut left) = (pairs.len(), n.unsigned_abs());
    loop {
        from -= 1;
        pairs[from] = (left % 100) as usize;
        left /= 100;
        if left == 0 {
            break;
        }
    }
    let (first, others) = (pairs[from], &pairs[from + 1..]);
    // The first pair has no zero in front.
    out.push_str(&PAIRS[2 * first + usize::from(first < 10)..2 * first + 2]);
    others.iter().for_each(|pair| out.push_str(&PAIRS[2 * pair..2 * pair + 2]));
    Ok(())
}

impl std::fmt::Write for Shown {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_go_where_their_text_comes_back() {
        use ValueRef::*;
        for (text, value) in [
            ("0", Int(0)),
            ("-0", Json("-0")),
            ("-0.0", Float(-0.0)),
            ("1.0", Float(1.0)),
            ("1.10", Json("1.10")),
            ("0.1", Float(0.1)),
            ("1e5", Json("1e5")),
            ("1E5", Json("1E5")),
            ("1e16", Float(1e16)),
            ("1e+21", Json("1e+21")),
            ("1e-7", Float(1e-7)),
            ("1e400", Json("1e400")),
            ("9223372036854775807", Int(i64::MAX)),
            ("9223372036854775808", Json("9223372036854775808")),
            ("-9223372036854775808", Int(i64::MIN)),
            ("0.1000000000000000055511151231257827", Json("0.1000000000000000055511151231257827")),
            ("5e-324", Float(5e-324)),
            ("1.7976931348623157e308", Float(f64::MAX)),
        ] {
            assert_eq!(ValueRef::parse_json(text, 1).unwrap().value(), value, "{text}");
            let mut out = String::new();
            value.write_json(&mut out).unwrap();
            assert_eq!(out, text);
            assert_eq!(ValueRef::check_json(text, 1).is_ok(), matches!(value, Json(_)), "{text}");
        }
    }

    #[test]
    fn json_text_is_not_what_another_variant_holds() {
        for (text, ok) in [
            ("{}", true),
            ("[1 ]", true),
            (" []", false),
            ("[] ", false),
            ("\"a\"", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(ValueRef::check_json(text, 4).is_ok(), ok, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn floats_round_trip(bits in any::<u64>()) {
            let f = f64::from_bits(bits);
            prop_assume!(f.is_finite());
            let mut out = String::new();
            ValueRef::Float(f).write_json(&mut out).unwrap();
            let parsed = ValueRef::parse_json(&out, 1).unwrap();
            prop_assert_eq!(parsed.value(), ValueRef::Float(f));
        }
    }
}
