import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicReference;

/** What the checks share: running them by name, asking the suite for a replica's death, and the writers that outlive it. */
final class Harness {
  /** Longest wait for anything that another process brings about. */
  static final Duration LIMIT = Duration.ofSeconds(60);

  private static final long LOOK_AGAIN_MS = 50;
  private static final long AFTER_ERROR_MS = 100;
  private static final BufferedReader ANSWERS = new BufferedReader(new InputStreamReader(System.in));

  /** Fails unless both are equal. */
  static void expect(String what, Object expected, Object got) {
    if (!Objects.equals(expected, got)) {
      throw new AssertionError(what + ": expected " + expected + ", got " + got);
    }
  }

  /** Runs an action, which must fail with an exception of this class; returns it. */
  static <E extends Throwable> E expectError(Class<E> kind, Callable<?> action) {
    Object got;
    try {
      got = action.call();
    } catch (Throwable error) {
      if (kind.isInstance(error)) return kind.cast(error);
      throw new AssertionError("expected " + kind.getSimpleName() + ", got " + error, error);
    }
    throw new AssertionError("expected " + kind.getSimpleName() + ", got an answer: " + got);
  }

  /** Waits until a condition holds. */
  static void until(String what, Callable<Boolean> condition) throws Exception {
    long deadline = System.nanoTime() + LIMIT.toNanos();
    while (!condition.call()) {
      if (System.nanoTime() > deadline) throw new AssertionError(what + ": not so within " + LIMIT.toSeconds() + " s");
      Thread.sleep(LOOK_AGAIN_MS);
    }
  }

  /** Asks the suite for something, by a line, and waits for its answer. */
  static void ask(String request) throws IOException {
    System.out.println(request);
    expect("the suite's answer to " + request, "done", ANSWERS.readLine());
  }

  /** Runs the checks, prints a line for each, and says whether all went well; each returns what it has seen. */
  static boolean run(Map<String, Callable<String>> checks) {
    boolean well = true;
    for (var check : checks.entrySet()) {
      long begin = System.nanoTime();
      try {
        String seen = check.getValue().call();
        System.out.printf("ok %s: %s (%.1f s)%n", check.getKey(), seen, (System.nanoTime() - begin) / 1e9);
      } catch (Throwable error) {
        well = false;
        error.printStackTrace();
        System.out.println("FAILED " + check.getKey() + ": " + error);
      }
    }
    return well;
  }

  /** What was answered, and which replica answered it. */
  record Answer(String value, String host) {}

  /** One request for row (writer, sequence). */
  interface Request {
    Answer send(int writer, int sequence) throws Exception;
  }

  static String value(int writer, int sequence) {
    return writer + ":" + sequence;
  }

  /**
   * Threads that write rows and read each back, until they are told to stop. A write that fails is repeated, the same row,
   * until it is acknowledged: it may have been executed.
   */
  static final class Writers {
    private final Request write;
    private final Request read;
    private final List<Thread> threads = new ArrayList<>();
    private final AtomicReference<Throwable> broken = new AtomicReference<>();
    private final Map<String, Integer> through = new ConcurrentHashMap<>();
    private final Map<String, Integer> errors = new ConcurrentHashMap<>();
    private final List<String> acknowledged = new ArrayList<>();
    private volatile boolean stopped;

    Writers(int count, Request write, Request read) {
      this.write = write;
      this.read = read;
      for (int number = 0; number < count; number++) {
        int writer = number;
        Thread thread = new Thread(() -> work(writer));
        thread.setDaemon(true);
        thread.start();
        threads.add(thread);
      }
    }

    private void work(int writer) {
      try {
        for (int sequence = 0; !stopped; sequence++) {
          untilAnswered(write, writer, sequence);
          String value = value(writer, sequence);
          expect("row " + value + ", acknowledged and read", value, untilAnswered(read, writer, sequence));
          synchronized (acknowledged) {
            acknowledged.add(value);
          }
        }
      } catch (Throwable error) {
        broken.set(error);
      }
    }

    private String untilAnswered(Request request, int writer, int sequence) throws Exception {
      long deadline = System.nanoTime() + LIMIT.toNanos();
      while (true) {
        try {
          Answer answer = request.send(writer, sequence);
          through.merge(answer.host(), 1, Integer::sum);
          return answer.value();
        } catch (Exception error) {
          errors.merge(error.getClass().getSimpleName(), 1, Integer::sum);
          if (System.nanoTime() > deadline) throw new AssertionError("no answer within " + LIMIT.toSeconds() + " s", error);
          Thread.sleep(AFTER_ERROR_MS);
        }
      }
    }

    private void check() {
      Throwable error = broken.get();
      if (error != null) throw new AssertionError("a writer has given up: " + error, error);
    }

    private int count() {
      check();
      synchronized (acknowledged) {
        return acknowledged.size();
      }
    }

    /** Waits until so many further rows were acknowledged. */
    void waitFor(int more) throws Exception {
      int target = count() + more;
      until(target + " acknowledged rows", () -> count() >= target);
    }

    /** Waits until this replica has answered so many further requests. */
    void waitThrough(String host, int more) throws Exception {
      int target = through.getOrDefault(host, 0) + more;
      until(more + " more answers of " + host + " (now " + through + ")", () -> {
        check();
        return through.getOrDefault(host, 0) >= target;
      });
    }

    /** Stops the writers; returns the values that were acknowledged. */
    List<String> stop() throws Exception {
      stopped = true;
      for (Thread thread : threads) thread.join(LIMIT.toMillis());
      check();
      return acknowledged;
    }

    Map<String, Integer> errors() {
      return new LinkedHashMap<>(errors);
    }
  }
}
