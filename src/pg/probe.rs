//! Is somebody inserting this key at the moment?

use pgrx::pg_sys::{self, Datum, Oid};

use super::datum;
use super::relation::{Lock, Relation};
use crate::error::{Error, Result, state};

/// The transaction that has a row of this key on its way (or is deleting one), in the table or any of its partitions.
pub fn key_in_progress(table: Oid, key: &[String]) -> Result<Option<u32>> {
    for leaf in leaves(table) {
        if let Some(xid) = probe(leaf, key)? {
            return Ok(Some(xid));
        }
    }
    Ok(None)
}

fn leaves(table: Oid) -> Vec<Oid> {
    // SAFETY: a catalog look-up; the list has the table itself first.
    unsafe {
        if pg_sys::get_rel_relkind(table) as u8 != b'p' {
            return vec![table];
        }
        let list = super::unbound::inheritors(table);
        let all = (0..(*list).length).map(|i| pg_sys::list_nth_oid(list, i));
        all.filter(|oid| pg_sys::get_rel_relkind(*oid) as u8 == b'r').collect()
    }
}

fn probe(leaf: Oid, key: &[String]) -> Result<Option<u32>> {
    let rel = Relation::open(leaf, Lock::AccessShare);
    // SAFETY: the relation and its key's index are open while they are scanned; keys are built for the index's own
    // operator classes; the dirty snapshot lives on this frame.
    unsafe {
        let raw = rel.as_ptr();
        pg_sys::list_free(pg_sys::RelationGetIndexList(raw));
        let index_oid = (*raw).rd_pkindex;
        if index_oid == pg_sys::InvalidOid {
            return Err(Error::new(state::NO_KEY, format!("table {} has lost its primary key", rel.sql_name())));
        }
        let index = pg_sys::index_open(index_oid, pg_sys::AccessShareLock as i32);
        let mut keys = Vec::with_capacity(key.len());
        for (i, text) in key.iter().enumerate() {
            keys.push(key_of(index, i, text)?);
        }
        let mut dirty: pg_sys::SnapshotData = std::mem::zeroed();
        dirty.snapshot_type = pg_sys::SnapshotType::SNAPSHOT_DIRTY;
        let n = keys.len() as i32;
        #[cfg(not(feature = "pg18"))]
        let scan = pg_sys::index_beginscan(raw, index, &mut dirty, n, 0);
        #[cfg(feature = "pg18")]
        let scan = pg_sys::index_beginscan(raw, index, &mut dirty, std::ptr::null_mut(), n, 0);
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), n, std::ptr::null_mut(), 0);
        let slot = pg_sys::table_slot_create(raw, std::ptr::null_mut());
        let mut found = None;
        while found.is_none() && pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
            let xids = [dirty.xmin, dirty.xmax].map(pg_sys::TransactionId::into_inner);
            found = xids.into_iter().find(|xid| *xid != 0);
        }
        pg_sys::index_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::index_close(index, pg_sys::NoLock as i32);
        Ok(found)
    }
}

/// SAFETY: `index` must be an open btree with more than `i` key columns.
unsafe fn key_of(index: pg_sys::Relation, i: usize, text: &str) -> Result<pg_sys::ScanKeyData> {
    // SAFETY: the caller's promise.
    unsafe {
        let family = *(*index).rd_opfamily.add(i);
        let input = *(*index).rd_opcintype.add(i);
        let collation = *(*index).rd_indcollation.add(i);
        let attribute = super::types::attribute_type(index, i);
        let equal = pg_sys::get_opfamily_member(family, input, input, pg_sys::BTEqualStrategyNumber as i16);
        let mut key = pg_sys::ScanKeyData::default();
        let value: Datum = datum::input_datum(attribute, text)?;
        pg_sys::ScanKeyEntryInitialize(
            &mut key,
            0,
            i as i16 + 1,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::InvalidOid,
            collation,
            pg_sys::get_opcode(equal),
            value,
        );
        Ok(key)
    }
}
