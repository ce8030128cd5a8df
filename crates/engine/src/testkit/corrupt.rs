//! What a hostile author does to a batch of its own.

use crate::id::{EventId, MAX_CLOCK};
use crate::ops::{EventRef, OpBuf, OpRef, Origin, kind};
use crate::testkit::Rng;
use crate::value::ValueRef;
use crate::wire::{Batch, Run};

/// Numbers that have broken things elsewhere.
const EDGES: [u64; 8] = [0, 1, 65_536, 1 << 31, 1 << 32, MAX_CLOCK, 1 << 63, u64::MAX];

/// Spoils a batch in one to three ways: clocks, deps, cuts, operations. The authors stay who they are. `known`: events
/// that can be named. What comes out may still be sound.
pub fn corrupt(batch: Batch, known: &[EventId], rng: &mut Rng) -> Batch {
    let mut batch = batch;
    for _ in 0..1 + rng.below(3) {
        if rng.chance(50) {
            let author = batch.runs.first().map_or("", |run| run.peer.as_str());
            batch.ops = rewritten(&batch.ops, author, known, rng);
        } else if !batch.runs.is_empty() {
            spoil_runs(&mut batch, known, rng);
        }
    }
    batch
}

fn spoil_runs(batch: &mut Batch, known: &[EventId], rng: &mut Rng) {
    let at = rng.below(batch.runs.len());
    let run = &mut batch.runs[at];
    match rng.below(9) {
        0 => run.counter_start = near(run.counter_start, rng),
        1 | 2 => run.lamport_start = near(run.lamport_start, rng),
        3 => run.deps.clear(),
        4 => {
            let more: Vec<EventId> = (0..1 + rng.below(3)).map(|_| any_event(&run.peer, known, rng)).collect();
            run.deps.extend(more);
        }
        5 => {
            let copy = run.clone();
            batch.runs.push(copy);
        }
        6 => drop(batch.runs.swap_remove(at)),
        7 => {
            let end = run.ops.end;
            run.ops = run.ops.start + rng.below(run.ops.len() + 1)..end;
        }
        _ => {
            let mut overlap = Run { counter_start: run.counter_start.wrapping_add(rng.below(2) as u64), ..run.clone() };
            overlap.lamport_start = near(overlap.lamport_start, rng);
            batch.runs.push(overlap);
        }
    }
}

/// A little more or less, the slack of clocks and one more, or an edge.
fn near(number: u64, rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => number.wrapping_add(1 + rng.below(3) as u64),
        1 => number.wrapping_sub(1 + rng.below(3) as u64),
        2 => number.saturating_add(crate::admit::CLOCK_SLACK),
        3 => number.saturating_add(crate::admit::CLOCK_SLACK).saturating_sub(rng.below(100) as u64),
        4 => number.saturating_add(crate::admit::CLOCK_SLACK + 1000),
        _ => *rng.pick(&EDGES),
    }
}

/// An event that is known, or next to one, or of nobody, or of the author's future.
fn any_event(author: &str, known: &[EventId], rng: &mut Rng) -> EventId {
    match rng.below(6) {
        0 => EventId::new(author, rng.below(40) as u64),
        1 => EventId::new("nobody", *rng.pick(&EDGES)),
        _ if known.is_empty() => EventId::new("", 0),
        2 => {
            let event = rng.pick(known);
            EventId::new(event.peer.as_str(), near(event.counter, rng))
        }
        _ => rng.pick(known).clone(),
    }
}

/// The operations again, some of them other ones. Their number stays, so that runs still point into them.
fn rewritten(ops: &OpBuf, author: &str, known: &[EventId], rng: &mut Rng) -> OpBuf {
    let mut out = OpBuf::new();
    for op in ops.iter() {
        match rng.chance(50) {
            true => another(&mut out, op, author, known, rng),
            false => out.push(op),
        }
        .expect("small");
    }
    out
}

fn another(out: &mut OpBuf, op: OpRef<'_>, author: &str, known: &[EventId], rng: &mut Rng) -> crate::Result<()> {
    let (tbl, row) = op.row_key().unwrap_or(("t", "1"));
    let (t, x) = (out.sym(tbl), out.sym(rng.pick::<&str>(&["x", "y", "d", "u"])));
    let value = ValueRef::Int(900_000_000 + rng.below(1000) as i64);
    let event = |rng: &mut Rng| EventRef { id: any_event(author, known, rng), lamport: None };
    match rng.below(8) {
        0 => out.insert(t, row),
        1 => out.delete(t, row),
        2..5 => out.update(t, row, x, value, Origin::Rewrite(&event(rng))),
        5 => out.update(t, row, x, value, Origin::Default(Some(&event(rng)))),
        6 => out.update(t, row, x, value, Origin::Default(None)),
        _ => {
            let kind = *rng.pick(&[kind::SKIP, kind::VOID, kind::ADD, kind::PATH, kind::TEXT]);
            let span = if rng.chance(70) { 1 + rng.below(4) as u64 } else { *rng.pick(&EDGES) };
            out.opaque(kind, span, if kind == kind::SKIP { b"" } else { b"?" })
        }
    }
}
