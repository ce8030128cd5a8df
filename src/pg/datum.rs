//! Values between PostgreSQL and the engine (docs/format.md, "Values"), and datums for our own tables.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::fmt::Write;

use crdt_engine::ValueRef;
use crdt_engine::ops::Given;
use crdt_engine::value::Parsed;
use pgrx::pg_sys::{self, Datum, Oid};
use rustc_hash::FxHashMap;

use super::spi::Param;
use super::types::{Column, Conv, TypeInfo};
use super::{forms, unbound};
use crate::error::{Error, Result, state};

/// Integers beyond this travel as strings: JavaScript's numbers end there.
const SAFE_INTEGER: i64 = (1 << 53) - 1;

/// Nesting of JSON values that came through the engine's own limits or from the database.
const JSON_DEPTH: usize = 6500;

/// The one escape: the value is what the type's input function makes of the text.
const TEXT_ESCAPE: &str = "$text";

/// The bytes of a text, bytea or other varlena, detoasted and copied.
pub fn varlena_bytes(datum: Datum) -> Vec<u8> {
    // SAFETY: the datum is a varlena by the caller's knowledge of its column.
    unsafe { with_varlena(datum, |bytes| bytes.to_vec()) }
}

/// The bytes of a varlena, detoasted if need be.
///
/// # Safety
/// `datum` is a varlena, and the result must not outlive it nor the current memory context.
pub(super) unsafe fn varlena<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: the caller's promise; a detoasted copy lives in the current memory context.
    unsafe { bytes_of(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())) }
}

/// SAFETY: `datum` must be a live varlena.
pub(super) unsafe fn with_varlena<R>(datum: Datum, body: impl FnOnce(&[u8]) -> R) -> R {
    // SAFETY: the caller's promise; a detoasted copy lives in the current memory context.
    unsafe {
        let packed = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        let result = body(bytes_of(packed));
        // A value that lay out of line was copied: who reads a whole log must not collect the copies.
        if packed.cast() != datum.cast_mut_ptr::<std::ffi::c_void>() {
            pg_sys::pfree(packed.cast());
        }
        result
    }
}

/// SAFETY: `packed` is a varlena that is neither compressed nor out of line, and outlives the result.
unsafe fn bytes_of<'a>(packed: *const pg_sys::varlena) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe {
        std::slice::from_raw_parts(
            pgrx::varlena::vardata_any(packed).cast::<u8>(),
            pgrx::varlena::varsize_any_exhdr(packed),
        )
    }
}

/// The size of a varlena when it is not compressed, without fetching it.
pub fn raw_size(datum: Datum) -> usize {
    // SAFETY: the datum is a varlena.
    unsafe { forms::inline(datum).map_or_else(|| pg_sys::toast_raw_datum_size(datum), |bytes| bytes.len() + 4) }
}

/// A text datum.
pub fn text_datum(text: &str) -> Datum {
    bytes_datum(text.as_bytes())
}

/// A text or bytea datum.
pub fn bytes_datum(bytes: &[u8]) -> Datum {
    // SAFETY: copies into the current memory context; raises an error past 1 GB.
    Datum::from(unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32) })
}

/// A jsonb from its text; text that is not JSON raises an error.
pub fn jsonb_datum(text: &str) -> Datum {
    input_datum(pg_sys::JSONBOID, text).expect("a type of PostgreSQL takes text without NUL")
}

pub(super) fn input_datum(ty: Oid, text: &str) -> Result<Datum> {
    input(ty, -1, Some(text))
}

/// What a type makes of a text, or of NULL, which a domain may refuse.
fn input(ty: Oid, typmod: i32, text: Option<&str>) -> Result<Datum> {
    let text = (text.map(CString::new).transpose())
        .map_err(|_| Error::new(state::UNTRANSLATABLE, "unsupported Unicode escape sequence: \\u0000 in a value"))?;
    let start = text.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: input functions take a NUL-terminated string and raise errors for what they refuse; one that is strict is not
    // called for NULL.
    unsafe {
        let (mut function, mut param) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::getTypeInputInfo(ty, &mut function, &mut param);
        Ok(pg_sys::OidInputFunctionCall(function, start.cast_mut(), param, typmod))
    }
}

