//! Making table and log agree again: `crdt.repair`.

use std::collections::BTreeMap;
use std::rc::Rc;

use crdt_engine::value::Parsed;
use crdt_engine::{OpBuf, Origin, ValueRef};

use crate::apply::{self, Action, ORDERS, Present, RowChange, TableChange};
use crate::buffer;
use crate::catalog::{self, Table};
use crate::error::{Error, Result, state};
use crate::generic;
use crate::materialize::Captured;
use crate::pg::function::{Args, Out};
use crate::progress::{Progress, Task};
use crate::rows;
use crate::track;
use crate::verify::{self, Difference, Docs, JSON_DEPTH, What, differences};

/// `crdt.repair(tbl, direction)`
pub fn repair(args: &Args<'_>) -> Result<Out> {
    let relid = args.oid(0, "tbl")?;
    let direction = args.text(1, "direction")?;
    track::check_owner(relid)?;
    let progress = Progress::begin(Task::Repair, relid);
    let table = catalog::tracked(relid)?;
    lock_writers_out(&table)?;
    match direction.as_str() {
        "log" => Ok(Out::I64(repair_log(&table, &progress)?)),
        "table" => Ok(Out::I64(repair_table(&table, &progress)?)),
        _ => Err(Error::new(state::INVALID_PARAMETER, format!("direction \"{direction}\" is neither log nor table"))
            .hint("'log' makes the log agree with the table, 'table' the table with the log.")),
    }
}

/// Writes events of this hub, so that the log agrees with the table; how many.
fn repair_log(table: &Rc<Table>, progress: &Progress) -> Result<i64> {
    let mut events = 0;
    buffer::in_parts(|parts| {
        differences(table, Docs::Make, progress, &mut |difference| {
            events += 1;
            parts.append(difference.doc, |ops| agree(ops, table, &difference))
        })
    })?;
    Ok(events)
}

/// Rows that the log still shows and the table does not are deleted: they went with a partition.
pub fn forget_missing(table: &Rc<Table>) -> Result<()> {
    let progress = Progress::begin(Task::Partition, table.root);
    lock_writers_out(table)?;
    buffer::in_parts(|parts| {
        differences(table, Docs::Find, &progress, &mut |difference| match difference.what {
            What::OnlyInLog(_) => parts.append(difference.doc, |ops| agree(ops, table, &difference)),
            _ => Ok(()),
        })
    })
}

/// Appends the operation after which the log shows what the table shows.
fn agree(ops: &mut OpBuf, table: &Table, difference: &Difference) -> Result<()> {
    let tbl = ops.sym(&table.alias);
    match &difference.what {
        What::OnlyInTable(cells) => {
            ops.insert(tbl, &difference.row)?;
            for (column, json) in cells {
                let col = ops.sym(column);
                ops.cell(col, ValueRef::parse_json(json, JSON_DEPTH)?.value())?;
            }
        }
        What::OnlyInLog(_) => ops.delete(tbl, &difference.row)?,
        What::Cell { column, in_table, .. } => {
            let col = ops.sym(column);
            let value = ValueRef::parse_json(in_table, JSON_DEPTH)?;
            ops.update(tbl, &difference.row, col, value.value(), Origin::Explicit)?;
        }
    }
    Ok(())
}

/// A table that is being repaired must not change meanwhile, nor any partition of it.
fn lock_writers_out(table: &Table) -> Result<()> {
    verify::lock(table, "SHARE ROW EXCLUSIVE")
}

/// What one row needs, with its values parsed.
struct Need<'d> {
    action: Action,
    cells: Vec<(usize, Parsed<'d>)>,
}

