//! What a replica does not have: `crdt.pull`, `crdt.pull_binary`, `crdt.doc_get_pending`.

use std::ops::Range;

use crdt_engine::ops::{EventRef, kind};
use crdt_engine::wire::binary::{self, PullWriter};
use crdt_engine::wire::json::{self, PullPage};
use crdt_engine::wire::{Ahead, PullRequest, Run, Versions};
use crdt_engine::{EventId, Limits, OpBuf, codec};

use crate::catalog;
use crate::committed::{HEAD_BUDGET, Log};
use crate::error::{Error, Result, state};
use crate::pager::{self, PageLimit, Position, Sink};
use crate::pg::function::{Args, Out};
use crate::pg::relation::Snapshot;
use crate::pg::xact;
use crate::store;

/// Operations of a page when the request does not say.
const PAGE_OPS: u64 = 10_000;
/// A page ends after this many bytes: in JSON, or as the log stores them.
const PAGE_BYTES: usize = 8 << 20;
/// Consecutive runs are told as one in JSON up to this many operations.
const JOINED_OPS: usize = 4096;
/// And this many bytes of memory.
const JOINED_BYTES: usize = 1 << 20;
/// What is not asked for in pages must fit into one jsonb, whose limit is 256 MB.
const WHOLE_BYTES: usize = 240 << 20;
/// And a page, which holds whole transactions, into one value, whose limit is 1 GB.
const ANSWER_BYTES: usize = 1_000_000_000;

/// `crdt.pull(doc, request)`
pub fn pull(args: &Args<'_>) -> Result<Out> {
    let doc = args.i64(0, "doc")?;
    let limits = Limits::default();
    let text = args.bytes(1, "request", limits.request_bytes)?;
    let request = json::decode_pull(text, &limits)?;
    let log = Log::open(doc)?;
    let mut out = String::new();
    let mut page = PullPage::start(&mut out)?;
    let mut sink = JsonRuns::new(&request.accept, |run, ops| {
        page.run(run, ops)?;
        check_size(page.len(), "Pull them with crdt.pull_binary, whose form is several times smaller.")
    });
    let reached = pager::page(&log, unknown(&log, &request.known), &page_limit(&request), &mut sink)?;
    sink.finish()?;
    let answer = Answer::new(&log, request.known, reached)?;
    page.finish(&answer.frontier, answer.has_more, &answer.versions, &answer.ahead)?;
    Ok(Out::Json(out))
}

/// `crdt.pull_binary(doc, request bytea)`
pub fn pull_binary(args: &Args<'_>) -> Result<Out> {
    let doc = args.i64(0, "doc")?;
    let limits = Limits::default();
    let bytes = args.bytes(1, "request", limits.request_bytes)?;
    let request = binary::decode_pull(bytes, &limits)?;
    let log = Log::open(doc)?;
    let mut sink = BinaryRuns(PullWriter::new());
    let reached = pager::page(&log, unknown(&log, &request.known), &page_limit(&request), &mut sink)?;
    let answer = Answer::new(&log, request.known, reached)?;
    Ok(Out::Bytes(sink.0.finish(&answer.frontier, answer.has_more, &answer.versions, &answer.ahead)?))
}

/// `crdt.doc_get_pending(doc, known jsonb)`
pub fn doc_get_pending(args: &Args<'_>) -> Result<Out> {
    let doc = args.i64(0, "doc")?;
    let limits = Limits::default();
    let text = args.jsonb(1, "known", limits.request_bytes)?;
    let known = json::decode_versions(text.as_bytes(), &limits)?;
    let log = Log::open(doc)?;
    Ok(Out::Jsonb(all_runs(&log, unknown(&log, &known))?))
}

/// All that `wanted` names as one JSON array of EventRuns, operations of every kind that JSON has a type for. Errors with
/// CR002 when that is too much for one value.
pub fn all_runs(log: &Log, wanted: impl Iterator<Item = (i32, u64)>) -> Result<String> {
    let mut out = String::from("[");
    let all = kind::NAMES.map(str::to_owned);
    let mut sink = JsonRuns::new(&all, |run, ops| {
        if out.len() > 1 {
            out.push(',');
        }
        json::write_run(&mut out, run, ops)?;
        if out.len() > WHOLE_BYTES {
            return Err(too_much());
        }
        Ok(out.len())
    });
    let limit = PageLimit { ops: u64::MAX, bytes: WHOLE_BYTES };
    let reached = pager::page(log, wanted, &limit, &mut sink)?;
    sink.finish()?;
    if reached.has_more {
        return Err(too_much());
    }
    out.push(']');
    Ok(out)
}

fn too_much() -> Error {
    Error::new(state::LIMIT, format!("more than {WHOLE_BYTES} bytes of events"))
        .hint("Take them in pages with crdt.pull.")
}

/// Passes on how large a page is, if it can be answered.
fn check_size(bytes: usize, hint: &'static str) -> Result<usize> {
    if bytes > ANSWER_BYTES {
        let what = format!("the events of one transaction take more than {ANSWER_BYTES} bytes in one answer");
        return Err(Error::new(state::LIMIT, what).hint(hint));
    }
    Ok(bytes)
}

/// Each peer of the doc with the first counter that `known` does not have.
fn unknown(log: &Log, known: &Versions) -> impl Iterator<Item = (i32, u64)> {
    log.peers().map(|(number, name)| (number, known.get(name).map_or(0, |counter| counter + 1)))
}

fn page_limit(request: &PullRequest) -> PageLimit {
    PageLimit { ops: request.limit.unwrap_or(PAGE_OPS).max(1), bytes: PAGE_BYTES }
}

