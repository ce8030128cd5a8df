//! Tables are altered while plain SQL writes them, clients push to them and readers pull: columns come, go and change name and
//! type, the table moves, loses its key, is dropped and made again, partitions leave and return. Table and log never disagree
//! but where such a change says so; in the end all is as it was, `crdt.repair` has run, and the round's invariants hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdt_engine::testkit::Rng;
use crdt_live::Cluster;
use crdt_live::hub::{Nature, Place};
use postgres::Client;

use crate::Outcome;
use crate::args::Args;
use crate::client::Kind;
use crate::round::{Plan, Round, Sum, strange_crashes, sweep};

/// Steps of a round: a change, or one taken back.
const STEPS: usize = 80;
/// What a change may be refused with: it met a writer, another change it does not go with, or a trigger that went by a name
/// of before. An XX000 is a fault.
const REFUSALS: [&str; 18] = [
    "40001", "40P01", "55P03", "55006", "2BP01", "0A000", "3F000", "428C9", "42703", "42804", "42883", "42P01",
    "42P10", "42P16", "23502", "23503", "23514", "CR018",
];

/// `--rounds` rounds.
pub fn run(args: &Args) -> Outcome {
    let (rounds, first) = (args.number("rounds", 3), args.number("seed", 1));
    let cluster = Cluster::start("ddl", &[]);
    let databases: Vec<String> = ["one", "two"].iter().map(|name| cluster.create_database(name)).collect();
    let (start, mut total, mut steps, mut aside) = (Instant::now(), Sum::default(), BTreeMap::new(), 0);
    for seed in first..first + rounds {
        let plan = plan(seed);
        let what = format!("round of seed {seed}: {} clients, {:?}", plan.kinds.len(), plan.nature);
        let begun = Instant::now();
        let sum =
            round(&cluster, &databases, plan, &mut steps, &mut aside).map_err(|wrong| format!("{what}: {wrong}"))?;
        println!("{what}, {} events, {} acknowledged, {:.0?}", sum.events, sum.acknowledged, begun.elapsed());
        total.events += sum.events;
        total.acknowledged += sum.acknowledged;
        let strange = strange_crashes(&cluster, &BTreeSet::new());
        if !strange.is_empty() {
            return Err(format!("{what}: I7: {strange:?}"));
        }
    }
    sweep();
    Ok(format!(
        "{rounds} rounds, {} steps ({steps:?}), {aside} beside them, {} events, {} acknowledged, in {:.0?}",
        steps.values().sum::<u64>(),
        total.events,
        total.acknowledged,
        start.elapsed()
    ))
}

fn plan(seed: u64) -> Plan {
    let mut rng = Rng::new(seed);
    let nature = *rng.pick(&Nature::ALL);
    let second = nature.may_have_another() && rng.chance(30);
    let mut kinds = vec![Kind::Replica, Kind::Sql, Kind::Reader];
    if second {
        kinds.push(Kind::Courier);
    }
    for _ in 0..rng.below(4) {
        kinds.push(*rng.pick(&[Kind::Replica, Kind::Sql, Kind::Async]));
    }
    Plan { seed, kinds, nature, second, keys: *rng.pick(&[10, 100]), pause: 5, mortal: false, shifting: true }
}

fn round(
    cluster: &Cluster,
    databases: &[String],
    plan: Plan,
    steps: &mut BTreeMap<&'static str, u64>,
    aside: &mut u64,
) -> Result<Sum, String> {
    let seed = plan.seed;
    let neighbour = Neighbour::start(cluster.connect(&databases[0]), seed);
    let round = Round::start(cluster, databases, plan);
    let mut shape = Shape::new(cluster.connect(&databases[0]), round.place().clone(), seed);
    for _ in 0..STEPS {
        shape.step()?;
        std::thread::sleep(Duration::from_millis(shape.rng.below(30) as u64));
    }
    shape.put_back()?;
    shape.steps.into_iter().for_each(|(slot, count)| *steps.entry(slot).or_default() += count);
    *aside += neighbour.end()?;
    round.end()
}

/// Where things are by now.
struct Names {
    /// The schema's first name.
    first: String,
    /// The schema's name.
    schema: String,
    /// The schema of `t`.
    home: String,
    /// The name of `t`.
    table: String,
    /// The name of its key column.
    key: &'static str,
}

