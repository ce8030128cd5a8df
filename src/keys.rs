//! Which runs touch a row: from the hash of `(table, row id)` to runs.
//!
//! A run about one row carries the hash itself. A few rows are entries of a table. Many are pages of sorted entries, one
//! set of pages a flush, in a tier by its size. Sets are merged by eights into the next tier, as in a log-structured merge
//! tree (O'Neil et al. 1996), so that a look-up searches few of them and a write pays for its entries a few times in all.
//!
//! A page holds the hashes of an equal part of all, as a bucket of a hash table does: so it is found by equality. A
//! search for the last page that begins at or below a hash costs several times that, because PostgreSQL looks at every
//! entry of the index's page that might do.

use crdt_engine::alloc;

use crate::catalog::{self, Names};
use crate::error::{Error, Result, state};
use crate::pg::lock::{self, Space};
use crate::pg::relation::{self, Cmp, Field, IndexScan, Inserter, Key, Lock, Relation, Row, Snapshot};
use crate::pg::{entry, xact};
use crate::store::{Author, NewRun, get_varint, lock_class, put_varint};

/// A flush that touches more rows than this indexes them as pages.
const SMALL: usize = 16;
/// Bytes of the entries of a part of a page, at most: its row stays inside a heap page.
const PART_BYTES: usize = 8000;
/// How full pages are on average, in hundredths: few have a second part. Hashes fall on pages by chance, a thousand give or
/// take thirty.
const FILL: usize = 90;
/// Pages that a search passes in the index rather than look the next wanted one up, for each hash.
const PASSED: usize = 32;
/// Sets of a tier that are merged into one of the next.
const FAN: usize = 8;
/// Entries that a set of the first tier may have; each further tier's may have [`FAN`] times as many.
const FIRST_TIER_ENTRIES: usize = 2048;
/// Sets of this tier are merged no further: what is merged is held in memory, a million entries at most.
const LAST_TIER: i64 = 3;
/// A set's number is its tier, then one less than the number of its pages, then the next of a sequence.
const TIER_SHIFT: u32 = 60;
const PAGES_SHIFT: u32 = 40;
const MAX_PAGES: usize = 1 << (TIER_SHIFT - PAGES_SHIFT);

/// One row touched by one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// The upper half of the row's hash. Who finds a run by it looks for the row itself there, so a few too many are found.
    hash: u32,
    peer: i32,
    counter: u64,
}

/// What pages know of a hash.
fn upper_half(hash: i64) -> u32 {
    (hash as u64 >> 32) as u32
}

/// The number of a set of entries that take so many bytes each.
fn set_number(tier: i64, entries: usize, width: usize, next: i64) -> i64 {
    let pages = (entries * width * 100).div_ceil(PART_BYTES * FILL).clamp(1, MAX_PAGES);
    tier << TIER_SHIFT | (pages as i64 - 1) << PAGES_SHIFT | next
}

/// The page of a hash in a set.
fn page_of(set: i64, hash: u32) -> u32 {
    let pages = (set >> PAGES_SHIFT) as u64 % MAX_PAGES as u64 + 1;
    ((u64::from(hash) * pages) >> 32) as u32
}

fn count(runs: &[NewRun]) -> usize {
    runs.iter().filter(|r| r.keys.len() > 1).map(|r| r.keys.len()).sum()
}

/// Do runs of a flush that touch several rows touch few in all? Then each carries the first of its hashes itself.
pub fn few(runs: &[NewRun]) -> bool {
    count(runs) <= SMALL
}

