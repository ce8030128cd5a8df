//! Malformed and malicious pushes over SQL, made from valid ones. No backend exits. A push that failed left no event and no
//! row, and the doc's clock within its bound (I3); a push that was accepted is history like any other (I4).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crdt_engine::replica::{Row, Tables, Value};
use crdt_engine::testkit::{Backend, Ledger, Rng, Will, Write, corrupt, memory, oracle};
use crdt_engine::wire::{Batch, PushRequest, Versions, binary, json};
use crdt_engine::{EventId, Limits, value};
use crdt_live::Cluster;
use crdt_live::hub::{Nature, Place};
use postgres::{Client, Statement};

use crate::Outcome;
use crate::args::Args;
use crate::round::strange_crashes;

/// Pushes to one doc: what is checked after each must stay cheap.
const PUSHES: u64 = 1_000;
/// Kilobytes a backend may take at most. A request of the driver is some kilobytes.
const MEMORY: u64 = 400_000;
/// The SQLSTATEs a hostile push may be refused with. An XX000 is a fault.
const REFUSALS: [&str; 22] = [
    "CR001", "CR002", "CR003", "CR004", "CR005", "CR006", "CR007", "CR008", "CR009", "CR010", "CR011", "CR012",
    "CR013", "CR015", "CR021", "22P05", "22P02", "22003", "22021", "23502", "23503", "22023",
];

/// `--pushes` pushes by `--clients` clients, each to a doc of its own at a time.
pub fn run(args: &Args) -> Outcome {
    let (pushes, first, clients) = (args.number("pushes", 4_000), args.number("seed", 1), args.number("clients", 1));
    let cluster = Cluster::start("hostile", &[]);
    let database = cluster.create_database("hostile");
    let (start, docs) = (Instant::now(), pushes.div_ceil(PUSHES));
    let next = AtomicU64::new(0);
    let work = || -> Result<Came, String> {
        let mut client = cluster.connect(&database);
        let mut came = Came::default();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= docs {
                came.memory = memory_of(&mut client);
                return Ok(came);
            }
            let attacked = attack_doc(&mut client, first + nth, PUSHES.min(pushes - nth * PUSHES), &mut came);
            // The others end with the doc they are at.
            attacked.inspect_err(|_| next.store(docs, Ordering::Relaxed))?;
        }
    };
    let mut all = Came::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(work)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a panic is a fault").map(|came| all.add(came)))
    })?;
    let strange = strange_crashes(&cluster, &Default::default());
    if !strange.is_empty() {
        return Err(format!("I7: {strange:?}"));
    }
    Ok(format!(
        "{pushes} pushes to {docs} docs in {:.0?}, {:?}; a backend took at most {} kB",
        start.elapsed(),
        all.outcomes,
        all.memory
    ))
}

/// What pushes came to.
#[derive(Default)]
struct Came {
    outcomes: BTreeMap<String, u64>,
    /// The most that a backend took, in kilobytes.
    memory: u64,
}

impl Came {
    fn add(&mut self, other: Came) {
        for (what, count) in other.outcomes {
            *self.outcomes.entry(what).or_insert(0) += count;
        }
        self.memory = self.memory.max(other.memory);
    }
}

/// All pushes to one doc, and what is checked after them.
fn attack_doc(client: &mut Client, seed: u64, count: u64, came: &mut Came) -> Result<(), String> {
    let mut doc = Doc::new(client, seed);
    for nth in 0..count {
        let what = doc.attack(client).map_err(|wrong| format!("push {nth} to the doc of seed {seed}: {wrong}"))?;
        *came.outcomes.entry(what).or_insert(0) += 1;
    }
    doc.end(client).map_err(|wrong| format!("after the pushes to the doc of seed {seed}: {wrong}"))?;
    match memory_of(client) {
        most if most > MEMORY => Err(format!("the doc of seed {seed}: the backend takes {most} kB")),
        _ => Ok(()),
    }
}

