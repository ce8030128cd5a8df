-- Ephemeral registers: what each function answers, and what it refuses.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT crdt.create_doc('hub', 'ephemeral') AS doc \gset
SELECT crdt.create_doc('hub', 'ephemeral too') AS other \gset

-- Last writer wins: the greater timestamp, then the greater peer. The answer is the register as it stands.
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '{"x": 1}', 1000, 'p');
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '{"x": 2}', 999, 'z') AS older;
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '{"x": 3}', 1000, 'o') AS lesser_peer;
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '{"x": 4}', 1000, 'p ') AS greater_peer;
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '{"x": 5}', 1000.5, 'a') AS newer;
SELECT crdt.ephemeral_get(:doc, 'cursor', 'ann');
SELECT crdt.ephemeral_get(:doc, 'cursor', 'bob') AS nobody, crdt.ephemeral_get(:doc, 'Cursor', 'ann') AS elsewhere,
       crdt.ephemeral_get(:other, 'cursor', 'ann') AS in_another_doc;
-- With the server's clock and the doc's own name.
SELECT e ->> 'peer' AS peer, (e ->> 'timestamp')::float8 / 1000 BETWEEN extract(epoch FROM now()) - 60 AND extract(epoch FROM clock_timestamp()) AS now
  FROM crdt.ephemeral_set(:doc, 'cursor', 'bob', 'true') AS e;
SELECT e -> 'value' AS value FROM crdt.ephemeral_set(:doc, 'cursor', 'bob', 'false') AS e;
SELECT crdt.ephemeral_set(:doc, 'cursor', 'bob', '1', 1000) ->> 'value' AS loses_to_the_server;
SELECT jsonb_object_agg(key, value -> 'value') FROM jsonb_each(crdt.ephemeral_get_all(:doc, 'cursor'));
SELECT crdt.ephemeral_get_all(:doc, 'nothing');

-- Removed, a register does not come back by an older write.
SELECT crdt.ephemeral_remove(:doc, 'cursor', 'ann') AS was_there, crdt.ephemeral_remove(:doc, 'cursor', 'ann') AS again,
       crdt.ephemeral_remove(:doc, 'cursor', 'who') AS never;
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '6', 2000) IS NULL AS lost;
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '7') ->> 'value' AS of_now;
-- Cleared, it does.
SELECT crdt.ephemeral_clear(:doc, 'cursor'), crdt.ephemeral_clear(:doc, 'cursor') AS again, crdt.ephemeral_clear(:doc, '') AS nothing;
SELECT crdt.ephemeral_set(:doc, 'cursor', 'ann', '8', 0) ->> 'value' AS oldest_of_all;
-- Only what was there leaves: not again what had been removed before.
SELECT crdt.ephemeral_set(:doc, 'left', 'before', '1') IS NOT NULL, crdt.ephemeral_remove(:doc, 'left', 'before'), crdt.ephemeral_set(:doc, 'left', 'now', '1') IS NOT NULL;
SELECT crdt.ephemeral_since(:doc, NULL) -> 'position' AS before \gset
SELECT crdt.ephemeral_clear(:doc, 'left'), crdt.ephemeral_clear(:doc, 'left') AS again;
SELECT crdt.ephemeral_since(:doc, :before) - 'position' AS left;
-- -0 and 0 are one timestamp: the greater peer wins.
SELECT crdt.ephemeral_set(:doc, 'cursor', 'zero', '1', '-0', 'b') -> 'timestamp' AS timestamp, crdt.ephemeral_set(:doc, 'cursor', 'zero', '2', 0, 'a') -> 'value' AS value;
SELECT crdt.ephemeral_merge(:doc, '{"cursor": {"zero": {"value": 3, "timestamp": -0.0, "peer": "c"}}}') #> '{cursor,zero,timestamp}' AS timestamp;
SELECT crdt.ephemeral_remove(:doc, 'cursor', 'zero');

