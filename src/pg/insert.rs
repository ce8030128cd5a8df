//! Plain inserts into the extension's tables: straight into heap and btrees where that does the same as an executor.
//!
//! PostgreSQL's functions are called several behind one boundary, which costs about 100 instructions: one row alone would
//! cross thirty. What runs behind it has no destructors and does not panic, because an error jumps over it.

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};

use super::relation::{Field, Relation};

mod raw {
    use std::ffi::{c_char, c_int, c_void};

    use pgrx::pg_sys::{self, Datum, Oid};

    // Declared here and not taken from pgrx, which puts a boundary around each.
    unsafe extern "C-unwind" {
        pub fn RelationGetIndexList(rel: pg_sys::Relation) -> *mut pg_sys::List;
        pub fn list_free(list: *mut pg_sys::List);
        pub fn index_open(oid: Oid, lock: c_int) -> pg_sys::Relation;
        pub fn index_close(index: pg_sys::Relation, lock: c_int);
        pub fn heap_attisnull(tuple: pg_sys::HeapTuple, attno: c_int, desc: pg_sys::TupleDesc) -> bool;
        pub fn heap_form_tuple(desc: pg_sys::TupleDesc, values: *mut Datum, nulls: *mut bool) -> pg_sys::HeapTuple;
        pub fn simple_heap_insert(rel: pg_sys::Relation, tuple: pg_sys::HeapTuple);
        pub fn index_insert(
            index: pg_sys::Relation,
            values: *mut Datum,
            nulls: *mut bool,
            tid: pg_sys::ItemPointer,
            rel: pg_sys::Relation,
            unique: pg_sys::IndexUniqueCheck::Type,
            #[cfg(not(feature = "pg13"))] unchanged: bool,
            info: *mut pg_sys::IndexInfo,
        ) -> bool;
        pub fn palloc(bytes: usize) -> *mut c_void;
        pub fn AllocSetContextCreateInternal(
            parent: pg_sys::MemoryContext,
            name: *const c_char,
            least: usize,
            first: usize,
            most: usize,
        ) -> pg_sys::MemoryContext;
        pub fn MemoryContextReset(context: pg_sys::MemoryContext);
        pub fn MemoryContextDelete(context: pg_sys::MemoryContext);
    }
}

/// Tables of ours have no more columns.
const MOST_COLUMNS: usize = 16;
/// With more indexes than this, somebody has added some.
const MOST_INDEXES: usize = 8;

/// Inserts rows into one of the extension's tables: its indexes are kept, rights and rules are not asked.
pub struct Inserter<'r> {
    rel: &'r Relation,
    way: Way,
    /// For what is allocated while a row is inserted.
    row: pg_sys::MemoryContext,
}

/// How rows get in.
enum Way {
    /// Into the heap and straight into these btrees over plain columns: a transaction of one row would pay more for an
    /// executor than for the row.
    Direct(Indexes),
    /// As logical replication does it, for tables to which somebody has added a trigger, a check, or an index of another
    /// kind.
    Executor { estate: *mut pg_sys::EState, info: *mut pg_sys::ResultRelInfo, slot: *mut pg_sys::TupleTableSlot },
}

/// The open indexes of a table.
#[derive(Clone, Copy)]
struct Indexes {
    count: usize,
    list: [pg_sys::Relation; MOST_INDEXES],
}

impl Indexes {
    fn all(&self) -> &[pg_sys::Relation] {
        &self.list[..self.count]
    }
}

