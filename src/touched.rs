//! Rows that statements of this transaction wrote, as far as a statement captured later may have to know.

use pgrx::pg_sys::Oid;
use rustc_hash::FxHashMap;

/// Rows that statements captured earlier have written, for a statement captured after them that may have written the
/// same rows before them: one that fired the trigger they run in, or called the function, or another part of the same query.
struct Segment {
    /// Their table.
    root: Oid,
    /// The queries that ran then, outermost first, the last of which wrote them.
    path: Vec<u64>,
    rows: Rows,
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

/// What is remembered.
#[derive(Default)]
pub struct Segments {
    segments: Vec<Segment>,
    /// How many outermost queries had ended when it was written.
    ended: u64,
}

impl Segments {
    /// Forgets what was written by queries that have ended, by the number of outermost ones that have.
    pub fn forget_ended(&mut self, ended: u64) {
        if self.ended != ended {
            self.clear();
            self.ended = ended;
        }
    }

    /// Keeps rows that were written under a path of queries.
    pub fn keep(&mut self, root: Oid, path: Vec<u64>, rows: Rows) {
        match self.segments.iter_mut().find(|s| s.root == root && s.path == path) {
            Some(known) => known.rows.add(rows),
            None => self.segments.push(Segment { root, path, rows }),
        }
    }

    /// Takes the rows of a table that were written inside of a query, by one that it ran; by itself too where `own` says so.
    /// Without a query all.
    pub fn take_inner(&mut self, root: Oid, query: Option<u64>, own: bool) -> Rows {
        let inner = |s: &mut Segment| {
            s.root == root && query.is_none_or(|q| s.path.contains(&q) && (own || s.path.last() != Some(&q)))
        };
        let mut rows = Rows::default();
        self.segments.extract_if(.., inner).for_each(|segment| rows.add(segment.rows));
        rows
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.segments.clear();
    }
}
