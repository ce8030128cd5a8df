use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ops::{EventRef, Given, Moment, Number, OpRef, Origin, kind};
use crate::{EventId, ValueRef};

/// An operation that owns what it holds.
#[derive(Clone, Debug)]
pub(crate) enum Owned {
    Insert(String, String, Vec<(String, Cell)>),
    Update(String, String, String, Cell, Why),
    Delete(String, String),
    Opaque(u64, u64, Vec<u8>),
}

#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Json(String),
}

#[derive(Clone, Debug)]
pub(crate) enum Why {
    Explicit,
    Rewrite(EventRef),
    Default(Option<EventRef>),
}

impl Cell {
    pub(crate) fn value(&self) -> ValueRef<'_> {
        match self {
            Cell::Null => ValueRef::Null,
            Cell::Bool(b) => ValueRef::Bool(*b),
            Cell::Int(n) => ValueRef::Int(*n),
            Cell::Float(f) => ValueRef::Float(*f),
            Cell::Text(t) => ValueRef::Text(t),
            Cell::Json(t) => ValueRef::Json(t),
        }
    }
}

pub(crate) fn buffer(ops: &[Owned]) -> OpBuf {
    let mut buf = OpBuf::new();
    for op in ops {
        match op {
            Owned::Insert(tbl, row, cells) => {
                let tbl = buf.sym(tbl);
                buf.insert(tbl, row).unwrap();
                let mut used = Vec::new();
                for (col, value) in cells {
                    let col = buf.sym(col);
                    if !used.contains(&col) {
                        used.push(col);
                        buf.cell(col, value.value()).unwrap();
                    }
                }
            }
            Owned::Update(tbl, row, col, value, why) => {
                let (tbl, col) = (buf.sym(tbl), buf.sym(col));
                let origin = match why {
                    Why::Explicit => Origin::Explicit,
                    Why::Rewrite(root) => Origin::Rewrite(root),
                    Why::Default(since) => Origin::Default(since.as_ref()),
                };
                buf.update(tbl, row, col, value.value(), origin).unwrap();
            }
            Owned::Delete(tbl, row) => {
                let tbl = buf.sym(tbl);
                buf.delete(tbl, row).unwrap();
            }
            Owned::Opaque(kind, span, payload) => buf.opaque(*kind, *span, payload).unwrap(),
        }
    }
    buf
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[^\0]{0,6}",
        "[a-c]{1,2}",
        (any::<i64>()).prop_map(|n| n.to_string()),
        (0..2000i64).prop_map(|n| n.to_string()),
        (-99999..99999i64).prop_map(|n| format!("{}.{:02}", n / 100, (n % 100).abs())),
        any::<u128>().prop_map(|n| {
            let hex = format!("{n:032x}");
            format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
        }),
        (1..=12u8, 1..=31u8, 0..=999u16).prop_map(|(m, d, ms)| format!("2024-{m:02}-{d:02} 10:20:30.{ms:03}+00")),
        (1..=12u8, 1..=31u8).prop_map(|(m, d)| format!("1999-{m:02}-{d:02}")),
    ]
}

pub(crate) fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        any::<bool>().prop_map(Cell::Bool),
        any::<i64>().prop_map(Cell::Int),
        (-3..300i64).prop_map(Cell::Int),
        any::<f64>().prop_map(|f| if f.is_finite() { Cell::Float(f) } else { Cell::Float(-0.0) }),
        (-9999..9999i32).prop_map(|n| Cell::Float(n as f64 / 100.0)),
        text().prop_map(Cell::Text),
        prop_oneof![Just("{}"), Just("[1, {\"a\":null}]"), Just("1.10"), Just("1e400"), Just("99999999999999999999")]
            .prop_map(|t| Cell::Json(t.into())),
    ]
}

