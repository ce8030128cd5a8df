//! Functions and variables of PostgreSQL that pgrx does not bind, behind the boundary that turns errors into panics.

use std::ffi::{CStr, c_char, c_int};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, Oid};

mod raw {
    use super::*;

    unsafe extern "C-unwind" {
        pub static mut bytea_output: c_int;
        pub static mut max_prepared_xacts: c_int;
        pub fn datum_image_eq(a: Datum, b: Datum, by_value: bool, len: c_int) -> bool;
        pub fn find_all_inheritors(parent: Oid, lock: c_int, counts: *mut *mut pg_sys::List) -> *mut pg_sys::List;
        pub fn nextval_internal(relid: Oid, check_permissions: bool) -> i64;
        pub fn Async_Notify(channel: *const c_char, payload: *const c_char);
        pub fn tuplestore_gettupleslot(
            store: *mut pg_sys::Tuplestorestate,
            forward: bool,
            copy: bool,
            slot: *mut pg_sys::TupleTableSlot,
        ) -> bool;
        pub fn tuplestore_alloc_read_pointer(store: *mut pg_sys::Tuplestorestate, flags: c_int) -> c_int;
        pub fn tuplestore_select_read_pointer(store: *mut pg_sys::Tuplestorestate, pointer: c_int);
        pub fn tuplestore_rescan(store: *mut pg_sys::Tuplestorestate);
        pub fn MakeSingleTupleTableSlot(
            desc: pg_sys::TupleDesc,
            ops: *const pg_sys::TupleTableSlotOps,
        ) -> *mut pg_sys::TupleTableSlot;
        pub fn tuplestore_tuple_count(store: *mut pg_sys::Tuplestorestate) -> i64;
        pub fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attnum: c_int);
        pub fn pg_trigger_depth(fcinfo: pg_sys::FunctionCallInfo) -> Datum;
        pub fn get_primary_key_attnos(relid: Oid, deferrable_ok: bool, constraint: *mut Oid) -> *mut pg_sys::Bitmapset;
        pub fn get_partition_ancestors(relid: Oid) -> *mut pg_sys::List;
        pub fn GetCurrentTransactionNestLevel() -> c_int;
        pub fn GetCurrentTransactionStartTimestamp() -> i64;
        pub fn GetCurrentTimestamp() -> i64;
        pub fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
        pub fn GetTransactionSnapshot() -> pg_sys::Snapshot;
        pub fn PushActiveSnapshot(snapshot: pg_sys::Snapshot);
        pub fn PopActiveSnapshot();
        pub fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
        pub fn LWLockRelease(lock: *mut pg_sys::LWLock);
    }
}

/// `BYTEA_OUTPUT_HEX`.
pub const BYTEA_OUTPUT_HEX: c_int = 1;

/// The setting `bytea_output`.
pub unsafe fn bytea_output() -> c_int {
    // SAFETY: a plain global of a single-threaded backend.
    unsafe { raw::bytea_output }
}

/// Changes the setting `bytea_output`.
pub unsafe fn set_bytea_output(value: c_int) {
    // SAFETY: as above.
    unsafe { raw::bytea_output = value }
}

/// Are two datums the same image, detoasted where need be?
pub unsafe fn datum_image_eq(a: Datum, b: Datum, by_value: bool, len: c_int) -> bool {
    // SAFETY: the caller has live datums of this kind.
    unsafe { pg_guard_ffi_boundary(|| raw::datum_image_eq(a, b, by_value, len)) }
}

/// A slot for the rows of a store, which is read from its start with a new read pointer: behind one boundary, as below.
pub unsafe fn begin_read(store: *mut pg_sys::Tuplestorestate, desc: pg_sys::TupleDesc) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the caller has a live store of rows of this kind.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let pointer = raw::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as c_int);
            raw::tuplestore_select_read_pointer(store, pointer);
            raw::tuplestore_rescan(store);
            raw::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsMinimalTuple)
        })
    }
}

/// Fetches the next row of a store, all its attributes, behind one boundary: each costs a quarter of the row.
pub unsafe fn fetch_row(store: *mut pg_sys::Tuplestorestate, slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: the caller has a live store and a slot for its rows.
    unsafe {
        pg_guard_ffi_boundary(|| {
            let found = raw::tuplestore_gettupleslot(store, true, false, slot);
            if found {
                raw::slot_getsomeattrs_int(slot, (*(*slot).tts_tupleDescriptor).natts);
            }
            found
        })
    }
}

