//! A column of integers as bytes. Whoever reads it knows how many there are.
//!
//! | mode | payload |
//! |---|---|
//! | 0 | each a zigzag varint |
//! | 1 | the difference to the one before (the first: to 0), each a zigzag varint |
//! | 2 | pairs of such a difference and how often it is repeated, less one |
//! | 3 + w, w from 0 to 8 | the least as a zigzag varint, then w bytes each, low first: the distance from it |
//!
//! One integer alone is mode 0 and no mode is written; no integer at all is no byte at all.

use super::bytes::{Input, put_varint, unzigzag, varint_len, zigzag};
use crate::alloc;
use crate::error::Result;

const PLAIN: u8 = 0;
const DELTA: u8 = 1;
const RUNS: u8 = 2;
const FIXED: u8 = 3;
/// How many modes there are.
pub(crate) const MODES: u8 = FIXED + 9;

/// The shortest mode and the bytes it will take.
fn choose(ints: &[i64]) -> (u8, usize) {
    if ints.len() <= 1 {
        return (PLAIN, 10);
    }
    let (mut least, mut greatest) = (i64::MAX, i64::MIN);
    for &n in ints {
        least = least.min(n);
        greatest = greatest.max(n);
    }
    let width = width(greatest.wrapping_sub(least) as u64);
    let fixed = (FIXED + width as u8, varint_len(zigzag(least)) + width * ints.len());
    let runs = (RUNS, runs_len(ints));
    // On a tie the mode that is fastest to read.
    let shorter = if fixed.1 <= runs.1 { fixed } else { runs };
    // The others take a byte each at least.
    if shorter.1 <= ints.len() {
        return shorter;
    }
    let (mut plain, mut delta, mut before) = (0, 0, 0i64);
    for &n in ints {
        plain += varint_len(zigzag(n));
        delta += varint_len(zigzag(n.wrapping_sub(before)));
        before = n;
    }
    [shorter, (PLAIN, plain), (DELTA, delta)].into_iter().min_by_key(|&(_, bytes)| bytes).expect("three candidates")
}

/// The bytes of [`RUNS`].
fn runs_len(ints: &[i64]) -> usize {
    let mut len = 0;
    each_run(ints, |step, times| len += varint_len(zigzag(step)) + varint_len(times - 1));
    len
}

/// The differences to the one before, each with how many times it comes in a row.
fn each_run(ints: &[i64], mut each: impl FnMut(i64, u64)) {
    let Some((&first, others)) = ints.split_first() else { return };
    let (mut before, mut step, mut times) = (first, first, 1);
    for &n in others {
        let d = n.wrapping_sub(before);
        before = n;
        if d == step {
            times += 1;
        } else {
            each(step, times);
            (step, times) = (d, 1);
        }
    }
    each(step, times);
}

fn width(range: u64) -> usize {
    (64 - range.leading_zeros()).div_ceil(8) as usize
}

/// Appends a column with its mode before it.
pub(crate) fn put(out: &mut Vec<u8>, ints: &[i64]) -> Result<()> {
    let (mode, bytes) = choose(ints);
    alloc::reserve(out, bytes + 11)?;
    if ints.len() > 1 {
        out.push(mode);
    }
    payload(out, ints, mode);
    Ok(())
}

/// Appends a column and returns the mode, which the caller stores elsewhere.
pub(crate) fn put_payload(out: &mut Vec<u8>, ints: &[i64]) -> Result<u8> {
    let (mode, bytes) = choose(ints);
    alloc::reserve(out, bytes + 10)?;
    payload(out, ints, mode);
    Ok(mode)
}

fn payload(out: &mut Vec<u8>, ints: &[i64], mode: u8) {
    match mode {
        PLAIN => ints.iter().for_each(|&n| put_varint(out, zigzag(n))),
        DELTA => {
            let mut before = 0i64;
            for &n in ints {
                put_varint(out, zigzag(n.wrapping_sub(before)));
                before = n;
            }
        }
        RUNS => each_run(ints, |step, times| {
            put_varint(out, zigzag(step));
            put_varint(out, times - 1);
        }),
        _ => {
            let width = (mode - FIXED) as usize;
            let least = ints.iter().copied().min().unwrap_or(0);
            put_varint(out, zigzag(least));
            // All eight bytes at once, and the upper ones taken back: a copy of any length is a call.
            for &n in ints {
                out.extend_from_slice(&(n.wrapping_sub(least) as u64).to_le_bytes());
                out.truncate(out.len() - (8 - width));
            }
        }
    }
}

