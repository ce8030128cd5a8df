//! Attacks on readers: pages of the write-ahead log that end where a commit ends.

use crdt_live::Cluster;
use crdt_live::expect::rows;
use crdt_live::sample::{agrees, database};
use crdt_live::session::wait_until;
use postgres::Client;

/// Commits, each followed by a pull at once.
const COMMITS: usize = 3000;

/// Where the write-ahead log is, in bytes.
const POSITION: &str = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";

/// A pull flushes what it hands out up to the end of its commit record. Where that is the end of a page, the next record
/// begins behind the page's header: asking for a flush up to there would be an error.
#[test]
fn thousands_of_pulls_where_pages_of_the_write_ahead_log_end() {
    let cluster =
        Cluster::start("pages", &["--fsync", "synchronous_commit=off", "wal_writer_delay=10s", "autovacuum=off"]);
    let database = database(&cluster, "pages");
    let standby = cluster.copy("standby");
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    standby.start_again(&[&format!("primary_conninfo={}", cluster.conninfo()), "hot_standby_feedback=on"]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (at_ends, on_standby) = std::thread::scope(|scope| {
        let mut follower = standby.connect(&database);
        let stop = &stop;
        let following = scope.spawn(move || {
            let (mut pulls, mut last) = (0, 0);
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                last = pull(&mut follower, last);
                pulls += 1;
            }
            (pulls, last)
        });
        let (mut writer, mut reader) = (cluster.connect(&database), cluster.connect(&database));
        let at_ends = write_and_pull(&mut writer, &mut reader);
        wait_until("the standby", || pull(&mut standby.connect(&database), 0) == COMMITS as i64 - 1);
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        (at_ends, following.join().unwrap())
    });
    println!(
        "{COMMITS} pulls, {at_ends} at the end of a page; on the standby {}, up to event {}",
        on_standby.0, on_standby.1
    );
    assert!(at_ends > COMMITS / 20, "{at_ends} commits ended where a page ends");
    agrees(&mut cluster.connect(&database));
    agrees(&mut standby.connect(&database));
    for cluster in [&cluster, &standby] {
        assert_eq!(cluster.crashes(), Vec::<String>::new());
        assert!(!cluster.log().contains("ERROR"), "{}", cluster.log());
    }
}

/// Pads the write-ahead log so that commits end where pages do, or a little before or behind. Answers how many did.
fn write_and_pull(writer: &mut Client, reader: &mut Client) -> usize {
    const PAGE: i64 = 8192;
    let (mut at_ends, mut last, mut size) = (0, 0, 0);
    for i in 0..COMMITS as i64 {
        let before: i64 = writer.query_one(POSITION, &[]).unwrap().get(0);
        // A message of n bytes takes about 60 more; what the last transaction took, this one will take.
        let wanted = (PAGE - (before + size + 100) % PAGE + 8 * (i % 5 - 2)).rem_euclid(PAGE);
        let pad = format!("SELECT pg_logical_emit_message(false, '', repeat('x', {wanted}))");
        writer.batch_execute(&pad).unwrap();
        let start: i64 = writer.query_one(POSITION, &[]).unwrap().get(0);
        let sql = if i == 0 { "INSERT INTO t VALUES (1, md5('x'))" } else { "UPDATE t SET v = md5(v)" };
        writer.batch_execute(sql).unwrap();
        let end: i64 = writer.query_one(POSITION, &[]).unwrap().get(0);
        size = end - start;
        // Behind a page's header, of which the first page of a segment has a longer one.
        at_ends += usize::from([24, 40].contains(&(end % PAGE)));
        let now = pull(reader, last);
        assert!(now > last || i == 0, "a pull after commit {i} ends at event {now}");
        last = now;
    }
    at_ends
}

/// Pulls what came after an event of the one slot that writes, and answers the last event of the answer.
fn pull(client: &mut Client, after: i64) -> i64 {
    let sql = format!(
        "SELECT coalesce(max((versions).value::bigint), -1) FROM (
             SELECT jsonb_each_text(crdt.pull(1, (SELECT jsonb_build_object('known_peers', coalesce(jsonb_object_agg(peer, {after}), '{{}}'))
                 FROM crdt.peers WHERE doc = 1 AND {after} >= 0 AND events > {after}))::jsonb -> 'versions') AS versions) AS v"
    );
    rows(client, &sql)[0].parse().unwrap()
}
