//! Open relations, index scans and plain inserts, below SPI: nothing here looks at `search_path`, the caller's rights
//! or a read-only transaction, and reads under [`Snapshot::Committed`] leave no predicate locks.

use std::ffi::CStr;
use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum, Oid};

use super::inval;

pub use super::insert::Inserter;
use crate::error::{Error, Result, state};

/// An open relation; closed when dropped, its lock kept until the transaction ends.
pub struct Relation {
    raw: pg_sys::Relation,
    owned: bool,
}

/// Lock modes used here.
#[derive(Clone, Copy)]
pub enum Lock {
    AccessShare,
    RowExclusive,
    ShareRowExclusive,
}

impl Lock {
    fn mode(self) -> i32 {
        (match self {
            Lock::AccessShare => pg_sys::AccessShareLock,
            Lock::RowExclusive => pg_sys::RowExclusiveLock,
            Lock::ShareRowExclusive => pg_sys::ShareRowExclusiveLock,
        }) as i32
    }
}

impl Relation {
    /// Opens a table.
    pub fn open(oid: Oid, lock: Lock) -> Relation {
        // SAFETY: raises an error for what is not there.
        Relation { raw: unsafe { pg_sys::relation_open(oid, lock.mode()) }, owned: true }
    }

    /// Opens a table, if it is still there once the lock is had.
    pub fn try_open(oid: Oid, lock: Lock) -> Option<Relation> {
        // SAFETY: null for what is not there.
        let raw = unsafe { pg_sys::try_relation_open(oid, lock.mode()) };
        (!raw.is_null()).then(|| Relation { raw, owned: true })
    }

    /// A relation somebody else has opened and keeps open: a trigger's.
    ///
    /// # Safety
    /// `raw` must stay open as long as the result lives.
    pub(super) unsafe fn borrowed(raw: pg_sys::Relation) -> Relation {
        Relation { raw, owned: false }
    }

    pub(super) fn as_ptr(&self) -> pg_sys::Relation {
        self.raw
    }

    pub(super) fn tuple_desc(&self) -> pg_sys::TupleDesc {
        // SAFETY: open.
        unsafe { (*self.raw).rd_att }
    }

    fn form(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: open.
        unsafe { &*(*self.raw).rd_rel }
    }

    /// Its OID.
    pub fn oid(&self) -> Oid {
        // SAFETY: open.
        unsafe { (*self.raw).rd_id }
    }

    /// Its name, without schema.
    pub fn name(&self) -> String {
        // SAFETY: a name is NUL-terminated.
        unsafe { CStr::from_ptr(self.form().relname.data.as_ptr()) }.to_string_lossy().into_owned()
    }

    /// Its schema's name.
    pub fn schema(&self) -> String {
        // SAFETY: a schema of an open relation exists; the name is a fresh copy.
        unsafe { CStr::from_ptr(pg_sys::get_namespace_name(self.form().relnamespace)) }.to_string_lossy().into_owned()
    }

    /// `"schema"."name"`.
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote(&self.schema()), quote(&self.name()))
    }

    /// `r`, `p`, `v`, …
    pub fn kind(&self) -> u8 {
        self.form().relkind as u8
    }

    /// `p`ermanent, `u`nlogged or `t`emporary.
    pub fn persistence(&self) -> u8 {
        self.form().relpersistence as u8
    }

    /// Its owner.
    pub fn owner(&self) -> Oid {
        self.form().relowner
    }

    /// How many rows it has by the last VACUUM or ANALYZE, if there was one that found some.
    pub fn expected_rows(&self) -> Option<u64> {
        Some(self.form().reltuples as u64).filter(|rows| *rows > 0)
    }

    /// Is it a partition?
    pub fn is_partition(&self) -> bool {
        self.form().relispartition
    }

    /// Where it keeps what does not fit into its rows.
    pub(super) fn toast(&self) -> Oid {
        self.form().reltoastrelid
    }

    /// The index of its primary key, if it has one.
    pub(super) fn primary_key(&self) -> Option<Index> {
        // SAFETY: open.
        #[cfg(not(feature = "pg18"))]
        let oid = unsafe { pg_sys::RelationGetPrimaryKeyIndex(self.raw) };
        #[cfg(feature = "pg18")]
        let oid = unsafe { pg_sys::RelationGetPrimaryKeyIndex(self.raw, false) };
        (oid != pg_sys::InvalidOid).then(|| Index { oid, name: None, found: inval::changes() })
    }

    /// Its storage's file number: another after TRUNCATE or a rewrite.
    pub fn file_number(&self) -> u32 {
        self.form().relfilenode.to_u32()
    }
}

