//! Who listens in which database, what there is to tell them, and who tells. All in shared memory: a writer marks what it
//! changed and sets a latch, and never waits for a listener. The [`crate::notifier`] does the rest.
//!
//! A listener is a session that has executed LISTEN, until it ends: UNLISTEN may be rolled back, and being counted too long
//! costs a notification nobody hears.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

use crdt_engine::ephemeral::{Memory, store};

use crate::error::{Error, Result, state};
use crate::pg::shmem::{Open, Shared};
use crate::pg::utility::Statement;
use crate::pg::{self, entry, worker};
use crate::registers;
use crate::settings;

/// Databases that can broadcast at a time.
pub const DATABASES: usize = 64;
/// Docs that wait to be told of; with more of them, all docs are.
const CHANGED: usize = 4096;
/// A worker is not started more often.
const RETRY_MICROS: i64 = 1_000_000;
/// A worker that has not come up by then is given up.
const START_MICROS: i64 = 10_000_000;
/// How long a statement may keep a worker away, should its session vanish without saying that it is done.
const SUSPEND_MICROS: i64 = 60_000_000;
/// How long a statement waits for a worker to leave.
const LEAVE_MICROS: i64 = 5_000_000;

/// What listeners listen to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Ephemeral,
    Changes,
}

impl Channel {
    const ALL: [Channel; 2] = [Channel::Ephemeral, Channel::Changes];

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Channel::Ephemeral => "crdt_ephemeral",
            Channel::Changes => "crdt_changes",
        }
    }
}

/// What is counted of a database, since the server started or the counts were reset.
pub struct Stats {
    pub sets: AtomicU64,
    pub losses: AtomicU64,
    pub expiries: AtomicU64,
    pub evictions: AtomicU64,
    pub refusals: AtomicU64,
    pub notifications: AtomicU64,
    /// Batches that could not be sent and were tried again.
    pub failures: AtomicU64,
    /// From the first change to its notification, in microseconds: of the last batch, and the longest.
    pub lag: AtomicU64,
    pub longest_lag: AtomicU64,
    /// Microseconds since 1970.
    pub reset_at: AtomicI64,
}

/// A database in which somebody listens, or writes registers.
pub struct Database {
    /// Its OID; 0: free.
    db: AtomicU32,
    /// The log's OID when the registers were used last: those of a former installation of the extension are dropped.
    log: AtomicU32,
    /// The position at which the registers of this log began: older ones are of another database or installation.
    began: AtomicU64,
    /// The worker's process id; 0: none; -1: starting.
    worker: AtomicI32,
    /// The worker's latch.
    latch: AtomicUsize,
    /// There is something to tell that the worker has not begun to look at.
    pending: AtomicBool,
    /// Since when, in microseconds.
    pending_since: AtomicI64,
    /// When a worker was started last.
    started: AtomicI64,
    /// No worker may be connected until then.
    suspended_until: AtomicI64,
    /// Sessions that listen, by channel.
    listeners: [AtomicI32; 2],
    /// Changes of registers up to this position have been told.
    sent: AtomicU64,
    /// Registers of more docs than could be noted were forgotten before anybody was told.
    forgot_any: AtomicBool,
    /// The worker's settings have been changed for its database or its role, which only another process reads.
    outdated: AtomicBool,
    /// The worker has taken docs away and has not told of all of them yet.
    telling: AtomicBool,
    /// How often it was asked that every doc be announced, and how many of these requests have been met.
    every_doc_asked: AtomicU32,
    every_doc_done: AtomicU32,
    stats: Stats,
}

/// All databases.
pub struct Databases {
    /// How many entries have ever been used, the first ones: mostly none or a few, and each commit looks through them.
    used: AtomicUsize,
    entries: [Database; DATABASES],
}

/// Docs that nobody was told of, by database and channel: those of commits, and those of registers that were forgotten.
#[derive(Clone, Copy)]
struct Changed {
    count: usize,
    docs: [(u32, u32, i64); CHANGED],
}

crate::pg::shmem::plain!(Databases);
crate::pg::shmem::plain!(Changed);

static DATABASES_BLOCK: Open<Databases> = Open::new(c"crdt_db databases");
/// Its lock also guards who enters and leaves among the databases.
static CHANGED_BLOCK: Shared<Changed> = Shared::new(c"crdt_db changes");

