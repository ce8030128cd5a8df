-- Nothing is PUBLIC's.
SET client_min_messages = warning;
SELECT p.oid::regprocedure FROM pg_proc AS p
 WHERE p.pronamespace = 'crdt'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE');
SELECT c.oid::regclass FROM pg_class AS c
 WHERE c.relnamespace = 'crdt'::regnamespace AND c.relkind IN ('r', 'v', 'S')
   AND (has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'));
SELECT has_schema_privilege('public', 'crdt', 'USAGE') OR has_schema_privilege('public', 'crdt', 'CREATE') AS schema;

SELECT crdt.create_doc('hub', 'privileges') AS doc \gset
CREATE TABLE secrets (id int PRIMARY KEY, v text);
SELECT crdt.track('secrets', doc => :doc) = :doc AS tracked;
INSERT INTO secrets VALUES (1, 'a');
CREATE ROLE crdt_app;
SET ROLE crdt_app;
SELECT crdt.pull(1, '{}');
RESET ROLE;
GRANT USAGE ON SCHEMA crdt TO crdt_app;
SET ROLE crdt_app;
SELECT crdt.pull(1, '{}');
SELECT * FROM crdt.docs;
SELECT * FROM crdt.event_run;
RESET ROLE;

-- Two grants let a role read along; tables of the extension stay closed.
GRANT EXECUTE ON FUNCTION crdt.pull(bigint, crdt.request), crdt.pull_binary(bigint, bytea), crdt.doc_get_pending(bigint, jsonb),
    crdt.frontier(bigint), crdt.version(bigint), crdt.doc_sync_state(bigint), crdt.lca(bigint, jsonb, jsonb),
    crdt.compare(bigint, jsonb, jsonb), crdt.events_since(bigint, jsonb), crdt.history(regclass, text),
    crdt.verify(regclass), crdt.repair(regclass, text) TO crdt_app;
SET ROLE crdt_app;
SELECT crdt.pull(:doc, '{}') -> 'has_more' AS more, length(crdt.pull_binary(:doc, '\xcdb201020000')) > 0 AS binary,
       jsonb_array_length(crdt.doc_get_pending(:doc, '{}')) AS pending, jsonb_array_length(crdt.frontier(:doc)) AS heads,
       jsonb_array_length(crdt.events_since(:doc, '[]')) AS since, crdt.compare(:doc, '[]', crdt.frontier(:doc)),
       crdt.lca(:doc, '[]', crdt.frontier(:doc)), crdt.doc_sync_state(:doc) -> 'versions' = crdt.version(:doc) AS version;
SELECT operation, "column", value FROM crdt.history('secrets', '1');
SELECT * FROM crdt.verify('secrets');
SELECT crdt.repair('secrets', 'log');
SELECT * FROM secrets;
RESET ROLE;
-- What disagrees is shown to who may read all of the table.
SET session_replication_role = replica;
INSERT INTO secrets VALUES (2, 'escaped');
RESET session_replication_role;
GRANT SELECT ON secrets TO crdt_app;
SET ROLE crdt_app;
SELECT row_id FROM crdt.verify('secrets');
RESET ROLE;
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
SET ROLE crdt_app;
SELECT row_id FROM crdt.verify('secrets');
RESET ROLE;
ALTER TABLE secrets DISABLE ROW LEVEL SECURITY;
SELECT crdt.repair('secrets', 'table');

-- Who may write the table needs nothing of the extension: capture asks for no right.
REVOKE ALL ON SCHEMA crdt FROM crdt_app;
GRANT SELECT, UPDATE ON secrets TO crdt_app;
SET ROLE crdt_app;
UPDATE secrets SET v = 'b';
RESET ROLE;
SELECT actor, operation, value FROM crdt.history('secrets', '1') WHERE "column" = 'v';
DROP OWNED BY crdt_app;
DROP ROLE crdt_app;
DROP TABLE secrets;

-- Ephemeral registers and notifications.
SELECT crdt.create_doc('hub', 'privileges of registers') AS doc \gset
CREATE ROLE crdt_app;
GRANT USAGE ON SCHEMA crdt TO crdt_app;
SET ROLE crdt_app;
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '1');
SELECT crdt.ephemeral_get(:doc, 'ns', 'k');
SELECT crdt.ephemeral_since(:doc, 0);
SELECT crdt.ephemeral_clear(:doc);
SELECT crdt.presence(:doc);
SELECT crdt.set_notify_payload(:doc, false);
SELECT crdt.stat_ephemeral_reset();
SELECT * FROM crdt.ephemeral;
SELECT * FROM crdt.stat_ephemeral;
SET crdt_db.ephemeral_max_value = '1MB';
SET crdt_db.ephemeral_role_share = 100;
SET crdt_db.max_timestamp_drift = '1d';
SET crdt_db.notify_payload = on;
-- Its own time to live is anybody's to choose.
SET crdt_db.ephemeral_ttl = '1min';
RESET ROLE;
GRANT EXECUTE ON FUNCTION crdt.ephemeral_set(bigint, text, text, jsonb, float8, text, interval), crdt.ephemeral_get(bigint, text, text) TO crdt_app;
SET ROLE crdt_app;
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '1', 1, 'p');
SELECT crdt.ephemeral_get(:doc, 'ns', 'k');
SELECT crdt.ephemeral_remove(:doc, 'ns', 'k');
RESET ROLE;
-- A view asks for the function it calls, too.
GRANT SELECT ON crdt.ephemeral, crdt.stat_ephemeral TO crdt_app;
SET ROLE crdt_app;
SELECT key FROM crdt.ephemeral WHERE doc = :doc;
RESET ROLE;
GRANT EXECUTE ON FUNCTION crdt.ephemeral_entries(), crdt.ephemeral_stats() TO crdt_app;
SET ROLE crdt_app;
SELECT key FROM crdt.ephemeral WHERE doc = :doc;
SELECT entries > 0 AS entries FROM crdt.stat_ephemeral;
RESET ROLE;
-- Whoever may execute it sets what notifications tell, though the table is not theirs.
GRANT EXECUTE ON FUNCTION crdt.set_notify_payload(bigint, boolean) TO crdt_app;
SET ROLE crdt_app;
SELECT crdt.set_notify_payload(:doc, false);
SELECT crdt.set_notify_payload(:doc, NULL);
SELECT crdt.set_notify_payload(-1, true);
RESET ROLE;
SELECT notify_payload FROM crdt.doc WHERE doc = :doc;
SELECT crdt.set_notify_payload(:doc, true);
SELECT notify_payload FROM crdt.doc WHERE doc = :doc;
SELECT crdt.ephemeral_clear(:doc);
DROP OWNED BY crdt_app;
DROP ROLE crdt_app;
