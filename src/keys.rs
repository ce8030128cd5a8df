//! Which runs touch a row: from the hash of `(table, row id)` to runs.
//!
//! A run about one row carries the hash itself. A few rows are entries of a table. Many are pages of sorted entries, one
//! set of pages a flush, in a tier by its size. Sets are merged by eights into the next tier, as in a log-structured merge
//! tree (O'Neil et al. 1996), so that a look-up searches few of them and a write pays for its entries a few times in all.

use rustc_hash::FxHashMap;

use crate::catalog::{self, Names};
use crate::error::{Error, Result, state};
use crate::pg::lock::{self, Space};
use crate::pg::relation::{self, Cmp, Field, IndexScan, Inserter, Key, Lock, Relation, Snapshot};
use crate::pg::{entry, xact};
use crate::store::{Author, NewRun, get_varint, lock_class, put_varint};

/// A flush that touches more rows than this indexes them as pages.
const SMALL: usize = 16;
/// Entries of a page: with the longest numbers a page's row stays inside a heap page.
const PAGE_ENTRIES: usize = 300;
/// Sets of a tier that are merged into one of the next.
const FAN: usize = 8;
/// Entries that a set of the first tier may have; each further tier's may have [`FAN`] times as many.
const FIRST_TIER_ENTRIES: usize = 2048;
/// Sets of this tier are merged no further: what is merged is held in memory, a million entries at most.
const LAST_TIER: i64 = 3;
/// A set's number is its tier, then the next of a sequence.
const TIER_SHIFT: u32 = 56;

/// One row touched by one run: the row's hash, and the run as an index of those of its [`Entries`].
type Entry = (i64, u32);

/// Entries and the runs they name, as `(peer, first counter)`.
#[derive(Default)]
struct Entries {
    runs: Vec<(i32, u64)>,
    of: Vec<Entry>,
}

/// Indexes the rows of runs that have just been appended.
pub fn index(names: &Names, author: &Author<'_>, runs: &[NewRun]) -> Result<()> {
    let several = || runs.iter().filter(|r| r.keys.len() > 1);
    let count: usize = several().map(|r| r.keys.len()).sum();
    if count == 0 {
        return Ok(());
    }
    if count <= SMALL {
        let rel = Relation::open(names.key, Lock::RowExclusive);
        let mut inserter = Inserter::new(&rel);
        for run in several() {
            for hash in &run.keys {
                inserter.insert(&[
                    Field::I64(author.doc),
                    Field::I64(*hash),
                    Field::I32(author.peer),
                    Field::I64(run.counter_start as i64),
                ]);
            }
        }
        return Ok(());
    }
    let mut entries = Entries { runs: Vec::new(), of: Vec::with_capacity(count) };
    for run in several() {
        let at = entries.runs.len() as u32;
        entries.runs.push((author.peer, run.counter_start));
        entries.of.extend(run.keys.iter().map(|hash| (*hash, at)));
    }
    let pages = Relation::open(names.page, Lock::RowExclusive);
    write_set(names, &pages, author.doc, tier_of(entries.of.len()), &mut entries);
    merge_tiers(names, &pages, author.doc)
}

/// The tier of a new set: by its size, so that a merge is bounded however much one flush brings.
fn tier_of(entries: usize) -> i64 {
    let holds = |tier: &i64| entries <= FIRST_TIER_ENTRIES * FAN.pow(*tier as u32);
    (0..LAST_TIER).find(holds).unwrap_or(LAST_TIER)
}

/// Writes entries as a set of pages, sorted.
fn write_set(names: &Names, pages: &Relation, doc: i64, tier: i64, entries: &mut Entries) {
    // Each run's keys, or each set's, are in order already: a sort that merges what it finds sorted is the faster one.
    entries.of.sort();
    let set = tier << TIER_SHIFT | relation::next_value(names.page_seq);
    let mut inserter = Inserter::new(pages);
    let mut slots = Slots::new(entries.runs.len());
    for (part, chunk) in entries.of.chunks(PAGE_ENTRIES).enumerate() {
        inserter.insert(&[
            Field::I64(doc),
            Field::I64(set),
            Field::I64(chunk[0].0),
            Field::I32(part as i32),
            Field::Bytes(&encode_page(chunk, &entries.runs, &mut slots)),
        ]);
    }
}

