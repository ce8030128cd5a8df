-- Partitioned tables: direct DML on a partition, rows that move, partitions that come and go.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'partitions') AS doc \gset
CREATE TABLE part (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
-- A partition with columns in another order, one of them dropped.
CREATE TABLE part_us (v text, junk int, region text NOT NULL, id int NOT NULL);
ALTER TABLE part_us DROP COLUMN junk;
ALTER TABLE part ATTACH PARTITION part_us FOR VALUES IN ('us');
SELECT crdt.track('part', :doc) = :doc AS tracked;
SELECT crdt.track('part_eu', :doc);
INSERT INTO part SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 'v' || i FROM generate_series(1, 6) AS i;
UPDATE part SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END, v = v || ' moved';
UPDATE part_us SET v = v || ', directly';
INSERT INTO part_eu VALUES (100, 'eu', 'direct');
DELETE FROM part_us WHERE id = 2;
COPY part_us (id, region, v) FROM stdin;
200	us	copied
\.
SELECT * FROM part ORDER BY id;
SELECT * FROM crdt.verify('part');
-- A trigger drops one of the rows on its way to the other partition, and rewrites the rest.
CREATE FUNCTION drop_one() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.id = 4 THEN RETURN NULL; END IF; NEW.v := NEW.v || ', rewritten'; RETURN NEW; END $$;
CREATE TRIGGER drop_one BEFORE INSERT ON part_eu FOR EACH ROW EXECUTE FUNCTION drop_one();
UPDATE part SET region = 'eu', v = v || ', all' WHERE id > 1;
SELECT * FROM part ORDER BY id;
SELECT * FROM crdt.verify('part');
-- Attached, detached, made, dropped, truncated.
CREATE TABLE part_as (id int NOT NULL, region text NOT NULL, v text);
INSERT INTO part_as VALUES (7, 'as', 'before it was a partition');
ALTER TABLE part ATTACH PARTITION part_as FOR VALUES IN ('as');
INSERT INTO part_as VALUES (8, 'as', 'directly');
INSERT INTO part VALUES (9, 'as', 'by the root');
SELECT * FROM crdt.verify('part');
ALTER TABLE part DETACH PARTITION part_as;
INSERT INTO part_as VALUES (88, 'as', 'no more of our business');
SELECT * FROM crdt.verify('part');
CREATE TABLE part_af PARTITION OF part FOR VALUES IN ('af');
INSERT INTO part_af VALUES (1, 'af', 'x');
INSERT INTO part VALUES (2, 'af', 'y');
SELECT * FROM crdt.verify('part');
DROP TABLE part_af;
SELECT * FROM crdt.verify('part');
TRUNCATE part_us;
INSERT INTO part VALUES (9, 'us', 'after');
SELECT * FROM crdt.verify('part');
TRUNCATE part;
SELECT count(*) FROM part;
SELECT * FROM crdt.verify('part');
-- Two levels, and a key that moves within a branch.
CREATE TABLE deep (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY RANGE (k);
CREATE TABLE deep_1 PARTITION OF deep FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (k);
CREATE TABLE deep_11 PARTITION OF deep_1 FOR VALUES FROM (0) TO (5);
CREATE TABLE deep_12 PARTITION OF deep_1 FOR VALUES FROM (5) TO (10);
CREATE TABLE deep_2 PARTITION OF deep DEFAULT;
SELECT crdt.track('deep', :doc) = :doc AS tracked;
INSERT INTO deep SELECT i, i, 'v' FROM generate_series(0, 14) AS i;
UPDATE deep SET k = (k + 5) % 15;
UPDATE deep_1 SET k = (k + 5) % 10, v = 'within the branch';
INSERT INTO deep VALUES (3, 8, 'c') ON CONFLICT (id, k) DO UPDATE SET v = 'conflict';
SELECT count(*), count(DISTINCT tableoid), count(*) FILTER (WHERE v = 'v') AS untouched FROM deep;
SELECT * FROM crdt.verify('deep');
-- A push finds its partition, and says so when there is none.
SELECT crdt.push(:doc, '{"peer_id": "p", "frontier": [], "events": [{"peer": "p", "counter_start": 0, "lamport_start": 1000, "deps": [],
    "ops": [{"type": "insert", "tbl": "part", "row_id": "[\"eu\",\"1\"]", "values": [["v", "pushed"]]},
            {"type": "insert", "tbl": "deep", "row_id": "[\"77\",\"77\"]", "values": [["v", "pushed"]]}]}]}') -> 'accepted' AS accepted;
SELECT crdt.push(:doc, '{"peer_id": "p", "frontier": [], "events": [{"peer": "p", "counter_start": 2, "lamport_start": 1010, "deps": [],
    "ops": [{"type": "insert", "tbl": "part", "row_id": "[\"nowhere\",\"1\"]", "values": [["v", "pushed"]]}]}]}');
SELECT * FROM part;
SELECT * FROM crdt.verify('part');
SELECT * FROM crdt.verify('deep');
-- A partition that came while nobody looked: it shows, and the next change of a schema tells its rows.
SELECT captured FROM crdt.tracked_tables WHERE alias = 'deep';
SET session_replication_role = replica;
CREATE TABLE deep_3 PARTITION OF deep FOR VALUES FROM (100) TO (110) PARTITION BY RANGE (k);
CREATE TABLE deep_31 PARTITION OF deep_3 FOR VALUES FROM (100) TO (105);
RESET session_replication_role;
INSERT INTO deep_31 VALUES (1, 100, 'escaped');
SELECT captured FROM crdt.tracked_tables WHERE alias = 'deep';
SELECT * FROM crdt.verify('deep');
CREATE TABLE unrelated ();
SELECT captured FROM crdt.tracked_tables WHERE alias = 'deep';
SELECT * FROM crdt.verify('deep');
ALTER TABLE deep_12 DISABLE TRIGGER zz_crdt_update;
SELECT captured FROM crdt.tracked_tables WHERE alias = 'deep';
ALTER TABLE deep_12 ENABLE TRIGGER zz_crdt_update;
SELECT captured FROM crdt.tracked_tables WHERE alias = 'deep';
DROP TABLE unrelated;
DROP TABLE part, deep, part_as;
DROP FUNCTION drop_one;
