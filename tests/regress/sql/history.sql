-- What happened to a row.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'history') AS doc \gset
CREATE TABLE offices (id text PRIMARY KEY, city text, phone text);
SELECT crdt.track('offices', doc => :doc) = :doc AS tracked;
INSERT INTO offices VALUES ('1', 'Kyoto', '075'), ('2', 'Nara', '0742');
UPDATE offices SET phone = '075-1' WHERE id = '1';
SELECT crdt.push(:doc, '{"peer_id": "ann", "frontier": [], "events": [
    {"peer": "ann", "counter_start": 0, "lamport_start": 2, "deps": [], "ops": [
        {"type": "update", "tbl": "offices", "row_id": "1", "col": "phone", "value": "lost"},
        {"type": "update", "tbl": "offices", "row_id": "1", "col": "city", "value": "Otsu"}]}]}') -> 'accepted' AS accepted;
SELECT plain(peer) AS peer, counter, lamport, actor, operation, "column", value, winner, origin
  FROM crdt.history('offices', '1');
SELECT * FROM offices ORDER BY id;

-- A deleted row, and one that comes back.
DELETE FROM offices WHERE id = '2';
SELECT counter, operation, "column", value, winner FROM crdt.history('offices', '2');
INSERT INTO offices VALUES ('2', 'Nara', NULL);
SELECT counter, operation, "column", value, winner FROM crdt.history('offices', '2');

-- A default that filled in, and a trigger that rewrote: derived events.
CREATE TABLE visits (id int PRIMARY KEY, guest text, status text DEFAULT 'open');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.guest := upper(NEW.guest); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION shout();
SELECT crdt.track('visits', doc => :doc) = :doc AS tracked;
SELECT crdt.push(:doc, '{"peer_id": "ann", "frontier": [], "events": [
    {"peer": "ann", "counter_start": 2, "lamport_start": 20, "deps": [], "ops": [
        {"type": "insert", "tbl": "visits", "row_id": "7", "values": [["id", 7], ["guest", "bo"]]}]}]}') -> 'accepted' AS accepted;
SELECT plain(peer) AS peer, counter, lamport, operation, "column", value, winner, origin
  FROM crdt.history('visits', '7') ORDER BY "column", lamport;

-- A row that moves from doc to doc has a history in both.
CREATE TABLE tasks (project text NOT NULL, n int, title text, PRIMARY KEY (n, title));
SELECT crdt.track('tasks', doc_column => 'project');
INSERT INTO tasks VALUES ('red', 1, 'paint');
UPDATE tasks SET project = 'blue';
SELECT d.name, h.operation, h."column", h.value, h.winner
  FROM crdt.history('tasks', '["1","paint"]') AS h JOIN crdt.docs AS d USING (doc);

-- Nobody's history yet.
BEGIN;
UPDATE offices SET city = 'Uji' WHERE id = '1';
SELECT count(*) FROM crdt.history('offices', '1') WHERE value = '"Uji"';
ROLLBACK;
SELECT count(*) FROM crdt.history('offices', 'no such row');

\set VERBOSITY verbose
SELECT * FROM crdt.history('visits', '07');
SELECT * FROM crdt.history('tasks', '1');
SELECT * FROM crdt.history('pg_class', '1');
SELECT * FROM crdt.history('offices', NULL);
SELECT * FROM crdt.history(NULL, '1');
\set VERBOSITY default
DROP TABLE offices, visits, tasks;
DROP FUNCTION shout;
