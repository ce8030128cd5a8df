//! A jsonb put together from parts, without a text of it being written and parsed.

use std::ffi::CStr;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, JsonbIteratorToken as token, JsonbValue, jbvType};

use super::function::Out;

mod raw {
    use pgrx::pg_sys::{self, Datum, JsonbIteratorToken, JsonbParseState, JsonbValue};

    // Declared here and not taken from pgrx: one guard stands around all calls.
    unsafe extern "C-unwind" {
        pub fn pushJsonbValue(
            state: *mut *mut JsonbParseState,
            token: JsonbIteratorToken::Type,
            value: *mut JsonbValue,
        ) -> *mut JsonbValue;
        pub fn JsonbValueToJsonb(value: *mut JsonbValue) -> *mut pg_sys::Jsonb;
        pub fn JsonbExtractScalar(container: *mut pg_sys::JsonbContainer, result: *mut JsonbValue) -> bool;
        pub fn numeric_in(fcinfo: pg_sys::FunctionCallInfo) -> Datum;
        pub fn DirectFunctionCall3Coll(
            function: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> Datum,
            collation: pg_sys::Oid,
            a: Datum,
            b: Datum,
            c: Datum,
        ) -> Datum;
    }
}

/// A jsonb that came as an argument.
#[derive(Clone, Copy)]
pub struct Jsonb(Datum);

impl Jsonb {
    /// # Safety
    /// `datum` is a jsonb that lives as long as the call.
    pub(super) unsafe fn new(datum: Datum) -> Jsonb {
        Jsonb(datum)
    }

    /// From its text; text that is not JSON raises an error.
    pub fn parse(text: &str) -> Jsonb {
        Jsonb(super::datum::jsonb_datum(text))
    }
}

/// A value of an object.
pub enum Part<'a> {
    /// A string.
    Text(&'a str),
    /// A number, by its digits.
    Number(&'a CStr),
    /// Any JSON.
    Json(Jsonb),
}

/// An object of these fields, whose names differ.
pub fn object(fields: &[(&str, Part<'_>)]) -> Out {
    // SAFETY: PostgreSQL builds and copies; what it is given lives until it returns, and nothing here has to be dropped when
    // an error leaves.
    Out::Ready(unsafe { pg_guard_ffi_boundary(|| build(fields)) })
}

/// # Safety
/// Inside a guard; memory is that of the call.
unsafe fn build(fields: &[(&str, Part<'_>)]) -> Datum {
    // SAFETY: the caller's promise, and the protocol of pushJsonbValue.
    unsafe {
        let mut state = std::ptr::null_mut();
        raw::pushJsonbValue(&mut state, token::WJB_BEGIN_OBJECT, std::ptr::null_mut());
        for (name, part) in fields {
            raw::pushJsonbValue(&mut state, token::WJB_KEY, &mut string(name));
            raw::pushJsonbValue(&mut state, token::WJB_VALUE, &mut value(part));
        }
        let whole = raw::pushJsonbValue(&mut state, token::WJB_END_OBJECT, std::ptr::null_mut());
        Datum::from(raw::JsonbValueToJsonb(whole))
    }
}

fn string(text: &str) -> JsonbValue {
    let mut value = JsonbValue { type_: jbvType::jbvString, ..Default::default() };
    value.val.string.len = text.len() as i32;
    value.val.string.val = text.as_ptr().cast_mut().cast();
    value
}

/// # Safety
/// As [`build`].
unsafe fn value(part: &Part<'_>) -> JsonbValue {
    // SAFETY: the caller's promise; datums are of the types their parts say.
    unsafe {
        match part {
            Part::Text(text) => string(text),
            Part::Number(digits) => {
                let any = (Datum::from(0usize), Datum::from(-1i32));
                let text = Datum::from(digits.as_ptr());
                let datum = raw::DirectFunctionCall3Coll(raw::numeric_in, pg_sys::InvalidOid, text, any.0, any.1);
                let mut value = JsonbValue { type_: jbvType::jbvNumeric, ..Default::default() };
                value.val.numeric = datum.cast_mut_ptr();
                value
            }
            Part::Json(Jsonb(datum)) => {
                let jsonb: *mut pg_sys::Jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
                let mut value = JsonbValue::default();
                if !raw::JsonbExtractScalar(&raw mut (*jsonb).root, &mut value) {
                    value.type_ = jbvType::jbvBinary;
                    value.val.binary.len = pgrx::varlena::varsize_any_exhdr(jsonb.cast()) as i32;
                    value.val.binary.data = &raw mut (*jsonb).root;
                }
                value
            }
        }
    }
}
