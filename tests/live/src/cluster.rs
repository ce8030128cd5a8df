//! A PostgreSQL server of one's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, Config, NoTls};

use crate::session::Session;

/// A scratch cluster with the extension preloaded. Dropping it stops the server and removes its data.
pub struct Cluster {
    name: String,
    socket_dir: PathBuf,
    port: u16,
    data: PathBuf,
    log: PathBuf,
    bin: PathBuf,
    include: PathBuf,
}

impl Cluster {
    /// A new cluster. `settings` are `name=value`, or options of `scripts/cluster start` such as `--fsync`.
    pub fn start(name: &str, settings: &[&str]) -> Cluster {
        let name = unique(name);
        script(&[&["start", &name], settings].concat());
        Cluster::found(name)
    }

    /// A second cluster from this one's data, not started: a base backup while this one runs, else its files as they
    /// are. Start it with [`Cluster::start_again`].
    pub fn copy(&self, name: &str) -> Cluster {
        let name = unique(name);
        script(&["copy", &self.name, &name]);
        Cluster::found(name)
    }

    fn found(name: String) -> Cluster {
        let env = script(&["env", &name]);
        let value = |key| shell_value(&env, key);
        Cluster {
            socket_dir: value("PGHOST").into(),
            port: value("PGPORT").parse().expect("a port"),
            data: value("CRDT_DATA").into(),
            log: value("CRDT_LOG").into(),
            bin: value("CRDT_BIN").into(),
            include: value("CRDT_INCLUDE").into(),
            name,
        }
    }

    /// The one cluster that the tests of a binary share, for those that neither restart nor crash it. It outlives the
    /// tests; `scripts/live` removes it.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        // Each database in which somebody listens has a worker, also for a while afterwards.
        SHARED.get_or_init(|| Cluster::start("shared", &["max_worker_processes=60"]))
    }

    /// A database with the extension in it, new on every call. Answers its name.
    pub fn create_database(&self, prefix: &str) -> String {
        let name = self.create_plain_database(prefix);
        self.connect(&name).batch_execute("CREATE EXTENSION crdt_db").expect("CREATE EXTENSION crdt_db");
        name
    }

    /// A database without the extension, new on every call.
    pub fn create_plain_database(&self, prefix: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.connect("postgres")
            .batch_execute(&format!("CREATE DATABASE \"{name}\" TEMPLATE template0"))
            .expect("CREATE DATABASE");
        name
    }

    /// How to connect as the superuser `postgres`; change it for other roles and options.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.socket_dir).port(self.port).user("postgres").dbname(database);
        config
    }

    /// A connection as the superuser.
    pub fn connect(&self, database: &str) -> Client {
        self.config(database).connect(NoTls).expect("connection to the scratch cluster")
    }

    /// A connection as another role, which must exist.
    pub fn connect_as(&self, database: &str, role: &str) -> Client {
        self.config(database).user(role).connect(NoTls).expect("connection to the scratch cluster")
    }

    /// A connection on a thread of its own, as the superuser.
    pub fn session(&self, database: &str) -> Session {
        Session::start(self.connect(database))
    }

    /// Runs one of the server's programs against this cluster (pg_dump, pgbench, psql) and answers what it printed.
    /// Panics when it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let mut command = self.command(program);
        command.args(args);
        output_of(command)
    }

    /// One of the server's programs, told where this cluster is.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env("PGHOST", &self.socket_dir).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command
    }

    /// Compiles a C file of this package into a library that the server can load, and answers its path.
    pub fn compile(&self, source: &str) -> PathBuf {
        let library = self.data.join(source).with_extension("so");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-Wall", "-I"]).arg(&self.include).arg("-o").arg(&library);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(source));
        output_of(command);
        library
    }

    /// Stops the server as an administrator would, and starts it again.
    pub fn restart(&self) {
        script(&["restart", &self.name]);
    }

    /// Stops the server without a checkpoint, and starts it again: recovery runs.
    pub fn restart_immediately(&self) {
        script(&["restart", &self.name, "--mode", "immediate"]);
    }

    /// `kill -9` of the postmaster; everything it started is gone when this returns.
    pub fn crash(&self) {
        script(&["crash", &self.name]);
    }

    /// Starts the server again after [`Cluster::crash`] or [`Cluster::halt`]. `settings` are added to earlier ones.
    pub fn start_again(&self, settings: &[&str]) {
        script(&[&["start", &self.name], settings].concat());
    }

    /// Stops the server and keeps its data.
    pub fn halt(&self) {
        script(&["stop", &self.name, "--keep"]);
    }

    /// Where it listens: the directory of its socket, and the port.
    pub fn address(&self) -> (&Path, u16) {
        (&self.socket_dir, self.port)
    }

    /// What a standby of this cluster says in `primary_conninfo`.
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres", self.socket_dir.display(), self.port)
    }

    /// The data directory, readable by the server's user (and by root).
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).expect("the server's log")).into_owned()
    }

    /// Lines of the log that tell of a crash: a signal, a PANIC, a failed assertion. A crash that the test injected is in
    /// here too.
    pub fn crashes(&self) -> Vec<String> {
        const SIGNS: [&str; 4] = ["PANIC:", "was terminated by signal", "TRAP:", "crash of another server process"];
        self.log().lines().filter(|line| SIGNS.iter().any(|sign| line.contains(sign))).map(str::to_owned).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- end of the log of cluster {}", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        script(&["stop", &self.name, "--mode", "immediate"]);
    }
}

fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn script(args: &[&str]) -> String {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/cluster"));
    command.args(args);
    output_of(command)
}

// Through files: a server that inherits a pipe would keep it open, and the reader waiting, as long as it runs.
fn output_of(mut command: Command) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let path = std::env::temp_dir().join(format!(
        "crdt_live-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    ));
    let file = std::fs::File::create(&path).expect("a temporary file");
    let status = command
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone().expect("a second handle"))
        .stderr(file)
        .status()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let output = String::from_utf8_lossy(&std::fs::read(&path).expect("the output")).into_owned();
    let _ = std::fs::remove_file(&path);
    assert!(status.success(), "{command:?} failed with {status}:\n{output}");
    output
}

fn shell_value(env: &str, key: &str) -> String {
    env.lines()
        .find_map(|line| line.strip_prefix("export ")?.strip_prefix(key)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("scripts/cluster env does not name {key}:\n{env}"))
        .trim_matches('\'')
        .to_owned()
}
