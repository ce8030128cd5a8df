//! The log in its tables: runs, and which runs touch which rows.

use std::cell::RefCell;
use std::ops::Range;

use pgrx::pg_sys::Oid;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crdt_engine::codec::{self, RowSet};
use crdt_engine::ops::OpBuf;
use crdt_engine::{Limits, alloc};

use crate::catalog::{self, Names};
use crate::docstate::Head;
use crate::error::{Error, Result, state};
use crate::pg::relation::{self, Cmp, Field, IndexScan, Inserter, Lock, Relation, Snapshot};
use crate::pg::toast::{Starts, Toast};
use crate::pg::{entry, xact};
use crate::spans::{self, Order, Span, Then};
use crate::{key_search, keys, tail};

/// A run is cut at this many operations: decoding a run to find one row stays cheap.
pub const RUN_OPS: usize = 512;
/// And at this many bytes of memory.
const RUN_BYTES: usize = 1 << 20;
/// Runs read while heads are looked for after a start; tails older than that count as covered.
const HEAD_SCAN_RUNS: usize = 20_000;

thread_local! {
    static ENCODER: RefCell<codec::Encoder> = RefCell::default();
}

/// A run about to be appended.
pub struct NewRun {
    pub counter_start: u64,
    pub counter_end: u64,
    pub lamport_start: u64,
    pub deps: Vec<(i32, u64)>,
    pub ops: Vec<u8>,
    /// The keys of the rows it touches, each once: [`keys::of_ops`].
    pub keys: Vec<i64>,
}

impl NewRun {
    /// The lamport of the last event.
    pub fn lamport_end(&self) -> u64 {
        self.lamport_start + (self.counter_end - self.counter_start)
    }
}

/// Who writes, and when.
pub struct Author<'a> {
    pub doc: i64,
    pub peer: i32,
    pub txn: u64,
    pub at: i64,
    pub actor: &'a str,
}

/// A run of the log, without its operations.
#[derive(Clone, Debug)]
pub struct RunHead {
    pub peer: i32,
    pub counter_start: u64,
    pub counter_end: u64,
    pub lamport_start: u64,
    pub lamport_end: u64,
    pub txn: u64,
    pub at: i64,
    pub actor: Option<String>,
    pub deps: Vec<(i32, u64)>,
    pub xmin: u32,
}

/// The hash by which rows are found in the log: stable, it is stored.
pub fn row_hash(tbl: &str, row: &str) -> i64 {
    xxh3_64_with_seed(row.as_bytes(), xxh3_64(tbl.as_bytes())) as i64
}

/// Where a run that starts at operation `from` ends.
pub fn cut(ops: &OpBuf, from: usize, to: usize) -> usize {
    let to = to.min(from + RUN_OPS);
    if ops.weight(from..to) <= RUN_BYTES {
        return to;
    }
    let mut bytes = 0;
    for i in from..to {
        bytes += ops.weight(i..i + 1);
        if bytes > RUN_BYTES && i > from {
            return i;
        }
    }
    to
}

/// Encodes operations `from..to` of a buffer as a run.
pub fn encode(ops: &OpBuf, from: usize, to: usize, counter_start: u64, lamport_start: u64) -> Result<NewRun> {
    let span: u64 = (from..to).map(|i| ops.span_of(i)).sum();
    Ok(NewRun {
        counter_start,
        counter_end: counter_start + span - 1,
        lamport_start,
        deps: Vec::new(),
        ops: ENCODER.with_borrow_mut(|encoder| encoder.encode(ops, from..to))?,
        keys: keys::of_ops(ops, from, to)?,
    })
}

/// Appends runs of one peer, at least one, and indexes them.
pub fn append(author: &Author<'_>, runs: &[NewRun]) -> Result<()> {
    let names = catalog::names()?;
    append_runs(&names, author, runs, false);
    spans::note(&names, author.doc, &Span::of(author.peer, runs));
    keys::index(&names, author, runs)
}

/// Appends runs of one peer, which `carry` the keys of their rows or not. Whoever calls this sees to the rest.
pub fn append_runs(names: &Names, author: &Author<'_>, runs: &[NewRun], carry: bool) {
    let rel = Relation::open(names.run, Lock::RowExclusive);
    let mut inserter = Inserter::new(&rel);
    let mut carried = Vec::new();
    for run in runs {
        if carry {
            tail::encode(&run.keys, &mut carried);
        }
        let deps = encode_deps(&run.deps);
        inserter.insert(&[
            Field::I64(author.doc),
            Field::I32(author.peer),
            Field::I64(run.counter_start as i64),
            Field::I64(run.counter_end as i64),
            Field::I64(run.lamport_start as i64),
            Field::I64(run.lamport_end() as i64),
            Field::I64(author.txn as i64),
            Field::I64(author.at),
            Field::Text(author.actor),
            if deps.is_empty() { Field::Null } else { Field::Bytes(&deps) },
            Field::Bytes(&run.ops),
            if carry { Field::Bytes(&carried) } else { Field::Null },
        ]);
    }
}

