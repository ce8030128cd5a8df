-- Bulk statements note which runs touch which rows in sets of pages. Large sets are merged a slice at a time; whatever of
-- it is done, a row's history is whole.
CREATE TABLE bulk (id int PRIMARY KEY, n int);
SELECT crdt.track('bulk', crdt.create_doc('hub', 'bulk')) > 0 AS tracked;
INSERT INTO bulk SELECT i, 0 FROM generate_series(1, 20000) AS i;

-- Rows whose history has not as many events as there were statements, a thirteenth of all looked at.
CREATE FUNCTION short_histories(events int) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM generate_series(1, 20000, 13) AS i
     WHERE (SELECT count(DISTINCT counter) FROM crdt.history('bulk', i::text)) <> events;
$$;
CREATE FUNCTION sets() RETURNS TABLE (sets bigint, being_merged bigint) LANGUAGE sql AS $$
    SELECT (SELECT count(DISTINCT page_set) FROM crdt.event_key_page WHERE doc = crdt.doc('bulk')),
           (SELECT count(*) FROM crdt.event_key_merge WHERE doc = crdt.doc('bulk'));
$$;

CREATE PROCEDURE update_all(times int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..times LOOP
        UPDATE bulk SET n = n + 1;
        COMMIT;
    END LOOP;
END $$;

CALL update_all(6);
SELECT *, short_histories(7) FROM sets();
CALL update_all(1);
SELECT *, short_histories(8) FROM sets();
-- What a transaction merged is as it was when it is rolled back.
BEGIN;
UPDATE bulk SET n = n + 1;
PREPARE TRANSACTION 'merged_keys';
ROLLBACK PREPARED 'merged_keys';
SELECT *, short_histories(8) FROM sets();
CALL update_all(1);
SELECT *, short_histories(9) FROM sets();
CALL update_all(1);
SELECT *, short_histories(10) FROM sets();
CALL update_all(2);
SELECT *, short_histories(12) FROM sets();

DROP PROCEDURE update_all(int);
DROP FUNCTION sets, short_histories;
DROP TABLE bulk;
