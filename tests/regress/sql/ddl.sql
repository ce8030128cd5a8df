-- Schema changes of tracked tables.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'ddl') AS doc \gset
CREATE FUNCTION pg_temp.push(counter int, tbl text, row_id text, vals text) RETURNS json LANGUAGE sql AS $$
    SELECT crdt.push(crdt.doc('ddl'), format('{"peer_id": "p", "frontier": [], "events": [{"peer": "p", "counter_start": %s, "lamport_start": %s, "deps": [],
        "ops": [{"type": "insert", "tbl": "%s", "row_id": "%s", "values": %s}]}]}', counter, 1000 + counter * 100, tbl, row_id, vals)::json) -> 'accepted' $$;

-- A column that comes after events that name it: what the log has appears, where it has nothing the default stays.
CREATE TABLE goods (id int PRIMARY KEY, name text);
SELECT crdt.track('goods', :doc) = :doc AS tracked;
INSERT INTO goods VALUES (1, 'tea'), (2, 'salt');
SELECT pg_temp.push(0, 'goods', '1', '[["stock", 5], ["colour", "red"]]');
ALTER TABLE goods ADD stock int NOT NULL DEFAULT 7, ADD colour text;
SELECT * FROM crdt.verify('goods') ORDER BY row_id, "column";
SELECT crdt.repair('goods', 'table');
SELECT * FROM goods ORDER BY id;
SELECT * FROM crdt.verify('goods');
-- Renamed and retyped: the table is right.
ALTER TABLE goods RENAME name TO title;
ALTER TABLE goods ALTER stock TYPE text USING 'about ' || stock;
SELECT crdt.repair('goods', 'log');
SELECT * FROM crdt.verify('goods');
-- The key under another name, and of another type; the table and its schema, too.
ALTER TABLE goods RENAME id TO number;
ALTER TABLE goods ALTER number TYPE text;
ALTER TABLE goods RENAME TO wares;
CREATE SCHEMA store;
ALTER TABLE wares SET SCHEMA store;
SELECT pg_temp.push(1, 'goods', '3', '[["title", "rice"]]');
ALTER SCHEMA store RENAME TO shop;
SELECT pg_temp.push(2, 'goods', '4', '[["title", "oil"]]');
INSERT INTO shop.wares VALUES ('x', 'oats', 'none');
SELECT * FROM shop.wares ORDER BY number;
SELECT * FROM crdt.verify('shop.wares');
-- Without a key nothing can be written, until it has one again.
ALTER TABLE shop.wares DROP CONSTRAINT goods_pkey;
INSERT INTO shop.wares VALUES ('y');
SELECT pg_temp.push(3, 'goods', '5', '[]');
ALTER TABLE shop.wares ADD PRIMARY KEY (number);
SELECT pg_temp.push(3, 'goods', '5', '[]');
SELECT * FROM crdt.verify('shop.wares');
-- Dropped: what is pushed stays in the doc. Another table of that name takes it over; the rest is in the log.
DROP TABLE shop.wares;
SELECT pg_temp.push(4, 'goods', '6', '[["title", "flour"]]');
SELECT * FROM crdt.rows(:doc, 'goods');
CREATE TABLE goods (number text PRIMARY KEY, title text);
SELECT crdt.track('goods', :doc) = :doc AS tracked;
SELECT * FROM goods;
SELECT crdt.repair('goods', 'table');
SELECT * FROM goods ORDER BY number;
SELECT * FROM crdt.verify('goods');

-- A composite type in use that gets and loses attributes.
CREATE TYPE pair AS (a int, b text);
CREATE TABLE pairs (id int PRIMARY KEY, v pair);
SELECT crdt.track('pairs', :doc) = :doc AS tracked;
INSERT INTO pairs VALUES (1, '(1,x)');
ALTER TYPE pair ADD ATTRIBUTE c int;
INSERT INTO pairs VALUES (2, '(2,y,3)');
SELECT pg_temp.push(5, 'pairs', '3', '[["v", {"a": 3, "b": "z", "c": 4}]]');
SELECT * FROM crdt.verify('pairs') ORDER BY row_id;
ALTER TYPE pair DROP ATTRIBUTE a;
INSERT INTO pairs VALUES (4, '(w,5)');
SELECT crdt.repair('pairs', 'log');
SELECT * FROM pairs ORDER BY id;
SELECT * FROM crdt.verify('pairs');