/// Merges full tiers. One transaction a doc does so at a time; others leave it to the next.
fn merge_tiers(names: &Names, pages: &Relation, doc: i64) -> Result<()> {
    for tier in 0..LAST_TIER {
        let sets = sets_of(names, pages, doc, Some(tier), Snapshot::Committed);
        if sets.len() < FAN || !lock::try_lock(lock_class()?, doc as u32, Space::Pages) {
            return Ok(());
        }
        xact::command_counter_increment();
        let mut entries = Entries::default();
        for set in sets_of(names, pages, doc, Some(tier), Snapshot::Committed).into_iter().take(FAN) {
            take_set(names, pages, doc, set, &mut entries)?;
        }
        write_set(names, pages, doc, tier + 1, &mut entries);
    }
    Ok(())
}

/// Reads a set's entries and deletes its pages. Readers of pages use a snapshot, so they see it until we commit.
fn take_set(names: &Names, pages: &Relation, doc: i64, set: i64, into: &mut Entries) -> Result<()> {
    let keys = [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I64(set))];
    let mut known = FxHashMap::default();
    let mut scan = IndexScan::new(pages, names.page_pkey, Snapshot::Committed, &keys, false);
    while let Some(row) = scan.next_row() {
        entry::check_interrupts();
        let page = row.bytes(5).unwrap_or_default();
        Page::read(&page).and_then(|p| p.all(into, &mut known)).ok_or_else(malformed)?;
        row.delete(pages);
    }
    Ok(())
}

fn malformed() -> Error {
    Error::new(state::CORRUPT, "malformed page in crdt.event_key_page")
}

/// Runs that touch rows of these hashes, as `(peer, first counter)`. Sets of pages are merged by others meanwhile, so the
/// snapshot must be one: not [`Snapshot::Committed`].
pub fn runs_touching(doc: i64, hashes: &[i64], snapshot: Snapshot) -> Result<Vec<(i32, u64)>> {
    let names = catalog::names()?;
    let Some(first) = hashes.first() else { return Ok(Vec::new()) };
    let mut runs = Vec::new();
    let key_of = |hash: i64| [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I64(hash))];
    let log = Relation::open(names.run, Lock::AccessShare);
    let mut single = IndexScan::new(&log, names.run_row, snapshot, &key_of(*first), false);
    let small = Relation::open(names.key, Lock::AccessShare);
    let mut several = IndexScan::new(&small, names.key_pkey, snapshot, &key_of(*first), false);
    for hash in hashes {
        entry::check_interrupts();
        single.again(&key_of(*hash));
        while let Some(row) = single.next_row() {
            runs.push((row.i32(2), row.i64(3) as u64));
        }
        several.again(&key_of(*hash));
        while let Some(row) = several.next_row() {
            runs.push((row.i32(3), row.i64(4) as u64));
        }
    }
    drop((single, several));
    let pages = Relation::open(names.page, Lock::AccessShare);
    for set in sets_of(&names, &pages, doc, None, snapshot) {
        search_set(&names, &pages, (doc, set), hashes, snapshot, &mut runs)?;
    }
    Ok(runs)
}

/// The sets of a doc, of one tier or all, by skipping from one to the next through the index.
fn sets_of(names: &Names, pages: &Relation, doc: i64, tier: Option<i64>, snapshot: Snapshot) -> Vec<i64> {
    let mut above = tier.map_or(-1, |t| (t << TIER_SHIFT) - 1);
    let end = tier.map_or(i64::MAX, |t| ((t + 1) << TIER_SHIFT) - 1);
    let key_of = |above: i64| -> [Key<'_>; 3] {
        [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Gt, Field::I64(above)), (2, Cmp::Le, Field::I64(end))]
    };
    let mut scan = IndexScan::new(pages, names.page_pkey, snapshot, &key_of(above), false);
    let mut sets = Vec::new();
    while let Some(set) = scan.next_row().map(|row| row.i64(2)) {
        sets.push(set);
        above = set;
        scan.again(&key_of(above));
    }
    sets
}

