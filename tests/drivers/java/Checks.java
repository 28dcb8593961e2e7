import static com.datastax.oss.driver.api.core.cql.SimpleStatement.newInstance;

import com.datastax.oss.driver.api.core.ConsistencyLevel;
import com.datastax.oss.driver.api.core.CqlSession;
import com.datastax.oss.driver.api.core.DefaultConsistencyLevel;
import com.datastax.oss.driver.api.core.cql.BatchStatement;
import com.datastax.oss.driver.api.core.cql.BatchType;
import com.datastax.oss.driver.api.core.cql.PreparedStatement;
import com.datastax.oss.driver.api.core.cql.ResultSet;
import com.datastax.oss.driver.api.core.cql.Row;
import com.datastax.oss.driver.api.core.metadata.Node;
import com.datastax.oss.driver.api.core.metadata.NodeState;
import com.datastax.oss.driver.api.core.metadata.schema.TableMetadata;
import com.datastax.oss.driver.api.core.servererrors.AlreadyExistsException;
import com.datastax.oss.driver.api.core.servererrors.InvalidQueryException;
import com.datastax.oss.driver.api.core.servererrors.SyntaxError;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionStage;

/**
 * The checks of docs/drivers.md with the Java driver, as it is without settings.
 *
 * <p>Checks CONTACT REPLICA... : the contact point, and the addresses of all replicas; port 9042
 */
public final class Checks {
  private static final String KEYSPACE = "drivers_java";
  private static final int ROWS = 10_000;
  private static final int SOME = 200;

  private final String contact;
  private final Set<String> replicas;
  private final CqlSession session;

  private Checks(String contact, Set<String> replicas) {
    this.contact = contact;
    this.replicas = replicas;
    this.session = open(contact);
    session.execute(
        "CREATE KEYSPACE " + KEYSPACE + " WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}");
    session.execute("USE " + KEYSPACE);
  }

  public static void main(String[] arguments) {
    Set<String> replicas = new TreeSet<>(List.of(arguments).subList(1, arguments.length));
    Checks checks = new Checks(arguments[0], replicas);
    boolean well = Harness.run(checks.all());
    checks.session.close();
    System.exit(well ? 0 : 1);
  }

  private Map<String, Callable<String>> all() {
    Map<String, Callable<String>> all = new LinkedHashMap<>();
    all.put("quickstart", this::quickstart);
    all.put("connect", this::connect);
    all.put("schema", this::schema);
    all.put("statements", this::statements);
    all.put("types", () -> Types.check(session));
    all.put("batches", this::batches);
    all.put("paging", this::paging);
    all.put("conditions", this::conditions);
    all.put("counters", this::counters);
    all.put("ttl", this::ttl);
    all.put("consistency", this::consistency);
    all.put("errors", this::errors);
    all.put("events", this::events);
    all.put("failover", this::failover);
    return all;
  }

  private static CqlSession open(String host) {
    return CqlSession.builder()
        .addContactPoint(new InetSocketAddress(host, 9042))
        .withLocalDatacenter("datacenter1")
        .build();
  }

  /**
   * At QUORUM: the driver reads through another replica than it has written through, and its own level, LOCAL_ONE, would show
   * what that one has executed so far.
   */
  private ResultSet execute(String text, Object... values) {
    return session.execute(newInstance(text, values).setConsistencyLevel(ConsistencyLevel.QUORUM));
  }

  /** The values of a result's first row, as text; null when there is none. */
  private static List<String> one(ResultSet result) {
    Row row = result.one();
    return row == null ? null : values(row);
  }

  private static List<String> values(Row row) {
    List<String> values = new ArrayList<>();
    for (int i = 0; i < row.size(); i++) values.add(String.valueOf(row.getObject(i)));
    return values;
  }

  private static String address(Node node) {
    return ((InetSocketAddress) node.getEndPoint().resolve()).getAddress().getHostAddress();
  }

  private TableMetadata table(String name) {
    return session.getMetadata().getKeyspace(KEYSPACE).flatMap(keyspace -> keyspace.getTable(name)).orElse(null);
  }

  private String quickstart() {
    Harness.expect("the item", "tea", Quickstart.run(contact));
    return "the snippet of the documentation";
  }

  private String connect() throws Exception {
    Harness.until("all replicas are known and up", () -> {
      Set<String> up = new TreeSet<>();
      for (Node node : session.getMetadata().getNodes().values()) {
        if (node.getState() == NodeState.UP && node.getOpenConnections() > 0) up.add(address(node));
      }
      return up.equals(replicas);
    });
    String version = session.execute("SELECT release_version FROM system.local").one().getString(0);
    return replicas.size() + " replicas, protocol version " + session.getContext().getProtocolVersion() + ", Cassandra " + version;
  }

