//! What fuzzers found once, and inputs they start from: `tests/corpus/TARGET/telling-name`. Each is an input of
//! [`crdt_engine::testkit::fuzz`].

use std::path::Path;

use crdt_engine::testkit::Rng;
use crdt_engine::testkit::fuzz::TARGETS;

/// The files of a target, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a file"))
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn what_fuzzers_found_is_mended() {
    for (target, run) in TARGETS {
        let inputs = inputs(target);
        assert!(!inputs.is_empty(), "there are no inputs for {target}");
        for (name, bytes) in inputs {
            let replay = std::panic::catch_unwind(|| run(&bytes));
            assert!(replay.is_ok(), "tests/corpus/{target}/{name} fails");
        }
    }
}

/// A fuzzer without coverage: the inputs that are kept, bytes of them changed at random. `CRDT_SEED=s` replays one.
#[test]
fn inputs_changed_at_random_do_no_harm() {
    let seed = std::env::var("CRDT_SEED").ok().map(|seed| seed.parse::<u64>().expect("CRDT_SEED is a number"));
    let count = if cfg!(debug_assertions) { 500 } else { 20_000 };
    for (target, run) in TARGETS {
        let inputs = inputs(target);
        for seed in seed.map_or(0..count, |seed| seed..seed + 1) {
            let mut rng = Rng::new(seed);
            let mut bytes = rng.pick(&inputs).1.clone();
            for _ in 0..1 + rng.below(8) {
                let at = rng.below(bytes.len().max(1));
                match rng.below(4) {
                    0 => bytes.insert(at.min(bytes.len()), rng.next_u64() as u8),
                    1 if !bytes.is_empty() => drop(bytes.remove(at)),
                    2 => bytes.extend_from_within(at.min(bytes.len())..),
                    _ if !bytes.is_empty() => bytes[at] = rng.next_u64() as u8,
                    _ => {}
                }
            }
            bytes.truncate(1 << 14);
            let harmless = std::panic::catch_unwind(|| run(&bytes));
            assert!(harmless.is_ok(), "{target}: CRDT_SEED={seed} fails");
        }
    }
}
