//! Every interleaving of two and three sessions that write, push and pull the same row, at every isolation level.
//! Whatever order they come in, and whoever waits or fails: table and log agree, counters have no holes, and a reader
//! was told the whole log.
//!
//! All of two sessions are tried, and every [`STRIDE`]th of three; `CRDT_STRIDE=1` tries all, as `scripts/soak` does.

use std::time::{Duration, Instant};

use crdt_engine::testkit::{Rng, oracle};
use crdt_engine::wire::Versions;
use crdt_live::hub::{Nature, Place};
use crdt_live::session::PATIENCE;
use crdt_live::{Cluster, Pending, Session};
use postgres::{Client, Error};

const STRIDE: usize = 9;
const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
/// The hubs they meet on; those whose key is `id` alone.
const NATURES: [Nature; 7] = [
    Nature::Plain,
    Nature::Willful,
    Nature::Idempotent,
    Nature::Partitioned,
    Nature::Nested,
    Nature::Spilling,
    Nature::Family,
];
/// Rows of one table, each the scene of one interleaving: few, so that comparing table and log stays cheap.
const ROWS: usize = 25;

/// What sessions do, step by step. In statements `{id}` is the row and `{n}` a number of the interleaving's own; `push
/// PEER LAMPORT KIND` is a push about the row, `LAMPORT` above the log's greatest when the interleaving began.
struct Scenario {
    name: &'static str,
    /// The row is there before.
    row: bool,
    sessions: &'static [&'static [&'static str]],
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM {t}";

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a local write, a push and another write on one cell",
        row: true,
        sessions: &[
            &[BEGIN, "UPDATE {t} SET x = 1 WHERE id = '{id}'", "COMMIT"],
            &["BEGIN; push p 2 update", "COMMIT"],
            &["UPDATE {t} SET x = 3 WHERE id = '{id}'"],
        ],
    },
    Scenario {
        name: "a push from far ahead against local writes on one cell",
        row: true,
        sessions: &[
            &[BEGIN, "UPDATE {t} SET x = 1 WHERE id = '{id}'", "COMMIT"],
            &["BEGIN; push p 900 update", "ROLLBACK", "push p 900 update"],
            &["UPDATE {t} SET x = 3, y = 3 WHERE id = '{id}'"],
        ],
    },
    Scenario {
        name: "an insert, a push of the same new key and a push that deletes it",
        row: false,
        sessions: &[
            &[BEGIN, "INSERT INTO {t} (id, x) VALUES ('{id}', 1) ON CONFLICT (id) DO UPDATE SET y = 1", "COMMIT"],
            &["BEGIN; push p 2 insert", "COMMIT"],
            &["push d 50 delete"],
        ],
    },
    Scenario {
        name: "an insert that goes again, against pushes of the same key",
        row: false,
        sessions: &[
            &["BEGIN; INSERT INTO {t} (id, x) VALUES ('{id}', 1)", "DELETE FROM {t} WHERE id = '{id}'", "COMMIT"],
            &["push p 1 insert"],
            &["BEGIN; push q 2 update", "COMMIT"],
        ],
    },
    Scenario {
        name: "a local delete, a pushed update and a pushed insert",
        row: true,
        sessions: &[
            &[BEGIN, "DELETE FROM {t} WHERE id = '{id}'", "COMMIT"],
            &["BEGIN; push p 2 update", "COMMIT"],
            &["push q 3 insert"],
        ],
    },
    Scenario {
        name: "a pushed delete, a local update and a local insert",
        row: true,
        sessions: &[
            &[BEGIN, "UPDATE {t} SET x = 1 WHERE id = '{id}'", "COMMIT"],
            &["BEGIN; push p 2 delete", "COMMIT"],
            &["INSERT INTO {t} (id, y) VALUES ('{id}', 9) ON CONFLICT (id) DO UPDATE SET y = 8"],
        ],
    },
    Scenario {
        name: "two pushes and a local write",
        row: true,
        sessions: &[
            &["BEGIN; push p 2 update", "COMMIT"],
            &["BEGIN; push q 2 delete", "push q 3 insert", "COMMIT"],
            &["BEGIN ISOLATION LEVEL {level}; UPDATE {t} SET x = 1 WHERE id = '{id}'", "COMMIT"],
        ],
    },
    Scenario {
        name: "savepoints",
        row: true,
        sessions: &[
            &[
                "BEGIN ISOLATION LEVEL {level}; UPDATE {t} SET y = 1 WHERE id = '{id}'",
                "SAVEPOINT a; UPDATE {t} SET x = 1 WHERE id = '{id}'; SAVEPOINT b; DELETE FROM {t} WHERE id = '{id}'; ROLLBACK TO b",
                "ROLLBACK TO a; UPDATE {t} SET d = 1 WHERE id = '{id}'; SAVEPOINT c; UPDATE {t} SET u = 1 WHERE id = '{id}'; RELEASE c",
                "COMMIT",
            ],
            &["BEGIN; SAVEPOINT a; push p 2 update; ROLLBACK TO a; push p 3 delete", "COMMIT"],
            &["UPDATE {t} SET x = 3 WHERE id = '{id}'"],
        ],
    },
    Scenario {
        name: "PREPARE TRANSACTION",
        row: true,
        sessions: &[
            &[
                BEGIN,
                "UPDATE {t} SET x = 1, y = 1 WHERE id = '{id}'",
                "PREPARE TRANSACTION '{n}'",
                "COMMIT PREPARED '{n}'",
            ],
            &["BEGIN; push p 2 update", "COMMIT"],
            &["UPDATE {t} SET y = 3 WHERE id = '{id}'"],
        ],
    },
    Scenario {
        name: "PREPARE TRANSACTION of a new row, rolled back",
        row: false,
        sessions: &[
            &[
                "BEGIN ISOLATION LEVEL {level}; INSERT INTO {t} (id) VALUES ('{id}'); PREPARE TRANSACTION '{n}'",
                "ROLLBACK PREPARED '{n}'",
            ],
            &["BEGIN; push p 2 insert", "push p 3 update", "COMMIT"],
            &["push q 40 delete"],
        ],
    },
    Scenario {
        name: "pulls during uncommitted writes",
        row: true,
        sessions: &[
            &[
                "BEGIN ISOLATION LEVEL {level}; UPDATE {t} SET x = 1 WHERE id = '{id}'; flush",
                "UPDATE {t} SET y = 1 WHERE id = '{id}'",
                "COMMIT",
            ],
            &["pull", "pull"],
            &["BEGIN; INSERT INTO {t} (id, x) VALUES ('{id} too', 1); flush", "COMMIT"],
        ],
    },
];

