-- What an error says to whoever has to mend it: whose value a type refused, and a hint that fits.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'errors') AS doc \gset
CREATE FUNCTION refusal(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE code text; message text; detail text; tbl text; col text; con text; hint text;
BEGIN
    EXECUTE sql;
    RAISE EXCEPTION 'taken';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
        tbl = TABLE_NAME, col = COLUMN_NAME, con = CONSTRAINT_NAME;
    detail := regexp_replace(detail, 'hub:[0-9a-f]{13}:\d', 'hub:1:0');
    RETURN concat_ws(E'\n', code || ' ' || message, 'DETAIL ' || nullif(detail, ''), 'HINT ' || nullif(hint, ''),
        'FIELDS ' || nullif(concat_ws(' ', nullif(tbl, ''), nullif(col, ''), nullif(con, '')), ''));
END $$;
CREATE FUNCTION pushing(ops text, more text DEFAULT '"deps": []') RETURNS text LANGUAGE sql AS $$
    SELECT refusal(format('SELECT crdt.push(crdt.doc(%L), %L)', 'errors', format(
        '{"peer_id": "ann", "events": [{"peer": "ann", "counter_start": 0, "lamport_start": 1, %s, "ops": [%s]}]}', more, ops))) $$;
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN filled AS text NOT NULL;
CREATE TABLE items (
    id int PRIMARY KEY, n int, short varchar(5), price numeric(5, 2), day date, extra jsonb, tags int[], mood mood, p positive,
    f filled DEFAULT 'x', q tsquery, r regclass, u uuid, nn int NOT NULL DEFAULT 1, c int CHECK (c < 10), a text UNIQUE);
SELECT crdt.track('items', :doc) = :doc AS tracked;

-- The state and the message are PostgreSQL's, the detail says where.
SELECT col, pushing(format(
    '{"type": "insert", "tbl": "items", "row_id": "1", "values": {"n": 1}}, {"type": "insert", "tbl": "items", "row_id": "2", "values": {"%s": %s}}',
    col, value)) AS refused
FROM (VALUES ('n', '"x"'), ('n', '5000000000'), ('short', '"too long"'), ('price', '1234.5'), ('day', '"soon"'), ('day', '"2024-02-30"'),
             ('extra', '{"$text": "{"}'), ('extra', '1e200000'), ('tags', '[1, "x"]'), ('mood', '"so so"'), ('p', '0'), ('f', 'null'),
             ('q', '"a b"'), ('r', '"nowhere"'), ('u', '"7"')) AS v(col, value);
-- Of a constraint of the table PostgreSQL says it itself.
SELECT col, pushing(format('{"type": "insert", "tbl": "items", "row_id": "2", "values": {"%s": %s}}', col, value)) AS refused
FROM (VALUES ('nn', 'null'), ('c', '10')) AS v(col, value);
SELECT pushing('{"type": "insert", "tbl": "items", "row_id": "1", "values": {"a": "b"}}, {"type": "insert", "tbl": "items", "row_id": "2", "values": {"a": "b"}}') AS refused;
-- The value that counts is named, not the one it has overwritten.
SELECT pushing('{"type": "insert", "tbl": "items", "row_id": "1", "values": {"n": "x"}}, {"type": "update", "tbl": "items", "row_id": "1", "col": "n", "value": "y"}') AS refused;
-- One row in thousands, written in portions.
SELECT pushing(string_agg(format('{"type": "insert", "tbl": "items", "row_id": "%s", "values": {"n": %s}}', i, CASE i WHEN 9999 THEN '"x"' ELSE '1' END), ','))
FROM generate_series(1, 20000) AS i;

-- What fails for another reason says just that: a trigger, though a value would be refused too, or a right.
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW.n / 0; END $$;
CREATE TRIGGER meddle BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION meddle();
SELECT pushing('{"type": "insert", "tbl": "items", "row_id": "1", "values": {"n": 1}}') AS refused;
SELECT pushing('{"type": "insert", "tbl": "items", "row_id": "1", "values": {"n": 1}}, {"type": "insert", "tbl": "items", "row_id": "2", "values": {"n": "x"}}') AS refused;
CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE check_violation USING MESSAGE = 'not today'; END $$;
SELECT pushing('{"type": "insert", "tbl": "items", "row_id": "1", "values": {"n": 1}}, {"type": "insert", "tbl": "items", "row_id": "2", "values": {"n": "x"}}') AS refused;
DROP TRIGGER meddle ON items;

-- Row ids, and the other ways in.
CREATE TABLE named (id uuid PRIMARY KEY, n int);
CREATE TABLE pairs (a int, b date, PRIMARY KEY (a, b));
SELECT count(crdt.track(t, :doc)) FROM unnest('{named, pairs}'::regclass[]) AS t;
SELECT pushing('{"type": "insert", "tbl": "named", "row_id": "x", "values": {}}') AS refused;
SELECT pushing('{"type": "delete", "tbl": "pairs", "row_id": "[\"1\",\"soon\"]"}') AS refused;
SELECT pushing('{"type": "insert", "tbl": "pairs", "row_id": "[\"5000000000\",\"2024-02-29\"]", "values": {}}') AS refused;
SELECT pushing('{"type": "insert", "tbl": "pairs", "row_id": "1", "values": {}}') AS refused;
SELECT refusal(format('SELECT crdt.doc_insert(%s, ''items'', ''one'', ''{}'')', :doc)) AS refused;
SELECT refusal(format('SELECT crdt.doc_insert(%s, ''items'', ''1'', ''{"n": "x"}'')', :doc)) AS refused;
INSERT INTO items (id, n) VALUES (7, 7);
SELECT refusal(format('SELECT crdt.doc_update(%s, ''items'', ''7'', ''n'', ''"x"'')', :doc)) AS refused;
SELECT refusal(format('SELECT crdt.doc_merge_remote(%s, ''[{"id": ["bob", 0], "deps": [], "lamport": 9, "op":
    {"type": "update", "tbl": "items", "row_id": "7", "col": "n", "value": "x"}}]'')', :doc)) AS refused;
