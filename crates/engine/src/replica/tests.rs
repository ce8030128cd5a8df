use super::*;

fn text(row: Option<&Row>) -> String {
    let Some(row) = row else { return "-".into() };
    let cells: Vec<String> = row.iter().map(|(col, value)| format!("{col}={:?}", value.view())).collect();
    cells.join(" ")
}

#[test]
fn writes_travel_and_meet() {
    let (mut a, mut b) = (Replica::new("a"), Replica::new("b"));
    a.insert("t", "1", &[("x", ValueRef::Int(1)), ("y", ValueRef::Null)]).unwrap();
    let applied = b.pull_in(a.pull(&b.versions(), 100).unwrap().batch).unwrap();
    assert_eq!((applied.accepted, applied.changes.len()), (1, 1));
    a.update("t", "1", "x", ValueRef::Int(2)).unwrap();
    b.update("t", "1", "y", ValueRef::Text("b")).unwrap();
    b.update("t", "1", "x", ValueRef::Int(3)).unwrap();
    let (from_a, from_b) = (a.pull(&b.versions(), 9).unwrap(), b.pull(&a.versions(), 9).unwrap());
    a.pull_in(from_b.batch.clone()).unwrap();
    assert_eq!(b.pull_in(from_a.batch).unwrap().changes, [], "b's x is newer");
    assert_eq!(text(a.row("t", "1")), "x=Int(3) y=Text(\"b\")");
    assert_eq!(a.tables(), b.tables());
    let again = a.pull_in(from_b.batch).unwrap();
    assert_eq!((again.accepted, again.duplicate), (0, 2));
    a.delete("t", "1").unwrap();
    assert_eq!(text(a.row("t", "1")), "-");
    a.check();
    b.check();
}

/// A hub whose table fills in `d` and counts writes in `n`.
struct Counting;

impl Hooks for Counting {
    fn defaults(&self, _: &str) -> Vec<(&'static str, Value)> {
        vec![("d", Value::Int(7))]
    }

    fn rewrites(&self, _: &str, old: Option<&Row>, _: &Row) -> Vec<(&'static str, Value)> {
        let count = match old.and_then(|row| row.get("n")) {
            Some(Value::Int(n)) => n + 1,
            _ => 0,
        };
        vec![("n", Value::Int(count))]
    }
}

#[test]
fn the_hub_writes_down_what_its_table_did() {
    let mut hub = Replica::with_hooks("hub", Counting);
    let mut a = Replica::new("a");
    a.insert("t", "1", &[("x", ValueRef::Int(1))]).unwrap();
    a.update("t", "1", "d", ValueRef::Int(8)).unwrap();
    let all = a.pull(&hub.versions(), 99).unwrap().batch;
    hub.apply(first_op(&all)).unwrap();
    assert_eq!(text(hub.row("t", "1")), "d=Int(7) n=Int(0) x=Int(1)");
    hub.apply(all).unwrap();
    assert_eq!(text(hub.row("t", "1")), "d=Int(8) n=Int(1) x=Int(1)", "the author's write was before the default's");
    a.pull_in(hub.pull(&a.versions(), 99).unwrap().batch).unwrap();
    assert_eq!(a.tables(), hub.tables());
    hub.check();
    a.check();
}

/// Attack 26: two insert the row, one of them with `d`. Whatever the order, `d` is what somebody wrote.
#[test]
fn a_default_yields_to_whoever_wrote() {
    for order in [[0, 1], [1, 0]] {
        let (mut x, mut y) = (Replica::new("x"), Replica::new("y"));
        x.insert("t", "1", &[("a", ValueRef::Int(1)), ("d", ValueRef::Int(8))]).unwrap();
        for row in ["2", "1"] {
            y.insert("t", row, &[("a", ValueRef::Int(2))]).unwrap();
        }
        let batches = [&x, &y].map(|client| client.pull(&Versions::new(), 99).unwrap().batch);
        let mut hub = Replica::with_hooks("hub", Counting);
        for at in order {
            hub.apply(batches[at].clone()).unwrap();
            hub.check();
        }
        let row = hub.row("t", "1").unwrap();
        assert_eq!((&row["a"], &row["d"]), (&Value::Int(2), &Value::Int(8)), "order {order:?}");
    }
}

