from cassandra import ConsistencyLevel
from cassandra.cluster import Cluster


def quickstart(host):
    cluster = Cluster([host])  # one replica is enough: the driver finds the others
    session = cluster.connect()
    session.execute("CREATE KEYSPACE IF NOT EXISTS shop_python WITH replication = "
                    "{'class': 'SimpleStrategy', 'replication_factor': 3}")
    session.execute("CREATE TABLE IF NOT EXISTS shop_python.orders (id int PRIMARY KEY, item text)")

    insert = session.prepare("INSERT INTO shop_python.orders (id, item) VALUES (?, ?)")
    session.execute(insert, (1, "tea"))

    select = session.prepare("SELECT item FROM shop_python.orders WHERE id = ?")
    select.consistency_level = ConsistencyLevel.QUORUM  # sees every write acknowledged before it
    item = session.execute(select, (1,)).one().item
    cluster.shutdown()
    return item