impl Drop for Relation {
    fn drop(&mut self) {
        // While an error is on its way the resource owner closes relations; closing twice would be an error.
        if self.owned && !std::thread::panicking() {
            // SAFETY: opened by us, once.
            unsafe { pg_sys::relation_close(self.raw, pg_sys::NoLock as i32) }
        }
    }
}

/// A quoted identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Errors with 42P01 unless there is a relation of this OID: a regclass may be any number.
pub fn check_exists(oid: Oid) -> Result<()> {
    // SAFETY: a syscache look-up.
    if unsafe { pg_sys::get_rel_relkind(oid) } != 0 {
        return Ok(());
    }
    Err(Error::new(state::UNDEFINED_TABLE, format!("relation with OID {} does not exist", oid.to_u32())))
}

/// The OID of a relation of a schema, if there is one.
pub fn find_relation(schema: Oid, name: &CStr) -> Option<Oid> {
    // SAFETY: a syscache look-up.
    let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The OID of a schema, if there is one.
pub fn find_schema(name: &CStr) -> Option<Oid> {
    // SAFETY: a syscache look-up.
    let oid = unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// An index of one of the extension's tables. Its name is what lasts: REINDEX CONCURRENTLY makes another relation of that
/// name, and leaves the former one to whoever still reads it, without new rows.
#[derive(Clone, Copy)]
pub struct Index {
    oid: Oid,
    /// None: asked of its table just now.
    name: Option<&'static CStr>,
    /// [`inval::changes`] when it was found.
    found: u64,
}

impl Index {
    /// An index by name.
    pub fn find(schema: Oid, name: &'static CStr) -> Option<Index> {
        let found = inval::changes();
        Some(Index { oid: find_relation(schema, name)?, name: Some(name), found })
    }

    /// Opens it. Its table is locked and stays so: it is not rebuilt by anybody until then.
    fn open(self, heap: &Relation) -> pg_sys::Relation {
        let changed = self.name.filter(|_| self.found != inval::changes());
        let oid = changed.and_then(|name| find_relation(heap.form().relnamespace, name)).unwrap_or(self.oid);
        // SAFETY: raises an error for what is not there.
        unsafe { pg_sys::index_open(oid, pg_sys::AccessShareLock as i32) }
    }
}

/// One field of a row to insert, or a key to look for.
#[derive(Clone, Copy)]
pub enum Field<'a> {
    Null,
    I32(i32),
    I64(i64),
    Oid(Oid),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Field<'_> {
    fn datum(self) -> (Datum, bool) {
        let varlena = |bytes: &[u8]| {
            // SAFETY: the bytes are copied into the current memory context.
            Datum::from(unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), bytes.len() as i32) })
        };
        match self {
            Field::Null => (Datum::from(0usize), true),
            Field::I32(v) => (Datum::from(v), false),
            Field::I64(v) => (Datum::from(v), false),
            Field::Oid(v) => (Datum::from(v), false),
            Field::Text(v) => (varlena(v.as_bytes()), false),
            Field::Bytes(v) => (varlena(v), false),
        }
    }
}

/// What a scan sees.
#[derive(Clone, Copy)]
pub enum Snapshot {
    /// Everything committed at the moment it is met, and our own writes.
    Committed,
    /// The same and what others are writing.
    Dirty,
    /// The statement's own snapshot.
    Active,
}

/// Comparisons a scan key can ask for.
#[derive(Clone, Copy)]
pub enum Cmp {
    Le,
    Eq,
    Ge,
    Gt,
}

/// `(index column from 1, comparison, value)`.
pub type Key<'a> = (i16, Cmp, Field<'a>);

