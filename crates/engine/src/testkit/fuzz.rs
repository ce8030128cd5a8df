//! What a fuzzer feeds with bytes: each must return whatever they are, and what it reads must come back the same.
//! `crates/engine/fuzz` runs these with coverage; `tests/corpus.rs` replays what was found.

use crate::admit::{Clock, admit};
use crate::codec;
use crate::graph::{LocalId, PeerIdx, RunHead, Runs, compare, difference, heads_of, lca, version_vector};
use crate::id::{EventId, MAX_CLOCK};
use crate::limits::Limits;
use crate::oplog::Oplog;
use crate::ops::{EventRef, OpBuf, Origin, kind};
use crate::replica::Replica;
use crate::testkit::{Rng, oracle, transport};
use crate::value::ValueRef;
use crate::wire::{Batch, PushRequest, Run, Versions, binary, json};
use crate::{Error, Result};

/// A fuzz target: its name, and what it does with bytes. Panics on a fault.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 5] =
    [("json", json_wire), ("binary", binary_wire), ("codec", codec_ops), ("recut", recut), ("graph", graph)];

/// Small limits, so that a fuzzer meets them.
fn limits() -> Limits {
    Limits {
        request_bytes: 1 << 16,
        ops: 5_000,
        cells: 20_000,
        depth: 20,
        decompressed_bytes: 1 << 20,
        ..Limits::default()
    }
}

/// Every reader of JSON. What was read and written is read as the same again.
pub fn json_wire(bytes: &[u8]) {
    let limits = limits();
    if let Ok(request) = json::decode_push(bytes, &limits) {
        let text = as_json(&request);
        // Written out a number may take more room than it did.
        let again = json::decode_push(text.as_bytes(), &Limits::default()).expect("what was written can be read");
        assert_eq!(text, as_json(&again));
        // Of one event told twice a fingerprint counts both, each time.
        assert_eq!(oracle::fingerprint(&request.batch), oracle::fingerprint(&again.batch));
        let through = binary::encode_push(&request).expect("a request that was read");
        let through = binary::decode_push(&through, &Limits::default()).expect("the binary form of what was read");
        assert_eq!(text, as_json(&through));
    }
    if let Ok(request) = json::decode_pull(bytes, &limits) {
        let mut text = String::new();
        json::write_pull(&mut text, &request).expect("memory");
        assert_eq!(json::decode_pull(text.as_bytes(), &Limits::default()).expect("what was written"), request);
    }
    if let Ok(answer) = json::decode_push_response(bytes, &limits) {
        let mut text = String::new();
        json::write_push_response(&mut text, &answer).expect("memory");
        assert_eq!(json::decode_push_response(text.as_bytes(), &Limits::default()).expect("what was written"), answer);
    }
    // Read for its own sake: what these read is written nowhere, or by `push` above.
    let _ = json::decode_pull_response(bytes, &limits);
    let _ = json::decode_events(bytes, &limits);
    let _ = json::decode_versions(bytes, &limits);
    let _ = json::decode_frontier(bytes, &limits);
    let mut ops = OpBuf::new();
    let tbl = ops.sym("t");
    ops.insert(tbl, "1").expect("small");
    let _ = json::decode_cells(bytes, &limits, &mut ops);
}

fn as_json(request: &PushRequest) -> String {
    let mut text = String::new();
    json::write_push(&mut text, request).expect("a request that was read");
    text
}

/// Every reader of the binary wire.
pub fn binary_wire(bytes: &[u8]) {
    let limits = limits();
    if let Ok(request) = binary::decode_push(bytes, &limits) {
        let written = binary::encode_push(&request).expect("a request that was read");
        let again = binary::decode_push(&written, &Limits::default()).expect("what was written can be read");
        assert_eq!(written, binary::encode_push(&again).expect("memory"));
        assert_eq!(oracle::fingerprint(&request.batch), oracle::fingerprint(&again.batch));
    }
    if let Ok(request) = binary::decode_pull(bytes, &limits) {
        let written = binary::encode_pull(&request).expect("a request that was read");
        assert_eq!(binary::decode_pull(&written, &Limits::default()).expect("what was written"), request);
    }
    if let Ok(answer) = binary::decode_push_response(bytes, &limits) {
        let written = binary::encode_push_response(&answer).expect("an answer that was read");
        assert_eq!(binary::decode_push_response(&written, &Limits::default()).expect("what was written"), answer);
    }
    let _ = binary::decode_pull_response(bytes, &limits);
}

