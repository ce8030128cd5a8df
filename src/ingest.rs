//! Events from outside into log and rows: the order of steps is the design's, section 7, and was model-checked.

use std::collections::{BTreeMap, BTreeSet};

use crdt_engine::OpRef;
use crdt_engine::admit::{self, Admitted, Clock, EventView, Known, Part, views};
use crdt_engine::id::EventId;
use crdt_engine::merge::Candidate;
use crdt_engine::oplog::Rows;
use crdt_engine::ops::OpBuf;
use crdt_engine::wire::Batch;
use xxhash_rust::xxh3::xxh3_64;

use crate::buffer;
use crate::catalog;
use crate::docstate::{self, Head};
use crate::error::{Error, Result, state};
use crate::flush;
use crate::materialize::{self, Outcome};
use crate::pg::lock::{self, Space};
use crate::pg::relation::Snapshot;
use crate::pg::{self, spi, xact};
use crate::store::{self, Author};

/// Stripes of row locks among pushes to one doc.
const STRIPES: u64 = 64;

/// Who brings the events, and what that allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A client: peers are owned, and none may be this database's own.
    Client,
    /// An administrator merging what another replica holds: any peer, also of this database's own name (a copy of it, or
    /// what it lost when it was set back), but those it writes as now.
    Merge,
    /// This database itself: a document function.
    Own,
}

/// What became of a batch.
#[derive(Default)]
pub struct Ingested {
    /// Events that were new.
    pub accepted: u64,
    /// Events that were known, with equal content.
    pub duplicate: u64,
    /// Merge operations that changed something, as JSON.
    pub merge_ops: Vec<String>,
    /// Last counters of the peers that events were accepted of.
    pub reached: BTreeMap<String, u64>,
    /// Deps of what was accepted.
    pub covered: Vec<EventId>,
}

/// Refuses what a push cannot run in.
pub fn check_transaction(function: &str) -> Result<()> {
    if xact::in_recovery() || xact::read_only() {
        return Err(Error::new(state::READ_ONLY, format!("cannot run {function} in a read-only transaction")));
    }
    if xact::repeatable_read() {
        return Err(Error::new(
            state::ACTIVE_TRANSACTION,
            format!("{function} needs READ COMMITTED: it must see what others commit while it waits for their rows"),
        )
        .hint("SET TRANSACTION ISOLATION LEVEL READ COMMITTED."));
    }
    Ok(())
}

/// The log as admission asks it.
struct Log {
    doc: i64,
    peers: BTreeMap<String, Option<i32>>,
}

impl Log {
    fn peer(&mut self, name: &str) -> Result<Option<i32>> {
        if let Some(known) = self.peers.get(name) {
            return Ok(*known);
        }
        let found = catalog::find_peer(self.doc, name)?;
        self.peers.insert(name.to_owned(), found);
        Ok(found)
    }

    fn next_counter(&mut self, name: &str) -> Result<u64> {
        Ok(match self.peer(name)? {
            Some(peer) => store::tail(self.doc, peer, Snapshot::Committed)?.map_or(0, |t| t.counter_end + 1),
            None => 0,
        })
    }

    fn lamport(&mut self, id: &EventId) -> Result<Option<u64>> {
        let Some(peer) = self.peer(&id.peer)? else { return Ok(None) };
        let run = store::run_at(self.doc, peer, id.counter, Snapshot::Committed)?;
        Ok(run.map(|r| r.lamport_start + (id.counter - r.counter_start)))
    }
}

/// Carries an error of the extension through an engine call.
struct Carried<'l> {
    log: &'l mut Log,
    error: Option<Error>,
}

impl Carried<'_> {
    fn keep<T>(&mut self, result: Result<T>) -> crdt_engine::Result<T> {
        result.map_err(|e| {
            let message = e.message.clone();
            self.error = Some(e);
            crdt_engine::Error::Malformed { at: "log".into(), what: message }
        })
    }
}

impl Known for Carried<'_> {
    fn next_counters(&mut self, peers: &[&str]) -> crdt_engine::Result<Vec<u64>> {
        let found = peers.iter().map(|p| self.log.next_counter(p)).collect();
        self.keep(found)
    }

    fn lamports(&mut self, ids: &[EventId]) -> crdt_engine::Result<Vec<Option<u64>>> {
        let found = ids.iter().map(|id| self.log.lamport(id)).collect();
        self.keep(found)
    }
}

