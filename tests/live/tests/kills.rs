//! `kill -9` of processes that use ephemeral registers, inside and outside of their functions, of the worker and of the
//! postmaster; and signals that end a statement or session without ending the server. After each the store is consistent
//! and usable. `CRDT_KILLS=N` kills N times, `CRDT_SEED=S` at other moments.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crdt_engine::testkit::Rng;
use crdt_live::expect::rows;
use crdt_live::listener::Listener;
use crdt_live::resource::kill;
use crdt_live::session::wait_until;
use crdt_live::{Cluster, Pending, Session};
use postgres::{Client, Error, NoTls};
use serde_json::{Value, json};

const KILLS: u64 = 21;
/// Short enough that what is left of a round is soon forgotten.
const TTL: &str = "1 s";

/// Who is killed, and doing what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    /// A session that does nothing but set registers.
    Setting,
    /// One that merges, removes and clears.
    Merging,
    /// One that reads.
    Reading,
    /// One that has set a register and waits in its transaction.
    Waiting,
    /// One that listens.
    Listening,
    /// The background worker, while it has much to tell.
    Worker,
    /// All of them.
    Postmaster,
}

const VICTIMS: [Victim; 7] = [
    Victim::Setting,
    Victim::Merging,
    Victim::Worker,
    Victim::Reading,
    Victim::Postmaster,
    Victim::Waiting,
    Victim::Listening,
];

/// A server whose sessions are busy with registers.
struct Arena {
    cluster: Cluster,
    database: String,
}

/// Sessions at work.
struct Busy {
    setting: Session,
    merging: Session,
    reading: Session,
    waiting: Session,
    listening: Listener,
    /// What they are doing ends with them.
    work: Vec<Pending<Result<(), Error>>>,
}

impl Arena {
    fn new(name: &str, memory: &str) -> Arena {
        let memory = format!("crdt_db.ephemeral_memory={memory}");
        let cluster = Cluster::start(name, &[&memory, "crdt_db.ephemeral_role_share=100"]);
        let database = cluster.create_database(name);
        let docs = "SELECT crdt.create_doc('one'), crdt.create_doc('two'), crdt.create_doc('three')";
        cluster.connect(&database).batch_execute(docs).unwrap();
        Arena { cluster, database }
    }

    /// The server comes back by itself.
    fn connect(&self) -> Client {
        let mut client = None;
        wait_until("the server to be back", || {
            let connected = self.cluster.config(&self.database).connect(NoTls);
            client = connected.ok().filter(|_| true);
            client.as_mut().is_some_and(|client| client.batch_execute("SELECT 1").is_ok())
        });
        client.expect("a connection")
    }

    fn busy(&self) -> Busy {
        let session = || Session::start(self.connect());
        let (setting, merging, reading, waiting) = (session(), session(), session(), session());
        let numbers = "(SELECT generate_series(1, 1000000000) AS i) AS n";
        let work = vec![
            setting.execute(&format!(
                "SELECT count(crdt.ephemeral_set(1 + i % 3, 'ns' || i % 5, (i::bigint * 7919 % 997)::text,
                     to_jsonb(repeat('v', i % 700)), ttl => '{TTL}')) FROM {numbers}"
            )),
            merging.execute(&format!(
                "SET crdt_db.ephemeral_ttl = '{TTL}';
                 SELECT count(crdt.ephemeral_merge(1 + i % 3, jsonb_build_object('ns' || i % 5, jsonb_build_object(
                            i % 997, jsonb_build_object('value', i, 'timestamp', 1e12 + i, 'peer', 'p')))))
                      + count(crdt.ephemeral_remove(1 + i % 3, 'ns' || i % 5, (i % 101)::text))
                      + count(CASE WHEN i % 1000 = 0 THEN crdt.ephemeral_clear(1 + i % 2) END) FROM {numbers}"
            )),
            reading.execute(&format!(
                "SELECT count(crdt.ephemeral_since(1 + i % 3, CASE WHEN i % 2 = 0 THEN (SELECT max(position) FROM crdt.ephemeral) END))
                      + count(crdt.ephemeral_get_all(1 + i % 3, 'ns1')) + count(crdt.ephemeral_get(1, 'ns1', i::text)) FROM {numbers}"
            )),
            waiting.execute(&format!("BEGIN; SELECT crdt.ephemeral_set(1, 'ns', 'waiting', '1', ttl => '{TTL}')")),
        ];
        let listening = Listener::with(self.connect(), &["crdt_ephemeral", "crdt_changes"]);
        Busy { setting, merging, reading, waiting, listening, work }
    }
}

