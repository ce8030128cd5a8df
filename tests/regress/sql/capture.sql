-- Plain SQL is captured, whatever writes it. After each part table and log agree: verify answers no line.
SET client_min_messages = warning;
CREATE SCHEMA capture;
SET search_path = capture, public;
SELECT crdt.create_doc('hub', 'capture') AS doc \gset
CREATE TABLE t (id int PRIMARY KEY, v text, n int DEFAULT 0);
SELECT crdt.track('t', :doc, alias => 't') = :doc AS tracked;

-- Rows in numbers, COPY, ON CONFLICT, MERGE.
INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);
UPDATE t SET v = v || '!', n = n + 1 WHERE id < 3;
DELETE FROM t WHERE id = 2;
COPY t FROM stdin;
10	ten	1
11	\N	2
\.
INSERT INTO t VALUES (10, 'conflict'), (12, 'new') ON CONFLICT (id) DO UPDATE SET v = excluded.v;
INSERT INTO t VALUES (10, 'nothing') ON CONFLICT DO NOTHING;
MERGE INTO t USING (VALUES (1, 'merged'), (11, NULL), (20, 'made')) AS s (id, v) ON t.id = s.id
    WHEN MATCHED AND s.v IS NULL THEN DELETE
    WHEN MATCHED THEN UPDATE SET v = s.v
    WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v, 0);
SELECT * FROM t ORDER BY id;
SELECT * FROM crdt.verify('t');
-- What did not change is not told: one update of one cell, none for the other rows.
SELECT count(*) FROM crdt.history('t', '1') \gset before_
UPDATE t SET v = 'merged', n = 7 WHERE id IN (1, 3) AND n IS DISTINCT FROM 7;
SELECT count(*) - :before_count AS "new lines of row 1" FROM crdt.history('t', '1');
UPDATE t SET v = v, n = n;
SELECT count(*) - :before_count AS "still" FROM crdt.history('t', '1');

-- Keys that change: shifted, swapped, by way of MERGE.
UPDATE t SET id = id + 1000;
UPDATE t SET id = -id;
DELETE FROM t WHERE id < -1010;
INSERT INTO t VALUES (1, 'one'), (2, 'two');
BEGIN;
UPDATE t SET id = 99 WHERE id = 1;
UPDATE t SET id = 1 WHERE id = 2;
UPDATE t SET id = 2 WHERE id = 99;
COMMIT;
MERGE INTO t USING (VALUES (1, 1, true), (2, 1, false)) AS s (o, id, f) ON t.id = s.id AND s.f
    WHEN MATCHED THEN UPDATE SET id = 200
    WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'in its place', 0);
SELECT * FROM t ORDER BY id;
SELECT * FROM crdt.verify('t');

-- One query that deletes and inserts the same key, its parts' triggers firing in an order of their own.
INSERT INTO t VALUES (101, 'one'), (102, 'two');
WITH gone AS (DELETE FROM t WHERE id IN (101, 102) RETURNING id)
INSERT INTO t SELECT id, 'again' FROM gone LIMIT 1;
SELECT * FROM t WHERE id > 100 ORDER BY id;
SELECT * FROM crdt.verify('t');
TRUNCATE t;
SELECT * FROM crdt.verify('t');

-- Triggers that write the row just written: captured before the statement that fired them.
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN UPDATE t SET n = n + 1 WHERE id = NEW.id AND pg_trigger_depth() < 2; RETURN NULL; END $$;
CREATE TRIGGER again AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION count_up();
INSERT INTO t VALUES (1, 'a', 0), (2, 'b', 0);
UPDATE t SET v = 'y', n = n + 5 WHERE id = 1;
COPY t FROM stdin;
3	c	0
\.
SELECT * FROM t ORDER BY id;
SELECT * FROM crdt.verify('t');
CREATE OR REPLACE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        DELETE FROM t WHERE id = NEW.id;
        INSERT INTO t VALUES (NEW.id, NEW.v || ' again', 0);
    END IF;
    RETURN NULL;
