import com.datastax.oss.driver.api.core.ConsistencyLevel;
import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.cql.Row;
import com.datastax.oss.driver.api.core.cql.SimpleStatement;
import com.datastax.oss.driver.api.core.data.CqlDuration;
import com.datastax.oss.driver.api.core.data.CqlVector;
import com.datastax.oss.driver.api.core.data.TupleValue;
import com.datastax.oss.driver.api.core.data.UdtValue;
import com.datastax.oss.driver.api.core.type.DataTypes;
import com.datastax.oss.driver.api.core.type.UserDefinedType;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.net.InetAddress;
import java.nio.ByteBuffer;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalTime;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;

/** A value of each type, written and read. */
final class Types {
  /** A column's type, and the value that it gets. */
  private record Column(String type, Object value) {}

  static String check(CqlSession session) throws Exception {
    session.execute("CREATE TYPE address (street text, number int, phones frozen<set<text>>)");
    String keyspace = session.getKeyspace().orElseThrow().asInternal();
    UserDefinedType address = session.getMetadata().getKeyspace(keyspace).flatMap(it -> it.getUserDefinedType("address")).orElseThrow();
    UdtValue home = address.newValue("Elm", 7, Set.of("1", "2"));
    Map<String, Column> columns = columns(session, home);
    List<String> declared = new ArrayList<>();
    columns.forEach((name, column) -> declared.add(name + " " + column.type()));
    session.execute("CREATE TABLE types (id int PRIMARY KEY, " + String.join(", ", declared) + ")");
    String names = String.join(", ", columns.keySet());
    String markers = String.join(", ", Collections.nCopies(columns.size() + 1, "?"));
    var insert = session.prepare("INSERT INTO types (id, " + names + ") VALUES (" + markers + ")");
    List<Object> values = new ArrayList<>(List.of(1));
    columns.values().forEach(column -> values.add(column.value()));
    session.execute(insert.bind(values.toArray()));
    Object[] nulls = new Object[columns.size() + 1];
    nulls[0] = 2;
    session.execute(insert.bind(nulls));
    var text = SimpleStatement.newInstance("SELECT " + names + " FROM types WHERE id = ?");
    var select = session.prepare(text.setConsistencyLevel(ConsistencyLevel.QUORUM));
    Row row = session.execute(select.bind(1)).one();
    columns.forEach((name, column) -> Harness.expect(name, column.value(), row.getObject(name)));
    Row empty = session.execute(select.bind(2)).one();
    columns.forEach((name, column) -> Harness.expect(name + " of nulls", true, empty.isNull(name)));
    return columns.size() + " columns of all types written and read, and as nulls";
  }

  private static Map<String, Column> columns(CqlSession session, UdtValue home) throws Exception {
    TupleValue tuple = DataTypes.tupleOf(DataTypes.INT, DataTypes.TEXT, DataTypes.DOUBLE).newValue(1, null, 0.5);
    Map<String, Column> columns = new LinkedHashMap<>();
    columns.put("c_ascii", new Column("ascii", "plain"));
    columns.put("c_bigint", new Column("bigint", Long.MIN_VALUE));
    columns.put("c_blob", new Column("blob", ByteBuffer.wrap(new byte[] {0, -1})));
    columns.put("c_boolean", new Column("boolean", true));
    columns.put("c_date", new Column("date", LocalDate.of(1969, 7, 20)));
    columns.put("c_decimal", new Column("decimal", new BigDecimal("-12345678901234567890.0123456789")));
    columns.put("c_double", new Column("double", 1.5e-300));
    columns.put("c_duration", new Column("duration", CqlDuration.newInstance(14, 3, 5_000_000_001L)));
    columns.put("c_float", new Column("float", 0.25f));
    columns.put("c_inet", new Column("inet", InetAddress.getByName("2001:db8::1")));
    columns.put("c_int", new Column("int", Integer.MIN_VALUE));
    columns.put("c_smallint", new Column("smallint", Short.MIN_VALUE));
    columns.put("c_text", new Column("text", "Gr\u00fc\u00dfe, \u4e16\u754c"));
    columns.put("c_time", new Column("time", LocalTime.of(23, 59, 59, 999_999_999)));
    columns.put("c_timestamp", new Column("timestamp", Instant.parse("2026-02-28T12:30:15.123Z")));
    columns.put("c_timeuuid", new Column("timeuuid", UUID.fromString("8e14e760-7fa8-11eb-bc66-000000000001")));
    columns.put("c_tinyint", new Column("tinyint", Byte.MIN_VALUE));
    columns.put("c_uuid", new Column("uuid", UUID.fromString("123e4567-e89b-42d3-a456-426614174000")));
    columns.put("c_varint", new Column("varint", BigInteger.TEN.pow(40)));
    columns.put("c_list", new Column("list<int>", List.of(3, 1, 3)));
    columns.put("c_set", new Column("set<text>", Set.of("a", "b")));
    columns.put("c_map", new Column("map<text, bigint>", Map.of("x", 1L, "y", -1L)));
    columns.put("c_nested", new Column("map<text, frozen<list<frozen<set<int>>>>>", Map.of("n", List.of(Set.of(1, 2), Set.of(3)))));
    columns.put("c_tuple", new Column("tuple<int, text, double>", tuple));
    columns.put("c_vector", new Column("vector<float, 3>", CqlVector.newInstance(0.5f, -1.0f, 2.0f)));
    columns.put("c_names", new Column("vector<text, 2>", CqlVector.newInstance("one", "two")));
    columns.put("c_udt", new Column("address", home));
    columns.put("c_udts", new Column("list<frozen<address>>", List.of(home, home)));
    return columns;
  }
}
