//! A database as a hub of the engine's convergence suite: one doc, with its tables `t` and `s`.

use crdt_engine::oplog::Page;
use crdt_engine::replica::{Row, Tables, Value};
use crdt_engine::testkit::{Backend, Receipt, Refusal, Rng, Write, oracle};
use crdt_engine::wire::{Batch, PullRequest, PullResponse, PushRequest, Versions, binary, json};
use crdt_engine::{EventId, Limits, OpBuf, OpRef};
use postgres::{Client, Error, GenericClient};

use crate::log::wrong_spans;

/// Everything: no page is larger.
const ALL: u64 = u32::MAX as u64;

/// Who asks, in requests. Events have their own authors.
const ASKER: &str = "the suite's own";

/// What a hub's table `t` does on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Nothing.
    Plain,
    /// `d` has a default, a BEFORE trigger makes `x` odd and counts writes in `u`.
    Willful,
    /// `d` has a default, a BEFORE trigger makes `x` odd, and changes nothing else.
    Idempotent,
    /// As `Willful`, in two partitions.
    Partitioned,
    /// `d` has a default, an AFTER trigger writes `u` of the same row.
    Nested,
    /// `d` has a default, an AFTER trigger writes a row of `s`.
    Spilling,
    /// The key of `t` has a second column, `k`.
    Composite,
    /// A column of `t` names each row's doc.
    Routed,
    /// `s` references `t` twice: `p` cascades deletes, `q` is set to NULL.
    Family,
    /// Beside one of the others, of another mind: `d` has another default, a BEFORE trigger makes `y` even.
    Other,
}

impl Nature {
    /// All but `Other`.
    pub const ALL: [Nature; 9] = [
        Nature::Plain,
        Nature::Willful,
        Nature::Idempotent,
        Nature::Partitioned,
        Nature::Nested,
        Nature::Spilling,
        Nature::Composite,
        Nature::Routed,
        Nature::Family,
    ];

    /// The nature of this name, which is the variant's.
    pub fn named(name: &str) -> Option<Nature> {
        Nature::ALL.into_iter().chain([Nature::Other]).find(|nature| format!("{nature:?}") == name)
    }

    /// Does a hub of this nature need `s` to be a table?
    pub fn wants_s(self) -> bool {
        [Nature::Spilling, Nature::Family].contains(&self)
    }

    /// May there be a second hub? Not beside one whose rows have another key, or whose table's name must be its own.
    pub fn may_have_another(self) -> bool {
        ![Nature::Composite, Nature::Routed].contains(&self)
    }

    /// The default of `d`, as a clause.
    pub fn default(self) -> &'static str {
        match self {
            Nature::Plain => "",
            Nature::Other => "DEFAULT -2",
            _ => "DEFAULT -1",
        }
    }

    /// The columns of the key of `t`.
    fn key(self) -> &'static str {
        if self == Nature::Composite { "id, k" } else { "id" }
    }

    /// Columns of `t` that only this nature has. What they hold needs no writing down: the row's id says it, or the doc.
    fn columns(self, schema: &str) -> String {
        match self {
            Nature::Composite => "k int DEFAULT 7,".to_owned(),
            Nature::Routed => format!("doc_name text NOT NULL DEFAULT '{schema}',"),
            _ => String::new(),
        }
    }

    fn partitions(self, schema: &str) -> String {
        if self != Nature::Partitioned {
            return String::new();
        }
        (0..2)
            .map(|n| {
                format!(
                    "CREATE TABLE {schema}.t{n} PARTITION OF {schema}.t FOR VALUES WITH (MODULUS 2, REMAINDER {n});"
                )
            })
            .collect()
    }

    fn trigger(self, schema: &str) -> String {
        let (when, body) = match self {
            Nature::Plain | Nature::Composite | Nature::Routed | Nature::Family => return String::new(),
            Nature::Other => ("BEFORE", "NEW.y := NEW.y & ~1::bigint; RETURN NEW;".to_owned()),
            Nature::Willful | Nature::Partitioned => (
                "BEFORE",
                "NEW.x := NEW.x | 1;
                 NEW.u := 1 + CASE TG_OP WHEN 'INSERT' THEN 1000 ELSE coalesce(OLD.u, 1000) END;
                 RETURN NEW;"
                    .to_owned(),
            ),
            Nature::Idempotent => ("BEFORE", "NEW.x := NEW.x | 1; RETURN NEW;".to_owned()),
            Nature::Nested => (
                "AFTER",
                format!(
                    "IF NEW.u IS DISTINCT FROM NEW.x + 1 THEN
                         UPDATE {schema}.t SET u = NEW.x + 1 WHERE id = NEW.id;
                     END IF;
                     RETURN NULL;"
                ),
            ),
            Nature::Spilling => (
                "AFTER",
                format!(
                    "INSERT INTO {schema}.s (id, y) VALUES ('2', NEW.x)
                     ON CONFLICT (id) DO UPDATE SET y = excluded.y WHERE s.y IS DISTINCT FROM excluded.y;
                     RETURN NULL;"
                ),
            ),
        };
        format!(
            "CREATE OR REPLACE FUNCTION {schema}.will() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE TRIGGER will {when} INSERT OR UPDATE ON {schema}.t FOR EACH ROW EXECUTE FUNCTION {schema}.will();"
        )
    }
}

