//! Part 1: thirty authors offline, three hubs, three orders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use crdt_live::Cluster;
use crdt_live::session::wait_until;

use crate::authors::{self, Authors, TABLE, Written};
use crate::beside::{Clerk, Load, VISITS, Work};
use crate::dataset::{Concurrent, Dataset};
use crate::hub::Hub;
use crate::show::{self, Progress, number, rate, seconds, size};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/district-offices/district-offices.jsonl.gz");

/// One way to bring everything to a hub: pushes, each some commits of one working copy.
struct Plan {
    hub: &'static str,
    what: &'static str,
    pushes: Vec<Vec<usize>>,
    /// By `crdt.push`, not `crdt.push_binary`.
    json: bool,
    /// Some pushes are sent twice, as a client does that has lost the answer.
    repeats: bool,
}

/// A hub after everything was brought to it.
struct Filled {
    hub: Hub,
    what: &'static str,
    pushes: usize,
    accepted: u64,
    duplicate: u64,
    time: Duration,
    clerk: Work,
    visits: u64,
    load_time: Duration,
}

/// Shows it.
pub fn show(cluster: &Cluster) {
    show::part("Part 1. Thirty authors offline, three hubs, three orders");
    let dataset = Dataset::read(Path::new(FILE));
    let concurrent = dataset.concurrent();
    introduce(&dataset, &concurrent);
    let authors = work_offline(&dataset);
    let written = authors.written();
    let mut filled = fill_hubs(cluster, &dataset, &authors);
    let touched = compare_untouched(&dataset, &mut filled);
    exchange(&mut filled);
    compare_all(&dataset, authors, &mut filled);
    conflicts(&concurrent, &touched, &mut filled[0].hub);
    sizes(&written, &mut filled);
}

fn introduce(dataset: &Dataset, concurrent: &Concurrent) {
    show::step("the data");
    let year = |commit: usize| 1970 + dataset.commits[commit].time / 31_556_952;
    show::text(&format!(
        "The edit history of a public data set (CC0; examples/district-offices): offices of the members of the US \
         Congress, {} to {}. {} commits by {} people on branches, {} of them merges; {} cell edits. Where somebody \
         worked on two branches at a time they had a working copy for each: {} in all.",
        year(0),
        year(dataset.commits.len() - 1),
        dataset.commits.len(),
        dataset.authors(),
        dataset.commits.iter().filter(|c| c.parents.len() > 1).count(),
        number(dataset.cell_edits() as u64),
        dataset.copies.len(),
    ));
    show::text(&format!(
        "Edits made without knowledge of each other: {} pairs on the same row; {} pairs of the same cell, {} of them \
         with different values; {} pairs of deletes of the same row; {} times one deleted a row that the other edited.",
        concurrent.rows,
        concurrent.cells,
        concurrent.different.len(),
        concurrent.deletes,
        concurrent.delete_and_edit.len(),
    ));
}

fn work_offline(dataset: &Dataset) -> Authors {
    show::step("everybody works offline");
    let start = Instant::now();
    let authors = Authors::play(dataset);
    show::text(&format!(
        "{} replicas in memory, each with a peer name of its own, wrote {} events in {}. Before a commit a replica got \
         what the commit's parents had seen, from other replicas, and nothing else. No server was asked.",
        authors.replicas.len(),
        number(authors.events()),
        seconds(start.elapsed()),
    ));
    authors
}

/// The three orders.
fn plans(dataset: &Dataset) -> [Plan; 3] {
    let one_by_one = |order: Vec<usize>| order.into_iter().map(|commit| vec![commit]).collect();
    let mut random = 20_260_101u64;
    let shuffled = dataset.order(|ready| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ready[(random >> 33) as usize % ready.len()]
    });
    let mut grouped: Vec<Vec<usize>> = vec![];
    for commit in dataset.latest_order() {
        match grouped.last_mut() {
            Some(push) if dataset.commits[push[0]].copy == dataset.commits[commit].copy => push.push(commit),
            _ => grouped.push(vec![commit]),
        }
    }
    let file = one_by_one((0..dataset.commits.len()).collect());
    [
        Plan { hub: "north", what: "order of the file, JSON", pushes: file, json: true, repeats: false },
        Plan { hub: "south", what: "shuffled, some twice", pushes: one_by_one(shuffled), json: false, repeats: true },
        Plan { hub: "west", what: "offline for long", pushes: grouped, json: false, repeats: false },
    ]
}

