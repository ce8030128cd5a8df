//! What the extension's own tables say, and what it remembers of them. Nothing is remembered by a bare OID for longer
//! than the relation cache vouches for it.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys::Oid;
use rustc_hash::FxHashMap;

use crate::error::{Error, Result, state};
use crate::pg::relation::{self, Cmp, Field, Index, IndexScan, Inserter, Lock, Relation, Row, Snapshot};
use crate::pg::spi::{self, Param};
use crate::pg::types::{self, Column};
use crate::pg::{datum, entry, inval, shmem};
use crate::rows;

/// The extension's own relations.
pub struct Names {
    /// Who owns them: whose rights internal statements have.
    pub owner: Oid,
    pub doc: Oid,
    pub doc_pkey: Index,
    pub doc_name: Index,
    pub tracked: Oid,
    pub tracked_pkey: Index,
    pub tracked_alias: Index,
    pub peer: Oid,
    pub peer_pkey: Index,
    pub peer_name: Index,
    pub peer_seq: Oid,
    pub run: Oid,
    pub run_pkey: Index,
    pub span: Oid,
    pub span_pkey: Index,
    pub tail: Oid,
    pub tail_pkey: Index,
    pub key: Oid,
    pub key_pkey: Index,
    pub page: Oid,
    pub page_pkey: Index,
    pub merge: Oid,
    pub merge_pkey: Index,
    pub page_seq: Oid,
}

impl Names {
    fn tables(&self) -> [Oid; 9] {
        [self.doc, self.tracked, self.peer, self.run, self.span, self.tail, self.key, self.page, self.merge]
    }
}

/// A doc's line in `crdt.doc`.
pub struct Doc {
    /// Its number.
    pub doc: i64,
    /// Its name.
    pub name: Option<String>,
    /// What its own peers' names start with.
    pub peer: String,
}

impl Doc {
    /// Is this the name of a peer that this doc's hub writes as, in this incarnation or a former one?
    pub fn is_own_peer(&self, name: &str) -> bool {
        let rest = name.strip_prefix(self.peer.as_str()).and_then(|rest| rest.strip_prefix(':'));
        let Some((incarnation, slot)) = rest.and_then(|rest| rest.split_once(':')) else { return false };
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        incarnation.len() == 13
            && incarnation.bytes().all(hex)
            && !slot.is_empty()
            && slot.bytes().all(|b| b.is_ascii_digit())
    }
}

/// A tracked table, or a partition of one, as capture and apply need it.
#[derive(Clone)]
pub struct Table {
    /// The tracked relation: itself, or the partitioned ancestor.
    pub root: Oid,
    /// Name on the wire.
    pub alias: String,
    /// The doc its rows belong to; `None`: see `doc_column`.
    pub doc: Option<i64>,
    /// Index in `columns` of the column that names each row's doc.
    pub doc_column: Option<usize>,
    /// Live columns that are not generated.
    pub columns: Vec<Column>,
    /// Indices in `columns` of the key, in the key's order.
    pub key: Vec<usize>,
    /// OLD and NEW of an UPDATE may run out of step.
    pub partitioned: bool,
    /// `"schema"."name"` of the root.
    pub sql_name: String,
}

impl Table {
    /// Columns of `other`, given by index there, as indices here; by name.
    pub fn reindex(&self, other: &Table, indices: &[usize]) -> Vec<usize> {
        let find = |i: &usize| self.columns.iter().position(|c| c.name == other.columns[*i].name);
        indices.iter().filter_map(find).collect()
    }

    /// Is what is known of it doubtful when this relation has changed?
    fn depends_on(&self, relid: u32) -> bool {
        self.root.to_u32() == relid || self.columns.iter().any(|c| c.ty.is_made_of(relid))
    }

    /// Does the key hold this column?
    pub fn is_key(&self, name: &str) -> bool {
        self.key.iter().any(|k| self.columns[*k].name == name)
    }

