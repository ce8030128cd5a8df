//! Plain SQL on tracked tables against the same on untracked ones.

use std::path::PathBuf;

use postgres::Client;

use crate::Bench;
use crate::data::{VALUE_COLUMNS, create_source, create_table, fill, run_each, variant};
use crate::measure::{Cost, Pair, backend_cost, children_cost, median, turns};
use crate::report::{Line, Unit};

const UNTRACKED: &str = "untracked";

/// How many times as often as longer measurements those are taken that take a third of a second.
const SHORT: usize = 4;

/// INSERT and UPDATE of 100,000 rows x 5 columns in one statement each.
pub fn bulk(bench: &Bench) -> Vec<Line> {
    let rows = 100_000 / bench.options.shrink;
    let database = bench.cluster.create_database("bulk");
    let mut client = bench.cluster.connect(&database);
    create_source(&mut client, rows);
    let (mut inserts, mut updates) = (Pair::default(), Pair::default());
    for (round, ours) in turns(SHORT * bench.options.repeats) {
        let table = format!("bulk_{}_{round}", variant(ours));
        create_table(&mut client, &table, ours);
        inserts.push(ours, checkpointed(&mut client, &format!("INSERT INTO {table} SELECT * FROM source")));
        let set = "a = md5(a), b = b || '!', c = c + 1, d = d + interval '1 s', e = e + 1";
        updates.push(ours, checkpointed(&mut client, &format!("UPDATE {table} SET {set}")));
    }
    let line = |verb: &str, pair: &Pair| Line {
        what: format!("tracked {verb} of {rows} rows x {VALUE_COLUMNS} columns"),
        reference: UNTRACKED,
        measured: Some(pair.cpu_ratio()),
        reach: 1.4,
        aim: 1.2,
        unit: Unit::Times,
        detail: pair.detail(),
    };
    vec![line("INSERT", &inserts), line("UPDATE", &updates)]
}

fn checkpointed(client: &mut Client, sql: &str) -> Cost {
    client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
    let (cost, ()) = backend_cost(client, |client| client.batch_execute(sql).expect("the statement"));
    cost
}

/// Prepared transactions of one INSERT or one UPDATE, by 1 and by 8 clients.
pub fn single_row(bench: &Bench) -> Vec<Line> {
    let insert = "\\set v random(1, 1000000000)\n\
        INSERT INTO TABLE (a, b, c, d, e) VALUES ('text ' || :v, 'Springfield', :v, now(), 12.50);\n";
    let update = "\\set v random(1, 1000000000)\n\\set r random(1, ROWS)\nUPDATE TABLE SET c = :v WHERE id = :r;\n";
    let mut lines = Vec::new();
    for (verb, script) in [("INSERT", insert), ("UPDATE", update)] {
        for clients in [1, 8] {
            let load = Load { script, clients, transactions: 40_000 / bench.options.shrink };
            let pair = load.measure(bench, "bench_single", "off");
            lines.push(Line {
                what: format!("tracked single-row prepared {verb}, synchronous_commit off, clients: {clients}"),
                reference: UNTRACKED,
                measured: Some(pair.cpu_ratio()),
                reach: 1.75,
                aim: 1.4,
                unit: Unit::Times,
                detail: pair.detail(),
            });
        }
    }
    lines
}

/// Prepared transactions of four statements, by 1 and by 8 clients.
pub fn four_statements(bench: &Bench) -> Vec<Line> {
    let script = "\\set v random(1, 1000000000)\n\\set r random(1, ROWS)\n\
        BEGIN;\n\
        UPDATE TABLE SET c = :v WHERE id = :r;\n\
        SELECT a, b FROM TABLE WHERE id = :r;\n\
        UPDATE TABLE SET b = 'Salem', d = now() WHERE id = :r;\n\
        INSERT INTO TABLE (a, b, c, d, e) VALUES ('text ' || :v, 'Springfield', :v, now(), 12.50);\n\
        COMMIT;\n";
    let line = |clients| {
        let load = Load { script, clients, transactions: 16_000 / bench.options.shrink };
        let pair = load.measure(bench, "bench_four", "off");
        Line {
            what: format!("tracked transaction of four statements, synchronous_commit off, clients: {clients}"),
            reference: UNTRACKED,
            measured: Some(pair.cpu_ratio()),
            reach: 1.4,
            aim: 1.25,
            unit: Unit::Times,
            detail: pair.detail(),
        }
    };
    vec![line(1), line(8)]
}

