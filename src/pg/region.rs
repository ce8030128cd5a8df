//! Shared memory whose size is a setting: shards of ephemeral registers, each behind a lightweight lock of its own.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crdt_engine::ephemeral::block::{Block, Ref};
use crdt_engine::ephemeral::{Head, Shard, View};
use pgrx::pg_sys;

use super::unbound;

const NAME: &CStr = c"crdt_db registers";
/// A shard has its own lines of the processor's cache.
const LINE: usize = 64;
/// Shards are not smaller, so that the budget is not cut too fine, nor more than these.
const SHARD_BYTES: usize = 1 << 20;
const MOST_SHARDS: usize = 16;
/// Blocks of 64 bytes to a bucket of 4.
const BLOCKS_PER_BUCKET: usize = 2;

/// How a region is divided.
#[derive(Clone, Copy)]
struct Shape {
    shards: usize,
    buckets: usize,
    blocks: usize,
}

impl Shape {
    fn of(bytes: usize) -> Shape {
        let shards = (bytes / SHARD_BYTES).clamp(1, MOST_SHARDS);
        let room = (bytes / shards).saturating_sub(lines(size_of::<Head>()) + LINE);
        let blocks = room / (size_of::<Block>() + size_of::<Ref>() / BLOCKS_PER_BUCKET);
        Shape { shards, buckets: (blocks / BLOCKS_PER_BUCKET).max(16), blocks }
    }

    /// Where buckets and blocks of a shard begin, and where it ends.
    fn parts(self) -> (usize, usize, usize) {
        let buckets = lines(size_of::<Head>());
        let blocks = buckets + lines(self.buckets * size_of::<Ref>());
        (buckets, blocks, blocks + self.blocks * size_of::<Block>())
    }
}

fn lines(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE)
}

/// The shards.
pub struct Region {
    start: AtomicPtr<u8>,
    locks: AtomicPtr<pg_sys::LWLockPadded>,
    bytes: AtomicUsize,
}

impl Region {
    /// Not there yet.
    pub const fn new() -> Self {
        Region {
            start: AtomicPtr::new(std::ptr::null_mut()),
            locks: AtomicPtr::new(std::ptr::null_mut()),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Asks for so many bytes: in the request hook.
    pub fn request(&self, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
        // SAFETY: called from the request hook only.
        unsafe {
            pg_sys::RequestAddinShmemSpace(self.total());
            pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), self.shape().shards as i32);
        }
    }

    /// Makes or attaches to the memory: in the startup hook.
    pub fn startup(&self) {
        // SAFETY: the postmaster runs the hook alone, before it forks; all zero is an empty shard.
        unsafe {
            let mut found = false;
            let start = pg_sys::ShmemInitStruct(NAME.as_ptr(), self.total(), &mut found).cast::<u8>();
            if !found {
                std::ptr::write_bytes(start, 0, self.total());
            }
            self.start.store(start, Ordering::Relaxed);
            self.locks.store(pg_sys::GetNamedLWLockTranche(NAME.as_ptr()), Ordering::Relaxed);
        }
    }

    fn shape(&self) -> Shape {
        Shape::of(self.bytes.load(Ordering::Relaxed))
    }

    fn total(&self) -> usize {
        let shape = self.shape();
        shape.shards * lines(shape.parts().2)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shape().shards
    }

    /// Blocks of a shard.
    pub fn shard_blocks(&self) -> usize {
        self.shape().blocks
    }

    /// Runs `body` on a shard under its exclusive lock. `body` must be short and must not call PostgreSQL.
    pub fn write<R>(&self, shard: usize, body: impl FnOnce(&mut Shard<'_>) -> R) -> R {
        self.with(shard, pg_sys::LWLockMode::LW_EXCLUSIVE, |head, buckets, nbuckets, blocks, nblocks| {
            // SAFETY: the parts do not overlap, all zero is a value of each, and the lock keeps everybody else out.
            let mut shard = unsafe {
                Shard {
                    head: &mut *head,
                    buckets: std::slice::from_raw_parts_mut(buckets, nbuckets),
                    blocks: std::slice::from_raw_parts_mut(blocks, nblocks),
                }
            };
            body(&mut shard)
        })
    }

    /// Runs `body` on a shard under its shared lock, as above.
    pub fn read<R>(&self, shard: usize, body: impl FnOnce(View<'_>) -> R) -> R {
        self.with(shard, pg_sys::LWLockMode::LW_SHARED, |head, buckets, nbuckets, blocks, nblocks| {
            // SAFETY: as above; the lock keeps those who write out.
            body(unsafe {
                View {
                    head: &*head,
                    buckets: std::slice::from_raw_parts(buckets, nbuckets),
                    blocks: std::slice::from_raw_parts(blocks, nblocks),
                }
            })
        })
    }

    fn with<R>(
        &self,
        shard: usize,
        mode: pg_sys::LWLockMode::Type,
        body: impl FnOnce(*mut Head, *mut Ref, usize, *mut Block, usize) -> R,
    ) -> R {
        let shape = self.shape();
        let (buckets, blocks, end) = shape.parts();
        let start = self.start.load(Ordering::Relaxed);
        assert!(!start.is_null() && shard < shape.shards, "no such shard of shared memory");
        // SAFETY: inside the memory that `startup` got: `total` counts the same parts. The memory begins at a line of the
        // cache (ShmemInitStruct aligns so), and so does each part.
        unsafe {
            let at = start.add(shard * lines(end));
            let lock = &raw mut (*self.locks.load(Ordering::Relaxed).add(shard)).lock;
            unbound::lock(lock, mode);
            let result = body(at.cast(), at.add(buckets).cast(), shape.buckets, at.add(blocks).cast(), shape.blocks);
            unbound::unlock(lock);
            result
        }
    }
}
