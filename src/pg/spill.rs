//! Bytes set aside until later: in memory, past a share of `work_mem` in a temporary file.

use pgrx::pg_sys;

use super::{datum, trigger};

/// The least memory of a spill, in kB.
const LEAST_KB: i32 = 64;

/// Pieces of bytes, read back in the order they were written.
pub struct Spill {
    store: *mut pg_sys::Tuplestorestate,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Spill {
    /// Nothing yet. `parts`: how many spills share `work_mem`. Lives in the current memory context, which must not be reset
    /// before.
    pub fn new(parts: usize) -> Spill {
        // SAFETY: store, descriptor and slot belong together and live in the current context; the file, if there is
        // one, ends with the current resource owner at the latest.
        unsafe {
            let kilobytes = (pg_sys::work_mem / parts.max(1) as i32).max(LEAST_KB);
            let desc = pg_sys::CreateTemplateTupleDesc(1);
            pg_sys::TupleDescInitEntry(desc, 1, c"bytes".as_ptr(), pg_sys::BYTEAOID, -1, 0);
            Spill {
                store: pg_sys::tuplestore_begin_heap(false, false, kilobytes),
                slot: pg_sys::MakeSingleTupleTableSlot(desc, &raw const pg_sys::TTSOpsMinimalTuple),
            }
        }
    }

    /// Adds a piece.
    pub fn write(&mut self, bytes: &[u8]) {
        let mut value = datum::bytes_datum(bytes);
        // SAFETY: one value for one column; the store copies it.
        unsafe {
            pg_sys::tuplestore_putvalues(self.store, (*self.slot).tts_tupleDescriptor, &mut value, &mut false);
            pg_sys::pfree(value.cast_mut_ptr());
        }
    }

    /// Takes the next piece.
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        // SAFETY: made together by `new`; a fetched row has one column, a bytea.
        unsafe { trigger::fetch(self.store, self.slot).then(|| datum::varlena_bytes(*(*self.slot).tts_values)) }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by `new`, used no more.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::tuplestore_end(self.store);
            }
        }
    }
}
