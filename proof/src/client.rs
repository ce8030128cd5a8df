//! One client process.

use std::path::PathBuf;
use std::time::Duration;

use crdt_engine::oplog::Page;
use crdt_engine::replica::{Replica, Tables};
use crdt_engine::testkit::{Refusal, Rng, Write, oracle};
use crdt_engine::wire::{Versions, json};
use crdt_engine::{OpBuf, Origin, ValueRef};
use crdt_live::hub::{Nature, Place};
use postgres::{Client, Config, NoTls};

use crate::args::Args;
use crate::record::{Recorder, Told};

/// Everything: no page is larger.
const ALL: u64 = u32::MAX as u64;
/// The columns of the tables, and one that comes and goes where tables are altered.
const COLUMNS: [&str; 5] = ["x", "y", "d", "u", "e"];

/// What a client process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain SQL, each commit on disk before it is told.
    Sql,
    /// Plain SQL with `synchronous_commit = off`.
    Async,
    /// A replica of its own, offline most of the time.
    Replica,
    /// Reads the log while it grows.
    Reader,
    /// Carries events between the two hubs.
    Courier,
}

impl Kind {
    const ALL: [(Kind, &str); 5] = [
        (Kind::Sql, "sql"),
        (Kind::Async, "async"),
        (Kind::Replica, "replica"),
        (Kind::Reader, "reader"),
        (Kind::Courier, "courier"),
    ];

    /// As the command line says it.
    pub fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).expect("all are listed").1
    }

    fn of(name: &str) -> Result<Kind, String> {
        Kind::ALL.iter().find(|(_, n)| *n == name).map(|(kind, _)| *kind).ok_or(format!("not a client: {name}"))
    }
}

/// A digest of what tables show.
pub fn digest(tables: &Tables) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    format!("{:?}", oracle::visible(tables)).hash(&mut hasher);
    hasher.finish()
}

/// A version vector as JSON.
pub fn versions_text(versions: &Versions) -> String {
    let mut text = String::new();
    json::write_versions(&mut text, versions).expect("memory");
    text
}

/// Runs until the file `stop` appears, then tells what is left, waits for the file `settled`, and learns all.
pub fn run(args: &Args) -> Result<(), String> {
    let home = PathBuf::from(args.text("home"));
    let number = args.number("number", 0);
    let mut client = ClientProcess {
        config: {
            let mut config = Config::new();
            config.host_path(args.text("socket")).port(args.number("port", 5432) as u16).user("postgres");
            config
        },
        places: ["one", "two"].map(|hub| {
            let doc = args.number(&format!("doc-{hub}"), 0) as i64;
            let nature = Nature::named(args.text(&format!("nature-{hub}"))).expect("a nature");
            Place::known(doc, args.text("schema"), nature, args.has(&format!("generic-{hub}")))
        }),
        databases: ["one", "two"].map(|hub| args.text(&format!("database-{hub}")).to_owned()),
        connections: [None, None],
        kind: Kind::of(args.text("kind"))?,
        mortal: args.has("mortal"),
        shifting: args.has("shifting"),
        keys: args.number("keys", 100) as usize,
        pause: args.number("pause", 10) as usize,
        rng: Rng::new(args.number("seed", 1) ^ (number << 32)),
        // Every value says who wrote it and when: it stands for one write.
        stamp: (1 + number as i64) << 32,
        replica: Replica::new(format!("client-{number}")),
        home,
        told: Recorder::create(&PathBuf::from(args.text("home")).join(format!("told-{number}"))),
    };
    let result = client.live();
    if let Err(what) = &result {
        client.told.tell(Told::Failed(format!("client {number} ({}): {what}", client.kind.name())));
    }
    client.told.flush();
    let _ = std::fs::write(client.home.join(format!("done-{number}")), "");
    if result.is_ok() {
        client.wait_for("settled");
        if let Err(what) = client.settle() {
            client.told.tell(Told::Failed(format!("client {number} ({}), settling: {what}", client.kind.name())));
        }
        client.told.flush();
    }
    Ok(())
}