fn admit(batch: &mut Batch, log: &mut Log, clock: Clock) -> Result<Admitted> {
    let mut carried = Carried { log, error: None };
    match admit::admit(batch, &mut carried, clock) {
        Ok(admitted) => Ok(admitted),
        Err(e) => Err(carried.error.unwrap_or_else(|| e.into())),
    }
}

/// Takes a batch into a doc: all or nothing.
pub fn ingest(doc: i64, mut batch: Batch, source: Source, want_ops: bool) -> Result<Ingested> {
    catalog::doc(doc)?;
    if source != Source::Own {
        // What this transaction wrote before takes part in the competition.
        buffer::flush_all()?;
    }
    let key = flush::doc_key(doc);
    if !docstate::known(key, 0).ready {
        flush::learn(doc)?;
    }
    let mut log = Log { doc, peers: BTreeMap::new() };
    let known = docstate::known(key, 0);
    let clock = Clock { greatest: known.committed_lamport.max(flush::own_lamport(doc)), events: known.events };
    let mut admitted = admit(&mut batch, &mut log, clock)?;
    check_peers(doc, &batch, &admitted, source, &mut log)?;
    if admitted.accepted == 0 {
        compare_known(&batch, &admitted, &mut log)?;
        return Ok(Ingested { duplicate: admitted.duplicate, ..Ingested::default() });
    }
    announce(doc, admitted.greatest_lamport)?;
    lock_stripes(doc, &batch, &admitted)?;
    lock_peers(doc, &batch, &admitted)?;
    // Somebody else may have pushed the same meanwhile: what depends on the log is asked again under the locks.
    log.peers.clear();
    if moved(&mut log, &batch, &admitted)? {
        admitted = admit(&mut batch, &mut log, clock)?;
        check_peers(doc, &batch, &admitted, source, &mut log)?;
    }
    compare_known(&batch, &admitted, &mut log)?;
    let outcome = materialize::merge_into_rows(doc, &batch, &admitted, want_ops)?;
    append(doc, &batch, &admitted, source, &mut log)?;
    materialize::append_derived(&outcome)?;
    xact::force_sync_commit();
    Ok(answer(&batch, &admitted, outcome))
}

fn answer(batch: &Batch, admitted: &Admitted, outcome: Outcome) -> Ingested {
    let mut reached = BTreeMap::new();
    let mut covered = Vec::new();
    for part in &admitted.new {
        let run = &batch.runs[part.run];
        let last = reached.entry(run.peer.clone()).or_insert(part.counters.end - 1);
        *last = (*last).max(part.counters.end - 1);
        if part.at_head {
            covered.extend_from_slice(&run.deps);
        }
    }
    Ingested {
        accepted: admitted.accepted,
        duplicate: admitted.duplicate,
        merge_ops: outcome.merge_ops,
        reached,
        covered,
    }
}

/// Ownership: the first accepted push binds a peer to its role; nobody pushes as a peer of this database.
fn check_peers(doc: i64, batch: &Batch, admitted: &Admitted, source: Source, log: &mut Log) -> Result<()> {
    if source == Source::Own {
        return Ok(());
    }
    let hub = catalog::doc(doc)?;
    let (base, present) = (format!("{}:", hub.peer), format!("{}:", flush::own_prefix(doc)?));
    let is_ours = |peer: &str| peer.starts_with(&base) || peer == hub.peer;
    // Nobody but another start of a server writes under another incarnation: what it wrote cannot meet ours.
    let is_elsewhere = |peer: &str| source == Source::Merge && hub.is_own_peer(peer) && !peer.starts_with(&present);
    let mut seen = BTreeSet::new();
    for part in &admitted.new {
        let peer = batch.runs[part.run].peer.as_str();
        if !seen.insert(peer) {
            continue;
        }
        if is_ours(peer) && !is_elsewhere(peer) {
            return Err(Error::new(
                state::PEER_RESERVED,
                format!("peer \"{peer}\" belongs to this database, event {} of it is new here", part.counters.start),
            )
            .hint(
                "A client writes under a peer_id of its own. What a copy of this database wrote, and what it lost when \
                 it was set back, comes in through crdt.doc_merge_remote.",
            ));
        }
        if source == Source::Client
            && let Some(number) = log.peer(peer)?
            && let Some(owner) = catalog::peer_owner(number)?
            && !spi::is_member_of(&owner)
        {
            return Err(Error::new(
                state::PEER_OWNED,
                format!("peer \"{peer}\" belongs to role \"{owner}\", not to \"{}\"", spi::current_user_name()),
            )
            .hint("Choose another peer_id: the first accepted push binds one to its role."));
        }
    }
    Ok(())
}

