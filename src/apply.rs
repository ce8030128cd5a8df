//! Row patches into rows: set-wise, one statement for each table, kind and set of columns, as the caller, so that the
//! application's grants, row security, constraints and triggers hold.

use std::collections::BTreeMap;
use std::rc::Rc;

use crdt_engine::ValueRef;
use crdt_engine::id::EventId;
use crdt_engine::{OpBuf, OpRef};
use pgrx::pg_sys::Oid;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::catalog::{self, Table};
use crate::error::{Error, Result, state};
use crate::pg::entry::Caught;
use crate::pg::relation::{RowMemory, in_scratch_memory, quote};
use crate::pg::spi::{self, Param};
use crate::pg::{datum, entry, xact};

/// What is to become of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is made.
    Insert,
    /// Some cells change.
    Update,
    /// It stays, but only the cells given survive: every other column goes back to its default.
    Reset,
    /// It goes.
    Delete,
}

/// One row's change.
pub struct RowChange<'a> {
    /// Its id.
    pub row: &'a str,
    /// What happens.
    pub action: Action,
    /// Cells to write: index in [`Table::columns`] and value; no key columns. Ascending.
    pub cells: Vec<(usize, ValueRef<'a>)>,
}

/// The changes of one table.
pub struct TableChange<'a> {
    /// The table.
    pub table: Rc<Table>,
    /// The value of the doc column, where the table routes by one.
    pub doc_name: Option<String>,
    /// Its rows.
    pub rows: Vec<RowChange<'a>>,
}

/// A step of writing several tables.
pub enum Step {
    /// Rows of this kind, parents' tables first, for deletes last.
    Of(Action),
    /// Table after table, children first: deletes, then updates.
    ChildrenFirst,
}

use Step::{ChildrenFirst, Of};

/// Orders that are tried. First: new parents before their children's updates, old parents after. Where a unique value moves
/// from one row to another, deletes have to come before: children leave their old parents first, as far as that can be done
/// by table, so that a cascade does not find them there.
pub const ORDERS: [&[Step]; 5] = [
    &[Of(Action::Insert), Of(Action::Update), Of(Action::Delete)],
    &[Of(Action::Insert), ChildrenFirst],
    &[ChildrenFirst, Of(Action::Insert)],
    &[Of(Action::Delete), Of(Action::Insert), Of(Action::Update)],
    &[Of(Action::Delete), Of(Action::Update), Of(Action::Insert)],
];

/// Did statements in another order than the first delete a row that was to stay? A cascade has found it where it had been.
pub fn lost_row(changes: &[TableChange<'_>], captured: &FxHashMap<i64, OpBuf>) -> bool {
    let deleted = captured.values().flat_map(OpBuf::iter).filter(|op| matches!(op, OpRef::Delete { .. }));
    let mut lost: FxHashSet<(&str, &str)> = deleted.filter_map(|op| op.row_key()).collect();
    let rows = || changes.iter().flat_map(|c| c.rows.iter().map(|row| ((c.table.alias.as_str(), row.row), row.action)));
    // A row may go from one doc and come in another.
    for (key, _) in rows().filter(|(_, action)| *action == Action::Delete) {
        lost.remove(&key);
    }
    !lost.is_empty() && rows().any(|(key, _)| lost.contains(&key))
}

/// What to do about a row that is to be inserted and is there by now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Present {
    /// Let the insert fail.
    Refuse,
    /// A trigger of this very write has made it: give it the cells that were meant.
    Adopt,
}

