//! The store of ephemeral registers under many orders its locks allow (`shuttle` picks the next thread at each of them):
//! whoever follows by positions ends with what the store shows, and the memory stays sound.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;

use crdt_engine::ephemeral::audit::{self, Owned, name};
use crdt_engine::ephemeral::{Changes, Counts, Memory, Role, Scope, Shard, View, Write, store};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicU64, Ordering::SeqCst};
use shuttle::sync::{Arc, Mutex, RwLock};
use shuttle::{Config, FailurePersistence, Runner, thread};

const SCHEDULES: usize = 1_500;
const SEED: u64 = 3;
const SHARDS: usize = 2;
/// Not enough for all: what has expired must go to make room, and some writes are refused.
const BLOCKS: usize = 6;
const ROUNDS: u64 = 4;
/// Longer than a value lives and a removal is remembered.
const LONG: u64 = 3_000;
const SCOPES: [Scope; 2] = [Scope { db: 1, log: 7, doc: 1 }, Scope { db: 1, log: 7, doc: 2 }];
const KEYS: [&[u8]; 3] = [b"a", b"b", b"c"];

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    /// Positions are drawn before the shard is locked.
    DrawsOutside,
    /// Positions are drawn by reading the counter and then writing it.
    TornCounter,
    /// Who asks notes the position after having looked, and not before.
    NotesLater,
    /// Nobody hears of removals that were forgotten before anybody was told of them.
    ForgetsSilently,
}

struct Locked {
    shards: Vec<RwLock<Owned>>,
    position: AtomicU64,
    /// Drawn by this thread before it had the lock, for `DrawsOutside`.
    early: Mutex<HashMap<thread::ThreadId, u64>>,
    forgot: Mutex<Vec<(Scope, u64)>>,
    bug: Option<Bug>,
}

impl Counts for Locked {
    fn expired(&self, _db: u32) {}
    fn evicted(&self, _db: u32) {}

    fn forgot(&self, scope: Scope, position: u64) {
        if self.bug != Some(Bug::ForgetsSilently) {
            self.forgot.lock().unwrap().push((scope, position));
        }
    }
}

impl Locked {
    fn new(bug: Option<Bug>) -> Locked {
        let shards = (0..SHARDS).map(|_| RwLock::new(Owned::new(BLOCKS))).collect();
        Locked { shards, position: AtomicU64::new(0), early: Mutex::default(), forgot: Mutex::default(), bug }
    }
}

impl Memory for Locked {
    fn shards(&self) -> usize {
        SHARDS
    }

