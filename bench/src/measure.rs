//! The clock: wall time, and CPU time of the server's processes.

use std::time::{Duration, Instant};

use crdt_live::Cluster;
use crdt_live::resource::cpu_seconds;
use crdt_live::session::wait_until;
use postgres::Client;

/// What one piece of work cost.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub wall: f64,
    pub cpu: f64,
}

/// Costs of two variants measured in turns.
#[derive(Default)]
pub struct Pair {
    pub ours: Vec<Cost>,
    pub reference: Vec<Cost>,
}

impl Pair {
    /// Adds one measurement.
    pub fn push(&mut self, ours: bool, cost: Cost) {
        if ours { self.ours.push(cost) } else { self.reference.push(cost) }
    }

    /// Ratio of the medians of CPU time.
    pub fn cpu_ratio(&self) -> f64 {
        median(self.ours.iter().map(|c| c.cpu)) / median(self.reference.iter().map(|c| c.cpu))
    }

    /// Ratio of the medians of wall time.
    pub fn wall_ratio(&self) -> f64 {
        median(self.ours.iter().map(|c| c.wall)) / median(self.reference.iter().map(|c| c.wall))
    }

    /// Medians of both for people.
    pub fn detail(&self) -> String {
        let ms = |costs: &[Cost]| 1000.0 * median(costs.iter().map(|c| c.cpu));
        format!("CPU {:.3} ms against {:.3} ms, wall {:.2}x", ms(&self.ours), ms(&self.reference), self.wall_ratio())
    }
}

/// The middle one; the mean of the two middle ones of an even number.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    assert!(!sorted.is_empty(), "nothing was measured");
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Who is measured when: `(round, ours)`, each round beginning with the other variant.
pub fn turns(repeats: usize) -> impl Iterator<Item = (usize, bool)> {
    (0..repeats).flat_map(|round| [(round, round % 2 == 1), (round, round % 2 == 0)])
}

/// The process id of the backend behind a connection.
pub fn backend_pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).expect("pg_backend_pid").get(0)
}

/// What `work` costs the backend behind `client`.
pub fn backend_cost<T>(client: &mut Client, work: impl FnOnce(&mut Client) -> T) -> (Cost, T) {
    let pid = backend_pid(client);
    let before = cpu_seconds(pid);
    let start = Instant::now();
    let answer = work(client);
    let wall = start.elapsed().as_secs_f64();
    (Cost { wall, cpu: cpu_seconds(pid) - before }, answer)
}

/// What `work` costs all backends it starts, which must be gone when it returns (pgbench). `others` sessions stay, the one
/// that is made here among them.
pub fn children_cost<T>(cluster: &Cluster, others: usize, work: impl FnOnce() -> T) -> (Cost, T) {
    let mut observer = cluster.connect("postgres");
    let postmaster: i32 = parent_of(backend_pid(&mut observer));
    let before = reaped_children_cpu(postmaster);
    let start = Instant::now();
    let answer = work();
    let wall = start.elapsed().as_secs_f64();
    wait_until("the backends to end", || {
        let query = "SELECT count(*) <= $1 FROM pg_stat_activity WHERE backend_type = 'client backend'";
        observer.query_one(query, &[&(others as i64)]).expect("pg_stat_activity").get(0)
    });
    // A backend leaves pg_stat_activity a moment before the postmaster has reaped it.
    std::thread::sleep(Duration::from_millis(100));
    (Cost { wall, cpu: reaped_children_cpu(postmaster) - before }, answer)
}

/// The largest private memory of the backend behind `client` above what it had before, in bytes, while `work` runs.
pub fn peak_memory<T>(client: &mut Client, work: impl FnOnce(&mut Client) -> T) -> (u64, T) {
    let pid = backend_pid(client);
    let before = private_memory(pid);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peak = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(private_memory(pid));
                std::thread::sleep(Duration::from_millis(1));
            }
            peak
        });
        let answer = work(client);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (sampler.join().expect("the sampler").saturating_sub(before), answer)
    })
}

fn stat_fields(pid: i32) -> Vec<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc/PID/stat");
    let (_, after_name) = text.rsplit_once(") ").expect("a process name");
    // The first field after the name is the state, a letter.
    after_name.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect()
}

fn parent_of(pid: i32) -> i32 {
    stat_fields(pid)[0] as i32
}

// cutime and cstime, in hundredths of a second on every Linux.
fn reaped_children_cpu(pid: i32) -> f64 {
    let fields = stat_fields(pid);
    (fields[12] + fields[13]) as f64 / 100.0
}

fn private_memory(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc/PID/status");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB")
}
