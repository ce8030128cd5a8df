//! Which runs touch a row: from the hash of `(table, row id)` to runs.
//!
//! The youngest runs of plain SQL carry their keys themselves: see `tail.rs`. Of what is pushed, few rows are entries of a
//! table. All else is pages of sorted entries, in sets, each in a tier by its size: see `key_merge.rs`.
//!
//! A page holds the hashes of an equal part of all, as a bucket of a hash table does: so it is found by equality. A
//! search for the last page that begins at or below a hash costs several times that, because PostgreSQL looks at every
//! entry of the index's page that might do.
//!
//! An entry also tells in eight bits what the run does to the row, so that who looks for a cell's newest write passes over
//! most runs: whether it deletes it, and by seven bits which columns it writes. Entries of the table have no bits: such a
//! run may do anything.

use crdt_engine::alloc;
use crdt_engine::ops::OpBuf;
use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::Names;
use crate::error::{Error, Result, state};
use crate::key_merge::Sets;
use crate::key_page::Entry;
use crate::pg::relation::{Cmp, Field, IndexScan, Inserter, Key, Lock, Relation, Snapshot};
use crate::store::{Author, NewRun, row_hash};

/// Runs that are indexed at once and touch more rows than this are indexed as pages.
const SMALL: usize = 16;
/// Bytes of the entries of a part of a page, at most: its row stays inside a heap page.
pub const PART_BYTES: usize = 8000;
/// How full pages are on average, in hundredths: few have a second part. Hashes fall on pages by chance, a thousand give or
/// take thirty.
const FILL: usize = 90;
/// Sets of a tier that are merged into one of the next.
pub const FAN: usize = 8;
/// Entries that a set of the first tier may have; each further tier's may have [`FAN`] times as many.
const FIRST_TIER_ENTRIES: usize = 256;
/// Sets of this tier are merged no further: eight of them would have four thousand million entries.
pub const LAST_TIER: i64 = 7;
/// A set's number is its tier, then one less than the number of its pages, then the next of a sequence.
const TIER_SHIFT: u32 = 60;
const PAGES_SHIFT: u32 = 40;
pub const MAX_PAGES: usize = 1 << (TIER_SHIFT - PAGES_SHIFT);

/// The bit of a run that deletes the row.
pub const DELETES: u8 = 1 << COLUMN_BITS;
const COLUMN_BITS: u32 = 7;
/// Of a run of which nothing is known but that it touches the row.
pub const ANYTHING: u8 = u8::MAX;
/// Where a key has its bits.
const BITS: i64 = ANYTHING as i64;

/// The bit of a column: stable, it is stored.
pub fn column_bit(name: &str) -> u8 {
    1 << (xxh3_64(name.as_bytes()) % u64::from(COLUMN_BITS))
}

/// The keys of the rows that operations `from..to` touch, in order and each once: a row's hash with the bits of what is done
/// to it in the place of the lowest byte.
pub fn of_ops(ops: &OpBuf, from: usize, to: usize) -> Result<Vec<i64>> {
    let mut keys: Vec<i64> = Vec::new();
    let mut bits = Bits::new(ops)?;
    for i in from..to {
        // Several updates of one row mostly follow each other.
        if i > from && ops.shares_row(i) {
            *keys.last_mut().expect("the row before has a key") |= bits.of(i);
        } else if let Some((tbl, row)) = ops.row_key(i) {
            alloc::push(&mut keys, row_hash(tbl, row) & !BITS | bits.of(i))?;
        }
    }
    keys.sort_unstable();
    keys.dedup_by(|key, kept| {
        let same = *key & !BITS == *kept & !BITS;
        if same {
            *kept |= *key;
        }
        same
    });
    Ok(keys)
}

/// What operations do to their rows.
struct Bits<'o> {
    ops: &'o OpBuf,
    /// The bit of each name; 0 before it is needed.
    columns: Vec<u8>,
}

