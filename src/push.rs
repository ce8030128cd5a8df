//! Events from clients and document functions: `crdt.push`, `crdt.doc_insert` and their kin.

use crdt_engine::id::EventId;
use crdt_engine::ops::OpBuf;
use crdt_engine::wire::{Batch, PushRequest, PushResponse, Run, Versions, binary, json};
use crdt_engine::{Limits, Origin, ValueRef};

use crate::buffer;
use crate::catalog;
use crate::committed::{HEAD_BUDGET, Log};
use crate::error::{Error, IN_SEVERAL, Result, state};
use crate::flush;
use crate::ingest::{self, Ingested, Source};
use crate::pg::function::{Args, Out};
use crate::pull;
use crate::seen;

/// What a request may hold.
fn limits() -> Limits {
    Limits::default()
}

/// Events that are too many for one request need not come in one.
fn in_several(error: Error) -> Error {
    if error.state == state::LIMIT { error.hint(IN_SEVERAL) } else { error }
}

/// `crdt.push(doc, request)`
pub fn push(args: &Args<'_>) -> Result<Out> {
    let doc = args.i64(0, "doc")?;
    ingest::check_transaction("crdt.push")?;
    let text = args.bytes(1, "request", limits().request_bytes).map_err(in_several)?;
    let response = answer(doc, text, |text| json::decode_push(text, &limits()))?;
    let mut out = String::new();
    json::write_push_response(&mut out, &response)?;
    Ok(Out::Jsonb(out))
}

/// `crdt.push_binary(doc, request)`
pub fn push_binary(args: &Args<'_>) -> Result<Out> {
    let doc = args.i64(0, "doc")?;
    ingest::check_transaction("crdt.push_binary")?;
    let bytes = args.bytes(1, "request", limits().request_bytes).map_err(in_several)?;
    let response = answer(doc, bytes, |bytes| binary::decode_push(bytes, &limits()))?;
    Ok(Out::Bytes(binary::encode_push_response(&response)?))
}

fn answer(
    doc: i64,
    bytes: &[u8],
    decode: impl FnOnce(&[u8]) -> crdt_engine::Result<PushRequest>,
) -> Result<PushResponse> {
    catalog::doc(doc)?;
    let digest = seen::digest(bytes);
    if let Some(digest) = &digest
        && let Some(duplicate) = seen::events(doc, digest)?
    {
        return respond(doc, Ingested { duplicate, ..Ingested::default() }, Vec::new());
    }
    let PushRequest { peer_id, batch, frontier } = decode(bytes)?;
    let done = ingest::ingest(doc, batch, Source::Client, false)?;
    if let Some(digest) = &digest {
        seen::remember(doc, &peer_id, digest, done.accepted + done.duplicate)?;
    }
    respond(doc, done, frontier)
}

fn respond(doc: i64, done: Ingested, told: Vec<EventId>) -> Result<PushResponse> {
    let log = Log::open(doc)?;
    let mut versions = log.versions(log.tails()?)?;
    let told: Versions = told.into_iter().map(|id| (id.peer, id.counter)).collect();
    let ahead = pull::ahead(&log, &told)?;
    let frontier = frontier_after(&log, &done, &mut versions)?;
    Ok(PushResponse { accepted: done.accepted, duplicate: done.duplicate, frontier, versions, ahead })
}

/// The doc's state when this push commits: what is committed and what it brought.
fn frontier_after(log: &Log, done: &Ingested, versions: &mut Versions) -> Result<Vec<EventId>> {
    let mut frontier = log.frontier(&log.heads(HEAD_BUDGET)?)?;
    frontier.retain(|head| {
        let passed = done.reached.get(&head.peer).is_some_and(|last| *last >= head.counter);
        !passed && !done.covered.iter().any(|dep| dep.peer == head.peer && dep.counter >= head.counter)
    });
    for (peer, last) in &done.reached {
        versions.insert(peer.clone(), *last);
        if !done.covered.iter().any(|dep| dep.peer == *peer && dep.counter >= *last) {
            frontier.push(EventId::new(peer.as_str(), *last));
        }
    }
    frontier.sort();
    Ok(frontier)
}

