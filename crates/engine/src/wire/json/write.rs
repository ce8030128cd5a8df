//! Writing. All append to a text and err with [`Error::OutOfMemory`] only, unless they say otherwise.

use crate::alloc::push_str;
use crate::error::{Error, Result};
use crate::id::EventId;
use crate::ops::{OpBuf, OpRef, Origin, kind};
pub use crate::scan::write_string;
use crate::value::ValueRef;
use crate::wire::{Ahead, PullRequest, PullResponse, PushRequest, PushResponse, Run, Versions};

/// A number.
pub fn write_int(out: &mut String, n: i64) -> Result<()> {
    ValueRef::Int(n).write_json(out)
}

/// `["peer",12]`
pub fn write_event_id(out: &mut String, id: &EventId) -> Result<()> {
    push_str(out, "[")?;
    write_string(out, &id.peer)?;
    push_str(out, ",")?;
    write_int(out, id.counter as i64)?;
    push_str(out, "]")
}

/// `[EventId]`
pub fn write_frontier(out: &mut String, frontier: &[EventId]) -> Result<()> {
    push_str(out, "[")?;
    for (i, id) in frontier.iter().enumerate() {
        comma(out, i)?;
        write_event_id(out, id)?;
    }
    push_str(out, "]")
}

/// `{"peer":counter}`
pub fn write_versions(out: &mut String, versions: &Versions) -> Result<()> {
    push_str(out, "{")?;
    for (i, (peer, &counter)) in versions.iter().enumerate() {
        comma(out, i)?;
        write_string(out, peer)?;
        push_str(out, ":")?;
        write_int(out, counter as i64)?;
    }
    push_str(out, "}")
}

/// A RowOp. Errors: [`Error::UnknownOpType`] for an operation whose kind has no name in JSON ([`Run::split_for`] cuts those
/// out).
pub fn write_op(out: &mut String, op: OpRef<'_>) -> Result<()> {
    match op {
        OpRef::Insert { tbl, row, cells } => {
            row_op(out, "insert", tbl, row)?;
            write_cells(out, cells.iter())?;
        }
        OpRef::Update { tbl, row, col, value, origin } => {
            row_op(out, "update", tbl, row)?;
            write_cell(out, col, value)?;
            match origin {
                Origin::Explicit => {}
                Origin::Rewrite(root) => {
                    push_str(out, ",\"derived_from\":")?;
                    write_event_id(out, &root.id)?;
                }
                Origin::Default(None) => push_str(out, ",\"default_since\":null")?,
                Origin::Default(Some(since)) => {
                    push_str(out, ",\"default_since\":")?;
                    write_event_id(out, &since.id)?;
                }
            }
        }
        OpRef::Delete { tbl, row } => row_op(out, "delete", tbl, row)?,
        OpRef::Opaque { kind, span, payload } => opaque_op(out, kind, span, payload)?,
    }
    push_str(out, "}")
}

fn opaque_op(out: &mut String, kind: u64, span: u64, payload: &[u8]) -> Result<()> {
    let Some(name) = kind::name(kind) else {
        return Err(Error::UnknownOpType { at: "ops".into(), name: kind.to_string() });
    };
    push_str(out, "{\"type\":")?;
    write_string(out, name)?;
    push_str(out, ",\"span\":")?;
    write_int(out, span as i64)?;
    if kind != kind::SKIP || !payload.is_empty() {
        push_str(out, ",\"payload\":\"")?;
        for b in payload {
            for digit in [b >> 4, b & 15] {
                push_str(out, &"0123456789abcdef"[digit as usize..][..1])?;
            }
        }
        push_str(out, "\"")?;
    }
    Ok(())
}

/// An EventRun of operations of `ops`. Errors: also those of [`write_op`].
pub fn write_run(out: &mut String, run: &Run, ops: &OpBuf) -> Result<()> {
    push_str(out, "{\"peer\":")?;
    write_string(out, &run.peer)?;
    push_str(out, ",\"counter_start\":")?;
    write_int(out, run.counter_start as i64)?;
    push_str(out, ",\"lamport_start\":")?;
    write_int(out, run.lamport_start as i64)?;
    push_str(out, ",\"deps\":")?;
    write_frontier(out, &run.deps)?;
    reserved(out, run)?;
    push_str(out, ",\"ops\":[")?;
    for (i, op) in ops.range(run.ops.clone()).enumerate() {
        comma(out, i)?;
        write_op(out, op)?;
    }
    push_str(out, "]}")
}