impl Busy {
    fn pid_of(&mut self, victim: Victim) -> Option<i64> {
        let own = "SELECT pg_backend_pid()::bigint";
        Some(match victim {
            Victim::Setting => self.setting.backend_pid().into(),
            Victim::Merging => self.merging.backend_pid().into(),
            Victim::Reading => self.reading.backend_pid().into(),
            Victim::Waiting => self.waiting.backend_pid().into(),
            Victim::Listening => self.listening.client.query_one(own, &[]).unwrap().get(0),
            Victim::Worker => {
                let client = &mut self.listening.client;
                let mut pid = None;
                wait_until("a worker", || {
                    pid = client.query_one("SELECT worker_pid FROM crdt.stat_ephemeral", &[]).unwrap().get(0);
                    pid.is_some()
                });
                pid?
            }
            Victim::Postmaster => return None,
        })
    }

    /// Waits until nobody of them is connected any more.
    fn end(self) {
        self.work.into_iter().for_each(|pending| drop(pending.wait()));
    }
}

fn since(client: &mut Client, position: Option<i64>) -> Value {
    client.query_one("SELECT crdt.ephemeral_since(1, $1)", &[&position]).unwrap().get(0)
}

fn seed() -> u64 {
    std::env::var("CRDT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// A server that lost a process starts anew: nothing is left, and everybody who was there before is told so.
fn check_empty(client: &mut Client, before: i64) -> i64 {
    assert_eq!(rows(client, "SELECT count(*) FROM crdt.ephemeral"), ["0"]);
    let counts =
        "SELECT entries, bytes, sets, ephemeral_listeners, changes_listeners, worker_pid FROM crdt.stat_ephemeral";
    assert_eq!(rows(client, counts), ["0|0|0|0|0|<null>"]);
    let answer = since(client, Some(before));
    assert_eq!((&answer["reset"], &answer["entries"]), (&json!(true), &json!({})));
    let now = answer["position"].as_i64().unwrap();
    assert!(now > before, "an epoch of its own");
    now
}

/// Random writes by one session: everything that reads says what they left.
fn check_usable(client: &mut Client, rng: &mut Rng, listener: &mut Listener) {
    let mut model = BTreeMap::<String, Value>::new();
    client.batch_execute("SELECT crdt.ephemeral_clear(1)").unwrap();
    let start = since(client, None)["position"].as_i64().unwrap();
    for i in 0..40 {
        let key = rng.below(12).to_string();
        if rng.chance(75) {
            let value = json!({ "i": i, "v": "v".repeat(rng.below(900)) });
            client.execute("SELECT crdt.ephemeral_set(1, 'check', $1, $2)", &[&key, &value]).unwrap();
            model.insert(key, value);
        } else {
            let gone: bool = client.query_one("SELECT crdt.ephemeral_remove(1, 'check', $1)", &[&key]).unwrap().get(0);
            assert_eq!(gone, model.remove(&key).is_some());
        }
    }
    let values = |entries: &Value| -> BTreeMap<String, Value> {
        let entries = entries.as_object().cloned().unwrap_or_default().into_iter();
        entries.filter(|(_, entry)| !entry.is_null()).map(|(key, entry)| (key, entry["value"].clone())).collect()
    };
    let all: Value = client.query_one("SELECT crdt.ephemeral_get_all(1, 'check')", &[]).unwrap().get(0);
    assert!(values(&all) == model);
    assert!(values(&since(client, Some(start))["entries"]["check"]) == model);
    assert!(values(&since(client, None)["entries"]["check"]) == model);
    let view = "SELECT count(*) FROM crdt.ephemeral WHERE doc = 1 AND ns = 'check'";
    assert_eq!(rows(client, view), [model.len().to_string()]);
    client.execute("SELECT crdt.ephemeral_set(1, 'check', 'last', $1)", &[&json!(start)]).unwrap();
    listener.hear_value(1, "check", "last", &json!(start));
    let told: BTreeMap<String, Value> = listener
        .shown
        .iter()
        .filter(|(name, _)| name.1 == "check" && name.2 != "last")
        .map(|(name, entry)| (name.2.clone(), entry["value"].clone()))
        .collect();
    assert!(told == model, "listeners know {:?} instead of {:?}", told.keys(), model.keys());
}

/// How many registers fit when nothing else is there: none of the memory is lost.
fn capacity(client: &mut Client) -> i64 {
    client.batch_execute("SELECT crdt.ephemeral_clear(doc) FROM crdt.docs").unwrap();
    let bytes = "SELECT bytes FROM crdt.stat_ephemeral";
    // Removals are remembered for a while; the worker of a listener turns the clock.
    wait_until("everything to be forgotten", || rows(client, bytes) == ["0"]);
    client
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..100000 LOOP
                 PERFORM crdt.ephemeral_set(1, 'fill', i::text, to_jsonb(repeat('v', 100)), ttl => '3 s');
             END LOOP; RAISE 'never full'; EXCEPTION WHEN out_of_memory THEN NULL; END $$",
        )
        .unwrap();
    client.query_one("SELECT sum(entries)::bigint FROM crdt.stat_ephemeral", &[]).unwrap().get(0)
}

#[test]
fn after_each_kill_the_store_is_consistent_and_usable() {
    let kills = std::env::var("CRDT_KILLS").map_or(KILLS, |n| n.parse().expect("CRDT_KILLS is a number"));
    let mut rng = Rng::new(seed());
    let arena = Arena::new("kills", "32MB");
    let (begun, mut killed) = (Instant::now(), BTreeMap::<Victim, u64>::new());
    let mut position = check_empty(&mut arena.connect(), 0);
    for n in 0..kills {
        let victim = VICTIMS[(n % VICTIMS.len() as u64) as usize];
        let mut busy = arena.busy();
        let pid = busy.pid_of(victim);
        std::thread::sleep(Duration::from_micros(rng.below(40_000) as u64));
        match pid {
            Some(pid) => {
                assert!(kill(pid), "{victim:?} {pid} is not there");
                busy.end();
            }
            None => {
                // Sessions that never wait do not notice that the postmaster is gone.
                let orphans = [&busy.setting, &busy.merging, &busy.reading].map(|session| session.backend_pid().into());
                let end = std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(300));
                    orphans.map(kill)
                });
                arena.cluster.crash();
                end.join().expect("kill");
                busy.end();
                arena.cluster.start_again(&[]);
            }
        }
        *killed.entry(victim).or_default() += 1;
        let mut client = arena.connect();
        position = check_empty(&mut client, position);
        let mut listener = Listener::with(arena.connect(), &["crdt_ephemeral"]);
        check_usable(&mut client, &mut rng, &mut listener);
        if n % 100 == 99 {
            eprintln!("{} kills in {:?}", n + 1, begun.elapsed());
        }
    }
    eprintln!("{kills} kills in {:?}: {killed:?}", begun.elapsed());
    let panics = arena.cluster.log().lines().filter(|line| line.contains("PANIC") || line.contains("TRAP")).count();
    assert_eq!(panics, 0);
}

