//! Functions that SQL calls: arguments in, results out. [`function!`] declares one.

use std::borrow::Cow;
use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum, Oid};

use super::relation::RowMemory;
use super::{datum, forms, jsonb};
use crate::error::{Error, Result, state};

/// Declares the C entry point `<name>_wrapper` of a function of type `fn(&Args) -> Result<Out>`.
macro_rules! function {
    ($wrapper:ident, $finfo:ident, $body:path) => {
        #[doc(hidden)]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $finfo() -> *const ::pgrx::pg_sys::Pg_finfo_record {
            static V1: ::pgrx::pg_sys::Pg_finfo_record = ::pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        #[doc(hidden)]
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        #[::pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $wrapper(fcinfo: ::pgrx::pg_sys::FunctionCallInfo) -> ::pgrx::pg_sys::Datum {
            // SAFETY: PostgreSQL's own call frame.
            unsafe { $crate::pg::function::call(fcinfo, $body) }
        }
    };
}
pub(crate) use function;

/// Runs a function's body and hands its answer over.
///
/// # Safety
/// `fcinfo` must be what PostgreSQL handed over.
pub unsafe fn call(fcinfo: pg_sys::FunctionCallInfo, body: fn(&Args<'_>) -> Result<Out>) -> Datum {
    // SAFETY: the caller's promise; the frame lives as long as the call.
    unsafe {
        let args = Args::new(fcinfo);
        let (datum, null) = super::entry::entry(|| body(&args).map(Out::datum));
        (*fcinfo).isnull = null;
        datum
    }
}

/// What a function answers.
pub enum Out {
    /// SQL NULL, or void, or rows already handed to a [`Rows`].
    Null,
    /// What a trigger function answers.
    Done,
    /// bigint
    I64(i64),
    /// boolean
    Bool(bool),
    /// text
    Text(String),
    /// jsonb, from valid JSON text
    Jsonb(String),
    /// json, likewise
    Json(String),
    /// bytea
    Bytes(Vec<u8>),
    /// What a sibling of this module has made.
    Ready(Datum),
}

impl Out {
    /// As a datum; the flag is true for NULL.
    pub fn datum(self) -> (Datum, bool) {
        match self {
            Out::Null => (Datum::from(0usize), true),
            Out::Done => (Datum::from(0usize), false),
            Out::I64(v) => (Datum::from(v), false),
            Out::Bool(v) => (Datum::from(v), false),
            Out::Text(text) => (datum::text_datum(&text), false),
            Out::Jsonb(text) => (datum::jsonb_datum(&text), false),
            Out::Json(text) => (datum::text_datum(&text), false),
            Out::Bytes(bytes) => (datum::bytes_datum(&bytes), false),
            Out::Ready(datum) => (datum, false),
        }
    }
}

/// The arguments of one call.
pub struct Args<'f> {
    fcinfo: pg_sys::FunctionCallInfo,
    _frame: PhantomData<&'f ()>,
}

impl Args<'_> {
    /// # Safety
    /// `fcinfo` must be what PostgreSQL handed over.
    pub unsafe fn new<'f>(fcinfo: pg_sys::FunctionCallInfo) -> Args<'f> {
        Args { fcinfo, _frame: PhantomData }
    }

    /// For a trigger function.
    pub fn trigger(&self) -> Option<super::trigger::Call<'_>> {
        // SAFETY: as promised to `new`.
        unsafe { super::trigger::Call::new(self.fcinfo) }
    }

    fn get(&self, n: usize) -> Option<Datum> {
        // SAFETY: as promised to `new`; `n` is below the declared number of arguments.
        unsafe {
            assert!(n < (*self.fcinfo).nargs as usize);
            let arg = &*(*self.fcinfo).args.as_ptr().add(n);
            (!arg.isnull).then_some(arg.value)
        }
    }

    /// Is the argument NULL?
    pub fn is_null(&self, n: usize) -> bool {
        self.get(n).is_none()
    }

    fn required(&self, n: usize, name: &str) -> Result<Datum> {
        self.get(n).ok_or_else(|| Error::new(state::NULL_NOT_ALLOWED, format!("argument \"{name}\" must not be null")))
    }

    /// A bigint.
    pub fn i64(&self, n: usize, name: &str) -> Result<i64> {
        Ok(self.required(n, name)?.value() as i64)
    }

    /// A bigint or NULL.
    pub fn opt_i64(&self, n: usize) -> Option<i64> {
        self.get(n).map(|d| d.value() as i64)
    }

    /// A regclass.
    pub fn oid(&self, n: usize, name: &str) -> Result<Oid> {
        Ok(Oid::from(self.required(n, name)?.value() as u32))
    }

    /// A text.
    pub fn text(&self, n: usize, name: &str) -> Result<String> {
        let bytes = datum::varlena_bytes(self.required(n, name)?);
        String::from_utf8(bytes).map_err(|_| Error::new(state::VALUE, format!("argument \"{name}\" is not UTF-8")))
    }

    /// A text where it lies, if it lies whole.
    pub fn str(&self, n: usize, name: &str) -> Result<Cow<'_, str>> {
        let datum = self.required(n, name)?;
        // SAFETY: a text by its declared type, which lives as long as the call.
        let plain = unsafe { forms::inline(datum) }.and_then(|bytes| str::from_utf8(bytes).ok());
        plain.map_or_else(|| self.text(n, name).map(Cow::Owned), |text| Ok(Cow::Borrowed(text)))
    }

    /// The same, or NULL.
    pub fn opt_str(&self, n: usize, name: &str) -> Result<Option<Cow<'_, str>>> {
        if self.get(n).is_none() { Ok(None) } else { self.str(n, name).map(Some) }
    }

    /// A text or NULL.
    pub fn opt_text(&self, n: usize, name: &str) -> Result<Option<String>> {
        if self.get(n).is_none() { Ok(None) } else { self.text(n, name).map(Some) }
    }

    /// A name or NULL.
    pub fn opt_name(&self, n: usize) -> Option<String> {
        // SAFETY: a name is NUL-terminated.
        self.get(n).map(|d| unsafe { std::ffi::CStr::from_ptr(d.cast_mut_ptr()) }.to_string_lossy().into_owned())
    }

    /// A float8 or NULL.
    pub fn opt_f64(&self, n: usize) -> Option<f64> {
        self.get(n).map(|d| f64::from_bits(d.value() as u64))
    }

    /// A boolean.
    pub fn bool(&self, n: usize, name: &str) -> Result<bool> {
        Ok(self.required(n, name)?.value() != 0)
    }

    /// An interval in milliseconds, a month as 30 days, or NULL.
    pub fn opt_millis(&self, n: usize) -> Option<i64> {
        // SAFETY: an interval is passed by reference.
        let interval = self.get(n).map(|d| unsafe { &*d.cast_mut_ptr::<pg_sys::Interval>() })?;
        let days = i64::from(interval.month) * 30 + i64::from(interval.day);
        Some(interval.time.saturating_add(days.saturating_mul(86_400_000_000)) / 1_000)
    }

    /// The bytes of a bytea or a `crdt.request`, no longer than `limit`: where they are, or where they were fetched to.
    pub fn bytes(&self, n: usize, name: &str, limit: usize) -> Result<&[u8]> {
        let datum = self.required(n, name)?;
        check_size(name, datum::raw_size(datum), limit)?;
        // SAFETY: a varlena by its declared type, which lives as long as the call.
        Ok(unsafe { datum::varlena(datum) })
    }

    /// A jsonb as text, its image no longer than `limit`.
    pub fn jsonb(&self, n: usize, name: &str, limit: usize) -> Result<String> {
        let datum = self.required(n, name)?;
        let size = datum::raw_size(datum);
        check_size(name, size, limit)?;
        let mut text = String::with_capacity(size);
        // SAFETY: a jsonb by its declared type.
        unsafe { jsonb::write_text(datum, &mut text) };
        Ok(text)
    }

    /// The same jsonb as it is.
    pub fn jsonb_image(&self, n: usize, name: &str) -> Result<&[u8]> {
        // SAFETY: a jsonb by its declared type, which lives as long as the call.
        self.required(n, name).map(|datum| unsafe { jsonb::root(datum) })
    }
}