  private String schema() {
    ResultSet result = execute("CREATE TABLE seen (a int, b text, c frozen<list<int>>, PRIMARY KEY (a, b))");
    Harness.expect("schema agreement", true, result.getExecutionInfo().isSchemaInAgreement());
    Map<String, String> columns = new TreeMap<>();
    table("seen").getColumns().forEach((name, column) -> columns.put(name.asInternal(), column.getType().asCql(true, false)));
    Harness.expect("columns", Map.of("a", "int", "b", "text", "c", "frozen<list<int>>"), columns);
    execute("CREATE INDEX seen_b ON seen (b)");
    Harness.expect("an index", true, table("seen").getIndex("seen_b").isPresent());
    execute("ALTER TABLE seen ADD d uuid");
    Harness.expect("an added column", true, table("seen").getColumn("d").isPresent());
    execute("DROP TABLE seen");
    Harness.expect("a dropped table", null, table("seen"));
    return "created, indexed, altered and dropped as the metadata shows";
  }

  private String statements() throws Exception {
    execute("CREATE TABLE statements (k int PRIMARY KEY, v text)");
    execute("INSERT INTO statements (k, v) VALUES (1, 'simple')");
    execute("INSERT INTO statements (k, v) VALUES (?, ?)", 2, "it's");
    PreparedStatement prepared = session.prepare("INSERT INTO statements (k, v) VALUES (?, ?)");
    session.execute(prepared.bind(3, "prepared"));
    execute("INSERT INTO statements (k, v) VALUES (4, 'named')");
    session.execute(newInstance("UPDATE statements SET v = :v WHERE k = :k", Map.of("v", "by name", "k", 4)));
    session.execute(prepared.bind(5, null));
    PreparedStatement partly = session.prepare("UPDATE statements SET v = :v WHERE k = :k");
    session.execute(partly.boundStatementBuilder().setInt("k", 1).build()); // not set: stays as it is
    Map<Integer, String> rows = new TreeMap<>();
    for (Row row : execute("SELECT k, v FROM statements")) rows.put(row.getInt("k"), String.valueOf(row.getString("v")));
    Map<Integer, String> expected = Map.of(1, "simple", 2, "it's", 3, "prepared", 4, "by name", 5, "null");
    Harness.expect("rows", expected, rows);
    PreparedStatement select = session.prepare(
        newInstance("SELECT * FROM statements WHERE k = ?").setConsistencyLevel(ConsistencyLevel.QUORUM));
    Harness.expect("a prepared read", List.of("3", "prepared"), one(session.execute(select.bind(3))));
    execute("ALTER TABLE statements ADD w int");
    List<String> wider = List.of("3", "prepared", "null");
    Harness.expect("the same statement when a column was added", wider, one(session.execute(select.bind(3))));
    List<CompletionStage<?>> running = new ArrayList<>();
    for (int k = 100; k < 300; k++) running.add(session.executeAsync(prepared.bind(k, "" + k)));
    for (CompletionStage<?> one : running) one.toCompletableFuture().get();
    Harness.expect("concurrent writes", List.of("205"), one(execute("SELECT count(*) FROM statements")));
    return "simple, prepared, named, unset, null, 200 at once";
  }

  private String batches() {
    execute("CREATE TABLE batched (k int, c int, v text, PRIMARY KEY (k, c))");
    execute("CREATE TABLE counted (k int PRIMARY KEY, n counter)");
    PreparedStatement insert = session.prepare("INSERT INTO batched (k, c, v) VALUES (?, ?, ?)");
    for (int k : new int[] {1, 2}) {
      var batch = BatchStatement.builder(k == 1 ? BatchType.LOGGED : BatchType.UNLOGGED);
      for (int c = 0; c < 20; c++) batch.addStatement(insert.bind(k, c, "prepared"));
      batch.addStatement(newInstance("INSERT INTO batched (k, c, v) VALUES (?, 20, 'simple')", k));
      session.execute(batch.build());
      Harness.expect("rows of a batch", List.of("21"), one(execute("SELECT count(*) FROM batched WHERE k = ?", k)));
    }
    PreparedStatement count = session.prepare("UPDATE counted SET n = n + ? WHERE k = ?");
    var batch = BatchStatement.builder(BatchType.COUNTER);
    for (int k = 0; k < 5; k++) batch.addStatement(count.bind(k + 1L, k % 2));
    session.execute(batch.build());
    Map<Integer, Long> counters = new TreeMap<>();
    for (Row row : execute("SELECT k, n FROM counted")) counters.put(row.getInt(0), row.getLong(1));
    Harness.expect("counters of a batch", Map.of(0, 9L, 1, 6L), counters);
    return "logged, unlogged, counter";
  }