    /// The key column's texts of a row id. Errors with CR021 unless it is spelled as the database spells it: two spellings would
    /// be two rows of the log and one of the table.
    pub fn key_texts(&self, row_id: &str) -> Result<Vec<String>> {
        let bad =
            |what: String| Error::new(state::VALUE, format!("row id \"{row_id}\" of table \"{}\": {what}", self.alias));
        let texts: Vec<String> = if self.key.len() == 1 {
            vec![row_id.to_owned()]
        } else {
            serde_json::from_str(row_id).map_err(|_| {
                bad(format!("not a JSON array of {} texts, the composite key's columns", self.key.len()))
            })?
        };
        if texts.len() != self.key.len() {
            return Err(bad(format!("{} values for {} key columns", texts.len(), self.key.len())));
        }
        for (text, key) in texts.iter().zip(&self.key) {
            let column = &self.columns[*key];
            if datum::is_canonical_key(column, text) {
                continue;
            }
            let place = || format!("In column \"{}\" of row \"{row_id}\" of table \"{}\".", column.name, self.alias);
            let canonical = entry::explain(|| datum::canonical_key(column, text), place)?;
            if canonical != *text {
                return Err(bad(format!("key column \"{}\" must be written as \"{canonical}\"", column.name))
                    .hint("Two spellings of one key would be two rows elsewhere."));
            }
        }
        if texts.len() > 1 {
            let canonical = rows::join_key(&texts);
            if canonical != row_id {
                return Err(bad(format!("must be written as \"{canonical}\""))
                    .hint("A composite key is written without blanks and needless escapes, as JSON.stringify does."));
            }
        }
        Ok(texts)
    }
}

thread_local! {
    static NAMES: RefCell<Option<Rc<Names>>> = const { RefCell::new(None) };
    static DOCS: RefCell<FxHashMap<i64, Rc<Doc>>> = RefCell::new(FxHashMap::default());
    static TABLES: RefCell<FxHashMap<u32, Option<Rc<Table>>>> = RefCell::new(FxHashMap::default());
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    static LOG: Cell<u32> = const { Cell::new(0) };
}

/// Forgets what invalidation messages have made doubtful.
fn refresh() {
    inval::drain(|relid| {
        if relid == 0 {
            forget();
            return;
        }
        let ours =
            NAMES.with_borrow(|n| n.as_ref().is_some_and(|n| n.run.to_u32() == relid || n.doc.to_u32() == relid));
        if ours {
            forget();
        } else if inval::is_watched(relid) {
            NAMES.set(None);
        } else {
            TABLES.with_borrow_mut(|t| {
                // A partition's line depends on its root, and all on the composite types of their columns.
                t.retain(|key, table| *key != relid && table.as_ref().is_none_or(|t| !t.depends_on(relid)));
            });
        }
    });
}

/// Forgets everything: after an abort, or when the extension was dropped.
pub fn forget() {
    NAMES.set(None);
    DOCS.with_borrow_mut(FxHashMap::clear);
    TABLES.with_borrow_mut(FxHashMap::clear);
    GENERATION.set(GENERATION.get() + 1);
}

/// The extension's relations. Errors with 55000 where it is not installed.
pub fn names() -> Result<Rc<Names>> {
    refresh();
    if let Some(names) = NAMES.with_borrow(Clone::clone) {
        return Ok(names);
    }
    let missing = || Error::new(state::NOT_PREREQUISITE, "extension crdt_db is not installed in this database");
    let schema = relation::find_schema(c"crdt").ok_or_else(missing)?;
    let find = |name: &CStr| relation::find_relation(schema, name).ok_or_else(missing);
    let index = |name: &'static CStr| Index::find(schema, name).ok_or_else(missing);
    let doc = find(c"doc")?;
    let names = Rc::new(Names {
        owner: Relation::open(doc, Lock::AccessShare).owner(),
        doc,
        doc_pkey: index(c"doc_pkey")?,
        doc_name: index(c"doc_name_key")?,
        tracked: find(c"tracked_table")?,
        tracked_pkey: index(c"tracked_table_pkey")?,
        tracked_alias: index(c"tracked_table_alias_doc_key")?,
        peer: find(c"peer")?,
        peer_pkey: index(c"peer_pkey")?,
        peer_name: index(c"peer_doc_name_key")?,
        peer_seq: find(c"peer_peer_seq")?,
        run: find(c"event_run")?,
        run_pkey: index(c"event_run_pkey")?,
        span: find(c"event_span")?,
        span_pkey: index(c"event_span_pkey")?,
        tail: find(c"event_tail")?,
        tail_pkey: index(c"event_tail_pkey")?,
        key: find(c"event_key")?,
        key_pkey: index(c"event_key_pkey")?,
        page: find(c"event_key_page")?,
        page_pkey: index(c"event_key_page_pkey")?,
        merge: find(c"event_key_merge")?,
        merge_pkey: index(c"event_key_merge_pkey")?,
        page_seq: find(c"page_set")?,
    });
    inval::watch(names.tables().map(Oid::to_u32).to_vec());
    LOG.set(names.run.to_u32());
    NAMES.set(Some(names.clone()));
    Ok(names)
}

/// The log's OID as [`names`] found it last: also for the end of a transaction, when the catalog cannot be asked.
pub fn log_oid() -> u32 {
    LOG.get()
}

