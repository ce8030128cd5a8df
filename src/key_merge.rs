//! Sets of row keys are written, and merged so that a look-up searches few of them, as in a log-structured merge tree
//! (O'Neil et al. 1996). One transaction a doc merges at a time; others leave it to the next.
//!
//! Eight sets of a tier become one of the next, at once while they are small. Larger ones are merged by hashes, a slice with each
//! flush, so that none has much to do: below the slices merged so far the new set has all entries, above them the old sets
//! have. A page of an old set that reaches beyond a slice stays until the next. So all sets together always have every entry,
//! some twice, and who looks for one need not know how far merging is.

use crdt_engine::alloc;

use crate::catalog::Names;
use crate::error::Result;
use crate::key_page::{self, Entry, Page};
use crate::keys::{
    FAN, LAST_TIER, MAX_PAGES, PART_BYTES, first_hash, malformed, page_of, pages_for, pages_of, set_number, sets_of,
};
use crate::pg::lock::{self, Space};
use crate::pg::relation::{self, Cmp, Field, IndexScan, Inserter, Lock, Relation, Snapshot};
use crate::pg::{entry, xact};
use crate::store::lock_class;

/// Sets of so many pages in all are merged at once: a hundred thousand entries, which are held in memory.
const AT_ONCE: usize = 128;
/// Pages of a slice for each thousand entries, about a page of them, that the flush itself writes, and one: an entry goes
/// through four large tiers at most, so merging keeps up with writing, and small flushes have little to do.
const SLICE_OF_THOUSAND: usize = 5;

/// The sets of a doc.
pub struct Sets<'s> {
    pub names: &'s Names,
    /// `crdt.event_key_page`, open for writing.
    pub pages: &'s Relation,
    pub doc: i64,
}

/// Sets that are being merged a slice at a time.
struct Merge {
    from: Vec<i64>,
    into: i64,
}