  private String paging() {
    execute("CREATE TABLE paged (k int, c int, PRIMARY KEY (k, c))");
    PreparedStatement insert = session.prepare("INSERT INTO paged (k, c) VALUES (?, ?)");
    for (int begin = 0; begin < ROWS; begin += 100) {
      var batch = BatchStatement.builder(BatchType.UNLOGGED);
      for (int row = begin; row < begin + 100; row++) batch.addStatement(insert.bind(row / 100, row));
      session.execute(batch.build());
    }
    Set<Integer> seen = new HashSet<>();
    int rows = 0;
    for (Row row : execute("SELECT c FROM paged")) {
      seen.add(row.getInt(0));
      rows++;
    }
    Harness.expect("rows of pages of the default size", ROWS, rows);
    Harness.expect("different rows", ROWS, seen.size());
    var small = newInstance("SELECT c FROM paged").setPageSize(700).setConsistencyLevel(ConsistencyLevel.QUORUM);
    int pages = 0;
    int byStates = 0;
    var state = (java.nio.ByteBuffer) null;
    do { // as a web page does, from what it has kept
      ResultSet result = session.execute(small.setPagingState(state));
      byStates += result.getAvailableWithoutFetching();
      state = result.getExecutionInfo().getPagingState();
      pages++;
    } while (state != null);
    Harness.expect("rows by paging states", ROWS, byStates);
    return ROWS + " rows, also in " + pages + " pages from their states";
  }

  private String conditions() {
    execute("CREATE TABLE conditional (k int PRIMARY KEY, v text, w int)");
    PreparedStatement insert = session.prepare("INSERT INTO conditional (k, v, w) VALUES (?, ?, ?) IF NOT EXISTS");
    Harness.expect("applied", List.of("true"), one(session.execute(insert.bind(1, "first", 1))));
    ResultSet not = session.execute(insert.bind(1, "second", 2));
    Harness.expect("was applied", false, not.wasApplied());
    Harness.expect("not applied", List.of("false", "1", "first", "1"), one(not));
    PreparedStatement update = session.prepare("UPDATE conditional SET v = ? WHERE k = ? IF w = ?");
    Harness.expect("condition that does not hold", List.of("false", "1"), one(session.execute(update.bind("x", 1, 5))));
    Harness.expect("condition that holds", true, session.execute(update.bind("third", 1, 1)).wasApplied());
    Harness.expect("nothing there", List.of("false"), one(execute("DELETE FROM conditional WHERE k = 9 IF EXISTS")));
    Harness.expect("the row", List.of("third", "1"), one(execute("SELECT v, w FROM conditional WHERE k = 1")));
    return "applied, and not applied with the row that is there";
  }

  private String counters() throws Exception {
    execute("CREATE TABLE counters (k text PRIMARY KEY, n counter)");
    PreparedStatement add = session.prepare("UPDATE counters SET n = n + ? WHERE k = ?");
    List<CompletionStage<?>> running = new ArrayList<>();
    for (long i = 0; i <= 100; i++) running.add(session.executeAsync(add.bind(i, "a")));
    for (CompletionStage<?> one : running) one.toCompletableFuture().get();
    execute("UPDATE counters SET n = n - 50 WHERE k = 'a'");
    var read = newInstance("SELECT n FROM counters WHERE k = 'a'").setConsistencyLevel(ConsistencyLevel.QUORUM);
    Harness.expect("the counter", List.of("5000"), one(session.execute(read)));
    return "102 changes, each once";
  }

  private String ttl() throws Exception {
    execute("CREATE TABLE expiring (k int PRIMARY KEY, v text)");
    PreparedStatement insert = session.prepare("INSERT INTO expiring (k, v) VALUES (?, ?) USING TTL ?");
    session.execute(insert.bind(1, "short", 2));
    session.execute(insert.bind(2, "long", 1000));
    int left = execute("SELECT ttl(v) FROM expiring WHERE k = 2").one().getInt(0);
    Harness.expect("seconds left of 1000", true, 900 < left && left <= 1000);
    Harness.until("the end of a row", () -> one(execute("SELECT v FROM expiring WHERE k = 1")) == null);
    Harness.expect("the other row", List.of("long"), one(execute("SELECT v FROM expiring WHERE k = 2")));
    return "a row has ended, another says when";
  }