/// Where a hub is found, by any session.
#[derive(Clone, Debug)]
pub struct Place {
    /// The doc.
    pub doc: i64,
    /// The schema of its tables.
    pub schema: String,
    /// `s` exists in the doc only.
    pub generic: bool,
    nature: Nature,
}

impl Place {
    /// A new doc with tables of its own. `schema` must be new.
    pub fn make(client: &mut Client, schema: &str, peer: &str, nature: Nature, generic: bool) -> Place {
        let doc = "SELECT crdt.create_doc($1, $2)";
        let doc: i64 = client.query_one(doc, &[&peer, &schema]).expect("crdt.create_doc").get(0);
        let place = Place { doc, schema: schema.to_owned(), generic, nature };
        let mut sql = format!("CREATE SCHEMA {schema};{}", place.t_sql());
        if !generic {
            let on = |what: &str| match nature {
                Nature::Family => format!("REFERENCES {schema}.t ON UPDATE CASCADE ON DELETE {what}"),
                _ => String::new(),
            };
            sql.push_str(&format!(
                "CREATE TABLE {schema}.s (id text PRIMARY KEY, x bigint, y bigint, d bigint, u bigint, p text {}, q text {});
                 SELECT crdt.track('{schema}.s', {doc}, alias => 's');",
                on("CASCADE"),
                on("SET NULL")
            ));
        }
        client.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}\n{error:?}"));
        place
    }

    /// Statements that make `t`, in a schema that is there.
    pub fn t_sql(&self) -> String {
        let Place { doc, schema, nature, .. } = self;
        let of = if *nature == Nature::Partitioned { "PARTITION BY HASH (id)" } else { "" };
        let (own, key, default) = (nature.columns(schema), nature.key(), nature.default());
        let (partitions, trigger) = (nature.partitions(schema), nature.trigger(schema));
        let to = match nature {
            Nature::Routed => "doc_column => 'doc_name'".to_owned(),
            _ => doc.to_string(),
        };
        format!(
            "CREATE TABLE {schema}.t ({own} id text, x bigint, y bigint, d bigint {default}, u bigint, PRIMARY KEY ({key})) {of};
             {partitions} {trigger} SELECT crdt.track('{schema}.t', {to}, alias => 't');"
        )
    }

    /// A place that [`Place::make`] made elsewhere, by another process for example.
    pub fn known(doc: i64, schema: &str, nature: Nature, generic: bool) -> Place {
        Place { doc, schema: schema.to_owned(), generic, nature }
    }

    /// What its table does on its own.
    pub fn nature(&self) -> Nature {
        self.nature
    }

    /// Drops the tables and the doc, of which only the log stays.
    pub fn drop(&self, client: &mut Client) {
        let sql = format!(
            "DROP SCHEMA {0} CASCADE; DELETE FROM crdt.doc WHERE name IN ('{0}', '{0} elsewhere')",
            self.schema
        );
        let _ = client.batch_execute(&sql);
    }

    /// Statements that do a plain write.
    pub fn sql(&self, write: &Write) -> String {
        let (doc, schema) = (self.doc, &self.schema);
        match write {
            Write::Insert("s", row, cells) if self.generic => {
                let cells: Vec<String> = cells.iter().map(|(col, value)| format!("[\"{col}\",{value}]")).collect();
                format!("SELECT crdt.doc_insert({doc}, 's', '{row}', '[{}]');", cells.join(","))
            }
            Write::Update("s", row, col, value) if self.generic => {
                format!("SELECT crdt.doc_update({doc}, 's', '{row}', '{col}', '{value}');")
            }
            Write::Delete("s", row) if self.generic => format!("SELECT crdt.doc_delete({doc}, 's', '{row}');"),
            Write::Insert(tbl, row, cells) => {
                let cols: String = cells.iter().map(|(col, _)| format!(", {col}")).collect();
                let values: String = cells.iter().map(|(_, value)| format!(", {value}")).collect();
                let set: Vec<String> = cells.iter().map(|(col, _)| format!("{col} = excluded.{col}")).collect();
                let action =
                    if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
                let key = if *tbl == "t" { self.nature.key() } else { "id" };
                format!(
                    "INSERT INTO {schema}.{tbl} (id{cols}) VALUES ('{row}'{values}) ON CONFLICT ({key}) DO {action};"
                )
            }
            Write::Update(tbl, row, col, value) => {
                format!("UPDATE {schema}.{tbl} SET {col} = {value} WHERE id = '{row}';")
            }
            Write::Delete(tbl, row) => format!("DELETE FROM {schema}.{tbl} WHERE id = '{row}';"),
        }
    }

    /// Statements of a kind that replicas do not have: key changes, rows that go and come, many rows, savepoints.
    pub fn odd_sql(&self, rng: &mut Rng) -> String {
        let (t, key) = (format!("{}.t", self.schema), self.nature.key());
        let value = 7_000_000 + rng.below(1000);
        if rng.chance(30)
            && let Some(sql) = self.own_odd_sql(rng)
        {
            return sql;
        }
        match rng.below(9) {
            0 => format!("UPDATE {t} SET id = '3' WHERE id = '1' AND NOT EXISTS (SELECT FROM {t} WHERE id = '3');"),
            1 => format!("UPDATE {t} SET id = '1' WHERE id = '2' AND NOT EXISTS (SELECT FROM {t} WHERE id = '1');"),
            2 => format!("UPDATE {t} SET id = '2' WHERE id = '3' AND NOT EXISTS (SELECT FROM {t} WHERE id = '2');"),
            3 => format!("DELETE FROM {t} WHERE id = '1'; INSERT INTO {t} (id, y) VALUES ('1', {value});"),
            4 => format!("UPDATE {t} SET x = NULL, y = {value};"),
            5 => format!(
                "SAVEPOINT a; DELETE FROM {t}; INSERT INTO {t} (id, x) VALUES ('2', {value}); ROLLBACK TO a;
                 UPDATE {t} SET y = {value} WHERE id = '2'; RELEASE a;"
            ),
            6 => format!("TRUNCATE {t}{};", if self.nature == Nature::Family { " CASCADE" } else { "" }),
            7 => format!(
                "SAVEPOINT a; UPDATE {t} SET x = {value} WHERE id = '1'; RELEASE a; SAVEPOINT b; ROLLBACK TO b;"
            ),
            _ => format!(
                "INSERT INTO {t} (id, x) VALUES ('1', {value}), ('2', {value}) ON CONFLICT ({key}) DO UPDATE SET d = {value};"
            ),
        }
    }

    /// What is odd about this nature.
    fn own_odd_sql(&self, rng: &mut Rng) -> Option<String> {
        let (schema, value) = (&self.schema, 8_000_000 + rng.below(1000));
        let row = *rng.pick(&["1", "2"]);
        let (from, to) = *rng.pick(&[(7, 8), (8, 7)]);
        match self.nature {
            Nature::Composite => Some(format!(
                "UPDATE {schema}.t SET k = {to}, x = {value} WHERE id = '{row}' AND k = {from}
                 AND NOT EXISTS (SELECT FROM {schema}.t WHERE (id, k) = ('{row}', {to}));"
            )),
            // A row leaves for another doc, or comes from there. A key is in one doc only, so it takes another one there.
            Nature::Routed if rng.chance(50) => Some(format!(
                "UPDATE {schema}.t SET id = 'o{row}', doc_name = '{schema} elsewhere', y = {value} WHERE id = '{row}'
                 AND NOT EXISTS (SELECT FROM {schema}.t WHERE id = 'o{row}');"
            )),
            Nature::Routed => Some(format!(
                "UPDATE {schema}.t SET id = '{row}', doc_name = '{schema}' WHERE id = 'o{row}'
                 AND NOT EXISTS (SELECT FROM {schema}.t WHERE id = '{row}');"
            )),
            Nature::Family => {
                let (column, parent) = (*rng.pick(&["p", "q"]), *rng.pick(&["1", "2"]));
                Some(format!(
                    "UPDATE {schema}.s SET {column} = '{parent}' WHERE id = '{row}'
                     AND EXISTS (SELECT FROM {schema}.t WHERE id = '{parent}');"
                ))
            }
            _ => None,
        }
    }

    /// A row's id on the wire is the hub's key. A composite key is an array; replicas say `1` for `["1","7"]`, and `1~8`
    /// for others.
    fn on_wire(&self, tbl: &str, row: &str) -> String {
        match self.nature {
            Nature::Composite if tbl == "t" => {
                let (id, k) = row.split_once('~').unwrap_or((row, "7"));
                format!("[\"{id}\",\"{k}\"]")
            }
            _ => row.to_owned(),
        }
    }

    fn off_wire(&self, tbl: &str, row: &str) -> String {
        let array = row.strip_prefix("[\"").and_then(|row| row.strip_suffix("\"]"));
        match array.and_then(|row| row.split_once("\",\"")) {
            Some((id, "7")) if tbl == "t" && self.nature == Nature::Composite => id.to_owned(),
            Some((id, k)) if tbl == "t" && self.nature == Nature::Composite => format!("{id}~{k}"),
            _ => row.to_owned(),
        }
    }

    /// Pushes a batch, in JSON or binary.
    pub fn push(&self, client: &mut impl GenericClient, batch: Batch, in_binary: bool) -> Result<Receipt, Refusal> {
        let batch = renamed(batch, |tbl, row| self.on_wire(tbl, row));
        let request = PushRequest { peer_id: ASKER.into(), batch, frontier: vec![] };
        let limits = Limits::default();
        let answer = if in_binary {
            let bytes = binary::encode_push(&request).expect("a request");
            let row = client.query_one("SELECT crdt.push_binary($1, $2)", &[&self.doc, &bytes]).map_err(refusal)?;
            binary::decode_push_response(row.get(0), &limits)
        } else {
            let mut text = String::new();
            json::write_push(&mut text, &request).expect("a request");
            let row = client.query_one("SELECT crdt.push($1, $2::text)::text", &[&self.doc, &text]).map_err(refusal)?;
            json::decode_push_response(row.get::<_, &str>(0).as_bytes(), &limits)
        };
        let answer = answer.expect("an answer that can be read");
        assert!(answer.ahead.is_empty(), "the hub says that it lost {:?}", answer.ahead);
        Ok(Receipt { accepted: answer.accepted, duplicate: answer.duplicate })
    }

    /// Pulls a page, in JSON or binary, and checks that it reaches what it says.
    pub fn pull(
        &self,
        client: &mut Client,
        known: &Versions,
        limit: u64,
        in_binary: bool,
    ) -> Result<PullResponse, Refusal> {
        let limits = Limits::default();
        let request =
            PullRequest { peer_id: Some(ASKER.into()), known: known.clone(), limit: Some(limit), accept: vec![] };
        let page = if in_binary {
            let bytes = binary::encode_pull(&request).expect("a request");
            let row = client.query_one("SELECT crdt.pull_binary($1, $2)", &[&self.doc, &bytes]).map_err(refusal)?;
            binary::decode_pull_response(row.get(0), &limits)
        } else {
            let mut text = String::new();
            json::write_pull(&mut text, &request).expect("a request");
            let row = client.query_one("SELECT crdt.pull($1, $2::text)::text", &[&self.doc, &text]).map_err(refusal)?;
            json::decode_pull_response(row.get::<_, &str>(0).as_bytes(), &limits)
        };
        let mut page = page.expect("an answer that can be read");
        page.batch = renamed(page.batch, |tbl, row| self.off_wire(tbl, row));
        let mut reached = known.clone();
        for run in &page.batch.runs {
            let last = run.counter_start + run.span(&page.batch.ops) - 1;
            let known = reached.entry(run.peer.clone()).or_insert(last);
            *known = last.max(*known);
        }
        match reached == page.versions {
            true => Ok(page),
            false => Err(Refusal::Other(format!("a page reaches {reached:?} and says {:?}", page.versions))),
        }
    }

    /// What the hub knows.
    pub fn versions(&self, client: &mut Client) -> Versions {
        let text = self.text(client, "SELECT crdt.version($1)::text");
        json::decode_versions(text.as_bytes(), &Limits::default()).expect("a version vector")
    }

    /// Its heads, sorted.
    pub fn frontier(&self, client: &mut Client) -> Vec<EventId> {
        let text = self.text(client, "SELECT crdt.frontier($1)::text");
        let mut heads = json::decode_frontier(text.as_bytes(), &Limits::default()).expect("a frontier");
        heads.sort();
        heads
    }

    fn text(&self, client: &mut Client, sql: &str) -> String {
        client.query_one(sql, &[&self.doc]).unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    /// What its tables show.
    pub fn rows(&self, client: &mut Client) -> Tables {
        let mut tables = Tables::new();
        for tbl in ["t", "s"] {
            if tbl == "s" && self.generic {
                let found = client.query("SELECT row_id, data::text FROM crdt.rows($1, 's')", &[&self.doc]);
                for row in found.expect("crdt.rows") {
                    let cells = cells_of(row.get(1));
                    tables.entry(tbl.into()).or_default().insert(row.get::<_, &str>(0).into(), cells);
                }
                continue;
            }
            let (id, text) = match (tbl, self.nature) {
                ("t", Nature::Composite) => ("CASE WHEN k = 7 THEN id ELSE id || '~' || k END", ""),
                ("t", _) => ("id", ""),
                _ => ("id", ", p, q"),
            };
            let here = match (tbl, self.nature) {
                ("t", Nature::Routed) => format!("WHERE doc_name = '{}'", self.schema),
                _ => String::new(),
            };
            let sql = format!("SELECT {id}, x, y, d, u {text} FROM {}.{tbl} {here}", self.schema);
            for row in client.query(&sql, &[]).expect("the table's rows") {
                let number =
                    |(i, col): (usize, &'static str)| Some((col.into(), Value::Int(row.get::<_, Option<i64>>(i + 1)?)));
                let mut cells: Row = ["x", "y", "d", "u"].into_iter().enumerate().filter_map(number).collect();
                for (i, col) in ["p", "q"].into_iter().enumerate().filter(|_| !text.is_empty()) {
                    if let Some(text) = row.get::<_, Option<&str>>(i + 5) {
                        cells.insert(col.into(), Value::Text(text.into()));
                    }
                }
                tables.entry(tbl.into()).or_default().insert(row.get::<_, &str>(0).into(), cells);
            }
        }
        tables
    }

    /// Leaves of what a log stands for what its tables have a place for.
    pub fn keep_own(&self, tables: &mut Tables) {
        tables.retain(|tbl, _| ["t", "s"].contains(&tbl.as_ref()));
        for (tbl, rows) in tables.iter_mut().filter(|(tbl, _)| tbl.as_ref() == "t" || !self.generic) {
            let own: &[&str] =
                if tbl.as_ref() == "t" { &["x", "y", "d", "u"] } else { &["x", "y", "d", "u", "p", "q"] };
            rows.values_mut().for_each(|row| row.retain(|col, _| own.contains(&col.as_ref())));
        }
    }

    /// Table and log agree, the log is in order, and pages of any size come to the same as everything at once.
    pub fn check(&self, client: &mut Client, rng: &mut Rng) -> Result<(), String> {
        let wrong = wrong_spans(client);
        if !wrong.is_empty() {
            return Err(format!("crdt.event_span: {wrong:?}"));
        }
        for tbl in ["t", "s"].iter().filter(|tbl| **tbl == "t" || !self.generic) {
            let sql = format!("SELECT v::text FROM crdt.verify('{}.{tbl}') AS v", self.schema);
            let wrong: Vec<String> = client.query(&sql, &[]).map_err(told)?.iter().map(|row| row.get(0)).collect();
            if !wrong.is_empty() {
                let history = format!(
                    "SELECT r.id || ': ' || h::text FROM {0}.{tbl} AS r, crdt.history('{0}.{tbl}', r.id) AS h",
                    self.schema
                );
                let history: Vec<String> =
                    client.query(&history, &[]).map_err(told)?.iter().map(|row| row.get(0)).collect();
                let shown = self.rows(client);
                return Err(format!(
                    "crdt.verify of {tbl}: {wrong:?}; the table shows {shown:?}; history: {history:#?}"
                ));
            }
        }
        let refused = |refusal| format!("a pull was refused: {refusal:?}");
        let whole = self.pull(client, &Versions::new(), ALL, rng.chance(50)).map_err(refused)?;
        let (mut known, mut sum, mut count) = (Versions::new(), 0u64, 0);
        loop {
            let page = self.pull(client, &known, 1 + rng.below(7) as u64, rng.chance(50)).map_err(refused)?;
            let (part, events) = oracle::fingerprint(&page.batch);
            (sum, count) = (sum.wrapping_add(part), count + events);
            known = page.versions;
            if !page.has_more {
                break;
            }
        }
        let log = oracle::log_of(whole.batch.clone()).map_err(|what| format!("what it hands out: {what}"))?;
        let mut heads = log.frontier();
        heads.sort();
        if self.frontier(client) != heads {
            return Err(format!("its frontier is {:?}, its log has {heads:?}", self.frontier(client)));
        }
        match (sum, count) == oracle::fingerprint(&whole.batch) && known == whole.versions && !whole.has_more {
            true => Ok(()),
            false => Err(format!("pages come to {count} events, the whole is {:?}", whole.versions)),
        }
    }
}

/// A hub of a [`World`](crdt_engine::testkit::World).
pub struct Hub {
    client: Client,
    /// Takes turns with `client`: what a session remembers must not be trusted.
    other: Client,
    place: Place,
    rng: Rng,
    willful: bool,
    pushes: usize,
}

/// Plain writes come amid the first pushes only: at its end a schedule asks for a hub that has nothing new to say.
const PUSHES_AMID_WRITES: usize = 10;

impl Hub {
    /// A hub at a place of its own.
    pub fn new(client: Client, other: Client, place: Place, nature: Nature, rng: Rng) -> Hub {
        Hub { client, other, place, rng, willful: nature != Nature::Plain, pushes: 0 }
    }

    fn take_turns(&mut self) {
        if self.rng.chance(30) {
            std::mem::swap(&mut self.client, &mut self.other);
        }
    }

    /// A push amid plain writes of the same transaction, perhaps once in vain.
    fn push_amid(&mut self, batch: Batch) -> Result<Receipt, Refusal> {
        let before = if self.rng.chance(70) { self.place.odd_sql(&mut self.rng) } else { String::new() };
        let after = if self.rng.chance(50) { self.place.odd_sql(&mut self.rng) } else { String::new() };
        trace(|| format!("in one transaction, before the push: {before} after it: {after}"));
        let failed = |sql: &str, error: Error| Refusal::Other(format!("{sql}: {error:?}"));
        let mut transaction = self.client.transaction().map_err(|e| failed("BEGIN", e))?;
        transaction.batch_execute(&before).map_err(|e| failed(&before, e))?;
        if self.rng.chance(50) {
            let mut savepoint = transaction.transaction().map_err(|e| failed("SAVEPOINT", e))?;
            self.place.push(&mut savepoint, batch.clone(), self.rng.chance(50))?;
            savepoint.rollback().map_err(|e| failed("ROLLBACK TO", e))?;
        }
        let receipt = self.place.push(&mut transaction, batch, self.rng.chance(50))?;
        transaction.batch_execute(&after).map_err(|e| failed(&after, e))?;
        transaction.commit().map_err(|e| failed("COMMIT", e))?;
        Ok(receipt)
    }
}

fn trace(what: impl FnOnce() -> String) {
    if std::env::var_os("CRDT_TRACE").is_some() {
        eprintln!("hub: {}", what());
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.place.drop(&mut self.client);
        }
    }
}

