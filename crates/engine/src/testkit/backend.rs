//! What the convergence suite needs of a replica or a hub, and the engine's own.

use crate::error::Error;
use crate::id::EventId;
use crate::oplog::Page;
use crate::ops::{OpBuf, Origin};
use crate::replica::{Applied, Hooks, Replica, Row, Tables, Value};
use crate::value::ValueRef;
use crate::wire::{Batch, Versions};

/// A plain write.
#[derive(Clone, Debug)]
pub enum Write {
    /// A row with some cells. Of a row that is there: these cells are set.
    Insert(&'static str, &'static str, Vec<(&'static str, i64)>),
    /// One cell. Of a row that is not there: nothing happens.
    Update(&'static str, &'static str, &'static str, i64),
    /// The row goes.
    Delete(&'static str, &'static str),
}

/// What a push came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// New events.
    pub accepted: u64,
    /// Known events.
    pub duplicate: u64,
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Something that was made on top of it, or before it, is missing.
    Missing(String),
    /// Another content for a known event; with both digests.
    Equivocation(u64, u64),
    /// A clock that runs further ahead than an honest one can.
    Ahead(String),
    /// Anything else.
    Other(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Equivocation { known, got, .. } => Refusal::Equivocation(known, got),
            Error::CounterGap { .. } | Error::UnknownDep { .. } | Error::UnknownRoot { .. } => {
                Refusal::Missing(error.to_string())
            }
            Error::LamportBound { .. } => Refusal::Ahead(error.to_string()),
            error => Refusal::Other(error.to_string()),
        }
    }
}

/// A replica, as the suite sees it: in memory, or a database with tables `t` and `s`.
pub trait Backend {
    /// Events enter the system here: it writes derived events down, and checks clocks.
    fn is_hub(&self) -> bool;

    /// Local writes, in one transaction if it can.
    fn write(&mut self, writes: &[Write]) -> Result<(), Refusal>;

    /// Takes events from another. `from_hub`: what derives from them has been written down.
    fn push(&mut self, batch: Batch, from_hub: bool) -> Result<Receipt, Refusal>;

    /// Runs above a version vector, about `limit` operations.
    fn pull(&mut self, known: &Versions, limit: usize) -> Result<Page, Refusal>;

    /// What it knows.
    fn versions(&mut self) -> Versions;

    /// The heads of what it knows, sorted.
    fn frontier(&mut self) -> Vec<EventId>;

    /// What it shows.
    fn rows(&mut self) -> Tables;

    /// Whatever else must hold of it.
    fn check(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// How many rows it merged, and how many of them by their whole history.
    fn merged(&self) -> (usize, usize) {
        (0, 0)
    }

    /// A copy that goes on under the same name, as a restored backup would. `None`: it cannot be copied.
    fn fork(&self) -> Option<Box<dyn Backend>>;

    /// A new one that knows its log and nothing else: under its own name, as after a crash, or under another, as after a
    /// backup was restored. `None`: it cannot be made.
    fn reopen(&mut self, _peer: Option<&str>) -> Option<Box<dyn Backend>> {
        None
    }
}

/// The will of a table: none on a client; on a hub, `d` has a default, `x` is made odd, and `u` counts the writes.
#[derive(Clone, Copy, Debug)]
pub enum Will {
    /// A client's.
    None,
    /// A hub's, with what tells it from another hub.
    Hub(i64),
}

impl Hooks for Will {
    fn defaults(&self, tbl: &str) -> Vec<(&'static str, Value)> {
        match (self, tbl) {
            (Will::Hub(hub), "t") => vec![("d", Value::Int(-hub))],
            _ => vec![],
        }
    }

    fn rewrites(&self, tbl: &str, old: Option<&Row>, new: &Row) -> Vec<(&'static str, Value)> {
        let int = |row: Option<&Row>, col: &str| match row.and_then(|row| row.get(col)) {
            Some(Value::Int(n)) => Some(*n),
            _ => None,
        };
        match (self, tbl) {
            (Will::Hub(hub), "t") => {
                let count = int(old, "u").unwrap_or(hub * 1000) + 1;
                let odd = int(Some(new), "x").map(|x| ("x", Value::Int(x | 1)));
                odd.into_iter().chain([("u", Value::Int(count))]).collect()
            }
            _ => vec![],
        }
    }
}

/// The engine's own replica as a backend.
pub fn memory(peer: &str, will: Will) -> Box<dyn Backend + Send> {
    Box::new(Memory::new(peer, will))
}

/// A replica, and what its merges read.
#[derive(Clone)]
struct Memory {
    replica: Replica<Will>,
    will: Will,
    rows: usize,
    rows_by_history: usize,
}

impl Memory {
    fn new(peer: &str, will: Will) -> Self {
        Memory { replica: Replica::with_hooks(peer, will), will, rows: 0, rows_by_history: 0 }
    }

