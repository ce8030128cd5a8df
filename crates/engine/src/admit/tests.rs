use super::*;
use crate::oplog::Oplog;
use crate::ops::{EventRef, OpBuf, Origin};
use crate::testkit::Rng;
use crate::value::ValueRef;

/// A batch from lines: peer, counter, lamport, deps, operations. An operation is `+` (insert), `-` (delete), `=n`
/// (update), `~p3` (rewrite of event 3 of peer p), `?` (default), `*n` (an unknown operation over n counters).
fn batch(runs: Runs<'_>) -> Batch {
    let mut ops = OpBuf::new();
    let (t, c) = (ops.sym("t"), ops.sym("c"));
    let mut batch = Batch::default();
    for &(peer, counter_start, lamport_start, deps, text) in runs {
        let first = ops.len();
        for op in text.split(' ').filter(|op| !op.is_empty()) {
            let (kind, rest) = op.split_at(1);
            match kind {
                "+" => ops.insert(t, "r"),
                "-" => ops.delete(t, "r"),
                "=" => ops.update(t, "r", c, ValueRef::Int(rest.parse().unwrap()), Origin::Explicit),
                "~" => {
                    let (peer, counter) = rest.split_at(1);
                    let root = EventRef { id: EventId::new(peer, counter.parse().unwrap()), lamport: None };
                    ops.update(t, "r", c, ValueRef::Null, Origin::Rewrite(&root))
                }
                "?" => ops.update(t, "r", c, ValueRef::Null, Origin::Default(None)),
                "*" => ops.opaque(99, rest.parse().unwrap(), b"x"),
                _ => unreachable!(),
            }
            .unwrap();
        }
        let deps = deps.iter().map(|&(peer, counter)| EventId::new(peer, counter)).collect();
        batch.runs.push(Run {
            peer: peer.into(),
            counter_start,
            lamport_start,
            deps,
            ops: first..ops.len(),
            ..Run::default()
        });
    }
    batch.ops = ops;
    batch
}

fn push(log: &mut Oplog, batch: &mut Batch) -> Result<Admitted> {
    let clock = Clock { greatest: log.graph().max_lamport(), events: log.len() as u64 };
    let admitted = admit(batch, &mut &*log, clock)?;
    log.compare(batch, &admitted)?;
    log.append(batch, &admitted)?;
    log.check();
    Ok(admitted)
}

/// A log with `a`: 0..3 at lamport 1, and `b`: 0 at lamport 4 on top of it.
fn log() -> Oplog {
    let mut log = Oplog::new();
    push(&mut log, &mut batch(&[("a", 0, 1, &[], "+ =1 =2"), ("b", 0, 4, &[("a", 2)], "=3")])).unwrap();
    log
}