/// Attack 27: a late push wins a cell, but is older than the counter's last rewrite.
#[test]
fn a_late_push_moves_the_counter_on() {
    let (mut a, mut b) = (Replica::new("a"), Replica::new("b"));
    let mut hub = Replica::with_hooks("hub", Counting);
    a.insert("t", "1", &[("x", ValueRef::Int(1))]).unwrap();
    hub.apply(a.pull(&Versions::new(), 99).unwrap().batch).unwrap();
    b.pull_in(a.pull(&Versions::new(), 99).unwrap().batch).unwrap();
    b.update("t", "1", "late", ValueRef::Int(1)).unwrap();
    for value in 2..5 {
        a.update("t", "1", "x", ValueRef::Int(value)).unwrap();
        hub.apply(a.pull(&hub.versions(), 99).unwrap().batch).unwrap();
    }
    hub.apply(b.pull(&hub.versions(), 99).unwrap().batch).unwrap();
    assert_eq!(text(hub.row("t", "1")), "d=Int(7) late=Int(1) n=Int(4) x=Int(4)");
    hub.check();
}

fn first_op(batch: &Batch) -> Batch {
    let mut first = batch.clone();
    first.runs.truncate(1);
    first.runs[0].ops.end = first.runs[0].ops.start + 1;
    first
}

#[test]
fn a_clone_that_goes_on_by_itself_is_refused() {
    let (mut hub, mut a) = (Replica::new("hub"), Replica::new("a"));
    a.insert("t", "1", &[]).unwrap();
    let mut clone = a.clone();
    a.update("t", "1", "x", ValueRef::Int(1)).unwrap();
    clone.update("t", "1", "x", ValueRef::Int(2)).unwrap();
    hub.apply(a.pull(&hub.versions(), 9).unwrap().batch).unwrap();
    let before = hub.tables().clone();
    let error = hub.apply(clone.pull(&Versions::new(), 9).unwrap().batch).unwrap_err();
    let crate::Error::Equivocation { event, known, got } = error else { panic!("{error}") };
    assert_eq!(event, EventId::new("a", 1));
    assert_ne!(known, got);
    assert_eq!(*hub.tables(), before);
}

/// `cargo test --release -p crdt_engine push_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn push_speed() {
    const ROWS: usize = 25_000;
    let mut client = Replica::new("c");
    for row in 0..ROWS {
        let row = row.to_string();
        client.insert("t", &row, &[("a", ValueRef::Int(1)), ("b", ValueRef::Int(2))]).unwrap();
    }
    let mut hub = Replica::new("hub");
    let mut push = |what: &str, client: &Replica, known: &Versions| {
        let batch = client.pull(known, usize::MAX).unwrap().batch;
        let mut one = Batch { ops: batch.ops, runs: vec![batch.runs[0].clone()] };
        one.runs[0].ops.end = batch.runs.last().unwrap().ops.end;
        let ops = one.ops.len();
        let mut admitted_only = one.clone();
        let start = std::time::Instant::now();
        let clock = Clock { greatest: MAX_CLOCK, events: 0 };
        let admitted = admit(&mut admitted_only, &mut hub.log(), clock).unwrap();
        let after_admit = start.elapsed();
        let rows = Rows::group(admitted.events(&admitted_only)).len();
        let after_group = start.elapsed();
        let start = std::time::Instant::now();
        hub.pull_in(one).unwrap();
        let (all, group) = (start.elapsed(), after_group - after_admit);
        println!("{what}: {ops} ops, {rows} rows: admit {after_admit:?}, group {group:?}, everything {all:?}");
    };
    push("inserts", &client, &Versions::new());
    push("the same", &client, &Versions::new());
    let known = client.versions();
    for op in 0..100_000 {
        let (row, col) = ((op % ROWS).to_string(), ["a", "b", "c", "d"][op / ROWS]);
        client.update("t", &row, col, ValueRef::Int(3)).unwrap();
    }
    push("updates", &client, &known);
    push("the same", &client, &known);
}

/// A version vector may point into the middle of an operation of a later version that takes several counters.
#[test]
fn a_page_begins_behind_an_operation_that_is_known_in_part() {
    let mut ops = OpBuf::new();
    let (tbl, col) = (ops.sym("t"), ops.sym("x"));
    ops.opaque(99, 3, b"?").unwrap();
    ops.update(tbl, "1", col, ValueRef::Int(7), Origin::Explicit).unwrap();
    let mut author = Replica::new("a");
    author.write(ops).unwrap();
    for (known, first, count) in [(0, 3, 1), (1, 3, 1), (2, 3, 1)] {
        let page = author.pull(&[("a".to_owned(), known)].into(), usize::MAX).unwrap();
        let run = &page.batch.runs[0];
        assert_eq!((run.counter_start, run.lamport_start, run.ops.len()), (first, first + 1, count), "known {known}");
    }
    assert!(author.pull(&[("a".to_owned(), 3)].into(), usize::MAX).unwrap().batch.runs.is_empty());
}
