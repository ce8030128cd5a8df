//! Docs and tracked tables: made, found, given up.

use std::rc::Rc;

use pgrx::pg_sys::Oid;

use crate::buffer;
use crate::catalog::{self, Table};
use crate::docstate;
use crate::error::{Error, Result, state};
use crate::flush;
use crate::generic;
use crate::pg::function::{Args, Out};
use crate::pg::lock::{self, Space};
use crate::pg::relation::{self, Lock, Relation, RowMemory, quote};
use crate::pg::spi::{self, Param};
use crate::pg::{self, datum, types, xact};
use crate::progress::{Progress, Step, Task};
use crate::rows;
use crate::store;

/// The doc of tables tracked without naming one.
const DEFAULT_DOC: &str = "default";
/// Bytes a peer's own name may have: the server appends to it.
const PEER_BYTES: usize = 200;

/// `crdt.preloaded()`: the extension cannot work without shared memory, nor with text that is not UTF8.
pub fn preloaded(_args: &Args<'_>) -> Result<Out> {
    if !docstate::ready() {
        return Err(flush::not_preloaded());
    }
    if !pg::database_is_utf8() {
        return Err(Error::new(state::NOT_SUPPORTED, "crdt_db needs a database with encoding UTF8")
            .hint("Create one with: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0."));
    }
    Ok(Out::Null)
}

/// `crdt.create_doc(peer_id, name)`
pub fn create_doc(args: &Args<'_>) -> Result<Out> {
    let peer = args.text(0, "peer_id")?;
    let name = args.opt_text(1, "name")?;
    if peer.is_empty() || peer.len() > PEER_BYTES || peer.contains(':') {
        return Err(Error::new(
            state::INVALID_PARAMETER,
            format!("peer_id \"{peer}\" must have 1 to {PEER_BYTES} bytes and no colon"),
        )
        .hint("This database writes as peer_id:incarnation:slot."));
    }
    if name.as_deref() == Some("") {
        return Err(Error::new(state::INVALID_PARAMETER, "a doc's name must not be empty")
            .hint("Leave it out for a doc that is found by its number."));
    }
    let owner = catalog::names()?.owner;
    let doc = spi::as_role(owner, || {
        spi::connect(|c| {
            let rows = c.run(
                "INSERT INTO crdt.doc (name, peer) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING doc",
                &[Param::opt_text(name.as_deref()), Param::text(&peer)],
                false,
            )?;
            Ok(if rows.is_empty() { None } else { rows.i64(0, 1) })
        })
    })?;
    doc.map(Out::I64).ok_or_else(|| {
        let name = name.unwrap_or_default();
        Error::new(crate::error::SqlState(b"42710"), format!("doc \"{name}\" already exists"))
            .hint("Find it with crdt.doc(name).")
    })
}

/// `crdt.doc(name)`
pub fn doc(args: &Args<'_>) -> Result<Out> {
    let name = args.text(0, "name")?;
    catalog::find_doc(&name)?.map(Out::I64).ok_or_else(|| {
        Error::new(state::UNDEFINED_OBJECT, format!("doc \"{name}\" does not exist"))
            .hint("See crdt.docs, or make it with crdt.create_doc(peer_id, name).")
    })
}

/// `crdt.track(tbl, doc, doc_column, alias)`
pub fn track(args: &Args<'_>) -> Result<Out> {
    let relid = args.oid(0, "tbl")?;
    let doc = args.opt_i64(1);
    let doc_column = args.opt_name(2);
    let alias = args.opt_text(3, "alias")?;
    check_owner(relid)?;
    let progress = Progress::begin(Task::Track, relid);
    // Pushes that took the name for one without a table end first.
    lock::lock(store::lock_class()?, 0, Space::Tables);
    let rel = Relation::open(relid, Lock::ShareRowExclusive);
    check_trackable(&rel)?;
    if catalog::table(relid)?.is_some() {
        return Err(Error::new(state::ALREADY_TRACKED, format!("table {} is already tracked", rel.sql_name())));
    }
    let doc = match (&doc_column, doc) {
        (Some(_), Some(_)) => {
            return Err(Error::new(state::INVALID_PARAMETER, "give either doc or doc_column, not both"));
        }
        (Some(column), None) => {
            check_doc_column(&rel, column)?;
            None
        }
        (None, Some(doc)) => Some(catalog::doc(doc)?.doc),
        (None, None) => Some(catalog::ensure_doc(DEFAULT_DOC)?),
    };
    let alias = alias.unwrap_or_else(|| default_alias(&rel));
    remember(&rel, doc, doc_column.as_deref(), &alias)?;
    attach_triggers(&rel)?;
    catalog::forget();
    let table = catalog::tracked(relid)?;
    adopt_rows(&table, &rel, &progress)?;
    generic::adopt(&table)?;
    Ok(doc.map_or(Out::Null, Out::I64))
}

