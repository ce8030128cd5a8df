//! Ephemeral registers: cursors, presence, typing indicators. Last writer wins, nothing is durable.
//!
//! One register for each (database, doc, namespace, key). They live in memory of a fixed size that the caller owns
//! (shared memory in the server, a vector in tests), divided into shards by the hash of the register's name; a shard is
//! what one lock guards. The caller brings locks, clock, hashes and the counter of positions ([`Memory`]); nothing here
//! waits, fails half-way or keeps more than it was given.
//!
//! | module | holds |
//! |---|---|
//! | [`register`] | names, versions and which of two writes wins |
//! | [`block`] | the memory: blocks of 64 bytes, chains and lists of them |
//! | [`shard`] | registers of one shard: find, write, remove, list |
//! | [`wheel`] | what expires when |
//! | [`store`] | all shards together: what changed since a position, what is there |
//! | [`message`] | registers as JSON, and the messages that tell of changes |

#[cfg(any(test, feature = "testkit"))]
pub mod audit;
pub mod block;
pub mod message;
pub mod register;
pub mod shard;
pub mod store;
#[cfg(test)]
mod tests;
pub mod wheel;

pub use register::{Name, Scope, Version};
pub use shard::{Full, Head, Role, Shard, Turn, View, Write, Written};
pub use store::{Changes, Counts, Found, Memory, Record, Usage};
