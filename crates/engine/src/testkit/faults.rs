//! Crashes, restored backups and a hostile author. A replica that cannot be copied (a database) is spared: it has
//! drivers of its own.

use super::backend::{Refusal, Will, Write, memory};
use super::corrupt;
use super::world::{ALL, Step, World};
use crate::admit::CLOCK_SLACK;
use crate::id::EventId;
use crate::wire::{Batch, Versions};

impl World {
    /// A replica dies amid a write or a push nobody was told of, and comes back with its log alone. What was on its way
    /// to it is lost.
    pub(super) fn crash(&mut self) -> Step {
        let node = self.rng.below(self.nodes.len());
        let Some(mut dying) = self.nodes[node].fork() else { return Ok(()) };
        let write = self.random_write();
        // Its outcome is what dies.
        let _ = dying.write(&[write]);
        let before = self.state(node);
        let Some(reopened) = self.nodes[node].reopen(None) else { return Ok(()) };
        self.nodes[node] = reopened;
        self.in_flight.retain(|(to, ..)| *to != node);
        self.stats.crashes += 1;
        match before == self.state(node) {
            true => Ok(()),
            false => Err(format!("node {node} came back otherwise: {before:?}, {:?}", self.state(node))),
        }
    }

    /// A copy of a replica is put aside, or one from before takes its place, under a name nobody has used.
    pub(super) fn back_up_or_restore(&mut self) -> Step {
        if self.backups.is_empty() || self.rng.chance(40) {
            let node = self.rng.below(self.nodes.len());
            self.backups.extend(self.nodes[node].fork().map(|copy| (node, copy)));
            return Ok(());
        }
        let at = self.rng.below(self.backups.len());
        let (node, mut copy) = self.backups.swap_remove(at);
        self.names += 1;
        // In front of and behind the other names: names decide ties.
        let name = format!("{}{}", self.rng.pick::<&str>(&["again", "zz-again"]), self.names);
        let Some(restored) = copy.reopen(Some(&name)) else { return Ok(()) };
        self.nodes[node] = restored;
        self.stats.restored += 1;
        if node == 0 {
            // Its events may be gone from node 0 and known elsewhere; whoever says them otherwise needs another name.
            self.mallory = format!("mallory{}", self.names);
        }
        let mut known = Versions::new();
        for node in &mut self.nodes {
            for (peer, counter) in node.versions() {
                let known = known.entry(peer).or_insert(counter);
                *known = counter.max(*known);
            }
        }
        self.ledger.lost_above(&known);
        Ok(())
    }

    /// Somebody who may push to node 0, a hub, sends what no honest client would: once, or some times in a row.
    pub(super) fn attack(&mut self) -> Step {
        if !self.nodes[0].is_hub() || self.nodes.iter().any(|node| node.fork().is_none()) {
            return Ok(());
        }
        let poison = self.rng.chance(30);
        for _ in 0..1 + self.rng.below(4) {
            self.attack_once(poison)?;
        }
        self.check_node(0)
    }

    /// One push. It is refused and nothing has changed, or it is an event like any other. With `poison` it is sound and as far
    /// ahead as it may be.
    fn attack_once(&mut self, poison: bool) -> Step {
        let all = self.everything(0)?;
        let mut mallory = memory(&self.mallory, Will::None);
        let known: Vec<EventId> =
            all.runs.iter().map(|run| EventId::new(run.peer.as_str(), run.counter_start)).collect();
        mallory.push(all, true).map_err(|r| format!("a client refused its hub: {r:?}"))?;
        let writes: Vec<Write> = (0..1 + self.rng.below(4)).map(|_| self.random_write()).collect();
        mallory.write(&writes).map_err(|r| format!("{r:?}"))?;
        let mut sent = mallory.pull(&self.nodes[0].versions(), ALL).map_err(|r| format!("{r:?}"))?.batch;
        match poison {
            true => sent.runs[0].lamport_start += CLOCK_SLACK - self.rng.below(2) as u64,
            false => sent = corrupt(sent, &known, &mut self.rng),
        }
        let before = self.state(0);
        match self.nodes[0].push(sent.clone(), false) {
            Ok(_) => {
                self.poisoned = true;
                self.stats.hostile_accepted += 1;
                self.ledger.keep(&sent)
            }
            Err(refusal) if poison => Err(format!("node 0 refused a clock within its bound: {refusal:?}")),
            Err(_) if before == self.state(0) => {
                self.stats.hostile_refused += 1;
                Ok(())
            }
            Err(refusal) => Err(format!("node 0 refused an attack ({refusal:?}) and changed")),
        }
    }

    /// A hub refuses honest clients whose clock was driven far ahead elsewhere. Nothing has changed, and an administrator
    /// takes the events as those of another hub. Returns whether there is more.
    pub(super) fn merged_by_hand(&mut self, to: usize, batch: Batch, has_more: bool) -> Result<bool, String> {
        self.stats.clocks_refused += 1;
        let noted = batch.clone();
        match self.nodes[to].push(batch, true) {
            Ok(_) => self.ledger.keep(&noted).map(|()| has_more),
            Err(Refusal::Ahead(_)) => Err(format!("node {to} refused what an administrator merged")),
            Err(refusal) => Err(format!("node {to} refused a fresh page: {refusal:?}")),
        }
    }
}
