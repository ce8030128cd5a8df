//! Which relations the relation cache has dropped since somebody last asked. A schema that was renamed makes all of them
//! stale: their names hold its name, and the relation cache does not mind. And how often roles have changed.

use std::cell::{Cell, RefCell};

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;

thread_local! {
    static STALE: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    /// Relations of the extension, and how often one of them has changed.
    static WATCHED: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    static ROLE_CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Past this many, everything is stale.
const MANY: usize = 1024;

/// Registers the callbacks, once, from `_PG_init`.
pub fn init() {
    // SAFETY: registered for the life of the process.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_relcache), Datum::from(0usize));
        let schemas = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
        pg_sys::CacheRegisterSyscacheCallback(schemas, Some(on_schema), Datum::from(0usize));
        let roles = pg_sys::SysCacheIdentifier::AUTHOID as i32;
        pg_sys::CacheRegisterSyscacheCallback(roles, Some(on_role), Datum::from(0usize));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_relcache(_arg: Datum, relid: Oid) {
    note(relid.to_u32());
}

#[pg_guard]
unsafe extern "C-unwind" fn on_schema(_arg: Datum, _cache: i32, _hash: u32) {
    note(0);
}

#[pg_guard]
unsafe extern "C-unwind" fn on_role(_arg: Datum, _cache: i32, _hash: u32) {
    ROLE_CHANGES.set(role_changes() + 1);
}

/// How many changes of roles this session has heard of.
pub fn role_changes() -> u64 {
    ROLE_CHANGES.get()
}

/// From now on [`changes`] counts what is heard of these relations.
pub fn watch(relids: Vec<u32>) {
    WATCHED.set(relids);
}

/// How often a watched relation has changed, or everything.
pub fn changes() -> u64 {
    CHANGES.get()
}

/// Is this relation watched?
pub fn is_watched(relid: u32) -> bool {
    WATCHED.with_borrow(|watched| watched.contains(&relid))
}

fn note(relid: u32) {
    if relid == 0 || is_watched(relid) {
        CHANGES.set(changes() + 1);
    }
    STALE.with_borrow_mut(|stale| {
        if stale.len() >= MANY {
            stale.clear();
            stale.push(0);
        }
        stale.push(relid);
    });
}

/// Hands over what is stale; 0 means everything.
pub fn drain(mut each: impl FnMut(u32)) {
    if STALE.with_borrow(|s| s.is_empty()) {
        return;
    }
    for relid in STALE.with_borrow_mut(std::mem::take) {
        each(relid);
    }
}
