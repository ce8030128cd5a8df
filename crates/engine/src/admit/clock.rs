//! Time: lamports above those of parents and roots, and not too far ahead.

use super::parts::{Layout, Place};
use super::{Admitted, Clock, Known, event_id};
use crate::error::{Error, Result};
use crate::id::EventId;
use crate::ops::{OpRef, Origin};
use crate::planted::{self, Bug};
use crate::wire::Batch;

/// Lamports of every event that the batch's new events name.
pub(super) struct Lamports<'l, 'b> {
    layout: &'l Layout<'b>,
    /// What the log answered, by id.
    logged: Vec<(EventId, u64)>,
}

impl<'l, 'b> Lamports<'l, 'b> {
    /// Asks the log, once, for what the batch does not tell itself.
    pub fn ask(batch: &Batch, layout: &'l Layout<'b>, admitted: &Admitted, log: &mut impl Known) -> Result<Self> {
        let mut wanted: Vec<EventId> = vec![];
        for part in &admitted.new {
            let elsewhere = |id: &EventId| matches!(layout.place(admitted, id), Place::Elsewhere);
            let deps = if part.at_head { batch.runs[part.run].deps.as_slice() } else { &[] };
            let roots = part.ops.clone().filter_map(|at| batch.ops.named(at)).map(|root| &root.id);
            wanted.extend(previous(batch, part).filter(elsewhere));
            wanted.extend(deps.iter().chain(roots).filter(|id| elsewhere(id)).cloned());
        }
        wanted.sort_unstable();
        wanted.dedup();
        let found = log.lamports(&wanted)?;
        let logged = wanted.into_iter().zip(found).filter_map(|(id, lamport)| Some((id, lamport?))).collect();
        Ok(Lamports { layout, logged })
    }

    fn get(&self, admitted: &Admitted, id: &EventId) -> Option<u64> {
        match self.layout.place(admitted, id) {
            Place::New(lamport) => Some(lamport),
            Place::Elsewhere => {
                let at = self.logged.binary_search_by(|(logged, _)| logged.cmp(id)).ok()?;
                Some(self.logged[at].1)
            }
        }
    }
}

/// The peer's event before a part.
fn previous(batch: &Batch, part: &super::Part) -> Option<EventId> {
    part.counters.start.checked_sub(1).map(|counter| event_id(batch, part.run, counter))
}

/// Every new event is later than what it was made on top of.
pub(super) fn check_parents(batch: &Batch, admitted: &Admitted, lamports: &Lamports<'_, '_>) -> Result<()> {
    for part in &admitted.new {
        let run = &batch.runs[part.run];
        let event = || event_id(batch, part.run, part.counters.start);
        let deps = if part.at_head { run.deps.as_slice() } else { &[] };
        for parent in deps.iter().chain(previous(batch, part).as_ref()) {
            if parent.peer == run.peer && parent.counter >= part.counters.start {
                return Err(Error::SelfDep { event: event(), dep: parent.clone() });
            }
            let Some(parent_lamport) = lamports.get(admitted, parent) else {
                return Err(Error::UnknownDep { event: event(), dep: parent.clone() });
            };
            if parent_lamport >= part.lamport {
                let (event, lamport, parent) = (event(), part.lamport, parent.clone());
                return Err(Error::LamportOrder { event, lamport, parent, parent_lamport });
            }
        }
    }
    Ok(())
}

/// No new event is further ahead than an honest clock.
pub(super) fn check_bound(batch: &Batch, admitted: &mut Admitted, clock: Clock) -> Result<()> {
    // Operations, not counters: one that takes 2^53 of them would end the doc's clock at once.
    let pushed = admitted.new.iter().map(|part| part.ops.len() as u64).sum();
    let bound = clock.bound(pushed);
    for part in &admitted.new {
        let lamport = part.lamport + (part.counters.end - part.counters.start - 1);
        if lamport > bound {
            let event = event_id(batch, part.run, part.counters.end - 1);
            return Err(Error::LamportBound { event, lamport, bound });
        }
        admitted.greatest_lamport = admitted.greatest_lamport.max(lamport);
    }
    Ok(())
}

/// The lamports of the events that derived updates name, by operation, in rising order; and L.
///
/// They must be older than the first event of the run, as deps are: then whoever delivers runs by the lamports of their
/// first events has delivered what they name. A hub writes what it derives after all it derives from, in runs of its own.
pub(super) fn find_roots(
    batch: &Batch,
    admitted: &mut Admitted,
    lamports: &Lamports<'_, '_>,
) -> Result<Vec<(usize, u64)>> {
    let mut roots = vec![];
    let mut least = u64::MAX;
    for part in &admitted.new {
        let (mut counter, mut lamport) = (part.counters.start, part.lamport);
        for at in part.ops.clone() {
            let mut effective = lamport;
            if let Some(root) = batch.ops.named(at) {
                let event = || event_id(batch, part.run, counter);
                let Some(found) = lamports.get(admitted, &root.id) else {
                    return Err(Error::UnknownRoot { event: event(), root: root.id.clone() });
                };
                if found >= part.lamport || root.lamport.is_some_and(|said| said != found) {
                    let (lamport, root) = (part.lamport, root.id.clone());
                    return Err(Error::RootOrder { event: event(), lamport, root, root_lamport: found });
                }
                if matches!(batch.ops.get(at), OpRef::Update { origin: Origin::Rewrite(_), .. })
                    && !planted::is(Bug::WindowByOwnLamport)
                {
                    effective = found;
                }
                roots.push((at, found));
            }
            least = least.min(effective);
            let span = batch.ops.span_of(at);
            counter += span;
            lamport += span;
        }
    }
    admitted.least_effective = least;
    roots.sort_unstable();
    Ok(roots)
}
