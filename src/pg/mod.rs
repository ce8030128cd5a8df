//! Everything that touches PostgreSQL's memory. The only module with `unsafe`; what it exports is safe to call from a
//! backend's main thread, and it knows nothing of the rest of the extension but its error type.
#![allow(unsafe_code)]

pub mod datum;
pub mod entry;
pub mod executor;
mod forms;
pub mod function;
pub mod image;
mod insert;
pub mod inval;
pub mod jsonb;
pub mod lock;
pub mod probe;
pub mod region;
pub mod relation;
pub mod shmem;
pub mod spi;
pub mod spill;
pub mod toast;
pub mod trigger;
pub mod types;
mod unbound;
pub mod utility;
pub mod worker;
pub mod xact;

use pgrx::pg_sys;

/// The database's OID.
pub fn database() -> u32 {
    // SAFETY: a plain read.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// This backend's process id.
pub fn process_id() -> i32 {
    // SAFETY: a plain read.
    unsafe { pg_sys::MyProcPid }
}

/// Is there a server process that has this id?
pub fn is_backend(pid: i32) -> bool {
    // SAFETY: looks through the list of processes under its lock.
    unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Is the database's encoding UTF8?
pub fn database_is_utf8() -> bool {
    // SAFETY: a plain read.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// The current role's OID.
pub fn current_role() -> u32 {
    // SAFETY: a plain read.
    unsafe { pg_sys::GetUserId() }.to_u32()
}

/// Microseconds from 1970, where clocks outside begin, to 2000, where PostgreSQL's do.
pub const FROM_1970_TO_2000: i64 = 946_684_800_000_000;

/// Microseconds since 1970-01-01.
pub fn now_micros() -> i64 {
    unbound::now() + FROM_1970_TO_2000
}
