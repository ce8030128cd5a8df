//! Reading. Errors of all readers here: those of [`codec::decode`].

use std::borrow::Cow;
use std::ops::Range;

use super::{LZ4, MAGIC, Type, VERSION, flag, tag};
use crate::alloc;
use crate::codec::{self, Input, unzigzag};
use crate::error::{Error, Result};
use crate::id::{EventId, MAX_CLOCK};
use crate::limits::{Budget, Limits, within, within_sum};
use crate::wire::{Ahead, Batch, PullRequest, PullResponse, PushRequest, PushResponse, Run, Versions};

/// A message whose operations are still encoded: for whoever stores or forwards them.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Which message it is.
    pub of: Type,
    /// Who sent it; `None` where absent.
    pub sender: Option<String>,
    /// Its runs, `ops` empty.
    pub runs: Vec<Run>,
    /// Heads: the sender's in a request, the hub's in an answer.
    pub frontier: Vec<EventId>,
    /// What is known, or reached.
    pub versions: Versions,
    /// See [`PullResponse::has_more`].
    pub has_more: bool,
    /// See [`PullRequest::limit`].
    pub limit: Option<u64>,
    /// See [`PullRequest::accept`].
    pub accept: Vec<String>,
    /// See [`PushResponse::accepted`].
    pub accepted: u64,
    /// See [`PushResponse::duplicate`].
    pub duplicate: u64,
    /// See [`PushResponse::ahead`].
    pub ahead: Ahead,
    body: Cow<'a, [u8]>,
    /// Where in the body the operations of each run lie.
    blobs: Vec<Range<usize>>,
}

impl<'a> Message<'a> {
    /// Reads all but the operations; of those only how many counters they take. Errors: those of [`codec::decode`].
    pub fn read(bytes: &'a [u8], limits: &Limits) -> Result<Self> {
        within_sum("bytes of a request", bytes.len(), limits.request_bytes)?;
        let (of, body) = open(bytes, limits)?;
        let mut message = Message {
            of,
            sender: None,
            runs: Vec::new(),
            frontier: Vec::new(),
            versions: Versions::new(),
            has_more: false,
            limit: None,
            accept: Vec::new(),
            accepted: 0,
            duplicate: 0,
            ahead: Ahead::new(),
            body: Cow::Borrowed(&[]),
            blobs: Vec::new(),
        };
        message.sections(&body, limits)?;
        message.body = body;
        Ok(message)
    }

    /// The operations of a run, encoded.
    pub fn ops(&self, run: usize) -> &[u8] {
        &self.body[self.blobs[run].clone()]
    }

    /// The runs with their operations decoded. Errors: those of [`codec::decode`], with the run in their path.
    pub fn into_batch(mut self, limits: &Limits) -> Result<Batch> {
        let mut budget = Budget::new(limits);
        let mut batch = Batch::default();
        for (i, blob) in self.blobs.iter().enumerate() {
            let ops = codec::decode_within(&self.body[blob.clone()], &mut budget, &mut batch.ops);
            self.runs[i].ops = ops.map_err(|e| e.inside(&format!("events[{i}].ops")))?;
        }
        batch.runs = self.runs;
        Ok(batch)
    }

    fn sections(&mut self, body: &[u8], limits: &Limits) -> Result<()> {
        let peers = peers(body, limits)?;
        let mut budget = Budget::new(limits);
        let mut input = Input::new(body);
        let mut seen = 0u64;
        while !input.is_empty() {
            let tag = input.varint()?;
            let bytes = input.bytes()?;
            if tag < 64 && tag != tag::RUN {
                if seen >> tag & 1 == 1 {
                    return Err(input.bad(format!("section {tag} twice")));
                }
                seen |= 1 << tag;
            }
            let end = body.len() - input.remaining();
            let mut section = Input::new(bytes);
            match tag {
                tag::RUN => {
                    let at = format!("events[{}]", self.runs.len());
                    self.run(section, end, &peers, &mut budget).map_err(|e| e.inside(&at))?;
                    continue;
                }
                tag::SENDER => self.sender = Some(alloc::string(codec::name("peer_id", section.rest(), limits)?)?),
                tag::FRONTIER => self.frontier = event_ids(&mut section, None, &peers, &mut budget)?,
                tag::VERSIONS => self.versions = versions(&mut section, &peers, limits)?,
                tag::AHEAD => self.ahead = ahead(&mut section, &peers, limits)?,
                tag::HAS_MORE => self.has_more = section.varint()? != 0,
                tag::LIMIT => self.limit = Some(clock(&mut section, "limit")?),
                tag::ACCEPT => self.accept = names(&mut section, limits)?,
                tag::COUNTS => {
                    self.accepted = clock(&mut section, "accepted")?;
                    self.duplicate = clock(&mut section, "duplicate")?;
                }
                _ => continue,
            }
            section.done()?;
        }
        Ok(())
    }