fn fill_hubs(cluster: &Cluster, dataset: &Dataset, authors: &Authors) -> Vec<Filled> {
    show::step("everything is pushed to three hubs, in three orders");
    show::text(
        "Each hub is a database of its own with the table \"offices\", tracked, and does not know of the others. north \
         gets the commits one by one as they stand in the file, as JSON. south gets them in a random order that keeps \
         what a commit was made on top of before it, and every fifth push twice, as from a client that lost the answer. \
         west gets each commit as late as causality allows, so that what one working copy did in a row comes as one push.",
    );
    show::text(
        "Meanwhile a clerk edits the same table on the same hub with plain SQL (a statement every 4 ms: updates, inserts, \
         deletes, some rows again and again), and pgbench writes another tracked table with two clients.",
    );
    let plans = plans(dataset);
    let filled: Vec<Filled> =
        (0..).zip(plans).map(|(seed, plan)| fill(cluster, dataset, authors, plan, seed)).collect();
    let row = |f: &Filled| {
        vec![
            f.hub.name.to_owned(),
            f.what.to_owned(),
            number(f.pushes as u64),
            number(f.accepted),
            number(f.duplicate),
            seconds(f.time),
            rate(f.accepted, f.time),
            number(f.clerk.statements),
            rate(f.visits, f.load_time),
        ]
    };
    let head = ["hub", "order", "pushes", "events", "sent again", "time", "events/s", "clerk's SQL", "pgbench tx/s"];
    show::table(&head, &filled.iter().map(row).collect::<Vec<_>>());
    filled
}

fn fill(cluster: &Cluster, dataset: &Dataset, authors: &Authors, plan: Plan, seed: u64) -> Filled {
    let mut hub = Hub::create(cluster, plan.hub);
    create_tables(dataset, &mut hub);
    let clerk = Clerk::start(cluster, &hub, seed);
    let load = Load::start(cluster, &hub);
    wait_until("pgbench to write", || hub.number("SELECT count(*) FROM visits") > 0);
    let mut progress = Progress::new(&format!("{}:", plan.hub), plan.pushes.len() as u64);
    let (mut accepted, mut duplicate) = (0, 0);
    for (i, push) in plan.pushes.iter().enumerate() {
        let sender = &dataset.copies[dataset.commits[push[0]].copy];
        for _ in 0..if plan.repeats && i % 5 == 0 { 2 } else { 1 } {
            let batch = authors::joined(push.iter().map(|commit| &authors.batches[*commit]));
            let answer = if plan.json { hub.push_json(sender, batch) } else { hub.push(sender, batch).0 };
            (accepted, duplicate) = (accepted + answer.accepted, duplicate + answer.duplicate);
        }
        progress.at(i as u64, &format!("{} events", number(accepted)));
    }
    let time = progress.done();
    let clerk = clerk.stop();
    let load_time = load.stop();
    assert_eq!(accepted, authors.events(), "events that {} took", hub.name);
    let visits = hub.number("SELECT sum(n) FROM visits");
    Filled { hub, what: plan.what, pushes: plan.pushes.len(), accepted, duplicate, time, clerk, visits, load_time }
}

fn create_tables(dataset: &Dataset, hub: &mut Hub) {
    let columns: String = dataset.columns.iter().map(|column| format!(", {column} text")).collect();
    hub.client
        .batch_execute(&format!(
            "CREATE TABLE {TABLE} (row_key text PRIMARY KEY{columns}); SELECT crdt.track('{TABLE}', {}); \
             {VISITS}; SELECT crdt.track('visits', crdt.create_doc('{}'))",
            hub.doc, hub.name
        ))
        .expect("tables");
}

