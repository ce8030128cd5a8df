//! Buffered operations into the log: as consecutive events of a slot's peer (design, section 5).
//!
//! The order of steps matters and was model-checked: slot, tail, deps, announcements, greatest lamport, write.

use std::cell::RefCell;

use crdt_engine::id::EventId;
use rustc_hash::{FxHashMap, FxHashSet};
use xxhash_rust::xxh3::xxh3_64;

use crate::broadcast;
use crate::buffer::{self, DocBuffer};
use crate::catalog;
use crate::docstate::{self, Commit, DocKey, Head, Known, Tail};
use crate::error::{Error, Result, state};
use crate::pg::lock::{self, Space};
use crate::pg::relation::{Lock, Relation, Snapshot};
use crate::pg::xact::{self, End};
use crate::pg::{self, entry, executor, spi};
use crate::spans;
use crate::store::{self, Author, NewRun};
use crate::tail::{self, Batch};

/// Slots of a doc: transactions that commit at the same moment.
const MAX_SLOTS: usize = 4096;
/// Docs share slot locks by bucket, so that a transaction over many docs takes few.
const SLOT_BUCKETS: u32 = 1024;

/// Memory that is kept for the next transaction: of so many docs, and so many heads of one.
const SPARE_DOCS: usize = 64;
const SPARE_HEADS: usize = 64;

/// What this transaction has written to one doc's log.
#[derive(Default)]
struct Written {
    slot: Option<Slot>,
    /// Greatest lamports written, by savepoint.
    lamports: Vec<(i32, u64)>,
    events: u64,
    heads: Vec<Head>,
    covered: Vec<(i32, u64)>,
    /// The deepest savepoint something was written in.
    level: i32,
    /// A savepoint with writes was rolled back: heads and tails have to be read from the log again.
    doubtful: bool,
}

impl Written {
    /// Greatest lamport written and not rolled back.
    fn lamport(&self) -> u64 {
        self.lamports.iter().map(|(_, lamport)| *lamport).max().unwrap_or(0)
    }

    fn raise(&mut self, level: i32, lamport: u64) {
        match self.lamports.last_mut() {
            Some((known, greatest)) if *known == level => *greatest = lamport.max(*greatest),
            _ => self.lamports.push((level, lamport)),
        }
    }
}

/// The slot this transaction writes as.
#[derive(Clone, Copy)]
struct Slot {
    number: usize,
    /// 0: not known.
    peer: i32,
    /// The peer it was before a savepoint was rolled back; 0: none.
    former: i32,
    /// The nesting level its lock was taken at.
    level: i32,
    /// The next counter, unless a savepoint that wrote was rolled back.
    next: Option<u64>,
    /// The length of its tail: see [`tail::append`].
    length: Option<u32>,
}

impl Slot {
    /// What others are told at the end; nothing if they have to look themselves.
    fn tail(&self) -> Option<(usize, Tail)> {
        let length = self.length.map_or(0, |runs| runs + 1);
        Some((self.number, Tail { peer: self.peer, next: self.next?, length }))
    }
}

#[derive(Default)]
struct Transaction {
    docs: FxHashMap<i64, Written>,
    /// Our pre-commit work is done: what is captured from now on is written at once.
    past_commit: bool,
    /// A push ran: it must not be prepared.
    pushed: bool,
    /// Something was written that readers get in one piece with all else of this transaction.
    joined: bool,
    /// Docs that others know to be written by us.
    writing: FxHashSet<i64>,
    /// Memory of an earlier transaction's.
    spare: Written,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> = RefCell::new(Transaction::default());
}

/// The doc's key in shared memory.
pub fn doc_key(doc: i64) -> DocKey {
    DocKey { db: pg::database(), log: catalog::log_oid(), doc }
}

/// Writes a doc's buffered operations as runs of this transaction's slot, and empties the buffer.
pub fn write(doc: i64, buffer: &mut DocBuffer) -> Result<()> {
    if buffer.batch.is_some() {
        write_part(doc, buffer)?;
        return end_batch(doc, buffer);
    }
    append_unwritten(doc, buffer, |author, slot, runs| tail::append(author, slot.number, slot.length, runs))
}

