package observer.test.peer;

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import javax.net.ssl.SSLException;
import observer.test.peer.Plan.Step;
import observer.test.v1.EchoOuterClass.Request;
import observer.test.v1.EchoOuterClass.Response;

/** Carries out a plan. */
final class Client {
  /** Time for the server to start. */
  private static final long CONNECT_SECONDS = 30;

  /** Time for connections to close once their calls have ended. */
  private static final long CLOSE_SECONDS = 10;

  private static final ScheduledExecutorService TIMER =
      Executors.newSingleThreadScheduledExecutor();

  /** One a step. */
  private static final Executor THREADS = task -> new Thread(task).start();

  private final Step step;
  private final Map<String, String> options;
  private final Truth truth;
  private final List<ManagedChannel> channels = new ArrayList<>();
  private final AtomicInteger turns = new AtomicInteger();
  private final CountDownLatch workers;

  private Client(Step step, Map<String, String> options, Truth truth) {
    this.step = step;
    this.options = options;
    this.truth = truth;
    workers = new CountDownLatch(step.concurrency);
  }

  /** One stage after the other, a stage's steps at the same time. */
  static void carryOut(Map<String, String> options, List<List<Step>> stages, Truth truth)
      throws Exception {
    for (List<Step> stage : stages) {
      List<CompletableFuture<Void>> steps = new ArrayList<>();
      for (Step step : stage) {
        steps.add(CompletableFuture.runAsync(() -> carryOut(options, step, truth), THREADS));
      }
      for (Future<Void> done : steps) {
        done.get();
      }
    }
  }

  private static void carryOut(Map<String, String> options, Step step, Truth truth) {
    try {
      new Client(step, options, truth).run();
    } catch (InterruptedException | SSLException failed) {
      throw new IllegalStateException(failed);
    }
  }

  /** Each of `concurrency` workers makes one call after the other. */
  private void run() throws InterruptedException, SSLException {
    for (int i = 0; i < step.connections; i++) {
      channels.add(connect());
    }
    for (int i = 0; i < step.concurrency; i++) {
      next();
    }
    workers.await();
    for (ManagedChannel channel : channels) {
      channel.shutdown();
    }
    for (ManagedChannel channel : channels) {
      if (!channel.awaitTermination(CLOSE_SECONDS, TimeUnit.SECONDS)) {
        throw new IllegalStateException("a connection does not close");
      }
    }
  }

  private ManagedChannel connect() throws InterruptedException, SSLException {
    ManagedChannel channel = Transport.channel(options, step.service_config);
    long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(CONNECT_SECONDS);
    while (true) {
      ConnectivityState state = channel.getState(true);
      if (state == ConnectivityState.READY) {
        return channel;
      }
      CountDownLatch changed = new CountDownLatch(1);
      channel.notifyWhenStateChanged(state, changed::countDown);
      if (!changed.await(until - System.nanoTime(), TimeUnit.NANOSECONDS)) {
        throw new IllegalStateException("connect to " + options.get("--target") + ": still " + state);
      }
    }
  }

  /** A worker's next call, or its end. */
  private void next() {
    int turn = turns.getAndIncrement();
    if (turn < step.count) {
      new Call(channels.get(turn % channels.size())).start(step.cancelAfterNanos(turn));
    } else {
      workers.countDown();
    }
  }

  private final class Call extends ClientCall.Listener<Response> {
    private final Truth.Call did = new Truth.Call(step.method().getFullMethodName());
    private final Request request = step.request();
    private final ClientCall<Request, Response> call;
    private Future<?> cancellation;

    Call(ManagedChannel channel) {
      CallOptions options = CallOptions.DEFAULT;
      if (step.deadline_ms != null) {
        options = options.withDeadlineAfter(step.deadline_ms, TimeUnit.MILLISECONDS);
      }
      if (step.gzip) {
        options = options.withCompression("gzip");
      }
      call = channel.newCall(step.method(), options);
    }

    void start(Long cancelAfterNanos) {
      if (cancelAfterNanos != null) {
        cancellation = TIMER.schedule(this::cancel, cancelAfterNanos, TimeUnit.NANOSECONDS);
      }
      MethodType type = step.method().getType();
      boolean streams = !type.clientSendsOneMessage();
      int requests = streams && !step.lockstep ? step.requests - (step.holds ? 1 : 0) : 1;
      // Nothing may come in before all that is sent here has been counted.
      synchronized (this) {
        call.start(this, new Metadata());
        // A single response is delivered only when there was room for a second one.
        call.request(2);
        for (int i = 0; i < requests; i++) {
          call.sendMessage(did.send(request));
        }
        if (!(streams && (step.lockstep || step.holds))) {
          call.halfClose();
        }
      }
    }

    private void cancel() {
      call.cancel("the plan", null);
    }

    @Override
    public synchronized void onMessage(Response response) {
      long received = did.receive(response);
      call.request(1);
      if (step.cancel_after_messages != null && received == step.cancel_after_messages) {
        cancel();
      } else if (step.lockstep && received == did.sent() * step.responses) {
        // The next request goes out when the last one's responses are in.
        if (did.sent() < step.requests) {
          call.sendMessage(did.send(request));
        } else {
          call.halfClose();
        }
      }
    }

    /** Past the deadline, a reset with CANCEL by the server is DEADLINE_EXCEEDED to grpc-java. */
    @Override
    public synchronized void onClose(Status status, Metadata trailers) {
      did.code = status.getCode().value();
      if (cancellation != null) {
        cancellation.cancel(false);
      }
      truth.add(did);
      next();
    }
  }
}
