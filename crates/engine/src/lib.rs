//! The pure engine of crdt_db.
//!
//! It decides and returns data; it never touches PostgreSQL, a clock, randomness or IO, so that the same code runs in
//! the database, in tests, under a fuzzer and in WebAssembly. Data goes one way:
//! bytes → `wire` → `graph` and `oplog` → `merge` → row patches.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | names of events, the order of stamps |
//! | [`value`] | the values of cells |
//! | [`limits`] | how much one request may hold |
//! | [`alloc`] | growth that may fail |
//! | [`ops`] | operations in memory: one flat, truncatable buffer |
//! | [`event`] | an event as it competes for a row |
//! | [`codec`] | operations as bytes: columnar, dictionary and run-length encoded |
//! | [`wire`] | requests and answers as JSON and as binary, behind limits |
//! | [`graph`] | the event graph: frontier, version vectors, LCA, compare, difference |
//! | [`oplog`] | an append-only log of runs in memory, and the [`oplog::History`] seam to others |
//! | [`admit`] | what a batch must satisfy before a log takes it |
//! | [`merge`] | the rules of merging: which cell shows what |
//! | [`replica`] | an in-memory document: what a client holds |
//! | [`ephemeral`] | registers that are not durable: cursors, presence |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod admit;
pub mod alloc;
pub mod codec;
pub mod ephemeral;
pub mod error;
pub mod event;
pub mod graph;
pub mod id;
pub mod limits;
pub mod merge;
pub mod oplog;
pub mod ops;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
pub mod replica;
mod scan;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
pub mod value;
pub mod wire;

pub use error::{Error, Result};
pub use id::{EventId, Stamp};
pub use limits::Limits;
pub use ops::{OpBuf, OpRef, Origin};
pub use value::ValueRef;