/// Indexes the rows of runs that have just been appended, but for those that the runs carry themselves.
pub fn index(names: &Names, author: &Author<'_>, runs: &[NewRun]) -> Result<()> {
    let count = count(runs);
    if count == 0 {
        return Ok(());
    }
    if count <= SMALL {
        let rel = Relation::open(names.key, Lock::RowExclusive);
        let mut inserter = Inserter::new(&rel);
        for run in runs {
            for hash in run.keys.iter().skip(1) {
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
    let mut entries = Vec::new();
    alloc::reserve(&mut entries, count)?;
    for run in runs.iter().filter(|r| r.keys.len() > 1) {
        let entry = |hash: &i64| Entry { hash: upper_half(*hash), peer: author.peer, counter: run.counter_start };
        entries.extend(run.keys.iter().map(entry));
    }
    let pages = Relation::open(names.page, Lock::RowExclusive);
    write_set(names, &pages, author.doc, tier_of(entries.len()), &mut entries);
    merge_tiers(names, &pages, author.doc)
}

/// The tier of a new set: by its size, so that a merge is bounded however much one flush brings.
fn tier_of(entries: usize) -> i64 {
    let holds = |tier: &i64| entries <= FIRST_TIER_ENTRIES * FAN.pow(*tier as u32);
    (0..LAST_TIER).find(holds).unwrap_or(LAST_TIER)
}

/// Writes entries as a set of pages, sorted.
fn write_set(names: &Names, pages: &Relation, doc: i64, tier: i64, entries: &mut [Entry]) {
    // Each run's keys, or each set's, are in order already: a sort that merges what it finds sorted is the faster one.
    entries.sort_by_key(|e| e.hash);
    let width =
        4 + Span::of(entries.iter().map(|e| e.peer as u64)).width + Span::of(entries.iter().map(|e| e.counter)).width;
    let set = set_number(tier, entries.len(), width, relation::next_value(names.page_seq));
    let mut inserter = Inserter::new(pages);
    for page in entries.chunk_by(|a, b| page_of(set, a.hash) == page_of(set, b.hash)) {
        for (part, chunk) in page.chunks(PART_BYTES / width).enumerate() {
            inserter.insert(&[
                Field::I64(doc),
                Field::I64(set),
                Field::I64(i64::from(page_of(set, page[0].hash))),
                Field::I32(part as i32),
                Field::Bytes(&encode_page(chunk)),
            ]);
        }
    }
}

/// Merges full tiers. One transaction a doc does so at a time; others leave it to the next.
fn merge_tiers(names: &Names, pages: &Relation, doc: i64) -> Result<()> {
    for tier in 0..LAST_TIER {
        let sets = sets_of(names, pages, doc, Some(tier), Snapshot::Committed)?;
        if sets.len() < FAN || !lock::try_lock(lock_class()?, doc as u32, Space::Pages) {
            return Ok(());
        }
        xact::command_counter_increment();
        let mut entries = Vec::new();
        for set in sets_of(names, pages, doc, Some(tier), Snapshot::Committed)?.into_iter().take(FAN) {
            take_set(names, pages, doc, set, &mut entries)?;
        }
        write_set(names, pages, doc, tier + 1, &mut entries);
    }
    Ok(())
}

/// Reads a set's entries and deletes its pages. Readers of pages use a snapshot, so they see it until we commit.
fn take_set(names: &Names, pages: &Relation, doc: i64, set: i64, into: &mut Vec<Entry>) -> Result<()> {
    let keys = [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I64(set))];
    let mut scan = IndexScan::new(pages, names.page_pkey, Snapshot::Committed, &keys, false);
    while let Some(row) = scan.next_row() {
        entry::check_interrupts();
        row.with_bytes(5, |bytes| -> Result<()> {
            let part = Page::read(bytes).ok_or_else(malformed)?;
            alloc::reserve(into, part.hashes.len())?;
            into.extend(part.entries());
            Ok(())
        })
        .ok_or_else(malformed)??;
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
            alloc::push(&mut runs, (row.i32(2), row.i64(3) as u64))?;
        }
        several.again(&key_of(*hash));
        while let Some(row) = several.next_row() {
            alloc::push(&mut runs, (row.i32(3), row.i64(4) as u64))?;
        }
    }
    drop((single, several));
    let mut hashes: Vec<u32> = hashes.iter().copied().map(upper_half).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let pages = Relation::open(names.page, Lock::AccessShare);
    for set in sets_of(&names, &pages, doc, None, snapshot)? {
        search_set(&names, &pages, (doc, set), &hashes, snapshot, &mut runs)?;
    }
    Ok(runs)
}

/// The sets of a doc, of one tier or all, by skipping from one to the next through the index.
fn sets_of(names: &Names, pages: &Relation, doc: i64, tier: Option<i64>, snapshot: Snapshot) -> Result<Vec<i64>> {
    let mut above = tier.map_or(-1, |t| (t << TIER_SHIFT) - 1);
    let end = tier.map_or(i64::MAX, |t| ((t + 1) << TIER_SHIFT) - 1);
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

/// Looks for hashes, given in order, in a set's pages; each page is read once.
fn search_set(
    names: &Names,
    pages: &Relation,
    (doc, set): (i64, i64),
    hashes: &[u32],
    snapshot: Snapshot,
    runs: &mut Vec<(i32, u64)>,
) -> Result<()> {
    let of_page = |page: u32| {
        let from = hashes.partition_point(|hash| page_of(set, *hash) < page);
        let alike = hashes[from..].partition_point(|hash| page_of(set, *hash) == page);
        &hashes[from..from + alike]
    };
    let key_of = |from: u32, to: u32| {
        let (from, to) = (Field::I64(i64::from(from)), Field::I64(i64::from(to)));
        [(1, Cmp::Eq, Field::I64(doc)), (2, Cmp::Eq, Field::I64(set)), (3, Cmp::Ge, from), (3, Cmp::Le, to)]
    };
    let (Some(first), Some(last)) = (hashes.first(), hashes.last()) else { return Ok(()) };
    let (first, last) = (page_of(set, *first), page_of(set, *last));
    let mut scan = IndexScan::new(pages, names.page_pkey, snapshot, &key_of(first, last), false);
    if (last - first) as usize <= hashes.len() * PASSED {
        let mut scan = scan.reading_entries();
        while let Some(row) = scan.next_where(3, |page| !of_page(page as u32).is_empty()) {
            entry::check_interrupts();
            search_part(&row, of_page(row.i64(3) as u32), runs)?;
        }
        return Ok(());
    }
    for alike in hashes.chunk_by(|a, b| page_of(set, *a) == page_of(set, *b)) {
        entry::check_interrupts();
        let page = page_of(set, alike[0]);
        scan.again(&key_of(page, page));
        // A page with a row that many runs touch has several parts.
        while let Some(row) = scan.next_row() {
            search_part(&row, alike, runs)?;
        }
    }
    Ok(())
}

/// Looks for hashes in a part of their page.
fn search_part(row: &Row<'_>, hashes: &[u32], runs: &mut Vec<(i32, u64)>) -> Result<()> {
    row.with_bytes(5, |bytes| {
        let part = Page::read(bytes).ok_or_else(malformed)?;
        let mut found = hashes.iter().flat_map(|hash| part.find(*hash));
        found.try_for_each(|run| Ok(alloc::push(runs, run)?))
    })
    .ok_or_else(malformed)?
}

/// A part of a page: how many entries; their sorted hashes, four bytes each; their peers, then their first counters, each as the
/// least, a width in bytes, and that many bytes each for the distance from the least.
fn encode_page(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 8 + 32);
    put_varint(&mut out, entries.len() as u64);
    for entry in entries {
        out.extend_from_slice(&entry.hash.to_le_bytes());
    }
    put_numbers(&mut out, entries.iter().map(|e| e.peer as u64));
    put_numbers(&mut out, entries.iter().map(|e| e.counter));
    out
}

/// The least of some numbers, and how many bytes the distances of the others from it take.
struct Span {
    least: u64,
    width: usize,
}

impl Span {
    fn of(numbers: impl Iterator<Item = u64> + Clone) -> Span {
        let least = numbers.clone().min().unwrap_or(0);
        let range = numbers.max().unwrap_or(0) - least;
        Span { least, width: (64 - range.leading_zeros()).div_ceil(8) as usize }
    }
}

fn put_numbers(out: &mut Vec<u8>, numbers: impl Iterator<Item = u64> + Clone) {
    let Span { least, width } = Span::of(numbers.clone());
    put_varint(out, least);
    out.push(width as u8);
    for n in numbers {
        out.extend_from_slice(&(n - least).to_le_bytes()[..width]);
    }
}

/// A part of a page, read.
struct Page<'p> {
    hashes: &'p [[u8; 4]],
    peers: Numbers<'p>,
    counters: Numbers<'p>,
}

