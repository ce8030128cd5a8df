//! What the catalog says of a table: columns, key, ancestry.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Oid};

use super::relation::Relation;
use crate::error::{Error, Result, state};

/// How values of a type travel (docs/format.md, "Values").
#[derive(Clone, Debug, PartialEq)]
pub enum Conv {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// text, varchar, bpchar, name: the bytes as they are.
    Text,
    Json,
    Jsonb,
    /// An array of a type that is none of json, jsonb, composite.
    Array {
        elem: Box<TypeInfo>,
    },
    /// A composite type: its live attributes, and the relation that has them.
    Composite {
        relid: Oid,
        fields: Vec<(String, TypeInfo)>,
    },
    /// Anything else: the type's text form under pinned settings.
    Out {
        output: Oid,
    },
}

/// A type and how it is handled.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeInfo {
    /// The type itself (a domain stays a domain).
    pub oid: Oid,
    /// The type below all domains.
    pub base: Oid,
    /// Length of the base type, for arrays.
    pub len: i16,
    /// Passed by value, for arrays.
    pub by_value: bool,
    /// Alignment, for arrays.
    pub align: i8,
    /// How values travel.
    pub conv: Conv,
}

/// One live, not generated column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Attribute number, from 1.
    pub attno: i16,
    /// Name.
    pub name: String,
    /// Type.
    pub ty: TypeInfo,
    /// Type modifier.
    pub typmod: i32,
    /// GENERATED ALWAYS AS IDENTITY.
    pub identity_always: bool,
}

/// Types that are shown as names of objects.
const NAMING_TYPES: [Oid; 9] = [
    pg_sys::REGCLASSOID,
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGTYPEOID,
    pg_sys::REGCONFIGOID,
    pg_sys::REGDICTIONARYOID,
    pg_sys::REGCOLLATIONOID,
];

impl TypeInfo {
    /// Reads the catalog for `oid`.
    pub fn of(oid: Oid) -> TypeInfo {
        // SAFETY: syscache look-ups by OID; an unknown OID raises an error, which pgrx turns into a panic.
        unsafe {
            let base = pg_sys::getBaseType(oid);
            let (mut len, mut by_value, mut align) = (0i16, false, 0i8);
            pg_sys::get_typlenbyvalalign(base, &mut len, &mut by_value, &mut align);
            TypeInfo { oid, base, len, by_value, align, conv: Conv::of(base) }
        }
    }

    /// Does what is known of it depend on the attributes of this relation?
    pub fn is_made_of(&self, relid: u32) -> bool {
        let Conv::Composite { relid: own, fields } = &self.conv else { return false };
        own.to_u32() == relid || fields.iter().any(|(_, field)| field.is_made_of(relid))
    }

    /// What stands between elements of this type in an array's text.
    pub fn delimiter(&self) -> char {
        let (mut len, mut by_value, mut align, mut delimiter) = (0i16, false, 0, 0);
        let (mut param, mut function) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        // SAFETY: a syscache look-up by OID.
        unsafe {
            pg_sys::get_type_io_data(
                self.oid,
                pg_sys::IOFuncSelector::IOFunc_input,
                &mut len,
                &mut by_value,
                &mut align,
                &mut delimiter,
                &mut param,
                &mut function,
            );
        }
        char::from(delimiter as u8)
    }

    /// Does the text form depend on `search_path`?
    pub fn names_objects(&self) -> bool {
        NAMING_TYPES.contains(&self.base)
    }

    /// Does a cast from text do something else than the type's input function? That of regclass refuses `-`, and somebody's
    /// `CREATE CAST` may do anything.
    pub fn has_cast_of_its_own(&self) -> bool {
        if self.base.to_u32() < pg_sys::FirstNormalObjectId {
            return self.base == pg_sys::REGCLASSOID;
        }
        let mut function = pg_sys::InvalidOid;
        let explicit = pg_sys::CoercionContext::COERCION_EXPLICIT;
        // SAFETY: a syscache look-up.
        let path = unsafe { pg_sys::find_coercion_pathway(self.base, pg_sys::TEXTOID, explicit, &mut function) };
        path != pg_sys::CoercionPathType::COERCION_PATH_COERCEVIAIO
    }

