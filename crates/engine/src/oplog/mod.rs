//! An append-only log of runs in memory, and the seam to logs kept elsewhere.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | [`Oplog`]: the graph, all operations in one buffer, an index by row |
//! | `history.rs` | [`History`]: what merging asks of a log, and [`Found`], what it gets |
//! | `page.rs` | [`Oplog::page`]: runs above a version vector |

mod history;
mod page;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::admit::{Admitted, EventView, Known, Part, digest, same_event, views};
use crate::error::{Error, Result};
use crate::event::Candidate;
use crate::graph::{Graph, LocalId, RunHead, Runs};
use crate::id::{Dot, EventId};
use crate::ops::{OpBuf, OpRef};
use crate::wire::{Batch, Run, Versions};

pub use history::{ByRow, Found, History, Rows};
pub use page::Page;

/// A log of one doc in memory.
#[derive(Clone, Debug, Default)]
pub struct Oplog {
    graph: Graph,
    ops: OpBuf,
    /// Author, counter and lamport of each operation.
    events: Vec<(LocalId, u64)>,
    /// Per peer its runs as they were appended, rising.
    pieces: Vec<Vec<Piece>>,
    /// By table and row the operations on it.
    rows: BTreeMap<Box<str>, BTreeMap<Box<str>, RowList>>,
}

/// Operations on a row, each behind its effective lamport, by which they are sorted.
type RowList = Vec<(u64, u32)>;

/// A run as it was appended.
#[derive(Clone, Debug)]
struct Piece {
    /// Its operations are those of `Oplog::ops`.
    run: Run,
    /// How many counters.
    len: u64,
}

