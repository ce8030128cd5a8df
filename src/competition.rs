//! What the log has on the rows of a push, as far as it matters.
//!
//! First from the end of the log, through spans, if few runs are younger than the push. Otherwise by row, as
//! little as will do: of the runs that were noted last, the newest that may beat the push on a row, by what the keys say
//! they write there; then twice as many; then of those noted before; until the row is settled (`merge::settled`). A row that
//! nothing settles is read down to the push's least lamport, so that what is decided on is complete.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crdt_engine::alloc;
use crdt_engine::codec::RowSet;
use crdt_engine::id::Dot;
use crdt_engine::merge::{Candidate, Greatest};
use crdt_engine::oplog::{ByRow, Found, Rows};
use crdt_engine::ops::{OpRef, Origin};

use crate::catalog;
use crate::error::Result;
use crate::key_search::{Search, Touch, Wanted};
use crate::keys;
use crate::pg::relation::Snapshot;
use crate::pg::xact;
use crate::store::{self, RowEvents};

/// Runs at the end of the log that are read before keys are searched instead: this many and one for every so
/// many rows. Decoding a run costs as much as looking up a few rows.
const WINDOW_RUNS: usize = 16;
const ROWS_A_RUN: usize = 8;

/// The log's events that compete with a batch.
pub struct Competition {
    found: Found,
    /// How many rows the batch is about.
    rows: usize,
    /// Of each row, whether it is settled: what was found on it is not all.
    settled: Vec<bool>,
    /// Of rows that are not settled everything is here, not only what is as young as the batch.
    pub whole: bool,
    /// Events that are older do not count.
    least: u64,
}

impl Competition {
    /// Reads what decides on the rows of a batch whose least effective lamport is `least`.
    pub fn read(doc: i64, rows: &Rows<'_>, least: u64) -> Result<Competition> {
        let all: Vec<usize> = (0..rows.len()).collect();
        Self::of(doc, rows, &all, least, true)
    }

    /// The whole history of some of the rows.
    pub fn history(doc: i64, rows: &Rows<'_>, some: &[usize]) -> Result<Competition> {
        let mut reader = Reader::new(doc, rows, some, 0);
        if !some.is_empty() {
            let _now = xact::ActiveSnapshot::push_latest();
            reader.read_by_row(some, false)?;
        }
        Ok(reader.done())
    }

    /// Has anything come that may decide otherwise? What is settled stays so. The rest is read without looking for what
    /// settles it: a new event may do that, and then older ones would not be read and counted.
    pub fn moved(&self, doc: i64, rows: &Rows<'_>, least: u64) -> Result<bool> {
        let open: Vec<usize> = (0..self.rows).filter(|row| !self.settled[*row]).collect();
        Ok(!open.is_empty() && Self::of(doc, rows, &open, least, false)?.len() != self.len())
    }

    fn of(doc: i64, rows: &Rows<'_>, some: &[usize], least: u64, settle: bool) -> Result<Competition> {
        let _now = xact::ActiveSnapshot::push_latest();
        let mut reader = Reader::new(doc, rows, some, least);
        if !reader.read_window(WINDOW_RUNS + some.len() / ROWS_A_RUN)? {
            reader.read_by_row(some, settle)?;
        }
        Ok(reader.done())
    }

    /// Whatever was not read, the batch changes nothing of this row.
    pub fn is_settled(&self, row: usize) -> bool {
        self.settled[row]
    }

    /// The events by row; none of settled ones.
    pub fn by_row(&self) -> ByRow<'_> {
        self.found.by_row_where(self.rows, |row, event| self.counts(row, event))
    }

    fn len(&self) -> usize {
        self.found.iter().filter(|(row, event)| self.counts(*row, event)).count()
    }

    /// A run that reaches `least` may begin below it: what is older must not be taken for part of the window.
    fn counts(&self, row: usize, event: &Candidate<'_>) -> bool {
        !self.settled[row] && (self.whole || event.effective_lamport() >= self.least)
    }
}

/// Reads what the log has on some of a batch's rows.
struct Reader<'r, 'b> {
    doc: i64,
    rows: &'r Rows<'b>,
    least: u64,
    wanted: RowSet<'b>,
    names: BTreeMap<i32, String>,
    found: Found,
    settled: Vec<bool>,
    /// By peer, the first counter of a run that does not reach `least`: it and those before it are not read.
    below: BTreeMap<i32, u64>,
    whole: bool,
}

impl<'r, 'b> Reader<'r, 'b> {
    fn new(doc: i64, rows: &'r Rows<'b>, some: &[usize], least: u64) -> Self {
        Reader {
            doc,
            rows,
            least,
            wanted: RowSet::new(some.iter().map(|row| rows.key(*row))),
            names: BTreeMap::new(),
            found: Found::new(),
            settled: vec![false; rows.len()],
            below: BTreeMap::new(),
            whole: false,
        }
    }

    fn done(self) -> Competition {
        let Reader { found, rows, settled, whole, least, .. } = self;
        Competition { found, rows: rows.len(), settled, whole, least }
    }

    /// Reads the end of the log, if it has few runs that reach `least`.
    fn read_window(&mut self, budget: usize) -> Result<bool> {
        let events = store::events_since_lamport(self.doc, self.least, budget, &self.wanted, Snapshot::Active)?;
        let Some(events) = events else { return Ok(false) };
        self.found = self.by_name(&events)?;
        Ok(true)
    }

