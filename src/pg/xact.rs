//! Transactions: callbacks, snapshots, ids.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::entry;
use crate::error::Result;

/// What the extension does at the turns of a transaction. `ended` and `sub_*` must not fail.
pub struct Callbacks {
    /// Before commit or prepare; `prepare` tells which.
    pub before_commit: fn(prepare: bool) -> Result<()>,
    /// After commit, abort or prepare.
    pub ended: fn(End),
    /// A subtransaction of this nesting level was rolled back.
    pub sub_aborted: fn(level: i32),
    /// A subtransaction of this nesting level was released into its parent.
    pub sub_committed: fn(level: i32),
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Committed,
    Aborted,
    Prepared,
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

/// Registers the callbacks, once, from `_PG_init`.
pub fn init(callbacks: Callbacks) {
    if CALLBACKS.set(callbacks).is_ok() {
        // SAFETY: registered for the life of the process.
        unsafe {
            pg_sys::RegisterXactCallback(Some(on_xact), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(on_subxact), std::ptr::null_mut());
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_xact(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    let Some(callbacks) = CALLBACKS.get() else { return };
    match event {
        XACT_EVENT_PRE_COMMIT => entry::entry(|| (callbacks.before_commit)(false)),
        XACT_EVENT_PRE_PREPARE => entry::entry(|| (callbacks.before_commit)(true)),
        XACT_EVENT_COMMIT => end(callbacks, End::Committed),
        XACT_EVENT_ABORT => end(callbacks, End::Aborted),
        XACT_EVENT_PREPARE => end(callbacks, End::Prepared),
        _ => {}
    }
}

fn end(callbacks: &Callbacks, end: End) {
    entry::forget();
    (callbacks.ended)(end);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subxact(
    event: pg_sys::SubXactEvent::Type,
    _me: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    use pg_sys::SubXactEvent::*;
    let Some(callbacks) = CALLBACKS.get() else { return };
    match event {
        SUBXACT_EVENT_ABORT_SUB => (callbacks.sub_aborted)(nest_level()),
        SUBXACT_EVENT_COMMIT_SUB => (callbacks.sub_committed)(nest_level()),
        _ => {}
    }
}

/// 1 outside of savepoints.
pub fn nest_level() -> i32 {
    super::unbound::nest_level()
}

/// The top transaction's 64-bit id, assigned at need.
pub fn full_xid() -> u64 {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::GetTopFullTransactionId().value }
}

/// The top transaction's id as tuples carry it, if it has one.
pub fn xid_if_any() -> u32 {
    super::unbound::top_xid()
}

/// Was this row, as its `txn` and xmin say, written by the transaction we are in? Both are looked at: 32 bits come
/// round again, and 64 may have come with a dump from another server.
pub fn is_own(full: u64, xmin: u32) -> bool {
    // SAFETY: plain reads inside a transaction.
    unsafe {
        pg_sys::GetTopFullTransactionIdIfAny().value == full
            && pg_sys::TransactionIdIsCurrentTransactionId(pg_sys::TransactionId::from_inner(xmin))
    }
}

/// Does the active snapshot see what `xid` committed? Nothing of our own counts as committed.
pub fn active_snapshot_sees(xid: u32) -> bool {
    let xid = pg_sys::TransactionId::from_inner(xid);
    // SAFETY: a statement is running, so there is an active snapshot; it is not modified.
    unsafe {
        !pg_sys::TransactionIdIsCurrentTransactionId(xid)
            && !pg_sys::XidInMVCCSnapshot(xid, pg_sys::GetActiveSnapshot())
    }
}

/// When the current transaction started, in microseconds since 2000-01-01.
pub fn started_at() -> i64 {
    super::unbound::started_at()
}

/// Does the transaction see one snapshot throughout?
pub fn repeatable_read() -> bool {
    // SAFETY: a plain read.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Was `xid` committed for the transaction's snapshot? Only asked in REPEATABLE READ and above.
pub fn snapshot_sees(xid: u32) -> bool {
    // SAFETY: the transaction snapshot exists in REPEATABLE READ once a statement has run; it is not modified.
    unsafe { !pg_sys::XidInMVCCSnapshot(pg_sys::TransactionId::from_inner(xid), pg_sys::GetTransactionSnapshot()) }
}

/// Is there a prepared transaction in this database?
#[cfg(not(feature = "pg13"))]
pub fn any_prepared() -> bool {
    // SAFETY: as many entries as the setting says, in shared memory; one that is not used any more keeps the number of a
    // transaction that has ended.
    unsafe {
        let entries = 0..super::unbound::max_prepared_xacts() as usize;
        entries.map(|i| pg_sys::PreparedXactProcs.add(i)).any(|entry| {
            let database = (&raw const (*entry).databaseId).read_volatile();
            let xid = (&raw const (*entry).xid).read_volatile();
            database == pg_sys::MyDatabaseId
                && xid != pg_sys::InvalidTransactionId
                && pg_sys::TransactionIdIsInProgress(xid)
        })
    }
}

/// May there be a prepared transaction?
#[cfg(feature = "pg13")]
pub fn any_prepared() -> bool {
    // SAFETY: a plain read.
    unsafe { super::unbound::max_prepared_xacts() > 0 }
}

/// May this transaction not write?
pub fn read_only() -> bool {
    // SAFETY: a plain read.
    unsafe { pg_sys::XactReadOnly }
}

/// Waits until a transaction has ended.
pub fn wait_for(xid: u32) {
    // SAFETY: waiting outside of any tuple; deadlocks are found as usual.
    unsafe {
        pg_sys::XactLockTableWait(
            pg_sys::TransactionId::from_inner(xid),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::XLTW_Oper::XLTW_None,
        );
    }
}

/// Is this server a standby?
pub fn in_recovery() -> bool {
    // SAFETY: a plain read.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Makes the commit wait for the disk, whatever `synchronous_commit` says.
pub fn force_sync_commit() {
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() }
}

/// An active snapshot, for reads outside of a statement (detoasting asks for one); popped when dropped.
pub struct ActiveSnapshot(());

impl ActiveSnapshot {
    /// Pushes the transaction's present snapshot.
    pub fn push() -> ActiveSnapshot {
        // SAFETY: inside a transaction.
        unsafe { super::unbound::push_transaction_snapshot() };
        ActiveSnapshot(())
    }

    /// Pushes a snapshot that sees everything committed by now, also in REPEATABLE READ.
    pub fn push_latest() -> ActiveSnapshot {
        // SAFETY: inside a transaction.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        ActiveSnapshot(())
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pushed by us; errors pop the stack themselves.
            unsafe { super::unbound::pop_snapshot() };
        }
    }
}

/// Makes our own writes visible to what follows.
pub fn command_counter_increment() {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// Waits until the commit of `xid` is on disk, if it has not been yet. Does nothing on a standby.
pub fn flush_commit(xid: u32) {
    // SAFETY: the clog is asked only for ids it still holds.
    unsafe {
        if pg_sys::RecoveryInProgress() || xid < pg_sys::FirstNormalTransactionId.into_inner() {
            return;
        }
        #[cfg(not(any(feature = "pg17", feature = "pg18")))]
        let oldest = (*pg_sys::ShmemVariableCache).oldestClogXid;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        let oldest = (*pg_sys::TransamVariables).oldestClogXid;
        let xid = pg_sys::TransactionId::from_inner(xid);
        if pg_sys::TransactionIdPrecedes(xid, oldest) {
            return;
        }
        let lsn = pg_sys::TransactionIdGetCommitLSN(xid);
        if lsn != 0 {
            pg_sys::XLogFlush(lsn);
        }
    }
}

/// Runs `body` in a subtransaction: `Some` keeps what it did, `None` undoes it. An error undoes it too, and goes on: it
/// must not leave while the subtransaction is open, or the session would be stuck in it.
pub fn subtransaction<R>(body: impl FnOnce() -> Result<Option<R>>) -> Result<Option<R>> {
    // SAFETY: as PL/pgSQL does for a block with EXCEPTION: memory context and resource owner are put back.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::CurrentMemoryContext = context;
        let result = catch_unwind(AssertUnwindSafe(body));
        if matches!(result, Ok(Ok(Some(_)))) {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }
}
