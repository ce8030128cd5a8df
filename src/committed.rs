//! The log as others may see it: what is committed for the statement's snapshot, without what this transaction wrote
//! itself. Ids of our own events come back when we are rolled back, so nobody is told of them before. Changes nothing,
//! neither on disk nor in shared memory, and so works on a standby.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use crdt_engine::EventId;
use crdt_engine::graph::{self, LocalId, PeerIdx, Runs};
use crdt_engine::wire::Versions;

use crate::catalog::{self, Table};
use crate::docstate;
use crate::error::{Error, Result, state};
use crate::flush;
use crate::pg::relation::{IndexScan, Lock, Relation, Snapshot};
use crate::pg::{entry, xact};
use crate::spans::{self, Order, Then};
use crate::store::{self, RunHead};

/// Runs that are read for a frontier which goes with something else: a page, an answer, a notification.
pub const HEAD_BUDGET: usize = 2_000;

/// A doc's log as the statement sees it.
pub struct Log {
    /// The doc.
    pub doc: i64,
    names: BTreeMap<i32, String>,
    numbers: BTreeMap<String, i32>,
    tails: OnceCell<Vec<RunHead>>,
}

/// Is this run of another transaction than ours?
pub fn is_committed(head: &RunHead) -> bool {
    !xact::is_own(head.txn, head.xmin)
}

impl Log {
    /// Reads who wrote in a doc. Errors with 42704 when there is no such doc.
    pub fn open(doc: i64) -> Result<Log> {
        catalog::doc(doc)?;
        let peers = store::peers(doc, Snapshot::Active)?;
        let numbers = peers.iter().map(|(number, name)| (name.clone(), *number)).collect();
        Ok(Log { doc, names: peers.into_iter().collect(), numbers, tails: OnceCell::new() })
    }

    /// Peers, in the order of their numbers. Some may have no committed event.
    pub fn peers(&self) -> impl Iterator<Item = (i32, &str)> {
        self.names.iter().map(|(number, name)| (*number, name.as_str()))
    }

    /// A peer's name.
    pub fn name(&self, peer: i32) -> Result<&str> {
        self.names.get(&peer).map(String::as_str).ok_or_else(|| {
            Error::new(
                state::CORRUPT,
                format!("the log of doc {} names peer {peer}, which crdt.peer does not have", self.doc),
            )
        })
    }

    /// A peer's number.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.numbers.get(name).copied()
    }

    /// An event by the name it has outside.
    pub fn event_id(&self, (peer, counter): (i32, u64)) -> Result<EventId> {
        Ok(EventId { peer: self.name(peer)?.to_owned(), counter })
    }

    /// The run that holds an event.
    pub fn run_at(&self, peer: i32, counter: u64) -> Result<Option<RunHead>> {
        Ok(store::run_at(self.doc, peer, counter, Snapshot::Active)?.filter(is_committed))
    }

    fn tails_of(&self, peers: impl Iterator<Item = i32>) -> Result<Vec<RunHead>> {
        store::committed_tails(self.doc, peers, Snapshot::Active)
    }

    /// Every peer's last run, by number. Read once: a doc may have thousands of peers.
    pub fn tails(&self) -> Result<&[RunHead]> {
        if let Some(tails) = self.tails.get() {
            return Ok(tails);
        }
        let tails = self.tails_of(self.names.keys().copied())?;
        Ok(self.tails.get_or_init(|| tails))
    }

    /// The version vector that tails amount to.
    pub fn versions(&self, tails: &[RunHead]) -> Result<Versions> {
        tails.iter().map(|t| Ok((self.name(t.peer)?.to_owned(), t.counter_end))).collect()
    }

    /// The heads of the graph, by number. Past `budget` runs read, tails that nothing was found to depend on count as
    /// heads: they span the same version.
    pub fn heads(&self, budget: usize) -> Result<Vec<LocalId>> {
        let mut heads = match self.remembered_heads()? {
            Some(heads) => heads,
            None => self.uncovered(budget)?,
        };
        heads.sort_unstable();
        Ok(heads)
    }

    /// What shared memory knows, if our snapshot sees all of it and the log shows nothing newer: a transaction that was
    /// prepared commits without telling anybody here.
    fn remembered_heads(&self) -> Result<Option<Vec<LocalId>>> {
        if xact::in_recovery() {
            return Ok(None);
        }
        let Some((heads, tails)) = docstate::peek(flush::doc_key(self.doc)) else { return Ok(None) };
        if !heads.iter().all(|h| xact::active_snapshot_sees(h.xid) && self.names.contains_key(&h.peer)) {
            return Ok(None);
        }
        let is_head = |run: &RunHead| heads.iter().any(|h| (h.peer, h.counter) == (run.peer, run.counter_end));
        if self.newest()?.is_some_and(|newest| !is_head(&newest)) {
            return Ok(None);
        }
        let slots = self.slots()?;
        let noted = |run: &RunHead| {
            let slot = slots.get(&run.peer).and_then(|slot| tails.get(*slot));
            slot.is_some_and(|tail| (tail.peer, tail.next) == (run.peer, run.counter_end + 1))
        };
        if self.tails_of(slots.keys().copied())?.iter().any(|run| !is_head(run) && !noted(run)) {
            return Ok(None);
        }
        for head in &heads {
            xact::flush_commit(head.xid);
        }
        Ok(Some(heads.iter().map(|h| local(h.peer, h.counter)).collect()))
    }

    /// The peers that have written plain SQL since the server started, each with its slot.
    fn slots(&self) -> Result<BTreeMap<i32, usize>> {
        let prefix = flush::own_prefix(self.doc)? + ":";
        let slot = |name: &str| name.strip_prefix(&prefix)?.parse().ok();
        Ok(self.peers().filter_map(|(peer, name)| Some((peer, slot(name)?))).collect())
    }

    /// The run that reaches the greatest lamport: nothing can depend on its last event.
    fn newest(&self) -> Result<Option<RunHead>> {
        let mut newest: Option<RunHead> = None;
        spans::each_run(self.doc, Snapshot::Active, -1, Order::Down, |span, row| {
            if newest.as_ref().is_some_and(|run| run.lamport_end >= span.lamport) {
                return Ok(Then::Stop);
            }
            let run = store::head_of(row)?;
            if !is_committed(&run) {
                return Ok(Then::Next);
            }
            if newest.as_ref().is_none_or(|newest| newest.lamport_end < run.lamport_end) {
                newest = Some(run);
            }
            Ok(Then::NextSpan)
        })?;
        Ok(newest)
    }

    /// The tails that no run depends on. What depends on a tail has a greater lamport and came soon after as a rule, so
    /// the log is read upwards from each tail until its cover is found.
    fn uncovered(&self, budget: usize) -> Result<Vec<LocalId>> {
        let mut tails: Vec<&RunHead> = self.tails()?.iter().collect();
        tails.sort_unstable_by_key(|t| t.lamport_end);
        flush_commits(&tails.iter().map(|t| t.xmin).collect());
        let mut open: FxHashMap<i32, u64> = FxHashMap::default();
        let mut waiting = tails.iter().peekable();
        let mut seen = 0;
        while let Some(first) = waiting.peek() {
            let above = first.lamport_end as i64;
            spans::each_run(self.doc, Snapshot::Active, above, Order::Up, |span, row| {
                let run = store::head_of(row)?;
                if !is_committed(&run) {
                    return Ok(Then::Next);
                }
                while let Some(tail) = waiting.next_if(|t| t.lamport_end < span.lamport) {
                    open.insert(tail.peer, tail.counter_end);
                }
                for (peer, counter) in run.deps {
                    if open.get(&peer).is_some_and(|c| *c <= counter) {
                        open.remove(&peer);
                    }
                }
                seen += 1;
                Ok(if open.is_empty() || seen > budget { Then::Stop } else { Then::Next })
            })?;
            if !open.is_empty() || seen > budget {
                break;
            }
            // Nothing above the first: it and those beside it at its lamport are heads.
            if waiting.peek().is_some_and(|t| t.lamport_end as i64 == above) {
                break;
            }
        }
        open.extend(waiting.map(|t| (t.peer, t.counter_end)));
        Ok(open.into_iter().map(|(peer, counter)| local(peer, counter)).collect())
    }

    /// Heads by their names outside, in the order of the names.
    pub fn frontier(&self, heads: &[LocalId]) -> Result<Vec<EventId>> {
        let ids = heads.iter().map(|h| self.event_id((h.peer.0 as i32, h.counter)));
        let mut ids = ids.collect::<Result<Vec<_>>>()?;
        ids.sort_unstable();
        Ok(ids)
    }
}

