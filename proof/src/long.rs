//! A long life: a history of millions of events, made of bulk statements, single rows and pushes of many clients, beside a
//! short one of the same make. Nothing is lost, `crdt.verify` and `pg_amcheck` find nothing, and what is done every day costs
//! what it costs with the short one.

use std::collections::BTreeMap;
use std::time::Instant;

use crdt_engine::testkit::{Ledger, Rng};
use crdt_engine::wire::{Batch, Run, Versions};
use crdt_engine::{EventId, OpBuf, Origin, ValueRef};
use crdt_live::Cluster;
use crdt_live::hub::{Nature, Place};
use crdt_live::resource::cpu_seconds;
use postgres::Client;

use crate::Outcome;
use crate::args::Args;
use crate::round::strange_crashes;

/// Events of the short log.
const SHORT: u64 = 10_000;
/// Events of one turn of a log's growth, at most.
const TURN: u64 = 50_000;
/// Of a hundred events: rows inserted, cells updated one by one, cells pushed. The rest are updates in bulk.
const INSERTS: u64 = 10;
const SINGLES: u64 = 2;
const PUSHED: u64 = 5;
/// Rows of one bulk update, at most.
const BULK: u64 = 10_000;
/// Clients that push.
const CLIENTS: usize = 50;
/// Events of a measured pull or push.
const CHANGES: u64 = 100;
/// How often each cost is taken of each log.
const REPEATS: u64 = 15;
/// Operations of a page when the whole log is read.
const PAGE: u64 = 20_000;
/// A pull and a push of somebody who knows the log may cost so many times what they cost with the short log.
const BOUND: f64 = 3.0;

/// A history of `--events` events.
pub fn run(args: &Args) -> Outcome {
    let (events, seed) = (args.number("events", 100_000), args.number("seed", 1));
    let cluster =
        Cluster::start("long", &["shared_buffers=1GB", "max_wal_size=8GB", "checkpoint_timeout=1h", "autovacuum=on"]);
    let database = cluster.create_database("long");
    let mut client = cluster.connect(&database);
    let begun = Instant::now();
    let mut short = Log::make(&mut client, "short", seed);
    let mut long = Log::make(&mut client, "long", seed);
    short.grow(&mut client, SHORT)?;
    long.grow(&mut client, events.max(SHORT))?;
    println!("long: {} events of {} rows in {:.0?}", long.events, long.rows, begun.elapsed());
    let vacuum = time(|| run_sql(&mut client, "VACUUM (ANALYZE)"))?;
    let costs = costs(&mut client, &mut short, &mut long)?;
    costs.iter().for_each(|cost| println!("long: {}", cost.line()));
    let verify = time(|| verify(&mut client, &long))?;
    let read = time(|| long.check(&mut client))?;
    let amcheck = time(|| amcheck(&cluster, &database))?;
    println!(
        "long: VACUUM {vacuum:.1} s, verify {verify:.1} s, the log read page by page {read:.1} s, amcheck {amcheck:.1} s"
    );
    let strange = strange_crashes(&cluster, &Default::default());
    if !strange.is_empty() {
        return Err(format!("I7: {strange:?}"));
    }
    if let Some(dear) = costs.iter().find(|cost| cost.bound.is_some_and(|bound| cost.ratio() > bound)) {
        return Err(format!("too dear: {}", dear.line()));
    }
    Ok(format!("{} events, {}, in {:.0?}", long.events, size(&mut client, &long)?, begun.elapsed()))
}

fn time(work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let start = Instant::now();
    work().map(|()| start.elapsed().as_secs_f64())
}

fn run_sql(client: &mut Client, sql: &str) -> Result<(), String> {
    client.batch_execute(sql).map_err(|error| format!("{sql}: {error:?}"))
}

/// A tracked table, its doc, and what was told of it.
struct Log {
    place: Place,
    table: &'static str,
    rng: Rng,
    rows: u64,
    /// Events that were written or acknowledged.
    events: u64,
    /// Pushes of clients so far.
    pushes: usize,
    /// What was pushed.
    ledger: Ledger,
    /// Each pusher's next counter.
    counters: BTreeMap<String, u64>,
}