/// The Event of the first operation of a run. Errors: also those of [`write_op`].
pub fn write_event(out: &mut String, run: &Run, ops: &OpBuf) -> Result<()> {
    push_str(out, "{\"id\":[")?;
    write_string(out, &run.peer)?;
    push_str(out, ",")?;
    write_int(out, run.counter_start as i64)?;
    push_str(out, "],\"deps\":")?;
    write_frontier(out, &run.deps)?;
    push_str(out, ",\"lamport\":")?;
    write_int(out, run.lamport_start as i64)?;
    reserved(out, run)?;
    push_str(out, ",\"op\":")?;
    write_op(out, ops.get(run.ops.start))?;
    push_str(out, "}")
}

fn reserved(out: &mut String, run: &Run) -> Result<()> {
    for (name, n) in
        [(",\"txn\":", run.txn.map(|n| n as i64)), (",\"at\":", run.at), (",\"schema\":", run.schema.map(|n| n as i64))]
    {
        if let Some(n) = n {
            push_str(out, name)?;
            write_int(out, n)?;
        }
    }
    if let Some(actor) = &run.actor {
        push_str(out, ",\"actor\":")?;
        write_string(out, actor)?;
    }
    Ok(())
}

/// An array of EventRuns. Errors: also those of [`write_op`].
pub fn write_runs(out: &mut String, runs: &[Run], ops: &OpBuf) -> Result<()> {
    push_str(out, "[")?;
    for (i, run) in runs.iter().enumerate() {
        comma(out, i)?;
        write_run(out, run, ops)?;
    }
    push_str(out, "]")
}

/// A PushRequest. Errors: also those of [`write_op`].
pub fn write_push(out: &mut String, request: &PushRequest) -> Result<()> {
    push_str(out, "{\"peer_id\":")?;
    write_string(out, &request.peer_id)?;
    push_str(out, ",\"events\":")?;
    write_runs(out, &request.batch.runs, &request.batch.ops)?;
    push_str(out, ",\"frontier\":")?;
    write_frontier(out, &request.frontier)?;
    push_str(out, "}")
}

/// A PullRequest.
pub fn write_pull(out: &mut String, request: &PullRequest) -> Result<()> {
    push_str(out, "{\"known_peers\":")?;
    write_versions(out, &request.known)?;
    if let Some(peer) = &request.peer_id {
        push_str(out, ",\"peer_id\":")?;
        write_string(out, peer)?;
    }
    if let Some(limit) = request.limit {
        push_str(out, ",\"limit\":")?;
        write_int(out, limit as i64)?;
    }
    if !request.accept.is_empty() {
        push_str(out, ",\"accept\":[")?;
        for (i, name) in request.accept.iter().enumerate() {
            comma(out, i)?;
            write_string(out, name)?;
        }
        push_str(out, "]")?;
    }
    push_str(out, "}")
}

/// The answer to a push.
pub fn write_push_response(out: &mut String, response: &PushResponse) -> Result<()> {
    push_str(out, "{\"accepted\":")?;
    write_int(out, response.accepted as i64)?;
    push_str(out, ",\"duplicate\":")?;
    write_int(out, response.duplicate as i64)?;
    push_str(out, ",\"server_frontier\":")?;
    write_frontier(out, &response.frontier)?;
    versions_and_ahead(out, &response.versions, &response.ahead)
}

/// The answer to a pull. Errors: also those of [`write_op`].
pub fn write_pull_response(out: &mut String, response: &PullResponse) -> Result<()> {
    let mut page = PullPage::start(out)?;
    for run in &response.batch.runs {
        page.run(run, &response.batch.ops)?;
    }
    page.finish(&response.frontier, response.has_more, &response.versions, &response.ahead)
}

