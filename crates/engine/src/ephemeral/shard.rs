//! One shard: the registers that one lock guards.
//!
//! A register is found by a table of buckets, listed with its doc's others from the last changed to the first, and
//! hangs in the wheel by the time something happens to it: a value expires, a removal is forgotten.

use std::cmp::Ordering;

use super::block::{self, Block, END, NIL, Ref, get64, set64};
use super::register::{Name, Scope, Version};
use super::wheel::LISTS;

/// Memory is counted for this many roles apart; more share what is counted.
pub const ROLES: usize = 512;

/// What was forgotten is remembered for this many parts of the docs apart.
const PARTS: usize = 256;

/// How long what was cleared is remembered at most for those who ask what changed, in milliseconds.
const CLEARED: u64 = 60_000;

/// What a shard remembers besides its blocks. Zeroes are an empty shard.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Head {
    /// Free blocks, linked by word 0.
    free: Ref,
    /// Blocks from here on were never used.
    fresh: u32,
    /// Blocks in use.
    used: u32,
    /// The doc changed last; the others follow.
    pub(super) newest: Ref,
    /// The greatest position of what was forgotten in docs that have no register any more, by a part of the docs' hashes.
    pub(super) forgotten: [u64; PARTS],
    /// The wheel has been turned up to here.
    pub(super) turned: u64,
    /// The wheel: what is due, by time; and last what was cleared.
    pub(super) wheel: [Ref; LISTS],
    /// When all that was cleared is forgotten.
    pub(super) cleared_until: u64,
    /// Blocks in use by who wrote them.
    roles: [u32; ROLES],
}

impl Default for Head {
    fn default() -> Self {
        Head {
            free: NIL,
            fresh: 0,
            used: 0,
            newest: NIL,
            forgotten: [0; PARTS],
            turned: 0,
            wheel: [NIL; LISTS],
            cleared_until: 0,
            roles: [0; ROLES],
        }
    }
}

// Words of a register's block.
const NEXT: usize = 0;
const NEWER: usize = 1;
const OLDER: usize = 2;
pub(super) const BEFORE: usize = 3;
pub(super) const AFTER: usize = 4;
const DOC: usize = 5;
const TIMESTAMP: usize = 6;
const POSITION_LOW: usize = 8;
const JOINED_LOW: usize = 9;
const POSITIONS_HIGH: usize = 10;
const DEADLINE_LOW: usize = 11;
/// Role: 9 bits. Removed: 1 bit. Time to live in seconds, rounded up: 22 bits.
const FLAGS: usize = 12;
/// Length of the value: 24 bits. High bits of the deadline: 8 bits.
const VALUE_LEN: usize = 13;
/// Key: 16 bits. Namespace and peer: 8 bits each.
const NAME_LENS: usize = 14;
const BYTES: usize = 15;

// Words of a doc's block.
const DOC_DB: usize = 1;
const DOC_LOG: usize = 2;
const DOC_PART: usize = 3;
const DOC_NUMBER: usize = 4;
const DOC_FIRST: usize = 6;
const DOC_PREVIOUS: usize = 7;
const DOC_NEXT: usize = 8;
const DOC_COUNT: usize = 9;
const DOC_POSITION: usize = 10;
const DOC_FORGOTTEN: usize = 12;
const DOC_BLOCKS: usize = 14;

const REMOVED: u32 = 1 << 9;

/// Who pays for a register's memory.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// The role's number; counted modulo [`ROLES`].
    pub number: u32,
    /// Blocks that role may fill in a shard.
    pub blocks: u32,
}

/// A write to a register.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Which register.
    pub name: Name<'a>,
    /// The writer's clock; with `own_clock` it is moved past what the same peer has written.
    pub timestamp: f64,
    /// The timestamp is ours and not the client's.
    pub own_clock: bool,
    /// Who writes.
    pub peer: &'a [u8],
    /// What.
    pub value: &'a [u8],
    /// How long it stays, in milliseconds, unless written again.
    pub ttl: u64,
    /// Who pays.
    pub role: Role,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Written {
    /// The register shows it now.
    Won {
        /// With this timestamp.
        timestamp: f64,
        /// The register was not there before.
        joined: bool,
    },
    /// The register shows something that wins over it, or this very write already.
    Lost,
}