impl Names {
    fn new(schema: &str) -> Names {
        let [first, schema, home] = [schema; 3].map(str::to_owned);
        Names { first, schema, home, table: "t".to_owned(), key: "id" }
    }

    /// A statement with the names of now.
    fn put_into(&self, sql: &str) -> String {
        let t = format!("{}.{}", self.home, self.table);
        sql.replace("{t}", &t).replace("{s}", &self.schema).replace("{first}", &self.first).replace("{key}", self.key)
    }
}

/// A change that can be taken back.
struct Change {
    /// What it is about. Of one kind there is one change at a time.
    slot: &'static str,
    make: String,
    /// Ways back, tried in turn.
    undo: Vec<String>,
    /// Columns in which table and log may differ from then on.
    touches: Vec<&'static str>,
    /// What it does to names, made or taken back.
    rename: fn(&mut Names, bool),
}

impl Change {
    fn new(slot: &'static str, make: impl Into<String>, undo: impl Into<String>) -> Change {
        Change { slot, make: make.into(), undo: vec![undo.into()], touches: vec![], rename: |_, _| () }
    }

    fn touching(self, touches: &[&'static str]) -> Change {
        Change { touches: touches.to_vec(), ..self }
    }

    fn renaming(self, rename: fn(&mut Names, bool)) -> Change {
        Change { rename, ..self }
    }

    fn or_back_by(mut self, undo: &str) -> Change {
        self.undo.push(undo.to_owned());
        self
    }
}

/// The tables of a round, and what was changed of them and not taken back.
struct Shape {
    client: Client,
    place: Place,
    rng: Rng,
    names: Names,
    open: Vec<Change>,
    /// Columns in which table and log may differ.
    touched: BTreeSet<&'static str>,
    /// The table was made anew: the log has rows that it lacks.
    anew: bool,
    /// Changes by slot.
    steps: BTreeMap<&'static str, u64>,
}

impl Shape {
    fn new(mut client: Client, place: Place, seed: u64) -> Shape {
        let names = Names::new(&place.schema);
        let sql = format!("SET deadlock_timeout = '20ms'; SET lock_timeout = '5s'; CREATE SCHEMA {}_far", place.schema);
        client.batch_execute(&sql).expect("a schema to move to");
        let (open, touched, steps) = Default::default();
        Shape { client, place, rng: Rng::new(seed ^ 0xddd1), names, open, touched, anew: false, steps }
    }

    /// A change, or one taken back; sometimes a look or a repair.
    fn step(&mut self) -> Result<(), String> {
        let dropped = self.open.iter().any(|change| change.slot == "table" && change.make.starts_with("DROP"));
        if dropped || !self.open.is_empty() && self.rng.chance(50) {
            let at = if dropped { self.open.len() - 1 } else { self.rng.below(self.open.len()) };
            self.take_back(at)?;
        } else if let Some(change) = self.random_change() {
            self.make(change)?;
        }
        match self.rng.below(10) {
            0..2 => self.look(),
            2..4 => self.repair().map(drop),
            _ => Ok(()),
        }
    }

    fn random_change(&mut self) -> Option<Change> {
        let slot = *self.rng.pick(&["x", "d", "u", "y", "e", "e", "table", "key", "partition", "trigger"]);
        let taken = |slot: &str| self.open.iter().any(|change| change.slot == slot);
        // Without a key, partitions that leave are refused: one of the two halves of a detachment would be left over.
        if taken(slot) || slot == "partition" && taken("key") {
            return None;
        }
        match slot {
            "e" => Some(self.new_column()),
            "table" => Some(self.moved_table()),
            "key" => Some(self.other_key()),
            "partition" if self.place.nature() == Nature::Partitioned => Some(self.left_partition()),
            "partition" => None,
            "trigger" => Some(Change::new(
                slot,
                "CREATE OR REPLACE FUNCTION {s}.fills() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.d := coalesce(NEW.d, -5); RETURN NEW; END $$;
                 CREATE TRIGGER fills BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {s}.fills()",
                "DROP TRIGGER fills ON {t}; DROP FUNCTION {s}.fills()",
            )),
            column => Some(self.other_column(column)),
        }
    }