impl<'o> Bits<'o> {
    fn new(ops: &'o OpBuf) -> Result<Bits<'o>> {
        Ok(Bits { ops, columns: alloc::filled(0, ops.names())? })
    }

    fn of(&mut self, i: usize) -> i64 {
        if self.ops.is_delete(i) {
            return i64::from(DELETES);
        }
        let mut bits = 0;
        for column in self.ops.columns(i) {
            let bit = &mut self.columns[column.index()];
            if *bit == 0 {
                *bit = column_bit(self.ops.name(column));
            }
            bits |= *bit;
        }
        i64::from(bits)
    }
}

/// The hash of a key, as the table of few has it.
pub fn hash_of(key: i64) -> i64 {
    key & !BITS
}

/// What pages know of a hash.
pub fn upper_half(hash: i64) -> u32 {
    (hash as u64 >> 32) as u32
}

/// How many pages entries that take so many bytes each need.
pub fn pages_for(entries: usize, width: usize) -> usize {
    (entries * width * 100).div_ceil(PART_BYTES * FILL).clamp(1, MAX_PAGES)
}

/// The number of a set.
pub fn set_number(tier: i64, pages: usize, next: i64) -> i64 {
    tier << TIER_SHIFT | (pages as i64 - 1) << PAGES_SHIFT | next
}

/// How many pages a set has.
pub fn pages_of(set: i64) -> usize {
    (set >> PAGES_SHIFT) as usize % MAX_PAGES + 1
}

/// The page of a hash in a set.
pub fn page_of(set: i64, hash: u32) -> u32 {
    ((u64::from(hash) * pages_of(set) as u64) >> 32) as u32
}

/// The least hash that falls into a page of a set, or one more than the greatest hash.
pub fn first_hash(set: i64, page: usize) -> u64 {
    ((page as u64) << 32).div_ceil(pages_of(set) as u64)
}

/// When a set was made, among those of its doc.
pub fn age(set: i64) -> i64 {
    set % (1 << PAGES_SHIFT)
}

/// Indexes the rows of runs that have just been appended and do not carry their keys.
pub fn index(names: &Names, author: &Author<'_>, runs: &[NewRun]) -> Result<()> {
    let count: usize = runs.iter().map(|run| run.keys.len()).sum();
    if count > SMALL {
        let mut entries = Vec::new();
        add_entries(author.peer, runs, &mut entries)?;
        return write_set(names, author.doc, &mut entries);
    }
    let rel = Relation::open(names.key, Lock::RowExclusive);
    let mut inserter = Inserter::new(&rel);
    for run in runs {
        for key in &run.keys {
            inserter.insert(&[
                Field::I64(author.doc),
                Field::I64(hash_of(*key)),
                Field::I32(author.peer),
                Field::I64(run.counter_start as i64),
            ]);
        }
    }
    Ok(())
}

/// Adds the entries of a peer's runs.
pub fn add_entries(peer: i32, runs: &[NewRun], entries: &mut Vec<Entry>) -> Result<()> {
    alloc::reserve(entries, runs.iter().map(|run| run.keys.len()).sum())?;
    for run in runs {
        let entry = |key: &i64| Entry::new(upper_half(*key), peer, run.counter_start, *key as u8);
        entries.extend(run.keys.iter().map(entry));
    }
    Ok(())
}

/// Writes a new set of pages, if there are entries, and merges sets where there are enough.
pub fn write_set(names: &Names, doc: i64, entries: &mut [Entry]) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let pages = Relation::open(names.page, Lock::RowExclusive);
    let sets = Sets { names, pages: &pages, doc };
    let tier = tier_of(entries.len());
    sets.write(tier, entries);
    sets.merge(tier, entries.len())
}

/// The tier of a new set, by its size.
fn tier_of(entries: usize) -> i64 {
    let holds = |tier: &i64| entries <= FIRST_TIER_ENTRIES * FAN.pow(*tier as u32);
    (0..LAST_TIER).find(holds).unwrap_or(LAST_TIER)
}

pub fn malformed() -> Error {
    Error::new(state::CORRUPT, "malformed page in crdt.event_key_page")
}

