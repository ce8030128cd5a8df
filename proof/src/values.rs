//! Values of every base type, written by plain SQL, carried from one hub to the other and compared bit for bit, while every
//! session has other settings for how values are read and shown.

use std::time::Instant;

use crdt_engine::testkit::Rng;
use crdt_live::Cluster;
use crdt_live::hub::{Nature, Place};
use postgres::Client;

use crate::Outcome;
use crate::args::Args;
use crate::round::strange_crashes;
use crate::types::{LEFT_OUT, TYPES, Type};

/// Rows written at once on either side.
const ROWS: u64 = 40;
/// Everything: no page is larger.
const ALL: u64 = u32::MAX as u64;

/// `--values` values, the same number of each type.
pub fn run(args: &Args) -> Outcome {
    let (wanted, seed) = (args.number("values", 4_000), args.number("seed", 1));
    let cluster = Cluster::start("values", &[]);
    let databases = ["one", "two"].map(|name| cluster.create_database(name));
    let mut clients = databases.each_ref().map(|database| cluster.connect(database));
    for client in &mut clients {
        let sql = "CREATE TYPE pair AS (n int, t text, i interval); CREATE TYPE mood AS ENUM ('sad', 'ok', 'é \"so\"');
                   CREATE DOMAIN posint AS int CHECK (VALUE > 0);";
        client.batch_execute(sql).map_err(|error| format!("{error:?}"))?;
    }
    let types = types_here(&mut clients[0])?;
    let start = Instant::now();
    let mut rng = Rng::new(seed);
    let (mut done, mut batches) = (0, 0);
    while done < wanted {
        for (nth, of) in types.iter().enumerate() {
            let name = format!("v{nth}_{batches}");
            done += round_trip(&mut clients, of, &name, &mut rng)
                .map_err(|wrong| format!("{}, {name}: {wrong}", of.name))?;
        }
        batches += 1;
    }
    let strange = strange_crashes(&cluster, &Default::default());
    if !strange.is_empty() {
        return Err(format!("I7: {strange:?}"));
    }
    Ok(format!("{done} values of {} types there and back in {:.0?}, all bit-equal", types.len(), start.elapsed()))
}

/// The types this server has. Says which base types nobody thought of.
fn types_here(client: &mut Client) -> Result<Vec<&'static Type>, String> {
    let sql = "SELECT typname::text FROM pg_type WHERE typtype = 'b' AND typnamespace = 'pg_catalog'::regnamespace
                  AND typcategory <> 'A'";
    let all: Vec<String> = client.query(sql, &[]).map_err(|e| format!("{e:?}"))?.iter().map(|row| row.get(0)).collect();
    let listed = |name: &str| TYPES.iter().any(|t| t.name.trim_matches('"').split('(').next() == Some(name));
    let forgotten: Vec<&String> =
        all.iter().filter(|name| !listed(name) && !LEFT_OUT.contains(&name.as_str())).collect();
    if !forgotten.is_empty() {
        return Err(format!("base types that the driver does not know: {forgotten:?}"));
    }
    let mut here = vec![];
    for of in TYPES {
        // A server built without libxml has the type and refuses its values.
        if client
            .simple_query(&format!("SELECT v FROM (SELECT {} FROM (SELECT 1 AS g) AS g) AS x (v)", expression(of)))
            .is_ok()
        {
            here.push(of);
        } else {
            println!("values: {} is left out, this server makes none", of.name);
        }
    }
    Ok(here)
}

fn expression(of: &Type) -> String {
    match of.random.split_once(" FROM ") {
        Some((value, from)) if !of.random.starts_with('(') => format!("(SELECT {value} FROM {from})"),
        _ => of.random.to_owned(),
    }
}

/// Some settings, any of which a session may have.
fn settings(rng: &mut Rng) -> String {
    let style = *rng.pick(&["ISO", "SQL", "Postgres", "German"]);
    let order = *rng.pick(&["MDY", "DMY", "YMD"]);
    let zone = *rng.pick(&[
        "UTC",
        "America/St_Johns",
        "Asia/Kathmandu",
        "Pacific/Apia",
        "Europe/Berlin",
        "<+03>-3",
        "Africa/Monrovia",
    ]);
    let interval = *rng.pick(&["postgres", "postgres_verbose", "sql_standard", "iso_8601"]);
    let bytes = *rng.pick(&["hex", "escape"]);
    let path = *rng.pick(&["public", "pg_catalog, public", "public, crdt, pg_catalog"]);
    let xml = *rng.pick(&["content", "document"]);
    format!(
        "RESET ALL; SET DateStyle = '{style}, {order}'; SET TimeZone = '{zone}'; SET IntervalStyle = {interval};
         SET extra_float_digits = {}; SET bytea_output = {bytes}; SET search_path = {path}; SET xmloption = {xml};
         SET standard_conforming_strings = on;",
        rng.below(19) as i64 - 15
    )
}