    /// `schema.type`, quoted, without modifiers.
    pub fn sql_name(oid: Oid) -> String {
        // SAFETY: as above; format_type_extended returns a fresh NUL-terminated string.
        unsafe {
            let flags = pg_sys::FORMAT_TYPE_FORCE_QUALIFY | pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN;
            let name = pg_sys::format_type_extended(oid, -1, flags as u16);
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

impl Conv {
    /// SAFETY: `base` must be a type's OID, below domains.
    unsafe fn of(base: Oid) -> Conv {
        match base {
            pg_sys::BOOLOID => Conv::Bool,
            pg_sys::INT2OID => Conv::Int2,
            pg_sys::INT4OID => Conv::Int4,
            pg_sys::INT8OID => Conv::Int8,
            pg_sys::FLOAT4OID => Conv::Float4,
            pg_sys::FLOAT8OID => Conv::Float8,
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Conv::Text,
            pg_sys::JSONOID => Conv::Json,
            pg_sys::JSONBOID => Conv::Jsonb,
            // SAFETY: the caller's promise.
            _ => unsafe {
                let elem = pg_sys::get_element_type(base);
                if elem != pg_sys::InvalidOid {
                    let elem = TypeInfo::of(elem);
                    if !matches!(elem.conv, Conv::Json | Conv::Jsonb | Conv::Composite { .. } | Conv::Array { .. }) {
                        return Conv::Array { elem: Box::new(elem) };
                    }
                } else if pg_sys::get_typtype(base) == pg_sys::TYPTYPE_COMPOSITE as i8 {
                    let relid = pg_sys::get_typ_typrelid(base);
                    return Conv::Composite { relid, fields: composite_fields(base) };
                }
                let (mut output, mut varlena) = (pg_sys::InvalidOid, false);
                pg_sys::getTypeOutputInfo(base, &mut output, &mut varlena);
                Conv::Out { output }
            },
        }
    }
}

/// SAFETY: `base` must be a composite type.
unsafe fn composite_fields(base: Oid) -> Vec<(String, TypeInfo)> {
    // SAFETY: the caller's promise; the descriptor is held while it is read.
    unsafe {
        let desc = pg_sys::lookup_rowtype_tupdesc_copy(base, -1);
        let fields = attributes(desc).map(|a| (attribute_name(a), TypeInfo::of(a.atttypid))).collect();
        pg_sys::FreeTupleDesc(desc);
        fields
    }
}

/// SAFETY: `desc` must live as long as the result.
unsafe fn attributes<'a>(desc: pg_sys::TupleDesc) -> impl Iterator<Item = &'a pg_sys::FormData_pg_attribute> {
    // SAFETY: pgrx reads the descriptor's attributes by its length.
    let n = unsafe { (*desc).natts } as usize;
    (0..n).map(move |i| unsafe { &*tuple_desc_attr(desc, i) }).filter(|a| !a.attisdropped)
}

unsafe fn tuple_desc_attr(desc: pg_sys::TupleDesc, i: usize) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller keeps `i` below natts.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        (*desc).attrs.as_ptr().add(i)
    }
    #[cfg(feature = "pg18")]
    unsafe {
        pg_sys::TupleDescAttr(desc, i as i32)
    }
}

fn attribute_name(a: &pg_sys::FormData_pg_attribute) -> String {
    // SAFETY: a name is NUL-terminated inside its 64 bytes.
    unsafe { CStr::from_ptr(a.attname.data.as_ptr()) }.to_string_lossy().into_owned()
}

/// The live columns that are not generated.
pub fn columns(rel: &Relation) -> Vec<Column> {
    // SAFETY: the relation is open, its descriptor lives as long.
    unsafe { attributes(rel.tuple_desc()) }
        .filter(|a| a.attgenerated == 0)
        .map(|a| Column {
            attno: a.attnum,
            name: attribute_name(a),
            ty: TypeInfo::of(a.atttypid),
            typmod: a.atttypmod,
            identity_always: a.attidentity as u8 == b'a',
        })
        .collect()
}

/// The names of the primary key's columns, in the key's order; `None` without a usable primary key. Errors with
/// [`state::UNTRACKABLE`] when the key is DEFERRABLE or a column's equality is not byte equality.
pub fn primary_key(rel: &Relation) -> Result<Option<Vec<String>>> {
    // SAFETY: the relation is open; the index list and the index are read under a lock on it.
    unsafe {
        let list = pg_sys::RelationGetIndexList(rel.as_ptr());
        pg_sys::list_free(list);
        let raw = rel.as_ptr();
        let pk = (*raw).rd_pkindex;
        if pk == pg_sys::InvalidOid {
            return if has_deferrable_key(rel.oid()) { Err(deferrable_key(rel)) } else { Ok(None) };
        }
        let index = pg_sys::index_open(pk, pg_sys::AccessShareLock as i32);
        let form = &*(*index).rd_index;
        // Newer servers count a deferrable key as the key.
        let deferrable = !form.indimmediate;
        let n = form.indnkeyatts as usize;
        let attnos: Vec<i16> = (0..n).map(|i| *form.indkey.values.as_ptr().add(i)).collect();
        let collations: Vec<Oid> = (0..n).map(|i| *(*index).rd_indcollation.add(i)).collect();
        pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
        if deferrable {
            return Err(deferrable_key(rel));
        }
        let columns = columns(rel);
        let mut names = Vec::with_capacity(n);
        for (attno, collation) in attnos.iter().zip(collations) {
            let Some(column) = columns.iter().find(|c| c.attno == *attno) else {
                return Err(Error::new(
                    state::UNTRACKABLE,
                    format!("primary key of table \"{}\" has a generated column", rel.name()),
                )
                .hint("A row's name must not be computed from other columns: use a key of ordinary columns."));
            };
            let hint = "Two spellings of one key would be two rows elsewhere: use an integer, text, uuid, date or timestamp key.";
            check_one_spelling(rel, "key column", column, collation, hint)?;
            names.push(column.name.clone());
        }
        Ok(Some(names))
    }
}

fn deferrable_key(rel: &Relation) -> Error {
    Error::new(state::UNTRACKABLE, format!("primary key of table \"{}\" is DEFERRABLE", rel.name()))
        .hint("Rows are named by their key, so it must hold at every statement: make it NOT DEFERRABLE.")
}

/// PostgreSQL 15 to 17 do not name a deferrable key as the relation's key.
fn has_deferrable_key(relid: Oid) -> bool {
    // SAFETY: a catalog look-up.
    unsafe { super::unbound::has_primary_key(relid) }
}

/// Errors with [`state::UNTRACKABLE`] when a column that is to name docs has equal values of different names: a row would be
/// found in another's doc. False when there is no such column, or it is generated.
pub fn check_doc_column(rel: &Relation, name: &str) -> Result<bool> {
    let Some(column) = columns(rel).into_iter().find(|c| c.name == name) else { return Ok(false) };
    // SAFETY: the relation is open and has the attribute.
    let collation = unsafe { (*tuple_desc_attr(rel.tuple_desc(), column.attno as usize - 1)).attcollation };
    let hint = "A row would be found under another doc's name: use an integer, text, uuid, date or timestamp column.";
    check_one_spelling(rel, "doc column", &column, collation, hint)?;
    Ok(true)
}

/// Types whose equal values have one text form.
const KEY_TYPES: [Oid; 18] = [
    pg_sys::BOOLOID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::INT8OID,
    pg_sys::TEXTOID,
    pg_sys::VARCHAROID,
    pg_sys::NAMEOID,
    pg_sys::CHAROID,
    pg_sys::UUIDOID,
    pg_sys::DATEOID,
    pg_sys::TIMEOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::BYTEAOID,
    pg_sys::INETOID,
    pg_sys::MACADDROID,
    pg_sys::MACADDR8OID,
    pg_sys::OIDOID,
];

fn check_one_spelling(rel: &Relation, what: &str, column: &Column, collation: Oid, hint: &'static str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::new(
            state::UNTRACKABLE,
            format!(
                "{what} \"{}\" of table \"{}\" has type {}, {why}",
                column.name,
                rel.name(),
                TypeInfo::sql_name(column.ty.oid)
            ),
        )
        .hint(hint))
    };
    // SAFETY: catalog look-ups.
    let is_enum = unsafe { pg_sys::get_typtype(column.ty.base) } == pg_sys::TYPTYPE_ENUM as i8;
    let padded = column.ty.base == pg_sys::BPCHAROID && column.typmod >= 0;
    if !is_enum && !padded && !KEY_TYPES.contains(&column.ty.base) {
        return refuse("whose equal values can be written in different ways");
    }
    // SAFETY: as above.
    if collation != pg_sys::InvalidOid && !unsafe { pg_sys::get_collation_isdeterministic(collation) } {
        return refuse("under a nondeterministic collation");
    }
    Ok(())
}