    /// A column goes, or has another name or type.
    fn other_column(&mut self, column: &'static str) -> Change {
        let default = if column == "d" { self.place.nature().default() } else { "" };
        let (old, touches) = match column {
            "x" => ("x_old", ["x", "x_old"]),
            "d" => ("d_old", ["d", "d_old"]),
            "u" => ("u_old", ["u", "u_old"]),
            _ => ("y_old", ["y", "y_old"]),
        };
        let back = format!("ADD {column} bigint {default}");
        let rename = format!("ALTER TABLE {{t}} RENAME {column} TO {old}");
        let retype = |ty: &str| {
            let keeps = if default.is_empty() { String::new() } else { format!(", ALTER {column} SET {default}") };
            format!(
                "ALTER TABLE {{t}} ALTER {column} DROP DEFAULT, ALTER {column} TYPE {ty} USING {column}::{ty}{keeps}"
            )
        };
        match self.rng.below(5) {
            0 => Change::new(
                column,
                format!("ALTER TABLE {{t}} DROP {column} CASCADE"),
                format!("ALTER TABLE {{t}} {back}"),
            )
            .touching(&touches),
            1 => Change::new(column, rename, format!("ALTER TABLE {{t}} RENAME {old} TO {column}")).touching(&touches),
            2 => {
                Change::new(column, rename, format!("ALTER TABLE {{t}} {back}, DROP {old} CASCADE")).touching(&touches)
            }
            // The same values in another spelling: table and log agree on.
            3 => Change::new(column, retype("text"), retype("bigint")),
            _ => Change::new(column, retype("numeric"), retype("bigint")),
        }
    }

    /// A column that replicas have always written.
    fn new_column(&mut self) -> Change {
        let kind = *self.rng.pick(&[
            "bigint",
            "text",
            "bigint DEFAULT 7",
            "bigint NOT NULL DEFAULT 7",
            "numeric DEFAULT floor(random() * 100)",
            "bigint GENERATED ALWAYS AS (y + 1) STORED",
        ]);
        Change::new("e", format!("ALTER TABLE {{t}} ADD e {kind}"), "ALTER TABLE {t} DROP IF EXISTS e CASCADE")
            .touching(&["e"])
    }

    fn moved_table(&mut self) -> Change {
        let change = |make: &str, undo: &str| Change::new("table", make, undo);
        let kinds = if self.place.nature() == Nature::Family { 3 } else { 4 };
        match self.rng.below(kinds) {
            0 => change("ALTER TABLE {t} RENAME TO moved", "ALTER TABLE {t} RENAME TO t")
                .renaming(|names, made| names.table = if made { "moved" } else { "t" }.to_owned()),
            1 => change("ALTER TABLE {t} SET SCHEMA {first}_far", "ALTER TABLE {t} SET SCHEMA {s}").renaming(
                |names, made| names.home = if made { format!("{}_far", names.first) } else { names.schema.clone() },
            ),
            2 => change("ALTER SCHEMA {s} RENAME TO {first}_new", "ALTER SCHEMA {s} RENAME TO {first}").renaming(
                |names, made| {
                    names.schema = if made { format!("{}_new", names.first) } else { names.first.clone() };
                    names.home.clone_from(&names.schema);
                },
            ),
            _ => {
                // A partition that was detached is there still.
                let again = format!("DROP TABLE IF EXISTS {{s}}.t1; {}", self.place.t_sql());
                change("DROP TABLE {t} CASCADE", &again).touching(&["x", "y", "d", "u"])
            }
        }
    }

    fn other_key(&mut self) -> Change {
        let columns = if self.place.nature() == Nature::Composite { "{key}, k" } else { "{key}" };
        match self.rng.below(3) {
            0 => Change::new("key", "ALTER TABLE {t} RENAME id TO ident", "ALTER TABLE {t} RENAME ident TO id")
                .renaming(|names, made| names.key = if made { "ident" } else { "id" }),
            1 => Change::new("key", "ALTER TABLE {t} ALTER id TYPE varchar(40)", "ALTER TABLE {t} ALTER id TYPE text"),
            _ => Change::new(
                "key",
                "ALTER TABLE {t} DROP CONSTRAINT t_pkey",
                format!("ALTER TABLE {{t}} ADD CONSTRAINT t_pkey PRIMARY KEY ({columns})"),
            ),
        }
    }

