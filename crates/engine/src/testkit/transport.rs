//! What a network does to a batch: encode it, cut runs anew, overlap them, double them, mix them up.

use crate::id::EventId;
use crate::ops::OpBuf;
use crate::testkit::Rng;
use crate::wire::{Batch, PushRequest, Run, binary, json};
use crate::{Limits, Result};

/// The same events in other runs.
pub(super) fn recut(batch: Batch, rng: &mut Rng) -> Batch {
    let mut runs = vec![];
    for run in &batch.runs {
        let len = run.ops.len();
        let mut reached = 0;
        while reached < len {
            let from = if rng.chance(30) { rng.below(reached + 1) } else { reached };
            let to = reached + 1 + rng.below(len - reached);
            runs.push(part(run, &batch.ops, from, to, rng));
            reached = to;
        }
        if rng.chance(10) {
            runs.push(run.clone());
        }
    }
    if rng.chance(50) {
        rng.shuffle(&mut runs);
    }
    Batch { ops: batch.ops, runs }
}

/// The same events after a trip over the wire, in either form.
pub(super) fn encode(batch: Batch, rng: &mut Rng) -> Result<Batch> {
    let request = PushRequest { peer_id: "p".into(), batch, frontier: vec![] };
    let request = match rng.chance(50) {
        true => binary::decode_push(&binary::encode_push(&request)?, &Limits::default())?,
        false => {
            let mut text = String::new();
            json::write_push(&mut text, &request)?;
            json::decode_push(text.as_bytes(), &Limits::default())?
        }
    };
    Ok(request.batch)
}

fn part(run: &Run, ops: &OpBuf, from: usize, to: usize, rng: &mut Rng) -> Run {
    // Counters, not operations: one that is kept for a later version may take several.
    let offset: u64 = (run.ops.start..run.ops.start + from).map(|at| ops.span_of(at)).sum();
    let counter_start = run.counter_start + offset;
    let deps = match from {
        0 => run.deps.clone(),
        _ if rng.chance(50) => vec![],
        _ => vec![EventId::new(run.peer.as_str(), counter_start - 1)],
    };
    run.part(counter_start, run.lamport_start + offset, deps, run.ops.start + from..run.ops.start + to)
}