/// The partitioned ancestor furthest up, or the relation itself.
pub fn partition_root(relid: Oid) -> Oid {
    // SAFETY: catalog look-ups; the list of ancestors has the root last.
    unsafe {
        if !pg_sys::get_rel_relispartition(relid) {
            return relid;
        }
        let list = super::unbound::partition_ancestors(relid);
        let root = if list.is_null() { relid } else { pg_sys::list_nth_oid(list, (*list).length - 1) };
        pg_sys::list_free(list);
        root
    }
}

/// Runs `body` while this session takes the relation's columns GENERATED ALWAYS AS IDENTITY for BY DEFAULT ones.
pub(super) fn identity_by_default<R>(relid: Oid, body: impl FnOnce() -> R) -> R {
    struct Restore(Vec<*mut pg_sys::FormData_pg_attribute>);
    impl Drop for Restore {
        fn drop(&mut self) {
            for attribute in &self.0 {
                // SAFETY: the relation is open, and with it its descriptor stays.
                unsafe { (**attribute).attidentity = pg_sys::ATTRIBUTE_IDENTITY_ALWAYS as _ }
            }
        }
    }
    let rel = Relation::open(relid, super::relation::Lock::RowExclusive);
    // SAFETY: the descriptor is this session's own copy; nothing but the analysis of one statement sees the change.
    let restore = unsafe {
        let desc = (*rel.as_ptr()).rd_att;
        let attributes = (0..(*desc).natts as usize).map(|i| tuple_desc_attr(desc, i).cast_mut());
        Restore(attributes.filter(|a| (**a).attidentity as u8 == pg_sys::ATTRIBUTE_IDENTITY_ALWAYS).collect())
    };
    for attribute in &restore.0 {
        // SAFETY: as above.
        unsafe { (**attribute).attidentity = pg_sys::ATTRIBUTE_IDENTITY_BY_DEFAULT as _ }
    }
    let result = body();
    drop(restore);
    result
}

/// The base type of an attribute, counted from 0.
///
/// # Safety
/// `rel` must be open and have the attribute.
pub(super) unsafe fn attribute_type(rel: pg_sys::Relation, i: usize) -> Oid {
    // SAFETY: the caller's promise.
    unsafe { pg_sys::getBaseType((*tuple_desc_attr((*rel).rd_att, i)).atttypid) }
}
