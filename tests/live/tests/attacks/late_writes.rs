//! Writes at the very end of a transaction, by another extension's pre-commit callback: before ours or after it.

use crdt_live::Cluster;
use crdt_live::expect::{expect_error, rows};
use crdt_live::sample::{agrees, database};

#[test]
fn what_another_extension_writes_before_the_commit_is_captured() {
    let cluster = Cluster::start("late", &[]);
    let database = database(&cluster, "late");
    let library = cluster.compile("late_writer.c").display().to_string();
    cluster
        .connect(&database)
        .batch_execute(&format!(
            "CREATE FUNCTION late_write(cstring) RETURNS void LANGUAGE c AS '{library}';
             CREATE FUNCTION late(int, text) RETURNS void LANGUAGE sql AS
                 $$ SELECT late_write(textout(format('INSERT INTO public.t VALUES (%s, %L)', $1, $2))) $$;
             INSERT INTO t VALUES (0, 'first')"
        ))
        .unwrap();
    // Callbacks run in the opposite order of their registration: the library that is loaded first writes last.
    for (round, preload) in [(1, format!("crdt_db, {library}")), (2, format!("{library}, crdt_db"))] {
        cluster.halt();
        cluster.start_again(&[&format!("shared_preload_libraries={preload}")]);
        let mut client = cluster.connect(&database);
        let id = |n: i32| round * 100 + n;
        for sql in [
            format!("SELECT late({}, 'alone')", id(1)),
            format!("BEGIN; UPDATE t SET v = v || '.' WHERE id = 0; SELECT late({}, 'after a write'); COMMIT", id(2)),
            format!(
                "BEGIN; SELECT late({0}, 'x'); SAVEPOINT a; INSERT INTO t VALUES ({0}); ROLLBACK TO a; COMMIT",
                id(3)
            ),
            format!(
                "BEGIN ISOLATION LEVEL SERIALIZABLE; DELETE FROM t WHERE id = {}; SELECT late({}, 'y'); COMMIT",
                id(1),
                id(4)
            ),
            format!(
                "BEGIN; SELECT crdt.push(1, update('p{round}', 0, 50, 0, 'pushed')); SELECT late({}, 'after a push'); COMMIT",
                id(5)
            ),
            // Written early, for its size, and again at the end.
            format!(
                "BEGIN; INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series({0}000, {0}999) AS i; SELECT late({0}, 'z'); COMMIT",
                id(6)
            ),
        ] {
            client.batch_execute(&sql).unwrap_or_else(|error| panic!("{preload}: {sql}: {error:?}"));
            agrees(&mut client);
        }
        let prepare = format!(
            "BEGIN; UPDATE t SET v = 'p' WHERE id = 0; SELECT late({}, 'prepared'); PREPARE TRANSACTION 'p'",
            id(7)
        );
        client.batch_execute(&prepare).unwrap();
        client.batch_execute("COMMIT PREPARED 'p'").unwrap();
        agrees(&mut client);
        // An error there is the transaction's, and leaves nothing.
        let twice = format!("BEGIN; UPDATE t SET v = 'never' WHERE id = 0; SELECT late({}, 'again'); COMMIT", id(7));
        expect_error(client.batch_execute(&twice), "23505");
        let _ = client.batch_execute("ROLLBACK");
        assert_eq!(rows(&mut client, "SELECT v FROM t WHERE id = 0"), ["p"]);
        agrees(&mut client);
        let late = format!(
            "SELECT string_agg(id % 100 || ' ' || v, ', ' ORDER BY id) FROM t WHERE id BETWEEN {} AND {}",
            id(0),
            id(99)
        );
        assert_eq!(
            rows(&mut client, &late),
            ["2 after a write, 3 x, 4 y, 5 after a push, 6 z, 7 prepared"],
            "{preload}"
        );
    }
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}