-- Many at once.
SELECT crdt.ephemeral_merge(:doc, '{"cursor": {"ann": {"value": 9, "timestamp": 5, "peer": "p"}, "bob": {"value": null, "timestamp": 0, "peer": "p"}},
    "typing": {"ann": {"value": [true, {"a": "b"}], "timestamp": 5.25, "peer": "q", "key": "whatever"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"cursor": {"ann": {"value": 10, "timestamp": 4, "peer": "p"}, "bob": {"value": 11, "timestamp": 1, "peer": "p"}}}') AS what_won;
SELECT crdt.ephemeral_merge(:doc, '{}') AS nothing, crdt.ephemeral_merge(:doc, '{"cursor": {}}') AS none;
-- What get_all hands out can be merged elsewhere, and again.
SELECT crdt.ephemeral_merge(:other, jsonb_build_object('cursor', crdt.ephemeral_get_all(:doc, 'cursor')));
SELECT crdt.ephemeral_merge(:other, jsonb_build_object('cursor', crdt.ephemeral_get_all(:doc, 'cursor'))) AS again;
SELECT crdt.ephemeral_get_all(:other, 'cursor') = crdt.ephemeral_get_all(:doc, 'cursor') AS same;

-- What changed since.
SELECT crdt.ephemeral_clear(:doc), (crdt.ephemeral_since(:doc, NULL) ->> 'position')::bigint AS start \gset
SELECT crdt.ephemeral_since(:doc, :start) - 'position' AS nothing;
SELECT crdt.ephemeral_set(:doc, 'a', 'k', '1', 1) IS NOT NULL, crdt.ephemeral_set(:doc, 'b', 'l', '2', 1) IS NOT NULL;
SELECT crdt.ephemeral_since(:doc, :start) - 'position' AS since, (crdt.ephemeral_since(:doc, :start) ->> 'position')::bigint AS middle \gset
SELECT jsonb_pretty(:'since'::jsonb), :middle > :start AS later;
SELECT crdt.ephemeral_set(:doc, 'a', 'k', '3', 2) IS NOT NULL, crdt.ephemeral_remove(:doc, 'b', 'l');
SELECT crdt.ephemeral_since(:doc, :middle) - 'position';
SELECT crdt.ephemeral_since(:doc, :start) #> '{events,a}' AS joined_for_who_knows_less;
-- No position, one of before this start of the server, one that was never reached: everything, and it says so.
SELECT crdt.ephemeral_since(:doc, p) - 'position' FROM (VALUES (NULL), (0), (-1), (:middle + 1000000), (9223372036854775807)) AS v (p);
SELECT crdt.ephemeral_since(:doc, 1) ->> 'reset' AS reset, crdt.ephemeral_since(:doc, :middle) ->> 'reset' AS no_reset;

-- Nobody listens here: whoever asks hears of what has expired all the same.
SELECT crdt.ephemeral_set(:doc, 'a', 'short', '1', ttl => '10 ms') IS NOT NULL AS was_set, crdt.ephemeral_since(:doc, NULL) -> 'position' AS shown \gset
SELECT pg_sleep(0.3);
SELECT crdt.ephemeral_since(:doc, :shown) - 'position' AS expired;

-- Any value, any name, as it was.
CREATE TEMP TABLE odd (n int, name text, value jsonb);
INSERT INTO odd VALUES (1, ' ', 'null'), (2, '"quoted" \backslash', '""'), (3, E'line\nfeed\ttab\x01\x7f', to_jsonb(E'\x01\n"\\'::text)),
    (4, 'größe 𝄞 é ', '"größe 𝄞 é"'), (5, '../%2F;''--', '{"": {"": []}}'), (6, 'crdt', '1e300'), (7, 'number', '-0.10'),
    (8, 'digits', '12345678901234567890.123456789'), (9, 'deep', (repeat('[', 500) || repeat(']', 500))::jsonb),
    (10, repeat('k', 1000), to_jsonb(repeat('v', 16382)));
SELECT n, crdt.ephemeral_set(:doc, left(name, 50), name, value, 1, left(name, 50)) = jsonb_build_object('key', name, 'value', value, 'timestamp', 1, 'peer', left(name, 50)) AS same FROM odd;
SELECT n, e ->> 'key' = name AND e -> 'value' = value AND (e -> 'value')::text = value::text AS same
  FROM odd, crdt.ephemeral_get(:doc, left(name, 50), name) AS e;
SELECT count(*) FROM odd JOIN crdt.ephemeral AS e ON e.doc = :doc AND e.key = odd.name AND e.value = odd.value AND e.peer = left(name, 50);
SELECT crdt.ephemeral_clear(:doc);
-- The limit is the text's, whatever a jsonb takes of memory.
SELECT n, octet_length(value::text) AS text, pg_column_size(value) AS jsonb, crdt.ephemeral_set(:doc, 'small', n::text, value) -> 'value' = value AS same
  FROM (SELECT n, jsonb_agg(i % 10) AS value FROM unnest(ARRAY[3500, 5461]) AS n, generate_series(1, n) AS i GROUP BY n UNION ALL
        SELECT 2, (repeat('[', 4000) || repeat(']', 4000))::jsonb UNION ALL
        SELECT 3, ('[' || repeat('{},', 4094) || '{}]')::jsonb) AS v ORDER BY n;
SELECT crdt.ephemeral_clear(:doc, 'small');
-- Timestamps: fractions of a millisecond, zero, as far ahead as allowed.
SELECT crdt.ephemeral_set(:doc, 'ns', t, '1', t::float8) ->> 'timestamp' AS timestamp
  FROM unnest(ARRAY['0', '-0', '0.001', '1234567890123.4567', '1e-10']) AS t;
SELECT crdt.ephemeral_set(:doc, 'ns', 'ahead', '1', extract(epoch FROM clock_timestamp()) * 1000 + 299000) IS NOT NULL AS allowed;
SET crdt_db.max_timestamp_drift = '1h';
SELECT crdt.ephemeral_set(:doc, 'ns', 'ahead', '1', extract(epoch FROM clock_timestamp()) * 1000 + 3599000) IS NOT NULL AS allowed;
RESET crdt_db.max_timestamp_drift;

-- Refused, and nothing is changed by it.
\set VERBOSITY sqlstate
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '1', 1) IS NOT NULL;
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', 'NaN');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', 'Infinity');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', '-Infinity');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', -1);
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', 1e300);
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', extract(epoch FROM clock_timestamp()) * 1000 + 310000);
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', ttl => '0');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', ttl => '-1 s');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', ttl => '0.9 ms');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', ttl => '10 days 1 ms');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', ttl => '178000000 years');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', ttl => '-178000000 years');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', to_jsonb(repeat('v', 16383)));
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', to_jsonb(repeat('v', 1000000)));
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '"\u0000"');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', peer => '');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', peer => repeat('p', 251));
SELECT crdt.ephemeral_set(:doc, '', 'k', '2');
SELECT crdt.ephemeral_set(:doc, repeat('n', 201), 'k', '2');
SELECT crdt.ephemeral_set(:doc, repeat('é', 101), 'k', '2');
SELECT crdt.ephemeral_set(:doc, 'ns', '', '2');
SELECT crdt.ephemeral_set(:doc, 'ns', repeat('k', 1001), '2');
SELECT crdt.ephemeral_set(-1, 'ns', 'k', '2');
SELECT crdt.ephemeral_set(NULL, 'ns', 'k', '2');
SELECT crdt.ephemeral_set(:doc, NULL, 'k', '2');
SELECT crdt.ephemeral_set(:doc, 'ns', NULL, '2');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', NULL);
SELECT crdt.ephemeral_get(-1, 'ns', 'k');
SELECT crdt.ephemeral_get(:doc, NULL, 'k');
SELECT crdt.ephemeral_get(:doc, 'ns', NULL);
SELECT crdt.ephemeral_get_all(-1, 'ns');
SELECT crdt.ephemeral_get_all(:doc, NULL);
SELECT crdt.ephemeral_remove(-1, 'ns', 'k');
SELECT crdt.ephemeral_remove(:doc, 'ns', NULL);
SELECT crdt.ephemeral_since(-1, 0);
SELECT crdt.ephemeral_since(NULL, 0);
SELECT crdt.ephemeral_clear(-1);
SELECT crdt.ephemeral_clear(NULL);
-- A merge is checked as a whole before anything of it counts.
SELECT crdt.ephemeral_merge(:doc, NULL);
SELECT crdt.ephemeral_merge(-1, '{}');
SELECT crdt.ephemeral_merge(:doc, bad::jsonb) FROM unnest(ARRAY['[]']) AS bad;
SELECT crdt.ephemeral_merge(:doc, '"x"');
SELECT crdt.ephemeral_merge(:doc, '{"ns": []}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": 1}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"timestamp": 9, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": 9}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": "9", "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": 9, "peer": "p", "ttl": 1}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": -9, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": 1e400, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": 9e15, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "": {"value": 1, "timestamp": 9, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}}, "": {"l": {"value": 1, "timestamp": 9, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": 9, "peer": ""}}}');
SELECT crdt.ephemeral_merge(:doc, jsonb_build_object('ns', '{"k": {"value": 9, "timestamp": 9, "peer": "p"}}'::jsonb
    || jsonb_build_object('l', jsonb_build_object('value', repeat('v', 16383), 'timestamp', 9, 'peer', 'p'))));
