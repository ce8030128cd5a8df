//! Runs above a version, oldest first, in pages of whole transactions.
//!
//! Peers are merged by the lamport of their next event. Only a run's first event has parents outside, and they, and what
//! derived updates of the run name, have smaller lamports than it: so whatever is cut off at any point, these have come
//! before. What must not be cut is a transaction: runs of one peer with equal `txn`. One with several runs is delivered
//! with whatever its later runs depend on and name, and that with the rest of its transactions ([`Pager::unit`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use rustc_hash::{FxHashMap, FxHashSet};

use crdt_engine::wire::Run;
use crdt_engine::{EventId, codec};

use crate::catalog;
use crate::committed::{self, Log};
use crate::error::{Error, Result, state};
use crate::pg::entry;
use crate::pg::relation::{Cmp, Field, IndexScan, Lock, Relation, Row, Snapshot};
use crate::store::{self, RunHead};

/// Index scans kept open; more peers than that are read with a new scan each time their turn comes.
const OPEN_SCANS: usize = 16;

/// Where runs go.
pub trait Sink {
    /// Takes a run. `skip` counters of it are known to the reader; `next` is the position after it.
    fn run(&mut self, run: Run, skip: u64, next: Position, ops: &[u8]) -> Result<()>;
    /// Bytes taken so far, in whatever form.
    fn bytes(&self) -> usize;
}

/// A peer's next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its counter.
    pub counter: u64,
    /// The lamport it has if nothing came in between.
    pub lamport: u64,
}

/// How much a page holds. A whole transaction always fits.
pub struct PageLimit {
    /// Operations at most.
    pub ops: u64,
    /// Nothing is added after this many bytes.
    pub bytes: usize,
}

/// What a page reached.
pub struct Reached {
    /// Per peer the last counter delivered.
    pub counters: FxHashMap<i32, u64>,
    /// There is more.
    pub has_more: bool,
}

/// Where the reading of one peer stands.
struct Cursor {
    /// The next run, if there is one.
    head: Option<RunHead>,
    /// First counter of it that is wanted.
    from: u64,
}

impl Cursor {
    fn lamport(&self) -> Option<u64> {
        self.head.as_ref().map(|h| h.lamport_start + (self.from - h.counter_start))
    }
}

struct Pager<'p> {
    log: &'p Log,
    rel: &'p Relation,
    cursors: Vec<Cursor>,
    /// Which cursor is a peer's.
    index: FxHashMap<i32, usize>,
    /// Cursors by the lamport of their next event. Entries of cursors that have moved on are passed over.
    queue: BinaryHeap<Reverse<(u64, usize)>>,
    scans: VecDeque<(usize, IndexScan<'p>)>,
    reached: FxHashMap<i32, u64>,
    commits: FxHashSet<u32>,
    ops: u64,
}

/// What must be delivered together.
#[derive(Default)]
struct Unit {
    /// Per cursor the last counter that belongs to it.
    targets: FxHashMap<usize, u64>,
    /// Operations in all.
    ops: u64,
}

/// Delivers a page of what `wanted` names: peers, each from a counter on. Whoever asks must hold what lies below.
pub fn page(
    log: &Log,
    wanted: impl Iterator<Item = (i32, u64)>,
    limit: &PageLimit,
    sink: &mut dyn Sink,
) -> Result<Reached> {
    let rel = Relation::open(catalog::names()?.run, Lock::AccessShare);
    let mut pager = Pager {
        log,
        rel: &rel,
        cursors: Vec::new(),
        index: FxHashMap::default(),
        queue: BinaryHeap::new(),
        scans: VecDeque::new(),
        reached: FxHashMap::default(),
        commits: FxHashSet::default(),
        ops: 0,
    };
    for (peer, from) in wanted {
        pager.start(peer, from)?;
    }
    let has_more = pager.fill(limit, sink)?;
    // Whoever is told of a commit may build on it.
    committed::flush_commits(&pager.commits);
    Ok(Reached { counters: pager.reached, has_more })
}

