//! Programs that hurt crdt_db on a server of their own and check what must hold (docs/reliability.md). `scripts/proof`
//! runs them.
//!
//!     crdt_proof live     --seed S --seconds N --events N      clients with replicas and plain SQL, an oracle beside
//!     crdt_proof kill     --seed S --cycles N                  the same, and the server dies again and again
//!     crdt_proof hostile  --seed S --pushes N --clients N      malformed and malicious pushes
//!     crdt_proof values   --seed S --values N                  every base type from a hub to another and back
//!     crdt_proof ddl      --seed S --rounds N                  tables are altered beside writers, pushes and pulls
//!     crdt_proof long     --seed S --events N                  a long history: nothing lost, nothing dearer
//!
//! | module | holds |
//! |---|---|
//! | `args` | the command line |
//! | `client` | one client process: plain SQL, a replica, a reader, a courier to the second hub |
//! | `record` | what a client was told, in a file |
//! | `round` | client processes around one doc, and the invariants when they have ended |
//! | `live`, `kill`, `hostile`, `values`, `types`, `ddl`, `long` | the drivers |
#![forbid(unsafe_code)]

mod args;
mod client;
mod ddl;
mod hostile;
mod kill;
mod live;
mod long;
mod record;
mod round;
mod types;
mod values;

use args::Args;

/// What a driver came to: a line for people, or what is wrong.
type Outcome = Result<String, String>;

fn main() -> std::process::ExitCode {
    let (driver, args) = Args::read();
    let outcome = match driver.as_str() {
        "live" => live::run(&args),
        "kill" => kill::run(&args),
        "hostile" => hostile::run(&args),
        "values" => values::run(&args),
        "ddl" => ddl::run(&args),
        "long" => long::run(&args),
        // What `round` starts; not for people.
        "client" => client::run(&args).map(|()| String::new()),
        other => Err(format!("not a driver: {other:?} (there are: live kill hostile values ddl long)")),
    };
    match outcome {
        Ok(line) if line.is_empty() => std::process::ExitCode::SUCCESS,
        Ok(line) => {
            println!("ok - {driver}, seed {}: {line}", args.number("seed", 1));
            std::process::ExitCode::SUCCESS
        }
        Err(what) => {
            println!("not ok - {driver}, seed {}: {what}", args.number("seed", 1));
            std::process::ExitCode::FAILURE
        }
    }
}
