-- What a request may be: a literal, a parameter, text, json, jsonb; and text that is no request.
\set SHOW_CONTEXT never
\set VERBOSITY sqlstate
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'requests') AS doc \gset
CREATE FUNCTION request(counter int) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object('peer_id', 'p', 'frontier', '[]'::json, 'events', json_build_array(json_build_object(
        'peer', 'p', 'counter_start', counter, 'lamport_start', counter + 1, 'deps', '[]'::json, 'ops', json_build_array(json_build_object(
            'type', 'insert', 'tbl', 'notes', 'row_id', counter::text, 'values', '[["body", "né \" \\ 1.50"]]'::json))))) $$;
SELECT crdt.push(:doc, '{"peer_id": "p", "frontier": [], "events": []}') -> 'accepted' AS literal;
SELECT crdt.push(:doc, request(0)) -> 'accepted' AS json;
SELECT crdt.push(:doc, request(1)::jsonb) -> 'accepted' AS jsonb;
SELECT crdt.push(:doc, request(2)::text) -> 'accepted' AS text;
SELECT crdt.push(:doc, request(3)::text::varchar) -> 'accepted' AS "varchar";
PREPARE untyped AS SELECT crdt.push($1, $2) -> 'accepted' AS parameter;
SELECT format($$EXECUTE untyped (crdt.doc(%L), %L)$$, 'requests', request(4)) \gexec
SELECT crdt.push(request => request(5), doc => :doc) -> 'accepted' AS named;
-- Stored and compressed, it is fetched.
CREATE TEMP TABLE outbox (request crdt.request);
INSERT INTO outbox SELECT json_build_object('peer_id', 'p', 'frontier', '[]'::json, 'padding', repeat('x', 100000), 'events', request(6) -> 'events');
SELECT pg_column_size(request) < 50000 AS compressed, crdt.push(:doc, request) -> 'accepted' AS stored FROM outbox;
SELECT row_id, data FROM crdt.rows(:doc, 'notes') ORDER BY row_id;
SELECT crdt.pull(:doc, '{"known_peers": {"p": 5}}') -> 'versions' AS literal;
SELECT crdt.pull(:doc, json_build_object('known_peers', json_build_object('p', 5))) -> 'versions' AS json;
SELECT crdt.pull(:doc, jsonb_build_object('known_peers', json_build_object('p', 5))) -> 'versions' AS jsonb;
SELECT json_array_length(crdt.pull(:doc, json_build_object('known_peers', json_build_object('p', 5))::text) -> 'events') AS text;
-- The text of a request is what was sent, in the binary protocol too.
SELECT crdt.request_send('{"a" : 1}') = textsend('{"a" : 1}') AS sent, '{"a" : 1}'::crdt.request AS shown;
-- No request: an error of the extension's own, and nothing written.
SELECT crdt.push(:doc, '');
SELECT crdt.push(:doc, 'no JSON');
SELECT crdt.push(:doc, '{"peer_id": "p", "frontier": [], "events": [');
SELECT crdt.push(:doc, request(7)::text || '}');
SELECT crdt.push(:doc, replace(request(7)::text, 'body', '\u0000'));
SELECT crdt.push(:doc, replace(request(7)::text, '"né', '"' || chr(1)));
SELECT crdt.push(:doc, repeat('[', 100000));
SELECT crdt.push(:doc, replace(request(7)::text, '[["body"', '[["body", ' || repeat('[', 100000) || repeat(']', 100000) || '], ["b"'));
SELECT crdt.push(:doc, NULL);
SELECT crdt.pull(:doc, 'no JSON');
SELECT crdt.pull(:doc, '{"known_peers": {"p": 1e400}}');
SELECT crdt.pull(:doc, NULL);
SELECT crdt.push(:doc, 1);
SELECT crdt.version(:doc) AS version;
-- Large and wrong at the end only: every byte is read the first time, and none of it is remembered.
SELECT (SELECT crdt.push(:doc, json_build_object('peer_id', 'p', 'frontier', '[]'::json, 'padding', repeat('x', 100000), 'events', '[]'::json)::text || ' ]'));
SELECT (SELECT crdt.push(:doc, json_build_object('peer_id', 'p', 'frontier', '[]'::json, 'padding', repeat('x', 100000), 'events', '[]'::json)::text || ' ]'));
DROP FUNCTION request;
