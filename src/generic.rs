//! Rows of tables that exist only in a doc: kept as JSON in `crdt.generic_row`, with the extension's rights. Pushes to
//! one row exclude each other by their stripes, so nothing here has to be locked again.

use std::collections::BTreeMap;
use std::rc::Rc;

use crdt_engine::merge::{Patch, RowMerge, Winner};
use crdt_engine::ops::OpBuf;
use crdt_engine::value::same;
use crdt_engine::wire::json;
use crdt_engine::{Limits, OpRef, Origin, ValueRef};
use rustc_hash::FxHashMap;

use crate::apply::{self, Action, RowChange, TableChange};
use crate::buffer::{self, Parts};
use crate::catalog::{self, Table};
use crate::error::Result;
use crate::materialize::Captured;
use crate::pg::function::{Args, Col, Out, Rows};
use crate::pg::spi::{self, Param};
use crate::pg::xact;
use crate::rows::RowNow;

/// Which of these rows exist.
pub fn lock_rows(doc: i64, tbl: &str, row_ids: &[&str]) -> Result<Vec<bool>> {
    let mut exists = vec![false; row_ids.len()];
    owned(|c| {
        let params = [Param::i64(doc), Param::text(tbl), Param::texts(row_ids.iter().map(|r| Some(*r)))];
        let sql = "SELECT k.i FROM pg_catalog.unnest($3) WITH ORDINALITY AS k(row_id, i) \
                   JOIN crdt.generic_row AS g ON g.doc = $1 AND g.tbl = $2 AND g.row_id = k.row_id";
        c.each(sql, &params, |rows, i| {
            exists[rows.i64(i, 1).expect("an ordinal") as usize - 1] = true;
            Ok(())
        })
    })?;
    Ok(exists)
}

fn owned<R>(body: impl FnOnce(&spi::Connection) -> Result<R>) -> Result<R> {
    let owner = catalog::names()?.owner;
    spi::as_role(owner, || spi::connect(body))
}

/// Writes the patches of generic tables, one statement for each kind.
pub fn write<'k>(
    doc: i64,
    keys: impl Iterator<Item = (&'k str, &'k str)>,
    merges: &[RowMerge<'_>],
    is_generic: impl Fn(&str) -> bool,
) -> Result<()> {
    let mut kinds: [(Vec<&str>, Vec<&str>, Vec<String>); 3] = Default::default();
    for ((tbl, row), merge) in keys.zip(merges) {
        if !is_generic(tbl) {
            continue;
        }
        let kind = match &merge.patch {
            Patch::None => continue,
            Patch::Insert(_) | Patch::Reset(_) => 0,
            Patch::Update(_) => 1,
            Patch::Delete => 2,
        };
        let (tbls, rows, data) = &mut kinds[kind];
        tbls.push(tbl);
        rows.push(row);
        data.push(object(merge.patch.cells())?);
    }
    const STATEMENTS: [&str; 3] = [
        "INSERT INTO crdt.generic_row (doc, tbl, row_id, data) SELECT $1, k.t, k.r, k.d::jsonb \
         FROM unnest($2, $3, $4) AS k(t, r, d) \
         ON CONFLICT (doc, tbl, row_id) DO UPDATE SET data = excluded.data",
        "UPDATE crdt.generic_row AS g SET data = g.data || k.d::jsonb \
         FROM unnest($2, $3, $4) AS k(t, r, d) WHERE g.doc = $1 AND g.tbl = k.t AND g.row_id = k.r",
        "DELETE FROM crdt.generic_row AS g USING unnest($2, $3, $4) AS k(t, r, d) \
         WHERE g.doc = $1 AND g.tbl = k.t AND g.row_id = k.r",
    ];
    for ((tbls, rows, data), sql) in kinds.iter().zip(STATEMENTS) {
        if tbls.is_empty() {
            continue;
        }
        let params = [
            Param::i64(doc),
            Param::texts(tbls.iter().map(|t| Some(*t))),
            Param::texts(rows.iter().map(|r| Some(*r))),
            Param::texts(data.iter().map(|d| Some(d.as_str()))),
        ];
        owned(|c| c.run(sql, &params, false).map(|_| ()))?;
    }
    Ok(())
}