/// The most memory the backend has taken, in kilobytes.
fn memory_of(client: &mut Client) -> u64 {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// A doc that is attacked.
struct Doc {
    place: Place,
    rng: Rng,
    /// What was accepted.
    ledger: Ledger,
    stamp: i64,
    /// Honest replicas of the two names the attacker has, as far as they have pulled.
    authors: [Box<dyn Backend>; 2],
    /// How the doc stands, when nothing was written since: after a refusal, what was just compared.
    known: Option<State>,
    statements: Statements,
}

/// Prepared once for a doc: planning them costs more than running them.
struct Statements {
    state: Statement,
    push: Statement,
    push_binary: Statement,
}

/// What must be as before when a push was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    versions: String,
    /// Runs, and the sum of their counters and lamports.
    log: String,
    rows: String,
}

impl Statements {
    fn prepare(client: &mut Client, place: &Place) -> Statements {
        let Place { doc, schema, generic, .. } = place;
        let s = match generic {
            true => format!("(SELECT string_agg(r::text, ';' ORDER BY r::text) FROM crdt.rows({doc}, 's') AS r)"),
            false => format!("(SELECT string_agg(s::text, ';' ORDER BY id) FROM {schema}.s)"),
        };
        let state = format!(
            "SELECT crdt.version({doc})::text,
                    (SELECT (count(*), sum(counter_end), sum(lamport_end), max(lamport_end))::text FROM crdt.event_run WHERE doc = {doc}),
                    concat((SELECT string_agg(t::text, ';' ORDER BY id) FROM {schema}.t), '|', {s})"
        );
        let mut prepare = |sql: &str| client.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        Statements {
            state: prepare(&state),
            push: prepare("SELECT crdt.push($1, $2::text)"),
            push_binary: prepare("SELECT crdt.push_binary($1, $2)"),
        }
    }
}

impl Doc {
    fn new(client: &mut Client, seed: u64) -> Doc {
        let mut rng = Rng::new(seed);
        // Requests are made here, byte by byte: the row ids of the others are not what replicas say.
        let natures: Vec<Nature> = Nature::ALL.into_iter().filter(|nature| nature.may_have_another()).collect();
        let nature = *rng.pick(&natures);
        let generic = !nature.wants_s() && rng.chance(50);
        let schema = format!("h{seed}");
        let place = Place::make(client, &schema, &format!("m-{schema}"), nature, generic);
        let author = |name| memory(name, Will::None) as Box<dyn Backend>;
        let authors = [author("mallory"), author("second")];
        let statements = Statements::prepare(client, &place);
        Doc { place, rng, ledger: Ledger::new(), stamp: 0, authors, known: None, statements }
    }

    fn state(&self, client: &mut Client) -> Result<State, String> {
        let row = client.query_one(&self.statements.state, &[]).map_err(|error| format!("{error:?}"))?;
        Ok(State { versions: row.get(0), log: row.get(1), rows: row.get(2) })
    }