/// Writes all changes, kinds in the given order, tables parents first (for deletes: last).
pub fn write(changes: &[TableChange<'_>], order: &[Step], present: Present) -> Result<()> {
    spi::with_input_settings(|| write_all(changes, order, present))
}

/// Runs `write`, which writes these changes, in a subtransaction: what it made, nothing if it wants to be undone, or
/// PostgreSQL's error. When a type refuses a
/// value, the error of a statement that writes many says neither whose it is nor where: that of the first cell that is
/// refused for the same reason goes out instead, and names it. `author`: the event that wrote a cell, if that is known.
pub fn attempt<R>(
    changes: &[TableChange<'_>],
    author: impl Fn((&str, &str), &str) -> Option<EventId>,
    write: impl FnOnce() -> Result<Option<R>>,
) -> Result<std::result::Result<Option<R>, Caught>> {
    match entry::catch(|| xact::subtransaction(write)) {
        Ok(done) => done.map(Ok),
        Err(caught) if caught.is_refused_value() && !caught.names_table() => {
            let find = || find_refused(changes, author, caught.state()).map(|()| None::<()>);
            xact::subtransaction(|| spi::with_input_settings(find))?;
            Ok(Err(caught))
        }
        Err(caught) => Ok(Err(caught)),
    }
}

/// Asks the types about cell after cell, in a subtransaction, up to the first that is refused: an error of this SQLSTATE
/// goes out.
fn find_refused(
    changes: &[TableChange<'_>],
    author: impl Fn((&str, &str), &str) -> Option<EventId>,
    state: Option<[u8; 5]>,
) -> Result<()> {
    let mut memory = RowMemory::new();
    for (change, row) in changes.iter().flat_map(|change| change.rows.iter().map(move |row| (change, row))) {
        entry::check_interrupts();
        let table = &*change.table;
        let key = table.key_texts(row.row)?;
        let key = table.key.iter().zip(&key).map(|(index, text)| (*index, ValueRef::Text(text)));
        for (index, value) in key.chain(row.cells.iter().copied()) {
            let column = &table.columns[index];
            let asked = memory.row(|| entry::catch(|| datum::try_input(&column.ty, column.typmod, value)));
            match asked {
                Ok(asked) => asked?,
                Err(refused) if refused.state() == state => {
                    let event = author((&table.alias, row.row), &column.name);
                    let event = event.map_or(String::new(), |event| format!(", written by event {event}"));
                    let (column, row, table) = (&column.name, row.row, &table.alias);
                    refused
                        .resume_with(&format!("In column \"{column}\" of row \"{row}\" of table \"{table}\"{event}."))
                }
                Err(_) => return Ok(()),
            }
        }
    }
    Ok(())
}

fn write_all(changes: &[TableChange<'_>], order: &[Step], present: Present) -> Result<()> {
    for step in order {
        match step {
            Of(Action::Delete) => changes.iter().rev().try_for_each(|c| write_kind(c, Action::Delete, present))?,
            Of(kind) => changes.iter().try_for_each(|c| write_kind(c, *kind, present))?,
            ChildrenFirst => changes.iter().rev().try_for_each(|c| {
                write_kind(c, Action::Delete, present)?;
                write_kind(c, Action::Update, present)
            })?,
        }
    }
    Ok(())
}

fn write_kind(change: &TableChange<'_>, kind: Action, present: Present) -> Result<()> {
    let mut groups: BTreeMap<(Action, Vec<usize>), Vec<&RowChange<'_>>> = BTreeMap::new();
    for row in &change.rows {
        let of_kind = row.action == kind || (kind == Action::Update && row.action == Action::Reset);
        let nothing = row.action == Action::Update && row.cells.is_empty();
        if of_kind && !nothing {
            let columns = row.cells.iter().map(|(i, _)| *i).collect();
            groups.entry((row.action, columns)).or_default().push(row);
        }
    }
    for ((action, columns), rows) in groups {
        entry::check_interrupts();
        if action == Action::Insert && present == Present::Adopt {
            let there = lock_rows(&change.table, change.doc_name.as_deref(), &ids(&rows))?;
            let (mut old, mut new) = (Vec::new(), Vec::new());
            for (row, there) in rows.into_iter().zip(there) {
                if there { old.push(row) } else { new.push(row) }
            }
            if !columns.is_empty() {
                write_rows(change, Action::Update, &columns, &old)?;
            }
            write_rows(change, Action::Insert, &columns, &new)?;
        } else {
            write_rows(change, action, &columns, &rows)?;
        }
    }
    Ok(())
}

fn ids<'r>(rows: &[&RowChange<'r>]) -> Vec<&'r str> {
    rows.iter().map(|r| r.row).collect()
}

fn write_rows(change: &TableChange<'_>, action: Action, columns: &[usize], rows: &[&RowChange<'_>]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let fixed = |i: &usize| change.table.columns[*i].identity_always;
    let written = in_scratch_memory(|| {
        let statement = Statement::new(change, columns, rows)?;
        let sql = match action {
            Action::Insert => statement.insert(change),
            Action::Update => statement.update(change, &[]),
            Action::Reset => statement.update(change, &absent_columns(change, columns)),
            Action::Delete => statement.delete(change),
        };
        spi::connect(|c| {
            let done = if action != Action::Insert && columns.iter().any(fixed) {
                c.run_over_identity(change.table.root, &sql, &statement.params)?
            } else {
                c.run(&sql, &statement.params, false)?
            };
            Ok(done.processed)
        })
    })?;
    let meant = rows.len() as u64;
    if written == meant {
        return Ok(());
    }
    // Rows that are gone by now went by a trigger or a cascade of this very write: they were locked before.
    let there = lock_rows(&change.table, change.doc_name.as_deref(), &ids(rows))?;
    let there = there.into_iter().filter(|there| *there).count() as u64;
    let refused = match action {
        Action::Insert => meant - written,
        Action::Update | Action::Reset => there.saturating_sub(written),
        Action::Delete => there,
    };
    if refused > 0 { Err(not_written(change, action, refused)) } else { Ok(()) }
}