fn scan_key(key: &Key<'_>) -> pg_sys::ScanKeyData {
    let (attno, cmp, field) = *key;
    let strategy = match cmp {
        Cmp::Le => pg_sys::BTLessEqualStrategyNumber,
        Cmp::Eq => pg_sys::BTEqualStrategyNumber,
        Cmp::Ge => pg_sys::BTGreaterEqualStrategyNumber,
        Cmp::Gt => pg_sys::BTGreaterStrategyNumber,
    };
    let proc = match (field, cmp) {
        (Field::I32(_), Cmp::Eq) => pg_sys::F_INT4EQ,
        (Field::I64(_), Cmp::Le) => pg_sys::F_INT8LE,
        (Field::I64(_), Cmp::Eq) => pg_sys::F_INT8EQ,
        (Field::I64(_), Cmp::Ge) => pg_sys::F_INT8GE,
        (Field::I64(_), Cmp::Gt) => pg_sys::F_INT8GT,
        (Field::Oid(_), Cmp::Eq) => pg_sys::F_OIDEQ,
        (Field::Text(_), Cmp::Eq) => pg_sys::F_TEXTEQ,
        _ => unreachable!("no index of ours is searched so"),
    };
    let mut data = pg_sys::ScanKeyData::default();
    // SAFETY: fills in `data`; the procedure fits the field's type.
    unsafe {
        pg_sys::ScanKeyInit(&mut data, attno, strategy as u16, proc.into(), field.datum().0);
    }
    data
}

/// A running index scan.
pub struct IndexScan<'r> {
    scan: pg_sys::IndexScanDesc,
    index: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    _dirty: Option<Box<pg_sys::SnapshotData>>,
    _keys: Vec<pg_sys::ScanKeyData>,
    backward: bool,
    heap: PhantomData<&'r Relation>,
}

impl<'r> IndexScan<'r> {
    /// Starts a scan of `heap` through the index `index`.
    pub fn new(
        heap: &'r Relation,
        index: Index,
        snapshot: Snapshot,
        keys: &[Key<'_>],
        backward: bool,
    ) -> IndexScan<'r> {
        // SAFETY: relations are open; the snapshot lives in a static, in the box kept beside the scan, or on the
        // active stack during the statement; keys are kept beside the scan.
        unsafe {
            let mut dirty = None;
            let snap: pg_sys::Snapshot = match snapshot {
                Snapshot::Committed => &raw mut pg_sys::SnapshotSelfData,
                Snapshot::Dirty => {
                    let mut data = Box::new(std::mem::zeroed::<pg_sys::SnapshotData>());
                    data.snapshot_type = pg_sys::SnapshotType::SNAPSHOT_DIRTY;
                    let ptr: pg_sys::Snapshot = &mut *data;
                    dirty = Some(data);
                    ptr
                }
                Snapshot::Active => pg_sys::GetActiveSnapshot(),
            };
            let raw_index = index.open(heap);
            let mut data: Vec<_> = keys.iter().map(scan_key).collect();
            let n = data.len() as i32;
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(heap.raw, raw_index, snap, n, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(heap.raw, raw_index, snap, std::ptr::null_mut(), n, 0);
            pg_sys::index_rescan(scan, data.as_mut_ptr(), n, std::ptr::null_mut(), 0);
            let slot = pg_sys::table_slot_create(heap.raw, std::ptr::null_mut());
            IndexScan { scan, index: raw_index, slot, _dirty: dirty, _keys: data, backward, heap: PhantomData }
        }
    }

    /// Starts over with other keys for the same columns.
    pub fn again(&mut self, keys: &[Key<'_>]) {
        self._keys = keys.iter().map(scan_key).collect();
        // SAFETY: as in `new`; as many keys as the scan was begun with.
        unsafe {
            assert_eq!(self._keys.len(), (*self.scan).numberOfKeys as usize);
            let n = self._keys.len() as i32;
            pg_sys::index_rescan(self.scan, self._keys.as_mut_ptr(), n, std::ptr::null_mut(), 0);
        }
    }

    /// A scan that is kept, started over with other keys for the same columns; at first a new one.
    pub fn kept<'s>(
        kept: &'s mut Option<IndexScan<'r>>,
        heap: &'r Relation,
        index: Index,
        snapshot: Snapshot,
        keys: &[Key<'_>],
        backward: bool,
    ) -> &'s mut IndexScan<'r> {
        if let Some(scan) = kept {
            scan.again(keys);
        }
        kept.get_or_insert_with(|| IndexScan::new(heap, index, snapshot, keys, backward))
    }

    fn direction(&self) -> pg_sys::ScanDirection::Type {
        match self.backward {
            true => pg_sys::ScanDirection::BackwardScanDirection,
            false => pg_sys::ScanDirection::ForwardScanDirection,
        }
    }

    /// The next row; it lives until the next call.
    pub fn next_row(&mut self) -> Option<Row<'_>> {
        // SAFETY: the scan is running; the slot is its own.
        unsafe {
            if !pg_sys::index_getnext_slot(self.scan, self.direction(), self.slot) {
                return None;
            }
            pg_sys::slot_getallattrs(self.slot);
        }
        Some(Row { slot: self.slot, _scan: PhantomData })
    }

    /// The scan, begun again, for [`IndexScan::next_where`].
    pub fn reading_entries(mut self) -> Self {
        // SAFETY: the scan is running; what a btree needs for its entries it gets when the scan begins again.
        unsafe {
            (*self.scan).xs_want_itup = true;
            let n = self._keys.len() as i32;
            pg_sys::index_rescan(self.scan, self._keys.as_mut_ptr(), n, std::ptr::null_mut(), 0);
        }
        self
    }

    /// The next row whose entry in the index has a wanted bigint in a column, from 1. Rows of other entries are not fetched:
    /// to pass one costs a few hundredths of looking one up.
    pub fn next_where(&mut self, column: usize, mut wanted: impl FnMut(i64) -> bool) -> Option<Row<'_>> {
        let mut values = [Datum::from(0usize); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the scan is running and brings entries; the slot is its own.
        unsafe {
            loop {
                if pg_sys::index_getnext_tid(self.scan, self.direction()).is_null() {
                    return None;
                }
                let (entry, desc) = ((*self.scan).xs_itup, (*self.scan).xs_itupdesc);
                pg_sys::index_deform_tuple(entry, desc, values.as_mut_ptr(), nulls.as_mut_ptr());
                if wanted(values[column - 1].value() as i64) && pg_sys::index_fetch_heap(self.scan, self.slot) {
                    break;
                }
            }
            pg_sys::slot_getallattrs(self.slot);
        }
        Some(Row { slot: self.slot, _scan: PhantomData })
    }

    /// The row that [`IndexScan::next_row`] gave last, which must have been one.
    pub fn current(&self) -> Row<'_> {
        Row { slot: self.slot, _scan: PhantomData }
    }
}

