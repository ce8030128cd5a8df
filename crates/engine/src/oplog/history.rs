//! What merging asks of a log, wherever it is kept.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;

use super::Oplog;
use crate::error::Result;
use crate::event::Candidate;
use crate::id::Dot;
use crate::ops::OpBuf;
use crate::planted::{self, Bug};

/// The seam to history. In memory it is an [`Oplog`]; in the database, the log table.
pub trait History {
    /// Adds to `found` the events on `rows` whose effective lamport is at least `least` (0: all of them), each once.
    ///
    /// No older ones, even when they lie in the same run: a delete below `least` would pass for the row's last one,
    /// while a greater one, also below, was not looked for.
    fn events_on(&mut self, rows: &[(&str, &str)], least: u64, found: &mut Found) -> Result<()>;
}

impl History for &Oplog {
    fn events_on(&mut self, rows: &[(&str, &str)], least: u64, found: &mut Found) -> Result<()> {
        let least = if planted::is(Bug::WindowOffByOne) && least > 0 { least.saturating_add(1) } else { least };
        for (index, (tbl, row)) in rows.iter().enumerate() {
            let list = self.row_list(tbl, row);
            let from = list.partition_point(|&(effective, _)| effective < least);
            for &(_, at) in &list[from..] {
                found.push(index, self.candidate(at as usize))?;
            }
        }
        Ok(())
    }
}

/// Events that a log found on rows, copied out, so that they outlive the search.
#[derive(Clone, Debug, Default)]
pub struct Found {
    ops: OpBuf,
    /// Row (as an index of those asked for), lamport, peer, counter.
    events: Vec<(u32, u64, u32, u64)>,
    peers: Vec<Box<str>>,
    index: BTreeMap<Box<str>, u32>,
}

impl Found {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event on the row of this index.
    pub fn push(&mut self, row: usize, event: Candidate<'_>) -> Result<()> {
        self.ops.push(event.op())?;
        let peer = match self.index.get(event.dot.peer) {
            Some(&peer) => peer,
            None => {
                let peer = self.peers.len() as u32;
                self.peers.push(event.dot.peer.into());
                self.index.insert(event.dot.peer.into(), peer);
                peer
            }
        };
        self.events.push((row as u32, event.dot.lamport, peer, event.dot.counter));
        Ok(())
    }

    /// How many events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Nothing was found.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The events with the index of their row, in the order they were found.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, Candidate<'_>)> {
        self.events.iter().enumerate().map(|(at, &(row, ..))| (row as usize, self.event(at)))
    }

    fn event(&self, at: usize) -> Candidate<'_> {
        let (_, lamport, peer, counter) = self.events[at];
        Candidate::new(&self.ops, at, Dot { lamport, peer: &self.peers[peer as usize], counter })
    }
}

/// Events by row, in the order of the rows' keys: the shape in which rows are merged.
#[derive(Clone, Debug, Default)]
pub struct Rows<'a>(ByRow<'a>);

/// Events by the index of their row.
#[derive(Clone, Debug, Default)]
pub struct ByRow<'a> {
    /// Those of one row in a row.
    events: Vec<Candidate<'a>>,
    /// Where each row's events begin, and the end; nothing when there is no event.
    bounds: Vec<u32>,
}

impl<'a> ByRow<'a> {
    /// The events on the row of this index.
    pub fn events(&self, row: usize) -> &[Candidate<'a>] {
        match self.bounds.get(row..row + 2) {
            Some(bounds) => &self.events[bounds[0] as usize..bounds[1] as usize],
            None => &[],
        }
    }
}

/// An event to be sorted by its row, then by its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tag<'a> {
    tbl: &'a str,
    /// The row id's first eight bytes, which mostly decide.
    head: u64,
    row: &'a str,
    at: u32,
}

impl<'a> Tag<'a> {
    fn new((tbl, row): (&'a str, &'a str), at: u32) -> Self {
        let mut head = [0; 8];
        let length = row.len().min(8);
        head[..length].copy_from_slice(&row.as_bytes()[..length]);
        Tag { tbl, head: u64::from_be_bytes(head), row, at }
    }

    fn key(&self) -> (&'a str, &'a str) {
        (self.tbl, self.row)
    }
}

impl Ord for Tag<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // A buffer's table names are one text each.
        let tables = if std::ptr::eq(self.tbl, other.tbl) { Ordering::Equal } else { self.tbl.cmp(other.tbl) };
        let heads = || self.head.cmp(&other.head);
        tables.then_with(heads).then_with(|| self.row.cmp(other.row)).then_with(|| self.at.cmp(&other.at))
    }
}

