//! Everything that touches PostgreSQL's memory. The only module with `unsafe`; what it exports is safe to call from a
//! backend's main thread, and it knows nothing of the rest of the extension but its error type.
#![allow(unsafe_code)]

pub mod datum;
pub mod entry;
pub mod inval;
pub mod lock;
pub mod relation;
pub mod shmem;
pub mod spi;
pub mod trigger;
pub mod types;
pub mod xact;