struct ClientProcess {
    config: Config,
    /// The two hubs. Only couriers use the second.
    places: [Place; 2],
    databases: [String; 2],
    connections: [Option<Client>; 2],
    kind: Kind,
    /// The server may die.
    mortal: bool,
    /// Tables are altered meanwhile.
    shifting: bool,
    keys: usize,
    /// Milliseconds, at most, between a write and its commit, and between actions.
    pause: usize,
    rng: Rng,
    stamp: i64,
    replica: Replica,
    home: PathBuf,
    told: Recorder,
}

/// How an action ended when it did not fail.
enum End<T> {
    Done(T),
    /// It met somebody, or the server died: nobody knows whether it happened.
    Unknown,
}

impl ClientProcess {
    fn live(&mut self) -> Result<(), String> {
        while !self.home.join("stop").exists() {
            match self.kind {
                Kind::Sql | Kind::Async => self.plain_sql()?,
                Kind::Replica => self.replica()?,
                Kind::Reader => self.pull(0).map(|_| ())?,
                Kind::Courier => self.carry()?,
            }
            if self.rng.chance(50) {
                self.nap();
            }
        }
        // What is left is pushed: nobody may lose what they wrote offline.
        while matches!(self.kind, Kind::Replica | Kind::Courier) && matches!(self.push(0)?, End::Unknown) {}
        Ok(())
    }

    /// Learns all there is, and says what it shows.
    fn settle(&mut self) -> Result<(), String> {
        if !matches!(self.kind, Kind::Replica | Kind::Reader | Kind::Courier) {
            return Ok(());
        }
        while !matches!(self.pull(0)?, End::Done(false)) {}
        self.told.tell(Told::Shown(versions_text(&self.replica.versions()), digest(self.replica.tables())));
        Ok(())
    }

