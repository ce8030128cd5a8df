//! Names of registers, versions of them, and which of two writes wins.

use std::cmp::Ordering;

/// Longest namespace, in bytes.
pub const MAX_NAMESPACE: usize = 200;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 1_000;
/// Longest name of a peer, in bytes.
pub const MAX_PEER: usize = 250;
/// Longest value, in bytes; callers usually set a lower limit.
pub const MAX_VALUE: usize = (1 << 24) - 1;
/// Longest time to live, in milliseconds: ten days.
pub const MAX_TTL: u64 = 10 * 24 * 3_600 * 1_000;

/// A doc of a database. `log` tells one installation of the extension from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The database.
    pub db: u32,
    /// The installation.
    pub log: u32,
    /// The doc.
    pub doc: i64,
}

/// A register's name, with the caller's hashes of it. Whoever picks keys must not know how they are hashed.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// The doc.
    pub scope: Scope,
    /// Hash of `scope`.
    pub scope_hash: u64,
    /// Hash of everything.
    pub hash: u64,
    /// The namespace.
    pub namespace: &'a [u8],
    /// The key.
    pub key: &'a [u8],
}

/// What decides which write a register shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Version<'a> {
    /// Milliseconds since 1970 by the writer's clock; finite.
    pub timestamp: f64,
    /// The write takes the register away.
    pub removed: bool,
    /// Who wrote.
    pub peer: &'a [u8],
    /// What was written; compared only between two writes of one peer with one timestamp, which should not exist.
    pub value: &'a [u8],
}

impl Version<'_> {
    /// Last writer wins: the greater timestamp, then a removal before a value, then the greater peer, byte by byte. Total, so
    /// that any two stores that have seen the same writes show the same.
    pub fn compare(&self, other: &Version<'_>) -> Ordering {
        self.timestamp
            .total_cmp(&other.timestamp)
            .then(self.removed.cmp(&other.removed))
            .then_with(|| self.peer.cmp(other.peer))
            .then_with(|| self.value.cmp(other.value))
    }
}
