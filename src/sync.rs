//! Frontier and version of a doc, and how versions stand to each other. Committed events only.

use crdt_engine::graph::{self, LocalId};
use crdt_engine::wire::{Versions, json};
use crdt_engine::{EventId, Limits};

use crate::committed::{self, GraphRuns, Log, local};
use crate::error::{Error, Result, state};
use crate::pg::function::{Args, Out};
use crate::pull;

/// Heads are looked for however far that goes.
const UNBOUNDED: usize = usize::MAX;

/// `crdt.frontier(doc)`
pub fn frontier(args: &Args<'_>) -> Result<Out> {
    let log = Log::open(args.i64(0, "doc")?)?;
    Ok(Out::Jsonb(frontier_json(&log.frontier(&log.heads(UNBOUNDED)?)?)?))
}

/// `crdt.version(doc)`
pub fn version(args: &Args<'_>) -> Result<Out> {
    let log = Log::open(args.i64(0, "doc")?)?;
    let mut out = String::new();
    json::write_versions(&mut out, &committed_versions(&log)?)?;
    Ok(Out::Jsonb(out))
}

/// `crdt.doc_sync_state(doc)`
pub fn doc_sync_state(args: &Args<'_>) -> Result<Out> {
    let log = Log::open(args.i64(0, "doc")?)?;
    let mut out = String::from("{\"frontier\":");
    json::write_frontier(&mut out, &log.frontier(&log.heads(UNBOUNDED)?)?)?;
    out.push_str(",\"versions\":");
    json::write_versions(&mut out, &committed_versions(&log)?)?;
    out.push('}');
    Ok(Out::Jsonb(out))
}

/// `crdt.lca(doc, a jsonb, b jsonb)`
pub fn lca(args: &Args<'_>) -> Result<Out> {
    let (log, a, b) = two_versions(args)?;
    let heads = GraphRuns::walk(&log, |runs| graph::lca(runs, &a, &b))?;
    Ok(Out::Jsonb(frontier_json(&log.frontier(&heads)?)?))
}

/// `crdt.compare(doc, a jsonb, b jsonb)`
pub fn compare(args: &Args<'_>) -> Result<Out> {
    let (log, a, b) = two_versions(args)?;
    let relation = GraphRuns::walk(&log, |runs| graph::compare(runs, &a, &b))?;
    Ok(Out::Text(relation.as_str().to_owned()))
}

/// `crdt.events_since(doc, frontier jsonb)`
pub fn events_since(args: &Args<'_>) -> Result<Out> {
    let log = Log::open(args.i64(0, "doc")?)?;
    let since = read_frontier(args, 1, "frontier", &log)?;
    let heads = log.heads(UNBOUNDED)?;
    let newer = GraphRuns::walk(&log, |runs| graph::difference(runs, &heads, &since))?;
    // What only our version holds reaches to the end of each peer's runs: the log holds nothing beyond its heads.
    let wanted = newer.only_a.iter().map(|span| (span.peer.0 as i32, span.from));
    Ok(Out::Jsonb(pull::all_runs(&log, wanted)?))
}

/// The version vector of what is committed, sure to survive a crash.
fn committed_versions(log: &Log) -> Result<Versions> {
    let tails = log.tails()?;
    committed::flush_commits(&tails.iter().map(|t| t.xmin).collect());
    log.versions(tails)
}

fn frontier_json(frontier: &[EventId]) -> Result<String> {
    let mut out = String::new();
    json::write_frontier(&mut out, frontier)?;
    Ok(out)
}

fn two_versions(args: &Args<'_>) -> Result<(Log, Vec<LocalId>, Vec<LocalId>)> {
    let log = Log::open(args.i64(0, "doc")?)?;
    let a = read_frontier(args, 1, "a", &log)?;
    let b = read_frontier(args, 2, "b", &log)?;
    Ok((log, a, b))
}

/// A frontier argument as events of the log. Errors with CR005 for one that is not there.
fn read_frontier(args: &Args<'_>, n: usize, name: &str, log: &Log) -> Result<Vec<LocalId>> {
    let limits = Limits::default();
    let text = args.jsonb(n, name, limits.request_bytes)?;
    let mut events = Vec::new();
    for id in json::decode_frontier(text.as_bytes(), &limits)? {
        let found = match log.number(&id.peer) {
            Some(peer) => log.run_at(peer, id.counter)?.map(|_| local(peer, id.counter)),
            None => None,
        };
        let event = found.ok_or_else(|| {
            Error::new(state::UNKNOWN_DEP, format!("event {id} in \"{name}\" is not known in this doc"))
                .hint("See crdt.version(doc) for what is.")
        })?;
        events.push(event);
    }
    Ok(events)
}