/// The text of a jsonb by PostgreSQL's own code.
pub(super) fn jsonb_text_by_postgres(datum: Datum) -> String {
    // SAFETY: the datum is a jsonb by the caller's knowledge.
    unsafe {
        let jsonb: *mut pg_sys::Jsonb = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let size = pgrx::varlena::varsize_any(jsonb.cast()) as i32;
        let text = pg_sys::JsonbToCString(std::ptr::null_mut(), &raw mut (*jsonb).root, size);
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// Is the value what the type makes of `told` when it is written to a column of this type and modifier? The type may
/// refuse it and raise an error. Call under [`PinnedSettings`].
pub fn same_when_written(ty: &TypeInfo, typmod: i32, told: ValueRef<'_>, value: ValueRef<'_>) -> Result<bool> {
    let Some(text) = literal(ty, told)? else { return Ok(value == ValueRef::Null) };
    let datum = input(ty.oid, typmod, Some(&text))?;
    let mut scratch = String::new();
    Ok(to_value(ty, datum, &mut scratch) == value)
}

/// Has a column of this type and modifier take a value: what the type refuses raises its error. Call under
/// [`super::spi::with_input_settings`].
pub fn try_input(ty: &TypeInfo, typmod: i32, value: ValueRef<'_>) -> Result<()> {
    let text = literal(ty, value)?;
    input(ty.oid, typmod, text.as_deref()).map(|_| ())
}

fn array_of(elem: Oid, len: i32, by_value: bool, align: u8, datums: &mut [Datum], nulls: &mut [bool]) -> Datum {
    let mut dims = [datums.len() as i32];
    let mut bounds = [1];
    // SAFETY: all arrays are as long as `dims` says.
    Datum::from(unsafe {
        pg_sys::construct_md_array(
            datums.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            dims.as_mut_ptr(),
            bounds.as_mut_ptr(),
            elem,
            len,
            by_value,
            align as c_char,
        )
    })
}

/// A bigint[] parameter.
pub fn i64_array(values: &[i64]) -> Param {
    optional_i64_array(&mut values.iter().map(|v| Some(*v)))
}

fn optional_i64_array(values: &mut dyn Iterator<Item = Option<i64>>) -> Param {
    let (mut datums, mut nulls) = split(values.map(|v| v.map(Datum::from)));
    Param::array(pg_sys::INT8ARRAYOID, array_of(pg_sys::INT8OID, 8, true, b'd', &mut datums, &mut nulls))
}

/// A text[] parameter.
pub fn text_array<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Param {
    let (mut datums, mut nulls) = split(values.map(|v| v.map(text_datum)));
    Param::array(pg_sys::TEXTARRAYOID, array_of(pg_sys::TEXTOID, -1, false, b'i', &mut datums, &mut nulls))
}

fn split(values: impl Iterator<Item = Option<Datum>>) -> (Vec<Datum>, Vec<bool>) {
    values.map(|v| (v.unwrap_or(Datum::from(0usize)), v.is_none())).unzip()
}

/// The values of one column as an array parameter, and how SQL is to take an element: `Some(type)` to cast the text to.
/// `None` elements are NULL.
pub fn column_array(ty: &TypeInfo, values: &[Option<ValueRef<'_>>]) -> Result<(Param, &'static str, Option<String>)> {
    let all = |fits: fn(&ValueRef<'_>) -> bool| values.iter().flatten().all(fits);
    match ty.conv {
        Conv::Int2 | Conv::Int4 | Conv::Int8 if all(|v| matches!(v, ValueRef::Int(_))) => {
            let mut ints = values.iter().map(|v| v.and_then(|v| if let ValueRef::Int(i) = v { Some(i) } else { None }));
            Ok((optional_i64_array(&mut ints), "int8[]", None))
        }
        Conv::Text if all(|v| matches!(v, ValueRef::Text(_))) => {
            let texts = values.iter().map(|v| v.and_then(|v| if let ValueRef::Text(t) = v { Some(t) } else { None }));
            Ok((text_array(texts), "text[]", None))
        }
        _ => {
            let mut texts: Vec<Option<Cow<'_, str>>> = Vec::with_capacity(values.len());
            for value in values {
                texts.push(value.map(|v| literal(ty, v)).transpose()?.flatten());
            }
            let param = text_array(texts.iter().map(|t| t.as_deref()));
            let cast = if ty.conv == Conv::Text { None } else { Some(TypeInfo::sql_name(ty.oid)) };
            // Out of bpchar values are read by input functions: nobody casts it to types but to those of text.
            let array = if ty.has_cast_of_its_own() { "bpchar[]" } else { "text[]" };
            Ok((param, array, cast))
        }
    }
}

/// What the type's input function is to be given for a value; `None` is NULL.
pub fn literal<'a>(ty: &TypeInfo, value: ValueRef<'a>) -> Result<Option<Cow<'a, str>>> {
    if let ValueRef::Json(json) = value
        && let Some(text) = escaped(json)?
    {
        return Ok(Some(Cow::Owned(text)));
    }
    let own = |value: ValueRef<'_>| {
        let mut out = String::new();
        value.write_json(&mut out).expect("memory for a value");
        Ok(Some(Cow::Owned(out)))
    };
    match (&ty.conv, value) {
        (_, ValueRef::Null) => Ok(None),
        (Conv::Json | Conv::Jsonb, value) => own(value),
        (Conv::Array { elem }, ValueRef::Json(json)) if json.starts_with('[') => {
            let mut out = String::new();
            array_literal(elem, json, &mut out)?;
            Ok(Some(Cow::Owned(out)))
        }
        (Conv::Composite { fields, .. }, ValueRef::Json(json)) if json.starts_with('{') => {
            composite_literal(fields, json).map(|text| Some(Cow::Owned(text)))
        }
        (_, ValueRef::Text(text)) => Ok(Some(Cow::Borrowed(text))),
        (_, ValueRef::Json(json)) => Ok(Some(Cow::Borrowed(json))),
        (_, value) => own(value),
    }
}

fn bad_json(e: serde_json::Error) -> Error {
    Error::new(state::VALUE, format!("malformed JSON in a value: {e}"))
}

/// The text behind `{"$text": "…"}`.
fn escaped(json: &str) -> Result<Option<String>> {
    if !json.starts_with('{') || !json.contains(TEXT_ESCAPE) {
        return Ok(None);
    }
    let map: std::collections::BTreeMap<String, &serde_json::value::RawValue> =
        serde_json::from_str(json).map_err(bad_json)?;
    match (map.len(), map.get(TEXT_ESCAPE)) {
        (1, Some(raw)) => Ok(serde_json::from_str(raw.get()).ok()),
        _ => Ok(None),
    }
}

fn array_literal(elem: &TypeInfo, json: &str, out: &mut String) -> Result<()> {
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(json).map_err(bad_json)?;
    let delimiter = elem.delimiter();
    out.push('{');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(delimiter);
        }
        let text = item.get();
        if text.starts_with('[') {
            array_literal(elem, text, out)?;
        } else {
            match json_literal(elem, text)? {
                None => out.push_str("NULL"),
                Some(text) => push_quoted(out, &text),
            }
        }
    }
    out.push('}');
    Ok(())
}