fn object(cells: &[Winner<'_>]) -> Result<String> {
    let mut out = String::from("{");
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        ValueRef::Text(cell.col).write_json(&mut out)?;
        out.push(':');
        cell.value.write_json(&mut out)?;
    }
    out.push('}');
    Ok(out)
}

/// `crdt.rows(doc, tbl)`
pub fn rows(args: &Args<'_>) -> Result<Out> {
    let doc = args.i64(0, "doc")?;
    let tbl = args.text(1, "tbl")?;
    catalog::doc(doc)?;
    let mut out = Rows::new(args)?;
    owned(|c| {
        let sql = "SELECT row_id, data::text FROM crdt.generic_row WHERE doc = $1 AND tbl = $2 ORDER BY row_id";
        c.each(sql, &[Param::i64(doc), Param::text(&tbl)], |rows, i| {
            let (row, data) = (rows.text(i, 1).unwrap_or_default(), rows.text(i, 2).unwrap_or_default());
            out.push(&[Col::Text(&row), Col::Jsonb(&data)]);
            Ok(())
        })
    })?;
    Ok(Out::Null)
}

/// The rows that a doc holds under a table's name, committed by now.
pub fn of_table(table: &Table) -> Result<FxHashMap<(i64, String), String>> {
    let _latest = xact::ActiveSnapshot::push_latest();
    let mut found = FxHashMap::default();
    owned(|c| {
        let sql = "SELECT doc, row_id, data::text FROM crdt.generic_row WHERE tbl = $1 AND ($2 IS NULL OR doc = $2)";
        c.each_now(sql, &[Param::text(&table.alias), Param::opt_i64(table.doc)], |rows, i| {
            let key = (rows.i64(i, 1).expect("a key"), rows.text(i, 2).unwrap_or_default());
            found.insert(key, rows.text(i, 3).unwrap_or_default());
            Ok(())
        })
    })?;
    Ok(found)
}

/// Where a row stands both in the table and in the doc, the table is what people saw last: its differing cells are
/// written as updates.
pub fn differences(parts: &Parts, table: &Table, doc: i64, row: &str, now: &RowNow, known: &str) -> Result<()> {
    let cells = cells_of(table, row, known)?;
    let OpRef::Insert { cells: held, .. } = cells.get(0) else { unreachable!("one insert") };
    parts.append(doc, |ops| {
        let tbl = ops.sym(&table.alias);
        for column in &table.columns {
            let shown = now.cell(&column.name).unwrap_or(ValueRef::Null);
            let told = held.iter().find(|(c, _)| *c == column.name).map_or(ValueRef::Null, |(_, v)| v);
            if !table.is_key(&column.name) && !same(shown, told) {
                let col = ops.sym(&column.name);
                ops.update(tbl, row, col, shown, Origin::Explicit)?;
            }
        }
        Ok(())
    })
}

/// A generic row as an insert.
fn cells_of(table: &Table, row: &str, data: &str) -> Result<OpBuf> {
    let mut ops = OpBuf::new();
    let tbl = ops.sym(&table.alias);
    ops.insert(tbl, row)?;
    json::decode_cells(data.as_bytes(), &Limits::trusted(), &mut ops)?;
    Ok(ops)
}

/// Rows that a doc holds under the table's name move into the table, as the caller; what defaults and triggers make of
/// them are events of this database.
pub fn adopt(table: &Rc<Table>) -> Result<()> {
    let held = of_table(table)?;
    if held.is_empty() {
        return Ok(());
    }
    let mut by_doc: BTreeMap<i64, Vec<(&String, OpBuf)>> = BTreeMap::new();
    for ((doc, row), data) in &held {
        by_doc.entry(*doc).or_default().push((row, cells_of(table, row, data)?));
    }
    let changes = by_doc.iter().map(|(doc, rows)| missing_rows(table, *doc, rows)).collect::<Result<Vec<_>>>()?;
    write_logged(&changes)?;
    owned(|c| {
        let sql = "DELETE FROM crdt.generic_row WHERE tbl = $1 AND ($2 IS NULL OR doc = $2)";
        c.run(sql, &[Param::text(&table.alias), Param::opt_i64(table.doc)], false).map(|_| ())
    })
}

