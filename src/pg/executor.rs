//! Queries that write in several places: `WITH … AS (DELETE …) INSERT …`. Their statement triggers run together at the
//! end, in an order that need not be the order of the writes, and nothing in a trigger call tells.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::{trigger, xact};

unsafe extern "C-unwind" {
    // Declared here and not taken from pgrx: an error is to pass through whole, and nothing here has to be cleaned up.
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
}

struct Mixed {
    /// How deep inside triggers the query's own statement triggers are.
    depth: i32,
    /// The savepoint the query runs in.
    level: i32,
}

thread_local! {
    static RUNNING: RefCell<Vec<Mixed>> = const { RefCell::new(Vec::new()) };
}

static mut NEXT: pg_sys::ExecutorFinish_hook_type = None;

/// Hooks in, once, from `_PG_init`.
pub fn init() {
    // SAFETY: the library is loaded by a process with one thread.
    unsafe {
        NEXT = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(finish);
    }
}

/// Do statement triggers of this depth belong to a query that writes in several places?
pub fn mixed(depth: i32) -> bool {
    RUNNING.with_borrow(|r| r.last().is_some_and(|m| m.depth == depth))
}

/// A savepoint of this level was rolled back, and with it the queries that ran inside.
pub fn sub_aborted(level: i32) {
    RUNNING.with_borrow_mut(|r| r.retain(|m| m.level < level));
}

/// The transaction is over.
pub fn reset() {
    RUNNING.with_borrow_mut(Vec::clear);
}

unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the query is being finished, so its plan is there. An error of PostgreSQL leaves without coming back here:
    // no value on this frame needs dropping, and what is remembered is taken back by `sub_aborted` or `reset`.
    unsafe {
        let plan = (*query).plannedstmt;
        let mixed = !plan.is_null() && (*plan).hasModifyingCTE;
        if mixed {
            let running = Mixed { depth: trigger::depth() + 1, level: xact::nest_level() };
            RUNNING.with_borrow_mut(|r| r.push(running));
        }
        match NEXT {
            Some(next) => next(query),
            None => standard_ExecutorFinish(query),
        }
        if mixed {
            RUNNING.with_borrow_mut(|r| r.pop());
        }
    }
}