/// What may go wrong when sessions meet; the transaction is rolled back then, and what it was to do next finds no
/// transaction, savepoint or prepared transaction.
const RIVALRY: [&str; 7] = ["40001", "40P01", "23505", "CR016", "25P02", "3B001", "42704"];

#[test]
fn every_interleaving_of_two_and_three_sessions() {
    let stride = std::env::var("CRDT_STRIDE").map_or(STRIDE, |text| text.parse().expect("CRDT_STRIDE is a number"));
    let cluster = Cluster::shared();
    let database = cluster.create_database("interleavings");
    let (mut tried, start) = (0, Instant::now());
    let mut stage = Stage::new(cluster, &database);
    for scenario in SCENARIOS {
        for level in LEVELS {
            let steps: Vec<usize> = scenario.sessions.iter().map(|steps| steps.len()).collect();
            for (first, second) in [(0, 1), (0, 2), (1, 2)] {
                let mut two = vec![0; steps.len()];
                (two[first], two[second]) = (steps[first], steps[second]);
                for order in interleavings(&two) {
                    stage.play(scenario, level, &order);
                    tried += 1;
                }
            }
            for order in interleavings(&steps).into_iter().skip(tried % stride).step_by(stride) {
                stage.play(scenario, level, &order);
                tried += 1;
            }
        }
    }
    println!("{tried} interleavings of {} scenarios in {:?}", SCENARIOS.len(), start.elapsed());
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

/// All orders of so many steps of each session, as the sessions' numbers.
fn interleavings(steps: &[usize]) -> Vec<Vec<usize>> {
    if steps.iter().all(|n| *n == 0) {
        return vec![vec![]];
    }
    let mut all = vec![];
    for session in (0..steps.len()).filter(|i| steps[*i] > 0) {
        let mut rest = steps.to_vec();
        rest[session] -= 1;
        for mut order in interleavings(&rest) {
            order.insert(0, session);
            all.push(order);
        }
    }
    all
}

/// Where interleavings are played: sessions, and a table for some of them.
struct Stage<'c> {
    cluster: &'c Cluster,
    database: &'c str,
    observer: Client,
    sessions: Vec<Session>,
    place: Option<Place>,
    played: usize,
    /// What the reader of the present table was told.
    read: (Versions, u64, usize),
}

