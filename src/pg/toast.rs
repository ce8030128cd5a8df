//! How values that lie out of line begin: of their chunks of two kilobytes the first alone is fetched, by one scan for many
//! values.

use pgrx::pg_sys::{self, Datum, Oid};

use super::relation::{Cmp, Field, Index, IndexScan, Key, Lock, Relation, Row, Snapshot};

/// Where a table keeps what does not fit into its rows.
pub struct Toast {
    rel: Relation,
    index: Index,
}

impl Toast {
    /// Of a table, if it has such a place.
    pub fn of(table: &Relation) -> Option<Toast> {
        let there = Some(table.toast()).filter(|oid| *oid != pg_sys::InvalidOid);
        let rel = Relation::open(there?, Lock::AccessShare);
        let index = rel.primary_key()?;
        Some(Toast { rel, index })
    }

    /// Reads the first chunks of values.
    pub fn starts(&self, snapshot: Snapshot) -> Starts<'_> {
        Starts { scan: IndexScan::new(&self.rel, self.index, snapshot, &first_chunk(pg_sys::InvalidOid), false) }
    }
}

fn first_chunk(value: Oid) -> [Key<'static>; 2] {
    [(1, Cmp::Eq, Field::Oid(value)), (2, Cmp::Eq, Field::I32(0))]
}

/// A scan for first chunks.
pub struct Starts<'t> {
    scan: IndexScan<'t>,
}

impl Starts<'_> {
    /// What `body` makes of how a column's value begins and how long it is; `None` when the value is in the row, or is not kept
    /// as it is.
    pub fn of<R>(&mut self, row: &Row<'_>, attno: usize, body: impl FnOnce(&[u8], usize) -> R) -> Option<R> {
        let (value, len) = out_of_line(row.datum(attno)?)?;
        self.scan.again(&first_chunk(value));
        self.scan.next_row()?.with_bytes(3, |chunk| body(chunk, len))
    }
}

/// The number and the length of a value that lies out of line, not compressed.
fn out_of_line(datum: Datum) -> Option<(Oid, usize)> {
    let start: *const pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the columns that are asked for are varlenas. After a tag a reference to one on disk has four numbers of four
    // bytes: the length of value and header, what it takes on disk, its number and its table.
    unsafe {
        let bytes: *const u8 = start.cast();
        if !pgrx::varlena::varatt_is_1b_e(start) || u32::from(*bytes.add(1)) != pg_sys::vartag_external::VARTAG_ONDISK {
            return None;
        }
        let number = |nth: usize| bytes.add(2 + 4 * nth).cast::<u32>().read_unaligned();
        let len = number(0).checked_sub(pg_sys::VARHDRSZ as u32)?;
        // The two highest bits say how it is compressed.
        (number(1) & 0x3fff_ffff == len).then(|| (Oid::from(number(2)), len as usize))
    }
}
