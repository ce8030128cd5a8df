-- What a large statement writes goes to the log in parts of a megabyte; its rows' keys follow as one set, its runs as one span.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE large (id int PRIMARY KEY, room text, v text);
SELECT crdt.track('large', doc_column => 'room') IS NULL AS "no one doc";
CREATE FUNCTION spans() RETURNS TABLE (room text, spans bigint, runs bigint, parts_of_spans bigint) LANGUAGE sql AS $$
    SELECT d.name, (SELECT count(*) FROM crdt.event_span AS s WHERE s.doc = d.doc), count(*),
           count(*) FILTER (WHERE EXISTS (SELECT FROM crdt.event_span AS s WHERE s.doc = r.doc AND s.peer = r.peer
                                             AND r.counter_start BETWEEN s.counter_start AND s.counter_end))
      FROM crdt.docs AS d JOIN crdt.event_run AS r USING (doc) WHERE d.name LIKE 'part %' GROUP BY d.doc, d.name ORDER BY d.name $$;
-- Of how many rows each number of events is found, by key.
CREATE FUNCTION found(VARIADIC ids int[]) RETURNS TABLE (events bigint, "rows" bigint) LANGUAGE sql AS $$
    SELECT n, count(*) FROM (SELECT count(DISTINCT (h.peer, h.counter)) AS n
                               FROM unnest(ids) AS id, LATERAL crdt.history('large', id::text) AS h GROUP BY id) AS x GROUP BY n ORDER BY n $$;

-- Two docs in turns, a few parts each.
INSERT INTO large SELECT g, 'part ' || g % 2, repeat(md5(g::text), 30) FROM generate_series(1, 6000) AS g;
SELECT * FROM spans();
SELECT * FROM found(1, 2, 500, 501, 3000, 3001, 5999, 6000);
UPDATE large SET v = repeat(md5(v), 30) WHERE room = 'part 1';
SELECT * FROM spans();
SELECT * FROM found(1, 2, 500, 501, 3000, 3001, 5999, 6000);

-- A statement that fails after some parts, in a savepoint and in a block.
BEGIN;
INSERT INTO large VALUES (6001, 'part 1', 'before');
SAVEPOINT s;
INSERT INTO large SELECT g, CASE WHEN g < 12000 THEN 'part 1' END, repeat(md5(g::text), 30) FROM generate_series(6002, 12000) AS g;
ROLLBACK TO s;
INSERT INTO large VALUES (6002, 'part 1', 'after');
COMMIT;
DO $$
BEGIN
    BEGIN
        INSERT INTO large SELECT g, CASE WHEN g < 12000 THEN 'part 0' END, repeat(md5(g::text), 30) FROM generate_series(6003, 12000) AS g;
    EXCEPTION WHEN OTHERS THEN RAISE WARNING '%', SQLERRM;
    END;
    INSERT INTO large SELECT g, 'part 0', repeat(md5(g::text), 30) FROM generate_series(6003, 9000) AS g;
    UPDATE large SET v = 'small' WHERE id = 6003;
END $$;
SELECT * FROM spans();
SELECT * FROM found(6001, 6002, 6003, 6004, 8000, 9000);
SELECT count(*) FROM crdt.history('large', '9001');
SELECT count(*) FROM crdt.verify('large');

-- More rows than keys are held back for; and what is written after them in the same transaction.
BEGIN;
INSERT INTO large SELECT g, 'part 2', 'v' FROM generate_series(10001, 180000) AS g;
UPDATE large SET v = 'w' WHERE id = 10001;
SAVEPOINT s;
DELETE FROM large WHERE room = 'part 2';
ROLLBACK TO s;
UPDATE large SET v = 'w' WHERE id BETWEEN 150000 AND 150100;
COMMIT;
SELECT * FROM spans();
SELECT * FROM found(10001, 10002, 80000, 140000, 149999, 150000);
SELECT "column", operation, winner FROM crdt.history('large', '77777');
SELECT count(*) FROM crdt.verify('large');

-- A push finds what was written so.
SELECT crdt.push(crdt.doc('part 2'), '{"peer_id": "old", "frontier": [], "events": [{"peer": "old", "counter_start": 0, "lamport_start": 1, "deps": [],
    "ops": [{"type": "update", "tbl": "large", "row_id": "77777", "col": "v", "value": "loses"}, {"type": "delete", "tbl": "large", "row_id": "140000"}]}]}') -> 'accepted' AS accepted;
SELECT id, v FROM large WHERE id IN (77777, 140000) ORDER BY id;
SELECT count(*) FROM crdt.verify('large');

-- Also one in the same transaction: its own statement's rows are newer.
BEGIN;
UPDATE large SET v = v || '!' WHERE room = 'part 2';
SELECT crdt.push(crdt.doc('part 2'), '{"peer_id": "old", "frontier": [], "events": [{"peer": "old", "counter_start": 2, "lamport_start": 3, "deps": [],
    "ops": [{"type": "update", "tbl": "large", "row_id": "77777", "col": "v", "value": "loses again"},
            {"type": "insert", "tbl": "large", "row_id": "180001", "values": [["room", "part 2"], ["v", "new"]]}]}]}') -> 'accepted' AS accepted;
COMMIT;
SELECT id, v FROM large WHERE id IN (77777, 180001) ORDER BY id;
SELECT * FROM spans() WHERE room = 'part 2';
SELECT count(*) FROM crdt.verify('large');
DROP TABLE large;
DROP FUNCTION spans, found;
