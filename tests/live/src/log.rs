//! The log's own order: what readers find runs by.

use postgres::Client;

use crate::expect::rows;

/// What is wrong with the spans of all docs: with each slot's tail they hold every run, once, under the right lamport.
const WRONG_SPANS: &str = "
    WITH tails AS (
        SELECT t.doc, t.peer, t.counter_start, max(r.counter_end) AS counter_end
          FROM crdt.event_tail AS t JOIN crdt.event_run AS r
               ON r.doc = t.doc AND r.peer = t.peer AND r.counter_start >= t.counter_start AND r.keys IS NOT NULL
         GROUP BY t.doc, t.peer),
    pieces AS (
        SELECT doc, peer, counter_start, counter_end FROM crdt.event_span UNION ALL SELECT * FROM tails),
    follow AS (
        SELECT *, lag(counter_end, 1, -1) OVER (PARTITION BY doc, peer ORDER BY counter_start) + 1 AS meant FROM pieces),
    ends AS (SELECT doc, peer, max(counter_end) AS counter_end FROM pieces GROUP BY doc, peer),
    lasts AS (SELECT doc, peer, max(counter_end) AS counter_end FROM crdt.event_run GROUP BY doc, peer)
    SELECT 'follows', * FROM follow WHERE counter_start <> meant
    UNION ALL
    SELECT 'ends', COALESCE(e.doc, l.doc), COALESCE(e.peer, l.peer), 0, e.counter_end, l.counter_end
      FROM ends AS e FULL JOIN lasts AS l ON l.doc = e.doc AND l.peer = e.peer
     WHERE e.counter_end IS DISTINCT FROM l.counter_end
    UNION ALL
    SELECT 'lamport', s.doc, s.peer, s.counter_start, s.counter_end, r.lamport_end
      FROM crdt.event_span AS s LEFT JOIN crdt.event_run AS r
           ON r.doc = s.doc AND r.peer = s.peer AND r.counter_end = s.counter_end
     WHERE r.lamport_end IS DISTINCT FROM s.lamport_end";

/// Each fault in the spans of any doc of the database, as text; none normally.
pub fn wrong_spans(client: &mut Client) -> Vec<String> {
    rows(client, &format!("SELECT w::text FROM ({WRONG_SPANS}) AS w LIMIT 5"))
}
