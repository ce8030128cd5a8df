//! Rows of tracked tables as the log knows them: row ids, and rows as a table shows them now.

use std::collections::BTreeMap;

use crdt_engine::ValueRef;
use crdt_engine::ops::OpBuf;

use crate::catalog::{self, Table};
use crate::error::{Error, Result, state};
use crate::pg::trigger::Tuple;
use crate::pg::types::Column;
use crate::pg::{datum, relation, spi};

/// A row's doc column is null or empty.
pub fn no_doc(table: &Table) -> Error {
    let column = table.doc_column.map_or("", |i| &table.columns[i].name);
    Error::new(
        state::NO_DOC_VALUE,
        format!("column \"{column}\" of table {} names each row's doc and is null or empty", table.sql_name),
    )
    .hint("Give the row a doc, and make the column NOT NULL.")
}

/// Can rows of a doc of this name be in the table? Where a column names docs, it must be able to show the name as it is: none
/// shows that of a doc without a name, and one of integers not " 5".
pub fn can_show_doc(table: &Table, name: Option<&str>) -> Result<bool> {
    let Some(column) = table.doc_column.map(|i| &table.columns[i]) else { return Ok(true) };
    let Some(name) = name else { return Ok(false) };
    Ok(datum::is_canonical_key(column, name) || datum::canonical_key(column, name)? == *name)
}

/// The doc that a row's id says it is of, where the column that names docs is in the key.
pub fn doc_in_key(table: &Table, row: &str) -> Result<Option<String>> {
    let Some(at) = table.key.iter().position(|k| Some(*k) == table.doc_column) else { return Ok(None) };
    Ok(Some(table.key_texts(row)?.swap_remove(at)))
}

/// The row id of a tuple: the key's text, or a JSON array of texts.
pub fn row_id(table: &Table, tuple: Tuple<'_>, row: &mut String, text: &mut String, other: &mut String) {
    row.clear();
    if let [one] = table.key[..] {
        return datum::push_key_text(value_of(&table.columns[one], tuple, text), row);
    }
    row.push('[');
    for (i, index) in table.key.iter().enumerate() {
        if i > 0 {
            row.push(',');
        }
        let key = datum::key_text(value_of(&table.columns[*index], tuple, text), other);
        ValueRef::Text(key).write_json(row).expect("memory for a value");
    }
    row.push(']');
}

fn value_of<'a>(column: &Column, tuple: Tuple<'_>, text: &'a mut String) -> ValueRef<'a> {
    tuple.attr(column.attno).map_or(ValueRef::Null, |datum| datum::to_value(&column.ty, datum, text))
}

/// A row id from its key's texts.
pub fn join_key(texts: &[String]) -> String {
    if let [one] = texts {
        return one.clone();
    }
    let mut out = String::from("[");
    for (i, text) in texts.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        ValueRef::Text(text).write_json(&mut out).expect("memory for a value");
    }
    out.push(']');
    out
}

/// The doc named by a doc column's value, made at need. No text, no doc.
pub fn doc_by_name(name: &str) -> Result<Option<i64>> {
    if name.is_empty() { Ok(None) } else { catalog::ensure_doc(name).map(Some) }
}

/// One row as the table shows it.
pub struct RowNow {
    /// The doc it belongs to; `None` when its doc column is null, empty or names a doc that is not there.
    pub doc: Option<i64>,
    /// One insert with all columns.
    pub ops: OpBuf,
}

impl RowNow {
    /// The value of a column.
    pub fn cell(&self, name: &str) -> Option<ValueRef<'_>> {
        let crdt_engine::OpRef::Insert { cells, .. } = self.ops.get(0) else { unreachable!("one insert") };
        cells.iter().find(|(col, _)| *col == name).map(|(_, value)| value)
    }
}

/// The rows of these ids as the table shows them to its owner, our own writes included.
pub fn read_rows(table: &Table, row_ids: &[&str]) -> Result<BTreeMap<String, RowNow>> {
    relation::in_scratch_memory(|| read_these_rows(table, row_ids))
}

fn read_these_rows(table: &Table, row_ids: &[&str]) -> Result<BTreeMap<String, RowNow>> {
    let mut found = BTreeMap::new();
    let keys = crate::apply::KeyArrays::new(table, row_ids.iter().copied())?;
    let sql = format!(
        "SELECT {} FROM {} AS t, {} WHERE {}",
        table.columns.iter().map(|c| format!("t.{}", relation::quote(&c.name))).collect::<Vec<_>>().join(", "),
        table.sql_name,
        keys.from(1),
        keys.matches("t"),
    );
    let _pinned = datum::PinnedSettings::pin();
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            c.each(&sql, keys.params(), |rows, i| {
                let (row, now) = row_now(table, rows, i)?;
                found.insert(row, now);
                Ok(())
            })
        })
    })?;
    Ok(found)
}

/// One row of a query for all of a table's columns, as its row id and an insert. Its doc is made at need.
pub fn row_now(table: &Table, rows: &spi::Rows, i: usize) -> Result<(String, RowNow)> {
    row_of(table, rows, i, doc_by_name)
}

/// The same; `doc_named` tells the doc that a doc column names.
pub fn row_of(
    table: &Table,
    rows: &spi::Rows,
    i: usize,
    doc_named: impl FnOnce(&str) -> Result<Option<i64>>,
) -> Result<(String, RowNow)> {
    let (mut text, mut other) = (String::new(), String::new());
    let mut value_text = |index: usize| {
        let datum = rows.raw(i, index as i32 + 1)?;
        let value = datum::to_value(&table.columns[index].ty, datum, &mut text);
        Some(datum::key_text(value, &mut other).to_owned())
    };
    let texts: Vec<String> = table.key.iter().map(|k| value_text(*k).unwrap_or_default()).collect();
    let doc = match (table.doc, table.doc_column) {
        (Some(doc), _) => Some(doc),
        (None, Some(column)) => {
            value_text(column).filter(|name| !name.is_empty()).map_or(Ok(None), |name| doc_named(&name))?
        }
        (None, None) => unreachable!("a table has a doc or a doc column"),
    };
    let row = join_key(&texts);
    let mut ops = OpBuf::new();
    let tbl = ops.sym(&table.alias);
    ops.insert(tbl, &row)?;
    for (at, column) in table.columns.iter().enumerate() {
        let col = ops.sym(&column.name);
        let value = rows.raw(i, at as i32 + 1).map_or(ValueRef::Null, |d| datum::to_value(&column.ty, d, &mut text));
        ops.cell(col, value)?;
    }
    Ok((row, RowNow { doc, ops }))
}
