//! What crdt_db does, shown on real data. `scripts/demo` builds it and runs it.
//!
//! | module | holds |
//! |---|---|
//! | [`offices`] | part 1: thirty authors offline, three hubs, three orders |
//! | [`bank`] | part 2: pgbench's own tables, followed by a second database |
//! | [`cursors`] | part 3: two cursors, presence, a listener |
//! | [`dataset`] | the edit history of part 1 |
//! | [`authors`] | its authors as replicas in memory |
//! | [`beside`] | what else runs on a hub meanwhile: plain SQL and pgbench |
//! | [`hub`] | a database as a client sees it |
//! | [`show`] | how it all looks |
#![forbid(unsafe_code)]

mod authors;
mod bank;
mod beside;
mod cursors;
mod dataset;
mod hub;
mod offices;
mod show;

use std::time::Instant;

use crdt_live::Cluster;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = parts.iter().find(|part| !["offices", "bank", "cursors"].contains(&part.as_str())) {
        eprintln!("no such part: {unknown} (there are: offices bank cursors)");
        std::process::exit(2);
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|p| p == part);
    let start = Instant::now();
    let cluster = Cluster::start("demo", &["max_wal_size=4GB", "shared_buffers=256MB"]);
    introduce(&cluster);
    if wanted("offices") {
        offices::show(&cluster);
    }
    if wanted("bank") {
        bank::show(&cluster);
    }
    if wanted("cursors") {
        cursors::show(&cluster);
    }
    let crashes = cluster.crashes();
    assert!(crashes.is_empty(), "the server's log tells of crashes: {crashes:?}");
    show::part(&format!("Everything held. {} in all.", show::seconds(start.elapsed())));
}

fn introduce(cluster: &Cluster) {
    let mut client = cluster.connect("postgres");
    let version: String = client.query_one("SHOW server_version", &[]).expect("a version").get(0);
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    show::part("crdt_db: ordinary PostgreSQL tables, made mergeable");
    show::text(&format!(
        "PostgreSQL {version} on a unix socket, a private server that ends with this demo; fsync is off. {cores} cores, \
         load {load} at the start: the times below are those of this machine now."
    ));
}