/// No process dies here, so the memory stays as the signals left it.
#[test]
fn after_each_cancel_and_termination_no_memory_is_lost() {
    let rounds = std::env::var("CRDT_KILLS").map_or(1, |n| n.parse::<u64>().expect("CRDT_KILLS is a number") / 20);
    let mut rng = Rng::new(seed());
    let arena = Arena::new("signals", "8MB");
    let short = format!("ALTER DATABASE {} SET crdt_db.ephemeral_ttl = '4s'", arena.database);
    arena.connect().batch_execute(&short).unwrap();
    let mut admin = arena.connect();
    let mut listener = Listener::with(arena.connect(), &["crdt_ephemeral"]);
    let fits = capacity(&mut admin);
    assert!(fits > 5_000, "{fits}");
    for round in 0..rounds {
        let mut busy = arena.busy();
        for victim in [Victim::Setting, Victim::Merging, Victim::Reading, Victim::Worker] {
            let pid = busy.pid_of(victim).expect("a process") as i32;
            std::thread::sleep(Duration::from_micros(rng.below(40_000) as u64));
            let function = if rng.chance(50) { "pg_cancel_backend" } else { "pg_terminate_backend" };
            admin.execute(&format!("SELECT {function}($1)"), &[&pid]).unwrap();
        }
        busy.end();
        check_usable(&mut admin, &mut rng, &mut listener);
        assert_eq!(capacity(&mut admin), fits, "round {round}");
    }
    assert_eq!(arena.cluster.crashes(), Vec::<String>::new());
}
