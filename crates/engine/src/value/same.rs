//! Whether what a table shows is what an event says.

use std::borrow::Cow;

use super::ValueRef;
use crate::alloc;
use crate::error::Result;
use crate::scan::Scanner;

/// Objects and arrays nested deeper are only the same when their texts are.
const DEPTH: usize = 128;
/// Values of nested objects are passed over once for each level; hostile nesting is not followed for ever.
const WORK_PER_BYTE: usize = 64;
/// Bytes to pass over that small values may always cost.
const LEAST_WORK: usize = 16 << 20;

/// Loose equality: bit-equal; numbers equal in value (`Int` 1 and `Float` 1.0, `Float` 0.1 and the JSON number `0.10`; a
/// float counts as its shortest decimal); a number and the text it is written as; JSON objects or arrays that differ only
/// in blanks, escapes, the order of keys and how they write numbers (of two equal keys the later counts).
pub fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    use ValueRef::*;
    if a == b {
        return true;
    }
    match (a, b) {
        (Text(text), number) | (number, Text(text)) => number_text(number).is_some_and(|n| n == text),
        (Int(_) | Float(_) | Json(_), Int(_) | Float(_) | Json(_)) => match (number_text(a), number_text(b)) {
            (Some(a), Some(b)) => same_number(&a, &b),
            (None, None) => same_tree(a, b),
            _ => false,
        },
        _ => false,
    }
}

fn number_text(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    match value {
        ValueRef::Int(_) | ValueRef::Float(_) => {
            let mut text = String::new();
            value.write_json(&mut text).ok()?;
            Some(Cow::Owned(text))
        }
        ValueRef::Json(text) if !text.starts_with(['{', '[']) => Some(Cow::Borrowed(text)),
        _ => None,
    }
}

