//! Shared memory: blocks of plain data, each behind one lightweight lock, made at server start.

use std::cell::UnsafeCell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::unbound;

/// Plain data that may lie in shared memory: valid when all bytes are zero, no pointers, no destructor.
///
/// # Safety
/// Implementors promise the above.
pub unsafe trait Plain: Sized + 'static {}

/// Says that a struct of numbers and arrays of numbers is [`Plain`].
macro_rules! plain {
    ($ty:ty) => {
        #[allow(unsafe_code)]
        // SAFETY: made of integers, booleans and arrays of them, for which all zero is a value.
        unsafe impl $crate::pg::shmem::Plain for $ty {}
    };
}
pub(crate) use plain;

/// A block of shared memory behind a lock.
pub struct Shared<T: Plain> {
    name: &'static CStr,
    block: AtomicPtr<UnsafeCell<T>>,
    lock: AtomicPtr<pg_sys::LWLock>,
}

impl<T: Plain> Shared<T> {
    /// Not there yet.
    pub const fn new(name: &'static CStr) -> Self {
        Shared { name, block: AtomicPtr::new(std::ptr::null_mut()), lock: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Is the library preloaded and the block there?
    pub fn ready(&self) -> bool {
        !self.block.load(Ordering::Relaxed).is_null()
    }

    /// Reads or writes the block under the lock. `body` must be short and must not call PostgreSQL. `None` without
    /// shared memory.
    pub fn with<R>(&self, exclusive: bool, body: impl FnOnce(&mut T) -> R) -> Option<R> {
        let block = self.block.load(Ordering::Relaxed);
        let lock = self.lock.load(Ordering::Relaxed);
        if block.is_null() {
            return None;
        }
        let mode = if exclusive { pg_sys::LWLockMode::LW_EXCLUSIVE } else { pg_sys::LWLockMode::LW_SHARED };
        // SAFETY: the block lives as long as the server; the lock is held while it is borrowed. Under a shared lock
        // callers only read: `read` below hands out no `&mut`.
        unsafe {
            unbound::lock(lock, mode);
            let result = body(&mut *(*block).get());
            unbound::unlock(lock);
            Some(result)
        }
    }

    /// Reads the block under a shared lock.
    pub fn read<R>(&self, body: impl FnOnce(&T) -> R) -> Option<R> {
        self.with(false, |t| body(t))
    }
}

/// A block of shared memory that everybody reads and writes at any time: made of atomics.
pub struct Open<T: Plain + Sync> {
    name: &'static CStr,
    block: AtomicPtr<T>,
}

impl<T: Plain + Sync> Open<T> {
    /// Not there yet.
    pub const fn new(name: &'static CStr) -> Self {
        Open { name, block: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// Asks for the memory: in the request hook.
    pub fn request(&self) {
        // SAFETY: called from the request hook only.
        unsafe { pg_sys::RequestAddinShmemSpace(size_of::<T>()) };
    }

    /// Makes or attaches to the block: in the startup hook. `fill` runs on zeroed memory when it is new.
    pub fn startup(&self, fill: impl FnOnce(&T)) {
        // SAFETY: as for `Shared`.
        unsafe {
            let mut found = false;
            let block = pg_sys::ShmemInitStruct(self.name.as_ptr(), size_of::<T>(), &mut found).cast::<T>();
            if !found {
                std::ptr::write_bytes(block, 0, 1);
                fill(&*block);
            }
            self.block.store(block, Ordering::Relaxed);
        }
    }

    /// The block; `None` when the library was not preloaded.
    pub fn get(&self) -> Option<&'static T> {
        let block = self.block.load(Ordering::Relaxed);
        // SAFETY: made in `startup`, lives as long as the server, and is shared by design: `T` is `Sync`.
        (!block.is_null()).then(|| unsafe { &*block })
    }
}

// PostgreSQL's hooks are plain functions; what is made is in statics of the caller, reached through these two.
static mut REQUEST: Option<fn()> = None;
static mut STARTUP: Option<fn()> = None;
static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Installs the hooks that make the blocks. Call from `_PG_init` while libraries are preloaded.
pub fn init(request: fn(), startup: fn()) {
    // SAFETY: the postmaster is single-threaded here.
    unsafe {
        REQUEST = Some(request);
        STARTUP = Some(startup);
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(on_request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: set in `init`, before any hook runs.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        if let Some(request) = REQUEST {
            request();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: as above.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        if let Some(startup) = STARTUP {
            startup();
        }
    }
}

impl<T: Plain> Shared<T> {
    /// Asks for the memory: in the request hook.
    pub fn request(&self) {
        // SAFETY: called from the request hook only.
        unsafe {
            pg_sys::RequestAddinShmemSpace(size_of::<T>());
            pg_sys::RequestNamedLWLockTranche(self.name.as_ptr(), 1);
        }
    }

    /// Makes or attaches to the block: in the startup hook. `fill` runs on zeroed memory when it is new.
    pub fn startup(&self, fill: impl FnOnce(&mut T)) {
        // SAFETY: the postmaster runs the hook alone, before it forks; new memory is zeroed in place, which `Plain`
        // allows.
        unsafe {
            let mut found = false;
            let block = pg_sys::ShmemInitStruct(self.name.as_ptr(), size_of::<T>(), &mut found).cast::<UnsafeCell<T>>();
            if !found {
                std::ptr::write_bytes(block.cast::<u8>(), 0, size_of::<T>());
                fill(&mut *(*block).get());
            }
            self.block.store(block, Ordering::Relaxed);
            self.lock.store(&raw mut (*pg_sys::GetNamedLWLockTranche(self.name.as_ptr())).lock, Ordering::Relaxed);
        }
    }
}

/// Is the library being loaded at server start?
pub fn preloading() -> bool {
    // SAFETY: a plain read.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Eight random bytes.
pub fn random() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: fills the buffer.
    let ok = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    assert!(ok, "the system has no random numbers");
    u64::from_ne_bytes(bytes)
}
