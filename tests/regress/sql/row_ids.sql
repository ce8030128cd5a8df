-- A row has one name. Whoever spells it otherwise is refused: a second spelling would be a second row of the log, where
-- nothing competes with what the first one holds.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'row ids') AS doc \gset
CREATE TABLE pairs (id int, k text, v text, PRIMARY KEY (id, k));
CREATE TABLE padded (id char(5) PRIMARY KEY, v text);
CREATE TABLE short (id varchar(3) PRIMARY KEY, v text);
CREATE DOMAIN code AS varchar(3);
CREATE TABLE coded (id code PRIMARY KEY, v text);
CREATE TABLE named (id name PRIMARY KEY, v text);
CREATE TABLE timed (at timestamp(0) PRIMARY KEY, v text);
SELECT count(crdt.track(tbl, :doc)) AS tracked FROM unnest(ARRAY['pairs', 'padded', 'short', 'coded', 'named', 'timed']::regclass[]) AS tbl;
INSERT INTO pairs VALUES (8, 'é', 'first'), (9, E'a"\\/\b\f\n\r\t\x1f', 'odd');
UPDATE pairs SET v = 'newest';
INSERT INTO padded VALUES ('ab', 'newest');
INSERT INTO short VALUES ('abc', 'newest');
INSERT INTO coded VALUES ('abc', 'newest');
INSERT INTO named VALUES (repeat('n', 63), 'newest');
INSERT INTO timed VALUES ('2026-01-02 03:04:05', 'newest');
-- What names the database gives: those of JSON.stringify.
SELECT o ->> 'row_id' AS row_id FROM json_array_elements(crdt.pull(:doc, '{}') -> 'events') AS e, json_array_elements(e -> 'ops') AS o WHERE o ->> 'type' = 'insert';
CREATE FUNCTION pushed(tbl text, row_id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    RETURN crdt.push(crdt.doc('row ids'), json_build_object('peer_id', 'p', 'events', json_build_array(json_build_object(
        'peer', 'p', 'counter_start', 0, 'lamport_start', 1, 'deps', '[]'::json, 'ops', json_build_array(json_build_object(
            'type', 'delete', 'tbl', tbl, 'row_id', row_id)))))) ->> 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(hint, ''));
END $$;
\t on
\a
SELECT pushed('pairs', '["8", "é"]');
SELECT pushed('pairs', ' ["8","é"]');
SELECT pushed('pairs', '["8","\u00e9"]');
SELECT pushed('pairs', '["8","a\/b"]');
SELECT pushed('pairs', '["8","a\u0022"]');
SELECT pushed('pairs', '["08","é"]');
SELECT pushed('pairs', '[8,"é"]');
SELECT pushed('pairs', '["8"]');
SELECT pushed('pairs', '["8","é\u0000zzz"]');
SELECT pushed('padded', 'ab');
SELECT pushed('padded', 'ab    ');
SELECT pushed('short', 'abc  ');
SELECT pushed('short', 'abcd');
SELECT pushed('coded', 'abc ');
SELECT pushed('named', repeat('n', 64));
SELECT pushed('timed', '2026-01-02 03:04:05.4');
SELECT pushed('pairs', '["9","a\"\\/\b\f\n\r\t\u001f"]');
\a
\t off
TABLE pairs;
SELECT id, v FROM padded UNION ALL SELECT id, v FROM short UNION ALL SELECT id, v FROM coded UNION ALL SELECT left(id, 3), v FROM named UNION ALL SELECT at::text, v FROM timed;
SELECT count(*) FROM unnest(ARRAY['pairs', 'padded', 'short', 'coded', 'named', 'timed']::regclass[]) AS tbl, crdt.verify(tbl);
