//! Rows as they are shown: owned, readable, compared.

use std::collections::BTreeMap;

use crate::merge::{Patch, RowMerge};
use crate::planted::{self, Bug};
use crate::value::ValueRef;

/// One value, owned. See [`ValueRef`] for what the variants mean.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
    Json(Box<str>),
}

impl Value {
    /// Borrowed.
    pub fn view(&self) -> ValueRef<'_> {
        match self {
            Value::Null => ValueRef::Null,
            Value::Bool(b) => ValueRef::Bool(*b),
            Value::Int(i) => ValueRef::Int(*i),
            Value::Float(f) => ValueRef::Float(*f),
            Value::Text(t) => ValueRef::Text(t),
            Value::Json(t) => ValueRef::Json(t),
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Value::Null,
            ValueRef::Bool(b) => Value::Bool(b),
            ValueRef::Int(i) => Value::Int(i),
            ValueRef::Float(f) => Value::Float(f),
            ValueRef::Text(t) => Value::Text(t.into()),
            ValueRef::Json(t) => Value::Json(t.into()),
        }
    }
}

impl PartialEq for Value {
    /// Bit for bit, as [`ValueRef`].
    fn eq(&self, other: &Self) -> bool {
        self.view() == other.view()
    }
}

impl Eq for Value {}

/// A row: the columns that somebody, or a default, wrote.
pub type Row = BTreeMap<Box<str>, Value>;

/// Rows by table and row id. A table without rows is not listed.
pub type Tables = BTreeMap<Box<str>, BTreeMap<Box<str>, Row>>;

/// A change of what is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A cell of a row that stays.
    SetCell {
        /// Table.
        tbl: Box<str>,
        /// Row id.
        row: Box<str>,
        /// Column.
        col: Box<str>,
        /// What it shows now.
        value: Value,
    },
    /// A row comes to be.
    InsertRow {
        /// Table.
        tbl: Box<str>,
        /// Row id.
        row: Box<str>,
        /// All its cells.
        values: Row,
    },
    /// A row goes. A row that is born again goes and comes.
    DeleteRow {
        /// Table.
        tbl: Box<str>,
        /// Row id.
        row: Box<str>,
    },
}

/// The row after a patch, `None` when it is gone.
pub(super) fn patched(before: Option<&Row>, merge: &RowMerge<'_>) -> Option<Row> {
    let cells = merge.patch.cells().iter().map(|cell| (Box::from(cell.col), Value::from(cell.value)));
    match merge.patch {
        Patch::None => before.cloned(),
        Patch::Delete => None,
        Patch::Reset(_) if planted::is(Bug::ResetKeepsCells) => {
            Some(before.cloned().unwrap_or_default().into_iter().chain(cells).collect())
        }
        Patch::Insert(_) | Patch::Reset(_) => Some(cells.collect()),
        Patch::Update(_) => {
            let mut row = before.cloned().unwrap_or_default();
            row.extend(cells);
            Some(row)
        }
    }
}

/// What changes when a row becomes another.
pub(super) fn changes(key: (&str, &str), before: Option<&Row>, after: Option<&Row>, into: &mut Vec<Change>) {
    let (tbl, row) = (Box::from(key.0), Box::from(key.1));
    match (before, after) {
        (None, None) => {}
        (None, Some(values)) => into.push(Change::InsertRow { tbl, row, values: values.clone() }),
        (Some(_), None) => into.push(Change::DeleteRow { tbl, row }),
        (Some(before), Some(after)) if before.keys().any(|col| !after.contains_key(col)) => {
            into.push(Change::DeleteRow { tbl: tbl.clone(), row: row.clone() });
            into.push(Change::InsertRow { tbl, row, values: after.clone() });
        }
        (Some(before), Some(after)) => {
            let differing = after.iter().filter(|(col, value)| before.get(*col) != Some(value));
            into.extend(differing.map(|(col, value)| {
                let (tbl, row, col) = (tbl.clone(), row.clone(), col.clone());
                Change::SetCell { tbl, row, col, value: value.clone() }
            }));
        }
    }
}
