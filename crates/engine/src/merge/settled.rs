//! When enough is known of a row to tell that a batch changes nothing of it, whatever else its log holds.
//!
//! An event of the batch is *void* once one known event makes it so, and stays void when more become known:
//!
//! * an explicit update or rewrite of a cell, with stamp s, when an insert that names the cell, an explicit update or a
//!   rewrite of it, or a delete has a greater stamp. Suppose it counts; then s is greater than the birth, which is greater
//!   than D. A greater update is then newer than the birth, too, and a greater insert newer than D: either counts and
//!   wins. A greater delete cannot be: it would be at most D.
//! * an insert or a delete, when a delete is greater: the insert is older than D, the delete is not D.
//!
//! A default is never void in this sense. A row all of whose batch events are void is *settled*: with and without the
//! batch it has the same D and the same birth, and no cell's winner is of the batch.

use std::collections::BTreeMap;

use super::Candidate;
use crate::id::Stamp;
use crate::ops::{OpRef, Origin};

/// Whether nothing of a batch can show on a row, `known` being any of the log's events there.
pub fn settled(known: &[Candidate<'_>], batch: &[Candidate<'_>]) -> bool {
    let greatest = Greatest::of(known);
    batch.iter().all(|event| greatest.makes_void(event))
}

/// The greatest stamps among some events of a row.
#[derive(Debug, Default)]
pub struct Greatest<'a> {
    delete: Option<Stamp<'a>>,
    /// Of those that write a cell, defaults aside.
    cells: BTreeMap<&'a str, Stamp<'a>>,
}

impl<'a> Greatest<'a> {
    /// Those of these.
    pub fn of(events: &[Candidate<'a>]) -> Self {
        let mut greatest = Greatest::default();
        for event in events {
            let stamp = event.stamp();
            match event.op() {
                OpRef::Delete { .. } => greatest.delete = greatest.delete.max(Some(stamp)),
                OpRef::Insert { cells, .. } => cells.iter().for_each(|(col, _)| greatest.written(col, stamp)),
                OpRef::Update { origin: Origin::Default(_), .. } | OpRef::Opaque { .. } => {}
                OpRef::Update { col, .. } => greatest.written(col, stamp),
            }
        }
        greatest
    }

    fn written(&mut self, col: &'a str, stamp: Stamp<'a>) {
        let greatest = self.cells.entry(col).or_insert(stamp);
        *greatest = stamp.max(*greatest);
    }

    /// Whether one of them makes an event of a batch void.
    pub fn makes_void(&self, event: &Candidate<'_>) -> bool {
        let stamp = event.stamp();
        let deleted = self.delete.is_some_and(|delete| delete > stamp);
        match event.op() {
            OpRef::Update { origin: Origin::Default(_), .. } | OpRef::Opaque { .. } => false,
            OpRef::Update { col, .. } => deleted || self.cells.get(col).is_some_and(|other| *other > stamp),
            OpRef::Insert { .. } | OpRef::Delete { .. } => deleted,
        }
    }
}
