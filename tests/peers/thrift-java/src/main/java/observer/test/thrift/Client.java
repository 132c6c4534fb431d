package observer.test.thrift;

import static observer.test.thrift.Server.text;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.thrift.TApplicationException;
import org.apache.thrift.TException;
import org.apache.thrift.protocol.TMessage;
import org.apache.thrift.protocol.TMessageType;
import org.apache.thrift.protocol.TMultiplexedProtocol;
import org.apache.thrift.protocol.TProtocol;
import org.apache.thrift.protocol.TType;
import org.apache.thrift.transport.TSocket;
import org.apache.thrift.transport.TTransport;
import org.apache.thrift.transport.TTransportException;

/** The client: one connection, and what the generator writes. */
final class Client {
  /** Calls one after the other: names of the plan with numbers, and the size of their arguments. */
  private record Step(List<List<Object>> calls, Integer size) {}

  private final String target;
  private final Wire wire;
  private final Truth truth;
  private TTransport transport;
  private TProtocol in;
  private TProtocol out;
  private int sequence;

  private Client(String target, Wire wire, Truth truth) {
    this.target = target;
    this.wire = wire;
    this.truth = truth;
  }

  /** Carries out the stages of a plan, one after the other; the steps of a stage are at the same time. */
  static void carryOut(String target, Path path, Wire wire, Truth truth) throws Exception {
    List<List<Step>> plan =
        new Gson().fromJson(Files.readString(path), new TypeToken<List<List<Step>>>() {}.getType());
    ExecutorService threads = Executors.newCachedThreadPool();
    for (List<Step> stage : plan) {
      List<Future<Void>> running = new ArrayList<>();
      for (Step step : stage) {
        running.add(threads.submit(() -> new Client(target, wire, truth).run(step)));
      }
      for (Future<Void> step : running) {
        step.get();
      }
    }
  }

  private Void run(Step step) throws TException {
    int size = step.size == null ? 10 : step.size;
    for (List<Object> calls : step.calls) {
      for (int left = ((Number) calls.get(1)).intValue(); left > 0; left -= 1) {
        call((String) calls.get(0), size);
      }
    }
    close();
    return null;
  }

  private void open() throws TException {
    if (transport != null) {
      return;
    }
    int colon = target.lastIndexOf(':');
    int port = Integer.parseInt(target.substring(colon + 1));
    transport = wire.wrap(new TSocket(target.substring(0, colon), port));
    transport.open();
    in = wire.protocols().getProtocol(transport);
    out = wire.multiplexed() ? new TMultiplexedProtocol(in, Wire.SERVICE) : in;
  }

  private void close() {
    if (transport != null) {
      transport.close();
      transport = null;
    }
  }

  /** Calls the method that a name of the plan stands for, and records the outcome. */
  private void call(String name, int size) throws TException {
    open();
    String method = name.equals("none") ? "first" : name;
    Struct arguments = arguments(name, size);
    try {
      Struct result = exchange(method, arguments);
      if (result == null) {
        truth.add(method, Truth.ONEWAY);
        return;
      }
      boolean isDeclared = result.get(1) != null;
      boolean echoes = name.equals("echo") || name.equals("order");
      if (echoes && !arguments.get(1).equals(result.get(0))) {
        throw new IllegalStateException(name + " returned something else");
      }
      truth.add(method, isDeclared ? Truth.DECLARED_EXCEPTION : Truth.OK);
    } catch (TApplicationException exception) {
      truth.add(method, Truth.APPLICATION_EXCEPTION);
    } catch (TTransportException exception) {
      truth.add(method, Truth.NO_REPLY);
      close();
    }
  }

  /** Returns the result of a call, or {@code null} if the method has none. */
  private Struct exchange(String method, Struct arguments) throws TException {
    boolean isOneway = method.equals("note");
    sequence += 1;
    byte kind = isOneway ? TMessageType.ONEWAY : TMessageType.CALL;
    out.writeMessageBegin(new TMessage(method, kind, sequence));
    arguments.write(out);
    out.writeMessageEnd();
    out.getTransport().flush();
    if (isOneway) {
      return null;
    }
    TMessage reply = in.readMessageBegin();
    if (reply.type == TMessageType.EXCEPTION) {
      TApplicationException exception = TApplicationException.readFrom(in);
      in.readMessageEnd();
      throw exception;
    }
    if (reply.seqid != sequence || !reply.name.equals(method)) {
      throw new IllegalStateException(reply + " answers " + method);
    }
    Struct result = Struct.read(in);
    in.readMessageEnd();
    return result;
  }

  private static Struct arguments(String name, int size) {
    Struct arguments = new Struct();
    return switch (name) {
      case "add" -> arguments.with(1, TType.I32, 1).with(2, TType.I32, 2);
      case "echo" -> arguments.with(1, TType.STRING, text("e".repeat(size)));
      case "note" -> arguments.with(1, TType.STRING, text("n".repeat(size)));
      case "order" -> arguments.with(1, TType.STRUCT, order(size));
      case "first" -> arguments.with(1, TType.LIST, numbers(3, 2, 1));
      case "none" -> arguments.with(1, TType.LIST, numbers());
      default -> arguments;
    };
  }

  private static Struct.Sequence numbers(Object... numbers) {
    return new Struct.Sequence(TType.I32, List.of(numbers));
  }

  private static Struct order(int size) {
    List<Object> items = new ArrayList<>();
    Map<Object, Object> byNumber = new LinkedHashMap<>();
    for (int n = 0; n < size; n += 1) {
      Struct item =
          new Struct()
              .with(1, TType.I32, n)
              .with(2, TType.STRING, text("i".repeat(7)))
              .with(3, TType.LIST, new Struct.Sequence(TType.DOUBLE, List.of(1.5, 2.5)))
              .with(4, TType.BOOL, true);
      items.add(item);
      byNumber.put(n, item);
    }
    Map<Object, Object> places = Map.of(text("a"), numbers(1, 2, 3), text("b"), numbers());
    return new Struct()
        .with(1, TType.LIST, new Struct.Sequence(TType.STRUCT, items))
        .with(2, TType.MAP, new Struct.Entries(TType.STRING, TType.LIST, places))
        .with(3, TType.SET, new Struct.Unordered(TType.STRING, Set.of(text("x"), text("y"))))
        .with(4, TType.MAP, new Struct.Entries(TType.I32, TType.STRUCT, byNumber))
        .with(5, TType.I64, 1L << 40)
        .with(6, TType.I16, (short) -5)
        .with(7, TType.BYTE, (byte) 7);
  }
}