END $$;
INSERT INTO t VALUES (4, 'd', 9);
UPDATE t SET v = 'z' WHERE id IN (1, 2);
SELECT * FROM t ORDER BY id;
SELECT * FROM crdt.verify('t');
DROP TRIGGER again ON t;
CREATE FUNCTION replace_duplicate() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN DELETE FROM t WHERE id = NEW.id; RETURN NEW; END $$;
CREATE TRIGGER replace BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION replace_duplicate();
INSERT INTO t VALUES (1, 'in its place', 0), (5, 'new', 0);
SELECT * FROM t ORDER BY id;
SELECT * FROM crdt.verify('t');
DROP TRIGGER replace ON t;
-- By way of another table.
CREATE TABLE u (id int PRIMARY KEY);
SELECT crdt.track('u', :doc, alias => 'u') = :doc AS tracked;
CREATE FUNCTION there() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF pg_trigger_depth() < 2 THEN INSERT INTO u VALUES (NEW.id); END IF; RETURN NULL; END $$;
CREATE FUNCTION and_back() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN UPDATE t SET v = 'from u' WHERE id = NEW.id; RETURN NULL; END $$;
CREATE TRIGGER there AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION there();
CREATE TRIGGER and_back AFTER INSERT ON u FOR EACH ROW EXECUTE FUNCTION and_back();
INSERT INTO t VALUES (50, 'first', 0);
SELECT v FROM t WHERE id = 50;
SELECT * FROM crdt.verify('t');
DROP TRIGGER there ON t;
-- Deferred to the end of the transaction; a cursor that outlives it.
CREATE FUNCTION at_the_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.v NOT LIKE 'late%' THEN
        UPDATE t SET v = 'late ' || v WHERE id = NEW.id;
        INSERT INTO t VALUES (NEW.id + 1000, 'late') ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_the_end AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION at_the_end();
BEGIN;
INSERT INTO t VALUES (60, 'x');
UPDATE t SET v = 'y' WHERE id = 60;
COMMIT;
CREATE FUNCTION write_row(i int) RETURNS int LANGUAGE sql AS $$ INSERT INTO t VALUES (i, 'late') RETURNING id $$;
BEGIN;
DECLARE kept CURSOR WITH HOLD FOR SELECT write_row(g) FROM generate_series(70, 71) AS g;
COMMIT;
FETCH ALL FROM kept;
CLOSE kept;
SELECT * FROM t WHERE id >= 60 ORDER BY id;
SELECT * FROM crdt.verify('t');
DROP TRIGGER at_the_end ON t;

-- Triggers of TRUNCATE run before ours; TRUNCATE reaches other tables.
CREATE FUNCTION before_truncate() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO t VALUES (999, 'not for long'); RETURN NULL; END $$;
CREATE TRIGGER before_truncate BEFORE TRUNCATE ON t FOR EACH STATEMENT EXECUTE FUNCTION before_truncate();
CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);
SELECT crdt.track('child', :doc, alias => 'child') = :doc AS tracked;
INSERT INTO child VALUES (1, 1);
TRUNCATE t CASCADE;
SELECT (SELECT count(*) FROM t) AS t, (SELECT count(*) FROM child) AS child;
SELECT * FROM crdt.verify('t');
SELECT * FROM crdt.verify('child');
DROP TRIGGER before_truncate ON t;

-- Foreign keys that cascade, also into the table itself.
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE, v text);
CREATE TABLE leaf (id int PRIMARY KEY, tree int REFERENCES tree ON DELETE SET NULL ON UPDATE CASCADE);
SELECT crdt.track('tree', :doc, alias => 'tree') = :doc AS tree, crdt.track('leaf', :doc, alias => 'leaf') = :doc AS leaf;
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (4, NULL), (5, 4);
INSERT INTO leaf VALUES (1, 3), (2, 5);
UPDATE tree SET id = id + 10 WHERE parent IS NULL;
DELETE FROM tree WHERE id = 11;
SELECT * FROM tree ORDER BY id;
SELECT * FROM leaf ORDER BY id;
SELECT * FROM crdt.verify('tree');
SELECT * FROM crdt.verify('leaf');

