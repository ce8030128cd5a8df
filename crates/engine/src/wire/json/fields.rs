//! Objects field by field, and the small things they hold: names, clocks, event ids, version vectors.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::alloc;
use crate::error::{Error, Result};
use crate::id::{EventId, MAX_CLOCK};
use crate::limits::{Budget, Limits, within};
use crate::ops::{OpBuf, Sym};
use crate::scan::Scanner;
use crate::wire::{Ahead, Versions};

/// A field of an object: absent, or set once.
pub(super) struct Slot<T> {
    name: &'static str,
    value: Option<T>,
}

impl<T> Slot<T> {
    pub fn new(name: &'static str) -> Self {
        Slot { name, value: None }
    }

    /// Takes what was read; the error if that is one, or the field was set before.
    #[inline]
    pub fn set(&mut self, read: Result<T>) -> Result<()> {
        match read {
            Ok(value) if self.value.is_none() => {
                self.value = Some(value);
                Ok(())
            }
            Ok(_) => Err(Error::Malformed { at: self.name.into(), what: "the field stands twice".into() }),
            Err(e) => Err(e.inside(self.name)),
        }
    }

    pub fn take(&mut self) -> Option<T> {
        self.value.take()
    }

    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    pub fn need(&mut self) -> Result<T> {
        let missing = || Error::Malformed { at: self.name.into(), what: "the field is missing".into() };
        self.value.take().ok_or_else(missing)
    }
}

/// Reads a request: what is left of its text, its operations so far, what of its limits is used.
pub(super) struct Reader<'a, 'l> {
    pub scanner: Scanner<'a>,
    pub budget: Budget<'l>,
    pub buf: OpBuf,
    /// Columns of the insert being read, and those of the one before, which are known to be distinct.
    pub columns: Vec<Sym>,
    pub distinct: Vec<Sym>,
}

impl<'a, 'l> Reader<'a, 'l> {
    pub fn new(scanner: Scanner<'a>, limits: &'l Limits) -> Self {
        let budget = Budget::new(limits);
        Reader { scanner, budget, buf: OpBuf::new(), columns: Vec::new(), distinct: Vec::new() }
    }

    /// Reads an object; `field` is called with each key and must read its value.
    pub fn fields(&mut self, mut field: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        self.scanner.object()?;
        let mut first = true;
        while let Some(key) = self.scanner.key(&mut first)? {
            field(self, &key)?;
        }
        Ok(())
    }

    /// Reads an array; `item` must read an item. The index of the item that failed is put before its error.
    pub fn items(&mut self, mut item: impl FnMut(&mut Self, usize) -> Result<()>) -> Result<()> {
        self.scanner.array()?;
        let (mut first, mut index) = (true, 0);
        while self.scanner.item(&mut first)? {
            item(self, index).map_err(|e| e.inside(&format!("[{index}]")))?;
            index += 1;
        }
        Ok(())
    }

    /// Passes over the value of an unknown field.
    pub fn pass(&mut self, key: &str) -> Result<()> {
        self.scanner.skip().map(|_| ()).map_err(|e| e.inside(shortened(key)))
    }

