-- Where table and log disagree: nowhere, unless somebody wrote past the triggers. In no order: a large log is compared in
-- parts.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'verify') AS doc \gset
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE goods (
    id int PRIMARY KEY, name varchar(10), price numeric(10, 2), code char(4), seen timestamptz, mood mood,
    tags text[], extra jsonb, twice numeric GENERATED ALWAYS AS (price * 2) STORED);
SELECT crdt.track('goods', doc => :doc) = :doc AS tracked;
INSERT INTO goods VALUES (1, 'tea', 1.5, 'ab', '2024-02-29 12:00+02', 'good', '{a,NULL}', '{"b": 1, "a": [null]}'),
                         (2, NULL, NULL, NULL, 'infinity', NULL, NULL, NULL), (3, 'salt', 3, 'c', NULL, 'bad', '{}', '2');
UPDATE goods SET price = price + 1;
DELETE FROM goods WHERE id = 3;
-- The log keeps what a client wrote, the table what the type makes of it.
SELECT crdt.push(:doc, '{"peer_id": "ann", "frontier": [], "events": [
    {"peer": "ann", "counter_start": 0, "lamport_start": 50, "deps": [], "ops": [
        {"type": "insert", "tbl": "goods", "row_id": "4", "values": [["id", "4"], ["name", "rice"], ["price", 7],
            ["code", "x"], ["seen", "2024-02-29T10:00:00Z"], ["extra", {"z": 1, "a": 2}], ["colour", "red"]]}]}]}')
       -> 'accepted' AS accepted;
SELECT * FROM crdt.verify('goods') ORDER BY row_id, "column";

-- Also inside the transaction that wrote.
BEGIN;
UPDATE goods SET name = 'TEA' WHERE id = 1;
SELECT * FROM crdt.verify('goods') ORDER BY row_id, "column";
ROLLBACK;

SET session_replication_role = replica;
INSERT INTO goods (id, name) VALUES (5, 'past');
UPDATE goods SET price = 9.99, tags = '{b}' WHERE id = 1;
DELETE FROM goods WHERE id = 2;
RESET session_replication_role;
SELECT * FROM crdt.verify('goods') ORDER BY row_id, "column";

-- The log is made to agree: its readers learn what the table shows.
SELECT crdt.version(:doc) AS before \gset
SELECT crdt.repair('goods', 'log');
SELECT * FROM crdt.verify('goods') ORDER BY row_id, "column";
SELECT jsonb_path_query(plain(crdt.doc_get_pending(:doc, :'before')), '$[*].ops[*]') AS op ORDER BY op;
SELECT crdt.repair('goods', 'log');

-- A column that came later: older rows have it as the table shows it, and the log says nothing else.
ALTER TABLE goods ADD COLUMN stock int;
SELECT * FROM crdt.verify('goods') ORDER BY row_id, "column";
ALTER TABLE goods ADD COLUMN colour text;
SELECT * FROM crdt.verify('goods') ORDER BY row_id, "column";

-- Many rows, in large transactions, and a few of them gone.
CREATE TABLE many (id int PRIMARY KEY, v text);
SELECT crdt.track('many', doc => :doc) = :doc AS tracked;
INSERT INTO many SELECT g, 'v' || g FROM generate_series(1, 3000) AS g;
SET session_replication_role = replica;
DELETE FROM many WHERE id IN (1, 1500, 3000);
INSERT INTO many SELECT 4000, 'new';
RESET session_replication_role;
SELECT * FROM crdt.verify('many') ORDER BY row_id, "column";

-- Rows that route by a column.
CREATE TABLE parts (doc_name text NOT NULL, id int PRIMARY KEY, v text) ;
SELECT crdt.track('parts', doc_column => 'doc_name');
INSERT INTO parts VALUES ('v-red', 1, 'a'), ('v-blue', 2, 'b');
UPDATE parts SET doc_name = 'v-blue' WHERE id = 1;
SELECT * FROM crdt.verify('parts') ORDER BY row_id, "column";
SET session_replication_role = replica;
UPDATE parts SET doc_name = 'v-red' WHERE id = 2;
RESET session_replication_role;
SELECT * FROM crdt.verify('parts') ORDER BY row_id, "column";
SELECT crdt.repair('parts', 'log');
SELECT * FROM crdt.verify('parts') ORDER BY row_id, "column";
-- Or the table is made to agree: a row that has moved comes back, whichever doc is the elder, and what a trigger makes of it
-- on the way is told.
INSERT INTO parts VALUES ('v-blue', 4, 'd'), ('v-red', 5, 'e');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TRIGGER shout BEFORE INSERT ON parts FOR EACH ROW EXECUTE FUNCTION shout();
SET session_replication_role = replica;
UPDATE parts SET doc_name = CASE doc_name WHEN 'v-red' THEN 'v-blue' ELSE 'v-red' END WHERE id > 3;
RESET session_replication_role;
SELECT count(*) FROM crdt.verify('parts');
SELECT crdt.repair('parts', 'table');
SELECT * FROM parts ORDER BY id;
SELECT * FROM crdt.verify('parts');
DROP TRIGGER shout ON parts;
-- A doc that is not there is not made by looking, so that a reader may look; it is by repairing.
SET session_replication_role = replica;
INSERT INTO parts VALUES ('v-new', 3, 'c');
RESET session_replication_role;
BEGIN READ ONLY;
SELECT * FROM crdt.verify('parts');
ROLLBACK;
SELECT count(*) FROM crdt.docs WHERE name = 'v-new';
SELECT crdt.repair('parts', 'log');
SELECT * FROM crdt.verify('parts');
SELECT count(*) FROM crdt.docs WHERE name = 'v-new';

\set VERBOSITY verbose
SELECT * FROM crdt.verify('pg_class');
SELECT * FROM crdt.verify(NULL);
SELECT crdt.repair('many', 'sideways');
SELECT crdt.repair('many', NULL);
\set VERBOSITY default
DROP TABLE goods, many, parts;
DROP FUNCTION shout;
DROP TYPE mood;
