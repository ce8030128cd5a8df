//! What new events do to rows: the competition is read, the engine decides, rows are written, and what the table made
//! of it is written down as derived events (design, rules 2.3 and 2.4, section 7 steps 3 to 5).

use std::rc::Rc;

use crdt_engine::ValueRef;
use crdt_engine::admit::Admitted;
use crdt_engine::id::Dot;
use crdt_engine::merge::{self, Candidate, Merged, Patch, RowMerge};
use crdt_engine::oplog::{Found, Rows};
use crdt_engine::ops::OpBuf;
use crdt_engine::wire::{Batch, json};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::apply::{self, Action, ORDERS, Present, RowChange, TableChange};
use crate::capture;
use crate::catalog::{self, Table};
use crate::error::{Error, Result, state};
use crate::flush;
use crate::generic;
use crate::ingest;
use crate::pg::relation::Snapshot;
use crate::pg::{datum, entry, probe, xact};
use crate::store::{self, RowEvents};

/// Runs at the end of the log that are read before the index by row is asked instead: this many and one for every so
/// many rows. Decoding a run costs as much as looking up a few rows.
const WINDOW_RUNS: usize = 16;
const ROWS_A_RUN: usize = 8;
/// How often a push starts over because rows changed under it.
const ATTEMPTS: usize = 100;

/// What merging did to rows.
#[derive(Default)]
pub struct Outcome {
    /// Merge operations that changed something, as JSON.
    pub merge_ops: Vec<String>,
    /// Updates to log as derived from what was merged, per doc.
    derived: Vec<(i64, OpBuf)>,
}

/// What statements were seen to do, by doc.
pub type Captured = FxHashMap<i64, OpBuf>;

/// Where the rows of a wire table live.
enum Place {
    Tracked(Rc<Table>),
    Generic,
}

/// Merges new events into rows. Nothing is logged here. `want_ops`: tell the merge operations too.
pub fn merge_into_rows(doc: i64, batch: &Batch, admitted: &Admitted, want_ops: bool) -> Result<Outcome> {
    let rows = ingest::rows_of(batch, admitted);
    if rows.keys().is_empty() {
        return Ok(Outcome::default());
    }
    let places = find_places(doc, &rows)?;
    let target = Target { doc, doc_name: catalog::doc(doc)?.name.clone(), rows: &rows, places: &places };
    for _ in 0..ATTEMPTS {
        entry::check_interrupts();
        if let Some(outcome) = target.attempt(admitted.least_effective, want_ops)? {
            return Ok(outcome);
        }
    }
    Err(Error::new(state::ROW_BUSY, format!("rows of doc {doc} kept changing under the push, {ATTEMPTS} times"))
        .hint("Try again."))
}

fn find_places<'b>(doc: i64, rows: &Rows<'b>) -> Result<FxHashMap<&'b str, Place>> {
    let mut places = FxHashMap::default();
    for (tbl, _) in rows.keys() {
        if !places.contains_key(tbl) {
            let place = match catalog::table_by_alias(doc, tbl)? {
                Some(relid) => Place::Tracked(catalog::tracked(relid)?),
                None => Place::Generic,
            };
            places.insert(*tbl, place);
        }
    }
    Ok(places)
}

/// The rows that a batch is about.
struct Target<'t, 'b> {
    doc: i64,
    doc_name: Option<String>,
    rows: &'t Rows<'b>,
    places: &'t FxHashMap<&'b str, Place>,
}

