//! Text forms of common types, written here and not by their output functions: letter by letter the same under
//! [`super::datum::PinnedSettings`], at a fifth of the cost. What is not plain (infinities, years beyond 9999 or before 1)
//! is left to the output functions.

use crdt_engine::codec::{moment, write_moment};
use crdt_engine::ops::{Moment, Number};
use pgrx::pg_sys::{self, Datum, Oid};

/// Writes the text of a value of a type below domains; `false`: nothing was written, call its output function.
///
/// # Safety
/// `datum` must be a live value of the type.
pub(super) unsafe fn write(base: Oid, datum: Datum, out: &mut String) -> bool {
    match base {
        pg_sys::TIMESTAMPTZOID => write_moment(Moment::WithZone, datum.value() as i64, out),
        pg_sys::TIMESTAMPOID => write_moment(Moment::WithoutZone, datum.value() as i64, out),
        pg_sys::DATEOID => write_moment(Moment::Date, i64::from(datum.value() as i32), out),
        // SAFETY: the caller's promise.
        pg_sys::NUMERICOID => unsafe { inline(datum) }.is_some_and(|stored| numeric(stored, out)),
        // SAFETY: a uuid is 16 bytes by reference.
        pg_sys::UUIDOID => uuid(unsafe { &*datum.cast_mut_ptr::<[u8; 16]>() }, out),
        _ => false,
    }
}

/// The number that the text of a value says which [`write`] would write; `None` where it is not kept as one.
///
/// # Safety
/// `datum` must be a live value of the type.
#[inline(always)]
pub(super) unsafe fn number(base: Oid, datum: Datum) -> Option<Number> {
    match base {
        pg_sys::TIMESTAMPTZOID => moment(Moment::WithZone, datum.value() as i64),
        pg_sys::TIMESTAMPOID => moment(Moment::WithoutZone, datum.value() as i64),
        pg_sys::DATEOID => moment(Moment::Date, i64::from(datum.value() as i32)),
        // SAFETY: the caller's promise.
        pg_sys::NUMERICOID => decimal_of(unsafe { inline(datum) }?),
        _ => None,
    }
}

/// The bytes of a varlena that lies neither compressed nor out of line.
///
/// # Safety
/// `datum` must be a live varlena, which the result must not outlive.
pub(super) unsafe fn inline<'a>(datum: Datum) -> Option<&'a [u8]> {
    use pgrx::varlena::{varatt_is_1b, varatt_is_1b_e, varatt_is_4b_u, vardata_any, varsize_any_exhdr};
    let packed: *const pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the caller's promise; the header says where the bytes are.
    unsafe {
        let plain = if varatt_is_1b(packed) { !varatt_is_1b_e(packed) } else { varatt_is_4b_u(packed) };
        plain.then(|| std::slice::from_raw_parts(vardata_any(packed).cast(), varsize_any_exhdr(packed)))
    }
}

fn uuid(bytes: &[u8; 16], out: &mut String) -> bool {
    for (i, b) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        for nibble in [b >> 4, b & 15] {
            out.push(char::from(b"0123456789abcdef"[nibble as usize]));
        }
    }
    true
}

// How a numeric is stored: a header of sixteen bits; in the long form the weight in sixteen more; digits to the base of
// 10,000, sixteen bits each, the first one's power being the weight.
const KIND: u16 = 0xc000;
const NEGATIVE: u16 = 0x4000;
const SHORT: u16 = 0x8000;
const SPECIAL: u16 = 0xc000;
const SHORT_NEGATIVE: u16 = 0x2000;
const SHORT_SCALE: u16 = 0x1f80;
const SHORT_SCALE_SHIFT: u32 = 7;
const SHORT_WEIGHT_NEGATIVE: u16 = 0x40;
const SHORT_WEIGHT: u16 = 0x3f;
const LONG_SCALE: u16 = 0x3fff;
const DIGITS: usize = 4;

/// A numeric as it is stored: neither NaN nor infinite.
struct Numeric<'s> {
    negative: bool,
    scale: u16,
    weight: i32,
    /// Trailing digits that are zero are not stored, nor leading ones, which only a fraction has.
    digits: &'s [[u8; 2]],
}