\set VERBOSITY default
SELECT crdt.ephemeral_get(:doc, 'ns', 'k') AS as_before, crdt.ephemeral_set(:doc, 'ns', 'k', '3', 2) ->> 'value' AS still_writable;
-- The words of some.
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', 'NaN');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', 1e300);
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '2', ttl => '11 days');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', to_jsonb(repeat('v', 16383)));
SELECT crdt.ephemeral_set(:doc, 'ns', repeat('k', 1001), '2');
SELECT crdt.ephemeral_set(-1, 'ns', 'k', '2');
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', NULL);
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', to_jsonb(repeat('v', 1000000)));
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"timestamp": 9, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": {"value": 9, "timestamp": 9, "peer": "p"}, "l": {"value": 1, "timestamp": 1e400, "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"l": {"value": 1, "timestamp": "9", "peer": "p"}}}');
SELECT crdt.ephemeral_merge(:doc, jsonb_build_object('ns', jsonb_build_object(repeat('l', 1001), '{"value": 1, "timestamp": 9, "peer": "p"}'::jsonb)));
-- What since answers is merged entry by entry that is there: nothing is removed by it.
SELECT crdt.ephemeral_merge(:doc, '{"ns": {"k": null}}');

-- The longest and the shortest time to live; an expired register is gone at once, and its key can be written.
SELECT crdt.ephemeral_set(:doc, 'ttl', 'long', '1', ttl => '10 days') IS NOT NULL, crdt.ephemeral_set(:doc, 'ttl', 'short', '1', 5, ttl => '1 ms') IS NOT NULL;
SELECT pg_sleep(0.01);
SELECT crdt.ephemeral_get(:doc, 'ttl', 'short') AS gone, jsonb_object_keys(crdt.ephemeral_get_all(:doc, 'ttl')) AS left;
SELECT key, expires_at - now() BETWEEN '9 days 23:50' AND '10 days' AS in_ten_days, written_at <= clock_timestamp() AS written FROM crdt.ephemeral WHERE doc = :doc AND ns = 'ttl';
SELECT crdt.ephemeral_set(:doc, 'ttl', 'short', '2', 6) ->> 'value' AS written;
SET crdt_db.ephemeral_ttl = '1ms';
SELECT crdt.ephemeral_set(:doc, 'ttl', 'short', '3', 7) ->> 'value' AS written;
SELECT pg_sleep(0.01);
SELECT crdt.ephemeral_get(:doc, 'ttl', 'short') AS gone;
RESET crdt_db.ephemeral_ttl;

