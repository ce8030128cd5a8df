-- A replica asks for what it does not have, page by page.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'pull') AS doc \gset
CREATE TABLE pulled (id int PRIMARY KEY, title text, done bool);
SELECT crdt.track('pulled', doc => :doc) = :doc AS tracked;
INSERT INTO pulled VALUES (1, 'milk', false), (2, 'bread', false);
UPDATE pulled SET done = true WHERE id = 1;
DELETE FROM pulled WHERE id = 2;
INSERT INTO pulled VALUES (3, 'tea', NULL);

-- Everything, and the runs of one writer as one.
SELECT jsonb_pretty(plain(crdt.pull(:doc, '{}')));

-- In pages of at most two operations; a transaction is never cut.
SELECT crdt.pull(:doc, '{"limit": 2}') AS page \gset
SELECT jsonb_array_length(:'page'::jsonb -> 'events' -> 0 -> 'ops') AS ops, :'page'::jsonb -> 'has_more' AS more;
SELECT crdt.pull(:doc, jsonb_build_object('limit', 2, 'known_peers', :'page'::jsonb -> 'versions')) AS page \gset
SELECT plain(:'page'::jsonb);
SELECT crdt.pull(:doc, jsonb_build_object('limit', 2, 'known_peers', :'page'::jsonb -> 'versions')) AS page \gset
SELECT plain(:'page'::jsonb);
SELECT jsonb_array_length(plain(crdt.pull(:doc, '{"limit": 0}')) -> 'events' -> 0 -> 'ops') AS "a whole transaction at least";

-- A reader who knows a part of a run gets the rest of it.
SELECT plain(crdt.doc_get_pending(:doc, jsonb_build_object(p.peer, 0))) FROM crdt.peers AS p WHERE p.doc = :doc;

-- Nothing is new for who has all.
SELECT plain(crdt.pull(:doc, jsonb_build_object('known_peers', crdt.version(:doc))));
SELECT plain(crdt.doc_get_pending(:doc, crdt.version(:doc)));

-- Two clients' events and the hub's, each after what it was made on top of.
SELECT crdt.push(:doc, '{"peer_id": "ann", "frontier": [], "events": [
    {"peer": "ann", "counter_start": 0, "lamport_start": 1, "deps": [], "ops": [
        {"type": "insert", "tbl": "pulled", "row_id": "10", "values": [["id", 10], ["title", "ann"]]},
        {"type": "update", "tbl": "pulled", "row_id": "10", "col": "done", "value": true}]}]}') -> 'accepted' AS accepted;
SELECT crdt.push(:doc, '{"peer_id": "bob", "frontier": [], "events": [
    {"peer": "bob", "counter_start": 0, "lamport_start": 2, "deps": [["ann", 0]], "ops": [
        {"type": "update", "tbl": "pulled", "row_id": "10", "col": "title", "value": "bob"}]}]}') -> 'accepted' AS accepted;
UPDATE pulled SET title = 'hub' WHERE id = 10;
SELECT run ->> 'peer' AS peer, run -> 'counter_start' AS counter, run -> 'lamport_start' AS lamport,
       run -> 'deps' AS deps, jsonb_array_length(run -> 'ops') AS ops
  FROM jsonb_array_elements(plain(crdt.pull(:doc, '{}')) -> 'events') AS run;

-- Committed events only, also for who is writing.
BEGIN;
SELECT crdt.version(:doc) AS before \gset
UPDATE pulled SET title = 'not yet';
SELECT crdt.version(:doc) = :'before' AS same_version, crdt.frontier(:doc) = crdt.frontier(:doc) AS same_frontier,
       crdt.doc_get_pending(:doc, :'before') AS pending;
ROLLBACK;

-- In a read-only transaction, and without taking a transaction id.
BEGIN READ ONLY;
SELECT crdt.pull(:doc, '{}') -> 'has_more' AS more, length(crdt.pull_binary(:doc, '\xcdb201020000')) > 0 AS binary;
SELECT pg_current_xact_id_if_assigned() IS NULL AS none_assigned;
COMMIT;

-- The reader knows more of this database than the database itself: it was set back. Peers of others do not count.
SELECT crdt.pull(:doc, '{"known_peers": {"hub:0123456789abc:0": 7, "hub:0123456789abc": 7, "ann": 99}}') -> 'ahead' AS ahead;
SELECT plain(crdt.pull(:doc, jsonb_build_object('known_peers', jsonb_build_object(p.peer, 1000))) -> 'ahead') AS ahead
  FROM crdt.peers AS p WHERE p.doc = :doc AND p.own;