impl PartialOrd for Tag<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Rows<'a> {
    /// Groups events by the row they are about. Rows come in the order of their keys, in which they can be locked; a row's
    /// events in the order given. What is not about a row is left out.
    pub fn group(events: impl IntoIterator<Item = Candidate<'a>>) -> Self {
        let mut events: Vec<Candidate<'_>> =
            events.into_iter().filter(|event| event.op().row_key().is_some()).collect();
        let tag = |(event, at): (&Candidate<'a>, u32)| event.op().row_key().map(|key| Tag::new(key, at));
        let mut tagged: Vec<Tag<'_>> = events.iter().zip(0..).filter_map(tag).collect();
        if !tagged.is_sorted() {
            // Sorted, not hashed: row ids come from outside.
            tagged.sort_unstable();
            rearrange(&mut events, &mut tagged);
        }
        let new_row = |at: &usize| *at == 0 || tagged[at - 1].key() != tagged[*at].key();
        let starts = (0..tagged.len()).filter(new_row).chain([events.len()]);
        let bounds = starts.map(|at| at as u32).collect();
        Rows(ByRow { events, bounds })
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.0.bounds.len().saturating_sub(1)
    }

    /// No row at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of an index, as table and row id.
    pub fn key(&self, row: usize) -> (&'a str, &'a str) {
        self.0.events[self.0.bounds[row] as usize].op().row_key().expect("others were left out")
    }

    /// The rows.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone {
        (0..self.len()).map(|row| self.key(row))
    }

    /// The index of a row.
    pub fn find(&self, key: (&str, &str)) -> Option<usize> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from + (to - from) / 2;
            match self.key(middle).cmp(&key) {
                Ordering::Less => from = middle + 1,
                Ordering::Equal => return Some(middle),
                Ordering::Greater => to = middle,
            }
        }
        None
    }

    /// The same, looked for at `likely` first: rows are mostly asked for in their order.
    pub fn find_near(&self, likely: usize, key: (&str, &str)) -> Option<usize> {
        let there = likely < self.len() && self.key(likely) == key;
        if there { Some(likely) } else { self.find(key) }
    }

    /// The events on the row of this index.
    pub fn events(&self, row: usize) -> &[Candidate<'a>] {
        self.0.events(row)
    }

    /// Where the events on the row of this index lie among all.
    pub fn range(&self, row: usize) -> Range<usize> {
        self.0.bounds[row] as usize..self.0.bounds[row + 1] as usize
    }

    /// The rows of a range of indices, which begin at 0 then.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let bounds = &self.0.bounds[rows.start..=rows.end];
        let (first, end) = (bounds[0], bounds[bounds.len() - 1]);
        let events = self.0.events[first as usize..end as usize].to_vec();
        Rows(ByRow { events, bounds: bounds.iter().map(|at| at - first).collect() })
    }
}

/// Brings each event to where its tag is, in place: a large push has no memory for two orders. A cycle at a time; a tag that has
/// been followed names its own place.
fn rearrange(events: &mut [Candidate<'_>], tagged: &mut [Tag<'_>]) {
    for start in 0..events.len() {
        let mut to = start;
        loop {
            let from = std::mem::replace(&mut tagged[to].at, to as u32) as usize;
            if from == start || from == to {
                break;
            }
            events.swap(to, from);
            to = from;
        }
    }
}

impl Found {
    /// The events by row, of which there are so many.
    pub fn by_row(&self, rows: usize) -> ByRow<'_> {
        self.by_row_where(rows, |_, _| true)
    }

    /// Those that `keep` says, given each with its row.
    pub fn by_row_where(&self, rows: usize, keep: impl Fn(usize, &Candidate<'_>) -> bool) -> ByRow<'_> {
        let found = (0..self.len()).filter(|at| keep(self.events[*at].0 as usize, &self.event(*at)));
        let mut order: Vec<u32> = found.map(|at| at as u32).collect();
        if order.is_empty() {
            return ByRow::default();
        }
        let row_of = |at: u32| self.events[at as usize].0;
        // Mostly they are in order already, and a row's own stay in theirs.
        order.sort_by_key(|at| row_of(*at));
        let mut bounds = vec![0; rows + 1];
        order.iter().for_each(|at| bounds[row_of(*at) as usize + 1] += 1);
        for row in 0..rows {
            bounds[row + 1] += bounds[row];
        }
        ByRow { events: order.into_iter().map(|at| self.event(at as usize)).collect(), bounds }
    }
}
