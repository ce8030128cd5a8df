-- Rows that thousands of runs of one push touch: each run is found by each of its rows.
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'hot') AS doc \gset
CREATE TABLE hot (id int PRIMARY KEY, n int, v text);
SELECT crdt.track('hot', doc => :doc) = :doc AS tracked;
INSERT INTO hot VALUES (1, 0, 'a'), (2, 0, 'b');

-- More runs than 16 bits count, with cold rows between.
CREATE FUNCTION hot_push(runs int) RETURNS json LANGUAGE sql AS $$
    SELECT json_build_object('peer_id', 'ann', 'frontier', '[]'::json, 'events', json_agg(json_build_object(
        'peer', 'ann', 'counter_start', 3 * g, 'lamport_start', 100 + 3 * g, 'deps', '[]'::json, 'ops', json_build_array(
            json_build_object('type', 'update', 'tbl', 'hot', 'row_id', '1', 'col', 'n', 'value', g),
            json_build_object('type', 'update', 'tbl', 'hot', 'row_id', '2', 'col', 'n', 'value', g),
            json_build_object('type', 'insert', 'tbl', 'hot', 'row_id', (10 + g % 1000)::text, 'values', '[]'::json))) ORDER BY g))
      FROM generate_series(0, runs - 1) AS g
$$;
SELECT crdt.push(:doc, hot_push(70000)) -> 'accepted' AS accepted;
SELECT count(*), count(DISTINCT value) AS "values" FROM crdt.history('hot', '1') WHERE operation = 'update';
SELECT count(*), count(DISTINCT value) AS "values" FROM crdt.history('hot', '2') WHERE operation = 'update';
SELECT count(*) FROM crdt.history('hot', '10');
SELECT * FROM hot WHERE id < 10 ORDER BY id;
SELECT count(*) FROM crdt.verify('hot');
DROP FUNCTION hot_push;
DROP TABLE hot;
