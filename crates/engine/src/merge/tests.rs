use std::collections::BTreeMap;

use super::oracle::{RandomRow, Shown, replay_row_slowly};
use super::*;
use crate::testkit::{Rng, seeds};

fn shown<'a>(view: &RowView<'a>) -> Shown<'a> {
    view.exists().then(|| view.cells.iter().map(|c| (c.col, (c.value, c.dot()))).collect())
}

/// What the table shows after a patch.
fn patched<'a>(before: Shown<'a>, patch: &Patch<'a>) -> Shown<'a> {
    let cells = || patch.cells().iter().map(|c| (c.col, (c.value, c.dot())));
    match patch {
        Patch::None => before,
        Patch::Insert(_) => {
            assert!(before.is_none(), "insert of a row that is there");
            Some(cells().collect())
        }
        Patch::Reset(_) => {
            assert!(before.is_some(), "reset of a row that is not there");
            Some(cells().collect())
        }
        Patch::Update(_) => {
            let mut row: BTreeMap<_, _> = before.expect("update of a row that is not there");
            for (col, cell) in cells() {
                assert_ne!(row.insert(col, cell), Some(cell), "an update that changes nothing");
            }
            Some(row)
        }
        Patch::Delete => {
            assert!(before.is_some(), "delete of a row that is not there");
            None
        }
    }
}

/// One random row, split at random in a log and a batch: the window, the history and a replay must agree.
fn check_one(seed: u64) -> (usize, usize) {
    let mut rng = Rng::new(seed);
    let n = 1 + rng.below(9);
    let row = RandomRow::new(&mut rng, n);
    let mut events = row.events();
    rng.shuffle(&mut events);
    let batch_len = 1 + rng.below(events.len());
    let (batch, log) = events.split_at(batch_len);
    let least = batch.iter().map(Candidate::effective_lamport).min().unwrap();
    let least = if rng.chance(20) { rng.below(least as usize + 1) as u64 } else { least };
    let window: Vec<_> = log.iter().filter(|c| c.effective_lamport() >= least).copied().collect();

    let before = shown(&replay_row(log.iter().copied()));
    let after = shown(&replay_row(events.iter().copied()));
    assert_eq!(before, replay_row_slowly(log), "replay of the log");
    assert_eq!(after, replay_row_slowly(&events), "replay of everything");

    let full = merge_row_with_history(before.is_some(), log, batch);
    assert_eq!(patched(before.clone(), &full.patch), after, "with history");
    if matches!(full.patch, Patch::Reset(_)) {
        let (was, is) = (before.as_ref().expect("a row to reset"), after.as_ref().expect("a row afterwards"));
        assert!(was.keys().any(|col| !is.contains_key(col)), "a reset where nothing vanishes");
    }
    check_roots(&full, &events, &after);
    check_bypassed(&before, log, batch, &after);
    match merge_row(before.is_some(), &window, batch) {
        Merged::NeedsHistory => {
            assert!(may_need_history(&window, batch));
            (1, 1)
        }
        Merged::Row(merge) => {
            assert_eq!(patched(before.clone(), &merge.patch), after, "by the window: {:?}", merge.patch);
            check_roots(&merge, &events, &after);
            if let LastDelete::Known(d) = merge.last_delete {
                assert_eq!(d, replay_row(events.iter().copied()).last_delete);
            }
            (1, 0)
        }
    }
}

