//! The store against a map, under random operations and a clock that moves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::audit::{self, Owned, Uncounted, name};
use super::block::{Block, compare_chain, read_chain, write_chain};
use super::*;

const A: Scope = Scope { db: 1, log: 7, doc: 1 };
const B: Scope = Scope { db: 1, log: 7, doc: 2 };
const ELSEWHERE: Scope = Scope { db: 2, log: 7, doc: 1 };

pub(super) struct Vectors {
    shards: Vec<RefCell<Owned>>,
    position: Cell<u64>,
}

impl Vectors {
    pub(super) fn new(shards: usize, blocks: usize) -> Vectors {
        Vectors { shards: (0..shards).map(|_| RefCell::new(Owned::new(blocks))).collect(), position: Cell::new(0) }
    }

    fn usage_of(&self, role: u32) -> u32 {
        self.shards.iter().map(|shard| shard.borrow().view().filled_by(role)).sum()
    }

    fn check(&self) {
        self.shards.iter().for_each(|shard| audit::check(shard.borrow().view()));
    }
}

impl Memory for Vectors {
    fn shards(&self) -> usize {
        self.shards.len()
    }

    fn write<R>(&self, shard: usize, body: impl FnOnce(&mut Shard<'_>) -> R) -> R {
        body(&mut self.shards[shard].borrow_mut().shard())
    }

    fn read<R>(&self, shard: usize, body: impl FnOnce(View<'_>) -> R) -> R {
        body(self.shards[shard].borrow().view())
    }

    fn position(&self) -> u64 {
        self.position.get()
    }

    fn draw(&self) -> u64 {
        self.position.set(self.position.get() + 1);
        self.position.get()
    }
}

pub(super) const EVERYTHING: Role = Role { number: 10, blocks: u32::MAX };

fn write<'a>(scope: Scope, key: &'a str, timestamp: f64, peer: &'a str, value: &'a str) -> Write<'a> {
    Write {
        name: name(scope, b"ns", key.as_bytes()),
        timestamp,
        own_clock: false,
        peer: peer.as_bytes(),
        value: value.as_bytes(),
        ttl: 30_000,
        role: EVERYTHING,
    }
}

fn set(store: &Vectors, write: &Write<'_>, now: u64) -> std::result::Result<Written, Full> {
    store::set(store, write, now, &Uncounted).unwrap().0
}

fn shown(store: &Vectors, scope: Scope, key: &str, now: u64) -> Option<(f64, String, String)> {
    let found = store::get(store, &name(scope, b"ns", key.as_bytes()), now).unwrap();
    found.records.first().map(|r| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (r.timestamp, text(found.peer(r)), text(found.value(r)))
    })
}

#[test]
fn chains_hold_what_was_written() {
    for len in [0, 1, 59, 60, 61, 119, 120, 121, 500] {
        let text: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let mut blocks: Vec<Block> =
            (1..=9).map(|i| std::array::from_fn(|w| if w == 0 { i % 9 + 1 } else { 0 })).collect();
        let count = block::blocks_for(len);
        if count > 0 {
            blocks[count - 1][0] = 0;
        }
        let (head, tail) = text.split_at(len / 3);
        write_chain(&mut blocks, u32::from(count > 0), &[head, &[], tail]);
        let mut read = Vec::new();
        read_chain(&blocks, u32::from(count > 0), 0, len, |piece| {
            read.extend_from_slice(piece);
            true
        });
        assert_eq!(read, text);
        let order = |other: &[u8]| compare_chain(&blocks, u32::from(count > 0), 0, len, other);
        assert_eq!(order(&text), std::cmp::Ordering::Equal);
        assert_eq!(order(&[&text[..], b"x"].concat()), std::cmp::Ordering::Less);
        if len > 1 {
            assert_eq!(order(&text[..len - 1]), std::cmp::Ordering::Greater);
        }
    }
}