/// Numbers as [`put_numbers`] writes them.
struct Numbers<'p> {
    least: u64,
    width: usize,
    bytes: &'p [u8],
}

impl<'p> Numbers<'p> {
    fn read(page: &'p [u8], at: &mut usize, count: usize) -> Option<Numbers<'p>> {
        let least = get_varint(page, at)?;
        let width = usize::from(*page.get(*at)?);
        let end = (*at + 1).checked_add(count.checked_mul(width)?)?;
        let bytes = page.get(*at + 1..end)?;
        *at = end;
        (width <= 8).then_some(Numbers { least, width, bytes })
    }

    fn get(&self, i: usize) -> u64 {
        let mut wide = [0; 8];
        wide[..self.width].copy_from_slice(&self.bytes[i * self.width..(i + 1) * self.width]);
        self.least.wrapping_add(u64::from_le_bytes(wide))
    }
}

impl<'p> Page<'p> {
    fn read(page: &'p [u8]) -> Option<Page<'p>> {
        let mut at = 0;
        let count = usize::try_from(get_varint(page, &mut at)?).ok()?;
        let end = at.checked_add(count.checked_mul(4)?)?;
        let (hashes, _) = page.get(at..end)?.as_chunks();
        at = end;
        let peers = Numbers::read(page, &mut at, count)?;
        let counters = Numbers::read(page, &mut at, count)?;
        Some(Page { hashes, peers, counters })
    }

    fn entry(&self, i: usize) -> Entry {
        let (peer, counter) = self.run(i);
        Entry { hash: u32::from_le_bytes(self.hashes[i]), peer, counter }
    }

    fn run(&self, i: usize) -> (i32, u64) {
        (self.peers.get(i) as i32, self.counters.get(i))
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..self.hashes.len()).map(|i| self.entry(i))
    }