impl Log {
    fn make(client: &mut Client, table: &'static str, seed: u64) -> Log {
        let sql = format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, n bigint, v text);
             CREATE PROCEDURE {table}_singles(count int, last_row bigint) LANGUAGE plpgsql AS $$ BEGIN
                 FOR i IN 1 .. count LOOP
                     UPDATE {table} SET n = n + 1 WHERE id = 1 + (hashint8(i)::bigint + 2147483648) % last_row;
                     COMMIT;
                 END LOOP;
             END $$;"
        );
        client.batch_execute(&sql).expect("a table");
        let sql = format!("SELECT crdt.track('{table}', crdt.create_doc('hub-{table}', '{table}'))");
        let doc: i64 = client.query_one(&sql, &[]).expect("crdt.track").get(0);
        let place = Place::known(doc, "public", Nature::Plain, false);
        Log {
            place,
            table,
            rng: Rng::new(seed),
            rows: 0,
            events: 0,
            pushes: 0,
            ledger: Ledger::new(),
            counters: BTreeMap::new(),
        }
    }

    /// Until there are so many events.
    fn grow(&mut self, client: &mut Client, events: u64) -> Result<(), String> {
        let (begun, mut told) = (Instant::now(), 0);
        let turn = TURN.min(events / 5);
        while self.events < events {
            self.turn(client, turn.min(events - self.events))?;
            if self.events * 10 / events > told {
                told = self.events * 10 / events;
                println!("long: {} has {} events after {:.0?}", self.table, self.events, begun.elapsed());
            }
        }
        Ok(())
    }

    /// About so many events, of every kind.
    fn turn(&mut self, client: &mut Client, events: u64) -> Result<(), String> {
        let of_hundred = |percent: u64| (events * percent / 100).max(1);
        let inserted = of_hundred(INSERTS);
        let (first, last) = (self.rows + 1, self.rows + inserted);
        let sql =
            format!("INSERT INTO {} SELECT i, 0, md5(i::text) FROM generate_series({first}, {last}) AS i", self.table);
        run_sql(client, &sql)?;
        self.rows = last;
        let singles = of_hundred(SINGLES);
        run_sql(client, &format!("CALL {}_singles({singles}, {})", self.table, self.rows))?;
        self.events += inserted + singles;
        let pushed = of_hundred(PUSHED);
        for _ in 0..10 {
            // In turns: a short log has as many authors as a long one.
            let peer = format!("client-{}", self.pushes % CLIENTS);
            self.pushes += 1;
            let (deps, lamport) = (self.place.frontier(client), self.lamport(client)? + 1);
            let batch = self.changes(&peer, lamport, deps, (pushed / 10).max(1));
            self.push(client, batch)?;
        }
        let mut left = events.saturating_sub(inserted + singles + pushed);
        while left > 0 {
            let count = left.min(BULK).min(self.rows);
            let start = self.rng.below((self.rows - count + 1) as usize) as u64;
            self.update(client, start + 1, start + count)?;
            left -= count;
        }
        Ok(())
    }

    /// One statement over rows that follow each other.
    fn update(&mut self, client: &mut Client, first: u64, last: u64) -> Result<(), String> {
        run_sql(client, &format!("UPDATE {} SET n = n + 1 WHERE id BETWEEN {first} AND {last}", self.table))?;
        self.events += last - first + 1;
        Ok(())
    }

    fn lamport(&self, client: &mut Client) -> Result<u64, String> {
        let sql = "SELECT coalesce(lamport, 0) FROM crdt.docs WHERE doc = $1";
        let row = client.query_one(sql, &[&self.place.doc]).map_err(|error| format!("{error:?}"))?;
        Ok(row.get::<_, i64>(0) as u64)
    }

    /// Updates of rows all over the table, as a peer's next run.
    fn changes(&mut self, peer: &str, lamport: u64, deps: Vec<EventId>, count: u64) -> Batch {
        let counter = *self.counters.entry(peer.to_owned()).or_default();
        let mut ops = OpBuf::new();
        let (tbl, col) = (ops.sym(self.table), ops.sym("v"));
        for nth in 0..count {
            let row = (1 + self.rng.below(self.rows as usize)).to_string();
            let value = format!("{peer}, {}", counter + nth);
            ops.update(tbl, &row, col, ValueRef::Text(&value), Origin::Explicit).expect("memory");
        }
        let ops_of_run = 0..ops.len();
        let run = Run {
            peer: peer.to_owned(),
            counter_start: counter,
            lamport_start: lamport,
            deps,
            ops: ops_of_run,
            ..Run::default()
        };
        Batch { ops, runs: vec![run] }
    }

    fn push(&mut self, client: &mut Client, batch: Batch) -> Result<(), String> {
        let told = batch.clone();
        let receipt = self.place.push(client, batch, true).map_err(|refusal| format!("a push: {refusal:?}"))?;
        let (run, count) = (&told.runs[0], told.ops.len() as u64);
        if receipt.accepted != count {
            return Err(format!("{} of {count} events of {} were accepted", receipt.accepted, run.peer));
        }
        self.ledger.keep(&told)?;
        *self.counters.entry(run.peer.clone()).or_default() += count;
        self.events += count;
        Ok(())
    }

    /// The log, page by page: each author's events follow each other, none is missing or there twice, and what was pushed is
    /// as it was pushed (I2, I5, I6).
    fn check(&self, client: &mut Client) -> Result<(), String> {
        let (mut known, mut count) = (Versions::new(), 0);
        let mut pushed = Batch { ops: OpBuf::new(), runs: vec![] };
        loop {
            let page = self.place.pull(client, &known, PAGE, true).map_err(|refusal| format!("a page: {refusal:?}"))?;
            for run in &page.batch.runs {
                let next = known.get(&run.peer).map_or(0, |last| last + 1);
                if run.counter_start != next {
                    return Err(format!("I5: {} goes on with {} after {next} events", run.peer, run.counter_start));
                }
                known.insert(run.peer.clone(), next + run.span(&page.batch.ops) - 1);
                count += run.ops.len() as u64;
                if self.counters.contains_key(&run.peer) {
                    let at = pushed.ops.len();
                    page.batch.ops.range(run.ops.clone()).try_for_each(|op| pushed.ops.push(op)).expect("memory");
                    pushed.runs.push(Run { ops: at..pushed.ops.len(), ..run.clone() });
                }
            }
            if !page.has_more {
                break;
            }
        }
        if count != self.events || known != self.place.versions(client) {
            return Err(format!("I5: pages come to {count} events, {} were written", self.events));
        }
        self.ledger.check(&pushed)
    }
}