type Runs<'r> = &'r [(&'r str, u64, u64, &'r [(&'r str, u64)], &'r str)];

fn refused(runs: Runs<'_>) -> String {
    let mut log = log();
    let before = log.len();
    let error = push(&mut log, &mut batch(runs)).expect_err("must be refused");
    assert_eq!(log.len(), before);
    error.to_string()
}

#[test]
fn what_is_refused() {
    let cases: &[(Runs<'_>, &str)] = &[
        (&[("a", 4, 9, &[], "=1")], "expected counter 3, got 4"),
        (&[("a", 3, 9, &[], "=1"), ("a", 5, 12, &[], "=1")], "expected counter 4, got 5"),
        (&[("c", 1, 9, &[], "=1")], "expected counter 0, got 1"),
        (&[("c", 0, 9, &[("x", 0)], "=1")], r#"depends on ["x",0], which is not known"#),
        (&[("c", 0, 9, &[("a", 3)], "=1")], r#"depends on ["a",3], which is not known"#),
        (&[("c", 0, 9, &[("c", 0)], "=1")], "its own future"),
        (&[("c", 0, 9, &[("c", 7)], "=1")], "its own future"),
        (&[("c", 0, 4, &[("b", 0)], "=1")], "lamport 4"),
        (&[("a", 3, 3, &[], "=1")], "lamport 3"),
        (&[("c", 0, 9, &[("d", 0)], "=1"), ("d", 0, 9, &[("c", 0)], "=1")], "is not above 9"),
        (&[("c", 0, 10, &[("d", 0)], "=1"), ("d", 0, 9, &[("c", 0)], "=1")], "is not above 10"),
        (&[("c", 0, 4 + 65_536 + 2, &[], "=1")], "exceeds the bound of 65541"),
        (&[("c", 0, (1 << 53) - 1, &[], "=1")], "exceeds the bound of 65541"),
        (&[("c", 0, 5, &[], "*65538")], "lamport 65542 of event [\"c\",65537] exceeds the bound of 65541"),
        (&[("c", 0, 5, &[], "*9007199254740980")], "exceeds the bound of 65541"),
        (&[("c", 0, (1 << 53) - 1, &[], "=1 =2")], "lamport 9007199254740991 + 2 is outside"),
        (&[("c", 0, u64::MAX, &[], "=1")], "is outside of 0 to"),
        (&[("c", 0, 9, &[], "*18446744073709551615 *1")], "is outside of 0 to"),
        (&[("c", 0, 9, &[], "*0")], "span 0"),
        (&[("c", 0, 9, &[], "~x0")], r#"derives from ["x",0], which is not known"#),
        (&[("c", 0, 9, &[], "=1 ~c1")], "which is not older"),
        (&[("c", 0, 3, &[], "~b0")], "which is not older"),
        (&[("a", 2, 3, &[], "=9")], "other content"),
        (&[("a", 2, 4, &[], "=2")], "other content"),
        (&[("b", 0, 4, &[], "=3")], "other content"),
        (&[("b", 0, 4, &[("a", 1)], "=3")], "other content"),
        (&[("a", 1, 2, &[("b", 0)], "=1")], "other content"),
        (&[("c", 0, 9, &[], "=1 =2"), ("c", 1, 10, &[], "=3")], "other content"),
        (&[("c", 0, 9, &[], "=1 =2"), ("c", 1, 11, &[], "=2")], "other content"),
        (&[("c", 0, 9, &[], "*2 =2"), ("c", 0, 9, &[], "*3")], "other content"),
        (&[("a", 0, 1, &[], "*5")], "other content"),
        (&[("b", 0, 4, &[("b", u64::MAX)], "=3")], "other content"),
    ];
    for (runs, message) in cases {
        let error = refused(runs);
        assert!(error.contains(message), "{runs:?}: {error}");
    }
}

#[test]
fn what_is_accepted() {
    let cases: &[(Runs<'_>, u64, u64)] = &[
        (&[], 0, 0),
        (&[("c", 0, 9, &[], "")], 0, 0),
        (&[("a", 0, 1, &[], "+ =1 =2")], 0, 3),
        (&[("a", 1, 2, &[], "=1"), ("a", 2, 3, &[("a", 1)], "=2")], 0, 2),
        (&[("a", 1, 2, &[], "=1 =2 =7 =8"), ("a", 4, 5, &[], "=8 =9")], 3, 3),
        (&[("a", 4, 9, &[], "=1"), ("a", 3, 8, &[], "=1")], 2, 0),
        (&[("c", 0, 9, &[("d", 1)], "=1"), ("d", 0, 5, &[("b", 0)], "+ =2 ~a0")], 4, 0),
        (&[("c", 0, 4 + 65_536 + 1, &[], "=1")], 1, 0),
        (&[("c", 0, 5, &[], "*65537")], 65_537, 0),
        (&[("c", 0, 9, &[], "*5 =1"), ("c", 5, 14, &[], "=1 =2")], 7, 1),
    ];
    for (at, (runs, accepted, duplicate)) in cases.iter().enumerate() {
        let admitted = push(&mut log(), &mut batch(runs)).unwrap_or_else(|error| panic!("{at}: {error}"));
        assert_eq!((admitted.accepted, admitted.duplicate), (*accepted, *duplicate), "case {at}");
    }
}

#[test]
fn roots_are_resolved_and_lower_the_window() {
    let mut roots = batch(&[("c", 0, 9, &[], "=1 ~a1"), ("c", 2, 11, &[], "~c0"), ("a", 1, 2, &[], "=1")]);
    let admitted = push(&mut log(), &mut roots).unwrap();
    assert_eq!((admitted.least_effective, admitted.greatest_lamport), (2, 11));
    let lamports: Vec<_> = roots.ops.refs_mut().iter().map(|r| r.lamport).collect();
    assert_eq!(lamports, [Some(2), Some(9)]);
}

/// Whoever delivers runs by the lamports of their first events must have delivered what they name.
#[test]
fn roots_are_older_than_the_run() {
    let refused = |runs: Runs<'_>| push(&mut log(), &mut batch(runs)).unwrap_err().to_string();
    let order = r#"event ["c",2], of a run that begins at lamport 9, derives from ["c",0] at 9, which is not older"#;
    assert_eq!(refused(&[("c", 0, 9, &[], "=1 =2 ~c0")]), order);
    let order = r#"event ["c",1], of a run that begins at lamport 9, derives from ["d",0] at 9, which is not older"#;
    assert_eq!(refused(&[("d", 0, 9, &[], "=1"), ("c", 0, 9, &[], "=1 ~d0")]), order);
}

/// Runs of one peer, told in random overlapping cuts and in any order, are the runs.
#[test]
fn any_cut_is_the_same() {
    for seed in 0..2_000 {
        let mut rng = Rng::new(seed);
        let n = 1 + rng.below(12);
        let ops: Vec<String> = (0..n).map(|i| format!("={i}")).collect();
        let cut = |from: usize, to: usize| ("c", from as u64, 10 + from as u64, ops[from..to].join(" "));
        let mut cuts = vec![];
        let mut reached = 0;
        while reached < n {
            let from = rng.below(reached + 1);
            let to = from + 1 + rng.below(n - from);
            reached = reached.max(to);
            cuts.push(cut(from, to));
        }
        rng.shuffle(&mut cuts);
        let runs: Vec<_> = cuts.iter().map(|(p, c, l, text)| (*p, *c, *l, &[][..], text.as_str())).collect();
        let mut log = log();
        let admitted = push(&mut log, &mut batch(&runs)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(admitted.accepted, n as u64);
        let again = push(&mut log, &mut batch(&runs)).unwrap();
        assert_eq!((again.accepted, again.duplicate), (0, admitted.accepted + admitted.duplicate));
    }
}

#[test]
fn how_far_a_clock_may_be_ahead() {
    let bound = |greatest, events, pushed| Clock { greatest, events }.bound(pushed);
    assert_eq!(bound(10, 0, 0), 10 + CLOCK_SLACK);
    assert_eq!(bound(10, CLOCK_SLACK, 3), 13 + CLOCK_SLACK);
    assert_eq!(bound(10, 1_000_000, 3), 1_000_013);
    assert_eq!(bound(10, u64::MAX, 3), 13 + CLOCK_SLACK_MAX);
    assert_eq!(bound(crate::id::MAX_CLOCK, 0, u64::MAX), crate::id::MAX_CLOCK);
}

/// Who hands an insert back with its cells in another order, or its numbers written otherwise, tells the same event.
#[test]
fn the_order_of_cells_is_no_content() {
    let insert = |cells: &[(&str, ValueRef<'_>)]| {
        let mut ops = OpBuf::new();
        let t = ops.sym("t");
        ops.insert(t, "r").unwrap();
        for (col, value) in cells {
            let col = ops.sym(col);
            ops.cell(col, *value).unwrap();
        }
        let run = Run { peer: "p".into(), lamport_start: 1, ops: 0..1, ..Run::default() };
        Batch { runs: vec![run], ops }
    };
    let (one, list) = (("a", ValueRef::Int(1)), ("b", ValueRef::Json("[1e2,3]")));
    let mut log = log();
    assert_eq!(push(&mut log, &mut insert(&[one, list])).unwrap().accepted, 1);
    let again = push(&mut log, &mut insert(&[("b", ValueRef::Json("[100, 3]")), ("a", ValueRef::Float(1.0))])).unwrap();
    assert_eq!((again.accepted, again.duplicate), (0, 1));
    for other in [&[one, ("c", list.1)][..], &[list, ("a", ValueRef::Int(2))], &[one], &[one, list, ("c", one.1)]] {
        let refused = push(&mut log, &mut insert(other)).unwrap_err();
        assert!(matches!(refused, crate::Error::Equivocation { .. }), "{refused}");
    }
}