impl Drop for IndexScan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: all three were made by `new`.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_endscan(self.scan);
                pg_sys::index_close(self.index, pg_sys::NoLock as i32);
            }
        }
    }
}

/// A row under a scan. Columns are asked for by number from 1 and must have the type that is asked for.
pub struct Row<'s> {
    slot: *mut pg_sys::TupleTableSlot,
    _scan: PhantomData<&'s ()>,
}

impl Row<'_> {
    pub(super) fn datum(&self, attno: usize) -> Option<Datum> {
        // SAFETY: all attributes have been fetched; our tables have as many.
        unsafe {
            assert!(attno >= 1 && attno <= (*self.slot).tts_nvalid as usize);
            (!*(*self.slot).tts_isnull.add(attno - 1)).then(|| *(*self.slot).tts_values.add(attno - 1))
        }
    }

    /// Is there nothing?
    pub fn is_null(&self, attno: usize) -> bool {
        self.datum(attno).is_none()
    }

    /// A bigint (or xid8).
    pub fn i64(&self, attno: usize) -> i64 {
        self.datum(attno).expect("NOT NULL").value() as i64
    }

    /// A bigint or NULL.
    pub fn opt_i64(&self, attno: usize) -> Option<i64> {
        self.datum(attno).map(|datum| datum.value() as i64)
    }

    /// An OID or regclass.
    pub fn oid(&self, attno: usize) -> Oid {
        Oid::from(self.datum(attno).expect("NOT NULL").value() as u32)
    }

    /// A name or NULL.
    pub fn name(&self, attno: usize) -> Option<String> {
        // SAFETY: a name is NUL-terminated; the slot keeps the row.
        self.datum(attno).map(|d| unsafe { CStr::from_ptr(d.cast_mut_ptr()) }.to_string_lossy().into_owned())
    }

    /// An integer.
    pub fn i32(&self, attno: usize) -> i32 {
        self.datum(attno).expect("NOT NULL").value() as i32
    }

    /// A boolean.
    pub fn bool(&self, attno: usize) -> bool {
        self.datum(attno).expect("NOT NULL").value() != 0
    }

    /// A bytea or text, detoasted; `None` for NULL.
    pub fn bytes(&self, attno: usize) -> Option<Vec<u8>> {
        self.datum(attno).map(super::datum::varlena_bytes)
    }

    /// What `body` makes of a bytea or text, which is not copied where it lies in the row; `None` for NULL.
    pub fn with_bytes<R>(&self, attno: usize, body: impl FnOnce(&[u8]) -> R) -> Option<R> {
        // SAFETY: the columns that are asked for are varlenas; the slot keeps the row.
        self.datum(attno).map(|datum| unsafe { super::datum::with_varlena(datum, body) })
    }

    /// A text.
    pub fn text(&self, attno: usize) -> Option<String> {
        self.bytes(attno).map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    /// Deletes the row. Nobody else may be about to.
    pub fn delete(&self, rel: &Relation) {
        // SAFETY: the slot holds a row of this relation, which is open with a lock that allows writing.
        unsafe { pg_sys::simple_heap_delete(rel.raw, &raw mut (*self.slot).tts_tid) }
    }

    /// The transaction that wrote the row; `FrozenTransactionId` (2) when that was so long ago that the number may have
    /// been used again.
    pub fn xmin(&self) -> u32 {
        // SAFETY: the slot of a heap scan holds a heap tuple; it is not copied and stays with the slot.
        unsafe {
            let mut copied = false;
            let header = (*pg_sys::ExecFetchSlotHeapTuple(self.slot, false, &mut copied)).t_data;
            let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
            if (*header).t_infomask & frozen == frozen {
                return pg_sys::FrozenTransactionId.into_inner();
            }
            (*header).t_choice.t_heap.t_xmin.into_inner()
        }
    }
}

