-- Events that come back on another way, spelled otherwise, are the same events: cells in another order, numbers and blanks
-- as jsonb writes them. And numbers that no jsonb could show are refused at the door.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE FUNCTION request(peer text, ops json) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', json_build_array(json_build_object(
        'peer', peer, 'counter_start', 0, 'lamport_start', 1, 'deps', '[]'::json, 'ops', ops))) $$;
CREATE FUNCTION answered(crdt_answer json) RETURNS text LANGUAGE sql AS $$
    SELECT format('accepted %s, duplicate %s', crdt_answer ->> 'accepted', crdt_answer ->> 'duplicate') $$;
SELECT crdt.create_doc('hub', 'told') AS told, crdt.create_doc('other', 'told again') AS again \gset
-- The order in which an insert names its columns says nothing.
\set ops '[{"type":"insert","tbl":"t","row_id":"r","values":{"title":"x","id":"r","list":[1e2, -0.0]}}]'
SELECT answered(crdt.push(:told, request('p', :'ops'))::json);
SELECT answered(crdt.push(:told, request('p', :'ops')::jsonb)::json);
SELECT answered(crdt.push(:told, request('p', '[{"type":"insert","tbl":"t","row_id":"r","values":[["list",[100,0]],["id","r"],["title","x"]]}]'))::json);
\set VERBOSITY sqlstate
SELECT crdt.push(:told, request('p', '[{"type":"insert","tbl":"t","row_id":"r","values":[["list",[100,0]],["title","r"],["id","x"]]}]'));
SELECT crdt.push(:told, request('p', '[{"type":"insert","tbl":"t","row_id":"r","values":[["list",[100,1]],["id","r"],["title","x"]]}]'));
\set VERBOSITY default
-- What plain SQL wrote, handed over as jsonb and again as it was written: nobody has told two contents.
CREATE TABLE floats (id text PRIMARY KEY, v float8[], j jsonb);
SELECT crdt.track('floats', :told) = :told AS tracked;
INSERT INTO floats VALUES ('x', '{1e-7, 1e22, 0.1}', '{"b": [1.50, 1e-3], "a": 0}');
-- A skipped counter is handed over with the rest.
SELECT answered(crdt.push(:told, request('skipper', '[{"type":"skip","span":3}, {"type":"delete","tbl":"t","row_id":"gone"}]'))::json);
SELECT count(*) > 0 AS merged FROM jsonb_array_elements(crdt.doc_merge_remote(:again, crdt.doc_get_pending(:told, '{}')));
SELECT crdt.version(:told) = crdt.version(:again) AS same_version;
CREATE FUNCTION as_request(peer text, events json) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', events) $$;
SELECT answered(crdt.push(:again, as_request('gateway', crdt.pull(:told, '{"accept": ["skip"]}') -> 'events'))::json) AS "from the log";
SELECT answered(crdt.push(:told, as_request('gateway', crdt.pull(:again, '{"accept": ["skip"]}') -> 'events'))::json) AS "and back";
SELECT crdt.events_since(:told, '[]') @? '$[*].ops[*] ? (@.type == "skip")' AS "events_since tells of it";
-- Numbers that numeric has no room for: refused, and everything can still be read.
\set VERBOSITY terse
SELECT crdt.push(:told, request('far', '[{"type":"insert","tbl":"floats","row_id":"far","values":[["j",1e999999]]}]'));
SELECT crdt.push(:told, request('far', '[{"type":"update","tbl":"t","row_id":"r","col":"deep","value":{"a":[1, 1e-20000]}}]'));
SELECT crdt.doc_update(:told, 't', 'r', 'wide', '1e131071') ->> 'lamport' IS NOT NULL AS "the widest";
SELECT answered(crdt.push(:told, request('near', '[{"type":"update","tbl":"floats","row_id":"x","col":"unheard","value":[1e131071, 1e-16383]}]'))::json);
SELECT count(*) FROM crdt.history('floats', 'x') WHERE winner;
SELECT jsonb_array_length(crdt.doc_get_pending(:told, '{}')) > 0 AS pending, count(*) FROM crdt.event_runs WHERE doc = :told AND ops IS NOT NULL;
SELECT * FROM crdt.verify('floats');
