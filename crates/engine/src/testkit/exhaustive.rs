//! A model so small that everything can be tried: a few operations on one row by up to three authors, everything an author
//! can have known when it wrote, every order in which they can arrive, every cut of that order into deliveries.
//!
//! Nothing is tried twice, and nothing else is left out. Authors are not interchangeable, since names decide ties; so this
//! is all that is the same:
//!
//! * A history is a set of events, and all that is sent of an event follows from its author, counter, kind and what its
//!   author had seen. So of the lists that an event may stand anywhere in after what it has seen, one is tried: [`Event::first`].
//! * A log only grows, a delivery sees nothing of a reader but its log and its tables, and tables are compared after each
//!   delivery. So once two readers have appended the same events in the same order they are the same to whatever follows,
//!   and one of them goes on.
//! * A hub that was pushed the same events in the same order is the same whoever pulled from it in between: it is made
//!   once, with all its readers beside it.

use std::collections::BTreeSet;

use crate::admit::{Clock, admit};
use crate::id::{Dot, EventId, MAX_CLOCK};
use crate::oplog::Oplog;
use crate::ops::{OpBuf, Origin};
use crate::replica::{NoHooks, Replica, Tables};
use crate::testkit::{Will, oracle};
use crate::value::ValueRef;
use crate::wire::{Batch, Run, Versions};

/// The authors. Names decide ties, so the first writer is each of them in turn.
const AUTHORS: [&str; 3] = ["b", "a", "c"];
/// What an author can do to the row.
const KINDS: [Kind; 4] = [Kind::Insert, Kind::UpdateX, Kind::UpdateY, Kind::Delete];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Insert,
    UpdateX,
    UpdateY,
    Delete,
}

/// One event of a history: who did what, having seen which of the earlier ones (a set of bits).
#[derive(Clone, Copy, Debug)]
struct Event {
    author: usize,
    kind: Kind,
    seen: usize,
}

impl Event {
    /// Whether, of the lists of one set of events, the history goes on with this one in the first: the one that always
    /// takes the least author among those whose next event has all that it has seen before it.
    fn first(&self, history: &[Event]) -> bool {
        let ready_from = (usize::BITS - self.seen.leading_zeros()) as usize;
        history[ready_from..].iter().all(|other| other.author < self.author)
    }
}

/// How much was tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Tried {
    pub histories: u64,
    pub orders: u64,
    pub deliveries: u64,
}

/// All histories of a number of operations.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// How many operations, up to 6.
    pub operations: usize,
    /// Histories are numbered, and every so many-eth is tried: 1 for all.
    pub stride: u64,
    /// The number of the first one that is tried.
    pub first: u64,
}

impl Model {
    /// Tries them all. An error names the history and the order.
    pub fn check(&self) -> Result<Tried, String> {
        let mut tried = Tried::default();
        let (mut number, mut history) = (0, vec![]);
        self.extend(&mut history, &mut number, &mut tried)?;
        Ok(tried)
    }