/// The answer to a pull, run by run as they are read from the log.
#[derive(Debug)]
pub struct PullPage<'o> {
    out: &'o mut String,
    runs: usize,
}

impl<'o> PullPage<'o> {
    /// Begins an answer.
    pub fn start(out: &'o mut String) -> Result<Self> {
        push_str(out, "{\"events\":[")?;
        Ok(PullPage { out, runs: 0 })
    }

    /// Adds a run. Errors: also those of [`write_op`].
    pub fn run(&mut self, run: &Run, ops: &OpBuf) -> Result<()> {
        comma(self.out, self.runs)?;
        self.runs += 1;
        write_run(self.out, run, ops)
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no run was added.
    pub fn is_empty(&self) -> bool {
        self.runs == 0
    }

    /// Ends the answer.
    pub fn finish(self, frontier: &[EventId], has_more: bool, versions: &Versions, ahead: &Ahead) -> Result<()> {
        push_str(self.out, "],\"server_frontier\":")?;
        write_frontier(self.out, frontier)?;
        push_str(self.out, if has_more { ",\"has_more\":true" } else { ",\"has_more\":false" })?;
        versions_and_ahead(self.out, versions, ahead)
    }
}

fn versions_and_ahead(out: &mut String, versions: &Versions, ahead: &Ahead) -> Result<()> {
    push_str(out, ",\"versions\":")?;
    write_versions(out, versions)?;
    if !ahead.is_empty() {
        push_str(out, ",\"ahead\":{")?;
        for (i, (peer, counter)) in ahead.iter().enumerate() {
            comma(out, i)?;
            write_string(out, peer)?;
            push_str(out, ":")?;
            counter.map_or(ValueRef::Null, |n| ValueRef::Int(n as i64)).write_json(out)?;
        }
        push_str(out, "}")?;
    }
    push_str(out, "}")
}

/// MergeOp `{"type":"set_cell",...}`.
pub fn write_set_cell(out: &mut String, tbl: &str, row: &str, col: &str, value: ValueRef<'_>) -> Result<()> {
    row_op(out, "set_cell", tbl, row)?;
    write_cell(out, col, value)?;
    push_str(out, "}")
}

/// MergeOp `{"type":"insert_row",...}`.
pub fn write_insert_row<'v>(
    out: &mut String,
    tbl: &str,
    row: &str,
    cells: impl Iterator<Item = (&'v str, ValueRef<'v>)>,
) -> Result<()> {
    row_op(out, "insert_row", tbl, row)?;
    write_cells(out, cells)?;
    push_str(out, "}")
}

/// MergeOp `{"type":"delete_row",...}`.
pub fn write_delete_row(out: &mut String, tbl: &str, row: &str) -> Result<()> {
    row_op(out, "delete_row", tbl, row)?;
    push_str(out, "}")
}

/// The start of an operation on a row, left open.
fn row_op(out: &mut String, of: &str, tbl: &str, row: &str) -> Result<()> {
    push_str(out, "{\"type\":\"")?;
    push_str(out, of)?;
    push_str(out, "\",\"tbl\":")?;
    write_string(out, tbl)?;
    push_str(out, ",\"row_id\":")?;
    write_string(out, row)
}

fn write_cell(out: &mut String, col: &str, value: ValueRef<'_>) -> Result<()> {
    push_str(out, ",\"col\":")?;
    write_string(out, col)?;
    push_str(out, ",\"value\":")?;
    value.write_json(out)
}

fn write_cells<'v>(out: &mut String, cells: impl Iterator<Item = (&'v str, ValueRef<'v>)>) -> Result<()> {
    push_str(out, ",\"values\":[")?;
    for (i, (col, value)) in cells.enumerate() {
        push_str(out, if i > 0 { ",[" } else { "[" })?;
        write_string(out, col)?;
        push_str(out, ",")?;
        value.write_json(out)?;
        push_str(out, "]")?;
    }
    push_str(out, "]")
}

fn comma(out: &mut String, i: usize) -> Result<()> {
    if i > 0 { push_str(out, ",") } else { Ok(()) }
}