/// Appends a LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Reads a LEB128 number at `at`.
pub fn get_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

fn encode_deps(deps: &[(i32, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (peer, counter) in deps {
        put_varint(&mut out, *peer as u64);
        put_varint(&mut out, *counter);
    }
    out
}

/// The deps column as pairs of peer number and counter.
pub fn decode_deps(bytes: &[u8]) -> Result<Vec<(i32, u64)>> {
    let mut at = 0;
    let mut deps = Vec::new();
    while at < bytes.len() {
        let pair = get_varint(bytes, &mut at).zip(get_varint(bytes, &mut at));
        let (peer, counter) = pair.ok_or_else(|| Error::new(state::CORRUPT, "malformed deps in crdt.event_run"))?;
        deps.push((peer as i32, counter));
    }
    Ok(deps)
}

impl RunHead {
    /// Are both pulled together, being of one peer? A transaction's runs are, unless it gave them different times.
    pub fn is_of_unit(&self, other: &RunHead) -> bool {
        (self.txn, self.at) == (other.txn, other.at)
    }
}

/// A row of `crdt.event_run` without its operations.
pub fn head_of(row: &relation::Row<'_>) -> Result<RunHead> {
    Ok(RunHead {
        peer: row.i32(2),
        counter_start: row.i64(3) as u64,
        counter_end: row.i64(4) as u64,
        lamport_start: row.i64(5) as u64,
        lamport_end: row.i64(6) as u64,
        txn: row.i64(7) as u64,
        at: row.i64(8),
        actor: row.text(9),
        deps: row.with_bytes(10, decode_deps).unwrap_or_else(|| Ok(Vec::new()))?,
        xmin: row.xmin(),
    })
}

/// A peer's last run.
pub fn tail(doc: i64, peer: i32, snapshot: Snapshot) -> Result<Option<RunHead>> {
    let names = catalog::names()?;
    let rel = Relation::open(names.run, Lock::AccessShare);
    let keys = [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I32(peer))];
    let mut scan = IndexScan::new(&rel, names.run_pkey, snapshot, &keys, true);
    scan.next_row().map(|row| head_of(&row)).transpose()
}

/// The run that holds an event.
pub fn run_at(doc: i64, peer: i32, counter: u64, snapshot: Snapshot) -> Result<Option<RunHead>> {
    let names = catalog::names()?;
    let rel = Relation::open(names.run, Lock::AccessShare);
    let keys =
        [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I32(peer)), (3, Cmp::Le, Field::I64(counter as i64))];
    let mut scan = IndexScan::new(&rel, names.run_pkey, snapshot, &keys, true);
    let head = scan.next_row().map(|row| head_of(&row)).transpose()?;
    Ok(head.filter(|h| h.counter_end >= counter))
}

/// Calls `each` with a peer's runs from the one that holds `counter` on, operations included, until it answers false.
pub fn runs_from(
    doc: i64,
    peer: i32,
    counter: u64,
    snapshot: Snapshot,
    mut each: impl FnMut(RunHead, Vec<u8>) -> Result<bool>,
) -> Result<()> {
    let start = run_at(doc, peer, counter, snapshot)?.map_or(counter, |h| h.counter_start);
    let names = catalog::names()?;
    let rel = Relation::open(names.run, Lock::AccessShare);
    let keys = [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I32(peer)), (3, Cmp::Ge, Field::I64(start as i64))];
    let mut scan = IndexScan::new(&rel, names.run_pkey, snapshot, &keys, false);
    while let Some(row) = scan.next_row() {
        entry::check_interrupts();
        if !each(head_of(&row)?, row.bytes(11).unwrap_or_default())? {
            break;
        }
    }
    Ok(())
}

/// Calls `each` with the peers of a doc: number and name.
pub fn peers(doc: i64, snapshot: Snapshot) -> Result<Vec<(i32, String)>> {
    let names = catalog::names()?;
    let rel = Relation::open(names.peer, Lock::AccessShare);
    let keys = [(1, Cmp::Eq, Field::I64(doc))];
    let mut scan = IndexScan::new(&rel, names.peer_name, snapshot, &keys, false);
    let mut found = Vec::new();
    while let Some(row) = scan.next_row() {
        found.push((row.i32(1), row.text(3).unwrap_or_default()));
    }
    Ok(found)
}