impl<'c> Stage<'c> {
    fn new(cluster: &'c Cluster, database: &'c str) -> Stage<'c> {
        let connect = || {
            let mut client = cluster.connect(database);
            client.batch_execute("SET deadlock_timeout = '10ms'").expect("SET");
            Session::start(client)
        };
        let mut observer = cluster.connect(database);
        observer
            .batch_execute(
                "CREATE FUNCTION push(doc bigint, peer text, counter bigint, lamport bigint, kind text, id text) RETURNS void LANGUAGE plpgsql AS $$
                 DECLARE
                     op jsonb := jsonb_build_object('type', kind, 'tbl', 't', 'row_id', id);
                 BEGIN
                     op := op || CASE kind WHEN 'insert' THEN '{\"values\": [[\"x\", 70], [\"y\", 71]]}' WHEN 'update' THEN '{\"col\": \"x\", \"value\": 72}' ELSE '{}' END::jsonb;
                     PERFORM crdt.push(doc, json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', json_build_array(json_build_object(
                         'peer', peer, 'counter_start', counter, 'lamport_start', lamport, 'deps', '[]'::json, 'ops', json_build_array(op)))));
                 END $$",
            )
            .expect("a function");
        let sessions = (0..3).map(|_| connect()).collect();
        Stage { cluster, database, observer, sessions, place: None, played: 0, read: Default::default() }
    }

    /// Plays one interleaving on a row of its own and checks what came of it.
    fn play(&mut self, scenario: &Scenario, level: &str, order: &[usize]) {
        if self.played.is_multiple_of(ROWS) {
            let nature = NATURES[self.played / ROWS % NATURES.len()];
            let schema = format!("s{}", self.played / ROWS);
            self.place = Some(Place::make(&mut self.observer, &schema, "m", nature, false));
            self.read = Default::default();
        }
        self.played += 1;
        let place = self.place.clone().expect("a table");
        let id = format!("r{}", self.played);
        if scenario.row {
            let insert = format!("INSERT INTO {}.t (id, x, y) VALUES ('{id}', 0, 0)", place.schema);
            self.observer.batch_execute(&insert).expect("a row");
        }
        let what = format!("{}, {level}, sessions {order:?}, {place:?}", scenario.name);
        self.perform(scenario, level, order, &place, &id).unwrap_or_else(|error| panic!("{what}: {error}"));
        place
            .check(&mut self.observer, &mut Rng::new(self.played as u64))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        self.pull(&place).unwrap_or_else(|error| panic!("{what}: {error}"));
        let whole = place.pull(&mut self.observer, &Versions::new(), 1_000_000, true).expect("the whole log");
        assert_eq!((self.read.1, self.read.2), oracle::fingerprint(&whole.batch), "{what}: a reader's pulls");
        let log = oracle::log_of(whole.batch).unwrap_or_else(|error| panic!("{what}: {error}"));
        let shown = oracle::visible(&place.rows(&mut self.observer));
        assert_eq!(shown, oracle::visible(&oracle::tables_of(&log)), "{what}");
    }

    fn perform(
        &mut self,
        scenario: &Scenario,
        level: &str,
        order: &[usize],
        place: &Place,
        id: &str,
    ) -> Result<(), String> {
        let greatest = format!("SELECT coalesce(max(lamport_end), 0) FROM crdt.event_run WHERE doc = {}", place.doc);
        let greatest: i64 = self.observer.query_one(&greatest, &[]).expect("the log").get(0);
        let mut next = vec![0; scenario.sessions.len()];
        let mut waiting: Vec<Vec<Pending<Result<(), Error>>>> = vec![vec![], vec![], vec![]];
        for session in order {
            let step = scenario.sessions[*session][next[*session]];
            next[*session] += 1;
            if step == "pull" {
                self.pull(place)?;
                continue;
            }
            let mut counters = std::collections::BTreeMap::new();
            // Counters go on from the pushes of the session's earlier steps.
            for earlier in &scenario.sessions[*session][..next[*session] - 1] {
                written(earlier, level, place, id, greatest, &mut counters);
            }
            let sql = written(step, level, place, id, greatest, &mut counters);
            waiting[*session].push(self.sessions[*session].execute(&sql));
            self.settle(*session, &mut waiting)?;
        }
        for pending in waiting.into_iter().flatten() {
            tolerate(pending.wait())?;
        }
        // Each has ended its transaction, or failed and must.
        for session in &self.sessions {
            session.execute("ROLLBACK").wait().map_err(|error| format!("{error:?}"))?;
        }
        let prepared = format!("SELECT FROM pg_prepared_xacts WHERE gid = '{id}'");
        if !self.observer.query(&prepared, &[]).expect("pg_prepared_xacts").is_empty() {
            self.observer.batch_execute(&format!("ROLLBACK PREPARED '{id}'")).expect("ROLLBACK PREPARED");
        }
        Ok(())
    }

    /// Waits until a session has done all it was told, or waits for another one.
    fn settle(&mut self, session: usize, waiting: &mut [Vec<Pending<Result<(), Error>>>]) -> Result<(), String> {
        let start = Instant::now();
        loop {
            while let Some(result) = waiting[session].first().and_then(Pending::poll) {
                waiting[session].remove(0);
                tolerate(result)?;
            }
            if waiting[session].is_empty() {
                return Ok(());
            }
            if start.elapsed() > Duration::from_millis(3) {
                let blocked = "SELECT cardinality(pg_blocking_pids($1)) > 0";
                let pid = self.sessions[session].backend_pid();
                if self.observer.query_one(blocked, &[&pid]).expect("pg_blocking_pids").get(0) {
                    return Ok(());
                }
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("session {session} neither ends nor waits"));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    fn pull(&mut self, place: &Place) -> Result<(), String> {
        let page =
            place.pull(&mut self.observer, &self.read.0, 1_000_000, true).map_err(|refusal| format!("{refusal:?}"))?;
        let (sum, count) = oracle::fingerprint(&page.batch);
        self.read = (page.versions, self.read.1.wrapping_add(sum), self.read.2 + count);
        Ok(())
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the tables are in database {} of cluster {:?}", self.database, self.cluster.data());
        }
    }
}

