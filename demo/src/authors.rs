//! The authors at work, offline: one in-memory replica for each working copy.

use std::collections::BTreeSet;

use crdt_engine::ops::OpBuf;
use crdt_engine::replica::{Replica, Value};
use crdt_engine::wire::Batch;
use crdt_engine::{OpRef, Origin, ValueRef};

use crate::dataset::{Commit, Dataset};
use crate::show::Progress;

/// The table everybody writes.
pub const TABLE: &str = "offices";

/// All working copies after their last commit, and what each commit came to.
pub struct Authors {
    /// One for each name in [`Dataset::copies`].
    pub replicas: Vec<Replica>,
    /// Per commit the events it is; none for a merge that changed nothing.
    pub batches: Vec<Batch>,
}

/// How much was written.
#[derive(Default)]
pub struct Written {
    /// Cells.
    pub cells: u64,
    /// Bytes of their values.
    pub bytes: u64,
}

impl Authors {
    /// Plays the whole history. Before a commit its working copy gets exactly what the commit's parents had seen, from
    /// other working copies: there is no server.
    pub fn play(dataset: &Dataset) -> Authors {
        let replicas: Vec<Replica> = dataset.copies.iter().map(Replica::new).collect();
        let mut authors = Authors { replicas, batches: vec![] };
        let mut seen: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); dataset.copies.len()];
        let mut progress = Progress::new("offline:", dataset.commits.len() as u64);
        for (i, commit) in dataset.commits.iter().enumerate() {
            let seen = &mut seen[commit.copy];
            for news in commit.past.difference(&seen.clone()) {
                let batch = authors.batches[*news].clone();
                authors.replicas[commit.copy].pull_in(batch).expect("what others wrote");
                seen.insert(*news);
            }
            authors.batches.push(write(&mut authors.replicas[commit.copy], commit));
            seen.insert(i);
            progress.at(i as u64, &format!("commit {i} of {}", dataset.commits.len()));
        }
        progress.done();
        authors
    }

    /// What the authors wrote.
    pub fn written(&self) -> Written {
        let mut written = Written::default();
        let mut cell = |value: ValueRef<'_>| {
            written.cells += 1;
            written.bytes += if let ValueRef::Text(text) = value { text.len() as u64 } else { 0 };
        };
        for op in self.batches.iter().flat_map(|batch| batch.ops.iter()) {
            match op {
                OpRef::Insert { cells, .. } => cells.iter().for_each(|(_, value)| cell(value)),
                OpRef::Update { value, .. } => cell(value),
                _ => {}
            }
        }
        written
    }

    /// How many events all commits are.
    pub fn events(&self) -> u64 {
        self.batches.iter().map(|batch| batch.ops.len() as u64).sum()
    }
}

/// Writes a commit as one transaction of its author, and answers the events.
fn write(replica: &mut Replica, commit: &Commit) -> Batch {
    let mut ops = OpBuf::new();
    let tbl = ops.sym(TABLE);
    for (row, cells) in &commit.edits {
        let known = replica.row(TABLE, row).is_some();
        match cells {
            None => ops.delete(tbl, row),
            Some(cells) if known => cells.iter().try_for_each(|(col, text)| {
                let col = ops.sym(col);
                ops.update(tbl, row, col, value(text.as_deref()), Origin::Explicit)
            }),
            Some(cells) => ops.insert(tbl, row).and_then(|()| {
                cells.iter().try_for_each(|(col, text)| {
                    let col = ops.sym(col);
                    ops.cell(col, value(text.as_deref()))
                })
            }),
        }
        .expect("an operation");
    }
    if ops.is_empty() {
        return Batch::default();
    }
    let before = replica.versions();
    replica.write(ops).expect("a commit");
    replica.pull(&before, usize::MAX).expect("what was written").batch
}

fn value(text: Option<&str>) -> ValueRef<'_> {
    text.map_or(ValueRef::Null, ValueRef::Text)
}

/// Batches, one after the other, as one.
pub fn joined<'b>(batches: impl Iterator<Item = &'b Batch>) -> Batch {
    let mut all = Batch::default();
    for batch in batches {
        let start = all.ops.len();
        batch.ops.iter().for_each(|op| all.ops.push(op).expect("an operation"));
        for run in &batch.runs {
            let mut run = run.clone();
            run.ops = run.ops.start + start..run.ops.end + start;
            all.runs.push(run);
        }
    }
    all
}

/// A replica's table as text, a line for each row in the order of its key: the key and the columns, tabs between, `\N` for
/// NULL. `crate::hub::Hub::table_text` says the same of a table in a database.
pub fn table_text(replica: &Replica, columns: &[String]) -> String {
    let mut out = String::new();
    for (key, row) in replica.tables().get(TABLE).into_iter().flatten() {
        out.push_str(key);
        for column in columns {
            out.push('\t');
            match row.get(column.as_str()) {
                None | Some(Value::Null) => out.push_str("\\N"),
                Some(Value::Text(text)) => out.push_str(text),
                Some(other) => panic!("{key}, {column}: {other:?} in a table of texts"),
            }
        }
        out.push('\n');
    }
    out
}
