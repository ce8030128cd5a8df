-- Frontiers, version vectors, and how versions stand to each other.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'versions') AS doc \gset
SELECT crdt.frontier(:doc), crdt.version(:doc), crdt.doc_sync_state(:doc), crdt.events_since(:doc, '[]');
CREATE FUNCTION said(doc bigint, peer text, counter int, lamport int, deps text) RETURNS jsonb LANGUAGE sql AS
$$ SELECT crdt.push(doc, jsonb_build_object('peer_id', peer, 'frontier', '[]'::jsonb, 'events', jsonb_build_array(
       jsonb_build_object('peer', peer, 'counter_start', counter, 'lamport_start', lamport, 'deps', deps::jsonb, 'ops',
           '[{"type": "delete", "tbl": "notes", "row_id": "1"}]'::jsonb)))::json) -> 'server_frontier' $$;

--   ann 0 --- ann 1 --- ann 2
--      \                 /
--       bob 0 --- bob 1       cay 0
SELECT said(:doc, 'ann', 0, 1, '[]');
SELECT said(:doc, 'bob', 0, 2, '[["ann", 0]]');
SELECT said(:doc, 'bob', 1, 3, '[]');
SELECT said(:doc, 'ann', 1, 2, '[]');
SELECT said(:doc, 'ann', 2, 4, '[["bob", 1]]');
SELECT said(:doc, 'cay', 0, 1, '[]');
SELECT crdt.doc_sync_state(:doc);

SELECT a, b, crdt.compare(:doc, a, b), crdt.lca(:doc, a, b)
  FROM (VALUES ('[["ann", 1]]'::jsonb, '[["ann", 1]]'::jsonb),
               ('[["ann", 1]]', '[["ann", 0]]'),
               ('[["ann", 0]]', '[["bob", 1]]'),
               ('[["ann", 1]]', '[["bob", 0]]'),
               ('[["ann", 1], ["bob", 1]]', '[["bob", 0]]'),
               ('[["ann", 1], ["bob", 1]]', '[["ann", 2]]'),
               ('[["ann", 2]]', '[["bob", 1], ["cay", 0]]'),
               ('[["ann", 2], ["bob", 0]]', '[["ann", 2]]'),
               ('[]', '[["cay", 0]]'),
               ('[]', '[]'),
               ('[["ann", 2]]', '[["cay", 0]]')) AS v (a, b);

SELECT since, (SELECT jsonb_agg(jsonb_build_array(run -> 'peer', run -> 'counter_start', run -> 'deps', jsonb_array_length(run -> 'ops')))
                 FROM jsonb_array_elements(crdt.events_since(:doc, since)) AS run)
  FROM (VALUES ('[]'::jsonb), ('[["ann", 0]]'), ('[["ann", 1]]'), ('[["bob", 0]]'), ('[["ann", 2]]'),
               ('[["ann", 2], ["cay", 0]]')) AS v (since);

-- A frontier told twice, or with events its others already have, means the same version.
SELECT crdt.compare(:doc, '[["ann", 2], ["ann", 2], ["ann", 0], ["bob", 1]]', '[["ann", 2]]');

-- A prepared transaction is nobody's history until it commits, and then it is a head beside what came meanwhile.
CREATE TABLE prepared (id int PRIMARY KEY);
SELECT crdt.create_doc('hub', 'prepared') AS other \gset
SELECT crdt.track('prepared', doc => :other) = :other AS tracked;
BEGIN;
INSERT INTO prepared VALUES (1);
PREPARE TRANSACTION 'crdt versions';
INSERT INTO prepared VALUES (2);
INSERT INTO prepared VALUES (3);
SELECT plain(crdt.doc_sync_state(:other));
COMMIT PREPARED 'crdt versions';
SELECT plain(crdt.doc_sync_state(:other)), jsonb_array_length(crdt.events_since(:other, '[]')) AS runs;
INSERT INTO prepared VALUES (4);
SELECT plain(crdt.doc_sync_state(:other));
DROP TABLE prepared;

-- An event that is not there has no place.
\set VERBOSITY verbose
SELECT crdt.compare(:doc, '[["ann", 3]]', '[]');
SELECT crdt.lca(:doc, '[]', '[["dan", 0]]');
SELECT crdt.events_since(:doc, '[["bob", 2]]');
SELECT crdt.compare(:doc, '{}', '[]');
SELECT crdt.compare(:doc, '[["ann"]]', '[]');
SELECT crdt.lca(:doc, NULL, '[]');
SELECT crdt.compare(:doc, '[]', NULL);
SELECT crdt.events_since(NULL, '[]');
SELECT crdt.frontier(-1);
SELECT crdt.version(NULL);
SELECT crdt.doc_sync_state(-1);
\set VERBOSITY default
DROP FUNCTION said;
