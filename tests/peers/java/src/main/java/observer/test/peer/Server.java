package observer.test.peer;

import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import observer.test.v1.EchoGrpc;
import observer.test.v1.EchoOuterClass.Request;
import observer.test.v1.EchoOuterClass.Response;
import sun.misc.Signal;

/** The server, which does what each request asks for. */
final class Server extends EchoGrpc.EchoImplBase {
  /** Time for clients to close their connections once the server stops. */
  private static final long GRACE_SECONDS = 2;

  private final Truth truth;

  private Server(Truth truth) {
    this.truth = truth;
  }

  /** Serves until SIGTERM; prints one JSON line {"pid", "address"} when it listens. */
  static void serve(Map<String, String> options, Truth truth) throws Exception {
    String listen = options.get("--listen");
    String maxConnectionAgeMs = options.get("--max-connection-age-ms");
    String compression = options.get("--compression");
    CountDownLatch terminated = new CountDownLatch(1);
    Signal.handle(new Signal("TERM"), signal -> terminated.countDown());
    NettyServerBuilder builder =
        Transport.server(listen, options)
            .maxInboundMessageSize(Integer.MAX_VALUE)
            .addService(new Server(truth));
    if (maxConnectionAgeMs != null) {
      builder.maxConnectionAge(Long.parseLong(maxConnectionAgeMs), TimeUnit.MILLISECONDS);
    }
    if (compression != null) {
      builder.intercept(new Compressing(compression));
    }
    io.grpc.Server server = builder.build().start();
    Map<String, Object> line = new LinkedHashMap<>();
    line.put("pid", ProcessHandle.current().pid());
    line.put("address", listen.replaceAll(":0$", ":" + server.getPort()));
    System.out.println(new Gson().toJson(line));
    terminated.await();
    server.shutdown();
    if (!server.awaitTermination(GRACE_SECONDS, TimeUnit.SECONDS)) {
      server.shutdownNow().awaitTermination();
    }
  }

  /** Has responses compressed. */
  private record Compressing(String compression) implements ServerInterceptor {
    @Override
    public <A, B> ServerCall.Listener<A> interceptCall(
        ServerCall<A, B> call, Metadata headers, ServerCallHandler<A, B> next) {
      call.setCompression(compression);
      return next.startCall(call, headers);
    }
  }

  @Override
  public void unary(Request request, StreamObserver<Response> responses) {
    new Exchange("Unary", responses).carryOut(request, exchange -> exchange.answer(request));
  }

  @Override
  public void serverStream(Request request, StreamObserver<Response> responses) {
    new Exchange("ServerStream", responses)
        .carryOut(
            request,
            exchange -> {
              exchange.respond(request);
              exchange.end(request);
            });
  }

  @Override
  public StreamObserver<Request> clientStream(StreamObserver<Response> responses) {
    return new Exchange("ClientStream", responses)
        .readAll((exchange, request) -> {}, Exchange::answer);
  }

  @Override
  public StreamObserver<Request> bidi(StreamObserver<Response> responses) {
    return new Exchange("Bidi", responses).readAll(Exchange::respond, Exchange::end);
  }

  /** The call ended under the handler. */
  private static final class Cut extends Exception {}

  /** What a handler does when its requests are in. */
  private interface Handler {
    void handle(Exchange exchange) throws Cut;
  }

  /** What a handler does with a request. */
  private interface RequestHandler {
    void handle(Exchange exchange, Request request) throws Cut;
  }

  /**
   * One call. Its handlers sleep on a latch that the end of the call opens: by the client, or by
   * the deadline, at which grpc-java itself resets the stream with CANCEL and sends no status.
   */
  private final class Exchange {
    private final Truth.Call call;
    private final ServerCallStreamObserver<Response> responses;
    private final CountDownLatch ended = new CountDownLatch(1);
    private int turn;

    Exchange(String method, StreamObserver<Response> responses) {
      call = new Truth.Call(EchoGrpc.SERVICE_NAME + "/" + method);
      this.responses = (ServerCallStreamObserver<Response>) responses;
      // With a handler of its own, a cancelled call does not throw at what it is given to send.
      this.responses.setOnCancelHandler(() -> {});
      // A handler that sleeps keeps the one above from being run; the context is told anyway.
      Context.current().addListener(context -> ended.countDown(), Runnable::run);
    }

    void carryOut(Request request, Handler handler) {
      call.receive(request);
      try {
        handler.handle(this);
      } catch (Cut cut) {
        // Its code is unset.
      } finally {
        truth.add(call);
      }
    }

    StreamObserver<Request> readAll(RequestHandler each, RequestHandler last) {
      return new StreamObserver<>() {
        private Request request;

        @Override
        public void onNext(Request request) {
          this.request = request;
          call.receive(request);
          try {
            each.handle(Exchange.this, request);
          } catch (Cut cut) {
            // onError reports it too.
          }
        }

        @Override
        public void onError(Throwable cut) {
          truth.add(call);
        }

        @Override
        public void onCompleted() {
          try {
            whole(request);
            last.handle(Exchange.this, request);
          } catch (Cut cut) {
            // Its code is unset.
          } finally {
            truth.add(call);
          }
        }
      };
    }

    /** Some clients half-close a call before they reset it: then the reset is on its way. */
    private void whole(Request request) throws Cut {
      if (request == null || call.received() < request.getRequests()) {
        throw new Cut();
      }
    }

    /** Sends the responses to a request. */
    void respond(Request request) throws Cut {
      for (int i = 0; i < request.getResponses(); i++) {
        sleep(turn == 0 ? request.getSleepMs() : request.getSleepBetweenMs());
        responses.onNext(call.send(response(request)));
        turn += 1;
      }
    }

    /** The only response, unless the request says otherwise. */
    void answer(Request request) throws Cut {
      sleep(request.getSleepMs());
      if (request.getCode() == 0 && !request.getRaises()) {
        responses.onNext(call.send(response(request)));
      }
      end(request);
    }

    /** The status that the request asks for; what a handler throws is UNKNOWN to grpc-java. */
    void end(Request request) {
      if (request.getRaises()) {
        call.code = Status.Code.UNKNOWN.value();
        throw new IllegalStateException("the request said so");
      }
      call.code = request.getCode();
      if (request.getCode() == 0) {
        responses.onCompleted();
      } else {
        Status status = Status.fromCodeValue(request.getCode());
        responses.onError(status.withDescription(request.getDetail()).asRuntimeException());
      }
    }

    private void sleep(int millis) throws Cut {
      try {
        if (millis > 0 && ended.await(millis, TimeUnit.MILLISECONDS)) {
          throw new Cut();
        }
      } catch (InterruptedException interrupted) {
        throw new Cut();
      }
    }
  }

  private static Response response(Request request) {
    byte[] payload = new byte[request.getResponseSize()];
    Arrays.fill(payload, (byte) 0xcd);
    return Response.newBuilder().setPayload(ByteString.copyFrom(payload)).build();
  }
}
