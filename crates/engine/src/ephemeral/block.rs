//! The memory of a shard: blocks of 16 words. A register is one block and a chain of blocks with its bytes; a doc that has
//! registers is one block. Blocks refer to each other by number, 0 for none, so memory of zeroes is an empty shard.

use std::cmp::Ordering;

/// 64 bytes.
pub type Block = [u32; 16];
/// Bytes a block of a chain holds: all but its reference to the next one.
pub const PAYLOAD: usize = 60;

/// A block's number plus one; 0 is no block.
pub type Ref = u32;
/// No block.
pub const NIL: Ref = 0;
/// Marks what stands in for a reference at the end of a list: the number of the list's bucket or slot.
pub const END: u32 = 1 << 31;

/// How many blocks a chain of this many bytes takes.
pub fn blocks_for(bytes: usize) -> usize {
    bytes.div_ceil(PAYLOAD)
}

/// A field of 64 bits at word `at`.
pub fn get64(block: &Block, at: usize) -> u64 {
    u64::from(block[at]) | u64::from(block[at + 1]) << 32
}

/// Writes a field of 64 bits at word `at`.
pub fn set64(block: &mut Block, at: usize, value: u64) {
    block[at] = value as u32;
    block[at + 1] = (value >> 32) as u32;
}

/// Writes `parts`, one after the other, into a chain of as many blocks as they take.
pub fn write_chain(blocks: &mut [Block], first: Ref, parts: &[&[u8]]) {
    let mut parts = parts.iter();
    let mut rest: &[u8] = &[];
    let mut at = first;
    while at != NIL {
        let block = &mut blocks[at as usize - 1];
        let mut bytes = [0; PAYLOAD];
        let mut filled = 0;
        while filled < PAYLOAD {
            if rest.is_empty() {
                match parts.next() {
                    Some(part) => rest = part,
                    None => break,
                }
            }
            let (head, tail) = rest.split_at(rest.len().min(PAYLOAD - filled));
            bytes[filled..filled + head.len()].copy_from_slice(head);
            filled += head.len();
            rest = tail;
        }
        for (word, four) in block[1..].iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        }
        at = block[0];
    }
}

/// The bytes of a chain from `from` to `to`, handed to `take` piece by piece until it says false.
pub fn read_chain(blocks: &[Block], first: Ref, from: usize, to: usize, mut take: impl FnMut(&[u8]) -> bool) {
    let mut at = first;
    let mut start = 0;
    while at != NIL && start < to {
        let block = &blocks[at as usize - 1];
        if start + PAYLOAD > from {
            let mut bytes = [0; PAYLOAD];
            for (four, word) in bytes.chunks_exact_mut(4).zip(&block[1..]) {
                four.copy_from_slice(&word.to_le_bytes());
            }
            let low = from.saturating_sub(start);
            let high = PAYLOAD.min(to - start);
            if !take(&bytes[low..high]) {
                return;
            }
        }
        start += PAYLOAD;
        at = block[0];
    }
}

/// Compares the bytes of a chain from `from` to `to` with `other`.
pub fn compare_chain(blocks: &[Block], first: Ref, from: usize, to: usize, other: &[u8]) -> Ordering {
    let mut rest = other;
    let mut order = Ordering::Equal;
    read_chain(blocks, first, from, to, |piece| {
        let (head, tail) = rest.split_at(piece.len().min(rest.len()));
        order = piece.cmp(head);
        rest = tail;
        order == Ordering::Equal
    });
    order.then_with(|| if rest.is_empty() { Ordering::Equal } else { Ordering::Less })
}
