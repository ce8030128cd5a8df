//! The rules of merging: which cell of a row shows what.
//!
//! For one row, let D be its greatest `delete` and *life* what came after it.
//!
//! * The row exists when some `insert` is newer than D. The oldest such insert is the life's *birth*.
//! * A cell shows the greatest [`Stamp`] among the inserts newer than D that name it and the explicit updates and
//!   rewrites of it whose stamp is newer than the birth. An update older than every insert of its row changes nothing,
//!   and comes to life when an older insert arrives late.
//! * Where no such write exists, it shows the greatest default that is newer than the birth and names D as its
//!   `default_since` (none, when the row was never deleted). Being newer than D would not do: the hub may write a default
//!   of the old life after having seen times beyond a delete and a re-insert that somebody has not pushed yet.
//!
//! All of it is a function of the *set* of events, so the order of arrival cannot matter. An insert that names a column
//! twice counts as naming its last value.
//!
//! [`replay_row`] says it over all events of a row. [`merge_row`] comes to the same from the stretch of the log that can
//! compete with a batch (the idea of Eg-walker, Gentle and Kleppmann 2024, carried from text to rows): see there. [`settled`]
//! tells from a few events that the rest need not be read.

mod settled;
mod window;

#[cfg(any(test, feature = "testkit"))]
pub mod oracle;
#[cfg(test)]
mod tests;

use crate::id::{Dot, Stamp};
use crate::ops::{OpRef, Origin};
use crate::planted::{self, Bug};
use crate::value::ValueRef;

pub use crate::event::Candidate;
pub use settled::{Greatest, settled};
pub use window::{LastDelete, Merged, Patch, RowMerge, may_need_history, merge_row, merge_row_with_history};

/// One visible cell and the event that won it.
#[derive(Clone, Copy, Debug)]
pub struct Winner<'a> {
    /// Column.
    pub col: &'a str,
    /// Value.
    pub value: ValueRef<'a>,
    /// The winning event's stamp.
    pub stamp: Stamp<'a>,
    /// The winning event is a default: nobody wrote the cell.
    pub is_default: bool,
    /// The winning event is one of the batch being merged.
    pub from_batch: bool,
}

impl<'a> Winner<'a> {
    /// The winning event.
    pub fn dot(&self) -> Dot<'a> {
        self.stamp.own.unwrap_or(self.stamp.root)
    }

    /// The event a rewrite of this cell derives from; a default is nobody's root.
    pub fn root(&self) -> Option<Dot<'a>> {
        (!self.is_default).then_some(self.stamp.root)
    }
}

/// What a row's events amount to.
#[derive(Clone, Debug, Default)]
pub struct RowView<'a> {
    /// D, the greatest delete.
    pub last_delete: Option<Dot<'a>>,
    /// The least insert newer than D: the row exists when there is one.
    pub birth: Option<Dot<'a>>,
    /// The visible cells, by column bytes. Columns nobody wrote are absent.
    pub cells: Vec<Winner<'a>>,
}

impl<'a> RowView<'a> {
    /// Some insert is newer than the greatest delete.
    pub fn exists(&self) -> bool {
        self.birth.is_some()
    }

    /// The visible cell of a column.
    pub fn cell(&self, col: &str) -> Option<&Winner<'a>> {
        find(&self.cells, col)
    }
}

/// The full rule over all events of one row, in any order.
pub fn replay_row<'a>(events: impl IntoIterator<Item = Candidate<'a>>) -> RowView<'a> {
    let events: Vec<Candidate<'a>> = events.into_iter().collect();
    replay(Competition { known: &events, batch: &[] })
}

/// The cell of `col` among cells sorted by column.
fn find<'c, 'a>(cells: &'c [Winner<'a>], col: &str) -> Option<&'c Winner<'a>> {
    cells.binary_search_by(|c| c.col.cmp(col)).ok().map(|i| &cells[i])
}

/// The events that compete for one row: those the log knows and those of the batch.
#[derive(Clone, Copy)]
struct Competition<'s, 'a> {
    known: &'s [Candidate<'a>],
    batch: &'s [Candidate<'a>],
}

/// Which events count, once the row's life is known.
#[derive(Clone, Copy)]
struct Life<'a> {
    /// Inserts count when newer than this; none: all do.
    last_delete: Option<Dot<'a>>,
    /// Updates count when newer than this; none: all do, the row was born before all of them.
    birth: Option<Dot<'a>>,
    /// Defaults count when they also name `last_delete`; otherwise none does, because it is not known.
    defaults: bool,
}

