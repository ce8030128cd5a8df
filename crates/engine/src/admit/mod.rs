//! Admission: what a batch of runs must satisfy before a log may take it.
//!
//! Pure: [`admit`] asks a log two questions ([`Known`]) and returns what is new, in an order in which it can be appended,
//! and what the log holds already and must be compared with ([`same_event`]). Who may push as which peer is not decided
//! here.
//!
//! Names come from outside, so nothing here hashes them without a secret: maps are ordered.
//!
//! A circle of deps needs no search: along deps lamports rise, so some event of a circle fails [`Error::LamportOrder`].

mod clock;
mod parts;
mod same;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::error::Result;
use crate::event::Candidate;
use crate::id::{Dot, EventId};
use crate::wire::{Batch, Run};

pub use parts::views;
pub use same::{EventView, digest, same_event};

/// What admission asks of a log.
pub trait Known {
    /// How many events of each peer are known: their next counters, 0 for a stranger. One answer per question.
    fn next_counters(&mut self, peers: &[&str]) -> Result<Vec<u64>>;

    /// The lamports of events, `None` for those not known. One answer per question.
    fn lamports(&mut self, ids: &[EventId]) -> Result<Vec<Option<u64>>>;
}

/// How far a clock may be ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The greatest lamport of the doc.
    pub greatest: u64,
    /// How many events the doc holds.
    pub events: u64,
}

/// Events a clock may run ahead whatever the size of the doc.
pub const CLOCK_SLACK: u64 = 65_536;
/// Events a clock may run ahead at most, also in a doc that claims to be larger: an operation may take many counters, so
/// their number is anybody's claim, and could double with each push.
pub const CLOCK_SLACK_MAX: u64 = 1 << 26;

impl Clock {
    /// The greatest lamport accepted in a push of `pushed` operations. An honest client counts one per event it made or
    /// received, so it is at most that far ahead.
    pub fn bound(&self, pushed: u64) -> u64 {
        let ahead = pushed.saturating_add(self.events.clamp(CLOCK_SLACK, CLOCK_SLACK_MAX));
        self.greatest.saturating_add(ahead).min(crate::id::MAX_CLOCK)
    }
}

/// A part of a run of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index in [`Batch::runs`].
    pub run: usize,
    /// Its counters.
    pub counters: Range<u64>,
    /// Its operations in [`Batch::ops`].
    pub ops: Range<usize>,
    /// Lamport of its first event.
    pub lamport: u64,
    /// It is the beginning of its run, so the run's deps are its first event's.
    pub at_head: bool,
}

impl Part {
    /// The part as a run of its own: what a log keeps. Its operations are still the batch's.
    pub fn of(&self, batch: &Batch) -> Run {
        let run = &batch.runs[self.run];
        let deps = if self.at_head { run.deps.clone() } else { vec![] };
        run.part(self.counters.start, self.lamport, deps, self.ops.clone())
    }
}

/// What a batch amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// New events, by lamport: in this order each finds its parents in the log or before itself. Per peer they continue
    /// what is known without a hole.
    pub new: Vec<Part>,
    /// Events the log holds: to be compared with it, see [`same_event`].
    pub known: Vec<Part>,
    /// How many events are new.
    pub accepted: u64,
    /// How many are known, or told more than once in the batch.
    pub duplicate: u64,
    /// The greatest lamport of the new events, 0 without any.
    pub greatest_lamport: u64,
    /// The least effective lamport of the new events: L of the merge. [`u64::MAX`] without any.
    pub least_effective: u64,
}

impl Admitted {
    /// The new events, ready to be merged.
    pub fn events<'b>(&'b self, batch: &'b Batch) -> impl Iterator<Item = Candidate<'b>> {
        self.new.iter().flat_map(move |part| {
            let peer = batch.runs[part.run].peer.as_str();
            let mut dot = Dot { lamport: part.lamport, peer, counter: part.counters.start };
            part.ops.clone().map(move |at| {
                let event = Candidate::new(&batch.ops, at, dot);
                let span = batch.ops.span_of(at);
                dot.lamport += span;
                dot.counter += span;
                event
            })
        })
    }
}

/// Checks a batch against what a log knows, and fills in the lamports of roots that the wire left out.
///
/// Errors, each naming the event: [`Error::CounterGap`], [`Error::Equivocation`] (two runs of the batch that overlap and
/// differ), [`Error::SelfDep`], [`Error::UnknownDep`], [`Error::LamportOrder`], [`Error::LamportBound`],
/// [`Error::UnknownRoot`], [`Error::RootOrder`], [`Error::ClockRange`]; and what the log itself fails with.
pub fn admit(batch: &mut Batch, log: &mut impl Known, clock: Clock) -> Result<Admitted> {
    let (layout, mut admitted) = parts::cut(batch, log)?;
    let lamports = clock::Lamports::ask(batch, &layout, &admitted, log)?;
    clock::check_parents(batch, &admitted, &lamports)?;
    clock::check_bound(batch, &mut admitted, clock)?;
    let roots = clock::find_roots(batch, &mut admitted, &lamports)?;
    fill_in(batch, &roots);
    admitted.new.sort_by_key(|part| part.lamport);
    Ok(admitted)
}

/// Writes lamports of roots, given by operation, into the buffer, which keeps its references in operation order.
fn fill_in(batch: &mut Batch, roots: &[(usize, u64)]) {
    if roots.is_empty() {
        return;
    }
    let naming: Vec<usize> = (0..batch.ops.len()).filter(|&at| batch.ops.named(at).is_some()).collect();
    let mut roots = roots.iter().copied().peekable();
    for (at, reference) in naming.into_iter().zip(batch.ops.refs_mut()) {
        if let Some((_, lamport)) = roots.next_if(|&(op, _)| op == at) {
            reference.lamport = Some(lamport);
        }
    }
}

/// The id of an event of a run.
fn event_id(batch: &Batch, run: usize, counter: u64) -> EventId {
    EventId::new(batch.runs[run].peer.as_str(), counter)
}