fn search_set(
    names: &Names,
    pages: &Relation,
    (doc, set): (i64, i64),
    hashes: &[i64],
    snapshot: Snapshot,
    runs: &mut Vec<(i32, u64)>,
) -> Result<()> {
    let key_of =
        |hash: i64| [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I64(set)), (3, Cmp::Le, Field::I64(hash))];
    let mut scan = IndexScan::new(pages, names.page_pkey, snapshot, &key_of(hashes[0]), true);
    for hash in hashes {
        scan.again(&key_of(*hash));
        while let Some(row) = scan.next_row() {
            let page = row.bytes(5).unwrap_or_default();
            Page::read(&page).and_then(|p| p.find(*hash, runs)).ok_or_else(malformed)?;
            // A row touched by many runs has entries on several pages.
            if row.i64(3) < *hash {
                break;
            }
        }
    }
    Ok(())
}

/// Which of a page's runs a run is, for one page after the other.
struct Slots {
    page: u32,
    /// By run: the page it was last met on, and its place there.
    of: Vec<(u32, u16)>,
}

impl Slots {
    fn new(runs: usize) -> Slots {
        Slots { page: 0, of: vec![(0, 0); runs] }
    }
}

/// A page: its runs (peer, first counter), then sorted hashes of 8 bytes, then for each the index of its run in 2.
fn encode_page(entries: &[Entry], of: &[(i32, u64)], slots: &mut Slots) -> Vec<u8> {
    slots.page += 1;
    let mut count = 0u16;
    let mut runs = Vec::new();
    for (_, run) in entries {
        let slot = &mut slots.of[*run as usize];
        if slot.0 != slots.page {
            *slot = (slots.page, count);
            count += 1;
            let (peer, counter) = of[*run as usize];
            put_varint(&mut runs, peer as u64);
            put_varint(&mut runs, counter);
        }
    }
    let mut out = Vec::with_capacity(entries.len() * 10 + runs.len() + 8);
    put_varint(&mut out, u64::from(count));
    out.extend_from_slice(&runs);
    put_varint(&mut out, entries.len() as u64);
    for (hash, _) in entries {
        out.extend_from_slice(&hash.to_le_bytes());
    }
    for (_, run) in entries {
        out.extend_from_slice(&slots.of[*run as usize].1.to_le_bytes());
    }
    out
}

/// A page, read.
struct Page<'p> {
    runs: Vec<(i32, u64)>,
    hashes: &'p [u8],
    of: &'p [u8],
}

