package observer.test.thrift;

import com.google.gson.Gson;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import org.apache.thrift.TApplicationException;
import org.apache.thrift.TException;
import org.apache.thrift.TMultiplexedProcessor;
import org.apache.thrift.TProcessor;
import org.apache.thrift.protocol.TMessage;
import org.apache.thrift.protocol.TMessageType;
import org.apache.thrift.protocol.TProtocol;
import org.apache.thrift.protocol.TType;
import org.apache.thrift.server.TThreadPoolServer;
import org.apache.thrift.transport.TServerSocket;
import sun.misc.Signal;

/** The server: what the generator writes, for all methods but {@code missing}. */
final class Server implements TProcessor {
  private final Truth truth;

  private Server(Truth truth) {
    this.truth = truth;
  }

  /** Serves until SIGTERM; prints one JSON line {"pid", "address"} when it listens. */
  static void serve(String listen, Wire wire, Truth truth) throws Exception {
    CountDownLatch terminated = new CountDownLatch(1);
    Signal.handle(new Signal("TERM"), signal -> terminated.countDown());
    TServerSocket socket = new TServerSocket(new InetSocketAddress(host(listen), 0));
    TProcessor processor = new Server(truth);
    if (wire.multiplexed()) {
      TMultiplexedProcessor several = new TMultiplexedProcessor();
      several.registerProcessor(Wire.SERVICE, processor);
      processor = several;
    }
    TThreadPoolServer server =
        new TThreadPoolServer(
            new TThreadPoolServer.Args(socket)
                .processor(processor)
                .transportFactory(wire.transports())
                .protocolFactory(wire.protocols()));
    new Thread(server::serve).start();
    Map<String, Object> line = new LinkedHashMap<>();
    line.put("pid", ProcessHandle.current().pid());
    line.put("address", host(listen) + ":" + socket.getServerSocket().getLocalPort());
    System.out.println(new Gson().toJson(line));
    terminated.await();
  }

  private static String host(String listen) {
    return listen.substring(0, listen.lastIndexOf(':'));
  }

  @Override
  public void process(TProtocol in, TProtocol out) throws TException {
    TMessage message = in.readMessageBegin();
    Struct arguments = Struct.read(in);
    in.readMessageEnd();
    byte kind = TMessageType.REPLY;
    int code = Truth.OK;
    Struct result = new Struct();
    TApplicationException exception = null;
    switch (message.name) {
      case "add" -> {
        int sum = (Integer) arguments.get(1).value() + (Integer) arguments.get(2).value();
        result.with(0, TType.I32, sum);
      }
      case "ping" -> {}
      case "echo", "order" ->
          result.with(0, arguments.get(1).type(), arguments.get(1).value());
      case "first" -> {
        Struct.Sequence numbers = (Struct.Sequence) arguments.get(1).value();
        if (numbers.elements().isEmpty()) {
          code = Truth.DECLARED_EXCEPTION;
          result.with(1, TType.STRUCT, new Struct().with(1, TType.STRING, text("no numbers")));
        } else {
          result.with(0, TType.I32, numbers.elements().get(0));
        }
      }
      case "note" -> {
        truth.add(message.name, Truth.ONEWAY);
        return;
      }
      case "crash" -> {
        code = Truth.APPLICATION_EXCEPTION;
        exception =
            new TApplicationException(TApplicationException.INTERNAL_ERROR, "Internal error");
      }
      default ->
          exception =
              new TApplicationException(
                  TApplicationException.UNKNOWN_METHOD, "Unknown function " + message.name);
    }
    if (!message.name.equals("missing")) {
      truth.add(message.name, code);
    }
    if (exception != null) {
      kind = TMessageType.EXCEPTION;
    }
    out.writeMessageBegin(new TMessage(message.name, kind, message.seqid));
    if (exception != null) {
      exception.write(out);
    } else {
      result.write(out);
    }
    out.writeMessageEnd();
    out.getTransport().flush();
  }

  /** A string as it is on the wire. */
  static ByteBuffer text(String text) {
    return ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8));
  }
}
