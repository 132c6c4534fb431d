package observer.test.peer;

import io.grpc.ManagedChannel;
import io.grpc.netty.shaded.io.grpc.netty.GrpcSslContexts;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.epoll.EpollServerDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.channel.unix.DomainSocketAddress;
import io.grpc.netty.shaded.io.netty.handler.ssl.ClientAuth;
import io.grpc.netty.shaded.io.netty.handler.ssl.SslContextBuilder;
import io.grpc.netty.shaded.io.netty.handler.ssl.SslProvider;
import java.io.File;
import java.net.InetSocketAddress;
import java.util.Map;
import javax.net.ssl.SSLException;

/** Addresses, {@code ADDRESS:PORT} or {@code unix:PATH}, and what grpc-java makes of them. */
final class Transport {
  private static final String UNIX = "unix:";

  /** Of Unix sockets; for the others, grpc-java takes its own, which are epoll's too. */
  private static final EventLoopGroup UNIX_LOOPS = new EpollEventLoopGroup(2);

  private Transport() {}

  static NettyServerBuilder server(String listen, Map<String, String> options)
      throws SSLException {
    if (!listen.startsWith(UNIX)) {
      NettyServerBuilder builder = NettyServerBuilder.forAddress(parse(listen));
      File cert = file(options, "--tls-cert");
      if (cert != null) {
        SslContextBuilder tls = SslContextBuilder.forServer(cert, file(options, "--tls-key"));
        File authority = file(options, "--tls-ca");
        if (authority != null) {
          tls.trustManager(authority).clientAuth(ClientAuth.REQUIRE);
        }
        builder.sslContext(GrpcSslContexts.configure(tls, provider(options)).build());
      }
      return builder;
    }
    return NettyServerBuilder.forAddress(path(listen))
        .channelType(EpollServerDomainSocketChannel.class)
        .bossEventLoopGroup(UNIX_LOOPS)
        .workerEventLoopGroup(UNIX_LOOPS);
  }

  static ManagedChannel channel(Map<String, String> options, Map<String, ?> serviceConfig)
      throws SSLException {
    String target = options.get("--target");
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
    builder.disableRetry().maxInboundMessageSize(Integer.MAX_VALUE);
    File authority = file(options, "--tls-ca");
    if (authority == null) {
      builder.usePlaintext();
    } else {
      SslContextBuilder tls = SslContextBuilder.forClient().trustManager(authority);
      File cert = file(options, "--tls-cert");
      if (cert != null) {
        tls.keyManager(cert, file(options, "--tls-key"));
      }
      builder.sslContext(GrpcSslContexts.configure(tls, provider(options)).build());
    }
    if (serviceConfig != null) {
      builder.enableRetry().defaultServiceConfig(serviceConfig);
    }
    return builder.build();
  }

  private static File file(Map<String, String> options, String name) {
    String path = options.get(name);
    return path == null ? null : new File(path);
  }

  /** netty-tcnative, which grpc-java takes by itself too, or the JDK's own TLS. */
  private static SslProvider provider(Map<String, String> options) {
    return SslProvider.valueOf(options.getOrDefault("--tls-provider", "OPENSSL"));
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