impl<'r> Inserter<'r> {
    /// Opens the table's indexes for writing.
    pub fn new(rel: &'r Relation) -> Inserter<'r> {
        let raw = rel.as_ptr();
        // SAFETY: the relation is open with a lock that allows writing; what is allocated here goes with the inserter or
        // with the transaction.
        unsafe {
            let saved = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = pg_sys::CurTransactionContext;
            let (row, indexes) = pg_guard_ffi_boundary(|| {
                let indexes = if has_extras(raw) { None } else { open_indexes(raw) };
                (memory_context(pg_sys::CurTransactionContext), indexes)
            });
            let way = indexes.map_or_else(|| executor(raw), Way::Direct);
            pg_sys::CurrentMemoryContext = saved;
            Inserter { rel, way, row }
        }
    }

    /// Inserts one row; `fields` are all its columns in order.
    pub fn insert(&mut self, fields: &[Field<'_>]) {
        let (rel, desc, row) = (self.rel.as_ptr(), self.rel.tuple_desc(), self.row);
        // SAFETY: the relation is open.
        assert_eq!(fields.len(), unsafe { (*desc).natts } as usize);
        assert!(fields.len() <= MOST_COLUMNS);
        // SAFETY: there are as many fields as the table has columns, of their types; the insert copies what datums point
        // to. Nothing within the boundary has a destructor or panics.
        unsafe {
            let saved = pg_sys::CurrentMemoryContext;
            pg_sys::CurrentMemoryContext = row;
            let (mut values, mut nulls) = ([Datum::null(); MOST_COLUMNS], [true; MOST_COLUMNS]);
            pg_guard_ffi_boundary(|| {
                raw::MemoryContextReset(row);
                for ((value, null), field) in values.iter_mut().zip(&mut nulls).zip(fields) {
                    if let Some(datum) = datum(*field) {
                        (*value, *null) = (datum, false);
                    }
                }
                if let Way::Direct(indexes) = &self.way {
                    insert_direct(rel, indexes.all(), &mut values, &mut nulls);
                }
            });
            if let Way::Executor { estate, info, slot } = self.way {
                insert_by_executor(estate, info, slot, &values[..fields.len()], &nulls);
            }
            pg_sys::CurrentMemoryContext = saved;
        }
    }
}

/// A field as the table's type; `None` for NULL.
///
/// SAFETY: raises PostgreSQL's errors; what the datum points to is in the current memory context.
unsafe fn datum(field: Field<'_>) -> Option<Datum> {
    let varlena = |bytes: &[u8]| {
        // SAFETY: as many bytes as were asked for are written.
        unsafe {
            let at: *mut pg_sys::varlena = raw::palloc(pg_sys::VARHDRSZ + bytes.len()).cast();
            pgrx::varlena::set_varsize_4b(at, (pg_sys::VARHDRSZ + bytes.len()) as i32);
            let data = at.cast::<u8>().add(pg_sys::VARHDRSZ);
            data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Datum::from(at)
        }
    };
    match field {
        Field::Null => None,
        Field::I32(v) => Some(Datum::from(v)),
        Field::I64(v) => Some(Datum::from(v)),
        Field::Oid(v) => Some(Datum::from(v)),
        Field::Text(v) => Some(varlena(v.as_bytes())),
        Field::Bytes(v) => Some(varlena(v)),
    }
}

/// Of the size that PostgreSQL keeps for the next to ask, and with room for a row without another block.
///
/// SAFETY: the parent is alive. Raises PostgreSQL's errors, and has no destructors.
unsafe fn memory_context(parent: pg_sys::MemoryContext) -> pg_sys::MemoryContext {
    // SAFETY: the caller's promise.
    unsafe {
        raw::AllocSetContextCreateInternal(
            parent,
            c"crdt_db row of the log".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}

/// Is there more to an insert than heap and indexes?
///
/// SAFETY: the relation is open.
unsafe fn has_extras(rel: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let constraints = (*(*rel).rd_att).constr;
        !(*rel).trigdesc.is_null()
            || (*(*rel).rd_rel).relispartition
            || (*(*rel).rd_rel).relam != pg_sys::HEAP_TABLE_AM_OID
            || (!constraints.is_null() && ((*constraints).num_check > 0 || (*constraints).has_generated_stored))
    }
}

/// Opens the indexes; `None`, and none open, if they are many or one is not a btree over plain columns that is checked at
/// once.
///
/// SAFETY: the relation is open with a lock that allows writing. Raises PostgreSQL's errors, and has no destructors.
unsafe fn open_indexes(rel: pg_sys::Relation) -> Option<Indexes> {
    // SAFETY: the caller's promise; an index of the list stays as long as the table is locked.
    unsafe {
        let list = raw::RelationGetIndexList(rel);
        let count = if list.is_null() { 0 } else { (*list).length as usize };
        if count > MOST_INDEXES {
            raw::list_free(list);
            return None;
        }
        let mut indexes = Indexes { count, list: [std::ptr::null_mut(); MOST_INDEXES] };
        for (nth, index) in indexes.list.iter_mut().take(count).enumerate() {
            *index = raw::index_open((*(*list).elements.add(nth)).oid_value, pg_sys::RowExclusiveLock as i32);
        }
        raw::list_free(list);
        if indexes.all().iter().all(|index| is_plain(*index)) {
            return Some(indexes);
        }
        close_indexes(&indexes);
        None
    }
}

/// SAFETY: open, by us. Raises PostgreSQL's errors, and has no destructors.
unsafe fn close_indexes(indexes: &Indexes) {
    for index in indexes.all() {
        // SAFETY: the caller's promise.
        unsafe { raw::index_close(*index, pg_sys::NoLock as i32) }
    }
}

/// SAFETY: the index is open.
unsafe fn is_plain(index: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let form = &*(*index).rd_index;
        let columns = std::slice::from_raw_parts(form.indkey.values.as_ptr(), form.indnatts as usize);
        let predicate = pg_sys::Anum_pg_index_indpred as i32;
        (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
            && form.indisready
            && form.indimmediate
            && !form.indisexclusion
            && columns.len() <= MOST_COLUMNS
            && columns.iter().all(|attno| (1..=MOST_COLUMNS as i16).contains(attno))
            && raw::heap_attisnull((*index).rd_indextuple, predicate, std::ptr::null_mut())
    }
}

/// SAFETY: the relation is open with a lock that allows writing, and its rows are of these values; the indexes are plain.
/// Raises PostgreSQL's errors, and has no destructors.
unsafe fn insert_direct(
    rel: pg_sys::Relation,
    indexes: &[pg_sys::Relation],
    values: &mut [Datum; MOST_COLUMNS],
    nulls: &mut [bool; MOST_COLUMNS],
) {
    let (mut keys, mut null_keys) = ([Datum::null(); MOST_COLUMNS], [false; MOST_COLUMNS]);
    // SAFETY: the caller's promise. A btree has no use for an IndexInfo.
    unsafe {
        let tuple = raw::heap_form_tuple((*rel).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
        raw::simple_heap_insert(rel, tuple);
        for index in indexes {
            let form = &*(**index).rd_index;
            let columns = std::slice::from_raw_parts(form.indkey.values.as_ptr(), form.indnatts as usize);
            for ((key, null), attno) in keys.iter_mut().zip(&mut null_keys).zip(columns) {
                let column = *attno as usize - 1;
                (*key, *null) = (values[column], nulls[column]);
            }
            let unique = if form.indisunique {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
            } else {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
            };
            raw::index_insert(
                *index,
                keys.as_mut_ptr(),
                null_keys.as_mut_ptr(),
                &raw mut (*tuple).t_self,
                rel,
                unique,
                #[cfg(not(feature = "pg13"))]
                false,
                std::ptr::null_mut(),
            );
        }
    }
}

/// SAFETY: all made by [`executor`]; there are as many values as the table has columns.
unsafe fn insert_by_executor(
    estate: *mut pg_sys::EState,
    info: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    values: &[Datum],
    nulls: &[bool],
) {
    // SAFETY: the caller's promise.
    unsafe {
        for (i, (value, null)) in values.iter().zip(nulls).enumerate() {
            *(*slot).tts_values.add(i) = *value;
            *(*slot).tts_isnull.add(i) = *null;
        }
        pg_sys::ExecStoreVirtualTuple(slot);
        pg_sys::ExecSimpleRelationInsert(info, estate, slot);
        let expressions = (*estate).es_per_tuple_exprcontext;
        if !expressions.is_null() {
            pg_sys::MemoryContextReset((*expressions).ecxt_per_tuple_memory);
        }
        pg_sys::ExecClearTuple(slot);
    }
}

/// SAFETY: the relation is open with a lock that allows writing; the current memory context lives as long as the result.
unsafe fn executor(rel: pg_sys::Relation) -> Way {
    // SAFETY: the caller's promise.
    unsafe {
        let estate = pg_sys::CreateExecutorState();
        let info = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast();
        // No range table, so no place in it: whoever describes a row that a constraint refuses would look there.
        pg_sys::InitResultRelInfo(info, rel, 0, std::ptr::null_mut(), 0);
        pg_sys::ExecOpenIndices(info, false);
        let slot = pg_sys::MakeSingleTupleTableSlot((*rel).rd_att, &raw const pg_sys::TTSOpsVirtual);
        Way::Executor { estate, info, slot }
    }
}

impl Drop for Inserter<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: all made by `new`.
            unsafe {
                if let Way::Executor { estate, info, slot } = self.way {
                    pg_sys::ExecDropSingleTupleTableSlot(slot);
                    pg_sys::ExecCloseIndices(info);
                    pg_sys::FreeExecutorState(estate);
                    pg_sys::pfree(info.cast());
                }
                pg_guard_ffi_boundary(|| {
                    if let Way::Direct(indexes) = &self.way {
                        close_indexes(indexes);
                    }
                    raw::MemoryContextDelete(self.row);
                });
            }
        }
    }
}
