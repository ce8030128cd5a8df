//! Event runs and single events.

use super::fields::{Reader, Slot};
use crate::alloc;
use crate::error::{Error, Result};
use crate::limits::within_sum;
use crate::wire::Run;

impl Reader<'_, '_> {
    /// `[EventRun or Event]`.
    pub fn events(&mut self) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        self.items(|r, _| {
            within_sum("runs of a request", runs.len() + 1, r.budget.limits.runs)?;
            let run = r.run()?;
            alloc::push(&mut runs, run)
        })?;
        Ok(runs)
    }

    /// An EventRun has `ops`, an Event has `op`; they share `deps` and the reserved fields.
    fn run(&mut self) -> Result<Run> {
        let from = self.buf.len();
        let mut span = 0u64;
        let (mut peer, mut counter, mut lamport) =
            (Slot::new("peer"), Slot::new("counter_start"), Slot::new("lamport_start"));
        let (mut id, mut one_lamport, mut deps) = (Slot::new("id"), Slot::new("lamport"), Slot::new("deps"));
        let (mut ops, mut op) = (Slot::new("ops"), Slot::new("op"));
        let (mut txn, mut actor, mut at, mut schema) =
            (Slot::new("txn"), Slot::new("actor"), Slot::new("at"), Slot::new("schema"));
        self.fields(|r, key| match key {
            "peer" => peer.set(r.name("peer")),
            "counter_start" => counter.set(r.clock("counter_start")),
            "lamport_start" => lamport.set(r.clock("lamport_start")),
            "deps" => deps.set(r.event_ids(r.budget.limits.deps_per_run)),
            "ops" => ops.set(r.items(|r, _| r.op().map(|n| span = span.saturating_add(n)))),
            "id" => id.set(r.event_id()),
            "lamport" => one_lamport.set(r.clock("lamport")),
            "op" => op.set(r.op().map(|n| span = span.saturating_add(n))),
            "txn" => txn.set(r.or_null(|r| r.clock("txn"))),
            "actor" => actor.set(r.or_null(|r| r.name("actor"))),
            "at" => at.set(r.or_null(|r| r.wall("at"))),
            "schema" => schema.set(r.or_null(|r| r.clock("schema"))),
            _ => r.pass(key),
        })?;
        let mut run = match (ops.take(), op.take()) {
            (Some(()), None) => Run {
                peer: peer.need()?,
                counter_start: counter.need()?,
                lamport_start: lamport.need()?,
                ..Run::default()
            },
            (None, Some(())) => {
                let id = id.need()?;
                Run { peer: id.peer, counter_start: id.counter, lamport_start: one_lamport.need()?, ..Run::default() }
            }
            _ => {
                let what = "an event has \"op\", a run of events \"ops\", none has both".into();
                return Err(Error::Malformed { at: String::new(), what });
            }
        };
        run.deps = deps.need()?;
        run.ops = from..self.buf.len();
        (run.txn, run.actor) = (txn.take().flatten(), actor.take().flatten());
        (run.at, run.schema) = (at.take().flatten(), schema.take().flatten());
        run.check(span)?;
        Ok(run)
    }
}