-- Rights and settings of whoever commits do not matter.
CREATE ROLE capture_nobody;
GRANT USAGE, CREATE ON SCHEMA capture TO capture_nobody;
GRANT ALL ON t TO capture_nobody;
CREATE TABLE event_run (not_the_log int);
BEGIN;
INSERT INTO t VALUES (1, 'as a superuser');
SET LOCAL ROLE capture_nobody;
UPDATE t SET v = 'as nobody' WHERE id = 1;
SET TRANSACTION READ ONLY;
COMMIT;
SET ROLE capture_nobody;
INSERT INTO t VALUES (2, 'all as nobody');
RESET ROLE;
SELECT * FROM crdt.verify('t');
SELECT actor FROM crdt.history('t', '2') ORDER BY lamport DESC LIMIT 1;

-- Levels of isolation, prepared transactions.
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE t SET v = 'repeatable' WHERE id = 1;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
UPDATE t SET v = 'serializable' WHERE id = 1;
COMMIT;
BEGIN;
UPDATE t SET v = 'prepared' WHERE id = 1;
PREPARE TRANSACTION 'capture';
INSERT INTO t VALUES (3, 'meanwhile');
COMMIT PREPARED 'capture';
UPDATE t SET v = v || ', then not' WHERE id = 1;
BEGIN;
UPDATE t SET v = 'never' WHERE id = 1;
PREPARE TRANSACTION 'capture';
ROLLBACK PREPARED 'capture';
-- A transaction that may not write any more when it ends: new authors and sets of keys have their numbers nevertheless.
CREATE TABLE last_words (id int PRIMARY KEY);
SELECT crdt.track('last_words', crdt.create_doc('hub', 'last words')) IS NOT NULL AS tracked;
BEGIN;
INSERT INTO last_words SELECT generate_series(1, 100);
SET TRANSACTION READ ONLY;
COMMIT;
SELECT count(*) FROM last_words;
SELECT * FROM crdt.verify('last_words');
DISCARD ALL;
SET client_min_messages = warning;
SET search_path = capture, public;
INSERT INTO t VALUES (4, 'after discard');
SELECT id, v FROM t ORDER BY id;
SELECT * FROM crdt.verify('t');

-- Names that need quotes, names as long as they may be, other schemas.
CREATE SCHEMA "A ""schema"" — mit Ümläut";
CREATE TABLE "A ""schema"" — mit Ümläut"."sixty-three bytes, with 'quotes' and ""more"" of them; end -----" (
    "id of ""it""" int, "and . key" text, "select" text, PRIMARY KEY ("and . key", "id of ""it"""));
SELECT crdt.track('"A ""schema"" — mit Ümläut"."sixty-three bytes, with ''quotes'' and ""more"" of them; end -----"', :doc) = :doc
    AS tracked;
INSERT INTO "A ""schema"" — mit Ümläut"."sixty-three bytes, with 'quotes' and ""more"" of them; end -----"
    VALUES (1, 'a "quoted", [key]\ é', 'x'), (1, '', NULL);
UPDATE "A ""schema"" — mit Ümläut"."sixty-three bytes, with 'quotes' and ""more"" of them; end -----" SET "select" = 'y';
SELECT alias FROM crdt.tracked_tables WHERE alias LIKE 'A %';
SELECT * FROM crdt.verify('"A ""schema"" — mit Ümläut"."sixty-three bytes, with ''quotes'' and ""more"" of them; end -----"');
SELECT DISTINCT operation, "column" FROM crdt.history(
    '"A ""schema"" — mit Ümläut"."sixty-three bytes, with ''quotes'' and ""more"" of them; end -----"',
    '["a \"quoted\", [key]\\ é","1"]') ORDER BY 1, 2;
DROP SCHEMA capture, "A ""schema"" — mit Ümläut" CASCADE;
DROP ROLE capture_nobody;