fn default_alias(rel: &Relation) -> String {
    let (schema, name) = (rel.schema(), rel.name());
    if schema == "public" { name } else { format!("{schema}.{name}") }
}

/// Errors with 42501 unless the current user owns the table.
pub fn check_owner(relid: Oid) -> Result<()> {
    relation::check_exists(relid)?;
    if spi::owns_relation(relid) {
        return Ok(());
    }
    let name = Relation::open(relid, Lock::AccessShare).sql_name();
    Err(Error::new(state::PRIVILEGE, format!("must be owner of table {name}")))
}

/// Errors with CR019 or CR018 when a table cannot be tracked.
pub fn check_trackable(rel: &Relation) -> Result<()> {
    let refuse = |why: &str, hint: &'static str| {
        Err(Error::new(state::UNTRACKABLE, format!("{} {why}", rel.sql_name())).hint(hint))
    };
    if !matches!(rel.kind(), b'r' | b'p') {
        return refuse("is not a table", "Only ordinary and partitioned tables can be tracked.");
    }
    if rel.persistence() != b'p' {
        return refuse(
            "is a temporary or unlogged table",
            "Its rows would not outlive a crash, and the log would: ALTER TABLE ... SET LOGGED first.",
        );
    }
    if rel.schema() == "crdt" || rel.schema().starts_with("pg_") {
        return refuse("is a system table", "Track tables of the application.");
    }
    if rel.is_partition() {
        return refuse("is a partition", "Track the partitioned table: all its partitions are then tracked.");
    }
    if rel.kind() == b'r' && has_inheritance(rel)? {
        return refuse("has inheritance children or parents", "Their keys are not unique together: use partitions.");
    }
    if is_subscribed(rel)? {
        return refuse(
            "is the target of a subscription",
            "Logical replication fires row triggers only, so its writes could not be captured.",
        );
    }
    types::primary_key(rel)?.ok_or_else(|| catalog::no_key(rel))?;
    Ok(())
}

fn has_inheritance(rel: &Relation) -> Result<bool> {
    exists("SELECT 1 FROM pg_catalog.pg_inherits WHERE inhrelid = $1::oid OR inhparent = $1::oid LIMIT 1", rel.oid())
}

fn is_subscribed(rel: &Relation) -> Result<bool> {
    exists("SELECT 1 FROM pg_catalog.pg_subscription_rel WHERE srrelid = $1::oid LIMIT 1", rel.oid())
}

fn exists(sql: &str, relid: Oid) -> Result<bool> {
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| Ok(!c.run(sql, &[Param::regclass(relid)], false)?.is_empty()))
    })
}

/// Errors with 42703 when a table does not have the column that is to name its docs, with CR019 when that cannot.
pub fn check_doc_column(rel: &Relation, name: &str) -> Result<()> {
    if types::check_doc_column(rel, name)? {
        return Ok(());
    }
    Err(Error::new(
        crate::error::SqlState(b"42703"),
        format!("column \"{name}\" of table {} does not exist, or is generated", rel.sql_name()),
    ))
}

fn remember(rel: &Relation, doc: Option<i64>, doc_column: Option<&str>, alias: &str) -> Result<()> {
    if alias.is_empty() || alias.len() > crdt_engine::Limits::default().name_bytes {
        return Err(Error::new(state::INVALID_PARAMETER, format!("alias \"{alias}\" is empty or too long")));
    }
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            let clash = c.run(
                "SELECT tbl::text FROM crdt.tracked_table \
                 WHERE alias = $1 AND (doc = $2 OR doc IS NULL OR $2 IS NULL)",
                &[Param::text(alias), Param::opt_i64(doc)],
                false,
            )?;
            if !clash.is_empty() {
                let other = clash.text(0, 1).unwrap_or_default();
                return Err(Error::new(
                    state::ALREADY_TRACKED,
                    format!("table {other} is already tracked as \"{alias}\" there"),
                )
                .hint("Give this one another alias."));
            }
            c.run(
                "INSERT INTO crdt.tracked_table (tbl, alias, doc, doc_column) VALUES ($1, $2, $3, $4::name)",
                &[Param::regclass(rel.oid()), Param::text(alias), Param::opt_i64(doc), Param::opt_text(doc_column)],
                false,
            )?;
            Ok(())
        })
    })
}

