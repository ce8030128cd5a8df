//! Writing. Errors: [`Error::OutOfMemory`], and those of [`codec::encode`] where operations are encoded.

use rustc_hash::FxHashMap;

use super::{LZ4, MAGIC, Type, VERSION, flag, tag};
use crate::alloc;
use crate::codec::{self, put_bytes, put_varint, zigzag};
use crate::error::{Error, Result};
use crate::id::EventId;
use crate::wire::{Ahead, PullRequest, PullResponse, PushRequest, PushResponse, Run, Versions};

/// Sections of a message, and the peers they named so far.
#[derive(Debug, Default)]
struct Writer {
    sections: Vec<u8>,
    peers: Vec<u8>,
    numbers: FxHashMap<String, u64>,
    runs: usize,
}

impl Writer {
    fn section(&mut self, tag: u64, bytes: &[u8]) -> Result<()> {
        alloc::reserve(&mut self.sections, bytes.len() + 20)?;
        put_varint(&mut self.sections, tag);
        put_bytes(&mut self.sections, bytes)
    }

    /// Appends the number of a peer.
    fn peer(&mut self, to: &mut Vec<u8>, peer: &str) -> Result<()> {
        let number = match self.numbers.get(peer) {
            Some(&number) => number,
            None => {
                let number = self.numbers.len() as u64;
                put_bytes(&mut self.peers, peer.as_bytes())?;
                let bytes = size_of::<(String, u64)>();
                self.numbers.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes })?;
                self.numbers.insert(alloc::string(peer)?, number);
                number
            }
        };
        varint(to, number)
    }

    fn event_ids(&mut self, to: &mut Vec<u8>, ids: &[EventId]) -> Result<()> {
        for id in ids {
            self.peer(to, &id.peer)?;
            varint(to, id.counter)?;
        }
        Ok(())
    }

    fn frontier(&mut self, frontier: &[EventId]) -> Result<()> {
        let mut bytes = Vec::new();
        self.event_ids(&mut bytes, frontier)?;
        self.section(tag::FRONTIER, &bytes)
    }

    fn versions(&mut self, tag: u64, versions: &Versions) -> Result<()> {
        let mut bytes = Vec::new();
        for (peer, &counter) in versions {
            self.peer(&mut bytes, peer)?;
            varint(&mut bytes, counter)?;
        }
        self.section(tag, &bytes)
    }

    /// One more than each counter; 0 for none.
    fn ahead(&mut self, ahead: &Ahead) -> Result<()> {
        if ahead.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for (peer, counter) in ahead {
            self.peer(&mut bytes, peer)?;
            varint(&mut bytes, counter.map_or(0, |n| n + 1))?;
        }
        self.section(tag::AHEAD, &bytes)
    }

    /// A run: the length of its head, the head, its operations up to the end of the section.
    fn run(&mut self, run: &Run, ops: &[u8]) -> Result<()> {
        let mut head = Vec::new();
        let flags = if run.txn.is_some() { flag::TXN } else { 0 }
            | if run.actor.is_some() { flag::ACTOR } else { 0 }
            | if run.at.is_some() { flag::AT } else { 0 }
            | if run.schema.is_some() { flag::SCHEMA } else { 0 };
        varint(&mut head, flags)?;
        self.peer(&mut head, &run.peer)?;
        varint(&mut head, run.counter_start)?;
        varint(&mut head, run.lamport_start)?;
        varint(&mut head, run.deps.len() as u64)?;
        self.event_ids(&mut head, &run.deps)?;
        if let Some(txn) = run.txn {
            varint(&mut head, txn)?;
        }
        if let Some(actor) = &run.actor {
            put_bytes(&mut head, actor.as_bytes())?;
        }
        if let Some(at) = run.at {
            varint(&mut head, zigzag(at))?;
        }
        if let Some(schema) = run.schema {
            varint(&mut head, schema)?;
        }
        let mut framed = Vec::new();
        put_bytes(&mut framed, &head)?;
        alloc::reserve(&mut self.sections, framed.len() + ops.len() + 20)?;
        put_varint(&mut self.sections, tag::RUN);
        put_varint(&mut self.sections, (framed.len() + ops.len()) as u64);
        self.sections.extend_from_slice(&framed);
        self.sections.extend_from_slice(ops);
        self.runs += 1;
        Ok(())
    }

    fn finish(mut self, of: Type) -> Result<Vec<u8>> {
        let peers = std::mem::take(&mut self.peers);
        if !peers.is_empty() {
            self.section(tag::PEERS, &peers)?;
        }
        // Blobs are compressed each for itself; what they have in common only shows when many are small.
        let many_small = self.runs > 4 && self.sections.len() / self.runs < 1024;
        let packed = if many_small { codec::compress(&self.sections)? } else { None };
        let mut out = Vec::new();
        alloc::reserve(&mut out, packed.as_ref().map_or(self.sections.len(), Vec::len) + 32)?;
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, of as u8, packed.is_some() as u8 * LZ4 as u8, 0]);
        match packed {
            Some(packed) => {
                put_varint(&mut out, self.sections.len() as u64);
                out.extend_from_slice(&packed);
            }
            None => out.extend_from_slice(&self.sections),
        }
        Ok(out)
    }
}

