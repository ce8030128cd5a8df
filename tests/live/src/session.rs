//! Sessions that run beside each other.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use postgres::{Client, Error};

type Job = Box<dyn FnOnce(&mut Client) + Send>;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A connection on a thread of its own: statements are handed to it in order, and the test goes on meanwhile.
pub struct Session {
    backend_pid: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Session {
    /// Takes over a connection.
    pub fn start(mut client: Client) -> Session {
        let backend_pid = client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0);
        let (jobs, queue) = channel::<Job>();
        let thread = std::thread::spawn(move || queue.into_iter().for_each(|job| job(&mut client)));
        Session { backend_pid, jobs: Some(jobs), thread: Some(thread) }
    }

    /// The server process behind this session.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Hands over work; its answer is fetched from what this returns.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Client) -> T + Send + 'static) -> Pending<T> {
        let (sender, receiver) = channel();
        let job: Job = Box::new(move |client| {
            // The test may have stopped waiting.
            let _ = sender.send(work(client));
        });
        self.jobs.as_ref().expect("a session that runs").send(job).expect("the session's thread");
        Pending { receiver }
    }

    /// Hands over statements without parameters.
    pub fn execute(&self, sql: &str) -> Pending<Result<(), Error>> {
        let sql = sql.to_owned();
        self.run(move |client| client.batch_execute(&sql))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let thread = self.thread.take().expect("a thread");
        // A test that failed may leave the session blocked by its own locks: do not wait for it.
        if !std::thread::panicking() {
            thread.join().expect("the session's thread");
        }
    }
}

/// Work that a [`Session`] was given.
pub struct Pending<T> {
    receiver: Receiver<T>,
}

impl<T> Pending<T> {
    /// Waits for the answer, at most [`PATIENCE`].
    pub fn wait(self) -> T {
        match self.receiver.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => panic!("no answer within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the session's work panicked"),
        }
    }

    /// The answer if it is there.
    pub fn poll(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}

/// Waits until a session waits for a lock. `observer` is any other connection to the cluster.
pub fn wait_until_blocked(observer: &mut Client, session: &Session) {
    wait_until("the session to be blocked", || {
        let query = "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)";
        observer.query_one(query, &[&session.backend_pid]).expect("pg_locks").get(0)
    });
}

/// Waits until something is so, looking every 5 ms; panics with `what` after [`PATIENCE`].
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
