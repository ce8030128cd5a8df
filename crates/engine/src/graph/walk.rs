//! Questions about versions, answered by walking down from their heads until what is left is common.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::{LocalId, PeerIdx, RunHead, Runs, Span};
use crate::error::{Error, Result};

/// What only one of two versions holds, by peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Only the first version holds these.
    pub only_a: Vec<Span>,
    /// Only the second version holds these.
    pub only_b: Vec<Span>,
}

/// How two versions stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The second holds all of the first and more.
    Before,
    /// The first holds all of the second and more.
    After,
    /// They are the same set.
    Equal,
    /// Each holds something the other does not.
    Concurrent,
}

impl Relation {
    /// As SQL and JSON say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Relation::Before => "before",
            Relation::After => "after",
            Relation::Equal => "equal",
            Relation::Concurrent => "concurrent",
        }
    }
}

/// What only one of the versions headed by `a` and `b` holds. Time follows the runs of the difference (and those that
/// reach into its lamports), not the history. Errors: [`Error::BrokenGraph`] when an id or a parent is not known.
pub fn difference(runs: &mut impl Runs, a: &[LocalId], b: &[LocalId]) -> Result<Difference> {
    let mut walk = Walk::start(runs, a, b)?;
    walk.descend()?;
    Ok(walk.difference())
}

/// How the versions headed by `a` and `b` stand to each other.
pub fn compare(runs: &mut impl Runs, a: &[LocalId], b: &[LocalId]) -> Result<Relation> {
    let difference = difference(runs, a, b)?;
    Ok(match (difference.only_a.is_empty(), difference.only_b.is_empty()) {
        (true, true) => Relation::Equal,
        (true, false) => Relation::Before,
        (false, true) => Relation::After,
        (false, false) => Relation::Concurrent,
    })
}

/// The heads of the greatest version that both `a` and `b` hold, sorted: none when they have nothing in common.
pub fn lca(runs: &mut impl Runs, a: &[LocalId], b: &[LocalId]) -> Result<Vec<LocalId>> {
    let mut walk = Walk::start(runs, a, b)?;
    walk.descend()?;
    let candidates = walk.common_edge(a, b);
    heads_of(runs, &candidates)
}

/// What the version headed by `heads` holds beyond the one headed by `since`.
pub fn events_since(runs: &mut impl Runs, heads: &[LocalId], since: &[LocalId]) -> Result<Vec<Span>> {
    Ok(difference(runs, heads, since)?.only_a)
}

/// Those of `events` that no other of them has in its past, sorted: the heads of the version they span. Walks down to
/// the least lamport among them at most.
pub fn heads_of(runs: &mut impl Runs, events: &[LocalId]) -> Result<Vec<LocalId>> {
    let mut greatest: BTreeMap<PeerIdx, u64> = BTreeMap::new();
    for event in events {
        let counter = greatest.entry(event.peer).or_insert(event.counter);
        *counter = event.counter.max(*counter);
    }
    let mut heads: Vec<LocalId> = greatest.into_iter().map(|(peer, counter)| LocalId { peer, counter }).collect();
    if heads.len() < 2 {
        return Ok(heads);
    }
    let mut walk = Walk::start(runs, &heads, &[])?;
    let least = walk.queue.keys().next().map_or(0, |key| key.0);
    // A head is dominated when the walk comes by a child of it: the side `b` marks what was reached from above.
    while let Some(step) = walk.pop_above(least) {
        walk.expand(&step, BOTH)?;
    }
    heads.retain(|head| walk.reach(head.peer, B).is_none_or(|counter| counter < head.counter));
    Ok(heads)
}

/// Per peer the greatest counter of the version headed by `heads`. Walks all of it: where the version vector of a later
/// version is at hand, take the [`difference`] from that instead.
pub fn version_vector(runs: &mut impl Runs, heads: &[LocalId]) -> Result<BTreeMap<PeerIdx, u64>> {
    let whole = difference(runs, heads, &[])?;
    Ok(whole.only_a.into_iter().map(|span| (span.peer, span.to - 1)).collect())
}

/// The side or sides that hold an event.
type Sides = u8;
const A: Sides = 1;
const B: Sides = 2;
const BOTH: Sides = 3;

/// What the walk knows of one peer.
#[derive(Default)]
struct Reach {
    /// One past the greatest counter found on each side; 0: none.
    a: u64,
    b: u64,
    /// The runs met, by their first counter.
    runs: BTreeMap<u64, RunHead>,
}

/// A walk down two versions by falling lamport.
struct Walk<'r, R> {
    source: &'r mut R,
    reach: FxHashMap<PeerIdx, Reach>,
    /// Events found and not yet followed to their parents.
    queue: BTreeMap<(u64, LocalId), Sides>,
    /// How many of them are on one side only.
    singles: usize,
    /// The reach of a side changed since the floor was computed.
    moved: bool,
}

impl<'r, R: Runs> Walk<'r, R> {
    fn start(source: &'r mut R, a: &[LocalId], b: &[LocalId]) -> Result<Self> {
        let mut walk = Walk { source, reach: FxHashMap::default(), queue: BTreeMap::new(), singles: 0, moved: true };
        for (heads, side) in [(a, A), (b, B)] {
            for &head in heads {
                walk.find(head, side, u64::MAX)?;
            }
        }
        Ok(walk)
    }

