package observer.test.peer;

import io.grpc.ManagedChannel;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.NettyServerBuilder;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.epoll.EpollDomainSocketChannel;
import io.netty.channel.epoll.EpollEventLoopGroup;
import io.netty.channel.epoll.EpollServerDomainSocketChannel;
import io.netty.channel.unix.DomainSocketAddress;
import java.net.InetSocketAddress;
import java.util.Map;

/** Addresses, {@code ADDRESS:PORT} or {@code unix:PATH}, and what grpc-java makes of them. */
final class Transport {
  private static final String UNIX = "unix:";

  /** Of Unix sockets; for the others, grpc-java takes its own, which are epoll's too. */
  private static final EventLoopGroup UNIX_LOOPS = new EpollEventLoopGroup(2);

  private Transport() {}

  static NettyServerBuilder server(String listen) {
    if (!listen.startsWith(UNIX)) {
      return NettyServerBuilder.forAddress(parse(listen));
    }
    return NettyServerBuilder.forAddress(path(listen))
        .channelType(EpollServerDomainSocketChannel.class)
        .bossEventLoopGroup(UNIX_LOOPS)
        .workerEventLoopGroup(UNIX_LOOPS);
  }

  static ManagedChannel channel(String target, Map<String, ?> serviceConfig) {
    NettyChannelBuilder builder;
    if (target.startsWith(UNIX)) {
      builder =
          NettyChannelBuilder.forAddress(path(target))
              .channelType(EpollDomainSocketChannel.class, DomainSocketAddress.class)
              .eventLoopGroup(UNIX_LOOPS)
              // The path would not do as an :authority.
              .overrideAuthority("localhost");
    } else {
      builder = NettyChannelBuilder.forAddress(parse(target));
    }
    // Calls fail at once, and are not repeated.
    builder.usePlaintext().disableRetry().maxInboundMessageSize(Integer.MAX_VALUE);
    if (serviceConfig != null) {
      builder.enableRetry().defaultServiceConfig(serviceConfig);
    }
    return builder.build();
  }

  private static InetSocketAddress parse(String address) {
    int colon = address.lastIndexOf(':');
    String host = address.substring(0, colon).replaceAll("[\\[\\]]", "");
    return new InetSocketAddress(host, Integer.parseInt(address.substring(colon + 1)));
  }

  private static DomainSocketAddress path(String address) {
    return new DomainSocketAddress(address.substring(UNIX.length()));
  }
}
