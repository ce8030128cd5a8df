//! Speed and size of crdt_db: the table of `docs/benchmarks.md`.
//!
//! Every figure is a ratio between two things measured in turns inside one run, so that a slow or busy machine moves
//! both. Each line of the table is one function in [`local`] (plain SQL on tracked tables), [`remote`] (push and pull),
//! [`size`] or [`ephemeral`]; [`measure`] holds the clock, [`report`] the table.
#![forbid(unsafe_code)]

mod data;
mod ephemeral;
mod local;
mod measure;
mod remote;
mod report;
mod size;

use crdt_live::Cluster;
use report::Line;

/// What a run was asked for.
pub struct Options {
    /// Measurements of each variant; their median counts.
    pub repeats: usize,
    /// Divides all sizes: 1 is the real thing, more is for trying the driver out.
    pub shrink: usize,
}

/// A server that all lines share, and how much to do on it.
pub struct Bench {
    pub cluster: Cluster,
    pub options: Options,
}

type Measurement = fn(&Bench) -> Vec<Line>;

const MEASUREMENTS: [(&str, Measurement); 13] = [
    ("bulk", local::bulk),
    ("single", local::single_row),
    ("four", local::four_statements),
    ("fsync", local::fsync_rate),
    ("push", remote::push),
    ("pull", remote::pull_everything),
    ("growth", remote::growth),
    ("size", size::log_size),
    ("memory", size::push_memory),
    ("registers", ephemeral::registers),
    ("listeners", ephemeral::listeners),
    ("latency", ephemeral::latency),
    ("many-keys", ephemeral::many_keys),
];

fn main() {
    let mut options = Options { repeats: 5, shrink: 1 };
    let mut write_to = None;
    let mut chosen = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| usage());
        match arg.as_str() {
            "--repeats" => options.repeats = number(),
            "--shrink" => options.shrink = number(),
            "--write" => write_to = Some(args.next().unwrap_or_else(|| usage())),
            name => chosen.push(MEASUREMENTS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| usage())),
        }
    }
    if chosen.is_empty() {
        chosen.extend(MEASUREMENTS.iter());
    }

    let machine = report::Machine::look();
    let bench = Bench { cluster: start_server(), options };
    let mut lines = Vec::new();
    for (name, measurement) in chosen {
        eprintln!("bench: {name}");
        for line in measurement(&bench) {
            eprintln!("  {}", line.summary());
            lines.push(line);
        }
    }
    let text = report::markdown(&machine, &bench, &lines);
    println!("{text}");
    if let Some(path) = write_to {
        report::write_into(&path, &text);
    }
}

fn usage() -> ! {
    let names: Vec<&str> = MEASUREMENTS.iter().map(|(name, _)| *name).collect();
    eprintln!("usage: scripts/bench [--repeats N] [--shrink N] [--write FILE] [NAME ...]\nNAME: {}", names.join(" "));
    std::process::exit(2);
}

// Nothing may happen by itself during a measurement; synchronous_commit is what the fsync line turns on again.
fn start_server() -> Cluster {
    Cluster::start(
        "bench",
        &[
            "--fsync",
            "synchronous_commit=off",
            "shared_buffers=1GB",
            "max_wal_size=16GB",
            "checkpoint_timeout=1d",
            "autovacuum=off",
            "jit=off",
            "max_parallel_workers_per_gather=0",
            "default_toast_compression=lz4",
            // One role fills it all here.
            "crdt_db.ephemeral_role_share=100",
        ],
    )
}
