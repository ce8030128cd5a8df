//! The rule again, slowly and with other means, and random rows to compare on.

use std::collections::BTreeMap;

use super::Candidate;
use crate::id::{Dot, EventId};
use crate::ops::{EventRef, OpBuf, OpRef, Origin};
use crate::testkit::Rng;
use crate::value::ValueRef;

/// A row's visible cells: value and winning event by column; `None` when the row does not exist.
pub type Shown<'a> = Option<BTreeMap<&'a str, (ValueRef<'a>, Dot<'a>)>>;

/// The rule of the module's head, column by column, by pairwise comparison.
pub fn replay_row_slowly<'a>(events: &[Candidate<'a>]) -> Shown<'a> {
    let outlived = |e: &Candidate<'a>| !events.iter().any(|d| matches!(d.op(), OpRef::Delete { .. }) && d.dot >= e.dot);
    let inserts: Vec<_> = events.iter().filter(|e| matches!(e.op(), OpRef::Insert { .. }) && outlived(e)).collect();
    if inserts.is_empty() {
        return None;
    }
    let mut explicit: Vec<(&str, ValueRef, u64, Dot, Dot)> = vec![];
    let mut defaults: Vec<(&str, ValueRef, u64, Dot, Dot)> = vec![];
    let last = events.iter().filter(|e| matches!(e.op(), OpRef::Delete { .. })).map(|e| e.dot).max();
    for e in events {
        match e.op() {
            OpRef::Insert { cells, .. } if inserts.iter().any(|i| i.dot == e.dot) => {
                explicit.extend(cells.iter().map(|(col, value)| (col, value, 0, e.dot, e.dot)));
            }
            OpRef::Update { col, value, origin: Origin::Explicit, .. } if inserts.iter().any(|i| i.dot < e.dot) => {
                explicit.push((col, value, 0, e.dot, e.dot));
            }
            OpRef::Update { col, value, origin: Origin::Rewrite(r), .. } => {
                let root = Dot { lamport: r.lamport.unwrap(), peer: &r.id.peer, counter: r.id.counter };
                if inserts.iter().any(|i| i.dot <= root) {
                    explicit.push((col, value, 1, root, e.dot));
                }
            }
            OpRef::Update { col, value, origin: Origin::Default(since), .. } => {
                let current = since.map(|d| d.id.clone()) == last.map(|d| EventId::new(d.peer, d.counter));
                if current && inserts.iter().any(|i| i.dot < e.dot) {
                    defaults.push((col, value, 0, e.dot, e.dot));
                }
            }
            _ => {}
        }
    }
    let mut shown = BTreeMap::new();
    for writes in [defaults, explicit] {
        let best: BTreeMap<&str, _> = writes.iter().fold(BTreeMap::new(), |mut best, w| {
            let (col, value, rewrite, root, own) = *w;
            let rank = (root, rewrite, own);
            if best.get(col).is_none_or(|(old, _)| *old <= rank) {
                best.insert(col, (rank, (value, own)));
            }
            best
        });
        shown.extend(best.into_iter().map(|(col, (_, cell))| (col, cell)));
    }
    Some(shown)
}

/// Events on one row, of every kind, with colliding lamports, honest or not.
pub struct RandomRow {
    ops: OpBuf,
    dots: Vec<(u64, String, u64)>,
}

impl RandomRow {
    /// `n` events. Lamports fall in a range about as large, so that ties and late arrivals are common.
    pub fn new(rng: &mut Rng, n: usize) -> Self {
        let mut row = RandomRow { ops: OpBuf::new(), dots: vec![] };
        for counter in 0..n as u64 {
            let dot = (1 + rng.below(n + 2) as u64, ["a", "b", "ä"][rng.below(3)].to_string(), counter);
            row.push(rng).expect("small");
            row.dots.push(dot);
        }
        row
    }

    fn push(&mut self, rng: &mut Rng) -> crate::Result<()> {
        let (tbl, col) = (self.ops.sym("t"), self.ops.sym(["x", "y", "z"][rng.below(3)]));
        let value = ValueRef::Int(rng.below(1000) as i64);
        match rng.below(10) {
            0..=2 => {
                self.ops.insert(tbl, "r")?;
                for name in ["x", "y", "x"] {
                    if rng.chance(40) {
                        let col = self.ops.sym(name);
                        self.ops.cell(col, ValueRef::Int(rng.below(1000) as i64))?;
                    }
                }
                Ok(())
            }
            3 => self.ops.delete(tbl, "r"),
            4 | 5 if !self.dots.is_empty() => {
                let root = self.any(rng, |op| !matches!(op, OpRef::Update { origin: Origin::Rewrite(_), .. }));
                match root {
                    Some(root) => self.ops.update(tbl, "r", col, value, Origin::Rewrite(&root)),
                    None => self.ops.delete(tbl, "r"),
                }
            }
            6 | 7 => {
                let since = self.any(rng, |op| matches!(op, OpRef::Delete { .. }));
                let since = since.filter(|_| rng.chance(60));
                self.ops.update(tbl, "r", col, value, Origin::Default(since.as_ref()))
            }
            _ => self.ops.update(tbl, "r", col, value, Origin::Explicit),
        }
    }

    fn any(&self, rng: &mut Rng, like: impl Fn(OpRef) -> bool) -> Option<EventRef> {
        let fit: Vec<_> = (0..self.ops.len()).filter(|&i| like(self.ops.get(i))).collect();
        if fit.is_empty() {
            return None;
        }
        let (lamport, peer, counter) = &self.dots[*rng.pick(&fit)];
        Some(EventRef { id: EventId::new(peer.as_str(), *counter), lamport: Some(*lamport) })
    }

    /// The events.
    pub fn events(&self) -> Vec<Candidate<'_>> {
        let candidates = self.dots.iter().enumerate().map(|(i, (lamport, peer, counter))| {
            Candidate::new(&self.ops, i, Dot { lamport: *lamport, peer, counter: *counter })
        });
        candidates.collect()
    }
}
