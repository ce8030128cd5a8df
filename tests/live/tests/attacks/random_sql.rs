//! Random tables that refer to each other and to themselves, and random statements on them: keys change, cascades touch
//! rows again and again, rows move between partitions, triggers and functions write back, savepoints are rolled back. After each
//! transaction the log says what the tables show, and in the end another doc that is told the log shows the same.
//!
//! `CRDT_SCHEDULES=n` sets how many schedules, `CRDT_SEED=s` replays one.

use crdt_engine::testkit::Rng;
use crdt_live::Cluster;
use crdt_live::expect::{rows, sqlstate};
use postgres::Client;

const SCHEDULES: u64 = 12;
const TRANSACTIONS: usize = 30;

/// Constraints that a random statement may break, a row that a function has written within the statement that wants to, and a
/// table that a pending trigger keeps from being truncated.
const REFUSALS: [&str; 5] = ["23502", "23503", "23505", "27000", "55006"];

#[test]
fn the_log_follows_any_statement() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let (first, count) = match number("CRDT_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("CRDT_SCHEDULES").unwrap_or(SCHEDULES)),
    };
    let (mut done, mut refused) = (0, 0);
    for seed in first..first + count {
        let mut world = World::build(seed);
        for _ in 0..TRANSACTIONS {
            world.transaction();
        }
        world.check_copy();
        (done, refused) = (done + world.done, refused + world.refused);
    }
    assert!(done > refused, "{done} statements done, {refused} refused: nothing much was tried");
}

struct Table {
    name: String,
    references: usize,
    /// The key is the id alone, so that others can refer to it.
    single: bool,
}

struct World {
    rng: Rng,
    client: Client,
    tables: Vec<Table>,
    /// The statements of the transaction that runs, and the schedule's seed.
    story: Vec<String>,
    done: u64,
    refused: u64,
}