/// The doc of this number. Errors with 42704.
pub fn doc(doc: i64) -> Result<Rc<Doc>> {
    let names = names()?;
    if let Some(found) = DOCS.with_borrow(|d| d.get(&doc).cloned()) {
        return Ok(found);
    }
    let rel = Relation::open(names.doc, Lock::AccessShare);
    let mut scan = IndexScan::new(&rel, names.doc_pkey, Snapshot::Committed, &[(1, Cmp::Eq, Field::I64(doc))], false);
    let Some(row) = scan.next_row() else {
        return Err(Error::new(state::UNDEFINED_OBJECT, format!("doc {doc} does not exist"))
            .hint("See crdt.docs, or make one with crdt.create_doc(peer_id, name)."));
    };
    let found = Rc::new(Doc { doc, name: row.text(2), peer: row.text(3).unwrap_or_default() });
    DOCS.with_borrow_mut(|d| d.insert(doc, found.clone()));
    Ok(found)
}

/// May notifications about a doc say what changed? Not remembered: nobody is told when it is set. No where there is no doc:
/// one that is not committed yet may forbid it.
pub fn shows_payload(doc: i64) -> Result<bool> {
    let names = names()?;
    let rel = Relation::open(names.doc, Lock::AccessShare);
    let mut scan = IndexScan::new(&rel, names.doc_pkey, Snapshot::Committed, &[(1, Cmp::Eq, Field::I64(doc))], false);
    Ok(scan.next_row().is_some_and(|row| row.bool(6)))
}

/// The first so many docs whose numbers are greater, ascending.
pub fn docs_after(after: i64, most: i64) -> Result<Vec<i64>> {
    spi::connect(|c| {
        let sql = "SELECT doc FROM crdt.doc WHERE doc > $1 ORDER BY doc LIMIT $2";
        let rows = c.run(sql, &[Param::i64(after), Param::i64(most)], true)?;
        Ok((0..rows.len()).filter_map(|row| rows.i64(row, 1)).collect())
    })
}

/// The doc of this name, if there is one.
pub fn find_doc(name: &str) -> Result<Option<i64>> {
    let names = names()?;
    let rel = Relation::open(names.doc, Lock::AccessShare);
    let mut scan = IndexScan::new(&rel, names.doc_name, Snapshot::Committed, &[(1, Cmp::Eq, Field::Text(name))], false);
    Ok(scan.next_row().map(|row| row.i64(1)))
}

/// The doc of this name, made at need. Its peer is `hub-` and a random number: two databases that never heard of each
/// other must be able to exchange what they hold.
pub fn ensure_doc(name: &str) -> Result<i64> {
    if let Some(doc) = find_doc(name)? {
        return Ok(doc);
    }
    let names = names()?;
    spi::as_role(names.owner, || {
        spi::connect(|c| {
            let rows = c.run(
                "INSERT INTO crdt.doc (name, peer) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING doc",
                &[Param::text(name), Param::text(&format!("hub-{:08x}", shmem::random() as u32))],
                false,
            )?;
            if !rows.is_empty() {
                return Ok(rows.i64(0, 1).expect("a key"));
            }
            find_doc(name)?.ok_or_else(|| Error::new(state::INTERNAL, format!("doc \"{name}\" vanished")))
        })
    })
}

/// The number of a peer of a doc, if the doc knows it.
pub fn find_peer(doc: i64, name: &str) -> Result<Option<i32>> {
    let names = names()?;
    let rel = Relation::open(names.peer, Lock::AccessShare);
    let keys = [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::Text(name))];
    let mut scan = IndexScan::new(&rel, names.peer_name, Snapshot::Committed, &keys, false);
    Ok(scan.next_row().map(|row| row.i32(1)))
}

/// The number of a peer of a doc, made at need. The caller holds a lock that keeps others from making the same one.
pub fn ensure_peer(doc: i64, name: &str, owner: Option<&str>) -> Result<i32> {
    if let Some(peer) = find_peer(doc, name)? {
        return Ok(peer);
    }
    let names = names()?;
    let rel = Relation::open(names.peer, Lock::RowExclusive);
    let peer = i32::try_from(relation::next_value(names.peer_seq))
        .map_err(|_| Error::new(state::LIMIT, "more than 2147483647 peers in this database"))?;
    Inserter::new(&rel).insert(&[
        Field::I32(peer),
        Field::I64(doc),
        Field::Text(name),
        owner.map_or(Field::Null, Field::Text),
    ]);
    Ok(peer)
}

