//! Pages of row keys as bytes: which runs touch the rows of some hashes, and what each does to its row.
//!
//! A part of a page: how many entries; their sorted hashes, four bytes each; then their bits, their peers and their first
//! counters, each as the least, a width in bytes, and that many bytes each for the distance from the least. Bits that are
//! alike, those of one bulk statement, so take no byte.

use crate::store::{get_varint, put_varint};

/// One row touched by one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The upper half of the row's hash. Who finds a run by it looks for the row itself there, so a few too many are found.
    pub hash: u32,
    pub peer: i32,
    /// The run's first counter, which needs 53 bits, and the bits of `keys.rs` in the lowest byte: millions of entries are
    /// held at once.
    counter_and_bits: u64,
}

impl Entry {
    pub fn new(hash: u32, peer: i32, counter: u64, bits: u8) -> Entry {
        Entry { hash, peer, counter_and_bits: counter << 8 | u64::from(bits) }
    }

    pub fn counter(&self) -> u64 {
        self.counter_and_bits >> 8
    }

    pub fn bits(&self) -> u8 {
        self.counter_and_bits as u8
    }
}

/// A part of a page.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 8 + 32);
    put_varint(&mut out, entries.len() as u64);
    for entry in entries {
        out.extend_from_slice(&entry.hash.to_le_bytes());
    }
    put_numbers(&mut out, bits(entries));
    put_numbers(&mut out, peers(entries));
    put_numbers(&mut out, counters(entries));
    out
}

/// How many bytes an entry takes in a page of these.
pub fn width(entries: &[Entry]) -> usize {
    4 + Span::of(bits(entries)).width + Span::of(peers(entries)).width + Span::of(counters(entries)).width
}

fn bits(entries: &[Entry]) -> impl Iterator<Item = u64> + Clone {
    entries.iter().map(|e| u64::from(e.bits()))
}

fn peers(entries: &[Entry]) -> impl Iterator<Item = u64> + Clone {
    entries.iter().map(|e| e.peer as u64)
}

fn counters(entries: &[Entry]) -> impl Iterator<Item = u64> + Clone {
    entries.iter().map(Entry::counter)
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
pub struct Page<'p> {
    hashes: &'p [[u8; 4]],
    bits: Numbers<'p>,
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
    /// `None` when it is not one.
    pub fn read(page: &'p [u8]) -> Option<Page<'p>> {
        let mut at = 0;
        let count = usize::try_from(get_varint(page, &mut at)?).ok()?;
        let end = at.checked_add(count.checked_mul(4)?)?;
        let (hashes, _) = page.get(at..end)?.as_chunks();
        at = end;
        let bits = Numbers::read(page, &mut at, count)?;
        let peers = Numbers::read(page, &mut at, count)?;
        let counters = Numbers::read(page, &mut at, count)?;
        Some(Page { hashes, bits, peers, counters })
    }

    /// All entries, by hash.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> {
        (0..self.hashes.len()).map(|i| self.entry(i))
    }

    /// The entries of a hash.
    pub fn find(&self, hash: u32) -> impl Iterator<Item = Entry> {
        let first = self.first_from(hash);
        let same = self.hashes[first..].iter().take_while(move |h| u32::from_le_bytes(**h) == hash);
        (first..).zip(same).map(|(i, _)| self.entry(i))
    }

    fn entry(&self, i: usize) -> Entry {
        let (hash, bits) = (u32::from_le_bytes(self.hashes[i]), self.bits.get(i) as u8);
        Entry::new(hash, self.peers.get(i) as i32, self.counters.get(i), bits)
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
        for kinds in [1, 3] {
            let entry = |i: u32| {
                let (peer, counter) = ((i % 3) as i32, 1000 * u64::from(i % 40));
                Entry::new(i % 70 * 60_000_003, peer, counter, 255 - (i % kinds) as u8)
            };
            let mut entries: Vec<Entry> = (0..299).map(entry).collect();
            entries.sort_by_key(|e| e.hash);
            let bytes = encode(&entries);
            assert!(bytes.len() <= width(&entries) * entries.len() + 16);
            let page = Page::read(&bytes).expect("well-formed");
            assert_eq!(page.entries().collect::<Vec<_>>(), entries);
            for hash in (0..70).map(|i| i * 60_000_003).flat_map(|h| [h, h + 1]).chain([u32::MAX]) {
                let meant = entries.iter().filter(|e| e.hash == hash).copied();
                assert_eq!(page.find(hash).collect::<Vec<_>>(), meant.collect::<Vec<_>>(), "{hash}");
            }
        }
    }

    #[test]
    fn an_entry_holds_the_greatest_of_each() {
        let entry = Entry::new(u32::MAX, i32::MAX, (1 << 53) - 1, 255);
        assert_eq!((entry.counter(), entry.bits()), ((1 << 53) - 1, 255));
    }

    #[test]
    fn a_cut_page_is_refused_and_not_read_past() {
        let bytes = encode(&[Entry::new(5, 1, 9, 1), Entry::new(7, 2, 1 << 40, 129)]);
        for end in 0..bytes.len() {
            assert!(Page::read(&bytes[..end]).is_none(), "{end}");
        }
    }
}
