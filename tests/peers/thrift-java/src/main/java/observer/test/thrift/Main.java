package observer.test.thrift;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/**
 * The Thrift server and client of the end-to-end tests, in Java. They take the arguments of {@code ../thrift/server.py}
 * and {@code ../thrift/client.py}, except for Unix sockets, which the library does not have, and the header transport.
 */
public final class Main {
  private Main() {}

  public static void main(String[] args) throws Exception {
    Map<String, String> options = options(args);
    Wire wire = new Wire(options);
    Truth truth = new Truth(wire.multiplexed() ? Wire.SERVICE + ":" : "");
    if (args[0].equals("server")) {
      Server.serve(options.get("--listen"), wire, truth);
    } else {
      Client.carryOut(options.get("--target"), Path.of(options.get("--plan")), wire, truth);
    }
    truth.write(Path.of(options.get("--truth")));
    // The server's threads need not be waited for.
    System.exit(0);
  }

  private static Map<String, String> options(String[] args) {
    Map<String, String> options = new HashMap<>();
    for (int i = 1; i < args.length; i += 1) {
      boolean isSwitch = args[i].equals("--multiplexed");
      options.put(args[i], isSwitch ? "" : args[i + 1]);
      i += isSwitch ? 0 : 1;
    }
    return options;
  }
}
