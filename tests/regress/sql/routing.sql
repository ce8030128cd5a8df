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
INSERT INTO routed VALUES (4, '', 'nowhere');
UPDATE routed SET room = '' WHERE id = 3;
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
INSERT INTO routed VALUES (1, NULL, 'lost'), (2, '', 'gone'), (3, '', 'cut');
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
-- A key that has the doc's name: whoever pushes to one doc reaches no other by it, and makes none.
CREATE TABLE tenants (tenant text, id int, v text, PRIMARY KEY (tenant, id));
SELECT crdt.track('tenants', doc_column => 'tenant');
INSERT INTO tenants VALUES ('ours', 1, 'x'), ('theirs', 1, 'y');
SELECT crdt.push(crdt.doc('ours'), one('k', 0, '{"type": "insert", "tbl": "tenants", "row_id": "[\"ours\",\"2\"]", "values": [["tenant", "ours"]]}')) -> 'accepted' AS accepted;
SELECT crdt.push(crdt.doc('ours'), one('k', 1, '{"type": "insert", "tbl": "tenants", "row_id": "[\"theirs\",\"2\"]", "values": []}'));
SELECT crdt.push(crdt.doc('ours'), one('k', 1, '{"type": "insert", "tbl": "tenants", "row_id": "[\"theirs\",\"2\"]", "values": [["tenant", "theirs"]]}'));
SELECT crdt.push(crdt.doc('ours'), one('k', 1, '{"type": "insert", "tbl": "tenants", "row_id": "[\"nobody\",\"2\"]", "values": []}'));
SELECT crdt.push(crdt.doc('ours'), one('k', 1, '{"type": "update", "tbl": "tenants", "row_id": "[\"theirs\",\"1\"]", "col": "v", "value": "z"}'));
SELECT crdt.push(crdt.doc('ours'), one('k', 1, '{"type": "delete", "tbl": "tenants", "row_id": "[\"theirs\",\"1\"]"}'));
SELECT crdt.doc_insert(crdt.doc('ours'), 'tenants', '["theirs","2"]', '{}');
SELECT crdt.doc_update(crdt.doc('ours'), 'tenants', '["theirs","1"]', 'v', '"z"');
SELECT crdt.doc_delete(crdt.doc('ours'), 'tenants', '["theirs","1"]');
SELECT crdt.doc_merge_remote(crdt.doc('ours'), one('k', 1, '{"type": "delete", "tbl": "tenants", "row_id": "[\"theirs\",\"1\"]"}')::jsonb -> 'events');
SELECT * FROM tenants ORDER BY tenant, id;
SELECT count(*) FROM crdt.doc WHERE name = 'nobody';
SELECT * FROM crdt.verify('tenants');
-- What a doc holds of others' rows, from when it had no such table, the table cannot show: repair says so in the log.
SELECT crdt.untrack('tenants');
SELECT crdt.push(crdt.doc('ours'), one('k', 1, '{"type": "insert", "tbl": "tenants", "row_id": "[\"theirs\",\"1\"]", "values": [["v", "z"]]}')) -> 'accepted' AS accepted;
DELETE FROM crdt.generic_row WHERE tbl = 'tenants';
SELECT crdt.track('tenants', doc_column => 'tenant');
SELECT crdt.repair('tenants', 'table');
SELECT * FROM tenants ORDER BY tenant, id;
SELECT * FROM crdt.verify('tenants');
-- Neither by a doc that has no name, nor by one whose name the column would show in another way.
SELECT crdt.create_doc('hub', ' 5') AS blank \gset
INSERT INTO crdt.doc (doc, peer) VALUES (1000000, 'hub');
CREATE TABLE numbered (id uuid PRIMARY KEY, n int NOT NULL, v text);
SELECT crdt.track('numbered', doc_column => 'n');
INSERT INTO numbered VALUES ('6ecd8c99-4036-403d-bf84-cf8400f67836', 5, 'x');
SELECT crdt.push(:blank, one('k', 0, '{"type": "update", "tbl": "numbered", "row_id": "6ecd8c99-4036-403d-bf84-cf8400f67836", "col": "v", "value": "z"}'));
SELECT crdt.push(1000000, one('k', 0, '{"type": "delete", "tbl": "numbered", "row_id": "6ecd8c99-4036-403d-bf84-cf8400f67836"}'));
SELECT crdt.push(crdt.doc('5'), one('k', 0, '{"type": "update", "tbl": "numbered", "row_id": "6ecd8c99-4036-403d-bf84-cf8400f67836", "col": "v", "value": "ours"}')) -> 'accepted' AS accepted;
SELECT * FROM numbered;
CREATE TABLE by_uuid (doc_id uuid, id int, v text, PRIMARY KEY (id, doc_id));
SELECT crdt.track('by_uuid', doc_column => 'doc_id');
INSERT INTO by_uuid VALUES ('6ECD8C99-4036-403D-BF84-CF8400F67836', 1, 'x');
SELECT crdt.push(crdt.doc('6ecd8c99-4036-403d-bf84-cf8400f67836'), one('k', 0, '{"type": "update", "tbl": "by_uuid", "row_id": "[\"1\",\"6ecd8c99-4036-403d-bf84-cf8400f67836\"]", "col": "v", "value": "ours"}')) -> 'accepted' AS accepted;
SELECT crdt.push(crdt.doc('6ecd8c99-4036-403d-bf84-cf8400f67836'), one('k', 1, '{"type": "insert", "tbl": "by_uuid", "row_id": "[\"2\",\"00000000-0000-0000-0000-000000000000\"]", "values": []}'));
SELECT id, v FROM by_uuid;
DROP VIEW by_doc;
DROP TABLE routed, tenants, numbered, by_uuid;
DROP FUNCTION one, to_green;
