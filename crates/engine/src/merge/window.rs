//! Merging a batch into a row that stands, without reading the row's whole history.
//!
//! The *window* holds the log's events on the row whose effective lamport is at least L, the least one of the batch.
//! Let N be window and batch together, P the rest of the row's log, which is older than all of N.
//!
//! * If N holds a delete, its greatest is the row's D, everything that counts is newer, and N alone decides.
//! * Otherwise D, if any, lies in P. Every explicit write of N that counts beats P, and all inserts of N count. What
//!   counts of N's updates depends on whether the row stood before L:
//!   * without an insert in the window, it stands now exactly when it stood then, and the table tells;
//!   * with one, the row stands now in either case. That matters only for an update that is older than the birth: one of
//!     the batch older than all inserts of N, or one of the window that an older insert of the batch would bring to
//!     life. Then the whole log of the row is asked ([`Merged::NeedsHistory`]).
//! * A default says which delete it knows. Where D lies in P, and no explicit write of N settles the cell, only the whole
//!   log tells whether it counts: then it is asked, too.

use super::{Candidate, Competition, Life, RowView, Winner, find, newer, replay};
use crate::id::{Dot, Stamp};
use crate::ops::{OpRef, Origin};
use crate::planted::{self, Bug};

/// What a batch does to one row.
#[derive(Clone, Debug)]
pub enum Patch<'a> {
    /// The row stays as it is.
    None,
    /// The row is not there and will be, with these cells.
    Insert(Vec<Winner<'a>>),
    /// The row stays; these cells change their winner.
    Update(Vec<Winner<'a>>),
    /// The row stays, but its old life was cut: it has these cells, and every other column becomes absent.
    Reset(Vec<Winner<'a>>),
    /// The row goes.
    Delete,
}

impl<'a> Patch<'a> {
    /// The cells to write.
    pub fn cells(&self) -> &[Winner<'a>] {
        match self {
            Patch::Insert(cells) | Patch::Update(cells) | Patch::Reset(cells) => cells,
            Patch::None | Patch::Delete => &[],
        }
    }

    /// Nothing to do.
    pub fn is_none(&self) -> bool {
        matches!(self, Patch::None)
    }
}

/// The row's greatest delete after the merge: what a default names as its `default_since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastDelete<'a> {
    /// This one; or the row was never deleted.
    Known(Option<Dot<'a>>),
    /// The window does not reach back to it: the row's history tells.
    Unknown,
}

/// A row's merge, decided.
#[derive(Clone, Debug)]
pub struct RowMerge<'a> {
    /// What to do to the table.
    pub patch: Patch<'a>,
    /// What a rewrite of a cell that no competing event wrote derives from: the greatest root among the batch's events
    /// that the patch shows, or the row's birth when it shows none of them. `None` when there is nothing to do.
    pub cause: Option<Dot<'a>>,
    /// The row's greatest delete.
    pub last_delete: LastDelete<'a>,
    /// Winners the patch leaves alone, by column; none when there is nothing to do.
    kept: Vec<Winner<'a>>,
}

impl<'a> RowMerge<'a> {
    /// Of a row that is [settled](super::settled): it stays as it is.
    pub fn settled() -> Self {
        nothing(LastDelete::Unknown)
    }

    /// The root of a rewrite of `col` that a trigger made while the patch was written (design, rule 2.3): the greater of
    /// the cause and the root of the event whose value was replaced. A winner older than the window is older than the
    /// cause, and a default is nobody's root. The rewrite, stamped with this root and a newer dot of its own, is the
    /// cell's winner. `None` when the patch is.
    pub fn root_for(&self, col: &str) -> Option<Dot<'a>> {
        let cause = self.cause?;
        let replaced = find(self.patch.cells(), col).or_else(|| find(&self.kept, col)).and_then(Winner::root);
        let replaced = replaced.filter(|_| !planted::is(Bug::RootIsTheCause));
        Some(replaced.map_or(cause, |root| root.max(cause)))
    }
}

/// What the window says.
#[derive(Clone, Debug)]
pub enum Merged<'a> {
    /// It tells.
    Row(RowMerge<'a>),
    /// It cannot tell: [`merge_row_with_history`] can.
    NeedsHistory,
}