/// Whether a random part of the log settles the row; if so, nothing of the batch may show, whatever else there is.
fn check_settled<'a>(rng: &mut Rng, log: &[Candidate<'a>], batch: &[Candidate<'a>]) -> bool {
    let percent = [30, 60, 100][rng.below(3)];
    let known: Vec<_> = log.iter().filter(|_| rng.chance(percent)).copied().collect();
    let greatest = Greatest::of(&known);
    let open: Vec<_> = batch.iter().filter(|event| !greatest.makes_void(event)).copied().collect();
    let with = |batch: &[Candidate<'a>]| replay_row(log.iter().chain(batch).copied());
    let (before, after) = (with(&[]), with(batch));
    // What is void is as good as not there, also beside what is not.
    assert_eq!(shown(&with(&open)), shown(&after), "known: {known:?}");
    if !settled(&known, batch) {
        return false;
    }
    assert_eq!(shown(&before), shown(&after));
    assert_eq!((before.last_delete, before.birth), (after.last_delete, after.birth));
    for exists in [before.exists(), !before.exists()] {
        let merge = merge_row_with_history(exists, log, batch);
        assert!(merge.patch.is_none() && merge.cause.is_none(), "known: {known:?}, {:?}", merge.patch);
    }
    true
}

#[test]
fn a_settled_row_stays_as_it_is_whatever_was_not_read() {
    let (mut rows, mut by_part) = (0, 0);
    for seed in seeds(300_000) {
        let check = || {
            let mut rng = Rng::new(seed);
            let n = 2 + rng.below(9);
            let row = RandomRow::new(&mut rng, n);
            let mut events = row.events();
            rng.shuffle(&mut events);
            let batch_len = 1 + rng.below(3.min(events.len() - 1));
            let (batch, log) = events.split_at(batch_len);
            check_settled(&mut rng, log, batch)
        };
        by_part += usize::from(std::panic::catch_unwind(check).unwrap_or_else(|_| panic!("seed {seed}")));
        rows += 1;
    }
    println!("{by_part} of {rows} rows were settled");
    assert!(by_part * 10 > rows, "{by_part} of {rows} rows were settled");
}

#[test]
fn a_row_is_settled_by_what_beats_each_of_its_events() {
    type Told = &'static [(u64, char)];
    let cases: [(Told, Told, bool, &str); 14] = [
        (&[], &[(5, 'u')], false, "nothing is known"),
        (&[(6, 'u')], &[(5, 'u')], true, "a newer update"),
        (&[(4, 'u')], &[(5, 'u')], false, "an older update"),
        (&[(6, 'v')], &[(5, 'u')], false, "another cell"),
        (&[(6, 'x')], &[(5, 'u')], true, "a newer insert that names the cell"),
        (&[(6, 'i')], &[(5, 'u')], false, "one that does not"),
        (&[(6, 'd')], &[(5, 'u'), (4, 'i'), (3, 'd')], true, "a newer delete"),
        (&[(5, 'd')], &[(6, 'i')], false, "an older one"),
        (&[(6, 'x')], &[(5, 'i')], false, "an insert may be the birth"),
        (&[(6, 'x'), (6, 'u')], &[(5, 'd')], false, "a delete may be the last"),
        (&[(6, 'u')], &[(5, 'u'), (4, 'v')], false, "only one of two"),
        (&[(6, 'u'), (7, 'v')], &[(5, 'u'), (4, 'v')], true, "both"),
        (&[(6, 'f')], &[(5, 'u')], false, "a default settles nothing"),
        (&[(7, 'd'), (6, 'u')], &[(5, 'f')], false, "and is not settled"),
    ];
    for (known, batch, meant, why) in cases {
        let (mut ours, mut theirs) = (crate::OpBuf::new(), crate::OpBuf::new());
        let (known, batch) = (events(&mut ours, known), events(&mut theirs, batch));
        assert_eq!(settled(&known, &batch), meant, "{why}: {known:?} {batch:?}");
    }
}

/// A rewrite competes by its root's stamp, and is just above the root.
#[test]
fn a_rewrite_is_settled_and_settles_by_its_root() {
    let mut ops = crate::OpBuf::new();
    let (t, x) = (ops.sym("t"), ops.sym("x"));
    let root = crate::ops::EventRef { id: crate::EventId::new("p", 5), lamport: Some(5) };
    ops.update(t, "r", x, ValueRef::Int(1), Origin::Rewrite(&root)).unwrap();
    let rewrite = [Candidate::new(&ops, 0, Dot { lamport: 9, peer: "hub", counter: 0 })];
    let of_others: [(u64, char, bool, bool); 6] = [
        (5, 'u', false, true),
        (6, 'u', true, false),
        (5, 'd', false, false),
        (6, 'd', true, false),
        (5, 'x', false, false),
        (6, 'x', true, false),
    ];
    for (lamport, what, settles_it, settled_by_it) in of_others {
        let mut others = crate::OpBuf::new();
        let other = events(&mut others, &[(lamport, what)]);
        assert_eq!(
            (settled(&other, &rewrite), settled(&rewrite, &other)),
            (settles_it, settled_by_it),
            "{what} {lamport}"
        );
    }
}

/// The table has the row when the log does not, or the other way round: a row that changes is then written whole.
fn check_bypassed<'a>(before: &Shown<'a>, log: &[Candidate<'a>], batch: &[Candidate<'a>], after: &Shown<'a>) {
    let table = before.is_none().then(BTreeMap::new);
    let merge = merge_row_with_history(table.is_some(), log, batch);
    assert_eq!(merge.last_delete, merge_row_with_history(before.is_some(), log, batch).last_delete);
    match before == after {
        true => assert!(merge.patch.is_none(), "what changes nothing mends nothing, either"),
        false => assert_eq!(patched(table, &merge.patch), *after, "over a table of another mind"),
    }
}