thread_local! {
    /// Which entry is this session's database.
    static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    /// What this session is counted as a listener of.
    static LISTENS: Cell<[bool; 2]> = const { Cell::new([false; 2]) };
    /// Of which database the transaction changes settings that the worker reads when it starts; 0: of all.
    static ALTERS: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Asks for the memory, before the server starts.
pub fn request() {
    DATABASES_BLOCK.request();
    CHANGED_BLOCK.request();
}

/// Makes it at server start.
pub fn startup() {
    DATABASES_BLOCK.startup(|_| {});
    CHANGED_BLOCK.startup(|_| {});
}

/// Entries of databases, and those that were one's.
fn all() -> &'static [Database] {
    DATABASES_BLOCK.get().map_or(&[], |databases| &databases.entries[..databases.used.load(SeqCst)])
}

fn find(db: u32) -> Option<&'static Database> {
    all().iter().find(|database| database.db.load(SeqCst) == db)
}

/// This session's database, if anybody listens in it or writes registers.
pub fn existing() -> Option<&'static Database> {
    let db = pg::database();
    let remembered = OWN.get().and_then(|i| all().get(i)).filter(|database| database.db.load(SeqCst) == db);
    remembered.or_else(|| {
        let at = all().iter().position(|database| database.db.load(SeqCst) == db)?;
        OWN.set(Some(at));
        all().get(at)
    })
}

/// This session's database, entered at need. `None` when there is no room for it.
pub fn own() -> Option<&'static Database> {
    existing().or_else(|| enter(pg::database()))
}

fn enter(db: u32) -> Option<&'static Database> {
    let databases = DATABASES_BLOCK.get()?;
    CHANGED_BLOCK.with(true, |_| {
        if find(db).is_some() {
            return;
        }
        if let Some(at) = databases.entries.iter().position(|entry| entry.db.load(SeqCst) == 0) {
            let free = &databases.entries[at];
            // A commit before this start of the server may have been told to nobody.
            free.every_doc_asked.fetch_add(1, SeqCst);
            free.stats.reset_at.store(pg::now_micros(), SeqCst);
            free.db.store(db, SeqCst);
            databases.used.fetch_max(at + 1, SeqCst);
        }
    });
    find(db)
}

