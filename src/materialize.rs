//! What new events do to rows: the competition is read, the engine decides, rows are written, and what the table made
//! of it is written down as derived events (design, rules 2.3 and 2.4, section 7 steps 3 to 5).

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use crdt_engine::ValueRef;
use crdt_engine::admit::Admitted;
use crdt_engine::id::EventId;
use crdt_engine::merge::{self, Merged, Patch, RowMerge};
use crdt_engine::oplog::{ByRow, Rows};
use crdt_engine::ops::OpBuf;
use crdt_engine::wire::{Batch, json};
use rustc_hash::FxHashMap;

use crate::apply::{self, Action, ORDERS, Present, RowChange, Step, TableChange};
use crate::buffer;
use crate::catalog::{self, Table};
use crate::competition::Competition;
use crate::error::{Error, Result, state};
use crate::flush;
use crate::generic;
use crate::ingest;
use crate::pg::lock::{self, Space};
use crate::pg::relation::{Lock, Relation};
use crate::pg::{datum, entry, probe, xact};
use crate::rows;
use crate::store;

/// How often a push starts over because rows changed under it.
const ATTEMPTS: usize = 100;
/// Rows that are decided and written together, which bounds the memory for it.
const PORTION_ROWS: usize = 8192;

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
    if rows.is_empty() {
        return Ok(Outcome::default());
    }
    let places = find_places(doc, &rows)?;
    let target = Target { doc, doc_name: catalog::doc(doc)?.name.clone(), rows: &rows, places: &places };
    target.check_docs()?;
    let whole = target.together();
    let mut portions = if want_ops { whole.clone() } else { target.portions()? };
    for _ in 0..ATTEMPTS {
        entry::check_interrupts();
        match target.attempt(admitted.least_effective, want_ops, &portions)? {
            Attempt::Done(outcome) => return Ok(outcome),
            Attempt::RowsChanged => {}
            Attempt::Bound => portions.clone_from(&whole),
        }
    }
    Err(Error::new(state::ROW_BUSY, format!("rows of doc {doc} kept changing under the push, {ATTEMPTS} times"))
        .hint("Try again."))
}

fn find_places<'b>(doc: i64, rows: &Rows<'b>) -> Result<BTreeMap<&'b str, Place>> {
    let mut places = BTreeMap::new();
    for (tbl, _) in rows.keys() {
        if !places.contains_key(tbl) {
            places.insert(tbl, find_place(doc, tbl)?);
        }
    }
    Ok(places)
}

/// Where the rows of a name live, and will until the transaction ends: a table is locked before its columns are read, so that
/// none comes or goes meanwhile, and so are the partitions it has; while a name has no table, nobody may track one.
fn find_place(doc: i64, tbl: &str) -> Result<Place> {
    let (mut gone, mut nobody_tracks) = (None, false);
    loop {
        match catalog::table_by_alias(doc, tbl)? {
            Some(relid) if gone != Some(relid) => {
                if Relation::try_open(relid, Lock::RowExclusive).is_some()
                    && let Some(table) = catalog::table(relid)?
                    && table.alias == tbl
                    && table.doc.is_none_or(|of| of == doc)
                {
                    if table.partitioned {
                        lock::lock_shared(store::lock_class()?, relid.to_u32(), Space::Tables);
                    }
                    return Ok(Place::Tracked(table));
                }
                gone = Some(relid);
            }
            _ if nobody_tracks => return Ok(Place::Generic),
            _ => {
                lock::lock_shared(store::lock_class()?, 0, Space::Tables);
                nobody_tracks = true;
            }
        }
    }
}

/// What is known of all rows of a push.
struct Sources<'s, 'a> {
    exists: &'s [bool],
    known: &'s Competition,
    /// What is known, by row.
    window: ByRow<'a>,
    history: ByRow<'a>,
    /// Rows that need their history, ascending.
    undecided: &'s [usize],
}

/// What became of a try.
enum Attempt {
    Done(Outcome),
    /// Rows changed under it.
    RowsChanged,
    /// Something binds rows of different portions: they have to be written together.
    Bound,
}

