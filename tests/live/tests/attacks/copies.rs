//! Dumps, copied data directories, standbys, point-in-time recovery: no event id ever stands for two contents, whoever
//! knows more than a database that was set back is told so, and what it lost comes back.

use std::collections::BTreeMap;

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::sample::{agrees, database, events};
use crdt_live::session::wait_until;
use postgres::Client;

type Events = BTreeMap<(String, i64), String>;

/// Adds what a database holds to what is known; what both name must be the same.
fn learn(known: &mut Events, client: &mut Client) {
    for (id, content) in events(client) {
        let before = known.entry(id.clone()).or_insert_with(|| content.clone());
        assert_eq!(*before, content, "two contents of {id:?}");
    }
}

/// A few writes of every kind, told apart by a mark: plain SQL in two slots at once, a document function, a push.
fn write_some(cluster: &Cluster, database: &str, mark: &str) {
    let (mut one, mut two) = (cluster.connect(database), cluster.connect(database));
    one.batch_execute(&format!(
        "BEGIN; INSERT INTO t SELECT max(id) + 1, '{mark}' FROM t; SELECT FROM crdt.verify('t')"
    ))
    .unwrap();
    two.batch_execute(&format!("UPDATE t SET v = v || ' {mark}' WHERE id = 0")).unwrap();
    one.batch_execute("COMMIT").unwrap();
    one.batch_execute(&format!("SELECT crdt.doc_update(1, 'notes', '1', 'text', to_jsonb('{mark}'::text))")).unwrap();
    let push = format!("SELECT crdt.push(1, update('client {mark}', 0, 5, 0, 'pushed {mark}'))");
    two.batch_execute(&push).unwrap();
    agrees(&mut one);
}

fn begin(cluster: &Cluster, prefix: &str) -> String {
    let database = database(cluster, prefix);
    let mut client = cluster.connect(&database);
    client.batch_execute("INSERT INTO t VALUES (0, 'first'); SELECT crdt.doc_insert(1, 'notes', '1', '{}')").unwrap();
    write_some(cluster, &database, "before");
    database
}

#[test]
fn a_dump_in_any_format_goes_on_under_another_name() {
    let cluster = Cluster::shared();
    let origin = begin(cluster, "dumped");
    let mut known = Events::new();
    for format in ["plain", "custom", "directory", "tar"] {
        learn(&mut known, &mut cluster.connect(&origin));
        let file = Scratch::new(format);
        cluster.run("pg_dump", &["--format", format, "--file", file.path(), &origin]);
        let copy = cluster.create_plain_database("restored");
        match format {
            "plain" => cluster.run("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-d", &copy, "-f", file.path()]),
            _ => cluster.run("pg_restore", &["--exit-on-error", "-d", &copy, file.path()]),
        };
        assert_eq!(events(&mut cluster.connect(&copy)), events(&mut cluster.connect(&origin)), "{format}");
        for (database, mark) in [(&copy, "copy"), (&origin, "origin"), (&copy, "copy again")] {
            write_some(cluster, database, &format!("{mark} {format}"));
            learn(&mut known, &mut cluster.connect(database));
        }
        if format == "custom" {
            // Over a copy that has gone on by itself.
            cluster.run("pg_restore", &["--clean", "--if-exists", "--exit-on-error", "-d", &copy, file.path()]);
            write_some(cluster, &copy, "copy set back");
            learn(&mut known, &mut cluster.connect(&copy));
        }
    }
}

