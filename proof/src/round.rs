//! Client processes around one doc, and the invariants when they have ended.
//!
//! I1 equal version vectors, equal content: hub, second hub, and every client's replica. I2 what was acknowledged is there,
//! once, as it was acknowledged. I4 `crdt.verify` finds nothing. I5 what a reader was given, page by page, is the log.
//! I6 no event has two contents. I7, the server's log, is the drivers' to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crdt_engine::replica::{Replica, Tables, Value};
use crdt_engine::testkit::{Ledger, Rng, oracle};
use crdt_engine::wire::{Batch, Versions};
use crdt_engine::{OpRef, ValueRef};
use crdt_live::Cluster;
use crdt_live::hub::{Nature, Place};
use postgres::Client;

use crate::client::{Kind, digest, versions_text};
use crate::record::{self, Told};

/// Everything: no page is larger.
const ALL: u64 = u32::MAX as u64;
/// How long client processes may take to end.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a round is made of.
pub struct Plan {
    /// What is written, and when, follows from it; what happens also follows from who comes first.
    pub seed: u64,
    /// The client processes.
    pub kinds: Vec<Kind>,
    /// What the first hub's table does on its own.
    pub nature: Nature,
    /// Whether there is a second hub, in another database.
    pub second: bool,
    /// How many keys.
    pub keys: usize,
    /// Milliseconds, at most, of a nap.
    pub pause: usize,
    /// The server may die.
    pub mortal: bool,
    /// Tables are altered meanwhile.
    pub shifting: bool,
}

/// What a round came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Events in the log.
    pub events: usize,
    /// Of them, events that were acknowledged to a pusher or given to a reader, and values whose commit was.
    pub acknowledged: usize,
}

/// A round that runs.
pub struct Round<'c> {
    cluster: &'c Cluster,
    plan: Plan,
    home: PathBuf,
    databases: Vec<String>,
    places: Vec<Place>,
    children: Vec<Child>,
}