-- Not transactional, and says so.
BEGIN;
SELECT crdt.ephemeral_set(:doc, 'ns', 'rolled back', '1', 1) IS NOT NULL AS set;
ROLLBACK;
SELECT crdt.ephemeral_get(:doc, 'ns', 'rolled back') IS NOT NULL AS stays;
BEGIN READ ONLY;
SELECT crdt.ephemeral_set(:doc, 'ns', 'read only', '1', 1) IS NOT NULL AS set;
COMMIT;

-- Views. Times are of the clock, positions of this start of the server.
SELECT crdt.ephemeral_clear(:doc) > 0 AS cleared, crdt.ephemeral_clear(:other) > 0 AS the_other;
SELECT crdt.stat_ephemeral_reset();
SELECT crdt.ephemeral_set(:doc, 'ns', 'k', '1', 1500, 'p') IS NOT NULL, crdt.ephemeral_set(:doc, 'ns', 'k', '2', 1400, 'p') IS NOT NULL,
       crdt.ephemeral_set(:other, 'ns', 'gone', '2', 1, ttl => '1 ms') IS NOT NULL;
-- What has expired by now is told by whoever asks.
SELECT pg_sleep(0.3);
SELECT ns, key, value, peer, written_at = 'epoch'::timestamptz + '1.5 s' AS written, expires_at > now() AS live,
       "position" = (crdt.ephemeral_since(:doc, NULL) ->> 'position')::bigint - 2 AS before_the_last
  FROM crdt.ephemeral WHERE doc IN (:doc, :other);
SELECT sets, losses, expiries, evictions, refusals, notifications, failures, lag_us, longest_lag_us, ephemeral_listeners,
       changes_listeners, worker_pid, reset_at <= now() AS reset, bytes > 0 AS bytes FROM crdt.stat_ephemeral;

-- Settings.
SELECT name, setting, unit, context, vartype, min_val, max_val, short_desc FROM pg_settings WHERE name LIKE 'crdt_db.%' ORDER BY name;
SET crdt_db.ephemeral_memory = '1MB';
SET crdt_db.notify_interval = '1s';
\set VERBOSITY sqlstate
SET crdt_db.ephemeral_ttl = 0;
SET crdt_db.ephemeral_role_share = 101;
DROP TABLE odd;