/// What something costs, in milliseconds of the backend's CPU: with the short log, and with the long one.
struct Cost {
    what: &'static str,
    /// The ratio that is a failure.
    bound: Option<f64>,
    short: Vec<f64>,
    long: Vec<f64>,
}

impl Cost {
    fn ratio(&self) -> f64 {
        median(&self.long) / median(&self.short)
    }

    fn line(&self) -> String {
        let (short, long) = (median(&self.short), median(&self.long));
        format!("{}: {long:.3} ms against {short:.3} ms, {:.2}x", self.what, self.ratio())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// What is done every day, with either log in turns: whatever else the machine does weighs on both.
fn costs(client: &mut Client, short: &mut Log, long: &mut Log) -> Result<Vec<Cost>, String> {
    type Work = fn(&mut Log, &mut Client, i32, u64) -> Result<f64, String>;
    let kinds: [(&str, Option<f64>, Work); 4] = [
        ("pull of 100 new events", Some(BOUND), pull_new),
        ("push of 100 by a peer that knows all", Some(BOUND), push_knowing_all),
        ("push of 100 by a peer that never pulled", None, push_as_stranger),
        ("update of a row", None, update_one),
    ];
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).map_err(|error| format!("{error:?}"))?.get(0);
    let mut costs = vec![];
    for (what, bound, work) in kinds {
        let mut cost = Cost { what, bound, short: vec![], long: vec![] };
        for round in 0..REPEATS {
            cost.short.push(work(short, client, pid, round)?);
            cost.long.push(work(long, client, pid, round)?);
        }
        costs.push(cost);
    }
    Ok(costs)
}

/// Milliseconds of a backend's CPU.
fn cpu<T>(pid: i32, work: impl FnOnce() -> Result<T, String>) -> Result<(f64, T), String> {
    let before = cpu_seconds(pid);
    let done = work()?;
    Ok((1000.0 * (cpu_seconds(pid) - before), done))
}

fn pull_new(log: &mut Log, client: &mut Client, pid: i32, _: u64) -> Result<f64, String> {
    let known = log.place.versions(client);
    let first = 1 + log.rng.below((log.rows - CHANGES) as usize) as u64;
    log.update(client, first, first + CHANGES - 1)?;
    let pull = || log.place.pull(client, &known, PAGE, true).map_err(|refusal| format!("a pull: {refusal:?}"));
    let (cost, page) = cpu(pid, pull)?;
    match page.batch.ops.len() as u64 {
        CHANGES => Ok(cost),
        other => Err(format!("{CHANGES} events are new, a pull brought {other}")),
    }
}

fn push_knowing_all(log: &mut Log, client: &mut Client, pid: i32, _: u64) -> Result<f64, String> {
    let (deps, lamport) = (log.place.frontier(client), log.lamport(client)? + 1);
    let batch = log.changes("guest", lamport, deps, CHANGES);
    cpu(pid, || log.push(client, batch)).map(|(cost, ())| cost)
}

fn push_as_stranger(log: &mut Log, client: &mut Client, pid: i32, round: u64) -> Result<f64, String> {
    let batch = log.changes(&format!("stranger-{round}"), 1, vec![], CHANGES);
    cpu(pid, || log.push(client, batch)).map(|(cost, ())| cost)
}

/// The mean of some, since one is soon done.
fn update_one(log: &mut Log, client: &mut Client, pid: i32, _: u64) -> Result<f64, String> {
    const TIMES: u64 = 20;
    let rows: Vec<u64> = (0..TIMES).map(|_| 1 + log.rng.below(log.rows as usize) as u64).collect();
    let update = || rows.into_iter().try_for_each(|row| log.update(client, row, row));
    cpu(pid, update).map(|(cost, ())| cost / TIMES as f64)
}

/// I4.
fn verify(client: &mut Client, log: &Log) -> Result<(), String> {
    let sql = format!("SELECT v::text FROM crdt.verify('{}') AS v LIMIT 3", log.table);
    let wrong: Vec<String> =
        client.query(&sql, &[]).map_err(|error| format!("{error:?}"))?.iter().map(|row| row.get(0)).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("I4: {wrong:?}")) }
}