    /// Reads what touches some of the rows; in order to `settle` them, no more than that takes.
    fn read_by_row(&mut self, some: &[usize], settle: bool) -> Result<()> {
        let rows = self.rows;
        let wanted = |row: &usize| (store::row_hash(rows.key(*row).0, rows.key(*row).1), *row as u32);
        let mut wanted: Vec<Wanted> = some.iter().map(wanted).collect();
        Search::sort(&mut wanted);
        let mut search = Search::new(self.doc, Snapshot::Active)?;
        let mut open = Open::new(rows);
        // While large sets are merged a run may be found in two places; it is read once in the end.
        let (mut touches, mut place) = (Vec::new(), Vec::new());
        while !wanted.is_empty() && search.next(&wanted, &mut place)? {
            if settle {
                self.read_until_settled(&place, &mut open)?;
                wanted.retain(|(_, row)| !self.settled[*row as usize]);
                place.retain(|touch| !self.settled[touch.row as usize]);
            }
            alloc::extend(&mut touches, &place)?;
            place.clear();
        }
        touches.retain(|touch: &Touch| !self.settled[touch.row as usize]);
        let runs = touches.iter().filter(|touch| self.reaches(touch)).map(Touch::run).collect();
        self.found = self.read(runs, true)?;
        self.whole = touches.iter().all(|touch| self.reaches(touch));
        Ok(())
    }

    /// Looks at what each row's newest run does that may settle it, of those found in one place, then at twice as many, until it
    /// is settled or there are none. A run's lamports are no less than its counters, so those of greater counters come first.
    fn read_until_settled(&mut self, found: &[Touch], open: &mut Open<'_, '_>) -> Result<()> {
        let mut unread = found.to_vec();
        unread.sort_unstable_by_key(|touch| (touch.row, Reverse(touch.run().1)));
        for round in 0.. {
            let sought = |touch: &&Touch| touch.bits() & open.sought[touch.row as usize] != 0 && self.reaches(touch);
            let of_rows = unread.chunk_by(|a, b| a.row == b.row);
            let newest = of_rows.flat_map(|of_row| of_row.iter().filter(sought).take(1 << round.min(30)));
            let runs: BTreeSet<(i32, u64)> = newest.map(Touch::run).collect();
            if runs.is_empty() {
                break;
            }
            let read = self.read(runs.iter().copied().collect(), false)?;
            let read = read.by_row(self.rows.len());
            for row in rows_of(&unread) {
                self.settled[row] |= open.close(row, read.events(row));
            }
            unread.retain(|touch| !self.settled[touch.row as usize] && !runs.contains(&touch.run()));
        }
        Ok(())
    }

    /// May the run reach `least`, as far as is known?
    fn reaches(&self, touch: &Touch) -> bool {
        let (peer, counter) = touch.run();
        self.below.get(&peer).is_none_or(|below| counter > *below)
    }

    /// Reads runs, once each; without their `values` where only what they do is asked.
    fn read(&mut self, mut runs: Vec<(i32, u64)>, values: bool) -> Result<Found> {
        runs.sort_unstable();
        runs.dedup();
        let (events, below) = store::read_runs(self.doc, &runs, &self.wanted, self.least, Snapshot::Active, values)?;
        self.below.extend(below);
        self.by_name(&events)
    }

    /// Events with their peers' names, by row.
    fn by_name(&mut self, events: &RowEvents) -> Result<Found> {
        let mut found = Found::new();
        for (at, (peer, counter, lamport)) in events.of.iter().enumerate() {
            let Some(row) = events.ops.row_key(at).and_then(|key| self.rows.find(key)) else { continue };
            let name = match self.names.entry(*peer) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(catalog::peer_name(*peer)?),
            };
            let dot = Dot { lamport: *lamport, peer: name, counter: *counter };
            found.push(row, Candidate::new(&events.ops, at, dot))?;
        }
        Ok(found)
    }
}

/// The rows that runs touch, which lie together.
fn rows_of(touches: &[Touch]) -> Vec<usize> {
    touches.chunk_by(|a, b| a.row == b.row).map(|of_row| of_row[0].row as usize).collect()
}

/// The batch's events that nothing is known to make void.
struct Open<'r, 'b> {
    rows: &'r Rows<'b>,
    /// Of each event, whether it is void.
    void: Vec<bool>,
    /// Of each row, what a run has to do to it to make one of the others void.
    sought: Vec<u8>,
}

impl<'r, 'b> Open<'r, 'b> {
    fn new(rows: &'r Rows<'b>) -> Self {
        let events = rows.len().checked_sub(1).map_or(0, |last| rows.range(last).end);
        let sought = (0..rows.len()).map(|row| made_void_by(rows.events(row).iter())).collect();
        Open { rows, void: vec![false; events], sought }
    }

    /// Notes what some events that have been read make void on a row. True: that is all.
    fn close(&mut self, row: usize, read: &[Candidate<'_>]) -> bool {
        let greatest = Greatest::of(read);
        let void = &mut self.void[self.rows.range(row)];
        let events = self.rows.events(row).iter();
        events.clone().zip(void.iter_mut()).for_each(|(event, void)| *void |= greatest.makes_void(event));
        let open = events.zip(void.iter()).filter(|(_, void)| !**void);
        self.sought[row] = made_void_by(open.map(|(event, _)| event));
        void.iter().all(|void| *void)
    }
}

/// What a run has to do to a row to make one of these events void: see `merge::settled`. Where one of them is a default,
/// nothing is worth looking for.
fn made_void_by<'e, 'a: 'e>(events: impl Iterator<Item = &'e Candidate<'a>>) -> u8 {
    let mut bits = 0;
    for event in events {
        bits |= match event.op() {
            OpRef::Update { origin: Origin::Default(_), .. } | OpRef::Opaque { .. } => return 0,
            OpRef::Update { col, .. } => keys::column_bit(col) | keys::DELETES,
            OpRef::Insert { .. } | OpRef::Delete { .. } => keys::DELETES,
        };
    }
    bits
}
