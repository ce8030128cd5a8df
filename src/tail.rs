//! The youngest runs of plain SQL: they have no line by which they are found by row or by lamport, and carry their rows' keys
//! themselves. For a transaction of one row these two lines were two fifths of what being tracked costs: the one all over an
//! index by row, which grows with the log.
//!
//! When a slot has some such runs, or a statement writes many rows, the transaction that does so makes their keys a set of
//! pages (`keys.rs`) and them a span (`spans.rs`). `crdt.event_tail` says from which counter on a slot's runs have not come to
//! that; who looks for rows or a time reads these runs. Transactions of a slot follow each other, so everybody sees the
//! runs from there on without a gap, or a span instead of them.
//!
//! Runs of other authors, and of slots beyond [`SLOTS`], are indexed when they are written; those of slots whose server start
//! is over when the next start first uses the slot.

use crdt_engine::alloc;

use crate::catalog::{self, Names};
use crate::docstate::SLOTS;
use crate::error::Result;
use crate::key_page::Entry;
use crate::keys::{self, malformed, upper_half};
use crate::pg::relation::{Cmp, Field, IndexScan, Inserter, Key, Lock, Relation, Row, Snapshot};
use crate::pg::{entry, xact};
use crate::spans::{self, Span, TAIL};
use crate::store::{self, Author, NewRun};

/// Runs of a tail, at most: who looks for a row reads half as many of each slot.
const RUNS: u32 = 128;
/// The same of slots that are used only while others are: as many transactions are seldom about to commit, and there may be
/// many of them.
const RUNS_OF_HIGH: u32 = 16;
const HIGH: usize = 8;
/// Keys of the runs of one flush that are carried by them.
const KEYS: usize = 64;
/// Bytes of a key that a run carries: the upper half of its hash, and its bits.
const KEY_BYTES: usize = 5;

/// Runs of a slot that are appended part by part, because they are more than should be held in memory at a time. Their keys
/// become a set when the last ones are there; until then only the transaction that appends them has to do with them.
#[derive(Default)]
pub struct Batch {
    span: Option<Span>,
    entries: Vec<Entry>,
}

impl Batch {
    /// Appends runs, at least one, which follow those before.
    pub fn append(&mut self, author: &Author<'_>, runs: &[NewRun]) -> Result<()> {
        let names = catalog::names()?;
        store::append_runs(&names, author, runs, false);
        let span = Span::of(author.peer, runs);
        self.span = Some(Span { from: self.span.map_or(span.from, |before| before.from), ..span });
        keys::add_entries(author.peer, runs, &mut self.entries)
    }

    /// How many keys there are by now.
    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// Makes the runs a span and their keys a set, and those of the slot's tail with them. `length`: of that tail, as
    /// [`append`] is told it and answers.
    pub fn end(mut self, doc: i64, length: Option<u32>) -> Result<Option<u32>> {
        let Some(mut span) = self.span else { return Ok(length) };
        let names = catalog::names()?;
        if length.is_some() {
            // A line that this command wrote it cannot delete.
            xact::command_counter_increment();
            if let Some(tail) = end(&names, doc, span.peer, &mut self.entries)? {
                span.from = tail.from;
            }
            list(&names, doc, span.peer, span.to + 1);
        }
        spans::note(&names, doc, &span);
        keys::write_set(&names, doc, &mut self.entries)?;
        Ok(length.map(|_| 0))
    }
}

/// Appends runs, at least one, of a slot of this transaction's. `length`: how many runs its tail has, `None` while it is not listed in
/// `crdt.event_tail`; answered as it is afterwards.
pub fn append(author: &Author<'_>, slot: usize, length: Option<u32>, runs: &[NewRun]) -> Result<Option<u32>> {
    if slot >= SLOTS {
        store::append(author, runs)?;
        return Ok(None);
    }
    let keys: usize = runs.iter().map(|run| run.keys.len()).sum();
    let longer = length.unwrap_or(0).saturating_add(runs.len() as u32);
    let most = if slot < HIGH { RUNS } else { RUNS_OF_HIGH };
    if keys > KEYS || longer > most {
        let mut batch = Batch::default();
        batch.append(author, runs)?;
        return batch.end(author.doc, length);
    }
    let names = catalog::names()?;
    store::append_runs(&names, author, runs, true);
    if length.is_none() {
        begin(&names, author, slot, runs[0].counter_start)?;
    }
    Ok(Some(longer))
}

/// How long a slot's tail is, as [`append`] wants to know, at most: a run is one event or more. `next`: the slot's next counter.
pub fn length(doc: i64, peer: i32, slot: usize, next: u64) -> Result<Option<u32>> {
    if slot >= SLOTS {
        return Ok(None);
    }
    let names = catalog::names()?;
    let rel = Relation::open(names.tail, Lock::AccessShare);
    let from = find(&names, &rel, doc, peer).next_row().map(|row| row.i64(3) as u64);
    Ok(from.map(|from| next.saturating_sub(from).min(RUNS.into()) as u32))
}

/// The first runs of a slot's tail have been appended. Tails that a former start of the server left to the slot are ended: who
/// has the slot's lock is alone with them.
fn begin(names: &Names, author: &Author<'_>, slot: usize, from: u64) -> Result<()> {
    let rel = Relation::open(names.tail, Lock::AccessShare);
    let keys = [(1, Cmp::Eq, Field::I64(author.doc))];
    let mut scan = IndexScan::new(&rel, names.tail_pkey, Snapshot::Committed, &keys, false);
    let (mut former, of_slot) = (Vec::new(), format!(":{slot}"));
    while let Some(row) = scan.next_row() {
        if row.i32(2) != author.peer && catalog::peer_name(row.i32(2))?.ends_with(&of_slot) {
            former.push(row.i32(2));
        }
    }
    let mut entries = Vec::new();
    for peer in former {
        if let Some(span) = end(names, author.doc, peer, &mut entries)? {
            spans::note(names, author.doc, &span);
        }
    }
    list(names, author.doc, author.peer, from);
    keys::write_set(names, author.doc, &mut entries)
}