/// What goes with a page.
struct Answer {
    frontier: Vec<EventId>,
    has_more: bool,
    versions: Versions,
    ahead: Ahead,
}

impl Answer {
    fn new(log: &Log, known: Versions, reached: pager::Reached) -> Result<Answer> {
        let frontier = log.frontier(&log.heads(HEAD_BUDGET)?)?;
        let ahead = ahead(log, &known)?;
        let mut versions = known;
        for (peer, counter) in reached.counters {
            versions.insert(log.name(peer)?.to_owned(), counter);
        }
        Ok(Answer { frontier, has_more: reached.has_more, versions, ahead })
    }
}

/// Peers of our own of which the reader knows more than the log has: the log was set back, and the reader can hand the
/// lost events back. A standby may merely be behind.
pub fn ahead(log: &Log, known: &Versions) -> Result<Ahead> {
    let mut ahead = Ahead::new();
    if xact::in_recovery() {
        return Ok(ahead);
    }
    let doc = catalog::doc(log.doc)?;
    for (name, counter) in known.iter().filter(|(name, _)| doc.is_own_peer(name)) {
        // The statement's snapshot may be old; what is committed by now is not lost.
        let tail = match catalog::find_peer(log.doc, name)? {
            Some(peer) => store::tail(log.doc, peer, Snapshot::Committed)?.map(|t| t.counter_end),
            None => None,
        };
        if tail.is_none_or(|tail| tail < *counter) {
            ahead.insert(name.clone(), tail);
        }
    }
    Ok(ahead)
}

/// Drops what the reader knows of a run's operations. An operation that takes several counters is given whole or not
/// at all.
fn drop_known(run: &mut Run, ops: &OpBuf, all: Range<usize>, skip: u64) {
    let (mut at, mut passed) = (all.start, 0);
    while at < all.end && passed < skip {
        passed += ops.get(at).span();
        at += 1;
    }
    run.ops = at..all.end;
    run.counter_start += passed;
    run.lamport_start += passed;
    // What comes first now was made on top of its own predecessor only.
    run.deps.clear();
}

/// Runs as JSON, consecutive ones joined.
struct JsonRuns<'a, W> {
    accept: &'a [String],
    /// Takes a run and says how much has been written.
    write: W,
    written: usize,
    /// The run being joined, and what would follow it.
    open: Option<(Run, Position)>,
    ops: OpBuf,
}

impl<'a, W: FnMut(&Run, &OpBuf) -> Result<usize>> JsonRuns<'a, W> {
    fn new(accept: &'a [String], write: W) -> Self {
        JsonRuns { accept, write, written: 0, open: None, ops: OpBuf::new() }
    }

    fn joins(&self, run: &Run) -> bool {
        self.open.as_ref().is_some_and(|(open, next)| {
            let starts = Position { counter: run.counter_start, lamport: run.lamport_start };
            *next == starts && open.peer == run.peer && run.deps.is_empty()
        }) && self.ops.len() < JOINED_OPS
            && self.ops.memory() < JOINED_BYTES
    }

    /// Writes what is left.
    fn finish(mut self) -> Result<()> {
        self.flush()
    }

    /// Does an operation name an event that is not older than the open run? Joined, they would not be a run: what an event
    /// derives from is told before the run it stands in.
    fn names_open(&self, mut ops: Range<usize>) -> bool {
        let Some((open, _)) = &self.open else { return false };
        let older = |named: &EventRef| named.lamport.is_some_and(|lamport| lamport < open.lamport_start);
        ops.any(|at| self.ops.named(at).is_some_and(|named| !older(named)))
    }

    /// Writes the open run, without operations the reader has not asked for.
    fn write_open(&mut self) -> Result<()> {
        if let Some((run, _)) = self.open.take() {
            for piece in run.split_for(&self.ops, self.accept)? {
                self.written = (self.write)(&piece, &self.ops)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.write_open()?;
        self.ops.clear();
        Ok(())
    }
}

impl<W: FnMut(&Run, &OpBuf) -> Result<usize>> Sink for JsonRuns<'_, W> {
    fn run(&mut self, mut run: Run, skip: u64, next: Position, ops: &[u8]) -> Result<()> {
        if !self.joins(&run) {
            self.flush()?;
        }
        let all = store::decode(ops, &mut self.ops)?;
        run.ops = all.clone();
        if skip > 0 {
            drop_known(&mut run, &self.ops, all, skip);
        }
        if self.names_open(run.ops.clone()) {
            self.write_open()?;
        }
        match &mut self.open {
            Some((open, after)) => {
                open.ops.end = run.ops.end;
                *after = next;
            }
            None => self.open = Some((run, next)),
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.written + self.ops.memory()
    }
}

/// Runs as the log holds them.
struct BinaryRuns(PullWriter);

impl Sink for BinaryRuns {
    fn run(&mut self, mut run: Run, skip: u64, _next: Position, ops: &[u8]) -> Result<()> {
        check_size(self.0.len() + ops.len(), "Nobody can pull so large a transaction: write less in one.")?;
        if skip == 0 {
            return Ok(self.0.run(&run, ops)?);
        }
        let mut decoded = OpBuf::new();
        let all = store::decode(ops, &mut decoded)?;
        drop_known(&mut run, &decoded, all, skip);
        if run.ops.is_empty() {
            return Ok(());
        }
        let rest = codec::encode(&decoded, run.ops.clone())?;
        Ok(self.0.run(&run, &rest)?)
    }

    fn bytes(&self) -> usize {
        self.0.len()
    }
}