ALTER TYPE pair RENAME ATTRIBUTE b TO bb;
SELECT row_id, in_table, in_log FROM crdt.verify('pairs') ORDER BY row_id LIMIT 1;
SELECT crdt.repair('pairs', 'log');
SELECT * FROM crdt.verify('pairs');
-- An enum's value under another name, in a cell, in the key and as the name of docs.
CREATE TYPE place AS ENUM ('attic', 'cellar');
CREATE TABLE places (id place PRIMARY KEY, near place);
CREATE TABLE things (id int PRIMARY KEY, stands place NOT NULL);
SELECT crdt.track('places', :doc) = :doc AS tracked;
SELECT crdt.track('things', doc_column => 'stands');
INSERT INTO places VALUES ('attic', 'attic'), ('cellar', 'attic');
INSERT INTO things VALUES (1, 'attic'), (2, 'cellar');
ALTER TYPE place RENAME VALUE 'attic' TO 'loft';
SELECT row_id, "column", in_table IS NOT NULL AS in_table, in_log IS NOT NULL AS in_log FROM crdt.verify('places') ORDER BY row_id;
SELECT crdt.repair('places', 'log'), crdt.repair('things', 'log');
SELECT * FROM crdt.verify('places');
SELECT * FROM crdt.verify('things');
SELECT plain(crdt.doc_get_pending(crdt.doc('loft'), '{}')) #> '{0,ops,0,row_id}' AS in_loft;
DROP TABLE places, things;
DROP TYPE place;

-- What could not be tracked, a tracked table does not become.
CREATE TABLE alone (id int PRIMARY KEY, v text);
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
SELECT crdt.track('alone', :doc) = :doc AS tracked;
ALTER TABLE parted ATTACH PARTITION alone DEFAULT;
ALTER TABLE alone SET UNLOGGED;
CREATE TABLE child () INHERITS (alone);
ALTER TABLE alone ALTER id TYPE numeric;
ALTER TABLE alone DROP CONSTRAINT alone_pkey, ADD COLUMN n numeric PRIMARY KEY;
ALTER TABLE alone DROP CONSTRAINT alone_pkey, ADD PRIMARY KEY (id) DEFERRABLE;
ALTER TABLE alone DROP CONSTRAINT alone_pkey;
ALTER TABLE alone ADD CONSTRAINT alone_pkey PRIMARY KEY (id);
SELECT crdt.track('parted', :doc) = :doc AS tracked;
INSERT INTO alone VALUES (1, 'a');
ALTER TABLE parted ATTACH PARTITION alone DEFAULT;
SELECT crdt.untrack('alone');
ALTER TABLE parted ATTACH PARTITION alone DEFAULT;
INSERT INTO alone VALUES (2, 'b');
SELECT * FROM crdt.verify('parted');
CREATE TABLE ways (doc_name text NOT NULL, id int PRIMARY KEY);
SELECT crdt.track('ways', doc_column => 'doc_name');
ALTER TABLE ways RENAME doc_name TO of;
ALTER TABLE ways DROP doc_name;
INSERT INTO ways VALUES ('ddl', 1);
-- A partition that is detached without keeping others out, and one that goes while a column waits for its values.
ALTER TABLE parted DETACH PARTITION alone;
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
INSERT INTO parted VALUES (1, 'a'), (11, 'b');
ALTER TABLE parted DETACH PARTITION parted_1 CONCURRENTLY;
INSERT INTO parted_1 VALUES (2, 'not ours');
SELECT * FROM crdt.verify('parted');
ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM (0) TO (10);
SELECT * FROM crdt.verify('parted');
SELECT pg_temp.push(6, 'parted', '12', '[["w", "told before"]]');
ALTER TABLE parted ADD w text;
DROP TABLE parted_1;
SELECT * FROM crdt.verify('parted');
SELECT crdt.repair('parted', 'table');
SELECT * FROM parted ORDER BY id;
SELECT * FROM crdt.verify('parted');
-- A table may go with what it stands on.
CREATE TYPE lines AS (id int, v text);
CREATE TABLE typed OF lines (PRIMARY KEY (id));
SELECT crdt.track('typed', :doc) = :doc AS tracked;
DROP TYPE lines CASCADE;
SELECT tbl FROM crdt.tracked_tables WHERE alias = 'typed';
SELECT pg_temp.push(7, 'typed', '1', '[["v", "x"]]');
SELECT * FROM crdt.rows(:doc, 'typed');
DROP TABLE goods, pairs, parted, alone, ways;
DROP TYPE pair;
DROP SCHEMA shop;