impl<'b> Target<'_, 'b> {
    /// One try: lock, read, decide, write. `None`: rows changed under it.
    fn attempt(&self, least: u64, want_ops: bool) -> Result<Option<Outcome>> {
        let exists = self.lock_existing()?;
        let quiet_since = flush::quiet(self.doc);
        let known = Competition::read(self.doc, self.rows, Some(least))?;
        let undecided = self.undecided(&exists, &known);
        let history = Competition::of_some(self.doc, self.rows, &undecided)?;
        let merges = self.decide(&exists, &known, &undecided, &history);
        if self.wait_for_inserters(&exists, &merges)? {
            return Ok(None);
        }
        let changes = self.tracked_changes(&merges)?;
        let written = xact::subtransaction(|| {
            let Some(captured) = self.write(&changes, &merges)? else { return Ok(None) };
            let quiet = quiet_since.is_some() && flush::quiet(self.doc) == quiet_since;
            // Somebody may have inserted and deleted one of the rows between our look and our write.
            let moved = !quiet && Competition::read(self.doc, self.rows, Some(least))?.len() != known.len();
            Ok((!moved).then_some(captured))
        })?;
        let Some(captured) = written else { return Ok(None) };
        let derived = crate::derive::derive(self.doc, self.rows, &merges, &changes, captured)?;
        let merge_ops = if want_ops { merge_ops(self.rows, &merges)? } else { Vec::new() };
        Ok(Some(Outcome { merge_ops, derived }))
    }

    /// Indices of the rows of one wire table.
    fn rows_in(&self, tbl: &str) -> Vec<usize> {
        (0..self.rows.keys().len()).filter(|i| self.rows.keys()[*i].0 == tbl).collect()
    }

    /// Locks the rows that are there, table by table, in key order.
    fn lock_existing(&self) -> Result<Vec<bool>> {
        let mut exists = vec![false; self.rows.keys().len()];
        let mut names: Vec<&&str> = self.places.keys().collect();
        names.sort_unstable();
        for tbl in names {
            let indices = self.rows_in(tbl);
            let ids: Vec<&str> = indices.iter().map(|i| self.rows.keys()[*i].1).collect();
            let found = match &self.places[*tbl] {
                Place::Tracked(table) => apply::lock_rows(table, self.doc_name.as_deref(), &ids)?,
                Place::Generic => generic::lock_rows(self.doc, tbl, &ids)?,
            };
            for (i, found) in indices.into_iter().zip(found) {
                exists[i] = found;
            }
        }
        Ok(exists)
    }

    /// Rows whose window does not tell.
    fn undecided(&self, exists: &[bool], known: &Competition) -> Vec<usize> {
        if known.whole {
            return Vec::new();
        }
        let known = Rows::found(self.rows.keys(), &known.found);
        let open = |i: &usize| {
            let merged = merge::merge_row(exists[*i], known.events(*i), self.rows.events(*i));
            matches!(merged, Merged::NeedsHistory)
        };
        (0..exists.len()).filter(open).collect()
    }

    fn decide<'a>(
        &self,
        exists: &[bool],
        known: &'a Competition,
        undecided: &[usize],
        history: &'a Competition,
    ) -> Vec<RowMerge<'a>>
    where
        'b: 'a,
    {
        let window = Rows::found(self.rows.keys(), &known.found);
        let whole = Rows::found(self.rows.keys(), &history.found);
        let undecided: FxHashSet<usize> = undecided.iter().copied().collect();
        let merge = |i: usize| {
            let batch = self.rows.events(i);
            if known.whole {
                return merge::merge_row_with_history(exists[i], window.events(i), batch);
            }
            if !undecided.contains(&i)
                && let Merged::Row(row) = merge::merge_row(exists[i], window.events(i), batch)
            {
                return row;
            }
            merge::merge_row_with_history(exists[i], whole.events(i), batch)
        };
        (0..exists.len()).map(merge).collect()
    }

    /// A row that is not there and will not be made may be on its way in another transaction, which has perhaps taken
    /// its lamport already: wait for it and look again.
    fn wait_for_inserters(&self, exists: &[bool], merges: &[RowMerge<'_>]) -> Result<bool> {
        for (i, (tbl, row)) in self.rows.keys().iter().enumerate() {
            let Place::Tracked(table) = &self.places[tbl] else { continue };
            if exists[i] || matches!(merges[i].patch, Patch::Insert(_)) {
                continue;
            }
            let texts = table.key_texts(row)?;
            if let Some(xid) = probe::key_in_progress(table.root, &texts)? {
                xact::wait_for(xid);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The patches of tracked tables as changes, parents first. Cells of columns that a table does not have stay in the
    /// log only.
    fn tracked_changes<'m>(&'m self, merges: &'m [RowMerge<'_>]) -> Result<Vec<TableChange<'m>>> {
        let mut changes = Vec::new();
        for (tbl, place) in self.places {
            let Place::Tracked(table) = place else { continue };
            let mut rows = Vec::new();
            for i in self.rows_in(tbl) {
                rows.extend(self.row_change(table, self.rows.keys()[i].1, &merges[i].patch)?);
            }
            let doc_name = table.doc_column.and(self.doc_name.clone());
            if !rows.is_empty() {
                changes.push(TableChange { table: table.clone(), doc_name, rows });
            }
        }
        changes.sort_by_key(|c| c.table.root.to_u32());
        apply::parents_first(&mut changes)?;
        Ok(changes)
    }

    fn row_change<'m>(&self, table: &Table, row: &'m str, patch: &'m Patch<'_>) -> Result<Option<RowChange<'m>>> {
        let action = match patch {
            Patch::None => return Ok(None),
            Patch::Insert(_) => Action::Insert,
            Patch::Update(_) => Action::Update,
            Patch::Reset(_) => Action::Reset,
            Patch::Delete => Action::Delete,
        };
        let mut cells = Vec::with_capacity(patch.cells().len());
        for cell in patch.cells() {
            let Some(index) = table.columns.iter().position(|c| c.name == cell.col) else { continue };
            if let Some(at) = table.key.iter().position(|k| *k == index) {
                check_key_cell(table, row, at, cell.value)?;
            } else if table.doc_column == Some(index) {
                self.check_doc_cell(table, row, cell.value)?;
            } else {
                cells.push((index, cell.value));
            }
        }
        cells.sort_unstable_by_key(|(index, _)| *index);
        Ok(Some(RowChange { row, action, cells }))
    }

    fn check_doc_cell(&self, table: &Table, row: &str, value: ValueRef<'_>) -> Result<()> {
        let mut text = String::new();
        let given = datum::key_text(value, &mut text);
        if self.doc_name.as_deref() == Some(given) {
            return Ok(());
        }
        Err(Error::new(
            state::KEY_CHANGED,
            format!("row \"{row}\" of table \"{}\" would move to doc \"{given}\"", table.alias),
        )
        .hint("Delete it here and insert it there."))
    }

    /// Writes all rows inside the open subtransaction. `None`: a row has appeared, start over.
    fn write(&self, changes: &[TableChange<'_>], merges: &[RowMerge<'_>]) -> Result<Option<Captured>> {
        let tries = ORDERS.iter().map(|order| (order, Present::Refuse)).chain([(&ORDERS[0], Present::Adopt)]);
        for (order, present) in tries {
            let tried = entry::catch(|| {
                xact::subtransaction(|| {
                    let ((), captured) = capture::observe(|| apply::write(changes, order, present))?;
                    let generic = |tbl: &str| matches!(self.places[tbl], Place::Generic);
                    generic::write(self.doc, self.rows.keys(), merges, generic)?;
                    Ok(Some(captured))
                })
            });
            match tried {
                Ok(done) => return done,
                Err(caught) if caught.is_constraint_violation() => {}
                Err(caught) => caught.resume(),
            }
        }
        if self.appeared(changes)? {
            return Ok(None);
        }
        // No order works: let the first one's error out, it is the one to understand.
        let ((), captured) = capture::observe(|| apply::write(changes, &ORDERS[0], Present::Refuse))?;
        Ok(Some(captured))
    }

    /// Has a row come to be that was to be inserted?
    fn appeared(&self, changes: &[TableChange<'_>]) -> Result<bool> {
        for change in changes {
            let inserts = change.rows.iter().filter(|r| r.action == Action::Insert);
            let ids: Vec<&str> = inserts.map(|r| r.row).collect();
            if !ids.is_empty() && apply::lock_rows(&change.table, change.doc_name.as_deref(), &ids)?.contains(&true) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn check_key_cell(table: &Table, row: &str, at: usize, value: ValueRef<'_>) -> Result<()> {
    let mut text = String::new();
    let given = datum::key_text(value, &mut text);
    if table.key_texts(row)?[at] == given {
        return Ok(());
    }
    let column = &table.columns[table.key[at]].name;
    Err(Error::new(
        state::KEY_CHANGED,
        format!("key column \"{column}\" of row \"{row}\" of table \"{}\" cannot become \"{given}\"", table.alias),
    )
    .hint("A row's id is its key: delete the row and insert another."))
}

/// The log's events that compete with a batch, by row.
struct Competition {
    found: Found,
    /// All events of the rows are here, not only those of a window.
    whole: bool,
}

impl Competition {
    /// Reads what has an effective lamport of at least `least`, or more; `None`: everything.
    fn read(doc: i64, rows: &Rows<'_>, least: Option<u64>) -> Result<Competition> {
        let _now = xact::ActiveSnapshot::push_latest();
        let all: Vec<usize> = (0..rows.keys().len()).collect();
        if let Some(least) = least {
            let index = index_of(rows, &all);
            let budget = WINDOW_RUNS + all.len() / ROWS_A_RUN;
            let mut wanted = |tbl: &str, row: &str| index.contains_key(&(tbl, row));
            let window = store::events_since_lamport(doc, least, budget, &mut wanted, Snapshot::Active)?;
            if let Some(events) = window {
                return Ok(Competition { found: collect(&index, &events, least)?, whole: false });
            }
        }
        let whole = Self::of_some(doc, rows, &all)?;
        Ok(Competition { whole: true, ..whole })
    }

    /// Reads everything on some of the rows.
    fn of_some(doc: i64, rows: &Rows<'_>, some: &[usize]) -> Result<Competition> {
        if some.is_empty() {
            return Ok(Competition { found: Found::new(), whole: false });
        }
        let _now = xact::ActiveSnapshot::push_latest();
        let index = index_of(rows, some);
        let hashes: Vec<i64> =
            some.iter().map(|i| rows.keys()[*i]).map(|(tbl, row)| store::row_hash(tbl, row)).collect();
        let mut wanted = |tbl: &str, row: &str| index.contains_key(&(tbl, row));
        let events = store::events_on_rows(doc, &hashes, &mut wanted, Snapshot::Active)?;
        Ok(Competition { found: collect(&index, &events, 0)?, whole: false })
    }

    fn len(&self) -> usize {
        self.found.len()
    }
}

type RowIndex<'r> = FxHashMap<(&'r str, &'r str), usize>;

fn index_of<'r>(rows: &Rows<'r>, some: &[usize]) -> RowIndex<'r> {
    some.iter().map(|i| (rows.keys()[*i], *i)).collect()
}

/// The events with an effective lamport of at least `least`, by row. A run that reaches `least` may begin below it: what
/// is older must not be taken for part of the window.
fn collect(index: &RowIndex<'_>, events: &RowEvents, least: u64) -> Result<Found> {
    let mut names: FxHashMap<i32, String> = FxHashMap::default();
    for (peer, _, _) in &events.of {
        if !names.contains_key(peer) {
            names.insert(*peer, catalog::peer_name(*peer)?);
        }
    }
    let mut found = Found::new();
    for (op, (peer, counter, lamport)) in events.ops.iter().zip(&events.of) {
        if let Some(row) = op.row_key().and_then(|key| index.get(&key)) {
            let dot = Dot { lamport: *lamport, peer: &names[peer], counter: *counter };
            let event = Candidate { op, dot };
            if event.effective_lamport() >= least {
                found.push(*row, event)?;
            }
        }
    }
    Ok(found)
}

/// All that the log has on rows, as candidates by row.
pub fn history_of(doc: i64, rows: &Rows<'_>, some: &[usize]) -> Result<Found> {
    Ok(Competition::of_some(doc, rows, some)?.found)
}

fn merge_ops(rows: &Rows<'_>, merges: &[RowMerge<'_>]) -> Result<Vec<String>> {
    let mut ops = Vec::new();
    for ((tbl, row), merge) in rows.keys().iter().zip(merges) {
        let mut push = |write: &mut dyn FnMut(&mut String) -> crdt_engine::Result<()>| {
            let mut text = String::new();
            write(&mut text).map(|()| ops.push(text))
        };
        match &merge.patch {
            Patch::None => {}
            Patch::Delete => push(&mut |out| json::write_delete_row(out, tbl, row))?,
            Patch::Insert(cells) => {
                push(&mut |out| json::write_insert_row(out, tbl, row, cells.iter().map(|c| (c.col, c.value))))?;
            }
            Patch::Reset(cells) => {
                push(&mut |out| json::write_delete_row(out, tbl, row))?;
                push(&mut |out| json::write_insert_row(out, tbl, row, cells.iter().map(|c| (c.col, c.value))))?;
            }
            Patch::Update(cells) => {
                for cell in cells {
                    push(&mut |out| json::write_set_cell(out, tbl, row, cell.col, cell.value))?;
                }
            }
        }
    }
    Ok(ops)
}

/// Appends what the tables made of the merged events to the buffers of their docs.
pub fn append_derived(outcome: &Outcome) -> Result<()> {
    for (doc, ops) in &outcome.derived {
        capture::append(*doc, |buffer| {
            for op in ops.iter() {
                buffer.push(op)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
