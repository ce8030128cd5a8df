//! What messages promise, for any registers and any names.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::super::audit::{Uncounted, name};
use super::super::register::{MAX_KEY, MAX_NAMESPACE, MAX_PEER};
use super::super::tests::{EVERYTHING, Vectors};
use super::super::{Memory, Scope, Write, store};
use super::*;

const DOC: Scope = Scope { db: 1, log: 7, doc: i64::MIN };
/// As large as a position's base can be and stay an integer in every JSON reader.
const BASE: u64 = (1 << 53) - 1_000_000;

#[derive(Clone, Debug)]
struct Step {
    namespace: String,
    key: String,
    peer: String,
    /// `None`: removed.
    value: Option<Value>,
    timestamp: f64,
    /// It was there before, so that this is an update or a leave.
    before: bool,
}

/// At most so many bytes, many of which JSON has to escape or takes several bytes for.
fn text(most: usize) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[a-c]".prop_map(String::from),
        1 => prop::sample::select(vec!["\u{1}", "\"", "\\", "\u{7f}", "é", "\u{2028}", "𝄞", "/"]).prop_map(String::from),
    ];
    let short = prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat());
    (short, prop_oneof![8 => Just(1), 1 => Just(200)], any::<bool>()).prop_map(move |(text, repeat, control)| {
        let text = if repeat > 1 && control { "\u{1}".repeat(repeat * 5) } else { text.repeat(repeat) };
        let mut end = text.len().min(most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text[..end].to_owned()
    })
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => (any::<i32>(), any::<i32>()).prop_map(|(x, y)| serde_json::json!({ "x": x, "y": y })),
        2 => text(60).prop_map(Value::from),
        1 => (7_000..8_200usize).prop_map(|len| "v".repeat(len).into()),
        1 => (100..40_000usize).prop_map(|len| "é\n".repeat(len).into()),
        1 => Just(Value::Null),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let timestamp = prop_oneof![Just(0.0), Just(1.5e12), 0.0..1e13f64, Just(5e-324)];
    let value = prop_oneof![4 => value().prop_map(Some), 1 => Just(None)];
    (text(MAX_NAMESPACE), text(MAX_KEY), text(MAX_PEER), value, timestamp, any::<bool>()).prop_map(
        |(namespace, key, peer, value, timestamp, before)| Step { namespace, key, peer, value, timestamp, before },
    )
}

type Names = (String, String);

fn write(memory: &Vectors, step: &Step, value: &str, timestamp: f64) {
    let write = Write {
        name: name(DOC, step.namespace.as_bytes(), step.key.as_bytes()),
        timestamp,
        own_clock: false,
        peer: step.peer.as_bytes(),
        value: value.as_bytes(),
        ttl: 30_000,
        role: EVERYTHING,
    };
    store::set(memory, &write, 0, &Uncounted).unwrap().0.expect("there is room");
}

/// Plays steps; the position in between, before which what is marked so was there.
fn play(memory: &Vectors, steps: &[Step]) -> u64 {
    for step in steps.iter().filter(|step| step.before || step.value.is_none()) {
        write(memory, step, "\"old\"", -1.0);
    }
    let since = memory.position();
    for step in steps {
        match &step.value {
            Some(value) => write(memory, step, &value.to_string(), step.timestamp),
            None => {
                let name = name(DOC, step.namespace.as_bytes(), step.key.as_bytes());
                store::remove(memory, &name, step.timestamp, 0, &Uncounted);
            }
        }
    }
    since
}

fn changes(memory: &Vectors, since: u64) -> Changes {
    store::since(memory, DOC, name(DOC, b"", b"").scope_hash, since, None, 0).unwrap()
}

fn names(found: &Found, record: &Record) -> Names {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
    (text(found.namespace(record)), text(found.key(record)))
}

/// Nothing for what was removed.
fn entry(found: &Found, record: &Record) -> String {
    let mut out = String::new();
    if record.live {
        write_entry(&mut out, found, record).unwrap();
    }
    out
}

/// The names and what they lead to, of `{"ns":{"key":…}}`.
fn nested(message: &Value, field: &str) -> BTreeMap<Names, Value> {
    let Some(namespaces) = message.get(field) else { return BTreeMap::new() };
    let namespaces = namespaces.as_object().expect("namespaces");
    let keys = |(ns, keys): (&String, &Value)| {
        let keys = keys.as_object().expect("keys").clone().into_iter();
        let ns = ns.clone();
        keys.map(move |(key, item)| ((ns.clone(), key), item)).collect::<Vec<_>>()
    };
    namespaces.iter().flat_map(keys).collect()
}