/// A column some of whose values are numbers, mostly of one form.
fn given_column() -> impl Strategy<Value = Vec<Given<'static>>> {
    let micros = prop_oneof![any::<i64>(), (-900_000..900_000i64).prop_map(|seconds| seconds * 1_000_000)];
    let moments = (prop_oneof![9 => Just(Moment::WithZone), 1 => Just(Moment::WithoutZone)], micros)
        .prop_map(|(kind, n)| moment(kind, n));
    let dates = (-999_999..9_999_999i64).prop_map(|n| moment(Moment::Date, n));
    let decimals = (prop_oneof![9 => Just(2u8), 1 => 0..=18u8], prop_oneof![any::<i64>(), -999..999i64])
        .prop_map(|(scale, n)| Some(Number::Decimal(n, scale)));
    let other = || prop_oneof![Just(ValueRef::Null), Just(ValueRef::Text("NaN")), Just(ValueRef::Int(7))];
    let column = |numbers: BoxedStrategy<Option<Number>>| {
        let number = numbers.prop_map(|n| n.map_or(Given::Value(ValueRef::Text("infinity")), Given::Number));
        vec(prop_oneof![30 => number, 1 => other().prop_map(Given::Value)], 1..20)
    };
    prop_oneof![column(moments.boxed()), column(dates.boxed()), column(decimals.boxed())]
}

fn why() -> impl Strategy<Value = Why> {
    let event = || {
        ("[a-c]", 0..100u64, proptest::option::of(0..100u64))
            .prop_map(|(peer, counter, lamport)| EventRef { id: EventId::new(peer, counter), lamport })
    };
    prop_oneof![
        4 => Just(Why::Explicit),
        1 => event().prop_map(Why::Rewrite),
        1 => proptest::option::of(event()).prop_map(Why::Default),
    ]
}

/// Mostly few tables, columns and kinds of value, as in life.
fn op() -> impl Strategy<Value = Owned> {
    let col = || "[p-s]".prop_map(String::from);
    let tbl = || "[tu]".prop_map(String::from);
    prop_oneof![
        4 => (tbl(), text(), vec((col(), cell()), 0..5)).prop_map(|(t, r, c)| Owned::Insert(t, r, c)),
        4 => (tbl(), text(), col(), cell(), why()).prop_map(|(t, r, c, v, o)| Owned::Update(t, r, c, v, o)),
        2 => (tbl(), text()).prop_map(|(t, r)| Owned::Delete(t, r)),
        1 => (prop_oneof![Just(0u64), 4..200u64], 1..9u64, vec(any::<u8>(), 0..9))
            .prop_map(|(k, s, p)| Owned::Opaque(k, s, p)),
    ]
}

/// The same in runs of the like.
pub(crate) fn ops() -> impl Strategy<Value = Vec<Owned>> {
    vec((op(), prop_oneof![3 => Just(1usize), 1 => 2..12usize]), 0..24)
        .prop_map(|runs| runs.into_iter().flat_map(|(op, n)| std::iter::repeat_n(op, n)).collect())
}

pub(crate) fn assert_equal(a: &OpBuf, b: &OpBuf) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b.iter()) {
        assert_eq!(shown(a), shown(b));
    }
}

/// Everything an operation says; floats bit for bit.
pub(crate) fn shown(op: OpRef<'_>) -> String {
    let value = |v: ValueRef<'_>| match v {
        ValueRef::Float(f) => format!("Float({:#x})", f.to_bits()),
        v => format!("{v:?}"),
    };
    match op {
        OpRef::Insert { tbl, row, cells } => {
            let cells: Vec<_> = cells.iter().map(|(c, v)| format!("{c:?}={}", value(v))).collect();
            format!("insert {tbl:?} {row:?} {cells:?}")
        }
        OpRef::Update { tbl, row, col, value: v, origin } => {
            format!("update {tbl:?} {row:?} {col:?}={} {origin:?}", value(v))
        }
        other => format!("{other:?}"),
    }
}

