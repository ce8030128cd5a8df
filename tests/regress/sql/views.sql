-- What an administrator looks at.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'views') AS doc \gset
CREATE TABLE seen (id int PRIMARY KEY, v text);
SELECT crdt.track('seen', doc => :doc) = :doc AS tracked;
INSERT INTO seen VALUES (1, 'a'), (2, 'b');
SELECT crdt.push(:doc, '{"peer_id": "ann", "frontier": [], "events": [
    {"peer": "ann", "counter_start": 0, "lamport_start": 5, "deps": [], "ops": [
        {"type": "update", "tbl": "seen", "row_id": "1", "col": "v", "value": "c"}]}]}') -> 'accepted' AS accepted;
UPDATE seen SET v = 'd' WHERE id = 2;

SELECT name, peer, events, peers, runs, bytes > 0 AS bytes, lamport, tables, opaque_ops FROM crdt.docs WHERE doc = :doc;
SELECT plain(peer) AS peer, owner, own, events, lamport, last_seen IS NOT NULL AS seen
  FROM crdt.peers WHERE doc = :doc ORDER BY 1;
SELECT tbl, alias, doc = :doc AS doc, doc_column, captured FROM crdt.tracked_tables WHERE tbl = 'seen'::regclass;
SELECT plain(peer) AS peer, counter_start, counter_end, lamport_start, lamport_end, plain(deps) AS deps, actor, ops
  FROM crdt.event_runs WHERE doc = :doc ORDER BY lamport_start;
ALTER TABLE seen DISABLE TRIGGER zz_crdt_update;
SELECT captured FROM crdt.tracked_tables WHERE tbl = 'seen'::regclass;

-- Everything says what it is.
SELECT c.relname, a.attname
  FROM pg_class AS c LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND c.relkind = 'v'
 WHERE c.relnamespace = 'crdt'::regnamespace AND c.relkind IN ('r', 'v')
   AND col_description(c.oid, COALESCE(a.attnum, 0)) IS NULL;
SELECT p.oid::regprocedure FROM pg_proc AS p
 WHERE p.pronamespace = 'crdt'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
\set VERBOSITY verbose
SELECT crdt.run_ops('\x00');
SELECT crdt.run_deps('\xff');
SELECT crdt.run_ops(NULL);
\set VERBOSITY default
DROP TABLE seen;