fn composite_literal(fields: &[(String, TypeInfo)], json: &str) -> Result<String> {
    let map: std::collections::BTreeMap<String, &serde_json::value::RawValue> =
        serde_json::from_str(json).map_err(bad_json)?;
    let mut out = String::from("(");
    for (i, (name, ty)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        if let Some(raw) = map.get(name)
            && let Some(text) = json_literal(ty, raw.get())?
        {
            push_quoted(&mut out, &text);
        }
    }
    out.push(')');
    Ok(out)
}

fn json_literal(ty: &TypeInfo, json: &str) -> Result<Option<String>> {
    if json.starts_with('"') {
        let text: String = serde_json::from_str(json).map_err(bad_json)?;
        return Ok(literal(ty, ValueRef::Text(&text))?.map(Cow::into_owned));
    }
    Ok(literal(ty, scalar(json))?.map(Cow::into_owned))
}

/// A JSON text that is not a string.
fn scalar(json: &str) -> ValueRef<'_> {
    match ValueRef::parse_json(json, JSON_DEPTH) {
        Ok(Parsed::Borrowed(value)) => value,
        _ => ValueRef::Json(json),
    }
}

fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// The value of a datum, borrowed from the datum or from `scratch`, whose content it replaces. Call under
/// [`PinnedSettings`].
#[inline(always)]
pub fn to_value<'a>(ty: &TypeInfo, datum: Datum, scratch: &'a mut String) -> ValueRef<'a> {
    match ty.conv {
        Conv::Bool => ValueRef::Bool(datum.value() as u8 != 0),
        Conv::Int2 => ValueRef::Int(i64::from(datum.value() as i16)),
        Conv::Int4 => ValueRef::Int(i64::from(datum.value() as i32)),
        Conv::Int8 if (-SAFE_INTEGER..=SAFE_INTEGER).contains(&(datum.value() as i64)) => {
            ValueRef::Int(datum.value() as i64)
        }
        // SAFETY: as below.
        Conv::Text => ValueRef::Text(unsafe { text_of(datum) }),
        _ => to_other_value(ty, datum, scratch),
    }
}