impl Oplog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// The graph of the log's events.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// How many operations.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// No operation at all.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Appends what admission found to be new. Errors: [`Error::BrokenGraph`] when it was not admitted by this log, and
    /// [`Error::TooLarge`]; parts appended before the error stay.
    pub fn append(&mut self, batch: &Batch, admitted: &Admitted) -> Result<()> {
        admitted.new.iter().try_for_each(|part| self.append_part(batch, part))
    }

    fn append_part(&mut self, batch: &Batch, part: &Part) -> Result<()> {
        let run = part.of(batch);
        let peer = self.graph.peer(&run.peer);
        self.pieces.resize_with(self.graph.peers().len(), Vec::new);
        let len = part.counters.end - part.counters.start;
        let deps = run.deps.iter().filter_map(|dep| self.graph.local(dep)).collect();
        let (counter_start, lamport_start) = (run.counter_start, run.lamport_start);
        self.graph.push(RunHead { peer, counter_start, len, lamport_start, deps })?;
        let first_op = self.ops.len();
        let (mut counter, mut lamport) = (counter_start, lamport_start);
        self.ops.extend(&batch.ops, part.ops.clone())?;
        for op in batch.ops.range(part.ops.clone()) {
            self.events.push((LocalId { peer, counter }, lamport));
            self.index_row(op);
            counter += op.span();
            lamport += op.span();
        }
        let run = Run { ops: first_op..self.ops.len(), ..run };
        self.pieces[peer.0 as usize].push(Piece { run, len });
        Ok(())
    }

    /// Adds the operation appended last to its row's list.
    fn index_row(&mut self, op: OpRef<'_>) {
        let Some((tbl, row)) = op.row_key() else { return };
        let at = self.events.len() - 1;
        let effective = self.candidate(at).effective_lamport();
        if !self.rows.contains_key(tbl) {
            self.rows.insert(tbl.into(), BTreeMap::new());
        }
        let rows = self.rows.get_mut(tbl).expect("just put there");
        match rows.get_mut(row) {
            Some(list) => {
                let before = list.partition_point(|&(other, _)| other <= effective);
                list.insert(before, (effective, at as u32));
            }
            None => {
                rows.insert(row.into(), vec![(effective, at as u32)]);
            }
        }
    }

    fn row_list(&self, tbl: &str, row: &str) -> &[(u64, u32)] {
        self.rows.get(tbl).and_then(|rows| rows.get(row)).map_or(&[], Vec::as_slice)
    }

    /// The operation at an index, with its event.
    fn candidate(&self, at: usize) -> Candidate<'_> {
        Candidate::new(&self.ops, at, self.dot(at))
    }

    fn dot(&self, at: usize) -> Dot<'_> {
        let (id, lamport) = self.events[at];
        Dot { lamport, peer: self.graph.name(id.peer), counter: id.counter }
    }

    /// All events in the order they were appended.
    pub fn events(&self) -> impl ExactSizeIterator<Item = Candidate<'_>> {
        (0..self.len()).map(|at| self.candidate(at))
    }

    /// All events on a row, by effective lamport.
    pub fn row(&self, tbl: &str, row: &str) -> impl ExactSizeIterator<Item = Candidate<'_>> {
        self.row_list(tbl, row).iter().map(|&(_, at)| self.candidate(at as usize))
    }

    /// Every row that some event is about, in order.
    pub fn row_keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rows.iter().flat_map(|(tbl, rows)| rows.keys().map(move |row| (tbl.as_ref(), row.as_ref())))
    }

    /// Per peer the greatest counter.
    pub fn versions(&self) -> Versions {
        let last = |peer| self.graph.next_counter(peer).checked_sub(1);
        self.graph.peers().filter_map(|(peer, name)| Some((name.to_string(), last(peer)?))).collect()
    }

    /// The heads of the graph.
    pub fn frontier(&self) -> Vec<EventId> {
        self.graph.frontier().iter().map(|&id| self.graph.global(id)).collect()
    }

    /// The operation that begins at a counter, with the piece that holds it.
    fn find(&self, id: LocalId) -> Option<(&Piece, usize)> {
        let pieces = self.pieces.get(id.peer.0 as usize)?;
        let piece = &pieces[..pieces.partition_point(|p| p.run.counter_start <= id.counter)].last()?;
        let events = &self.events[piece.run.ops.clone()];
        let at = events.binary_search_by_key(&id.counter, |(event, _)| event.counter).ok()?;
        Some((piece, piece.run.ops.start + at))
    }

    /// Compares what admission found to be known with what is logged. Errors: [`Error::Equivocation`] for the first
    /// event that differs.
    pub fn compare(&self, batch: &Batch, admitted: &Admitted) -> Result<()> {
        for part in &admitted.known {
            for told in views(batch, part) {
                let event = EventId::new(told.peer, told.counter);
                let found = self.graph.local(&event).and_then(|id| self.find(id));
                let Some((piece, at)) = found else {
                    return Err(Error::Equivocation { event, known: 0, got: digest(&told) });
                };
                let deps = if told.counter == piece.run.counter_start { piece.run.deps.as_slice() } else { &[] };
                let dot = self.dot(at);
                let (peer, counter, lamport) = (dot.peer, dot.counter, dot.lamport);
                let logged = EventView { peer, counter, lamport, op: self.ops.get(at), deps };
                if !same_event(&logged, &told) {
                    return Err(Error::Equivocation { event, known: digest(&logged), got: digest(&told) });
                }
            }
        }
        Ok(())
    }

    /// Asserts what must hold between the graph, the pieces, the operations and the row index.
    pub fn check(&self) {
        self.graph.check();
        assert_eq!(self.ops.len(), self.events.len());
        let mut total = 0;
        for (peer, _) in self.graph.peers() {
            let mut next = 0;
            for piece in &self.pieces[peer.0 as usize] {
                assert_eq!(piece.run.counter_start, next);
                let (mut counter, mut lamport) = (next, piece.run.lamport_start);
                for at in piece.run.ops.clone() {
                    assert_eq!(self.events[at], (LocalId { peer, counter }, lamport));
                    counter += self.ops.get(at).span();
                    lamport += self.ops.get(at).span();
                }
                assert_eq!(counter, next + piece.len);
                next = counter;
                total += piece.run.ops.len();
            }
            assert_eq!(next, self.graph.next_counter(peer));
        }
        assert_eq!(total, self.ops.len());
        let indexed: usize = self.rows.values().flat_map(|rows| rows.values().map(Vec::len)).sum();
        assert_eq!(indexed, self.ops.iter().filter(|op| op.row_key().is_some()).count());
    }
}

impl Known for &Oplog {
    fn next_counters(&mut self, peers: &[&str]) -> Result<Vec<u64>> {
        let next = |peer: &&str| self.graph.find_peer(peer).map_or(0, |peer| self.graph.next_counter(peer));
        Ok(peers.iter().map(next).collect())
    }

    fn lamports(&mut self, ids: &[EventId]) -> Result<Vec<Option<u64>>> {
        Ok(ids.iter().map(|id| self.graph.local(id).and_then(|id| self.graph.lamport(id))).collect())
    }
}

impl Runs for &Oplog {
    fn run_at(&mut self, id: LocalId) -> Result<Option<RunHead>> {
        Ok(self.graph.find_run(id).cloned())
    }
}
