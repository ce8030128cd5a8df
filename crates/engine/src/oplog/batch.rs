//! Runs on their way from one log to another.

use std::ops::Range;

use crate::id::EventId;
use crate::ops::OpBuf;

/// Consecutive events of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The author.
    pub peer: String,
    /// Counter of the first event.
    pub counter_start: u64,
    /// Lamport of the first event.
    pub lamport_start: u64,
    /// What the first event was made on top of.
    pub deps: Vec<EventId>,
    /// The operations, in [`Batch::ops`].
    pub ops: Range<usize>,
}

/// Runs and their operations.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The operations of all runs.
    pub ops: OpBuf,
    /// The runs.
    pub runs: Vec<Run>,
}
