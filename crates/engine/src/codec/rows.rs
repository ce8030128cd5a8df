//! Which rows somebody wants of a blob.

use std::collections::BTreeMap;

use crate::alloc;
use crate::error::Result;

/// Rows, by table and row id.
#[derive(Default)]
pub struct RowSet<'a> {
    tables: BTreeMap<&'a str, Ids<'a>>,
}

/// Rows of one table: all, or those of some ids. Names come from outside, so they are sorted and not hashed.
#[derive(Default)]
pub(super) struct Ids<'a> {
    all: bool,
    texts: Vec<&'a str>,
    /// Those that say an integer. Blobs keep such ids as integers, and comparing these spares writing them out as text.
    ints: Vec<i64>,
}

impl<'a> RowSet<'a> {
    /// These rows.
    pub fn new(rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> RowSet<'a> {
        let mut set = RowSet::default();
        for (tbl, row) in rows {
            let ids = set.tables.entry(tbl).or_default();
            ids.texts.push(row);
            ids.ints.extend(crate::scan::decimal(row, 0));
        }
        for ids in set.tables.values_mut() {
            ids.texts.sort_unstable();
            ids.ints.sort_unstable();
            ids.ints.dedup();
        }
        set
    }

    /// All rows of a table.
    pub fn table(tbl: &'a str) -> RowSet<'a> {
        RowSet { tables: BTreeMap::from([(tbl, Ids { all: true, ..Ids::default() })]) }
    }

    /// What is wanted of a table.
    pub(super) fn of(&self, tbl: &str) -> Option<&Ids<'a>> {
        self.tables.get(tbl)
    }
}

impl Ids<'_> {
    pub fn all(&self) -> bool {
        self.all
    }

    pub fn has_text(&self, row: &str) -> bool {
        self.texts.binary_search(&row).is_ok()
    }

    /// Which of `n` integers are here, the first of them and their step given: positions, in order.
    pub fn positions(&self, first: i64, step: i64, n: usize, found: &mut Vec<usize>, from: usize) -> Result<()> {
        let has = |row: i64| self.ints.binary_search(&row).is_ok();
        if step == 0 || n == 1 {
            let all = if has(first) { n } else { 0 };
            alloc::reserve(found, all)?;
            found.extend(from..from + all);
            return Ok(());
        }
        let last = i64::try_from(n - 1).ok().and_then(|d| first.checked_add(step.checked_mul(d)?));
        let Some(last) = last else {
            let rows = (0..n).filter(|&i| has(first.wrapping_add(step.wrapping_mul(i as i64))));
            return rows.into_iter().try_for_each(|i| alloc::push(found, from + i));
        };
        let start = self.ints.partition_point(|&row| row < first.min(last));
        let end = self.ints.partition_point(|&row| row <= first.max(last));
        let at = |row: i64| {
            let distance = i128::from(row) - i128::from(first);
            (distance % i128::from(step) == 0).then_some(from + (distance / i128::from(step)) as usize)
        };
        let between = &self.ints[start..end];
        match step > 0 {
            true => between.iter().filter_map(|&row| at(row)).try_for_each(|i| alloc::push(found, i)),
            false => between.iter().rev().filter_map(|&row| at(row)).try_for_each(|i| alloc::push(found, i)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn positions_are_those_of_each(
            ids in proptest::collection::vec(-20i64..20, 0..12),
            first in prop_oneof![-25i64..25, Just(i64::MAX - 3), Just(i64::MIN + 3)],
            step in -4i64..5,
            n in 1usize..20,
        ) {
            let far = [i64::MAX, i64::MIN, i64::MIN + 1];
            let texts: Vec<String> = ids.iter().chain(&far).map(i64::to_string).collect();
            let set = RowSet::new(texts.iter().map(|row| ("t", row.as_str())));
            let each = (0..n).filter(|&i| {
                let row = first.wrapping_add(step.wrapping_mul(i as i64));
                ids.contains(&row) || far.contains(&row)
            });
            let mut found = Vec::new();
            set.of("t").unwrap().positions(first, step, n, &mut found, 100).unwrap();
            prop_assert_eq!(found, each.map(|i| 100 + i).collect::<Vec<_>>());
        }
    }
}