    fn wait_for(&self, file: &str) {
        while !self.home.join(file).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn nap(&mut self) {
        std::thread::sleep(Duration::from_millis(self.rng.below(self.pause + 1) as u64));
    }

    /// A connection to a hub; a mortal server is waited for.
    fn connection(&mut self, hub: usize) -> Result<Client, String> {
        if let Some(client) = self.connections[hub].take() {
            return Ok(client);
        }
        for _ in 0..6_000 {
            match self.config.clone().dbname(&self.databases[hub]).connect(NoTls) {
                Ok(mut client) => {
                    // Writers in any order deadlock all the time.
                    let mode = if self.kind == Kind::Async { "off" } else { "on" };
                    let sql = format!("SET deadlock_timeout = '20ms'; SET synchronous_commit = {mode}");
                    if client.batch_execute(&sql).is_ok() {
                        return Ok(client);
                    }
                }
                Err(error) if !self.mortal => return Err(format!("connecting: {error:?}")),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Err("the server did not come back within two minutes".to_owned())
    }

    fn key(&mut self) -> &'static str {
        // Few are hot. The suite's writes want names that last; they are few, and the process is short.
        let of = if self.rng.chance(30) { 5 } else { self.keys };
        Box::leak((1 + self.rng.below(of)).to_string().into_boxed_str())
    }

    fn next_stamp(&mut self) -> i64 {
        self.stamp += 10;
        self.stamp
    }

    /// A write whose value in `y` stands for it alone. `y` is the one column that no trigger touches.
    fn random_write(&mut self) -> (Write, Option<i64>) {
        let tbl = if self.rng.chance(80) { "t" } else { "s" };
        let (key, stamp) = (self.key(), self.next_stamp());
        // Plain SQL cannot write a column that is not there; a replica knows nothing of it.
        let columns = if self.shifting && self.kind == Kind::Replica { &COLUMNS[..] } else { &COLUMNS[..4] };
        match self.rng.below(12) {
            0..5 => {
                let mut cells = vec![("y", stamp)];
                cells.extend(columns.iter().filter(|col| **col != "y" && self.rng.chance(35)).map(|col| (*col, stamp)));
                (Write::Insert(tbl, key, cells), Some(stamp))
            }
            5 => (Write::Delete(tbl, key), None),
            6..9 => (Write::Update(tbl, key, "y", stamp), None),
            _ => (Write::Update(tbl, key, self.rng.pick::<&str>(columns), stamp), None),
        }
    }

    /// A transaction of plain SQL, with a nap before its commit.
    fn plain_sql(&mut self) -> Result<(), String> {
        let place = self.places[0].clone();
        let level = *self.rng.pick(&["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
        let (mut sql, mut stamps) = (format!("BEGIN ISOLATION LEVEL {level};"), vec![]);
        for _ in 0..1 + self.rng.below(12) {
            let (write, stamp) = self.random_write();
            let of_doc = place.generic
                && matches!(write, Write::Insert("s", ..) | Write::Update("s", ..) | Write::Delete("s", _));
            // The functions of a doc want READ COMMITTED, as a push does.
            if of_doc && level != "READ COMMITTED" {
                continue;
            }
            if self.rng.chance(5) {
                sql.push_str(&place.odd_sql(&mut self.rng));
            } else {
                sql.push_str(&place.sql(&write));
                // An upsert of a row that is there writes the cell, and so does an insert: either way the value is logged.
                stamps.extend(stamp);
            }
        }
        if self.rng.chance(40) {
            sql.push_str(&format!("SELECT pg_sleep({});", self.rng.below(self.pause + 1) as f64 / 1000.0));
        }
        let commits = self.rng.chance(92);
        sql.push_str(if commits { "COMMIT;" } else { "ROLLBACK;" });
        if let End::Done(()) = self.attempt(0, |client| client.batch_execute(&sql))?
            && commits
            && self.kind == Kind::Sql
        {
            stamps.into_iter().for_each(|stamp| self.told.tell(Told::Committed(stamp)));
        }
        Ok(())
    }

    /// Some statements. Rivalry and, where that may be, the server's death are no failures.
    fn attempt<T>(
        &mut self,
        hub: usize,
        action: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<End<T>, String> {
        let mut client = self.connection(hub)?;
        let error = match action(&mut client) {
            Ok(done) => {
                self.connections[hub] = Some(client);
                return Ok(End::Done(done));
            }
            Err(error) => error,
        };
        let state = error.code().map_or("", |code| code.code());
        match self.is_excused(state) || self.shifting && is_of_postgres(&error) {
            true if client.batch_execute("ROLLBACK").is_ok() => {
                self.connections[hub] = Some(client);
                Ok(End::Unknown)
            }
            // The server may also have died between the error and the rollback.
            true if self.mortal => Ok(End::Unknown),
            _ if self.mortal && is_death(state, &client) => Ok(End::Unknown),
            _ => Err(format!("{error:?}")),
        }
    }

    fn replica(&mut self) -> Result<(), String> {
        match self.rng.below(10) {
            // Offline: it writes, and time passes.
            0..5 => {
                for _ in 0..1 + self.rng.below(4) {
                    self.write_offline()?;
                }
                self.nap();
            }
            5..8 => self.push(0).map(|_| ())?,
            _ => self.pull(0).map(|_| ())?,
        }
        Ok(())
    }

    fn write_offline(&mut self) -> Result<(), String> {
        let mut ops = OpBuf::new();
        for _ in 0..1 + self.rng.below(12) {
            let (write, _) = self.random_write();
            let added = match write {
                Write::Insert(tbl, row, cells) => {
                    let tbl = ops.sym(tbl);
                    ops.insert(tbl, row).and_then(|()| {
                        cells.into_iter().try_for_each(|(col, value)| {
                            let col = ops.sym(col);
                            ops.cell(col, ValueRef::Int(value))
                        })
                    })
                }
                Write::Update(tbl, row, col, value) => {
                    let (tbl, col) = (ops.sym(tbl), ops.sym(col));
                    ops.update(tbl, row, col, ValueRef::Int(value), Origin::Explicit)
                }
                Write::Delete(tbl, row) => {
                    let tbl = ops.sym(tbl);
                    ops.delete(tbl, row)
                }
            };
            added.map_err(|error| error.to_string())?;
        }
        self.replica.write(ops).map(drop).map_err(|error| error.to_string())
    }

    /// There and back between the hubs.
    fn carry(&mut self) -> Result<(), String> {
        self.pull(0)?;
        self.push(1)?;
        self.pull(1)?;
        self.push(0).map(drop)
    }

    /// Pushes what a hub lacks. What was sent and not answered is sent again.
    fn push(&mut self, hub: usize) -> Result<End<()>, String> {
        let place = self.places[hub].clone();
        let known = match self.versions(hub)? {
            End::Done(known) => known,
            End::Unknown => return Ok(End::Unknown),
        };
        let Page { batch, .. } = self.replica.pull(&known, usize::MAX).map_err(|error| error.to_string())?;
        if batch.runs.is_empty() {
            return Ok(End::Done(()));
        }
        let mut client = self.connection(hub)?;
        let told = batch.clone();
        match place.push(&mut client, batch, self.rng.chance(50)) {
            Ok(_) => {
                self.told.tell(Told::Kept(told));
                self.connections[hub] = Some(client);
                Ok(End::Done(()))
            }
            Err(refusal) => self.excuse(hub, client, refusal),
        }
    }

    /// A refusal that may be: somebody was in the way, or the server died.
    fn excuse<T>(&mut self, hub: usize, client: Client, refusal: Refusal) -> Result<End<T>, String> {
        let Refusal::Other(what) = refusal else { return Err(format!("refused: {refusal:?}")) };
        let state = what.get(..5).unwrap_or_default();
        if self.is_excused(state) && !client.is_closed() {
            self.connections[hub] = Some(client);
            return Ok(End::Unknown);
        }
        match self.mortal && is_death(state, &client) {
            true => Ok(End::Unknown),
            false => Err(format!("refused: {what}")),
        }
    }

    fn is_excused(&self, state: &str) -> bool {
        is_rivalry(state) || self.shifting && is_shift(state)
    }

    fn versions(&mut self, hub: usize) -> Result<End<Versions>, String> {
        let doc = self.places[hub].doc;
        let text = self.attempt(hub, |client| {
            client.query_one("SELECT crdt.version($1)::text", &[&doc]).map(|row| row.get::<_, String>(0))
        })?;
        Ok(match text {
            End::Done(text) => {
                let limits = crdt_engine::Limits::default();
                End::Done(json::decode_versions(text.as_bytes(), &limits).map_err(|error| error.to_string())?)
            }
            End::Unknown => End::Unknown,
        })
    }

    /// Takes a page. Says whether there is more.
    fn pull(&mut self, hub: usize) -> Result<End<bool>, String> {
        let place = self.places[hub].clone();
        let mut client = self.connection(hub)?;
        let limit = if self.rng.chance(40) { 1 + self.rng.below(200) as u64 } else { ALL };
        match place.pull(&mut client, &self.replica.versions(), limit, self.rng.chance(50)) {
            Ok(page) => {
                self.connections[hub] = Some(client);
                self.told.tell(Told::Kept(page.batch.clone()));
                self.replica.pull_in(page.batch).map_err(|error| format!("a page the hub handed out: {error}"))?;
                Ok(End::Done(page.has_more))
            }
            Err(refusal) => self.excuse(hub, client, refusal),
        }
    }
}

/// What may happen to any write that meets others, and is tried again.
fn is_rivalry(state: &str) -> bool {
    ["40P01", "40001", "23505", "23503", "CR016", "CR023"].contains(&state)
}

/// What a table that is altered may answer: a column, table, key, partition or schema that is not there, or of another type.
fn is_shift(state: &str) -> bool {
    ["42703", "42P01", "42804", "42883", "42P10", "23502", "23514", "3F000", "CR018"].contains(&state)
}

/// PostgreSQL's own: an old snapshot's INSERT ... ON CONFLICT meets DETACH PARTITION CONCURRENTLY.
fn is_of_postgres(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| error.message() == "invalid arbiter index list")
}

/// The server went down, or the connection with it: 57P01 to 57P03, or no answer at all.
fn is_death(state: &str, client: &Client) -> bool {
    state.starts_with("57P0") || client.is_closed()
}
