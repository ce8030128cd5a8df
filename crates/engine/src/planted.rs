//! Single defects that the convergence suite must catch. Without the feature `planted-bugs` none exists.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// One defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
        pub enum Bug { $($(#[doc = $doc])* $name,)* }

        #[cfg(feature = "planted-bugs")]
        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];
        }
    };
}

bugs! {
    /// Of two writes with one lamport, any wins.
    NoTieBreak,
    /// Ties are broken by the shorter name of the peer, as in the system this one follows.
    TieBreakShortlex,
    /// Deletes do nothing.
    DeleteIgnored,
    /// An insert without cells makes no row.
    EmptyInsertIgnored,
    /// An update older than its row's birth counts.
    UpdateBeforeInsert,
    /// A rewrite ranks by its own dot instead of its root's.
    RewriteRankedByOwnStamp,
    /// A rewrite derives from what caused it even where it replaced something newer.
    RootIsTheCause,
    /// A default competes with explicit writes by its stamp.
    DefaultBeatsExplicit,
    /// A default of a deleted life fills the next one.
    DefaultSurvivesDelete,
    /// A default says that the row was never deleted.
    DefaultSinceForgotten,
    /// The window is trusted where it cannot tell whether the row stood before.
    HistoryNeverAsked,
    /// The window leaves out events with the batch's least lamport.
    WindowOffByOne,
    /// The window begins at the least own lamport of the batch, though a rewrite competes by its root's.
    WindowByOwnLamport,
    /// The rule of the system this one follows: winners are picked in a window that begins at a common ancestor, computed
    /// loosely, from what the batch says it was made on top of.
    WindowFromLooseAncestor,
    /// A row that is born again keeps cells of its old life.
    ResetKeepsCells,
    /// An event that is known already is taken for the same whatever it says.
    OverlapNotCompared,
    /// Pages come newest first.
    PageNotClosed,
    /// A page says that it is the last one.
    HasMoreForgotten,
    /// Runs are handed on without what they were made on top of.
    DepsDropped,
    /// An author leaves out a counter now and then.
    CounterSkipped,
    /// An author counts on from its own last event whatever it has seen.
    ClockNotRaised,
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