    /// `null` is as good as absent.
    pub fn or_null<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.scanner.null()? { Ok(None) } else { read(self).map(Some) }
    }

    /// A table, column, peer or type name: not empty, within the limit.
    pub fn short(&mut self, what: &str) -> Result<Cow<'a, str>> {
        let name = self.scanner.string()?;
        within("bytes of a name", name.len(), self.budget.limits.name_bytes)?;
        if name.is_empty() {
            return Err(Error::Malformed { at: String::new(), what: format!("an empty {what}") });
        }
        Ok(name)
    }

    /// [`Reader::short`], to keep.
    pub fn name(&mut self, what: &str) -> Result<String> {
        match self.short(what)? {
            Cow::Borrowed(name) => alloc::string(name),
            Cow::Owned(name) => Ok(name),
        }
    }

    /// An array of names.
    pub fn names(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.items(|r, _| {
            within("types of operations", names.len() + 1, r.budget.limits.deps_per_run)?;
            let name = r.name("name")?;
            alloc::push(&mut names, name)
        })?;
        Ok(names)
    }

    /// A counter, a lamport or another number from 0 to 2^53-1.
    pub fn clock(&mut self, what: &'static str) -> Result<u64> {
        let text = self.integer()?;
        match text.parse::<u64>() {
            Ok(n) if n <= MAX_CLOCK => Ok(n),
            _ => Err(Error::ClockRange { what, value: alloc::string(shortened(text))? }),
        }
    }

    /// Wall time: an integer of either sign.
    pub fn wall(&mut self, what: &'static str) -> Result<i64> {
        let text = self.integer()?;
        match text.parse::<i64>() {
            Ok(n) if n.unsigned_abs() <= MAX_CLOCK => Ok(n),
            _ => Err(Error::ClockRange { what, value: alloc::string(shortened(text))? }),
        }
    }

    /// A number without point and exponent.
    fn integer(&mut self) -> Result<&'a str> {
        let is_number = matches!(self.scanner.peek()?, b'-' | b'0'..=b'9');
        let found = if is_number { self.scanner.number()? } else { self.scanner.skip()? };
        if is_number && !found.contains(['.', 'e', 'E']) {
            return Ok(found);
        }
        Err(self.scanner.bad(format!("expected an integer, found {}", shortened(found))))
    }

    /// `["peer", counter]`.
    pub fn event_id(&mut self) -> Result<EventId> {
        let (mut peer, mut counter) = (None, None);
        self.items(|r, i| match i {
            0 => r.name("peer").map(|p| peer = Some(p)),
            1 => r.clock("counter").map(|c| counter = Some(c)),
            _ => Err(r.scanner.bad("an event id is a peer and a counter")),
        })?;
        match (peer, counter) {
            (Some(peer), Some(counter)) => Ok(EventId { peer, counter }),
            _ => Err(self.scanner.bad("an event id is a peer and a counter")),
        }
    }

    /// `[EventId]`, at most `limit` of them.
    pub fn event_ids(&mut self, limit: usize) -> Result<Vec<EventId>> {
        let mut ids = Vec::new();
        self.items(|r, _| {
            within("event ids of a run", ids.len() + 1, limit)?;
            r.budget.add_deps(1)?;
            let id = r.event_id()?;
            alloc::push(&mut ids, id)
        })?;
        Ok(ids)
    }

    /// `{"peer": counter}`.
    pub fn versions(&mut self) -> Result<Versions> {
        self.by_peer(|r| r.clock("counter"))
    }

    /// `{"peer": counter or null}`.
    pub fn ahead(&mut self) -> Result<Ahead> {
        self.by_peer(|r| r.or_null(|r| r.clock("counter")))
    }

    fn by_peer<T>(&mut self, mut value: impl FnMut(&mut Self) -> Result<T>) -> Result<BTreeMap<String, T>> {
        let mut versions = BTreeMap::new();
        let mut first = true;
        self.scanner.object()?;
        while let Some(peer) = self.scanner.key(&mut first)? {
            within("bytes of a name", peer.len(), self.budget.limits.name_bytes)?;
            within("peers of a version vector", versions.len() + 1, self.budget.limits.runs)?;
            let counter = value(self).map_err(|e| e.inside(shortened(&peer)))?;
            if peer.is_empty() || versions.insert(alloc::string(&peer)?, counter).is_some() {
                return Err(self.scanner.bad(format!("peer {:?} is empty or stands twice", shortened(&peer))));
            }
        }
        Ok(versions)
    }
}

/// The start of a text, for messages.
pub(super) fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(64)).rev().find(|&i| text.is_char_boundary(i));
    &text[..end.unwrap_or(0)]
}
