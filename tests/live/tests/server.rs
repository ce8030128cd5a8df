//! The server itself: it starts with the library preloaded, survives a crash, and says nothing alarming meanwhile.

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::session::wait_until_blocked;

#[test]
fn starts_with_the_library_preloaded() {
    let cluster = Cluster::shared();
    let mut client = cluster.connect("postgres");
    assert_eq!(rows(&mut client, "SHOW shared_preload_libraries"), ["crdt_db"]);
    assert!(!cluster.log().contains("could not load library"), "{}", cluster.log());
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

#[test]
fn comes_back_after_a_crash() {
    let cluster = Cluster::start("crash", &[]);
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").unwrap();
    cluster.crash();
    assert!(client.batch_execute("SELECT 1").is_err());
    cluster.start_again(&["work_mem=5MB"]);
    let mut client = cluster.connect("postgres");
    assert_eq!(rows(&mut client, "SELECT n FROM t"), ["1"]);
    assert_eq!(rows(&mut client, "SHOW work_mem"), ["5MB"]);
}

#[test]
fn a_session_that_waits_is_seen_to_wait() {
    let cluster = Cluster::shared();
    let database = cluster.create_plain_database("blocked");
    let mut first = cluster.connect(&database);
    first.batch_execute("CREATE TABLE t (n int)").unwrap();
    first.batch_execute("BEGIN; LOCK t").unwrap();
    let second = cluster.session(&database);
    let answer = second.execute("SET lock_timeout = '20s'; SELECT count(*) FROM t");
    wait_until_blocked(&mut cluster.connect(&database), &second);
    assert!(answer.poll().is_none());
    first.batch_execute("COMMIT").unwrap();
    answer.wait().unwrap();
    expect_error(second.execute("SELECT 1/0").wait(), "22012");
}
