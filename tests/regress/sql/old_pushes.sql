-- Clients come back with edits of any age to rows that have been written, deleted and made again many times since. What
-- a push reads of the log to decide is as little as it can; crdt.verify reads all of it.
CREATE TABLE worn (id int PRIMARY KEY, a text, b text);
SELECT crdt.track('worn', crdt.create_doc('hub', 'worn')) > 0 AS tracked;

CREATE PROCEDURE write_rows(times int) LANGUAGE plpgsql AS $$
DECLARE
    row_id int;
BEGIN
    FOR i IN 1..times LOOP
        row_id := 1 + floor(random() * 5);
        CASE floor(random() * 6)::int
            WHEN 0 THEN DELETE FROM worn WHERE id = row_id;
            WHEN 1 THEN INSERT INTO worn VALUES (row_id, 'inserted ' || i) ON CONFLICT DO NOTHING;
            WHEN 2 THEN UPDATE worn SET a = 'a ' || i, b = 'b ' || i WHERE id = row_id;
            WHEN 3 THEN UPDATE worn SET b = 'b ' || i WHERE id = row_id;
            ELSE UPDATE worn SET a = 'a ' || i WHERE id = row_id;
        END CASE;
        COMMIT;
    END LOOP;
END $$;

-- Each client pushes one to three operations on one to three rows, with lamports from anywhere in the log, more of them young.
CREATE PROCEDURE push_old(first int, last int) LANGUAGE plpgsql AS $$
DECLARE
    greatest_lamport bigint;
    operations json;
BEGIN
    FOR client IN first..last LOOP
        SELECT lamport INTO greatest_lamport FROM crdt.docs WHERE name = 'worn';
        SELECT json_agg(CASE kind
                   WHEN 0 THEN json_build_object('type', 'delete', 'tbl', 'worn', 'row_id', row_id)
                   WHEN 1 THEN json_build_object('type', 'insert', 'tbl', 'worn', 'row_id', row_id, 'values',
                       json_build_array(json_build_array('a', 'pushed ' || client)))
                   ELSE json_build_object('type', 'update', 'tbl', 'worn', 'row_id', row_id,
                       'col', CASE WHEN kind < 4 THEN 'a' ELSE 'b' END, 'value', 'pushed ' || client) END)
          INTO operations
          FROM (SELECT floor(random() * 6)::int AS kind, (1 + floor(random() * 5))::text AS row_id
                  FROM generate_series(1, 1 + client % 3)) AS random_operations;
        PERFORM crdt.push(crdt.doc('worn'), json_build_object('peer_id', 'client ' || client, 'frontier', '[]'::json,
            'events', json_build_array(json_build_object('peer', 'client ' || client, 'counter_start', 0,
                'lamport_start', greatest_lamport - floor(greatest_lamport * power(random(), 3))::bigint, 'deps', '[]'::json, 'ops', operations))));
        IF EXISTS (SELECT FROM crdt.verify('worn')) THEN
            RAISE 'the push of client % went wrong', client;
        END IF;
        COMMIT;
    END LOOP;
END $$;

INSERT INTO worn SELECT i, 'first' FROM generate_series(1, 5) AS i;
CALL write_rows(300);
CALL push_old(1, 150);
CALL write_rows(100);
CALL push_old(151, 300);
SELECT count(*) FILTER (WHERE a LIKE 'pushed%' OR b LIKE 'pushed%') > 0 AS some_won FROM worn;

DROP PROCEDURE write_rows(int);
DROP PROCEDURE push_old(int, int);
DROP TABLE worn;