/// A peer's name by its number.
pub fn peer_name(peer: i32) -> Result<String> {
    let name = with_peer(peer, |row| row.text(3).unwrap_or_default())?;
    name.ok_or_else(|| Error::new(state::CORRUPT, format!("the log names peer {peer}, which crdt.peer does not have")))
}

/// The role that owns a peer, if one does.
pub fn peer_owner(peer: i32) -> Result<Option<String>> {
    Ok(with_peer(peer, |row| row.text(4))?.flatten())
}

/// Is there a peer of this number?
pub fn has_peer(peer: i32) -> Result<bool> {
    Ok(with_peer(peer, |_| ())?.is_some())
}

fn with_peer<R>(peer: i32, body: impl FnOnce(Row<'_>) -> R) -> Result<Option<R>> {
    let names = names()?;
    let rel = Relation::open(names.peer, Lock::AccessShare);
    let mut scan = IndexScan::new(&rel, names.peer_pkey, Snapshot::Committed, &[(1, Cmp::Eq, Field::I32(peer))], false);
    Ok(scan.next_row().map(body))
}

/// The tracked table that `relid` is or is a partition of, if any.
pub fn table(relid: Oid) -> Result<Option<Rc<Table>>> {
    refresh();
    if let Some(found) = TABLES.with_borrow(|t| t.get(&relid.to_u32()).cloned()) {
        return Ok(found);
    }
    let generation = GENERATION.get();
    let loaded = load_table(relid)?.map(Rc::new);
    if generation == GENERATION.get() {
        TABLES.with_borrow_mut(|t| t.insert(relid.to_u32(), loaded.clone()));
    }
    Ok(loaded)
}

/// The same; an error with its own state when the table is not tracked.
pub fn tracked(relid: Oid) -> Result<Rc<Table>> {
    if let Some(table) = table(relid)? {
        return Ok(table);
    }
    relation::check_exists(relid)?;
    let name = Relation::open(relid, Lock::AccessShare).sql_name();
    Err(Error::new(state::NOT_TRACKED, format!("table {name} is not tracked"))
        .hint("Start with SELECT crdt.track('schema.table')."))
}

/// The table tracked under a name in a doc, or in all docs by a column.
pub fn table_by_alias(doc: i64, alias: &str) -> Result<Option<Oid>> {
    let names = names()?;
    let rel = Relation::open(names.tracked, Lock::AccessShare);
    let keys = [(1, Cmp::Eq, Field::Text(alias))];
    let mut scan = IndexScan::new(&rel, names.tracked_alias, Snapshot::Committed, &keys, false);
    let mut routed = None;
    while let Some(row) = scan.next_row() {
        match row.opt_i64(3) {
            Some(of) if of == doc => return Ok(Some(row.oid(1))),
            Some(_) => {}
            None => routed = Some(row.oid(1)),
        }
    }
    Ok(routed)
}

fn load_table(relid: Oid) -> Result<Option<Table>> {
    let names = names()?;
    let root = types::partition_root(relid);
    let (alias, doc, doc_column) = {
        let rel = Relation::open(names.tracked, Lock::AccessShare);
        let keys = [(1, Cmp::Eq, Field::Oid(root))];
        let mut scan = IndexScan::new(&rel, names.tracked_pkey, Snapshot::Committed, &keys, false);
        let Some(row) = scan.next_row() else { return Ok(None) };
        (row.text(2).unwrap_or_default(), row.opt_i64(3), row.name(4))
    };
    let root_rel = Relation::open(root, Lock::AccessShare);
    let rel = Relation::open(relid, Lock::AccessShare);
    let key_names = types::primary_key(&root_rel)?.ok_or_else(|| no_key(&root_rel))?;
    let columns = types::columns(&rel);
    let find = |name: &str| {
        columns.iter().position(|c| c.name == *name).ok_or_else(|| {
            Error::new(state::CORRUPT, format!("table {} has no column \"{name}\" any more", rel.sql_name()))
        })
    };
    let key = key_names.iter().map(|n| find(n)).collect::<Result<Vec<_>>>()?;
    let doc_column = doc_column.as_deref().map(find).transpose()?;
    Ok(Some(Table {
        root,
        alias,
        doc,
        doc_column,
        key,
        partitioned: rel.kind() == b'p',
        sql_name: root_rel.sql_name(),
        columns,
    }))
}

/// A table without a primary key cannot be tracked.
pub fn no_key(rel: &Relation) -> Error {
    Error::new(state::NO_KEY, format!("table {} has no primary key", rel.sql_name())).hint(
        "Rows are named by their key: add one with ALTER TABLE ... ADD PRIMARY KEY, for example over a new column \
         \"id uuid DEFAULT gen_random_uuid()\".",
    )
}