unsafe fn memory_context(parent: pg_sys::MemoryContext) -> pg_sys::MemoryContext {
    // SAFETY: the parent is alive.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            parent,
            c"crdt_db".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}

/// Memory for what is allocated while a row is looked at; emptied every few rows, and when it is much. Rows themselves must
/// be fetched outside: a slot frees its tuple itself.
pub struct RowMemory {
    /// Null before the second row: the only one of a statement does with the memory that is current.
    context: pg_sys::MemoryContext,
    parent: pg_sys::MemoryContext,
    rows: usize,
}

/// Rows between two emptyings, at most, and bytes.
const ROWS_A_RESET: usize = 256;
const BYTES_A_RESET: usize = 1 << 20;

impl RowMemory {
    /// A fresh context below the current one, made when there is more than one row.
    #[allow(clippy::new_without_default)]
    pub fn new() -> RowMemory {
        // SAFETY: the current context lives at least as long as this statement.
        RowMemory { context: std::ptr::null_mut(), parent: unsafe { pg_sys::CurrentMemoryContext }, rows: 0 }
    }

    fn make(&mut self) {
        // SAFETY: as in `new`.
        self.context = unsafe { memory_context(self.parent) };
    }

    /// Runs `body` for one row; nothing that it allocates from PostgreSQL may be kept.
    pub fn row<R>(&mut self, body: impl FnOnce() -> R) -> R {
        struct Back(pg_sys::MemoryContext);
        impl Drop for Back {
            fn drop(&mut self) {
                // SAFETY: the context that was current before.
                unsafe { pg_sys::CurrentMemoryContext = self.0 }
            }
        }
        if self.rows == 1 && self.context.is_null() {
            self.make();
        }
        self.rows += 1;
        if self.context.is_null() {
            return body();
        }
        // SAFETY: ours; nothing allocated for earlier rows is kept.
        let _back = unsafe {
            if self.rows.is_multiple_of(ROWS_A_RESET) || (*self.context).mem_allocated > BYTES_A_RESET {
                pg_sys::MemoryContextReset(self.context);
            }
            let back = Back(pg_sys::CurrentMemoryContext);
            pg_sys::CurrentMemoryContext = self.context;
            back
        };
        body()
    }
}

/// Runs `body` with memory of its own: what it allocates from PostgreSQL is gone afterwards.
pub fn in_scratch_memory<R>(body: impl FnOnce() -> R) -> R {
    let mut memory = RowMemory::new();
    memory.make();
    memory.row(body)
}

impl Drop for RowMemory {
    fn drop(&mut self) {
        if !self.context.is_null() && !std::thread::panicking() {
            // SAFETY: ours. While an error is on its way PostgreSQL resets contexts itself.
            unsafe { pg_sys::MemoryContextDelete(self.context) }
        }
    }
}

/// The next value of a sequence; not undone by a rollback.
pub fn next_value(sequence: Oid) -> i64 {
    // SAFETY: no permission check, as for an identity column.
    unsafe { super::unbound::nextval(sequence) }
}
