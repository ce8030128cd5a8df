//! Whether two tellings of an event are the same.

use crate::id::EventId;
use crate::ops::{Cells, EventRef, OpRef, Origin};
use crate::planted::{self, Bug};
use crate::value::{ValueRef, same as same_value};

/// An event as one source tells it.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    /// The author.
    pub peer: &'a str,
    /// The author's counter.
    pub counter: u64,
    /// Its lamport.
    pub lamport: u64,
    /// What it does.
    pub op: OpRef<'a>,
    /// What its run says it was made on top of; empty in the middle of a run.
    pub deps: &'a [EventId],
}

/// The two tell the same event. Compared are name, lamport and operation. A dep on the peer's previous event may be
/// said or left out, because runs may be cut anew on the way; any other difference in deps is one. A value may be spelled
/// otherwise ([`crate::value::same`]) and an insert's cells may come in another order: who hands events back from
/// JavaScript or through `jsonb` says `1` for `1.0` and sorts keys, and is no liar for it.
pub fn same_event(a: &EventView<'_>, b: &EventView<'_>) -> bool {
    if planted::is(Bug::OverlapNotCompared) {
        return true;
    }
    (a.peer, a.counter, a.lamport) == (b.peer, b.counter, b.lamport) && same_deps(a, b) && same_op(a.op, b.op)
}

fn same_deps(a: &EventView<'_>, b: &EventView<'_>) -> bool {
    a.deps == b.deps || outside(a) == outside(b)
}

/// Deps but the implied one, in one order.
fn outside<'a>(view: &EventView<'a>) -> Vec<&'a EventId> {
    let implied = |dep: &EventId| dep.peer == view.peer && Some(dep.counter) == view.counter.checked_sub(1);
    let mut deps: Vec<&EventId> = view.deps.iter().filter(|dep| !implied(dep)).collect();
    deps.sort_unstable();
    deps.dedup();
    deps
}

fn same_op(a: OpRef<'_>, b: OpRef<'_>) -> bool {
    if a.row_key() != b.row_key() {
        return false;
    }
    match (a, b) {
        (OpRef::Insert { cells: a, .. }, OpRef::Insert { cells: b, .. }) => {
            let same = |((a, x), (b, y)): ((&str, ValueRef<'_>), (&str, ValueRef<'_>))| a == b && same_value(x, y);
            a.len() == b.len() && (a.iter().zip(b.iter()).all(same) || sorted(a).into_iter().zip(sorted(b)).all(same))
        }
        (OpRef::Update { col, value, origin, .. }, OpRef::Update { col: col2, value: value2, origin: origin2, .. }) => {
            col == col2 && same_value(value, value2) && same_origin(origin, origin2)
        }
        (OpRef::Delete { .. }, OpRef::Delete { .. }) => true,
        (OpRef::Opaque { kind, span, payload }, OpRef::Opaque { kind: kind2, span: span2, payload: payload2 }) => {
            (kind, span, payload) == (kind2, span2, payload2)
        }
        _ => false,
    }
}

/// Cells by column, of which an insert names none twice.
fn sorted(cells: Cells<'_>) -> Vec<(&str, ValueRef<'_>)> {
    let mut cells: Vec<_> = cells.iter().collect();
    cells.sort_unstable_by_key(|(col, _)| *col);
    cells
}

/// Lamports of roots are not compared: JSON leaves them out, and admission checks those that are there.
fn same_origin(a: Origin<'_>, b: Origin<'_>) -> bool {
    let id = |r: Option<&EventRef>| r.map(|r| (r.id.peer.clone(), r.id.counter));
    match (a, b) {
        (Origin::Explicit, Origin::Explicit) => true,
        (Origin::Rewrite(a), Origin::Rewrite(b)) => a.id == b.id,
        (Origin::Default(a), Origin::Default(b)) => id(a) == id(b),
        _ => false,
    }
}

/// A digest of an event's content, for people and reports: FNV-1a, 64 bits. Equal for events that are the same and
/// tell their values alike, in the same order.
pub fn digest(event: &EventView<'_>) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.text(event.peer).number(event.counter).number(event.lamport);
    let deps = outside(event);
    hash.number(deps.len() as u64);
    for dep in deps {
        hash.text(&dep.peer).number(dep.counter);
    }
    let (tbl, row) = event.op.row_key().unwrap_or_default();
    hash.text(tbl).text(row);
    match event.op {
        OpRef::Insert { cells, .. } => {
            hash.number(1);
            for (col, value) in cells.iter() {
                hash.text(col).value(value);
            }
        }
        OpRef::Update { col, value, origin, .. } => {
            hash.number(2).text(col).value(value);
            match origin {
                Origin::Explicit => hash.number(0),
                Origin::Rewrite(root) => hash.number(1).text(&root.id.peer).number(root.id.counter),
                Origin::Default(None) => hash.number(2),
                Origin::Default(Some(d)) => hash.number(3).text(&d.id.peer).number(d.id.counter),
            };
        }
        OpRef::Delete { .. } => {
            hash.number(3);
        }
        OpRef::Opaque { kind, span, payload } => {
            hash.number(4).number(kind).number(span).bytes(payload);
        }
    }
    hash.0
}

struct Fnv(u64);

const PRIME: u64 = 0x0100_0000_01b3;

/// The prime to the power of 0 to 8.
const POWERS: [u64; 9] = {
    let (mut powers, mut at) = ([1u64; 9], 1);
    while at < powers.len() {
        powers[at] = powers[at - 1].wrapping_mul(PRIME);
        at += 1;
    }
    powers
};

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        self
    }

    /// Its eight bytes from the least; those above the greatest that is not 0 only multiply, so they come at once.
    fn number(&mut self, number: u64) -> &mut Self {
        let used = 8 - number.leading_zeros() as usize / 8;
        self.bytes(&number.to_le_bytes()[..used]);
        self.0 = self.0.wrapping_mul(POWERS[8 - used]);
        self
    }

    /// With its length, so that neighbours cannot trade characters.
    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).bytes(text.as_bytes())
    }

    fn value(&mut self, value: ValueRef<'_>) -> &mut Self {
        match value {
            ValueRef::Null => self.number(0),
            ValueRef::Bool(b) => self.number(1).number(u64::from(b)),
            ValueRef::Int(i) => self.number(2).number(i as u64),
            ValueRef::Float(f) => self.number(3).number(f.to_bits()),
            ValueRef::Text(t) => self.number(4).text(t),
            ValueRef::Json(t) => self.number(5).text(t),
        }
    }
}