fn decoded(bytes: &[u8]) -> Result<OpBuf> {
    let mut into = OpBuf::new();
    decode(bytes, &Limits::default(), &mut into).map(|_| into)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn round_trip(ops in ops()) {
        let buf = buffer(&ops);
        let bytes = encode(&buf, 0..buf.len()).unwrap();
        assert_equal(&buf, &decoded(&bytes).unwrap());
        prop_assert_eq!(spans(&bytes).unwrap(), buf.iter().map(|op| op.span()).sum::<u64>());
        let named = buf.iter().filter_map(|op| match op {
            OpRef::Update { origin: Origin::Rewrite(root) | Origin::Default(Some(root)), .. } => Some(root.id.clone()),
            _ => None,
        });
        prop_assert_eq!(roots(&bytes, &Limits::default()).unwrap(), named.collect::<Vec<_>>());
    }

    #[test]
    fn a_kept_encoder_says_what_a_new_one_does(batches in vec(vec(op(), 1..3), 1..8)) {
        let mut encoder = Encoder::default();
        for batch in batches.iter().flat_map(|batch| [batch, batch]) {
            let buf = buffer(batch);
            let mut fresh = Encoder { untried: encoder.untried, ..Encoder::default() };
            prop_assert_eq!(encoder.encode(&buf, 0..buf.len()).unwrap(), fresh.encode(&buf, 0..buf.len()).unwrap());
        }
    }

    #[test]
    fn a_column_of_one_kind(of in prop::sample::select(vec!["i", "d", "u", "t"]), cells in vec(cell(), 1..40), n in any::<i64>()) {
        let mut buf = OpBuf::new();
        let (tbl, col) = (buf.sym("t"), buf.sym("c"));
        for (i, cell) in cells.iter().enumerate() {
            let i = i as i64;
            let text = match of {
                "i" => n.wrapping_mul(i).to_string(),
                "d" => format!("{}.{:03}", n.wrapping_add(i) >> 40, i),
                "u" => format!("0f1e2d3c-4b5a-6978-8796-{:012x}", i),
                _ => format!("2024-01-01T00:00:{:02}.{:03}Z", i, (n & 0xff) + i),
            };
            buf.update(tbl, &text, col, cell.value(), Origin::Explicit).unwrap();
        }
        let bytes = encode(&buf, 0..buf.len()).unwrap();
        assert_equal(&buf, &decoded(&bytes).unwrap());
    }

    #[test]
    fn a_range_is_copied_as_its_operations_are(before in ops(), ops in ops(), ends in any::<[prop::sample::Index; 2]>()) {
        let (mut at_once, mut one_by_one, buf) = (buffer(&before), buffer(&before), buffer(&ops));
        let mut ends = ends.map(|end| end.index(buf.len() + 1));
        ends.sort_unstable();
        at_once.extend(&buf, ends[0]..ends[1]).unwrap();
        buf.range(ends[0]..ends[1]).for_each(|op| one_by_one.push(op).unwrap());
        assert_equal(&at_once, &one_by_one);
    }

    #[test]
    fn numbers_are_encoded_as_the_texts_they_say(columns in vec(given_column(), 1..4)) {
        let (mut kept, mut spelled) = (OpBuf::new(), OpBuf::new());
        for buf in [&mut kept, &mut spelled] {
            let tbl = buf.sym("t");
            for (nth, column) in columns.iter().enumerate() {
                let col = buf.sym(&format!("c{nth}"));
                column.iter().for_each(|g| buf.update(tbl, "1", col, *g, Origin::Explicit).unwrap());
            }
        }
        spell_out(&mut spelled).unwrap();
        let all = 0..kept.len();
        prop_assert_eq!(encode(&kept, all.clone()).unwrap(), encode(&spelled, all).unwrap());
    }

    #[test]
    fn some_rows_are_all_rows_filtered(ops in ops(), pick in any::<u64>()) {
        let buf = buffer(&ops);
        let bytes = encode(&buf, 0..buf.len()).unwrap();
        let wanted = |tbl: &str, row: &str| pick >> ((tbl.len() + row.len() * 7 + row.bytes().map(usize::from).sum::<usize>()) % 64) & 1 == 1;
        let mut some = OpBuf::new();
        let rows = RowSet::new(buf.iter().filter_map(|op| op.row_key()).filter(|(t, r)| wanted(t, r)));
        let counters = decode_rows(&bytes, &Limits::default(), &rows, &mut some).unwrap();
        let (mut expected, mut at, mut counter) = (OpBuf::new(), Vec::new(), 0);
        for op in buf.iter() {
            if op.row_key().is_some_and(|(t, r)| wanted(t, r)) {
                expected.push(op).unwrap();
                at.push(counter);
            }
            counter += op.span();
        }
        assert_equal(&expected, &some);
        prop_assert_eq!(counters, at);
    }

    #[test]
    fn a_start_tells_what_is_done_or_nothing(ops in ops(), end in any::<prop::sample::Index>(), row in any::<prop::sample::Index>()) {
        let buf = buffer(&ops);
        let bytes = encode(&buf, 0..buf.len()).unwrap();
        let keys: Vec<_> = buf.iter().filter_map(|op| op.row_key()).collect();
        let wanted = || RowSet::new(keys.get(row.index(keys.len().max(1))).copied());
        let end = end.index(bytes.len() + 1);
        let (mut all, mut known) = (OpBuf::new(), OpBuf::new());
        let counters = decode_rows(&bytes, &Limits::default(), &wanted(), &mut all).unwrap();
        match decode_rows_start(&bytes[..end], bytes.len(), &Limits::default(), &wanted(), &mut known) {
            None => prop_assert!(known.is_empty()),
            Some(told) => {
                prop_assert_eq!(told, counters);
                assert_equal(&without_values(&all), &known);
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_other_operations(ops in ops(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let buf = buffer(&ops);
        let mut bytes = encode(&buf, 0..buf.len()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let mut into = OpBuf::new();
        let limits = Limits { cells: 10_000, ops: 10_000, decompressed_bytes: 1 << 20, ..Limits::default() };
        match decode(&bytes, &limits, &mut into) {
            Err(_) => prop_assert!(into.is_empty()),
            // Whatever was read can be stored and forwarded.
            Ok(_) => assert_equal(&into, &decoded(&encode(&into, 0..into.len()).unwrap()).unwrap()),
        }
        let rows = RowSet::new(buf.iter().filter_map(|op| op.row_key()));
        let _ = decode_rows(&bytes, &limits, &rows, &mut OpBuf::new());
        let _ = decode_rows_start(&bytes[..bytes.len() / 2], bytes.len(), &limits, &rows, &mut OpBuf::new());
        let _ = spans(&bytes);
    }

    #[test]
    fn noise_is_an_error(noise in vec(any::<u8>(), 0..64)) {
        let _ = decoded(&noise);
        let mut blob = vec![0xcd, 1, 0, 0, 3, 0];
        blob.extend(noise);
        let _ = decoded(&blob);
    }
}

/// The same operations, every value null.
fn without_values(buf: &OpBuf) -> OpBuf {
    let mut out = OpBuf::new();
    for op in buf.iter() {
        match op {
            OpRef::Insert { tbl, row, cells } => {
                let tbl = out.sym(tbl);
                out.insert(tbl, row).unwrap();
                for (col, _) in cells.iter() {
                    let col = out.sym(col);
                    out.cell(col, ValueRef::Null).unwrap();
                }
            }
            OpRef::Update { tbl, row, col, origin, .. } => {
                let (tbl, col) = (out.sym(tbl), out.sym(col));
                out.update(tbl, row, col, ValueRef::Null, origin).unwrap();
            }
            other => out.push(other).unwrap(),
        }
    }
    out
}

#[test]
fn the_start_of_a_run_of_a_bulk_statement_tells() {
    // Texts that LZ4 does not make smaller.
    let word = |i: u64| format!("{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17));
    let mut buf = OpBuf::new();
    let (tbl, cols) = (buf.sym("t"), ["a", "b"].map(|c| buf.sym(c)));
    for i in 0..512 {
        buf.insert(tbl, &(i * 3).to_string()).unwrap();
        cols.iter().zip(0..).for_each(|(col, n)| buf.cell(*col, ValueRef::Text(&word(2 * i + n))).unwrap());
    }
    let bytes = encode(&buf, 0..buf.len()).unwrap();
    let wanted = RowSet::new([("t", "300"), ("t", "301"), ("other", "303")]);
    let (mut some, mut all) = (OpBuf::new(), OpBuf::new());
    assert!(bytes.len() > 10_000, "{}", bytes.len());
    let told = decode_rows_start(&bytes[..200], bytes.len(), &Limits::default(), &wanted, &mut some);
    assert_eq!(told, Some(vec![100]));
    decode_rows(&bytes, &Limits::default(), &wanted, &mut all).unwrap();
    assert_equal(&some, &without_values(&all));
    assert_eq!(decode_rows_start(&bytes[..20], bytes.len(), &Limits::default(), &wanted, &mut OpBuf::new()), None);
    assert_eq!(decode_rows_start(&bytes[..200], bytes.len() + 1, &Limits::default(), &wanted, &mut OpBuf::new()), None);
}

/// Five columns of the usual kinds, `n` rows.
pub(crate) fn rows(n: i64) -> OpBuf {
    let mut buf = OpBuf::new();
    let tbl = buf.sym("todos");
    let cols = ["id", "title", "rank", "price", "changed"].map(|c| buf.sym(c));
    for i in 0..n {
        let scrambled = i.wrapping_mul(2_654_435_761) % 1_000_003;
        buf.insert(tbl, &i.to_string()).unwrap();
        let title = format!("item {scrambled}");
        let changed =
            format!("2024-03-{:02} {:02}:{:02}:{:02}.{:06}+00", 1 + i % 28, i % 24, i % 60, i % 59, scrambled);
        let changed = changed.replace(".000000", "");
        buf.cell(cols[0], ValueRef::Int(i)).unwrap();
        buf.cell(cols[1], ValueRef::Text(&title)).unwrap();
        buf.cell(cols[2], ValueRef::Int(scrambled)).unwrap();
        buf.cell(cols[3], ValueRef::Float(scrambled as f64 / 100.0)).unwrap();
        buf.cell(cols[4], ValueRef::Text(&changed)).unwrap();
    }
    buf
}

#[test]
fn cut_anywhere_it_is_an_error() {
    let mut buf = rows(3);
    let (tbl, col) = (buf.sym("other"), buf.sym("c"));
    let root = EventRef { id: EventId::new("p", 3), lamport: Some(4) };
    buf.update(tbl, "x", col, ValueRef::Json("[1]"), Origin::Rewrite(&root)).unwrap();
    buf.opaque(0, 5, b"").unwrap();
    for n in [1, 5, 400] {
        let buf = if n == 5 { buf.clone() } else { rows(n) };
        let bytes = encode(&buf, 0..buf.len()).unwrap();
        for cut in (0..bytes.len()).step_by(if n == 400 { 37 } else { 1 }) {
            assert!(decoded(&bytes[..cut]).is_err(), "{n} rows cut at {cut}");
        }
    }
}

#[test]
fn one_row_takes_little_more_than_its_names_and_values() {
    let buf = rows(1);
    let bytes = encode(&buf, 0..1).unwrap();
    let names = "todosidtitlerankpricechanged".len();
    let values = 1 + 1 + "item 0".len() + 1 + 8 + 8;
    assert!(bytes.len() <= names + values + 40, "{}", bytes.len());
}

#[test]
fn many_rows_take_less_than_their_values_and_two_bytes_a_cell() {
    let buf = rows(512);
    let bytes = encode(&buf, 0..512).unwrap();
    let values: usize = (0..512).map(|_| 4 + 11 + 4 + 8 + 8).sum();
    assert!(bytes.len() < values + 2 * 5 * 512, "{} {values}", bytes.len());
}

/// A blob of one operation and the given body.
fn blob(ops: u8, body: &[u8]) -> Vec<u8> {
    [&[0xcd, 1, 0, 0, ops, 0], body].concat()
}

#[test]
fn hostile_blobs() {
    use Error::*;
    let names = |first: &[u8]| [&[1, first.len() as u8 + 3, first.len() as u8], first, &[1, b'c']].concat();
    let update = |value: &[u8]| {
        let streams = [&[2, 4, b'x', value.len() as u8], value].concat();
        let body = [names(b"t"), vec![2, 4, 1, 2, 0, 0], vec![3, streams.len() as u8], streams].concat();
        decoded(&blob(1, &body))
    };
    assert!(update(&[2, 2]).is_ok());
    for (what, outcome, expected) in [
        ("nothing", decoded(b""), "Malformed"),
        ("not ours", decoded(b"\x00\x01\0\0\0\0"), "Malformed"),
        ("a later version", decoded(b"\xcd\x02\0\0\0\0"), "Unsupported"),
        ("unknown critical features", decoded(b"\xcd\x01\x06\0\0\0"), "Unsupported"),
        ("unknown optional features", decoded(b"\xcd\x01\0\x06\0\0"), "ok"),
        ("an unknown section", decoded(b"\xcd\x01\0\0\0\0\x63\x02ab"), "ok"),
        ("a section twice", decoded(b"\xcd\x01\0\0\0\0\x01\0\x01\0"), "Malformed"),
        ("a million more operations than allowed", decoded(b"\xcd\x01\0\0\x80\x89\x7a\0"), "TooLarge"),
        ("2^63 operations", decoded(b"\xcd\x01\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x7f\0"), "Malformed"),
        ("2^53 counters", decoded(b"\xcd\x01\0\0\0\x80\x80\x80\x80\x80\x80\x80\x10"), "Malformed"),
        ("operations without shapes", decoded(&blob(1, &[])), "Malformed"),
        ("an LZ4 bomb", decoded(b"\xcd\x01\x01\0\x01\0\xff\xff\xff\x7f\x1fx\x01\0\xff\xff\xff"), "TooLarge"),
        ("a float that is none", update(&[3, 0, 0, 0, 0, 0, 0, 0xf0, 0x7f]), "Malformed"),
        ("bytes that are no UTF-8", update(&[4, 0xff]), "Malformed"),
        ("NUL in a text", update(&[4, 0]), "NulCharacter"),
        ("broken JSON", update(&[5, b'{']), "Malformed"),
        ("NUL in JSON", update(b"\x05[\"\\u0000\"]"), "NulCharacter"),
        ("a scalar as JSON", update(&[5, b'1']), "Malformed"),
        ("JSON deeper than allowed", update(&[&[5][..], &[b'['; 110]].concat()), "Malformed"),
        ("an unknown type", update(&[6]), "Malformed"),
        ("an unknown mode of a text", update(&[4 | 31 << 3, b'x']), "Malformed"),
        ("an unknown mode of an int", update(&[2 | 31 << 3, 2]), "Malformed"),
        ("an empty name", decoded(&blob(1, &names(b""))), "Malformed"),
        ("NUL in a name", decoded(&blob(1, &names(b"a\0"))), "NulCharacter"),
        ("a name of another table", decoded(&blob(1, &[&names(b"t")[..], &[2, 4, 1, 2, 0, 2]].concat())), "Malformed"),
    ] {
        let found = match &outcome {
            Ok(_) => "ok",
            Err(Malformed { .. }) => "Malformed",
            Err(TooLarge { .. }) => "TooLarge",
            Err(Unsupported { .. }) => "Unsupported",
            Err(NulCharacter { .. }) => "NulCharacter",
            Err(_) => "another",
        };
        assert_eq!(found, expected, "{what}: {outcome:?}");
    }
}

#[test]
fn more_shapes_than_are_searched() {
    let mut buf = OpBuf::new();
    let cols: Vec<_> = (0..40).map(|i| buf.sym(&format!("c{i}"))).collect();
    let tbl = buf.sym("t");
    for i in (0..40).chain(0..40) {
        buf.insert(tbl, &i.to_string()).unwrap();
        cols[..i].iter().for_each(|&c| buf.cell(c, ValueRef::Int(i as i64)).unwrap());
        buf.update(tbl, "x", cols[i], ValueRef::Null, Origin::Explicit).unwrap();
    }
    let bytes = encode(&buf, 0..buf.len()).unwrap();
    assert_equal(&buf, &decoded(&bytes).unwrap());
    let mut shapes = shapes::Plan::default();
    shapes.make(&buf, 0..buf.len()).unwrap();
    let mut out = Vec::new();
    shapes.put(&mut out).unwrap();
    assert_eq!(out[0], 80, "each look is one shape");
}

#[test]
fn run_lengths_cannot_make_more_cells_than_allowed() {
    let mut buf = OpBuf::new();
    let tbl = buf.sym("t");
    let cols: Vec<_> = (0..100).map(|i| buf.sym(&format!("c{i}"))).collect();
    for _ in 0..1000 {
        buf.insert(tbl, "1").unwrap();
        cols.iter().for_each(|&c| buf.cell(c, ValueRef::Null).unwrap());
    }
    let bytes = encode(&buf, 0..1000).unwrap();
    assert!(bytes.len() < 1000, "{}", bytes.len());
    let limits = Limits { cells: 99_999, ..Limits::default() };
    let outcome = decode(&bytes, &limits, &mut OpBuf::new());
    assert!(matches!(outcome, Err(Error::TooLarge { bytes: 100_000, limit: 99_999, .. })), "{outcome:?}");
}

#[test]
fn a_dictionary_cannot_make_more_text_than_allowed() {
    let mut buf = OpBuf::new();
    let (tbl, col) = (buf.sym("t"), buf.sym("c"));
    let long = "x".repeat(10_000);
    for i in 0..1000 {
        buf.update(tbl, &i.to_string(), col, ValueRef::Text(&long), Origin::Explicit).unwrap();
    }
    let bytes = encode(&buf, 0..1000).unwrap();
    assert!(bytes.len() < 1000, "{}", bytes.len());
    let limits = Limits { decompressed_bytes: 1 << 20, ..Limits::default() };
    assert!(matches!(decode(&bytes, &limits, &mut OpBuf::new()), Err(Error::TooLarge { .. })));
}

#[test]
fn many_blobs_cannot_expand_to_more_than_allowed() {
    let blob = encode(&rows(400), 0..400).unwrap();
    let limits = Limits { decompressed_bytes: 30_000, ..Limits::default() };
    let mut budget = crate::limits::Budget::new(&limits);
    let outcomes = [(); 40].map(|()| decode_within(&blob, &mut budget, &mut OpBuf::new()).is_ok());
    assert!(outcomes[0] && !outcomes[39]);
}

#[test]
fn an_opaque_operation_cannot_pose_as_a_row_operation() {
    let mut buf = OpBuf::new();
    buf.opaque(1, 1, b"").unwrap();
    assert!(matches!(encode(&buf, 0..1), Err(Error::Malformed { .. })));
}

#[test]
fn an_opaque_operation_is_not_taken_for_the_row_operation_before() {
    let mut buf = OpBuf::new();
    let tbl = buf.sym("t");
    buf.delete(tbl, "1").unwrap();
    buf.opaque(kind::DELETE, 1, b"").unwrap();
    let mut encoder = Encoder::default();
    assert!(matches!(encoder.encode(&buf, 0..2), Err(Error::Malformed { .. })));
    encoder.encode(&buf, 0..1).unwrap();
    assert!(matches!(encoder.encode(&buf, 1..2), Err(Error::Malformed { .. })));
    encoder.encode(&buf, 0..1).unwrap();
}

#[test]
fn more_counters_than_there_are_is_an_error() {
    let mut ops = OpBuf::new();
    ops.opaque(99, u64::MAX, b"?").unwrap();
    let tbl = ops.sym("t");
    ops.delete(tbl, "1").unwrap();
    assert!(matches!(encode(&ops, 0..2), Err(Error::ClockRange { .. })));
}
