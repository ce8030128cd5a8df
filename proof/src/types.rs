//! Every base type with random values of it, as SQL expressions over `random()`.

/// A type and its values.
pub struct Type {
    /// As SQL says it.
    pub name: &'static str,
    /// A random value.
    pub random: &'static str,
    /// Values that have broken things elsewhere, as literals.
    pub edges: &'static [&'static str],
}

const fn t(name: &'static str, random: &'static str, edges: &'static [&'static str]) -> Type {
    Type { name, random, edges }
}

/// Text of any alphabet, with what has to be escaped somewhere.
pub const TEXT: &str = "(SELECT coalesce(string_agg((ARRAY['a','B','0',' ','\"','\\','''','é','ß','字','😀','\u{7f}',E'\\n',E'\\t',E'\\r','{','}','[',',','$text','\u{feff}','ﬁ','İ','%'])[1 + floor(random() * 24)::int], ''), '') FROM generate_series(1, floor(random() * 12 + g * 0)::int))";

/// The types.
pub const TYPES: &[Type] = &[
    t("bool", "random() < 0.5", &[]),
    t("\"char\"", "chr(32 + floor(random() * 95)::int)::\"char\"", &[]),
    t("name", "left(md5(random()::text), floor(random() * 32)::int)::name", &["é\"\\"]),
    t("int2", "floor(random() * 65536 - 32768)::int2", &["-32768", "32767"]),
    t("int4", "('x' || md5(random()::text))::bit(32)::int4", &["-2147483648", "2147483647"]),
    t(
        "int8",
        "('x' || md5(random()::text))::bit(64)::int8",
        &["-9223372036854775808", "9223372036854775807", "9007199254740993", "-9007199254740992"],
    ),
    t(
        "float4",
        "((random() - 0.5) * 10 ^ (random() * 70 - 35))::float4",
        &["NaN", "Infinity", "-Infinity", "-0", "1.17549435e-38", "3.4028235e38", "1e-45", "0.1"],
    ),
    t(
        "float8",
        "(random() - 0.5) * 10 ^ (random() * 600 - 300)",
        &["NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1", "9007199254740993", "1e22"],
    ),
    t(
        "numeric",
        "round((random() - 0.5)::numeric * 10::numeric ^ floor(random() * 40 - 10)::int, floor(random() * 30)::int)",
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "0.00",
            "-0.0",
            "1.10",
            "1e100",
            "1e-100",
            "99999999999999999999999999.999999999999999",
        ],
    ),
    t("money", "((random() - 0.5) * 1e9)::numeric::money", &["-92233720368547758.08", "92233720368547758.07"]),
    t("text", TEXT, &["", "null", "\"", "{\"$text\": \"x\"}", "1e5"]),
    t("varchar", TEXT, &[""]),
    t("bpchar", TEXT, &["", "a "]),
    t(
        "bytea",
        "decode(substr(md5(random()::text), 1, 2 * floor(random() * 16)::int), 'hex')",
        &["", "\\x00", "\\x5c78", "\\xff"],
    ),
    t(
        "date",
        "date '4713-01-01 BC' + floor(random() * 5000000)::int",
        &["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2000-02-29"],
    ),
    t("time", "time '00:00' + random() * interval '1 day'", &["24:00", "00:00", "23:59:59.999999"]),
    t(
        "timetz",
        "(time '00:00' + random() * interval '1 day')::text::time AT TIME ZONE make_interval(mins => floor(random() * 1800 - 900)::int)",
        &["24:00:00-15:59", "00:00:00+15:59:59", "12:00:00.5-02"],
    ),
    t(
        "timestamp",
        "timestamp '4713-01-01 BC' + random() * interval '290000 years'",
        &["infinity", "-infinity", "4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "0001-01-01 BC"],
    ),
    t(
        "timestamptz",
        "timestamptz '1800-01-01 00:00+00' + random() * interval '400 years'",
        &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
            "1890-01-01 00:00:00+00",
            "2011-12-30 10:00:00+00",
        ],
    ),
    t(
        "interval",
        "make_interval(floor(random() * 400 - 200)::int, floor(random() * 30 - 15)::int, 0, floor(random() * 80 - 40)::int, floor(random() * 90 - 45)::int, floor(random() * 90 - 45)::int, random() * 120 - 60)",
        &["0", "-1 mon +1 day -1 us", "178000000 years", "-178000000 years", "2562047788:00:54.775807"],
    ),
    t(
        "uuid",
        "md5(random()::text)::uuid",
        &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    ),
    t("bit(13)", "('x' || md5(random()::text))::bit(13)", &["0000000000000", "1111111111111"]),
    t(
        "varbit",
        "substring(('x' || md5(random()::text))::bit(128) FROM 1 FOR floor(random() * 100)::int)::varbit",
        &["", "0"],
    ),
    t(
        "inet",
        "('0.0.0.0'::inet + (('x' || md5(random()::text))::bit(31)::int)::int8)",
        &["::", "::ffff:1.2.3.4/96", "10.1.2.3/8", "255.255.255.255"],
    ),
    t(
        "cidr",
        "set_masklen(('0.0.0.0'::inet + (('x' || md5(random()::text))::bit(31)::int)::int8), floor(random() * 33)::int)::cidr",
        &["::/0", "2001:db8::/32"],
    ),
    t("macaddr", "substr(md5(random()::text), 1, 12)::macaddr", &["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"]),
    t("macaddr8", "substr(md5(random()::text), 1, 16)::macaddr8", &["00:00:00:00:00:00:00:00"]),
    t("point", "point(random() * 1e10 - 5e9, random() * 10 ^ (random() * 40 - 20))", &["(NaN,Infinity)", "(-0,0)"]),
    t("line", "line(point(random(), random()), point(2 + random(), 2 + random()))", &["{1,0,-0.1}"]),
    t("lseg", "lseg(point(random(), random()), point(random(), random()))", &["[(0,0),(0,0)]"]),
    t("box", "box(point(random(), random()), point(random(), random()))", &["(Infinity,1),(-Infinity,0)"]),
    t(
        "path",
        "CASE WHEN random() < 0.5 THEN popen(p) ELSE p END FROM (SELECT path(polygon(circle(point(random(), random()), random()))) AS p) AS q",
        &["[(0,0)]", "((1e300,0.1))"],
    ),
    t("polygon", "polygon(circle(point(random(), random()), random()))", &["((0,0))"]),
    t("circle", "circle(point(random(), random()), random())", &["<(0.1,-0),0>"]),
    t(
        "json",
        "json_build_object('k', random(), 'n', (random() * 1e9)::int, 't', md5(random()::text))",
        &["null", " { \"b\" : 1.0, \"a\":[ ], \"b\": 2 } ", "1e5", "\"é\\u00e9\"", "{\"$text\":\"x\"}", "[1.10, -0]"],
    ),
    t(
        "jsonb",
        "jsonb_build_object('k', random(), 'n', round(random()::numeric, 20), 't', md5(random()::text))",
        &["null", "{\"$text\": \"x\"}", "1.10", "[]", "{\"a\": {\"b\": [null, 1e30]}}", "\"\\ud83d\\ude00\""],
    ),
    t(
        "jsonpath",
        "('$.\"' || md5(random()::text) || '\"[*] ? (@ > ' || round(random()::numeric, 3) || ')')::jsonpath",
        &["strict $.a", "$"],
    ),
    t("xml", "('<a b=\"' || md5(random()::text) || '\"/>')::xml", &["x", "<a>é&amp;</a>"]),
    t(
        "tsvector",
        "to_tsvector('simple', md5(random()::text) || ' b ' || md5(random()::text))",
        &["", "'a''b':1A,2B 'é':3"],
    ),
    t("tsquery", "(substr(md5(random()::text), 1, 5) || ' & !''x y'' <2> b:*A')::tsquery", &["", "'a'"]),
    t("oid", "(('x' || md5(random()::text))::bit(31)::int)::oid", &["0", "4294967295"]),
    t("xid", "(('x' || md5(random()::text))::bit(31)::int)::text::xid", &["0", "4294967295"]),
    t("xid8", "(('x' || md5(random()::text))::bit(62)::int8)::text::xid8", &["0", "18446744073709551615"]),
    t("cid", "(('x' || md5(random()::text))::bit(31)::int)::text::cid", &["0"]),
    t(
        "tid",
        "('(' || floor(random() * 1e9)::int || ',' || floor(random() * 65000)::int || ')')::tid",
        &["(0,0)", "(4294967295,65535)"],
    ),
    t(
        "pg_lsn",
        "('0/0'::pg_lsn + (('x' || md5(random()::text))::bit(62)::int8)::numeric)",
        &["0/0", "FFFFFFFF/FFFFFFFF"],
    ),
    t("pg_snapshot", "('10:' || 20 + floor(random() * 1000)::int || ':11,15')::pg_snapshot", &["1:1:"]),
    t("txid_snapshot", "('10:' || 20 + floor(random() * 1000)::int || ':11,15')::txid_snapshot", &["1:1:"]),
    t("int2vector", "(floor(random() * 99)::int || ' ' || floor(random() * 99)::int)::int2vector", &["", "-1"]),
    t("oidvector", "(floor(random() * 99)::int || ' ' || floor(random() * 99)::int)::oidvector", &[""]),
    t("refcursor", "md5(random()::text)::refcursor", &["", "\"x\""]),
    // Without 0: it is shown as "-", which the cast from text refuses although the type's own input takes it.
    t(
        "regclass",
        "(SELECT c.oid::regclass FROM pg_class c WHERE c.oid < 16384 AND g > 0 ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t(
        "regtype",
        "(SELECT c.oid::regtype FROM pg_type c WHERE c.oid < 16384 AND g > 0 ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t(
        "regproc",
        "(SELECT c.oid::regproc FROM pg_proc c WHERE c.oid < 16384 AND g > 0 AND proname IN ('now', 'xmlagg', 'pg_backend_pid') ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t(
        "regprocedure",
        "(SELECT c.oid::regprocedure FROM pg_proc c WHERE c.oid < 16384 AND g > 0 ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t("regoper", "(SELECT c.oid::regoper FROM pg_operator c WHERE oprname = '||/' AND g > 0 LIMIT 1)", &["0"]),
    t(
        "regoperator",
        "(SELECT c.oid::regoperator FROM pg_operator c WHERE c.oid < 16384 AND g > 0 ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t(
        "regrole",
        "(SELECT c.oid::regrole FROM pg_roles c WHERE c.oid < 16384 AND g > 0 ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t(
        "regnamespace",
        "(SELECT c.oid::regnamespace FROM pg_namespace c WHERE c.oid < 16384 AND g > 0 ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t("regconfig", "(SELECT c.oid::regconfig FROM pg_ts_config c WHERE g > 0 ORDER BY random() LIMIT 1)", &["0"]),
    t("regdictionary", "(SELECT c.oid::regdictionary FROM pg_ts_dict c WHERE g > 0 ORDER BY random() LIMIT 1)", &["0"]),
    t(
        "regcollation",
        "(SELECT c.oid::regcollation FROM pg_collation c WHERE collname IN ('C', 'POSIX', 'default') AND g > 0 ORDER BY random() LIMIT 1)",
        &["0"],
    ),
    t(
        "aclitem",
        "(SELECT ('postgres=' || substr('arwdDxt', 1, 1 + floor(random() * 7 + g * 0)::int) || '/postgres')::aclitem)",
        &["=r/postgres"],
    ),
    // Not base types, and stored by many.
    t("int4range", "int4range(floor(random() * 100)::int, 100 + floor(random() * 100)::int, '(]')", &["empty", "(,)"]),
    t(
        "numrange",
        "numrange(round(random()::numeric, 5), 1 + round(random()::numeric, 3), '[]')",
        &["empty", "[1.10,1.100]"],
    ),
    t("tstzrange", "tstzrange(now() - random() * interval '1 year', now(), '()')", &["empty", "[-infinity,infinity]"]),
    t("daterange", "daterange(current_date - floor(random() * 100)::int, current_date)", &["(,)"]),
    t("int8multirange", "int8multirange(int8range(1, 2 + floor(random() * 9)::int), int8range(20, 30))", &["{}"]),
    t("int4[]", "ARRAY[floor(random() * 100)::int, NULL, -1]", &["{}", "[0:1]={1,2}", "{{1,2},{3,4}}"]),
    t("text[]", "ARRAY[md5(random()::text), '\"', NULL, 'null', '']", &["{}", "{\"NULL\",NULL,\"\\\\\"}"]),
    t("float8[]", "ARRAY[random(), 'NaN', '-0', random() * 1e300]", &["{Infinity,-Infinity}"]),
    t("timestamptz[]", "ARRAY[now() - random() * interval '10 years', 'infinity']", &["{}"]),
    t("bytea[]", "ARRAY[decode(md5(random()::text), 'hex'), '\\x']", &["{}"]),
    t("interval[]", "ARRAY[random() * interval '100 days', interval '-1 mon']", &["{}"]),
    t(
        "pair",
        "ROW(floor(random() * 9)::int, md5(random()::text), random() * interval '9 days')::pair",
        &["(,,)", "(1,\"a\"\"b\",)"],
    ),
    t("mood", "(ARRAY['sad','ok','é \"so\"'])[1 + floor(random() * 3)::int]::mood", &[]),
    t("posint", "(1 + floor(random() * 9))::int::posint", &[]),
];

/// Base types of which no column is tried, with the reason.
pub const LEFT_OUT: &[&str] = &[
    // Statistics and indexes make their values; their input functions refuse all text.
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    // Keys of GiST indexes.
    "gtsvector",
];
