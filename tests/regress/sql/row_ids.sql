-- A row has one name. Whoever spells it otherwise is refused: a second spelling would be a second row of the log, where
-- nothing competes with what the first one holds.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'row ids') AS doc \gset
CREATE TABLE rid_pairs (id int, k text, v text, PRIMARY KEY (id, k));
CREATE TABLE rid_padded (id char(5) PRIMARY KEY, v text);
CREATE TABLE rid_short (id varchar(3) PRIMARY KEY, v text);
CREATE DOMAIN rid_code AS varchar(3);
CREATE TABLE rid_coded (id rid_code PRIMARY KEY, v text);
CREATE TABLE rid_named (id name PRIMARY KEY, v text);
CREATE TABLE rid_timed (at timestamp(0) PRIMARY KEY, v text);
SELECT count(crdt.track(tbl, :doc)) AS tracked FROM unnest(ARRAY['rid_pairs', 'rid_padded', 'rid_short', 'rid_coded', 'rid_named', 'rid_timed']::regclass[]) AS tbl;
INSERT INTO rid_pairs VALUES (8, 'é', 'first'), (9, E'a"\\/\b\f\n\r\t\x1f', 'odd');
UPDATE rid_pairs SET v = 'newest';
INSERT INTO rid_padded VALUES ('ab', 'newest');
INSERT INTO rid_short VALUES ('abc', 'newest');
INSERT INTO rid_coded VALUES ('abc', 'newest');
INSERT INTO rid_named VALUES (repeat('n', 63), 'newest');
INSERT INTO rid_timed VALUES ('2026-01-02 03:04:05', 'newest');
-- What names the database gives: those of JSON.stringify.
SELECT o ->> 'row_id' AS row_id FROM json_array_elements(crdt.pull(:doc, '{}') -> 'events') AS e, json_array_elements(e -> 'ops') AS o WHERE o ->> 'type' = 'insert';
CREATE FUNCTION rid_pushed(tbl text, row_id text) RETURNS text LANGUAGE plpgsql AS $$
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
SELECT rid_pushed('rid_pairs', '["8", "é"]');
SELECT rid_pushed('rid_pairs', ' ["8","é"]');
SELECT rid_pushed('rid_pairs', '["8","\u00e9"]');
SELECT rid_pushed('rid_pairs', '["8","a\/b"]');
SELECT rid_pushed('rid_pairs', '["8","a\u0022"]');
SELECT rid_pushed('rid_pairs', '["08","é"]');
SELECT rid_pushed('rid_pairs', '[8,"é"]');
SELECT rid_pushed('rid_pairs', '["8"]');
SELECT rid_pushed('rid_pairs', '["8","é\u0000zzz"]');
SELECT rid_pushed('rid_padded', 'ab');
SELECT rid_pushed('rid_padded', 'ab    ');
SELECT rid_pushed('rid_short', 'abc  ');
SELECT rid_pushed('rid_short', 'abcd');
SELECT rid_pushed('rid_coded', 'abc ');
SELECT rid_pushed('rid_named', repeat('n', 64));
SELECT rid_pushed('rid_timed', '2026-01-02 03:04:05.4');
SELECT rid_pushed('rid_pairs', '["9","a\"\\/\b\f\n\r\t\u001f"]');
\a
\t off
TABLE rid_pairs;
SELECT id, v FROM rid_padded UNION ALL SELECT id, v FROM rid_short UNION ALL SELECT id, v FROM rid_coded UNION ALL SELECT left(id, 3), v FROM rid_named UNION ALL SELECT at::text, v FROM rid_timed;
SELECT count(*) FROM unnest(ARRAY['rid_pairs', 'rid_padded', 'rid_short', 'rid_coded', 'rid_named', 'rid_timed']::regclass[]) AS tbl, crdt.verify(tbl);