/// A step as SQL.
fn written(
    step: &str,
    level: &str,
    place: &Place,
    id: &str,
    greatest: i64,
    counters: &mut std::collections::BTreeMap<String, i64>,
) -> String {
    let statement = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["push", peer, above, kind] => {
                let counter = counters.entry(peer.to_owned()).or_insert(-1);
                *counter += 1;
                let lamport = greatest + above.parse::<i64>().expect("a number");
                format!("SELECT push({}, '{peer} {id}', {counter}, {lamport}, '{kind}', '{id}')", place.doc)
            }
            // Looking at the log writes what has been captured so far.
            ["flush"] => format!("SELECT count(*) FROM crdt.verify('{}.t')", place.schema),
            // All that the session has pushed so far goes, in every scenario.
            ["ROLLBACK", ..] => {
                counters.clear();
                text.to_owned()
            }
            _ => text.to_owned(),
        }
    };
    let sql: Vec<String> = step.split(';').map(statement).collect();
    sql.join(";")
        .replace("{level}", level)
        .replace("{t}", &format!("{}.t", place.schema))
        .replace("{id}", id)
        .replace("{n}", id)
}

fn tolerate(result: Result<(), Error>) -> Result<(), String> {
    let Err(error) = result else { return Ok(()) };
    match error.as_db_error() {
        Some(answer) if RIVALRY.contains(&answer.code().code()) => Ok(()),
        _ => Err(format!("{error:?}")),
    }
}
