//! How far the long functions are: a line each in shared memory, for the view `crdt.progress`.

use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64};

use pgrx::pg_sys::Oid;

use crate::error::Result;
use crate::pg;
use crate::pg::function::{Args, Col, Out, Rows};
use crate::pg::shmem::{self, Open};

/// Functions that can be watched at once; one more runs unseen.
const LINES: usize = 64;

/// What is being done.
#[derive(Clone, Copy)]
pub enum Task {
    Track,
    Verify,
    Repair,
    Partition,
}

/// Where it is.
#[derive(Clone, Copy)]
pub enum Step {
    Waiting,
    ReadingTable,
    ReadingLog,
    Comparing,
}

const TASKS: [&str; 4] = ["crdt.track", "crdt.verify", "crdt.repair", "a partition joins or leaves"];
const STEPS: [&str; 4] = ["waiting for the table", "reading the table", "reading the log", "comparing"];

/// A function that is running. Of a line that was just taken, who reads may see what its former holder left.
struct Line {
    /// 0: none.
    pid: AtomicI32,
    database: AtomicU32,
    table: AtomicU32,
    task: AtomicU32,
    step: AtomicU32,
    done: AtomicU64,
    /// 0: not known.
    expected: AtomicU64,
    started_at: AtomicI64,
}

struct Block([Line; LINES]);

shmem::plain!(Block);

static BLOCK: Open<Block> = Open::new(c"crdt_db progress");

/// Asks for the memory, before the server starts.
pub fn request() {
    BLOCK.request();
}

/// Makes it at server start.
pub fn startup() {
    BLOCK.startup(|_| ());
}

/// A line of this process, until it is dropped.
pub struct Progress(Option<&'static Line>);

impl Progress {
    /// Takes a line, if there is one that nobody has, or whose process is gone.
    pub fn begin(task: Task, table: Oid) -> Progress {
        let pid = pg::process_id();
        let free = |line: &&Line| {
            let held = line.pid.load(Relaxed);
            (held == 0 || !pg::is_backend(held)) && line.pid.compare_exchange(held, pid, AcqRel, Relaxed).is_ok()
        };
        let line = BLOCK.get().and_then(|block| block.0.iter().find(free));
        if let Some(line) = line {
            line.database.store(pg::database(), Relaxed);
            line.table.store(table.to_u32(), Relaxed);
            line.task.store(task as u32, Relaxed);
            line.started_at.store(pg::now_micros() - pg::FROM_1970_TO_2000, Relaxed);
        }
        let progress = Progress(line);
        progress.step(Step::Waiting, None);
        progress
    }

    /// The next step begins, which has so much to do, if that is known.
    pub fn step(&self, step: Step, expected: Option<u64>) {
        if let Some(line) = self.0 {
            line.done.store(0, Relaxed);
            line.expected.store(expected.unwrap_or(0), Relaxed);
            line.step.store(step as u32, Relaxed);
        }
    }

    /// So much more of the step has been done.
    #[inline]
    pub fn add(&self, done: u64) {
        if let Some(line) = self.0 {
            line.done.fetch_add(done, Relaxed);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(line) = self.0 {
            line.pid.store(0, Relaxed);
        }
    }
}

/// `crdt.progress_entries()`
pub fn entries(args: &Args<'_>) -> Result<Out> {
    let mut rows = Rows::new(args)?;
    for line in BLOCK.get().into_iter().flat_map(|block| &block.0) {
        let pid = line.pid.load(Relaxed);
        if pid == 0 || line.database.load(Relaxed) != pg::database() || !pg::is_backend(pid) {
            continue;
        }
        let name = |names: &[&'static str], at: &AtomicU32| names.get(at.load(Relaxed) as usize).copied().unwrap_or("");
        let expected = line.expected.load(Relaxed);
        rows.push(&[
            Col::I64(pid.into()),
            Col::Text(name(&TASKS, &line.task)),
            Col::I64(line.table.load(Relaxed).into()),
            Col::Text(name(&STEPS, &line.step)),
            Col::I64(line.done.load(Relaxed) as i64),
            if expected == 0 { Col::Null } else { Col::I64(expected as i64) },
            Col::Time(line.started_at.load(Relaxed)),
        ]);
    }
    Ok(Out::Null)
}
