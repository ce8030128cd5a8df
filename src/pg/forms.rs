//! Text forms of common types, written here and not by their output functions: letter by letter the same under
//! [`super::datum::PinnedSettings`], at a fifth of the cost. What is not plain (infinities, years beyond 9999 or before 1)
//! is left to the output functions.

use crdt_engine::codec::{Moment, write_moment};
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

/// Writes a numeric. `false` for NaN and infinities.
fn numeric(stored: &[u8], out: &mut String) -> bool {
    let Some((header, rest)) = stored.split_first_chunk() else { return false };
    let header = u16::from_ne_bytes(*header);
    let (negative, scale, weight, rest) = match header & KIND {
        SPECIAL => return false,
        SHORT => {
            let below = if header & SHORT_WEIGHT_NEGATIVE != 0 { !i32::from(SHORT_WEIGHT) } else { 0 };
            let weight = below | i32::from(header & SHORT_WEIGHT);
            (header & SHORT_NEGATIVE != 0, (header & SHORT_SCALE) >> SHORT_SCALE_SHIFT, weight, rest)
        }
        kind => {
            let Some((weight, rest)) = rest.split_first_chunk() else { return false };
            (kind == NEGATIVE, header & LONG_SCALE, i32::from(i16::from_ne_bytes(*weight)), rest)
        }
    };
    let digit = |power: i32| {
        let at = usize::try_from(weight - power).ok()?;
        rest.chunks_exact(2).nth(at).map(|d| u16::from_ne_bytes([d[0], d[1]]))
    };
    if negative {
        out.push('-');
    }
    let first = digit(weight.max(0)).unwrap_or(0);
    push_last_digits(out, first, first.checked_ilog10().unwrap_or(0) as usize + 1);
    for power in (0..weight).rev() {
        push_digits(out, digit(power).unwrap_or(0), DIGITS);
    }
    if scale > 0 {
        out.push('.');
    }
    let mut left = usize::from(scale);
    let mut power = -1;
    while left > 0 {
        let now = left.min(DIGITS);
        push_digits(out, digit(power).unwrap_or(0), now);
        (left, power) = (left - now, power - 1);
    }
    true
}

/// Writes the last so many of a digit's four decimals.
fn push_last_digits(out: &mut String, digit: u16, count: usize) {
    for power in (0..count as u32).rev() {
        out.push(char::from(b'0' + (digit / 10u16.pow(power) % 10) as u8));
    }
}

/// Writes the first so many of a digit's four decimals.
fn push_digits(out: &mut String, digit: u16, count: usize) {
    let mut unit = 1000;
    for _ in 0..count {
        out.push(char::from(b'0' + (digit / unit % 10) as u8));
        unit /= 10;
    }
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
    fn uuids() {
        let mut out = String::new();
        assert!(uuid(&[0, 1, 0x2f, 0xa3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255], &mut out));
        assert_eq!(out, "00012fa3-0405-0607-0809-0a0b0c0d0eff");
    }
}
