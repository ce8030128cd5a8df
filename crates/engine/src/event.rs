//! An event as it competes for a row.

use crate::id::{Dot, Stamp};
use crate::ops::{OpBuf, OpRef, Origin};
use crate::planted::{self, Bug};

/// One event on a row. A large push is as many of them: the operation stays where it is.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    ops: &'a OpBuf,
    at: u32,
    /// Its name and lamport.
    pub dot: Dot<'a>,
}

impl<'a> Candidate<'a> {
    /// The event whose operation is the one at `at`.
    pub fn new(ops: &'a OpBuf, at: usize, dot: Dot<'a>) -> Self {
        Candidate { ops, at: at as u32, dot }
    }

    /// What it does.
    pub fn op(&self) -> OpRef<'a> {
        self.ops.get(self.at as usize)
    }

    /// How it ranks: by its own dot, a rewrite by its root's. The root's lamport must have been resolved (admission
    /// does); a root without one ranks lowest.
    pub fn stamp(&self) -> Stamp<'a> {
        match self.op() {
            OpRef::Update { origin: Origin::Rewrite(root), .. } if !planted::is(Bug::RewriteRankedByOwnStamp) => {
                debug_assert!(root.lamport.is_some(), "roots are resolved before merging");
                let (peer, counter) = (root.id.peer.as_str(), root.id.counter);
                Stamp::rewrite(Dot { lamport: root.lamport.unwrap_or(0), peer, counter }, self.dot)
            }
            _ => Stamp::plain(self.dot),
        }
    }

    /// The lamport that decides what the event can compete with: its own, a rewrite's root's.
    pub fn effective_lamport(&self) -> u64 {
        self.stamp().effective_lamport()
    }
}
