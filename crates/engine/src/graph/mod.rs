//! The event graph: which events were known when others were made.
//!
//! Three facts carry everything here. A run is a chain, so only its first event has parents outside. Events of one peer
//! are a chain, so a version (a set of events closed under parents) is, per peer, a greatest counter. And a lamport is
//! greater than those of all parents, so walking down by lamport meets children before parents.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | the nouns, and [`Graph`]: the graph in memory, run-length encoded |
//! | `walk.rs` | [`difference`], [`compare`], [`lca`], [`heads_of`], [`version_vector`] over any [`Runs`] |
//! | `oracle.rs` | the same by explicit ancestor sets, and random graphs |
//!
//! The walk is the idea of diamond-types' `diff` (Gentle; see also "Collaborative Text Editing with Eg-walker", 2024,
//! section 3.5) for a graph whose local order is the lamport, and whose runs can come from a table one probe at a time.

mod walk;

#[cfg(any(test, feature = "testkit"))]
pub mod oracle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::id::{EventId, MAX_CLOCK};

pub use walk::{Difference, Relation, compare, difference, events_since, heads_of, lca, version_vector};

/// A peer's local number. Local numbers stay at home: another graph numbers otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIdx(pub u32);

/// An event by its peer's local number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalId {
    /// The author.
    pub peer: PeerIdx,
    /// The author's counter.
    pub counter: u64,
}

/// Consecutive events of one peer, of which only the first has parents outside: `deps` and its peer's previous event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHead {
    /// The author.
    pub peer: PeerIdx,
    /// Counter of the first event.
    pub counter_start: u64,
    /// How many events (counters), at least 1.
    pub len: u64,
    /// Lamport of the first event; the others follow by 1.
    pub lamport_start: u64,
    /// What the first event was made on top of. May name the peer's previous event, or leave it out.
    pub deps: Vec<LocalId>,
}

impl RunHead {
    /// One past the last counter.
    pub fn end(&self) -> u64 {
        self.counter_start + self.len
    }

    /// Its clocks end where clocks do. A run that does not fit has no end.
    fn fits(&self) -> bool {
        let fits = |start: u64| start.checked_add(self.len).is_some_and(|end| end <= MAX_CLOCK + 1);
        fits(self.counter_start) && fits(self.lamport_start)
    }

    /// The run holds this counter.
    pub fn holds(&self, counter: u64) -> bool {
        (self.counter_start..self.end()).contains(&counter)
    }

    /// Lamport of an event of the run.
    pub fn lamport(&self, counter: u64) -> u64 {
        debug_assert!(self.holds(counter));
        self.lamport_start + (counter - self.counter_start)
    }

    /// Parents of the first event.
    pub fn parents(&self) -> impl Iterator<Item = LocalId> + use<'_> {
        let peer = self.peer;
        let previous = self.counter_start.checked_sub(1).map(|counter| LocalId { peer, counter });
        previous.into_iter().chain(self.deps.iter().copied())
    }

    /// `next` may be told as a part of this run: nothing outside came in between.
    fn can_append(&self, next: &RunHead) -> bool {
        let last = LocalId { peer: self.peer, counter: self.end() - 1 };
        next.peer == self.peer
            && next.counter_start == self.end()
            && next.lamport_start == self.lamport_start + self.len
            && next.deps.iter().all(|&dep| dep == last)
    }
}

/// Counters `from..to` of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The author.
    pub peer: PeerIdx,
    /// First counter.
    pub from: u64,
    /// One past the last counter.
    pub to: u64,
}

/// The seam to wherever runs are kept.
pub trait Runs {
    /// The run that holds an event, cut as the store likes, or `None` when the event is not known.
    fn run_at(&mut self, id: LocalId) -> Result<Option<RunHead>>;
}