    /// One push. Answers how it ended.
    fn attack(&mut self, client: &mut Client) -> Result<String, String> {
        if self.rng.chance(20) {
            self.stamp += 10;
            let write = self.random_write();
            let sql = self.place.sql(&write);
            client.batch_execute(&sql).map_err(|error| format!("plain SQL beside: {sql}: {error:?}"))?;
            self.known = None;
        }
        let before = match self.known.take() {
            Some(state) => state,
            None => self.state(client)?,
        };
        let versions =
            json::decode_versions(before.versions.as_bytes(), &Limits::default()).map_err(|e| e.to_string())?;
        let (batch, known) = self.valid(client, &versions)?;
        let batch = if self.rng.chance(80) { corrupt(batch, &known, &mut self.rng) } else { batch };
        let request = PushRequest { peer_id: self.name(), batch: batch.clone(), frontier: vec![] };
        let doc = self.place.doc;
        let in_binary = self.rng.chance(50);
        let mut mangled = false;
        let answer = if in_binary {
            // What the format cannot carry need not be sent.
            let Ok(mut bytes) = binary::encode_push(&request) else { return self.not_sent(before) };
            if self.rng.chance(40) {
                mangled = true;
                mangle(&mut bytes, &mut self.rng);
            }
            client.query_one(&self.statements.push_binary, &[&doc, &bytes]).map(drop)
        } else {
            let mut text = String::new();
            if json::write_push(&mut text, &request).is_err() {
                return self.not_sent(before);
            }
            if self.rng.chance(40) {
                mangled = true;
                let mut bytes = text.into_bytes();
                mangle_json(&mut bytes, &mut self.rng);
                text = String::from_utf8_lossy(&bytes).replace('\0', "");
            }
            client.query_one(&self.statements.push, &[&doc, &text]).map(drop)
        };
        match answer {
            Ok(()) => {
                // Of a mangled request nobody knows what the database read.
                if !mangled {
                    self.ledger.keep(&batch)?;
                }
                Ok("accepted".to_owned())
            }
            Err(error) => {
                let Some(answer) = error.as_db_error() else { return Err(format!("the backend is gone: {error:?}")) };
                let state = answer.code().code().to_owned();
                if !REFUSALS.contains(&state.as_str()) {
                    return Err(format!("refused with {state}: {answer:?}"));
                }
                let after = self.state(client)?;
                if after != before {
                    let message = answer.message();
                    return Err(format!("I3: refused with {state} ({message}), and left {after:?} of {before:?}"));
                }
                self.known = Some(after);
                Ok(state)
            }
        }
    }

    fn not_sent(&mut self, before: State) -> Result<String, String> {
        self.known = Some(before);
        Ok("not sent".to_owned())
    }

    /// A name that is mallory's, and sometimes an odd one.
    fn name(&mut self) -> String {
        let long = "n".repeat(300);
        let odd = ["", "m", "é", "\u{7f}", "a:b:0", "'; DROP TABLE t; --", &long];
        if self.rng.chance(10) { (*self.rng.pick(&odd)).to_owned() } else { "mallory".to_owned() }
    }

    /// A push that would be accepted, and events that can be named.
    fn valid(&mut self, client: &mut Client, versions: &Versions) -> Result<(Batch, Vec<EventId>), String> {
        let at = usize::from(self.rng.chance(33));
        let known: Vec<EventId> = versions.iter().map(|(peer, at)| EventId::new(peer.as_str(), *at)).collect();
        let has = self.authors[at].versions();
        if has != *versions {
            let page = self.place.pull(client, &has, u64::from(u32::MAX), true).map_err(|r| format!("{r:?}"))?;
            self.authors[at].push(page.batch, true).map_err(|refusal| format!("the hub's log: {refusal:?}"))?;
        }
        let mut author = self.authors[at].fork().expect("it is in memory");
        let writes: Vec<Write> = (0..1 + self.rng.below(5)).map(|_| self.random_write()).collect();
        author.write(&writes).map_err(|refusal| format!("{refusal:?}"))?;
        Ok((author.pull(versions, usize::MAX).map_err(|r| format!("{r:?}"))?.batch, known))
    }

    fn random_write(&mut self) -> Write {
        let tbl = if self.rng.chance(80) { "t" } else { "s" };
        let row = *self.rng.pick(&["1", "2", "3"]);
        self.stamp += 1;
        match self.rng.below(8) {
            0..3 => Write::Insert(tbl, row, vec![(self.rng.pick::<&str>(&["x", "y", "d"]), self.stamp)]),
            3 => Write::Delete(tbl, row),
            _ => Write::Update(tbl, row, self.rng.pick::<&str>(&["x", "y", "d", "u"]), self.stamp),
        }
    }

