//! How fast and how small: `cargo run --release -p crdt_engine --example timing`. CPU time, the best of several rounds each.

use std::time::{Duration, Instant};

use crdt_engine::codec::{self, RowSet};
use crdt_engine::wire::{Batch, PushRequest, Run, binary, json};
use crdt_engine::{EventId, Limits, OpBuf, ValueRef};

const ROWS: i64 = 100_000;
const CHUNK: usize = 512;

/// CPU time of this process so far, since other work may share the machine; wall time where the system does not tell.
fn now(start: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let on_cpu = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    on_cpu.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn best(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut once = || {
        let from = now(start);
        work();
        now(start) - from
    };
    (0..9).map(|_| once()).min().unwrap_or_default()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// As good as random, and the same every time.
fn scrambled(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)) >> 8
}

/// 5 columns: two integers, a short text, a float, a timestamp; all but the first as good as random.
fn rows() -> (OpBuf, usize) {
    let mut buf = OpBuf::new();
    let tbl = buf.sym("items");
    let cols = ["id", "title", "rank", "price", "changed"].map(|c| buf.sym(c));
    let mut values = 0;
    for i in 0..ROWS {
        // Columns that have nothing to do with each other: LZ4 must not find one in another.
        let [word, rank, cents, micros] = [0, 1, 2, 3].map(|c| scrambled(i as u64 * 4 + c) as i64 % 1_000_003);
        let title = format!("item {word:x}");
        let (m, s, us) = (i / 60 % 60, i % 60, 1 + micros % 999_999);
        let changed = format!("2024-03-{:02} {:02}:{m:02}:{s:02}.{us:06}", 1 + i / 86_400, i / 3600 % 24);
        let changed = format!("{}+00", changed.trim_end_matches('0'));
        values += 4 + title.len() + 4 + 8 + 8;
        buf.insert(tbl, &i.to_string()).unwrap();
        buf.cell(cols[0], ValueRef::Int(i)).unwrap();
        buf.cell(cols[1], ValueRef::Text(&title)).unwrap();
        buf.cell(cols[2], ValueRef::Int(rank)).unwrap();
        buf.cell(cols[3], ValueRef::Float(cents as f64 / 100.0)).unwrap();
        buf.cell(cols[4], ValueRef::Text(&changed)).unwrap();
    }
    (buf, values)
}

fn chunks(buf: &OpBuf, of: usize) -> Vec<Vec<u8>> {
    let starts = (0..buf.len()).step_by(of);
    starts.map(|from| codec::encode(buf, from..(from + of).min(buf.len())).unwrap()).collect()
}

fn operations_as_bytes(buf: &OpBuf, values: usize) {
    let limits = Limits::default();
    for of in [1, CHUNK, 4096] {
        let blobs = chunks(buf, of);
        let bytes: usize = blobs.iter().map(Vec::len).sum();
        let cells = ROWS as f64 * 5.0;
        println!(
            "runs of {of}: encode {:.1} ms, {bytes} bytes for {values} of values: {:+.2} bytes a cell",
            ms(best(|| drop(chunks(buf, of)))),
            (bytes as f64 - values as f64) / cells
        );
        let decode = best(|| {
            let mut into = OpBuf::new();
            blobs.iter().for_each(|b| assert!(!codec::decode(b, &limits, &mut into).unwrap().is_empty()));
        });
        let few = best(|| {
            let mut into = OpBuf::new();
            let wanted = RowSet::new([("items", "77777")]);
            blobs.iter().for_each(|b| drop(codec::decode_rows(b, &limits, &wanted, &mut into).unwrap()));
        });
        println!("  decode {:.1} ms, of one row {:.1} ms", ms(decode), ms(few));
    }
}

/// A push of 25,000 inserts of four cells each, in runs of `of`.
fn push_of_100_000_cells(of: usize) {
    let mut batch = Batch::default();
    let tbl = batch.ops.sym("items");
    let cols = ["title", "rank", "price", "changed"].map(|c| batch.ops.sym(c));
    for i in 0..25_000u64 {
        let [word, n, cents] = [0, 1, 2].map(|c| scrambled(i * 4 + c) as i64 % 1_000_003);
        batch.ops.insert(tbl, &i.to_string()).unwrap();
        batch.ops.cell(cols[0], ValueRef::Text(&format!("item {word:x}"))).unwrap();
        batch.ops.cell(cols[1], ValueRef::Int(n)).unwrap();
        batch.ops.cell(cols[2], ValueRef::Float(cents as f64 / 100.0)).unwrap();
        batch.ops.cell(cols[3], ValueRef::Text(&format!("2024-03-01 12:{:02}:{:02}+00", i / 60 % 60, i % 60))).unwrap();
    }
    for from in (0..25_000).step_by(of) {
        let (start, ops) = (from as u64, from..from + of);
        let deps = vec![EventId::new("hub:77:0", start)];
        batch.runs.push(Run {
            peer: "laptop".into(),
            counter_start: start,
            lamport_start: start,
            deps,
            ops,
            ..Run::default()
        });
    }
    let request = PushRequest { peer_id: "laptop".into(), batch, frontier: vec![] };
    let limits = Limits::default();
    let mut text = String::new();
    json::write_push(&mut text, &request).unwrap();
    let write = best(|| json::write_push(&mut String::new(), &request).unwrap());
    let read = best(|| drop(json::decode_push(text.as_bytes(), &limits).unwrap()));
    let bytes = binary::encode_push(&request).unwrap();
    println!("push of 100,000 cells in runs of {of}:");
    println!("  JSON {} bytes: write {:.1} ms, read {:.1} ms", text.len(), ms(write), ms(read));
    let write = best(|| drop(binary::encode_push(&request).unwrap()));
    let read = best(|| drop(binary::decode_push(&bytes, &limits).unwrap()));
    println!("  binary {} bytes: write {:.1} ms, read {:.1} ms", bytes.len(), ms(write), ms(read));
}

fn main() {
    let (buf, values) = rows();
    operations_as_bytes(&buf, values);
    push_of_100_000_cells(1);
    push_of_100_000_cells(25_000);
}
