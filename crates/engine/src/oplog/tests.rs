//! A log against a plain list of its events.

use std::collections::BTreeSet;

use super::*;
use crate::admit::{Clock, admit};
use crate::id::MAX_CLOCK;
use crate::ops::{EventRef, Origin};
use crate::testkit::{Rng, seeds};
use crate::value::ValueRef;

const PEERS: [&str; 3] = ["b", "a", "é"];
const ROWS: [(&str, &str); 6] =
    [("t", "1"), ("t", "2"), ("s", "1"), ("t", "a long id"), ("t", "a long id, too"), ("t", "")];

/// An event as it was written down when it was made.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    peer: &'static str,
    counter: u64,
    lamport: u64,
    span: u64,
    /// The lamport it competes by.
    effective: u64,
    row: Option<(&'static str, &'static str)>,
}

impl Told {
    fn id(&self) -> EventId {
        EventId::new(self.peer, self.counter)
    }

    /// Its last counter.
    fn last(&self) -> EventId {
        EventId::new(self.peer, self.counter + self.span - 1)
    }
}

struct RandomLog {
    log: Oplog,
    /// In the order of arrival.
    told: Vec<Told>,
    /// Each run by itself, with how many events had been told before it.
    runs: Vec<(Batch, usize)>,
}

impl RandomLog {
    fn new(rng: &mut Rng) -> Self {
        let mut random = RandomLog { log: Oplog::new(), told: vec![], runs: vec![] };
        for _ in 0..1 + rng.below(10) {
            random.author(rng);
            random.log.check();
        }
        random
    }

    fn author(&mut self, rng: &mut Rng) {
        let peer = *rng.pick(&PEERS);
        let own = self.told.iter().rfind(|told| told.peer == peer);
        let counter_start = own.map_or(0, |own| own.counter + own.span);
        let mut clock = own.map_or(0, |own| own.lamport + own.span);
        let mut deps = vec![];
        for _ in 0..if self.told.is_empty() { 0 } else { rng.below(3) } {
            let dep = rng.pick(&self.told);
            clock = clock.max(dep.lamport + dep.span);
            deps.push(dep.last());
        }
        let lamport_start = clock + rng.below(2) as u64;
        let (mut ops, before) = (OpBuf::new(), self.told.len());
        let (mut counter, mut lamport) = (counter_start, lamport_start);
        for _ in 0..1 + rng.below(4) {
            let (row, effective) = self.operation(rng, lamport, lamport_start, &mut ops);
            let span = ops.span_of(ops.len() - 1);
            self.told.push(Told { peer, counter, lamport, span, effective, row });
            (counter, lamport) = (counter + span, lamport + span);
        }
        let run = Run { peer: peer.into(), counter_start, lamport_start, deps, ops: 0..ops.len(), ..Run::default() };
        let batch = Batch { ops, runs: vec![run] };
        let admitted = take(&mut self.log, &batch).expect("made to fit");
        assert_eq!((admitted.accepted, admitted.duplicate), (counter - counter_start, 0));
        self.runs.push((batch, before));
    }

    /// One operation of any kind, of a run that begins at `start`: its row, and the lamport it competes by.
    fn operation(
        &self,
        rng: &mut Rng,
        lamport: u64,
        start: u64,
        ops: &mut OpBuf,
    ) -> (Option<(&'static str, &'static str)>, u64) {
        let (tbl, row) = *rng.pick(&ROWS);
        let (sym, col) = (ops.sym(tbl), ops.sym("x"));
        let value = ValueRef::Int(rng.below(1000) as i64);
        let older: Vec<&Told> = self.told.iter().filter(|told| told.lamport < start).collect();
        let mut effective = lamport;
        match rng.below(7) {
            0 => ops.insert(sym, row).and_then(|()| ops.cell(col, value)),
            1 => ops.delete(sym, row),
            2 => {
                ops.opaque(99, 1 + rng.below(3) as u64, b"?").unwrap();
                return (None, lamport);
            }
            kind @ (3 | 4) if !older.is_empty() => {
                let root = rng.pick(&older);
                let name = EventRef { id: root.id(), lamport: Some(root.lamport) };
                if kind == 3 {
                    effective = root.lamport;
                    ops.update(sym, row, col, value, Origin::Rewrite(&name))
                } else {
                    ops.update(sym, row, col, value, Origin::Default(Some(&name)))
                }
            }
            _ => ops.update(sym, row, col, value, Origin::Explicit),
        }
        .unwrap();
        (Some((tbl, row)), effective)
    }