fn check_size(name: &str, bytes: usize, limit: usize) -> Result<()> {
    if bytes > limit {
        return Err(Error::new(state::LIMIT, format!("argument \"{name}\" has {bytes} bytes, the limit is {limit}")));
    }
    Ok(())
}

/// One column of a row that a set-returning function answers.
pub enum Col<'a> {
    Null,
    Bool(bool),
    I64(i64),
    Text(&'a str),
    Jsonb(&'a str),
    /// Microseconds since 2000-01-01.
    Time(i64),
}

/// The rows of a set-returning function, collected whole; spills to disk past `work_mem`.
pub struct Rows {
    store: *mut pg_sys::Tuplestorestate,
    desc: pg_sys::TupleDesc,
    memory: RowMemory,
}

impl Rows {
    /// Starts the answer of a call.
    pub fn new(args: &Args<'_>) -> Result<Rows> {
        // SAFETY: the protocol of set-returning functions in materialize mode; store and descriptor live in the
        // per-query context.
        unsafe {
            let info: *mut pg_sys::ReturnSetInfo = (*args.fcinfo).resultinfo.cast();
            if info.is_null() || (*info).allowedModes & pg_sys::SetFunctionReturnMode::SFRM_Materialize as i32 == 0 {
                return Err(Error::new(state::NOT_SUPPORTED, "set-valued function called where a set cannot be taken"));
            }
            let saved = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = (*(*info).econtext).ecxt_per_query_memory;
            let mut desc = std::ptr::null_mut();
            pg_sys::get_call_result_type(args.fcinfo, std::ptr::null_mut(), &mut desc);
            let desc = pg_sys::BlessTupleDesc(pg_sys::CreateTupleDescCopy(desc));
            let random = (*info).allowedModes & pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random as i32 != 0;
            let store = pg_sys::tuplestore_begin_heap(random, false, pg_sys::work_mem);
            (*info).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*info).setResult = store;
            (*info).setDesc = desc;
            pg_sys::CurrentMemoryContext = saved;
            Ok(Rows { store, desc, memory: RowMemory::new() })
        }
    }

    /// Adds a row.
    pub fn push(&mut self, cols: &[Col<'_>]) {
        let (store, desc) = (self.store, self.desc);
        self.memory.row(|| {
            let (mut values, mut nulls): (Vec<Datum>, Vec<bool>) = cols
                .iter()
                .map(|col| match col {
                    Col::Null => (Datum::from(0usize), true),
                    Col::Bool(v) => (Datum::from(*v), false),
                    Col::I64(v) | Col::Time(v) => (Datum::from(*v), false),
                    Col::Text(v) => (datum::text_datum(v), false),
                    Col::Jsonb(v) => (datum::jsonb_datum(v), false),
                })
                .unzip();
            // SAFETY: as many values as the descriptor has columns; the store copies them.
            unsafe {
                assert_eq!(cols.len(), (*desc).natts as usize);
                pg_sys::tuplestore_putvalues(store, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
        });
    }
}
