//! Versions as explicit sets of events, and random graphs to compare on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Difference, Graph, LocalId, PeerIdx, Relation, RunHead, Span};
use crate::testkit::Rng;

/// A version, event by event.
pub type Version = BTreeSet<LocalId>;

/// A graph with the past of each event spelled out.
pub struct RandomGraph {
    /// The graph.
    pub graph: Graph,
    /// Each event's past, itself included.
    pasts: BTreeMap<LocalId, Version>,
    /// Each event's parents.
    parents: BTreeMap<LocalId, Vec<LocalId>>,
}

impl RandomGraph {
    /// About `steps` runs by a few peers who now and then learn of each other.
    pub fn new(rng: &mut Rng, steps: usize) -> Self {
        let mut random = RandomGraph { graph: Graph::new(), pasts: BTreeMap::new(), parents: BTreeMap::new() };
        let peers: Vec<PeerIdx> =
            (0..1 + rng.below(6)).map(|i| random.graph.peer(["d", "a", "c", "b", "ab", "ba"][i])).collect();
        let mut known: Vec<Version> = vec![Version::new(); peers.len()];
        for _ in 0..steps {
            let me = rng.below(peers.len());
            if rng.chance(45) {
                // All that another knows, or an event of anybody's in the middle of a run, with its past.
                let other = known[rng.below(peers.len())].clone();
                let past = if rng.chance(30) { random.any_past(rng) } else { other };
                known[me].extend(past);
            } else {
                random.author(rng, peers[me], &mut known[me]);
            }
        }
        random
    }

    fn author(&mut self, rng: &mut Rng, peer: PeerIdx, known: &mut Version) {
        let deps = self.heads(known);
        let clock = known.iter().map(|&id| self.graph.lamport(id).unwrap()).max().map_or(0, |l| l + 1);
        let counter_start = self.graph.next_counter(peer);
        let run = RunHead {
            peer,
            counter_start,
            len: 1 + rng.below(5) as u64,
            lamport_start: clock + (rng.chance(20) as u64) * rng.below(4) as u64,
            deps: deps.clone(),
        };
        for counter in run.counter_start..run.end() {
            let id = LocalId { peer, counter };
            let parents = match counter == run.counter_start {
                true => run.parents().collect(),
                false => vec![LocalId { peer, counter: counter - 1 }],
            };
            known.insert(id);
            self.pasts.insert(id, known.clone());
            self.parents.insert(id, parents);
        }
        self.graph.push(run).expect("made to fit");
    }

    /// An event's past; nothing when there is no event.
    fn any_past(&self, rng: &mut Rng) -> Version {
        let all: Vec<&Version> = self.pasts.values().collect();
        if all.is_empty() { Version::new() } else { (*rng.pick(&all)).clone() }
    }

    /// Some events, at most three.
    pub fn some_events(&self, rng: &mut Rng) -> Vec<LocalId> {
        let all: Vec<LocalId> = self.pasts.keys().copied().collect();
        if all.is_empty() {
            return vec![];
        }
        (0..rng.below(4)).map(|_| *rng.pick(&all)).collect()
    }

    /// The version that these events span.
    pub fn version(&self, events: &[LocalId]) -> Version {
        events.iter().flat_map(|id| self.pasts[id].iter().copied()).collect()
    }

    /// A version's heads: those that are nobody's parent in it.
    pub fn heads(&self, version: &Version) -> Vec<LocalId> {
        let parents: Version = version.iter().flat_map(|id| self.parents[id].iter().copied()).collect();
        version.difference(&parents).copied().collect()
    }

    /// Slow twin of [`super::difference`].
    pub fn difference(&self, a: &[LocalId], b: &[LocalId]) -> Difference {
        let (a, b) = (self.version(a), self.version(b));
        Difference { only_a: spans(&a - &b), only_b: spans(&b - &a) }
    }

    /// Slow twin of [`super::compare`].
    pub fn compare(&self, a: &[LocalId], b: &[LocalId]) -> Relation {
        let (a, b) = (self.version(a), self.version(b));
        match (a.is_subset(&b), b.is_subset(&a)) {
            (true, true) => Relation::Equal,
            (true, false) => Relation::Before,
            (false, true) => Relation::After,
            (false, false) => Relation::Concurrent,
        }
    }

    /// Slow twin of [`super::lca`].
    pub fn lca(&self, a: &[LocalId], b: &[LocalId]) -> Vec<LocalId> {
        self.heads(&(&self.version(a) & &self.version(b)))
    }
}

fn spans(events: Version) -> Vec<Span> {
    let mut spans: Vec<Span> = vec![];
    for id in events {
        match spans.last_mut() {
            Some(span) if span.peer == id.peer && span.to == id.counter => span.to += 1,
            _ => spans.push(Span { peer: id.peer, from: id.counter, to: id.counter + 1 }),
        }
    }
    spans
}