/// Takes a slot off the list: what the runs of its tail carry becomes entries, and they are to become a span. Runs of a former
/// start that were given back after its data had been restored follow its tail and carry nothing.
fn end(names: &Names, doc: i64, peer: i32, entries: &mut Vec<Entry>) -> Result<Option<Span>> {
    let rel = Relation::open(names.tail, Lock::RowExclusive);
    let mut listed = find(names, &rel, doc, peer);
    let Some(row) = listed.next_row() else { return Ok(None) };
    let from = row.i64(3);
    let log = Relation::open(names.run, Lock::AccessShare);
    let keys = runs_from(doc, peer, from);
    let mut runs = IndexScan::new(&log, names.run_pkey, Snapshot::Committed, &keys, false);
    let mut span: Option<Span> = None;
    while let Some(run) = runs.next_row().filter(is_loose) {
        entry::check_interrupts();
        each_key(&run, |hash, bits| Ok(alloc::push(entries, Entry::new(hash, peer, run.i64(3) as u64, bits))?))?;
        span = Some(Span { peer, from: from as u64, to: run.i64(4) as u64, lamport: run.i64(6) as u64 });
    }
    row.delete(&rel);
    Ok(span)
}

/// Does a run carry its keys? If it is in no span.
pub fn is_loose(run: &Row<'_>) -> bool {
    !run.is_null(12)
}

/// Lists a slot: its runs from a counter on are its tail.
fn list(names: &Names, doc: i64, peer: i32, from: u64) {
    let rel = Relation::open(names.tail, Lock::RowExclusive);
    Inserter::new(&rel).insert(&[Field::I64(doc), Field::I32(peer), Field::I64(from as i64)]);
}

/// The tails of a doc, as spans in which only runs count that carry their keys. None of a slot that has none at the moment.
pub fn all(doc: i64, snapshot: Snapshot) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    each(doc, snapshot, true, |peer, from, runs| {
        if let Some(last) = runs.next_row() {
            let lamport = last.i64(6) as u64;
            alloc::push(&mut spans, Span { peer, from: from as u64, to: TAIL, lamport })?;
        }
        Ok(())
    })?;
    Ok(spans)
}

/// Calls `found` with each key that the runs of a doc's tails carry.
pub fn each_entry(doc: i64, snapshot: Snapshot, mut found: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    each(doc, snapshot, false, |peer, _, runs| {
        while let Some(run) = runs.next_row() {
            entry::check_interrupts();
            each_key(&run, |hash, bits| found(Entry::new(hash, peer, run.i64(3) as u64, bits)))?;
        }
        Ok(())
    })
}

/// Calls `each` with each listed slot of a doc: the peer, from which counter on, and the runs from there.
fn each(
    doc: i64,
    snapshot: Snapshot,
    backward: bool,
    mut each: impl FnMut(i32, i64, &mut IndexScan<'_>) -> Result<()>,
) -> Result<()> {
    let names = catalog::names()?;
    let rel = Relation::open(names.tail, Lock::AccessShare);
    let log = Relation::open(names.run, Lock::AccessShare);
    // A slot's line may be replaced by another one while we read: so that one of them is met, what is not committed counts.
    let lines = if matches!(snapshot, Snapshot::Committed) { Snapshot::Dirty } else { snapshot };
    let mut listed = IndexScan::new(&rel, names.tail_pkey, lines, &[(1, Cmp::Eq, Field::I64(doc))], false);
    let mut runs = None;
    while let Some(slot) = listed.next_row() {
        let (peer, from) = (slot.i32(2), slot.i64(3));
        let keys = runs_from(doc, peer, from);
        each(peer, from, IndexScan::kept(&mut runs, &log, names.run_pkey, snapshot, &keys, backward))?;
    }
    Ok(())
}

fn find<'r>(names: &Names, rel: &'r Relation, doc: i64, peer: i32) -> IndexScan<'r> {
    let keys = [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I32(peer))];
    IndexScan::new(rel, names.tail_pkey, Snapshot::Committed, &keys, false)
}

fn runs_from(doc: i64, peer: i32, from: i64) -> [Key<'static>; 3] {
    [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I32(peer)), (3, Cmp::Ge, Field::I64(from))]
}

/// Calls `each` with the keys that a run carries.
fn each_key(run: &Row<'_>, mut each: impl FnMut(u32, u8) -> Result<()>) -> Result<()> {
    let told = run.with_bytes(12, |bytes| {
        let (keys, rest) = bytes.as_chunks::<KEY_BYTES>();
        if !rest.is_empty() {
            return Err(malformed());
        }
        keys.iter().try_for_each(|[a, b, c, d, bits]| each(u32::from_le_bytes([*a, *b, *c, *d]), *bits))
    });
    told.unwrap_or(Ok(()))
}

/// Keys as a run carries them.
pub fn encode(keys: &[i64], out: &mut Vec<u8>) {
    out.clear();
    for key in keys {
        out.extend_from_slice(&upper_half(*key).to_le_bytes());
        out.push(*key as u8);
    }
}