fn json_len(text: &str) -> usize {
    Value::from(text).to_string().len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Together they tell each change once, in order, and whoever applies them shows what the store shows.
    #[test]
    fn messages_tell_everything_once(steps in prop::collection::vec(step(), 1..60)) {
        let memory = Vectors::new(2, 100_000);
        let since = play(&memory, &steps);
        let changes = changes(&memory, since);
        let found = &changes.found;
        let texts = messages(DOC.doc, &changes, since, BASE, true).unwrap();

        let mut from = since;
        let mut told = BTreeSet::new();
        for text in &texts {
            prop_assert!(text.len() <= MAX_MESSAGE, "{} bytes", text.len());
            let message: Value = serde_json::from_str(text).unwrap();
            prop_assert_eq!(message["doc"].as_i64(), Some(DOC.doc));
            prop_assert!(message.get("reset").is_none());
            let to = message["position"].as_u64().unwrap() - BASE;
            prop_assert!(to > from, "positions ascend");
            let (entries, events) = (nested(&message, "entries"), nested(&message, "events"));
            prop_assert!(entries.keys().eq(events.keys()));
            let mut meant: Vec<&Record> = found.records.iter().filter(|r| from < r.position && r.position <= to).collect();
            prop_assert!(!meant.is_empty());
            if entries.is_empty() {
                // Bare: it is about one register, whose name alone fills a message.
                prop_assert_eq!(meant.len(), 1);
                let (ns, key) = names(found, meant[0]);
                prop_assert!(3 * json_len(&key) + 2 * json_len(&ns) > MAX_MESSAGE - 2_200, "there was room for the name");
                told.insert(names(found, meant.pop().unwrap()));
            }
            prop_assert!(meant.len() == entries.len(), "as many as changed up to its position");
            for record in meant {
                let name = names(found, record);
                let whole = entry(found, record);
                match (&entries[&name], record.live) {
                    (Value::Null, live) => prop_assert!(!live),
                    (shown, _) if shown.get("value").is_some() => prop_assert_eq!(shown, &serde_json::from_str::<Value>(&whole).unwrap()),
                    (shown, _) => {
                        let mut without: Value = serde_json::from_str(&whole).unwrap();
                        without.as_object_mut().unwrap().remove("value");
                        prop_assert_eq!(shown, &without);
                        let least = whole.len() + 2 * (json_len(&name.0) + json_len(&name.1));
                        prop_assert!(least > MAX_MESSAGE - 200, "there was room for a value");
                    }
                }
                let event = match record.live {
                    false => "leave",
                    true if record.joined > since => "join",
                    true => "update",
                };
                prop_assert_eq!(events[&name].as_str(), Some(event));
                prop_assert!(told.insert(name), "told once");
            }
            from = to;
        }
        prop_assert_eq!(told.len(), found.records.len());
        prop_assert_eq!(from, changes.position, "the last one's position is the batch's");
    }

    /// Messages that carry little are few: a message ends where the next register would not have fitted.
    #[test]
    fn messages_are_filled(count in 1..600usize) {
        let memory = Vectors::new(2, 100_000);
        let step = |i: usize| Step {
            namespace: "cursor".into(), key: format!("user-{i:04}"), peer: "somebody".into(),
            value: Some(serde_json::json!({ "x": i, "y": i })), timestamp: 1.5e12, before: false,
        };
        let since = play(&memory, &(0..count).map(step).collect::<Vec<_>>());
        let texts = messages(1, &changes(&memory, since), since, BASE, true).unwrap();
        let bytes: usize = texts.iter().map(String::len).sum();
        prop_assert!(texts.len() <= 1 + bytes / (MAX_MESSAGE - 200), "{} messages for {bytes} bytes", texts.len());
    }
}

#[test]
fn without_payload_or_after_a_reset_there_is_one_message() {
    let memory = Vectors::new(1, 1_000);
    let step = |key: &str| Step {
        namespace: "ns".into(),
        key: key.into(),
        peer: "p".into(),
        value: Some(1.into()),
        timestamp: 1.0,
        before: false,
    };
    let since = play(&memory, &[step("a"), step("b")]);
    let mut changes = changes(&memory, since);
    let position = BASE + changes.position;
    let told = |changes: &Changes, payload| messages(9, changes, since, BASE, payload).unwrap();
    assert_eq!(told(&changes, false), [format!("{{\"doc\":9,\"position\":{position}}}")]);
    changes.too_old = true;
    for payload in [false, true] {
        assert_eq!(told(&changes, payload), [format!("{{\"doc\":9,\"position\":{position},\"reset\":true}}")]);
    }
}