/// There is no room for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Neither in the shard.
    Memory,
    /// Nor in what the role may fill of it.
    Role,
}

/// Time, and what is counted.
pub struct Turn<'t> {
    /// Milliseconds since the memory was made.
    pub now: u64,
    /// Draws the next position: greater than all before, under the shard's lock.
    pub draw: &'t mut dyn FnMut() -> u64,
    /// Told the database of each value that expired.
    pub expired: &'t mut dyn FnMut(u32),
    /// Told the database of each register that was dropped to make room.
    pub evicted: &'t mut dyn FnMut(u32),
    /// Told the doc of each register that was forgotten, and its last position: whoever knows less of the doc has to take
    /// it whole, and nothing else in the store says so.
    pub forgot: &'t mut dyn FnMut(Scope, u64),
}

/// Other bits of a doc's hash than buckets go by.
fn part_of(hash: u64) -> usize {
    (hash >> 48) as usize % PARTS
}

/// A shard to read.
#[derive(Clone, Copy)]
pub struct View<'m> {
    /// What it remembers.
    pub head: &'m Head,
    /// First an eighth for docs, then registers.
    pub buckets: &'m [Ref],
    /// Its memory.
    pub blocks: &'m [Block],
}

/// A shard to write.
pub struct Shard<'m> {
    /// As in [`View`].
    pub head: &'m mut Head,
    /// As in [`View`].
    pub buckets: &'m mut [Ref],
    /// As in [`View`].
    pub blocks: &'m mut [Block],
}

