//! Which type each value of a mixed column is.
//!
//! One byte: 0xff, then byte length and integers, a type each. Any other: two types (low and high four bits), then a
//! bit each, the lowest first, set for the second.

use super::bytes::{Input, put_bytes};
use super::ints::{self, Ints};
use super::values::TYPES;
use crate::alloc;
use crate::error::Result;

const INTEGERS: u8 = 0xff;

/// Appends the types of a column of at least two.
pub(crate) fn put(out: &mut Vec<u8>, types: &[u8]) -> Result<()> {
    let low = types.iter().copied().min().unwrap_or(0);
    let high = types.iter().copied().max().unwrap_or(0);
    let mut wide = Vec::new();
    alloc::reserve(&mut wide, types.len())?;
    wide.extend(types.iter().map(|&t| t as i64));
    let mut bytes = Vec::new();
    ints::put(&mut bytes, &wide)?;
    let two = types.iter().all(|&t| t == low || t == high);
    if two && types.len().div_ceil(8) <= bytes.len() {
        alloc::push(out, low | high << 4)?;
        return put_bits(out, types.iter().map(|&t| t == high));
    }
    alloc::push(out, INTEGERS)?;
    put_bytes(out, &bytes)
}

/// Appends a bit each, the lowest first.
pub(crate) fn put_bits(out: &mut Vec<u8>, bits: impl ExactSizeIterator<Item = bool>) -> Result<()> {
    alloc::reserve(out, bits.len().div_ceil(8))?;
    let mut byte = 0;
    let last = bits.len().wrapping_sub(1);
    for (i, bit) in bits.enumerate() {
        byte |= (bit as u8) << (i % 8);
        if i % 8 == 7 || i == last {
            out.push(byte);
            byte = 0;
        }
    }
    Ok(())
}

/// Reads types one by one.
#[derive(Clone, Debug)]
pub(crate) enum Types<'a> {
    Bits { low: u8, high: u8, bits: &'a [u8], at: usize },
    Each(Ints<'a>),
}

impl<'a> Types<'a> {
    /// Types of `len` values, and how many there are of each.
    pub fn read(input: &mut Input<'a>, len: usize) -> Result<(Self, [usize; TYPES])> {
        let types = match input.byte()? {
            INTEGERS => Types::Each(Ints::new(input.bytes()?, len)?),
            two => Types::Bits { low: two & 15, high: two >> 4, bits: input.take(len.div_ceil(8))?, at: 0 },
        };
        let counts = types.clone().skip(len)?;
        Ok((types, counts))
    }

    #[inline]
    pub fn next(&mut self) -> Result<u8> {
        let of = match self {
            Types::Bits { low, high, bits, at } => {
                *at += 1;
                match bits.get((*at - 1) / 8) {
                    Some(byte) if byte >> ((*at - 1) % 8) & 1 == 1 => *high,
                    _ => *low,
                }
            }
            Types::Each(ints) => ints.next_size()?.min(TYPES) as u8,
        };
        match of as usize {
            0..TYPES => Ok(of),
            _ => Err(Input::new(&[]).bad("unknown type of a value")),
        }
    }

    /// Passes over `n`; how many of each.
    pub fn skip(&mut self, n: usize) -> Result<[usize; TYPES]> {
        let mut counts = [0; TYPES];
        for _ in 0..n {
            counts[self.next()? as usize] += 1;
        }
        Ok(counts)
    }
}