impl Backend for Hub {
    fn is_hub(&self) -> bool {
        self.willful
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), Refusal> {
        self.take_turns();
        let mut sql = String::from("BEGIN;");
        for write in writes {
            if self.rng.chance(20) {
                sql.push_str(&self.place.odd_sql(&mut self.rng));
            }
            sql.push_str(&self.place.sql(write));
        }
        // A transaction that pushed, and a function of a doc does, cannot be prepared.
        let prepared = self.rng.chance(10) && !(self.place.generic && sql.contains("crdt.doc_"));
        let name = &self.place.schema;
        sql.push_str(&match prepared {
            true => format!("PREPARE TRANSACTION '{name}'; COMMIT PREPARED '{name}';"),
            false => "COMMIT;".to_owned(),
        });
        trace(|| sql.clone());
        // One by one: COMMIT PREPARED refuses to be one of several statements of a message.
        let written = match prepared {
            true => {
                let (first, second) = sql.split_once("COMMIT PREPARED").expect("both");
                let first = self.client.batch_execute(first);
                first.and_then(|()| self.client.batch_execute(&format!("COMMIT PREPARED{second}")))
            }
            false => self.client.batch_execute(&sql),
        };
        written.map_err(|error| {
            let _ = self.client.batch_execute("ROLLBACK");
            Refusal::Other(format!("{sql}: {error:?}"))
        })
    }

