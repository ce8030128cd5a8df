//! Row patches into rows, set-wise, as the caller.

use crdt_engine::ValueRef;

use crate::catalog::Table;
use crate::error::Result;
use crate::pg::datum;
use crate::pg::relation::quote;
use crate::pg::spi::Param;

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
            let values: Vec<Option<ValueRef<'_>>> = texts.iter().map(|t| Some(datum::key_value(&column.ty, t))).collect();
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

    /// `unnest(...) AS k(...)`, its first parameter being `$first`.
    pub fn from(&self, first: usize) -> String {
        let arrays: Vec<String> =
            self.arrays.iter().enumerate().map(|(i, array)| format!("${}::pg_catalog.{array}", first + i)).collect();
        let names: Vec<String> = (0..self.arrays.len()).map(|i| format!("k{i}")).collect();
        format!("pg_catalog.unnest({}) AS k({})", arrays.join(", "), names.join(", "))
    }

    /// The key columns' values, cast to their types.
    pub fn values(&self) -> Vec<String> {
        self.columns.iter().enumerate().map(|(i, (_, cast))| cast_to(&format!("k.k{i}"), cast.as_deref())).collect()
    }

    /// The condition that a row of `alias` is the one meant.
    pub fn matches(&self, alias: &str) -> String {
        let equal = self.columns.iter().zip(self.values());
        let equal = equal.map(|((name, _), value)| format!("{alias}.{} OPERATOR(pg_catalog.=) {value}", quote(name)));
        equal.collect::<Vec<_>>().join(" AND ")
    }
}

fn cast_to(expression: &str, ty: Option<&str>) -> String {
    match ty {
        Some(ty) => format!("CAST({expression} AS {ty})"),
        None => expression.to_owned(),
    }
}
