//! The log by logical time: spans, each of consecutive runs of one peer, under its greatest lamport.
//!
//! What is appended together becomes a span, and so does a slot's tail once it is long enough (`tail.rs`); until then it counts
//! as one that has no line. A peer's lamports grow with its counters. So every run that reaches a lamport lies in a span
//! that does, and within a span they are the last ones.

use crate::catalog::{self, Names};
use crate::error::Result;
use crate::pg::entry;
use crate::pg::relation::{Cmp, Field, IndexScan, Inserter, Lock, Relation, Row, Snapshot};
use crate::store::NewRun;
use crate::tail;

/// Consecutive runs of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub peer: i32,
    /// The first counter of the first run.
    pub from: u64,
    /// The last counter of the last one; of a tail [`TAIL`].
    pub to: u64,
    /// The greatest lamport, at least.
    pub lamport: u64,
}

/// Where a slot's tail ends.
pub const TAIL: u64 = i64::MAX as u64;

impl Span {
    /// Of runs, of which there is one.
    pub fn of(peer: i32, runs: &[NewRun]) -> Span {
        let (first, last) = (&runs[0], &runs[runs.len() - 1]);
        Span { peer, from: first.counter_start, to: last.counter_end, lamport: last.lamport_end() }
    }
}

/// What comes after a run.
pub enum Then {
    /// The next of its span.
    Next,
    /// The next span.
    NextSpan,
    /// Nothing.
    Stop,
}

/// In which order spans are gone through, and the runs in each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Up,
    Down,
}

/// Notes a span.
pub fn note(names: &Names, doc: i64, span: &Span) {
    let rel = Relation::open(names.span, Lock::RowExclusive);
    Inserter::new(&rel).insert(&[
        Field::I64(doc),
        Field::I64(span.lamport as i64),
        Field::I32(span.peer),
        Field::I64(span.from as i64),
        Field::I64(span.to as i64),
    ]);
}

/// The greatest lamport of a doc's log, also of runs whose transaction is still open.
pub fn max_lamport(doc: i64) -> Result<u64> {
    let mut greatest = 0;
    each_span(doc, Snapshot::Dirty, -1, Order::Down, |span| {
        greatest = span.lamport;
        Ok(false)
    })?;
    Ok(greatest)
}

/// Calls `each` with the runs that reach a lamport above a given one, by the lamport of their spans; with runs before them of
/// the same spans too when going down.
pub fn each_run(
    doc: i64,
    snapshot: Snapshot,
    above: i64,
    order: Order,
    mut each: impl FnMut(&Span, &Row<'_>) -> Result<Then>,
) -> Result<()> {
    let names = catalog::names()?;
    let log = Relation::open(names.run, Lock::AccessShare);
    let mut scan: Option<IndexScan<'_>> = None;
    each_span(doc, snapshot, above, order, |span| {
        let first = match order {
            Order::Up => first_above(&names, &log, doc, span, above, snapshot),
            Order::Down => span.from,
        };
        let keys = [
            (1, Cmp::Eq, Field::I64(doc)),
            (2, Cmp::Eq, Field::I32(span.peer)),
            (3, Cmp::Ge, Field::I64(first as i64)),
            (3, Cmp::Le, Field::I64(span.to as i64)),
        ];
        let runs = IndexScan::kept(&mut scan, &log, names.run_pkey, snapshot, &keys, order == Order::Down);
        while let Some(row) = runs.next_row() {
            entry::check_interrupts();
            if span.to == TAIL && !tail::is_loose(&row) {
                continue;
            }
            match each(span, &row)? {
                Then::Next => {}
                Then::NextSpan => break,
                Then::Stop => return Ok(false),
            }
        }
        Ok(true)
    })
}

/// Calls `each` with the spans above a lamport, in order, until it answers false. Tails are read first: a span that takes a
/// tail's place meanwhile is gone through as both rather than not at all, where the snapshot is not one.
fn each_span(
    doc: i64,
    snapshot: Snapshot,
    above: i64,
    order: Order,
    mut each: impl FnMut(&Span) -> Result<bool>,
) -> Result<()> {
    let names = catalog::names()?;
    let mut tails = tail::all(doc, snapshot)?;
    tails.retain(|tail| tail.lamport as i64 > above);
    // The next one last.
    tails.sort_unstable_by_key(|tail| if order == Order::Down { tail.lamport as i64 } else { -(tail.lamport as i64) });
    let before = |a: &Span, b: &Span| (a.lamport > b.lamport) == (order == Order::Down);
    let rel = Relation::open(names.span, Lock::AccessShare);
    let keys = [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Gt, Field::I64(above))];
    let mut lines = IndexScan::new(&rel, names.span_pkey, snapshot, &keys, order == Order::Down);
    loop {
        let line = lines.next_row().map(|row| span_of(&row));
        while let Some(tail) = tails.pop_if(|tail| line.as_ref().is_none_or(|line| before(tail, line))) {
            if !each(&tail)? {
                return Ok(());
            }
        }
        let Some(line) = line else { return Ok(()) };
        if !each(&line)? {
            return Ok(());
        }
    }
}

fn span_of(row: &Row<'_>) -> Span {
    Span { lamport: row.i64(2) as u64, peer: row.i32(3), from: row.i64(4) as u64, to: row.i64(5) as u64 }
}

/// Where the first run of a span begins that reaches a lamport above a given one: by halves.
fn first_above(names: &Names, log: &Relation, doc: i64, span: &Span, above: i64, snapshot: Snapshot) -> u64 {
    let key_of = |counter: u64| {
        [
            (1, Cmp::Eq, Field::I64(doc)),
            (2, Cmp::Eq, Field::I32(span.peer)),
            (3, Cmp::Le, Field::I64(counter as i64)),
            (3, Cmp::Ge, Field::I64(span.from as i64)),
        ]
    };
    let mut scan = IndexScan::new(log, names.run_pkey, snapshot, &key_of(span.to), true);
    // What begins below `low` does not reach it; what begins at `high` or above does.
    let (mut low, mut high) = (span.from, span.from);
    if let Some(last) = scan.next_row() {
        high = last.i64(3) as u64;
    }
    while low < high {
        scan.again(&key_of(low + (high - low) / 2));
        let Some(run) = scan.next_row() else { break };
        if run.i64(6) > above {
            high = run.i64(3) as u64;
        } else {
            low = run.i64(4) as u64 + 1;
        }
    }
    low
}
