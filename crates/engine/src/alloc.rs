//! Growth that may fail: what outside bytes decide never goes through an allocation that aborts the process.
//!
//! Every function errs with [`Error::OutOfMemory`], and has then changed nothing.

use crate::error::{Error, Result};

/// Makes room for `more` items.
pub fn reserve<T>(vec: &mut Vec<T>, more: usize) -> Result<()> {
    vec.try_reserve(more).map_err(|_| Error::OutOfMemory { bytes: more.saturating_mul(size_of::<T>()) })
}

/// Appends one item.
#[inline]
pub fn push<T>(vec: &mut Vec<T>, item: T) -> Result<()> {
    if vec.len() == vec.capacity() {
        reserve(vec, 1)?;
    }
    vec.push(item);
    Ok(())
}

/// Appends bytes.
pub fn extend<T: Copy>(vec: &mut Vec<T>, items: &[T]) -> Result<()> {
    reserve(vec, items.len())?;
    vec.extend_from_slice(items);
    Ok(())
}

/// Makes room for `more` bytes of text.
pub fn reserve_text(text: &mut String, more: usize) -> Result<()> {
    text.try_reserve(more).map_err(|_| Error::OutOfMemory { bytes: more })
}

/// Appends text.
#[inline]
pub fn push_str(to: &mut String, text: &str) -> Result<()> {
    if to.capacity() - to.len() < text.len() {
        reserve_text(to, text.len())?;
    }
    to.push_str(text);
    Ok(())
}

/// A copy of a text.
pub fn string(text: &str) -> Result<String> {
    let mut copy = String::new();
    copy.try_reserve_exact(text.len()).map_err(|_| Error::OutOfMemory { bytes: text.len() })?;
    copy.push_str(text);
    Ok(copy)
}

/// A vector of `len` copies of `item`.
pub fn filled<T: Copy>(item: T, len: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
    vec.resize(len, item);
    Ok(vec)
}
