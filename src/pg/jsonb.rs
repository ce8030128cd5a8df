//! jsonb as SQL functions take and answer it.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys::{self, Datum};

use super::function::Out;
use super::image::{self, HEADER, Part};
use super::{datum, forms};
use crate::error::{Error, Result, state};

/// An object of these fields, which come as jsonb sorts them.
pub fn object<'a>(fields: &[(&'a str, Part<'a>)]) -> Result<Out> {
    let bytes = match image::object(fields) {
        Some(bytes) => bytes,
        None => {
            let parsed: Vec<_> = fields.iter().map(|(name, part)| (*name, parse(part))).collect();
            image::object(&parsed).ok_or_else(|| Error::new(state::INTERNAL, "an entry that jsonb cannot hold"))?
        }
    };
    store(bytes)
}

/// Has PostgreSQL read the text of a part, if that is what it is.
fn parse<'a>(part: &Part<'a>) -> Part<'a> {
    match part {
        Part::Text(text) => Part::Text(text),
        Part::Number(digits) => Part::Number(digits),
        Part::Thousandths(n) => Part::Thousandths(*n),
        Part::Image(root) => Part::Image(root),
        // SAFETY: a jsonb that was made just now lives as long as the call.
        Part::Json(text) => Part::Image(unsafe { root(datum::jsonb_datum(text)) }),
    }
}

/// The image of a jsonb, fetched if it lies out of line.
///
/// # Safety
/// `datum` is a jsonb, and the result must not outlive it nor the call.
pub(super) unsafe fn root<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: the caller's promise; what is fetched lives as long as the call.
    unsafe {
        forms::inline(datum).unwrap_or_else(|| {
            let fetched = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            forms::inline(Datum::from(fetched)).expect("fetched")
        })
    }
}

/// Appends the text of a jsonb.
///
/// # Safety
/// `datum` is a jsonb.
pub(super) unsafe fn write_text(datum: Datum, out: &mut String) {
    let start = out.len();
    // SAFETY: the caller's promise.
    unsafe {
        if forms::inline(datum).and_then(|root| image::write_text(root, out)).is_none() {
            out.truncate(start);
            out.push_str(&datum::jsonb_text_by_postgres(datum));
        }
    }
}

/// An image as an answer.
fn store(mut bytes: Vec<u8>) -> Result<Out> {
    // Declared here and not taken from pgrx: with this flag it answers NULL where it would raise an error, and needs no guard.
    unsafe extern "C-unwind" {
        fn palloc_extended(size: usize, flags: c_int) -> *mut c_void;
    }
    let header = image::varlena_header(bytes.len());
    bytes[..HEADER].copy_from_slice(&header);
    assert!(bytes.len() < 1 << 30, "values are much smaller");
    // SAFETY: as many bytes are taken as are copied, in the current memory context, which answers are made in.
    unsafe {
        let place = palloc_extended(bytes.len(), pg_sys::MCXT_ALLOC_NO_OOM as c_int);
        if place.is_null() {
            return Err(Error::new(state::OUT_OF_MEMORY, "out of memory"));
        }
        place.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        Ok(Out::Ready(Datum::from(place)))
    }
}
