import com.datastax.oss.driver.api.core.ConsistencyLevel;
import com.datastax.oss.driver.api.core.CqlSession;
import java.net.InetSocketAddress;

final class Quickstart {
  static String run(String host) {
    try (CqlSession session =
        CqlSession.builder()
            .addContactPoint(new InetSocketAddress(host, 9042)) // one replica is enough: the driver finds the others
            .withLocalDatacenter("datacenter1")
            .build()) {
      session.execute(
          "CREATE KEYSPACE IF NOT EXISTS shop_java WITH replication = "
              + "{'class': 'SimpleStrategy', 'replication_factor': 3}");
      session.execute("CREATE TABLE IF NOT EXISTS shop_java.orders (id int PRIMARY KEY, item text)");

      var insert = session.prepare("INSERT INTO shop_java.orders (id, item) VALUES (?, ?)");
      session.execute(insert.bind(1, "tea"));

      var select = session.prepare("SELECT item FROM shop_java.orders WHERE id = ?");
      // QUORUM sees every write acknowledged before it.
      var row = session.execute(select.bind(1).setConsistencyLevel(ConsistencyLevel.QUORUM)).one();
      return row.getString("item");
    }
  }
}