/// Operations as the log stores them.
pub fn codec_ops(bytes: &[u8]) {
    let mut ops = OpBuf::new();
    let Ok(range) = codec::decode(bytes, &limits(), &mut ops) else { return };
    assert_eq!(range, 0..ops.len());
    let spans: u64 = ops.iter().map(|op| op.span()).sum();
    assert_eq!(codec::spans(bytes).expect("the head was read"), spans);
    let written = codec::encode(&ops, range).expect("operations that were read");
    let mut again = OpBuf::new();
    let range = codec::decode(&written, &Limits::trusted(), &mut again).expect("what was written can be read");
    assert_eq!(written, codec::encode(&again, range).expect("memory"));
}

/// Pushes of a program at most: each is followed by checks of the whole log, and a fuzzer gets further with many short
/// programs than with a few long ones.
const PUSHES: usize = 16;

/// A program of pushes, sound or not: what a log takes it hands out, and in other cuts it is the same.
pub fn recut(bytes: &[u8]) {
    let Some((seed, program)) = bytes.split_first_chunk::<4>() else { return };
    let mut rng = Rng::new(u32::from_le_bytes(*seed).into());
    let (mut one, mut two) = (Replica::new("one"), Replica::new("two"));
    for (nth, push) in program.chunks(48).take(PUSHES).enumerate() {
        let batch = batch_of(push, nth as i64);
        let before = one.versions();
        if one.pull_in(batch).is_err() {
            assert_eq!(one.versions(), before, "a batch that was refused left something");
            continue;
        }
        one.check();
        if rng.chance(50) {
            tell(&one, &mut two, &mut rng);
        }
    }
    tell(&one, &mut two, &mut rng);
    two.check();
    assert_eq!(one.tables(), two.tables());
    let all = |replica: &Replica| replica.pull(&Versions::new(), usize::MAX).expect("memory").batch;
    let told = all(&one);
    assert_eq!(oracle::fingerprint(&told), oracle::fingerprint(&all(&two)));
    for run in &told.runs {
        let pieces = run.split_for(&told.ops, &["skip".to_owned()]).expect("memory");
        assert!(pieces.iter().all(|piece| !piece.ops.is_empty() && piece.counter_start >= run.counter_start));
    }
    assert_eq!(*one.tables(), oracle::tables_of(one.log()));
}

fn tell(one: &Replica, two: &mut Replica, rng: &mut Rng) {
    loop {
        let page = one.pull(&two.versions(), 1 + rng.below(6)).expect("memory");
        two.pull_in(transport::recut(page.batch, rng)).expect("a fresh page in other cuts");
        if !page.has_more {
            return;
        }
    }
}

/// Six bytes an operation: who, from which counter and lamport, on top of what, what.
fn batch_of(program: &[u8], nth: i64) -> Batch {
    let mut batch = Batch { ops: OpBuf::new(), runs: vec![] };
    for (at, code) in program.chunks_exact(6).enumerate() {
        let peer = ["a", "b", "é"][usize::from(code[0] % 3)];
        let from = batch.ops.len();
        operation(&mut batch.ops, code, 100 * nth + at as i64).expect("small");
        let joins = batch.runs.last_mut().filter(|run| code[1] & 0x80 != 0 && run.peer == peer);
        match joins {
            Some(run) => run.ops.end = batch.ops.len(),
            None => {
                let deps = match code[2] % 4 {
                    0 => {
                        vec![EventId::new(["a", "b", "é"][usize::from(code[2] >> 6) % 3], u64::from(code[2] >> 2 & 15))]
                    }
                    _ => vec![],
                };
                let counter_start = clock(code[1] & 0x7f);
                let (ops, lamport_start) = (from..batch.ops.len(), clock(code[3]));
                batch.runs.push(Run { peer: peer.into(), counter_start, lamport_start, deps, ops, ..Run::default() });
            }
        }
    }
    batch
}

/// Small, or near the end of clocks.
fn clock(code: u8) -> u64 {
    if !(120..=127).contains(&code) { code.into() } else { MAX_CLOCK - u64::from(code - 120) }
}