/// The rows that a batch is about.
struct Target<'t, 'b> {
    doc: i64,
    doc_name: Option<String>,
    rows: &'t Rows<'b>,
    places: &'t BTreeMap<&'b str, Place>,
}

impl<'b> Target<'_, 'b> {
    /// All rows as one portion.
    fn together(&self) -> Vec<Range<usize>> {
        std::iter::once(0..self.rows.len()).collect()
    }

    /// The rows in portions, of one table each, parents first.
    fn portions(&self) -> Result<Vec<Range<usize>>> {
        if self.rows.len() <= PORTION_ROWS {
            return Ok(self.together());
        }
        let (mut tables, mut generic) = (Vec::new(), Vec::new());
        let mut start = 0;
        while start < self.rows.len() {
            let tbl = self.rows.key(start).0;
            let end = (start..self.rows.len()).find(|i| self.rows.key(*i).0 != tbl).unwrap_or(self.rows.len());
            match &self.places[tbl] {
                Place::Tracked(table) => tables.push((table.clone(), start..end)),
                Place::Generic => generic.push(start..end),
            }
            start = end;
        }
        apply::parents_first(&mut tables, |(table, _)| table.root)?;
        let ranges = tables.into_iter().map(|(_, range)| range).chain(generic);
        let portions =
            |r: Range<usize>| r.clone().step_by(PORTION_ROWS).map(move |at| at..r.end.min(at + PORTION_ROWS));
        Ok(ranges.flat_map(portions).collect())
    }

    /// One try: read, lock, then decide and write by portions. In this order: what is committed before the locks are had and
    /// after the log was read is noticed in the end. The other way round a row could be on its way when it is looked for, and
    /// in the log when that is read: it would be taken for one that is not there.
    fn attempt(&self, least: u64, want_ops: bool, portions: &[Range<usize>]) -> Result<Attempt> {
        let quiet_since = flush::quiet(self.doc);
        let known = Competition::read(self.doc, self.rows, least)?;
        let exists = self.lock_existing()?;
        let window = known.by_row();
        let undecided = self.undecided(&exists, &known, &window);
        let history = Competition::history(self.doc, self.rows, &undecided)?;
        let history = history.by_row();
        let sources = Sources { exists: &exists, known: &known, window, history, undecided: &undecided };
        let mut bound = false;
        let written = entry::catch(|| {
            xact::subtransaction(|| {
                let mut outcome = Outcome::default();
                for portion in portions {
                    let alone = portions.len() == 1;
                    if !self.write_portion(portion, alone, &sources, want_ops, &mut outcome)? {
                        return Ok(None);
                    }
                    bound = !alone && self.touches_others(portion, &outcome);
                    if bound {
                        return Ok(None);
                    }
                }
                let quiet = quiet_since.is_some() && flush::quiet(self.doc) == quiet_since;
                // Somebody may have inserted and deleted one of the rows between our look and our write.
                let moved = !quiet && known.moved(self.doc, self.rows, least)?;
                Ok((!moved).then_some(outcome))
            })
        });
        match written {
            Ok(done) => Ok(match done? {
                Some(outcome) => Attempt::Done(outcome),
                None if bound => Attempt::Bound,
                None => Attempt::RowsChanged,
            }),
            // Together, what one row needs of another is tried, and the value that was refused is found.
            Err(caught) if portions.len() > 1 && caught.is_refused_value() => Ok(Attempt::Bound),
            Err(caught) => caught.resume(),
        }
    }

    /// Decides and writes some of the rows, or all: `alone`. False: rows changed under it.
    fn write_portion(
        &self,
        portion: &Range<usize>,
        alone: bool,
        sources: &Sources<'_, '_>,
        want_ops: bool,
        outcome: &mut Outcome,
    ) -> Result<bool> {
        let rows = self.rows.part(portion.clone());
        let part = Target { doc: self.doc, doc_name: self.doc_name.clone(), rows: &rows, places: self.places };
        let exists = &sources.exists[portion.clone()];
        let merges = part.decide(sources, portion);
        if part.wait_for_inserters(exists, &merges)? {
            return Ok(false);
        }
        let changes = part.tracked_changes(&merges)?;
        let captured = match alone {
            true => part.try_orders(&changes, &merges)?,
            // In the subtransaction of all: each of its own would keep the memory that its statements took.
            false => Some(part.write(&changes, &merges, ORDERS[0], Present::Refuse)?),
        };
        let Some(captured) = captured else { return Ok(false) };
        outcome.derived.extend(crate::derive::derive(self.doc, &rows, &merges, &changes, captured)?);
        if want_ops {
            outcome.merge_ops.extend(merge_ops(&rows, &merges)?);
        }
        Ok(true)
    }

    /// Was a row of the push touched that is not of this portion, by a trigger or a cascade? Only whoever writes both
    /// can tell which came last.
    fn touches_others(&self, portion: &Range<usize>, outcome: &Outcome) -> bool {
        let mut keys = outcome.derived.iter().filter(|(doc, _)| *doc == self.doc).flat_map(|(_, ops)| ops.iter());
        keys.any(|op| {
            let found = op.row_key().and_then(|key| self.rows.find(key));
            found.is_some_and(|row| !portion.contains(&row))
        })
    }

    /// Indices of the rows of one wire table.
    fn rows_in(&self, tbl: &str) -> Vec<usize> {
        (0..self.rows.len()).filter(|i| self.rows.key(*i).0 == tbl).collect()
    }

    /// Whoever may write a doc must not reach another one's rows by it: not by their keys, and not by a doc whose name the
    /// column that names docs does not show as it is.
    fn check_docs(&self) -> Result<()> {
        for (tbl, place) in self.places {
            let Place::Tracked(table) = place else { continue };
            let Some(column) = table.doc_column else { continue };
            if !rows::can_show_doc(table, self.doc_name.as_deref())? {
                let doc = self.doc_name.as_ref().map_or(self.doc.to_string(), |name| format!("\"{name}\""));
                let column = &table.columns[column].name;
                let why = format!("doc {doc} has no name that column \"{column}\" of table \"{tbl}\" could show");
                return Err(Error::new(state::KEY_CHANGED, why).hint("The column names the doc that a row belongs to."));
            }
            if table.key.contains(&column) {
                self.rows_in(tbl).into_iter().try_for_each(|i| self.check_doc_in_key(table, self.rows.key(i).1))?;
            }
        }
        Ok(())
    }

    fn check_doc_in_key(&self, table: &Table, row: &str) -> Result<()> {
        match rows::doc_in_key(table, row)? {
            Some(named) if Some(&named) != self.doc_name.as_ref() => Err(self.of_other_doc(table, row, &named)),
            _ => Ok(()),
        }
    }

    /// Locks the rows that are there, table by table, a portion at a time in key order. Pushes that share rows wait for each
    /// other before, by stripes.
    fn lock_existing(&self) -> Result<Vec<bool>> {
        let mut exists = vec![false; self.rows.len()];
        for tbl in self.places.keys() {
            for indices in self.rows_in(tbl).chunks(PORTION_ROWS) {
                let ids: Vec<&str> = indices.iter().map(|i| self.rows.key(*i).1).collect();
                let found = match &self.places[*tbl] {
                    Place::Tracked(table) => apply::lock_rows(table, self.doc_name.as_deref(), &ids)?,
                    Place::Generic => generic::lock_rows(self.doc, tbl, &ids)?,
                };
                indices.iter().zip(found).for_each(|(i, found)| exists[*i] = found);
            }
        }
        Ok(exists)
    }

    /// Rows whose window does not tell.
    fn undecided(&self, exists: &[bool], known: &Competition, window: &ByRow<'_>) -> Vec<usize> {
        if known.whole {
            return Vec::new();
        }
        let open = |i: &usize| {
            let (window, batch) = (window.events(*i), self.rows.events(*i));
            if known.is_settled(*i) || !merge::may_need_history(window, batch) {
                return false;
            }
            let merged = merge::merge_row(exists[*i], window, batch);
            matches!(merged, Merged::NeedsHistory)
        };
        (0..exists.len()).filter(open).collect()
    }

    /// Decides on the rows, which are those of `portion` there.
    fn decide<'a>(&self, sources: &Sources<'_, 'a>, portion: &Range<usize>) -> Vec<RowMerge<'a>>
    where
        'b: 'a,
    {
        let merge = |i: usize| {
            let (batch, at) = (self.rows.events(i), portion.start + i);
            let (exists, window) = (sources.exists[at], sources.window.events(at));
            if sources.known.is_settled(at) {
                return RowMerge::settled();
            }
            if sources.known.whole {
                return merge::merge_row_with_history(exists, window, batch);
            }
            if sources.undecided.binary_search(&at).is_err()
                && let Merged::Row(row) = merge::merge_row(exists, window, batch)
            {
                return row;
            }
            merge::merge_row_with_history(exists, sources.history.events(at), batch)
        };
        (0..portion.len()).map(merge).collect()
    }

    /// A row that is not there and will not be made may be on its way in another transaction, which has perhaps taken
    /// its lamport already: wait for it and look again.
    fn wait_for_inserters(&self, exists: &[bool], merges: &[RowMerge<'_>]) -> Result<bool> {
        for (i, (tbl, row)) in self.rows.keys().enumerate() {
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
                rows.extend(self.row_change(table, self.rows.key(i).1, &merges[i].patch)?);
            }
            let doc_name = table.doc_column.and(self.doc_name.clone());
            if !rows.is_empty() {
                changes.push(TableChange { table: table.clone(), doc_name, rows });
            }
        }
        changes.sort_by_key(|c| c.table.root.to_u32());
        apply::parents_first(&mut changes, |change| change.table.root)?;
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
        Err(self.of_other_doc(table, row, given))
    }

    fn of_other_doc(&self, table: &Table, row: &str, named: &str) -> Error {
        let column = table.doc_column.map_or("", |i| &table.columns[i].name);
        let doc = self.doc_name.as_deref().unwrap_or_default();
        Error::new(
            state::KEY_CHANGED,
            format!(
                "column \"{column}\" of row \"{row}\" of table \"{}\" names doc \"{named}\", not \"{doc}\"",
                table.alias
            ),
        )
        .hint("A row is written in the doc that it names. To move one, delete it here and insert it there.")
    }

    /// Writes the rows.
    fn write(
        &self,
        changes: &[TableChange<'_>],
        merges: &[RowMerge<'_>],
        order: &[Step],
        present: Present,
    ) -> Result<Captured> {
        let ((), captured) = buffer::observe(|| apply::write(changes, order, present))?;
        let generic = |tbl: &str| matches!(self.places[tbl], Place::Generic);
        generic::write(self.doc, self.rows.keys(), merges, generic)?;
        Ok(captured)
    }

    /// Writes the rows in one order after the other until none is in another's way. `None`: a row has appeared, start over.
    fn try_orders(&self, changes: &[TableChange<'_>], merges: &[RowMerge<'_>]) -> Result<Option<Captured>> {
        let tries = ORDERS.into_iter().map(|order| (order, Present::Refuse)).chain([(ORDERS[0], Present::Adopt)]);
        let author = |key: (&str, &str), col: &str| {
            let cell = merges[self.rows.find(key)?].patch.cells().iter().find(|cell| cell.col == col)?;
            Some(EventId::new(cell.dot().peer, cell.dot().counter))
        };
        for (nth, (order, present)) in tries.enumerate() {
            let first = nth % ORDERS.len() == 0;
            let try_it = || {
                let captured = self.write(changes, merges, order, present)?;
                Ok((first || !apply::lost_row(changes, &captured)).then_some(captured))
            };
            match apply::attempt(changes, author, try_it)? {
                Ok(Some(captured)) => return Ok(Some(captured)),
                Ok(None) => {}
                Err(caught) if caught.is_constraint_violation() => {}
                Err(caught) => caught.resume(),
            }
        }
        if self.appeared(changes)? {
            return Ok(None);
        }
        // No order works: let the first one's error out, it is the one to understand.
        self.write(changes, merges, ORDERS[0], Present::Refuse).map(Some)
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

fn merge_ops(rows: &Rows<'_>, merges: &[RowMerge<'_>]) -> Result<Vec<String>> {
    let mut ops = Vec::new();
    for ((tbl, row), merge) in rows.keys().zip(merges) {
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
        buffer::append(*doc, |buffer| {
            for op in ops.iter() {
                buffer.push(op)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
