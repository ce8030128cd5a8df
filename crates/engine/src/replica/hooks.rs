//! What a table does on its own: defaults that fill in, triggers that rewrite.

use super::rows::{Row, Value};
use crate::error::Result;
use crate::id::{Dot, EventId};
use crate::merge::{LastDelete, RowMerge};
use crate::ops::{EventRef, OpBuf, Origin};
use crate::planted::{self, Bug};

/// A table's own will. A hub has one; clients have none ([`NoHooks`]) and are told by derived events.
pub trait Hooks {
    /// Columns of a table that have a default, with its value now.
    fn defaults(&self, tbl: &str) -> Vec<(&'static str, Value)>;

    /// What a BEFORE trigger makes other than `new` says, column by column.
    fn rewrites(&self, tbl: &str, old: Option<&Row>, new: &Row) -> Vec<(&'static str, Value)>;
}

/// Tables that show what they are told.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn defaults(&self, _: &str) -> Vec<(&'static str, Value)> {
        vec![]
    }

    fn rewrites(&self, _: &str, _: Option<&Row>, _: &Row) -> Vec<(&'static str, Value)> {
        vec![]
    }
}

/// What the hooks made of a row: the row as it stands, and which cells are not what was asked for.
pub(super) struct Hooked {
    pub row: Row,
    pub defaults: Vec<(&'static str, Value)>,
    pub rewrites: Vec<(&'static str, Value)>,
}

/// Runs the hooks over a row that is about to be written.
pub(super) fn run(hooks: &impl Hooks, tbl: &str, old: Option<&Row>, mut row: Row, fills: bool) -> Hooked {
    let mut defaults = if fills { hooks.defaults(tbl) } else { vec![] };
    defaults.retain(|(col, _)| !row.contains_key(*col));
    row.extend(defaults.iter().map(|(col, value)| (Box::from(*col), value.clone())));
    let mut rewrites = hooks.rewrites(tbl, old, &row);
    rewrites.retain(|(col, value)| row.get(*col) != Some(value));
    defaults.retain(|(col, _)| rewrites.iter().all(|(other, _)| other != col));
    row.extend(rewrites.iter().map(|(col, value)| (Box::from(*col), value.clone())));
    Hooked { row, defaults, rewrites }
}

/// Writes down, as derived events (design, rule 2.3), what the hooks made of a merged row.
pub(super) fn derive(key: (&str, &str), merge: &RowMerge<'_>, hooked: &Hooked, ops: &mut OpBuf) -> Result<()> {
    let tbl = ops.sym(key.0);
    let reference = |dot: Dot<'_>| EventRef { id: EventId::new(dot.peer, dot.counter), lamport: Some(dot.lamport) };
    for (col, value) in &hooked.defaults {
        let LastDelete::Known(since) = merge.last_delete else { unreachable!("asked for before") };
        let since = since.filter(|_| !planted::is(Bug::DefaultSinceForgotten)).map(reference);
        let col = ops.sym(col);
        ops.update(tbl, key.1, col, value.view(), Origin::Default(since.as_ref()))?;
    }
    for (col, value) in &hooked.rewrites {
        let root = reference(merge.root_for(col).expect("a patch has a cause"));
        let col = ops.sym(col);
        ops.update(tbl, key.1, col, value.view(), Origin::Rewrite(&root))?;
    }
    Ok(())
}
