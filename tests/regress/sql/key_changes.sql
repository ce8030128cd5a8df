-- Keys that change, also by cascades of foreign keys that touch a row more than once within one statement: what the log
-- says afterwards is what the table shows.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'keys') AS doc \gset
-- A reference to the table itself: each row's key changes, and its parent follows.
CREATE TABLE key_tree (id int PRIMARY KEY, parent int REFERENCES key_tree ON UPDATE CASCADE, v text);
SELECT crdt.track('key_tree', :doc) = :doc AS tracked;
INSERT INTO key_tree VALUES (1, NULL, 'r'), (2, 1, 'x'), (3, 2, 'y'), (4, 3, 'z');
UPDATE key_tree SET id = -id;
SELECT * FROM crdt.verify('key_tree');
UPDATE key_tree SET id = id - 10, v = v || '!' WHERE id < -2;
SELECT * FROM crdt.verify('key_tree');
SELECT * FROM key_tree ORDER BY id;
-- Two references, one of them in the key.
CREATE TABLE key_one (id int PRIMARY KEY);
CREATE TABLE key_two (id int PRIMARY KEY REFERENCES key_one ON UPDATE CASCADE, v text, other int REFERENCES key_one ON UPDATE CASCADE);
SELECT crdt.track('key_one', :doc) = crdt.track('key_two', :doc) AS tracked;
INSERT INTO key_one VALUES (1), (2), (3);
INSERT INTO key_two VALUES (1, 'v', 1), (2, 'w', 1), (3, 'x', 2);
UPDATE key_one SET id = -id;
SELECT * FROM crdt.verify('key_two');
WITH RECURSIVE swapped AS (UPDATE key_one SET id = id - 100 WHERE id = -2 RETURNING id) UPDATE key_one SET id = 7 WHERE id = -1;
SELECT * FROM crdt.verify('key_two');
SELECT * FROM key_two ORDER BY id;
-- In a partitioned table, where rows move as well.
CREATE TABLE key_parted (id int, a int REFERENCES key_one ON UPDATE CASCADE, b int REFERENCES key_one ON UPDATE CASCADE, v text, PRIMARY KEY (id, a)) PARTITION BY RANGE (a);
CREATE TABLE key_parted_1 PARTITION OF key_parted FOR VALUES FROM (MINVALUE) TO (0);
CREATE TABLE key_parted_2 PARTITION OF key_parted FOR VALUES FROM (0) TO (MAXVALUE);
SELECT crdt.track('key_parted', :doc) = :doc AS tracked;
INSERT INTO key_one VALUES (11), (12);
INSERT INTO key_parted VALUES (1, 11, 12, 'p'), (2, 12, 11, 'q'), (3, 12, 12, 'r'), (4, 11, 11, 's');
UPDATE key_one SET id = -id WHERE id > 10;
SELECT * FROM crdt.verify('key_parted');
UPDATE key_one SET id = 11 WHERE id = -11;
UPDATE key_parted SET v = v || '!', id = id + 10 WHERE a < 0;
SELECT * FROM crdt.verify('key_parted');
SELECT * FROM key_parted ORDER BY id, a;
-- Behind a trigger that drops some rows on their way to another partition.
CREATE FUNCTION key_drop_some() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN new.id % 2 = 0 THEN new END; END $$;
CREATE TRIGGER key_drop_some BEFORE INSERT ON key_parted_2 FOR EACH ROW EXECUTE FUNCTION key_drop_some();
UPDATE key_one SET id = 12 WHERE id = -12;
SELECT * FROM crdt.verify('key_parted');
SELECT * FROM key_parted ORDER BY id, a;
-- With the doc in a column that a cascade changes, and another reference to the same row.
CREATE TABLE key_names (name text PRIMARY KEY);
CREATE TABLE key_routed (id int PRIMARY KEY, doc text NOT NULL REFERENCES key_names ON UPDATE CASCADE, other text REFERENCES key_names ON UPDATE CASCADE);
SELECT crdt.track('key_routed', doc_column => 'doc') IS NULL AS tracked;
INSERT INTO key_names VALUES ('keys a'), ('keys b');
INSERT INTO key_routed VALUES (1, 'keys a', 'keys a'), (2, 'keys b', 'keys a'), (3, 'keys a', 'keys b');
UPDATE key_names SET name = name || 'x';
SELECT * FROM crdt.verify('key_routed');
SELECT * FROM key_routed ORDER BY id;
-- Shifts, and rows that take the place of others.
CREATE TABLE key_line (id int PRIMARY KEY, v text);
SELECT crdt.track('key_line', :doc) = :doc AS tracked;
INSERT INTO key_line SELECT i, 'v' || i FROM generate_series(1, 5) AS i;
UPDATE key_line SET id = id - 1;
UPDATE key_line SET id = 10 - id WHERE id < 2;
SELECT * FROM crdt.verify('key_line');
SELECT count(*) FROM crdt.verify('key_one');
