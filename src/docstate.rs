//! What all sessions share about docs: the start's random number, lamports announced by running pushes, and for busy
//! docs the greatest lamport, the heads and each slot's tail, so that a write need not ask the log.
//!
//! All of it can be lost at any time: an entry that is not there is made again from the log ([`crate::store`]).

use crdt_engine::id::MAX_CLOCK;

use crate::pg::shmem::{self, Shared};

/// Slots whose tails are remembered; higher ones ask the log.
pub const SLOTS: usize = 32;
/// Heads remembered for a doc; with more, what a write claims to depend on is less than it could be.
pub const HEADS: usize = 32;
/// A doc with more heads than fit is read from the log again after so many events, and twice as many each time that they
/// still do not fit.
const LEARN_AGAIN: u64 = 4096;
const SETS: usize = 512;
const WAYS: usize = 4;
const ANNOUNCEMENTS: usize = 256;

/// A doc of a database.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct DocKey {
    /// The database's OID.
    pub db: u32,
    /// The log's OID: after DROP and CREATE EXTENSION the numbers of docs and peers begin anew.
    pub log: u32,
    /// The doc.
    pub doc: i64,
}

/// Where a slot's next run begins.
#[derive(Clone, Copy, Default)]
pub struct Tail {
    /// The slot's peer, as `crdt.peer` numbers it; 0: not known.
    pub peer: i32,
    /// Its next counter.
    pub next: u64,
    /// One more than the length of its tail in the sense of [`crate::tail`], 0 while that is not listed.
    pub length: u32,
}

/// One head of a doc's graph.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Head {
    /// The peer, as `crdt.peer` numbers it.
    pub peer: i32,
    /// The transaction that wrote it.
    pub xid: u32,
    /// The peer's last event.
    pub counter: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    key: DocKey,
    used: u64,
    /// Everything below has been read from the log.
    ready: bool,
    /// All heads fit.
    complete: bool,
    /// Transactions that have read this entry to write a run, and have not ended.
    writers: u32,
    /// When the last of them did.
    write_tick: u64,
    max_lamport: u64,
    events: u64,
    /// How many there have to be for heads that did not fit to be read from the log again, and how many of them are new then.
    learn_at: u64,
    learn_after: u64,
    tails: [Tail; SLOTS],
    head_count: usize,
    heads: [Head; HEADS],
}

impl Entry {
    /// Forgets what the log says: the next write asks it. Who is writing, and the greatest lamport, are not from the log
    /// alone and stay.
    fn forget(&mut self) {
        self.ready = false;
        self.complete = true;
        self.events = 0;
        self.tails = [Tail::default(); SLOTS];
        self.head_count = 0;
    }
}

#[derive(Clone, Copy)]
struct Announcement {
    key: DocKey,
    pid: i32,
    lamport: u64,
}

struct Block {
    random: u64,
    tick: u64,
    announced: usize,
    announcements: [Announcement; ANNOUNCEMENTS],
    entries: [[Entry; WAYS]; SETS],
}

crate::pg::shmem::plain!(Block);

static BLOCK: Shared<Block> = Shared::new(c"crdt_db");

/// Asks for the memory, before the server starts.
pub fn request() {
    BLOCK.request();
}

/// Fills it at server start.
pub fn startup() {
    BLOCK.startup(|block| block.random = shmem::random());
}

/// Is the shared memory there?
pub fn ready() -> bool {
    BLOCK.ready()
}

/// The random number of this server start.
pub fn start_random() -> u64 {
    BLOCK.read(|b| b.random).unwrap_or(0)
}

/// What a write needs to know of its doc.
#[derive(Clone, Copy)]
pub struct Known {
    /// The entry has been read from the log; otherwise [`fill`] it and ask again.
    pub ready: bool,
    /// Greatest lamport, running pushes included.
    pub max_lamport: u64,
    /// Greatest lamport of what was committed.
    pub committed_lamport: u64,
    /// Events in the doc, roughly: what a pushed lamport is bounded by.
    pub events: u64,
    /// The slot's tail, if remembered.
    pub tail: Option<Tail>,
    /// How many of `heads` count.
    pub head_count: usize,
    /// The heads.
    pub heads: [Head; HEADS],
}