/// The docs that rows of a table may belong to.
pub fn docs_of(table: &Table) -> Result<Vec<i64>> {
    if let Some(doc) = table.doc {
        return Ok(vec![doc]);
    }
    let names = catalog::names()?;
    let rel = Relation::open(names.doc, Lock::AccessShare);
    let mut scan = IndexScan::new(&rel, names.doc_pkey, Snapshot::Active, &[], false);
    let mut docs = Vec::new();
    while let Some(row) = scan.next_row() {
        docs.push(row.i64(1));
    }
    Ok(docs)
}

/// An event as the engine's graph names it: by the peer's number in `crdt.peer`.
pub fn local(peer: i32, counter: u64) -> LocalId {
    LocalId { peer: PeerIdx(peer as u32), counter }
}

/// Makes sure that what is handed out survives a crash: whoever committed with `synchronous_commit` off did not wait.
pub fn flush_commits(xids: &FxHashSet<u32>) {
    for xid in xids {
        xact::flush_commit(*xid);
    }
}

/// The log as the engine's graph walks it: one index probe a step.
pub struct GraphRuns<'l> {
    log: &'l Log,
    /// The error of a probe, for which the engine has no name.
    failed: Option<Error>,
}

impl<'l> GraphRuns<'l> {
    /// Runs `walk` over the log.
    pub fn walk<R>(log: &'l Log, walk: impl FnOnce(&mut GraphRuns<'l>) -> crdt_engine::Result<R>) -> Result<R> {
        let mut runs = GraphRuns { log, failed: None };
        let result = walk(&mut runs);
        match runs.failed {
            Some(error) => Err(error),
            None => Ok(result?),
        }
    }
}

impl Runs for GraphRuns<'_> {
    fn run_at(&mut self, id: LocalId) -> crdt_engine::Result<Option<graph::RunHead>> {
        entry::check_interrupts();
        match self.log.run_at(id.peer.0 as i32, id.counter) {
            Ok(found) => Ok(found.map(|run| graph::RunHead {
                peer: id.peer,
                counter_start: run.counter_start,
                len: run.counter_end - run.counter_start + 1,
                lamport_start: run.lamport_start,
                deps: run.deps.iter().map(|(peer, counter)| local(*peer, *counter)).collect(),
            })),
            Err(error) => {
                self.failed = Some(error);
                Ok(None)
            }
        }
    }
}
