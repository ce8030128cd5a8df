//! Runs above a version vector, in pages.

use super::{Batch, Oplog, Piece, Run, VersionVector};
use crate::error::Result;
use crate::graph::{LocalId, PeerIdx};
use crate::planted::{self, Bug};

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
    pub fn page(&self, known: &VersionVector, limit: usize) -> Result<Page> {
        let mut wanted: Vec<(PeerIdx, &Piece, u64)> = vec![];
        for (peer, name) in self.graph.peers() {
            let from = known.get(name).map_or(0, |counter| counter.saturating_add(1));
            let pieces = &self.pieces[peer.0 as usize];
            let first = pieces.partition_point(|p| p.counter_start + p.len <= from);
            wanted.extend(pieces[first..].iter().map(|piece| (peer, piece, from.max(piece.counter_start))));
        }
        match planted::is(Bug::PageNotClosed) {
            true => wanted.sort_by_key(|(_, piece, _)| std::cmp::Reverse(piece.lamport_start)),
            false => wanted.sort_by_key(|(_, piece, _)| piece.lamport_start),
        }
        let mut page = Page::default();
        for (peer, piece, from) in wanted {
            if !page.batch.runs.is_empty() && page.batch.ops.len() + piece.ops > limit {
                page.has_more = true;
                break;
            }
            self.copy(peer, piece, from, &mut page.batch)?;
        }
        Ok(page)
    }

    /// Appends a piece from a counter on to a batch.
    fn copy(&self, peer: PeerIdx, piece: &Piece, from: u64, batch: &mut Batch) -> Result<()> {
        let skip = match from == piece.counter_start {
            true => 0,
            false => self.find(LocalId { peer, counter: from }).map_or(piece.ops, |(_, at)| at - piece.first_op),
        };
        let at_head = skip == 0 && !planted::is(Bug::DepsDropped);
        let first = batch.ops.len();
        for at in piece.first_op + skip..piece.first_op + piece.ops {
            batch.ops.push(self.ops.get(at))?;
        }
        batch.runs.push(Run {
            peer: self.graph.name(peer).to_string(),
            counter_start: from,
            lamport_start: piece.lamport_start + (from - piece.counter_start),
            deps: if at_head { piece.deps.iter().map(|&dep| self.graph.global(dep)).collect() } else { vec![] },
            ops: first..batch.ops.len(),
        });
        Ok(())
    }
}
