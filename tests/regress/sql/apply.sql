-- What a table makes of events from outside: cascades, defaults, triggers. Table and log agree after each part.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'apply') AS doc \gset
CREATE FUNCTION pg_temp.run(peer text, counter int, lamport int, VARIADIC ops jsonb[]) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object('peer_id', peer, 'frontier', '[]'::jsonb, 'events', jsonb_build_array(jsonb_build_object(
        'peer', peer, 'counter_start', counter, 'lamport_start', lamport, 'deps', '[]'::jsonb, 'ops', to_jsonb(ops)))) $$;
CREATE FUNCTION pg_temp.ins(tbl text, row_id text, "values" jsonb) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT jsonb_build_object('type', 'insert', 'tbl', tbl, 'row_id', row_id, 'values', "values") $$;
CREATE FUNCTION pg_temp.upd(tbl text, row_id text, col text, value jsonb) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT jsonb_build_object('type', 'update', 'tbl', tbl, 'row_id', row_id, 'col', col, 'value', value) $$;
CREATE FUNCTION pg_temp.del(tbl text, row_id text) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT jsonb_build_object('type', 'delete', 'tbl', tbl, 'row_id', row_id) $$;

-- Foreign keys: cascades are events of this database, children may come before their parents.
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE, v text);
CREATE TABLE kid (id int PRIMARY KEY, tree int REFERENCES tree ON DELETE SET NULL ON UPDATE CASCADE, note text);
CREATE TABLE ring (id int PRIMARY KEY, next int REFERENCES ring DEFERRABLE INITIALLY DEFERRED);
SELECT crdt.track('tree', :doc) = :doc AS tree, crdt.track('kid', :doc) = :doc AS kid, crdt.track('ring', :doc) = :doc AS ring;
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2), (5, NULL), (21, NULL), (22, 21), (23, 22);
INSERT INTO kid VALUES (1, 5);
SELECT crdt.push(:doc, pg_temp.run('fk', 0, 100, pg_temp.del('tree', '1'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('fk', 1, 200, pg_temp.del('tree', '21'), pg_temp.del('tree', '22'), pg_temp.del('tree', '23'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('fk', 4, 300, pg_temp.del('tree', '5'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('fk', 5, 400, pg_temp.ins('kid', '2', '[["tree", 41], ["note", "before its parent"]]'),
    pg_temp.ins('tree', '41', '[["v", "after its child"]]'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('fk', 7, 500, pg_temp.ins('kid', '3', '[["tree", 999]]')));
SELECT crdt.push(:doc, pg_temp.run('fk', 7, 500, pg_temp.ins('ring', '2', '[["next", 1]]'), pg_temp.ins('ring', '1', '[["next", 2]]'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('fk', 9, 600, pg_temp.ins('ring', '5', '[["next", 55]]'))) -> 'accepted' AS "accepted, and refused at the end";
SELECT * FROM tree ORDER BY id;
SELECT * FROM kid ORDER BY id;
SELECT * FROM ring ORDER BY id;
SELECT * FROM crdt.verify('tree');
SELECT * FROM crdt.verify('kid');
SELECT * FROM crdt.verify('ring');

-- A unique value that moves from one row to another.
CREATE TABLE seat (id int PRIMARY KEY, who text UNIQUE);
SELECT crdt.track('seat', :doc) = :doc AS seat;
INSERT INTO seat VALUES (1, 'ann'), (2, 'bob'), (3, NULL);
SELECT crdt.push(:doc, pg_temp.run('seat', 0, 1000, pg_temp.del('seat', '1'), pg_temp.ins('seat', '9', '[["who", "ann"]]'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('seat', 2, 1010, pg_temp.del('seat', '2'), pg_temp.upd('seat', '3', 'who', '"bob"'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('seat', 4, 1020, pg_temp.upd('seat', '3', 'who', '"ann"')));
SELECT * FROM seat ORDER BY id;
SELECT * FROM crdt.verify('seat');

-- Triggers that do elsewhere what the push brings as well, in either order of the tables.
CREATE TABLE before_item (k text PRIMARY KEY, n int);
CREATE TABLE item (id int PRIMARY KEY, k text);
CREATE TABLE past_item (k text PRIMARY KEY, n int, d int DEFAULT 9);
SELECT crdt.track('before_item', :doc) = :doc AS before_item, crdt.track('item', :doc) = :doc AS item, crdt.track('past_item', :doc) = :doc AS past_item;
CREATE FUNCTION tally() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO before_item VALUES (NEW.k, 1) ON CONFLICT (k) DO UPDATE SET n = before_item.n + 1;
        INSERT INTO past_item VALUES (NEW.k, 1) ON CONFLICT (k) DO UPDATE SET n = past_item.n + 1;
    ELSE
        DELETE FROM before_item WHERE k = OLD.k;
        DELETE FROM past_item WHERE k = OLD.k;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER tally AFTER INSERT OR DELETE ON item FOR EACH ROW EXECUTE FUNCTION tally();
SELECT crdt.push(:doc, pg_temp.run('tally', 0, 1100, pg_temp.ins('item', '1', '[["k", "x"]]'), pg_temp.ins('before_item', 'x', '[["n", 5]]'),
    pg_temp.ins('past_item', 'x', '[["n", 5]]'))) -> 'accepted' AS accepted;
SELECT * FROM before_item, past_item;
SELECT * FROM crdt.verify('before_item');
SELECT * FROM crdt.verify('past_item');
SELECT crdt.push(:doc, pg_temp.run('tally', 3, 1200, pg_temp.del('item', '1'), pg_temp.del('before_item', 'x'), pg_temp.upd('past_item', 'x', 'n', '4'))) -> 'accepted' AS accepted;
SELECT (SELECT count(*) FROM before_item) AS before_item, (SELECT count(*) FROM past_item) AS past_item;
SELECT * FROM crdt.verify('before_item');
SELECT * FROM crdt.verify('past_item');
-- A trigger that writes another tracked table is captured once.
CREATE TABLE src (id int PRIMARY KEY, v text);
CREATE TABLE audit (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text);
SELECT crdt.track('src', :doc) = :doc AS src, crdt.track('audit', :doc) = :doc AS audit;
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit (what) VALUES (NEW.v); RETURN NULL; END $$;
CREATE TRIGGER audit AFTER INSERT OR UPDATE ON src FOR EACH ROW EXECUTE FUNCTION audit();
SELECT crdt.push(:doc, pg_temp.run('src', 0, 1300, pg_temp.ins('src', '1', '[["v", "a"]]'), pg_temp.upd('src', '1', 'v', '"b"'))) -> 'accepted' AS accepted;
SELECT * FROM audit;
SELECT operation, count(DISTINCT lamport) AS events FROM crdt.history('audit', '1') GROUP BY operation;
SELECT * FROM crdt.verify('src');
SELECT * FROM crdt.verify('audit');

-- Defaults lose to what anybody wrote, in whatever order it comes.
CREATE TABLE df (id int PRIMARY KEY, a text, c int DEFAULT 42, t timestamptz DEFAULT now(), u uuid DEFAULT gen_random_uuid(),
    i int GENERATED BY DEFAULT AS IDENTITY, always int GENERATED ALWAYS AS IDENTITY, g int GENERATED ALWAYS AS (id * 2) STORED);
SELECT crdt.track('df', :doc) = :doc AS df;
SELECT crdt.push(:doc, pg_temp.run('x', 0, 2003, pg_temp.ins('df', '1', '[["a", "x"], ["c", 7]]'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('y', 0, 2005, pg_temp.ins('df', '1', '[["a", "y"]]'), pg_temp.ins('df', '2', '[["a", "y"]]'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('x', 1, 2004, pg_temp.ins('df', '2', '[["a", "x"], ["c", 7]]'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('z', 0, 2100, pg_temp.ins('df', '3', '[["a", "z"]]'))) -> 'accepted' AS accepted;
INSERT INTO df (id) VALUES (77);
SELECT id, a, c, t IS NOT NULL AS t, u IS NOT NULL AS u, i, always, g FROM df ORDER BY id;
-- The author ticked it before he saw the default.
SELECT crdt.push(:doc, pg_temp.run('z', 1, 2101, pg_temp.upd('df', '3', 'c', '5'), pg_temp.upd('df', '3', 'always', '500'), pg_temp.upd('df', '3', 'i', '600'))) -> 'accepted' AS accepted;
SELECT id, a, c, i, always, g FROM df WHERE id = 3;
SELECT * FROM crdt.verify('df');
-- A null is a value that somebody wrote.
SELECT crdt.push(:doc, pg_temp.run('z', 4, 2200, pg_temp.ins('df', '4', '[["c", null], ["t", null]]'))) -> 'accepted' AS accepted;
SELECT c, t FROM df WHERE id = 4;
-- Deleted and inserted again, elsewhere: what was there before is gone.
SELECT crdt.push(:doc, pg_temp.run('z', 5, 2300, pg_temp.del('df', '3'), pg_temp.ins('df', '3', '[["a", "again"]]'))) -> 'accepted' AS accepted;
SELECT id, a, c FROM df WHERE id = 3;
SELECT * FROM crdt.verify('df');

-- BEFORE triggers that rewrite.
CREATE TABLE up (id int PRIMARY KEY, a text, b text, updated_at timestamptz);
SELECT crdt.track('up', :doc) = :doc AS up;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON up FOR EACH ROW EXECUTE FUNCTION touch();
INSERT INTO up VALUES (1, 'a', 'b');
UPDATE up SET a = 'a2';
SELECT crdt.push(:doc, pg_temp.run('late', 0, 1, pg_temp.upd('up', '1', 'b', '"older than the row"'))) -> 'accepted' AS accepted;
SELECT a, b FROM up;
SELECT crdt.push(:doc, pg_temp.run('late', 1, 3000, pg_temp.upd('up', '1', 'b', '"wins"'))) -> 'accepted' AS accepted;
SELECT * FROM crdt.verify('up');
UPDATE up SET a = 'a3';
SELECT crdt.push(:doc, pg_temp.run('later', 0, 2950, pg_temp.upd('up', '1', 'a', '"loses"'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('late', 2, 3100, pg_temp.upd('up', '1', 'updated_at', '"2020-01-01 00:00:00+00"'))) -> 'accepted' AS accepted;
SELECT a, b, updated_at > '2021-01-01' AS rewritten FROM up;
SELECT * FROM crdt.verify('up');
-- One that keeps a deleted row, one that changes the key.
CREATE TABLE soft (id int PRIMARY KEY, gone bool DEFAULT false);
SELECT crdt.track('soft', :doc) = :doc AS soft;
CREATE FUNCTION soft_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE soft SET gone = true WHERE id = OLD.id; RETURN NULL; END $$;
CREATE TRIGGER soft_delete BEFORE DELETE ON soft FOR EACH ROW EXECUTE FUNCTION soft_delete();
INSERT INTO soft VALUES (1), (2);
DELETE FROM soft WHERE id = 1;
SELECT crdt.push(:doc, pg_temp.run('soft', 0, 3200, pg_temp.del('soft', '2')));
SELECT * FROM soft ORDER BY id;
SELECT * FROM crdt.verify('soft');
CREATE TABLE renamed (id int PRIMARY KEY, v text);
SELECT crdt.track('renamed', :doc) = :doc AS renamed;
CREATE FUNCTION another_key() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 1000; RETURN NEW; END $$;
CREATE TRIGGER another_key BEFORE INSERT OR UPDATE ON renamed FOR EACH ROW EXECUTE FUNCTION another_key();
INSERT INTO renamed VALUES (1, 'sql');
SELECT crdt.push(:doc, pg_temp.run('key', 0, 3300, pg_temp.ins('renamed', '5', '[["v", "pushed"]]'), pg_temp.upd('renamed', '1001', 'v', '"changed"'))) -> 'accepted' AS accepted;
SELECT * FROM renamed ORDER BY id;
SELECT * FROM crdt.verify('renamed');

-- SQL and push in one transaction; transactions that push cannot wait for a second phase, nor look at an old snapshot.
BEGIN;
UPDATE src SET v = 'sql' WHERE id = 1;
SELECT crdt.push(:doc, pg_temp.run('src', 2, 4000, pg_temp.upd('src', '1', 'v', '"pushed"'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('old', 0, 1, pg_temp.upd('src', '1', 'v', '"too old"'))) -> 'accepted' AS accepted;
SELECT v FROM src;
UPDATE src SET v = 'sql again' WHERE id = 1;
COMMIT;
SELECT v FROM src;
SELECT * FROM crdt.verify('src');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT crdt.push(:doc, pg_temp.run('src', 3, 5000, pg_temp.upd('src', '1', 'v', '"pushed"')));
ROLLBACK;
BEGIN READ ONLY;
SELECT crdt.push(:doc, pg_temp.run('src', 3, 5000, pg_temp.upd('src', '1', 'v', '"pushed"')));
ROLLBACK;
BEGIN;
SELECT crdt.push(:doc, pg_temp.run('src', 3, 5000, pg_temp.upd('src', '1', 'v', '"pushed"'))) -> 'accepted' AS accepted;
PREPARE TRANSACTION 'never';

-- Rows that row security hides: refused, and nothing is told.
CREATE ROLE apply_user;
CREATE TABLE secret (id int PRIMARY KEY, owner name, v text);
SELECT crdt.track('secret', :doc) = :doc AS secret;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user);
GRANT ALL ON secret TO apply_user;
GRANT USAGE ON SCHEMA crdt TO apply_user;
GRANT EXECUTE ON FUNCTION crdt.push(bigint, crdt.request) TO apply_user;
INSERT INTO secret VALUES (1, 'postgres', 'secret'), (2, 'apply_user', 'mine');
SET ROLE apply_user;
SELECT crdt.push(:doc, pg_temp.run('user', 0, 5100, pg_temp.upd('secret', '1', 'v', '"broken"')));
SELECT crdt.push(:doc, pg_temp.run('user', 0, 5100, pg_temp.ins('secret', '1', '[["owner", "apply_user"]]')));
SELECT crdt.push(:doc, pg_temp.run('user', 0, 5100, pg_temp.del('secret', '1')));
SELECT crdt.push(:doc, pg_temp.run('user', 0, 5100, pg_temp.ins('secret', '3', '[["owner", "postgres"]]')));
SELECT crdt.push(:doc, pg_temp.run('user', 0, 5100, pg_temp.upd('src', '1', 'v', '"no grant"')));
SELECT crdt.push(:doc, pg_temp.run('user', 0, 5100, pg_temp.ins('secret', '4', '[["owner", "apply_user"]]'), pg_temp.upd('secret', '2', 'v', '"still mine"'))) -> 'accepted' AS accepted;
SELECT crdt.push(:doc, pg_temp.run('src', 3, 5200, pg_temp.upd('secret', '2', 'v', '"as somebody else"')));
RESET ROLE;
SELECT * FROM secret ORDER BY id;
SELECT * FROM crdt.verify('secret');

-- Types whose casts from text are not their input functions.
CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION pair(text) RETURNS pair LANGUAGE sql IMMUTABLE AS $$ SELECT ROW(length($1), 0)::pair $$;
CREATE CAST (text AS pair) WITH FUNCTION pair(text);
CREATE TABLE odd (id int PRIMARY KEY, c regclass, p pair);
SELECT crdt.track('odd', :doc) = :doc AS odd;
SELECT crdt.push(:doc, pg_temp.run('odd', 0, 5300, pg_temp.ins('odd', '1', '[["c", "-"], ["p", {"a": 3, "b": 4}]]'),
    pg_temp.ins('odd', '2', '[["c", "pg_class"], ["p", null]]'))) -> 'accepted' AS accepted;
SELECT * FROM odd ORDER BY id;
SELECT * FROM crdt.verify('odd');
DROP TABLE odd;
DROP CAST (text AS pair);
DROP FUNCTION pair(text);
DROP TYPE pair;

DROP TABLE tree, kid, ring, seat, before_item, item, past_item, src, audit, df, up, soft, renamed, secret;
DROP FUNCTION tally, audit, touch, soft_delete, another_key;
REVOKE ALL ON SCHEMA crdt FROM apply_user;
REVOKE ALL ON FUNCTION crdt.push(bigint, crdt.request) FROM apply_user;
DROP ROLE apply_user;