    /// Walks until everything left in the queue is common and nothing of it can lead back into the difference.
    fn descend(&mut self) -> Result<()> {
        let mut floor = 0;
        while let Some(&(top, _)) = self.queue.keys().next_back() {
            if self.singles == 0 {
                if std::mem::take(&mut self.moved) {
                    floor = self.floor();
                }
                if top <= floor {
                    return Ok(());
                }
            }
            let step = self.pop_above(0).expect("not empty");
            self.expand(&step, step.1)?;
        }
        Ok(())
    }

    /// The least lamport of the difference as it stands. An event at or below cannot have an ancestor in it.
    fn floor(&self) -> u64 {
        let bottom = |reach: &Reach| {
            let counter = reach.a.min(reach.b);
            let run = reach.runs.range(..=counter).next_back().filter(|(_, run)| run.holds(counter));
            run.map_or(0, |(_, run)| run.lamport(counter))
        };
        self.reach.values().filter(|r| r.a != r.b).map(bottom).min().unwrap_or(u64::MAX)
    }

    /// The event with the greatest lamport, if that is above `floor`.
    fn pop_above(&mut self, floor: u64) -> Option<((u64, LocalId), Sides)> {
        let entry = self.queue.last_entry().filter(|entry| floor == 0 || entry.key().0 > floor)?;
        let step = entry.remove_entry();
        self.singles -= usize::from(step.1 != BOTH);
        Some(step)
    }

    /// Follows an event to the parents of its run, which are then on `sides`.
    fn expand(&mut self, step: &((u64, LocalId), Sides), sides: Sides) -> Result<()> {
        let id = step.0.1;
        let run = self.run(id)?;
        let lamport = run.lamport_start;
        let parents: Vec<LocalId> = run.parents().collect();
        for parent in parents {
            self.find(parent, sides, lamport)?;
        }
        Ok(())
    }

    /// Notes that `sides` hold an event, whose lamport must be below `child`.
    fn find(&mut self, id: LocalId, sides: Sides, child: u64) -> Result<()> {
        let lamport = self.run(id)?.lamport(id.counter);
        if lamport >= child {
            return Err(broken("a lamport not above its parents'", id));
        }
        let reach = self.reach.entry(id.peer).or_default();
        for (side, greatest) in [(A, &mut reach.a), (B, &mut reach.b)] {
            if sides & side != 0 && *greatest <= id.counter {
                *greatest = id.counter + 1;
                self.moved = true;
            }
        }
        let waiting = self.queue.entry((lamport, id)).or_insert(0);
        self.singles -= usize::from(*waiting == A || *waiting == B);
        *waiting |= sides;
        self.singles += usize::from(*waiting != BOTH);
        Ok(())
    }

    /// The run that holds an event, asked for once.
    fn run(&mut self, id: LocalId) -> Result<&RunHead> {
        let reach = self.reach.entry(id.peer).or_default();
        let met = reach.runs.range(..=id.counter).next_back().filter(|(_, run)| run.holds(id.counter));
        let start = match met {
            Some((&start, _)) => start,
            None => {
                let run = self.source.run_at(id)?.ok_or_else(|| broken("an event that is not known", id))?;
                if !run.fits() || run.peer != id.peer || !run.holds(id.counter) {
                    return Err(broken("a run that does not hold what was asked for", id));
                }
                let start = run.counter_start;
                reach.runs.insert(start, run);
                start
            }
        };
        Ok(&reach.runs[&start])
    }

    /// The greatest counter found on a side.
    fn reach(&self, peer: PeerIdx, side: Sides) -> Option<u64> {
        let reach = self.reach.get(&peer)?;
        (if side == A { reach.a } else { reach.b }).checked_sub(1)
    }

    fn difference(&self) -> Difference {
        let mut difference = Difference::default();
        for (&peer, reach) in &self.reach {
            if reach.a > reach.b {
                difference.only_a.push(Span { peer, from: reach.b, to: reach.a });
            } else if reach.b > reach.a {
                difference.only_b.push(Span { peer, from: reach.a, to: reach.b });
            }
        }
        difference.only_a.sort_unstable();
        difference.only_b.sort_unstable();
        difference
    }

    /// Events both sides hold that are a head of one or a parent of what only one holds. Every head of the common version
    /// is among them: it is a head of `a` and `b`, or it has a child that is not common.
    fn common_edge(&self, a: &[LocalId], b: &[LocalId]) -> Vec<LocalId> {
        let mut edge: Vec<LocalId> = a.iter().chain(b).copied().collect();
        for (&peer, reach) in &self.reach {
            let common = reach.a.min(reach.b);
            edge.extend(common.checked_sub(1).map(|counter| LocalId { peer, counter }));
            for run in reach.runs.range(common..).map(|(_, run)| run) {
                edge.extend(run.parents());
            }
        }
        edge.retain(|id| {
            let reach = self.reach.get(&id.peer);
            reach.is_some_and(|r| id.counter < r.a.min(r.b))
        });
        edge
    }
}

fn broken(what: &'static str, id: LocalId) -> Error {
    Error::BrokenGraph { what, peer: id.peer.0, counter: id.counter }
}