    fn push(&mut self, batch: Batch, _: bool) -> Result<Receipt, Refusal> {
        self.take_turns();
        trace(|| {
            let mut text = String::from("push ");
            json::write_runs(&mut text, &batch.runs, &batch.ops).expect("memory");
            text
        });
        self.pushes += 1;
        let result = match self.pushes <= PUSHES_AMID_WRITES && self.rng.chance(20) {
            true => self.push_amid(batch),
            false => self.place.push(&mut self.client, batch, self.rng.chance(50)),
        };
        trace(|| format!("{result:?}, shows {:?}", self.place.rows(&mut self.client)));
        result
    }

    fn pull(&mut self, known: &Versions, limit: usize) -> Result<Page, Refusal> {
        let limit = ALL.min(limit as u64);
        let page = self.place.pull(&mut self.client, known, limit, self.rng.chance(50))?;
        Ok(Page { batch: page.batch, has_more: page.has_more })
    }

    fn versions(&mut self) -> Versions {
        self.place.versions(&mut self.client)
    }

    fn frontier(&mut self) -> Vec<EventId> {
        self.place.frontier(&mut self.client)
    }

    fn rows(&mut self) -> Tables {
        self.place.rows(&mut self.client)
    }

    fn check(&mut self) -> Result<(), String> {
        self.place.check(&mut self.client, &mut self.rng)
    }