/// `crdt.doc_merge_remote(doc, events)`
pub fn doc_merge_remote(args: &Args<'_>) -> Result<Out> {
    let doc = args.i64(0, "doc")?;
    ingest::check_transaction("crdt.doc_merge_remote")?;
    let text = args.jsonb(1, "events", limits().request_bytes).map_err(in_several)?;
    let batch = json::decode_events(text.as_bytes(), &limits())?;
    let done = ingest::ingest(doc, batch, Source::Merge, true)?;
    Ok(Out::Jsonb(format!("[{}]", done.merge_ops.join(","))))
}

/// `crdt.doc_insert(doc, tbl, row_id, values)`
pub fn doc_insert(args: &Args<'_>) -> Result<Out> {
    let (doc, tbl, row) = target(args, "crdt.doc_insert")?;
    let cells = args.jsonb(3, "values", limits().request_bytes)?;
    author(doc, |ops| {
        let tbl = ops.intern(&tbl)?;
        ops.insert(tbl, &row)?;
        json::decode_cells(cells.as_bytes(), &limits(), ops).map(|_| ())
    })
}

/// `crdt.doc_update(doc, tbl, row_id, col, value)`
pub fn doc_update(args: &Args<'_>) -> Result<Out> {
    let (doc, tbl, row) = target(args, "crdt.doc_update")?;
    let col = args.text(3, "col")?;
    check_name("col", &col, limits().name_bytes)?;
    let value = if args.is_null(4) { "null".to_owned() } else { args.jsonb(4, "value", limits().value_bytes)? };
    author(doc, |ops| {
        let (tbl, col) = (ops.intern(&tbl)?, ops.intern(&col)?);
        let value = ValueRef::parse_json(&value, limits().depth)?;
        ops.update(tbl, &row, col, value.value(), Origin::Explicit)
    })
}

/// `crdt.doc_delete(doc, tbl, row_id)`
pub fn doc_delete(args: &Args<'_>) -> Result<Out> {
    let (doc, tbl, row) = target(args, "crdt.doc_delete")?;
    author(doc, |ops| {
        let tbl = ops.intern(&tbl)?;
        ops.delete(tbl, &row)
    })
}

fn target(args: &Args<'_>, function: &str) -> Result<(i64, String, String)> {
    let (doc, tbl, row) = (args.i64(0, "doc")?, args.text(1, "tbl")?, args.text(2, "row_id")?);
    ingest::check_transaction(function)?;
    check_name("tbl", &tbl, limits().name_bytes)?;
    check_name("row_id", &row, limits().row_id_bytes)?;
    Ok((doc, tbl, row))
}

fn check_name(what: &'static str, name: &str, limit: usize) -> Result<()> {
    if name.is_empty() && what != "row_id" {
        let at = what.to_owned();
        return Err(crdt_engine::Error::Malformed { at, what: "an empty name".into() }.into());
    }
    if name.len() > limit {
        let (bytes, limit) = (name.len() as u64, limit as u64);
        return Err(crdt_engine::Error::TooLarge { what, bytes, limit, splits: false }.into());
    }
    Ok(())
}

/// Makes one event of this database and takes it in like one from outside; answers the Event. Its id is provisional
/// until the transaction commits.
fn author(doc: i64, make: impl FnOnce(&mut OpBuf) -> crdt_engine::Result<()>) -> Result<Out> {
    catalog::doc(doc)?;
    let mut ops = OpBuf::new();
    make(&mut ops)?;
    buffer::flush_all()?;
    let (id, lamport, deps) = flush::next_event(doc)?;
    let run =
        Run { peer: id.peer, counter_start: id.counter, lamport_start: lamport, deps, ops: 0..1, ..Run::default() };
    let mut event = String::new();
    json::write_event(&mut event, &run, &ops)?;
    ingest::ingest(doc, Batch { ops, runs: vec![run] }, Source::Own, false)?;
    flush::advance(doc, id.counter + 1);
    Ok(Out::Jsonb(event))
}
