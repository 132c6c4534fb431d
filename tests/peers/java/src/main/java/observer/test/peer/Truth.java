package observer.test.peer;

import com.google.gson.Gson;
import com.google.protobuf.Message;
import io.grpc.Status;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A peer's record: calls, messages and bytes by method and status code. */
final class Truth {
  /** The code of a call that the other end cut, so that its server did not choose one. */
  static final int CUT = -1;

  private final Map<String, Row> rows = new LinkedHashMap<>();

  /** The calls of one method that ended with one code; the names are those of the report. */
  private static final class Row {
    final String method;
    final int code;

    /**
     * Whether the requests were written is not known: a call's headers and its messages are
     * written apart, and a server that has not the method refuses it by the headers.
     */
    final boolean requests_unsure;

    long calls;
    long sent;
    long received;
    long sent_bytes;
    long received_bytes;
    // The most in one call.
    long most_sent;
    long most_received;
    // Calls with at least one message.
    long any_sent;
    long any_received;
    // The duration of each call.
    final List<Long> handling_us = new ArrayList<>();

    Row(Call call) {
      method = call.method;
      code = call.code;
      requests_unsure = code == Status.Code.UNIMPLEMENTED.value();
    }
  }

  private record Report(long pid, Collection<Row> calls) {}

  /** The messages of a running call. */
  static final class Call {
    private final String method;
    private final long begun = System.nanoTime();

    /** The code with which the handler ended; without one the call was cut. */
    volatile int code = CUT;

    private long sent;
    private long received;
    private long sentBytes;
    private long receivedBytes;

    Call(String fullMethodName) {
      method = "/" + fullMethodName;
    }

    /** Counts a message that goes out and returns it. */
    synchronized <M extends Message> M send(M message) {
      sent += 1;
      sentBytes += message.getSerializedSize();
      return message;
    }

    /** Counts a message that came in and returns how many have. */
    synchronized long receive(Message message) {
      received += 1;
      receivedBytes += message.getSerializedSize();
      return received;
    }

    synchronized long sent() {
      return sent;
    }

    synchronized long received() {
      return received;
    }
  }

  synchronized void add(Call call) {
    synchronized (call) {
      Row row = rows.computeIfAbsent(call.method + " " + call.code, key -> new Row(call));
      row.calls += 1;
      row.sent += call.sent;
      row.received += call.received;
      row.sent_bytes += call.sentBytes;
      row.received_bytes += call.receivedBytes;
      row.most_sent = Math.max(row.most_sent, call.sent);
      row.most_received = Math.max(row.most_received, call.received);
      row.any_sent += call.sent > 0 ? 1 : 0;
      row.any_received += call.received > 0 ? 1 : 0;
      row.handling_us.add((System.nanoTime() - call.begun) / 1000);
    }
  }

  /** Writes the sums; the file appears whole or not at all. */
  synchronized void write(Path path) throws IOException {
    Path part = path.resolveSibling(path.getFileName() + ".part");
    Report report = new Report(ProcessHandle.current().pid(), rows.values());
    Files.writeString(part, new Gson().toJson(report));
    Files.move(part, path, StandardCopyOption.ATOMIC_MOVE);
  }
}
