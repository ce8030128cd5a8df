//! The edit history of a public data set: who changed what, knowing what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A row's new cells, `None` for a cell that is cleared.
pub type Cells = BTreeMap<String, Option<String>>;

/// What one author did at once.
pub struct Commit {
    /// Who, as a number.
    pub author: u64,
    /// Indices of the commits it was made on top of.
    pub parents: Vec<usize>,
    /// Unix time.
    pub time: i64,
    /// By row key: new cells, or `None` where the row was deleted.
    pub edits: BTreeMap<String, Option<Cells>>,
    /// Indices of all commits its author had seen.
    pub past: BTreeSet<usize>,
    /// Which working copy it was made in.
    pub copy: usize,
}

/// The whole history.
pub struct Dataset {
    /// Parents first.
    pub commits: Vec<Commit>,
    /// Names of the working copies.
    pub copies: Vec<String>,
    /// All columns but the key, sorted.
    pub columns: Vec<String>,
}

/// Edits made without knowledge of each other.
#[derive(Default)]
pub struct Concurrent {
    /// Pairs that name the same row.
    pub rows: u64,
    /// Pairs of cell edits of the same cell.
    pub cells: u64,
    /// Those of them that write different values.
    pub different: Vec<(String, String)>,
    /// Pairs of deletes of the same row.
    pub deletes: u64,
    /// Rows that one deleted and the other edited.
    pub delete_and_edit: Vec<String>,
}

impl Dataset {
    /// Reads the gzipped JSON lines that `examples/district-offices/README.md` describes.
    pub fn read(path: &Path) -> Dataset {
        let unzipped = Command::new("gzip").arg("-dc").arg(path).output().expect("gzip");
        assert!(unzipped.status.success(), "gzip -dc {}: {}", path.display(), unzipped.status);
        let text = String::from_utf8(unzipped.stdout).expect("UTF-8");
        let commits: Vec<Commit> = text.lines().map(commit).collect();
        let mut columns = BTreeSet::new();
        for cells in commits.iter().flat_map(|c| c.edits.values().flatten()) {
            columns.extend(cells.keys().cloned());
        }
        let mut dataset = Dataset { commits, copies: vec![], columns: columns.into_iter().collect() };
        dataset.find_pasts();
        dataset.assign_copies();
        dataset
    }

    fn find_pasts(&mut self) {
        for i in 0..self.commits.len() {
            let mut past = BTreeSet::new();
            for &parent in &self.commits[i].parents {
                past.insert(parent);
                past.extend(&self.commits[parent].past);
            }
            self.commits[i].past = past;
        }
    }

    /// An author who worked on two branches at a time did so in two working copies: what one replica wrote before is
    /// always known to what it writes next.
    fn assign_copies(&mut self) {
        let mut last: Vec<usize> = vec![];
        for i in 0..self.commits.len() {
            let commit = &self.commits[i];
            let continues =
                |copy: &usize| self.commits[last[*copy]].author == commit.author && commit.past.contains(&last[*copy]);
            let copy = (0..last.len()).find(continues).unwrap_or(last.len());
            if copy == last.len() {
                last.push(i);
                let nth = last.iter().filter(|c| self.commits[**c].author == commit.author).count();
                self.copies.push(format!("author{:02}.{nth}", commit.author));
            }
            last[copy] = i;
            self.commits[i].copy = copy;
        }
    }

    /// How many authors.
    pub fn authors(&self) -> usize {
        self.commits.iter().map(|c| c.author).collect::<BTreeSet<_>>().len()
    }

    /// How many cells are named.
    pub fn cell_edits(&self) -> usize {
        self.commits.iter().flat_map(|c| c.edits.values().flatten()).map(|cells| cells.len()).sum()
    }

    /// Finds what was edited concurrently.
    pub fn concurrent(&self) -> Concurrent {
        let mut by_row: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, commit) in self.commits.iter().enumerate() {
            commit.edits.keys().for_each(|row| by_row.entry(row).or_default().push(i));
        }
        let mut found = Concurrent::default();
        for (row, commits) in by_row {
            for (at, later) in commits.iter().enumerate() {
                for earlier in commits[..at].iter().filter(|e| !self.commits[*later].past.contains(*e)) {
                    self.pair(row, *earlier, *later, &mut found);
                }
            }
        }
        found.different.dedup();
        found.delete_and_edit.dedup();
        found
    }

    fn pair(&self, row: &str, a: usize, b: usize, found: &mut Concurrent) {
        found.rows += 1;
        match (&self.commits[a].edits[row], &self.commits[b].edits[row]) {
            (None, None) => found.deletes += 1,
            (Some(a), Some(b)) => {
                for (column, value) in a {
                    let Some(other) = b.get(column) else { continue };
                    found.cells += 1;
                    if value != other {
                        found.different.push((row.to_owned(), column.clone()));
                    }
                }
            }
            _ => found.delete_and_edit.push(row.to_owned()),
        }
    }

    /// The commits in an order in which everything comes after what it was made on top of. `choose` picks among those
    /// that could come next.
    pub fn order(&self, mut choose: impl FnMut(&[usize]) -> usize) -> Vec<usize> {
        let mut done = BTreeSet::new();
        let mut order = vec![];
        while order.len() < self.commits.len() {
            let waiting = (0..self.commits.len()).filter(|i| !done.contains(i));
            let ready: Vec<usize> =
                waiting.filter(|i| self.commits[*i].parents.iter().all(|p| done.contains(p))).collect();
            let next = choose(&ready);
            done.insert(next);
            order.push(next);
        }
        order
    }

    /// As late as possible: the end of the order is filled first, with the oldest commit that nothing later needs.
    pub fn latest_order(&self) -> Vec<usize> {
        let mut left: BTreeSet<usize> = (0..self.commits.len()).collect();
        let mut order = vec![];
        while !left.is_empty() {
            let needed: BTreeSet<usize> = left.iter().flat_map(|i| self.commits[*i].parents.iter().copied()).collect();
            let last = *left.difference(&needed).next().expect("a commit that nothing needs");
            left.remove(&last);
            order.push(last);
        }
        order.reverse();
        order
    }
}

fn commit(line: &str) -> Commit {
    let json: Value = serde_json::from_str(line).expect("a line of JSON");
    let edits = json["e"].as_object().expect("edits").iter();
    let cells = |row: &Value| -> Option<Cells> {
        Some(row.as_object()?.iter().map(|(col, v)| (col.clone(), v.as_str().map(str::to_owned))).collect())
    };
    Commit {
        author: json["a"].as_u64().expect("an author"),
        parents: json["p"]
            .as_array()
            .expect("parents")
            .iter()
            .map(|p| p.as_u64().expect("an index") as usize)
            .collect(),
        time: json["t"].as_i64().expect("a time"),
        edits: edits.map(|(row, value)| (row.clone(), cells(value))).collect(),
        past: BTreeSet::new(),
        copy: 0,
    }
}
