//! Memory is full, of everybody and of one role.

use std::time::Duration;

use crdt_live::Cluster;
use crdt_live::expect::rows;
use crdt_live::listener::Listener;
use postgres::{Client, Error};
use serde_json::json;

use crate::{count, database, set_in};

/// A kilobyte in doc 1.
fn fill(client: &mut Client, key: &str, ttl: &str) -> Result<(), Error> {
    client.batch_execute(&format!(
        "SELECT crdt.ephemeral_set(1, 'ns', '{key}', to_jsonb(repeat('v', 1000)), ttl => '{ttl}')"
    ))
}

/// Fills memory; how many registers it took, and what was said when no more went in.
fn fill_up(client: &mut Client, prefix: &str, ttl: &str) -> (usize, Error) {
    for i in 0..10_000 {
        if let Err(error) = fill(client, &format!("{prefix}{i}"), ttl) {
            return (i, error);
        }
    }
    panic!("memory is never full");
}

fn assert_full(error: &Error, message: &str, hint: &str) {
    let error = error.as_db_error().expect("an error of the server");
    assert_eq!(error.code().code(), "53200");
    assert!(error.message().contains(message), "{error}");
    assert!(error.hint().is_some_and(|text| text.contains(hint)), "{:?}", error.hint());
}

#[test]
fn what_expired_goes_first_then_writes_are_refused() {
    let cluster = Cluster::start("full", &["crdt_db.ephemeral_memory=256kB", "crdt_db.ephemeral_role_share=100"]);
    let database = database(&cluster, "full");
    let mut client = cluster.connect(&database);
    let (fitted, error) = fill_up(&mut client, "short", "3 s");
    assert!((150..250).contains(&fitted), "{fitted} kilobytes in 256");
    assert_full(&error, "shared memory is full", "crdt_db.ephemeral_memory");
    assert_eq!(count(&mut client, "refusals"), 1);
    // Nothing was changed by it, what is there can be written and read, and removed.
    assert_eq!(count(&mut client, "entries"), fitted as i64);
    client.batch_execute("SELECT crdt.ephemeral_set(1, 'ns', 'short0', '1', ttl => '3 s')").unwrap();
    assert_eq!(rows(&mut client, "SELECT count(*) FROM crdt.ephemeral"), [fitted.to_string()]);
    // Nobody listens, so nobody has turned the clock: those who need room find what expired.
    std::thread::sleep(Duration::from_millis(3_300));
    let (again, _) = fill_up(&mut client, "long", "1 hour");
    assert!(again.abs_diff(fitted) <= 2, "{again} after {fitted}");
    assert!(count(&mut client, "evictions") > fitted as i64 / 2, "{} evictions", count(&mut client, "evictions"));
    assert_eq!(rows(&mut client, "SELECT count(*) FROM crdt.ephemeral WHERE key LIKE 'short%'"), ["0"]);
    client.batch_execute("SELECT crdt.ephemeral_clear(1)").unwrap();
    assert_eq!(count(&mut client, "entries"), 0);
    fill(&mut client, "short0", "1 hour").unwrap();
    client.batch_execute("SELECT crdt.stat_ephemeral_reset()").unwrap();
    assert_eq!(
        (count(&mut client, "refusals"), count(&mut client, "evictions"), count(&mut client, "sets")),
        (0, 0, 0)
    );
}

/// What is remembered of cleared registers, for those who ask what changed, takes nobody's room.
#[test]
fn what_was_cleared_makes_room() {
    let cluster = Cluster::start("cleared", &["crdt_db.ephemeral_memory=256kB", "crdt_db.ephemeral_role_share=100"]);
    let database = database(&cluster, "cleared");
    let mut client = cluster.connect(&database);
    let small = |client: &mut Client, prefix: &str| {
        (0..10_000).find(|i| {
            let sql = format!("SELECT crdt.ephemeral_set(1, 'ns', '{prefix}{i}', '1', ttl => '10 days')");
            client.batch_execute(&sql).is_err()
        })
    };
    let fitted = small(&mut client, "a").expect("memory to be full");
    let since = "SELECT crdt.ephemeral_since(1, NULL) -> 'position'";
    let position = rows(&mut client, since).remove(0);
    assert_eq!(rows(&mut client, "SELECT crdt.ephemeral_clear(1)"), [fitted.to_string()]);
    assert_eq!(small(&mut client, "b"), Some(fitted));
    let old = format!("SELECT crdt.ephemeral_since(1, {position}) -> 'reset'");
    assert_eq!(rows(&mut client, &old), ["true"]);
}

