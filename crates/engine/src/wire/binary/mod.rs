//! The binary wire: the same requests and answers, compact. `docs/format.md` draws it byte by byte.
//!
//! A message is a head (magic, version, which message, feature bits) and tagged sections; each run is a section whose
//! operations are a blob of [`crate::codec`], so that what the log stores is copied and not encoded again.

mod read;
mod write;

pub use read::{Message, decode_pull, decode_pull_response, decode_push, decode_push_response};
pub use write::{PullWriter, encode_pull, encode_pull_response, encode_push, encode_push_response};

const MAGIC: [u8; 2] = [0xcd, 0xb2];
const VERSION: u8 = 1;
/// Critical feature: the sections are their length as a varint and one LZ4 block.
const LZ4: u64 = 1;

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// A PushRequest.
    Push = 1,
    /// A PullRequest.
    Pull = 2,
    /// The answer to a push.
    PushResponse = 3,
    /// The answer to a pull.
    PullResponse = 4,
}

/// Tags of sections.
mod tag {
    /// Peer names, which the others name by number.
    pub const PEERS: u64 = 1;
    pub const SENDER: u64 = 2;
    /// May stand many times.
    pub const RUN: u64 = 3;
    pub const FRONTIER: u64 = 4;
    pub const VERSIONS: u64 = 5;
    pub const HAS_MORE: u64 = 6;
    pub const LIMIT: u64 = 7;
    pub const ACCEPT: u64 = 8;
    pub const COUNTS: u64 = 9;
    pub const AHEAD: u64 = 10;
}

/// Which optional fields a run has.
mod flag {
    pub const TXN: u64 = 1;
    pub const ACTOR: u64 = 2;
    pub const AT: u64 = 4;
    pub const SCHEMA: u64 = 8;
}