impl Block {
    fn find(&mut self, key: DocKey) -> Option<&mut Entry> {
        self.tick += 1;
        let tick = self.tick;
        let entry = self.entries[set_of(key)].iter_mut().find(|e| e.used != 0 && e.key == key)?;
        entry.used = tick;
        Some(entry)
    }

    fn make(&mut self, key: DocKey) -> &mut Entry {
        self.tick += 1;
        let tick = self.tick;
        let set = &mut self.entries[set_of(key)];
        let way = set.iter().position(|e| e.used != 0 && e.key == key);
        let way = way.unwrap_or_else(|| {
            let oldest = (0..WAYS).min_by_key(|w| (set[*w].writers > 0, set[*w].used)).expect("there are ways");
            set[oldest] = Entry {
                key,
                used: tick,
                ready: false,
                complete: true,
                // Who was counted in the entry that goes is not known here: never quiet.
                writers: u32::from(set[oldest].writers > 0),
                write_tick: tick,
                max_lamport: 0,
                events: 0,
                learn_at: 0,
                learn_after: 0,
                tails: [Tail::default(); SLOTS],
                head_count: 0,
                heads: [Head::default(); HEADS],
            };
            oldest
        });
        set[way].used = tick;
        &mut set[way]
    }

    fn announced(&self, key: DocKey) -> u64 {
        let all = &self.announcements[..self.announced];
        all.iter().filter(|a| a.key == key).map(|a| a.lamport).max().unwrap_or(0)
    }
}

fn set_of(key: DocKey) -> usize {
    let mixed = (key.doc as u64 ^ u64::from(key.db) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize % SETS
}

/// Reads what is known of a doc; makes an entry that is not ready when there is none.
pub fn known(key: DocKey, slot: usize) -> Known {
    read_known(key, slot, false)
}

/// The same by a transaction that is about to write its first run of the doc: it counts as a writer from here until
/// it has ended: [`committed`] or [`end_write`].
pub fn begin_write(key: DocKey, slot: usize) -> Known {
    read_known(key, slot, true)
}

fn read_known(key: DocKey, slot: usize, begin: bool) -> Known {
    let read = BLOCK.with(true, |block| {
        let announced = block.announced(key);
        block.tick += u64::from(begin);
        let tick = block.tick;
        let entry = block.make(key);
        if begin {
            entry.writers += 1;
            entry.write_tick = tick;
        }
        Known {
            ready: entry.ready,
            max_lamport: entry.max_lamport.max(announced),
            committed_lamport: entry.max_lamport,
            events: entry.events,
            tail: entry.tails.get(slot).copied().filter(|t| t.peer != 0),
            head_count: entry.head_count,
            heads: entry.heads,
        }
    });
    read.unwrap_or(Known {
        ready: false,
        max_lamport: 0,
        committed_lamport: 0,
        events: 0,
        tail: None,
        head_count: 0,
        heads: [Head::default(); HEADS],
    })
}

/// The heads of a doc, when all of them are known, and the tails of slots. Changes nothing: for readers.
pub fn peek(key: DocKey) -> Option<(Vec<Head>, [Tail; SLOTS])> {
    BLOCK
        .read(|block| {
            let entry = block.entries[set_of(key)].iter().find(|e| e.used != 0 && e.key == key)?;
            (entry.ready && entry.complete).then(|| (entry.heads[..entry.head_count].to_vec(), entry.tails))
        })
        .flatten()
}

/// Fills an entry with what the log says. What commits have told it meanwhile stays.
pub fn fill(key: DocKey, max_lamport: u64, events: u64, heads: &[Head], complete: bool) {
    BLOCK.with(true, |block| {
        let entry = block.make(key);
        entry.max_lamport = entry.max_lamport.max(max_lamport);
        if entry.ready {
            return;
        }
        entry.events += events;
        entry.complete &= complete;
        for head in heads {
            if !entry.heads[..entry.head_count].iter().any(|h| h.peer == head.peer && h.counter >= head.counter) {
                add_head(entry, *head);
            }
        }
        entry.learn_after =
            if entry.complete { LEARN_AGAIN } else { entry.learn_after.saturating_mul(2).max(LEARN_AGAIN) };
        entry.learn_at = entry.events.saturating_add(entry.learn_after);
        entry.ready = true;
    });
}

/// Forgets what the log says of a doc: the next write asks it.
pub fn forget(key: DocKey) {
    BLOCK.with(true, |block| {
        if let Some(entry) = block.find(key) {
            entry.forget();
        }
    });
}

/// Before the commit becomes visible: whoever sees it finds a lamport at least as great.
pub fn raise(key: DocKey, lamport: u64) {
    BLOCK.with(true, |block| {
        if let Some(entry) = block.find(key) {
            entry.max_lamport = entry.max_lamport.max(lamport);
        }
    });
}

/// What a transaction has committed to a doc.
pub struct Commit<'c> {
    /// The slot it wrote as, and its new tail.
    pub slot: Option<(usize, Tail)>,
    /// Its last events.
    pub heads: &'c [Head],
    /// Events they were made on top of.
    pub covered: &'c [(i32, u64)],
    /// How many events came in.
    pub events: u64,
    /// It was counted as a writer by [`begin_write`], and ends with this.
    pub writer: bool,
}