impl<'m> View<'m> {
    pub(super) fn block(&self, at: Ref) -> &'m Block {
        &self.blocks[at as usize - 1]
    }

    fn doc_bucket(&self, hash: u64) -> usize {
        hash as usize % (self.buckets.len() / 8)
    }

    fn register_bucket(&self, hash: u64) -> usize {
        let docs = self.buckets.len() / 8;
        docs + (hash >> 16) as usize % (self.buckets.len() - docs)
    }

    pub(super) fn chain(self, bucket: usize) -> impl Iterator<Item = Ref> + 'm {
        let proper = |at: Ref| (at != NIL && at & END == 0).then_some(at);
        std::iter::successors(proper(self.buckets[bucket]), move |at| proper(self.block(*at)[NEXT]))
    }

    /// The block of a doc that has registers here.
    pub(super) fn find_doc(&self, scope: Scope, hash: u64) -> Option<Ref> {
        self.chain(self.doc_bucket(hash)).find(|at| self.scope(*at) == scope)
    }

    pub(super) fn scope(&self, doc: Ref) -> Scope {
        let block = self.block(doc);
        Scope { db: block[DOC_DB], log: block[DOC_LOG], doc: get64(block, DOC_NUMBER) as i64 }
    }

    /// Docs from the last changed to the first.
    pub(super) fn docs(self) -> impl Iterator<Item = Ref> + 'm {
        let some = |at: Ref| (at != NIL).then_some(at);
        std::iter::successors(some(self.head.newest), move |at| some(self.block(*at)[DOC_NEXT]))
    }

    /// Registers of a doc from the last changed to the first.
    pub(super) fn registers(self, doc: Ref) -> impl Iterator<Item = Ref> + 'm {
        let some = |at: Ref| (at != NIL).then_some(at);
        std::iter::successors(some(self.block(doc)[DOC_FIRST]), move |at| some(self.block(*at)[OLDER]))
    }

    /// The position of a doc's last change.
    pub(super) fn doc_position(&self, doc: Ref) -> u64 {
        get64(self.block(doc), DOC_POSITION)
    }

    /// The greatest position of what was forgotten in a doc that has no register here, as far as is known.
    pub(super) fn forgotten(&self, hash: u64) -> u64 {
        self.head.forgotten[part_of(hash)]
    }

    /// The same of one that has.
    pub(super) fn doc_forgotten(&self, doc: Ref) -> u64 {
        get64(self.block(doc), DOC_FORGOTTEN)
    }

    /// Registers and blocks of a doc.
    pub(super) fn doc_size(&self, doc: Ref) -> (u32, u32) {
        let block = self.block(doc);
        (block[DOC_COUNT], block[DOC_BLOCKS])
    }

    /// The register of the same doc that changed before this one.
    pub(super) fn older(&self, at: Ref) -> Option<Ref> {
        Some(self.block(at)[OLDER]).filter(|at| *at != NIL)
    }

    /// Is a register in this namespace?
    pub(super) fn is_in(&self, at: Ref, namespace: &[u8]) -> bool {
        self.lens(at).0 == namespace.len() && self.compare(at, 0, namespace) == Ordering::Equal
    }

    /// The doc a register belongs to.
    pub(super) fn doc_of(&self, at: Ref) -> Ref {
        self.block(at)[DOC]
    }

    /// The register of this name.
    pub fn find(&self, name: &Name<'_>) -> Option<Ref> {
        self.chain(self.register_bucket(name.hash)).find(|at| {
            let (namespace, key, _, _) = self.lens(*at);
            self.scope(self.doc_of(*at)) == name.scope
                && namespace == name.namespace.len()
                && key == name.key.len()
                && self.compare(*at, 0, name.namespace) == Ordering::Equal
                && self.compare(*at, namespace, name.key) == Ordering::Equal
        })
    }

    /// Lengths of namespace, key, peer and value, which follow each other in a register's bytes.
    pub(super) fn lens(&self, at: Ref) -> (usize, usize, usize, usize) {
        let block = self.block(at);
        let names = block[NAME_LENS];
        (
            (names >> 16 & 0xff) as usize,
            (names & 0xffff) as usize,
            (names >> 24) as usize,
            (block[VALUE_LEN] & 0xff_ffff) as usize,
        )
    }

    /// Compares as many bytes as `other` has, from `from` on.
    fn compare(&self, at: Ref, from: usize, other: &[u8]) -> Ordering {
        block::compare_chain(self.blocks, self.block(at)[BYTES], from, from + other.len(), other)
    }

    /// Hands over all bytes of a register, piece by piece.
    pub(super) fn bytes(&self, at: Ref, mut take: impl FnMut(&[u8])) {
        let (namespace, key, peer, value) = self.lens(at);
        let len = namespace + key + peer + value;
        block::read_chain(self.blocks, self.block(at)[BYTES], 0, len, |piece| {
            take(piece);
            true
        });
    }

    /// How a write compares with what a register shows.
    fn compare_version(&self, at: Ref, new: &Version<'_>) -> Ordering {
        let (namespace, key, peer, value) = self.lens(at);
        let first = self.block(at)[BYTES];
        let from = namespace + key;
        // Against the bytes where they are: the same order as Version::compare, which a test holds it to.
        new.timestamp
            .total_cmp(&self.timestamp(at))
            .then(new.removed.cmp(&self.removed(at)))
            .then_with(|| block::compare_chain(self.blocks, first, from, from + peer, new.peer).reverse())
            .then_with(|| {
                block::compare_chain(self.blocks, first, from + peer, from + peer + value, new.value).reverse()
            })
    }

    pub(super) fn timestamp(&self, at: Ref) -> f64 {
        f64::from_bits(get64(self.block(at), TIMESTAMP))
    }

    /// The position of the last change.
    pub(super) fn position(&self, at: Ref) -> u64 {
        let block = self.block(at);
        u64::from(block[POSITION_LOW]) | u64::from(block[POSITIONS_HIGH] & 0xffff) << 32
    }

    /// The position at which it came to be there.
    pub(super) fn joined(&self, at: Ref) -> u64 {
        let block = self.block(at);
        u64::from(block[JOINED_LOW]) | u64::from(block[POSITIONS_HIGH] >> 16) << 32
    }

    pub(super) fn removed(&self, at: Ref) -> bool {
        self.block(at)[FLAGS] & REMOVED != 0
    }

    /// It was cleared: what is left of it decides nothing and is nobody's.
    pub(super) fn is_cleared(&self, at: Ref) -> bool {
        self.removed(at) && self.timestamp(at) == f64::NEG_INFINITY
    }

    /// When the value expires or the removal is forgotten.
    pub(super) fn deadline(&self, at: Ref) -> u64 {
        let block = self.block(at);
        u64::from(block[DEADLINE_LOW]) | u64::from(block[VALUE_LEN] >> 24) << 32
    }

    /// Does it show a value at this time?
    pub fn is_live(&self, at: Ref, now: u64) -> bool {
        !self.removed(at) && now < self.deadline(at)
    }

    /// The time to live it was written with, in milliseconds.
    fn ttl(&self, at: Ref) -> u64 {
        u64::from(self.block(at)[FLAGS] >> 10) * 1_000
    }

    pub(super) fn role_of(&self, at: Ref) -> usize {
        (self.block(at)[FLAGS] & 0x1ff) as usize
    }

    /// The blocks of a register's bytes.
    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn chain_of(&self, at: Ref) -> Vec<Ref> {
        self.linked(self.block(at)[BYTES])
    }

    /// The blocks that were in use and are free.
    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn free_blocks(&self) -> Vec<Ref> {
        self.linked(self.head.free)
    }

    #[cfg(any(test, feature = "testkit"))]
    fn linked(&self, first: Ref) -> Vec<Ref> {
        let some = |at: Ref| (at != NIL).then_some(at);
        std::iter::successors(some(first), |at| some(self.block(*at)[0])).collect()
    }

    /// Blocks a register takes, its own one included.
    fn size(&self, at: Ref) -> u32 {
        let (namespace, key, peer, value) = self.lens(at);
        1 + block::blocks_for(namespace + key + peer + value) as u32
    }

    /// Blocks that can still be had.
    pub fn room(&self) -> u32 {
        self.blocks.len() as u32 - self.head.used
    }

    /// Blocks that writes of a role fill.
    pub fn filled_by(&self, role: u32) -> u32 {
        self.head.roles[role as usize % ROLES]
    }
}