/// Both hubs write rows of a table, tell each other, and hold the same bits. Answers how many values.
fn round_trip(clients: &mut [Client; 2], of: &Type, name: &str, rng: &mut Rng) -> Result<u64, String> {
    let failed = |what: &str, error: postgres::Error| format!("{what}: {error:?}");
    let is_text = ["text", "varchar", "bpchar"].contains(&of.name);
    let mut places = vec![];
    for (hub, client) in clients.iter_mut().enumerate() {
        let collation = if is_text { *rng.pick(&["", "COLLATE \"C\"", "COLLATE \"POSIX\""]) } else { "" };
        let peer = format!("{}-{name}", ["m", "Hub"][hub]);
        let sql = format!("RESET ALL; CREATE TABLE {name} (id text PRIMARY KEY, v {} {collation})", of.name);
        client.batch_execute(&sql).map_err(|e| failed(&sql, e))?;
        let doc: i64 = client.query_one("SELECT crdt.create_doc($1)", &[&peer]).map_err(|e| failed("a doc", e))?.get(0);
        client
            .batch_execute(&format!("SELECT crdt.track('{name}', {doc}, alias => 'v')"))
            .map_err(|e| failed("track", e))?;
        places.push(Place::known(doc, "public", Nature::Plain, false));
    }
    for (hub, client) in clients.iter_mut().enumerate() {
        let side = ["a", "b"][hub];
        // Edges are read under settings that everybody writes them for, and shown under others.
        let edges: String = of
            .edges
            .iter()
            .enumerate()
            .map(|(nth, edge)| format!("INSERT INTO {name} VALUES ('{side}-{nth}', {});", literal(edge)))
            .collect();
        client.batch_execute(&edges).map_err(|e| failed(&edges, e))?;
        let sql = format!(
            "{} SET search_path = public; SELECT setseed({});
             INSERT INTO {name} SELECT '{side}' || g, {} FROM generate_series(1, {ROWS}) AS g",
            settings(rng),
            rng.below(1000) as f64 / 1000.0,
            expression(of)
        );
        client.batch_execute(&sql).map_err(|e| failed(&sql, e))?;
    }
    for (from, to) in [(0, 1), (1, 0)] {
        clients[from].batch_execute(&settings(rng)).map_err(|e| failed("settings", e))?;
        clients[to].batch_execute(&settings(rng)).map_err(|e| failed("settings", e))?;
        let known = places[to].versions(&mut clients[to]);
        let page = places[from].pull(&mut clients[from], &known, ALL, rng.chance(50)).map_err(|r| format!("{r:?}"))?;
        places[to].push(&mut clients[to], page.batch, rng.chance(50)).map_err(|r| format!("{r:?}"))?;
    }
    let mut held = vec![];
    for client in clients.iter_mut() {
        client.batch_execute("RESET ALL").map_err(|e| failed("RESET", e))?;
        let sql = format!("SELECT id, {} FROM {name} ORDER BY id COLLATE \"C\"", bits(client, name)?);
        let rows = client.query(&sql, &[]).map_err(|e| failed(&sql, e))?;
        held.push(rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(String, Option<String>)>>());
        let wrong = client.query(&format!("SELECT v::text FROM crdt.verify('{name}') AS v"), &[]);
        let wrong = wrong.map_err(|e| failed("verify", e))?;
        if let Some(row) = wrong.first() {
            return Err(format!("I4: {}", row.get::<_, String>(0)));
        }
    }
    let differ: Vec<_> = held[0].iter().zip(&held[1]).filter(|(a, b)| a != b).take(3).collect();
    if !differ.is_empty() || held[0].len() != held[1].len() {
        return Err(format!("{} and {} rows, which differ: {differ:?}", held[0].len(), held[1].len()));
    }
    for client in clients.iter_mut() {
        client.batch_execute(&format!("DROP TABLE {name}")).map_err(|e| failed("DROP", e))?;
    }
    Ok(held[0].len() as u64)
}

/// The value as its type sends it in binary; of the few types that do not, their text.
fn bits(client: &mut Client, name: &str) -> Result<String, String> {
    let sql = "SELECT CASE WHEN t.typsend = 0 THEN 'v::text'
                      WHEN t.typname = 'refcursor' THEN 'encode(textsend(v::text), ''hex'')'
                      ELSE format('encode(%s(v), ''hex'')', t.typsend::regproc) END
                 FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid WHERE attrelid = $1::text::regclass AND attname = 'v'";
    let row = client.query_one(sql, &[&name]).map_err(|error| format!("{sql}: {error:?}"))?;
    Ok(row.get(0))
}

fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