/// Writes the table, so that it agrees with the log; how many disagreements there were. What defaults and triggers make
/// of it are events of this database, and so is what the table cannot be made to show.
fn repair_table(table: &Rc<Table>, progress: &Progress) -> Result<i64> {
    let mut found = Vec::new();
    differences(table, Docs::Make, progress, &mut |mut difference| {
        // What the table shows and will not show is not held.
        match &mut difference.what {
            What::OnlyInTable(cells) => cells.clear(),
            What::Cell { in_table, in_log: Some(_), .. } => *in_table = String::new(),
            _ => {}
        }
        found.push(difference);
        Ok(())
    })?;
    let mut by_doc: BTreeMap<i64, BTreeMap<&str, Need<'_>>> = BTreeMap::new();
    for difference in &found {
        if !table_can_show(table, difference)? {
            buffer::append(difference.doc, |ops| agree(ops, table, difference))?;
            continue;
        }
        need(table, difference, by_doc.entry(difference.doc).or_default())?;
    }
    let docs: Vec<i64> = by_doc.keys().copied().collect();
    let changes = by_doc.iter().map(|(doc, rows)| change(table, *doc, rows)).collect::<Result<Vec<_>>>()?;
    let mut captured = write(&changes)?;
    for (doc, change) in docs.into_iter().zip(&changes) {
        let of_doc = captured.remove(&doc).map(|ops| (doc, ops));
        generic::append_unmeant(change, of_doc.into_iter().collect())?;
    }
    // Of docs in which nothing was meant.
    generic::append_unmeant(&TableChange { table: table.clone(), doc_name: None, rows: Vec::new() }, captured)?;
    Ok(found.len() as i64)
}

/// Can the table be made to show what the log says? Not where the log says nothing of a cell, nor for a row of a doc that
/// the column which names docs would not show: it could only be another doc's.
fn table_can_show(table: &Table, difference: &Difference) -> Result<bool> {
    match &difference.what {
        What::Cell { in_log: None, .. } => Ok(false),
        What::OnlyInLog(_) if table.doc_column.is_some() => {
            let doc = catalog::doc(difference.doc)?;
            let named = rows::doc_in_key(table, &difference.row)?;
            Ok(rows::can_show_doc(table, doc.name.as_deref())? && (named.is_none() || named == doc.name))
        }
        _ => Ok(true),
    }
}

fn need<'d>(table: &Table, difference: &'d Difference, rows: &mut BTreeMap<&'d str, Need<'d>>) -> Result<()> {
    let action = match difference.what {
        What::OnlyInTable(_) => Action::Delete,
        What::OnlyInLog(_) => Action::Insert,
        What::Cell { .. } => Action::Update,
    };
    let need = rows.entry(&difference.row).or_insert(Need { action, cells: Vec::new() });
    let mut cell = |column: &str, json: &'d str| -> Result<()> {
        let writable = |i: &usize| !table.key.contains(i) && table.doc_column != Some(*i);
        if let Some(index) = table.columns.iter().position(|c| c.name == column).filter(writable) {
            need.cells.push((index, ValueRef::parse_json(json, JSON_DEPTH)?));
        }
        Ok(())
    };
    match &difference.what {
        What::OnlyInTable(_) => {}
        What::OnlyInLog(cells) => cells.iter().try_for_each(|(column, json)| cell(column, json))?,
        What::Cell { column, in_log, .. } => cell(column, in_log.as_deref().unwrap_or("null"))?,
    }
    need.cells.sort_by_key(|(index, _)| *index);
    Ok(())
}

/// The rows of a doc as they are to be written.
fn change<'r>(table: &Rc<Table>, doc: i64, rows: &'r BTreeMap<&str, Need<'_>>) -> Result<TableChange<'r>> {
    let doc_name = table.doc_column.and(catalog::doc(doc)?.name.clone());
    let rows = rows.iter().map(|(row, need)| RowChange {
        row,
        action: need.action,
        cells: need.cells.iter().map(|(index, value)| (*index, value.value())).collect(),
    });
    Ok(TableChange { table: table.clone(), doc_name, rows: rows.collect() })
}

/// Writes the rows of all docs together, in one order after the other until none is in another's way: a row that has moved to
/// another doc goes there before it is made here. What the statements were seen to do.
fn write(changes: &[TableChange<'_>]) -> Result<Captured> {
    let write = |order| {
        let ((), captured) = buffer::observe(|| apply::write(changes, order, Present::Refuse))?;
        Ok(captured)
    };
    for (nth, order) in ORDERS.into_iter().enumerate() {
        let try_it =
            || write(order).map(|captured| (nth == 0 || !apply::lost_row(changes, &captured)).then_some(captured));
        match apply::attempt(changes, |_, _| None, try_it)? {
            Ok(Some(captured)) => return Ok(captured),
            Ok(None) => {}
            Err(caught) if caught.is_constraint_violation() => {}
            Err(caught) => caught.resume(),
        }
    }
    // No order works: let the first one's error out, it is the one to understand.
    write(ORDERS[0])
}
