//! Queries with several statement triggers: those that write in several places (`WITH … AS (DELETE …) INSERT …`), MERGE and
//! `ON CONFLICT DO UPDATE`. The triggers run together at the end, and nothing in a trigger call tells.

use std::cell::RefCell;

use pgrx::pg_sys;

use super::{trigger, xact};

unsafe extern "C-unwind" {
    // Declared here and not taken from pgrx: an error is to pass through whole, and nothing here has to be cleaned up.
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
}

/// What a query does whose several statement triggers run together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Writes in several places, or by MERGE: the order of the triggers need not be the order of the writes.
    Mixed,
    /// `ON CONFLICT DO UPDATE`: no row is written twice; the trigger for updates runs first, then the one for inserts.
    Upsert,
}

struct Running {
    kind: Kind,
    /// How deep inside triggers the query's own statement triggers are.
    depth: i32,
    /// The savepoint the query runs in.
    level: i32,
}

thread_local! {
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
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

/// Do statement triggers of this depth belong to a query that has several?
pub fn kind(depth: i32) -> Option<Kind> {
    RUNNING.with_borrow(|r| r.last().filter(|query| query.depth == depth).map(|query| query.kind))
}

/// A savepoint of this level was rolled back, and with it the queries that ran inside.
pub fn sub_aborted(level: i32) {
    RUNNING.with_borrow_mut(|r| r.retain(|query| query.level < level));
}

/// The transaction is over.
pub fn reset() {
    RUNNING.with_borrow_mut(Vec::clear);
}

unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the query is being finished, so its plan is there. An error of PostgreSQL leaves without coming back here:
    // no value on this frame needs dropping, and what is remembered is taken back by `sub_aborted` or `reset`.
    unsafe {
        let kind = kind_of((*query).plannedstmt);
        if let Some(kind) = kind {
            let running = Running { kind, depth: trigger::depth() + 1, level: xact::nest_level() };
            RUNNING.with_borrow_mut(|r| r.push(running));
        }
        match NEXT {
            Some(next) => next(query),
            None => standard_ExecutorFinish(query),
        }
        if kind.is_some() {
            RUNNING.with_borrow_mut(|r| r.pop());
        }
    }
}

/// # Safety
/// The plan is null or valid.
unsafe fn kind_of(plan: *const pg_sys::PlannedStmt) -> Option<Kind> {
    // SAFETY: the caller's; a plan tree's node is what its tag says.
    unsafe {
        let plan = plan.as_ref()?;
        if plan.hasModifyingCTE || is_merge(plan) {
            return Some(Kind::Mixed);
        }
        let top = plan.planTree.cast::<pg_sys::Node>().as_ref()?;
        if top.type_ != pg_sys::NodeTag::T_ModifyTable {
            return None;
        }
        let modify = &*plan.planTree.cast::<pg_sys::ModifyTable>();
        (modify.onConflictAction == pg_sys::OnConflictAction::ONCONFLICT_UPDATE).then_some(Kind::Upsert)
    }
}

#[cfg(not(any(feature = "pg13", feature = "pg14")))]
fn is_merge(plan: &pg_sys::PlannedStmt) -> bool {
    plan.commandType == pg_sys::CmdType::CMD_MERGE
}

#[cfg(any(feature = "pg13", feature = "pg14"))]
fn is_merge(_: &pg_sys::PlannedStmt) -> bool {
    false
}
