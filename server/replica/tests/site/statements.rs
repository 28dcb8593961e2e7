//! Every kind of DDL and of write.

/// Every kind of DDL.
pub const BEFORE: &[&str] = &[
    // Replication is kept as written, and one node does for it.
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 3} AND durable_writes = false",
    "CREATE KEYSPACE IF NOT EXISTS other WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 2}",
    "ALTER KEYSPACE other WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}",
    "CREATE TYPE ks.address (street text, numbers frozen<set<int>>)",
    "ALTER TYPE ks.address ADD town text",
    "ALTER TYPE ks.address RENAME street TO road",
    "CREATE TABLE ks.t (p int, c timeuuid, s text static, v int, w text, a frozen<address>, u address, l list<int>, \
     st set<text>, m map<text, int>, tp tuple<int, text>, ve vector<float, 3>, gone int, PRIMARY KEY (p, c)) \
     WITH CLUSTERING ORDER BY (c DESC) AND comment = 'a table' AND gc_grace_seconds = 1000",
    "ALTER TABLE ks.t DROP gone",
    "ALTER TABLE ks.t ADD (x int, y int)",
    "ALTER TABLE ks.t RENAME p TO k",
    "ALTER TABLE ks.t WITH compaction = {'class': 'LeveledCompactionStrategy'} AND default_time_to_live = 500000",
    "CREATE INDEX by_v ON ks.t (v)",
    "CREATE INDEX IF NOT EXISTS ON ks.t (keys(m))",
    "CREATE CUSTOM INDEX by_w ON ks.t (w) USING 'StorageAttachedIndex' WITH OPTIONS = {'case_sensitive': 'false'}",
    "CREATE INDEX by_vector ON ks.t (ve) USING 'sai'",
    "CREATE MATERIALIZED VIEW ks.by_x AS SELECT k, c, x, w FROM ks.t WHERE k IS NOT NULL AND c IS NOT NULL AND x IS NOT NULL \
     PRIMARY KEY ((x), k, c) WITH CLUSTERING ORDER BY (k ASC, c DESC)",
    "ALTER MATERIALIZED VIEW ks.by_x WITH comment = 'a view'",
    "CREATE TABLE ks.n (k int PRIMARY KEY, n counter)",
    "CREATE TABLE other.\"Mixed\" (\"K\" int PRIMARY KEY, v int)",
    "CREATE TABLE other.gone (k int PRIMARY KEY)",
    "DROP TABLE other.gone",
    "CREATE TABLE IF NOT EXISTS other.gone (k int PRIMARY KEY, again int)",
    "CREATE FUNCTION ks.twice (x int) RETURNS NULL ON NULL INPUT RETURNS int LANGUAGE java AS 'return 2 * x;'",
    "CREATE FUNCTION ks.longer (s int, x text) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS \
     $$ return s + (x == null ? 0 : x.length()); $$",
    "CREATE AGGREGATE ks.letters (text) SFUNC longer STYPE int INITCOND 0",
    "CREATE FUNCTION ks.endless (x int) CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'while (true) { }'",
    "CREATE FUNCTION ks.dropped () CALLED ON NULL INPUT RETURNS int LANGUAGE java AS 'return 1;'",
    "DROP FUNCTION ks.dropped",
];

/// Every kind of write to what [`BEFORE`] has made.
pub const WRITES: &[&str] = &[
    "INSERT INTO ks.t (k, c, s, v, w) VALUES (1, 50554d6e-29bb-11e5-b345-feff819cdc9f, 's', 1, 'One')",
    "INSERT INTO ks.t (k, c, v, x) VALUES (1, 60554d6e-29bb-11e5-b345-feff819cdc9f, 2, 7) USING TTL 4000 AND TIMESTAMP 77",
    "INSERT INTO ks.t JSON '{\"k\": 2, \"c\": \"50554d6e-29bb-11e5-b345-feff819cdc9f\", \"st\": [\"a\", \"b\"], \"x\": 8}'",
    "INSERT INTO ks.t JSON '{\"k\": 2, \"c\": \"50554d6e-29bb-11e5-b345-feff819cdc9f\", \"w\": \"two\"}' DEFAULT UNSET",
    "UPDATE ks.t USING TTL 0 SET l = [1, 2, 3], m = {'a': 1}, ve = [1, 2, 3] WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f",
    "UPDATE ks.t SET l = l + [4], m['b'] = 2, st = st - {'a'} WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f",
    "UPDATE ks.t SET l = [0] + l WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f",
    "UPDATE ks.t SET l[1] = 9 WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f",
    "DELETE l[0], m['a'] FROM ks.t WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f",
    "UPDATE ks.t SET l = l - [2] WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f",
    "UPDATE ks.t SET u.road = 'r', a = {road: 'q', numbers: {1}}, tp = (1, 'x') WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f",
    "UPDATE ks.t SET s = 'static', v = 3 WHERE k IN (3, 4) AND c = maxTimeuuid('2015-01-01')",
    "UPDATE ks.t SET w = 'kept' WHERE k = 4 AND c = minTimeuuid('2015-01-01 00:00+0000') IF v = null",
    "DELETE FROM ks.t WHERE k = 3 AND c > maxTimeuuid('2014-01-01')",
    "DELETE s FROM ks.t WHERE k = 4",
    "BEGIN BATCH USING TIMESTAMP 5000000000000000 INSERT INTO other.\"Mixed\" (\"K\", v) VALUES (1, 1); \
     UPDATE other.\"Mixed\" SET v = 2 WHERE \"K\" = 2; DELETE v FROM other.\"Mixed\" WHERE \"K\" = 1; APPLY BATCH",
    "BEGIN BATCH UPDATE ks.t SET v = 9 WHERE k = 9 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f IF EXISTS; \
     INSERT INTO ks.t (k, s) VALUES (9, 'not'); APPLY BATCH",
    "BEGIN COUNTER BATCH UPDATE ks.n SET n = n + 3 WHERE k = 1; UPDATE ks.n SET n += 4 WHERE k = 2; APPLY BATCH",
    "UPDATE ks.n SET n = n - 1 WHERE k = 1",
    "DELETE FROM ks.n WHERE k = 2",
    "INSERT INTO other.gone (k, again) VALUES (1, 1)",
];

/// DDL over what [`WRITES`] has written.
pub const AFTER: &[&str] = &[
    "ALTER TABLE other.gone DROP again",
    "ALTER TABLE ks.t ADD later int",
    "DROP INDEX ks.by_v",
    "CREATE INDEX by_v ON ks.t (v) USING 'sai'",
    "ALTER TYPE ks.address ADD country text",
];