/// The same for what is rarer and costs more.
fn to_other_value<'a>(ty: &TypeInfo, datum: Datum, scratch: &'a mut String) -> ValueRef<'a> {
    scratch.clear();
    // SAFETY: the datum is a live value of this type. Borrowed text lives as long as the tuple, which outlives the use
    // of the result: callers copy it into a buffer at once.
    unsafe {
        match &ty.conv {
            Conv::Bool | Conv::Int2 | Conv::Int4 | Conv::Text => unreachable!("made already"),
            Conv::Int8 => {
                let _ = write!(scratch, "{}", datum.value() as i64);
                ValueRef::Text(scratch)
            }
            Conv::Float4 => {
                let float = f32::from_bits(datum.value() as u32);
                let _ = write!(scratch, "{float}");
                let exact = scratch.parse::<f64>().unwrap_or(f64::NAN);
                scratch.clear();
                float_value(exact, scratch)
            }
            Conv::Float8 => float_value(f64::from_bits(datum.value() as u64), scratch),
            Conv::Jsonb | Conv::Json => {
                if ty.conv == Conv::Jsonb {
                    super::jsonb::write_text(datum, scratch);
                } else {
                    with_varlena(datum, |bytes| scratch.push_str(&String::from_utf8_lossy(bytes)));
                }
                json_value(ty.conv == Conv::Jsonb, scratch)
            }
            Conv::Array { elem } => {
                if write_array(elem, datum, scratch) {
                    return ValueRef::Json(scratch);
                }
                scratch.clear();
                let text = output_text(ty.base, datum);
                escape_into(&text, scratch);
                ValueRef::Json(scratch)
            }
            Conv::Composite { fields, .. } => {
                write_composite(fields, datum, scratch);
                ValueRef::Json(scratch)
            }
            Conv::Out { .. } if forms::write(ty.base, datum, scratch) => ValueRef::Text(scratch),
            Conv::Out { output } => {
                let show = || call_output(*output, datum);
                let text = if ty.names_objects() { super::spi::with_fixed_path(show) } else { show() };
                scratch.push_str(&CStr::from_ptr(text).to_string_lossy());
                pg_sys::pfree(text.cast());
                ValueRef::Text(scratch)
            }
        }
    }
}

/// The bytes of a text, which PostgreSQL keeps valid.
///
/// SAFETY: `datum` must be a live varlena; the result lives as long, or, detoasted, as the current memory context.
unsafe fn text_of<'a>(datum: Datum) -> &'a str {
    // SAFETY: the caller's promise; ASCII is UTF-8. Looking for it first costs a tenth of what it spares.
    unsafe {
        match forms::inline(datum) {
            Some(bytes) if bytes.is_ascii() => std::str::from_utf8_unchecked(bytes),
            Some(bytes) => utf8(bytes),
            None => {
                let packed = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
                let (start, len) = (pgrx::varlena::vardata_any(packed), pgrx::varlena::varsize_any_exhdr(packed));
                utf8(std::slice::from_raw_parts(start.cast::<u8>(), len))
            }
        }
    }
}

fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the database is UTF8")
}

/// The value of a datum for a buffer that mostly nobody reads: [`to_value`], or a number that says the same.
#[inline(always)]
pub fn to_given<'a>(ty: &TypeInfo, datum: Datum, scratch: &'a mut String) -> Given<'a> {
    if let Conv::Out { .. } = ty.conv
        // SAFETY: the datum is a live value of this type.
        && let Some(number) = unsafe { forms::number(ty.base, datum) }
    {
        return Given::Number(number);
    }
    Given::Value(to_value(ty, datum, scratch))
}

thread_local! {
    /// Look-ups of built-in output functions, which never change.
    static OUTPUTS: RefCell<FxHashMap<u32, Box<pg_sys::FmgrInfo>>> = RefCell::new(FxHashMap::default());
}

/// SAFETY: `datum` must be of the type whose output function this is.
unsafe fn call_output(output: Oid, datum: Datum) -> *mut c_char {
    // SAFETY: the caller's promise. The look-up is boxed, so it stays where it is; it is never removed.
    unsafe {
        if output.to_u32() >= pg_sys::FirstNormalObjectId {
            return pg_sys::OidOutputFunctionCall(output, datum);
        }
        let known = OUTPUTS.with_borrow(|o| o.get(&output.to_u32()).map(|info| &raw const **info));
        let info = match known {
            Some(info) => info,
            None => {
                let mut info: Box<pg_sys::FmgrInfo> = Box::new(std::mem::zeroed());
                pg_sys::fmgr_info_cxt(output, &mut *info, pg_sys::TopMemoryContext);
                let place = &raw const *info;
                OUTPUTS.with_borrow_mut(|o| o.insert(output.to_u32(), info));
                place
            }
        };
        pg_sys::OutputFunctionCall(info.cast_mut(), datum)
    }
}

fn float_value(float: f64, scratch: &mut String) -> ValueRef<'_> {
    // jsonb has no negative zero.
    if float.is_finite() && (float != 0.0 || float.is_sign_positive()) {
        return ValueRef::Float(float);
    }
    scratch.push_str(if float.is_nan() {
        "NaN"
    } else if float == 0.0 {
        "-0"
    } else if float > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    });
    ValueRef::Text(scratch)
}

/// JSON as a cell's value. What a JSON document cannot say without loss goes through the escape: SQL NULL against JSON
/// null, blanks and spellings of the type json, an object that looks like the escape, a string's or number's spelling.
fn json_value(jsonb: bool, scratch: &mut String) -> ValueRef<'_> {
    let container = scratch.starts_with('{') || scratch.starts_with('[');
    let as_it_is = if container {
        jsonb && !matches!(escaped(scratch), Ok(Some(_)))
    } else {
        jsonb && (scratch.as_str() == "true" || scratch.as_str() == "false")
    };
    if as_it_is && container {
        return ValueRef::Json(scratch);
    }
    if as_it_is {
        return ValueRef::Bool(scratch.as_str() == "true");
    }
    if jsonb
        && scratch.starts_with('"')
        && let Ok(text) = serde_json::from_str::<String>(scratch)
    {
        *scratch = text;
        return ValueRef::Text(scratch);
    }
    if jsonb && !container && !scratch.starts_with('n') {
        // A number: the engine keeps its text when nothing else holds it exactly.
        return scalar(scratch);
    }
    let text = std::mem::take(scratch);
    escape_into(&text, scratch);
    ValueRef::Json(scratch)
}

fn escape_into(text: &str, out: &mut String) {
    out.push_str("{\"");
    out.push_str(TEXT_ESCAPE);
    out.push_str("\":");
    ValueRef::Text(text).write_json(out).expect("memory for a value");
    out.push('}');
}