#[test]
fn a_database_restored_over_itself_reuses_no_name_and_gets_back_what_it_lost() {
    let cluster = Cluster::shared();
    let database = begin(cluster, "set_back");
    let mut known = Events::new();
    for format in ["custom", "plain"] {
        let file = Scratch::new(format);
        cluster.run("pg_dump", &["--format", format, "--clean", "--if-exists", "--file", file.path(), &database]);
        write_some(cluster, &database, &format!("lost {format}"));
        let mut client = cluster.connect(&database);
        learn(&mut known, &mut client);
        let versions = rows(&mut client, "SELECT crdt.version(1)").join("");
        let lost = rows(&mut client, "SELECT crdt.doc_get_pending(1, '{}')").join("");
        let shown = rows(&mut client, "SELECT * FROM t ORDER BY id");
        drop(client);
        match format {
            "plain" => cluster.run("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-d", &database, "-f", file.path()]),
            _ => {
                cluster.run("pg_restore", &["--clean", "--if-exists", "--exit-on-error", "-d", &database, file.path()])
            }
        };
        let mut client = cluster.connect(&database);
        agrees(&mut client);
        assert_ne!(rows(&mut client, "SELECT * FROM t ORDER BY id"), shown, "the dump is older");
        hand_back(&mut client, &versions, &lost);
        assert_eq!(rows(&mut client, "SELECT * FROM t ORDER BY id"), shown, "{format}");
        learn(&mut known, &mut client);
        drop(client);
        write_some(cluster, &database, &format!("after {format}"));
        learn(&mut known, &mut cluster.connect(&database));
    }
}

/// Schema first, then data: while the extension's own tables are filled, they say half of what is tracked. A schema whose
/// name comes before theirs is filled first, another one later.
#[test]
fn schema_and_data_are_restored_one_after_the_other() {
    let cluster = Cluster::shared();
    let origin = begin(cluster, "halves");
    let mut client = cluster.connect(&origin);
    for schema in ["app", "later"] {
        client
            .batch_execute(&format!(
                "CREATE SCHEMA {schema};
                 CREATE TABLE {schema}.p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
                 CREATE TABLE {schema}.p1 PARTITION OF {schema}.p FOR VALUES FROM (0) TO (100);
                 CREATE TABLE {schema}.c (id int PRIMARY KEY, p int REFERENCES {schema}.p);
                 SELECT crdt.track('{schema}.p', 1), crdt.track('{schema}.c', 1);
                 INSERT INTO {schema}.p VALUES (1, 'x'), (2, 'y'); INSERT INTO {schema}.c VALUES (1, 1), (2, 2)"
            ))
            .unwrap();
    }
    let known = events(&mut client);
    drop(client);
    let (schema, data) = (Scratch::new("schema"), Scratch::new("data"));
    cluster.run("pg_dump", &["--schema-only", "--file", schema.path(), &origin]);
    cluster.run("pg_dump", &["--data-only", "--disable-triggers", "--file", data.path(), &origin]);
    let copy = cluster.create_plain_database("halved");
    cluster.run("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-d", &copy, "-f", schema.path()]);
    let mut client = cluster.connect(&copy);
    client.batch_execute("BEGIN; INSERT INTO app.p VALUES (50, 'told of by a warning alone'); ROLLBACK").unwrap();
    cluster.run("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-d", &copy, "-f", data.path()]);
    assert_eq!(events(&mut client), known);
    assert_eq!(rows(&mut client, "SELECT DISTINCT captured FROM crdt.tracked_tables"), ["t"]);
    client
        .batch_execute(
            "UPDATE app.p SET v = 'z'; INSERT INTO app.p1 VALUES (9, 'nine'); INSERT INTO app.c VALUES (9, 9);
             CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM (100) TO (200); INSERT INTO app.p2 VALUES (100, 'new');
             DELETE FROM later.c; INSERT INTO later.p1 VALUES (9, 'nine')",
        )
        .unwrap();
    for table in ["t", "app.p", "app.c", "later.p", "later.c"] {
        assert_eq!(
            rows(&mut client, &format!("SELECT * FROM crdt.verify('{table}')")),
            Vec::<String>::new(),
            "{table}"
        );
    }
    let mut both = known;
    learn(&mut both, &mut client);
    write_some(cluster, &copy, "after");
}

