#!/usr/bin/env python3
"""The checks of docs/drivers.md with the Python driver, as it is without settings.

checks.py CONTACT REPLICA...     the contact point, and the addresses of all replicas; port 9042
"""
import datetime
import decimal
import ipaddress
import sys
import uuid

from cassandra import AlreadyExists, ConsistencyLevel, InvalidRequest
from cassandra.cluster import Cluster
from cassandra.protocol import SyntaxException
from cassandra.query import BatchStatement, BatchType, PreparedStatement, SimpleStatement
from cassandra.util import Date, Duration, Time

from harness import Writers, ask, expect, expect_error, run, until
from quickstart import quickstart

KEYSPACE = "drivers_python"
ROWS = 10_000
SOME = 200


class Checks:
    def __init__(self, contact, replicas):
        self.contact, self.replicas = contact, sorted(replicas)
        self.cluster = Cluster([contact])
        self.session = self.cluster.connect()
        self.session.execute(f"CREATE KEYSPACE {KEYSPACE} WITH replication = "
                             "{'class': 'SimpleStrategy', 'replication_factor': 3}")
        self.session.set_keyspace(KEYSPACE)

    def all(self):
        names = ["quickstart", "connect", "schema", "statements", "types", "batches", "paging", "conditions", "counters", "ttl",
                 "consistency", "errors", "events", "failover"]
        return [(name, getattr(self, name)) for name in names]

    def execute(self, statement, values=None):
        """At QUORUM unless the statement says otherwise: the driver reads through another replica than it has written through,
        and its own level, LOCAL_ONE, would show what that one has executed so far."""
        if isinstance(statement, str):
            statement = SimpleStatement(statement, consistency_level=ConsistencyLevel.QUORUM)
        elif isinstance(statement, PreparedStatement) and statement.consistency_level is None:
            statement.consistency_level = ConsistencyLevel.QUORUM
        return self.session.execute(statement, values)

    def one(self, statement, values=None):
        row = self.execute(statement, values).one()
        return row and tuple(row)

    def quickstart(self):
        expect("the item", "tea", quickstart(self.contact))
        return "the snippet of the documentation"

    def connect(self):
        until("all replicas", lambda: sorted(h.address for h in self.cluster.metadata.all_hosts()) == self.replicas)
        until("all are up", lambda: all(host.is_up for host in self.cluster.metadata.all_hosts()))
        version = self.session.execute("SELECT release_version FROM system.local").one()[0]
        return f"{len(self.replicas)} replicas, protocol version {self.cluster.protocol_version}, Cassandra {version}"

    def schema(self):
        result = self.session.execute("CREATE TABLE seen (a int, b text, c frozen<list<int>>, PRIMARY KEY (a, b))")
        expect("schema agreement", True, result.response_future.is_schema_agreed)
        columns = {name: column.cql_type for name, column in self.table("seen").columns.items()}
        expect("columns", {"a": "int", "b": "text", "c": "frozen<list<int>>"}, columns)
        self.execute("CREATE INDEX seen_b ON seen (b)")
        expect("indexes", ["seen_b"], list(self.table("seen").indexes))
        self.execute("ALTER TABLE seen ADD d uuid")
        expect("an added column", "uuid", self.table("seen").columns["d"].cql_type)
        self.execute("DROP TABLE seen")
        expect("a dropped table", None, self.table("seen"))
        return "created, indexed, altered and dropped as the metadata shows"

    def table(self, name):
        return self.cluster.metadata.keyspaces[KEYSPACE].tables.get(name)

    def statements(self):
        self.execute("CREATE TABLE statements (k int PRIMARY KEY, v text)")
        self.execute("INSERT INTO statements (k, v) VALUES (1, 'simple')")
        self.execute("INSERT INTO statements (k, v) VALUES (%s, %s)", (2, "it's"))
        prepared = self.session.prepare("INSERT INTO statements (k, v) VALUES (?, ?)")
        self.execute(prepared, (3, "prepared"))
        named = self.session.prepare("INSERT INTO statements (k, v) VALUES (:k, :v)")
        self.execute(named, {"k": 4, "v": "named"})
        self.execute(prepared, (5, None))
        partly = self.session.prepare("UPDATE statements SET v = ? WHERE k = ?")
        self.execute(partly, {"k": 1})  # not set: stays as it is
        rows = sorted(map(tuple, self.execute("SELECT k, v FROM statements")))
        expect("rows", [(1, "simple"), (2, "it's"), (3, "prepared"), (4, "named"), (5, None)], rows)
        select = self.session.prepare("SELECT * FROM statements WHERE k = ?")
        expect("a prepared read", (3, "prepared"), self.one(select, (3,)))
        self.execute("ALTER TABLE statements ADD w int")
        expect("the same statement when a column was added", (3, "prepared", None), self.one(select, (3,)))
        futures = [self.session.execute_async(prepared, (k, str(k))) for k in range(100, 300)]
        for future in futures:
            future.result()
        expect("concurrent writes", (205,), self.one("SELECT count(*) FROM statements"))
        return "simple, prepared, named, unset, null, 200 at once"

    def types(self):
        self.execute("CREATE TYPE address (street text, number int, phones frozen<set<text>>)")
        columns = {
            "c_ascii": ("ascii", "plain"), "c_bigint": ("bigint", -2**63), "c_blob": ("blob", b"\x00\xff"),
            "c_boolean": ("boolean", True), "c_date": ("date", Date(datetime.date(1969, 7, 20))),
            "c_decimal": ("decimal", decimal.Decimal("-12345678901234567890.0123456789")), "c_double": ("double", 1.5e-300),
            "c_duration": ("duration", Duration(14, 3, 5_000_000_001)), "c_float": ("float", 0.25),
            "c_inet": ("inet", str(ipaddress.ip_address("2001:db8::1"))), "c_int": ("int", -2**31),
            "c_smallint": ("smallint", -2**15), "c_text": ("text", "Grüße, 世界 🌍"), "c_time": ("time", Time("23:59:59.999999999")),
            "c_timestamp": ("timestamp", datetime.datetime(2026, 2, 28, 12, 30, 15, 123000)),
            "c_timeuuid": ("timeuuid", uuid.UUID("8e14e760-7fa8-11eb-bc66-000000000001")), "c_tinyint": ("tinyint", -128),
            "c_uuid": ("uuid", uuid.UUID("123e4567-e89b-42d3-a456-426614174000")), "c_varint": ("varint", 10**40),
            "c_list": ("list<int>", [3, 1, 3]), "c_set": ("set<text>", {"b", "a"}), "c_map": ("map<text, bigint>", {"x": 1, "y": -1}),
            "c_nested": ("map<text, frozen<list<frozen<set<int>>>>>", {"n": [{2, 1}, {3}]}),
            "c_tuple": ("tuple<int, text, double>", (1, None, 0.5)), "c_vector": ("vector<float, 3>", [0.5, -1.0, 2.0]),
            "c_names": ("vector<text, 2>", ["one", "two"]),
        }
        declared = ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
        self.execute(f"CREATE TABLE types (id int PRIMARY KEY, {declared}, c_udt address, c_udts list<frozen<address>>)")

        class Address:
            def __init__(self, street, number, phones):
                self.street, self.number, self.phones = street, number, phones

            def __eq__(self, other):
                return vars(self) == {**vars(other), "phones": set(other.phones)}

        self.cluster.register_user_type(KEYSPACE, "address", Address)
        home = Address("Elm", 7, {"1", "2"})
        names = [*columns, "c_udt", "c_udts"]
        values = [value for _, value in columns.values()] + [home, [home, home]]
        insert = self.session.prepare(f"INSERT INTO types (id, {', '.join(names)}) VALUES ({', '.join('?' * (len(names) + 1))})")
        self.execute(insert, [1, *values])
        self.execute(insert, [2] + [None] * len(names))
        select = self.session.prepare(f"SELECT {', '.join(names)} FROM types WHERE id = ?")
        for name, value, found in zip(names, values, self.one(select, (1,))):
            expect(name, value, self.plain(found))
        expect("nulls", (None,) * len(names), self.one(select, (2,)))
        return f"{len(names)} columns of all types written and read, and as nulls"

    @staticmethod
    def plain(value):
        """The driver's own containers as Python's, which compare by content."""
        kind = type(value).__name__
        if kind == "SortedSet":
            return set(value)
        if kind == "OrderedMapSerializedKey":
            return {key: Checks.plain(item) for key, item in value.items()}
        return [Checks.plain(item) for item in value] if isinstance(value, list) else value

    def batches(self):
        self.execute("CREATE TABLE batched (k int, c int, v text, PRIMARY KEY (k, c))")
        self.execute("CREATE TABLE counted (k int PRIMARY KEY, n counter)")
        insert = self.session.prepare("INSERT INTO batched (k, c, v) VALUES (?, ?, ?)")
        for kind, k in [(BatchType.LOGGED, 1), (BatchType.UNLOGGED, 2)]:
            batch = BatchStatement(kind)
            for c in range(20):
                batch.add(insert, (k, c, "prepared"))
            batch.add("INSERT INTO batched (k, c, v) VALUES (%s, 20, 'simple')", (k,))
            self.execute(batch)
        count = self.session.prepare("UPDATE counted SET n = n + ? WHERE k = ?")
        batch = BatchStatement(BatchType.COUNTER)
        for k in range(5):
            batch.add(count, (k + 1, k % 2))
        self.execute(batch)
        for k in (1, 2):
            expect("rows of a batch", (21,), self.one("SELECT count(*) FROM batched WHERE k = %s", (k,)))
        expect("counters of a batch", {0: 9, 1: 6}, dict(map(tuple, self.execute("SELECT k, n FROM counted"))))
        return "logged, unlogged, counter"

    def paging(self):
        self.execute("CREATE TABLE paged (k int, c int, PRIMARY KEY (k, c))")
        insert = self.session.prepare("INSERT INTO paged (k, c) VALUES (?, ?)")
        for begin in range(0, ROWS, 100):
            batch = BatchStatement(BatchType.UNLOGGED)
            for row in range(begin, begin + 100):
                batch.add(insert, (row // 100, row))
            self.execute(batch)
        seen = [row.c for row in self.execute("SELECT c FROM paged")]
        expect("rows of pages of the default size", list(range(ROWS)), sorted(seen))
        small = SimpleStatement("SELECT c FROM paged", fetch_size=700, consistency_level=ConsistencyLevel.QUORUM)
        result, pages, rows = self.execute(small), 1, 0
        state = result.paging_state
        rows += len(result.current_rows)
        while state:
            result = self.session.execute(small, paging_state=state)  # as a web page does, from what it has kept
            rows, pages, state = rows + len(result.current_rows), pages + 1, result.paging_state
        expect("rows by paging states", ROWS, rows)
        return f"{ROWS} rows, also in {pages} pages from their states"

    def conditions(self):
        self.execute("CREATE TABLE conditional (k int PRIMARY KEY, v text, w int)")
        insert = self.session.prepare("INSERT INTO conditional (k, v, w) VALUES (?, ?, ?) IF NOT EXISTS")
        expect("applied", (True,), self.one(insert, (1, "first", 1)))
        expect("not applied", (False, 1, "first", 1), self.one(insert, (1, "second", 2)))
        update = self.session.prepare("UPDATE conditional SET v = ? WHERE k = ? IF w = ?")
        expect("condition that does not hold", (False, 1), self.one(update, ("x", 1, 5)))
        expect("condition that holds", (True,), self.one(update, ("third", 1, 1)))
        expect("nothing there", (False,), self.one("DELETE FROM conditional WHERE k = 9 IF EXISTS"))
        result = self.execute("UPDATE conditional SET w = 2 WHERE k = 1 IF v = 'third'")
        expect("was_applied", True, result.was_applied)
        expect("the row", ("third", 2), self.one("SELECT v, w FROM conditional WHERE k = 1"))
        return "applied, and not applied with the row that is there"

    def counters(self):
        self.execute("CREATE TABLE counters (k text PRIMARY KEY, n counter)")
        add = self.session.prepare("UPDATE counters SET n = n + ? WHERE k = ?")
        for future in [self.session.execute_async(add, (i, "a")) for i in range(101)]:
            future.result()
        self.execute("UPDATE counters SET n = n - 50 WHERE k = 'a'")
        read = SimpleStatement("SELECT n FROM counters WHERE k = 'a'", consistency_level=ConsistencyLevel.QUORUM)
        expect("the counter", (5000,), self.one(read))
        return "102 changes, each once"

    def ttl(self):
        self.execute("CREATE TABLE expiring (k int PRIMARY KEY, v text)")
        insert = self.session.prepare("INSERT INTO expiring (k, v) VALUES (?, ?) USING TTL ?")
        self.execute(insert, (1, "short", 2))
        self.execute(insert, (2, "long", 1000))
        left = self.one("SELECT ttl(v) FROM expiring WHERE k = 2")[0]
        expect("seconds left of 1000", True, 900 < left <= 1000)
        until("the end of a row", lambda: self.one("SELECT v FROM expiring WHERE k = 1") is None)
        expect("the other row", ("long",), self.one("SELECT v FROM expiring WHERE k = 2"))
        return "a row has ended, another says when"

    def consistency(self):
        self.execute("CREATE TABLE levels (k int PRIMARY KEY, v int)")
        levels = ConsistencyLevel
        for number, level in enumerate([levels.ONE, levels.QUORUM, levels.ALL, levels.LOCAL_ONE, levels.LOCAL_QUORUM]):
            self.execute(SimpleStatement("INSERT INTO levels (k, v) VALUES (1, %s)", consistency_level=level), (number,))
            for read in (levels.QUORUM, levels.SERIAL, levels.LOCAL_SERIAL):
                text = SimpleStatement("SELECT v FROM levels WHERE k = 1", consistency_level=read)
                expect(f"read at {read}", (number,), self.one(text))
            text = SimpleStatement("SELECT v FROM levels WHERE k = 1", consistency_level=levels.ONE)
            until("read at ONE", lambda: self.one(text) == (number,))
        conditional = SimpleStatement("UPDATE levels SET v = 9 WHERE k = 1 IF v = 4", serial_consistency_level=levels.LOCAL_SERIAL)
        expect("a conditional write", (True,), self.one(conditional))
        refused = SimpleStatement("INSERT INTO levels (k, v) VALUES (1, 0)", consistency_level=levels.SERIAL)
        expect_error(InvalidRequest, lambda: self.execute(refused))
        return "five levels of writes, four of reads"

    def errors(self):
        syntax = expect_error(SyntaxException, lambda: self.execute("SELEC * FROM nothing"))
        expect("what it says", True, "no viable alternative" in str(syntax))
        unknown = expect_error(InvalidRequest, lambda: self.execute("SELECT * FROM nothing"))
        expect("what it says", True, "table nothing does not exist" in str(unknown))
        expect_error(InvalidRequest, lambda: self.session.prepare("INSERT INTO nothing (k) VALUES (?)"))
        self.execute("CREATE TABLE there (k int PRIMARY KEY)")
        there = expect_error(AlreadyExists, lambda: self.execute("CREATE TABLE there (k int PRIMARY KEY)"))
        expect("which table", (KEYSPACE, "there"), (there.keyspace, there.table))
        text = f"CREATE KEYSPACE {KEYSPACE} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}"
        expect("which keyspace", KEYSPACE, expect_error(AlreadyExists, lambda: self.execute(text)).keyspace)
        return "syntax, invalid and already-exists errors by the driver's own classes"

    def events(self):
        with Cluster([next(host for host in self.replicas if host != self.contact)]) as other:
            other.connect(KEYSPACE).execute("CREATE TABLE elsewhere (k int PRIMARY KEY)")
        until("the table of another session", lambda: self.table("elsewhere"))
        return "another session's table came by an event"

    def failover(self):
        self.execute("CREATE TABLE failover (w int, s int, v text, PRIMARY KEY ((w, s)))")
        insert = self.session.prepare("INSERT INTO failover (w, s, v) VALUES (?, ?, ?)")
        select = self.session.prepare("SELECT v FROM failover WHERE w = ? AND s = ?")
        select.consistency_level = ConsistencyLevel.QUORUM

        def write(writer, sequence, value):
            result = self.session.execute(insert, (writer, sequence, value))
            return None, result.response_future.coordinator_host.address

        def read(writer, sequence):
            result = self.session.execute(select, (writer, sequence))
            return result.one().v, result.response_future.coordinator_host.address

        writers = Writers(4, write, read)
        for host in self.replicas:
            writers.wait_through(host, 10)
        ask(f"KILL {self.contact}")  # the one that the driver hears events from
        writers.wait_for(SOME)
        until("the driver knows", lambda: [h.address for h in self.cluster.metadata.all_hosts() if not h.is_up] == [self.contact])
        ask(f"START {self.contact}")
        writers.wait_through(self.contact, SOME)
        rows = writers.stop()
        every = SimpleStatement("SELECT w, s, v FROM failover", consistency_level=ConsistencyLevel.QUORUM)
        found = {(row.w, row.s): row.v for row in self.execute(every)}
        expect("acknowledged rows that are lost", [], [row for row in rows if found.get(row) != rows[row]][:3])
        return f"{len(rows)} acknowledged rows, none lost; errors meanwhile: {writers.errors or 'none'}"


if __name__ == "__main__":
    run(Checks(sys.argv[1], sys.argv[2:]).all())
