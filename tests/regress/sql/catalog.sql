-- What the extension installed, looked at as a whole. Each list of offenders is empty, and the list of what everybody
-- may call is the one that was decided on.
\pset footer off
\pset format unaligned

CREATE TEMP VIEW member AS
    SELECT d.classid, d.objid, i.type, i.identity
    FROM pg_depend AS d
    JOIN pg_extension AS x ON x.extname = 'crdt_db' AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS i
    WHERE d.deptype = 'e';

SELECT count(*) > 0 AS "the extension has objects" FROM member;

-- Without a COMMENT; sequences and types that belong to a column or a table count with it.
SELECT type || ' ' || identity AS "no comment" FROM member AS m
WHERE obj_description(objid, classid::regclass::name) IS NULL
  AND NOT EXISTS (SELECT FROM pg_depend AS own WHERE own.classid = m.classid AND own.objid = m.objid AND own.deptype = 'i')
ORDER BY 1;

-- SECURITY DEFINER without a fixed search_path: the caller would choose what its names mean.
SELECT objid::regprocedure AS "open search_path" FROM member JOIN pg_proc AS p ON p.oid = objid AND classid = 'pg_proc'::regclass
WHERE p.prosecdef AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search_path=%')
ORDER BY 1;

-- Tables and sequences whose content pg_dump would leave out.
SELECT type || ' ' || identity AS "not dumped" FROM member
JOIN pg_class AS c ON c.oid = objid AND classid = 'pg_class'::regclass AND c.relkind IN ('r', 'p', 'S')
WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'crdt_db' AND objid = ANY (extconfig))
ORDER BY 1;

-- Relations that everybody may read or write.
SELECT identity || ': ' || acl.privilege_type AS "open relation" FROM member
JOIN pg_class AS c ON c.oid = objid AND classid = 'pg_class'::regclass
CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS acl
WHERE acl.grantee = 0
ORDER BY 1;

-- Functions that everybody may execute.
SELECT identity AS "executable by PUBLIC" FROM member JOIN pg_proc AS p ON p.oid = objid AND classid = 'pg_proc'::regclass
CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS acl
WHERE acl.grantee = 0
ORDER BY 1;