fn varint(to: &mut Vec<u8>, n: u64) -> Result<()> {
    alloc::reserve(to, 10)?;
    put_varint(to, n);
    Ok(())
}

/// A PushRequest.
pub fn encode_push(request: &PushRequest) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    writer.section(tag::SENDER, request.peer_id.as_bytes())?;
    for run in &request.batch.runs {
        writer.run(run, &codec::encode(&request.batch.ops, run.ops.clone())?)?;
    }
    writer.frontier(&request.frontier)?;
    writer.finish(Type::Push)
}

/// A PullRequest.
pub fn encode_pull(request: &PullRequest) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    if let Some(peer) = &request.peer_id {
        writer.section(tag::SENDER, peer.as_bytes())?;
    }
    writer.versions(tag::VERSIONS, &request.known)?;
    if let Some(limit) = request.limit {
        let mut bytes = Vec::new();
        varint(&mut bytes, limit)?;
        writer.section(tag::LIMIT, &bytes)?;
    }
    if !request.accept.is_empty() {
        let mut bytes = Vec::new();
        request.accept.iter().try_for_each(|name| put_bytes(&mut bytes, name.as_bytes()))?;
        writer.section(tag::ACCEPT, &bytes)?;
    }
    writer.finish(Type::Pull)
}

/// The answer to a push.
pub fn encode_push_response(response: &PushResponse) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    let mut counts = Vec::new();
    varint(&mut counts, response.accepted)?;
    varint(&mut counts, response.duplicate)?;
    writer.section(tag::COUNTS, &counts)?;
    writer.frontier(&response.frontier)?;
    writer.versions(tag::VERSIONS, &response.versions)?;
    writer.ahead(&response.ahead)?;
    writer.finish(Type::PushResponse)
}

/// The answer to a pull.
pub fn encode_pull_response(response: &PullResponse) -> Result<Vec<u8>> {
    let mut writer = PullWriter::new();
    for run in &response.batch.runs {
        writer.run(run, &codec::encode(&response.batch.ops, run.ops.clone())?)?;
    }
    writer.finish(&response.frontier, response.has_more, &response.versions, &response.ahead)
}

/// The answer to a pull, run by run as they are read from the log.
#[derive(Debug, Default)]
pub struct PullWriter(Writer);

impl PullWriter {
    /// Begins an answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run (its `ops` range is not looked at) with its operations as [`codec::encode`] made them.
    pub fn run(&mut self, run: &Run, ops: &[u8]) -> Result<()> {
        self.0.run(run, ops)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.sections.len()
    }

    /// Whether no run was added.
    pub fn is_empty(&self) -> bool {
        self.0.runs == 0
    }

    /// Ends the answer and returns it.
    pub fn finish(
        mut self,
        frontier: &[EventId],
        has_more: bool,
        versions: &Versions,
        ahead: &Ahead,
    ) -> Result<Vec<u8>> {
        self.0.frontier(frontier)?;
        self.0.section(tag::HAS_MORE, &[has_more as u8])?;
        self.0.versions(tag::VERSIONS, versions)?;
        self.0.ahead(ahead)?;
        self.0.finish(Type::PullResponse)
    }
}