-- What is wrong with a request is said.
\set VERBOSITY verbose
SELECT crdt.pull(NULL, '{}');
SELECT crdt.pull(:doc, NULL);
SELECT crdt.pull(-1, '{}');
SELECT crdt.pull(:doc, '[]');
SELECT crdt.pull(:doc, '{"known_peers": {"a": -1}}');
SELECT crdt.pull(:doc, '{"known_peers": {"a": 9007199254740992}}');
SELECT crdt.pull(:doc, '{"limit": "ten"}');
SELECT crdt.pull_binary(:doc, '\x00');
SELECT crdt.pull_binary(:doc, NULL);
SELECT crdt.doc_get_pending(:doc, NULL);
SELECT crdt.doc_get_pending(:doc, '{"a": null}');
\set VERBOSITY default
DROP TABLE pulled;

-- A later run of a push may derive from what is younger than its first one, without depending on it; a small page brings
-- that along. Within one run it is refused: a page that begins with the run would lack it.
SELECT crdt.create_doc('hub', 'derived') AS derived \gset
SELECT crdt.push(:derived, '{"peer_id": "ann", "frontier": [], "events": [
    {"peer": "ann", "counter_start": 0, "lamport_start": 20, "deps": [], "ops": [
        {"type": "insert", "tbl": "t", "row_id": "1", "values": [["a", 1]]}]}]}') -> 'accepted' AS accepted;
SELECT crdt.push(:derived, '{"peer_id": "eve", "frontier": [], "events": [
    {"peer": "eve", "counter_start": 0, "lamport_start": 10, "deps": [], "ops": [
        {"type": "insert", "tbl": "t", "row_id": "2", "values": []}]},
    {"peer": "eve", "counter_start": 1, "lamport_start": 30, "deps": [], "ops": [
        {"type": "update", "tbl": "t", "row_id": "1", "col": "a", "value": 2, "derived_from": ["ann", 0]}]}]}')
    -> 'accepted' AS accepted;
SELECT jsonb_path_query_array(plain(crdt.pull(:derived, '{"limit": 1}')), '$.events[*].peer') AS peers;
SELECT crdt.push(:derived, '{"peer_id": "eve", "frontier": [], "events": [
    {"peer": "eve", "counter_start": 2, "lamport_start": 40, "deps": [], "ops": [
        {"type": "insert", "tbl": "t", "row_id": "3", "values": [["a", 1]]},
        {"type": "update", "tbl": "t", "row_id": "3", "col": "a", "value": 2, "derived_from": ["eve", 2]}]}]}');
-- Runs that are joined on their way out are runs still: what a default or a trigger derives from stands before its run.
CREATE TABLE runs_joined (id int PRIMARY KEY, v text, s text DEFAULT 's');
CREATE FUNCTION joined_shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.v = upper(new.v); RETURN new; END $$;
CREATE TRIGGER joined_shout BEFORE INSERT OR UPDATE ON runs_joined FOR EACH ROW EXECUTE FUNCTION joined_shout();
SELECT crdt.create_doc('hub', 'runs joined') AS doc, crdt.create_doc('reader', 'runs read') AS reader, crdt.create_doc('reader', 'runs pending') AS pending \gset
SELECT crdt.track('runs_joined', :doc) = :doc AS tracked;
INSERT INTO runs_joined VALUES (1, 'a'), (2, 'b');
DELETE FROM runs_joined WHERE id = 1;
SELECT count(crdt.doc_insert(:doc, 'runs_joined', id::text, '{"v": "fn"}')) FROM unnest(ARRAY[1, 3, 4]) AS id;
SELECT count(crdt.doc_update(:doc, 'runs_joined', id::text, 'v', '"again"')) FROM unnest(ARRAY[1, 2]) AS id;
SELECT crdt.push(:reader, json_build_object('peer_id', 'gateway', 'events', crdt.pull(:doc, '{}') -> 'events')) ->> 'accepted' AS accepted;
SELECT count(*) > 0 AS merged FROM jsonb_array_elements(crdt.doc_merge_remote(:pending, crdt.doc_get_pending(:doc, '{}')));
SELECT crdt.version(:reader) = crdt.version(:doc) AS read, crdt.version(:pending) = crdt.version(:doc) AS handed_over;
SELECT data - 'id' FROM crdt.rows(:reader, 'runs_joined') EXCEPT SELECT to_jsonb(d) - 'id' FROM runs_joined AS d;
SELECT data - 'id' FROM crdt.rows(:pending, 'runs_joined') EXCEPT SELECT to_jsonb(d) - 'id' FROM runs_joined AS d;
SELECT * FROM runs_joined ORDER BY id;
