-- Values come back bit-equal: rows of every built-in type are captured from one table and merged into another.
SET client_min_messages = warning;
CREATE SCHEMA types;
SET search_path = types;
CREATE TYPE mood AS ENUM ('sad','ok','happy');
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN tags AS text[];
CREATE TYPE addr AS (street text, no int, geo point);
CREATE TYPE nested AS (a addr, xs int[], j jsonb, js json, t timestamptz);
CREATE TABLE a (id int primary key,
 bl bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, nu numeric, nu2 numeric(10,2), mo money, ch char(5), c1 "char", vc varchar(10), tx text, na name, by bytea,
 d date, ti time, titz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid, bi bit(3), vb varbit,
 ine inet, ci cidr, ma macaddr, ma8 macaddr8, js json, jb jsonb, jp jsonpath, xm xml, tv tsvector, tq tsquery,
 po point, li line, ls lseg, bo box, pa path, pg polygon, cir circle,
 i4r int4range, nr numrange, tr tsrange, tzr tstzrange, dr daterange, i8r int8range, imr int4multirange, dmr datemultirange,
 rc regclass, rp regproc, rty regtype, rpe regprocedure, ro regrole, rn regnamespace, rop regoper, rcfg regconfig, o oid, x xid, x8 xid8, lsn pg_lsn, snap pg_snapshot, td tid, iv2 int2vector, ov oidvector, rcu refcursor, acl aclitem,
 ai int[], at text[], ab bool[], af float8[], an numeric[], aj jsonb[], ajs json[], ats timestamptz[], abo box[], ar int4range[], ae mood[], aby bytea[], ad posint[], aco addr[], ap point[], ach "char"[], anm name[], abp char(3)[], ai8 int8[],
 mo2 mood, dom posint, domt tags, co addr, ne nested,
 g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE b (LIKE a INCLUDING ALL);
SELECT crdt.create_doc('hub', 'types_one') AS one, crdt.create_doc('hub2', 'types_two') AS two \gset
SELECT crdt.track('a', :one, alias => 'a') = :one AS a, crdt.track('b', :two, alias => 'a') = :two AS b;
INSERT INTO a (id) VALUES (0);
INSERT INTO a (id,bl,i2,i4,i8,f4,f8,nu,nu2,mo,ch,c1,vc,tx,na,by) VALUES
 (1,true,-32768,-2147483648,-9223372036854775808,'NaN','NaN','NaN',1.10,'$1,234.56','ab','x','vc ','tx','na','\x00ff'),
 (2,false,32767,2147483647,9223372036854775807,'Infinity','-Infinity','Infinity',-0.01,'-$0.01','',' ','','',''::name,''),
 (3,null,0,0,9007199254740993,'-0','-0','-Infinity',0,'0','a b  ','"','"q"',E'\\ " \n\t \u0001 é 😀 {}','"n"',E'\\x22'),
 (4,null,0,0,-9007199254740991,1e-45,5e-324,1.10000,0,null,'NULL','','NULL','NULL','null',null),
 (5,null,0,0,9007199254740991,3.4028235e38,1.7976931348623157e308,12345678901234567890123456789.000,99999999.99,null,null,null,null,repeat('x',5000),null,null),
 (6,null,0,0,9007199254740992,0.1,0.1,1e-100,null,null,null,null,null,'true',null,null),
 (7,null,0,0,1,16777217,1e22,-0.0,null,null,null,null,null,'1.0',null,null);
INSERT INTO a (id,d,ti,titz,ts,tstz,iv,u,bi,vb,ine,ci,ma,ma8) VALUES
 (11,'infinity','24:00','12:00:00.123456+05:30','infinity','infinity','1 year -2 mons 3 days -04:05:06.789','6ecd8c99-4036-403d-bf84-cf8400f67836','101','','10.0.0.1','10.0.0.0/8','08:00:2b:01:02:03','08:00:2b:01:02:03:04:05'),
 (12,'0044-03-15 BC','00:00:00.000001','00:00-15','0044-03-15 BC','1850-01-01 00:00:00.000001+01','-1 day',null,'000','1010101','::1/128','::/0',null,null),
 (13,'5874897-12-31','23:59:59.999999','00:00+15','294276-12-31 23:59:59.999999','-infinity','-178000000 years',null,null,null,'10.1.2.3/8',null,null,null);
INSERT INTO a (id,js,jb,jp,xm,tv,tq) VALUES
 (21,' { "b" : 1,  "a": [1.10, 1e3 ] , "a":2}','{"b": 1.10, "a": [1, null, "x", {"c": 1e400}]}','$."a"[*]?(@."b" > 1)',null,'''a b'':1A,2 c','a & !(b | c:*)'),
 (22,'null','null','strict $',null,'',''),
 (23,'"s"','"s"',null,null,null,null),
 (24,'1.10','1.10',null,null,null,null),
 (25,'true','true',null,null,null,null),
 (26,'[]','[]',null,null,null,null),
 (27,'{}','{}',null,null,null,null),
 (28,'{"$text": "x"}','{"$text": "x"}',null,null,null,null),
 (29,'{"$text":{"$text":"x"}}','{"$text":{"$text":"x"}}',null,null,null,null),
 (30,'12345678901234567890','12345678901234567890',null,null,null,null),
 (31,'"\u00e9 \" \\ \/ "','"\u00e9 \" \\ \/ "',null,null,null,null),
 (32,'-0','-0',null,null,null,null),(33,'1e5','1e5',null,null,null,null),(34,'9007199254740993','9007199254740993',null,null,null,null),(35,'0.1','0.1',null,null,null,null),(36,'1.0','1.0',null,null,null,null),(37,'""','""',null,null,null,null),(38,'1e-7','0.0000001',null,null,null,null),(39,'100000000000000000000000','100000000000000000000000.50',null,null,null,null);
-- A server built without libxml has no such values.
UPDATE a SET xm = '<a> x &amp; </a>' WHERE id = 21;
INSERT INTO a (id,po,li,ls,bo,pa,pg,cir) VALUES (41,'(1.5,-0)','{1,-1,0}','[(0,0),(1,1)]','(1,1),(0,0)','[(0,0),(1,1)]','((0,0),(1,1),(1,0))','<(1,2),3>'),(42,'(NaN,Infinity)','{1,2,3}','[(0.1,1e300),(1e-300,1)]','(3,4),(1,2)','((0,0),(1,1))','((0,0))','<(0,0),0>');
INSERT INTO a (id,i4r,nr,tr,tzr,dr,i8r,imr,dmr) VALUES (51,'[1,5)','(1.10,2.20]','[2020-01-01,infinity)','["2020-01-01 00:00+01",)','empty','(,)','{[1,2),[5,9)}','{}'),(52,'empty','empty',null,null,'[2020-01-01,2020-02-01)',null,'{}',null);
CREATE SCHEMA "Other Schema"; CREATE TABLE "Other Schema"."T able" (id int);
INSERT INTO a (id,rc,rp,rty,rpe,ro,rn,rop,rcfg,o,x,x8,lsn,snap,td,iv2,ov,rcu,acl) VALUES (61,'a','now','mood','lower(text)','postgres','"Other Schema"','||/','english',42,'42','42','16/B374D848','10:20:10,14,15','(0,1)','1 2 3','1 2','cur','postgres=arwdDxt/postgres'),(62,'"Other Schema"."T able"','-','int[]','-','-','-','0','-',0,'3','3','0/0','1:1:',null,'','','',null);
INSERT INTO a (id,ai,at,ab,af,an,aj,ajs,ats,abo,ar,ae,aby,ad,aco,ap,ach,anm,abp,ai8) VALUES
 (71,'{1,NULL,3}','{"a","NULL",NULL,"","\"","\\","{","}",","," ","é"}','{t,f,NULL}','{NaN,Infinity,-0,0.1}','{1.10,NaN}',array['{"a":1.10}','null',null]::jsonb[],array[' {}','null',null]::json[],'{"2020-01-01 00:00+01"}','{(1,1),(0,0);(3,3),(2,2)}','{"[1,5)",empty}','{sad,happy}','{"\\x00ff",NULL}','{1,2}',array[row('a, "b"',1,'(1,2)'),null,row(null,null,null)]::addr[],'{"(1,2)"}','{a,"\"",NULL}','{n,"a b"}','{ab,"x  "}','{9223372036854775807,1}'),
 (72,'{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}','{}'),
 (73,'{{1,2},{3,4}}','{{a,b},{c,NULL}}','{{t},{f}}','{{{1,2},{3,4}},{{5,6},{7,8}}}','{{1.0,2.00}}',null,null,null,'{{(1,1),(0,0)}}',null,null,null,null,null,null,null,null,null,null),
 (74,'[0:1]={1,2}','[2:3][0:1]={{a,b},{c,d}}',null,null,null,null,null,null,null,null,null,null,'[0:0]={1}',null,null,null,null,null,null);
INSERT INTO a (id,mo2,dom,domt,co,ne) VALUES (81,'happy',5,'{x,"y z"}',row('Main "St", (5)',5,'(1,2)'),row(row('a',1,null),'{1,NULL}','{"x": 1.10}',' {"x" :1}','2020-01-01 00:00+01')),
 (82,'sad',1,'{}',row('',null,null),row(null,null,null,null,null)),(83,null,null,null,row(null,null,null),row(row(null,null,null),'{}','null','null',null)),(84,null,null,null,null,null),(85,null,null,'[0:1]={a,b}',row('{"$text":"a"}',null,null),null);
-- Settings of the session change nothing of what is captured or applied.
SET search_path = "Other Schema", types; SET array_nulls = off; SET timezone='Asia/Kolkata'; SET intervalstyle='sql_standard'; SET datestyle='German'; SET extra_float_digits=-5; SET bytea_output='escape';
UPDATE a SET tx = coalesce(tx, 'u') || '!', f8 = f8 + 0.1 WHERE id IN (1,2,4,6);
UPDATE a SET rc = '"T able"' WHERE id = 61;
UPDATE a SET tstz = '2020-06-01 12:00', iv = '-1 year 2 days -3:4:5' WHERE id = 11;
SET lc_monetary = 'C';
SELECT count(*) > 0 AS merged FROM jsonb_array_elements(crdt.doc_merge_remote(:two, crdt.doc_get_pending(:one, '{}')));
RESET ALL;
SET client_min_messages = warning;
SET search_path = types;
SET extra_float_digits = 3;
CREATE TABLE shown_a AS SELECT id, a::text AS whole, row_to_json(a) AS cells FROM a;
CREATE TABLE shown_b AS SELECT id, b::text AS whole, row_to_json(b) AS cells FROM b;
SELECT count(*), count(*) FILTER (WHERE a.whole = b.whole AND md5(a.whole) = md5(b.whole)) AS equal
FROM shown_a AS a FULL JOIN shown_b AS b USING (id);
SELECT id, x.key, x.value AS in_a, y.value AS in_b
FROM shown_a AS a JOIN shown_b AS b USING (id), json_each_text(a.cells) AS x JOIN json_each_text(b.cells) AS y USING (key)
WHERE x.value IS DISTINCT FROM y.value ORDER BY 1, 2;
-- Bit for bit, also where the text would hide a difference.
SELECT count(*) AS "same image" FROM a JOIN b USING (id) WHERE a *= b;
SELECT * FROM crdt.verify('a');
SELECT * FROM crdt.verify('b');
-- How some of them travel.
SELECT op -> 'row_id' AS row, v ->> 0 AS col, v -> 1 AS value
FROM jsonb_array_elements(crdt.doc_get_pending(:one, '{}')) AS run, jsonb_array_elements(run -> 'ops') AS op, jsonb_array_elements(op -> 'values') AS v
WHERE v -> 1 <> 'null' AND (op ->> 'row_id')::int BETWEEN 21 AND 39 AND v ->> 0 IN ('js', 'jb') ORDER BY (op ->> 'row_id')::int, 2;
-- Also what is updated, cell by cell, over what was there.
UPDATE a SET (bl, i2, i4, i8, f4, f8, nu, nu2, mo, ch, c1, vc, tx, na, "by", js, jb, ai, at, aj, abo, aco, co, ne, dom, domt) =
    (SELECT x.bl, x.i2, x.i4, x.i8, x.f4, x.f8, x.nu, x.nu2, x.mo, x.ch, x.c1, x.vc, x.tx, x.na, x."by", y.js, y.jb, z.ai, z.at, z.aj, z.abo, z.aco, w.co, w.ne, w.dom, w.domt
     FROM a AS x, a AS y, a AS z, a AS w WHERE x.id = a.id % 7 AND y.id = 21 + a.id % 18 AND z.id = 71 + a.id % 4 AND w.id = 81 + a.id % 5);
SELECT count(*) > 0 AS merged FROM jsonb_array_elements(crdt.doc_merge_remote(:two, crdt.doc_get_pending(:one, crdt.version(:two))));
SELECT count(*) AS "same image" FROM a JOIN b USING (id) WHERE a *= b;
SELECT count(*) FROM crdt.verify('b');
-- And onwards to a third.
CREATE TABLE c (LIKE a INCLUDING ALL);
SELECT crdt.create_doc('hub3', 'types_three') AS three \gset
SELECT crdt.track('c', :three, alias => 'a') = :three AS c;
SELECT count(*) > 0 AS merged FROM jsonb_array_elements(crdt.doc_merge_remote(:three, crdt.doc_get_pending(:two, '{}')));
SELECT count(*) AS "same image" FROM a JOIN c USING (id) WHERE a *= c;
-- Values a type refuses are the type's own error, and nothing is merged.
\set VERBOSITY terse
SELECT crdt.doc_update(:three, 'a', '1', 'i4', '"many"');
SELECT crdt.doc_update(:three, 'a', '1', 'i4', '1.5');
SELECT crdt.doc_update(:three, 'a', '1', 'i2', '99999');
SELECT crdt.doc_update(:three, 'a', '1', 'mo2', '"glad"');
SELECT crdt.doc_update(:three, 'a', '1', 'dom', '-1');
SELECT crdt.doc_update(:three, 'a', '1', 'vc', '"longer than ten"');
SELECT crdt.doc_update(:three, 'a', '1', 'ai', '[1,[2]]');
SELECT crdt.doc_update(:three, 'a', '1', 'co', '[1]');
SELECT count(*) AS "same image" FROM a JOIN c USING (id) WHERE a *= c;
RESET search_path;
DROP SCHEMA types, "Other Schema" CASCADE;

-- What the extension writes without a type's output function is what that function writes.
CREATE TABLE forms (id integer PRIMARY KEY, n numeric, z timestamptz, s timestamp, d date, u uuid);
SELECT crdt.track('forms', crdt.create_doc('hub', 'types_forms')) > 0 AS tracked;
INSERT INTO forms
SELECT i, (i * 7919 % 10007)::numeric * (10::numeric ^ (i % 61 - 30)) / (1 + abs(i) % 7),
       timestamptz '2000-01-01 00:00+00' + i * i * interval '97 days 13:11:07.000123',
       timestamp '2000-01-01' - i * interval '31 days 00:00:00.5', date '2000-02-29' + i * 1461, md5(i::text)::uuid
  FROM generate_series(-700, 700) AS i;
INSERT INTO forms VALUES
    (1001, 'NaN', 'infinity', '-infinity', 'infinity', NULL), (1002, '1e300', '0044-03-15 BC', '12345-01-01', '0001-01-01 BC', NULL),
    (1003, '-1e-300', '0001-01-01', '9999-12-31 23:59:59.999999', '9999-12-31', NULL), (1004, '-0.0', NULL, NULL, NULL, NULL),
    (1005, '100000000', NULL, NULL, NULL, NULL), (1006, '0.00010000', NULL, NULL, NULL, NULL), (1007, '99999999999999999999.9999', NULL, NULL, NULL, NULL);
SET timezone = 'UTC';
SET datestyle = 'ISO';
WITH told AS (
    SELECT (op ->> 'row_id')::integer AS id, v ->> 0 AS col, v ->> 1 AS value
      FROM jsonb_array_elements(crdt.doc_get_pending(crdt.doc('types_forms'), '{}')) AS run,
           jsonb_array_elements(run -> 'ops') AS op, jsonb_array_elements(op -> 'values') AS v),
shown AS (
    SELECT id, col, value FROM forms, LATERAL (VALUES
        ('id', id::text), ('n', n::text), ('z', z::text), ('s', s::text), ('d', d::text), ('u', u::text)) AS c (col, value))
SELECT count(*) AS cells, count(*) FILTER (WHERE told.value IS NOT DISTINCT FROM shown.value) AS same,
       string_agg(concat_ws(' ', id, col, told.value, shown.value), '; ') FILTER (WHERE told.value IS DISTINCT FROM shown.value) AS differ
  FROM told FULL JOIN shown USING (id, col);
RESET timezone;
RESET datestyle;
DROP TABLE forms;
