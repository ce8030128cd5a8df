-- What the extension makes of a jsonb without PostgreSQL's functions, and back, is what PostgreSQL makes of it, bit for bit.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'jsonb images') AS doc \gset
SET crdt_db.ephemeral_max_value = 1000000;
SELECT setseed(0.5);

-- Any JSON, as a text that PostgreSQL reads.
CREATE FUNCTION pg_temp.value(depth integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    kind integer := floor(random() * CASE WHEN depth = 0 THEN 7 ELSE 9 END);
    members integer := (ARRAY[0, 1, 3, 16, 33, 70])[1 + floor(random() * (2 + depth))::integer];
BEGIN
    RETURN CASE kind
        WHEN 0 THEN 'null'
        WHEN 1 THEN (random() < 0.5)::text
        WHEN 2 THEN floor(random() * 20001 - 10000)::text
        WHEN 3 THEN ((random() - 0.5) * 10 ^ floor(random() * 40 - 20))::text
        WHEN 4 THEN round((random() * 1e12)::numeric * 10::numeric ^ (floor(random() * 200) - 100)::integer, floor(random() * 150)::integer)::text
        WHEN 5 THEN to_json(translate(substr(md5(random()::text), 1, floor(random() * 33)::integer), 'abcdef01', E'\u00df\U0001F600"\\\n\t\u0001\u001f'))::text
        WHEN 6 THEN to_json(repeat(chr(1 + floor(random() * 300)::integer), floor(random() * 300)::integer))::text
        WHEN 7 THEN '[' || coalesce((SELECT string_agg(pg_temp.value(depth - 1), ',') FROM generate_series(1, members)), '') || ']'
        ELSE '{' || coalesce((SELECT string_agg(to_json(substr(md5(random()::text), 1, floor(random() * 9)::integer) || i % 7)::text || ':' || pg_temp.value(depth - 1), ',')
                                FROM generate_series(1, members) AS i), '') || '}'
    END;
END $$;
CREATE TEMP TABLE jsons (id serial PRIMARY KEY, value jsonb);
INSERT INTO jsons (value) SELECT pg_temp.value(i % 4)::jsonb FROM generate_series(1, 3000) AS i;
INSERT INTO jsons (value) VALUES
    ('{}'), ('[]'), ('""'), ('0'), ('-0'), ('0.0'), ('-0.000'), ('1e-70'), ('1e70'), ('1e300'), ('1e-300'), ('0.00010000'), ('10000'), ('99999999.9999'), ('123456789012345678901234567890.5'),
    ('"\u007f"'), ('{"": ""}'), ('{"a\"b": 1, "a\nb": 2}'), ('[[[[[[]]]]]]'), ('[{}, [], {"a": {}}]'), (to_jsonb(repeat('x', 100000))), (to_jsonb(ARRAY(SELECT generate_series(1, 5000)))),
    ((repeat('[', 63) || repeat(']', 63))::jsonb), ((repeat('[', 65) || repeat(']', 65))::jsonb), ((repeat('{"a":', 300) || '1' || repeat('}', 300))::jsonb);

-- The answer of a set, made of the argument's image, and of a get, made of the text in memory. record_image_eq compares images.
CREATE TEMP TABLE answers AS
SELECT id, value, crdt.ephemeral_set(:doc, 'ns', key, value, at, peer) AS of_set, crdt.ephemeral_get(:doc, 'ns', key) AS of_get,
       jsonb_build_object('key', key, 'peer', peer, 'value', value, 'timestamp', at::text::numeric) AS meant
  FROM jsons, LATERAL (SELECT repeat('k', 1 + id % 11) || id AS key, repeat('p', 1 + id % 5) AS peer, round(random() * 1.7e15)::float8 / (ARRAY[1e3, 1e5, 1e6])[1 + id % 3] AS at) AS names;
SELECT count(*) AS jsons, count(*) FILTER (WHERE record_image_eq(ROW(of_set), ROW(meant))) AS same_by_set, count(*) FILTER (WHERE record_image_eq(ROW(of_get), ROW(meant))) AS same_by_get,
       count(*) FILTER (WHERE record_image_eq(ROW(of_get), ROW(of_get::text::jsonb))) AS same_when_read FROM answers;
SELECT id, left(meant::text, 200) AS meant, left(of_set::text, 200) AS of_set, left(of_get::text, 200) AS of_get FROM answers
 WHERE (NOT record_image_eq(ROW(of_set), ROW(meant)) OR NOT record_image_eq(ROW(of_get), ROW(meant))) IS NOT FALSE ORDER BY id LIMIT 10;
-- Values that lie out of line or compressed.
SELECT count(*), count(*) FILTER (WHERE record_image_eq(ROW(crdt.ephemeral_set(:doc, 'stored', id::text, value) -> 'value'), ROW(value))) AS same FROM jsons;

-- Timestamps are the shortest decimals that read back equal.
WITH times AS (SELECT unnest(ARRAY[0, 0.001, 0.1, 0.125, 1, 10000, 99999999.999, 1700000000000, 1700000000000.5, 1700000000000.123, 5e-324, 1e-300, 0.30000000000000004, 1234.5678]::float8[]) AS at)
SELECT (SELECT crdt.ephemeral_set(:doc, 'times', at::text, '1', at) ->> 'timestamp') AS shown,
       (crdt.ephemeral_get(:doc, 'times', at::text) ->> 'timestamp')::float8 = at AS equal FROM times WHERE at >= 1e-3 OR at = 0;
SELECT bool_and((crdt.ephemeral_set(:doc, 'times', at::text, '1', at) ->> 'timestamp')::float8 = at) AS equal FROM unnest(ARRAY[5e-324, 1e-300, 1e-17]) AS at;

-- The text is PostgreSQL's, letter by letter: what its length is, a limit says.
SET crdt_db.ephemeral_max_value = 64;
CREATE FUNCTION pg_temp.refused(value jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN crdt.ephemeral_set(crdt.doc('jsonb images'), 'ns', 'k', value)::text;
EXCEPTION WHEN SQLSTATE 'CR002' THEN
    RETURN substring(SQLERRM FROM 'value has (\d+) bytes');
END $$;
SELECT count(*) AS texts, count(*) FILTER (WHERE pg_temp.refused(v)::integer = octet_length(v::text)) AS as_long
  FROM (SELECT to_jsonb(repeat(chr(i), 70)) FROM generate_series(1, 127) AS i UNION ALL
        SELECT jsonb_build_array(i, -i, i / 1000.0, NULL, true, '{}'::jsonb, repeat('y', 30)) FROM generate_series(1, 100) AS i) AS t (v);
RESET crdt_db.ephemeral_max_value;
SELECT crdt.ephemeral_clear(:doc) > 6000 AS cleared;
DROP TABLE jsons, answers;