/// Heaps and indexes are sound, and each row is in each index.
fn amcheck(cluster: &Cluster, database: &str) -> Result<(), String> {
    let mut client = cluster.connect(database);
    let sql = "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'";
    let available = client.query_one(sql, &[]).map_err(|error| format!("{error:?}"))?.get::<_, i64>(0) > 0;
    let mut command = cluster.command("pg_amcheck");
    command.args(["--install-missing", "--heapallindexed", "--database", database]);
    match command.output() {
        Ok(output) if available => match output.status.success() {
            true => Ok(()),
            false => Err(format!("pg_amcheck: {}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()))),
        },
        _ => {
            println!("long: this server comes without amcheck, skipped");
            Ok(())
        }
    }
}

/// How large the log is.
fn size(client: &mut Client, log: &Log) -> Result<String, String> {
    let sql = "SELECT (SELECT runs FROM crdt.docs WHERE doc = $1), (SELECT bytes FROM crdt.docs WHERE doc = $1),
                      (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relnamespace = 'crdt'::regnamespace AND relkind = 'r'),
                      pg_total_relation_size($2::text::regclass)";
    let row = client.query_one(sql, &[&log.place.doc, &log.table]).map_err(|error| format!("{error:?}"))?;
    let (runs, bytes, whole, table): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    let each = |bytes: i64| bytes as f64 / log.events as f64;
    Ok(format!(
        "{runs} runs, {:.1} MB with indexes beside a table of {:.1} MB, {:.1} bytes an event ({:.1} of them operations)",
        whole as f64 / 1e6,
        table as f64 / 1e6,
        each(whole),
        each(bytes)
    ))
}
