//! Rows that statements of this transaction wrote, as far as a statement captured later may have to know.

use pgrx::pg_sys::Oid;
use rustc_hash::FxHashMap;

/// Rows that statements captured earlier have written, for a statement captured after them that may have written the
/// same rows before them: one that fired the trigger they run in, or another part of the same query.
pub struct Segment {
    /// Their table.
    pub root: Oid,
    /// How deep inside triggers they were written.
    pub depth: i32,
    /// The rows.
    pub rows: Rows,
}

/// Rows that were written.
#[derive(Default)]
pub struct Rows {
    /// By doc and row id.
    pub touched: FxHashMap<(i64, String), Touched>,
    /// Too many to remember: any row may be among them.
    any: bool,
}

/// Rows remembered of one table and depth.
const SEGMENT_ROWS: usize = 65_536;

/// What happened to a row.
pub enum Touched {
    /// All of it was written.
    Whole,
    /// These columns were.
    Columns(Vec<String>),
}

impl Rows {
    /// None are known.
    pub fn is_empty(&self) -> bool {
        !self.any && self.touched.is_empty()
    }

    /// Is this row, by doc and row id, perhaps among them?
    pub fn contains(&self, row: &(i64, String)) -> bool {
        self.any || self.touched.contains_key(row)
    }

    /// Adds rows.
    pub fn add(&mut self, more: Rows) {
        self.any |= more.any;
        for (row, touched) in more.touched {
            self.touch(row, touched);
        }
    }

    /// Adds one.
    pub fn touch(&mut self, row: (i64, String), touched: Touched) {
        if self.any || self.touched.len() >= SEGMENT_ROWS {
            self.any = true;
            self.touched = FxHashMap::default();
            return;
        }
        match (self.touched.get_mut(&row), touched) {
            (None, touched) => {
                self.touched.insert(row, touched);
            }
            (Some(Touched::Whole), _) => {}
            (Some(known), Touched::Whole) => *known = Touched::Whole,
            (Some(Touched::Columns(known)), Touched::Columns(more)) => {
                for name in more {
                    if !known.contains(&name) {
                        known.push(name);
                    }
                }
            }
        }
    }
}

/// What is remembered, the deepest last.
#[derive(Default)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// Keeps rows of a depth.
    pub fn keep(&mut self, root: Oid, depth: i32, rows: Rows) {
        match self.0.iter_mut().rev().take_while(|s| s.depth == depth).find(|s| s.root == root) {
            Some(known) => known.rows.add(rows),
            None => self.0.push(Segment { root, depth, rows }),
        }
    }

    /// Keeps rows of a depth below the deeper ones that are kept already.
    pub fn keep_below(&mut self, root: Oid, depth: i32, rows: Rows) {
        let at = self.0.iter().rposition(|s| s.depth <= depth).map_or(0, |last| last + 1);
        let deeper = self.0.split_off(at);
        self.keep(root, depth, rows);
        self.0.extend(deeper);
    }

    /// Takes the last segment that is deeper, or as deep where `same` says so.
    pub fn pop_deeper(&mut self, depth: i32, same: bool) -> Option<Segment> {
        self.0.pop_if(|s| s.depth > depth || (same && s.depth == depth))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