#[test]
fn the_greater_timestamp_wins_then_the_greater_peer() {
    let store = Vectors::new(2, 64);
    assert_eq!(set(&store, &write(A, "k", 5.0, "b", "1"), 0), Ok(Written::Won { timestamp: 5.0, joined: true }));
    assert_eq!(set(&store, &write(A, "k", 4.0, "z", "2"), 0), Ok(Written::Lost));
    assert_eq!(set(&store, &write(A, "k", 5.0, "a", "3"), 0), Ok(Written::Lost));
    assert_eq!(set(&store, &write(A, "k", 5.0, "b", "1"), 0), Ok(Written::Lost));
    assert_eq!(set(&store, &write(A, "k", 5.0, "c", "4"), 0), Ok(Written::Won { timestamp: 5.0, joined: false }));
    assert_eq!(shown(&store, A, "k", 0), Some((5.0, "c".into(), "4".into())));
    assert_eq!(shown(&store, B, "k", 0), None);
    assert_eq!(shown(&store, ELSEWHERE, "k", 0), None);
}

#[test]
fn a_peers_own_clock_never_stands_still() {
    let store = Vectors::new(1, 64);
    let mut own = write(A, "k", 5.0, "me", "1");
    own.own_clock = true;
    assert_eq!(set(&store, &own, 0), Ok(Written::Won { timestamp: 5.0, joined: true }));
    own.value = b"0";
    let Ok(Written::Won { timestamp, joined: false }) = set(&store, &own, 0) else { panic!("the second write counts") };
    assert!(timestamp > 5.0 && timestamp < 5.001);
    own.peer = b"other";
    assert_eq!(set(&store, &own, 0), Ok(Written::Lost), "another peer's later clock wins");
}

#[test]
fn a_removal_keeps_older_writes_out_as_long_as_the_time_to_live() {
    let store = Vectors::new(1, 64);
    set(&store, &write(A, "k", 5.0, "a", "1"), 0).unwrap();
    assert!(store::remove(&store, &name(A, b"ns", b"k"), 100.0, 10, &Uncounted));
    assert!(!store::remove(&store, &name(A, b"ns", b"k"), 100.0, 10, &Uncounted));
    assert_eq!(shown(&store, A, "k", 10), None);
    store::turn(&store, 29_000, &Uncounted);
    assert_eq!(set(&store, &write(A, "k", 100.0, "z", "2"), 29_000), Ok(Written::Lost));
    assert_eq!(
        set(&store, &write(A, "k", 100.5, "a", "2"), 29_000),
        Ok(Written::Won { timestamp: 100.5, joined: true })
    );
    store::turn(&store, 200_000, &Uncounted);
    store::turn(&store, 400_000, &Uncounted);
    assert_eq!(store::usage(&store, 1), Usage::default(), "what was remembered long enough is gone");
    assert_eq!(set(&store, &write(A, "k", 1.0, "a", "3"), 400_000), Ok(Written::Won { timestamp: 1.0, joined: true }));
    store.check();
}

#[test]
fn what_is_not_renewed_expires_once() {
    let store = Vectors::new(1, 64);
    struct Expired(Cell<u32>);
    impl Counts for Expired {
        fn forgot(&self, _scope: Scope, _position: u64) {}
        fn expired(&self, db: u32) {
            self.0.set(self.0.get() + db);
        }
        fn evicted(&self, _db: u32) {}
    }
    let expired = Expired(Cell::new(0));
    set(&store, &write(A, "k", 5.0, "a", "1"), 0).unwrap();
    set(&store, &write(A, "l", 5.0, "a", "1"), 20_000).unwrap();
    assert_eq!(shown(&store, A, "k", 29_999).map(|s| s.0), Some(5.0));
    assert_eq!(shown(&store, A, "k", 30_000), None, "also before the wheel was turned");
    let before = store.position();
    store::turn(&store, 30_200, &expired);
    assert_eq!(expired.0.get(), 1);
    let changes = store::since(&store, A, name(A, b"", b"").scope_hash, before, None, 30_200).unwrap();
    assert_eq!(changes.found.records.len(), 1);
    assert!(!changes.found.records[0].live && !changes.too_old);
    assert_eq!(set(&store, &write(A, "k", 5.0, "a", "1"), 30_300), Ok(Written::Lost), "told twice is no renewal");
    assert_eq!(store::next_due(&store).map(|due| due / 1_000), Some(50));
    store::turn(&store, 1_000_000, &expired);
    store::turn(&store, 2_000_000, &expired);
    assert_eq!((expired.0.get(), store::usage(&store, 1), store::next_due(&store)), (2, Usage::default(), None));
}