    /// Every history that begins with this one.
    fn extend(&self, history: &mut Vec<Event>, number: &mut u64, tried: &mut Tried) -> Result<(), String> {
        if history.len() == self.operations {
            *number += 1;
            return match *number > self.first && (*number - 1 - self.first).is_multiple_of(self.stride) {
                true => Trial::new(history).run(tried).map_err(|what| format!("{history:?}: {what}")),
                false => Ok(()),
            };
        }
        for author in 0..AUTHORS.len() {
            for seen in 0..1 << history.len() {
                if closed(history, author, seen) {
                    for event in KINDS.map(|kind| Event { author, kind, seen }) {
                        if event.first(history) {
                            history.push(event);
                            self.extend(history, number, tried)?;
                            history.pop();
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether somebody can know exactly this: with each event what its author knew, and all of one's own.
fn closed(history: &[Event], author: usize, seen: usize) -> bool {
    history.iter().enumerate().all(|(at, event)| match seen >> at & 1 {
        0 => event.author != author,
        _ => event.seen & !seen == 0,
    })
}

/// One history, as runs of one event each.
struct Trial {
    seen: Vec<usize>,
    events: Vec<Batch>,
}

impl Trial {
    fn new(history: &[Event]) -> Self {
        let mut lamports: Vec<u64> = vec![];
        let mut ids: Vec<EventId> = vec![];
        let mut events = vec![];
        for (at, event) in history.iter().enumerate() {
            let past = (0..at).filter(|other| event.seen >> other & 1 == 1);
            lamports.push(past.clone().map(|other| lamports[other]).max().unwrap_or(0) + 1);
            let counter = history[..at].iter().filter(|other| other.author == event.author).count() as u64;
            let id = EventId::new(AUTHORS[event.author], counter);
            let mut deps: Vec<EventId> = past.map(|other| ids[other].clone()).collect();
            deps.sort();
            let run = Run {
                peer: id.peer.clone(),
                counter_start: counter,
                lamport_start: lamports[at],
                deps,
                ops: 0..1,
                ..Run::default()
            };
            ids.push(id);
            let value = 10 * (100 * event.author as i64 + counter as i64);
            events.push(Batch { ops: operation(event.kind, value), runs: vec![run] });
        }
        Trial { seen: history.iter().map(|event| event.seen).collect(), events }
    }

    /// Every order, every cut.
    fn run(&self, tried: &mut Tried) -> Result<(), String> {
        tried.histories += 1;
        let right: Vec<Option<Tables>> = vec![None; 1 << self.events.len()];
        let mut step = Step { trial: self, right, gone_on: BTreeSet::new(), tried };
        step.deliver(&Replica::new("reader"), &mut vec![])?;
        step.derive(&Replica::with_hooks("hub", Will::Hub(1)), &[Replica::new("late")], &mut vec![])
    }

    fn batch(&self, order: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for &at in order {
            let from = batch.ops.len();
            self.events[at].ops.iter().for_each(|op| batch.ops.push(op).expect("small"));
            batch.runs.push(Run { ops: from..from + 1, ..self.events[at].runs[0].clone() });
        }
        batch
    }

    /// The events of a reader's log, in its order.
    fn appended(&self, reader: &Replica<NoHooks>) -> Vec<usize> {
        let is = |at: &usize, dot: Dot<'_>| {
            let run = &self.events[*at].runs[0];
            (run.peer.as_str(), run.counter_start) == (dot.peer, dot.counter)
        };
        let index = |dot| (0..self.events.len()).find(|at| is(at, dot)).expect("an event of the history");
        reader.log().events().map(|event| index(event.dot)).collect()
    }

    /// The ways to go on from a set of events: any number of further ones, in any order in which parents come first.
    fn ready(&self, known: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.events.len()).filter(move |&at| known >> at & 1 == 0 && self.seen[at] & !known == 0)
    }
}

fn operation(kind: Kind, value: i64) -> OpBuf {
    let mut ops = OpBuf::new();
    let (tbl, x, y) = (ops.sym("t"), ops.sym("x"), ops.sym("y"));
    match kind {
        Kind::Insert => ops.insert(tbl, "1").and_then(|()| ops.cell(x, ValueRef::Int(value))),
        Kind::UpdateX => ops.update(tbl, "1", x, ValueRef::Int(value), Origin::Explicit),
        Kind::UpdateY => ops.update(tbl, "1", y, ValueRef::Int(value), Origin::Explicit),
        Kind::Delete => ops.delete(tbl, "1"),
    }
    .expect("small");
    ops
}

struct Step<'t> {
    trial: &'t Trial,
    /// By set of events, what must be shown.
    right: Vec<Option<Tables>>,
    /// In which orders readers have appended events and were given more.
    gone_on: BTreeSet<Vec<usize>>,
    tried: &'t mut Tried,
}

impl Step<'_> {
    /// A reader is given the rest: the next delivery is one event or several, in every order.
    fn deliver(&mut self, reader: &Replica<NoHooks>, order: &mut Vec<usize>) -> Result<(), String> {
        let known = bits(order);
        if order.len() == self.trial.events.len() {
            self.tried.orders += 1;
            return Ok(());
        }
        let delivered = order.len();
        self.choose(known, order, &mut |step, order| {
            let mut next = reader.clone();
            next.pull_in(step.trial.batch(&order[delivered..])).map_err(|error| format!("{order:?}: {error}"))?;
            step.tried.deliveries += 1;
            let right = step.right(bits(order));
            if next.tables() != right {
                return Err(format!("after {order:?} shown {:?}, right {right:?}", next.tables()));
            }
            match step.gone_on.insert(step.trial.appended(&next)) {
                true => step.deliver(&next, order),
                false => Ok(()),
            }
        })
    }

    /// Calls `then` with every non-empty sequence of further events.
    fn choose(
        &mut self,
        known: usize,
        order: &mut Vec<usize>,
        then: &mut impl FnMut(&mut Self, &mut Vec<usize>) -> Result<(), String>,
    ) -> Result<(), String> {
        let ready: Vec<usize> = self.trial.ready(known).collect();
        for at in ready {
            order.push(at);
            then(self, order)?;
            self.choose(known | 1 << at, order, then)?;
            order.pop();
        }
        Ok(())
    }

    /// A hub whose table has a will is pushed one event at a time; each reader pulls after it, or not yet.
    fn derive(
        &mut self,
        hub: &Replica<Will>,
        readers: &[Replica<NoHooks>],
        order: &mut Vec<usize>,
    ) -> Result<(), String> {
        if order.len() == self.trial.events.len() {
            return readers.iter().try_for_each(|reader| same(&pulled(hub, reader)?, hub, order));
        }
        let ready: Vec<usize> = self.trial.ready(bits(order)).collect();
        for at in ready {
            order.push(at);
            let mut next = hub.clone();
            next.apply(self.trial.batch(&[at])).map_err(|error| format!("hub, {order:?}: {error}"))?;
            self.tried.deliveries += 1;
            let log = oracle::log_of(next.pull(&Versions::new(), usize::MAX).expect("small").batch)?;
            if *next.tables() != oracle::tables_of(&log) {
                return Err(format!("after {order:?} the hub shows {:?}, its log stands for otherwise", next.tables()));
            }
            let mut all = readers.to_vec();
            for reader in readers {
                let told = pulled(&next, reader)?;
                same(&told, &next, order)?;
                if !all.iter().any(|other| same_log(other, &told)) {
                    all.push(told);
                }
            }
            self.derive(&next, &all, order)?;
            order.pop();
        }
        Ok(())
    }

    /// What a set of events stands for.
    fn right(&mut self, known: usize) -> &Tables {
        let trial = self.trial;
        self.right[known].get_or_insert_with(|| {
            let order: Vec<usize> = (0..trial.events.len()).filter(|at| known >> at & 1 == 1).collect();
            let (mut batch, mut log) = (trial.batch(&order), Oplog::new());
            let clock = Clock { greatest: MAX_CLOCK, events: 0 };
            let admitted = admit(&mut batch, &mut &log, clock).expect("a sound history");
            log.append(&batch, &admitted).expect("small");
            oracle::tables_of(&log)
        })
    }
}

fn bits(order: &[usize]) -> usize {
    order.iter().fold(0, |bits, at| bits | 1 << at)
}

/// A reader that has pulled all of a hub.
fn pulled(hub: &Replica<Will>, reader: &Replica<NoHooks>) -> Result<Replica<NoHooks>, String> {
    let mut reader = reader.clone();
    let page = hub.pull(&reader.versions(), usize::MAX).map_err(|error| error.to_string())?;
    reader.pull_in(page.batch).map_err(|error| format!("a reader refused the hub's page: {error}"))?;
    Ok(reader)
}

fn same(reader: &Replica<NoHooks>, hub: &Replica<Will>, order: &[usize]) -> Result<(), String> {
    match reader.tables() == hub.tables() {
        true => Ok(()),
        false => Err(format!("after {order:?} a reader shows {:?}, the hub {:?}", reader.tables(), hub.tables())),
    }
}

/// The same events in the same order.
fn same_log(one: &Replica<NoHooks>, two: &Replica<NoHooks>) -> bool {
    one.log().events().map(|event| event.dot).eq(two.log().events().map(|event| event.dot))
}