    fn count(&mut self, applied: Applied) -> Receipt {
        self.rows += applied.rows;
        self.rows_by_history += applied.rows_by_history;
        Receipt { accepted: applied.accepted, duplicate: applied.duplicate }
    }

    /// A write as the operations that capture would see: on a hub, with what the table made of it.
    fn capture(&self, write: &Write, ops: &mut OpBuf) -> crate::Result<()> {
        let (tbl, row) = match write {
            Write::Insert(tbl, row, _) | Write::Update(tbl, row, _, _) | Write::Delete(tbl, row) => (*tbl, *row),
        };
        let old = self.replica.row(tbl, row);
        let mut new = old.cloned();
        let t = ops.sym(tbl);
        match write {
            Write::Insert(_, _, cells) => {
                ops.insert(t, row)?;
                let new = new.get_or_insert_default();
                for (col, value) in cells {
                    let col_sym = ops.sym(col);
                    ops.cell(col_sym, ValueRef::Int(*value))?;
                    new.insert((*col).into(), Value::Int(*value));
                }
                if old.is_none() {
                    for (col, value) in self.will.defaults(tbl) {
                        if !new.contains_key(col) {
                            let sym = ops.sym(col);
                            ops.cell(sym, value.view())?;
                            new.insert(col.into(), value);
                        }
                    }
                }
            }
            Write::Update(_, _, col, value) => {
                let col_sym = ops.sym(col);
                ops.update(t, row, col_sym, ValueRef::Int(*value), Origin::Explicit)?;
                if let Some(new) = &mut new {
                    new.insert((*col).into(), Value::Int(*value));
                }
            }
            Write::Delete(..) => return ops.delete(t, row),
        }
        let rewrites = new.map_or(vec![], |new| self.will.rewrites(tbl, old, &new));
        for (col, value) in rewrites {
            let col = ops.sym(col);
            ops.update(t, row, col, value.view(), Origin::Explicit)?;
        }
        Ok(())
    }
}

impl Backend for Memory {
    fn is_hub(&self) -> bool {
        matches!(self.will, Will::Hub(_))
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), Refusal> {
        // The hub's triggers see each write's outcome, so it writes them one by one.
        let size = if self.is_hub() { 1 } else { writes.len().max(1) };
        for writes in writes.chunks(size) {
            let mut ops = OpBuf::new();
            for write in writes {
                self.capture(write, &mut ops)?;
            }
            self.replica.write(ops)?;
        }
        Ok(())
    }

    fn push(&mut self, batch: Batch, from_hub: bool) -> Result<Receipt, Refusal> {
        let applied = match self.is_hub() && !from_hub {
            true => self.replica.apply(batch)?,
            false => self.replica.pull_in(batch)?,
        };
        Ok(self.count(applied))
    }

    fn pull(&mut self, known: &Versions, limit: usize) -> Result<Page, Refusal> {
        Ok(self.replica.pull(known, limit)?)
    }

    fn versions(&mut self) -> Versions {
        self.replica.versions()
    }

    fn frontier(&mut self) -> Vec<EventId> {
        let mut heads = self.replica.frontier();
        heads.sort();
        heads
    }

    fn rows(&mut self) -> Tables {
        self.replica.tables().clone()
    }

    fn merged(&self) -> (usize, usize) {
        (self.rows, self.rows_by_history)
    }

    fn fork(&self) -> Option<Box<dyn Backend>> {
        Some(Box::new(self.clone()))
    }

    fn reopen(&mut self, peer: Option<&str>) -> Option<Box<dyn Backend>> {
        let mut new = Memory::new(peer.unwrap_or(self.replica.peer()), self.will);
        let all = self.replica.pull(&Versions::new(), usize::MAX).expect("memory");
        new.replica.pull_in(all.batch).expect("a log takes what it held");
        (new.rows, new.rows_by_history) = (self.rows, self.rows_by_history);
        Some(Box::new(new))
    }
}