    fn fork(&self) -> Option<Box<dyn Backend>> {
        None
    }
}

/// What a push or pull was refused for, in the suite's words.
pub fn refusal(error: Error) -> Refusal {
    let Some(answer) = error.as_db_error() else { return Refusal::Other(format!("{error:?}")) };
    match answer.code().code() {
        "CR004" | "CR005" | "CR013" => Refusal::Missing(answer.message().to_owned()),
        "CR006" => Refusal::Ahead(answer.message().to_owned()),
        "CR008" => {
            let digests = answer.message().rsplit_once("digest ").and_then(|(_, tail)| tail.split_once(", not "));
            let digest = |text: &str| u64::from_str_radix(text, 16).expect("a digest");
            let (known, got) = digests.expect("two digests");
            Refusal::Equivocation(digest(known), digest(got))
        }
        _ => Refusal::Other(told(error)),
    }
}

fn told(error: Error) -> String {
    match error.as_db_error() {
        Some(answer) => format!("{} {} {:?}", answer.code().code(), answer.message(), answer.where_()),
        None => format!("{error:?}"),
    }
}

/// A batch whose rows have other names.
fn renamed(batch: Batch, name: impl Fn(&str, &str) -> String) -> Batch {
    let mut ops = OpBuf::new();
    for op in batch.ops.iter() {
        let Some((tbl, row)) = op.row_key() else {
            ops.push(op).expect("memory");
            continue;
        };
        let (row, tbl) = (name(tbl, row), ops.sym(tbl));
        match op {
            OpRef::Insert { cells, .. } => {
                ops.insert(tbl, &row).expect("memory");
                for (col, value) in cells.iter() {
                    let col = ops.sym(col);
                    ops.cell(col, value).expect("memory");
                }
            }
            OpRef::Update { col, value, origin, .. } => {
                let col = ops.sym(col);
                ops.update(tbl, &row, col, value, origin).expect("memory");
            }
            OpRef::Delete { .. } => ops.delete(tbl, &row).expect("memory"),
            OpRef::Opaque { .. } => unreachable!("it has a row"),
        }
    }
    Batch { ops, runs: batch.runs }
}

fn cells_of(data: &str) -> Row {
    let mut ops = OpBuf::new();
    let tbl = ops.sym("s");
    ops.insert(tbl, "").expect("memory");
    json::decode_cells(data.as_bytes(), &Limits::default(), &mut ops).expect("a row of JSON");
    let OpRef::Insert { cells, .. } = ops.get(0) else { unreachable!("one insert") };
    cells.iter().map(|(col, value)| (col.into(), Value::from(value))).collect()
}