impl<'s> Numeric<'s> {
    fn read(stored: &'s [u8]) -> Option<Numeric<'s>> {
        let (header, rest) = stored.split_first_chunk()?;
        let header = u16::from_ne_bytes(*header);
        let (negative, scale, weight, rest) = match header & KIND {
            SPECIAL => return None,
            SHORT => {
                let below = if header & SHORT_WEIGHT_NEGATIVE != 0 { !i32::from(SHORT_WEIGHT) } else { 0 };
                let weight = below | i32::from(header & SHORT_WEIGHT);
                (header & SHORT_NEGATIVE != 0, (header & SHORT_SCALE) >> SHORT_SCALE_SHIFT, weight, rest)
            }
            kind => {
                let (weight, rest) = rest.split_first_chunk()?;
                (kind == NEGATIVE, header & LONG_SCALE, i32::from(i16::from_ne_bytes(*weight)), rest)
            }
        };
        Some(Numeric { negative, scale, weight, digits: rest.as_chunks().0 })
    }

    /// The digit whose power is this.
    fn digit(&self, power: i32) -> u16 {
        let place = usize::try_from(self.weight - power).ok();
        place.and_then(|at| self.digits.get(at)).map_or(0, |digit| u16::from_ne_bytes(*digit))
    }
}

/// Writes a numeric. `false` for NaN and infinities.
pub(super) fn numeric(stored: &[u8], out: &mut String) -> bool {
    let Some(numeric) = Numeric::read(stored) else { return false };
    if numeric.negative {
        out.push('-');
    }
    let first = numeric.digit(numeric.weight.max(0));
    out.extend([1000, 100, 10].iter().filter(|unit| first >= **unit).map(|unit| decimal(first, *unit)));
    out.push(decimal(first, 1));
    for power in (0..numeric.weight).rev() {
        push_digits(out, numeric.digit(power), DIGITS);
    }
    if numeric.scale > 0 {
        out.push('.');
    }
    let mut left = usize::from(numeric.scale);
    let mut power = -1;
    while left > 0 {
        let now = left.min(DIGITS);
        push_digits(out, numeric.digit(power), now);
        (left, power) = (left - now, power - 1);
    }
    true
}

/// The same as a number; `None` where 64 bits or 18 digits behind the point are too few.
fn decimal_of(stored: &[u8]) -> Option<Number> {
    const POWERS: [u16; DIGITS + 1] = [1, 10, 100, 1_000, 10_000];
    let numeric = Numeric::read(stored)?;
    let scale = u8::try_from(numeric.scale).ok().filter(|scale| *scale <= 18)?;
    let mut n = 0i64;
    for power in (0..=numeric.weight).rev() {
        n = n.checked_mul(10_000)?.checked_add(i64::from(numeric.digit(power)))?;
    }
    let mut left = usize::from(scale);
    let mut power = -1;
    while left > 0 {
        let now = left.min(DIGITS);
        let decimals = numeric.digit(power) / POWERS[DIGITS - now];
        n = n.checked_mul(i64::from(POWERS[now]))?.checked_add(i64::from(decimals))?;
        (left, power) = (left - now, power - 1);
    }
    // PostgreSQL has no negative zero, a decimal could not say it.
    (n != 0 || !numeric.negative).then_some(Number::Decimal(if numeric.negative { -n } else { n }, scale))
}

/// Writes the first so many of a digit's four decimals.
fn push_digits(out: &mut String, digit: u16, count: usize) {
    let mut unit = 1000;
    for _ in 0..count {
        out.push(decimal(digit, unit));
        unit /= 10;
    }
}

fn decimal(digit: u16, unit: u16) -> char {
    char::from(b'0' + (digit / unit % 10) as u8)
}

/// Appends decimal digits, with at most one sign and one point between digits, as a numeric is stored. `None` for anything else.
pub(super) fn append_numeric(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(point) => (&text[..point], Some(&text[point + 1..])),
        None => (text, None),
    };
    if whole.is_empty() || fraction.is_some_and(<[u8]>::is_empty) {
        return None;
    }
    if fraction.is_none() && whole.len() <= DIGITS && whole[0] != b'0' {
        let sign = if negative { SHORT_NEGATIVE } else { 0 };
        out.extend_from_slice(&(SHORT | sign).to_ne_bytes());
        return push_stored(whole, out);
    }
    let fraction = fraction.unwrap_or_default();
    let scale = u16::try_from(fraction.len()).ok().filter(|scale| *scale <= LONG_SCALE)?;
    // Leading zeroes are not stored. In front of the point they are dropped one by one, behind it four by four.
    let zeroes = |part: &[u8]| part.iter().take_while(|b| **b == b'0').count();
    let whole = &whole[zeroes(whole)..];
    let skipped = if whole.is_empty() { zeroes(fraction) / DIGITS } else { 0 };
    let weight = whole.len().div_ceil(DIGITS) as i32 - 1 - skipped as i32;
    let stored = &fraction[skipped * DIGITS..];

