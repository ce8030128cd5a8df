-- What is rolled back is not logged, and counters have no holes.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'savepoints') AS doc \gset
CREATE TABLE sp (id int PRIMARY KEY, v text);
SELECT crdt.track('sp', :doc) = :doc AS tracked;
BEGIN;
INSERT INTO sp VALUES (40, 'kept');
SAVEPOINT a;
INSERT INTO sp VALUES (41, 'lost');
UPDATE sp SET v = 'lost' WHERE id = 40;
ROLLBACK TO a;
INSERT INTO sp VALUES (42, 'kept');
SAVEPOINT b;
INSERT INTO sp VALUES (43, 'kept');
RELEASE b;
SAVEPOINT c;
DELETE FROM sp WHERE id = 43;
SAVEPOINT d;
INSERT INTO sp VALUES (44, 'lost');
RELEASE d;
ROLLBACK TO c;
COMMIT;
DO $$ BEGIN
    FOR i IN 50..55 LOOP
        BEGIN
            INSERT INTO sp VALUES (i, 'in the block');
            IF i % 2 = 0 THEN RAISE 'undo'; END IF;
        EXCEPTION WHEN raise_exception THEN
            INSERT INTO sp VALUES (i + 100, 'in the handler');
        END;
    END LOOP;
END $$;
-- A procedure that commits in between.
CREATE PROCEDURE in_parts() LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO sp VALUES (60, 'first'); COMMIT;
    INSERT INTO sp VALUES (61, 'never'); ROLLBACK;
    INSERT INTO sp VALUES (62, 'third');
END $$;
CALL in_parts();
-- An error in the statement, in the capturing trigger's own time, in a constraint at the end.
BEGIN;
INSERT INTO sp VALUES (70, 'kept');
SAVEPOINT a;
INSERT INTO sp VALUES (71, 'lost'), (70, 'duplicate');
ROLLBACK TO a;
INSERT INTO sp VALUES (72, 'kept');
COMMIT;
SELECT * FROM sp ORDER BY id;
SELECT * FROM crdt.verify('sp');

-- A huge transaction is written early, in parts; parts of a savepoint go with it.
BEGIN;
INSERT INTO sp SELECT i, repeat(md5(i::text), 30) FROM generate_series(1001, 10000) AS i;
SAVEPOINT s;
INSERT INTO sp SELECT i, repeat(md5(i::text), 30) FROM generate_series(10001, 19000) AS i;
UPDATE sp SET v = 'lost' WHERE id < 1010;
ROLLBACK TO s;
INSERT INTO sp SELECT i, repeat(md5(i::text), 30) FROM generate_series(19001, 28000) AS i;
UPDATE sp SET v = 'kept' WHERE id < 1010;
COMMIT;
INSERT INTO sp VALUES (0, 'after');
SELECT count(*), count(*) FILTER (WHERE v = 'kept') AS kept FROM sp;
SELECT count(*) FROM crdt.verify('sp');
BEGIN;
SAVEPOINT s;
INSERT INTO sp SELECT i, repeat(md5(i::text), 30) FROM generate_series(40001, 49000) AS i;
ROLLBACK TO s;
INSERT INTO sp VALUES (1, 'after a savepoint that was all there was');
COMMIT;
BEGIN;
INSERT INTO sp SELECT i, repeat(md5(i::text), 30) FROM generate_series(40001, 49000) AS i;
ROLLBACK;
INSERT INTO sp VALUES (2, 'after a transaction that never was');
SELECT count(*) FROM crdt.verify('sp');
SELECT count(*) AS holes FROM (
    SELECT counter_start, lag(counter_end + 1, 1, 0::bigint) OVER (PARTITION BY peer ORDER BY counter_start) AS expected
    FROM crdt.event_run WHERE doc = :doc) AS runs
WHERE counter_start <> expected;

-- Around push.
CREATE FUNCTION one_insert(peer text, counter int, lamport int, row_id text, v text) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object('peer_id', peer, 'frontier', '[]'::jsonb, 'events', jsonb_build_array(jsonb_build_object(
        'peer', peer, 'counter_start', counter, 'lamport_start', lamport, 'deps', '[]'::jsonb, 'ops', jsonb_build_array(
        jsonb_build_object('type', 'insert', 'tbl', 'sp', 'row_id', row_id, 'values', jsonb_build_array(jsonb_build_array('v', v))))))) $$;
SELECT max(lamport_end) + 100 AS now FROM crdt.event_run WHERE doc = :doc \gset
BEGIN;
SAVEPOINT a;
SELECT crdt.push(:doc, one_insert('client', 0, :now, '-1', 'lost')) -> 'accepted' AS accepted;
ROLLBACK TO a;
SELECT crdt.push(:doc, one_insert('client', 0, :now, '-2', 'kept')) -> 'accepted' AS accepted;
INSERT INTO sp VALUES (-3, 'sql');
COMMIT;
SET my.doc = :doc;
SET my.now = :now;
DO $$ BEGIN
    PERFORM crdt.push(current_setting('my.doc')::bigint, one_insert('client', 1, current_setting('my.now')::int + 10, '-4', 'lost'));
    RAISE 'undo';
EXCEPTION WHEN raise_exception THEN
    PERFORM crdt.push(current_setting('my.doc')::bigint, one_insert('client', 1, current_setting('my.now')::int + 10, '-5', 'kept'));
END $$;
SELECT * FROM sp WHERE id < 0 ORDER BY id;
SELECT count(*) FROM crdt.verify('sp');
-- Pushes that are rolled back do not move the doc's clock.
DO $$ BEGIN
    FOR i IN 1..20 LOOP
        BEGIN
            PERFORM crdt.push(current_setting('my.doc')::bigint, one_insert('far', 0, current_setting('my.now')::int + 60000, '-6', 'lost'));
            RAISE 'undo';
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
END $$;
INSERT INTO sp VALUES (-7, 'sql');
SELECT max(lamport_end) < :now + 20 AS "within its bound" FROM crdt.event_run WHERE doc = :doc;
SELECT crdt.untrack('sp');
DROP TABLE sp;
DROP FUNCTION one_insert;
DROP PROCEDURE in_parts;