impl<'p> Pager<'p> {
    /// Makes a peer's cursor if it has anything. Counters have no holes: the last run that starts at or below `from`
    /// reaches `from`, or nothing does.
    fn start(&mut self, peer: i32, from: u64) -> Result<()> {
        entry::check_interrupts();
        if let Some(head) = self.log.run_at(peer, from)? {
            let i = self.cursors.len();
            self.index.insert(peer, i);
            self.cursors.push(Cursor { head: Some(head), from });
            self.enqueue(i);
        }
        Ok(())
    }

    fn enqueue(&mut self, i: usize) {
        if let Some(lamport) = self.cursors[i].lamport() {
            self.queue.push(Reverse((lamport, i)));
        }
    }

    /// The cursor whose turn it is.
    fn next(&mut self) -> Option<usize> {
        while let Some(Reverse((lamport, i))) = self.queue.pop() {
            if self.cursors[i].lamport() == Some(lamport) {
                return Some(i);
            }
        }
        None
    }

    /// Delivers unit after unit; is there more?
    fn fill(&mut self, limit: &PageLimit, sink: &mut dyn Sink) -> Result<bool> {
        while let Some(i) = self.next() {
            let full = self.ops >= limit.ops || sink.bytes() >= limit.bytes;
            if full && !self.reached.is_empty() {
                return Ok(true);
            }
            let (run, from, ops) = self.take(i)?;
            let unit = self.unit(i, &run)?;
            let size = run.counter_end - from + 1 + unit.ops;
            if !self.reached.is_empty() && self.ops.saturating_add(size) > limit.ops {
                return Ok(true);
            }
            self.send(run, from, &ops, sink)?;
            self.complete(&unit, sink)?;
            self.enqueue(i);
        }
        Ok(false)
    }

    /// A cursor's run with its first wanted counter and its operations; the cursor moves on.
    fn take(&mut self, i: usize) -> Result<(RunHead, u64, Vec<u8>)> {
        entry::check_interrupts();
        let cursor = &mut self.cursors[i];
        let (run, from) = (cursor.head.take().expect("a cursor with a run"), cursor.from);
        let mut scan = match self.scans.iter().position(|(of, _)| *of == i) {
            Some(at) => self.scans.remove(at).expect("just found").1,
            None => self.open(&run)?,
        };
        let ops = scan.current().bytes(11).unwrap_or_default();
        if let Some(row) = scan.next_row() {
            let head = store::head_of(&row)?;
            if committed::is_committed(&head) {
                let cursor = &mut self.cursors[i];
                cursor.from = head.counter_start;
                cursor.head = Some(head);
                if self.scans.len() == OPEN_SCANS {
                    self.scans.pop_front();
                }
                self.scans.push_back((i, scan));
            }
        }
        Ok((run, from, ops))
    }