/// Columns that a reset row does not keep.
fn absent_columns<'t>(change: &'t TableChange<'_>, kept: &[usize]) -> Vec<&'t str> {
    let table = &change.table;
    let free = |i: &usize| !kept.contains(i) && !table.key.contains(i) && table.doc_column != Some(*i);
    (0..table.columns.len()).filter(free).map(|i| table.columns[i].name.as_str()).collect()
}

fn not_written(change: &TableChange<'_>, action: Action, missing: u64) -> Error {
    let verb = match action {
        Action::Insert => "insert",
        Action::Update | Action::Reset => "update",
        Action::Delete => "delete",
    };
    Error::new(state::PRIVILEGE, format!("cannot {verb} {missing} row(s) of table {}", change.table.sql_name)).detail(
        "A row security policy hides them, or a BEFORE trigger or rule of the table refused them. Nothing was applied.",
    )
}

/// The keys of many rows as array parameters, one per key column.
pub struct KeyArrays {
    params: Vec<Param>,
    arrays: Vec<&'static str>,
    columns: Vec<(String, Option<String>)>,
}

impl KeyArrays {
    /// The keys behind row ids. Errors when an id is not the canonical text of a key.
    pub fn new<'a>(table: &Table, row_ids: impl Iterator<Item = &'a str>) -> Result<KeyArrays> {
        let mut texts: Vec<Vec<String>> = vec![Vec::new(); table.key.len()];
        for row_id in row_ids {
            for (column, text) in texts.iter_mut().zip(table.key_texts(row_id)?) {
                column.push(text);
            }
        }
        let mut keys = KeyArrays { params: Vec::new(), arrays: Vec::new(), columns: Vec::new() };
        for (index, texts) in table.key.iter().zip(&texts) {
            let column = &table.columns[*index];
            let values: Vec<Option<ValueRef<'_>>> =
                texts.iter().map(|t| Some(datum::key_value(&column.ty, t))).collect();
            let (param, array, cast) = datum::column_array(&column.ty, &values)?;
            keys.params.push(param);
            keys.arrays.push(array);
            keys.columns.push((column.name.clone(), cast));
        }
        Ok(keys)
    }

    /// The parameters, in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// `$1::bigint[], $2::text[]`, the first being `$first`.
    fn arrays(&self, first: usize) -> Vec<String> {
        self.arrays.iter().enumerate().map(|(i, array)| format!("${}::pg_catalog.{array}", first + i)).collect()
    }

    /// `k0, k1`
    fn names(&self) -> Vec<String> {
        (0..self.arrays.len()).map(|i| format!("k{i}")).collect()
    }

    /// `unnest(...) WITH ORDINALITY AS k(k0, ..., i)`, its first parameter being `$first`.
    pub fn from(&self, first: usize) -> String {
        format!("{} WITH ORDINALITY AS k({}, i)", rows_from(&self.arrays(first)), self.names().join(", "))
    }

    /// The key columns' values, cast to their types.
    fn values(&self) -> Vec<String> {
        self.columns.iter().enumerate().map(|(i, (_, cast))| cast_to(&format!("k.k{i}"), cast.as_deref())).collect()
    }

    /// The condition that a row of `alias` is the one meant.
    pub fn matches(&self, alias: &str) -> String {
        let equal = self.columns.iter().zip(self.values());
        let equal = equal.map(|((name, _), value)| format!("{alias}.{} OPERATOR(pg_catalog.=) {value}", quote(name)));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// The key columns of `alias`, for ORDER BY.
    pub fn order(&self, alias: &str) -> String {
        self.columns.iter().map(|(name, _)| format!("{alias}.{}", quote(name))).collect::<Vec<_>>().join(", ")
    }
}