    /// A run whose section ends at `end` of the body.
    fn run(&mut self, mut section: Input<'_>, end: usize, peers: &[&str], budget: &mut Budget<'_>) -> Result<()> {
        within_sum("runs of a request", self.runs.len() + 1, budget.limits.runs)?;
        let mut head = Input::new(section.bytes()?);
        let blob = section.rest();
        let flags = head.varint()?;
        let peer = alloc::string(peer(&mut head, peers)?)?;
        let (counter_start, lamport_start) = (clock(&mut head, "counter_start")?, clock(&mut head, "lamport_start")?);
        let deps = head.size()?;
        within("event ids of a run", deps, budget.limits.deps_per_run)?;
        let deps = event_ids(&mut head, Some(deps), peers, budget)?;
        let mut run = Run { peer, counter_start, lamport_start, deps, ..Run::default() };
        if flags & flag::TXN != 0 {
            run.txn = Some(clock(&mut head, "txn")?);
        }
        if flags & flag::ACTOR != 0 {
            run.actor = Some(alloc::string(codec::name("actor", head.bytes()?, budget.limits)?)?);
        }
        if flags & flag::AT != 0 {
            let at = unzigzag(head.varint()?);
            let outside = || Error::ClockRange { what: "at", value: at.to_string() };
            run.at = Some(at).filter(|n| n.unsigned_abs() <= MAX_CLOCK).ok_or_else(outside).map(Some)?;
        }
        if flags & flag::SCHEMA != 0 {
            run.schema = Some(clock(&mut head, "schema")?);
        }
        // What follows in the head is of a later version.
        run.check(codec::spans(blob).map_err(|e| e.inside("ops"))?)?;
        alloc::push(&mut self.runs, run)?;
        alloc::push(&mut self.blobs, end - blob.len()..end)
    }
}

fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(Type, Cow<'a, [u8]>)> {
    let mut input = Input::new(bytes);
    if input.take(2)? != MAGIC {
        return Err(input.bad("not a binary request"));
    }
    let version = input.byte()?;
    if version != VERSION {
        return Err(Error::Unsupported { what: "version of the binary wire", value: version as u64 });
    }
    let of = match input.byte()? {
        1 => Type::Push,
        2 => Type::Pull,
        3 => Type::PushResponse,
        4 => Type::PullResponse,
        other => return Err(Error::Unsupported { what: "message type", value: other as u64 }),
    };
    let critical = input.varint()?;
    let _optional = input.varint()?;
    if critical & !LZ4 != 0 {
        return Err(Error::Unsupported { what: "critical features of the binary wire", value: critical & !LZ4 });
    }
    match critical & LZ4 {
        0 => Ok((of, Cow::Borrowed(input.rest()))),
        _ => Ok((of, Cow::Owned(codec::expand(&mut input, &mut Budget::new(limits))?))),
    }
}

/// The peer names; they stand behind what names them by number, so they are looked for first.
fn peers<'b>(body: &'b [u8], limits: &Limits) -> Result<Vec<&'b str>> {
    let mut input = Input::new(body);
    let mut peers = Vec::new();
    while !input.is_empty() {
        let tag = input.varint()?;
        let bytes = input.bytes()?;
        if tag == tag::PEERS {
            let mut section = Input::new(bytes);
            while !section.is_empty() {
                within_sum("peers of a request", peers.len() + 1, limits.runs)?;
                alloc::push(&mut peers, codec::name("peer", section.bytes()?, limits)?)?;
            }
            break;
        }
    }
    Ok(peers)
}

