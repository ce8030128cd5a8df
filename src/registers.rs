//! Ephemeral registers in shared memory: the engine's store over the region, with the server's clock and hashes that
//! nobody outside can foresee.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crdt_engine::ephemeral::{Counts, Memory, Name, Scope, Shard, View, store};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::broadcast::{self, Database};
use crate::pg;
use crate::pg::region::Region;
use crate::pg::shmem::{self, Open};
use crate::settings;

/// What all shards share.
pub struct Common {
    /// Seeds the hashes of names.
    seed: AtomicU64,
    /// When the memory was made, in microseconds since 1970.
    started: AtomicU64,
    /// The last position drawn.
    position: AtomicU64,
}

crate::pg::shmem::plain!(Common);

static COMMON: Open<Common> = Open::new(c"crdt_db positions");
static REGION: Region = Region::new();

/// Asks for the memory, before the server starts.
pub fn request() {
    COMMON.request();
    REGION.request(settings::ephemeral_memory());
}

/// Fills it at server start.
pub fn startup() {
    COMMON.startup(|common| {
        common.seed.store(shmem::random(), SeqCst);
        common.started.store(pg::now_micros() as u64, SeqCst);
    });
    REGION.startup();
}

/// The registers; `None` when the library was not preloaded.
pub fn registers() -> Option<Registers> {
    COMMON.get().map(|common| Registers { common })
}

/// The registers of all databases.
#[derive(Clone, Copy)]
pub struct Registers {
    common: &'static Common,
}

impl Memory for Registers {
    fn shards(&self) -> usize {
        REGION.shards()
    }

    fn write<R>(&self, shard: usize, body: impl FnOnce(&mut Shard<'_>) -> R) -> R {
        REGION.write(shard, body)
    }

    fn read<R>(&self, shard: usize, body: impl FnOnce(View<'_>) -> R) -> R {
        REGION.read(shard, body)
    }

    fn position(&self) -> u64 {
        self.common.position.load(SeqCst)
    }

    fn draw(&self) -> u64 {
        self.common.position.fetch_add(1, SeqCst) + 1
    }
}

impl Registers {
    /// Milliseconds since the memory was made.
    pub fn now(&self) -> u64 {
        self.millis_at(pg::now_micros())
    }

    /// The same at a time that is in microseconds since 1970.
    pub fn millis_at(&self, micros: i64) -> u64 {
        (micros as u64).saturating_sub(self.base()) / 1_000
    }

    /// What is added to positions for the world outside: the start in microseconds. So positions grow from one start of the
    /// server to the next, and those of an earlier one are known as too old.
    pub fn base(&self) -> u64 {
        self.common.started.load(SeqCst)
    }

    /// A position from outside; `None` when it is of another start of the server.
    pub fn known_position(&self, outside: i64) -> Option<u64> {
        let inside = u64::try_from(outside).ok()?.checked_sub(self.base())?;
        (inside <= self.position()).then_some(inside)
    }

    /// From now on the registers of this database are those of this installation of the extension. What a former one left behind
    /// is dropped.
    pub fn take_over(&self, database: &Database, log: u32) {
        if !database.is_of_log(log) {
            database.begin_anew(log, self.draw());
            store::drop_database(self, pg::database(), Some(log));
        }
    }

    /// Blocks of memory one role may fill in a shard.
    pub fn role_blocks(&self) -> u32 {
        (REGION.shard_blocks() as u64 * u64::from(settings::ephemeral_role_share()) / 100) as u32
    }

    /// The hash of a doc.
    pub fn scope_hash(&self, scope: Scope) -> u64 {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&scope.db.to_le_bytes());
        bytes[4..8].copy_from_slice(&scope.log.to_le_bytes());
        bytes[8..].copy_from_slice(&scope.doc.to_le_bytes());
        xxh3_64_with_seed(&bytes, self.common.seed.load(SeqCst))
    }

    /// A register's name with its hashes.
    pub fn name<'a>(&self, scope: Scope, namespace: &'a str, key: &'a str) -> Name<'a> {
        let scope_hash = self.scope_hash(scope);
        // Each part apart, so that it matters where one ends; seeded by what nobody outside knows.
        let hash = xxh3_64_with_seed(key.as_bytes(), xxh3_64_with_seed(namespace.as_bytes(), scope_hash));
        Name { scope, scope_hash, hash, namespace: namespace.as_bytes(), key: key.as_bytes() }
    }
}

/// Counts for the databases' statistics.
pub struct Counted;

impl Counts for Counted {
    fn expired(&self, db: u32) {
        broadcast::count_in(db, |counts| &counts.expiries);
    }

    fn evicted(&self, db: u32) {
        broadcast::count_in(db, |counts| &counts.evictions);
    }

    fn forgot(&self, scope: Scope, position: u64) {
        broadcast::register_forgot(scope.db, scope.doc, position);
    }
}
