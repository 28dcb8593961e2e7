'use strict';
const cassandra = require('cassandra-driver');

async function quickstart(host) {
  const client = new cassandra.Client({
    contactPoints: [host], // one replica is enough: the driver finds the others
    localDataCenter: 'datacenter1',
  });
  await client.connect();
  await client.execute("CREATE KEYSPACE IF NOT EXISTS shop_node WITH replication = " +
    "{'class': 'SimpleStrategy', 'replication_factor': 3}");
  await client.execute('CREATE TABLE IF NOT EXISTS shop_node.orders (id int PRIMARY KEY, item text)');

  await client.execute('INSERT INTO shop_node.orders (id, item) VALUES (?, ?)', [1, 'tea'], { prepare: true });

  const select = 'SELECT item FROM shop_node.orders WHERE id = ?';
  const consistency = cassandra.types.consistencies.quorum; // sees every write acknowledged before it
  const result = await client.execute(select, [1], { prepare: true, consistency });
  await client.shutdown();
  return result.first().item;
}

module.exports = quickstart;