fn operation(ops: &mut OpBuf, code: &[u8], value: i64) -> Result<()> {
    let (tbl, col) = (ops.sym("t"), ops.sym(["x", "y"][usize::from(code[4] >> 3 & 1)]));
    let (row, value) = (["1", "2"][usize::from(code[4] >> 4 & 1)], ValueRef::Int(value));
    let event = EventRef {
        id: EventId::new(["a", "b", "é"][usize::from(code[5] % 3)], u64::from(code[5] >> 2)),
        lamport: None,
    };
    match code[4] & 7 {
        0 => ops.insert(tbl, row),
        1 => ops.insert(tbl, row).and_then(|()| ops.cell(col, value)),
        2 => ops.delete(tbl, row),
        3 => ops.update(tbl, row, col, value, Origin::Rewrite(&event)),
        4 => ops.update(tbl, row, col, value, Origin::Default(Some(&event))),
        5 => ops.update(tbl, row, col, value, Origin::Default(None)),
        6 => ops.opaque(kind::TEXT, clock(code[5]), b"?"),
        _ => ops.update(tbl, row, col, value, Origin::Explicit),
    }
}

/// Questions to a graph that is none: they end, with an answer or an error. A graph that was admitted answers as its
/// ancestor sets do; here it need not.
pub fn graph(bytes: &[u8]) {
    let mut garbage = Garbage::new(bytes);
    let heads = |from: usize| -> Vec<LocalId> {
        let ids = bytes.get(from..).unwrap_or_default().chunks_exact(2).take(3);
        ids.map(|id| LocalId { peer: PeerIdx(u32::from(id[0] % 4)), counter: clock(id[1]) }).collect()
    };
    let (a, b) = (heads(0), heads(6));
    let found = difference(&mut garbage, &a, &b);
    assert_eq!(found.is_ok(), compare(&mut garbage, &a, &b).is_ok());
    for span in found.iter().flat_map(|found| found.only_a.iter().chain(&found.only_b)) {
        assert!(span.from < span.to);
    }
    let _ = lca(&mut garbage, &a, &b);
    let _ = heads_of(&mut garbage, &a);
    let _ = version_vector(&mut garbage, &a);
    let mut batch = batch_of(&bytes[..bytes.len().min(PUSHES * 48)], 0);
    let log = Oplog::new();
    match admit(&mut batch, &mut &log, Clock { greatest: MAX_CLOCK, events: 0 }) {
        Ok(admitted) => assert_eq!(admitted.accepted > 0, !admitted.new.is_empty()),
        Err(Error::OutOfMemory { .. }) => panic!("out of memory over {} bytes", bytes.len()),
        Err(_) => {}
    }
}

/// Runs as a log that was tampered with might answer: fourteen bytes each, the same answer to the same question.
struct Garbage(Vec<RunHead>);

impl Garbage {
    fn new(bytes: &[u8]) -> Self {
        let codes = bytes.get(12..).unwrap_or_default().chunks_exact(14);
        let runs = codes.map(|code| RunHead {
            peer: PeerIdx(u32::from(code[0] % 4)),
            counter_start: wide(code[1], code[2]),
            len: wide(code[3], code[4]),
            lamport_start: wide(code[5], code[6]),
            deps: code[7..7 + usize::from(code[13] % 4) * 2]
                .chunks_exact(2)
                .map(|dep| LocalId { peer: PeerIdx(u32::from(dep[0] % 4)), counter: wide(dep[1], dep[0]) })
                .collect(),
        });
        Garbage(runs.take(RUNS).collect())
    }
}

/// Runs of a garbage graph at most.
const RUNS: usize = 64;

impl Runs for Garbage {
    fn run_at(&mut self, id: LocalId) -> Result<Option<RunHead>> {
        // Whoever asks must see for itself whether the answer holds what it asked for.
        let near = self.0.iter().find(|run| run.peer == id.peer && run.counter_start <= id.counter);
        Ok(near.cloned())
    }
}

/// Small, or anywhere.
fn wide(code: u8, high: u8) -> u64 {
    match code {
        0..200 => code.into(),
        200..228 => MAX_CLOCK - u64::from(code - 200),
        _ => u64::MAX - (u64::from(code - 228) << (high % 64)),
    }
}