impl<'c> Round<'c> {
    /// Makes the docs and starts the clients. `databases`: two with the extension in them.
    pub fn start(cluster: &'c Cluster, databases: &[String], plan: Plan) -> Round<'c> {
        let mut rng = Rng::new(plan.seed);
        let schema = format!("r{}", plan.seed);
        let natures = [plan.nature, *rng.pick(&[Nature::Plain, Nature::Other])];
        let places: Vec<Place> = (0..1 + usize::from(plan.second))
            .map(|hub| {
                let generic = !natures[hub].wants_s() && rng.chance(40);
                let mut client = cluster.connect(&databases[hub]);
                Place::make(&mut client, &schema, &format!("{}-{schema}", ["m", "Hub"][hub]), natures[hub], generic)
            })
            .collect();
        let home = std::env::temp_dir().join(format!("crdt_proof-{}-{}", std::process::id(), plan.seed));
        std::fs::create_dir_all(&home).expect("a directory for the clients");
        let mut round = Round { cluster, plan, home, databases: databases.to_vec(), places, children: vec![] };
        round.children = (0..round.plan.kinds.len()).map(|number| round.spawn(number)).collect();
        round
    }

    fn spawn(&self, number: usize) -> Child {
        let place = &self.places[0];
        let second = self.places.get(1).unwrap_or(place);
        let of_second = self.databases.get(1).unwrap_or(&self.databases[0]);
        let text = |number: &dyn std::fmt::Display| number.to_string();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg("client").stdin(Stdio::null());
        let (socket, port) = self.cluster.address();
        for (name, value) in [
            ("kind", self.plan.kinds[number].name().to_owned()),
            ("number", text(&number)),
            ("seed", text(&self.plan.seed)),
            ("home", self.home.display().to_string()),
            ("socket", socket.display().to_string()),
            ("port", text(&port)),
            ("database-one", self.databases[0].clone()),
            ("database-two", of_second.clone()),
            ("doc-one", text(&place.doc)),
            ("doc-two", text(&second.doc)),
            ("nature-one", format!("{:?}", place.nature())),
            ("nature-two", format!("{:?}", second.nature())),
            ("schema", place.schema.clone()),
            ("keys", text(&self.plan.keys)),
            ("pause", text(&self.plan.pause)),
        ] {
            command.arg(format!("--{name}")).arg(value);
        }
        for (flag, given) in [
            ("mortal", self.plan.mortal),
            ("shifting", self.plan.shifting),
            ("generic-one", place.generic),
            ("generic-two", second.generic),
        ] {
            if given {
                command.arg(format!("--{flag}")).arg("yes");
            }
        }
        command.spawn().expect("a client process")
    }

    /// Where the first hub is found.
    pub fn place(&self) -> &Place {
        &self.places[0]
    }

    /// How many events the first hub has; `None` while it does not answer.
    pub fn events(&self) -> Option<u64> {
        let mut client = self.cluster.config(&self.databases[0]).connect(postgres::NoTls).ok()?;
        let sql = "SELECT events FROM crdt.docs WHERE doc = $1";
        Some(client.query_one(sql, &[&self.places[0].doc]).ok()?.get::<_, i64>(0) as u64)
    }

    /// Lets the clients end, and checks everything. The server must be up.
    pub fn end(mut self) -> Result<Sum, String> {
        self.signal("stop");
        self.wait_for_clients()?;
        let mut client = self.cluster.connect(&self.databases[0]);
        let courier = self.join_hubs()?;
        self.signal("settled");
        for child in &mut self.children {
            child.wait().expect("a child");
        }
        let log = pull_all(&mut client, &self.places[0])?;
        let right = self.check_hubs(&log, courier.as_ref())?;
        let sum = self.check_clients(&log, right)?;
        for (place, database) in self.places.iter().zip(&self.databases) {
            place.drop(&mut self.cluster.connect(database));
        }
        let _ = std::fs::remove_dir_all(&self.home);
        Ok(sum)
    }

    fn signal(&self, file: &str) {
        std::fs::write(self.home.join(file), "").expect("a file in the round's directory");
    }

    fn wait_for_clients(&mut self) -> Result<(), String> {
        let start = Instant::now();
        for number in 0..self.children.len() {
            while !self.home.join(format!("done-{number}")).exists() {
                if let Some(status) = self.children[number].try_wait().expect("a child") {
                    return Err(format!("client {number} ended with {status}"));
                }
                if start.elapsed() > PATIENCE {
                    return Err(format!("client {number} ({}) did not end", self.plan.kinds[number].name()));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// Carries events to and fro until both hubs know the same.
    fn join_hubs(&self) -> Result<Option<Replica>, String> {
        if self.places.len() < 2 {
            return Ok(None);
        }
        let mut clients: Vec<Client> = self.databases.iter().map(|database| self.cluster.connect(database)).collect();
        let mut replica = Replica::new("last-courier");
        for _ in 0..20 {
            let mut same = vec![];
            for (client, place) in clients.iter_mut().zip(&self.places) {
                let known = place.versions(client);
                let batch = replica.pull(&known, usize::MAX).map_err(|error| error.to_string())?.batch;
                if !batch.runs.is_empty() {
                    place.push(client, batch, true).map_err(|refusal| format!("between the hubs: {refusal:?}"))?;
                }
                let page = place.pull(client, &replica.versions(), ALL, true).map_err(|r| format!("{r:?}"))?;
                replica.pull_in(page.batch).map_err(|error| format!("between the hubs: {error}"))?;
                same.push(place.versions(client));
            }
            if same[0] == same[1] && same[0] == replica.versions() {
                return Ok(Some(replica));
            }
        }
        Err("the two hubs do not come to know the same".to_owned())
    }

    /// I1 and I4 for the hubs, and what they must show.
    fn check_hubs(&self, log: &Batch, courier: Option<&Replica>) -> Result<(String, u64), String> {
        let rebuilt = oracle::log_of(log.clone())?;
        let right = oracle::tables_of(&rebuilt);
        let mut rng = Rng::new(self.plan.seed);
        for (hub, (place, database)) in self.places.iter().zip(&self.databases).enumerate() {
            let mut client = self.cluster.connect(database);
            place.check(&mut client, &mut rng).map_err(|what| format!("I4/I5, hub {hub}: {what}"))?;
            if place.versions(&mut client) != rebuilt.versions() {
                return Err(format!("hub {hub} does not hand out what it knows"));
            }
            let shown = oracle::visible(&place.rows(&mut client));
            let mut meant = oracle::visible(&right);
            if self.plan.shifting {
                place.keep_own(&mut meant);
                numbers_only(&mut meant);
            }
            if shown != meant {
                return Err(format!("I1: hub {hub} shows {shown:?}, the log stands for {meant:?}"));
            }
        }
        match courier.is_some_and(|courier| digest(courier.tables()) != digest(&right)) {
            true => Err("I1: the courier between the hubs shows something else".to_owned()),
            false => Ok((versions_text(&rebuilt.versions()), digest(&right))),
        }
    }

    /// I1 for the clients' replicas, I2, I5 and I6.
    fn check_clients(&self, log: &Batch, right: (String, u64)) -> Result<Sum, String> {
        let (mut ledger, mut committed) = (Ledger::new(), vec![]);
        for number in 0..self.children.len() {
            let kind = self.plan.kinds[number];
            let mut given = Ledger::new();
            let mut shown = None;
            for told in record::read(&self.home.join(format!("told-{number}"))) {
                match told {
                    Told::Kept(batch) => {
                        ledger.keep(&batch)?;
                        given.keep(&batch)?;
                    }
                    Told::Committed(value) => committed.push(value),
                    Told::Shown(versions, digest) => shown = Some((versions, digest)),
                    Told::Failed(what) => return Err(what),
                }
            }
            if matches!(kind, Kind::Replica | Kind::Reader | Kind::Courier) && shown.as_ref() != Some(&right) {
                return Err(format!("I1: client {number} ({}) ends with {shown:?}, right is {right:?}", kind.name()));
            }
            // A reader writes nothing: the union of what it was given is the log.
            let events = oracle::fingerprint(log).1;
            if kind == Kind::Reader && given.len() != events {
                return Err(format!("I5: client {number} was given {} of {events} events", given.len()));
            }
        }
        ledger.check(log)?;
        let logged = values(log);
        if let Some(lost) = committed.iter().find(|value| !logged.contains(value)) {
            return Err(format!("I2: the write of {lost} was committed and is not in the log"));
        }
        let events = oracle::fingerprint(log).1;
        Ok(Sum { events, acknowledged: ledger.len() + committed.len() })
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        // After a failure clients may still run. They are ours.
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn pull_all(client: &mut Client, place: &Place) -> Result<Batch, String> {
    Ok(place.pull(client, &Versions::new(), ALL, true).map_err(|refusal| format!("{refusal:?}"))?.batch)
}

/// Columns of numbers were of other types for a while, and the log has those spellings.
fn numbers_only(tables: &mut Tables) {
    for (col, value) in tables.values_mut().flat_map(BTreeMap::values_mut).flatten() {
        if let Value::Text(text) = value
            && !["p", "q"].contains(&&**col)
            && let Ok(number) = text.parse()
        {
            *value = Value::Int(number);
        }
    }
}

/// Every value that some event writes into `y`.
fn values(log: &Batch) -> BTreeSet<i64> {
    let int = |value: ValueRef<'_>| match value {
        ValueRef::Int(number) => Some(number),
        ValueRef::Text(text) => text.parse().ok(),
        _ => None,
    };
    log.ops
        .iter()
        .flat_map(|op| match op {
            OpRef::Insert { cells, .. } => {
                cells.iter().filter(|(col, _)| *col == "y").filter_map(|(_, v)| int(v)).collect()
            }
            OpRef::Update { col: "y", value, .. } => int(value).into_iter().collect::<Vec<_>>(),
            _ => vec![],
        })
        .collect()
}

/// Lines of a server's log that tell of a crash nobody injected (I7). `killed`: processes that were.
pub fn strange_crashes(cluster: &Cluster, killed: &BTreeSet<i32>) -> Vec<String> {
    let ours = |line: &str| {
        let told = line.split_once("(PID ").and_then(|(_, rest)| rest.split_once(')'));
        let pid = told.and_then(|(pid, _)| pid.parse().ok());
        line.contains("crash of another server process") && !killed.is_empty()
            || pid.is_some_and(|pid: i32| killed.contains(&pid)) && line.contains("terminated by signal 9")
    };
    cluster.crashes().into_iter().filter(|line| !ours(line)).collect()
}

/// Removes what rounds of this process left in the directory of temporary files.
pub fn sweep() {
    let prefix = format!("crdt_proof-{}-", std::process::id());
    let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
            let _ = std::fs::remove_dir_all(Path::new(&path));
        }
    }
}