impl Shard<'_> {
    /// The shard to read.
    pub fn view(&self) -> View<'_> {
        View { head: self.head, buckets: self.buckets, blocks: self.blocks }
    }

    pub(super) fn block(&mut self, at: Ref) -> &mut Block {
        &mut self.blocks[at as usize - 1]
    }

    /// Lets a write compete. `Err` changes nothing but what expired.
    pub fn write(&mut self, write: &Write<'_>, turn: &mut Turn<'_>) -> Result<Written, Full> {
        let mut known = self.view().find(&write.name);
        if let Some(at) = known {
            self.expire_if_due(at, turn);
        }
        // -0 becomes 0: they are one number to whoever reads it, and two in the order below.
        let mut timestamp = write.timestamp + 0.0;
        if let Some(at) = known {
            let view = self.view();
            if write.own_clock && timestamp <= view.timestamp(at) && (view.removed(at) || self.is_by(at, write.peer)) {
                timestamp = view.timestamp(at).next_up();
            }
            let new = Version { timestamp, removed: false, peer: write.peer, value: write.value };
            if view.compare_version(at, &new) != Ordering::Greater {
                return Ok(Written::Lost);
            }
        }
        let parts = [write.name.namespace, write.name.key, write.peer, write.value];
        let size = 1 + block::blocks_for(parts.iter().map(|p| p.len()).sum()) as u32;
        self.make_room(write, size, &mut known, turn)?;
        let joined = known.is_none_or(|at| self.view().removed(at));
        let at = match known {
            Some(at) => {
                self.empty(at);
                at
            }
            None => self.add(&write.name),
        };
        self.fill(at, write, &parts, size, joined);
        let position = (turn.draw)();
        set64(self.block(at), TIMESTAMP, timestamp.to_bits());
        self.touch(at, position);
        if joined {
            let block = self.block(at);
            block[JOINED_LOW] = position as u32;
            block[POSITIONS_HIGH] = block[POSITIONS_HIGH] & 0xffff | ((position >> 32) as u32) << 16;
        }
        self.schedule(at, turn.now + write.ttl.max(1));
        Ok(Written::Won { timestamp, joined })
    }

    /// Takes a register away: only a write that wins over the removal brings it back. False when it showed nothing.
    pub fn remove(&mut self, at: Ref, timestamp: f64, turn: &mut Turn<'_>) -> bool {
        self.expire_if_due(at, turn);
        if self.view().removed(at) {
            return false;
        }
        let timestamp = self.view().timestamp(at).max(timestamp);
        self.take_away(at, timestamp, turn);
        true
    }

    /// Takes a register away so that any write brings it back. False when it showed nothing.
    pub fn clear(&mut self, at: Ref, turn: &mut Turn<'_>) -> bool {
        let timestamp = self.view().timestamp(at);
        let was_live = self.remove(at, timestamp, turn);
        if !self.view().is_cleared(at) {
            self.give_up(at, turn.now);
        }
        was_live
    }

    /// A removal decides nothing any more. It is kept only for those who ask what changed, a while and as long as there is
    /// room, and no role pays for it.
    fn give_up(&mut self, at: Ref, now: u64) {
        let (role, size) = (self.view().role_of(at), self.view().size(at));
        self.head.roles[role] -= size;
        set64(self.block(at), TIMESTAMP, f64::NEG_INFINITY.to_bits());
        let forget_at = now + self.view().ttl(at).min(CLEARED);
        self.head.cleared_until = self.head.cleared_until.max(forget_at);
        self.schedule(at, forget_at);
    }

    /// A value whose time is over becomes a removal by nobody.
    pub(super) fn expire_if_due(&mut self, at: Ref, turn: &mut Turn<'_>) {
        let view = self.view();
        if view.removed(at) || turn.now < view.deadline(at) {
            return;
        }
        let timestamp = view.timestamp(at);
        (turn.expired)(view.scope(view.doc_of(at)).db);
        self.take_away(at, timestamp, turn);
    }

    /// A removed register keeps its name and version, and loses its value.
    fn take_away(&mut self, at: Ref, timestamp: f64, turn: &mut Turn<'_>) {
        let was_removed = self.view().removed(at);
        let forget_at = turn.now + self.view().ttl(at);
        self.shorten(at);
        self.block(at)[FLAGS] |= REMOVED;
        set64(self.block(at), TIMESTAMP, timestamp.to_bits());
        if !was_removed {
            let doc = self.view().doc_of(at);
            self.block(doc)[DOC_COUNT] -= 1;
        }
        let position = (turn.draw)();
        self.touch(at, position);
        self.schedule(at, forget_at);
    }

    /// Drops a register without a trace but the position up to which readers may have missed it.
    pub(super) fn forget(&mut self, at: Ref, position: u64) {
        let doc = self.view().doc_of(at);
        if !self.view().removed(at) {
            self.block(doc)[DOC_COUNT] -= 1;
        }
        self.unschedule(at);
        self.unlink_from_doc(at);
        self.unlink_from_bucket(at);
        self.empty(at);
        self.account(at, -1);
        self.release(at);
        let forgotten = self.view().doc_forgotten(doc).max(position);
        set64(self.block(doc), DOC_FORGOTTEN, forgotten);
        if position > self.view().doc_position(doc) {
            self.touch_doc(doc, position);
        }
        if self.view().block(doc)[DOC_FIRST] == NIL {
            let part = self.view().block(doc)[DOC_PART] as usize;
            self.head.forgotten[part] = self.head.forgotten[part].max(forgotten);
            self.unlink_doc(doc);
            self.unlink_from_bucket(doc);
            self.release(doc);
        }
    }

    fn is_by(&self, at: Ref, peer: &[u8]) -> bool {
        let view = self.view();
        let (namespace, key, len, _) = view.lens(at);
        len == peer.len() && view.compare(at, namespace + key, peer) == Ordering::Equal
    }

    // ------------------------------------------------------------------------------------------------------- memory

    /// Sees to it that a write of `size` blocks fits: what was cleared goes first, then what expired. `known` may be among it.
    fn make_room(
        &mut self,
        write: &Write<'_>,
        size: u32,
        known: &mut Option<Ref>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Full> {
        for attempt in 0.. {
            match (attempt, self.lacks(write, size, *known)) {
                (_, None) => return Ok(()),
                // With a block for its doc.
                (0, _) => self.drop_cleared(size + 1, turn),
                (1, _) => self.drop_expired(turn),
                (_, Some(full)) => return Err(full),
            }
            *known = self.view().find(&write.name);
        }
        unreachable!("the third attempt returns")
    }

    /// Why a write of `size` blocks does not fit, `None` if it does.
    fn lacks(&self, write: &Write<'_>, size: u32, known: Option<Ref>) -> Option<Full> {
        let view = self.view();
        let held = known.map_or(0, |at| view.size(at));
        let is_own = |at: &Ref| view.role_of(*at) == write.role.number as usize % ROLES && !view.is_cleared(*at);
        let own = known.filter(is_own).map_or(0, |_| held);
        let doc = u32::from(view.find_doc(write.name.scope, write.name.scope_hash).is_none());
        if size + doc > view.room() + held {
            Some(Full::Memory)
        } else if view.filled_by(write.role.number) - own + size > write.role.blocks {
            Some(Full::Role)
        } else {
            None
        }
    }

    /// The caller has seen to it that there is one.
    fn take_block(&mut self) -> Ref {
        let at = match self.head.free {
            NIL => {
                self.head.fresh += 1;
                self.head.fresh
            }
            at => {
                self.head.free = self.view().block(at)[0];
                at
            }
        };
        self.head.used += 1;
        *self.block(at) = [0; 16];
        at
    }

    fn release(&mut self, at: Ref) {
        self.block(at)[0] = self.head.free;
        self.head.free = at;
        self.head.used -= 1;
    }

    /// Counts a register's blocks for its role and doc, or takes them back: `size` is what it grows by.
    fn account(&mut self, at: Ref, size: i32) {
        let role = self.view().role_of(at);
        let doc = self.view().doc_of(at);
        if !self.view().is_cleared(at) {
            self.head.roles[role] = self.head.roles[role].wrapping_add_signed(size);
        }
        let blocks = &mut self.block(doc)[DOC_BLOCKS];
        *blocks = blocks.wrapping_add_signed(size);
    }

    /// Frees all bytes of a register, its name too.
    fn empty(&mut self, at: Ref) {
        let freed = self.view().size(at) - 1;
        self.free_chain(self.view().block(at)[BYTES]);
        self.account(at, -(freed as i32));
        let block = self.block(at);
        block[BYTES] = NIL;
        block[NAME_LENS] = 0;
        block[VALUE_LEN] &= 0xff << 24;
    }

    fn free_chain(&mut self, mut at: Ref) {
        while at != NIL {
            let next = self.view().block(at)[0];
            self.release(at);
            at = next;
        }
    }

    /// Frees a register's value; its name and peer stay.
    fn shorten(&mut self, at: Ref) {
        let before = self.view().size(at);
        self.block(at)[VALUE_LEN] &= 0xff << 24;
        let after = self.view().size(at);
        let mut last = self.view().block(at)[BYTES];
        for _ in 2..after {
            last = self.view().block(last)[0];
        }
        if after == 1 {
            self.free_chain(last);
            self.block(at)[BYTES] = NIL;
        } else {
            let rest = std::mem::replace(&mut self.block(last)[0], NIL);
            self.free_chain(rest);
        }
        self.account(at, after as i32 - before as i32);
    }

    /// Puts a write's bytes into an empty register.
    fn fill(&mut self, at: Ref, write: &Write<'_>, parts: &[&[u8]; 4], size: u32, joined: bool) {
        let mut first = NIL;
        for _ in 1..size {
            let block = self.take_block();
            self.block(block)[0] = first;
            first = block;
        }
        block::write_chain(self.blocks, first, parts);
        let doc = self.view().doc_of(at);
        self.block(doc)[DOC_COUNT] += u32::from(joined);
        // Its own block moves to the role that writes now.
        self.account(at, -1);
        let seconds = write.ttl.div_ceil(1_000) as u32;
        let block = self.block(at);
        block[BYTES] = first;
        block[FLAGS] = (seconds << 10) | (write.role.number % ROLES as u32);
        block[NAME_LENS] = (parts[2].len() as u32) << 24 | (parts[0].len() as u32) << 16 | parts[1].len() as u32;
        block[VALUE_LEN] = block[VALUE_LEN] & 0xff << 24 | parts[3].len() as u32;
        self.account(at, size as i32);
    }

    // -------------------------------------------------------------------------------------------------------- lists

    /// A new register without bytes, and its doc if that is new.
    fn add(&mut self, name: &Name<'_>) -> Ref {
        let doc = match self.view().find_doc(name.scope, name.scope_hash) {
            Some(doc) => doc,
            None => self.add_doc(name.scope, name.scope_hash),
        };
        let at = self.take_block();
        let bucket = self.view().register_bucket(name.hash);
        self.link_into_bucket(at, bucket);
        self.block(at)[DOC] = doc;
        self.account(at, 1);
        let first = self.view().block(doc)[DOC_FIRST];
        self.block(at)[OLDER] = first;
        if first != NIL {
            self.block(first)[NEWER] = at;
        }
        self.block(doc)[DOC_FIRST] = at;
        at
    }

    fn add_doc(&mut self, scope: Scope, hash: u64) -> Ref {
        let doc = self.take_block();
        let bucket = self.view().doc_bucket(hash);
        self.link_into_bucket(doc, bucket);
        let forgotten = self.view().forgotten(hash);
        let block = self.block(doc);
        block[DOC_PART] = part_of(hash) as u32;
        block[DOC_DB] = scope.db;
        block[DOC_LOG] = scope.log;
        set64(block, DOC_NUMBER, scope.doc as u64);
        set64(block, DOC_FORGOTTEN, forgotten);
        self.link_doc(doc);
        doc
    }

    fn link_into_bucket(&mut self, at: Ref, bucket: usize) {
        let first = self.buckets[bucket];
        self.block(at)[NEXT] = if first == NIL { END | bucket as u32 } else { first };
        self.buckets[bucket] = at;
    }

    fn unlink_from_bucket(&mut self, at: Ref) {
        let next = self.view().block(at)[NEXT];
        let mut end = next;
        while end & END == 0 {
            end = self.view().block(end)[NEXT];
        }
        let bucket = (end & !END) as usize;
        let mut before = self.buckets[bucket];
        if before == at {
            self.buckets[bucket] = if next & END == 0 { next } else { NIL };
            return;
        }
        while self.view().block(before)[NEXT] != at {
            before = self.view().block(before)[NEXT];
        }
        self.block(before)[NEXT] = next;
    }

    fn unlink_from_doc(&mut self, at: Ref) {
        let [newer, older, doc] = [NEWER, OLDER, DOC].map(|word| self.view().block(at)[word]);
        match newer {
            NIL => self.block(doc)[DOC_FIRST] = older,
            newer => self.block(newer)[OLDER] = older,
        }
        if older != NIL {
            self.block(older)[NEWER] = newer;
        }
    }

    fn link_doc(&mut self, doc: Ref) {
        let first = std::mem::replace(&mut self.head.newest, doc);
        self.block(doc)[DOC_PREVIOUS] = NIL;
        self.block(doc)[DOC_NEXT] = first;
        if first != NIL {
            self.block(first)[DOC_PREVIOUS] = doc;
        }
    }

    fn unlink_doc(&mut self, doc: Ref) {
        let [previous, next] = [DOC_PREVIOUS, DOC_NEXT].map(|word| self.view().block(doc)[word]);
        match previous {
            NIL => self.head.newest = next,
            previous => self.block(previous)[DOC_NEXT] = next,
        }
        if next != NIL {
            self.block(next)[DOC_PREVIOUS] = previous;
        }
    }

    /// A register changed: it and its doc become the first of their lists.
    fn touch(&mut self, at: Ref, position: u64) {
        let block = self.block(at);
        block[POSITION_LOW] = position as u32;
        block[POSITIONS_HIGH] = block[POSITIONS_HIGH] & !0xffff | (position >> 32) as u32 & 0xffff;
        let doc = block[DOC];
        if self.view().block(doc)[DOC_FIRST] != at {
            self.unlink_from_doc(at);
            let first = std::mem::replace(&mut self.block(doc)[DOC_FIRST], at);
            self.block(at)[NEWER] = NIL;
            self.block(at)[OLDER] = first;
            if first != NIL {
                self.block(first)[NEWER] = at;
            }
        }
        self.touch_doc(doc, position);
    }

    fn touch_doc(&mut self, doc: Ref, position: u64) {
        set64(self.block(doc), DOC_POSITION, position);
        if self.head.newest != doc {
            self.unlink_doc(doc);
            self.link_doc(doc);
        }
    }

    /// Sets when something happens to a register.
    fn schedule(&mut self, at: Ref, deadline: u64) {
        self.unschedule(at);
        let block = self.block(at);
        block[DEADLINE_LOW] = deadline as u32;
        block[VALUE_LEN] = block[VALUE_LEN] & 0xff_ffff | ((deadline >> 32) as u32) << 24;
        self.hang(at);
    }
}
