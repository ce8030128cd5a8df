//! Runs above a version vector, in pages.

use super::{Oplog, Piece};
use crate::error::Result;
use crate::planted::{self, Bug};
use crate::wire::{Batch, Versions};

/// A page of runs: causally closed above the version it was asked for.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The runs, parents first.
    pub batch: Batch,
    /// There is more.
    pub has_more: bool,
}

impl Oplog {
    /// Runs that `known` does not hold, whole as they were appended but for a part that is known; at least one and then
    /// as many as fit `limit` operations.
    ///
    /// They come by the lamport of their first event. Only that event has parents outside the run, and they are older:
    /// so a page's parents lie in the page before them, in an earlier page, or in what was known.
    pub fn page(&self, known: &Versions, limit: usize) -> Result<Page> {
        let mut wanted: Vec<(&Piece, u64)> = vec![];
        for (peer, name) in self.graph.peers() {
            let from = known.get(name).map_or(0, |counter| counter.saturating_add(1));
            let pieces = &self.pieces[peer.0 as usize];
            let first = pieces.partition_point(|p| p.run.counter_start + p.len <= from);
            wanted.extend(pieces[first..].iter().map(|piece| (piece, from)));
        }
        match planted::is(Bug::PageNotClosed) {
            true => wanted.sort_by_key(|(piece, _)| std::cmp::Reverse(piece.run.lamport_start)),
            false => wanted.sort_by_key(|(piece, _)| piece.run.lamport_start),
        }
        let mut page = Page::default();
        for (piece, from) in wanted {
            if !page.batch.runs.is_empty() && page.batch.ops.len() + piece.run.ops.len() > limit {
                page.has_more = !planted::is(Bug::HasMoreForgotten);
                break;
            }
            self.copy(piece, from, &mut page.batch)?;
        }
        Ok(page)
    }

    /// Appends a piece from a counter on to a batch. An operation that takes several counters is given whole or not at all.
    fn copy(&self, piece: &Piece, from: u64, batch: &mut Batch) -> Result<()> {
        let run = &piece.run;
        let events = &self.events[run.ops.clone()];
        let known = events.partition_point(|(id, _)| id.counter < from);
        let Some((id, lamport_start)) = events.get(known) else { return Ok(()) };
        let at_head = known == 0 && !planted::is(Bug::DepsDropped);
        let start = batch.ops.len();
        batch.ops.extend(&self.ops, run.ops.start + known..run.ops.end)?;
        let deps = if at_head { run.deps.clone() } else { vec![] };
        batch.runs.push(run.part(id.counter, *lamport_start, deps, start..batch.ops.len()));
        Ok(())
    }
}
