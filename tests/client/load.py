#!/usr/bin/env python3
"""Writes through any replica and records what was acknowledged; finds every acknowledged write again on one replica.

load.py schema  HOST...                 creates the keyspace and the table
load.py write   FILE RATE HOST...       writes RATE rows a second until FILE.stop exists; FILE gets a line for each
                                        acknowledged write: `milliseconds client sequence latency_us`; FILE.unknown one
                                        for each whose outcome the driver does not know (such a row may exist or not)
load.py check   FILE HOST               reads every row from the replica HOST alone; prints JSON and fails unless each
                                        acknowledged row is there, once, and no row is there that nobody wrote
"""
import json
import os
import sys
import threading
import time
import uuid

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import ConstantReconnectionPolicy, FallthroughRetryPolicy, RoundRobinPolicy, WhiteListRoundRobinPolicy

KEYSPACE, TABLE, WRITERS = "demo", "events", 4


def connect(hosts, only=False):
    """A session; with `only`, one that never talks to another replica than the first host."""
    policy = WhiteListRoundRobinPolicy(hosts[:1]) if only else RoundRobinPolicy()
    profile = ExecutionProfile(load_balancing_policy=policy, retry_policy=FallthroughRetryPolicy(), request_timeout=20)
    cluster = Cluster(hosts, protocol_version=4, execution_profiles={EXEC_PROFILE_DEFAULT: profile},
                      reconnection_policy=ConstantReconnectionPolicy(0.5, None), connect_timeout=10, control_connection_timeout=10)
    return cluster, cluster.connect()


def schema(hosts):
    cluster, session = connect(hosts)
    session.execute(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = "
                    "{'class': 'SimpleStrategy', 'replication_factor': 3}")
    session.execute(f"CREATE TABLE IF NOT EXISTS {KEYSPACE}.{TABLE} (client text, sequence bigint, value text, at timestamp, "
                    "PRIMARY KEY (client, sequence))")
    cluster.shutdown()


def write(path, rate, hosts):
    cluster, session = connect(hosts)
    insert = session.prepare(f"INSERT INTO {KEYSPACE}.{TABLE} (client, sequence, value, at) VALUES (?, ?, ?, ?)")
    insert.consistency_level = ConsistencyLevel.QUORUM
    lock, acked, unknown = threading.Lock(), open(path, "a", buffering=1), open(path + ".unknown", "a", buffering=1)

    def writer(name, interval):
        sequence, due = 0, time.monotonic()
        while not os.path.exists(path + ".stop"):
            due = max(due + interval, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
            begin = time.time()
            try:
                session.execute(insert, (name, sequence, f"value {sequence} of {name}", int(begin * 1000)))
                line = f"{int(time.time() * 1000)} {name} {sequence} {int((time.time() - begin) * 1e6)}\n"
                with lock:
                    acked.write(line)
            except Exception as error:  # the outcome is unknown: the row may be there or not
                with lock:
                    unknown.write(f"{int(time.time() * 1000)} {name} {sequence} {type(error).__name__} {error}\n".replace("\n", " ") + "\n")
            sequence += 1

    run = uuid.uuid4().hex[:6]
    threads = [threading.Thread(target=writer, args=(f"{run}-{i}", WRITERS / rate)) for i in range(WRITERS)]
    for thread in threads:
        thread.start()
    print("writing", flush=True)
    for thread in threads:
        thread.join()
    cluster.shutdown()
    open(path + ".done", "w").close()


def rows(path):
    try:
        with open(path) as file:
            return {(parts[1], int(parts[2])) for parts in map(str.split, file) if len(parts) >= 3}
    except FileNotFoundError:
        return set()


def check(path, host):
    acked, unknown = rows(path), rows(path + ".unknown")
    cluster, session = connect([host], only=True)
    statement = session.prepare(f"SELECT client, sequence, value FROM {KEYSPACE}.{TABLE}")
    statement.consistency_level = ConsistencyLevel.QUORUM
    statement.fetch_size = 1000
    found = [(row.client, row.sequence, row.value) for row in session.execute(statement)]
    cluster.shutdown()
    keys = {(client, sequence) for client, sequence, _ in found}
    wrong = [f"{c}/{s}: {v!r}" for c, s, v in found if v != f"value {s} of {c}"]
    result = {"host": host, "acknowledged": len(acked), "unknown": len(unknown), "found": len(found),
              "missing": sorted(acked - keys)[:5], "missing_count": len(acked - keys),
              "foreign": sorted(keys - acked - unknown)[:5], "wrong": wrong[:5], "twice": len(found) - len(keys)}
    print(json.dumps(result))
    if result["missing_count"] or result["foreign"] or wrong or result["twice"]:
        sys.exit(1)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    command, rest = sys.argv[1], sys.argv[2:]
    if command == "schema":
        schema(rest)
    elif command == "write":
        write(rest[0], float(rest[1]), rest[2:])
    elif command == "check":
        check(rest[0], rest[1])
    else:
        sys.exit(__doc__)


main()