/// `unnest` of several arrays in step. PostgreSQL takes several arguments only by the unqualified name.
fn rows_from(arrays: &[String]) -> String {
    let each: Vec<String> = arrays.iter().map(|a| format!("pg_catalog.unnest({a})")).collect();
    format!("ROWS FROM ({})", each.join(", "))
}

fn cast_to(expression: &str, ty: Option<&str>) -> String {
    match ty {
        Some(ty) => format!("CAST({expression} AS {ty})"),
        None => expression.to_owned(),
    }
}

/// One statement's arrays: keys `k0…`, values `c0…`, and the doc's name where the table routes by a column.
struct Statement {
    params: Vec<Param>,
    keys: KeyArrays,
    arrays: Vec<String>,
    columns: Vec<(String, String)>,
    doc: Option<(String, String)>,
}

impl Statement {
    fn new(change: &TableChange<'_>, columns: &[usize], rows: &[&RowChange<'_>]) -> Result<Statement> {
        let table = &change.table;
        let keys = KeyArrays::new(table, rows.iter().map(|r| r.row))?;
        let mut params = keys.params.clone();
        let mut arrays = keys.arrays(1);
        let mut named = Vec::with_capacity(columns.len());
        for (at, index) in columns.iter().enumerate() {
            let column = &table.columns[*index];
            let values: Vec<Option<ValueRef<'_>>> =
                rows.iter().map(|r| Some(r.cells[at].1).filter(|v| !matches!(v, ValueRef::Null))).collect();
            let (param, array, cast) = datum::column_array(&column.ty, &values)?;
            params.push(param);
            arrays.push(format!("${}::pg_catalog.{array}", params.len()));
            named.push((quote(&column.name), cast_to(&format!("k.c{at}"), cast.as_deref())));
        }
        let doc = match (&change.doc_name, table.doc_column) {
            (Some(name), Some(index)) => {
                let column = &table.columns[index];
                params.push(Param::text(name));
                let ty = crate::pg::types::TypeInfo::sql_name(column.ty.oid);
                Some((quote(&column.name), format!("CAST(${} AS {ty})", params.len())))
            }
            _ => None,
        };
        Ok(Statement { params, keys, arrays, columns: named, doc })
    }

    fn from(&self) -> String {
        let mut names = self.keys.names();
        names.extend((0..self.columns.len()).map(|i| format!("c{i}")));
        // In a SELECT list, in step: as a table each array would go through a tuple store of its own.
        let each = self.arrays.iter().zip(&names).map(|(array, name)| format!("pg_catalog.unnest({array}) AS {name}"));
        format!("(SELECT {}) AS k", each.collect::<Vec<_>>().join(", "))
    }

    fn matches(&self) -> String {
        let mut condition = self.keys.matches("t");
        if let Some((column, value)) = &self.doc {
            condition.push_str(&format!(" AND t.{column} OPERATOR(pg_catalog.=) {value}"));
        }
        condition
    }

    fn insert(&self, change: &TableChange<'_>) -> String {
        let key_names = self.keys.columns.iter().map(|(name, _)| quote(name));
        let in_key = |column: &str| self.keys.columns.iter().any(|(name, _)| quote(name) == *column);
        let doc = self.doc.iter().filter(|(column, _)| !in_key(column));
        let names: Vec<String> = key_names
            .chain(self.columns.iter().map(|(name, _)| name.clone()))
            .chain(doc.clone().map(|(name, _)| name.clone()))
            .collect();
        let values: Vec<String> = (self.keys.values().into_iter())
            .chain(self.columns.iter().map(|(_, value)| value.clone()))
            .chain(doc.map(|(_, value)| value.clone()))
            .collect();
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
            change.table.sql_name,
            names.join(", "),
            values.join(", "),
            self.from()
        )
    }

    fn update(&self, change: &TableChange<'_>, to_default: &[&str]) -> String {
        let set = self.columns.iter().map(|(name, value)| format!("{name} = {value}"));
        let set: Vec<String> = set.chain(to_default.iter().map(|c| format!("{} = DEFAULT", quote(c)))).collect();
        format!(
            "UPDATE {} AS t SET {} FROM {} WHERE {}",
            change.table.sql_name,
            set.join(", "),
            self.from(),
            self.matches()
        )
    }

    fn delete(&self, change: &TableChange<'_>) -> String {
        format!("DELETE FROM {} AS t USING {} WHERE {}", change.table.sql_name, self.from(), self.matches())
    }
}