    fn left_partition(&mut self) -> Change {
        let values = "FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
        let attach = format!("ALTER TABLE {{t}} ATTACH PARTITION {{s}}.t1 {values}");
        let create = format!("DROP TABLE IF EXISTS {{s}}.t1; CREATE TABLE {{s}}.t1 PARTITION OF {{t}} {values}");
        match self.rng.below(3) {
            0 => Change::new("partition", "ALTER TABLE {t} DETACH PARTITION {s}.t1", attach).or_back_by(&create),
            1 => Change::new("partition", "ALTER TABLE {t} DETACH PARTITION {s}.t1 CONCURRENTLY", attach)
                .or_back_by(&create),
            _ => Change::new("partition", "DROP TABLE {s}.t1", create),
        }
    }

    /// Makes a change, sometimes with writes in the same transaction, sometimes in one that is rolled back.
    fn make(&mut self, change: Change) -> Result<(), String> {
        if self.rng.chance(10) && !change.make.ends_with("CONCURRENTLY") {
            self.execute(&format!("BEGIN; {}; ROLLBACK", change.make))?;
            return Ok(());
        }
        if !self.execute_with_writes(change.slot, &change.make)? && !self.is_half_detached(&change)? {
            return Ok(());
        }
        *self.steps.entry(change.slot).or_default() += 1;
        if change.make.starts_with("DROP TABLE {t}") {
            // With the table goes what was changed of it.
            self.open.clear();
            self.names = Names::new(&self.place.schema);
            self.anew = true;
        }
        (change.rename)(&mut self.names, true);
        self.touched.extend(&change.touches);
        self.open.push(change);
        Ok(())
    }