/// The last committed runs of some peers, of those that have one: not of our own transaction, which may be rolled back.
pub fn committed_tails(doc: i64, peers: impl Iterator<Item = i32>, snapshot: Snapshot) -> Result<Vec<RunHead>> {
    let names = catalog::names()?;
    let rel = Relation::open(names.run, Lock::AccessShare);
    let key_of = |peer| [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I32(peer))];
    let mut scan = IndexScan::new(&rel, names.run_pkey, snapshot, &key_of(0), true);
    let mut tails = Vec::new();
    for peer in peers {
        scan.again(&key_of(peer));
        while let Some(row) = scan.next_row() {
            entry::check_interrupts();
            let head = head_of(&row)?;
            if !xact::is_own(head.txn, head.xmin) {
                tails.push(head);
                break;
            }
        }
    }
    Ok(tails)
}

/// The heads among committed tails: those no committed run depends on. Reads runs from the newest lamport down until all are
/// decided. The second value is false when it gave up after [`HEAD_SCAN_RUNS`]: the rest counts as covered.
pub fn committed_heads(doc: i64, tails: &[RunHead]) -> Result<(Vec<Head>, bool)> {
    let mut open: FxHashMap<i32, &RunHead> = tails.iter().map(|t| (t.peer, t)).collect();
    let mut ahead: Vec<&RunHead> = tails.iter().collect();
    ahead.sort_unstable_by_key(|t| t.lamport_end);
    // Where in `ahead` the first one is that is not decided.
    let mut least = 0;
    let mut complete = true;
    let mut found = Vec::new();
    let mut seen = 0;
    let head = |t: &RunHead| Head { peer: t.peer, xid: t.xmin, counter: t.counter_end };
    spans::each_run(doc, Snapshot::Committed, -1, Order::Down, |span, row| {
        // What depends on a tail has a greater lamport: a tail above this span has been passed by everything that could.
        while let Some(tail) = ahead.pop_if(|t| t.lamport_end > span.lamport) {
            found.extend(open.remove(&tail.peer).map(head));
        }
        while ahead.get(least).is_some_and(|t| !open.contains_key(&t.peer)) {
            least += 1;
        }
        let Some(undecided) = ahead.get(least) else { return Ok(Then::Stop) };
        seen += 1;
        if seen > HEAD_SCAN_RUNS {
            complete = false;
            return Ok(Then::Stop);
        }
        let run = head_of(row)?;
        if run.lamport_end <= undecided.lamport_end {
            return Ok(Then::NextSpan);
        }
        if xact::is_own(run.txn, run.xmin) {
            return Ok(Then::Next);
        }
        for (peer, counter) in &run.deps {
            if open.get(peer).is_some_and(|t| t.counter_end <= *counter) {
                open.remove(peer);
            }
        }
        Ok(Then::Next)
    })?;
    if complete {
        found.extend(open.into_values().map(head));
    }
    found.sort_unstable_by_key(|h| h.peer);
    Ok((found, complete))
}

/// Events on some rows: where each of the operations comes from.
#[derive(Default)]
pub struct RowEvents {
    /// The operations.
    pub ops: OpBuf,
    /// For each operation: its peer's number, counter, lamport.
    pub of: Vec<(i32, u64, u64)>,
}

impl RowEvents {
    /// Notes where operations come from that have been appended: out of this run, so many counters after its first.
    fn add(&mut self, run: &relation::Row<'_>, offsets: Vec<u64>) -> Result<()> {
        let (peer, counter, lamport) = (run.i32(2), run.i64(3) as u64, run.i64(5) as u64);
        alloc::reserve(&mut self.of, offsets.len())?;
        self.of.extend(offsets.into_iter().map(|o| (peer, counter + o, lamport + o)));
        Ok(())
    }
}

/// All of the log's events on a row.
pub fn events_on_row(doc: i64, tbl: &str, row: &str, snapshot: Snapshot) -> Result<RowEvents> {
    let mut runs = key_search::runs_of(doc, row_hash(tbl, row), snapshot)?;
    runs.sort_unstable();
    runs.dedup();
    Ok(read_runs(doc, &runs, &RowSet::new([(tbl, row)]), 0, snapshot, true)?.0)
}

