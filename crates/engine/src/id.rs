//! Names of events and the order of stamps.

use std::cmp::Ordering;

/// The greatest counter and lamport: what a double holds exactly, so that JavaScript clients can count.
pub const MAX_CLOCK: u64 = (1 << 53) - 1;

/// `(peer, counter)`: names one event of a doc. Counters of a peer start at 0 and have no holes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId {
    /// The author.
    pub peer: String,
    /// The author's how-many-eth event this is, from 0.
    pub counter: u64,
}

impl EventId {
    /// An id from its parts.
    pub fn new(peer: impl Into<String>, counter: u64) -> Self {
        EventId { peer: peer.into(), counter }
    }
}

impl std::fmt::Display for EventId {
    /// As JSON: `["peer",12]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{:?},{}]", self.peer, self.counter)
    }
}

/// `(lamport, peer, counter)`: compared as number, bytes, number. Greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dot<'a> {
    /// Logical time.
    pub lamport: u64,
    /// The author; compared as bytes, never by collation.
    pub peer: &'a str,
    /// The author's counter.
    pub counter: u64,
}

impl Ord for Dot<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.lamport.cmp(&other.lamport))
            .then_with(|| self.peer.as_bytes().cmp(other.peer.as_bytes()))
            .then_with(|| self.counter.cmp(&other.counter))
    }
}

impl PartialOrd for Dot<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The rank of an event in the competition for a cell. An ordinary event ranks by its own dot; a rewrite (design,
/// rule 2.3) by its root's dot followed by its own: just above the root, below whatever is newer than the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp<'a> {
    /// The dot of the event itself, or of its root when it is a rewrite.
    pub root: Dot<'a>,
    /// The event's own dot when it is a rewrite.
    pub own: Option<Dot<'a>>,
}

impl<'a> Stamp<'a> {
    /// The stamp of an ordinary event.
    pub fn plain(dot: Dot<'a>) -> Self {
        Stamp { root: dot, own: None }
    }

    /// The stamp of a rewrite `own` derived from `root`.
    pub fn rewrite(root: Dot<'a>, own: Dot<'a>) -> Self {
        Stamp { root, own: Some(own) }
    }

    /// The lamport that decides whether the event can compete: the root's.
    pub fn effective_lamport(&self) -> u64 {
        self.root.lamport
    }
}