impl Sets<'_> {
    /// Writes entries as a new set.
    pub fn write(&self, tier: i64, entries: &mut [Entry]) {
        let pages = pages_for(entries.len(), key_page::width(entries));
        self.write_into(set_number(tier, pages, relation::next_value(self.names.page_seq)), entries);
    }

    /// Writes the pages of a set that some hashes fall into, given all of their entries.
    fn write_into(&self, set: i64, entries: &mut [Entry]) {
        // Each run's keys, or each set's, are in order already: a sort that merges what it finds sorted is the faster one.
        entries.sort_by_key(|e| e.hash);
        let mut inserter = Inserter::new(self.pages);
        for page in entries.chunk_by(|a, b| page_of(set, a.hash) == page_of(set, b.hash)) {
            for (part, chunk) in page.chunks(PART_BYTES / key_page::width(page)).enumerate() {
                inserter.insert(&[
                    Field::I64(self.doc),
                    Field::I64(set),
                    Field::I64(i64::from(page_of(set, page[0].hash))),
                    Field::I32(part as i32),
                    Field::Bytes(&key_page::encode(chunk)),
                ]);
            }
        }
    }

    /// Merges tiers that are full, after a flush has written a set of so many entries.
    pub fn merge(&self, tier: i64, written: usize) -> Result<()> {
        let due = self.of_tier(tier)?.len() >= FAN || self.running()?.is_some();
        if !due || !lock::try_lock(lock_class()?, self.doc as u32, Space::Pages) {
            return Ok(());
        }
        let mut running = self.running()?;
        for tier in 0..LAST_TIER {
            let mut sets = self.of_tier(tier)?;
            sets.retain(|set| running.as_ref().is_none_or(|merge| !merge.from.contains(set)));
            if sets.len() < FAN {
                continue;
            }
            // What this command wrote, it cannot delete.
            xact::command_counter_increment();
            let pages: usize = sets.iter().copied().map(pages_of).sum();
            if pages <= AT_ONCE {
                self.merge_at_once(tier, &sets)?;
            } else if running.is_none() {
                running = Some(self.begin(tier, sets, pages));
            }
        }
        running.map_or(Ok(()), |merge| self.merge_slice(&merge, 1 + SLICE_OF_THOUSAND * written / 1000))
    }

    fn of_tier(&self, tier: i64) -> Result<Vec<i64>> {
        sets_of(self.names, self.pages, self.doc, Some(tier), Snapshot::Committed)
    }

    fn merge_at_once(&self, tier: i64, sets: &[i64]) -> Result<()> {
        let mut entries = Vec::new();
        for set in sets {
            self.take(*set, 0, 1 << 32, &mut entries)?;
        }
        self.write(tier + 1, &mut entries);
        Ok(())
    }

    /// The sets that are being merged a slice at a time, if any are.
    fn running(&self) -> Result<Option<Merge>> {
        let rel = Relation::open(self.names.merge, Lock::AccessShare);
        let keys = [(1, Cmp::Eq, Field::I64(self.doc))];
        let mut scan = IndexScan::new(&rel, self.names.merge_pkey, Snapshot::Committed, &keys, false);
        let mut running: Option<Merge> = None;
        while let Some(row) = scan.next_row() {
            let merge = running.get_or_insert(Merge { from: Vec::new(), into: row.i64(3) });
            alloc::push(&mut merge.from, row.i64(2))?;
        }
        Ok(running)
    }

    /// Notes that sets of a tier, of so many pages, are being merged.
    fn begin(&self, tier: i64, from: Vec<i64>, pages: usize) -> Merge {
        let next = relation::next_value(self.names.page_seq);
        let into = set_number(tier + 1, pages.min(MAX_PAGES), next);
        let rel = Relation::open(self.names.merge, Lock::RowExclusive);
        let mut inserter = Inserter::new(&rel);
        for set in &from {
            inserter.insert(&[Field::I64(self.doc), Field::I64(*set), Field::I64(into)]);
        }
        Merge { from, into }
    }

    /// The sets have been merged.
    fn end(&self) {
        let rel = Relation::open(self.names.merge, Lock::RowExclusive);
        let keys = [(1, Cmp::Eq, Field::I64(self.doc))];
        let mut scan = IndexScan::new(&rel, self.names.merge_pkey, Snapshot::Committed, &keys, false);
        while let Some(row) = scan.next_row() {
            row.delete(&rel);
        }
    }

    /// Merges so many pages of the new set, and more where there is nothing.
    fn merge_slice(&self, merge: &Merge, pages: usize) -> Result<()> {
        xact::command_counter_increment();
        let all = pages_of(merge.into);
        let mut done = self.next_page(merge.into);
        let mut entries = Vec::new();
        while done < all && entries.is_empty() {
            let end = all.min(done + pages);
            for set in &merge.from {
                self.take(*set, first_hash(merge.into, done), first_hash(merge.into, end), &mut entries)?;
            }
            done = end;
        }
        self.write_into(merge.into, &mut entries);
        if done == all {
            self.end();
        }
        Ok(())
    }

    /// The page after a set's last one.
    fn next_page(&self, set: i64) -> usize {
        let keys = [(1, Cmp::Eq, Field::I64(self.doc)), (2, Cmp::Eq, Field::I64(set))];
        let mut scan = IndexScan::new(self.pages, self.names.page_pkey, Snapshot::Committed, &keys, true);
        scan.next_row().map_or(0, |row| row.i64(3) as usize + 1)
    }

    /// Takes a set's entries from one hash to below another one, and deletes its pages that end there. Readers of pages use a
    /// snapshot, so they see them until we commit.
    fn take(&self, set: i64, from: u64, to: u64, into: &mut Vec<Entry>) -> Result<()> {
        let page = |hash: u64| Field::I64(i64::from(page_of(set, hash as u32)));
        let keys = [
            (1, Cmp::Eq, Field::I64(self.doc)),
            (2, Cmp::Eq, Field::I64(set)),
            (3, Cmp::Ge, page(from)),
            (3, Cmp::Le, page(to - 1)),
        ];
        let mut scan = IndexScan::new(self.pages, self.names.page_pkey, Snapshot::Committed, &keys, false);
        while let Some(row) = scan.next_row() {
            entry::check_interrupts();
            row.with_bytes(5, |bytes| -> Result<()> {
                let part = Page::read(bytes).ok_or_else(malformed)?;
                let mut wanted = part.entries().filter(|entry| (from..to).contains(&u64::from(entry.hash)));
                wanted.try_for_each(|entry| Ok(alloc::push(into, entry)?))
            })
            .ok_or_else(malformed)??;
            if first_hash(set, row.i64(3) as usize + 1) <= to {
                row.delete(self.pages);
            }
        }
        Ok(())
    }
}
