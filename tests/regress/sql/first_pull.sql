-- A table's rows become history when it is tracked: in parts, of which a first pull takes some at a time. What an application writes
-- in one transaction is pulled in one piece.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE stock (id int PRIMARY KEY, v text);
INSERT INTO stock SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 20000) AS g;
SELECT crdt.create_doc('hub', 'stock') AS doc \gset
SELECT crdt.track('stock', :doc) = :doc AS tracked;
-- Operations of each page, while one follows the other, and whether all came once.
CREATE FUNCTION pages(doc bigint, most int) RETURNS TABLE (page int, operations bigint, has_more boolean) LANGUAGE plpgsql AS $$
DECLARE known jsonb := '{}'; answer json;
BEGIN
    page := 0;
    LOOP
        answer := crdt.pull(doc, jsonb_build_object('known_peers', known, 'limit', most));
        SELECT page + 1, coalesce(sum(json_array_length(e -> 'ops')), 0), (answer ->> 'has_more')::boolean
          INTO page, operations, has_more FROM json_array_elements(answer -> 'events') AS e;
        known := answer -> 'versions';
        INSERT INTO pulled SELECT page, op ->> 'row_id' FROM json_array_elements(answer -> 'events') AS e, json_array_elements(e -> 'ops') AS op;
        RETURN NEXT;
        EXIT WHEN NOT has_more;
    END LOOP;
END $$;
CREATE TEMP TABLE pulled (page int, row_id text);
SELECT count(*) > 3 AS "some pages", max(operations) < 8000 AS "none too large", count(*) FILTER (WHERE NOT has_more) AS last FROM pages(:doc, 100);
SELECT count(*), count(DISTINCT row_id) FROM pulled;
SELECT count(*) FROM crdt.verify('stock');

-- One transaction, more than a page.
UPDATE stock SET v = repeat(md5(v), 10);
TRUNCATE pulled;
SELECT max(operations) FROM pages(:doc, 100);
-- And one that also tracks a table.
BEGIN;
CREATE TABLE more_stock (id int PRIMARY KEY, v text);
INSERT INTO more_stock SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 20000) AS g;
UPDATE stock SET v = 'with the other' WHERE id = 1;
SELECT crdt.track('more_stock', :doc) = :doc AS tracked;
UPDATE stock SET v = 'with the other' WHERE id = 2;
COMMIT;
TRUNCATE pulled;
SELECT max(operations) FROM pages(:doc, 100);
SELECT count(*) FROM crdt.verify('more_stock');

-- Two tables that a migration tracks in one transaction.
CREATE TABLE aisles AS SELECT g AS id, repeat(md5(g::text), 10) AS v FROM generate_series(1, 20000) AS g;
CREATE TABLE small AS SELECT g AS id FROM generate_series(1, 10) AS g;
ALTER TABLE aisles ADD PRIMARY KEY (id);
ALTER TABLE small ADD PRIMARY KEY (id);
SELECT crdt.create_doc('hub', 'aisles') AS doc \gset
BEGIN;
SELECT crdt.track('small', :doc) = :doc AS tracked;
SELECT crdt.track('aisles', :doc) = :doc AS tracked;
UPDATE small SET id = id + 10 WHERE id > 5;
COMMIT;
TRUNCATE pulled;
SELECT max(operations) < 8000 AS "none too large", sum(operations) FROM pages(:doc, 100);
SELECT count(*) FROM crdt.verify('small');
SELECT count(*) FROM crdt.verify('aisles');
DROP TABLE aisles, small;

-- Rows of a partition that joins, and that leaves; what repair tells the log.
CREATE TABLE shelves (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE shelf (id int PRIMARY KEY, v text);
INSERT INTO shelf SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 20000) AS g;
SELECT crdt.create_doc('hub', 'shelves') AS doc \gset
SELECT crdt.track('shelves', :doc) = :doc AS tracked;
ALTER TABLE shelves ATTACH PARTITION shelf FOR VALUES FROM (0) TO (1000000);
SELECT count(*) FROM crdt.verify('shelves');
SELECT count(*) FROM crdt.history('shelves', '19999');
ALTER TABLE shelf DISABLE TRIGGER ALL;
UPDATE shelf SET v = v || '!';
ALTER TABLE shelf ENABLE TRIGGER ALL;
SELECT count(*) FROM crdt.verify('shelves');
SELECT crdt.repair('shelves', 'log');
SELECT count(*) FROM crdt.verify('shelves');
SELECT count(*) FROM crdt.history('shelves', '19999');
ALTER TABLE shelves DETACH PARTITION shelf;
SELECT count(*) FROM crdt.verify('shelves');
TRUNCATE pulled;
SELECT max(operations) < 25000 AS "none too large", sum(operations) FROM pages(:doc, 100);
SELECT (SELECT count(*) FROM crdt.event_run AS r WHERE r.doc = :doc
           AND NOT EXISTS (SELECT FROM crdt.event_span AS s WHERE s.doc = r.doc AND s.peer = r.peer AND r.counter_start BETWEEN s.counter_start AND s.counter_end)
           AND NOT EXISTS (SELECT FROM crdt.event_tail AS t WHERE t.doc = r.doc AND t.peer = r.peer AND r.counter_start >= t.counter_start)) AS "in no span";
DROP TABLE stock, more_stock, shelves, shelf;
DROP FUNCTION pages;