/// A client that knows more than its hub is told so, by a pull and by a push. It cannot push the hub's own events; an
/// administrator merges them.
fn hand_back(client: &mut Client, versions: &str, lost: &str) {
    let pull = format!("SELECT crdt.pull(1, '{{\"known_peers\": {versions}}}') -> 'ahead'");
    let ahead = rows(client, &pull).join("");
    assert!(ahead.contains("hub:"), "not told to be ahead: {ahead}");
    let hub = "SELECT key, value FROM json_each_text($1::json) WHERE key LIKE 'hub:%'";
    for row in client.query(&hub.replace("$1", &format!("'{ahead}'")), &[]).unwrap() {
        let has = "SELECT max(counter_end) FROM crdt.event_runs WHERE doc = 1 AND peer = $1";
        let has: Option<i64> = client.query_one(has, &[&row.get::<_, &str>(0)]).unwrap().get(0);
        assert_eq!(row.get::<_, Option<&str>>(1).map(|n| n.parse().unwrap()), has);
    }
    let push = format!(
        "SELECT crdt.push(1, json_build_object('peer_id', 'c', 'events', '[]'::json, 'frontier',
             (SELECT json_agg(json_build_array(key, value)) FROM json_each('{versions}')))) -> 'ahead'"
    );
    assert_eq!(json(&rows(client, &push).join("")), json(&ahead), "a push is told the same");
    let request =
        format!("json_build_object('peer_id', 'c', 'frontier', '[]'::json, 'events', $events${lost}$events$::json)");
    expect_error(client.batch_execute(&format!("SELECT crdt.push(1, {request})")), "CR009");
    client.batch_execute(&format!("SELECT crdt.doc_merge_remote(1, $events${lost}$events$)")).unwrap();
    assert_eq!(rows(client, &pull), ["<null>"]);
    agrees(client);
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn two_copies_of_one_database_learn_from_each_other() {
    let cluster = Cluster::shared();
    let origin = begin(cluster, "one");
    let file = Scratch::new("custom");
    cluster.run("pg_dump", &["--format", "custom", "--file", file.path(), &origin]);
    let copy = cluster.create_plain_database("other");
    cluster.run("pg_restore", &["--exit-on-error", "-d", &copy, file.path()]);
    write_some(cluster, &origin, "in one");
    write_some(cluster, &copy, "in the other");
    let (mut one, mut two) = (cluster.connect(&origin), cluster.connect(&copy));
    for _ in 0..2 {
        let told = rows(&mut one, "SELECT crdt.doc_get_pending(1, '{}')").join("");
        two.batch_execute(&format!("SELECT crdt.doc_merge_remote(1, $events${told}$events$)")).unwrap();
        std::mem::swap(&mut one, &mut two);
    }
    assert_eq!(events(&mut one), events(&mut two));
    assert_eq!(rows(&mut one, "SELECT * FROM t ORDER BY id"), rows(&mut two, "SELECT * FROM t ORDER BY id"));
    agrees(&mut one);
    agrees(&mut two);
    // What this start of the server writes as comes from nowhere else.
    let own = rows(&mut one, "SELECT peer FROM crdt.peers WHERE own ORDER BY last_seen DESC LIMIT 1").join("");
    one.batch_execute("INSERT INTO t VALUES (-1, 'x')").unwrap();
    let own =
        rows(&mut one, "SELECT peer FROM crdt.peers WHERE own ORDER BY last_seen DESC LIMIT 1").pop().unwrap_or(own);
    let (start, _slot) = own.rsplit_once(':').unwrap();
    for (peer, counter) in
        [(own.clone(), 1000), (format!("{start}:77"), 0), ("hub".to_owned(), 0), ("hub:x".to_owned(), 0)]
    {
        let forged = format!(
            "SELECT crdt.doc_merge_remote(1, (request('{peer}', {counter}, 9000, '[{{\"type\":\"delete\",\"tbl\":\"t\",\"row_id\":\"0\"}}]') -> 'events')::jsonb)"
        );
        let state = if counter == 0 { "CR009" } else { "CR004" };
        expect_error(one.batch_execute(&forged), state);
    }
}

#[test]
fn copied_data_directories_go_on_under_names_of_their_own() {
    let cluster = Cluster::start("origin", &[]);
    let database = begin(&cluster, "copied");
    let mut known = Events::new();
    learn(&mut known, &mut cluster.connect(&database));
    cluster.halt();
    let still = cluster.copy("still");
    cluster.start_again(&[]);
    write_some(&cluster, &database, "before the crash");
    learn(&mut known, &mut cluster.connect(&database));
    cluster.crash();
    let crashed = cluster.copy("crashed");
    let all = [&cluster, &still, &crashed];
    all.iter().for_each(|cluster| cluster.start_again(&[]));
    for round in 0..2 {
        for (n, cluster) in all.iter().enumerate() {
            write_some(cluster, &database, &format!("{n} in round {round}"));
            learn(&mut known, &mut cluster.connect(&database));
        }
    }
}