    /// The runs of a hash.
    fn find(&self, hash: u32) -> impl Iterator<Item = (i32, u64)> {
        let first = self.first_from(hash);
        let same = self.hashes[first..].iter().take_while(move |h| u32::from_le_bytes(**h) == hash);
        (first..).zip(same).map(|(i, _)| self.run(i))
    }

    /// The first entry with this hash or a greater one. Hashes lie evenly, so its place is guessed, and the way from there
    /// is short: a search by halves would have to wait for memory more often.
    fn first_from(&self, hash: u32) -> usize {
        let at = |i: usize| u32::from_le_bytes(self.hashes[i]);
        let Some(last) = self.hashes.len().checked_sub(1) else { return 0 };
        if hash <= at(0) {
            return 0;
        }
        if hash > at(last) {
            return last + 1;
        }
        let part = u64::from(hash - at(0)) * last as u64 / u64::from(at(last) - at(0));
        let mut i = part as usize;
        while at(i) >= hash {
            i -= 1;
        }
        while at(i) < hash {
            i += 1;
        }
        i
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gives_back_what_it_was_made_of() {
        let entry =
            |i: u32| Entry { hash: i % 70 * 60_000_003, peer: (i % 3) as i32, counter: 1000 * u64::from(i % 40) };
        let mut entries: Vec<Entry> = (0..299).map(entry).collect();
        entries.sort_by_key(|e| e.hash);
        let bytes = encode_page(&entries);
        let page = Page::read(&bytes).expect("well-formed");
        assert_eq!(page.entries().collect::<Vec<_>>(), entries);
        for hash in (0..70).map(|i| i * 60_000_003).flat_map(|h| [h, h + 1]).chain([u32::MAX]) {
            let meant = entries.iter().filter(|e| e.hash == hash).map(|e| (e.peer, e.counter));
            assert_eq!(page.find(hash).collect::<Vec<_>>(), meant.collect::<Vec<_>>(), "{hash}");
        }
    }

    #[test]
    fn hashes_are_searched_in_the_order_they_are_sorted_in() {
        assert!(upper_half(-1) > upper_half(i64::MAX) && upper_half(i64::MAX) > upper_half(0));
    }

    #[test]
    fn a_set_has_as_many_pages_as_it_needs() {
        let pages = |entries, width| page_of(set_number(LAST_TIER, entries, width, 77), u32::MAX) + 1;
        assert_eq!([(1, 20), (1028, 7), (1029, 7), (1 << 20, 7)].map(|(n, width)| pages(n, width)), [1, 1, 2, 1020]);
        assert_eq!(pages(usize::MAX >> 12, 20), MAX_PAGES as u32);
        let third = set_number(0, 3000, 7, 1);
        assert_eq!([0, u32::MAX / 3, u32::MAX / 3 + 1, u32::MAX].map(|hash| page_of(third, hash)), [0, 0, 1, 2]);
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
        let bytes =
            encode_page(&[Entry { hash: 5, peer: 1, counter: 9 }, Entry { hash: 7, peer: 2, counter: 1 << 40 }]);
        for end in 0..bytes.len() {
            assert!(Page::read(&bytes[..end]).is_none(), "{end}");
        }
    }

    #[test]
    fn the_largest_page_fits_a_heap_page() {
        let entry = |i: usize| Entry {
            hash: i as u32,
            peer: if i == 0 { 1 } else { i32::MAX - i as i32 },
            counter: if i == 0 { 0 } else { (1 << 53) - 1 - i as u64 },
        };
        let worst: Vec<Entry> = (0..PART_BYTES / 15).map(entry).collect();
        assert!(
            (PART_BYTES - 20..PART_BYTES + 40).contains(&encode_page(&worst).len()),
            "{}",
            encode_page(&worst).len()
        );
    }
}
