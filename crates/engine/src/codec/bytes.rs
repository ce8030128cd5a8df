//! Variable-length numbers and a cursor over untrusted bytes.

use crate::alloc;
use crate::error::{Error, Result};

/// Appends a number: seven bits a byte, the low ones first, the high bit set on all but the last.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// How many bytes [`put_varint`] takes.
pub(crate) fn varint_len(n: u64) -> usize {
    (((64 - (n | 1).leading_zeros()) * 9 + 64) / 64) as usize
}

/// Small numbers of either sign as small numbers: 0, -1, 1, -2, ...
pub(crate) fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

/// Appends a length and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    alloc::reserve(out, bytes.len() + 10)?;
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends what `body` appends, behind its length.
pub(crate) fn put_sized<R>(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> Result<R>) -> Result<R> {
    let at = out.len();
    alloc::push(out, 0)?;
    let result = body(out)?;
    let len = out.len() - at - 1;
    // Mostly one byte says the length. For more of them what lies behind moves.
    let more = varint_len(len as u64) - 1;
    if more > 0 {
        alloc::reserve(out, more)?;
        out.resize(out.len() + more, 0);
        out.copy_within(at + 1..at + 1 + len, at + 1 + more);
    }
    let mut rest = len as u64;
    for byte in &mut out[at..at + more] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[at + more] = rest as u8;
    Ok(result)
}

/// A cursor over bytes from outside: whatever they are, it answers or errs.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Input { bytes, pos: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.pos == self.bytes.len()
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.pos
    }

    pub fn bad(&self, what: impl Into<String>) -> Error {
        Error::Malformed { at: format!("byte {}", self.pos), what: what.into() }
    }

    fn short(&self) -> Error {
        self.bad("the bytes end here, more are needed")
    }

    pub fn byte(&mut self) -> Result<u8> {
        let b = *self.bytes.get(self.pos).ok_or_else(|| self.short())?;
        self.pos += 1;
        Ok(b)
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64> {
        match self.bytes.get(self.pos) {
            Some(&b) if b < 0x80 => {
                self.pos += 1;
                Ok(b as u64)
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            if shift == 63 && b > 1 {
                break;
            }
            n |= ((b & 0x7f) as u64) << shift;
            if b < 0x80 {
                return Ok(n);
            }
        }
        Err(self.bad("a number of more than 64 bits"))
    }

    /// A number that counts things in memory.
    pub fn size(&mut self) -> Result<usize> {
        let n = self.varint()?;
        usize::try_from(n).map_err(|_| self.bad(format!("a size of {n}")))
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        if len > self.remaining() {
            return Err(self.bad(format!("{len} bytes announced, {} left", self.remaining())));
        }
        let taken = &self.bytes[self.pos..self.pos + len];
        self.pos += len;
        Ok(taken)
    }

    /// The rest.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.pos..];
        self.pos = self.bytes.len();
        rest
    }

    /// A length and as many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.size()?;
        self.take(len)
    }

    /// The error unless everything was read.
    pub fn done(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(self.bad(format!("{} bytes too many", self.remaining()))) }
    }
}

/// Text from outside bytes: UTF-8 and without NUL, which PostgreSQL cannot hold.
pub(crate) fn text(bytes: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::Malformed { at: format!("text byte {}", e.valid_up_to()), what: "not UTF-8".into() })?;
    // Chunk by chunk without a way out in between, which the compiler turns into wide comparisons.
    let has_nul = |chunk: &[u8]| chunk.iter().fold(false, |found, byte| found | (*byte == 0));
    match bytes.chunks(64).any(has_nul) {
        true => Err(Error::NulCharacter { at: "text".into() }),
        false => Ok(text),
    }
}
