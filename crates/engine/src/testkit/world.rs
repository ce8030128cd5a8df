//! Replicas, the network between them, and one random schedule.

use super::backend::{Backend, Refusal, Will, Write, memory};
use super::{Ledger, Rng, oracle, transport};
use crate::id::EventId;
use crate::replica::Tables;
use crate::wire::{Batch, Versions};

/// Everything: no page is larger.
pub(super) const ALL: usize = usize::MAX;

/// What happened in schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stats {
    pub schedules: usize,
    pub events: usize,
    pub exchanges: usize,
    pub refused_early: usize,
    pub clones_refused: usize,
    pub crashes: usize,
    pub restored: usize,
    pub hostile_accepted: usize,
    pub hostile_refused: usize,
    pub clocks_refused: usize,
    pub rows_merged: usize,
    pub rows_by_history: usize,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.events += other.events;
        self.exchanges += other.exchanges;
        self.refused_early += other.refused_early;
        self.clones_refused += other.clones_refused;
        self.crashes += other.crashes;
        self.restored += other.restored;
        self.hostile_accepted += other.hostile_accepted;
        self.hostile_refused += other.hostile_refused;
        self.clocks_refused += other.clocks_refused;
        self.rows_merged += other.rows_merged;
        self.rows_by_history += other.rows_by_history;
    }
}

/// Replicas and what is on its way between them.
pub struct World {
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Box<dyn Backend>>,
    /// Which side of the partition each is on.
    sides: Vec<bool>,
    /// Sent and not delivered: to whom, whether by a hub, what.
    pub(super) in_flight: Vec<(usize, bool, Batch)>,
    /// So that every write is recognised.
    written: i64,
    /// What was acknowledged.
    pub(super) ledger: Ledger,
    /// Copies of replicas as they once were.
    pub(super) backups: Vec<(usize, Box<dyn Backend>)>,
    /// Under how many names replicas have gone on.
    pub(super) names: usize,
    /// Who attacks node 0, and whether clocks can no longer be trusted.
    pub(super) mallory: String,
    pub(super) poisoned: bool,
    /// What happened.
    pub stats: Stats,
}

/// The outcome of a step: an error is a bug.
pub(super) type Step = Result<(), String>;

impl World {
    /// 2 to 8 replicas in memory, up to two of them hubs.
    pub fn in_memory(mut rng: Rng) -> Self {
        let clients = 1 + rng.below(6);
        let hubs = usize::from(clients < 2 || rng.chance(85)) + usize::from(rng.chance(25));
        let mut nodes: Vec<Box<dyn Backend>> = vec![];
        for (hub, peer) in ["hub:0", "hub:1"].iter().enumerate().take(hubs) {
            nodes.push(memory(peer, Will::Hub(1 + hub as i64)));
        }
        for peer in ["a", "b", "ab", "é", "B", "zz"].iter().take(clients) {
            nodes.push(memory(peer, Will::None));
        }
        Self::of(rng, nodes)
    }

    /// These replicas. They must be empty, and have different peers.
    pub fn of(rng: Rng, nodes: Vec<Box<dyn Backend>>) -> Self {
        let sides = vec![false; nodes.len()];
        World {
            rng,
            nodes,
            sides,
            in_flight: vec![],
            written: 0,
            ledger: Ledger::new(),
            backups: vec![],
            names: 0,
            mallory: "mallory".to_owned(),
            poisoned: false,
            stats: Stats::default(),
        }
    }

    /// Random steps, then everybody meets, then all must be equal and right.
    pub fn run(&mut self) -> Step {
        for _ in 0..8 + self.rng.below(30) {
            self.step()?;
        }
        self.heal()?;
        self.check_final()?;
        self.stats.schedules += 1;
        for node in &self.nodes {
            let (rows, by_history) = node.merged();
            self.stats.rows_merged += rows;
            self.stats.rows_by_history += by_history;
        }
        Ok(())
    }

    fn step(&mut self) -> Step {
        match self.rng.below(100) {
            0..44 => self.write(),
            44..78 => self.exchange_any(),
            78..84 => self.send(),
            84..90 => self.deliver(),
            90..94 => {
                self.sides = self.sides.iter().map(|_| self.rng.chance(50)).collect();
                Ok(())
            }
            94..96 => self.clone_refused(),
            96 => self.crash(),
            97 => self.back_up_or_restore(),
            98 => self.attack(),
            _ => {
                let node = self.rng.below(self.nodes.len());
                self.check_node(node)
            }
        }
    }

    fn write(&mut self) -> Step {
        let node = self.rng.below(self.nodes.len());
        let writes: Vec<Write> = (0..1 + self.rng.below(3)).map(|_| self.random_write()).collect();
        self.nodes[node].write(&writes).map_err(|refusal| format!("node {node} refused a local write: {refusal:?}"))
    }

