//! For tests: a memory in vectors, and a check of everything a shard must hold to.

use std::collections::{BTreeMap, BTreeSet};

use super::block::{Block, END, NIL, Ref, blocks_for};
use super::register::{Name, Scope};
use super::shard::{Head, ROLES, Shard, View};
use super::store::Counts;
use super::wheel::{LISTS, SLOTS};

/// A shard's memory.
pub struct Owned {
    head: Head,
    buckets: Vec<Ref>,
    blocks: Vec<Block>,
}

impl Owned {
    /// Of this many blocks.
    pub fn new(blocks: usize) -> Owned {
        Owned { head: Head::default(), buckets: vec![NIL; blocks.max(16)], blocks: vec![[0; 16]; blocks] }
    }

    /// To write.
    pub fn shard(&mut self) -> Shard<'_> {
        Shard { head: &mut self.head, buckets: &mut self.buckets, blocks: &mut self.blocks }
    }

    /// To read.
    pub fn view(&self) -> View<'_> {
        View { head: &self.head, buckets: &self.buckets, blocks: &self.blocks }
    }
}

/// Counts nothing.
pub struct Uncounted;

impl Counts for Uncounted {
    fn expired(&self, _db: u32) {}
    fn evicted(&self, _db: u32) {}
    fn forgot(&self, _scope: Scope, _position: u64) {}
}

/// A name with hashes as good as a test needs.
pub fn name<'a>(scope: Scope, namespace: &'a [u8], key: &'a [u8]) -> Name<'a> {
    use std::hash::BuildHasher;
    let hash = |what: &dyn Fn(&mut rustc_hash::FxHasher)| {
        let mut hasher = rustc_hash::FxBuildHasher.build_hasher();
        what(&mut hasher);
        std::hash::Hasher::finish(&hasher).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    Name {
        scope,
        scope_hash: hash(&|h| std::hash::Hash::hash(&scope, h)),
        hash: hash(&|h| std::hash::Hash::hash(&(scope, namespace, key), h)),
        namespace,
        key,
    }
}

/// Panics unless every block is in use once or free once, and every list agrees with every other.
pub fn check(view: View<'_>) {
    let mut used = BTreeSet::new();
    let mut roles = BTreeMap::<usize, u32>::new();
    let mut registers = BTreeSet::new();
    let mut last_doc = u64::MAX;
    let forgotten = view.head.forgotten.into_iter().max().unwrap_or(0);
    for doc in view.docs() {
        assert!(used.insert(doc));
        assert!(view.doc_position(doc) < last_doc, "docs are listed from the last changed on");
        last_doc = view.doc_position(doc);
        let (mut live, mut blocks, mut last) = (0, 0, u64::MAX);
        for at in view.registers(doc) {
            assert!(used.insert(at) && registers.insert(at));
            assert!(view.position(at) < last, "registers are listed from the last changed on");
            last = view.position(at);
            assert!(view.joined(at) <= last && view.doc_forgotten(doc) <= view.doc_position(doc).max(forgotten));
            assert_eq!(view.doc_of(at), doc);
            live += u32::from(!view.removed(at));
            let (namespace, key, peer, value) = view.lens(at);
            let chain = view.chain_of(at);
            assert_eq!(chain.len(), blocks_for(namespace + key + peer + value));
            blocks += 1 + chain.len() as u32;
            let charged = if view.is_cleared(at) { 0 } else { 1 + chain.len() as u32 };
            *roles.entry(view.role_of(at)).or_default() += charged;
            assert!(chain.into_iter().all(|block| used.insert(block)));
        }
        assert_eq!(view.doc_size(doc), (live, blocks));
        assert!(blocks > 0, "a doc without registers is not kept");
        assert_eq!(view.doc_position(doc).max(view.doc_forgotten(doc)), last_doc.max(view.doc_forgotten(doc)));
    }
    let mut hanging = BTreeSet::new();
    for slot in 0..LISTS {
        let mut before = END | slot as u32;
        for at in view.hanging(slot) {
            assert_eq!(view.block(at)[super::shard::BEFORE], before);
            assert!(hanging.insert(at), "hangs once");
            assert_eq!(slot == SLOTS, view.is_cleared(at), "what was cleared hangs together");
            before = at;
        }
    }
    assert_eq!(hanging, registers, "every register hangs in the wheel");
    let mut in_buckets = BTreeSet::new();
    for bucket in 0..view.buckets.len() {
        for at in view.chain(bucket) {
            assert!(in_buckets.insert(at), "is in one bucket");
        }
    }
    assert!(registers.iter().all(|at| in_buckets.contains(at)));
    assert_eq!(in_buckets.len(), registers.len() + view.docs().count());
    let free = view.free_blocks();
    assert_eq!(used.len() as u32 + view.room(), view.blocks.len() as u32, "blocks in use are counted");
    assert!(free.iter().all(|block| used.insert(*block)), "a free block is not in use");
    for role in 0..ROLES {
        assert_eq!(view.filled_by(role as u32), roles.get(&role).copied().unwrap_or(0), "role {role}");
    }
}