#[test]
fn a_reader_behind_what_was_forgotten_is_told() {
    let store = Vectors::new(2, 64);
    set(&store, &write(A, "k", 5.0, "a", "1"), 0).unwrap();
    let old = store.position();
    store::turn(&store, 31_000, &Uncounted);
    let seen = store.position();
    store::turn(&store, 100_000, &Uncounted);
    set(&store, &write(A, "l", 5.0, "a", "1"), 100_000).unwrap();
    let since = |position| store::since(&store, A, name(A, b"", b"").scope_hash, position, None, 100_000).unwrap();
    assert!(since(old).too_old);
    assert_eq!(since(old).found.records.len(), 1);
    assert!(!since(seen).too_old);
    assert_eq!(since(seen).found.records.len(), 1);
}

#[test]
fn what_was_forgotten_of_one_doc_outdates_few_others() {
    let store = Vectors::new(2, 64);
    let doc = |doc| Scope { doc, ..A };
    let too_old =
        |scope| store::since(&store, scope, name(scope, b"", b"").scope_hash, 0, None, 200_000).unwrap().too_old;
    set(&store, &write(doc(1), "k", 5.0, "a", "1"), 0).unwrap();
    store::turn(&store, 31_000, &Uncounted);
    store::turn(&store, 100_000, &Uncounted);
    assert!(too_old(doc(1)));
    assert!((2..=1_000).filter(|number| too_old(doc(*number))).count() < 50);
    // A doc that comes back knows what was forgotten before.
    set(&store, &write(doc(1), "k", 5.0, "a", "1"), 100_000).unwrap();
    assert!(too_old(doc(1)));
    store.check();
}

#[test]
fn memory_that_is_full_gives_up_what_expired_and_then_refuses() {
    let store = Vectors::new(1, 20);
    let long = "x".repeat(100);
    let keys: Vec<String> = (0..9).map(|i| format!("key{i}")).collect();
    let results: Vec<_> = keys.iter().map(|key| set(&store, &write(A, key, 1.0, "a", &long), 0)).collect();
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 6, "19 blocks beside the doc's own, three each");
    assert_eq!(results[6], Err(Full::Memory));
    assert_eq!(set(&store, &write(A, "key0", 2.0, "a", &long), 10), Ok(Written::Won { timestamp: 2.0, joined: false }));
    assert_eq!(
        set(&store, &write(B, "key0", 2.0, "a", &long), 40_000),
        Ok(Written::Won { timestamp: 2.0, joined: true })
    );
    let mut poor = write(B, "key1", 2.0, "a", &long);
    poor.role = Role { number: 11, blocks: 2 };
    assert_eq!(set(&store, &poor, 40_000), Err(Full::Role));
    poor.role.blocks = 3;
    assert!(set(&store, &poor, 40_000).is_ok());
    store.check();
}

/// What a poller hears of a doc's registers after a position: their keys, and whether it has to take all of them.
fn heard(store: &Vectors, position: u64, now: u64) -> (bool, Vec<Vec<u8>>) {
    let changes = store::since(store, A, name(A, b"", b"").scope_hash, position, None, now).unwrap();
    let found = &changes.found;
    (changes.too_old, found.records.iter().filter(|r| !r.live).map(|r| found.key(r).to_vec()).collect())
}