    pub(super) fn random_write(&mut self) -> Write {
        let tbl = if self.rng.chance(80) { "t" } else { "s" };
        let row = *self.rng.pick(&["1", "1", "2"]);
        self.written += 10;
        let value = self.written;
        match self.rng.below(10) {
            0..4 => {
                let cols = ["x", "y", "d", "u"].into_iter().enumerate();
                let cells = cols.filter(|_| self.rng.chance(35)).map(|(i, col)| (col, value + i as i64)).collect();
                Write::Insert(tbl, row, cells)
            }
            4..6 => Write::Delete(tbl, row),
            _ => Write::Update(tbl, row, self.rng.pick::<&str>(&["x", "y", "d", "u"]), value),
        }
    }

    /// Two that can reach each other; `None` when the pick is one and the same, or the partition is between.
    fn pick_two(&mut self) -> Option<(usize, usize)> {
        let (from, to) = (self.rng.below(self.nodes.len()), self.rng.below(self.nodes.len()));
        (from != to && self.sides[from] == self.sides[to]).then_some((from, to))
    }

    fn exchange_any(&mut self) -> Step {
        let Some((from, to)) = self.pick_two() else { return Ok(()) };
        let limit = if self.rng.chance(40) { 1 + self.rng.below(6) } else { ALL };
        self.exchange(from, to, limit).map(drop)
    }

    /// `to` takes a page from `from` above what it knows, or a little less: the rest must be told apart as known. It must
    /// be accepted. Returns whether there is more.
    pub(super) fn exchange(&mut self, from: usize, to: usize, limit: usize) -> Result<bool, String> {
        let (told, mut known) = (self.nodes[from].versions(), self.nodes[to].versions());
        if self.rng.chance(25) {
            self.forget(&mut known);
        } else if told == known {
            return Ok(false);
        }
        let page = self.nodes[from].pull(&known, limit).map_err(|r| format!("node {from} refused a pull: {r:?}"))?;
        let batch = if self.rng.chance(40) { transport::recut(page.batch, &mut self.rng) } else { page.batch };
        let batch = match self.rng.chance(4) {
            true => transport::encode(batch, &mut self.rng).map_err(|e| format!("the wire failed: {e}"))?,
            false => batch,
        };
        let again = self.rng.chance(15).then(|| batch.clone());
        let from_hub = self.nodes[from].is_hub();
        self.stats.exchanges += 1;
        let failed = |r: Refusal| format!("node {to} refused a fresh page from node {from}: {r:?}");
        let noted = batch.clone();
        let first = match self.nodes[to].push(batch, from_hub) {
            Err(Refusal::Ahead(_)) if self.poisoned => return self.merged_by_hand(to, noted, page.has_more),
            other => other.map_err(failed)?,
        };
        self.ledger.keep(&noted)?;
        if let Some(batch) = again {
            let second = self.nodes[to].push(batch, from_hub).map_err(failed)?;
            if second.accepted != 0 || second.duplicate != first.accepted + first.duplicate {
                return Err(format!("node {to} took {first:?}, and the same again as {second:?}"));
            }
        }
        let knows = self.nodes[to].versions();
        let lacks = told.iter().any(|(peer, counter)| knows.get(peer).is_none_or(|known| known < counter));
        match lacks && !page.has_more {
            true => Err(format!("node {from} said there is no more, and node {to} lacks something")),
            false => Ok(page.has_more),
        }
    }

    /// Lowers some counters of a version vector.
    fn forget(&mut self, known: &mut Versions) {
        known.retain(|_, counter| {
            if self.rng.chance(50) {
                return true;
            }
            let back = self.rng.below(4) as u64;
            *counter = counter.saturating_sub(back);
            back < 3
        });
    }

    /// Pages are sent, and arrive some time, in any order, twice, or never.
    fn send(&mut self) -> Step {
        let Some((from, to)) = self.pick_two() else { return Ok(()) };
        let mut known = self.nodes[to].versions();
        self.forget(&mut known);
        let limit = 1 + self.rng.below(10);
        for _ in 0..3 {
            let page =
                self.nodes[from].pull(&known, limit).map_err(|r| format!("node {from} refused a pull: {r:?}"))?;
            for run in &page.batch.runs {
                known.insert(run.peer.clone(), run.counter_start + run.span(&page.batch.ops) - 1);
            }
            let batch = transport::recut(page.batch, &mut self.rng);
            self.in_flight.push((to, self.nodes[from].is_hub(), batch));
            if !page.has_more {
                break;
            }
        }
        Ok(())
    }

    fn deliver(&mut self) -> Step {
        if self.in_flight.is_empty() {
            return Ok(());
        }
        let at = self.rng.below(self.in_flight.len());
        let (to, from_hub, batch) = match self.rng.chance(50) {
            true => self.in_flight.swap_remove(at),
            false => self.in_flight[at].clone(),
        };
        let before = self.state(to);
        let noted = batch.clone();
        match self.nodes[to].push(batch, from_hub) {
            Ok(_) => self.ledger.keep(&noted),
            Err(Refusal::Ahead(_)) if self.poisoned && before == self.state(to) => {
                self.stats.clocks_refused += 1;
                Ok(())
            }
            Err(Refusal::Missing(_)) if before == self.state(to) => {
                self.stats.refused_early += 1;
                Ok(())
            }
            Err(Refusal::Missing(_)) => Err(format!("node {to} refused a batch and changed")),
            Err(refusal) => Err(format!("node {to} refused a late batch: {refusal:?}")),
        }
    }

