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
GRANT EXECUTE ON FUNCTION crdt.pull(bigint, jsonb), crdt.pull_binary(bigint, bytea), crdt.doc_get_pending(bigint, jsonb),
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