fn clear(store: &Vectors, now: u64) -> u64 {
    store::clear(store, A, name(A, b"", b"").scope_hash, None, now, &Uncounted)
}

#[test]
fn what_was_cleared_gives_way_and_is_charged_to_nobody() {
    let store = Vectors::new(1, 12);
    let short = |scope, key| Write { role: Role { number: 10, blocks: 8 }, ..write(scope, key, 1.0, "a", "1") };
    let keys = ["k", "l", "m", "n"];
    keys.iter().for_each(|key| assert!(set(&store, &short(A, key), 0).is_ok()));
    assert_eq!(set(&store, &short(A, "o"), 0), Err(Full::Role));
    let known = store.position();
    assert_eq!((clear(&store, 10), store.usage_of(10)), (4, 0));
    assert_eq!(heard(&store, known, 10).1.len(), 4);
    store.check();
    // Three blocks are free: as many as the second doc's first register needs, the others need two each.
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(set(&store, &short(B, key), 20), Ok(Written::Won { timestamp: 1.0, joined: true }), "{i}");
        assert_eq!(heard(&store, known, 20).0, i > 0, "who missed the clear has to look again");
        store.check();
    }
    assert_eq!(set(&store, &short(B, "o"), 20), Err(Full::Role));
    // A cleared register that is written again is charged again.
    store::clear(&store, B, name(B, b"", b"").scope_hash, None, 30, &Uncounted);
    assert!(set(&store, &short(B, "n"), 40).is_ok());
    assert_eq!(store.usage_of(10), 2);
    store.check();
}

#[test]
fn what_was_cleared_is_forgotten_by_time() {
    let store = Vectors::new(1, 64);
    let mut lasting = write(A, "k", 1.0, "a", "1");
    lasting.ttl = register::MAX_TTL;
    set(&store, &lasting, 0).unwrap();
    let known = store.position();
    clear(&store, 1_000);
    assert_eq!(store::next_due(&store), Some(61_000));
    store::turn(&store, 60_900, &Uncounted);
    assert_eq!(heard(&store, known, 60_900), (false, vec![b"k".to_vec()]));
    store::turn(&store, 61_000, &Uncounted);
    assert_eq!((store::usage(&store, 1), store::next_due(&store)), (Usage::default(), None));
    assert!(heard(&store, known, 61_000).0);
    // What lives for a shorter time is remembered for a shorter time.
    set(&store, &Write { ttl: 2_000, ..write(A, "k", 1.0, "a", "1") }, 62_000).unwrap();
    clear(&store, 62_000);
    assert_eq!(store::next_due(&store), Some(64_000));
    store.check();
}

#[test]
fn only_what_was_there_leaves_when_all_is_cleared() {
    let store = Vectors::new(2, 64);
    for (key, ttl) in [("removed", 30_000), ("expired", 1_000), ("there", 30_000)] {
        set(&store, &Write { ttl, ..write(A, key, 1.0, "a", "1") }, 0).unwrap();
    }
    store::remove(&store, &name(A, b"ns", b"removed"), 2.0, 10, &Uncounted);
    let known = store.position();
    assert_eq!(clear(&store, 2_000), 1);
    let (_, mut left) = heard(&store, known, 2_000);
    left.sort();
    assert_eq!(left, [b"expired".to_vec(), b"there".to_vec()], "nobody had heard that one of them expired");
    let known = store.position();
    assert_eq!((clear(&store, 2_000), heard(&store, known, 2_000)), (0, (false, vec![])));
    assert!(set(&store, &write(A, "removed", 0.0, "a", "1"), 2_000).is_ok(), "any write counts");
    store.check();
}

