-- Presence: several sessions of somebody, by any name.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'presence') AS doc \gset
CREATE FUNCTION pg_temp.here(doc bigint) RETURNS TABLE (key text, session text, value jsonb) LANGUAGE sql AS $$
    SELECT k.key, s ->> 'session', s -> 'value' FROM jsonb_each(crdt.presence(doc)) AS k, jsonb_array_elements(k.value) AS s ORDER BY 1, 2 $$;
SELECT crdt.presence(:doc) AS nobody;
SELECT crdt.presence_set(:doc, 'ann', 'tab 1', '{"color": "red"}') ->> 'key' AS key;
SELECT crdt.presence_set(:doc, 'ann', 'tab 2', '{"color": "blue"}') -> 'value' AS value;
SELECT crdt.presence_set(:doc, 'bob', 'tab 1', 'null') ->> 'peer' AS peer;
SELECT * FROM pg_temp.here(:doc);
-- Set again it is renewed, with what is said now.
SELECT crdt.presence_set(:doc, 'ann', 'tab 1', '{"color": "green"}') -> 'value' AS value;
SELECT crdt.presence_remove(:doc, 'ann', 'tab 2') AS left, crdt.presence_remove(:doc, 'ann', 'tab 2') AS again, crdt.presence_remove(:doc, 'eve', 'tab 1') AS never;
SELECT * FROM pg_temp.here(:doc);
SELECT crdt.presence_set(:doc, 'ann', 'tab 2', '"back"') -> 'value' AS back;
-- Gone when it is not renewed in time.
SELECT crdt.presence_set(:doc, 'cat', 'tab 1', '1', '1 ms') IS NOT NULL, crdt.presence_set(:doc, 'ann', 'tab 1', '1', '1 ms') IS NOT NULL;
SELECT pg_sleep(0.01);
SELECT * FROM pg_temp.here(:doc);

-- Names with the separator, with what it is escaped by, and with what looks escaped.
SELECT crdt.ephemeral_clear(:doc) > 0 AS cleared;
CREATE TEMP TABLE names (key text, session text);
INSERT INTO names VALUES ('a/b', 'c'), ('a', 'b/c'), ('a%2Fb', 'c'), ('a%b', '%'), ('%25', '/'), ('%252F', '%2F%25'), ('/', '/'), ('//', '%%'), (' ', ' '), ('é"\', '𝄞');
SELECT key, session, crdt.presence_key(key, session) FROM names;
SELECT count(crdt.presence_set(:doc, key, session, to_jsonb(key || '|' || session))) FROM names;
SELECT count(DISTINCT e.key) FROM crdt.ephemeral AS e WHERE doc = :doc;
SELECT * FROM pg_temp.here(:doc) EXCEPT SELECT key, session, to_jsonb(key || '|' || session) FROM names;
SELECT count(*) FROM pg_temp.here(:doc) AS here JOIN names USING (key, session);
SELECT count(*) FROM names WHERE crdt.presence_remove(:doc, key, session);
SELECT crdt.presence(:doc) AS nobody;

\set VERBOSITY sqlstate
SELECT crdt.presence_set(-1, 'ann', 'tab', '1');
SELECT crdt.presence_set(:doc, NULL, 'tab', '1');
SELECT crdt.presence_set(:doc, 'ann', NULL, '1');
SELECT crdt.presence_set(:doc, 'ann', 'tab', NULL);
SELECT crdt.presence_set(:doc, repeat('a', 500), repeat('b', 500), '1');
SELECT crdt.presence_set(:doc, 'ann', 'tab', '1', '11 days');
SELECT crdt.presence_remove(-1, 'ann', 'tab');
SELECT crdt.presence(-1);
SELECT crdt.presence(NULL);
\set VERBOSITY default
-- Whose operators and functions are in the way finds them not used.
CREATE SCHEMA trap;
CREATE FUNCTION trap.replace(text, text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'trapped' $$;
CREATE FUNCTION trap.concat(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'trapped' $$;
CREATE OPERATOR trap.|| (FUNCTION = trap.concat, LEFTARG = text, RIGHTARG = text);
SET search_path = trap, pg_catalog, public;
SELECT crdt.presence_set(:doc, 'ann', 'tab', '1') ->> 'key' AS key, crdt.presence(:doc) #> '{ann,0,session}' AS session;
RESET search_path;
DROP SCHEMA trap CASCADE;
SELECT crdt.ephemeral_clear(:doc);
DROP TABLE names;