/// Merges the batch's events on one row.
///
/// `exists_now`: the table has the row. `window`: the log's events on the row with effective lamport >= L. `batch`: new
/// events, none of them in the log, all with effective lamport >= L. L may be any lamport up to the batch's least, but the
/// window must hold all of the log's events from it on and none below. Where table and log disagree about the row's existence (capture was bypassed), the history
/// is asked for and decides.
pub fn merge_row<'a>(exists_now: bool, window: &[Candidate<'a>], batch: &[Candidate<'a>]) -> Merged<'a> {
    let all = Competition { known: window, batch };
    match (all.known_only().last_delete(), all.last_delete()) {
        (_, None) => merge_in_one_life(exists_now, all),
        (Some(_), Some(_)) => Merged::Row(merge_known(exists_now, &replay(all.known_only()), replay(all))),
        (None, Some(_)) => {
            let stood = all.known_only().birth(None).is_some();
            if stood && !exists_now { Merged::NeedsHistory } else { Merged::Row(cut(exists_now, replay(all))) }
        }
    }
}

/// Whether [`merge_row`] may answer [`Merged::NeedsHistory`]. Mostly it cannot, and need not be asked for that alone.
pub fn may_need_history(window: &[Candidate<'_>], batch: &[Candidate<'_>]) -> bool {
    let is_default = |c: &Candidate<'_>| matches!(c.op(), OpRef::Update { origin: Origin::Default(_), .. });
    !window.is_empty() || batch.iter().any(is_default)
}

/// The same with everything the log knows of the row; never undecided.
pub fn merge_row_with_history<'a>(
    exists_now: bool,
    history: &[Candidate<'a>],
    batch: &[Candidate<'a>],
) -> RowMerge<'a> {
    let all = Competition { known: history, batch };
    merge_known(exists_now, &replay(all.known_only()), replay(all))
}

/// No delete in sight: the row's last one, if any, is older than the window.
fn merge_in_one_life<'a>(exists_now: bool, all: Competition<'_, 'a>) -> Merged<'a> {
    let birth_before = all.known_only().birth(None);
    let birth = all.birth(None);
    let stood = match (exists_now, birth_before) {
        (false, Some(_)) => return Merged::NeedsHistory,
        (true, Some(_)) if stood_matters(all, birth, birth_before) => return Merged::NeedsHistory,
        _ => exists_now,
    };
    if !stood && birth.is_none() {
        return Merged::Row(nothing(LastDelete::Unknown));
    }
    let life = Life { last_delete: None, birth: if stood { None } else { birth }, defaults: false };
    let cells = all.winners(life);
    let sure_from = birth_before.and(birth);
    if open_default(all, stood, &cells, sure_from) {
        return Merged::NeedsHistory;
    }
    Merged::Row(if stood {
        let (changed, kept) = cells.into_iter().partition(|c: &Winner| c.from_batch);
        update(changed, kept, None, LastDelete::Unknown)
    } else {
        RowMerge {
            cause: cause(&cells, birth),
            patch: Patch::Insert(cells),
            last_delete: LastDelete::Unknown,
            kept: vec![],
        }
    })
}

/// Whether it changes the outcome that the row stood before the window, given that the window inserts it: see the
/// module's head.
fn stood_matters(all: Competition<'_, '_>, birth: Option<Dot<'_>>, birth_before: Option<Dot<'_>>) -> bool {
    if planted::is(Bug::HistoryNeverAsked) {
        return false;
    }
    all.iter().any(|(event, from_batch)| match event.op() {
        OpRef::Update { origin, .. } => {
            let older = |than: Option<Dot<'_>>| than.is_some_and(|dot| event.stamp() < Stamp::plain(dot));
            match from_batch {
                true => older(birth) && !matches!(origin, Origin::Default(_)),
                false => older(birth_before) && !older(birth),
            }
        }
        _ => false,
    })
}

/// Whether a default may change what the row shows: one of the batch, or, when the row comes to be, of the window, in a
/// cell that no explicit write settles. Where it is not known whether the row stood before the window, only writes from
/// `sure_from` on settle anything.
fn open_default(all: Competition<'_, '_>, stood: bool, cells: &[Winner<'_>], sure_from: Option<Dot<'_>>) -> bool {
    let settles = |c: &Winner<'_>| sure_from.is_none_or(|birth| c.stamp >= Stamp::plain(birth));
    all.iter().any(|(event, from_batch)| match event.op() {
        OpRef::Update { col, origin: Origin::Default(_), .. } => {
            (from_batch || !stood) && !find(cells, col).is_some_and(settles)
        }
        _ => false,
    })
}

/// The batch holds the row's last delete, and the window knew of none: of the life before only its existence is known.
fn cut(exists_now: bool, after: RowView<'_>) -> RowMerge<'_> {
    let last_delete = LastDelete::Known(after.last_delete);
    let cause_of_life = cause(&after.cells, after.birth);
    let (patch, cause) = match (exists_now, after.exists()) {
        (false, false) => return nothing(last_delete),
        (true, false) => (Patch::Delete, after.last_delete),
        (true, true) => (Patch::Reset(after.cells), cause_of_life),
        (false, true) => (Patch::Insert(after.cells), cause_of_life),
    };
    RowMerge { patch, cause, last_delete, kept: vec![] }
}

/// What the row was and will be is known: the patch is the difference.
fn merge_known<'a>(exists_now: bool, before: &RowView<'a>, after: RowView<'a>) -> RowMerge<'a> {
    let last_delete = LastDelete::Known(after.last_delete);
    let differs = before.exists() != after.exists() || !same_cells(&before.cells, &after.cells);
    if !differs {
        return nothing(last_delete);
    }
    let vanished = before.cells.iter().any(|c| after.cell(c.col).is_none());
    if !exists_now || !after.exists() || !before.exists() || vanished {
        return cut(exists_now, after);
    }
    let unchanged = |c: &Winner<'a>| before.cell(c.col).is_some_and(|b| b.dot() == c.dot());
    let (kept, changed) = after.cells.into_iter().partition(unchanged);
    update(changed, kept, after.birth, last_delete)
}

fn same_cells(before: &[Winner<'_>], after: &[Winner<'_>]) -> bool {
    before.len() == after.len() && before.iter().zip(after).all(|(b, a)| b.col == a.col && b.dot() == a.dot())
}

fn update<'a>(
    changed: Vec<Winner<'a>>,
    kept: Vec<Winner<'a>>,
    birth: Option<Dot<'a>>,
    last_delete: LastDelete<'a>,
) -> RowMerge<'a> {
    if changed.is_empty() {
        return nothing(last_delete);
    }
    RowMerge { cause: cause(&changed, birth), patch: Patch::Update(changed), last_delete, kept }
}

/// The greatest root that the batch brings to the row, at least the row's birth: a rewrite of an older event is void.
fn cause<'a>(cells: &[Winner<'a>], birth: Option<Dot<'a>>) -> Option<Dot<'a>> {
    let brought = cells.iter().filter(|c| c.from_batch).filter_map(Winner::root).max();
    brought.filter(|&root| newer(root, birth)).or(birth)
}

fn nothing(last_delete: LastDelete<'_>) -> RowMerge<'_> {
    RowMerge { patch: Patch::None, cause: None, last_delete, kept: vec![] }
}
