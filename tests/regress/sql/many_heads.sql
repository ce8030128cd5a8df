-- Clients that never pulled leave heads that nothing depends on, more than a doc's entry in shared memory holds. A client
-- that has pulled names them all; from then on pulls must not look for heads in the log, however long it is.
SELECT crdt.create_doc('hub', 'heads') > 0 AS created;

CREATE PROCEDURE write_events(times int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..times LOOP
        PERFORM crdt.doc_insert(crdt.doc('heads'), 'notes', (i % 10)::text, jsonb_build_object('n', (SELECT string_agg(md5((i * 100 + j)::text), '') FROM generate_series(1, 20) AS j)));
        COMMIT;
    END LOOP;
END $$;

-- Each a note by somebody who knows nothing of the others.
CREATE PROCEDURE push_as_strangers(count int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..count LOOP
        PERFORM crdt.push(crdt.doc('heads'), json_build_object('peer_id', 'stranger ' || i, 'frontier', '[]'::json,
            'events', json_build_array(json_build_object('peer', 'stranger ' || i, 'counter_start', 0, 'lamport_start', 1, 'deps', '[]'::json,
                'ops', json_build_array(json_build_object('type', 'delete', 'tbl', 'notes', 'row_id', 'none'))))));
        COMMIT;
    END LOOP;
END $$;

-- One who has pulled: what he writes is made on top of all heads.
CREATE PROCEDURE push_knowing_all() LANGUAGE plpgsql AS $$
DECLARE
    known json := crdt.pull(crdt.doc('heads'), '{"peer_id": "reader", "known_peers": {}}');
BEGIN
    PERFORM crdt.push(crdt.doc('heads'), json_build_object('peer_id', 'reader', 'frontier', '[]'::json,
        'events', json_build_array(json_build_object('peer', 'reader', 'counter_start', 0,
            'lamport_start', (SELECT lamport + 1 FROM crdt.docs WHERE name = 'heads'), 'deps', known -> 'server_frontier',
            'ops', json_build_array(json_build_object('type', 'delete', 'tbl', 'notes', 'row_id', 'none'))))));
END $$;

-- Pages of tables and indexes that a pull of nothing looks at.
CREATE FUNCTION pages_of_a_pull() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE format('EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT crdt.pull(%s, %L)', crdt.doc('heads'),
        json_build_object('peer_id', 'reader', 'known_peers', crdt.version(crdt.doc('heads')))) INTO plan;
    RETURN (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::bigint;
END $$;

CALL write_events(2500);
CALL push_as_strangers(40);
SELECT jsonb_array_length(crdt.frontier(crdt.doc('heads'))) AS heads;
CALL push_knowing_all();
SELECT jsonb_array_length(crdt.frontier(crdt.doc('heads'))) AS heads, pages_of_a_pull() AS pages \gset known_
SELECT :known_heads AS heads;
CALL write_events(1700);
SELECT jsonb_array_length(crdt.frontier(crdt.doc('heads'))) AS heads, pages_of_a_pull() < :known_pages / 2 AS fewer_pages;

DROP PROCEDURE write_events(int), push_as_strangers(int), push_knowing_all();
DROP FUNCTION pages_of_a_pull();
