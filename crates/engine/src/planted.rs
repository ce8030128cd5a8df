//! Single defects that the convergence suite must catch. Without the feature `planted-bugs` none exists.

/// One defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Of two writes with one lamport, any wins.
    NoTieBreak,
    /// Deletes do nothing.
    DeleteIgnored,
    /// An update older than its row's birth counts.
    UpdateBeforeInsert,
    /// A rewrite ranks by its own dot instead of its root's.
    RewriteRankedByOwnStamp,
    /// A default competes with explicit writes by its stamp.
    DefaultBeatsExplicit,
    /// A default of a deleted life fills the next one.
    DefaultSurvivesDelete,
    /// The window is trusted where it cannot tell whether the row stood before.
    HistoryNeverAsked,
    /// An event that is known already is taken for the same whatever it says.
    OverlapNotCompared,
    /// The window leaves out events with the batch's least lamport.
    WindowOffByOne,
    /// Pages come newest first.
    PageNotClosed,
    /// Runs are handed on without what they were made on top of.
    DepsDropped,
    /// An author leaves out a counter now and then.
    CounterSkipped,
}

/// Whether `bug` is switched on in this thread.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) fn is(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub(crate) use switch::is;
#[cfg(feature = "planted-bugs")]
pub use switch::with;

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether `bug` is switched on in this thread.
    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.with(|p| p.get() == Some(bug))
    }

    /// Runs `work` with one defect switched on in this thread. It is switched off again also when `work` panics.
    pub fn with<T>(bug: Bug, work: impl FnOnce() -> T) -> T {
        struct Off;
        impl Drop for Off {
            fn drop(&mut self) {
                PLANTED.with(|p| p.set(None));
            }
        }
        PLANTED.with(|p| p.set(Some(bug)));
        let _off = Off;
        work()
    }
}