fn announce(doc: i64, lamport: u64) -> Result<()> {
    flush::set_pushed();
    if docstate::announce(flush::doc_key(doc), pg::process_id(), lamport) {
        return Ok(());
    }
    Err(Error::new(state::PUSHED_DOCS, "too many pushes are running at the same time").hint("Try again."))
}

fn lock_stripes(doc: i64, batch: &Batch, admitted: &Admitted) -> Result<()> {
    let mut wanted = [false; STRIPES as usize];
    for event in admitted.events(batch) {
        if let Some((tbl, row)) = event.op().row_key() {
            wanted[(store::row_hash(tbl, row) as u64 % STRIPES) as usize] = true;
        }
    }
    let class = store::lock_class()?;
    for (stripe, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
        lock::lock(class, doc as u32, Space::Stripe(stripe as u16));
    }
    Ok(())
}

fn lock_peers(doc: i64, batch: &Batch, admitted: &Admitted) -> Result<()> {
    let class = store::lock_class()?;
    let mut hashes: Vec<u32> = (admitted.new.iter())
        .map(|part| batch.runs[part.run].peer.as_str())
        .map(|peer| xxh3_64(format!("{doc}:{peer}").as_bytes()) as u32)
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    for hash in hashes {
        lock::lock(class, hash, Space::Peer);
    }
    Ok(())
}

