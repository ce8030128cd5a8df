//! What else runs on a hub while events are pushed to it.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crdt_live::Cluster;
use postgres::Client;

use crate::hub::Hub;

/// An application with its own ideas about the table: plain SQL, one statement every few milliseconds.
pub struct Clerk {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Work>,
}

/// What a clerk did.
#[derive(Default)]
pub struct Work {
    /// Statements.
    pub statements: u64,
    /// Keys of all rows written.
    pub rows: BTreeSet<String>,
}

const PAUSE: Duration = Duration::from_millis(4);

impl Clerk {
    /// Starts on a connection of its own.
    pub fn start(cluster: &Cluster, hub: &Hub, seed: u64) -> Clerk {
        let (mut client, name) = (cluster.connect(&hub.database), hub.name);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut work, mut random) = (Work::default(), seed);
            while !stopped.load(Ordering::Relaxed) {
                // A linear congruential generator: the demo does the same in every run, as far as timing allows.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                one_statement(&mut client, name, random >> 33, &mut work);
                std::thread::sleep(PAUSE);
            }
            work
        });
        Clerk { stop, thread }
    }

    /// Ends, and tells what was done.
    pub fn stop(self) -> Work {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the clerk")
    }
}

fn one_statement(client: &mut Client, hub: &str, random: u64, work: &mut Work) {
    let some_row = "(SELECT row_key FROM offices ORDER BY md5(row_key || $1) LIMIT 1)";
    let salt = (random % 40).to_string();
    let rows = match random % 20 {
        0 => client.query(
            "INSERT INTO offices (row_key, city, phone) VALUES ($1, 'written by ' || $2, '555-0100') \
             ON CONFLICT (row_key) DO UPDATE SET hours = 'by appointment' RETURNING row_key",
            &[&format!("{hub}-{}", random % 10), &hub],
        ),
        1 => client.query(&format!("DELETE FROM offices WHERE row_key = {some_row} RETURNING row_key"), &[&salt]),
        2..8 => client.query(
            &format!("UPDATE offices SET phone = $2 WHERE row_key = {some_row} RETURNING row_key"),
            &[&salt, &format!("555-{:04} ({hub})", random % 10_000)],
        ),
        _ => client.query(
            &format!("UPDATE offices SET hours = $2, building = '' WHERE row_key = {some_row} RETURNING row_key"),
            &[&salt, &format!("{}-17 ({hub})", 7 + random % 4)],
        ),
    };
    let rows = rows.expect("a statement of the clerk");
    work.statements += 1;
    work.rows.extend(rows.iter().map(|row| row.get::<_, String>(0)));
}

/// pgbench on another tracked table of the hub, until it is stopped.
pub struct Load {
    child: Child,
    start: Instant,
}

/// The table it writes, with a doc of its own.
pub const VISITS: &str = "CREATE TABLE visits (office text, day date, n int, PRIMARY KEY (office, day))";

impl Load {
    /// Starts two clients.
    pub fn start(cluster: &Cluster, hub: &Hub) -> Load {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/visits.pgbench");
        let mut command = cluster.command("pgbench");
        command.args(["-n", "-c", "2", "-T", "3600", "-M", "prepared", "-f", script, &hub.database]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Load { child: child.expect("pgbench"), start: Instant::now() }
    }

    /// Ends it; how long it ran.
    pub fn stop(mut self) -> Duration {
        let time = self.start.elapsed();
        self.child.kill().expect("pgbench, which was running");
        self.child.wait().expect("pgbench's end");
        time
    }
}