/// Reads a column one by one.
#[derive(Clone, Debug)]
pub(crate) struct Ints<'a> {
    input: Input<'a>,
    mode: u8,
    /// The one before; with fixed width the least.
    base: i64,
    step: i64,
    run: u64,
}

impl<'a> Ints<'a> {
    /// A column of `len` with its mode before it.
    pub fn new(bytes: &'a [u8], len: usize) -> Result<Self> {
        let mut input = Input::new(bytes);
        let mode = if len > 1 { input.byte()? } else { PLAIN };
        Self::with_mode(input.rest(), mode)
    }

    /// A column whose mode was stored elsewhere.
    pub fn with_mode(bytes: &'a [u8], mode: u8) -> Result<Self> {
        let mut input = Input::new(bytes);
        if mode >= MODES {
            return Err(input.bad(format!("unknown mode {mode} of a column of integers")));
        }
        let base = if mode >= FIXED { unzigzag(input.varint()?) } else { 0 };
        Ok(Ints { input, mode, base, step: 0, run: 0 })
    }

    #[inline]
    pub fn next(&mut self) -> Result<i64> {
        match self.mode {
            PLAIN => Ok(unzigzag(self.input.varint()?)),
            DELTA => {
                self.base = self.base.wrapping_add(unzigzag(self.input.varint()?));
                Ok(self.base)
            }
            RUNS => {
                self.refill()?;
                self.run -= 1;
                self.base = self.base.wrapping_add(self.step);
                Ok(self.base)
            }
            mode => {
                let width = (mode - FIXED) as usize;
                let mut wide = [0; 8];
                wide[..width].copy_from_slice(self.input.take(width)?);
                Ok(self.base.wrapping_add(u64::from_le_bytes(wide) as i64))
            }
        }
    }

    /// The next of them that are one step apart, `most` at most: the first, the step, and how many.
    pub fn next_steps(&mut self, most: usize) -> Result<(i64, i64, usize)> {
        if self.mode != RUNS {
            return Ok((self.next()?, 0, 1));
        }
        self.refill()?;
        let n = self.run.min(most as u64);
        let first = self.base.wrapping_add(self.step);
        self.run -= n;
        self.base = self.base.wrapping_add(self.step.wrapping_mul(n as i64));
        Ok((first, self.step, n as usize))
    }

    fn refill(&mut self) -> Result<()> {
        if self.run == 0 {
            self.step = unzigzag(self.input.varint()?);
            let more = self.input.varint()?;
            self.run = more.checked_add(1).ok_or_else(|| self.input.bad("a run of 2^64"))?;
        }
        Ok(())
    }

    /// Passes over `n` of them, in time that follows the bytes passed over and not `n` where they are runs.
    pub fn skip(&mut self, mut n: usize) -> Result<()> {
        match self.mode {
            RUNS => {
                while n > 0 {
                    self.refill()?;
                    let now = self.run.min(n as u64);
                    self.run -= now;
                    n -= now as usize;
                    self.base = self.base.wrapping_add(self.step.wrapping_mul(now as i64));
                }
                Ok(())
            }
            mode if mode >= FIXED => {
                let bytes = n.checked_mul((mode - FIXED) as usize).ok_or_else(|| self.input.bad("too many to skip"))?;
                self.input.take(bytes).map(|_| ())
            }
            _ => (0..n).try_for_each(|_| self.next().map(|_| ())),
        }
    }

    /// A length or an index: the next one, if it is one.
    #[inline]
    pub fn next_size(&mut self) -> Result<usize> {
        let n = self.next()?;
        usize::try_from(n).map_err(|_| self.input.bad(format!("a size of {n}")))
    }
}