#[test]
fn two_standbys_are_promoted_and_the_primary_goes_on() {
    let primary = Cluster::start("primary", &[]);
    let database = begin(&primary, "promoted");
    let mut known = Events::new();
    let standbys = [standby(&primary), standby(&primary)];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for i in 0..20 {
                write_some(&primary, &database, &format!("load {i}"));
            }
        });
        let mut observer = primary.connect("postgres");
        wait_until("some load", || rows(&mut primary.connect(&database), "SELECT count(*) > 5 FROM t") == ["t"]);
        for standby in &standbys {
            let mut client = standby.connect(&database);
            let lsn = rows(&mut observer, "SELECT pg_current_wal_lsn()").join("");
            wait_until("replay", || rows(&mut client, &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == ["t"]);
            agrees(&mut client);
            client.batch_execute("SELECT pg_promote()").unwrap();
            write_some(standby, &database, "promoted");
        }
        writer.join().unwrap();
    });
    for cluster in [&primary, &standbys[0], &standbys[1]] {
        write_some(cluster, &database, &format!("at the end, {}", cluster.conninfo().len()));
        learn(&mut known, &mut cluster.connect(&database));
    }
    assert_eq!(primary.crashes(), Vec::<String>::new());
}

fn standby(primary: &Cluster) -> Cluster {
    let standby = primary.copy("standby");
    std::fs::write(standby.data().join("standby.signal"), "").unwrap();
    standby.start_again(&[&format!("primary_conninfo={}", primary.conninfo())]);
    standby
}

#[test]
fn recovery_to_a_point_in_time_reuses_no_name_and_gets_back_what_it_lost() {
    let archive = Scratch::new("archive");
    let keep = format!("archive_command=mkdir -p {0} && cp %p {0}/%f", archive.path());
    let cluster = Cluster::start("archiving", &["archive_mode=on", &keep]);
    let database = begin(&cluster, "pitr");
    let mut known = Events::new();
    let backup = cluster.copy("set-back");
    write_some(&cluster, &database, "after the backup");
    cluster.connect("postgres").batch_execute("SELECT pg_create_restore_point('here')").unwrap();
    write_some(&cluster, &database, "lost");
    let mut client = cluster.connect(&database);
    learn(&mut known, &mut client);
    let versions = rows(&mut client, "SELECT crdt.version(1)").join("");
    let lost = rows(&mut client, "SELECT crdt.doc_get_pending(1, '{}')").join("");
    let shown = rows(&mut client, "SELECT * FROM t ORDER BY id");
    let segment = rows(&mut client, "SELECT pg_walfile_name(pg_switch_wal())").join("");
    wait_until("the archive", || {
        rows(&mut client, &format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver")) == ["t"]
    });
    std::fs::write(backup.data().join("recovery.signal"), "").unwrap();
    backup.start_again(&[
        "archive_mode=off",
        &format!("restore_command=cp {}/%f %p", archive.path()),
        "recovery_target_name=here",
        "recovery_target_action=promote",
    ]);
    let mut client = backup.connect(&database);
    wait_until("the end of recovery", || rows(&mut client, "SELECT pg_is_in_recovery()") == ["f"]);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t WHERE v = 'after the backup'"), ["1"]);
    assert_eq!(rows(&mut client, "SELECT count(*) FROM t WHERE v = 'lost'"), ["0"]);
    write_some(&backup, &database, "after the recovery");
    learn(&mut known, &mut client);
    hand_back(&mut client, &versions, &lost);
    learn(&mut known, &mut client);
    for row in shown.iter().filter(|row| !row.starts_with("0|")) {
        assert!(rows(&mut client, "SELECT * FROM t ORDER BY id").contains(row) || row.ends_with("|lost"), "{row}");
    }
    assert_eq!(events(&mut client).len(), known.len());
}

/// A place for files, below the directory for temporary ones, that every user can reach; gone when dropped.
struct Scratch(String);

impl Scratch {
    fn new(name: &str) -> Scratch {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("crdt_live-copies-{}-{count}-{name}", std::process::id()));
        Scratch(path.display().to_string())
    }

    fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}
