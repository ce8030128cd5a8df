//! Which queries that write run inside of which, by triggers and by functions, and which of them write in several places
//! (`WITH … AS (DELETE …) INSERT …`, MERGE): nothing in a trigger call tells.

use std::cell::{Cell, RefCell};

use pgrx::pg_sys;

use super::{trigger, xact};

unsafe extern "C-unwind" {
    // Declared here and not taken from pgrx: an error is to pass through whole, and nothing here has to be cleaned up.
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
    #[cfg(not(feature = "pg18"))]
    fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: Direction, count: u64, once: bool);
    #[cfg(feature = "pg18")]
    fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: Direction, count: u64);
}

type Direction = pg_sys::ScanDirection::Type;

/// A query that writes, while its rows are made or while its triggers run.
struct Running {
    serial: u64,
    /// Its statement triggers run together, and their order need not be the order of the writes.
    mixed: bool,
    /// How deep inside triggers its own statement triggers are.
    depth: i32,
    /// The savepoint it runs in.
    level: i32,
}

thread_local! {
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
    /// The query whose rows were made last, and its serial: its triggers run next.
    static RAN: Cell<(usize, u64)> = const { Cell::new((0, 0)) };
    static SERIAL: Cell<u64> = const { Cell::new(0) };
    static ENDED: Cell<u64> = const { Cell::new(0) };
}

static mut NEXT_RUN: pg_sys::ExecutorRun_hook_type = None;
static mut NEXT_FINISH: pg_sys::ExecutorFinish_hook_type = None;

/// Hooks in, once, from `_PG_init`.
pub fn init() {
    // SAFETY: the library is loaded by a process with one thread.
    unsafe {
        NEXT_RUN = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(run);
        NEXT_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(finish);
    }
}

/// Does the running statement trigger belong to a query that writes in several places?
pub fn is_mixed() -> bool {
    RUNNING.with_borrow(|r| r.last().is_some_and(|query| query.mixed && query.depth == trigger::depth()))
}

/// The query that writes of which a statement trigger runs; `None` where triggers were put off to the commit.
pub fn current() -> Option<u64> {
    RUNNING.with_borrow(|r| r.last().map(|query| query.serial))
}

/// The queries that write and run, outermost first.
pub fn path() -> Vec<u64> {
    RUNNING.with_borrow(|r| r.iter().map(|query| query.serial).collect())
}

/// Does the running statement trigger belong to a query that runs in no other one that writes?
pub fn is_outermost() -> bool {
    trigger::depth() == 1 && RUNNING.with_borrow(|r| r.len() <= 1)
}

/// How many queries that write, and that ran in no other, have ended.
pub fn ended() -> u64 {
    ENDED.get()
}

/// A savepoint of this level was rolled back, and with it the queries that ran inside.
pub fn sub_aborted(level: i32) {
    RUNNING.with_borrow_mut(|r| r.retain(|query| query.level < level));
}

/// The transaction is over.
pub fn reset() {
    RUNNING.with_borrow_mut(Vec::clear);
}

fn enter(serial: u64, mixed: bool) {
    let running = Running { serial, mixed, depth: trigger::depth() + 1, level: xact::nest_level() };
    RUNNING.with_borrow_mut(|r| r.push(running));
}

fn next_serial() -> u64 {
    SERIAL.set(SERIAL.get() + 1);
    SERIAL.get()
}

/// Has `run` make the rows of a query.
///
/// # Safety
/// The query runs, so its plan is there.
unsafe fn running(query: *mut pg_sys::QueryDesc, run: impl FnOnce()) {
    // SAFETY: the caller's. An error of PostgreSQL leaves without coming back here: no value on this frame needs dropping, and
    // what is remembered is taken back by `sub_aborted` or `reset`.
    if !unsafe { writes((*query).plannedstmt) } {
        return run();
    }
    let serial = next_serial();
    enter(serial, false);
    run();
    RUNNING.with_borrow_mut(Vec::pop);
    RAN.set((query.addr(), serial));
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn run(query: *mut pg_sys::QueryDesc, direction: Direction, count: u64, once: bool) {
    // SAFETY: as PostgreSQL would call.
    unsafe {
        running(query, || match NEXT_RUN {
            Some(next) => next(query, direction, count, once),
            None => standard_ExecutorRun(query, direction, count, once),
        });
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn run(query: *mut pg_sys::QueryDesc, direction: Direction, count: u64) {
    // SAFETY: as PostgreSQL would call.
    unsafe {
        running(query, || match NEXT_RUN {
            Some(next) => next(query, direction, count),
            None => standard_ExecutorRun(query, direction, count),
        });
    }
}

unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as in `running`.
    unsafe {
        let plan = (*query).plannedstmt;
        let writes = writes(plan);
        if writes {
            let (ran, serial) = RAN.get();
            enter(if ran == query.addr() { serial } else { next_serial() }, is_mixed_plan(plan));
        }
        match NEXT_FINISH {
            Some(next) => next(query),
            None => standard_ExecutorFinish(query),
        }
        if writes {
            end();
        }
    }
}

/// Has `run` run a statement that writes and that the executor does not run: COPY, TRUNCATE.
pub fn utility(run: impl FnOnce()) {
    enter(next_serial(), false);
    run();
    end();
}

fn end() {
    RUNNING.with_borrow_mut(Vec::pop);
    if trigger::depth() == 0 && RUNNING.with_borrow(Vec::is_empty) {
        ENDED.set(ended() + 1);
    }
}

/// # Safety
/// The plan is null or valid.
unsafe fn writes(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's.
    unsafe { plan.as_ref() }.is_some_and(|plan| plan.commandType != pg_sys::CmdType::CMD_SELECT || plan.hasModifyingCTE)
}

/// # Safety
/// The plan is null or valid.
unsafe fn is_mixed_plan(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: the caller's.
    unsafe { plan.as_ref() }.is_some_and(|plan| plan.hasModifyingCTE || is_merge(plan))
}

#[cfg(not(any(feature = "pg13", feature = "pg14")))]
fn is_merge(plan: &pg_sys::PlannedStmt) -> bool {
    plan.commandType == pg_sys::CmdType::CMD_MERGE
}

#[cfg(any(feature = "pg13", feature = "pg14"))]
fn is_merge(_: &pg_sys::PlannedStmt) -> bool {
    false
}