    fn write<R>(&self, shard: usize, body: impl FnOnce(&mut Shard<'_>) -> R) -> R {
        if self.bug == Some(Bug::DrawsOutside) {
            let drawn = self.position.fetch_add(1, SeqCst) + 1;
            self.early.lock().unwrap().insert(thread::current().id(), drawn);
        }
        body(&mut self.shards[shard].write().unwrap().shard())
    }

    fn read<R>(&self, shard: usize, body: impl FnOnce(View<'_>) -> R) -> R {
        body(self.shards[shard].read().unwrap().view())
    }

    fn position(&self) -> u64 {
        self.position.load(SeqCst)
    }

    fn draw(&self) -> u64 {
        match self.bug {
            Some(Bug::DrawsOutside) => {
                let early = self.early.lock().unwrap().remove(&thread::current().id());
                early.unwrap_or_else(|| self.position.fetch_add(1, SeqCst) + 1)
            }
            Some(Bug::TornCounter) => {
                let drawn = self.position.load(SeqCst) + 1;
                self.position.store(drawn, SeqCst);
                drawn
            }
            _ => self.position.fetch_add(1, SeqCst) + 1,
        }
    }
}

fn scope_hash(scope: Scope) -> u64 {
    name(scope, b"", b"").scope_hash
}

type Shown = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// What somebody holds of a doc who asks for what changed, and what was held at each position that was reached.
#[derive(Default)]
struct Follower {
    position: u64,
    shown: Shown,
    past: Vec<(u64, Shown)>,
}

impl Follower {
    fn take(&mut self, changes: &Changes, position: u64) {
        assert!(position >= self.position, "positions do not go back");
        if changes.too_old {
            self.shown.clear();
        }
        for record in &changes.found.records {
            let key = changes.found.key(record).to_vec();
            match record.live {
                true => self.shown.insert(key, (record.position, changes.found.value(record).to_vec())),
                false => self.shown.remove(&key),
            };
        }
        self.position = position;
        self.past.push((position, self.shown.clone()));
    }

    /// As a client does, with `ephemeral_since`.
    fn ask(&mut self, memory: &Locked, scope: Scope, now: u64) {
        store::turn_a_portion(memory, now, memory);
        let until = (memory.bug == Some(Bug::NotesLater)).then_some(u64::MAX);
        let changes = store::since(memory, scope, scope_hash(scope), self.position, until, now).unwrap();
        self.take(&changes, until.map_or(changes.position, |_| memory.position()));
    }
}

/// As the notifier does: which docs changed, then what in each; and which are to be taken whole.
fn tell(memory: &Locked, followers: &mut [Follower; 2], now: u64) {
    let since = followers[0].position;
    let (until, scopes) = store::changed_docs(memory, SCOPES[0].db, since).unwrap();
    let forgot = std::mem::take(&mut *memory.forgot.lock().unwrap());
    for (scope, follower) in SCOPES.into_iter().zip(&mut *followers) {
        if forgot.iter().any(|(of, position)| *of == scope && *position > since) {
            let all = store::everything(memory, scope, scope_hash(scope), now).unwrap();
            follower.take(&all, until);
        } else if scopes.contains(&scope) {
            let changes = store::since(memory, scope, scope_hash(scope), since, Some(until), now).unwrap();
            follower.take(&changes, until);
        } else {
            follower.position = until;
        }
    }
}

/// One thread's turn of writing: mostly sets, of few keys, by a clock that jumps.
fn act(memory: &Locked, clock: &AtomicU64, who: u64, round: u64) {
    let now = clock.load(SeqCst);
    let pick = who * 5 + round * 3;
    let scope = SCOPES[(pick / 3) as usize % SCOPES.len()];
    let register = name(scope, b"ns", KEYS[pick as usize % KEYS.len()]);
    match (who + round) % 5 {
        3 => {
            store::remove(memory, &register, (now + round) as f64, now, memory);
        }
        4 => {
            store::clear(memory, scope, scope_hash(scope), None, now, memory);
        }
        _ => {
            let value = [b"value ".as_slice(), &[b'0' + who as u8, b'0' + round as u8]].concat();
            let write = Write {
                name: register,
                timestamp: (now + round) as f64,
                own_clock: who == 0,
                peer: &[b'0' + who as u8],
                value: &value,
                ttl: 1_000,
                role: Role { number: 10, blocks: u32::MAX },
            };
            let _ = store::set(memory, &write, now, memory).unwrap().0;
        }
    }
}

fn scenario(bug: Option<Bug>) {
    let memory = Arc::new(Locked::new(bug));
    let clock = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for who in 0..2 {
        let (memory, clock) = (memory.clone(), clock.clone());
        threads.push(thread::spawn(move || (0..ROUNDS).for_each(|round| act(&memory, &clock, who, round))));
    }
    let time = (memory.clone(), clock.clone());
    threads.push(thread::spawn(move || {
        let (memory, clock) = time;
        for passed in [700, LONG] {
            let now = clock.fetch_add(passed, SeqCst) + passed;
            store::turn(&*memory, now, &*memory);
        }
    }));
    let client = (memory.clone(), clock.clone());
    let client = thread::spawn(move || {
        let mut follower = Follower::default();
        (0..ROUNDS).for_each(|_| follower.ask(&client.0, SCOPES[0], client.1.load(SeqCst)));
        follower
    });
    let notifier = (memory.clone(), clock.clone());
    let notifier = thread::spawn(move || {
        let mut followers = <[Follower; 2]>::default();
        (0..ROUNDS).for_each(|_| tell(&notifier.0, &mut followers, notifier.1.load(SeqCst)));
        followers
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (mut client, mut listeners) = (client.join().unwrap(), notifier.join().unwrap());

    // What has expired by now is a change too, which the wheel brings.
    let now = clock.load(SeqCst);
    store::turn(&*memory, now, &*memory);
    client.ask(&memory, SCOPES[0], now);
    tell(&memory, &mut listeners, now);
    for (scope, follower) in [(SCOPES[0], &client), (SCOPES[0], &listeners[0]), (SCOPES[1], &listeners[1])] {
        check(&memory, scope, follower, now);
    }
    memory.shards.iter().for_each(|shard| audit::check(shard.read().unwrap().view()));
}

/// A follower holds what the store shows, and held each register that has not changed since at every position from its own on.
fn check(memory: &Locked, scope: Scope, follower: &Follower, now: u64) {
    let found = store::list(memory, scope, scope_hash(scope), None, now).unwrap();
    let records = found.records.iter();
    let shown: Shown = records.map(|r| (found.key(r).to_vec(), (r.position, found.value(r).to_vec()))).collect();
    assert_eq!(follower.shown, shown, "at the end");
    for (position, held) in &follower.past {
        for (key, last) in shown.iter().filter(|(_, (changed, _))| changed <= position) {
            assert_eq!(held.get(key), Some(last), "at position {position}");
        }
    }
}

fn run(scheduler: impl Scheduler + 'static, bug: Option<Bug>) {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.failure_persistence = match bug {
        None => FailurePersistence::Print,
        Some(_) => FailurePersistence::None,
    };
    Runner::new(scheduler, config).run(move || scenario(bug));
}

#[test]
fn whoever_follows_ends_with_what_the_store_shows() {
    run(RandomScheduler::new_from_seed(SEED, SCHEDULES), None);
}

#[test]
fn rare_orders_too() {
    run(PctScheduler::new_from_seed(SEED, 3, SCHEDULES), None);
}

#[test]
fn positions_drawn_or_noted_at_the_wrong_time_are_noticed() {
    for bug in [Bug::DrawsOutside, Bug::TornCounter, Bug::NotesLater, Bug::ForgetsSilently] {
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
            run(RandomScheduler::new_from_seed(SEED, SCHEDULES), Some(bug));
        }));
        assert!(caught.is_err(), "{bug:?} was not noticed in {SCHEDULES} schedules");
    }
}
