//! What a statement-level trigger is given.

use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum};

use super::relation::Relation;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// One call of a statement-level trigger.
pub struct Call<'f> {
    data: *mut pg_sys::TriggerData,
    _frame: PhantomData<&'f ()>,
}

impl<'f> Call<'f> {
    /// The call behind `fcinfo`; `None` when the function was not called as a trigger.
    ///
    /// # Safety
    /// `fcinfo` must be what PostgreSQL handed over.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Option<Call<'f>> {
        // SAFETY: the caller's promise.
        unsafe {
            if fcinfo.is_null() || (*fcinfo).context.is_null() {
                return None;
            }
            if (*(*fcinfo).context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            Some(Call { data: (*fcinfo).context.cast(), _frame: PhantomData })
        }
    }

    /// What happened.
    pub fn event(&self) -> Event {
        // SAFETY: live during the call.
        match unsafe { (*self.data).tg_event } & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
            _ => Event::Truncate,
        }
    }

    /// The table.
    pub fn relation(&self) -> Relation {
        // SAFETY: open during the call.
        unsafe { Relation::borrowed((*self.data).tg_relation) }
    }

    /// Does the relation refer to others by foreign keys?
    pub fn refers_to_others(&self) -> bool {
        // SAFETY: open during the call, with as many triggers as it says.
        let triggers = unsafe {
            let triggers = (*(*self.data).tg_relation).trigdesc;
            std::slice::from_raw_parts((*triggers).triggers, (*triggers).numtriggers as usize)
        };
        triggers.iter().any(|trigger| trigger.tgfoid.to_u32() == pg_sys::F_RI_FKEY_CHECK_UPD)
    }

    /// The rows as they were, if the trigger asks for them.
    pub fn old_rows(&self) -> Option<Tuples<'_>> {
        // SAFETY: live during the call.
        unsafe { Tuples::new((*self.data).tg_oldtable, (*(*self.data).tg_relation).rd_att) }
    }

    /// The rows as they are.
    pub fn new_rows(&self) -> Option<Tuples<'_>> {
        // SAFETY: live during the call.
        unsafe { Tuples::new((*self.data).tg_newtable, (*(*self.data).tg_relation).rd_att) }
    }
}

/// How deep inside triggers this call is: 1 for a statement of the application.
pub fn depth() -> i32 {
    // SAFETY: the function takes no arguments and reads a counter.
    unsafe { super::unbound::trigger_depth() }
}

/// The rows of a transition table, one at a time.
pub struct Tuples<'c> {
    store: *mut pg_sys::Tuplestorestate,
    slot: *mut pg_sys::TupleTableSlot,
    /// How many there are, and how many of them are still to come.
    count: usize,
    left: usize,
    _call: PhantomData<&'c ()>,
}

impl Tuples<'_> {
    unsafe fn new<'c>(store: *mut pg_sys::Tuplestorestate, desc: pg_sys::TupleDesc) -> Option<Tuples<'c>> {
        if store.is_null() {
            return None;
        }
        // SAFETY: the store is the trigger's; it is read from its start with a read pointer of our own, because other
        // triggers read it too.
        unsafe {
            let slot = super::unbound::begin_read(store, desc);
            let count = super::unbound::row_count(store);
            Some(Tuples { store, slot, count, left: count, _call: PhantomData })
        }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The next row; it lives until the next call.
    pub fn next_tuple(&mut self) -> Option<Tuple<'_>> {
        self.left = self.left.checked_sub(1)?;
        // SAFETY: the store and the slot live as long as we.
        if !unsafe { fetch(self.store, self.slot) } {
            return None;
        }
        Some(Tuple { slot: self.slot, _rows: PhantomData })
    }
}

impl Drop for Tuples<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}

/// One row of a transition table.
#[derive(Clone, Copy)]
pub struct Tuple<'t> {
    slot: *mut pg_sys::TupleTableSlot,
    _rows: PhantomData<&'t ()>,
}

impl Tuple<'_> {
    /// The attribute `attno` (from 1); `None` for NULL.
    pub fn attr(&self, attno: i16) -> Option<Datum> {
        let i = attno as usize - 1;
        // SAFETY: all attributes have been fetched, and `attno` comes from the table's descriptor.
        unsafe {
            assert!(i < (*self.slot).tts_nvalid as usize);
            (!*(*self.slot).tts_isnull.add(i)).then(|| *(*self.slot).tts_values.add(i))
        }
    }
}

/// Fetches the next row of a store, whole. False after the last one.
///
/// # Safety
/// Store and slot are live and belong together. A store that has spilled to disk allocates the row in the slot's own
/// context and leaves it to the slot to free: that context must not be reset before.
pub(super) unsafe fn fetch(store: *mut pg_sys::Tuplestorestate, slot: *mut pg_sys::TupleTableSlot) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let saved = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = (*slot).tts_mcxt;
        let found = super::unbound::fetch_row(store, slot);
        pg_sys::CurrentMemoryContext = saved;
        found
    }
}