fn output_text(ty: Oid, datum: Datum) -> String {
    // SAFETY: the datum is of this type.
    unsafe {
        let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(ty, &mut output, &mut varlena);
        CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, datum)).to_string_lossy().into_owned()
    }
}

/// Appends an array as JSON; false when JSON cannot say it (lower bounds other than 1).
///
/// SAFETY: `datum` must be an array of `elem`.
unsafe fn write_array(elem: &TypeInfo, datum: Datum, out: &mut String) -> bool {
    // SAFETY: the caller's promise; deconstruct_array copies pointers into fresh arrays.
    unsafe {
        let array: *mut pg_sys::ArrayType = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
        let ndim = (*array).ndim as usize;
        let dims = std::slice::from_raw_parts(array.cast::<i32>().add(4), ndim * 2);
        if dims[ndim..].iter().any(|lower| *lower != 1) {
            return false;
        }
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            elem.oid,
            i32::from(elem.len),
            elem.by_value,
            elem.align as c_char,
            &mut values,
            &mut nulls,
            &mut count,
        );
        if ndim == 0 {
            out.push_str("[]");
            return true;
        }
        let mut scratch = String::new();
        for i in 0..count as usize {
            let mut block = 1;
            let opened = dims[..ndim].iter().rev().take_while(|d| {
                block *= **d as usize;
                i % block == 0
            });
            let opened = opened.count();
            if i > 0 {
                out.push(',');
            }
            out.extend(std::iter::repeat_n('[', opened));
            if *nulls.add(i) {
                out.push_str("null");
            } else {
                to_value(elem, *values.add(i), &mut scratch).write_json(out).expect("memory for a value");
            }
            let mut block = 1;
            let closed = dims[..ndim].iter().rev().take_while(|d| {
                block *= **d as usize;
                (i + 1) % block == 0
            });
            out.extend(std::iter::repeat_n(']', closed.count()));
        }
        true
    }
}

/// SAFETY: `datum` must be a row of the type whose fields these are.
unsafe fn write_composite(fields: &[(String, TypeInfo)], datum: Datum, out: &mut String) {
    let mut scratch = String::new();
    out.push('{');
    for (i, (name, ty)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        ValueRef::Text(name).write_json(out).expect("memory for a value");
        out.push(':');
        let mut null = false;
        let field = CString::new(name.as_str()).expect("names hold no NUL");
        // SAFETY: the caller's promise; the attribute is looked up by name in the row's own type.
        let value = unsafe {
            let tuple = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            pg_sys::GetAttributeByName(tuple, field.as_ptr(), &mut null)
        };
        if null {
            out.push_str("null");
        } else {
            to_value(ty, value, &mut scratch).write_json(out).expect("memory for a value");
        }
    }
    out.push('}');
}

/// Is it the same value, bit for bit? Values that lie out of line are compared by where they lie before they are
/// fetched.
#[inline(always)]
pub fn same_datum(ty: &TypeInfo, a: Datum, b: Datum) -> bool {
    if ty.by_value { a.value() == b.value() } else { same_image(ty, a, b) }
}

fn same_image(ty: &TypeInfo, a: Datum, b: Datum) -> bool {
    // SAFETY: live values of this type.
    unsafe {
        if ty.len == -1 {
            if a.value() == b.value() {
                return true;
            }
            if let Some((x, y)) = forms::inline(a).zip(forms::inline(b)) {
                return x == y;
            }
            let image = |d: Datum| {
                let at = d.cast_mut_ptr::<pg_sys::varlena>();
                std::slice::from_raw_parts(at.cast::<u8>(), pgrx::varlena::varsize_any(at))
            };
            if image(a) == image(b) {
                return true;
            }
        }
        unbound::datum_image_eq(a, b, ty.by_value, i32::from(ty.len))
    }
}

/// The text a key column has inside a row id.
pub fn key_text<'a>(value: ValueRef<'a>, scratch: &'a mut String) -> &'a str {
    match value {
        ValueRef::Text(text) => text,
        other => {
            scratch.clear();
            push_key_text(other, scratch);
            scratch
        }
    }
}

/// Appends the same.
pub fn push_key_text(value: ValueRef<'_>, out: &mut String) {
    match value {
        ValueRef::Text(text) => out.push_str(text),
        other => other.write_json(out).expect("memory for a value"),
    }
}

