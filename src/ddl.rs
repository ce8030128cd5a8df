//! Schema changes of tracked tables: partitions that come and go, tables that are dropped.

use std::rc::Rc;

use pgrx::pg_sys::Oid;

use crate::buffer;
use crate::catalog::{self, Table};
use crate::error::{Result, state};
use crate::pg::function::{Args, Out};
use crate::pg::lock::{self, Space};
use crate::pg::relation::{Lock, Relation, RowMemory, quote};
use crate::pg::spi::{self, Connection, Param};
use crate::pg::{datum, types, xact};
use crate::progress::{Progress, Step, Task};
use crate::repair;
use crate::rows;
use crate::store;
use crate::track;

/// Partitions of tracked tables whose triggers are not all there, or that have left: `(relid, root, state)`. From the catalog's
/// rows: a function that walks partitions would lock them, and two sessions that alter two tables would deadlock.
const CHANGED: &str = "\
    WITH RECURSIVE tree (relid, root) AS ( \
        SELECT tbl::oid, tbl::oid FROM crdt.tracked_table \
         UNION ALL \
        SELECT c.oid, t.root FROM tree AS t JOIN pg_catalog.pg_inherits AS i ON i.inhparent = t.relid \
          JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid WHERE c.relispartition) \
    SELECT t.relid, t.root, 'new' FROM tree AS t \
     WHERE NOT EXISTS (SELECT 1 FROM crdt.tracked_partition AS p WHERE p.relid = t.relid) \
     UNION ALL \
    SELECT p.relid, p.root, CASE WHEN c.oid IS NULL THEN 'dropped' ELSE 'left' END \
      FROM crdt.tracked_partition AS p LEFT JOIN pg_catalog.pg_class AS c ON c.oid = p.relid \
     WHERE NOT EXISTS (SELECT 1 FROM tree AS t WHERE t.relid = p.relid AND t.root = p.root)";

/// Tracked tables that may have become what `crdt.track` refuses: a partition, an unlogged table, one with children, one without
/// the column that names its docs; and those that the command altered, which it has locked: their keys may be of another type.
/// `(tbl, doc_column)`
const DOUBTFUL: &str = "\
    SELECT t.tbl, t.doc_column FROM crdt.tracked_table AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tbl \
     WHERE c.oid IN (SELECT d.objid FROM pg_catalog.pg_event_trigger_ddl_commands() AS d \
                      WHERE d.classid = 'pg_catalog.pg_class'::regclass) \
        OR c.relpersistence <> 'p' OR c.relispartition OR c.relkind = 'r' \
       AND EXISTS (SELECT 1 FROM pg_catalog.pg_inherits AS i WHERE c.oid IN (i.inhrelid, i.inhparent)) \
        OR t.doc_column IS NOT NULL AND NOT EXISTS ( \
            SELECT 1 FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = t.doc_column)";

/// Did the command alter tables of the extension alone? A restore of data does, while what they say is half there.
const OF_OURS_ALONE: &str =
    "SELECT FROM pg_catalog.pg_event_trigger_ddl_commands() HAVING pg_catalog.bool_and(schema_name = 'crdt')";

/// `crdt.on_ddl()`, an event trigger at the end of every command that makes, alters or drops a table. What another session
/// is dropping at the same time is its business.
pub fn on_ddl(_args: &Args<'_>) -> Result<Out> {
    catalog::forget();
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            if !c.run(OF_OURS_ALONE, &[], false)?.is_empty() {
                return Ok(());
            }
            for (of, relid) in [("tracked_partition", "root"), ("tracked_table", "tbl")] {
                let gone = format!(
                    "DELETE FROM crdt.{of} AS t \
                     WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class AS r WHERE r.oid = t.{relid})"
                );
                c.run(&gone, &[], false)?;
            }
            let doubtful = c.run(DOUBTFUL, &[], false)?;
            for i in 0..doubtful.len() {
                check_still(doubtful.oid(i, 1).expect("a key"), doubtful.name(i, 2).as_deref())?;
            }
            let changed = c.run(CHANGED, &[], false)?;
            let mut with_missing_rows = Vec::new();
            for i in 0..changed.len() {
                let (relid, root) = (changed.oid(i, 1).expect("a key"), changed.oid(i, 2).expect("not null"));
                match changed.text(i, 3).as_deref() {
                    Some("new") => joined(c, relid, root)?,
                    Some("left") => left(c, relid, root)?,
                    _ => {
                        c.run("DELETE FROM crdt.tracked_partition WHERE relid = $1", &[Param::regclass(relid)], false)?;
                        if !with_missing_rows.contains(&root) {
                            with_missing_rows.push(root);
                        }
                    }
                }
            }
            with_missing_rows.into_iter().try_for_each(dropped)?;
            Ok(())
        })
    })?;
    catalog::forget();
    Ok(Out::Done)
}

