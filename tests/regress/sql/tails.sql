-- The youngest runs of plain SQL carry their rows' keys themselves, until there are enough for a set of pages and a span:
-- rows and times are found in them as in the rest of the log.
SELECT crdt.create_doc('hub', 'tails') AS doc \gset
CREATE TABLE tails (id int PRIMARY KEY, n int, v text);
SELECT crdt.track('tails', doc => :doc) = :doc AS tracked;

CREATE PROCEDURE write_singly(first int, last int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN first..last LOOP
        INSERT INTO tails VALUES (i % 7, i) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
        COMMIT;
    END LOOP;
END $$;

-- Runs of the tail, and those of them that carry keys; how often rows were found to be written, and how often they were.
CREATE FUNCTION tail() RETURNS TABLE (runs bigint, carried bigint) LANGUAGE sql AS $$
    SELECT count(*), count(r.keys) FROM crdt.event_run AS r JOIN crdt.event_tail AS t USING (doc, peer)
     WHERE doc = crdt.doc('tails') AND r.counter_start >= t.counter_start $$;
CREATE FUNCTION found() RETURNS TABLE (found bigint, written bigint) LANGUAGE sql AS $$
    SELECT (SELECT count(DISTINCT (h.peer, h.counter)) FROM generate_series(0, 400) AS id, crdt.history('tails', id::text) AS h),
           (SELECT count(*) FROM crdt.event_runs AS r, jsonb_array_elements(r.ops)
             WHERE r.doc = crdt.doc('tails')) $$;

CALL write_singly(1, 100);
SELECT * FROM tail();
SELECT * FROM found();
CALL write_singly(101, 300);
SELECT * FROM tail();
SELECT count(*) FROM crdt.event_span WHERE doc = :doc;
SELECT * FROM found();

-- A statement that writes many rows ends the tail, its own rows included.
INSERT INTO tails SELECT g, g FROM generate_series(100, 199) AS g;
SELECT * FROM tail();
SELECT * FROM found();

-- What a savepoint undoes neither ends nor lengthens it.
CALL write_singly(301, 303);
BEGIN;
UPDATE tails SET v = 'kept' WHERE id = 1;
SAVEPOINT s;
INSERT INTO tails SELECT g, g FROM generate_series(200, 299) AS g;
SELECT crdt.doc_insert(:doc, 'other', 'x', '{}') ->> 'op' IS NOT NULL AS written;
ROLLBACK TO s;
UPDATE tails SET v = 'after' WHERE id = 2;
COMMIT;
SELECT * FROM tail();
SELECT * FROM found();

-- Nor what is rolled back, or prepared and rolled back; what is committed of those is in it.
BEGIN;
INSERT INTO tails SELECT g, g FROM generate_series(200, 299) AS g;
ROLLBACK;
BEGIN;
INSERT INTO tails SELECT g, g FROM generate_series(200, 299) AS g;
PREPARE TRANSACTION 'tails';
SELECT * FROM tail();
ROLLBACK PREPARED 'tails';
BEGIN;
UPDATE tails SET v = 'prepared' WHERE id = 3;
PREPARE TRANSACTION 'tails';
COMMIT PREPARED 'tails';
SELECT * FROM tail();
SELECT * FROM found();

-- Single events made by functions are in the tail like others.
SELECT count(crdt.doc_update(:doc, 'tails', '4', 'v', to_jsonb('u' || g))) FROM generate_series(1, 40) AS g;
SELECT * FROM tail();
SELECT * FROM found();

-- An old write loses to one that is in the tail and to one that is in a span; a new one wins.
CREATE FUNCTION pushed(peer text, lamport bigint, id int) RETURNS json LANGUAGE sql AS $$
    SELECT crdt.push(crdt.doc('tails'), json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', json_build_array(
        json_build_object('peer', peer, 'counter_start', 0, 'lamport_start', lamport, 'deps', '[]'::json, 'ops', json_build_array(
            json_build_object('type', 'update', 'tbl', 'tails', 'row_id', id::text, 'col', 'n', 'value', -id)))))) -> 'accepted' $$;
UPDATE tails SET n = 1000 WHERE id = 5;
SELECT pushed('old', 150, 5), pushed('older', 150, 100), pushed('new', (SELECT lamport + 1 FROM crdt.docs WHERE doc = :doc), 101);
SELECT * FROM tails WHERE id IN (1, 2, 3, 4, 5, 100, 101) ORDER BY id;
SELECT * FROM crdt.verify('tails');

-- Each push is covered by the next write alone. Heads that nobody remembers are looked for upwards from each peer's last
-- event, in spans and in the tail.
CREATE PROCEDURE push_and_write(times int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..times LOOP
        PERFORM pushed('peer ' || i, (SELECT lamport + 1 FROM crdt.docs WHERE doc = crdt.doc('tails')), i % 7);
        COMMIT;
        UPDATE tails SET n = i WHERE id = i % 7;
        COMMIT;
    END LOOP;
END $$;
CALL push_and_write(200);
SELECT jsonb_array_length(crdt.frontier(:doc)) AS remembered;
BEGIN;
UPDATE tails SET n = 0 WHERE id = 1;
PREPARE TRANSACTION 'forgets';
SELECT jsonb_array_length(crdt.frontier(:doc)) AS looked_for;
ROLLBACK PREPARED 'forgets';
SELECT jsonb_array_length(crdt.frontier(:doc)) AS looked_for;
SELECT pushed('last', (SELECT lamport + 1 FROM crdt.docs WHERE doc = :doc), 3);
SELECT jsonb_array_length(crdt.frontier(:doc)) AS heads;
UPDATE tails SET n = 0 WHERE id = 1;
SELECT jsonb_array_length(crdt.frontier(:doc)) AS heads;
DROP PROCEDURE push_and_write;
DROP PROCEDURE write_singly;
DROP FUNCTION tail, found, pushed;
DROP TABLE tails;