fn peer<'p>(input: &mut Input<'_>, peers: &[&'p str]) -> Result<&'p str> {
    let number = input.size()?;
    peers.get(number).copied().ok_or_else(|| input.bad(format!("peer {number} of {}", peers.len())))
}

fn clock(input: &mut Input<'_>, what: &'static str) -> Result<u64> {
    match input.varint()? {
        n if n <= MAX_CLOCK => Ok(n),
        n => Err(Error::ClockRange { what, value: n.to_string() }),
    }
}

/// As many event ids as are said, or those up to the end.
fn event_ids(
    input: &mut Input<'_>,
    count: Option<usize>,
    peers: &[&str],
    budget: &mut Budget<'_>,
) -> Result<Vec<EventId>> {
    let mut ids = Vec::new();
    while count.map_or(!input.is_empty(), |n| ids.len() < n) {
        budget.add_deps(1)?;
        let peer = alloc::string(peer(input, peers)?)?;
        let counter = clock(input, "counter")?;
        alloc::push(&mut ids, EventId { peer, counter })?;
    }
    Ok(ids)
}

fn versions(input: &mut Input<'_>, peers: &[&str], limits: &Limits) -> Result<Versions> {
    let mut versions = Versions::new();
    while !input.is_empty() {
        within("peers of a version vector", versions.len() + 1, limits.runs)?;
        let peer = alloc::string(peer(input, peers)?)?;
        let counter = clock(input, "counter")?;
        if versions.insert(peer, counter).is_some() {
            return Err(input.bad("a peer twice in a version vector"));
        }
    }
    Ok(versions)
}

/// Each counter is told as one more than it is; 0 says that there is none.
fn ahead(input: &mut Input<'_>, peers: &[&str], limits: &Limits) -> Result<Ahead> {
    let mut ahead = Ahead::new();
    while !input.is_empty() {
        within("peers of a version vector", ahead.len() + 1, limits.runs)?;
        let peer = alloc::string(peer(input, peers)?)?;
        let counter = match input.varint()? {
            n if n <= MAX_CLOCK + 1 => n.checked_sub(1),
            n => return Err(Error::ClockRange { what: "counter", value: n.to_string() }),
        };
        if ahead.insert(peer, counter).is_some() {
            return Err(input.bad("a peer twice in a version vector"));
        }
    }
    Ok(ahead)
}

fn names(input: &mut Input<'_>, limits: &Limits) -> Result<Vec<String>> {
    let mut names = Vec::new();
    while !input.is_empty() {
        within("types of operations", names.len() + 1, limits.deps_per_run)?;
        alloc::push(&mut names, alloc::string(codec::name("accept", input.bytes()?, limits)?)?)?;
    }
    Ok(names)
}

fn expect<'a>(bytes: &'a [u8], limits: &Limits, of: Type) -> Result<Message<'a>> {
    let message = Message::read(bytes, limits)?;
    if message.of != of {
        let what = format!("expected {of:?}, found {:?}", message.of);
        return Err(Error::Malformed { at: "byte 3".into(), what });
    }
    Ok(message)
}

/// A PushRequest.
pub fn decode_push(bytes: &[u8], limits: &Limits) -> Result<PushRequest> {
    let mut message = expect(bytes, limits, Type::Push)?;
    let missing = || Error::Malformed { at: "peer_id".into(), what: "the field is missing".into() };
    let peer_id = message.sender.take().ok_or_else(missing)?;
    let frontier = std::mem::take(&mut message.frontier);
    Ok(PushRequest { peer_id, batch: message.into_batch(limits)?, frontier })
}

/// A PullRequest.
pub fn decode_pull(bytes: &[u8], limits: &Limits) -> Result<PullRequest> {
    let m = expect(bytes, limits, Type::Pull)?;
    Ok(PullRequest { peer_id: m.sender, known: m.versions, limit: m.limit, accept: m.accept })
}

/// The answer to a push.
pub fn decode_push_response(bytes: &[u8], limits: &Limits) -> Result<PushResponse> {
    let m = expect(bytes, limits, Type::PushResponse)?;
    Ok(PushResponse {
        accepted: m.accepted,
        duplicate: m.duplicate,
        frontier: m.frontier,
        versions: m.versions,
        ahead: m.ahead,
    })
}

/// The answer to a pull, its operations decoded; [`Message::read`] leaves them encoded.
pub fn decode_pull_response(bytes: &[u8], limits: &Limits) -> Result<PullResponse> {
    let mut m = expect(bytes, limits, Type::PullResponse)?;
    let (frontier, versions) = (std::mem::take(&mut m.frontier), std::mem::take(&mut m.versions));
    let (has_more, ahead) = (m.has_more, std::mem::take(&mut m.ahead));
    Ok(PullResponse { batch: m.into_batch(limits)?, frontier, has_more, versions, ahead })
}
