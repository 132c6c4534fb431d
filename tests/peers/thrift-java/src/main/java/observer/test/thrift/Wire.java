package observer.test.thrift;

import java.util.Map;
import org.apache.thrift.TException;
import org.apache.thrift.protocol.TBinaryProtocol;
import org.apache.thrift.protocol.TCompactProtocol;
import org.apache.thrift.protocol.TProtocolFactory;
import org.apache.thrift.transport.TTransport;
import org.apache.thrift.transport.TTransportFactory;
import org.apache.thrift.transport.layered.TFramedTransport;

/** How messages are sent. */
final class Wire {
  /** The name of the service, if services are multiplexed. */
  static final String SERVICE = "Shop";

  private final boolean compact;
  private final boolean framed;
  private final boolean multiplexed;

  Wire(Map<String, String> options) {
    compact = options.getOrDefault("--protocol", "binary").equals("compact");
    framed = options.getOrDefault("--transport", "buffered").equals("framed");
    multiplexed = options.containsKey("--multiplexed");
  }

  boolean multiplexed() {
    return multiplexed;
  }

  TProtocolFactory protocols() {
    return compact ? new TCompactProtocol.Factory() : new TBinaryProtocol.Factory();
  }

  TTransportFactory transports() {
    return framed ? new TFramedTransport.Factory() : new TTransportFactory();
  }

  TTransport wrap(TTransport transport) throws TException {
    return transports().getTransport(transport);
  }
}