  private String consistency() throws Exception {
    execute("CREATE TABLE levels (k int PRIMARY KEY, v int)");
    var select = newInstance("SELECT v FROM levels WHERE k = 1");
    int number = 0;
    for (String level : List.of("ONE", "QUORUM", "ALL", "LOCAL_ONE", "LOCAL_QUORUM")) {
      List<String> value = List.of("" + number);
      var insert = newInstance("INSERT INTO levels (k, v) VALUES (1, ?)", number++);
      session.execute(insert.setConsistencyLevel(DefaultConsistencyLevel.valueOf(level)));
      for (String read : List.of("QUORUM", "SERIAL", "LOCAL_SERIAL")) {
        Harness.expect("read at " + read, value, one(session.execute(select.setConsistencyLevel(DefaultConsistencyLevel.valueOf(read)))));
      }
      var local = select.setConsistencyLevel(ConsistencyLevel.ONE);
      Harness.until("read at ONE", () -> value.equals(one(session.execute(local))));
    }
    var conditional = newInstance("UPDATE levels SET v = 9 WHERE k = 1 IF v = 4").setSerialConsistencyLevel(ConsistencyLevel.LOCAL_SERIAL);
    Harness.expect("a conditional write", true, session.execute(conditional).wasApplied());
    var refused = newInstance("INSERT INTO levels (k, v) VALUES (1, 0)").setConsistencyLevel(ConsistencyLevel.SERIAL);
    Harness.expectError(InvalidQueryException.class, () -> session.execute(refused));
    return "five levels of writes, four of reads";
  }

  private String errors() {
    var syntax = Harness.expectError(SyntaxError.class, () -> execute("SELEC * FROM nothing"));
    Harness.expect("what it says", true, syntax.getMessage().contains("no viable alternative"));
    var unknown = Harness.expectError(InvalidQueryException.class, () -> execute("SELECT * FROM nothing"));
    Harness.expect("what it says", true, unknown.getMessage().contains("table nothing does not exist"));
    Harness.expectError(InvalidQueryException.class, () -> session.prepare("INSERT INTO nothing (k) VALUES (?)"));
    execute("CREATE TABLE there (k int PRIMARY KEY)");
    var there = Harness.expectError(AlreadyExistsException.class, () -> execute("CREATE TABLE there (k int PRIMARY KEY)"));
    Harness.expect("which table", true, there.getMessage().contains(KEYSPACE + ".there"));
    return "syntax, invalid and already-exists errors by the driver's own classes";
  }

  private String events() throws Exception {
    String host = replicas.stream().filter(replica -> !replica.equals(contact)).findFirst().orElseThrow();
    try (CqlSession other = open(host)) {
      other.execute("CREATE TABLE " + KEYSPACE + ".elsewhere (k int PRIMARY KEY)");
    }
    Harness.until("the table of another session", () -> table("elsewhere") != null);
    return "another session's table came by an event";
  }

  private String failover() throws Exception {
    execute("CREATE TABLE failover (w int, s int, v text, PRIMARY KEY ((w, s)))");
    PreparedStatement insert = session.prepare("INSERT INTO failover (w, s, v) VALUES (?, ?, ?)");
    PreparedStatement select = session.prepare("SELECT v FROM failover WHERE w = ? AND s = ?");
    var writers = new Harness.Writers(
        4,
        (writer, sequence) -> {
          ResultSet result = session.execute(insert.bind(writer, sequence, Harness.value(writer, sequence)));
          return new Harness.Answer(null, address(result.getExecutionInfo().getCoordinator()));
        },
        (writer, sequence) -> {
          var read = select.bind(writer, sequence).setConsistencyLevel(ConsistencyLevel.QUORUM);
          ResultSet result = session.execute(read);
          return new Harness.Answer(result.one().getString(0), address(result.getExecutionInfo().getCoordinator()));
        });
    for (String host : replicas) writers.waitThrough(host, 10);
    Harness.ask("KILL " + contact); // the one that the driver hears events from
    writers.waitFor(SOME);
    Harness.until("the driver knows", () -> session.getMetadata().getNodes().values().stream()
        .filter(node -> node.getState() == NodeState.DOWN).map(Checks::address).toList().equals(List.of(contact)));
    Harness.ask("START " + contact);
    writers.waitThrough(contact, SOME);
    List<String> acknowledged = writers.stop();
    Set<String> found = new HashSet<>();
    var every = newInstance("SELECT v FROM failover").setConsistencyLevel(ConsistencyLevel.QUORUM);
    for (Row row : session.execute(every)) found.add(row.getString(0));
    Harness.expect("acknowledged rows that are lost", List.of(), acknowledged.stream().filter(row -> !found.contains(row)).limit(3).toList());
    return acknowledged.size() + " acknowledged rows, none lost; errors meanwhile: " + writers.errors();
  }
}