/// A rewrite made from `root_for` is what its cell shows afterwards.
fn check_roots(merge: &RowMerge<'_>, events: &[Candidate<'_>], after: &Shown<'_>) {
    if merge.patch.is_none() || after.is_none() {
        return;
    }
    for col in ["x", "y", "z", "new"] {
        let root = merge.root_for(col).expect("a patch has a cause");
        let root =
            crate::ops::EventRef { id: crate::EventId::new(root.peer, root.counter), lamport: Some(root.lamport) };
        let mut ops = crate::OpBuf::new();
        let (t, c) = (ops.sym("t"), ops.sym(col));
        ops.update(t, "r", c, ValueRef::Text("rewritten"), Origin::Rewrite(&root)).unwrap();
        let rewrite = Candidate::new(&ops, 0, Dot { lamport: 1000, peer: "hub", counter: 0 });
        let with: Vec<_> = events.iter().copied().chain([rewrite]).collect();
        let view = replay_row(with);
        assert_eq!(view.cell(col).map(|c| c.value), Some(ValueRef::Text("rewritten")), "rewrite of {col}");
    }
}

/// Events of one row, as `(lamport, what)`: `i` inserts, `x` inserts with a cell, `u` and `v` set x and y, `d` deletes,
/// `f` is a default of x.
fn events<'o>(ops: &'o mut crate::OpBuf, told: &[(u64, char)]) -> Vec<Candidate<'o>> {
    let (t, x, y) = (ops.sym("t"), ops.sym("x"), ops.sym("y"));
    for &(lamport, what) in told {
        let value = ValueRef::Int(lamport as i64);
        match what {
            'i' => ops.insert(t, "r"),
            'x' => ops.insert(t, "r").and_then(|()| ops.cell(x, value)),
            'u' => ops.update(t, "r", x, value, Origin::Explicit),
            'v' => ops.update(t, "r", y, value, Origin::Explicit),
            'f' => ops.update(t, "r", x, value, Origin::Default(None)),
            _ => ops.delete(t, "r"),
        }
        .unwrap();
    }
    let dot = |at: usize| Dot { lamport: told[at].0, peer: "p", counter: told[at].0 };
    (0..told.len()).map(|at| Candidate::new(ops, at, dot(at))).collect()
}