/// The same for a part of what is being written: nobody finds its rows before [`end_batch`] or [`write`].
pub fn write_part(doc: i64, buffer: &mut DocBuffer) -> Result<()> {
    let mut batch = buffer.batch.take().unwrap_or_else(|| {
        buffer.batch_level = xact::nest_level();
        Batch::default()
    });
    append_unwritten(doc, buffer, |author, slot, runs| batch.append(author, runs).map(|()| slot.length))?;
    buffer.batch = Some(batch);
    Ok(())
}

/// Ends what [`write_part`] began.
pub fn end_batch(doc: i64, buffer: &mut DocBuffer) -> Result<()> {
    let Some(batch) = buffer.batch.take() else { return Ok(()) };
    let slot = TRANSACTION.with_borrow(|t| t.docs.get(&doc)?.slot).expect("a part was written as it");
    let length = batch.end(doc, slot.length)?;
    note(doc, Some(Slot { length, ..slot }), 0, 0, &[], &[]);
    Ok(())
}

/// Has `append` append what is buffered, and empties the buffer. `append` answers the length of the slot's tail.
fn append_unwritten(
    doc: i64,
    buffer: &mut DocBuffer,
    append: impl FnOnce(&Author<'_>, &Slot, &[NewRun]) -> Result<Option<u32>>,
) -> Result<()> {
    let range = buffer.unwritten();
    if range.is_empty() {
        return Ok(());
    }
    let slot = take_slot(doc)?;
    let (slot, next, known) = read_tail(doc, slot)?;
    let deps = visible_heads(doc, &known);
    let own_lamport = TRANSACTION.with_borrow(|t| t.docs.get(&doc).map_or(0, Written::lamport));
    let mut lamport = known.max_lamport.max(own_lamport) + 1;
    let mut counter = next;
    let mut runs = Vec::new();
    let mut from = range.start;
    while from < range.end {
        entry::check_interrupts();
        let to = store::cut(&buffer.ops, from, range.end);
        let mut run = store::encode(&buffer.ops, from, to, counter, lamport)?;
        if from == range.start {
            run.deps = deps.iter().filter(|h| h.peer != slot.peer).map(|h| (h.peer, h.counter)).collect();
        }
        lamport += run.counter_end - run.counter_start + 1;
        counter = run.counter_end + 1;
        from = to;
        runs.push(run);
    }
    if lamport > crdt_engine::id::MAX_CLOCK {
        return Err(Error::new(state::CLOCK_RANGE, format!("the clock of doc {doc} has reached its end, 2^53-1")));
    }
    let actor = spi::current_user_name();
    let at = if buffer.apart { pg::now_micros() - pg::FROM_1970_TO_2000 } else { xact::started_at() };
    TRANSACTION.with_borrow_mut(|t| t.joined |= !buffer.apart);
    let author = Author { doc, peer: slot.peer, txn: xact::full_xid(), at, actor: &actor };
    let length = append(&author, &slot, &runs)?;
    buffer.written();
    let covered: Vec<(i32, u64)> = deps.iter().map(|h| (h.peer, h.counter)).collect();
    let head = Head { peer: slot.peer, xid: xact::xid_if_any(), counter: counter - 1 };
    note(doc, Some(Slot { next: Some(counter), length, ..slot }), lamport - 1, counter - next, &[head], &covered);
    Ok(())
}

/// Reads what is known of a doc. The first time in a transaction pushes learn with it that a run is on its way.
fn begin_write(doc: i64, slot: usize) -> Known {
    let new = TRANSACTION.with_borrow_mut(|t| t.writing.insert(doc));
    let read = if new { docstate::begin_write } else { docstate::known };
    read(doc_key(doc), slot)
}

/// See [`docstate::quiet`]. A prepared transaction may have written before this server started, and is not counted: whether
/// there is one is asked last, because who prepares is counted until it is to be seen as prepared.
pub fn quiet(doc: i64) -> Option<u64> {
    let own = TRANSACTION.with_borrow(|t| u32::from(t.writing.contains(&doc)));
    docstate::quiet(doc_key(doc), own).filter(|_| !xact::any_prepared())
}

/// Remembers what was written, for the end of the transaction.
fn note(doc: i64, slot: Option<Slot>, lamport: u64, events: u64, heads: &[Head], covered: &[(i32, u64)]) {
    TRANSACTION.with_borrow_mut(|t| {
        let spare = &mut t.spare;
        let written = t.docs.entry(doc).or_insert_with(|| std::mem::take(spare));
        written.level = written.level.max(xact::nest_level());
        written.slot = slot.or(written.slot);
        written.raise(xact::nest_level(), lamport);
        written.events += events;
        written.covered.extend_from_slice(covered);
        for head in heads {
            written.heads.retain(|h| h.peer != head.peer);
            written.heads.push(*head);
        }
        let covered = &written.covered;
        written.heads.retain(|h| !covered.iter().any(|(p, c)| *p == h.peer && *c >= h.counter));
    });
}

/// The next event of this transaction's own: its id, lamport and deps. To be appended by the caller, who then says
/// [`advance`].
pub fn next_event(doc: i64) -> Result<(EventId, u64, Vec<EventId>)> {
    let slot = take_slot(doc)?;
    let (slot, next, known) = read_tail(doc, slot)?;
    let deps = visible_heads(doc, &known).into_iter().filter(|h| h.peer != slot.peer);
    let deps = deps.map(|h| Ok(EventId::new(catalog::peer_name(h.peer)?, h.counter))).collect::<Result<Vec<_>>>()?;
    note(doc, Some(Slot { next: Some(next), ..slot }), 0, 0, &[], &[]);
    Ok((EventId::new(catalog::peer_name(slot.peer)?, next), known.max_lamport.max(own_lamport(doc)) + 1, deps))
}

/// Appends runs of one peer, which may be this transaction's slot.
pub fn append(author: &Author<'_>, runs: &[NewRun]) -> Result<()> {
    let slot = TRANSACTION.with_borrow_mut(|t| {
        t.joined = true;
        t.docs.get(&author.doc)?.slot
    });
    let Some(slot) = slot.filter(|slot| slot.peer == author.peer) else { return store::append(author, runs) };
    let length = tail::append(author, slot.number, slot.length, runs)?;
    note(author.doc, Some(Slot { length, ..slot }), 0, 0, &[], &[]);
    Ok(())
}

/// Events of our own up to `next` have been appended.
pub fn advance(doc: i64, next: u64) {
    TRANSACTION.with_borrow_mut(|t| {
        if let Some(slot) = t.docs.get_mut(&doc).and_then(|w| w.slot.as_mut()) {
            slot.next = Some(next);
        }
    });
}

/// Remembers what a push wrote as its client's peers.
pub fn note_pushed(doc: i64, lamport: u64, events: u64, heads: &[Head], covered: &[(i32, u64)]) {
    note(doc, None, lamport, events, heads, covered);
}

/// This transaction pushes.
pub fn set_pushed() {
    TRANSACTION.with_borrow_mut(|t| t.pushed = true);
}

/// Has this transaction written to a log what readers get in one piece?
pub fn has_joined() -> bool {
    TRANSACTION.with_borrow(|t| t.joined)
}

/// The greatest lamport this transaction has written to a doc, 0 for none.
pub fn own_lamport(doc: i64) -> u64 {
    TRANSACTION.with_borrow(|t| t.docs.get(&doc).map_or(0, Written::lamport))
}

/// The slot of this transaction in a doc: the lowest that no running transaction holds.
fn take_slot(doc: i64) -> Result<Slot> {
    if let Some(slot) = TRANSACTION.with_borrow(|t| t.docs.get(&doc).and_then(|w| w.slot)) {
        return Ok(slot);
    }
    let class = store::lock_class()?;
    let bucket = (doc as u64 % u64::from(SLOT_BUCKETS)) as u32;
    for number in 0..MAX_SLOTS {
        if lock::try_lock(class, bucket, Space::Slot(number as u16)) {
            return Ok(Slot { number, peer: 0, former: 0, level: xact::nest_level(), next: None, length: None });
        }
    }
    Err(Error::new(state::LIMIT, format!("all {MAX_SLOTS} slots of doc {doc} are taken by running transactions"))
        .hint("Look for forgotten prepared transactions in pg_prepared_xacts."))
}

/// The slot's peer and next counter, and what is known of the doc, read in this order. A run is about to be written.
fn read_tail(doc: i64, slot: Slot) -> Result<(Slot, u64, Known)> {
    let key = doc_key(doc);
    let mut known = begin_write(doc, slot.number);
    if !known.ready {
        learn(doc)?;
        known = docstate::known(key, slot.number);
    }
    if let Some(next) = slot.next {
        return Ok((slot, next, known));
    }
    // A savepoint that wrote was rolled back: our runs from before it are in the log and not in shared memory yet.
    let doubtful = || TRANSACTION.with_borrow(|t| t.docs.get(&doc).is_some_and(|w| w.doubtful));
    if slot.peer == 0
        && let Some(Tail { peer, next, length }) = known.tail
        && !doubtful()
    {
        return Ok((Slot { peer, length: length.checked_sub(1), ..slot }, next, known));
    }
    // A transaction keeps the name it began to write under, though VACUUM FULL of the log may have given the slot another
    // one: readers know a transaction's runs by it. Unless the name's line was made in the savepoint.
    let peer = match slot.former {
        peer if peer != 0 && catalog::has_peer(peer)? => peer,
        _ => catalog::ensure_peer(doc, &slot_peer_name(doc, slot.number)?, None)?,
    };
    let next = store::tail(doc, peer, Snapshot::Committed)?.map_or(0, |t| t.counter_end + 1);
    let length = tail::length(doc, peer, slot.number, next)?;
    // Reading took time: what was committed meanwhile counts.
    Ok((Slot { peer, length, ..slot }, next, docstate::known(key, slot.number)))
}

/// Fills the doc's entry in shared memory from the log.
pub fn learn(doc: i64) -> Result<()> {
    let key = doc_key(doc);
    // The entry exists by now and takes note of commits while we read.
    let lamport = spans::max_lamport(doc)?;
    // What this transaction wrote is not for others to build on: it may be rolled back.
    let peers = store::peers(doc, Snapshot::Committed)?;
    let tails = store::committed_tails(doc, peers.iter().map(|(peer, _)| *peer), Snapshot::Committed)?;
    let events = tails.iter().map(|t| t.counter_end + 1).sum();
    let (heads, complete) = store::committed_heads(doc, &tails)?;
    docstate::fill(key, lamport, events, &heads, complete);
    Ok(())
}

/// `<peer>:<incarnation>:<slot>`. The incarnation comes from this start of the server, the database, the storage of the
/// log and the doc, so no copy, restore or promotion can write under a name that was used before.
pub fn slot_peer_name(doc: i64, slot: usize) -> Result<String> {
    Ok(format!("{}:{slot}", own_prefix(doc)?))
}

/// `<peer>:<incarnation>` of a doc.
pub fn own_prefix(doc: i64) -> Result<String> {
    if !docstate::ready() {
        return Err(not_preloaded());
    }
    let line = catalog::doc(doc)?;
    let rel = Relation::open(catalog::names()?.run, Lock::AccessShare);
    let mut seed = Vec::with_capacity(40);
    seed.extend_from_slice(&docstate::start_random().to_le_bytes());
    seed.extend_from_slice(&pg::database().to_le_bytes());
    seed.extend_from_slice(&rel.oid().to_u32().to_le_bytes());
    seed.extend_from_slice(&rel.file_number().to_le_bytes());
    seed.extend_from_slice(&doc.to_le_bytes());
    Ok(format!("{}:{:013x}", line.peer, xxh3_64(&seed) >> 12))
}

/// The library is not preloaded.
pub fn not_preloaded() -> Error {
    Error::new(state::NOT_PREREQUISITE, "crdt_db is not in shared_preload_libraries")
        .hint("Add it: ALTER SYSTEM SET shared_preload_libraries = 'crdt_db'; then restart the server.")
}

/// The heads a write is made on top of: those its snapshot sees, less what this transaction has covered already, and
/// what it has pushed.
fn visible_heads(doc: i64, known: &Known) -> Vec<Head> {
    let old_snapshot = xact::repeatable_read();
    let mut heads: Vec<Head> = known.heads[..known.head_count].to_vec();
    heads.retain(|h| !old_snapshot || xact::snapshot_sees(h.xid));
    TRANSACTION.with_borrow(|t| {
        let Some(written) = t.docs.get(&doc) else { return };
        heads.retain(|h| {
            !written.covered.iter().any(|(peer, counter)| *peer == h.peer && *counter >= h.counter)
                && !written.heads.iter().any(|own| own.peer == h.peer)
        });
        heads.extend_from_slice(&written.heads);
    });
    heads
}

/// Called before the transaction commits or is prepared.
pub fn before_commit(prepare: bool) -> Result<()> {
    if prepare && TRANSACTION.with_borrow(|t| t.pushed) {
        return Err(Error::new(state::NOT_SUPPORTED, "a transaction that pushed cannot be prepared")
            .hint("COMMIT it: a push is one transaction of its own."));
    }
    if buffer::pending() {
        let _snapshot = xact::ActiveSnapshot::push();
        buffer::flush_all()?;
    }
    let wrote = TRANSACTION.with_borrow_mut(|t| {
        t.past_commit = true;
        t.raise_all();
        !t.docs.is_empty()
    });
    if wrote {
        broadcast::before_commit();
    }
    Ok(())
}

/// What is captured after our own pre-commit work is written at once.
pub fn if_past_commit() -> Result<()> {
    if TRANSACTION.with_borrow(|t| t.past_commit) {
        buffer::flush_all()?;
        TRANSACTION.with_borrow(Transaction::raise_all);
    }
    Ok(())
}

impl Transaction {
    fn raise_all(&self) {
        for (doc, written) in &self.docs {
            docstate::raise(doc_key(*doc), written.lamport());
        }
    }

    /// Tells others how it ended.
    fn tell(&mut self, end: End) {
        for (doc, written) in &self.docs {
            let key = doc_key(*doc);
            match end {
                End::Committed if written.doubtful => docstate::forget(key),
                End::Committed => {
                    docstate::committed(
                        key,
                        &Commit {
                            slot: written.slot.and_then(|slot| slot.tail()),
                            heads: &written.heads,
                            covered: &written.covered,
                            events: written.events,
                            writer: self.writing.remove(doc),
                        },
                    );
                }
                // Its runs become visible later, in a session that knows nothing of them.
                End::Prepared => docstate::forget(key),
                End::Aborted => {}
            }
        }
        self.writing.iter().for_each(|doc| docstate::end_write(doc_key(*doc)));
        if end == End::Committed && !self.docs.is_empty() {
            broadcast::docs_changed(self.docs.keys().copied());
        }
        if self.pushed {
            docstate::unannounce(pg::process_id());
        }
    }

    /// Makes room for the next, in the memory there is unless it is much.
    fn clear(&mut self) {
        if self.docs.capacity().max(self.writing.capacity()) > SPARE_DOCS {
            *self = Transaction::default();
            return;
        }
        if let Some((_, mut written)) = self.docs.drain().next()
            && written.heads.capacity().max(written.covered.capacity()) <= SPARE_HEADS
        {
            written.lamports.clear();
            written.heads.clear();
            written.covered.clear();
            let Written { lamports, heads, covered, .. } = written;
            self.spare = Written { lamports, heads, covered, ..Written::default() };
        }
        self.writing.clear();
        self.past_commit = false;
        self.pushed = false;
        self.joined = false;
    }
}

/// The transaction is over. Nothing here can fail.
pub fn ended(end: End) {
    TRANSACTION.with_borrow_mut(|t| {
        t.tell(end);
        t.clear();
    });
    broadcast::ended(end == End::Committed);
    buffer::reset();
    executor::reset();
    if end == End::Aborted {
        catalog::forget();
    }
}

/// A savepoint was rolled back: runs written inside are gone, and with them the slot's lock if it was taken there.
pub fn sub_aborted(level: i32) {
    buffer::sub_aborted(level);
    executor::sub_aborted(level);
    TRANSACTION.with_borrow_mut(|t| {
        for written in t.docs.values_mut().filter(|w| w.level >= level) {
            written.level = level - 1;
            written.lamports.retain(|(at, _)| *at < level);
            written.doubtful = true;
            written.heads.clear();
            if let Some(slot) = &mut written.slot {
                // How long its tail is is not known either: it may have begun inside.
                let former = if slot.peer == 0 { slot.former } else { slot.peer };
                *slot = Slot { next: None, peer: 0, former, length: None, ..*slot };
                if slot.level >= level {
                    written.slot = None;
                }
            }
        }
    });
}

/// A savepoint was released: what happened in it happened in its parent.
pub fn sub_committed(level: i32) {
    buffer::sub_committed(level);
    TRANSACTION.with_borrow_mut(|t| {
        for written in t.docs.values_mut() {
            written.level = written.level.min(level - 1);
            written.lamports.iter_mut().for_each(|(at, _)| *at = (*at).min(level - 1));
            if let Some(slot) = &mut written.slot {
                slot.level = slot.level.min(level - 1);
            }
        }
    });
}
