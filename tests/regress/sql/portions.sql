-- Large pushes are written in portions of rows. What binds rows of different portions makes them be written together.
CREATE FUNCTION portions_push(doc bigint, peer text, counter bigint, lamport bigint, ops json) RETURNS jsonb LANGUAGE sql AS $$
    SELECT crdt.push(doc, json_build_object('peer_id', peer, 'frontier', '[]'::json, 'events', json_build_array(
        json_build_object('peer', peer, 'counter_start', counter, 'lamport_start', lamport, 'deps', '[]'::json, 'ops', ops))))
$$;

-- Nothing binds them.
CREATE TABLE plain_rows (id integer PRIMARY KEY, v text, n integer DEFAULT 7);
SELECT crdt.track('plain_rows', crdt.create_doc('hub', 'portions_plain')) AS doc \gset
SELECT portions_push(:doc, 'a', 0, 1, (SELECT json_agg(json_build_object('type', 'insert', 'tbl', 'plain_rows', 'row_id', i::text,
    'values', json_build_array(json_build_array('v', 'row ' || i)))) FROM generate_series(1, 20000) AS i)) -> 'accepted' AS accepted;
SELECT portions_push(:doc, 'a', 20000, 20001, (SELECT json_agg(json_build_object('type', 'update', 'tbl', 'plain_rows', 'row_id', i::text,
    'col', 'v', 'value', 'again ' || i)) FROM generate_series(1, 20000) AS i)) -> 'accepted' AS accepted;
SELECT count(*), count(*) FILTER (WHERE v = 'again ' || id AND n = 7) AS right FROM plain_rows;
SELECT count(*) AS differ FROM crdt.verify('plain_rows');

-- A child comes before its parent.
CREATE TABLE tree (id integer PRIMARY KEY, parent integer REFERENCES tree);
CREATE INDEX ON tree (parent);
SELECT crdt.track('tree', crdt.create_doc('hub', 'portions_tree')) AS doc \gset
SELECT portions_push(:doc, 'a', 0, 1, (SELECT json_agg(json_build_object('type', 'insert', 'tbl', 'tree', 'row_id', i::text,
    'values', json_build_array(json_build_array('parent', 20001 - i)))) FROM generate_series(1, 20000) AS i)) -> 'accepted' AS accepted;
SELECT count(*), count(*) FILTER (WHERE parent = 20001 - id) AS right FROM tree;
SELECT count(*) AS differ FROM crdt.verify('tree');
-- A parent goes before its child.
SELECT portions_push(:doc, 'a', 20000, 20001, (SELECT json_agg(json_build_object('type', 'delete', 'tbl', 'tree', 'row_id', i::text))
    FROM generate_series(1, 20000) AS i)) -> 'accepted' AS accepted;
SELECT count(*) FROM tree;
SELECT count(*) AS differ FROM crdt.verify('tree');

-- A unique value moves to a new row from one that goes, in another portion.
CREATE TABLE seats (id integer PRIMARY KEY, seat integer UNIQUE);
SELECT crdt.track('seats', crdt.create_doc('hub', 'portions_seats')) AS doc \gset
INSERT INTO seats SELECT i, i FROM generate_series(50001, 60000) AS i;
SELECT portions_push(:doc, 'a', 0, 10001, (SELECT json_agg(op) FROM (
    SELECT json_build_object('type', 'insert', 'tbl', 'seats', 'row_id', i::text, 'values', json_build_array(json_build_array('seat', i + 50000))) AS op
      FROM generate_series(1, 10000) AS i UNION ALL
    SELECT json_build_object('type', 'delete', 'tbl', 'seats', 'row_id', i::text) FROM generate_series(50001, 60000) AS i) AS o)) -> 'accepted' AS accepted;
SELECT count(*), min(seat), max(seat), max(id) FROM seats;
SELECT count(*) AS differ FROM crdt.verify('seats');