    let short_weight = -i32::from(SHORT_WEIGHT) - 1..=i32::from(SHORT_WEIGHT);
    let is_zero = whole.is_empty() && stored.iter().all(|b| *b == b'0');
    let (weight, negative) = if is_zero { (0, false) } else { (weight, negative) };
    if scale <= SHORT_SCALE >> SHORT_SCALE_SHIFT && short_weight.contains(&weight) {
        let sign = if negative { SHORT_NEGATIVE } else { 0 };
        // The weight's lower bits and its sign, as two's complement has them.
        let weight = weight as u16 & (SHORT_WEIGHT_NEGATIVE | SHORT_WEIGHT);
        out.extend_from_slice(&(SHORT | sign | scale << SHORT_SCALE_SHIFT | weight).to_ne_bytes());
    } else {
        let sign = if negative { NEGATIVE } else { 0 };
        out.extend_from_slice(&(sign | scale).to_ne_bytes());
        out.extend_from_slice(&i16::try_from(weight).ok()?.to_ne_bytes());
    }
    let digits = out.len();
    let first = whole.len() % DIGITS;
    if first > 0 {
        push_stored(&whole[..first], out)?;
    }
    for decimals in whole[first..].chunks_exact(DIGITS) {
        push_stored(decimals, out)?;
    }
    for decimals in stored.chunks(DIGITS) {
        let mut padded = [b'0'; DIGITS];
        padded[..decimals.len()].copy_from_slice(decimals);
        push_stored(&padded, out)?;
    }
    // Nor are trailing ones.
    while out.len() > digits && out.ends_with(&[0, 0]) {
        out.truncate(out.len() - 2);
    }
    Some(())
}

/// Appends so many thousandths as a numeric is stored, with as few decimals behind the point as they take.
pub(super) fn append_thousandths(thousandths: u64, out: &mut Vec<u8>) {
    let (mut whole, rest) = (thousandths / 1_000, (thousandths % 1_000) as u16);
    let scale = [1_000, 100, 10].iter().take_while(|unit| rest % **unit != 0).count();
    // 2^64 thousandths have five digits to the base of 10,000 before the point, the last of weight 0, and one behind.
    let mut digits = [0, 0, 0, 0, 0, rest * 10];
    for digit in digits[..5].iter_mut().rev() {
        (whole, *digit) = (whole / 10_000, (whole % 10_000) as u16);
    }
    let first = digits.iter().take_while(|digit| **digit == 0).count();
    let last = 6 - digits.iter().rev().take_while(|digit| **digit == 0).count();
    let (weight, digits) = if first < last { (4 - first as i32, &digits[first..last]) } else { (0, &[][..]) };
    let weight = weight as u16 & (SHORT_WEIGHT_NEGATIVE | SHORT_WEIGHT);
    let scale = (scale as u16) << SHORT_SCALE_SHIFT;
    out.extend_from_slice(&(SHORT | scale | weight).to_ne_bytes());
    out.extend(digits.iter().flat_map(|digit| digit.to_ne_bytes()));
}

