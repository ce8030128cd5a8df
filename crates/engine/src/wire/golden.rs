//! Bytes that were written once must be readable for ever. To add a file of a new format version:
//! `cargo test -p crdt_engine golden -- --ignored --nocapture` prints today's.

use super::tests::batch_of;
use super::*;
use crate::codec;
use crate::codec::tests::shown;
use crate::ops::{EventRef, Origin};
use crate::{Limits, ValueRef};

/// Every kind of operation, origin and value, and every mode of every column.
fn everything() -> OpBuf {
    let mut buf = OpBuf::new();
    let (tbl, other) = (buf.sym("todos"), buf.sym("Ünïcode \"t\""));
    let cols = ["id", "title", "done", "rank", "price", "changed", "key", "doc", "amount", "mood"].map(|c| buf.sym(c));
    for i in 0..9i64 {
        buf.insert(tbl, &(100 + i).to_string()).unwrap();
        let values: [String; 5] = [
            format!("item {}", i * i),
            format!("2024-02-{:02} 10:20:{:02}.5+00", 20 + i, i),
            format!("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1{i:02x}"),
            format!("{}.{:02}", i * 37, i),
            ["fine", "tired"][i as usize % 2].into(),
        ];
        let doc = format!("{{\"n\":[{i},null]}}");
        let cells = [
            ValueRef::Int(100 + i),
            ValueRef::Text(&values[0]),
            ValueRef::Bool(i % 3 == 0),
            if i % 4 == 1 { ValueRef::Null } else { ValueRef::Int(i * i * i * 1_000_003) },
            if i == 5 { ValueRef::Float(0.1 + 0.2) } else { ValueRef::Float(i as f64 * 1.25) },
            ValueRef::Text(&values[1]),
            ValueRef::Text(&values[2]),
            ValueRef::Json(&doc),
            ValueRef::Text(&values[3]),
            ValueRef::Text(&values[4]),
        ];
        cols.iter().zip(cells).for_each(|(&col, value)| buf.cell(col, value).unwrap());
    }
    let event = |counter, lamport| EventRef { id: EventId::new("hub:5f:0", counter), lamport };
    let (root, since) = (event(7, Some(12)), event(3, None));
    for (value, origin) in [
        (ValueRef::Text("x"), Origin::Explicit),
        (ValueRef::Null, Origin::Rewrite(&root)),
        (ValueRef::Float(-0.0), Origin::Rewrite(&since)),
        (ValueRef::Json("1.10"), Origin::Default(None)),
        (ValueRef::Bool(true), Origin::Default(Some(&root))),
        (ValueRef::Int(i64::MIN), Origin::Default(Some(&since))),
    ] {
        buf.update(other, "[\"a\",\"b\"]", cols[9], value, origin).unwrap();
    }
    buf.opaque(kind::SKIP, 4, b"").unwrap();
    buf.opaque(4711, 2, b"\x00later\xff").unwrap();
    buf.delete(other, "").unwrap();
    buf
}

fn request() -> PushRequest {
    let batch = batch_of(everything(), &[4, 9, 15, 17]);
    PushRequest { peer_id: "laptop".into(), batch, frontier: vec![EventId::new("hub:5f:0", 7)] }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn lines(ops: &OpBuf) -> String {
    ops.iter().map(|op| shown(op) + "\n").collect()
}

#[test]
fn version_1_of_operations_stays_readable() {
    let bytes = bytes(include_str!("../../tests/golden/ops-v1.hex"));
    let mut ops = OpBuf::new();
    codec::decode(&bytes, &Limits::default(), &mut ops).unwrap();
    assert_eq!(lines(&ops), include_str!("../../tests/golden/ops.txt"));
    assert_eq!(lines(&ops), lines(&everything()));
    assert_eq!(codec::spans(&bytes), Ok(22));
}

#[test]
fn version_1_of_the_wire_stays_readable() {
    let bytes = bytes(include_str!("../../tests/golden/push-v1.hex"));
    let again = binary::decode_push(&bytes, &Limits::default()).unwrap();
    let sent = request();
    assert_eq!(lines(&again.batch.ops), lines(&sent.batch.ops));
    assert_eq!((again.peer_id, again.frontier, again.batch.runs), (sent.peer_id, sent.frontier, sent.batch.runs));
}

#[test]
#[ignore = "prints the files of today's format"]
fn print_golden() {
    let show = |name: &str, bytes: &[u8]| {
        println!("-- {name}");
        for line in bytes.chunks(48) {
            println!("{}", line.iter().map(|b| format!("{b:02x}")).collect::<String>());
        }
    };
    let ops = everything();
    show("ops-v1.hex", &codec::encode(&ops, 0..ops.len()).unwrap());
    show("push-v1.hex", &binary::encode_push(&request()).unwrap());
    println!("-- ops.txt\n{}", lines(&ops));
}
