//! What happened, for people: a row's history, and what a run of the log says.

use crdt_engine::id::Dot;
use crdt_engine::merge::{Candidate, RowView, replay_row};
use crdt_engine::ops::{EventRef, kind};
use crdt_engine::wire::json;
use crdt_engine::{EventId, OpBuf, OpRef, Origin, Stamp, ValueRef};

use crate::catalog::{self, Table};
use crate::committed::{self, Log};
use crate::error::Result;
use crate::pg::function::{Args, Col, Out, Rows};
use crate::pg::relation::Snapshot;
use crate::store::{self, RunHead};

/// `crdt.history(tbl, row_id)`: one line for each event and column it names, oldest first.
pub fn history(args: &Args<'_>) -> Result<Out> {
    let table = catalog::tracked(args.oid(0, "tbl")?)?;
    let row = args.text(1, "row_id")?;
    table.key_texts(&row)?;
    let mut lines = Rows::new(args)?;
    for doc in committed::docs_of(&table)? {
        of_doc(&table, doc, &row, &mut lines)?;
    }
    Ok(Out::Null)
}

/// `crdt.run_deps(deps)`: the heads that a run of the log was made on top of.
pub fn run_deps(args: &Args<'_>) -> Result<Out> {
    let mut ids = Vec::new();
    for (peer, counter) in store::decode_deps(args.bytes(0, "deps", usize::MAX)?)? {
        ids.push(EventId { peer: catalog::peer_name(peer)?, counter });
    }
    let mut out = String::new();
    json::write_frontier(&mut out, &ids)?;
    Ok(Out::Jsonb(out))
}

/// `crdt.run_ops(ops)`: the operations of a run of the log.
pub fn run_ops(args: &Args<'_>) -> Result<Out> {
    let mut ops = OpBuf::new();
    store::decode(args.bytes(0, "ops", usize::MAX)?, &mut ops)?;
    let mut out = String::from("[");
    for (i, op) in ops.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        match op {
            OpRef::Opaque { kind, span, .. } if kind::name(kind).is_none() => {
                out.push_str(&format!("{{\"type\":\"{kind}\",\"span\":{span}}}"));
            }
            op => json::write_op(&mut out, op)?,
        }
    }
    out.push(']');
    Ok(Out::Jsonb(out))
}

/// The lines of one doc.
fn of_doc(table: &Table, doc: i64, row: &str, lines: &mut Rows) -> Result<()> {
    let log = Log::open(doc)?;
    let found = store::events_on_row(doc, &table.alias, row, Snapshot::Active)?;
    let mut events: Vec<(Candidate<'_>, RunHead)> = Vec::new();
    for (at, (peer, counter, lamport)) in found.of.iter().enumerate() {
        // What we wrote ourselves and have not committed is nobody's history yet.
        let Some(run) = log.run_at(*peer, *counter)? else { continue };
        let dot = Dot { lamport: *lamport, peer: log.name(*peer)?, counter: *counter };
        events.push((Candidate::new(&found.ops, at, dot), run));
    }
    events.sort_by_key(|(event, _)| event.stamp());
    let view = replay_row(events.iter().map(|(event, _)| *event));
    for (event, run) in &events {
        Line { doc, event: *event, run, view: &view }.write(lines)?;
    }
    Ok(())
}

/// One event of a row's history.
struct Line<'e> {
    doc: i64,
    event: Candidate<'e>,
    run: &'e RunHead,
    view: &'e RowView<'e>,
}

impl Line<'_> {
    fn write(&self, lines: &mut Rows) -> Result<()> {
        match self.event.op() {
            OpRef::Insert { cells, .. } if cells.is_empty() => {
                self.line("insert", None, self.view.birth == Some(self.event.dot), None, lines)
            }
            OpRef::Insert { cells, .. } => {
                cells.iter().try_for_each(|(col, value)| self.cell("insert", col, value, None, lines))
            }
            OpRef::Update { col, value, origin, .. } => {
                let origin = match origin {
                    Origin::Explicit => None,
                    Origin::Rewrite(root) => Some(format!("derived from {}", root.id)),
                    Origin::Default(since) => Some(default_since(since)),
                };
                self.cell("update", col, value, origin, lines)
            }
            OpRef::Delete { .. } => {
                let gone = !self.view.exists() && self.view.last_delete == Some(self.event.dot);
                self.line("delete", None, gone, None, lines)
            }
            OpRef::Opaque { .. } => Ok(()),
        }
    }

    fn cell(&self, what: &str, col: &str, value: ValueRef<'_>, origin: Option<String>, lines: &mut Rows) -> Result<()> {
        let wins = self.view.cell(col).is_some_and(|winner| winner.dot() == self.event.dot);
        self.line(what, Some((col, value)), wins, origin, lines)
    }

    fn line(
        &self,
        what: &str,
        cell: Option<(&str, ValueRef<'_>)>,
        wins: bool,
        origin: Option<String>,
        lines: &mut Rows,
    ) -> Result<()> {
        let Stamp { root, own } = self.event.stamp();
        let dot = own.unwrap_or(root);
        let mut json = String::new();
        if let Some((_, value)) = cell {
            value.write_json(&mut json)?;
        }
        lines.push(&[
            Col::I64(self.doc),
            Col::Text(dot.peer),
            Col::I64(dot.counter as i64),
            Col::I64(dot.lamport as i64),
            Col::Time(self.run.at),
            self.run.actor.as_deref().map_or(Col::Null, Col::Text),
            Col::Text(what),
            cell.map_or(Col::Null, |(col, _)| Col::Text(col)),
            cell.map_or(Col::Null, |_| Col::Jsonb(&json)),
            Col::Bool(wins),
            origin.as_deref().map_or(Col::Null, Col::Text),
        ]);
        Ok(())
    }
}

fn default_since(since: Option<&EventRef>) -> String {
    match since {
        Some(delete) => format!("default since {}", delete.id),
        None => "default".to_owned(),
    }
}
