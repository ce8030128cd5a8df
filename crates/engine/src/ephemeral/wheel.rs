//! When values expire and removals are forgotten: a hashed timing wheel (Varghese and Lauck 1987, scheme 6). A register
//! hangs in the slot of its deadline; what is a whole turn or more away is passed over until its turn comes.

use super::block::{END, NIL, Ref};
use super::shard::{AFTER, BEFORE, Shard, Turn, View};

/// Slots of the wheel.
pub const SLOTS: usize = 512;
/// Where what was cleared hangs, which is forgotten together.
const CLEARED: usize = SLOTS;
/// Slots, and the list of what was cleared.
pub const LISTS: usize = SLOTS + 1;
/// A slot is 2^7 = 128 ms, a turn 65 seconds.
const TICK_BITS: u32 = 7;

/// The first tick at which a deadline has passed.
fn tick_of(deadline: u64) -> u64 {
    (deadline >> TICK_BITS) + 1
}

/// The slots whose time has come by `now`, at most one turn of them.
fn due_ticks(turned: u64, now: u64) -> std::ops::RangeInclusive<u64> {
    let to = now >> TICK_BITS;
    turned.max(to.saturating_sub(SLOTS as u64)) + 1..=to
}

impl<'m> View<'m> {
    pub(super) fn hanging(self, slot: usize) -> impl Iterator<Item = Ref> + 'm {
        let some = |at: Ref| (at != NIL).then_some(at);
        std::iter::successors(some(self.head.wheel[slot]), move |at| some(self.block(*at)[AFTER]))
    }

    /// Has [`Shard::turn`] anything to do now?
    pub fn is_due(self, now: u64) -> bool {
        self.cleared_due().is_some_and(|due| due <= now)
            || due_ticks(self.head.turned, now).any(|tick| self.head.wheel[tick as usize % SLOTS] != NIL)
    }

    /// When what was cleared is forgotten.
    fn cleared_due(self) -> Option<u64> {
        (self.head.wheel[CLEARED] != NIL).then_some(self.head.cleared_until)
    }

    /// When [`Shard::turn`] has something to do next, in milliseconds; `None` when nothing hangs in the wheel.
    pub fn next_due(self) -> Option<u64> {
        [self.next_turn(), self.cleared_due()].into_iter().flatten().min()
    }

    /// The same of what hangs in the wheel by its time.
    fn next_turn(self) -> Option<u64> {
        let mut later = None;
        for tick in self.head.turned + 1..=self.head.turned + SLOTS as u64 {
            let ticks = self.hanging(tick as usize % SLOTS).map(|at| tick_of(self.deadline(at)));
            let Some(first) = ticks.min() else { continue };
            if first <= tick {
                return Some(tick << TICK_BITS);
            }
            later = Some(later.map_or(first, |other: u64| other.min(first)));
        }
        later.map(|tick| tick << TICK_BITS)
    }
}

impl Shard<'_> {
    /// Hangs a register that hangs nowhere into the slot of its deadline, or to the others that were cleared.
    pub(super) fn hang(&mut self, at: Ref) {
        let slot = match self.view().is_cleared(at) {
            true => CLEARED,
            false => tick_of(self.view().deadline(at)).max(self.head.turned + 1) as usize % SLOTS,
        };
        let first = std::mem::replace(&mut self.head.wheel[slot], at);
        let block = self.block(at);
        block[BEFORE] = END | slot as u32;
        block[AFTER] = first;
        if first != NIL {
            self.block(first)[BEFORE] = at;
        }
    }

    /// Takes a register out of the wheel, if it hangs there.
    pub(super) fn unschedule(&mut self, at: Ref) {
        let [before, after] = [BEFORE, AFTER].map(|word| self.view().block(at)[word]);
        if before == NIL {
            return;
        }
        if before & END != 0 {
            self.head.wheel[(before & !END) as usize] = after;
        } else {
            self.block(before)[AFTER] = after;
        }
        if after != NIL {
            self.block(after)[BEFORE] = before;
        }
        self.block(at)[BEFORE] = NIL;
    }

    /// Turns the wheel to now: values whose time is over expire, removals that were remembered long enough are forgotten. Stops
    /// after `most` of them; false when there is more to do.
    pub fn turn(&mut self, most: usize, turn: &mut Turn<'_>) -> bool {
        let mut done = 0;
        for tick in due_ticks(self.head.turned, turn.now) {
            let mut at = self.head.wheel[tick as usize % SLOTS];
            while at != NIL {
                let after = self.view().block(at)[AFTER];
                if tick_of(self.view().deadline(at)) <= tick {
                    if done == most {
                        return false;
                    }
                    done += 1;
                    if self.view().removed(at) {
                        self.forget_removal(at, turn);
                    } else {
                        self.expire_if_due(at, turn);
                    }
                }
                at = after;
            }
            self.head.turned = tick;
        }
        while self.view().cleared_due().is_some_and(|due| due <= turn.now) {
            if done == most {
                return false;
            }
            done += 1;
            self.forget_removal(self.head.wheel[CLEARED], turn);
        }
        true
    }

    /// Drops what was cleared until so many blocks are free, or nothing of it is left.
    pub(super) fn drop_cleared(&mut self, blocks: u32, turn: &mut Turn<'_>) {
        while self.view().cleared_due().is_some() && self.view().room() < blocks {
            let at = self.head.wheel[CLEARED];
            (turn.evicted)(self.view().scope(self.view().doc_of(at)).db);
            self.forget_removal(at, turn);
        }
    }

    /// Forgets a removal: who has not heard of it has to take the doc whole.
    fn forget_removal(&mut self, at: Ref, turn: &mut Turn<'_>) {
        let position = self.view().position(at);
        (turn.forgot)(self.view().scope(self.view().doc_of(at)), position);
        self.forget(at, position);
    }

    /// Drops everything whose time is over at once: values are not remembered as removed.
    pub(super) fn drop_expired(&mut self, turn: &mut Turn<'_>) {
        for tick in due_ticks(self.head.turned, turn.now) {
            let mut at = self.head.wheel[tick as usize % SLOTS];
            while at != NIL {
                let after = self.view().block(at)[AFTER];
                if self.view().deadline(at) <= turn.now {
                    let scope = self.view().scope(self.view().doc_of(at));
                    let position = (turn.draw)();
                    (turn.evicted)(scope.db);
                    (turn.forgot)(scope, position);
                    self.forget(at, position);
                }
                at = after;
            }
            self.head.turned = tick;
        }
    }
}