/// An event graph in memory.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    names: Vec<Box<str>>,
    index: BTreeMap<Box<str>, PeerIdx>,
    /// Per peer its runs, rising and without holes.
    runs: Vec<Vec<RunHead>>,
    /// The frontier, sorted: events that no event names as a parent.
    heads: Vec<LocalId>,
    max_lamport: u64,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// The local number of a peer, given at need.
    pub fn peer(&mut self, name: &str) -> PeerIdx {
        if let Some(&peer) = self.index.get(name) {
            return peer;
        }
        let peer = PeerIdx(u32::try_from(self.names.len()).expect("fewer than 2^32 peers"));
        self.names.push(name.into());
        self.index.insert(name.into(), peer);
        self.runs.push(vec![]);
        peer
    }

    /// The local number of a peer that has one.
    pub fn find_peer(&self, name: &str) -> Option<PeerIdx> {
        self.index.get(name).copied()
    }

    /// A peer's name.
    pub fn name(&self, peer: PeerIdx) -> &str {
        &self.names[peer.0 as usize]
    }

    /// All peers, in the order they were met.
    pub fn peers(&self) -> impl ExactSizeIterator<Item = (PeerIdx, &str)> {
        self.names.iter().enumerate().map(|(i, name)| (PeerIdx(i as u32), name.as_ref()))
    }

    /// The local id of an event, if its peer has a number; the event need not be known.
    pub fn local(&self, id: &EventId) -> Option<LocalId> {
        self.find_peer(&id.peer).map(|peer| LocalId { peer, counter: id.counter })
    }

    /// The name of an event outside.
    pub fn global(&self, id: LocalId) -> EventId {
        EventId::new(self.name(id.peer), id.counter)
    }

    /// How many events of a peer are known: the next counter.
    pub fn next_counter(&self, peer: PeerIdx) -> u64 {
        self.runs.get(peer.0 as usize).and_then(|runs| runs.last()).map_or(0, RunHead::end)
    }

    /// The run that holds an event.
    pub fn find_run(&self, id: LocalId) -> Option<&RunHead> {
        let runs = self.runs.get(id.peer.0 as usize)?;
        let at = runs.partition_point(|run| run.end() <= id.counter);
        runs.get(at).filter(|run| run.holds(id.counter))
    }

    /// An event's lamport.
    pub fn lamport(&self, id: LocalId) -> Option<u64> {
        self.find_run(id).map(|run| run.lamport(id.counter))
    }

    /// The greatest lamport known, 0 in an empty graph.
    pub fn max_lamport(&self) -> u64 {
        self.max_lamport
    }

    /// The heads of the graph, sorted.
    pub fn frontier(&self) -> &[LocalId] {
        &self.heads
    }

    /// A peer's runs, rising.
    pub fn runs_of(&self, peer: PeerIdx) -> &[RunHead] {
        self.runs.get(peer.0 as usize).map_or(&[], Vec::as_slice)
    }

    /// Adds the next run of a peer. Errors: [`Error::BrokenGraph`] when it leaves a hole or overlaps, when a parent is not
    /// known, or when a lamport is not greater than those of the parents. Nothing is added then.
    pub fn push(&mut self, run: RunHead) -> Result<()> {
        let broken = |what| Err(Error::BrokenGraph { what, peer: run.peer.0, counter: run.counter_start });
        if run.len == 0 || run.counter_start != self.next_counter(run.peer) {
            return broken("a run that does not follow its peer's previous one");
        }
        if !run.fits() {
            return broken("a clock beyond 2^53-1");
        }
        let last_lamport = run.lamport_start + run.len - 1;
        for parent in run.parents() {
            match self.lamport(parent) {
                None => return broken("a parent that is not known"),
                Some(lamport) if lamport >= run.lamport_start => return broken("a lamport not above its parents'"),
                Some(_) => {}
            }
        }
        for parent in run.parents() {
            if let Ok(at) = self.heads.binary_search(&parent) {
                self.heads.remove(at);
            }
        }
        let head = LocalId { peer: run.peer, counter: run.end() - 1 };
        let at = self.heads.partition_point(|h| *h < head);
        self.heads.insert(at, head);
        self.max_lamport = self.max_lamport.max(last_lamport);
        let runs = &mut self.runs[run.peer.0 as usize];
        match runs.last_mut() {
            Some(last) if last.can_append(&run) => last.len += run.len,
            _ => runs.push(run),
        }
        Ok(())
    }

    /// Asserts what must hold: runs without holes, cut only where needed; parents known and older; heads without children.
    pub fn check(&self) {
        assert_eq!(self.names.len(), self.runs.len());
        let mut heads: Vec<LocalId> = vec![];
        for (peer, name) in self.peers() {
            assert_eq!(self.index[name], peer);
            let runs = self.runs_of(peer);
            let mut next = 0;
            for (i, run) in runs.iter().enumerate() {
                assert_eq!((run.peer, run.counter_start), (peer, next));
                assert!(run.len > 0 && (i == 0 || !runs[i - 1].can_append(run)));
                assert!(run.parents().all(|p| self.lamport(p).is_some_and(|l| l < run.lamport_start)));
                next = run.end();
            }
            heads.extend(next.checked_sub(1).map(|counter| LocalId { peer, counter }));
        }
        let named = |head: &LocalId| self.runs.iter().flatten().any(|run| run.deps.contains(head));
        heads.retain(|head| !named(head));
        assert_eq!(heads, self.heads);
    }
}

impl Runs for &Graph {
    fn run_at(&mut self, id: LocalId) -> Result<Option<RunHead>> {
        Ok(self.find_run(id).cloned())
    }
}
