-- Keys of types that not every server has: it may be built without ICU, or come without contrib modules.
\set VERBOSITY terse
SELECT crdt.create_doc('hub', 'refused by build') AS doc \gset
CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE k_loose (a text COLLATE loose PRIMARY KEY);
SELECT crdt.track('k_loose', :doc);
CREATE EXTENSION citext;
CREATE TABLE k_citext (a citext PRIMARY KEY);
SELECT crdt.track('k_citext', :doc);
DROP TABLE IF EXISTS k_loose, k_citext;
DROP COLLATION IF EXISTS loose;
DROP EXTENSION IF EXISTS citext;
\set VERBOSITY default
