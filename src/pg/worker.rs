//! The background worker of a database: started at need, and gone when it has nothing to do.

use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, SignalWakeFlags};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;

use super::unbound;
use super::xact::ActiveSnapshot;
use crate::error::Result;

/// What a worker runs: first before it connects to its database, where false sends it away; then its work.
pub struct Main {
    /// May it start? Told the database.
    pub begin: fn(u32) -> bool,
    /// Its work, connected to the database.
    pub run: fn(),
    /// The process ends. Must not fail.
    pub end: fn(),
}

static MAIN: OnceLock<Main> = OnceLock::new();

/// Says what workers run, once, from `_PG_init`.
pub fn init(main: Main) {
    let _ = MAIN.set(main);
}

/// Starts a worker for a database. False when no worker slot is free.
pub fn start(db: u32) -> bool {
    BackgroundWorkerBuilder::new("crdt_db notifier")
        .set_library("crdt_db")
        .set_function("crdt_db_notifier")
        .set_argument(Some(Datum::from(db)))
        .enable_spi_access()
        .load_dynamic()
        .is_ok()
}

/// Where a worker process begins.
#[doc(hidden)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn crdt_db_notifier(db: Datum) {
    BackgroundWorker::attach_signal_handlers(
        SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM | SignalWakeFlags::SIGINT,
    );
    let (Some(main), db) = (MAIN.get(), db.value() as u32) else { return };
    if !(main.begin)(db) {
        return;
    }
    at_exit(main.end);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(Oid::from(db)), None);
    (main.run)();
}

thread_local! {
    static AT_EXIT: std::cell::RefCell<Vec<fn()>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Has `body` run when this process ends, also by FATAL. It must not fail.
pub fn at_exit(body: fn()) {
    let first = AT_EXIT.with_borrow_mut(|all| {
        all.push(body);
        all.len() == 1
    });
    if first {
        // SAFETY: registered once in a process, for its life.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), Datum::from(0usize)) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _arg: Datum) {
    AT_EXIT.with_borrow_mut(std::mem::take).into_iter().for_each(|body| body());
}

/// Waits until the latch is set or time is up, and lets the configuration be read again. False when the worker is to end.
pub fn wait(timeout: Option<Duration>) -> bool {
    // A wait without end would be one without timeout; the type for milliseconds holds 24 days.
    let on = BackgroundWorker::wait_latch(timeout.map(|t| t.min(Duration::from_secs(1_000_000))));
    if BackgroundWorker::sighup_received() {
        // SAFETY: outside of a transaction, as the postmaster's other children do.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
    on
}

/// Runs `body` in a transaction of its own. What fails, in it or at its commit, is undone and returned as text.
pub fn transaction<R>(body: impl FnOnce() -> Result<R>) -> std::result::Result<R, String> {
    let run = || {
        // SAFETY: outside of a transaction, in a process that is connected to a database.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
        }
        let snapshot = ActiveSnapshot::push();
        let result = body().map_err(|e| e.message)?;
        drop(snapshot);
        // SAFETY: the transaction that was started above.
        unsafe { pg_sys::CommitTransactionCommand() };
        Ok(result)
    };
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        Err(match panic.downcast_ref::<CaughtError>() {
            Some(CaughtError::PostgresError(e) | CaughtError::ErrorReport(e)) => e.message().to_owned(),
            Some(CaughtError::RustPanic { ereport, .. }) => ereport.message().to_owned(),
            None => "a panic".to_owned(),
        })
    });
    if result.is_err() {
        // SAFETY: undoes whatever was begun; does nothing outside of a transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    result
}

/// Has listeners told when the transaction commits. `payload` has less than 8,000 bytes.
pub fn notify(channel: &str, payload: &str) {
    let [channel, payload] = [channel, payload].map(|text| CString::new(text).expect("JSON has no NUL"));
    unbound::notify(&channel, &payload);
}

/// The address of this process's latch, good in every process.
pub fn own_latch() -> usize {
    // SAFETY: the process is connected to shared memory.
    unsafe { &raw mut (*pg_sys::MyProc).procLatch as usize }
}

/// Wakes the process whose latch this is.
pub fn set_latch(address: usize) {
    if address != 0 {
        // SAFETY: an address from `own_latch`: the latch of a slot for processes, which outlives the process.
        unsafe { pg_sys::SetLatch(address as *mut pg_sys::Latch) };
    }
}

/// Writes a line to the server's log.
pub fn log(text: &str) {
    pgrx::log!("crdt_db notifier: {text}");
}

/// What `pg_stat_activity` shows this process to be doing.
pub fn show_activity(text: &std::ffi::CStr) {
    // SAFETY: copies the text.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, text.as_ptr()) };
}
