//! Runs above a version vector, in pages.

use super::{Oplog, Piece};
use crate::error::Result;
use crate::graph::{LocalId, PeerIdx};
use crate::ops::{OpRef, Origin};
use crate::planted::{self, Bug};
use crate::wire::{Batch, Run, Versions};

/// A page of runs: causally closed above the version it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The runs, parents first.
    pub batch: Batch,
    /// There is more.
    pub has_more: bool,
}

/// A piece that the reader lacks, at least in part.
struct Wanted<'o> {
    peer: PeerIdx,
    piece: &'o Piece,
    /// The first counter that is wanted.
    from: u64,
    taken: bool,
}

impl Oplog {
    /// Runs that `known` does not hold, whole as they were appended but for a part that is known; at least one and then
    /// as many as fit `limit` operations.
    ///
    /// They come by the lamport of their first event. Only that event has parents outside the run, and they are older:
    /// so a page's parents lie in the page before them, in an earlier page, or in what was known. A derived update in the
    /// middle of a run may name an event that is younger than the run's first one, if its author is no honest hub: what
    /// it names comes along.
    pub fn page(&self, known: &Versions, limit: usize) -> Result<Page> {
        let mut wanted: Vec<Wanted<'_>> = vec![];
        for (peer, name) in self.graph.peers() {
            let from = known.get(name).map_or(0, |counter| counter.saturating_add(1));
            let pieces = &self.pieces[peer.0 as usize];
            let first = pieces.partition_point(|p| p.run.counter_start + p.len <= from);
            wanted.extend(pieces[first..].iter().map(|piece| Wanted { peer, piece, from, taken: false }));
        }
        match planted::is(Bug::PageNotClosed) {
            true => wanted.sort_by_key(|w| std::cmp::Reverse(w.piece.run.lamport_start)),
            false => wanted.sort_by_key(|w| w.piece.run.lamport_start),
        }
        let mut page = Page::default();
        for at in 0..wanted.len() {
            if wanted[at].taken {
                continue;
            }
            if !page.batch.runs.is_empty() && page.batch.ops.len() + wanted[at].piece.run.ops.len() > limit {
                page.has_more = !planted::is(Bug::HasMoreForgotten);
                break;
            }
            let (mut due, first) = (vec![at], page.batch.runs.len());
            while let Some(next) = due.pop() {
                if !std::mem::replace(&mut wanted[next].taken, true) {
                    self.copy(wanted[next].piece, wanted[next].from, &mut page.batch)?;
                    self.needed(wanted[next].piece, next > at, &wanted[at..], at, &mut due);
                }
            }
            page.batch.runs[first..].sort_by_key(|run| run.lamport_start);
        }
        Ok(page)
    }

    /// What must come along with a piece: what it names that is younger than its own first event and, when it comes `early`,
    /// before its turn, its deps. `rest` is all that may still be wanted; its first one is number `base`.
    fn needed(&self, piece: &Piece, early: bool, rest: &[Wanted<'_>], base: usize, due: &mut Vec<usize>) {
        if planted::is(Bug::PageNotClosed) {
            return;
        }
        let named = self.ops.range(piece.run.ops.clone()).filter_map(|op| match op {
            OpRef::Update { origin: Origin::Rewrite(root) | Origin::Default(Some(root)), .. } => {
                self.graph.local(&root.id).filter(|&id| self.graph.lamport(id) >= Some(piece.run.lamport_start))
            }
            _ => None,
        });
        let mut needs: Vec<LocalId> = named.collect();
        if early {
            needs.extend(piece.run.deps.iter().filter_map(|dep| self.graph.local(dep)));
        }
        for need in needs {
            let before = |w: &Wanted<'_>| w.peer == need.peer && w.piece.run.counter_start <= need.counter;
            let found = rest.iter().enumerate().filter(|(_, w)| !w.taken && before(w));
            due.extend(found.map(|(at, _)| base + at));
        }
    }

    /// Appends a piece from a counter on to a batch. An operation that takes several counters is given whole or not at all.
    fn copy(&self, piece: &Piece, from: u64, batch: &mut Batch) -> Result<()> {
        let run = &piece.run;
        let events = &self.events[run.ops.clone()];
        let known = events.partition_point(|(id, _)| id.counter < from);
        let Some((id, lamport_start)) = events.get(known) else { return Ok(()) };
        let at_head = known == 0 && !planted::is(Bug::DepsDropped);
        let start = batch.ops.len();
        self.ops.range(run.ops.start + known..run.ops.end).try_for_each(|op| batch.ops.push(op))?;
        batch.runs.push(Run {
            counter_start: id.counter,
            lamport_start: *lamport_start,
            deps: if at_head { run.deps.clone() } else { vec![] },
            ops: start..batch.ops.len(),
            ..run.clone()
        });
        Ok(())
    }
}