    /// The events on a row that compete from `least` on, in the log's order.
    fn on(&self, key: (&str, &str), least: u64) -> Vec<EventId> {
        let mut told: Vec<&Told> = self.told.iter().filter(|t| t.row == Some(key) && t.effective >= least).collect();
        told.sort_by_key(|told| told.effective);
        told.into_iter().map(Told::id).collect()
    }

    /// The first `runs` runs alone.
    fn prefix(&self, runs: usize) -> Oplog {
        let mut log = Oplog::new();
        for (batch, _) in &self.runs[..runs] {
            take(&mut log, batch).expect("in order");
        }
        log
    }
}

/// What a log does with a batch that comes in.
fn take(log: &mut Oplog, batch: &Batch) -> Result<Admitted> {
    let mut batch = batch.clone();
    let admitted = admit(&mut batch, &mut &*log, Clock { greatest: MAX_CLOCK, events: 0 })?;
    log.compare(&batch, &admitted)?;
    log.append(&batch, &admitted)?;
    Ok(admitted)
}

fn ids<'a>(events: impl IntoIterator<Item = Candidate<'a>>) -> Vec<EventId> {
    events.into_iter().map(|event| EventId::new(event.dot.peer, event.dot.counter)).collect()
}

fn for_each_log(check: impl Fn(&RandomLog, &mut Rng) + std::panic::RefUnwindSafe) {
    for seed in seeds(3_000) {
        let run = || {
            let mut rng = Rng::new(seed);
            check(&RandomLog::new(&mut rng), &mut rng);
        };
        std::panic::catch_unwind(run).unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

#[test]
fn a_log_holds_what_it_was_told() {
    assert!(Oplog::new().is_empty());
    for_each_log(|RandomLog { log, told, runs }, _| {
        assert_eq!((log.len(), log.is_empty()), (told.len(), false));
        let held: Vec<_> = log.events().map(|event| (event.dot.peer, event.dot.counter, event.dot.lamport)).collect();
        let right: Vec<_> = told.iter().map(|told| (told.peer, told.counter, told.lamport)).collect();
        assert_eq!(held, right);

        let last = |peer: &str| told.iter().rfind(|told| told.peer == peer).map(Told::last);
        let tips: Vec<EventId> = PEERS.iter().filter_map(|peer| last(peer)).collect();
        assert_eq!(log.versions(), tips.iter().map(|id| (id.peer.clone(), id.counter)).collect());
        let named = |id: &EventId| runs.iter().any(|(batch, _)| batch.runs[0].deps.contains(id));
        let heads: BTreeSet<EventId> = tips.into_iter().filter(|id| !named(id)).collect();
        assert_eq!(log.frontier().into_iter().collect::<BTreeSet<_>>(), heads);

        let next = PEERS.map(|peer| last(peer).map_or(0, |id| id.counter + 1));
        let mut known = log;
        assert_eq!(Known::next_counters(&mut known, &PEERS).unwrap(), next);
        assert_eq!(Known::next_counters(&mut known, &["a", "nobody"]).unwrap(), [next[1], 0]);
        let mut asked: Vec<EventId> = told.iter().map(Told::id).collect();
        asked.extend([EventId::new("nobody", 0), EventId::new("a", next[1])]);
        let lamports: Vec<_> = told.iter().map(|told| Some(told.lamport)).chain([None, None]).collect();
        assert_eq!(Known::lamports(&mut known, &asked).unwrap(), lamports);
        for told in told {
            let id = log.graph().local(&told.id()).unwrap();
            let run = known.run_at(id).unwrap().unwrap();
            assert_eq!((run.peer, run.lamport(told.counter)), (id.peer, told.lamport));
        }
    });
}

#[test]
fn rows_and_windows_hold_their_events() {
    for_each_log(|random, rng| {
        let log = &random.log;
        let keys: BTreeSet<_> = random.told.iter().filter_map(|told| told.row).collect();
        assert_eq!(log.row_keys().collect::<Vec<_>>(), keys.into_iter().collect::<Vec<_>>());
        for (tbl, row) in ROWS {
            assert_eq!(ids(log.row(tbl, row)), random.on((tbl, row), 0));
        }
        let mut asked = ROWS.to_vec();
        rng.shuffle(&mut asked);
        asked.truncate(1 + rng.below(ROWS.len()));
        let least = rng.below(12) as u64;
        let mut found = Found::new();
        assert!(found.is_empty());
        { log }.events_on(&asked, least, &mut found).unwrap();
        let right: Vec<Vec<EventId>> = asked.iter().map(|&key| random.on(key, least)).collect();
        assert_eq!(found.len(), right.iter().map(Vec::len).sum::<usize>());
        assert_eq!(found.is_empty(), right.iter().all(Vec::is_empty));
        check_found(&asked, &found, &right);

        // The same events as a log that keeps them otherwise may find them.
        let mut events: Vec<(usize, Candidate<'_>)> = found.iter().collect();
        rng.shuffle(&mut events);
        let mut mixed = Found::new();
        events.iter().for_each(|&(row, event)| mixed.push(row, event).unwrap());
        let of = |row| ids(events.iter().filter(|(at, _)| *at == row).map(|(_, event)| *event));
        check_found(&asked, &mixed, &(0..asked.len()).map(of).collect::<Vec<_>>());
    });
}

/// By row, `found` is `right`.
fn check_found(keys: &[(&str, &str)], found: &Found, right: &[Vec<EventId>]) {
    let rows = found.by_row(keys.len());
    for (row, right) in right.iter().enumerate() {
        assert_eq!(ids(rows.events(row).iter().copied()), *right);
    }
}

#[test]
fn grouping_is_stable_and_sorts_the_rows() {
    for_each_log(|random, rng| {
        let mut events: Vec<Candidate<'_>> = random.log.events().collect();
        if rng.chance(50) {
            rng.shuffle(&mut events);
        } else {
            events.sort_by_key(|event| event.op().row_key());
        }
        let rows = Rows::group(events.iter().copied());
        let keys: BTreeSet<_> = events.iter().filter_map(|event| event.op().row_key()).collect();
        assert_eq!(rows.keys().collect::<Vec<_>>(), keys.into_iter().collect::<Vec<_>>());
        assert_eq!((rows.is_empty(), rows.part(0..0).is_empty()), (rows.keys().next().is_none(), true));
        let mut next = 0;
        for row in 0..rows.len() {
            assert_eq!(rows.range(row), next..next + rows.events(row).len());
            next = rows.range(row).end;
        }
        let to = rng.below(rows.len() + 1);
        let from = rng.below(to + 1);
        let part = rows.part(from..to);
        assert!(part.keys().eq(rows.keys().skip(from).take(to - from)));
        assert_eq!((rows.find(("", "")), rows.find(("zzz", ""))), (None, None));
        for (row, key) in rows.keys().enumerate() {
            assert_eq!(rows.find(key), Some(row));
            for likely in [row, row + 1, 0, rows.len(), rows.len() + 1] {
                assert_eq!((rows.find_near(likely, key), rows.find_near(likely, ("", ""))), (Some(row), None));
            }
            let right = ids(events.iter().filter(|event| event.op().row_key() == Some(key)).copied());
            assert_eq!(ids(rows.events(row).iter().copied()), right);
            if (from..to).contains(&row) {
                assert_eq!(ids(part.events(row - from).iter().copied()), right);
            }
        }
    });
}

#[test]
fn pages_bring_what_a_reader_lacks_and_nothing_else() {
    for_each_log(|random, rng| {
        let mut reader = random.prefix(rng.below(random.runs.len() + 1));
        loop {
            let limit = rng.below(8);
            let page = random.log.page(&reader.versions(), limit).unwrap();
            assert!(page.batch.runs.is_sorted_by_key(|run| run.lamport_start));
            let admitted = take(&mut reader, &page.batch).expect("a page is closed");
            let span: u64 = page.batch.ops.iter().map(|op| op.span()).sum();
            assert_eq!((admitted.accepted, admitted.duplicate), (span, 0));
            reader.check();
            assert_eq!(page.has_more, reader.versions() != random.log.versions());
            if !page.has_more {
                break;
            }
            assert!(!page.batch.runs.is_empty());
        }
        let heads = |log: &Oplog| log.frontier().into_iter().collect::<BTreeSet<_>>();
        assert_eq!(heads(&reader), heads(&random.log));
        // Told again, run by run, everything is known and the same: deps and operations came along as they were.
        for (batch, _) in &random.runs {
            assert_eq!(take(&mut reader, batch).unwrap().accepted, 0);
        }
    });
}

/// A run of one peer with `count` inserts.
fn inserts(peer: &str, counter_start: u64, lamport_start: u64, count: usize, deps: &[(&str, u64)]) -> Batch {
    let mut ops = OpBuf::new();
    let tbl = ops.sym("t");
    (0..count).for_each(|_| ops.insert(tbl, "1").unwrap());
    let deps = deps.iter().map(|&(peer, counter)| EventId::new(peer, counter)).collect();
    let run = Run { peer: peer.into(), counter_start, lamport_start, deps, ops: 0..count, ..Run::default() };
    Batch { ops, runs: vec![run] }
}

#[test]
fn a_page_holds_as_many_runs_as_fit() {
    let mut log = Oplog::new();
    for (peer, lamport) in [("a", 0), ("b", 2), ("c", 4)] {
        take(&mut log, &inserts(peer, 0, lamport, 2, &[])).unwrap();
    }
    for (limit, runs) in [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (usize::MAX, 3)] {
        let page = log.page(&Versions::new(), limit).unwrap();
        assert_eq!((page.batch.runs.len(), page.has_more), (runs, runs < 3), "limit {limit}");
    }
}

#[test]
fn a_run_that_is_known_in_part_is_told_from_there() {
    let mut log = Oplog::new();
    take(&mut log, &inserts("a", 0, 0, 1, &[])).unwrap();
    take(&mut log, &inserts("b", 0, 5, 3, &[("a", 0)])).unwrap();
    let known = |b: u64| Versions::from([("a".to_owned(), 0), ("b".to_owned(), b)]);
    for (b, lamport, count) in [(0, 6, 2), (1, 7, 1)] {
        let page = log.page(&known(b), 9).unwrap().batch;
        let run = &page.runs[0];
        assert_eq!((page.runs.len(), page.ops.len(), run.ops.clone()), (1, count, 0..count));
        assert_eq!((run.counter_start, run.lamport_start), (b + 1, lamport));
        assert!(run.deps.is_empty(), "deps are the first event's");
    }
    assert!(log.page(&known(2), 9).unwrap().batch.runs.is_empty());
    assert!(log.page(&known(u64::MAX), 9).unwrap().batch.runs.is_empty());
}

#[test]
fn an_event_told_otherwise_is_refused() {
    for_each_log(|random, rng| {
        let mut log = random.log.clone();
        let (batch, before) = rng.pick(&random.runs);
        let at = rng.below(batch.ops.len());
        let mut other = Batch { ops: OpBuf::new(), runs: batch.runs.clone() };
        for (i, op) in batch.ops.iter().enumerate() {
            match op {
                OpRef::Opaque { kind, span, .. } if i == at => other.ops.opaque(kind, span, b"!").unwrap(),
                _ if i == at => {
                    let tbl = other.ops.sym("u");
                    other.ops.delete(tbl, "1").unwrap();
                }
                op => other.ops.push(op).unwrap(),
            }
        }
        let Err(Error::Equivocation { event, known, got }) = take(&mut log, &other) else { panic!("accepted") };
        assert_eq!(event, random.told[before + at].id());
        assert!(known != got && known != 0);

        // Other deps are another event, too, but only at the head of a run.
        let mut other = batch.clone();
        other.runs[0].deps.push(EventId::new(if batch.runs[0].peer == "a" { "b" } else { "a" }, 77));
        let named = EventView {
            peer: &other.runs[0].peer,
            counter: other.runs[0].counter_start,
            lamport: other.runs[0].lamport_start,
            op: other.ops.get(0),
            deps: &other.runs[0].deps,
        };
        let admitted = admit(&mut batch.clone(), &mut &log, Clock { greatest: MAX_CLOCK, events: 0 }).unwrap();
        let refused = log.compare(&other, &admitted).unwrap_err();
        let Error::Equivocation { event, got, .. } = refused else { panic!("{refused}") };
        assert_eq!((event, got), (random.told[*before].id(), digest(&named)));
    });
}

#[test]
fn an_event_that_begins_within_a_known_operation_is_refused() {
    let mut log = Oplog::new();
    let run = |counter_start, span| {
        let mut ops = OpBuf::new();
        ops.opaque(99, span, b"?").unwrap();
        let run = Run { peer: "a".into(), counter_start, lamport_start: counter_start, ops: 0..1, ..Run::default() };
        Batch { ops, runs: vec![run] }
    };
    take(&mut log, &run(0, 3)).unwrap();
    let refused = take(&mut log, &run(1, 2)).unwrap_err();
    assert!(
        matches!(&refused, Error::Equivocation { event, known: 0, .. } if *event == EventId::new("a", 1)),
        "{refused}"
    );
}

#[test]
fn check_sees_what_does_not_fit() {
    let sound = |log: &Oplog| std::panic::catch_unwind(|| log.check()).is_ok();
    let mut log = Oplog::new();
    take(&mut log, &inserts("a", 0, 1, 2, &[])).unwrap();
    take(&mut log, &inserts("b", 0, 5, 2, &[("a", 1)])).unwrap();
    assert!(sound(&log));
    let broken: [fn(&mut Oplog); 6] = [
        |log| log.events[1].1 += 1,
        |log| log.pieces[1][0].len += 1,
        |log| log.pieces[1][0].run.counter_start += 1,
        |log| drop(log.pieces[1].pop()),
        |log| log.rows.clear(),
        |log| log.graph = Graph::new(),
    ];
    for (nth, damage) in broken.iter().enumerate() {
        let mut log = log.clone();
        damage(&mut log);
        assert!(!sound(&log), "damage {nth}");
    }
}
