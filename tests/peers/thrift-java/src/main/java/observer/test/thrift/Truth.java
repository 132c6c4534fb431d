package observer.test.thrift;

import com.google.gson.Gson;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A peer's record of its calls. {@code tests/support/truth.rs} reads it. */
final class Truth {
  // As in observer-core/src/call/code.rs.
  static final int OK = 0;
  static final int DECLARED_EXCEPTION = 18;
  static final int APPLICATION_EXCEPTION = 19;
  static final int ONEWAY = 20;
  static final int NO_REPLY = 21;

  private static final List<String> SUMS =
      List.of(
          "sent", "received", "sent_bytes", "received_bytes",
          "most_sent", "most_received", "any_sent", "any_received");

  private record Ended(String method, int code) {}

  private final String prefix;
  private final Map<Ended, Long> calls = new LinkedHashMap<>();

  /** A record of calls of methods whose names have this prefix on the wire. */
  Truth(String prefix) {
    this.prefix = prefix;
  }

  synchronized void add(String method, int code) {
    calls.merge(new Ended(prefix + method, code), 1L, Long::sum);
  }

  synchronized void write(Path path) throws IOException {
    List<Map<String, Object>> rows = new ArrayList<>();
    calls.forEach(
        (ended, count) -> {
          Map<String, Object> row = new LinkedHashMap<>();
          row.put("method", ended.method);
          row.put("code", ended.code);
          row.put("calls", count);
          SUMS.forEach(sum -> row.put(sum, 0));
          rows.add(row);
        });
    Map<String, Object> report = Map.of("pid", ProcessHandle.current().pid(), "calls", rows);
    Files.writeString(path, new Gson().toJson(report));
  }
}