/// The triggers of a tracked table. Their names sort last, so that other triggers of the table have run before.
const TRIGGERS: [(&str, &str); 4] = [
    ("zz_crdt_insert", "AFTER INSERT ON {} REFERENCING NEW TABLE AS new_rows"),
    ("zz_crdt_update", "AFTER UPDATE ON {} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
    ("zz_crdt_delete", "AFTER DELETE ON {} REFERENCING OLD TABLE AS old_rows"),
    ("zz_crdt_truncate", "BEFORE TRUNCATE ON {}"),
];

/// Makes the triggers on a table and, when it is partitioned, on everything below it: DML on a partition itself fires
/// only the partition's own statement triggers.
fn attach_triggers(rel: &Relation) -> Result<()> {
    let owner = catalog::names()?.owner;
    spi::as_role(owner, || {
        spi::connect(|c| {
            let tree = c.run(
                "SELECT $1 AS relid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree($1) AS t",
                &[Param::regclass(rel.oid())],
                false,
            )?;
            for i in 0..tree.len() {
                let member = Relation::open(tree.oid(i, 1).expect("not null"), Lock::ShareRowExclusive);
                attach(c, &member, rel.oid())?;
            }
            Ok(())
        })
    })
}

/// Makes the triggers of one relation of a tracked table.
pub fn attach(c: &spi::Connection, rel: &Relation, root: Oid) -> Result<()> {
    c.run(
        "INSERT INTO crdt.tracked_partition (relid, root) VALUES ($1, $2) ON CONFLICT (relid) DO UPDATE SET root = $2",
        &[Param::regclass(rel.oid()), Param::regclass(root)],
        false,
    )?;
    drop_triggers(c, rel)?;
    for (name, when) in TRIGGERS {
        let when = when.replace("{}", &rel.sql_name());
        c.run(
            &format!("CREATE TRIGGER {} {when} FOR EACH STATEMENT EXECUTE FUNCTION crdt.capture()", quote(name)),
            &[],
            false,
        )?;
    }
    Ok(())
}

/// Takes the triggers of one relation away.
pub fn detach(c: &spi::Connection, rel: &Relation) -> Result<()> {
    drop_triggers(c, rel)?;
    c.run("DELETE FROM crdt.tracked_partition WHERE relid = $1", &[Param::regclass(rel.oid())], false).map(|_| ())
}

/// Drops those of our triggers that are there: IF EXISTS would tell the user of each that is not.
fn drop_triggers(c: &spi::Connection, rel: &Relation) -> Result<()> {
    let sql = "SELECT tgname::text FROM pg_catalog.pg_trigger WHERE tgrelid = $1::oid AND NOT tgisinternal";
    let present = c.run(sql, &[Param::regclass(rel.oid())], false)?;
    let present: Vec<_> = (0..present.len()).filter_map(|i| present.text(i, 1)).collect();
    for (name, _) in TRIGGERS.iter().filter(|(name, _)| present.iter().any(|p| p == name)) {
        c.run(&format!("DROP TRIGGER {} ON {}", quote(name), rel.sql_name()), &[], false)?;
    }
    Ok(())
}

/// Rows that stood in the table (or in a partition that has just joined it) before it was tracked become history:
/// inserts of this database. The relation is locked against writers, and read under a snapshot of now, so that nothing
/// committed is missed. Rows that the doc holds already, from when it was not materialized, are not told again.
pub fn adopt_rows(table: &Rc<Table>, rel: &Relation, progress: &Progress) -> Result<()> {
    let known = generic::of_table(table)?;
    let _latest = xact::ActiveSnapshot::push_latest();
    let _pinned = datum::PinnedSettings::pin();
    let columns: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let sql = format!("SELECT {} FROM {}", columns.join(", "), rel.sql_name());
    let mut memory = RowMemory::new();
    progress.step(Step::ReadingTable, rel.expected_rows());
    buffer::in_parts(|parts| {
        spi::as_role(catalog::names()?.owner, || {
            spi::connect(|c| {
                c.each_now(&sql, &[], |rows, i| {
                    progress.add(1);
                    let (row_id, row) = memory.row(|| rows::row_now(table, rows, i))?;
                    let doc = row.doc.ok_or_else(|| rows::no_doc(table))?;
                    if let Some(held) = known.get(&(doc, row_id.clone())) {
                        return generic::differences(parts, table, doc, &row_id, &row, held);
                    }
                    parts.append(doc, |ops| Ok(ops.push(row.ops.get(0))?))
                })
            })
        })
    })
}

/// `crdt.untrack(tbl)`
pub fn untrack(args: &Args<'_>) -> Result<Out> {
    let relid = args.oid(0, "tbl")?;
    check_owner(relid)?;
    let table = catalog::tracked(relid)?;
    if table.root != relid {
        return Err(Error::new(state::UNTRACKABLE, "a partition is tracked with its partitioned table")
            .hint("Untrack the partitioned table."));
    }
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            let tree = c.run(
                "SELECT $1 AS relid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree($1) AS t",
                &[Param::regclass(relid)],
                false,
            )?;
            for i in 0..tree.len() {
                let rel = Relation::open(tree.oid(i, 1).expect("not null"), Lock::ShareRowExclusive);
                detach(c, &rel)?;
            }
            c.run("DELETE FROM crdt.tracked_table WHERE tbl = $1", &[Param::regclass(relid)], false)
        })
    })?;
    catalog::forget();
    Ok(Out::Null)
}