/// Rows of a doc that the table does not have, as inserts.
fn missing_rows<'h>(table: &Rc<Table>, doc: i64, rows: &'h [(&String, OpBuf)]) -> Result<TableChange<'h>> {
    let doc_name = table.doc_column.and(catalog::doc(doc)?.name.clone());
    let ids: Vec<&str> = rows.iter().map(|(row, _)| row.as_str()).collect();
    let present = apply::lock_rows(table, doc_name.as_deref(), &ids)?;
    let mut change = TableChange { table: table.clone(), doc_name, rows: Vec::new() };
    for ((row, ops), _) in rows.iter().zip(present).filter(|(_, present)| !present) {
        let OpRef::Insert { cells, .. } = ops.get(0) else { unreachable!("one insert") };
        let known = cells.iter().filter_map(|(col, value)| {
            let index = table.columns.iter().position(|c| c.name == col)?;
            (!table.key.contains(&index) && table.doc_column != Some(index)).then_some((index, value))
        });
        let mut cells: Vec<(usize, ValueRef<'_>)> = known.collect();
        cells.sort_unstable_by_key(|(index, _)| *index);
        change.rows.push(RowChange { row, action: Action::Insert, cells });
    }
    Ok(change)
}

/// Writes what the log says already; what defaults and triggers make of it are events of this database.
pub fn write_logged(changes: &[TableChange<'_>]) -> Result<()> {
    let write = |change| apply::write(std::slice::from_ref(change), apply::ORDERS[0], apply::Present::Refuse);
    let write_all = || {
        changes.iter().try_for_each(|change| {
            let ((), captured) = buffer::observe(|| write(change))?;
            append_unmeant(change, captured)
        })?;
        Ok(Some(()))
    };
    apply::attempt(changes, |_, _| None, write_all)?.unwrap_or_else(|caught| caught.resume());
    Ok(())
}

/// Logs what statements did beyond what a change meant.
pub fn append_unmeant(change: &TableChange<'_>, captured: Captured) -> Result<()> {
    for (to, ops) in captured {
        buffer::append(to, |buffer| Ok(log_unmeant(change, &ops, buffer)?))?;
    }
    Ok(())
}

/// Filled or changed cells as updates, other rows as they are.
fn log_unmeant(change: &TableChange<'_>, ops: &OpBuf, buffer: &mut OpBuf) -> crdt_engine::Result<()> {
    let meant_row = |key: Option<(&str, &str)>| {
        let (tbl, row) = key?;
        change.rows.iter().find(|r| tbl == change.table.alias && r.row == row)
    };
    for op in ops.iter() {
        match (op, meant_row(op.row_key())) {
            (OpRef::Insert { tbl, row, cells }, Some(meant)) if meant.action != Action::Delete => {
                for (col, value) in cells.iter() {
                    log_cell(change, meant, (tbl, row, col), value, buffer)?;
                }
            }
            (OpRef::Update { tbl, row, col, value, .. }, Some(meant)) => {
                log_cell(change, meant, (tbl, row, col), value, buffer)?;
            }
            (OpRef::Delete { .. }, Some(meant)) if meant.action == Action::Delete => {}
            _ => buffer.push(op)?,
        }
    }
    Ok(())
}

fn log_cell(
    change: &TableChange<'_>,
    meant: &RowChange<'_>,
    (tbl, row, col): (&str, &str, &str),
    value: ValueRef<'_>,
    buffer: &mut OpBuf,
) -> crdt_engine::Result<()> {
    let told = meant.cells.iter().find(|(i, _)| change.table.columns[*i].name == col).map(|(_, v)| *v);
    if change.table.is_key(col) || same(told.unwrap_or(ValueRef::Null), value) {
        return Ok(());
    }
    let (tbl, col) = (buffer.sym(tbl), buffer.sym(col));
    buffer.update(tbl, row, col, value, Origin::Explicit)
}
