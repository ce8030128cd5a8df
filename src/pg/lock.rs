//! Transaction-level heavyweight locks on numbers of our own.

use pgrx::pg_sys::{self, Oid};

/// Number spaces of our locks: the fourth field of the lock's tag.
#[derive(Clone, Copy)]
pub enum Space {
    /// `(bucket of docs, slot)`: who writes as this slot.
    Slot(u16),
    /// `(doc, stripe)`: who pushes to rows of this stripe.
    Stripe(u16),
    /// `(peer)`: who pushes as this peer.
    Peer,
    /// `(doc)`: who merges pages of row keys.
    Pages,
    /// `(0)`: who says which names of the wire are tables; `(root)`: who says which partitions are a table's.
    Tables,
}

impl Space {
    fn number(self) -> u16 {
        match self {
            Space::Slot(n) => n,
            Space::Stripe(n) => 0x4000 | n,
            Space::Peer => 0x8000,
            Space::Pages => 0x8001,
            Space::Tables => 0x8002,
        }
    }
}

fn tag(class: Oid, object: u32, space: Space) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: a plain global.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: class.to_u32(),
        locktag_field3: object,
        locktag_field4: space.number(),
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

/// Takes an exclusive lock until the end of the transaction; waits.
pub fn lock(class: Oid, object: u32, space: Space) {
    let tag = tag(class, object, space);
    // SAFETY: a well-formed tag.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, false) };
}

/// Takes a lock until the end of the transaction that keeps off exclusive ones only; waits.
pub fn lock_shared(class: Oid, object: u32, space: Space) {
    let tag = tag(class, object, space);
    // SAFETY: a well-formed tag.
    unsafe { pg_sys::LockAcquire(&tag, pg_sys::ShareLock as i32, false, false) };
}

/// Takes an exclusive lock until the end of the transaction if nobody else holds it.
pub fn try_lock(class: Oid, object: u32, space: Space) -> bool {
    let tag = tag(class, object, space);
    // SAFETY: a well-formed tag.
    let got = unsafe { pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as i32, false, true) };
    got != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}