/// A decimal number as its sign, its digits from the first to the last that is not zero, and the power of ten of the last:
/// equal for equal numbers. `None` where the exponent is beyond 32 bits.
fn parts(text: &str) -> Option<(bool, Vec<u8>, i64)> {
    let (minus, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = Vec::new();
    alloc::reserve(&mut digits, mantissa.len()).ok()?;
    digits.extend(whole.bytes().chain(fraction.bytes()).skip_while(|&b| b == b'0'));
    let mut power = exponent as i64 - fraction.len() as i64;
    while digits.last() == Some(&b'0') {
        digits.pop();
        power += 1;
    }
    if digits.is_empty() {
        return Some((false, digits, 0));
    }
    Some((minus, digits, power))
}

fn same_number(a: &str, b: &str) -> bool {
    a == b || matches!((parts(a), parts(b)), (Some(a), Some(b)) if a == b)
}

fn same_tree(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    let (ValueRef::Json(a), ValueRef::Json(b)) = (a, b) else { return false };
    let mut work = (a.len() + b.len()).saturating_mul(WORK_PER_BYTE).max(LEAST_WORK);
    same_next(&mut Scanner::new(a, DEPTH), &mut Scanner::new(b, DEPTH), DEPTH, &mut work).unwrap_or(false)
}

/// Compares the next values of two scanners, arrays in step, objects by sorted keys: memory follows the keys of the
/// objects that are open, never the whole. Recursive, as deep as `depth` allows.
fn same_next(a: &mut Scanner<'_>, b: &mut Scanner<'_>, depth: usize, work: &mut usize) -> Result<bool> {
    match (a.peek()?, b.peek()?) {
        (b'"', b'"') => Ok(a.string()? == b.string()?),
        (b'[', b'[') | (b'{', b'{') if depth == 0 => Err(a.bad("too deep to compare")),
        (b'[', b'[') => {
            a.array()?;
            b.array()?;
            let (mut first_a, mut first_b) = (true, true);
            loop {
                match (a.item(&mut first_a)?, b.item(&mut first_b)?) {
                    (true, true) if same_next(a, b, depth - 1, work)? => {}
                    (false, false) => return Ok(true),
                    _ => return Ok(false),
                }
            }
        }
        (b'{', b'{') => {
            let (a, b) = (fields(a, work)?, fields(b, work)?);
            if a.len() != b.len() {
                return Ok(false);
            }
            for ((key_a, a), (key_b, b)) in a.iter().zip(&b) {
                let (mut a, mut b) = (Scanner::new(a, DEPTH), Scanner::new(b, DEPTH));
                if key_a != key_b || !same_next(&mut a, &mut b, depth - 1, work)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (b'"' | b'[' | b'{', _) | (_, b'"' | b'[' | b'{') => Ok(false),
        (b'-' | b'0'..=b'9', b'-' | b'0'..=b'9') => Ok(same_number(a.number()?, b.number()?)),
        _ => Ok(a.skip()? == b.skip()?),
    }
}

/// The fields of an object, sorted by key, each key once; values as their text.
fn fields<'a>(scanner: &mut Scanner<'a>, work: &mut usize) -> Result<Vec<(Cow<'a, str>, &'a str)>> {
    scanner.object()?;
    let (mut fields, mut first) = (Vec::new(), true);
    while let Some(key) = scanner.key(&mut first)? {
        let value = scanner.skip()?;
        *work = work.checked_sub(value.len()).ok_or_else(|| scanner.bad("too much work to compare"))?;
        alloc::push(&mut fields, (key, value))?;
    }
    // Of equal keys the one that stands last in the text comes first and is kept. (A stable sort would allocate.)
    fields.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.as_ptr().cmp(&a.1.as_ptr())));
    fields.dedup_by(|later, kept| later.0 == kept.0);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same() {
        use ValueRef::*;
        for (a, b, is) in [
            (Null, Null, true),
            (Null, Text("null"), false),
            (Null, Int(0), false),
            (Bool(true), Int(1), false),
            (Bool(true), Text("true"), false),
            (Int(1), Float(1.0), true),
            (Int(1), Json("1.00"), true),
            (Int(1000), Json("1e3"), true),
            (Int(1000), Json("1.0E+3"), true),
            (Int(1), Int(2), false),
            (Int(0), Float(-0.0), true),
            (Int(9007199254740993), Float(9007199254740992.0), false),
            (Float(0.1), Json("0.10"), true),
            (Float(0.1), Json("0.1000000000000000055511151231257827"), false),
            (Float(1e22), Json("10000000000000000000000"), true),
            (Json("1e400"), Json("10e399"), true),
            (Json("1e99999999999"), Json("10e99999999998"), false),
            (Json("1e99999999999"), Json("1e99999999999"), true),
            (Json("[1e99999999999]"), Json("[1e99999999999]"), true),
            (Json("-5.0"), Int(5), false),
            (Int(5), Text("5"), true),
            (Int(5), Text("5.0"), false),
            (Text("1.10"), Json("1.10"), true),
            (Text("1.10"), Text("1.1"), false),
            (Text("[]"), Json("[]"), false),
            (Json("[]"), Int(1), false),
            (Json("[1,2]"), Json("[1, 2]"), true),
            (Json("[1,2]"), Json("[2,1]"), false),
            (Json("[1]"), Json("[1.0]"), true),
            (Json("[1e-7,{\"a\":-0.0}]"), Json("[0.0000001,{\"a\":0}]"), true),
            (Json("[1]"), Json("[1.1]"), false),
            (Json("[1]"), Json("[-1]"), false),
            (Json("[1]"), Json("[null]"), false),
            (Json("{\"a\":1,\"b\":[null]}"), Json("{ \"b\" : [ null ], \"\\u0061\":1}"), true),
            (Json("{\"a\":1,\"a\":2}"), Json("{\"a\":2}"), true),
            (Json("{\"a\":1}"), Json("{\"a\":\"1\"}"), false),
            (Json("{}"), Json("[]"), false),
            (Json("[1]"), Json("[1,2]"), false),
            (Json("[[],{}]"), Json("[ [ ] , { } ]"), true),
            (Json("[true,null]"), Json("[true,false]"), false),
            (Json("[null]"), Json("[\"null\"]"), false),
            (Json("{\"a\":{\"c\":1,\"b\":2}}"), Json("{\"a\":{\"b\":2,\"c\":1}}"), true),
            (Json("{\"a\":1,\"b\":2}"), Json("{\"a\":1,\"c\":2}"), false),
        ] {
            assert_eq!(same(a, b), is, "{a:?} {b:?}");
            assert_eq!(same(b, a), is, "{b:?} {a:?}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize, blank: &str| format!("{}{blank}{}", "[".repeat(n), "]".repeat(n));
        let (a, b) = (deep(DEPTH, ""), deep(DEPTH, " "));
        assert!(same(ValueRef::Json(&a), ValueRef::Json(&b)));
        let nested = |blank: &str| format!("{}{blank}1{}", "{\"a\":".repeat(DEPTH), "}".repeat(DEPTH));
        assert!(same(ValueRef::Json(&nested("")), ValueRef::Json(&nested(" "))));
        let (a, b) = (deep(100_000, ""), deep(100_000, " "));
        assert!(!same(ValueRef::Json(&a), ValueRef::Json(&b)));
    }
}