    /// A copy of a replica goes on under the same name: whoever knows the original's events refuses the copy's.
    fn clone_refused(&mut self) -> Step {
        let Some((original, witness)) = self.pick_two() else { return Ok(()) };
        if self.nodes[original].is_hub() {
            return Ok(());
        }
        let Some(mut clone) = self.nodes[original].fork() else { return Ok(()) };
        let (one, two) = (self.random_write(), self.random_write());
        for (node, write) in [(&mut self.nodes[original], one), (&mut clone, two)] {
            node.write(&[write, Write::Update("t", "1", "y", self.written)]).map_err(|r| format!("{r:?}"))?;
            self.written += 10;
        }
        while self.exchange(original, witness, ALL)? {}
        let all = clone.pull(&Versions::new(), ALL).map_err(|r| format!("{r:?}"))?.batch;
        let before = self.state(witness);
        match self.nodes[witness].push(transport::recut(all, &mut self.rng), false) {
            Err(Refusal::Equivocation(known, got)) if known != got => self.stats.clones_refused += 1,
            other => return Err(format!("node {witness} on a clone of node {original}: {other:?}")),
        }
        match before == self.state(witness) {
            true => Ok(()),
            false => Err(format!("node {witness} refused a clone and changed")),
        }
    }

    /// The partition ends; all tell the first and it tells all, until nobody learns anything.
    fn heal(&mut self) -> Step {
        self.sides.fill(false);
        for _ in 0..6 {
            for other in 1..self.nodes.len() {
                self.tell_all(other, 0)?;
            }
            for other in 1..self.nodes.len() {
                self.tell_all(0, other)?;
            }
            let first = self.nodes[0].versions();
            if self.nodes.iter_mut().all(|node| node.versions() == first) {
                return Ok(());
            }
        }
        Err("the replicas do not come to know the same".to_string())
    }

    /// Page by page until `from` says that there is no more.
    fn tell_all(&mut self, from: usize, to: usize) -> Step {
        let limit = if self.rng.chance(30) { 1 + self.rng.below(9) } else { ALL };
        while self.exchange(from, to, limit)? {}
        Ok(())
    }

    /// A replica shows what its own log stands for. Its log is rebuilt from what it hands out.
    pub(super) fn check_node(&mut self, node: usize) -> Step {
        self.nodes[node].check().map_err(|what| format!("node {node}: {what}"))?;
        let log = oracle::log_of(self.everything(node)?).map_err(|error| format!("node {node}: {error}"))?;
        if log.versions() != self.nodes[node].versions() {
            return Err(format!("node {node} does not hand out what it knows"));
        }
        let (shown, right) = (self.rows(node), oracle::visible(&oracle::tables_of(&log)));
        if shown != right {
            return Err(format!("node {node} shows {shown:?}, its log stands for {right:?}"));
        }
        let other = self.rng.below(self.nodes.len());
        match self.nodes[other].versions() == self.nodes[node].versions() && self.rows(other) != shown {
            true => Err(format!("nodes {node} and {other} know the same and show {shown:?}, {:?}", self.rows(other))),
            false => Ok(()),
        }
    }

    /// What must be as before when something was refused.
    pub(super) fn state(&mut self, node: usize) -> (Versions, Vec<EventId>, Tables) {
        (self.nodes[node].versions(), self.nodes[node].frontier(), self.nodes[node].rows())
    }

    /// What a replica shows, but for what a database's table cannot.
    fn rows(&mut self, node: usize) -> Tables {
        oracle::visible(&self.nodes[node].rows())
    }

    pub(super) fn everything(&mut self, node: usize) -> Result<Batch, String> {
        let page = self.nodes[node].pull(&Versions::new(), ALL);
        Ok(page.map_err(|refusal| format!("node {node} refused a pull: {refusal:?}"))?.batch)
    }

    /// All know the same, hold the same, and show what it stands for.
    fn check_final(&mut self) -> Step {
        self.check_node(0)?;
        let all = self.everything(0)?;
        self.ledger.check(&all)?;
        let events = oracle::fingerprint(&all);
        self.stats.events = events.1;
        let (heads, rows) = (self.nodes[0].frontier(), self.rows(0));
        for node in 1..self.nodes.len() {
            let same = [
                ("events", oracle::fingerprint(&self.everything(node)?) == events),
                ("heads", self.nodes[node].frontier() == heads),
                ("rows", self.rows(node) == rows),
            ];
            if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
                let ours = (self.nodes[0].frontier(), self.rows(0));
                let theirs = (self.nodes[node].frontier(), self.rows(node));
                return Err(format!("nodes 0 and {node} know the same and differ in {what}: {ours:?} {theirs:?}"));
            }
        }
        Ok(())
    }
}