/// Before the hubs have talked. Answers what the clerks wrote.
fn compare_untouched(dataset: &Dataset, filled: &mut [Filled]) -> BTreeSet<String> {
    show::step("equal whatever the order: the rows that no clerk has written");
    let touched: BTreeSet<String> = filled.iter().flat_map(|f| f.clerk.rows.iter().cloned()).collect();
    let except: Vec<String> = touched.iter().cloned().collect();
    let (mut texts, mut rows) = (BTreeSet::new(), vec![]);
    for f in filled.iter_mut() {
        let text = f.hub.table_text(TABLE, "row_key", &dataset.columns, &except);
        let md5 = f.hub.md5(&text);
        rows.push(vec![f.hub.name.to_owned(), number(text.lines().count() as u64), md5]);
        texts.insert(text);
    }
    show::text(&format!(
        "The clerks of the three hubs have written {} rows, each hub other values. All other rows come from the same \
         events in three orders:",
        touched.len()
    ));
    show::table(&["hub", "rows", "md5 of the rows, sorted by key"], &rows);
    show::check("the three hubs show the same rows", texts.len() == 1);
    touched
}

fn exchange(filled: &mut [Filled]) {
    show::step("the hubs exchange what their clerks did");
    show::text("Each hub pulls from the others what it does not have, and pushes it into itself.");
    let mut rows = vec![];
    for _ in 0..2 {
        for (to, from) in [(0, 1), (1, 2), (2, 0)] {
            let start = Instant::now();
            let (to, from) = two(filled, to, from);
            let (events, bytes) = to.hub.fetch_from(&mut from.hub, |_| {});
            if events > 0 {
                let line = [from.hub.name.to_owned(), to.hub.name.to_owned(), number(events), size(bytes)];
                rows.push([&line[..], &[seconds(start.elapsed())]].concat());
            }
        }
    }
    show::table(&["from", "to", "events", "bytes", "time"], &rows);
}

/// Two elements at once.
fn two(filled: &mut [Filled], a: usize, b: usize) -> (&mut Filled, &mut Filled) {
    let [a, b] = filled.get_disjoint_mut([a, b]).expect("two hubs");
    (a, b)
}

/// After the exchange: every hub and every replica.
fn compare_all(dataset: &Dataset, mut authors: Authors, filled: &mut [Filled]) {
    show::step("equal everywhere: all rows, all hubs, all authors' replicas");
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut versions = BTreeSet::new();
    for f in filled.iter_mut() {
        let text = f.hub.table_text(TABLE, "row_key", &dataset.columns, &[]);
        texts.entry(text).or_default().push(format!("database {}", f.hub.name));
        versions.insert(format!("{:?}", f.hub.version()));
    }
    let (copies, start) = (authors.replicas.len(), Instant::now());
    let mut progress = Progress::new("authors come home:", copies as u64);
    let mut bytes = 0;
    for (i, replica) in authors.replicas.iter_mut().enumerate() {
        let hub = &mut filled[i % 3].hub;
        loop {
            let (page, size) = hub.pull(replica.peer(), &replica.versions());
            bytes += size;
            replica.pull_in(page.batch).expect("what the hub has");
            if !page.has_more {
                break;
            }
        }
        texts.entry(authors::table_text(replica, &dataset.columns)).or_default().push(replica.peer().to_owned());
        progress.at(i as u64, replica.peer());
    }
    progress.done();
    show::text(&format!(
        "All {copies} replicas come online, each pulls from one of the hubs what it lacks, and shows its own table: {} \
         pulled in {}.",
        size(bytes),
        seconds(start.elapsed()),
    ));
    let hub = &mut filled[0].hub;
    let rows: Vec<Vec<String>> = texts
        .iter()
        .map(|(text, who)| {
            let databases = who.iter().filter(|w| w.starts_with("database")).count();
            let (rows, md5) = (number(text.lines().count() as u64), hub.md5(text));
            vec![number(databases as u64), number((who.len() - databases) as u64), rows, md5]
        })
        .collect();
    show::table(&["databases", "replicas", "rows", "md5 of the table, sorted by key"], &rows);
    show::check("three databases and all replicas show the same table", texts.len() == 1);
    show::check("the three hubs hold the same events", versions.len() == 1);
    authors.replicas[0].check();
    show::check("a replay of the whole log in memory, by another algorithm, shows it too", true);
    let differences: Vec<String> = filled.iter_mut().flat_map(|f| f.hub.differences(TABLE)).collect();
    show::none("crdt.verify finds no difference between table and log in any hub", &differences);
}

