//! What was said to be kept. The invariants I2 and I6 of docs/reliability.md, for every driver.

use std::collections::BTreeMap;

use crate::admit::{EventView, digest};
use crate::wire::{Batch, Versions};

/// The events that somebody was told are kept, by what they say.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Per peer and counter the event's digest, and whether it may be missed.
    events: BTreeMap<String, BTreeMap<u64, (u64, bool)>>,
}

impl Ledger {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes events that were acknowledged, or given to a reader. An error says which event was told otherwise before (I6).
    pub fn keep(&mut self, batch: &Batch) -> Result<(), String> {
        for (peer, counter, digest) in told(batch) {
            let noted = self.events.entry(peer.to_owned()).or_default().entry(counter).or_insert((digest, true));
            if noted.0 != digest {
                return Err(format!(
                    "I6: event [{peer:?},{counter}] has two contents: {:016x}, {digest:016x}",
                    noted.0
                ));
            }
            noted.1 = true;
        }
        Ok(())
    }

    /// The driver destroyed what lies above these versions, everywhere: it may be missed, and never come back otherwise.
    pub fn lost_above(&mut self, known: &Versions) {
        for (peer, events) in &mut self.events {
            let first = known.get(peer).map_or(0, |counter| counter + 1);
            events.range_mut(first..).for_each(|(_, (_, must))| *must = false);
        }
    }

    /// Everything noted is in a log, with the content that was noted, and nothing is in it twice (I2, I6).
    pub fn check(&self, log: &Batch) -> Result<(), String> {
        let mut held: BTreeMap<(&str, u64), u64> = BTreeMap::new();
        for (peer, counter, digest) in told(log) {
            if held.insert((peer, counter), digest).is_some() {
                return Err(format!("I2: event [{peer:?},{counter}] is there twice"));
            }
        }
        for (peer, events) in &self.events {
            for (counter, (noted, must)) in events {
                match held.get(&(peer.as_str(), *counter)) {
                    Some(digest) if digest != noted => {
                        return Err(format!("I6: event [{peer:?},{counter}] is {digest:016x}, {noted:016x} was told"));
                    }
                    None if *must => {
                        return Err(format!("I2: event [{peer:?},{counter}] was acknowledged and is gone"));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// How many events are noted.
    pub fn len(&self) -> usize {
        self.events.values().map(BTreeMap::len).sum()
    }

    /// Nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// Author, counter and digest of every event of a batch, whatever the cuts.
fn told(batch: &Batch) -> impl Iterator<Item = (&str, u64, u64)> {
    batch.runs.iter().flat_map(|run| {
        let ops = batch.ops.range(run.ops.clone());
        ops.scan((run.counter_start, run.lamport_start), move |(counter, lamport), op| {
            let event = EventView { peer: &run.peer, counter: *counter, lamport: *lamport, op, deps: &[] };
            let told = (run.peer.as_str(), *counter, digest(&event));
            *counter += op.span();
            *lamport += op.span();
            Some(told)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{OpBuf, Origin};
    use crate::value::ValueRef;
    use crate::wire::Run;

    fn batch(counters: &[u64], value: i64) -> Batch {
        let mut batch = Batch { ops: OpBuf::new(), runs: vec![] };
        let (tbl, col) = (batch.ops.sym("t"), batch.ops.sym("x"));
        for &counter in counters {
            let at = batch.ops.len();
            batch.ops.update(tbl, "1", col, ValueRef::Int(value + counter as i64), Origin::Explicit).unwrap();
            let (counter_start, lamport_start) = (counter, counter + 1);
            batch.runs.push(Run { peer: "a".into(), counter_start, lamport_start, ops: at..at + 1, ..Run::default() });
        }
        batch
    }

    #[test]
    fn notices_what_is_gone_doubled_or_changed() {
        let mut ledger = Ledger::new();
        ledger.keep(&batch(&[0, 1, 2], 0)).unwrap();
        ledger.keep(&batch(&[1, 2], 0)).unwrap();
        assert_eq!(ledger.len(), 3);
        ledger.check(&batch(&[0, 1, 2, 3], 0)).unwrap();
        assert!(ledger.check(&batch(&[0, 1], 0)).unwrap_err().contains("[\"a\",2] was acknowledged and is gone"));
        assert!(ledger.check(&batch(&[0, 1, 1, 2], 0)).unwrap_err().contains("twice"));
        assert!(ledger.check(&batch(&[0, 1, 2], 1)).unwrap_err().contains("I6"));
        assert!(ledger.keep(&batch(&[2], 1)).unwrap_err().contains("two contents"));
        ledger.lost_above(&[("a".to_owned(), 1)].into());
        ledger.check(&batch(&[0, 1], 0)).unwrap();
        assert!(ledger.check(&batch(&[0], 0)).is_err());
        assert!(ledger.keep(&batch(&[2], 1)).is_err(), "what was lost must not come back otherwise");
    }
}
