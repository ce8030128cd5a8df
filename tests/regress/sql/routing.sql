-- Rows that belong to the doc named by one of their columns.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE routed (id int PRIMARY KEY, room text, v text);
SELECT crdt.track('routed', doc_column => 'room') IS NULL AS "no one doc";
CREATE VIEW by_doc AS
    SELECT d.name AS doc, op ->> 'type' AS op, op ->> 'row_id' AS row, coalesce(op ->> 'col', '') AS col
    FROM crdt.doc AS d, jsonb_array_elements(crdt.doc_get_pending(d.doc, '{}')) AS run, jsonb_array_elements(run -> 'ops') WITH ORDINALITY AS o (op, n)
    WHERE op ->> 'tbl' = 'routed' ORDER BY d.name, (run -> 'lamport_start')::bigint, n;
BEGIN;
INSERT INTO routed VALUES (1, 'red', 'a'), (2, 'blue', 'b'), (3, 'red', 'c');
UPDATE routed SET v = v || '!';
UPDATE routed SET room = 'blue' WHERE id = 1;
COMMIT;
INSERT INTO routed VALUES (4, NULL, 'nowhere');
SELECT * FROM by_doc;
SELECT * FROM crdt.verify('routed');
-- A push stays within its doc.
CREATE FUNCTION one(peer text, counter int, op jsonb) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object('peer_id', peer, 'frontier', '[]'::jsonb, 'events', jsonb_build_array(jsonb_build_object(
        'peer', peer, 'counter_start', counter, 'lamport_start', 100 + counter, 'deps', '[]'::jsonb, 'ops', jsonb_build_array(op)))) $$;
SELECT crdt.push(crdt.doc('red'), one('p', 0, '{"type": "insert", "tbl": "routed", "row_id": "10", "values": [["v", "pushed"]]}')) -> 'accepted' AS accepted;
SELECT crdt.push(crdt.doc('red'), one('p', 1, '{"type": "insert", "tbl": "routed", "row_id": "11", "values": [["room", "red"]]}')) -> 'accepted' AS accepted;
SELECT crdt.push(crdt.doc('red'), one('p', 2, '{"type": "insert", "tbl": "routed", "row_id": "12", "values": [["room", "blue"]]}'));
SELECT crdt.push(crdt.doc('red'), one('p', 2, '{"type": "update", "tbl": "routed", "row_id": "10", "col": "room", "value": "blue"}'));
-- Rows of another doc are not there for it, and their keys are taken.
SELECT crdt.push(crdt.doc('red'), one('p', 2, '{"type": "update", "tbl": "routed", "row_id": "2", "col": "v", "value": "not ours"}')) -> 'accepted' AS accepted;
SELECT crdt.push(crdt.doc('red'), one('p', 3, '{"type": "delete", "tbl": "routed", "row_id": "2"}')) -> 'accepted' AS accepted;
SELECT crdt.push(crdt.doc('red'), one('p', 4, '{"type": "insert", "tbl": "routed", "row_id": "2", "values": [["v", "taken"]]}'));
SELECT * FROM routed ORDER BY id;
SELECT * FROM crdt.verify('routed');
-- A trigger that sends rows to another doc.
CREATE FUNCTION to_green() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.room := 'green'; RETURN NEW; END $$;
CREATE TRIGGER to_green BEFORE INSERT OR UPDATE ON routed FOR EACH ROW EXECUTE FUNCTION to_green();
SELECT crdt.push(crdt.doc('red'), one('p', 4, '{"type": "insert", "tbl": "routed", "row_id": "20", "values": [["v", "sent on"]]}')) -> 'accepted' AS accepted;
SELECT crdt.push(crdt.doc('red'), one('p', 5, '{"type": "update", "tbl": "routed", "row_id": "10", "col": "v", "value": "sent on"}')) -> 'accepted' AS accepted;
UPDATE routed SET v = 'all go' WHERE room = 'blue';
SELECT * FROM routed ORDER BY id;
SELECT * FROM crdt.verify('routed');
-- Many docs in one transaction.
DROP TRIGGER to_green ON routed;
BEGIN;
INSERT INTO routed SELECT 1000 + i, 'room ' || i, 'x' FROM generate_series(1, 300) AS i;
SAVEPOINT a;
UPDATE routed SET room = 'lost' WHERE id > 1000;
ROLLBACK TO a;
DELETE FROM routed WHERE id % 2 = 0 AND id > 1000;
COMMIT;
SELECT count(*) FROM crdt.doc WHERE name LIKE 'room %';
SELECT count(*) FROM crdt.doc WHERE name = 'lost';
SELECT * FROM crdt.verify('routed');
TRUNCATE routed;
SELECT * FROM crdt.verify('routed');
-- Rows that were written while nobody looked and belong to no doc: they are told of, can be given a doc, and make none.
SET session_replication_role = replica;
INSERT INTO routed VALUES (1, NULL, 'lost'), (2, NULL, 'gone'), (3, NULL, 'cut');
RESET session_replication_role;
SELECT * FROM crdt.verify('routed') ORDER BY row_id;
SELECT crdt.repair('routed', 'log');
SELECT crdt.repair('routed', 'table');
UPDATE routed SET v = 'still lost' WHERE id = 1;
UPDATE routed SET room = 'found' WHERE id = 1;
DELETE FROM routed WHERE id = 2;
SELECT * FROM crdt.verify('routed');
TRUNCATE routed;
SELECT count(*) FROM crdt.doc WHERE name = '';
SELECT * FROM crdt.verify('routed');
SET session_replication_role = replica;
INSERT INTO routed VALUES (1, NULL, 'lost');
RESET session_replication_role;
SELECT crdt.untrack('routed');
SELECT crdt.track('routed', doc_column => 'room');
DELETE FROM routed;
SELECT crdt.track('routed', doc_column => 'room');
DROP VIEW by_doc;
DROP TABLE routed;
DROP FUNCTION one, to_green;
