-- Pushes of every age to rows that bulk statements have changed cell by cell, deleted and made again. Of each row a push reads
-- the newest runs that may beat it there, and no more once nothing of it can show. crdt.verify reads the whole log, and so
-- does another doc that takes all of it at once.
CREATE TABLE settled (id int PRIMARY KEY, a text, b text, c text, d text, e text, f text, g text, h text DEFAULT 'filled');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.g := upper(NEW.g);
    RETURN NEW;
END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON settled FOR EACH ROW EXECUTE FUNCTION shout();
SELECT crdt.track('settled', crdt.create_doc('hub', 'settled')) > 0 AS tracked;

-- A statement changes 20 to 60 rows: its keys are pages.
CREATE PROCEDURE write_bulk(times int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..times LOOP
        CASE floor(random() * 12)::int
            WHEN 0 THEN DELETE FROM settled WHERE id % 3 = i % 3;
            WHEN 1 THEN INSERT INTO settled (id, a, g) SELECT id, 'again ' || i, 'again' FROM generate_series(1, 60) AS id ON CONFLICT DO NOTHING;
            WHEN 2 THEN
                DELETE FROM settled WHERE id % 2 = i % 2;
                INSERT INTO settled (id, b) SELECT id, 'reborn ' || i FROM generate_series(1, 60) AS id WHERE id % 2 = i % 2;
                UPDATE settled SET c = 'reborn ' || i WHERE id % 4 = i % 4;
            WHEN 3 THEN UPDATE settled SET a = 'two ' || i, g = 'two ' || i WHERE id % 3 <> i % 3;
            WHEN 4 THEN UPDATE settled SET d = 'one ' || i WHERE id = 1 + i % 60;
            ELSE EXECUTE format('UPDATE settled SET %I = %L WHERE id %% 3 <> %s', substr('abcdefgh', 1 + i % 8, 1), 'bulk ' || i, i % 3);
        END CASE;
        COMMIT;
    END LOOP;
END $$;

-- Each client pushes up to 60 operations on as many rows, mostly updates of one or of several columns.
CREATE PROCEDURE push_aged(first int, last int) LANGUAGE plpgsql AS $$
DECLARE
    doc bigint := crdt.doc('settled');
    greatest_lamport bigint;
    operations json;
BEGIN
    FOR client IN first..last LOOP
        SELECT lamport INTO greatest_lamport FROM crdt.docs WHERE name = 'settled';
        SELECT json_agg(CASE
                   WHEN kind = 0 THEN json_build_object('type', 'delete', 'tbl', 'settled', 'row_id', row_id)
                   WHEN kind = 1 THEN json_build_object('type', 'insert', 'tbl', 'settled', 'row_id', row_id, 'values',
                       json_build_array(json_build_array('a', 'pushed ' || client), json_build_array('e', 'pushed')))
                   ELSE json_build_object('type', 'update', 'tbl', 'settled', 'row_id', row_id,
                       'col', substr('abcdefgh', 1 + kind % (1 + client % 8), 1), 'value', 'pushed ' || client) END)
          INTO operations
          FROM (SELECT (floor(random() * 10) + CASE client % 3 WHEN 0 THEN 0 ELSE 2 END)::int AS kind, (1 + floor(random() * 62))::text AS row_id
                  FROM generate_series(1, 1 + client % 60)) AS random_operations;
        PERFORM crdt.push(doc, json_build_object('peer_id', 'client ' || client, 'frontier', '[]'::json,
            'events', json_build_array(json_build_object('peer', 'client ' || client, 'counter_start', 0,
                'lamport_start', 1 + floor(greatest_lamport * power(random(), 1 + client % 4))::bigint, 'deps', '[]'::json, 'ops', operations))));
        IF EXISTS (SELECT FROM crdt.verify('settled')) THEN
            RAISE 'the push of client % went wrong', client;
        END IF;
        COMMIT;
    END LOOP;
END $$;

-- Rows that another doc shows otherwise, which takes the whole log at once.
CREATE FUNCTION shown_otherwise(name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    copy bigint := crdt.create_doc('copy', name);
BEGIN
    PERFORM crdt.doc_merge_remote(copy, crdt.pull(crdt.doc('settled'), '{"limit": 1000000}')::jsonb -> 'events');
    RETURN (SELECT count(*)
              FROM settled AS s
              FULL JOIN crdt.rows(copy, 'settled') AS r ON r.row_id = s.id::text
             WHERE jsonb_strip_nulls(to_jsonb(s) - 'id') IS DISTINCT FROM jsonb_strip_nulls(r.data - 'id'));
END $$;

INSERT INTO settled (id, a) SELECT i, 'first' FROM generate_series(1, 60) AS i;
CALL write_bulk(150);
CALL push_aged(1, 120);
SELECT shown_otherwise('early copy');
CALL write_bulk(150);
CALL push_aged(121, 240);
SELECT shown_otherwise('late copy');
SELECT count(*) > 0 AS pages FROM crdt.event_key_page WHERE doc = crdt.doc('settled');

-- Somebody who never pulled, against rows that were all written since, half of them deleted.
UPDATE settled SET h = 'the last', d = 'the last';
DELETE FROM settled WHERE id % 2 = 0;
CREATE FUNCTION push_from_afar(peer text, VARIADIC ops json[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT (crdt.push(crdt.doc('settled'), json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', json_build_array(
        json_build_object('peer', peer, 'counter_start', 0, 'lamport_start', 1, 'deps', '[]'::json, 'ops', array_to_json(ops))))) -> 'accepted')::bigint;
$$;
SELECT push_from_afar('afar', VARIADIC array_agg(json_build_object('type', 'update', 'tbl', 'settled', 'row_id', i::text, 'col',
    CASE i % 3 WHEN 0 THEN 'h' ELSE 'd' END, 'value', 'from afar'))) FROM generate_series(1, 60) AS i;
SELECT push_from_afar('farther', VARIADIC array_agg(json_build_object('type', 'delete', 'tbl', 'settled', 'row_id', i::text))) FROM generate_series(1, 60) AS i;
SELECT count(*) AS from_afar FROM settled WHERE h = 'from afar' OR d = 'from afar';
SELECT * FROM crdt.verify('settled');

-- Runs that lie out of line, of which only the start is looked at: what was inserted with the lamports 1 to 1200 and updated with
-- those up to 2400 is pushed to in between. A cell that was written later stands, one that was not is won.
CREATE TABLE wide (id int PRIMARY KEY, a text, b text);
SELECT crdt.track('wide', crdt.create_doc('hub', 'wide')) > 0 AS tracked;
INSERT INTO wide SELECT i, md5(i::text), md5((-i)::text) FROM generate_series(1, 1200) AS i;
UPDATE wide SET a = md5(a);
-- More runs than are read from the end of the log.
DO $$ BEGIN FOR i IN 1..60 LOOP UPDATE wide SET b = md5(b) WHERE id = 2; COMMIT; END LOOP; END $$;
SELECT lamport, (SELECT min(octet_length(ops)) > 8160 FROM crdt.event_run WHERE doc = d.doc AND counter_end - counter_start > 500) AS out_of_line
  FROM crdt.docs AS d WHERE name = 'wide';
SELECT (crdt.push(crdt.doc('wide'), json_build_object('peer_id', 'between', 'frontier', '[]'::json, 'events', json_build_array(json_build_object(
    'peer', 'between', 'counter_start', 0, 'lamport_start', 601, 'deps', '[]'::json, 'ops', (SELECT json_agg(json_build_object('type', 'update',
        'tbl', 'wide', 'row_id', i::text, 'col', CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END, 'value', 'from between')) FROM generate_series(1, 1200, 17) AS i)))))) -> 'accepted';
SELECT count(*) FILTER (WHERE a = 'from between') AS a, count(*) FILTER (WHERE b = 'from between') AS b, max(id) FILTER (WHERE b = 'from between') AS last_b FROM wide;
SELECT * FROM crdt.verify('wide');

DROP TABLE wide;
DROP FUNCTION push_from_afar, shown_otherwise;
DROP PROCEDURE write_bulk(int);
DROP PROCEDURE push_aged(int, int);
DROP TABLE settled;
DROP FUNCTION shout;