    /// A detachment that keeps nobody out has two halves, and the second one may have failed.
    fn is_half_detached(&mut self, change: &Change) -> Result<bool, String> {
        if !change.make.ends_with("CONCURRENTLY") {
            return Ok(false);
        }
        for _ in 0..100 {
            if self.execute("ALTER TABLE {t} DETACH PARTITION {s}.t1 FINALIZE")? {
                return Ok(true);
            }
            let sql = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1) AND inhdetachpending)";
            let part = format!("{}.t1", self.names.schema);
            if !self.client.query_one(sql, &[&part]).map_err(|error| format!("{error:?}"))?.get::<_, bool>(0) {
                return Ok(false);
            }
        }
        Err("a partition cannot be detached to the end".to_owned())
    }

    fn take_back(&mut self, at: usize) -> Result<bool, String> {
        for way in self.open[at].undo.clone() {
            if self.execute_with_writes(self.open[at].slot, &way)? {
                let change = self.open.remove(at);
                (change.rename)(&mut self.names, false);
                self.touched.extend(&change.touches);
                *self.steps.entry(change.slot).or_default() += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sometimes in one transaction with writes before or after it, which go by the names of before.
    fn execute_with_writes(&mut self, slot: &str, sql: &str) -> Result<bool, String> {
        if self.rng.chance(70) || slot == "table" || sql.ends_with("CONCURRENTLY") {
            return self.execute(sql);
        }
        let [before, after] = [0, 1].map(|nth| {
            let column = *self.rng.pick(&["x", "y", "d", "e"]);
            let value = 9_000_000 + 10 * self.rng.below(1000) + nth;
            format!("UPDATE {{t}} SET {column} = {value} WHERE {{key}} IN ('1', '2')")
        });
        match self.rng.below(3) {
            0 => self.execute(&format!("BEGIN; {before}; {sql}; COMMIT")),
            1 => self.execute(&format!("BEGIN; SAVEPOINT a; {before}; {sql}; ROLLBACK TO a; {sql}; COMMIT")),
            _ => self.execute(&format!("BEGIN; {sql}; {after}; COMMIT")),
        }
    }

    /// Says whether it was done. What is refused for no good reason is a fault.
    fn execute(&mut self, sql: &str) -> Result<bool, String> {
        let sql = self.names.put_into(sql);
        let Err(error) = self.client.batch_execute(&sql) else {
            trace(|| sql);
            return Ok(true);
        };
        let state = error.code().map_or("", |code| code.code()).to_owned();
        trace(|| format!("{state}: {sql}"));
        let _ = self.client.batch_execute("ROLLBACK");
        match REFUSALS.contains(&state.as_str()) {
            true => Ok(false),
            false => Err(format!("{sql}: {error:?}")),
        }
    }

    /// Table and log differ where a change was made, and nowhere else.
    fn look(&mut self) -> Result<(), String> {
        for (row, column, line) in self.differences()? {
            let known = match &column {
                Some(column) => self.touched.contains(column.as_str()),
                None => self.anew,
            };
            if !known {
                return Err(format!("I4: row {row}: {line}, changed were {:?}", self.touched));
            }
        }
        Ok(())
    }

    fn differences(&mut self) -> Result<Vec<(String, Option<String>, String)>, String> {
        let sql = self.names.put_into("SELECT row_id, \"column\", v::text FROM crdt.verify('{t}') AS v");
        match self.client.query(&sql, &[]) {
            Ok(rows) => Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()),
            // Dropped, or without a key.
            Err(error) if error.code().is_some_and(|code| ["42P01", "CR018"].contains(&code.code())) => Ok(vec![]),
            Err(error) => Err(format!("{sql}: {error:?}")),
        }
    }

    /// Either direction ends all differences.
    fn repair(&mut self) -> Result<bool, String> {
        let direction = *self.rng.pick(&["log", "table"]);
        if self.open.iter().any(|change| change.make.starts_with("DROP TABLE {t}")) {
            return Ok(false);
        }
        let done = self.execute(&format!("SELECT crdt.repair('{{t}}', '{direction}')"))?;
        if done {
            self.touched.clear();
            self.anew = false;
            *self.steps.entry("repair").or_default() += 1;
            self.look()?;
        }
        Ok(done)
    }

    /// Takes everything back, and repairs.
    fn put_back(&mut self) -> Result<(), String> {
        for _ in 0..300 {
            if self.open.is_empty() {
                self.look()?;
                if self.repair()? {
                    return Ok(());
                }
                continue;
            }
            let at = self.rng.below(self.open.len());
            self.take_back(at)?;
        }
        let left: Vec<_> = self.open.iter().map(|change| (&change.make, &change.undo)).collect();
        Err(format!("what cannot be taken back: {left:?}"))
    }
}

/// With `CRDT_TRACE` in the environment: what was done, and what refused.
fn trace(what: impl FnOnce() -> String) {
    if std::env::var_os("CRDT_TRACE").is_some() {
        eprintln!("ddl: {}", what());
    }
}

/// Somebody who makes, alters and drops other tables of the same database, and is never in anybody's way.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Neighbour {
    fn start(mut client: Client, seed: u64) -> Neighbour {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut done = 0;
            let mut run = |sql: &str| {
                done += 1;
                client
                    .batch_execute(&sql.replace("{n}", &format!("n{seed}")))
                    .map_err(|error| format!("beside: {sql}: {error:?}"))
            };
            run("CREATE SCHEMA {n}; CREATE TABLE {n}.t (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
                 CREATE TABLE {n}.t0 PARTITION OF {n}.t FOR VALUES FROM (0) TO (10);
                 SELECT crdt.track('{n}.t', crdt.create_doc('{n}', '{n} beside'))")?;
            while !stopped.load(Ordering::Relaxed) {
                run("ALTER TABLE {n}.t ADD w int DEFAULT 1")?;
                run("CREATE TABLE {n}.t1 PARTITION OF {n}.t FOR VALUES FROM (10) TO (20)")?;
                run("INSERT INTO {n}.t SELECT i, 'v', i FROM generate_series(5, 15) AS i")?;
                run("CREATE TEMP TABLE scratch (id int); DROP TABLE scratch")?;
                run("SELECT crdt.untrack('{n}.t'); SELECT crdt.track('{n}.t', crdt.doc('{n} beside'))")?;
                run("ALTER TABLE {n}.t RENAME w TO was; ALTER TABLE {n}.t DROP was")?;
                run("ALTER TABLE {n}.t DETACH PARTITION {n}.t1; DROP TABLE {n}.t1; DELETE FROM {n}.t")?;
                run(
                    "DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM crdt.verify('{n}.t')), 'table and log differ'; END $$",
                )?;
            }
            run("DROP SCHEMA {n} CASCADE; DELETE FROM crdt.doc WHERE name = '{n} beside'")?;
            Ok(done)
        });
        Neighbour { stop, thread }
    }

    /// How many statements it made.
    fn end(self) -> Result<u64, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the neighbour's thread")
    }
}