impl<'p> Page<'p> {
    fn read(page: &'p [u8]) -> Option<Page<'p>> {
        let mut at = 0;
        let run_count = get_varint(page, &mut at)? as usize;
        let mut runs = Vec::new();
        for _ in 0..run_count {
            runs.push((i32::try_from(get_varint(page, &mut at)?).ok()?, get_varint(page, &mut at)?));
        }
        let n = usize::try_from(get_varint(page, &mut at)?).ok()?;
        let hashes = page.get(at..at.checked_add(n.checked_mul(8)?)?)?;
        let of = page.get(at + n * 8..at.checked_add(n.checked_mul(10)?)?)?;
        Some(Page { runs, hashes, of })
    }

    fn len(&self) -> usize {
        self.hashes.len() / 8
    }

    fn hash(&self, i: usize) -> i64 {
        i64::from_le_bytes(self.hashes[i * 8..i * 8 + 8].try_into().expect("8 bytes"))
    }

    fn run(&self, i: usize) -> Option<(i32, u64)> {
        self.runs.get(u16::from_le_bytes([self.of[i * 2], self.of[i * 2 + 1]]) as usize).copied()
    }

    /// Adds the runs of a hash.
    fn find(&self, hash: i64, runs: &mut Vec<(i32, u64)>) -> Option<()> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if self.hash(middle) < hash { low = middle + 1 } else { high = middle }
        }
        for i in (low..self.len()).take_while(|i| self.hash(*i) == hash) {
            runs.push(self.run(i)?);
        }
        Some(())
    }

    /// Adds all entries. `known` finds runs that are in `into` already.
    fn all(&self, into: &mut Entries, known: &mut FxHashMap<(i32, u64), u32>) -> Option<()> {
        let places: Vec<u32> = (self.runs.iter())
            .map(|run| {
                *known.entry(*run).or_insert_with(|| {
                    into.runs.push(*run);
                    into.runs.len() as u32 - 1
                })
            })
            .collect();
        for i in 0..self.len() {
            let slot = u16::from_le_bytes([self.of[i * 2], self.of[i * 2 + 1]]);
            into.of.push((self.hash(i), *places.get(slot as usize)?));
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(entries: &Entries) -> Vec<u8> {
        encode_page(&entries.of, &entries.runs, &mut Slots::new(entries.runs.len()))
    }

    #[test]
    fn a_page_gives_back_what_it_was_made_of() {
        let runs: Vec<(i32, u64)> = (0..40).map(|i| (i % 3, 1000 * i as u64)).collect();
        let of = (0..299).map(|i: i64| ((i % 70 - 30) * 1_000_003, (i % 40) as u32));
        let mut entries = Entries { runs, of: of.collect() };
        entries.of.sort_unstable();
        let bytes = page_of(&entries);
        let page = Page::read(&bytes).expect("well-formed");
        let (mut all, mut known) = (Entries::default(), FxHashMap::default());
        page.all(&mut all, &mut known).expect("well-formed");
        let plain = |e: &Entries| -> Vec<(i64, (i32, u64))> {
            e.of.iter().map(|(hash, run)| (*hash, e.runs[*run as usize])).collect()
        };
        assert_eq!(plain(&all), plain(&entries));
        for hash in [-30 * 1_000_003, 0, 39 * 1_000_003, 1, i64::MIN, i64::MAX] {
            let mut runs = Vec::new();
            page.find(hash, &mut runs).expect("well-formed");
            let meant: Vec<(i32, u64)> =
                plain(&entries).into_iter().filter(|(h, _)| *h == hash).map(|(_, run)| run).collect();
            assert_eq!(runs, meant);
        }
    }

    #[test]
    fn a_run_has_a_place_of_its_own_on_each_page() {
        let entries = Entries { runs: vec![(1, 5), (2, 6)], of: vec![(3, 1), (4, 0), (9, 0)] };
        let mut slots = Slots::new(2);
        for (chunk, meant) in [(&entries.of[..2], (2, 6)), (&entries.of[2..], (1, 5))] {
            let bytes = encode_page(chunk, &entries.runs, &mut slots);
            let page = Page::read(&bytes).expect("well-formed");
            assert_eq!(page.run(0), Some(meant));
        }
    }

    #[test]
    fn a_merge_holds_a_million_entries_at_most() {
        let most = |tier: i64| FIRST_TIER_ENTRIES * FAN.pow(tier as u32);
        for tier in 0..LAST_TIER {
            assert_eq!((tier_of(most(tier)), tier_of(most(tier) + 1)), (tier, tier + 1));
            assert!(FAN * most(tier) <= 1 << 20);
        }
        assert_eq!((tier_of(1), tier_of(usize::MAX)), (0, LAST_TIER));
    }

    #[test]
    fn a_cut_page_is_refused_and_not_read_past() {
        let bytes = page_of(&Entries { runs: vec![(1, 9), (2, 1 << 40)], of: vec![(5, 0), (7, 1)] });
        for end in 0..bytes.len() {
            assert!(Page::read(&bytes[..end]).is_none(), "{end}");
        }
    }

    #[test]
    fn the_largest_page_fits_a_heap_page() {
        let runs = (0..PAGE_ENTRIES).map(|i| (i32::MAX - i as i32, (1 << 53) - 1 - i as u64)).collect();
        let worst = Entries { runs, of: (0..PAGE_ENTRIES).map(|i| (i as i64, i as u32)).collect() };
        assert!(page_of(&worst).len() < 8000, "{}", page_of(&worst).len());
    }
}