-- A trigger writes to a row of another portion.
CREATE TABLE pairs (id integer PRIMARY KEY, v text, hits integer NOT NULL DEFAULT 0);
CREATE FUNCTION hit_partner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pairs SET hits = hits + 1, v = v || ' hit' WHERE id = 20001 - NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER hit AFTER INSERT ON pairs FOR EACH ROW EXECUTE FUNCTION hit_partner();
SELECT crdt.track('pairs', crdt.create_doc('hub', 'portions_pairs')) AS doc \gset
SELECT portions_push(:doc, 'a', 0, 1, (SELECT json_agg(json_build_object('type', 'insert', 'tbl', 'pairs', 'row_id', i::text,
    'values', json_build_array(json_build_array('v', 'row ' || i)))) FROM generate_series(1, 20000) AS i)) -> 'accepted' AS accepted;
SELECT hits, v LIKE '% hit' AS hit, count(*) FROM pairs GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) AS differ FROM crdt.verify('pairs');

-- An error is the application's own, and leaves nothing.
ALTER TABLE plain_rows ADD CHECK (v <> 'bad');
\set SHOW_CONTEXT never
SELECT crdt.doc('portions_plain') AS doc \gset
SELECT portions_push(:doc, 'b', 0, 50000, (SELECT json_agg(json_build_object('type', 'update', 'tbl', 'plain_rows', 'row_id', i::text,
    'col', 'v', 'value', CASE i WHEN 9999 THEN 'bad' ELSE 'good' END)) FROM generate_series(1, 20000) AS i));
SELECT count(*) FILTER (WHERE v = 'good') AS good FROM plain_rows;
SELECT count(*) AS differ FROM crdt.verify('plain_rows');
DROP TABLE plain_rows, tree, seats, pairs;
DROP FUNCTION hit_partner(), portions_push;
-- A unique value moves from a parent that goes to another one, so that deletes come before updates: children that the same
-- push has moved away are not found by the cascade.
CREATE TABLE p_list (id int PRIMARY KEY, pos int UNIQUE);
CREATE TABLE p_item (id int PRIMARY KEY, list int REFERENCES p_list ON DELETE CASCADE, v text);
CREATE TABLE p_node (id int PRIMARY KEY, up int REFERENCES p_node ON DELETE CASCADE, pos int UNIQUE);
SELECT crdt.create_doc('hub', 'moved') AS moved \gset
SELECT count(crdt.track(t, :moved)) AS tracked FROM unnest(ARRAY['p_list', 'p_item', 'p_node']::regclass[]) AS t;
INSERT INTO p_list VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO p_item VALUES (10, 1, 'milk'), (11, 1, 'bread'), (12, 1, 'left behind');
INSERT INTO p_node VALUES (1, NULL, 1), (2, NULL, 2), (3, 1, 3);
CREATE FUNCTION p_push(counter int, ops json) RETURNS json LANGUAGE sql AS $$
    SELECT crdt.push(crdt.doc('moved'), json_build_object('peer_id', 'ann', 'events', json_build_array(json_build_object(
        'peer', 'ann', 'counter_start', counter, 'lamport_start', 50 + counter, 'deps', '[]'::json, 'ops', ops))))::json -> 'accepted' $$;
SELECT p_push(0, '[{"type":"update","tbl":"p_item","row_id":"10","col":"list","value":2}, {"type":"update","tbl":"p_item","row_id":"11","col":"list","value":2},
    {"type":"delete","tbl":"p_list","row_id":"1"}, {"type":"update","tbl":"p_list","row_id":"2","col":"pos","value":1}]') AS accepted;
SELECT p_push(4, '[{"type":"update","tbl":"p_item","row_id":"10","col":"list","value":3}, {"type":"delete","tbl":"p_list","row_id":"2"},
    {"type":"insert","tbl":"p_list","row_id":"4","values":{"pos":1}}]') AS accepted;
SELECT * FROM p_list ORDER BY id;
SELECT * FROM p_item ORDER BY id;
-- Within one table there is no such order: refused, and nothing lost.
SELECT p_push(7, '[{"type":"update","tbl":"p_node","row_id":"3","col":"up","value":2}, {"type":"delete","tbl":"p_node","row_id":"1"},
    {"type":"update","tbl":"p_node","row_id":"2","col":"pos","value":1}]') AS accepted;
SELECT * FROM p_node ORDER BY id;
SELECT t, v.* FROM unnest(ARRAY['p_list', 'p_item', 'p_node']::regclass[]) AS t, crdt.verify(t) AS v;