/// Reading a row's whole history is dear, so it is asked for only where the window leaves something open.
#[test]
fn history_is_asked_for_only_where_it_decides() {
    let (there, absent) = (true, false);
    type Told = &'static [(u64, char)];
    let cases: [(bool, Told, Told, bool, &str); 17] = [
        (there, &[], &[(5, 'u')], false, "the table tells that the row stands"),
        (absent, &[], &[(5, 'i'), (6, 'u')], false, "the batch makes the row"),
        (there, &[(3, 'i')], &[(5, 'u')], false, "newer than every birth"),
        (there, &[(5, 'i')], &[(3, 'u')], true, "counts if the row stood before 5"),
        (there, &[(3, 'u'), (5, 'i')], &[(2, 'i')], true, "an older insert may bring it to life"),
        (there, &[(4, 'u'), (5, 'i')], &[(6, 'u')], false, "what the row was before 5 is not the batch's doing"),
        (absent, &[(5, 'i')], &[(6, 'u')], true, "table and log disagree"),
        (there, &[(5, 'i')], &[(3, 'f')], true, "a default in an open cell"),
        (there, &[(5, 'x')], &[(3, 'f')], false, "somebody wrote the cell"),
        (there, &[], &[(5, 'f')], true, "of which life?"),
        (there, &[], &[(5, 'f'), (6, 'u')], false, "somebody wrote the cell"),
        (there, &[(3, 'f')], &[(4, 'v')], false, "the window's default is in the table, if it counts"),
        (absent, &[(3, 'f')], &[(2, 'i')], true, "the window's default may come to life"),
        (absent, &[(3, 'f')], &[(2, 'x')], false, "somebody wrote the cell"),
        (absent, &[], &[(5, 'd')], false, "nothing to delete"),
        (there, &[(3, 'i')], &[(5, 'd')], false, "the row goes"),
        (absent, &[(3, 'i')], &[(5, 'd')], true, "table and log disagree"),
    ];
    for (exists, window, batch, asks, why) in cases {
        let (mut ours, mut theirs) = (crate::OpBuf::new(), crate::OpBuf::new());
        let (window, batch) = (events(&mut ours, window), events(&mut theirs, batch));
        let asked = matches!(merge_row(exists, &window, &batch), Merged::NeedsHistory);
        assert_eq!(asked, asks, "{why}: {window:?} {batch:?}");
        assert!(!asked || may_need_history(&window, &batch));
    }
    let (mut ours, mut theirs) = (crate::OpBuf::new(), crate::OpBuf::new());
    let (plain, default) = (events(&mut ours, &[(5, 'u'), (6, 'd')]), events(&mut theirs, &[(5, 'u'), (6, 'f')]));
    assert!(!may_need_history(&[], &plain), "nobody wrote since");
    assert!(may_need_history(&plain, &plain) && may_need_history(&[], &default));
}

#[test]
fn window_history_and_replay_agree() {
    let (mut all, mut asked) = (0, 0);
    for seed in seeds(300_000) {
        let result = std::panic::catch_unwind(|| check_one(seed));
        let (n, h) = result.unwrap_or_else(|_| panic!("seed {seed}"));
        all += n;
        asked += h;
    }
    println!("{all} merges, {asked} asked for the history");
}

/// `cargo test --release -p crdt_engine merge_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn merge_speed() {
    let mut ops = crate::OpBuf::new();
    let t = ops.sym("t");
    let cols: Vec<_> = ["a", "b", "c", "d"].iter().map(|c| ops.sym(c)).collect();
    const ROWS: usize = 25_000;
    for row in 0..ROWS {
        ops.insert(t, &row.to_string()).unwrap();
        for &col in &cols {
            ops.cell(col, ValueRef::Int(1)).unwrap();
        }
    }
    for row in 0..ROWS * 4 {
        ops.update(t, &(row / 4).to_string(), cols[row % 4], ValueRef::Int(2), Origin::Explicit).unwrap();
    }
    let candidate = |i| Candidate::new(&ops, i, Dot { lamport: i as u64, peer: "p", counter: i as u64 });
    let events: Vec<_> = (0..ops.len()).map(candidate).collect();
    let time = |what: &str, size: usize, exists: bool, events: &[Candidate<'_>]| {
        let start = std::time::Instant::now();
        for batch in events.chunks(size) {
            let merged = merge_row(exists, &[], batch);
            assert!(matches!(&merged, Merged::Row(row) if row.patch.cells().len() == 4));
        }
        println!("{what}: {:?} a row", start.elapsed() / ROWS as u32);
    };
    time("insert of 4 cells", 1, false, &events[..ROWS]);
    time("update of 4 cells", 4, true, &events[ROWS..]);
}