/// The canonical text of a key given as text: what the type's output function says of what its input function made, blanks
/// and digits as the column's length wants them.
pub fn canonical_key(column: &Column, text: &str) -> Result<String> {
    let _pinned = PinnedSettings::pin();
    let mut typmod = column.typmod;
    // SAFETY: a catalog look-up; the length may be a domain's.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(column.ty.oid, &mut typmod) };
    let datum = input(base, typmod, Some(text))?;
    let (mut scratch, mut out) = (String::new(), String::new());
    let value = to_value(&column.ty, datum, &mut scratch);
    Ok(key_text(value, &mut out).to_owned())
}

/// Output settings under which a value's text form is always the same; the session's own are put back at the end.
pub struct PinnedSettings {
    date_style: i32,
    interval_style: i32,
    float_digits: i32,
    bytea: i32,
    zone: *mut pg_sys::pg_tz,
}

impl PinnedSettings {
    /// Pins ISO dates, postgres intervals, shortest floats, hex bytea and UTC.
    pub fn pin() -> PinnedSettings {
        // SAFETY: globals of a single-threaded backend, put back by `drop`, which runs on errors too.
        unsafe {
            let saved = PinnedSettings {
                date_style: pg_sys::DateStyle,
                interval_style: pg_sys::IntervalStyle,
                float_digits: pg_sys::extra_float_digits,
                bytea: unbound::bytea_output(),
                zone: pg_sys::session_timezone,
            };
            pg_sys::DateStyle = pg_sys::USE_ISO_DATES as i32;
            pg_sys::IntervalStyle = pg_sys::INTSTYLE_POSTGRES as i32;
            pg_sys::extra_float_digits = 3;
            unbound::set_bytea_output(unbound::BYTEA_OUTPUT_HEX);
            pg_sys::session_timezone = utc();
            saved
        }
    }
}

/// The zone, which PostgreSQL keeps for the life of the backend once it has been asked for.
fn utc() -> *mut pg_sys::pg_tz {
    thread_local! {
        static UTC: Cell<*mut pg_sys::pg_tz> = const { Cell::new(std::ptr::null_mut()) };
    }
    if UTC.get().is_null() {
        // SAFETY: the name is NUL-terminated; UTC is always known.
        UTC.set(unsafe { pg_sys::pg_tzset(c"UTC".as_ptr()) });
    }
    UTC.get()
}

impl Drop for PinnedSettings {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            pg_sys::DateStyle = self.date_style;
            pg_sys::IntervalStyle = self.interval_style;
            pg_sys::extra_float_digits = self.float_digits;
            unbound::set_bytea_output(self.bytea);
            pg_sys::session_timezone = self.zone;
        }
    }
}

/// Is the text certainly the one spelling of its key value? `false` means: ask [`canonical_key`].
pub fn is_canonical_key(column: &Column, text: &str) -> bool {
    let Column { ty, typmod, .. } = column;
    match ty.conv {
        Conv::Int2 | Conv::Int4 | Conv::Int8 => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let plain = !digits.is_empty() && digits.len() <= 18 && digits.bytes().all(|b| b.is_ascii_digit());
            plain && (!digits.starts_with('0') || text == "0")
        }
        _ if text.contains('\0') => false,
        Conv::Text if ty.oid == pg_sys::TEXTOID => true,
        // So many characters fit, and as many bytes are no more. A modifier counts a header of four bytes too.
        Conv::Text if ty.oid == pg_sys::VARCHAROID => {
            usize::try_from(typmod - 4).is_ok_and(|most| text.len() <= most) || *typmod < 0
        }
        _ => false,
    }
}

/// A key column's text as the value that carries it best.
pub fn key_value<'a>(ty: &TypeInfo, text: &'a str) -> ValueRef<'a> {
    match ty.conv {
        Conv::Int2 | Conv::Int4 | Conv::Int8 => text.parse().map_or(ValueRef::Text(text), ValueRef::Int),
        _ => ValueRef::Text(text),
    }
}