fn conflicts(concurrent: &Concurrent, touched: &BTreeSet<String>, hub: &mut Hub) {
    show::step("what conflicted, and who won");
    let row = concurrent.different.iter().find(|(row, _)| !touched.contains(row) && exists(hub, row));
    if let Some((row, column)) = row {
        show::text(
            "Two authors wrote one cell, neither knowing of the other. The greatest stamp wins: the lamport (logical time), \
             then the peer's name:",
        );
        history(hub, row, Some(column));
    }
    let deleted = concurrent.delete_and_edit.iter().find(|row| !touched.contains(*row));
    if let Some(row) = deleted {
        show::text(
            "One author deleted a row, another, who did not know, edited it. An edit changes a row and does not make one: \
             the row stays gone until somebody inserts it again. The last events of the row:",
        );
        history(hub, row, None);
    }
    let clerks: Vec<String> = touched.iter().cloned().collect();
    let beaten = "SELECT w.row_id, w.\"column\" FROM unnest($1::text[]) AS row_id, \
                  LATERAL (SELECT row_id, h.* FROM crdt.history('offices', row_id) AS h) AS w \
                  WHERE w.winner AND w.peer LIKE '%:%' AND EXISTS (SELECT FROM offices AS o WHERE o.row_key = w.row_id) \
                  AND (SELECT count(DISTINCT split_part(h.peer, ':', 1)) FROM crdt.history('offices', w.row_id) AS h \
                       WHERE h.\"column\" = w.\"column\") BETWEEN 4 AND 9 LIMIT 1";
    if let Some(found) = hub.client.query_opt(beaten, &[&clerks]).expect("the clerks' rows") {
        show::text("Authors and clerks of several hubs wrote one cell. The greatest stamp wins, on every hub:");
        history(hub, found.get(0), Some(found.get(1)));
    }
}

fn exists(hub: &mut Hub, row: &str) -> bool {
    hub.client.query_one("SELECT EXISTS (SELECT FROM offices WHERE row_key = $1)", &[&row]).expect("a row").get(0)
}

/// What `crdt.history` says of a row: its last lines, of one column if one is given.
fn history(hub: &mut Hub, row: &str, column: Option<&str>) {
    show::typed("SELECT lamport, peer, counter, operation, \"column\", value, winner");
    show::typed(&format!(
        "FROM crdt.history('offices', '{row}'){};",
        match column {
            Some(column) => format!(" WHERE \"column\" = '{column}' OR operation = 'delete'"),
            None => String::new(),
        }
    ));
    let sql = "SELECT lamport, peer, counter, operation, coalesce(\"column\", ''), coalesce(value::text, ''), winner \
               FROM crdt.history('offices', $1) WHERE $2::text IS NULL OR \"column\" = $2 OR operation = 'delete'";
    let lines = hub.client.query(sql, &[&row, &column]).expect("crdt.history");
    let rows = lines.iter().rev().take(8).rev().map(|line| {
        vec![
            number(line.get::<_, i64>(0) as u64),
            line.get(1),
            number(line.get::<_, i64>(2) as u64),
            line.get(3),
            line.get(4),
            line.get(5),
            if line.get(6) { "winner".to_owned() } else { String::new() },
        ]
    });
    let head = ["lamport", "peer", "counter", "operation", "column", "value", ""];
    show::table(&head, &rows.collect::<Vec<_>>());
}

fn sizes(written: &Written, filled: &mut [Filled]) {
    show::step("sizes");
    let mut rows = vec![];
    for f in filled.iter_mut() {
        let doc = f.hub.doc;
        let mut of = |column: &str| f.hub.number(&format!("SELECT {column}::bigint FROM crdt.docs WHERE doc = {doc}"));
        let (events, runs, peers, bytes) = (of("events"), of("runs"), of("peers"), of("bytes"));
        let table = f.hub.number("SELECT pg_relation_size('offices')");
        rows.push(vec![f.hub.name.to_owned(), number(events), number(peers), number(runs), size(bytes), size(table)]);
    }
    show::table(&["hub", "events", "peers", "runs", "log (operations)", "the table itself"], &rows);
    show::text(&format!(
        "The authors alone wrote {} cells; their values have {} bytes of text. The log keeps every value that ever was, \
         with its row, column, author and logical time.",
        number(written.cells),
        size(written.bytes),
    ));
}
