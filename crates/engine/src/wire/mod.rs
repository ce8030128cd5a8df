//! Requests and answers: what they hold, whatever their form. [`json`] and [`binary`] read and write them.

pub mod binary;
pub mod json;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;

use crate::alloc;
use crate::error::{Error, Result};
use crate::id::{EventId, MAX_CLOCK};
use crate::ops::{OpBuf, OpRef, kind};

/// A version vector: per peer the highest counter known. A peer that is absent is not known at all.
pub type Versions = BTreeMap<String, u64>;

/// Peers of the hub of which a client knows more than the hub does, with the greatest counter the hub has; `None` (JSON:
/// null) when it has no event of the peer any more.
pub type Ahead = BTreeMap<String, Option<u64>>;

/// Consecutive events of one peer: counters and lamports rise by one, only the first has dependencies besides its
/// predecessor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The author.
    pub peer: String,
    /// Counter of the first event.
    pub counter_start: u64,
    /// Lamport of the first event.
    pub lamport_start: u64,
    /// Heads of what the first event was made on top of.
    pub deps: Vec<EventId>,
    /// Which operations of the buffer beside it.
    pub ops: Range<usize>,
    /// Reserved: the counter of the first event of the transaction this run belongs to.
    pub txn: Option<u64>,
    /// Reserved: who did it, as the hub knows them.
    pub actor: Option<String>,
    /// Reserved: wall time in microseconds since 1970-01-01 UTC, from -(2^53-1) to 2^53-1.
    pub at: Option<i64>,
    /// Reserved: version of the schema it was written under.
    pub schema: Option<u64>,
}

impl Run {
    /// How many counters the run takes.
    pub fn span(&self, ops: &OpBuf) -> u64 {
        self.ops.clone().fold(0, |n, at| n.saturating_add(ops.span_of(at)))
    }

    /// A part of the run as a run of its own, whose first event has these names, parents and operations.
    pub fn part(&self, counter_start: u64, lamport_start: u64, deps: Vec<EventId>, ops: Range<usize>) -> Run {
        let (peer, actor) = (self.peer.clone(), self.actor.clone());
        let (txn, at, schema) = (self.txn, self.at, self.schema);
        Run { peer, counter_start, lamport_start, deps, ops, txn, actor, at, schema }
    }

    /// The pieces of the run that a reader of JSON can be given: those between operations that are no row operations and
    /// whose type is not in `accept`. A later piece depends on the last event of the piece before it; what lies
    /// between is a hole for that reader. Errors: [`Error::OutOfMemory`].
    pub fn split_for(&self, ops: &OpBuf, accept: &[String]) -> Result<Vec<Run>> {
        let mut pieces: Vec<Run> = Vec::new();
        let mut offset = 0u64;
        let mut open: Option<(usize, u64)> = None;
        for i in self.ops.clone() {
            let op = ops.get(i);
            let shown = match op {
                OpRef::Opaque { kind, .. } => kind::name(kind).is_some_and(|name| accept.iter().any(|a| a == name)),
                _ => true,
            };
            match (shown, open) {
                (true, None) => open = Some((i, offset)),
                (false, Some(from)) => {
                    self.cut(&mut pieces, ops, from, i)?;
                    open = None;
                }
                _ => {}
            }
            offset = offset.saturating_add(op.span());
        }
        if let Some(from) = open {
            self.cut(&mut pieces, ops, from, self.ops.end)?;
        }
        Ok(pieces)
    }

    /// Adds the piece from an operation and its offset in counters up to another operation.
    fn cut(&self, pieces: &mut Vec<Run>, ops: &OpBuf, (from, offset): (usize, u64), to: usize) -> Result<()> {
        let mut piece = self.clone();
        piece.ops = from..to;
        piece.counter_start += offset;
        piece.lamport_start += offset;
        if let Some(before) = pieces.last() {
            let last = before.counter_start + before.span(ops) - 1;
            piece.deps = vec![EventId { peer: alloc::string(&self.peer)?, counter: last }];
        }
        alloc::push(pieces, piece)
    }

    /// What every run must be, whatever the form it came in.
    fn check(&self, span: u64) -> Result<()> {
        if span == 0 {
            return Err(Error::Malformed { at: "ops".into(), what: "a run without operations".into() });
        }
        for (what, start) in
            [("last counter of a run", self.counter_start), ("last lamport of a run", self.lamport_start)]
        {
            if start.saturating_add(span - 1) > MAX_CLOCK {
                return Err(Error::ClockRange { what, value: start.saturating_add(span - 1).to_string() });
            }
        }
        Ok(())
    }
}

/// Runs and the operations they point into.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Operations of all runs.
    pub ops: OpBuf,
    /// The runs, in the order they were sent.
    pub runs: Vec<Run>,
}

/// What a client sends with `push`.
#[derive(Clone, Debug, Default)]
pub struct PushRequest {
    /// Who pushes.
    pub peer_id: String,
    /// What is pushed.
    pub batch: Batch,
    /// The client's heads.
    pub frontier: Vec<EventId>,
}

/// What a client sends with `pull`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// Who pulls.
    pub peer_id: Option<String>,
    /// What the client has (JSON: `known_peers`).
    pub known: Versions,
    /// How many operations a page; a whole transaction at least.
    pub limit: Option<u64>,
    /// Types of operations besides the three of rows that the client understands.
    pub accept: Vec<String>,
}

/// The answer to `push`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushResponse {
    /// How many events were new.
    pub accepted: u64,
    /// How many were there already.
    pub duplicate: u64,
    /// The hub's heads (JSON: `server_frontier`).
    pub frontier: Vec<EventId>,
    /// The hub's version vector.
    pub versions: Versions,
    /// Events that the hub lost and the client has. Left out of JSON when empty.
    pub ahead: Ahead,
}

/// The answer to `pull`.
#[derive(Clone, Debug, Default)]
pub struct PullResponse {
    /// What the client did not have (JSON: `events`).
    pub batch: Batch,
    /// The hub's heads (JSON: `server_frontier`).
    pub frontier: Vec<EventId>,
    /// Whether another pull would give more.
    pub has_more: bool,
    /// What the client has after this page.
    pub versions: Versions,
    /// As in [`PushResponse::ahead`].
    pub ahead: Ahead,
}