impl World {
    fn build(seed: u64) -> World {
        let cluster = Cluster::shared();
        let client = cluster.connect(&cluster.create_database("random_sql"));
        let parent = Table { name: "par".into(), references: 0, single: true };
        let story = vec![format!("CRDT_SEED={seed}")];
        let mut world = World { rng: Rng::new(seed), client, tables: vec![parent], story, done: 0, refused: 0 };
        world
            .run(
                "CREATE TABLE par (id int PRIMARY KEY, v text);
                 CREATE FUNCTION touch(i int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
                     UPDATE par SET v = 'touched' WHERE id = i; RETURN 'by ' || i; END $$",
            )
            .expect("a table");
        for nth in 0..1 + world.rng.below(4) {
            world.create_table(format!("t{nth}"));
        }
        world.run("SELECT crdt.create_doc('hub', 'doc')").expect("a doc");
        for table in &world.tables {
            world.client.batch_execute(&format!("SELECT crdt.track('{}', 1)", table.name)).expect("crdt.track");
        }
        world
    }

    fn run(&mut self, sql: &str) -> Result<(), postgres::Error> {
        self.story.push(sql.to_owned());
        self.client.batch_execute(sql)
    }

    fn create_table(&mut self, name: String) {
        let rng = &mut self.rng;
        let partitioned = rng.chance(40);
        let single = !partitioned && rng.chance(70);
        let id =
            if single && rng.chance(30) { "int REFERENCES par ON UPDATE CASCADE ON DELETE CASCADE" } else { "int" };
        let mut columns = vec![format!("id {id}"), "v text DEFAULT 'd'".to_owned()];
        let mut candidates: Vec<&str> = self.tables.iter().filter(|t| t.single).map(|t| t.name.as_str()).collect();
        if single {
            candidates.push(&name);
        }
        let references = 1 + rng.below(3);
        for nth in 0..references {
            let in_key = !single && nth == 0;
            let (null, update, delete) = match in_key {
                true => ("NOT NULL", "CASCADE", *rng.pick(&["CASCADE", "NO ACTION"])),
                false => (
                    "",
                    *rng.pick(&["CASCADE", "CASCADE", "CASCADE", "SET NULL", "NO ACTION"]),
                    *rng.pick(&["CASCADE", "SET NULL", "NO ACTION"]),
                ),
            };
            let when = *rng.pick(&["", "", "DEFERRABLE INITIALLY DEFERRED"]);
            let of = *rng.pick(&candidates);
            columns
                .push(format!("f{nth} int {null} REFERENCES {of} (id) ON UPDATE {update} ON DELETE {delete} {when}"));
        }
        columns.push(format!("PRIMARY KEY (id{})", if single { "" } else { ", f0" }));
        let by = if partitioned { " PARTITION BY RANGE (f0)" } else { "" };
        let mut sql = format!("CREATE TABLE {name} ({}){by};", columns.join(", "));
        if partitioned {
            sql += &format!(
                "CREATE TABLE {name}_a PARTITION OF {name} FOR VALUES FROM (MINVALUE) TO (0);
                 CREATE TABLE {name}_b PARTITION OF {name} FOR VALUES FROM (0) TO (10);
                 CREATE TABLE {name}_c PARTITION OF {name} DEFAULT;"
            );
        } else if rng.chance(25) {
            sql += &format!(
                "CREATE FUNCTION after_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF pg_trigger_depth() < 3 THEN UPDATE {name} SET v = coalesce(v, '') || '.' WHERE id = new.id; END IF;
                     RETURN NULL; END $$;
                 CREATE TRIGGER after_{name} AFTER UPDATE OF f0 ON {name} FOR EACH ROW EXECUTE FUNCTION after_{name}();"
            );
        }
        if rng.chance(20) {
            sql += &format!(
                "CREATE FUNCTION before_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.v = left(new.v, 6); RETURN new; END $$;
                 CREATE TRIGGER before_{name} BEFORE INSERT OR UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION before_{name}();"
            );
        }
        self.run(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        self.tables.push(Table { name, references, single });
    }

    /// A row of the parents' table that is there, as a query.
    fn parent(&mut self) -> String {
        format!("(SELECT id FROM par ORDER BY hashint4(id # {}) LIMIT 1)", self.rng.below(1 << 20))
    }

    fn statement(&mut self) -> String {
        let at = if self.rng.chance(35) { 0 } else { self.rng.below(self.tables.len()) };
        let (table, references) = (self.tables[at].name.clone(), self.tables[at].references);
        let [a, b] = [(); 2].map(|()| self.rng.below(33) as i64 - 12);
        let (low, high) = (a.min(b), a.max(b));
        let step = *self.rng.pick(&[0, 30, -30]);
        match self.rng.below(100) {
            0..24 if at == 0 && self.rng.chance(50) => {
                format!("INSERT INTO par SELECT i, 'v' FROM generate_series({low}, {high}) AS i ON CONFLICT DO NOTHING")
            }
            0..24 if at == 0 => {
                format!(
                    "INSERT INTO par VALUES ({a}, 'n') ON CONFLICT (id) DO UPDATE SET id = par.id + {step}, v = par.v || 'u'"
                )
            }
            0..24 => {
                let columns: String = (0..references).map(|nth| format!(", f{nth}")).collect();
                let values: String = (0..references).map(|_| format!(", {}", self.parent())).collect();
                format!("INSERT INTO {table} (id{columns}) SELECT {}{values} ON CONFLICT DO NOTHING", self.parent())
            }
            24..55 => {
                let to = [
                    format!("{a} - id"),
                    "-id".into(),
                    "id + 100".into(),
                    "id - 100".into(),
                    "-id - 1".into(),
                    "id + 1".into(),
                    "id - 1".into(),
                ];
                let also = *self.rng.pick(&["", ", v = v || 'k'"]);
                let only =
                    if self.rng.chance(50) { format!(" WHERE id BETWEEN {low} AND {high}") } else { String::new() };
                format!("UPDATE {table} SET id = {}{also}{only}", self.rng.pick(&to))
            }
            55..68 if at > 0 => {
                let column = self.rng.below(references);
                format!("UPDATE {table} SET f{column} = {}, v = v || 'f' WHERE id < {a}", self.parent())
            }
            55..78 => format!("DELETE FROM {table} WHERE id = {a}"),
            78..86 => {
                let other = self.rng.below(self.tables.len());
                format!(
                    "WITH x AS (UPDATE par SET id = -id WHERE id > {a} RETURNING id), \
                     y AS (UPDATE {} SET v = 'cte' WHERE id < {b}) SELECT count(*) FROM x",
                    self.tables[other].name
                )
            }
            86..92 => format!(
                "MERGE INTO par USING (SELECT {a} AS i UNION SELECT {b}) AS s ON par.id = s.i \
                 WHEN MATCHED AND s.i % 2 = 0 THEN UPDATE SET id = -par.id WHEN MATCHED THEN DELETE \
                 WHEN NOT MATCHED THEN INSERT VALUES (s.i, 'm')"
            ),
            92..95 => format!("UPDATE {table} SET v = v || 'x'"),
            95..98 => format!("UPDATE {table} SET v = touch(id - 1)"),
            _ => format!("TRUNCATE {table} CASCADE"),
        }
    }

    fn transaction(&mut self) {
        self.story.truncate(1);
        self.run("BEGIN").expect("BEGIN");
        for _ in 0..1 + self.rng.below(4) {
            let (sql, guarded, taken_back) = (self.statement(), self.rng.chance(40), self.rng.chance(30));
            if guarded {
                self.run("SAVEPOINT s").expect("SAVEPOINT");
            }
            let failed = self.run(&sql).map_err(|error| self.refusal(error)).is_err();
            if guarded && (failed || taken_back) {
                self.run("ROLLBACK TO s").expect("ROLLBACK TO");
            } else if failed {
                break;
            }
            self.done += u64::from(!failed);
        }
        if let Err(error) = self.run("COMMIT") {
            self.refusal(error);
        }
        for table in 0..self.tables.len() {
            let verify = format!("SELECT * FROM crdt.verify('{}')", self.tables[table].name);
            let wrong = rows(&mut self.client, &verify);
            assert!(wrong.is_empty(), "{verify}: {wrong:#?}\nafter {:#?}", self.story);
        }
    }

    fn refusal(&mut self, error: postgres::Error) {
        assert!(REFUSALS.contains(&sqlstate(&error)), "{error:?}\nafter {:#?}", self.story);
        self.refused += 1;
    }

    /// A doc without tables that is told the log holds the rows that the tables show, but for cells that are null.
    fn check_copy(&mut self) {
        self.run(
            "SELECT crdt.create_doc('copy', 'copy');
             SELECT crdt.doc_merge_remote(2, crdt.doc_get_pending(1, '{}'))",
        )
        .expect("crdt.doc_merge_remote");
        for Table { name, .. } in &self.tables {
            let shown = format!("SELECT jsonb_strip_nulls(to_jsonb(t)) FROM {name} AS t ORDER BY 1");
            let told = format!("SELECT jsonb_strip_nulls(data) FROM crdt.rows(2, '{name}') ORDER BY 1");
            let (shown, told) = (rows(&mut self.client, &shown), rows(&mut self.client, &told));
            assert_eq!(told, shown, "{name}, {}", self.story[0]);
        }
    }
}