impl<'s, 'a> Competition<'s, 'a> {
    /// The events with whether they are the batch's.
    fn iter(&self) -> impl Iterator<Item = (&'s Candidate<'a>, bool)> + use<'s, 'a> {
        self.known.iter().map(|c| (c, false)).chain(self.batch.iter().map(|c| (c, true)))
    }

    /// The same without the batch.
    fn known_only(&self) -> Self {
        Competition { known: self.known, batch: &[] }
    }

    /// D, as far as these events tell.
    fn last_delete(&self) -> Option<Dot<'a>> {
        if planted::is(Bug::DeleteIgnored) {
            return None;
        }
        self.iter().filter(|(c, _)| matches!(c.op(), OpRef::Delete { .. })).map(|(c, _)| c.dot).max()
    }

    /// The least insert newer than `last_delete`.
    fn birth(&self, last_delete: Option<Dot<'a>>) -> Option<Dot<'a>> {
        let dropped = |cells: crate::ops::Cells<'_>| planted::is(Bug::EmptyInsertIgnored) && cells.is_empty();
        let is_insert = |c: &Candidate<'_>| matches!(c.op(), OpRef::Insert { cells, .. } if !dropped(cells));
        let inserts = self.iter().filter(|(c, _)| is_insert(c)).map(|(c, _)| c.dot);
        inserts.filter(|&dot| newer(dot, last_delete)).min()
    }

    /// The winner of each cell that these events write, by column.
    fn winners(&self, life: Life<'a>) -> Vec<Winner<'a>> {
        let mut cells = Vec::new();
        for (event, from_batch) in self.iter() {
            collect(event, from_batch, life, &mut cells);
        }
        cells.sort_by(|a, b| (a.col.cmp(b.col)).then_with(|| rank(a, b)));
        cells.dedup_by(|later, earlier| {
            let same = later.col == earlier.col;
            if same {
                *earlier = *later;
            }
            same
        });
        cells
    }
}

/// The full rule, over all events of the row.
fn replay<'a>(events: Competition<'_, 'a>) -> RowView<'a> {
    let last_delete = events.last_delete();
    let birth = events.birth(last_delete);
    let cells = match birth {
        None => Vec::new(),
        Some(_) => events.winners(Life { last_delete, birth, defaults: true }),
    };
    RowView { last_delete, birth, cells }
}

/// Appends the cells that `event` writes, if it counts.
fn collect<'a>(event: &Candidate<'a>, from_batch: bool, life: Life<'a>, into: &mut Vec<Winner<'a>>) {
    let stamp = event.stamp();
    let winner = |col, value, is_default| Winner { col, value, stamp, is_default, from_batch };
    match event.op() {
        OpRef::Insert { cells, .. } if newer(event.dot, life.last_delete) => {
            into.reserve(cells.len());
            into.extend(cells.iter().map(|(col, value)| winner(col, value, false)));
        }
        OpRef::Update { col, value, origin: Origin::Default(since), .. } => {
            let named = since.map(|d| (d.id.peer.as_str(), d.id.counter));
            let current = named == life.last_delete.map(|d| (d.peer, d.counter));
            if life.defaults && born(life.birth, stamp) && (current || planted::is(Bug::DefaultSurvivesDelete)) {
                into.push(winner(col, value, true));
            }
        }
        OpRef::Update { col, value, .. } if born(life.birth, stamp) => into.push(winner(col, value, false)),
        _ => {}
    }
}

/// Whether an update is of the life that began with `birth`.
fn born(birth: Option<Dot<'_>>, stamp: Stamp<'_>) -> bool {
    birth.is_none_or(|birth| stamp > Stamp::plain(birth)) || planted::is(Bug::UpdateBeforeInsert)
}

/// Which of two writes of one cell wins: explicit over default, then the greater stamp. Equal only within one event.
fn rank(a: &Winner<'_>, b: &Winner<'_>) -> std::cmp::Ordering {
    if planted::is(Bug::NoTieBreak) {
        return a.stamp.root.lamport.cmp(&b.stamp.root.lamport);
    }
    if planted::is(Bug::TieBreakShortlex) {
        let key = |w: &Winner<'_>| (!w.is_default, w.stamp.root.lamport, w.stamp.root.peer.len());
        return key(a).cmp(&key(b)).then_with(|| a.stamp.cmp(&b.stamp));
    }
    if planted::is(Bug::DefaultBeatsExplicit) {
        return a.stamp.cmp(&b.stamp);
    }
    b.is_default.cmp(&a.is_default).then_with(|| a.stamp.cmp(&b.stamp))
}

fn newer(dot: Dot<'_>, than: Option<Dot<'_>>) -> bool {
    than.is_none_or(|than| dot > than)
}