    /// Table and log agree, the log is sound, plain SQL still writes, and what was accepted is there.
    fn end(mut self, client: &mut Client) -> Result<(), String> {
        self.stamp += 1;
        let sql = self.place.sql(&Write::Insert("t", "last", vec![("y", self.stamp)]));
        client.batch_execute(&sql).map_err(|error| format!("plain SQL after the attacks: {error:?}"))?;
        self.verify(client)?;
        let (mut known, mut pages) = (Versions::new(), Ledger::new());
        loop {
            // In binary: JSON leaves out operations that no version knows yet.
            let limit = 1 + self.rng.below(200) as u64;
            let page = self.place.pull(client, &known, limit, true).map_err(|r| format!("{r:?}"))?;
            pages.keep(&page.batch)?;
            known = page.versions;
            if !page.has_more {
                break;
            }
        }
        let all = self.place.pull(client, &Versions::new(), u64::from(u32::MAX), true).map_err(|r| format!("{r:?}"))?;
        pages.check(&all.batch)?;
        self.ledger.check(&all.batch)?;
        let log = oracle::log_of(all.batch)?;
        let shown = oracle::visible(&self.place.rows(client));
        let mut right = oracle::visible(&oracle::tables_of(&log));
        // Mangled names: what no table has a place for stays in the log.
        self.place.keep_own(&mut right);
        if log.versions() != known || !same_tables(&shown, &right) {
            return Err(format!("I1: the tables show {shown:?}, the log stands for {right:?}"));
        }
        self.place.drop(client);
        Ok(())
    }
}

impl Doc {
    /// I4.
    fn verify(&self, client: &mut Client) -> Result<(), String> {
        for tbl in ["t", "s"].iter().filter(|tbl| **tbl == "t" || !self.place.generic) {
            let sql = format!("SELECT v::text FROM crdt.verify('{}.{tbl}') AS v", self.place.schema);
            if let Some(row) = client.query(&sql, &[]).map_err(|error| format!("{sql}: {error:?}"))?.first() {
                return Err(format!("I4: {}", row.get::<_, String>(0)));
            }
        }
        Ok(())
    }
}

/// Bytes changed, doubled, cut out or put in.
fn mangle(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..1 + rng.below(4) {
        if bytes.is_empty() {
            return;
        }
        let (at, len) = (rng.below(bytes.len()), 1 + rng.below(12));
        let end = bytes.len().min(at + len);
        match rng.below(6) {
            0 => bytes[at] = rng.next_u64() as u8,
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            4 => bytes.truncate(at),
            _ => bytes.splice(at..at, [0xff; 9].into_iter().take(len)).for_each(drop),
        }
    }
}

/// As `mangle`, or a token replaced by one that hurts.
fn mangle_json(bytes: &mut Vec<u8>, rng: &mut Rng) {
    const TOKENS: [&str; 24] = [
        "null",
        "-1",
        "1e999",
        "9007199254740992",
        "18446744073709551616",
        "1.5",
        "[]",
        "{}",
        "\"\"",
        "true",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "[[[[[[[[[[]]]]]]]]]]",
        "\"peer\"",
        "{\"$text\":\"x\"}",
        "\"t\"",
        "\"pg_catalog.pg_class\"",
        "\"id\"",
        ",",
        ":",
        "\"x\",\"x\"",
        "-0",
        "0e0",
        "\"\u{feff}\"",
    ];
    if rng.chance(50) || bytes.is_empty() {
        return mangle(bytes, rng);
    }
    // From one mark of syntax to the next.
    let marks: Vec<usize> = (0..bytes.len()).filter(|&at| b",:[]{}".contains(&bytes[at])).collect();
    if marks.is_empty() {
        return mangle(bytes, rng);
    }
    let at = *rng.pick(&marks) + 1;
    let end = marks.iter().copied().find(|&mark| mark >= at).unwrap_or(bytes.len());
    bytes.splice(at..end, rng.pick::<&str>(&TOKENS).bytes()).for_each(drop);
}

/// The same rows with the same cells. Values are held against each other as the database does it: a column of integers shows 0
/// for a -0, which is the same number.
fn same_tables(shown: &Tables, right: &Tables) -> bool {
    same_maps(shown, right, |rows, others| {
        same_maps(rows, others, |row, other: &Row| {
            same_maps(row, other, |a: &Value, b| value::same(a.view(), b.view()))
        })
    })
}

fn same_maps<T>(a: &BTreeMap<Box<str>, T>, b: &BTreeMap<Box<str>, T>, same: impl Fn(&T, &T) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((key, a), (other, b))| key == other && same(a, b))
}
