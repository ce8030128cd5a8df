use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec::tests::{assert_equal, buffer, ops, shown};
use crate::ops::Origin;
use crate::{Limits, ValueRef};

fn push(text: &str) -> Result<PushRequest> {
    json::decode_push(text.as_bytes(), &Limits::default())
}

/// A push of one run of one operation.
fn push_op(op: &str) -> Result<PushRequest> {
    push(&format!(
        r#"{{"peer_id":"p","events":[{{"peer":"p","counter_start":0,"lamport_start":1,"deps":[],"ops":[{op}]}}],"frontier":[]}}"#
    ))
}

/// A push of one run with a field replaced.
fn push_run(field: &str, value: &str) -> Result<PushRequest> {
    let mut fields = vec![
        ("peer", "\"p\""),
        ("counter_start", "0"),
        ("lamport_start", "1"),
        ("deps", "[]"),
        ("ops", r#"[{"type":"delete","tbl":"t","row_id":"1"}]"#),
    ];
    fields.retain(|f| f.0 != field);
    fields.push((field, value));
    let fields: Vec<_> = fields.iter().map(|(k, v)| format!("{k:?}:{v}")).collect();
    push(&format!(r#"{{"peer_id":"p","events":[{{{}}}],"frontier":[]}}"#, fields.join(",")))
}

fn kind_of(error: &Error) -> &'static str {
    match error {
        Error::Malformed { .. } => "Malformed",
        Error::TooLarge { .. } => "TooLarge",
        Error::ClockRange { .. } => "ClockRange",
        Error::NulCharacter { .. } => "NulCharacter",
        Error::UnknownOpType { .. } => "UnknownOpType",
        Error::DuplicateColumn { .. } => "DuplicateColumn",
        Error::Unsupported { .. } => "Unsupported",
        _ => "another",
    }
}

#[test]
fn clocks() {
    for (n, expected) in [
        ("0", "ok"),
        ("2147483648", "ok"),
        ("9007199254740991", "ok"),
        ("9007199254740992", "ClockRange"),
        ("9223372036854775807", "ClockRange"),
        ("9223372036854775808", "ClockRange"),
        ("99999999999999999999999999", "ClockRange"),
        ("-1", "ClockRange"),
        ("-0", "ClockRange"),
        ("1e400", "Malformed"),
        ("1e3", "Malformed"),
        ("1.5", "Malformed"),
        ("1.0", "Malformed"),
        ("\"1\"", "Malformed"),
        ("null", "Malformed"),
        ("true", "Malformed"),
        ("[1]", "Malformed"),
        ("01", "Malformed"),
        ("", "Malformed"),
    ] {
        for field in ["counter_start", "lamport_start"] {
            let outcome = push_run(field, n);
            let found = outcome.as_ref().err().map_or("ok", kind_of);
            assert_eq!(found, expected, "{field} {n}: {outcome:?}");
            if let ("ClockRange" | "Malformed", Err(e), false) = (expected, outcome, n.is_empty() || n == "01") {
                assert!(e.to_string().contains(n) && e.to_string().contains(field), "{e}");
            }
        }
        let dep = push_run("deps", &format!("[[\"q\",{n}]]"));
        assert_eq!(dep.as_ref().err().map_or("ok", kind_of), expected, "dep {n}");
    }
    let two = r#"[{"type":"delete","tbl":"t","row_id":"1"},{"type":"skip","span":2}]"#;
    let at = |start: u64| push_run("ops", &format!("{two},\"counter_start\":{start}")).err();
    assert!(at(0).is_some(), "the field stands twice");
    for (start, ok) in [(MAX_CLOCK - 2, true), (MAX_CLOCK - 1, false)] {
        let text = format!(
            r#"{{"peer_id":"p","events":[{{"peer":"p","counter_start":{start},"lamport_start":1,"deps":[],"ops":{two}}}]}}"#
        );
        assert_eq!(push(&text).is_ok(), ok, "{start}");
    }
}

#[test]
fn hostile_operations() {
    let insert = |values: &str| format!(r#"{{"type":"insert","tbl":"t","row_id":"1","values":{values}}}"#);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = "x".repeat(300);
    for (op, expected) in [
        (insert("[]"), "ok"),
        (insert("{}"), "ok"),
        (insert(r#"[["a",1],["b",null]]"#), "ok"),
        (insert(r#"{"a":1,"b":{"c":[]}}"#), "ok"),
        (r#"{"values":[["a",1]],"row_id":"1","x":[{}],"type":"insert","tbl":"t"}"#.into(), "ok"),
        (insert(r#"[["a",1],["a",2]]"#), "DuplicateColumn"),
        (insert(r#"{"a":1,"\u0061":2}"#), "DuplicateColumn"),
        (insert(r#"[["a"]]"#), "Malformed"),
        (insert(r#"[[]]"#), "Malformed"),
        (insert(r#"[["a",1,2]]"#), "Malformed"),
        (insert(r#"[[1,"a"]]"#), "Malformed"),
        (insert(r#"[["",1]]"#), "Malformed"),
        (insert(r#"{"":1}"#), "Malformed"),
        (insert("null"), "Malformed"),
        (insert(r#"[["a","\u0000"]]"#), "NulCharacter"),
        (insert(r#"[["a",{"\u0000":1}]]"#), "NulCharacter"),
        (insert("[[\"a\",\"\0\"]]"), "NulCharacter"),
        (insert(r#"[["a","\ud800"]]"#), "Malformed"),
        (insert(&format!("[[\"a\",{deep}]]")), "TooLarge"),
        (insert(&deep), "Malformed"),
        (insert(&format!("{{\"{long}\":1}}")), "TooLarge"),
        (format!(r#"{{"x":{deep},"type":"delete","tbl":"t","row_id":"1"}}"#), "TooLarge"),
        (deep.clone(), "Malformed"),
        (r#"{"type":"insert","tbl":"t","row_id":"1"}"#.into(), "Malformed"),
        (r#"{"type":"insert","row_id":"1","values":[]}"#.into(), "Malformed"),
        (r#"{"type":"insert","tbl":"","row_id":"1","values":[]}"#.into(), "Malformed"),
        (r#"{"type":"insert","tbl":"t","row_id":1,"values":[]}"#.into(), "Malformed"),
        (r#"{"type":"insert","tbl":"t","row_id":"1","row_id":"2","values":[]}"#.into(), "Malformed"),
        (format!(r#"{{"type":"delete","tbl":"{long}","row_id":"1"}}"#), "TooLarge"),
        (format!(r#"{{"type":"delete","tbl":"t","row_id":"{}"}}"#, "x".repeat(9_000)), "TooLarge"),
        (r#"{"type":"update","tbl":"t","row_id":"1","col":"c"}"#.into(), "Malformed"),
        (r#"{"type":"update","tbl":"t","row_id":"1","value":1}"#.into(), "Malformed"),
        (r#"{"type":"merge","tbl":"t","row_id":"1"}"#.into(), "UnknownOpType"),
        (r#"{"type":"add","tbl":"t","row_id":"1","col":"c","by":1}"#.into(), "UnknownOpType"),
        (r#"{"type":1,"tbl":"t","row_id":"1"}"#.into(), "Malformed"),
        (r#"{"tbl":"t","row_id":"1"}"#.into(), "Malformed"),
        (r#"{"type":"skip","span":0}"#.into(), "Malformed"),
        (r#"{"type":"skip"}"#.into(), "ok"),
        (r#"{"type":"text","span":3,"payload":"0aFF"}"#.into(), "ok"),
        (r#"{"type":"text","payload":"0aF"}"#.into(), "Malformed"),
        (r#"{"type":"text","payload":"0g"}"#.into(), "Malformed"),
        ("[]".into(), "Malformed"),
        ("7".into(), "Malformed"),
    ] {
        let outcome = push_op(&op);
        assert_eq!(outcome.as_ref().err().map_or("ok", kind_of), expected, "{}: {outcome:?}", &op[..op.len().min(200)]);
    }
}

#[test]
fn hostile_requests() {
    let million = format!("[{}[\"q\",1]]", "[\"q\",1],".repeat(1_000_000));
    for (text, expected) in [
        (String::new(), "Malformed"),
        ("null".into(), "Malformed"),
        ("[]".into(), "Malformed"),
        (r#"{"events":[]}"#.into(), "Malformed"),
        (r#"{"peer_id":"p"}"#.into(), "Malformed"),
        (r#"{"peer_id":"p","events":[]}"#.into(), "ok"),
        (r#"{"peer_id":"p","events":[],"later":{"a":[1]}} "#.into(), "ok"),
        (r#"{"peer_id":"p","events":[]} x"#.into(), "Malformed"),
        (r#"{"peer_id":"p","events":[],"events":[]}"#.into(), "Malformed"),
        (r#"{"peer_id":"","events":[]}"#.into(), "Malformed"),
        (r#"{"peer_id":"a\u0000b","events":[]}"#.into(), "NulCharacter"),
        (r#"{"peer_id":"p","events":[{}]}"#.into(), "Malformed"),
        (r#"{"peer_id":"p","events":{}}"#.into(), "Malformed"),
        ("[".repeat(100_000), "Malformed"),
        (format!(r#"{{"a":{}"#, "[".repeat(100_000)), "TooLarge"),
        (format!(r#"{{"peer_id":"p","events":[],"frontier":{million}}}"#), "TooLarge"),
    ] {
        let outcome = push(&text);
        assert_eq!(outcome.as_ref().err().map_or("ok", kind_of), expected, "{}", &text[..text.len().min(200)]);
    }
    for (field, value, expected) in [
        ("deps", million.as_str(), "TooLarge"),
        ("deps", "[[\"q\"]]", "Malformed"),
        ("deps", "[[\"q\",1,2]]", "Malformed"),
        ("deps", "[[1,\"q\"]]", "Malformed"),
        ("deps", "null", "Malformed"),
        ("ops", "[]", "Malformed"),
        ("ops", "{}", "Malformed"),
        ("ops", "null", "Malformed"),
        ("peer", "\"\"", "Malformed"),
        ("peer", "null", "Malformed"),
        ("op", "{}", "Malformed"),
        ("at", "\"yesterday\"", "Malformed"),
        ("at", "-1711111111000000", "ok"),
        ("at", "1711111111.5", "Malformed"),
        ("at", "-9007199254740992", "ClockRange"),
        ("actor", "null", "ok"),
    ] {
        let outcome = push_run(field, value);
        let found = outcome.as_ref().err().map_or("ok", kind_of);
        assert_eq!(found, expected, "{field} {}", &value[..value.len().min(200)]);
    }
    let tiny = Limits { request_bytes: 10, ..Limits::default() };
    let of_request = json::decode_push(&[b' '; 11], &tiny);
    assert!(matches!(of_request, Err(Error::TooLarge { bytes: 11, limit: 10, splits: true, .. })));
    assert!(matches!(json::decode_push(b"{\"\xff\":1}", &Limits::default()), Err(Error::Malformed { .. })));
}

#[test]
fn only_sums_are_less_in_smaller_requests() {
    let splits = |outcome: Result<PushRequest>| match outcome {
        Err(Error::TooLarge { splits, .. }) => splits,
        other => panic!("{other:?}"),
    };
    let ops = |n: usize| vec![r#"{"type":"delete","tbl":"t","row_id":"1"}"#; n].join(",");
    let few = Limits { ops: 2, runs: 2, names: 2, ..Limits::default() };
    let run = |ops: &str| format!(r#"{{"peer":"p","counter_start":0,"lamport_start":1,"deps":[],"ops":[{ops}]}}"#);
    let limited = |runs: &[String]| {
        json::decode_push(format!(r#"{{"peer_id":"p","events":[{}]}}"#, runs.join(",")).as_bytes(), &few)
    };
    assert!(splits(limited(&[run(&ops(3))])));
    assert!(splits(limited(&[run(r#"{"type":"insert","tbl":"t","row_id":"1","values":{"a":1,"b":2}}"#)])));
    assert!(splits(limited(&[run(&ops(1)), run(r#"{"type":"skip"}"#), "{}".into()])));
    assert!(!splits(push_op(&format!(r#"{{"type":"delete","tbl":"{}","row_id":"1"}}"#, "t".repeat(257)))));
    assert!(!splits(push_run("deps", &format!("[{}]", ["[\"q\",1]"; 1001].join(",")))));
    assert!(!splits(push_run("later", &"[".repeat(200))));
}

#[test]
fn errors_say_where() {
    let run = |ops: &str| format!(r#"{{"peer":"p","counter_start":0,"lamport_start":1,"deps":[],"ops":[{ops}]}}"#);
    let good = r#"{"type":"delete","tbl":"t","row_id":"1"}"#;
    for (bad, path) in [
        (r#"{"type":"update","tbl":"t","row_id":"1","col":"c","value":"\u0000"}"#, " events[1].ops[2].value"),
        (r#"{"type":"insert","tbl":"t","row_id":"1","values":[["a",1],["b",tru]]}"#, " events[1].ops[2].values[1][1]"),
        (r#"{"type":"grow","tbl":"t"}"#, " events[1].ops[2].type"),
        (
            r#"{"type":"update","tbl":"t","row_id":"1","col":"c","value":1,"derived_from":["p",1],"default_since":null}"#,
            " events[1].ops[2].default_since",
        ),
    ] {
        let text = format!(r#"{{"peer_id":"p","events":[{},{}]}}"#, run(good), run(&[good, good, bad].join(",")));
        let message = push(&text).unwrap_err().to_string();
        assert!(message.contains(path), "{message}");
    }
}

#[test]
fn default_since_null_is_not_absent() {
    let op = |more: &str| {
        let op = format!(r#"{{"type":"update","tbl":"t","row_id":"1","col":"c","value":1{more}}}"#);
        let push = push_op(&op).unwrap();
        let mut out = String::new();
        json::write_op(&mut out, push.batch.ops.get(0)).unwrap();
        assert_eq!(out, op);
        push
    };
    let origin = |push: &PushRequest| match push.batch.ops.get(0) {
        OpRef::Update { origin, .. } => format!("{origin:?}"),
        _ => unreachable!(),
    };
    assert_eq!(origin(&op("")), format!("{:?}", Origin::Explicit));
    assert_eq!(origin(&op(",\"default_since\":null")), format!("{:?}", Origin::Default(None)));
    assert!(origin(&op(",\"default_since\":[\"p\",7]")).contains("counter: 7"));
    assert!(origin(&op(",\"derived_from\":[\"p\",7]")).starts_with("Rewrite"));
}

#[test]
fn events_and_runs_mix() {
    let text = r#"[
        {"op":{"row_id":"1","tbl":"t","type":"delete"},"lamport":5,"deps":[["q",3]],"id":["p",4],"at":7},
        {"ops":[{"type":"insert","tbl":"t","row_id":"2","values":{"a":1.0}}],"peer":"p","counter_start":5,
         "lamport_start":6,"deps":[]}]"#;
    let batch = json::decode_events(text.as_bytes(), &Limits::default()).unwrap();
    assert_eq!(batch.runs.len(), 2);
    assert_eq!(
        batch.runs[0],
        Run {
            peer: "p".into(),
            counter_start: 4,
            lamport_start: 5,
            deps: vec![EventId::new("q", 3)],
            ops: 0..1,
            at: Some(7),
            ..Run::default()
        }
    );
    let mut out = String::new();
    json::write_event(&mut out, &batch.runs[1], &batch.ops).unwrap();
    assert_eq!(
        out,
        r#"{"id":["p",5],"deps":[],"lamport":6,"op":{"type":"insert","tbl":"t","row_id":"2","values":[["a",1.0]]}}"#
    );
}

#[test]
fn cells_as_pairs_and_as_an_object() {
    for text in [r#"[["a",1],["b","x"]]"#, r#" {"a":1,"b":"x"} "#] {
        let mut buf = OpBuf::new();
        let tbl = buf.sym("t");
        buf.insert(tbl, "1").unwrap();
        assert_eq!(json::decode_cells(text.as_bytes(), &Limits::default(), &mut buf), Ok(2));
        let OpRef::Insert { cells, .. } = buf.get(0) else { unreachable!() };
        assert_eq!(cells.iter().collect::<Vec<_>>(), [("a", ValueRef::Int(1)), ("b", ValueRef::Text("x"))]);
    }
    let mut buf = OpBuf::new();
    assert!(json::decode_cells(br#"{"a":1,"a":2}"#, &Limits::default(), &mut buf).is_err());
}

#[test]
fn merge_ops() {
    let mut out = String::new();
    json::write_set_cell(&mut out, "t", "1\"", "c", ValueRef::Float(1.0)).unwrap();
    json::write_insert_row(&mut out, "t", "1", [("a", ValueRef::Null)].into_iter()).unwrap();
    json::write_delete_row(&mut out, "t", "1").unwrap();
    assert_eq!(
        out,
        concat!(
            r#"{"type":"set_cell","tbl":"t","row_id":"1\"","col":"c","value":1.0}"#,
            r#"{"type":"insert_row","tbl":"t","row_id":"1","values":[["a",null]]}"#,
            r#"{"type":"delete_row","tbl":"t","row_id":"1"}"#
        )
    );
}

#[test]
fn pull_requests_and_answers() {
    let limits = Limits::default();
    assert_eq!(json::decode_pull(b"{}", &limits), Ok(PullRequest::default()));
    let request = PullRequest {
        peer_id: Some("me".into()),
        known: Versions::from([("a".into(), 0), ("b".into(), MAX_CLOCK)]),
        limit: Some(100),
        accept: vec!["skip".into()],
    };
    let mut out = String::new();
    json::write_pull(&mut out, &request).unwrap();
    assert_eq!(json::decode_pull(out.as_bytes(), &limits), Ok(request));
    for bad in
        [r#"{"known_peers":{"a":-1}}"#, r#"{"known_peers":{"a":1,"a":1}}"#, r#"{"limit":"x"}"#, r#"{"accept":[""]}"#]
    {
        assert!(json::decode_pull(bad.as_bytes(), &limits).is_err(), "{bad}");
    }
    let response = PushResponse {
        accepted: 3,
        duplicate: 1,
        frontier: vec![EventId::new("a", 3)],
        versions: Versions::from([("a".into(), 3)]),
        ahead: Ahead::from([("h:1:0".into(), Some(2)), ("h:2:0".into(), None)]),
    };
    let mut out = String::new();
    json::write_push_response(&mut out, &response).unwrap();
    assert_eq!(json::decode_push_response(out.as_bytes(), &limits), Ok(response));
}

#[test]
fn binary_requests_and_answers() {
    let limits = Limits::default();
    let request = PullRequest {
        peer_id: Some("me".into()),
        known: Versions::from([("a".into(), 0), ("b".into(), MAX_CLOCK)]),
        limit: Some(100),
        accept: vec!["skip".into()],
    };
    let bytes = binary::encode_pull(&request).unwrap();
    assert_eq!(binary::decode_pull(&bytes, &limits), Ok(request));
    for cut in 0..bytes.len() {
        // At the end of a section a message may end: then something is absent, and nothing more is wrong.
        assert_ne!(binary::decode_pull(&bytes[..cut], &limits), binary::decode_pull(&bytes, &limits), "{cut}");
    }
    let response = PushResponse {
        accepted: 3,
        duplicate: 1,
        frontier: vec![EventId::new("a", 3)],
        versions: Versions::from([("a".into(), 3)]),
        ahead: Ahead::from([("h:1:0".into(), Some(2)), ("h:2:0".into(), None)]),
    };
    let bytes = binary::encode_push_response(&response).unwrap();
    assert_eq!(binary::decode_push_response(&bytes, &limits), Ok(response));
}

#[test]
fn hostile_binary() {
    let limits = Limits { deps_per_run: 2, runs: 3, ..Limits::default() };
    let mut buf = OpBuf::new();
    let tbl = buf.sym("t");
    buf.delete(tbl, "1").unwrap();
    let blob = crate::codec::encode(&buf, 0..1).unwrap();
    let message = |sections: &[(u8, &[u8])]| {
        let mut bytes = vec![0xcd, 0xb2, 1, 1, 0, 0];
        for (tag, section) in sections {
            bytes.extend([*tag, section.len() as u8]);
            bytes.extend(*section);
        }
        bytes
    };
    let run = |head: &[u8]| [&[head.len() as u8], head, &blob].concat();
    let push = |head: &[u8]| message(&[(2, b"me"), (3, &run(head)), (1, b"\x01p")]);
    let far = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
    let too_far = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    for (what, bytes, expected) in [
        ("a push", push(&[0, 0, 0, 1, 0]), "ok"),
        ("a head of a later version", push(&[0x80, 1, 0, 0, 1, 0, 9, 9, 9]), "ok"),
        ("an unknown section", message(&[(2, b"me"), (77, b"xyz")]), "ok"),
        ("nothing", vec![], "Malformed"),
        ("JSON", b"{\"peer_id\":\"p\"}".to_vec(), "Malformed"),
        ("a later version", vec![0xcd, 0xb2, 2, 1, 0, 0], "Unsupported"),
        ("an unknown type", vec![0xcd, 0xb2, 1, 9, 0, 0], "Unsupported"),
        ("another type", vec![0xcd, 0xb2, 1, 2, 0, 0], "Malformed"),
        ("critical features", vec![0xcd, 0xb2, 1, 1, 2, 0], "Unsupported"),
        ("an LZ4 bomb", vec![0xcd, 0xb2, 1, 1, 1, 0, 0xff, 0xff, 0xff, 0x7f, 0], "TooLarge"),
        ("no sender", message(&[]), "Malformed"),
        ("an empty sender", message(&[(2, b"")]), "Malformed"),
        ("NUL in the sender", message(&[(2, b"a\0")]), "NulCharacter"),
        ("two senders", message(&[(2, b"a"), (2, b"b")]), "Malformed"),
        ("a peer that is not there", push(&[0, 1, 0, 1, 0]), "Malformed"),
        ("the last counter", push(&[&[0, 0], &far[..], &[1, 0]].concat()), "ok"),
        ("a counter of 2^53", push(&[&[0, 0], &too_far[..], &[1, 0]].concat()), "ClockRange"),
        ("a lamport of 2^53", push(&[&[0, 0, 0], &too_far[..], &[0]].concat()), "ClockRange"),
        ("more deps than announced bytes", push(&[0, 0, 0, 1, 2]), "Malformed"),
        ("more deps than allowed", push(&[0, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0]), "TooLarge"),
        (
            "more runs than allowed",
            message(
                &[(3, &run(&[0, 0, 0, 1, 0])[..]); 4].iter().copied().chain([(1, &b"\x01p"[..])]).collect::<Vec<_>>(),
            ),
            "TooLarge",
        ),
        ("a run without operations", message(&[(2, b"me"), (3, &[5, 0, 0, 0, 1, 0]), (1, b"\x01p")]), "Malformed"),
        (
            "a run of none",
            message(&[(2, b"me"), (3, &[5, 0, 0, 0, 1, 0, 0xcd, 1, 0, 0, 0, 0]), (1, b"\x01p")]),
            "Malformed",
        ),
    ] {
        let outcome = binary::decode_push(&bytes, &limits);
        assert_eq!(outcome.as_ref().err().map_or("ok", kind_of), expected, "{what}: {outcome:?}");
    }
}

#[test]
fn many_small_runs_are_compressed_together() {
    let ops = crate::codec::tests::rows(200);
    let cuts: Vec<_> = (1..200).collect();
    let request = PushRequest { peer_id: "me".into(), batch: batch_of(ops, &cuts), frontier: vec![] };
    let blobs: usize =
        request.batch.runs.iter().map(|r| crate::codec::encode(&request.batch.ops, r.ops.clone()).unwrap().len()).sum();
    let bytes = binary::encode_push(&request).unwrap();
    assert!(bytes.len() < blobs * 3 / 5, "{} {blobs}", bytes.len());
    assert_equal(&binary::decode_push(&bytes, &Limits::default()).unwrap().batch.ops, &request.batch.ops);
}

#[test]
fn a_run_is_cut_where_a_reader_would_not_understand() {
    let mut buf = OpBuf::new();
    let tbl = buf.sym("t");
    buf.delete(tbl, "1").unwrap();
    buf.opaque(kind::SKIP, 3, b"").unwrap();
    buf.delete(tbl, "2").unwrap();
    buf.opaque(99, 1, b"x").unwrap();
    buf.delete(tbl, "3").unwrap();
    let deps = vec![EventId::new("q", 1)];
    let run = Run { peer: "p".into(), counter_start: 10, lamport_start: 20, deps, ops: 0..5, ..Run::default() };
    let cut = |accept: &[&str]| {
        let accept: Vec<_> = accept.iter().map(|a| a.to_string()).collect();
        let pieces = run.split_for(&buf, &accept).unwrap();
        let shown = |r: &Run| {
            (r.counter_start, r.lamport_start, r.ops.clone(), format!("{}{}", r.deps[0].peer, r.deps[0].counter))
        };
        pieces.iter().map(shown).collect::<Vec<_>>()
    };
    assert_eq!(cut(&[]), [(10, 20, 0..1, "q1".into()), (14, 24, 2..3, "p10".into()), (16, 26, 4..5, "p14".into())]);
    assert_eq!(cut(&["skip"]), [(10, 20, 0..3, "q1".into()), (16, 26, 4..5, "p14".into())]);
    let mut out = String::new();
    assert!(matches!(json::write_run(&mut out, &run, &buf), Err(Error::UnknownOpType { .. })));
}

/// Operations that JSON can say: no kinds without names, no lamports of roots.
pub(super) fn in_json(ops: &OpBuf) -> OpBuf {
    let mut kept = OpBuf::new();
    for op in ops.iter() {
        if !matches!(op, OpRef::Opaque { kind, .. } if kind::name(kind).is_none()) {
            kept.push(op).unwrap();
        }
    }
    kept.refs_mut().iter_mut().for_each(|r| r.lamport = None);
    kept
}

pub(super) fn batch_of(ops: OpBuf, cuts: &[usize]) -> Batch {
    let mut runs = Vec::new();
    let mut from = 0;
    for (i, &cut) in cuts.iter().chain([&usize::MAX]).enumerate() {
        let to = cut.clamp(from, ops.len());
        if to > from {
            let deps = (0..i as u64 % 3).map(|d| EventId::new(format!("peer{d}"), d * 1000)).collect();
            runs.push(Run {
                peer: format!("p{}", i % 2),
                counter_start: from as u64 * 1000,
                lamport_start: 7 + from as u64,
                deps,
                ops: from..to,
                txn: (i % 2 == 0).then_some(from as u64 * 1000),
                actor: (i % 3 == 0).then(|| "ann".into()),
                at: (i % 2 == 1).then_some(-5),
                schema: (i % 4 == 0).then_some(2),
            });
            from = to;
        }
    }
    Batch { ops, runs }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    #[test]
    fn json_round_trip(ops in ops(), cuts in vec(0..40usize, 0..4)) {
        let batch = batch_of(in_json(&buffer(&ops)), &cuts);
        let request = PushRequest { peer_id: "me".into(), batch, frontier: vec![EventId::new("é\"\\", 3)] };
        let mut out = String::new();
        json::write_push(&mut out, &request).unwrap();
        let again = push(&out).unwrap();
        assert_equal(&request.batch.ops, &again.batch.ops);
        prop_assert_eq!(&request.batch.runs, &again.batch.runs);
        prop_assert_eq!(request.frontier, again.frontier);
        // A second implementation of JSON finds the same text.
        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&out).is_ok());
    }

    #[test]
    fn binary_round_trip(ops in ops(), cuts in vec(0..40usize, 0..9)) {
        let batch = batch_of(buffer(&ops), &cuts);
        let request = PushRequest { peer_id: "me".into(), batch, frontier: vec![EventId::new("p1", 3)] };
        let bytes = binary::encode_push(&request).unwrap();
        let again = binary::decode_push(&bytes, &Limits::default()).unwrap();
        assert_equal(&request.batch.ops, &again.batch.ops);
        prop_assert_eq!(&request.batch.runs, &again.batch.runs);
        prop_assert_eq!(&request.frontier, &again.frontier);
        // What the log stores goes out and comes back as it is.
        let mut page = binary::PullWriter::new();
        let blobs: Vec<_> = again.batch.runs.iter().map(|r| crate::codec::encode(&again.batch.ops, r.ops.clone()).unwrap()).collect();
        again.batch.runs.iter().zip(&blobs).for_each(|(run, blob)| page.run(run, blob).unwrap());
        let bytes = page.finish(&again.frontier, true, &Versions::from([("x".into(), 1)]), &Ahead::new()).unwrap();
        let message = binary::Message::read(&bytes, &Limits::default()).unwrap();
        blobs.iter().enumerate().for_each(|(i, blob)| assert_eq!(message.ops(i), blob.as_slice()));
        let page = binary::decode_pull_response(&bytes, &Limits::default()).unwrap();
        assert_equal(&page.batch.ops, &again.batch.ops);
        prop_assert_eq!(page.batch.runs, again.batch.runs);
        prop_assert!(page.has_more && page.ahead.is_empty() && page.versions["x"] == 1);
    }

    #[test]
    fn from_json_to_binary_and_back(ops in ops(), cuts in vec(0..40usize, 0..4)) {
        let batch = batch_of(in_json(&buffer(&ops)), &cuts);
        let request = PushRequest { peer_id: "me".into(), batch, frontier: vec![] };
        let text = |request: &PushRequest| {
            let mut out = String::new();
            json::write_push(&mut out, request).unwrap();
            out
        };
        let sent = text(&request);
        let bytes = binary::encode_push(&push(&sent).unwrap()).unwrap();
        prop_assert_eq!(text(&binary::decode_push(&bytes, &Limits::default()).unwrap()), sent);
    }

    #[test]
    fn damaged_binary_is_an_error_or_another_request(ops in ops(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let batch = batch_of(buffer(&ops), &[2, 4]);
        let request = PushRequest { peer_id: "me".into(), batch, frontier: vec![EventId::new("p1", 3)] };
        let mut bytes = binary::encode_push(&request).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = binary::decode_push(&bytes, &Limits::default());
        let _ = binary::decode_push(&bytes[..at], &Limits::default());
        bytes[3] = 4;
        let _ = binary::decode_pull_response(&bytes, &Limits::default());
    }

    #[test]
    fn damaged_json_is_an_error_or_another_request(ops in ops(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let batch = batch_of(in_json(&buffer(&ops)), &[3]);
        let mut out = String::new();
        json::write_push(&mut out, &PushRequest { peer_id: "me".into(), batch, frontier: vec![] }).unwrap();
        let mut bytes = out.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = json::decode_push(&bytes, &Limits::default());
        prop_assert!(json::decode_push(&bytes[..at], &Limits::default()).is_err());
    }
}

#[test]
fn shown_tells_floats_apart() {
    let mut buf = OpBuf::new();
    let (tbl, col) = (buf.sym("t"), buf.sym("c"));
    buf.update(tbl, "", col, ValueRef::Float(0.0), Origin::Explicit).unwrap();
    buf.update(tbl, "", col, ValueRef::Float(-0.0), Origin::Explicit).unwrap();
    assert_ne!(shown(buf.get(0)), shown(buf.get(1)));
}
