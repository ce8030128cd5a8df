-- A doc's clock: nobody can drive it so far ahead that writing ends.
CREATE TABLE clock_t (id text PRIMARY KEY, n int);
SELECT crdt.track('clock_t') AS doc \gset
INSERT INTO clock_t VALUES ('1', 1);
-- further ahead than an honest clock
SELECT crdt.push(:doc, '{"peer_id":"m","events":[{"peer":"m","counter_start":0,"lamport_start":9007199254740991,"deps":[],
  "ops":[{"type":"update","tbl":"clock_t","row_id":"1","col":"n","value":2}]}]}');
-- one operation that takes almost all counters there are
SELECT crdt.push(:doc, '{"peer_id":"m","events":[{"peer":"m","counter_start":0,"lamport_start":2,"deps":[],
  "ops":[{"type":"skip","span":9007199254740980}]}]}');
-- the most that one push may take; the next may not take twice as much
SELECT crdt.push(:doc, '{"peer_id":"m","events":[{"peer":"m","counter_start":0,"lamport_start":2,"deps":[],
  "ops":[{"type":"skip","span":65537}]}]}') ->> 'accepted' AS accepted;
SELECT crdt.push(:doc, '{"peer_id":"m","events":[{"peer":"m","counter_start":65537,"lamport_start":65539,"deps":[],
  "ops":[{"type":"skip","span":131076}]}]}');
-- an event in the middle of an operation that is known
SELECT crdt.push(:doc, '{"peer_id":"m","events":[{"peer":"m","counter_start":3,"lamport_start":5,"deps":[],
  "ops":[{"type":"update","tbl":"clock_t","row_id":"1","col":"n","value":7}]}]}');
-- plain SQL goes on
INSERT INTO clock_t VALUES ('2', 2);
SELECT lamport FROM crdt.docs WHERE doc = :doc;
SELECT * FROM crdt.verify('clock_t');