/// The rate of single-row transactions that wait for the disk, 8 clients.
pub fn fsync_rate(bench: &Bench) -> Vec<Line> {
    let script = "\\set v random(1, 1000000000)\n\
        INSERT INTO TABLE (a, b, c, d, e) VALUES ('text ' || :v, 'Springfield', :v, now(), 12.50);\n";
    let load = Load { script, clients: 8, transactions: 40_000 / bench.options.shrink };
    let pair = load.measure(bench, "bench_fsync", "on");
    let rate = |costs: &[Cost]| load.transactions as f64 / median(costs.iter().map(|c| c.wall));
    vec![Line {
        what: "tracked single-row transaction with fsync, 8 clients, rate".into(),
        reference: UNTRACKED,
        measured: Some(1.0 / pair.wall_ratio()),
        reach: 0.9,
        aim: 1.0,
        unit: Unit::Rate,
        detail: format!("{:.0} against {:.0} a second", rate(&pair.ours), rate(&pair.reference)),
    }]
}

/// A pgbench run. `TABLE` and `ROWS` in the script are filled in.
struct Load<'s> {
    script: &'s str,
    clients: usize,
    transactions: usize,
}

impl Load<'_> {
    fn measure(&self, bench: &Bench, prefix: &str, synchronous_commit: &str) -> Pair {
        let rows = 100_000 / bench.options.shrink;
        let database = bench.cluster.create_database(prefix);
        let mut client = bench.cluster.connect(&database);
        let setting = format!("ALTER DATABASE \"{database}\" SET synchronous_commit = {synchronous_commit}");
        client.batch_execute(&setting).expect("ALTER DATABASE");
        create_source(&mut client, rows);
        for ours in [false, true] {
            let table = variant(ours);
            create_table(&mut client, table, ours);
            fill(&mut client, table, 1, rows);
            run_each(
                &mut client,
                &format!("SELECT setval('{table}_id_seq', {rows}); VACUUM ANALYZE {table}; CHECKPOINT"),
            );
        }
        drop(client);
        let mut pair = Pair::default();
        for (_, ours) in turns(bench.options.repeats) {
            let script = self.script.replace("TABLE", variant(ours)).replace("ROWS", &rows.to_string());
            pair.push(ours, pgbench(bench, &database, &script, self.clients, self.transactions, &[], 1));
        }
        pair
    }
}

/// A pgbench run of prepared statements. `others`: sessions that are connected when it ends, the observer among them.
pub fn pgbench(
    bench: &Bench,
    database: &str,
    script: &str,
    clients: usize,
    transactions: usize,
    more: &[&str],
    others: usize,
) -> Cost {
    let file = ScriptFile::write(script);
    let each = (transactions / clients).max(1);
    let (count, each_text) = (clients.to_string(), each.to_string());
    let path = file.0.to_str().expect("a path in UTF-8");
    let args = ["-n", "-M", "prepared", "-c", &count, "-j", "1", "-t", &each_text, "-f", path];
    let args = [&args[..], more, &[database]].concat();
    let (cost, output) = children_cost(&bench.cluster, others, || bench.cluster.run("pgbench", &args));
    assert!(output.contains("number of failed transactions: 0 "), "pgbench: {output}");
    Cost { wall: (each * clients) as f64 / rate_of(&output), ..cost }
}

// pgbench's own rate leaves out the time its clients take to connect.
fn rate_of(output: &str) -> f64 {
    let (_, after) = output.split_once("tps = ").unwrap_or_else(|| panic!("no rate in: {output}"));
    after.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no rate in: {output}"))
}

struct ScriptFile(PathBuf);

impl ScriptFile {
    fn write(script: &str) -> ScriptFile {
        let path = std::env::temp_dir().join(format!("crdt_bench-{}.sql", std::process::id()));
        std::fs::write(&path, script).expect("a temporary file");
        ScriptFile(path)
    }
}

impl Drop for ScriptFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