-- Columns and tables that come later than what the log says of them.
SELECT crdt.push(:doc, '{"peer_id": "cid", "events": [{"peer": "cid", "counter_start": 0, "lamport_start": 9, "deps": [], "ops": [
    {"type": "update", "tbl": "items", "row_id": "7", "col": "stock", "value": "x"}, {"type": "update", "tbl": "items", "row_id": "7", "col": "words", "value": "a b"},
    {"type": "insert", "tbl": "held", "row_id": "1", "values": {"n": "x"}}]}]}') -> 'accepted' AS accepted;
ALTER TABLE items ADD COLUMN stock int;
SELECT * FROM crdt.verify('items');
SELECT refusal($$SELECT crdt.repair('items', 'table')$$) AS refused;
ALTER TABLE items DROP COLUMN stock, ADD COLUMN words tsquery;
SELECT * FROM crdt.verify('items');
SELECT refusal($$SELECT crdt.repair('items', 'table')$$) AS refused;
CREATE TABLE held (id int PRIMARY KEY, n int);
SELECT refusal(format('SELECT crdt.track(''held'', %s)', :doc)) AS refused;

-- Clocks and references.
SELECT clock, pushing('{"type": "skip"}', format('"deps": [], %s', clock)) AS refused
FROM unnest('{"\"at\": 1.5", "\"schema\": 1.5", "\"schema\": \"1\"", "\"schema\": 1e0", "\"schema\": 1e400", "\"schema\": -1", "\"schema\": 9007199254740992"}'::text[]) AS clock;
SELECT pushing('{"type": "skip"}', '"deps": [["nobody", 0]]') AS refused;
SELECT pushing('{"type": "skip"}', '"deps": [["ann", 0]]') AS refused;
SELECT pushing('{"type": "skip"}', '"deps": [["cid", 0]]') AS refused;
SELECT pushing('{"type": "skip", "span": 100000}') AS refused;
SELECT pushing('{"type": "update", "tbl": "t", "row_id": "1", "col": "c", "value": 1, "derived_from": ["nobody", 0]}') AS refused;
SELECT pushing('{"type": "update", "tbl": "t", "row_id": "1", "col": "c", "value": 1, "derived_from": ["cid", 0]}') AS refused;
SELECT pushing('{"type": "insert", "tbl": "t", "row_id": "1", "values": [["c", 1], ["c", 2]]}') AS refused;
-- Operations that JSON has a name for, and others.
SELECT op, pushing(op) AS refused FROM unnest('{"{\"type\": \"void\"}", "{\"type\": \"truncate\"}"}'::text[]) AS op;
SELECT crdt.push(:doc, '{"peer_id": "dan", "events": [{"peer": "dan", "counter_start": 0, "lamport_start": 1, "deps": [], "ops": [{"type": "skip"},
    {"type": "void", "payload": ""}, {"type": "add", "payload": "00"}, {"type": "path", "payload": "01"}, {"type": "text", "payload": "ff"}]}]}') -> 'accepted' AS accepted;
-- Only what a request holds in sum can be sent in several.
SELECT pushing('{"type": "update", "tbl": "t", "row_id": "1", "col": "c", "value": ' || repeat('[', 129) || repeat(']', 129) || '}') AS refused;
SELECT pushing(format('{"type": "delete", "tbl": "%s", "row_id": "1"}', repeat('t', 257))) AS refused;
SELECT pushing(format('{"type": "delete", "tbl": "t", "row_id": "%s"}', repeat('1', 8193))) AS refused;
SELECT pushing('{"type": "skip"}', '"deps": [' || (SELECT string_agg('["p", 0]', ',') FROM generate_series(1, 1001)) || ']') AS refused;
SELECT pushing((SELECT string_agg(format('{"type": "delete", "tbl": "t%s", "row_id": "1"}', i), ',') FROM generate_series(0, 65536) AS i)) AS refused;
SELECT refusal(format('SELECT crdt.push(%s, repeat('' '', (64 << 20) + 1))', :doc)) AS refused;
SELECT refusal(format('SELECT crdt.pull(%s, repeat('' '', (64 << 20) + 1))', :doc)) AS refused;

-- A log that cannot be read is nobody's malformed request.
SELECT crdt.create_doc('hub', 'broken') AS broken \gset
CREATE TABLE broken (id int PRIMARY KEY);
SELECT crdt.track('broken', :broken) = :broken AS tracked;
INSERT INTO broken VALUES (1);
SELECT ops FROM crdt.event_run WHERE doc = :broken \gset
UPDATE crdt.event_run SET ops = '\xff' WHERE doc = :broken;
SELECT refusal(format('SELECT crdt.pull(%s, ''{}'')', :broken)) AS refused;
SELECT refusal('SELECT * FROM crdt.verify(''broken'')') AS refused;
UPDATE crdt.event_run SET ops = :'ops' WHERE doc = :broken;
SELECT * FROM crdt.verify('broken');
SELECT crdt.untrack('broken'), crdt.untrack('items'), crdt.untrack('named'), crdt.untrack('pairs');
DROP TABLE broken, items, named, pairs, held;
DROP FUNCTION meddle, pushing, refusal;
DROP TYPE mood, positive, filled;
