//! Looking for the runs that touch rows, by the keys of `keys.rs`.

use std::rc::Rc;

use crdt_engine::alloc;

use crate::catalog::{self, Names};
use crate::error::Result;
use crate::key_page::{Entry, Page};
use crate::keys::{ANYTHING, age, hash_of, malformed, page_of, sets_of, upper_half};
use crate::pg::entry;
use crate::pg::relation::{Cmp, Field, IndexScan, Lock, Relation, Row, Snapshot};
use crate::tail;

/// Pages that a search passes in the index rather than look the next wanted one up, for each hash.
const PASSED: usize = 12;

/// A run that touches a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The row, by the number that it was asked for with.
    pub row: u32,
    run: Entry,
}

impl Touch {
    /// The run's peer and first counter.
    pub fn run(&self) -> (i32, u64) {
        (self.run.peer, self.run.counter())
    }

    /// What it does to the row: some of these bits and nothing else.
    pub fn bits(&self) -> u8 {
        self.run.bits()
    }
}

/// A row that is looked for: its hash, and a number to name it by.
pub type Wanted = (i64, u32);

/// A search for the runs that touch rows, in one place where they are noted after the other: what was found may be reason
/// enough to look for some rows no further.
pub struct Search {
    doc: i64,
    /// Sets of pages are merged by others meanwhile, so the snapshot must be one: not [`Snapshot::Committed`].
    snapshot: Snapshot,
    names: Rc<Names>,
    /// Those not searched yet, the newest last.
    sets: Vec<i64>,
    next: Place,
}

/// Where keys are, from the newest to the oldest but for the last.
enum Place {
    /// Runs that carry them.
    Tail,
    /// Sets of pages, then the table of few that were pushed.
    Sets,
    Over,
}

impl Search {
    pub fn new(doc: i64, snapshot: Snapshot) -> Result<Search> {
        let names = catalog::names()?;
        let pages = Relation::open(names.page, Lock::AccessShare);
        let mut sets = sets_of(&names, &pages, doc, None, snapshot)?;
        sets.sort_unstable_by_key(|set| age(*set));
        Ok(Search { doc, snapshot, names, sets, next: Place::Tail })
    }

    /// The order in which rows are searched.
    pub fn sort(rows: &mut [Wanted]) {
        rows.sort_unstable_by_key(|(hash, _)| *hash as u64);
    }

    /// Looks for rows, in their order, in the next place. The runs found touch them, or seem to: who asks looks for the row
    /// itself there. False: that was the last place.
    pub fn next(&mut self, rows: &[Wanted], found: &mut Vec<Touch>) -> Result<bool> {
        match self.next {
            Place::Tail => {
                search_tail(self.doc, rows, self.snapshot, found)?;
                self.next = Place::Sets;
            }
            Place::Sets => match self.sets.pop() {
                Some(set) => {
                    let pages = Relation::open(self.names.page, Lock::AccessShare);
                    search_set(&self.names, &pages, (self.doc, set), rows, self.snapshot, found)?;
                }
                None => {
                    search_few(&self.names, self.doc, rows, self.snapshot, found)?;
                    self.next = Place::Over;
                }
            },
            Place::Over => return Ok(false),
        }
        Ok(true)
    }
}

/// All runs that touch a row, or seem to.
pub fn runs_of(doc: i64, hash: i64, snapshot: Snapshot) -> Result<Vec<(i32, u64)>> {
    let (mut search, mut found) = (Search::new(doc, snapshot)?, Vec::new());
    while search.next(&[(hash, 0)], &mut found)? {}
    Ok(found.iter().map(Touch::run).collect())
}

/// Looks for rows, given in order, among the keys that runs carry.
fn search_tail(doc: i64, rows: &[Wanted], snapshot: Snapshot, found: &mut Vec<Touch>) -> Result<()> {
    tail::each_entry(doc, snapshot, |run| {
        let rest = &rows[rows.partition_point(|(hash, _)| upper_half(*hash) < run.hash)..];
        let mut same = rest.iter().take_while(|(hash, _)| upper_half(*hash) == run.hash);
        same.try_for_each(|(_, row)| Ok(alloc::push(found, Touch { row: *row, run })?))
    })
}

/// Looks for rows in the table of those that few pushed runs touch.
fn search_few(names: &Names, doc: i64, rows: &[Wanted], snapshot: Snapshot, found: &mut Vec<Touch>) -> Result<()> {
    let Some((first, _)) = rows.first() else { return Ok(()) };
    let key_of = |hash: i64| [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I64(hash_of(hash)))];
    let small = Relation::open(names.key, Lock::AccessShare);
    let mut several = IndexScan::new(&small, names.key_pkey, snapshot, &key_of(*first), false);
    for (hash, row) in rows.iter().copied() {
        entry::check_interrupts();
        let touch = |peer, counter| Touch { row, run: Entry::new(upper_half(hash), peer, counter as u64, ANYTHING) };
        several.again(&key_of(hash));
        while let Some(run) = several.next_row() {
            alloc::push(found, touch(run.i32(3), run.i64(4)))?;
        }
    }
    Ok(())
}

/// Looks for rows, given in order, in a set's pages; each page is read once.
fn search_set(
    names: &Names,
    pages: &Relation,
    (doc, set): (i64, i64),
    rows: &[Wanted],
    snapshot: Snapshot,
    found: &mut Vec<Touch>,
) -> Result<()> {
    let page = |row: &Wanted| page_of(set, upper_half(row.0));
    let mut rest = rows;
    // Of a page that is not before the one asked for last.
    let mut of_page = |wanted: u32| {
        rest = &rest[rest.iter().take_while(|row| page(row) < wanted).count()..];
        &rest[..rest.iter().take_while(|row| page(row) == wanted).count()]
    };
    let key_of = |from: u32, to: u32| {
        let (from, to) = (Field::I64(i64::from(from)), Field::I64(i64::from(to)));
        [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I64(set)), (3, Cmp::Ge, from), (3, Cmp::Le, to)]
    };
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
    let (first, last) = (page(first), page(last));
    let mut scan = IndexScan::new(pages, names.page_pkey, snapshot, &key_of(first, last), false);
    if (last - first) as usize <= rows.len() * PASSED {
        let mut scan = scan.reading_entries();
        while let Some(row) = scan.next_where(3, |page| !of_page(page as u32).is_empty()) {
            entry::check_interrupts();
            search_part(&row, of_page(row.i64(3) as u32), found)?;
        }
        return Ok(());
    }
    for alike in rows.chunk_by(|a, b| page(a) == page(b)) {
        entry::check_interrupts();
        scan.again(&key_of(page(&alike[0]), page(&alike[0])));
        // A page with a row that many runs touch has several parts.
        while let Some(row) = scan.next_row() {
            search_part(&row, alike, found)?;
        }
    }
    Ok(())
}

/// Looks for rows in a part of their page.
fn search_part(part: &Row<'_>, rows: &[Wanted], found: &mut Vec<Touch>) -> Result<()> {
    part.with_bytes(5, |bytes| {
        let part = Page::read(bytes).ok_or_else(malformed)?;
        for (hash, row) in rows {
            for run in part.find(upper_half(*hash)) {
                alloc::push(found, Touch { row: *row, run })?;
            }
        }
        Ok(())
    })
    .ok_or_else(malformed)?
}