/// Reads the events on some rows in runs that are given by peer and first counter, in order: each peer's from the newest back,
/// until one lies below `least`. Tells of each peer the run where it stopped. Without `values` these are null, and of most runs
/// only the start is read.
pub fn read_runs(
    doc: i64,
    runs: &[(i32, u64)],
    wanted: &RowSet<'_>,
    least: u64,
    snapshot: Snapshot,
    values: bool,
) -> Result<(RowEvents, Vec<(i32, u64)>)> {
    let names = catalog::names()?;
    let rel = Relation::open(names.run, Lock::AccessShare);
    let key_of = |(peer, counter): (i32, u64)| {
        [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I32(peer)), (3, Cmp::Eq, Field::I64(counter as i64))]
    };
    let (mut found, mut below) = (RowEvents::default(), Vec::new());
    let Some(first) = runs.first() else { return Ok((found, below)) };
    let mut scan = IndexScan::new(&rel, names.run_pkey, snapshot, &key_of(*first), false);
    let toast = if values { None } else { Toast::of(&rel) };
    let mut starts = toast.as_ref().map(|toast| toast.starts(snapshot));
    for of_peer in runs.chunk_by(|a, b| a.0 == b.0) {
        // A peer's lamports grow with its counters: what comes before a run that does not reach `least` does not either.
        for run in of_peer.iter().rev() {
            entry::check_interrupts();
            scan.again(&key_of(*run));
            let Some(row) = scan.next_row() else { continue };
            if (row.i64(6) as u64) < least {
                alloc::push(&mut below, *run)?;
                break;
            }
            match starts.as_mut().and_then(|starts| collect_start(&mut found, &row, starts, wanted)) {
                Some(offsets) => found.add(&row, offsets)?,
                None => collect(&mut found, &row, wanted)?,
            }
        }
    }
    Ok((found, below))
}

/// Appends the operations of a run on some rows without their values, by how the run begins; `None` where that does not tell.
fn collect_start(
    found: &mut RowEvents,
    row: &relation::Row<'_>,
    starts: &mut Starts<'_>,
    wanted: &RowSet<'_>,
) -> Option<Vec<u64>> {
    let limits = stored_limits();
    let mut decode = |start: &[u8], len| codec::decode_rows_start(start, len, &limits, wanted, &mut found.ops);
    match starts.of(row, 11, &mut decode) {
        Some(told) => told,
        None => row.with_bytes(11, |all| decode(all, all.len())).flatten(),
    }
}

fn collect(found: &mut RowEvents, row: &relation::Row<'_>, wanted: &RowSet<'_>) -> Result<()> {
    let decode = |ops: &[u8]| codec::decode_rows(ops, &stored_limits(), wanted, &mut found.ops);
    let offsets = as_stored(row.with_bytes(11, decode).unwrap_or_else(|| Ok(Vec::new())))?;
    found.add(row, offsets)
}

/// The log's events on rows among runs that reach `lamport`; `None` when there are more than `budget` such runs. They are
/// counted before any is decoded.
pub fn events_since_lamport(
    doc: i64,
    lamport: u64,
    budget: usize,
    wanted: &RowSet<'_>,
    snapshot: Snapshot,
) -> Result<Option<RowEvents>> {
    let each_run = |each: &mut dyn FnMut(&relation::Row<'_>) -> Result<bool>| {
        spans::each_run(doc, snapshot, lamport as i64 - 1, Order::Down, |_, row| {
            if (row.i64(6) as u64) < lamport {
                return Ok(Then::NextSpan);
            }
            Ok(if each(row)? { Then::Next } else { Then::Stop })
        })
    };
    let mut runs = 0;
    each_run(&mut |_| {
        runs += 1;
        Ok(runs <= budget)
    })?;
    if runs > budget {
        return Ok(None);
    }
    let mut found = RowEvents::default();
    if runs > 0 {
        each_run(&mut |row| {
            collect(&mut found, row, wanted)?;
            Ok(true)
        })?;
    }
    Ok(Some(found))
}

/// Appends the operations of a run.
pub fn decode(ops: &[u8], into: &mut OpBuf) -> Result<Range<usize>> {
    as_stored(codec::decode(ops, &stored_limits(), into))
}

/// Bytes of the log that cannot be read are nobody's malformed request.
pub fn as_stored<T>(decoded: crdt_engine::Result<T>) -> Result<T> {
    decoded.map_err(|e| match e {
        crdt_engine::Error::OutOfMemory { .. } => e.into(),
        e => Error::new(state::CORRUPT, format!("a run of crdt.event_run cannot be read: {e}")),
    })
}

/// What is stored was within limits when it came in.
pub fn stored_limits() -> Limits {
    Limits::trusted()
}

/// The class our heavyweight locks are taken on.
pub fn lock_class() -> Result<Oid> {
    Ok(catalog::names()?.doc)
}
