//! Cutting the runs of a batch where the log's knowledge ends and where they overlap.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Admitted, EventView, Known, Part, digest, event_id, same_event};
use crate::error::{Error, Result};
use crate::id::{EventId, MAX_CLOCK};
use crate::wire::Batch;

/// Where each peer of the batch stands.
pub(super) struct Layout<'b> {
    peers: BTreeMap<&'b str, Peer>,
}

/// One peer of the batch.
#[derive(Default)]
struct Peer {
    /// Its runs that are not empty, by first counter.
    runs: Vec<(u64, usize)>,
    /// One past the last counter the log knows.
    known: u64,
    /// Its new parts, in [`Admitted::new`], rising without holes from `known`.
    new: Vec<usize>,
}

/// Where an event of the doc is to be found.
pub(super) enum Place {
    /// In the batch, with this lamport.
    New(u64),
    /// Nowhere but perhaps in the log.
    Elsewhere,
}

impl Layout<'_> {
    /// Where an event is.
    pub fn place(&self, admitted: &Admitted, id: &EventId) -> Place {
        let Some(peer) = self.peers.get(id.peer.as_str()) else { return Place::Elsewhere };
        let at = peer.new.partition_point(|&part| admitted.new[part].counters.end <= id.counter);
        match peer.new.get(at).map(|&part| &admitted.new[part]) {
            Some(part) if part.counters.contains(&id.counter) => {
                Place::New(part.lamport + (id.counter - part.counters.start))
            }
            _ => Place::Elsewhere,
        }
    }
}

/// Splits every run in what the log knows, what another run of the batch tells as well, and what is new.
pub(super) fn cut<'b>(batch: &'b Batch, log: &mut impl Known) -> Result<(Layout<'b>, Admitted)> {
    let mut peers: BTreeMap<&str, Peer> = BTreeMap::new();
    for (index, run) in batch.runs.iter().enumerate().filter(|(_, run)| !run.ops.is_empty()) {
        peers.entry(&run.peer).or_default().runs.push((run.counter_start, index));
    }
    let names: Vec<&str> = peers.keys().copied().collect();
    let known = log.next_counters(&names)?;
    let mut cutter = Cutter { batch, spans: spans_of(batch)?, admitted: Admitted::default() };
    for (name, known) in names.into_iter().zip(known) {
        let peer = peers.get_mut(name).expect("just listed");
        peer.known = known;
        peer.runs.sort_unstable();
        for at in 0..peer.runs.len() {
            let run = peer.runs[at].1;
            cutter.run(run, peer)?;
        }
    }
    Ok((Layout { peers }, cutter.admitted))
}

struct Cutter<'b> {
    batch: &'b Batch,
    spans: Vec<Spans>,
    admitted: Admitted,
}