/// Adds to a count of a database.
pub fn count_in(db: u32, of: impl Fn(&'static Stats) -> &'static AtomicU64) {
    if let Some(database) = find(db) {
        of(&database.stats).fetch_add(1, SeqCst);
    }
}

impl Database {
    /// What is counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Is this the installation of the extension that used the registers last?
    pub fn is_of_log(&self, log: u32) -> bool {
        self.log.load(SeqCst) == log
    }

    /// Another installation of the extension uses the registers, which began at this position. Listeners to what a former one
    /// had are told to look anew.
    pub fn begin_anew(&self, log: u32, position: u64) {
        // First: whoever sees the log knows where it began.
        self.began.fetch_max(position, SeqCst);
        let former = self.log.swap(log, SeqCst);
        if former != 0 && former != log && self.has_listeners(Channel::Ephemeral) {
            self.forgot_any.store(true, SeqCst);
            register_changed(self);
        }
    }

    /// Is a position of these registers, and not of what was here before?
    pub fn has_reached(&self, position: u64) -> bool {
        self.began.load(SeqCst) <= position
    }

    /// Does anybody listen?
    pub fn has_listeners(&self, channel: Channel) -> bool {
        self.listeners[channel as usize].load(SeqCst) > 0
    }

    /// How many sessions listen.
    pub fn listeners(&self, channel: Channel) -> i32 {
        self.listeners[channel as usize].load(SeqCst)
    }

    /// The process id of its worker, if one is there.
    pub fn worker(&self) -> Option<i32> {
        Some(self.worker.load(SeqCst)).filter(|pid| *pid > 0)
    }

    fn suspended(&self) -> bool {
        pg::now_micros() < self.suspended_until.load(SeqCst)
    }

    /// There is something to tell on a channel. Starts nothing: for the end of transactions, where nothing may fail.
    fn mark(&self) {
        if !self.pending.swap(true, SeqCst) {
            self.pending_since.store(pg::now_micros(), SeqCst);
            worker::set_latch(self.latch.load(SeqCst));
        }
    }

    /// Sees to it that a worker is there.
    pub fn ensure_worker(&self) {
        let now = pg::now_micros();
        let last = self.started.load(SeqCst);
        let state = self.worker.load(SeqCst);
        let lost = state == -1 && now - last > START_MICROS;
        if state > 0 || (state == -1 && !lost) || now - last < RETRY_MICROS || self.suspended() {
            return;
        }
        if self.started.compare_exchange(last, now, SeqCst, SeqCst).is_ok() {
            self.start_worker(state);
        }
    }

    fn start_worker(&self, state: i32) {
        if self.worker.compare_exchange(state, -1, SeqCst, SeqCst).is_ok() && !worker::start(self.db.load(SeqCst)) {
            let _ = self.worker.compare_exchange(-1, 0, SeqCst, SeqCst);
        }
    }

    // ------------------------------------------------------------------------------------------------ for the worker

    /// Begins a turn: since when there is something to tell, if there is.
    pub fn take_pending(&self) -> Option<i64> {
        let since = self.pending_since.load(SeqCst);
        self.pending.swap(false, SeqCst).then_some(since)
    }

    /// Is something waiting to be told?
    pub fn is_pending(&self) -> bool {
        self.pending.load(SeqCst)
    }

    /// Lets the next turn look again: this one did not succeed.
    pub fn put_back(&self, since: i64) {
        self.pending_since.store(since, SeqCst);
        self.pending.store(true, SeqCst);
    }

    /// Changes of registers up to here have been told.
    pub fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// See [`Self::sent`].
    pub fn set_sent(&self, position: u64) {
        self.sent.fetch_max(position, SeqCst);
    }

    /// The worker begins to tell, or is done: what it had taken is told, or back.
    pub fn set_telling(&self, telling: bool) {
        self.telling.store(telling, SeqCst);
    }

    /// The docs of which registers were forgotten before anybody was told, taken away; and whether there are more.
    pub fn take_forgotten(&self) -> (Vec<i64>, bool) {
        let any = self.forgot_any.swap(false, SeqCst);
        (take_changed(self.db.load(SeqCst), Channel::Ephemeral), any)
    }

    /// Puts them back: listeners could not be told.
    pub fn put_back_forgotten(&self, docs: &[i64], any: bool) {
        let fits = note(self.db.load(SeqCst), Channel::Ephemeral, docs.iter().copied());
        if any || !fits {
            self.forgot_any.store(true, SeqCst);
        }
    }

    /// A request to announce every doc that has not been met.
    pub fn every_doc(&self) -> Option<u32> {
        let asked = self.every_doc_asked.load(SeqCst);
        (asked != self.every_doc_done.load(SeqCst)).then_some(asked)
    }

    /// Every doc was announced, as this request asked.
    pub fn every_doc_done(&self, asked: u32) {
        self.every_doc_done.store(asked, SeqCst);
    }

    /// Must the worker leave?
    pub fn must_leave(&self) -> bool {
        self.suspended() || self.outdated.load(SeqCst)
    }

    /// The worker is about to leave. False when there is something to tell after all.
    pub fn may_leave(&self) -> bool {
        let pid = self.worker.swap(0, SeqCst);
        let may = !self.is_pending() && !Channel::ALL.iter().any(|channel| self.has_listeners(*channel));
        if !may {
            self.worker.store(pid, SeqCst);
        }
        may
    }

    /// Another worker takes over from this one, which was told to end.
    pub fn succeed(&self) {
        if !self.suspended() {
            self.started.store(pg::now_micros(), SeqCst);
            self.start_worker(pg::process_id());
        }
    }
}

/// A register changed.
pub fn register_changed(database: &Database) {
    if database.has_listeners(Channel::Ephemeral) {
        database.mark();
        database.ensure_worker();
    }
}

/// Before a transaction commits that wrote to docs.
pub fn before_commit() {
    if let Some(database) = existing().filter(|database| database.has_listeners(Channel::Changes)) {
        database.ensure_worker();
    }
}

/// A commit changed these docs. Called when it is visible; nothing here can fail.
pub fn docs_changed(docs: impl Iterator<Item = i64>) {
    let Some(database) = existing().filter(|database| database.has_listeners(Channel::Changes)) else { return };
    if !note(pg::database(), Channel::Changes, docs) {
        database.every_doc_asked.fetch_add(1, SeqCst);
    }
    database.mark();
}

/// A register of a doc was forgotten, whose last position this was: if listeners have not been told so far, they have to be told
/// of the doc. Called under a shard's lock, which nobody waits for who holds the lock that is taken here.
pub fn register_forgot(db: u32, doc: i64, position: u64) {
    let Some(database) = find(db) else { return };
    if database.has_listeners(Channel::Ephemeral) && position > database.sent() {
        database.put_back_forgotten(&[doc], false);
        database.mark();
    }
}

/// Notes docs to be told of. False when there is no room for all.
fn note(db: u32, channel: Channel, docs: impl Iterator<Item = i64>) -> bool {
    let add = |changed: &mut Changed| docs.map(|doc| changed.add((db, channel as u32, doc))).fold(true, |a, b| a & b);
    CHANGED_BLOCK.with(true, add) == Some(true)
}

/// The docs of a database that are to be told of, taken away.
pub fn take_changed(db: u32, channel: Channel) -> Vec<i64> {
    let mut docs = Vec::with_capacity(CHANGED);
    CHANGED_BLOCK.with(true, |changed| {
        let mut kept = 0;
        for i in 0..changed.count {
            let (of, on, doc) = changed.docs[i];
            if (of, on) == (db, channel as u32) {
                docs.push(doc);
            } else {
                changed.docs[kept] = changed.docs[i];
                kept += 1;
            }
        }
        changed.count = kept;
    });
    docs
}

impl Changed {
    /// False when there is no room.
    fn add(&mut self, doc: (u32, u32, i64)) -> bool {
        // The busiest docs are the last ones added; a doc that is there twice is told once all the same.
        let recent = self.count.saturating_sub(32);
        if self.docs[recent..self.count].contains(&doc) {
            return true;
        }
        if self.count == CHANGED {
            return false;
        }
        self.docs[self.count] = doc;
        self.count += 1;
        true
    }
}

// ----------------------------------------------------------------------------------------------- statements and processes

/// Before a statement that concerns us.
pub fn before_statement(statement: &Statement<'_>) -> Result<()> {
    match statement {
        Statement::Listen(name) => {
            Channel::ALL.into_iter().find(|channel| channel.name() == *name).map_or(Ok(()), listen)
        }
        Statement::Alone(db, _) => {
            send_away(*db);
            Ok(())
        }
        Statement::CommitPrepared | Statement::AlterSetting(..) => Ok(()),
    }
}

/// After it.
pub fn after_statement(statement: &Statement<'_>, succeeded: bool) {
    match statement {
        Statement::Listen(_) => {}
        // What it wrote was written by another session, or before this server started.
        Statement::CommitPrepared => {
            if let Some(database) = existing().filter(|_| succeeded) {
                database.every_doc_asked.fetch_add(1, SeqCst);
                database.mark();
            }
        }
        Statement::AlterSetting(name, db) => {
            if succeeded && name.is_none_or(settings::is_notify_payload) {
                let same = ALTERS.get().is_none_or(|other| Some(other) == *db);
                ALTERS.set(db.filter(|_| same).or(Some(0)));
            }
        }
        Statement::Alone(db, goes) => {
            let Some(database) = find(*db) else { return };
            database.suspended_until.store(0, SeqCst);
            if succeeded && *goes {
                forget_database(*db);
            } else {
                database.started.store(0, SeqCst);
                if Channel::ALL.iter().any(|channel| database.has_listeners(*channel)) {
                    database.ensure_worker();
                }
            }
        }
    }
}

/// A transaction ended. Nothing here can fail.
pub fn ended(committed: bool) {
    let Some(db) = ALTERS.take().filter(|_| committed) else { return };
    for database in all().iter().filter(|database| db == 0 || database.db.load(SeqCst) == db) {
        database.outdated.store(true, SeqCst);
        worker::set_latch(database.latch.load(SeqCst));
    }
}

fn listen(channel: Channel) -> Result<()> {
    // LISTEN is about to fail on a standby, and so would NOTIFY.
    if pg::xact::in_recovery() {
        return Ok(());
    }
    let mut listens = LISTENS.get();
    let Some(registers) = registers::registers().filter(|_| !listens[channel as usize]) else { return Ok(()) };
    let database = own().ok_or_else(too_many_databases)?;
    listens[channel as usize] = true;
    if LISTENS.replace(listens) == [false; 2] {
        worker::at_exit(stop_listening);
    }
    if database.listeners[channel as usize].fetch_add(1, SeqCst) == 0 && channel == Channel::Ephemeral {
        // Nobody waits for what happened before; who listens now asks for it once.
        database.set_sent(registers.position());
    }
    database.mark();
    database.ensure_worker();
    Ok(())
}

/// There is no room for another database.
pub fn too_many_databases() -> Error {
    Error::new(
        state::LIMIT,
        format!("{DATABASES} databases of this server use ephemeral registers or notifications already"),
    )
    .hint("Room is made when one of them is dropped, or the server restarted.")
}

fn stop_listening() {
    let Some(database) = existing() else { return };
    for (listens, count) in LISTENS.get().into_iter().zip(&database.listeners) {
        if listens {
            count.fetch_sub(1, SeqCst);
        }
    }
}

/// Keeps workers out of a database, and waits for the one that is there to leave.
fn send_away(db: u32) {
    let Some(database) = find(db) else { return };
    let now = pg::now_micros();
    database.suspended_until.store(now + SUSPEND_MICROS, SeqCst);
    worker::set_latch(database.latch.load(SeqCst));
    while database.worker.load(SeqCst) != 0 && pg::now_micros() < now + LEAVE_MICROS {
        entry::check_interrupts();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A database was dropped.
fn forget_database(db: u32) {
    if let Some(registers) = registers::registers() {
        store::drop_database(&registers, db, None);
    }
    for channel in Channel::ALL {
        drop(take_changed(db, channel));
    }
    CHANGED_BLOCK.with(true, |_| {
        if let Some(gone) = find(db) {
            gone.clear();
        }
    });
}

impl Database {
    fn clear(&self) {
        self.log.store(0, SeqCst);
        self.began.store(0, SeqCst);
        self.worker.store(0, SeqCst);
        self.latch.store(0, SeqCst);
        self.pending.store(false, SeqCst);
        self.started.store(0, SeqCst);
        self.suspended_until.store(0, SeqCst);
        self.listeners.iter().for_each(|count| count.store(0, SeqCst));
        self.sent.store(0, SeqCst);
        self.forgot_any.store(false, SeqCst);
        self.outdated.store(false, SeqCst);
        self.telling.store(false, SeqCst);
        self.every_doc_asked.store(0, SeqCst);
        self.every_doc_done.store(0, SeqCst);
        self.stats.clear();
        self.db.store(0, SeqCst);
    }
}

impl Stats {
    /// Counts begin anew.
    pub fn clear(&self) {
        let Stats { sets, losses, expiries, evictions, refusals, notifications, failures, lag, longest_lag, reset_at } =
            self;
        for count in [sets, losses, expiries, evictions, refusals, notifications, failures, lag, longest_lag] {
            count.store(0, SeqCst);
        }
        reset_at.store(pg::now_micros(), SeqCst);
    }
}

/// A worker process has come up for a database. False when it is not wanted.
pub fn worker_begins(db: u32) -> bool {
    let Some(database) = find(db) else { return false };
    if database.suspended() || database.worker.compare_exchange(-1, pg::process_id(), SeqCst, SeqCst).is_err() {
        let _ = database.worker.compare_exchange(-1, 0, SeqCst, SeqCst);
        return false;
    }
    database.latch.store(worker::own_latch(), SeqCst);
    // Before this process reads its settings: what is changed from here on is changed for it.
    database.outdated.store(false, SeqCst);
    true
}

/// A worker process ends. When it was telling, nobody knows any more of what: its successor tells of everything.
pub fn worker_ended() {
    for database in all() {
        if database.worker.compare_exchange(pg::process_id(), 0, SeqCst, SeqCst).is_err() {
            continue;
        }
        database.latch.store(0, SeqCst);
        if database.telling.swap(false, SeqCst) {
            database.every_doc_asked.fetch_add(1, SeqCst);
            database.forgot_any.store(true, SeqCst);
            database.put_back(pg::now_micros());
        }
    }
}