/// Errors when a tracked table has become one that cannot be. Without a key it may be until it gets another.
fn check_still(relid: Oid, doc_column: Option<&str>) -> Result<()> {
    let rel = Relation::open(relid, Lock::AccessShare);
    let checked = doc_column.map_or(Ok(()), |column| track::check_doc_column(&rel, column));
    match checked.and_then(|()| track::check_trackable(&rel)) {
        Err(error) if error.state != state::NO_KEY => Err(error.hint("The table is tracked: crdt.untrack it first.")),
        _ => Ok(()),
    }
}

/// A partition was made or attached: its writes are captured, its rows become history.
fn joined(c: &Connection, relid: Oid, root: Oid) -> Result<()> {
    let Some(rel) = Relation::try_open(relid, Lock::ShareRowExclusive) else { return Ok(()) };
    track::attach(c, &rel, root)?;
    if rel.kind() == b'r' {
        // A push that does not see these rows must not write after what is logged of them here.
        lock::lock(store::lock_class()?, root.to_u32(), Space::Tables);
        catalog::forget();
        let progress = Progress::begin(Task::Partition, relid);
        track::adopt_rows(&catalog::tracked(relid)?, &rel, &progress)?;
    }
    Ok(())
}

/// A partition was detached: its rows are the table's no more.
fn left(c: &Connection, relid: Oid, root: Oid) -> Result<()> {
    let Some(rel) = Relation::try_open(relid, Lock::ShareRowExclusive) else { return Ok(()) };
    if let Some(table) = catalog::table(root)?
        && rel.kind() == b'r'
    {
        delete_rows(&table, &rel)?;
    }
    track::detach(c, &rel)
}

/// The rows of a relation that has been part of a table, logged as deleted.
fn delete_rows(table: &Rc<Table>, rel: &Relation) -> Result<()> {
    let _latest = xact::ActiveSnapshot::push_latest();
    let _pinned = datum::PinnedSettings::pin();
    let part = Table { columns: types::columns(rel), ..Table::clone(table) };
    let part = Table { key: part.reindex(table, &table.key), ..part };
    let doc_column = table.doc_column.map(|i| part.reindex(table, &[i])[0]);
    let part = Table { doc_column, ..part };
    let columns: Vec<String> = part.columns.iter().map(|c| quote(&c.name)).collect();
    let sql = format!("SELECT {} FROM ONLY {}", columns.join(", "), rel.sql_name());
    let mut memory = RowMemory::new();
    let progress = Progress::begin(Task::Partition, rel.oid());
    progress.step(Step::ReadingTable, rel.expected_rows());
    buffer::in_parts(|parts| {
        spi::connect(|c| {
            c.each_now(&sql, &[], |rows, i| {
                progress.add(1);
                let (row, now) = memory.row(|| rows::row_now(&part, rows, i))?;
                let Some(doc) = now.doc else { return Ok(()) };
                parts.append(doc, |ops| {
                    let tbl = ops.sym(&table.alias);
                    Ok(ops.delete(tbl, &row)?)
                })
            })
        })
    })
}

/// Partitions were dropped with their rows: what the log still shows and the table does not is deleted.
fn dropped(root: Oid) -> Result<()> {
    let Some(_root) = Relation::try_open(root, Lock::ShareRowExclusive) else { return Ok(()) };
    repair::forget_missing(&catalog::tracked(root)?)
}
