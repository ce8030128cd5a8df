//! How fast and how small: `cargo run --release -p crdt_engine --example timing`. The best of several rounds each.

use std::time::{Duration, Instant};

use crdt_engine::{Limits, OpBuf, ValueRef, codec};

const ROWS: i64 = 100_000;
const CHUNK: usize = 512;

fn best(mut work: impl FnMut()) -> Duration {
    let once = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..7).map(|_| once(&mut work)).min().unwrap_or_default()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// 5 columns: two integers, a short text, a float, a timestamp; `scrambled` is as good as random.
fn rows() -> (OpBuf, usize) {
    let mut buf = OpBuf::new();
    let tbl = buf.sym("items");
    let cols = ["id", "title", "rank", "price", "changed"].map(|c| buf.sym(c));
    let mut values = 0;
    for i in 0..ROWS {
        let scrambled = (i * 2_654_435_761) % 1_000_003;
        let title = format!("item {scrambled:x} of {}", scrambled % 977);
        let (m, s, us) = (i / 60 % 60, i % 60, 1 + scrambled % 999_999);
        let changed = format!("2024-03-{:02} {:02}:{m:02}:{s:02}.{us:06}", 1 + i / 86_400, i / 3600 % 24);
        let changed = format!("{}+00", changed.trim_end_matches('0'));
        values += 4 + title.len() + 4 + 8 + 8;
        buf.insert(tbl, &i.to_string()).unwrap();
        buf.cell(cols[0], ValueRef::Int(i)).unwrap();
        buf.cell(cols[1], ValueRef::Text(&title)).unwrap();
        buf.cell(cols[2], ValueRef::Int(scrambled)).unwrap();
        buf.cell(cols[3], ValueRef::Float(scrambled as f64 / 100.0)).unwrap();
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
            blobs.iter().for_each(|b| drop(codec::decode(b, &limits, &mut into).unwrap()));
        });
        let few = best(|| {
            let mut into = OpBuf::new();
            let mut wanted = |_: &str, row: &str| row == "77777";
            blobs.iter().for_each(|b| drop(codec::decode_rows(b, &limits, &mut wanted, &mut into).unwrap()));
        });
        println!("  decode {:.1} ms, of one row {:.1} ms", ms(decode), ms(few));
    }
}

fn main() {
    let (buf, values) = rows();
    operations_as_bytes(&buf, values);
}
