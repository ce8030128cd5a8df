//! Why updates exist: a section that is absent when somebody wrote all of them.
//!
//! How many peers, each as length and bytes. Then four columns of integers, each behind its byte length: a code for each
//! update; for each event named its peer's number, its counter, and, where known, its lamport. Codes: 0 explicit, 1 and 2 a
//! rewrite whose root's lamport is unknown, known; 3 a default of a row that was never deleted; 4 and 5 a default since a
//! delete whose lamport is unknown, known.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::bytes::{Input, put_bytes, put_varint};
use super::ints::{self, Ints};
use super::name;
use crate::EventId;
use crate::alloc;
use crate::error::{Error, Result};
use crate::id::MAX_CLOCK;
use crate::limits::Budget;
use crate::ops::{EventRef, Kind, OpBuf, Origin, OriginSlot};

/// Appends the section of a range of operations; nothing when all their updates are explicit.
pub(crate) fn put(out: &mut Vec<u8>, buf: &OpBuf, range: Range<usize>) -> Result<()> {
    let derived = |op: &crate::ops::Op| matches!(op.kind, Kind::Update { origin } if origin != OriginSlot::Explicit);
    if !range.clone().any(|i| derived(buf.stored_op(i))) {
        return Ok(());
    }
    let (mut codes, mut peers, mut counters, mut lamports) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut names, mut numbers) = (Vec::new(), FxHashMap::<&str, i64>::default());
    for i in range {
        let Kind::Update { origin } = buf.stored_op(i).kind else { continue };
        let (code, event) = match origin {
            OriginSlot::Explicit => (0, None),
            OriginSlot::Rewrite(root) => (1, Some(root)),
            OriginSlot::Default(None) => (3, None),
            OriginSlot::Default(since) => (4, since),
        };
        let Some(event) = event.map(|e| buf.stored_ref(e)) else {
            alloc::push(&mut codes, code)?;
            continue;
        };
        alloc::push(&mut codes, code + event.lamport.is_some() as i64)?;
        numbers.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: size_of::<(&str, i64)>() })?;
        let next = names.len() as i64;
        let number = *numbers.entry(&event.id.peer).or_insert(next);
        if number == next {
            alloc::push(&mut names, event.id.peer.as_str())?;
        }
        alloc::push(&mut peers, number)?;
        alloc::push(&mut counters, event.id.counter as i64)?;
        if let Some(lamport) = event.lamport {
            alloc::push(&mut lamports, lamport as i64)?;
        }
    }
    put_varint(out, names.len() as u64);
    for name in names {
        put_bytes(out, name.as_bytes())?;
    }
    for column in [codes, peers, counters, lamports] {
        let mut bytes = Vec::new();
        ints::put(&mut bytes, &column)?;
        put_bytes(out, &bytes)?;
    }
    Ok(())
}

/// Reads origins update by update.
pub(crate) struct Origins<'a> {
    names: Vec<&'a str>,
    codes: Ints<'a>,
    peers: Ints<'a>,
    counters: Ints<'a>,
    lamports: Ints<'a>,
    /// The event named last: its peer's memory is used again.
    event: EventRef,
}

impl<'a> Origins<'a> {
    /// The section of `updates` updates.
    pub fn read(bytes: &'a [u8], updates: usize, budget: &Budget<'_>) -> Result<Self> {
        let mut input = Input::new(bytes);
        let mut names = Vec::new();
        let count = input.size()?;
        if count > input.remaining() {
            return Err(input.bad(format!("{count} peers announced")));
        }
        alloc::reserve(&mut names, count)?;
        for _ in 0..count {
            names.push(name("peer", input.bytes()?, budget.limits)?);
        }
        let codes = Ints::new(input.bytes()?, updates)?;
        let (mut events, mut known) = (0, 0);
        let mut each = codes.clone();
        for _ in 0..updates {
            let code = each.next()?;
            events += matches!(code, 1 | 2 | 4 | 5) as usize;
            known += matches!(code, 2 | 5) as usize;
        }
        let peers = Ints::new(input.bytes()?, events)?;
        let counters = Ints::new(input.bytes()?, events)?;
        let lamports = Ints::new(input.bytes()?, known)?;
        input.done()?;
        let event = EventRef { id: EventId::new("", 0), lamport: None };
        Ok(Origins { names, codes, peers, counters, lamports, event })
    }

    /// The origin of the next update.
    pub fn next(&mut self) -> Result<Origin<'_>> {
        let code = self.codes.next()?;
        match code {
            0 => return Ok(Origin::Explicit),
            3 => return Ok(Origin::Default(None)),
            1 | 2 | 4 | 5 => {}
            _ => return Err(Error::Malformed { at: "origins".into(), what: format!("unknown code {code}") }),
        }
        let number = self.peers.next_size()?;
        let Some(peer) = self.names.get(number) else {
            return Err(Error::Malformed {
                at: "origins".into(),
                what: format!("peer {number} of {}", self.names.len()),
            });
        };
        if self.event.id.peer != *peer {
            self.event.id.peer = alloc::string(peer)?;
        }
        self.event.id.counter = clock("counter", self.counters.next()?)?;
        self.event.lamport = match code {
            2 | 5 => Some(clock("lamport", self.lamports.next()?)?),
            _ => None,
        };
        Ok(if code < 3 { Origin::Rewrite(&self.event) } else { Origin::Default(Some(&self.event)) })
    }
}

fn clock(what: &'static str, n: i64) -> Result<u64> {
    match u64::try_from(n) {
        Ok(n) if n <= MAX_CLOCK => Ok(n),
        _ => Err(Error::ClockRange { what, value: n.to_string() }),
    }
}