/// After a commit.
pub fn committed(key: DocKey, commit: &Commit<'_>) {
    BLOCK.with(true, |block| {
        let Some(entry) = block.find(key) else { return };
        if commit.writer {
            entry.writers = entry.writers.saturating_sub(1);
        }
        if let Some((slot, tail)) = commit.slot
            && slot < SLOTS
        {
            entry.tails[slot] = tail;
        }
        entry.events += commit.events;
        let gone = |h: &Head| {
            commit.covered.iter().any(|(peer, counter)| *peer == h.peer && *counter >= h.counter)
                || commit.heads.iter().any(|n| n.peer == h.peer && n.counter >= h.counter)
        };
        let mut kept = 0;
        for i in 0..entry.head_count {
            if !gone(&entry.heads[i]) {
                entry.heads[kept] = entry.heads[i];
                kept += 1;
            }
        }
        entry.head_count = kept;
        for head in commit.heads {
            add_head(entry, *head);
        }
        if entry.ready && !entry.complete && entry.events >= entry.learn_at {
            entry.forget();
        }
    });
}

fn add_head(entry: &mut Entry, head: Head) {
    if entry.head_count == HEADS {
        entry.heads.rotate_left(1);
        entry.head_count -= 1;
        entry.complete = false;
    }
    entry.heads[entry.head_count] = head;
    entry.head_count += 1;
}

/// Tells writers of a doc that a push up to `lamport` is running. False when there is no room.
pub fn announce(key: DocKey, pid: i32, lamport: u64) -> bool {
    debug_assert!(lamport <= MAX_CLOCK);
    let done = BLOCK.with(true, |block| {
        let known = block.announced;
        if let Some(mine) = block.announcements[..known].iter_mut().find(|a| a.pid == pid && a.key == key) {
            mine.lamport = mine.lamport.max(lamport);
            return true;
        }
        if known == ANNOUNCEMENTS {
            return false;
        }
        block.announcements[known] = Announcement { key, pid, lamport };
        block.announced += 1;
        true
    });
    done == Some(true)
}

/// A transaction that began to write, see [`begin_write`], has ended.
pub fn end_write(key: DocKey) {
    BLOCK.with(true, |block| {
        if let Some(entry) = block.find(key) {
            entry.writers = entry.writers.saturating_sub(1);
        }
    });
}

/// A number that stays the same as long as no other transaction writes runs of the doc; `None` while one is under way.
/// `own`: how many of the writers are the caller.
pub fn quiet(key: DocKey, own: u32) -> Option<u64> {
    BLOCK.with(true, |block| {
        let entry = block.make(key);
        (entry.writers <= own).then_some(entry.write_tick)
    })?
}

/// Takes back what this session has announced: after its push is visible, or rolled back.
pub fn unannounce(pid: i32) {
    BLOCK.with(true, |block| {
        let mut i = 0;
        while i < block.announced {
            if block.announcements[i].pid == pid {
                block.announced -= 1;
                block.announcements[i] = block.announcements[block.announced];
            } else {
                i += 1;
            }
        }
    });
}