impl Cutter<'_> {
    fn run(&mut self, run: usize, peer: &mut Peer) -> Result<()> {
        let start = self.batch.runs[run].counter_start;
        let end = start + self.spans[run].len();
        let next = peer.new.last().map_or(peer.known, |&part| self.admitted.new[part].counters.end);
        if start > next {
            return Err(Error::CounterGap { peer: self.batch.runs[run].peer.clone(), expected: next, got: start });
        }
        if start < peer.known {
            let known = self.part(run, start..end.min(peer.known))?;
            self.admitted.duplicate += known.counters.end - known.counters.start;
            self.admitted.known.push(known);
        }
        let repeated = start.max(peer.known)..end.min(next);
        if !repeated.is_empty() {
            self.admitted.duplicate += repeated.end - repeated.start;
            self.compare(run, repeated, peer)?;
        }
        let fresh = start.max(next)..end;
        if !fresh.is_empty() {
            self.admitted.accepted += fresh.end - fresh.start;
            peer.new.push(self.admitted.new.len());
            let part = self.part(run, fresh)?;
            self.admitted.new.push(part);
        }
        Ok(())
    }

    /// Compares events of a run with what earlier runs of the batch said of them.
    fn compare(&self, run: usize, again: Range<u64>, peer: &Peer) -> Result<()> {
        let first = peer.new.partition_point(|&part| self.admitted.new[part].counters.end <= again.start);
        for &at in &peer.new[first..] {
            let told = &self.admitted.new[at];
            let common = told.counters.start.max(again.start)..told.counters.end.min(again.end);
            if common.is_empty() {
                break;
            }
            let (a, b) = (self.part(told.run, common.clone())?, self.part(run, common.clone())?);
            for (x, y) in views(self.batch, &a).zip(views(self.batch, &b)) {
                if !same_event(&x, &y) {
                    let event = event_id(self.batch, run, y.counter);
                    return Err(Error::Equivocation { event, known: digest(&x), got: digest(&y) });
                }
            }
            if a.ops.len() != b.ops.len() {
                return Err(self.cut_within(run, common.start));
            }
        }
        Ok(())
    }

    /// The part of a run that holds these counters.
    fn part(&self, run: usize, counters: Range<u64>) -> Result<Part> {
        let head = &self.batch.runs[run];
        let op_at = |counter: u64| {
            let at = self.spans[run].op_at(counter - head.counter_start);
            at.map(|at| head.ops.start + at).ok_or_else(|| self.cut_within(run, counter))
        };
        let ops = op_at(counters.start)?..op_at(counters.end)?;
        let lamport = head.lamport_start + (counters.start - head.counter_start);
        Ok(Part { run, at_head: counters.start == head.counter_start, counters, ops, lamport })
    }

    /// Others know an event where this run is in the middle of an operation that takes several counters.
    fn cut_within(&self, run: usize, counter: u64) -> Error {
        Error::Equivocation { event: event_id(self.batch, run, counter), known: 0, got: 0 }
    }
}

/// How many counters the operations of a run take.
enum Spans {
    /// One each.
    Ones(u64),
    /// Their sums up to each operation, and to the end.
    Sums(Vec<u64>),
}

impl Spans {
    fn len(&self) -> u64 {
        match self {
            Spans::Ones(len) => *len,
            Spans::Sums(sums) => sums.last().copied().unwrap_or(0),
        }
    }

    /// The operation that begins at an offset, or one past the last at the end.
    fn op_at(&self, offset: u64) -> Option<usize> {
        match self {
            Spans::Ones(len) => (offset <= *len).then_some(offset as usize),
            Spans::Sums(sums) => sums.binary_search(&offset).ok(),
        }
    }
}

/// The spans of all runs. Errors: [`Error::ClockRange`] when counters or lamports leave 0 to 2^53-1.
fn spans_of(batch: &Batch) -> Result<Vec<Spans>> {
    let mut all = Vec::with_capacity(batch.runs.len());
    for run in &batch.runs {
        let spans = || run.ops.clone().map(|at| batch.ops.span_of(at));
        let sums = if spans().all(|span| span == 1) {
            Spans::Ones(run.ops.len() as u64)
        } else {
            let mut sums = vec![0u64];
            for span in spans() {
                let sum = sums.last().and_then(|sum| sum.checked_add(span)).filter(|_| span > 0);
                sums.push(sum.ok_or_else(|| Error::ClockRange { what: "span", value: span.to_string() })?);
            }
            Spans::Sums(sums)
        };
        for (what, start) in [("counter", run.counter_start), ("lamport", run.lamport_start)] {
            if start.checked_add(sums.len()).is_none_or(|end| end > MAX_CLOCK + 1) {
                return Err(Error::ClockRange { what, value: format!("{start} + {}", sums.len()) });
            }
        }
        all.push(sums);
    }
    Ok(all)
}

/// The events of a part, to be compared.
pub fn views<'b>(batch: &'b Batch, part: &Part) -> impl Iterator<Item = EventView<'b>> {
    let run = &batch.runs[part.run];
    let (mut counter, mut lamport) = (part.counters.start, part.lamport);
    part.ops.clone().map(move |at| {
        let op = batch.ops.get(at);
        let deps = (counter == run.counter_start).then_some(run.deps.as_slice());
        let view = EventView { peer: &run.peer, counter, lamport, op, deps: deps.unwrap_or_default() };
        counter += op.span();
        lamport += op.span();
        view
    })
}