/// Appends up to four decimals as one digit.
fn push_stored(decimals: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut digit = 0;
    for byte in decimals {
        let value = byte.wrapping_sub(b'0');
        if value > 9 {
            return None;
        }
        digit = digit * 10 + u16::from(value);
    }
    out.extend_from_slice(&digit.to_ne_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &[u16]) -> Option<String> {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = String::new();
        numeric(&bytes, &mut out).then_some(out)
    }

    fn short(negative: bool, scale: u16, weight: i16) -> u16 {
        let sign = if negative { SHORT_NEGATIVE } else { 0 };
        let below = if weight < 0 { SHORT_WEIGHT_NEGATIVE } else { 0 };
        SHORT | sign | scale << SHORT_SCALE_SHIFT | below | weight as u16 & SHORT_WEIGHT
    }

    #[test]
    fn numerics() {
        for (words, meant) in [
            (vec![short(false, 0, 0)], "0"),
            (vec![short(false, 2, 0)], "0.00"),
            (vec![short(false, 2, 0), 12, 5000], "12.50"),
            (vec![short(true, 0, 1), 12, 34], "-120034"),
            (vec![short(false, 0, 2), 1], "100000000"),
            (vec![short(false, 5, -1), 123], "0.01230"),
            (vec![short(false, 9, -2), 1], "0.000000010"),
            (vec![short(true, 1, -1), 5000], "-0.5"),
            (vec![NEGATIVE | 70, 0, 7, 1], &format!("-7.0001{}", "0".repeat(66))),
            (vec![1, (-2i16) as u16, 9999], "0.0"),
        ] {
            assert_eq!(text(&words).as_deref(), Some(meant));
        }
        assert_eq!(text(&[SPECIAL]), None);
        assert_eq!(text(&[]), None);
    }

    #[test]
    fn numerics_as_numbers() {
        for (written, meant) in [
            ("0", Some((0, 0))),
            ("0.00", Some((0, 2))),
            ("12.50", Some((1250, 2))),
            ("-120034", Some((-120034, 0))),
            ("0.01230", Some((1230, 5))),
            ("-0.000000010", Some((-10, 9))),
            ("100000000.1", Some((1_000_000_001, 1))),
            ("9.223372036854775807", Some((i64::MAX, 18))),
            ("9.223372036854775808", None),
            ("-92233720368547758.07", Some((-i64::MAX, 2))),
            ("1.0000000000000000000", None),
            ("1000000000000000000000", None),
        ] {
            let mut bytes = Vec::new();
            append_numeric(written.as_bytes(), &mut bytes).unwrap();
            let number = decimal_of(&bytes);
            assert_eq!(number, meant.map(|(n, scale)| Number::Decimal(n, scale)), "{written}");
        }
    }

    #[test]
    fn numerics_from_text() {
        for (written, meant) in [
            ("0", vec![short(false, 0, 0)]),
            ("-7", vec![short(true, 0, 0), 7]),
            ("9999", vec![short(false, 0, 0), 9999]),
            ("007", vec![short(false, 0, 0), 7]),
            ("-0.00", vec![short(false, 2, 0)]),
            ("12.50", vec![short(false, 2, 0), 12, 5000]),
            ("-120034", vec![short(true, 0, 1), 12, 34]),
            ("100000000", vec![short(false, 0, 2), 1]),
            ("0.01230", vec![short(false, 5, -1), 123]),
            ("0.000000010", vec![short(false, 9, -2), 1]),
            ("10000.00001", vec![short(false, 5, 1), 1, 0, 0, 1000]),
            (&format!("-7.{}1", "0".repeat(63)), [vec![NEGATIVE | 64, 0, 7], vec![0; 15], vec![1]].concat()),
            (&format!("1{}", "0".repeat(256)), vec![0, 64, 1]),
            (&format!("1{}", "0".repeat(252)), vec![short(false, 0, 63), 1]),
        ] {
            let mut bytes = Vec::new();
            append_numeric(written.as_bytes(), &mut bytes).unwrap();
            assert_eq!(bytes, meant.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>(), "{written}");
        }
        for written in ["", "-", ".", "1.", ".1", "1e1", "--1", "1x", "1.2.3", " 1", "NaN"] {
            assert_eq!(append_numeric(written.as_bytes(), &mut Vec::new()), None, "{written}");
        }
    }

    #[test]
    fn thousandths() {
        let tens = (0..20).map(|power| 10u64.pow(power)).flat_map(|n| [n - 1, n, n + 1, 7 * (n / 7)]);
        for n in tens.chain([0, 1_795_358_755_496_310, u64::MAX]) {
            let text = format!("{}.{:03}", n / 1_000, n % 1_000);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            let (mut bytes, mut meant) = (Vec::new(), Vec::new());
            append_thousandths(n, &mut bytes);
            append_numeric(text.as_bytes(), &mut meant).unwrap();
            assert_eq!(bytes, meant, "{text}");
        }
    }

    #[test]
    fn uuids() {
        let mut out = String::new();
        assert!(uuid(&[0, 1, 0x2f, 0xa3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255], &mut out));
        assert_eq!(out, "00012fa3-0405-0607-0809-0a0b0c0d0eff");
    }
}
