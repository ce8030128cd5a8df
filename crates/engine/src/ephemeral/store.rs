//! All shards together.
//!
//! Positions are drawn under the lock of the shard that changes. So a reader who first notes the last position drawn and
//! then takes each shard's lock once has seen every change up to the position it noted.

use super::register::{Name, Scope};
use super::shard::{Full, Shard, Turn, View, Write, Written};
use crate::alloc;
use crate::error::Result;

/// The memory of a store: shards behind locks, and the counter of positions.
pub trait Memory {
    /// How many shards; at least one.
    fn shards(&self) -> usize;
    /// Runs `body` on a shard under its exclusive lock.
    fn write<R>(&self, shard: usize, body: impl FnOnce(&mut Shard<'_>) -> R) -> R;
    /// Runs `body` on a shard under its lock, which others who read may share.
    fn read<R>(&self, shard: usize, body: impl FnOnce(View<'_>) -> R) -> R;
    /// The last position drawn.
    fn position(&self) -> u64;
    /// Draws the next one.
    fn draw(&self) -> u64;
}

/// Told of what happens to registers besides being written.
pub trait Counts {
    /// A value expired.
    fn expired(&self, db: u32);
    /// A register was dropped to make room.
    fn evicted(&self, db: u32);
    /// A register of a doc was forgotten, whose last position this was. Called under the shard's lock.
    fn forgot(&self, scope: Scope, position: u64);
}

/// A register, copied out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Its doc.
    pub scope: Scope,
    /// By the writer's clock, in milliseconds since 1970.
    pub timestamp: f64,
    /// It shows a value; otherwise it was removed, or has expired.
    pub live: bool,
    /// The position of its last change.
    pub position: u64,
    /// The position at which it came to be there.
    pub joined: u64,
    /// When it expires, in milliseconds since the memory was made.
    pub deadline: u64,
    start: usize,
    lens: (usize, usize, usize, usize),
}

/// Registers, copied out.
#[derive(Default)]
pub struct Found {
    /// One for each.
    pub records: Vec<Record>,
    bytes: Vec<u8>,
}

impl Found {
    fn part(&self, record: &Record, before: usize, len: usize) -> &[u8] {
        &self.bytes[record.start + before..record.start + before + len]
    }

    /// A register's namespace.
    pub fn namespace(&self, record: &Record) -> &[u8] {
        self.part(record, 0, record.lens.0)
    }

    /// Its key.
    pub fn key(&self, record: &Record) -> &[u8] {
        self.part(record, record.lens.0, record.lens.1)
    }

    /// Who wrote it.
    pub fn peer(&self, record: &Record) -> &[u8] {
        self.part(record, record.lens.0 + record.lens.1, record.lens.2)
    }

    /// What it shows.
    pub fn value(&self, record: &Record) -> &[u8] {
        self.part(record, record.lens.0 + record.lens.1 + record.lens.2, record.lens.3)
    }

    /// Copies a register. Errors when there is no memory.
    fn push(&mut self, view: View<'_>, at: u32, now: u64) -> Result<()> {
        let lens = view.lens(at);
        alloc::reserve(&mut self.bytes, lens.0 + lens.1 + lens.2 + lens.3)?;
        let record = Record {
            scope: view.scope(view.doc_of(at)),
            timestamp: view.timestamp(at),
            live: view.is_live(at, now),
            position: view.position(at),
            joined: view.joined(at),
            deadline: view.deadline(at),
            start: self.bytes.len(),
            lens,
        };
        view.bytes(at, |piece| self.bytes.extend_from_slice(piece));
        alloc::push(&mut self.records, record)
    }
}

/// What changed in a doc.
pub struct Changes {
    /// All changes up to here are in it.
    pub position: u64,
    /// The asker's position is too old: something it has may be gone and forgotten. `found` is everything that is there.
    pub too_old: bool,
    /// Registers as they stand now; those not live are gone.
    pub found: Found,
}

/// Registers of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many show a value.
    pub entries: u64,
    /// Bytes they and what is remembered of removed ones take.
    pub bytes: u64,
}

fn shard_of(memory: &impl Memory, name: &Name<'_>) -> usize {
    (name.hash >> 48) as usize % memory.shards()
}

fn with_turn<M: Memory, R>(memory: &M, now: u64, counts: &impl Counts, body: impl FnOnce(&mut Turn<'_>) -> R) -> R {
    body(&mut Turn {
        now,
        draw: &mut || memory.draw(),
        expired: &mut |db| counts.expired(db),
        evicted: &mut |db| counts.evicted(db),
        forgot: &mut |scope, position| counts.forgot(scope, position),
    })
}

/// Lets a write compete. With it comes the register as it stands when the write lost.
pub fn set<M: Memory>(
    memory: &M,
    write: &Write<'_>,
    now: u64,
    counts: &impl Counts,
) -> Result<(std::result::Result<Written, Full>, Found)> {
    let mut found = Found::default();
    let written = memory.write(shard_of(memory, &write.name), |shard| {
        let written = with_turn(memory, now, counts, |turn| shard.write(write, turn));
        if written == Ok(Written::Lost)
            && let Some(at) = shard.view().find(&write.name)
        {
            found.push(shard.view(), at, now)?;
        }
        Ok(written)
    })?;
    Ok((written, found))
}

/// The register of this name, if it shows a value.
pub fn get<M: Memory>(memory: &M, name: &Name<'_>, now: u64) -> Result<Found> {
    let mut found = Found::default();
    memory.read(shard_of(memory, name), |view| match view.find(name) {
        Some(at) if view.is_live(at, now) => found.push(view, at, now),
        _ => Ok(()),
    })?;
    Ok(found)
}

/// Takes a register away. False when it showed nothing.
pub fn remove<M: Memory>(memory: &M, name: &Name<'_>, timestamp: f64, now: u64, counts: &impl Counts) -> bool {
    memory.write(shard_of(memory, name), |shard| {
        let Some(at) = shard.view().find(name) else { return false };
        with_turn(memory, now, counts, |turn| shard.remove(at, timestamp, turn))
    })
}

/// Takes all registers of a doc away, or of one of its namespaces, and all memory of older removals: any later write counts.
/// Returns how many showed a value.
pub fn clear<M: Memory>(
    memory: &M,
    scope: Scope,
    scope_hash: u64,
    namespace: Option<&[u8]>,
    now: u64,
    counts: &impl Counts,
) -> u64 {
    let clear_shard = |shard: &mut Shard<'_>| {
        let Some(doc) = shard.view().find_doc(scope, scope_hash) else { return 0 };
        let mut cleared = 0;
        // Cleared registers become the first of the list: it is walked once, from the old first on.
        let mut next = shard.view().registers(doc).next();
        while let Some(at) = next {
            next = shard.view().older(at);
            if namespace.is_none_or(|wanted| shard.view().is_in(at, wanted)) {
                cleared += u64::from(with_turn(memory, now, counts, |turn| shard.clear(at, turn)));
            }
        }
        cleared
    };
    (0..memory.shards()).map(|shard| memory.write(shard, clear_shard)).sum()
}

/// The live registers of a doc, or of one of its namespaces.
pub fn list<M: Memory>(memory: &M, scope: Scope, scope_hash: u64, namespace: Option<&[u8]>, now: u64) -> Result<Found> {
    let mut found = Found::default();
    for shard in 0..memory.shards() {
        memory.read(shard, |view| {
            let Some(doc) = view.find_doc(scope, scope_hash) else { return Ok(()) };
            for at in view.registers(doc) {
                if view.is_live(at, now) && namespace.is_none_or(|wanted| view.is_in(at, wanted)) {
                    found.push(view, at, now)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// The live registers of a database.
pub fn list_all<M: Memory>(memory: &M, db: u32, log: u32, now: u64) -> Result<Found> {
    let mut found = Found::default();
    for shard in 0..memory.shards() {
        memory.read(shard, |view| {
            for doc in view.docs().filter(|doc| is_in(view, *doc, db, log)) {
                for at in view.registers(doc).filter(|at| view.is_live(*at, now)) {
                    found.push(view, at, now)?;
                }
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// What changed in a doc after a position, up to `until` or what was drawn last.
pub fn since<M: Memory>(
    memory: &M,
    scope: Scope,
    scope_hash: u64,
    position: u64,
    until: Option<u64>,
    now: u64,
) -> Result<Changes> {
    let until = until.unwrap_or_else(|| memory.position());
    let mut found = Found::default();
    for shard in 0..memory.shards() {
        let answered = memory.read(shard, |view| {
            let Some(doc) = view.find_doc(scope, scope_hash) else { return Ok(position >= view.forgotten(scope_hash)) };
            if position < view.doc_forgotten(doc) {
                return Ok(false);
            }
            let newer = view.registers(doc).take_while(|at| view.position(*at) > position);
            for at in newer.filter(|at| view.position(*at) <= until) {
                found.push(view, at, now)?;
            }
            Ok(true)
        })?;
        if !answered {
            return everything(memory, scope, scope_hash, now);
        }
    }
    Ok(Changes { position: until, too_old: false, found })
}

/// Everything that is there in a doc, for who has no position or one that is too old.
pub fn everything<M: Memory>(memory: &M, scope: Scope, scope_hash: u64, now: u64) -> Result<Changes> {
    let position = memory.position();
    Ok(Changes { position, too_old: true, found: list(memory, scope, scope_hash, None, now)? })
}

/// The docs of a database in which something changed after a position, each once, ascending; and the position up to which
/// that holds. A change that was forgotten since is not in it: see [`Counts::forgot`].
pub fn changed_docs<M: Memory>(memory: &M, db: u32, position: u64) -> Result<(u64, Vec<Scope>)> {
    let until = memory.position();
    let mut docs = Vec::new();
    for shard in 0..memory.shards() {
        memory.read(shard, |view| {
            let newer = view.docs().take_while(|doc| view.doc_position(*doc) > position);
            for doc in newer.filter(|doc| view.scope(*doc).db == db) {
                alloc::push(&mut docs, view.scope(doc))?;
            }
            Ok(())
        })?;
    }
    docs.sort_unstable();
    docs.dedup();
    Ok((until, docs))
}

/// Lets pass what time has brought: values expire, removals are forgotten. Locks are held for a portion at a time.
pub fn turn<M: Memory>(memory: &M, now: u64, counts: &impl Counts) {
    while !turn_a_portion(memory, now, counts) {}
}

/// The same, a portion of each shard at most: for whoever waits for an answer. False when there is more to do.
pub fn turn_a_portion<M: Memory>(memory: &M, now: u64, counts: &impl Counts) -> bool {
    const PORTION: usize = 500;
    let turn_shard = |shard: &mut Shard<'_>| with_turn(memory, now, counts, |turn| shard.turn(PORTION, turn));
    let is_due = |shard| memory.read(shard, |view| view.is_due(now));
    (0..memory.shards()).filter(|shard| is_due(*shard) && !memory.write(*shard, turn_shard)).count() == 0
}

/// When [`turn`] has something to do next, in milliseconds since the memory was made.
pub fn next_due<M: Memory>(memory: &M) -> Option<u64> {
    (0..memory.shards()).filter_map(|shard| memory.read(shard, |view| view.next_due())).min()
}

/// What a database's registers take.
pub fn usage<M: Memory>(memory: &M, db: u32) -> Usage {
    let mut usage = Usage::default();
    for shard in 0..memory.shards() {
        memory.read(shard, |view| {
            for doc in view.docs().filter(|doc| view.scope(*doc).db == db) {
                let (entries, blocks) = view.doc_size(doc);
                usage.entries += u64::from(entries);
                usage.bytes += (u64::from(blocks) + 1) * size_of::<super::block::Block>() as u64;
            }
        });
    }
    usage
}

/// Drops all registers of a database, or of its former installations: those that are not `keep`.
pub fn drop_database<M: Memory>(memory: &M, db: u32, keep: Option<u32>) {
    for shard in 0..memory.shards() {
        memory.write(shard, |shard| {
            let gone = |view: View<'_>, doc: u32| view.scope(doc).db == db && Some(view.scope(doc).log) != keep;
            loop {
                let view = shard.view();
                let Some(at) = view.docs().find(|doc| gone(view, *doc)).and_then(|doc| view.registers(doc).next())
                else {
                    break;
                };
                // Readers of a database that is gone are gone too; those of a former installation start anew.
                let position = if keep.is_some() { memory.draw() } else { view.position(at) };
                shard.forget(at, position);
            }
        });
    }
}

fn is_in(view: View<'_>, doc: u32, db: u32, log: u32) -> bool {
    let scope = view.scope(doc);
    scope.db == db && scope.log == log
}
