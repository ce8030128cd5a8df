-- Tables that cannot be tracked: each says why, and what to do.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'refused') AS doc \gset
CREATE TABLE keyless (a int);
SELECT crdt.track('keyless', :doc);
CREATE TABLE later (a int PRIMARY KEY DEFERRABLE);
SELECT crdt.track('later', :doc);
CREATE TABLE k_numeric (a numeric PRIMARY KEY);
SELECT crdt.track('k_numeric', :doc);
CREATE TABLE k_float (a float8 PRIMARY KEY);
SELECT crdt.track('k_float', :doc);
CREATE TABLE k_interval (a interval PRIMARY KEY);
SELECT crdt.track('k_interval', :doc);
CREATE TABLE k_jsonb (a jsonb PRIMARY KEY);
SELECT crdt.track('k_jsonb', :doc);
CREATE TABLE k_timetz (a timetz PRIMARY KEY);
SELECT crdt.track('k_timetz', :doc);
CREATE TABLE k_array (a int[] PRIMARY KEY);
SELECT crdt.track('k_array', :doc);
CREATE DOMAIN amount AS numeric;
CREATE TABLE k_domain (id int, a amount, PRIMARY KEY (id, a));
SELECT crdt.track('k_domain', :doc);
CREATE TABLE k_generated (a int, b int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
SELECT crdt.track('k_generated', :doc);
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
SELECT crdt.track('unlogged', :doc);
CREATE VIEW a_view AS SELECT 1 AS a;
SELECT crdt.track('a_view', :doc);
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS a;
SELECT crdt.track('a_matview', :doc);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE a_foreign (a int) SERVER nowhere;
SELECT crdt.track('a_foreign', :doc);
CREATE SEQUENCE a_sequence;
SELECT crdt.track('a_sequence', :doc);
CREATE TABLE parent (a int PRIMARY KEY);
CREATE TABLE heir (b int, PRIMARY KEY (a)) INHERITS (parent);
SELECT crdt.track('parent', :doc);
SELECT crdt.track('heir', :doc);
SELECT crdt.track('pg_class', :doc);
SELECT crdt.track('crdt.doc', :doc);
SELECT crdt.track(NULL);
SELECT crdt.track('nowhere_to_be_found');
\set VERBOSITY sqlstate
SELECT crdt.track(99999999::oid::regclass);
SELECT crdt.untrack(99999999::oid::regclass);
SELECT crdt.verify(99999999::oid::regclass);
SELECT crdt.repair(99999999::oid::regclass, 'log');
\set VERBOSITY default
SELECT crdt.history(99999999::oid::regclass, '1');
CREATE TABLE fine (a int PRIMARY KEY, d text);
SELECT crdt.track('fine', -1);
SELECT crdt.track('fine', :doc, 'd');
SELECT crdt.track('fine', doc_column => 'nope');
SELECT crdt.track('fine', :doc, alias => '');
CREATE TABLE by_number (id int PRIMARY KEY, d numeric NOT NULL);
SELECT crdt.track('by_number', doc_column => 'd');
SELECT crdt.track('fine', :doc) = :doc AS tracked;
SELECT crdt.track('fine', :doc);
CREATE TABLE other (a int PRIMARY KEY);
SELECT crdt.track('other', :doc, alias => 'fine');
SELECT crdt.untrack('other');
SELECT crdt.create_doc('');
SELECT crdt.create_doc('a:b');
SELECT crdt.create_doc('hub', '');
SELECT crdt.create_doc('hub', 'refused');
SELECT crdt.doc('unheard of');
-- A key that is written in its one way, whatever the session's settings.
CREATE TABLE k_time (a timestamptz, b date, c bytea, d bool, e uuid, f inet, PRIMARY KEY (a, b, c, d, e, f));
SELECT crdt.track('k_time', :doc) = :doc AS tracked;
SET timezone = 'Asia/Kolkata';
SET datestyle = 'German';
SET bytea_output = 'escape';
INSERT INTO k_time VALUES ('2024-02-29 12:00:00+00', '2024-02-29', '\x00ff', true, '6ECD8C99-4036-403D-BF84-CF8400F67836', '10.0.0.1');
SELECT crdt.doc_insert(:doc, 'k_time',
    '["2024-03-01 00:00:00+00","2024-03-01","\\x01","false","6ecd8c99-4036-403d-bf84-cf8400f67836","10.0.0.0/8"]', '{}') ->> 'lamport' AS lamport;
SELECT crdt.doc_insert(:doc, 'k_time',
    '["2024-03-01 05:30:00+05:30","2024-03-01","\\x01","false","6ecd8c99-4036-403d-bf84-cf8400f67836","10.0.0.0/8"]', '{}');
RESET timezone; RESET datestyle; RESET bytea_output;
SELECT count(*) FROM k_time;
SELECT * FROM crdt.verify('k_time');
SELECT crdt.doc_insert(:doc, 'fine', '01', '{}');
SELECT crdt.doc_insert(:doc, 'fine', 'one', '{}');
SELECT crdt.doc_insert(:doc, 'fine', '5000000000', '{}');
SELECT crdt.doc_insert(:doc, 'fine', '1', '{"a": 2}');
SELECT crdt.doc_insert(:doc, 'k_time', 'x', '{}');
SELECT crdt.doc_insert(:doc, 'k_time', '["1"]', '{}');
SELECT crdt.untrack('fine');
SELECT crdt.untrack('fine');
INSERT INTO fine VALUES (1);
DROP TABLE keyless, later, k_numeric, k_float, k_interval, k_jsonb, k_timetz, k_array, k_domain, k_generated,
    unlogged, heir, parent, by_number, fine, other, k_time;
DROP VIEW a_view;
DROP MATERIALIZED VIEW a_matview;
DROP FOREIGN DATA WRAPPER nothing CASCADE;
DROP SEQUENCE a_sequence;
DROP DOMAIN amount;