#[test]
fn one_role_leaves_room_for_the_others() {
    let cluster = Cluster::start("share", &["crdt_db.ephemeral_memory=256kB", "crdt_db.ephemeral_role_share=50"]);
    let database = database(&cluster, "share");
    let mut admin = cluster.connect(&database);
    admin
        .batch_execute(
            "CREATE ROLE greedy LOGIN; CREATE ROLE modest LOGIN; GRANT USAGE ON SCHEMA crdt TO greedy, modest;
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crdt TO greedy, modest",
        )
        .unwrap();
    let mut greedy = cluster.connect_as(&database, "greedy");
    let (fitted, error) = fill_up(&mut greedy, "g", "1 hour");
    assert!((75..125).contains(&fitted), "{fitted} kilobytes in the half of 256");
    assert_full(&error, "role \"greedy\" fills its 50 percent", "crdt_db.ephemeral_role_share");
    let mut modest = cluster.connect_as(&database, "modest");
    for i in 0..fitted / 2 {
        fill(&mut modest, &format!("m{i}"), "1 hour").unwrap();
    }
    // Another role's register counts for whoever wrote it last; SET ROLE counts as the role that is set.
    assert!(fill(&mut greedy, "m0", "1 hour").is_err());
    fill(&mut modest, "g0", "1 hour").unwrap();
    fill(&mut greedy, "m0", "1 hour").unwrap();
    admin.batch_execute("SET ROLE greedy").unwrap();
    assert!(fill(&mut admin, "by somebody else", "1 hour").is_err());
    admin.batch_execute("RESET ROLE").unwrap();
    fill(&mut admin, "by somebody else", "1 hour").unwrap();
}

/// A register that is evicted, and with it its doc, before the worker has looked: listeners hear that they have to look.
#[test]
fn listeners_hear_of_what_was_evicted() {
    let cluster = Cluster::start(
        "evicted",
        &["crdt_db.ephemeral_memory=256kB", "crdt_db.ephemeral_role_share=100", "crdt_db.notify_interval=4s"],
    );
    let database = database(&cluster, "evicted");
    let mut client = cluster.connect(&database);
    let mut listener = Listener::on(&cluster, &database, &["crdt_ephemeral"]);
    client.batch_execute("SELECT crdt.ephemeral_set(2, 'ns', 'k', '1', ttl => '5 s')").unwrap();
    listener.hear_value(2, "ns", "k", &json!(1));
    // The worker has just looked, and looks again in four seconds or eight.
    fill_up(&mut client, "f", "1 hour");
    let expired = "SELECT crdt.ephemeral_get(2, 'ns', 'k') IS NULL";
    while rows(&mut client, expired) != ["t"] {
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    let from = listener.heard.len();
    // It may be refused all the same: a small register makes little room.
    let _ = fill(&mut client, "one more", "1 hour");
    assert_eq!(rows(&mut client, "SELECT evictions, expiries FROM crdt.stat_ephemeral"), ["1|0"]);
    let told = listener.hear("doc 2", |l| l.heard[from..].iter().find(|m| m.payload["doc"] == 2).cloned());
    let left = told.event("ns", "k").is_some_and(|(event, _)| event == "leave");
    assert!(left || told.payload["reset"] == true, "{}", told.payload);
    let since = format!("SELECT crdt.ephemeral_since(2, {}) -> 'entries'", told.position());
    assert_eq!(rows(&mut client, &since), ["{}"]);
    client.batch_execute("SELECT crdt.ephemeral_clear(1)").unwrap();
    set_in(&mut client, 2, "k", 2);
    listener.hear_value(2, "ns", "k", &json!(2));
}