/// Has the log moved under the new parts?
fn moved(log: &mut Log, batch: &Batch, admitted: &Admitted) -> Result<bool> {
    let mut least: BTreeMap<&str, u64> = BTreeMap::new();
    for part in &admitted.new {
        let first = least.entry(batch.runs[part.run].peer.as_str()).or_insert(u64::MAX);
        *first = (*first).min(part.counters.start);
    }
    for (peer, first) in least {
        if log.next_counter(peer)? != first {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Compares what the log holds already with what is told again: equal is fine, different is equivocation.
fn compare_known(batch: &Batch, admitted: &Admitted, log: &mut Log) -> Result<()> {
    for part in &admitted.known {
        compare_part(batch, part, log)?;
    }
    Ok(())
}

fn compare_part(batch: &Batch, part: &Part, log: &mut Log) -> Result<()> {
    let name = batch.runs[part.run].peer.as_str();
    let peer = log.peer(name)?.ok_or_else(|| unknown_peer(name))?;
    let mut told = views(batch, part).peekable();
    store::runs_from(log.doc, peer, part.counters.start, Snapshot::Committed, |head, bytes| {
        let mut ops = OpBuf::new();
        store::decode(&bytes, &mut ops)?;
        let deps = head.deps.iter().map(|(p, c)| Ok(EventId::new(catalog::peer_name(*p)?, *c)));
        let deps = deps.collect::<Result<Vec<_>>>()?;
        let (mut counter, mut lamport) = (head.counter_start, head.lamport_start);
        for (i, op) in ops.iter().enumerate() {
            let Some(view) = told.peek() else { return Ok(false) };
            if view.counter < counter {
                return Err(within_another(view));
            }
            if view.counter == counter {
                let deps: &[EventId] = if i == 0 { &deps } else { &[] };
                let stored = EventView { peer: name, counter, lamport, deps, op };
                check_same(view, &stored)?;
                told.next();
            }
            counter += op.span();
            lamport += op.span();
        }
        Ok(told.peek().is_some())
    })?;
    told.peek().map_or(Ok(()), |view| Err(within_another(view)))
}

/// What is told begins in the middle of a logged operation that takes several counters.
fn within_another(told: &EventView<'_>) -> Error {
    let event = EventId::new(told.peer, told.counter);
    crdt_engine::Error::Equivocation { event, known: 0, got: admit::digest(told) }.into()
}

fn unknown_peer(name: &str) -> Error {
    Error::new(state::CORRUPT, format!("peer \"{name}\" has events and no line in crdt.peer"))
}

fn check_same(told: &EventView<'_>, stored: &EventView<'_>) -> Result<()> {
    if admit::same_event(told, stored) {
        return Ok(());
    }
    let (known, got) = (admit::digest(stored), admit::digest(told));
    Err(crdt_engine::Error::Equivocation { event: EventId::new(told.peer, told.counter), known, got }.into())
}

/// Appends the new events as runs of their authors.
fn append(doc: i64, batch: &Batch, admitted: &Admitted, source: Source, log: &mut Log) -> Result<()> {
    let actor = spi::current_user_name();
    let owner = (source == Source::Client).then_some(&*actor);
    let mut by_peer: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    for part in &admitted.new {
        by_peer.entry(batch.runs[part.run].peer.as_str()).or_default().push(part);
    }
    // All peers first: events of one depend on events of another that is as new.
    for name in by_peer.keys() {
        if log.peer(name)?.is_none() {
            let peer = catalog::ensure_peer(doc, name, owner)?;
            log.peers.insert((*name).to_owned(), Some(peer));
        }
    }
    let (mut heads, mut covered) = (Vec::new(), Vec::new());
    for (name, parts) in &by_peer {
        let peer = log.peer(name)?.ok_or_else(|| unknown_peer(name))?;
        let author = Author { doc, peer, txn: xact::full_xid(), at: xact::started_at(), actor: &actor };
        let mut runs = Vec::new();
        for part in parts {
            encode_part(batch, part, log, &mut runs, &mut covered)?;
        }
        runs.sort_by_key(|r: &store::NewRun| r.counter_start);
        flush::append(&author, &runs)?;
        let last = runs.last().expect("a part has operations").counter_end;
        heads.push(Head { peer, xid: xact::xid_if_any(), counter: last });
    }
    flush::note_pushed(doc, admitted.greatest_lamport, admitted.accepted, &heads, &covered);
    mark_opaque(doc, batch, admitted)
}

fn encode_part(
    batch: &Batch,
    part: &Part,
    log: &mut Log,
    runs: &mut Vec<store::NewRun>,
    covered: &mut Vec<(i32, u64)>,
) -> Result<()> {
    let (mut counter, mut lamport, mut from) = (part.counters.start, part.lamport, part.ops.start);
    while from < part.ops.end {
        let to = store::cut(&batch.ops, from, part.ops.end);
        let mut run = store::encode(&batch.ops, from, to, counter, lamport)?;
        if part.at_head && from == part.ops.start {
            for dep in &batch.runs[part.run].deps {
                let peer = log.peer(&dep.peer)?.ok_or_else(|| unknown_peer(&dep.peer))?;
                run.deps.push((peer, dep.counter));
            }
            covered.extend_from_slice(&run.deps);
        }
        let span = run.counter_end - run.counter_start + 1;
        (counter, lamport, from) = (counter + span, lamport + span, to);
        runs.push(run);
    }
    Ok(())
}

/// Notes that a doc holds operations of a kind that is kept and not applied.
fn mark_opaque(doc: i64, batch: &Batch, admitted: &Admitted) -> Result<()> {
    let opaque = |event: Candidate<'_>| matches!(event.op(), OpRef::Opaque { kind, .. } if kind != 0);
    if !admitted.events(batch).any(opaque) {
        return Ok(());
    }
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            let sql = "UPDATE crdt.doc SET opaque_ops = true WHERE doc = $1 AND NOT opaque_ops";
            c.run(sql, &[spi::Param::i64(doc)], false).map(|_| ())
        })
    })
}

/// New events by row.
pub fn rows_of<'b>(batch: &'b Batch, admitted: &'b Admitted) -> Rows<'b> {
    Rows::group(admitted.events(batch))
}
