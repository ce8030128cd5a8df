//! How PostgreSQL calls in, and how errors leave.
//!
//! pgrx turns a PostgreSQL error into a Rust panic and back, and on the way loses SQLSTATEs it has no name for and
//! fields such as the constraint's name. [`entry`] keeps both: an error context callback copies the error whole when it
//! is raised, and the copy is thrown again once every Rust value is dropped.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::prelude::*;

use crate::error::{Error, Result, state};

// Declared here and not taken from pgrx: its wrappers catch errors, and these are to let one go.
unsafe extern "C-unwind" {
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errcode(sqlerrcode: c_int) -> c_int;
    fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
    fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
    fn errhint(fmt: *const c_char, ...) -> c_int;
    fn errfinish(file: *const c_char, line: c_int, func: *const c_char);
    fn ReThrowError(edata: *mut pg_sys::ErrorData) -> !;
}

thread_local! {
    /// The last error PostgreSQL raised inside an [`entry`], whole, allocated in the transaction's memory.
    static RAISED: Cell<*mut pg_sys::ErrorData> = const { Cell::new(std::ptr::null_mut()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn remember(_arg: *mut c_void) {
    // SAFETY: PostgreSQL calls this while it finishes an error; TopTransactionContext may be gone outside of
    // transactions, then nothing is remembered.
    unsafe {
        let context = pg_sys::TopTransactionContext;
        if context.is_null() || pg_sys::in_error_recursion_trouble() {
            return;
        }
        let saved = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = context;
        let copy = pg_sys::CopyErrorData();
        pg_sys::CurrentMemoryContext = saved;
        if (*copy).elevel >= PgLogLevel::ERROR as c_int {
            RAISED.set(copy);
        } else {
            pg_sys::FreeErrorData(copy);
        }
    }
}

/// Runs the body of a function that PostgreSQL called. An `Err` becomes an ERROR with its own SQLSTATE; an error of
/// PostgreSQL passes through unchanged. Must be the outermost thing a `#[pg_guard]`ed callback does: whatever lives
/// outside of `body` is not dropped when an error leaves.
pub fn entry<R>(body: impl FnOnce() -> Result<R>) -> R {
    // SAFETY: the node lives on this frame, which outlives `body`; the stack is put back before it goes.
    let result = unsafe {
        let saved = pg_sys::error_context_stack;
        let mut node =
            pg_sys::ErrorContextCallback { previous: saved, callback: Some(remember), arg: std::ptr::null_mut() };
        pg_sys::error_context_stack = &mut node;
        let result = catch_unwind(AssertUnwindSafe(body));
        pg_sys::error_context_stack = saved;
        result
    };
    match result {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => raise(error),
        Err(panic) => rethrow(panic),
    }
}

/// Runs `body`, which may raise an error of PostgreSQL. Unless the error is resumed, `body` must be a subtransaction.
pub fn catch<R>(body: impl FnOnce() -> Result<R>) -> std::result::Result<Result<R>, Caught> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(r) => Ok(r),
        Err(panic) => Err(Caught { raised: matching(&panic), panic }),
    }
}

/// Runs `body`, and adds to the DETAIL of an error that PostgreSQL raises in it.
pub fn explain<R>(body: impl FnOnce() -> Result<R>, detail: impl FnOnce() -> String) -> Result<R> {
    catch(body).unwrap_or_else(|caught| caught.resume_with(&detail()))
}

/// An error of PostgreSQL on its way.
pub struct Caught {
    raised: Option<*mut pg_sys::ErrorData>,
    panic: Box<dyn Any + Send>,
}

impl Caught {
    /// Its SQLSTATE.
    pub fn state(&self) -> Option<[u8; 5]> {
        self.raised.map(|e| {
            // SAFETY: `matching` gave a copy that lives as long as the transaction.
            let code = unsafe { (*e).sqlerrcode };
            std::array::from_fn(|i| (((code >> (6 * i)) & 0x3f) + b'0' as c_int) as u8)
        })
    }

    /// Is it of SQLSTATE class 23?
    pub fn is_constraint_violation(&self) -> bool {
        self.state().is_some_and(|s| s.starts_with(b"23"))
    }

    /// Did a type or a domain refuse a value? Classes 22 and 23; 42 and 3F, where tsquery speaks of syntax and regclass of
    /// tables and schemas, but for rights; and 54, too large or too deep for the type.
    pub fn is_refused_value(&self) -> bool {
        self.state()
            .is_some_and(|s| matches!(&s[..2], b"22" | b"23" | b"3F" | b"42" | b"54") && s != *state::PRIVILEGE.0)
    }

    /// Does it say which table it is about? PostgreSQL's errors of constraints do, and show the row too.
    pub fn names_table(&self) -> bool {
        // SAFETY: as in `state`.
        self.raised.is_some_and(|e| unsafe { !(*e).table_name.is_null() })
    }

    /// Lets it go on.
    pub fn resume(self) -> ! {
        // Another one may have been raised since.
        if let Some(raised) = self.raised {
            RAISED.set(raised);
        }
        resume_unwind(self.panic)
    }

    /// Lets it go on with another line of DETAIL.
    pub fn resume_with(self, detail: &str) -> ! {
        if let Some(raised) = self.raised {
            // SAFETY: as in `state`; texts of an error are NUL-terminated, and the new one lives where the copy does.
            unsafe {
                let known = (*raised).detail;
                let known = (!known.is_null()).then(|| CStr::from_ptr(known).to_string_lossy());
                let text = known.into_iter().chain([detail.into()]).collect::<Vec<_>>().join("\n");
                (*raised).detail = palloc(pg_sys::TopTransactionContext, &text);
            }
        }
        self.resume()
    }
}

/// The remembered error, if it is the one this panic carries.
fn matching(panic: &Box<dyn Any + Send>) -> Option<*mut pg_sys::ErrorData> {
    let raised = RAISED.get();
    let Some(CaughtError::PostgresError(report)) = panic.downcast_ref::<CaughtError>() else { return None };
    if raised.is_null() {
        return None;
    }
    // SAFETY: remembered in TopTransactionContext during this transaction; reset at its end by `forget`.
    let message = unsafe { (*raised).message };
    if message.is_null() {
        return None;
    }
    // SAFETY: PostgreSQL's messages are NUL-terminated.
    let message = unsafe { CStr::from_ptr(message) };
    (message.to_string_lossy() == report.message()).then_some(raised)
}

/// Forgets the remembered error: its memory goes with the transaction.
pub fn forget() {
    RAISED.set(std::ptr::null_mut());
}

fn rethrow(panic: Box<dyn Any + Send>) -> ! {
    let Some(raised) = matching(&panic) else { resume_unwind(panic) };
    drop(panic);
    // SAFETY: nothing with a destructor is left between here and PostgreSQL's handler but the guards of pgrx, which
    // have none; ReThrowError copies what it is given.
    unsafe { ReThrowError(raised) }
}

/// A text in memory of PostgreSQL.
///
/// SAFETY: the context must be alive.
unsafe fn palloc(context: pg_sys::MemoryContext, text: &str) -> *mut c_char {
    let clean = CString::new(text.replace('\0', "\\0")).expect("no NUL is left");
    // SAFETY: the caller's promise.
    unsafe { pg_sys::MemoryContextStrdup(context, clean.as_ptr()) }
}

fn raise(error: Error) -> ! {
    let code = error.state.0.iter().rev().fold(0, |code, c| (code << 6) | ((*c - b'0') as c_int & 0x3f));
    // SAFETY: the current memory context outlives the report.
    let palloc = |text: &str| unsafe { palloc(pg_sys::CurrentMemoryContext, text) };
    let message = palloc(&error.message);
    let detail = error.detail.as_deref().map(palloc);
    let hint = error.hint.as_deref().map(palloc);
    drop(error);
    // SAFETY: as in `rethrow`; formats are constant.
    unsafe {
        if errstart(PgLogLevel::ERROR as c_int, std::ptr::null()) {
            errcode(code);
            errmsg_internal(c"%s".as_ptr(), message);
            if let Some(detail) = detail {
                errdetail_internal(c"%s".as_ptr(), detail);
            }
            if let Some(hint) = hint {
                errhint(c"%s".as_ptr(), hint);
            }
            errfinish(c"crdt_db".as_ptr(), 0, c"".as_ptr());
        }
    }
    unreachable!("an ERROR does not return")
}

/// Tells the client of something that is not as it should be and stops nothing.
pub fn warn(message: String, hint: &'static str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "").set_hint(hint).report(PgLogLevel::WARNING);
}

/// Keeps Rust backtraces out of messages to clients, whatever the server's environment says.
pub fn init() {
    // SAFETY: the library is loaded by a process with one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") }
}

/// Lets a cancel or termination request through.
pub fn check_interrupts() {
    pgrx::check_for_interrupts!();
}
