-- Statements that write inside of others, by triggers, functions and cascades, are captured in another order than they
-- write in. The log says in the end what the table shows.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'order') AS doc \gset
CREATE FUNCTION wrong(VARIADIC tbls regclass[]) RETURNS TABLE (tbl regclass, row_id text, "column" text, in_table jsonb, in_log jsonb) LANGUAGE sql AS
    $$ SELECT t, v.* FROM unnest(tbls) AS t, crdt.verify(t) AS v $$;
-- A function that a statement calls for each row.
CREATE TABLE o_called (id int PRIMARY KEY, v text);
SELECT crdt.track('o_called', :doc) = :doc AS tracked;
INSERT INTO o_called SELECT i, 'x' FROM generate_series(1, 5) AS i;
CREATE FUNCTION o_call(i int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN UPDATE o_called SET v = 'inner' WHERE id = i - 1; RETURN i; END $$;
UPDATE o_called SET v = 'outer' || o_call(id);
INSERT INTO o_called SELECT i, o_call(i) FROM generate_series(6, 9) AS i;
WITH x AS (UPDATE o_called SET v = 'cte' || o_call(id) WHERE id < 4 RETURNING id) INSERT INTO o_called SELECT id + 20, o_call(21) FROM x;
DELETE FROM o_called WHERE o_call(id) IS NOT NULL AND id IN (8, 9);
TABLE o_called ORDER BY id;
SELECT * FROM wrong('o_called');
-- A push, in a trigger and in a query.
CREATE TABLE o_pushed (id int PRIMARY KEY, v text);
SELECT crdt.track('o_pushed', :doc) = :doc AS tracked;
CREATE FUNCTION o_push() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM crdt.doc_update(crdt.doc('order'), 'o_pushed', new.id::text, 'v', '"from trigger"');
    IF new.id = 3 THEN PERFORM crdt.doc_delete(crdt.doc('order'), 'o_pushed', '3'); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER o_push AFTER INSERT ON o_pushed FOR EACH ROW EXECUTE FUNCTION o_push();
INSERT INTO o_pushed VALUES (1, 'x'), (3, 'y');
DROP TRIGGER o_push ON o_pushed;
WITH a AS (INSERT INTO o_pushed VALUES (2, 'x') RETURNING id) SELECT crdt.doc_update(:doc, 'o_pushed', id::text, 'v', '"cte"') IS NOT NULL AS written FROM a;
TABLE o_pushed ORDER BY id;
SELECT * FROM wrong('o_pushed');
-- One row behind several foreign keys, of which one deletes and the other changes the key, or the doc, or both change it.
CREATE TABLE o_parent (id int PRIMARY KEY, other int UNIQUE);
CREATE TABLE o_child (d int REFERENCES o_parent ON DELETE CASCADE, k int PRIMARY KEY DEFAULT 0 REFERENCES o_parent ON DELETE SET DEFAULT);
CREATE TABLE o_halves (k int, j int, PRIMARY KEY (k, j)) PARTITION BY RANGE (k);
CREATE TABLE o_half PARTITION OF o_halves FOR VALUES FROM (0) TO (1000);
ALTER TABLE o_half ADD FOREIGN KEY (j) REFERENCES o_parent (other) ON UPDATE CASCADE;
ALTER TABLE o_halves ADD FOREIGN KEY (k) REFERENCES o_parent (id) ON UPDATE CASCADE;
CREATE TABLE o_names (name text PRIMARY KEY);
CREATE TABLE o_routed (id int PRIMARY KEY, x text REFERENCES o_names ON DELETE CASCADE, d text NOT NULL DEFAULT 'order z' REFERENCES o_names ON DELETE SET DEFAULT);
SELECT count(crdt.track(t, :doc)) AS tracked FROM unnest(ARRAY['o_child', 'o_halves']::regclass[]) AS t;
SELECT crdt.track('o_routed', doc_column => 'd') IS NULL AS tracked;
INSERT INTO o_parent VALUES (0, 0), (1, 10), (2, 20), (3, 30);
INSERT INTO o_halves VALUES (1, 30);
INSERT INTO o_names VALUES ('order a'), ('order b'), ('order z');
INSERT INTO o_routed VALUES (1, 'order b', 'order a');
UPDATE o_parent SET id = id + 100, other = other + 100 WHERE id IN (1, 3);
INSERT INTO o_parent VALUES (5, 5), (6, 6);
INSERT INTO o_child VALUES (6, 5);
DELETE FROM o_parent WHERE id IN (5, 6);
DELETE FROM o_names WHERE name <> 'order z';
SELECT (SELECT count(*) FROM o_child) AS children, (SELECT count(*) FROM o_routed) AS routed, h.* FROM o_halves AS h;
SELECT * FROM wrong('o_child', 'o_halves', 'o_routed');
-- COPY and TRUNCATE, with others inside of them and inside of others.
CREATE TABLE o_copied (id int PRIMARY KEY, v text);
CREATE TABLE o_back (id int PRIMARY KEY);
CREATE TABLE o_parts (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE o_part_1 PARTITION OF o_parts FOR VALUES IN (1);
CREATE TABLE o_part_2 PARTITION OF o_parts FOR VALUES IN (2);
SELECT count(crdt.track(t, :doc)) AS tracked FROM unnest(ARRAY['o_copied', 'o_back', 'o_parts']::regclass[]) AS t;
CREATE FUNCTION o_default() RETURNS text LANGUAGE plpgsql AS $$ BEGIN UPDATE o_copied SET v = 'f'; DELETE FROM o_copied WHERE id = 3; RETURN 'd'; END $$;
ALTER TABLE o_copied ALTER v SET DEFAULT o_default();
COPY o_copied (id) FROM stdin;
1
3
2
\.
CREATE FUNCTION o_copy_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN COPY o_back FROM PROGRAM 'echo 1'; RETURN NULL; END $$;
CREATE TRIGGER o_copy_back AFTER DELETE ON o_back FOR EACH ROW EXECUTE FUNCTION o_copy_back();
INSERT INTO o_back VALUES (1);
DELETE FROM o_back;
CREATE FUNCTION o_truncate(i int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    IF i = 2 THEN UPDATE o_part_1 SET v = 'inner' WHERE id = 1; TRUNCATE o_part_2; END IF;
    RETURN 'outer';
END $$;
INSERT INTO o_parts VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 2, 'c');
UPDATE o_part_1 SET v = o_truncate(id);
TABLE o_copied;
TABLE o_back;
TABLE o_parts;
SELECT * FROM wrong('o_copied', 'o_back', 'o_parts');