#[test]
fn whoever_asks_can_turn_a_portion() {
    let store = Vectors::new(1, 4_000);
    let keys: Vec<String> = (0..1_200).map(|i| i.to_string()).collect();
    for key in &keys {
        set(&store, &Write { ttl: 200, ..write(A, key, 1.0, "a", "1") }, 0).unwrap();
    }
    let known = store.position();
    let told = [500, 1_000, 1_200, 1_200].map(|expected| {
        let all = store::turn_a_portion(&store, 500, &Uncounted);
        (all, heard(&store, known, 0).1.len() == expected)
    });
    assert_eq!(told, [(false, true), (false, true), (true, true), (true, true)]);
}

#[test]
fn minus_zero_is_zero() {
    let store = Vectors::new(1, 64);
    set(&store, &write(A, "k", -0.0, "b", "1"), 0).unwrap();
    assert_eq!(set(&store, &write(A, "k", 0.0, "a", "2"), 0), Ok(Written::Lost));
    let written = set(&store, &write(A, "k", -0.0, "c", "3"), 0);
    assert!(matches!(written, Ok(Written::Won { timestamp, .. }) if timestamp.is_sign_positive()));
}

#[test]
fn what_is_forgotten_before_anybody_could_know_is_reported() {
    struct Forgot(RefCell<Vec<(Scope, u64)>>);
    impl Counts for Forgot {
        fn expired(&self, _db: u32) {}
        fn evicted(&self, _db: u32) {}
        fn forgot(&self, scope: Scope, position: u64) {
            self.0.borrow_mut().push((scope, position));
        }
    }
    let forgot = Forgot(RefCell::default());
    let store = Vectors::new(1, 9);
    let mut short = write(A, "short", 1.0, "a", "1");
    short.ttl = 1_000;
    set(&store, &short, 0).unwrap();
    for key in ["k", "l"] {
        set(&store, &write(A, key, 1.0, "a", "1"), 0).unwrap();
    }
    // To make room: its doc stays, with the others.
    let known = store.position();
    assert!(store::set(&store, &write(B, "k", 1.0, "a", "1"), 5_000, &forgot).unwrap().0.is_ok());
    assert_eq!(*forgot.0.borrow(), [(A, known + 1)]);
    store.check();
    assert!(store::since(&store, A, name(A, b"", b"").scope_hash, known, None, 5_000).unwrap().too_old);
    // By time: a removal that was remembered, of a doc that goes with it.
    let removed = name(B, b"ns", b"k");
    store::remove(&store, &removed, 2.0, 6_000, &forgot);
    let position = store.position();
    store::turn(&store, 40_000, &forgot);
    assert!(forgot.0.borrow().contains(&(B, position)));
    assert!(!store::changed_docs(&store, B.db, known).unwrap().1.contains(&B), "nothing else tells of it");
    store.check();
}

#[derive(Clone, Debug)]
enum Step {
    Set { scope: usize, key: u8, timestamp: u8, peer: u8, len: u8, ttl: u16 },
    Remove { scope: usize, key: u8, timestamp: u8 },
    Clear { scope: usize },
    Pass(u16),
    Turn,
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3usize, 0..6u8, 0..40u8, 0..3u8, any::<u8>(), 1..40_000u16).prop_map(|(scope, key, timestamp, peer, len, ttl)| {
            Step::Set { scope, key, timestamp, peer, len, ttl }
        }),
        2 => (0..3usize, 0..6u8, 0..40u8).prop_map(|(scope, key, timestamp)| Step::Remove { scope, key, timestamp }),
        1 => (0..3usize).prop_map(|scope| Step::Clear { scope }),
        3 => any::<u16>().prop_map(Step::Pass),
        2 => Just(Step::Turn),
        1 => Just(Step::Drop),
    ]
}

/// What a register is by the rules, without any of the store's code.
#[derive(Clone, Debug, PartialEq)]
struct Plain {
    timestamp: f64,
    removed: bool,
    peer: Vec<u8>,
    value: Vec<u8>,
    ttl: u64,
    deadline: u64,
}

impl Plain {
    fn remove(self, now: u64) -> Plain {
        let deadline = now + self.ttl.div_ceil(1_000) * 1_000;
        Plain { removed: true, value: Vec::new(), deadline, ..self }
    }