/// Locks the rows of these ids that exist, in key order, with the extension's rights, and tells which do.
pub fn lock_rows(table: &Table, doc_name: Option<&str>, row_ids: &[&str]) -> Result<Vec<bool>> {
    in_scratch_memory(|| lock_these_rows(table, doc_name, row_ids))
}

fn lock_these_rows(table: &Table, doc_name: Option<&str>, row_ids: &[&str]) -> Result<Vec<bool>> {
    let keys = KeyArrays::new(table, row_ids.iter().copied())?;
    let mut params = keys.params().to_vec();
    let mut condition = keys.matches("t");
    if let (Some(name), Some(index)) = (doc_name, table.doc_column) {
        let column = &table.columns[index];
        params.push(Param::text(name));
        let ty = crate::pg::types::TypeInfo::sql_name(column.ty.oid);
        let column = quote(&column.name);
        condition.push_str(&format!(" AND t.{column} OPERATOR(pg_catalog.=) CAST(${} AS {ty})", params.len()));
    }
    let sql = format!(
        "SELECT k.i FROM {} AS t, {} WHERE {condition} ORDER BY {} FOR UPDATE OF t",
        table.sql_name,
        keys.from(1),
        keys.order("t"),
    );
    let mut exists = vec![false; row_ids.len()];
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            c.each(&sql, &params, |rows, i| {
                exists[rows.i64(i, 1).expect("an ordinal") as usize - 1] = true;
                Ok(())
            })
        })
    })?;
    Ok(exists)
}

/// Sorts what is about tables so that the targets of foreign keys come before their sources, as far as there is such an
/// order.
pub fn parents_first<T>(changes: &mut Vec<T>, root: impl Fn(&T) -> Oid) -> Result<()> {
    if changes.len() < 2 {
        return Ok(());
    }
    let relids: Vec<i64> = changes.iter().map(|c| i64::from(root(c).to_u32())).collect();
    let mut edges: Vec<(Oid, Oid)> = Vec::new();
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            let rows = c.run(
                "SELECT conrelid, confrelid FROM pg_catalog.pg_constraint WHERE contype = 'f' \
                 AND conrelid::bigint = ANY ($1) AND confrelid::bigint = ANY ($1) AND conrelid <> confrelid",
                &[Param::i64s(&relids)],
                false,
            )?;
            edges.extend((0..rows.len()).filter_map(|i| Some((rows.oid(i, 1)?, rows.oid(i, 2)?))));
            Ok(())
        })
    })?;
    let mut sorted = Vec::with_capacity(changes.len());
    while !changes.is_empty() {
        let waits = |change: &T| {
            let is_parent = |parent: Oid| changes.iter().any(|other| root(other) == parent);
            edges.iter().any(|(child, parent)| *child == root(change) && is_parent(*parent))
        };
        let next = changes.iter().position(|c| !waits(c)).unwrap_or(0);
        sorted.push(changes.remove(next));
    }
    *changes = sorted;
    Ok(())
}