/// The sets of a doc, of one tier or all, by skipping from one to the next through the index.
pub fn sets_of(names: &Names, pages: &Relation, doc: i64, tier: Option<i64>, snapshot: Snapshot) -> Result<Vec<i64>> {
    let mut above = tier.map_or(-1, |t| (t << TIER_SHIFT) - 1);
    let end = tier.map_or(i64::MAX, |t| (t << TIER_SHIFT) + ((1 << TIER_SHIFT) - 1));
    let key_of = |above: i64| -> [Key<'_>; 3] {
        [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Gt, Field::I64(above)), (2, Cmp::Le, Field::I64(end))]
    };
    let mut scan = IndexScan::new(pages, names.page_pkey, snapshot, &key_of(above), false);
    let mut sets = Vec::new();
    while let Some(set) = scan.next_row().map(|row| row.i64(2)) {
        alloc::push(&mut sets, set)?;
        above = set;
        scan.again(&key_of(above));
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use crdt_engine::ValueRef;
    use crdt_engine::ops::Origin;

    use super::*;
    use crate::key_page;

    #[test]
    fn hashes_are_searched_in_the_order_they_are_sorted_in() {
        assert!(upper_half(-1) > upper_half(i64::MAX) && upper_half(i64::MAX) > upper_half(0));
    }

    #[test]
    fn a_set_has_as_many_pages_as_it_needs() {
        let pages = |entries, width| pages_of(set_number(LAST_TIER, pages_for(entries, width), 77));
        assert_eq!([(1, 20), (1028, 7), (1029, 7), (1 << 20, 7)].map(|(n, width)| pages(n, width)), [1, 1, 2, 1020]);
        assert_eq!(pages(usize::MAX >> 12, 20), MAX_PAGES);
        let third = set_number(0, 3, 1);
        assert_eq!([0, u32::MAX / 3, u32::MAX / 3 + 1, u32::MAX].map(|hash| page_of(third, hash)), [0, 0, 1, 2]);
    }

    #[test]
    fn a_page_begins_with_its_first_hash() {
        for pages in [1, 2, 3, 7, 630, 5040, MAX_PAGES - 1, MAX_PAGES] {
            let set = set_number(3, pages, 5);
            for page in [0, 1, pages / 3, pages - 1].into_iter().filter(|page| *page < pages) {
                let first = first_hash(set, page);
                assert_eq!(page_of(set, first as u32) as usize, page);
                assert!(first == 0 || page_of(set, first as u32 - 1) as usize == page - 1);
            }
            assert_eq!((first_hash(set, 0), first_hash(set, pages)), (0, 1 << 32));
        }
    }

    #[test]
    fn the_tier_of_a_set_follows_its_size() {
        let most = |tier: i64| FIRST_TIER_ENTRIES * FAN.pow(tier as u32);
        for tier in 0..LAST_TIER {
            assert_eq!((tier_of(most(tier)), tier_of(most(tier) + 1)), (tier, tier + 1));
        }
        assert_eq!((tier_of(1), tier_of(usize::MAX)), (0, LAST_TIER));
    }

    #[test]
    fn the_largest_page_fits_a_heap_page() {
        let entry = |i: usize| match i {
            0 => Entry::new(0, 1, 0, 0),
            _ => Entry::new(i as u32, i32::MAX - i as i32, (1 << 53) - 1 - i as u64, ANYTHING),
        };
        let worst: Vec<Entry> = (0..PART_BYTES / 16).map(entry).collect();
        assert_eq!(key_page::width(&worst), 16);
        let length = key_page::encode(&worst).len();
        assert!((PART_BYTES - 20..PART_BYTES + 40).contains(&length), "{length}");
    }

    #[test]
    fn a_rows_key_says_all_that_is_done_to_it() {
        let mut ops = OpBuf::new();
        let (t, a, b) = (ops.sym("t"), ops.sym("a"), ops.sym("b"));
        let value = ValueRef::Int(1);
        ops.update(t, "twice", a, value, Origin::Explicit).unwrap();
        ops.update(t, "twice", b, value, Origin::Explicit).unwrap();
        ops.delete(t, "gone").unwrap();
        ops.insert(t, "made").unwrap();
        ops.cell(b, value).unwrap();
        ops.insert(t, "gone").unwrap();
        ops.opaque(9, 1, b"").unwrap();
        ops.update(t, "late", a, value, Origin::Explicit).unwrap();
        ops.insert(t, "made").unwrap();
        ops.cell(a, value).unwrap();
        let (a, b) = (column_bit("a"), column_bit("b"));
        let meant = [("twice", a | b), ("gone", DELETES), ("made", a | b), ("late", a)];
        let mut meant: Vec<i64> = meant.map(|(row, bits)| row_hash("t", row) & !BITS | i64::from(bits)).to_vec();
        meant.sort_unstable();
        assert_eq!(of_ops(&ops, 0, ops.len()).unwrap(), meant);
        let alone = of_ops(&ops, 1, 2).unwrap();
        assert_eq!(alone.iter().map(|key| hash_of(*key)).collect::<Vec<_>>(), [row_hash("t", "twice") & !BITS]);
    }

    /// They are stored.
    #[test]
    fn the_bit_of_a_column_stays_what_it_is() {
        let bits = ["id", "n", "v", "name", "", "ä"].map(column_bit);
        assert_eq!(bits, [8, 2, 32, 2, 16, 1]);
        assert!(bits.iter().all(|bit| bit.count_ones() == 1 && *bit != DELETES));
    }
}
