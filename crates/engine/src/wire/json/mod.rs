//! The JSON wire: the shapes of the followed system, and what was added to them (`docs/format.md`).
//!
//! Reading is one pass over the text; values go straight into an [`OpBuf`]. Fields that are not known are passed over;
//! a known field that stands twice, and an operation of unknown `type`, are errors. Errors say where by a path
//! (`events[3].ops[17].value`).

mod fields;
mod ops;
mod runs;
mod write;

pub use write::*;

use fields::{Reader, Slot};

use crate::error::Result;
use crate::limits::{Limits, within_sum};
use crate::ops::OpBuf;
use crate::scan::Scanner;
use crate::wire::{Batch, PullRequest, PullResponse, PushRequest, PushResponse, Versions};
use crate::{Error, EventId};

/// Reads `{"peer_id":p,"events":[EventRun or Event],"frontier":[EventId]}`. Errors of this and all other readers here:
/// [`Error::Malformed`], [`Error::TooLarge`], [`Error::ClockRange`], [`crate::Error::NulCharacter`], [`crate::Error::UnknownOpType`],
/// [`crate::Error::DuplicateColumn`], [`crate::Error::OutOfMemory`].
pub fn decode_push(bytes: &[u8], limits: &Limits) -> Result<PushRequest> {
    whole("", bytes, limits, |r| {
        let (mut peer, mut events, mut frontier) = (Slot::new("peer_id"), Slot::new("events"), Slot::new("frontier"));
        r.fields(|r, key| match key {
            "peer_id" => peer.set(r.name("peer_id")),
            "events" => events.set(r.events()),
            "frontier" => frontier.set(r.event_ids(usize::MAX)),
            _ => r.pass(key),
        })?;
        let peer_id = peer.need()?;
        let runs = events.need()?;
        let batch = Batch { ops: std::mem::take(&mut r.buf), runs };
        Ok(PushRequest { peer_id, batch, frontier: frontier.take().unwrap_or_default() })
    })
}

/// Reads an array of EventRuns and Events, mixed as they come; an Event becomes a run of one.
pub fn decode_events(bytes: &[u8], limits: &Limits) -> Result<Batch> {
    whole("events", bytes, limits, |r| {
        let runs = r.events()?;
        Ok(Batch { ops: std::mem::take(&mut r.buf), runs })
    })
}

/// Reads `{"peer_id":p,"known_peers":{"peer":counter},"limit":n,"accept":["type"]}`; every field may be left out.
pub fn decode_pull(bytes: &[u8], limits: &Limits) -> Result<PullRequest> {
    whole("", bytes, limits, |r| {
        let (mut peer, mut known) = (Slot::new("peer_id"), Slot::new("known_peers"));
        let (mut limit, mut accept) = (Slot::new("limit"), Slot::new("accept"));
        r.fields(|r, key| match key {
            "peer_id" => peer.set(r.or_null(|r| r.name("peer_id"))),
            "known_peers" => known.set(r.or_null(Reader::versions)),
            "limit" => limit.set(r.or_null(|r| r.clock("limit"))),
            "accept" => accept.set(r.or_null(Reader::names)),
            _ => r.pass(key),
        })?;
        Ok(PullRequest {
            peer_id: peer.take().flatten(),
            known: known.take().flatten().unwrap_or_default(),
            limit: limit.take().flatten(),
            accept: accept.take().flatten().unwrap_or_default(),
        })
    })
}

/// Reads the answer to a push.
pub fn decode_push_response(bytes: &[u8], limits: &Limits) -> Result<PushResponse> {
    whole("", bytes, limits, |r| {
        let (mut accepted, mut duplicate) = (Slot::new("accepted"), Slot::new("duplicate"));
        let (mut frontier, mut versions, mut ahead) =
            (Slot::new("server_frontier"), Slot::new("versions"), Slot::new("ahead"));
        r.fields(|r, key| match key {
            "accepted" => accepted.set(r.clock("accepted")),
            "duplicate" => duplicate.set(r.clock("duplicate")),
            "server_frontier" => frontier.set(r.event_ids(usize::MAX)),
            "versions" => versions.set(r.versions()),
            "ahead" => ahead.set(r.ahead()),
            _ => r.pass(key),
        })?;
        Ok(PushResponse {
            accepted: accepted.need()?,
            duplicate: duplicate.need()?,
            frontier: frontier.need()?,
            versions: versions.need()?,
            ahead: ahead.take().unwrap_or_default(),
        })
    })
}

/// Reads the answer to a pull.
pub fn decode_pull_response(bytes: &[u8], limits: &Limits) -> Result<PullResponse> {
    whole("", bytes, limits, |r| {
        let (mut events, mut frontier) = (Slot::new("events"), Slot::new("server_frontier"));
        let (mut more, mut versions, mut ahead) = (Slot::new("has_more"), Slot::new("versions"), Slot::new("ahead"));
        r.fields(|r, key| match key {
            "events" => events.set(r.events()),
            "server_frontier" => frontier.set(r.event_ids(usize::MAX)),
            "has_more" => more.set(r.scanner.boolean()),
            "versions" => versions.set(r.versions()),
            "ahead" => ahead.set(r.ahead()),
            _ => r.pass(key),
        })?;
        let runs = events.need()?;
        Ok(PullResponse {
            batch: Batch { ops: std::mem::take(&mut r.buf), runs },
            frontier: frontier.need()?,
            has_more: more.need()?,
            versions: versions.need()?,
            ahead: ahead.take().unwrap_or_default(),
        })
    })
}

/// Reads a version vector, `{"peer":counter}`.
pub fn decode_versions(bytes: &[u8], limits: &Limits) -> Result<Versions> {
    whole("versions", bytes, limits, |r| r.versions())
}

/// Reads a frontier, `[EventId]`.
pub fn decode_frontier(bytes: &[u8], limits: &Limits) -> Result<Vec<EventId>> {
    whole("frontier", bytes, limits, |r| r.event_ids(usize::MAX))
}

/// Reads `[["col",v],...]` or `{"col":v,...}` and adds the cells to the insert appended last to `into`. How many; on an
/// error `into` is as it was.
pub fn decode_cells(bytes: &[u8], limits: &Limits, into: &mut OpBuf) -> Result<usize> {
    whole("values", bytes, limits, |r| {
        let cells = r.cells_apart()?;
        into.take_cells(&r.buf)?;
        Ok(cells)
    })
}

/// Checks size and UTF-8, reads, and checks that nothing follows. Paths in errors start with `root`.
fn whole<'a, T>(
    root: &str,
    bytes: &'a [u8],
    limits: &Limits,
    read: impl FnOnce(&mut Reader<'a, '_>) -> Result<T>,
) -> Result<T> {
    within_sum("bytes of a request", bytes.len(), limits.request_bytes)?;
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Error::Malformed { at: format!("byte {}", e.valid_up_to()), what: "not UTF-8".into() })?;
    let mut reader = Reader::new(Scanner::new(text, limits.depth), limits);
    let answer = read(&mut reader).map_err(|e| e.inside(root))?;
    reader.scanner.end().map_err(|e| e.inside(root))?;
    Ok(answer)
}