    /// A scan that stands on a run.
    fn open(&self, run: &RunHead) -> Result<IndexScan<'p>> {
        let mut scan = self.scan(run.peer, run.counter_start)?;
        let found = scan.next_row().is_some_and(|row| row.i64(3) as u64 == run.counter_start);
        if !found {
            let what = format!("run {} of peer {} has gone from crdt.event_run", run.counter_start, run.peer);
            return Err(Error::new(state::CORRUPT, what));
        }
        Ok(scan)
    }

    fn scan(&self, peer: i32, counter_start: u64) -> Result<IndexScan<'p>> {
        let keys = [
            (1, Cmp::Eq, Field::I64(self.log.doc)),
            (2, Cmp::Eq, Field::I32(peer)),
            (3, Cmp::Ge, Field::I64(counter_start as i64)),
        ];
        Ok(IndexScan::new(self.rel, catalog::names()?.run_pkey, Snapshot::Active, &keys, false))
    }

    /// What must be delivered after `run`, which its cursor has passed: the rest of its transaction, what that depends
    /// on and names, the rest of the transactions that is in, and so on.
    fn unit(&self, i: usize, run: &RunHead) -> Result<Unit> {
        let mut unit = Unit::default();
        if self.cursors[i].head.as_ref().is_none_or(|next| !next.is_of_unit(run)) {
            return Ok(unit);
        }
        let mut wanted = vec![(i, run.counter_end + 1)];
        while let Some((i, counter)) = wanted.pop() {
            self.extend(&mut unit, i, counter, &mut wanted)?;
        }
        Ok(unit)
    }

    /// Adds a cursor's runs to a unit, up to the end of the transaction that holds `counter`.
    fn extend(&self, unit: &mut Unit, i: usize, counter: u64, wanted: &mut Vec<(usize, u64)>) -> Result<()> {
        let Some(head) = &self.cursors[i].head else { return Ok(()) };
        let (start, from) = match unit.targets.get(&i) {
            Some(end) => (end + 1, end + 1),
            None => (head.counter_start, self.cursors[i].from),
        };
        if counter < from {
            return Ok(());
        }
        let mut last: Option<RunHead> = None;
        let mut scan = self.scan(head.peer, start)?;
        while let Some(row) = scan.next_row() {
            entry::check_interrupts();
            let run = store::head_of(&row)?;
            let done = last.is_some_and(|l| l.counter_end >= counter && !l.is_of_unit(&run));
            if done || !committed::is_committed(&run) {
                break;
            }
            unit.ops += run.counter_end - run.counter_start.max(from) + 1;
            unit.targets.insert(i, run.counter_end);
            if run.counter_start >= from {
                wanted.extend(run.deps.iter().filter_map(|(peer, c)| Some((*self.index.get(peer)?, *c))));
                wanted.extend(self.roots(&row)?);
            }
            last = Some(run);
        }
        Ok(())
    }

    /// What derived updates of a run name, as cursors and counters: a run need not depend on it.
    fn roots(&self, row: &Row<'_>) -> Result<Vec<(usize, u64)>> {
        // Nobody else's events are wanted, and a peer's own come in their order: its operations need not be read twice.
        if self.cursors.len() == 1 {
            return Ok(Vec::new());
        }
        let read = |ops: &[u8]| codec::roots(ops, &store::stored_limits());
        let roots = store::as_stored(row.with_bytes(11, read).unwrap_or_else(|| Ok(Vec::new())))?;
        let cursor = |root: EventId| Some((*self.index.get(&self.log.number(&root.peer)?)?, root.counter));
        Ok(roots.into_iter().filter_map(cursor).collect())
    }

    /// Delivers a unit's runs, oldest first.
    fn complete(&mut self, unit: &Unit, sink: &mut dyn Sink) -> Result<()> {
        loop {
            let due = unit.targets.iter().filter_map(|(&i, end)| {
                let head = self.cursors[i].head.as_ref().filter(|h| h.counter_start <= *end)?;
                Some((head.lamport_start, i))
            });
            let Some((_, i)) = due.min() else { break };
            let (run, from, ops) = self.take(i)?;
            self.send(run, from, &ops, sink)?;
        }
        for &i in unit.targets.keys() {
            self.enqueue(i);
        }
        Ok(())
    }

    fn send(&mut self, run: RunHead, from: u64, ops: &[u8], sink: &mut dyn Sink) -> Result<()> {
        let deps = run.deps.iter().map(|dep| self.log.event_id(*dep)).collect::<Result<Vec<_>>>()?;
        let told = Run {
            peer: self.log.name(run.peer)?.to_owned(),
            counter_start: run.counter_start,
            lamport_start: run.lamport_start,
            deps,
            ..Run::default()
        };
        let next = Position { counter: run.counter_end + 1, lamport: run.lamport_end + 1 };
        sink.run(told, from - run.counter_start, next, ops)?;
        self.ops += run.counter_end - from + 1;
        self.reached.insert(run.peer, run.counter_end);
        self.commits.insert(run.xmin);
        Ok(())
    }
}