/// A sequence's next value, without asking for rights, and also in a transaction that has become read-only since it wrote.
pub unsafe fn nextval(relid: Oid) -> i64 {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: a plain write, also while an error is on its way.
            unsafe { pg_sys::XactReadOnly = self.0 }
        }
    }
    // SAFETY: raises an error for what is no sequence; nothing but the sequence is written meanwhile.
    unsafe {
        let _restore = Restore(pg_sys::XactReadOnly);
        pg_sys::XactReadOnly = false;
        pg_guard_ffi_boundary(|| raw::nextval_internal(relid, false))
    }
}

/// How deep inside triggers we are.
pub unsafe fn trigger_depth() -> i32 {
    // SAFETY: the function reads a counter, ignores its argument and cannot raise an error.
    unsafe { raw::pg_trigger_depth(std::ptr::null_mut()) }.value() as i32
}

/// A partition's ancestors, the root last.
pub unsafe fn partition_ancestors(relid: Oid) -> *mut pg_sys::List {
    // SAFETY: `relid` is a partition.
    unsafe { pg_guard_ffi_boundary(|| raw::get_partition_ancestors(relid)) }
}

/// Has a table a primary key, DEFERRABLE or not?
pub unsafe fn has_primary_key(relid: Oid) -> bool {
    let mut constraint = pg_sys::InvalidOid;
    // SAFETY: a catalog look-up.
    unsafe { pg_guard_ffi_boundary(|| !raw::get_primary_key_attnos(relid, true, &mut constraint).is_null()) }
}

/// The setting `max_prepared_transactions`.
pub unsafe fn max_prepared_xacts() -> c_int {
    // SAFETY: a plain global, fixed at server start.
    unsafe { raw::max_prepared_xacts }
}

/// A table and everything that inherits from it, locked for reading.
pub unsafe fn inheritors(parent: Oid) -> *mut pg_sys::List {
    let lock = pg_sys::AccessShareLock as c_int;
    // SAFETY: a catalog look-up.
    unsafe { pg_guard_ffi_boundary(|| raw::find_all_inheritors(parent, lock, std::ptr::null_mut())) }
}

/// Has listeners told when the transaction commits. Raises an error for a payload of 8,000 bytes or more.
pub fn notify(channel: &CStr, payload: &CStr) {
    // SAFETY: inside a transaction; copies both.
    unsafe { pg_guard_ffi_boundary(|| raw::Async_Notify(channel.as_ptr(), payload.as_ptr())) }
}

/// Makes the transaction's present snapshot the active one.
pub unsafe fn push_transaction_snapshot() {
    // SAFETY: the caller is inside a transaction.
    unsafe { pg_guard_ffi_boundary(|| raw::PushActiveSnapshot(raw::GetTransactionSnapshot())) }
}

/// Makes the one before it active again; frees memory and cannot raise an error.
pub unsafe fn pop_snapshot() {
    // SAFETY: the caller has pushed one.
    unsafe { raw::PopActiveSnapshot() }
}

// These read a variable or the clock and cannot raise an error: the boundary would cost more than they do.

/// How deep inside of transaction blocks we are.
pub fn nest_level() -> i32 {
    // SAFETY: a plain read in a single-threaded backend.
    unsafe { raw::GetCurrentTransactionNestLevel() }
}

/// How many rows a store has.
pub unsafe fn row_count(store: *mut pg_sys::Tuplestorestate) -> usize {
    // SAFETY: the caller has a live store.
    unsafe { raw::tuplestore_tuple_count(store) as usize }
}

/// When the transaction started.
pub fn started_at() -> i64 {
    // SAFETY: as above.
    unsafe { raw::GetCurrentTransactionStartTimestamp() }
}

/// Microseconds since 2000-01-01.
pub fn now() -> i64 {
    // SAFETY: as above.
    unsafe { raw::GetCurrentTimestamp() }
}

/// The top transaction's id, 0 for none yet.
pub fn top_xid() -> u32 {
    // SAFETY: as above.
    unsafe { raw::GetTopTransactionIdIfAny() }.into_inner()
}

// The first of these raises an error only when 200 lightweight locks are held, and callers of ours hold one at most; the
// second only for a lock that is not held.

/// Takes a lightweight lock; waits.
pub unsafe fn lock(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) {
    // SAFETY: the caller has a lock in shared memory.
    unsafe { raw::LWLockAcquire(lock, mode) };
}

/// Gives it back.
pub unsafe fn unlock(lock: *mut pg_sys::LWLock) {
    // SAFETY: the caller holds it.
    unsafe { raw::LWLockRelease(lock) }
}