    fn expire(self, now: u64) -> Plain {
        if !self.removed && self.deadline <= now { self.remove(now) } else { self }
    }
}

type Model = BTreeMap<(Scope, Vec<u8>), Plain>;

/// A reader that holds a copy by asking for changes.
#[derive(Default)]
struct Copy {
    position: u64,
    shown: BTreeMap<Vec<u8>, (f64, Vec<u8>)>,
}

impl Copy {
    fn follow(&mut self, store: &Vectors, scope: Scope, now: u64) {
        let changes = store::since(store, scope, name(scope, b"", b"").scope_hash, self.position, None, now).unwrap();
        if changes.too_old {
            self.shown.clear();
        }
        for record in &changes.found.records {
            let key = changes.found.key(record).to_vec();
            if record.live {
                let value = changes.found.value(record).to_vec();
                self.shown.insert(key, (record.timestamp, value));
            } else {
                self.shown.remove(&key);
            }
        }
        self.position = changes.position;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Registers show what the rules say, readers that follow hold the same, and the memory stays sound.
    #[test]
    fn the_store_does_what_a_map_does(steps in prop::collection::vec(step(), 1..120)) {
        let store = Vectors::new(2, 400);
        let scopes = [A, B, ELSEWHERE];
        let mut model = Model::new();
        let mut copies: [Copy; 3] = Default::default();
        let mut now = 0;
        for step in steps {
            match &step {
                Step::Set { scope, key, timestamp, peer, len, ttl } => {
                    let (key, peer) = ([*key], [*peer]);
                    let value: Vec<u8> = (0..*len).collect();
                    let mut w = write(scopes[*scope], "", f64::from(*timestamp), "", "");
                    w.name = name(scopes[*scope], b"ns", &key);
                    (w.peer, w.value, w.ttl) = (&peer, &value, u64::from(*ttl));
                    let new = Plain { timestamp: w.timestamp, removed: false, peer: peer.to_vec(), value: value.clone(), ttl: w.ttl, deadline: now + w.ttl };
                    let old = model.get(&(scopes[*scope], key.to_vec())).map(|old| old.clone().expire(now));
                    let version = |p: &Plain| (p.timestamp, p.removed, p.peer.clone(), p.value.clone());
                    let wins = old.as_ref().is_none_or(|o| version(&new) > version(o));
                    let written = set(&store, &w, now);
                    prop_assert_eq!(matches!(written, Ok(Written::Won { .. })), wins);
                    if wins {
                        model.insert((scopes[*scope], key.to_vec()), new);
                    } else if let Some(old) = old {
                        model.insert((scopes[*scope], key.to_vec()), old);
                    }
                }
                Step::Remove { scope, key, timestamp } => {
                    let key = [*key];
                    let mut known = model.get_mut(&(scopes[*scope], key.to_vec()));
                    known.iter_mut().for_each(|p| **p = p.clone().expire(now));
                    let gone = store::remove(&store, &name(scopes[*scope], b"ns", &key), f64::from(*timestamp), now, &Uncounted);
                    let live = known.filter(|p| !p.removed);
                    prop_assert_eq!(gone, live.is_some());
                    if let Some(p) = live {
                        let timestamp = p.timestamp.max(f64::from(*timestamp));
                        *p = Plain { timestamp, ..p.clone().remove(now) };
                    }
                }
                Step::Clear { scope } => {
                    store::clear(&store, scopes[*scope], name(scopes[*scope], b"", b"").scope_hash, None, now, &Uncounted);
                    model.retain(|(scope_of, _), _| *scope_of != scopes[*scope]);
                }
                Step::Pass(ms) => now += u64::from(*ms),
                Step::Turn => {
                    store::turn(&store, now, &Uncounted);
                    // What the store has forgotten, by then or later, is not held against it below.
                    for p in model.values_mut().filter(|p| !p.removed && p.deadline < now >> 7 << 7) {
                        *p = p.clone().remove(now);
                    }
                }
                Step::Drop => {
                    // For another installation of the extension: readers of this one are told to start anew.
                    store::drop_database(&store, ELSEWHERE.db, Some(ELSEWHERE.log + 1));
                    model.retain(|(scope, _), _| *scope != ELSEWHERE);
                }
            }
            // Removals may be forgotten from their deadline on, and are by the next turn: the model follows the store.
            model.retain(|(scope, key), p| {
                !p.removed || p.deadline > now || store.shards.iter().any(|s| s.borrow().view().find(&name(*scope, b"ns", key)).is_some())
            });
            store.check();
            for (scope, copy) in scopes.iter().zip(&mut copies) {
                let expected: BTreeMap<Vec<u8>, (f64, Vec<u8>)> = model
                    .iter()
                    .filter(|((s, _), p)| s == scope && !p.removed && now < p.deadline)
                    .map(|((_, key), p)| (key.clone(), (p.timestamp, p.value.clone())))
                    .collect();
                let found = store::list(&store, *scope, name(*scope, b"", b"").scope_hash, Some(b"ns"), now).unwrap();
                let listed: BTreeMap<_, _> =
                    found.records.iter().map(|r| (found.key(r).to_vec(), (r.timestamp, found.value(r).to_vec()))).collect();
                prop_assert_eq!(&listed, &expected);
                copy.follow(&store, *scope, now);
                // Between its end and the next turn of the wheel an expired value may still be in a reader's copy.
                copy.shown.retain(|key, _| model.get(&(*scope, key.clone())).is_none_or(|p| p.removed || now < p.deadline));
                prop_assert_eq!(&copy.shown, &expected);
            }
        }
    }

    /// Any order and any repetition of the same writes leaves the same.
    #[test]
    fn the_order_of_writes_does_not_matter(
        writes in prop::collection::vec((0..4u8, 0..5u8, 0..4u8, 0..4u8), 1..30).prop_flat_map(|w| (Just(w.clone()), Just([w.clone(), w].concat()).prop_shuffle()))
    ) {
        let play = |writes: &[(u8, u8, u8, u8)]| {
            let store = Vectors::new(3, 200);
            for (key, timestamp, peer, value) in writes {
                let (key, peer, value) = ([*key], [*peer], [*value]);
                let mut w = write(A, "", f64::from(*timestamp), "", "");
                w.name = name(A, b"ns", &key);
                (w.peer, w.value) = (&peer, &value);
                set(&store, &w, 0).unwrap();
            }
            let found = store::list(&store, A, name(A, b"", b"").scope_hash, None, 0).unwrap();
            let mut all: Vec<_> = found.records.iter().map(|r| (found.key(r).to_vec(), r.timestamp, found.peer(r).to_vec(), found.value(r).to_vec())).collect();
            all.sort_by(|a, b| a.partial_cmp(b).unwrap());
            all
        };
        prop_assert_eq!(play(&writes.0), play(&writes.1));
    }
}

#[test]
fn versions_compare_in_the_store_as_on_their_own() {
    let parts: [&[u8]; 4] = [b"", b"a", b"ab", b"b"];
    let mut versions = Vec::new();
    for timestamp in [-1.0, 0.0, 1.0] {
        for peer in parts {
            for value in parts {
                versions.push(Version { timestamp, removed: false, peer, value });
            }
        }
    }
    for old in &versions {
        for new in &versions {
            let store = Vectors::new(1, 20);
            let mut w = write(A, "k", old.timestamp, "", "");
            (w.peer, w.value) = (old.peer, old.value);
            set(&store, &w, 0).unwrap();
            (w.timestamp, w.peer, w.value) = (new.timestamp, new.peer, new.value);
            let won = matches!(set(&store, &w, 0), Ok(Written::Won { .. }));
            assert_eq!(won, new.compare(old).is_gt(), "{new:?} against {old:?}");
        }
    }
}
