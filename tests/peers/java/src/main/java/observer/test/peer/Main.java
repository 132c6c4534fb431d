package observer.test.peer;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * grpc-java server and client of the end-to-end tests: with the same plans and records as the other stacks'
 * peers (see the {@code tests} crate).
 *
 * <pre>
 * server --listen ADDRESS --truth FILE [--max-connection-age-ms N] [--compression gzip]
 *        [--tls-cert FILE --tls-key FILE [--tls-ca FILE]] [--tls-provider JDK]
 * client --target ADDRESS --plan FILE --truth FILE
 *        [--tls-ca FILE [--tls-cert FILE --tls-key FILE]] [--tls-provider JDK]
 * </pre>
 */
public final class Main {
  private Main() {}

  public static void main(String[] args) throws Exception {
    // Handlers that throw are part of the plan; their stack traces are expected.
    Logger.getLogger("io.grpc").setLevel(Level.OFF);
    Map<String, String> options = options(args);
    Truth truth = new Truth();
    if (args[0].equals("server")) {
      Server.serve(options, truth);
    } else {
      Client.carryOut(options, Plan.read(Path.of(options.get("--plan"))), truth);
    }
    truth.write(Path.of(options.get("--truth")));
    // Netty's threads need not be waited for.
    System.exit(0);
  }

  private static Map<String, String> options(String[] args) {
    if (args.length % 2 == 0 || !(args[0].equals("server") || args[0].equals("client"))) {
      throw new IllegalArgumentException("server or client, then options with values");
    }
    Map<String, String> options = new HashMap<>();
    for (int i = 1; i < args.length; i += 2) {
      options.put(args[i], args[i + 1]);
    }
    return options;
  }
}
