package observer.test.peer;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.ByteString;
import io.grpc.MethodDescriptor;
import java.io.IOException;
import java.lang.reflect.Field;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import observer.test.v1.EchoGrpc;
import observer.test.v1.EchoOuterClass.Request;
import observer.test.v1.EchoOuterClass.Response;

/** The plan of a client: stages, one after the other, with steps at the same time. */
final class Plan {
  private Plan() {}

  /** The fields and their defaults are those of tests/peers/python/client.py. */
  static final class Step {
    String rpc = "Unary";
    int count = 1;
    int concurrency = 1;
    int connections = 1;
    int payload = 0;
    int requests = 1;
    int response_size = 0;
    int responses = 1;
    int code = 0;
    String detail = "";
    boolean raises = false;
    int sleep_ms = 0;
    int sleep_between_ms = 0;
    boolean lockstep = false;
    Long deadline_ms = null;
    Long cancel_after_ms = null;

    /** Cancels each call at another time within that: the golden ratio spreads them evenly. */
    Long cancel_within_ms = null;
    Long cancel_after_messages = null;
    boolean holds = false;
    Map<String, ?> service_config = null;
    boolean gzip = false;
    boolean unknown_method = false;

    Request request() {
      byte[] bytes = new byte[payload];
      Arrays.fill(bytes, (byte) 0xab);
      return Request.newBuilder()
          .setPayload(ByteString.copyFrom(bytes))
          .setRequests(requests)
          .setResponseSize(response_size)
          .setResponses(responses)
          .setCode(code)
          .setDetail(detail)
          .setRaises(raises)
          .setSleepMs(sleep_ms)
          .setSleepBetweenMs(sleep_between_ms)
          .build();
    }

    /** The time at which to cancel the call with this number; null: never. */
    Long cancelAfterNanos(int turn) {
      if (cancel_within_ms != null) {
        double part = turn * 0.618033988749895 % 1;
        return (long) (part * TimeUnit.MILLISECONDS.toNanos(cancel_within_ms));
      }
      return cancel_after_ms == null ? null : TimeUnit.MILLISECONDS.toNanos(cancel_after_ms);
    }

    MethodDescriptor<Request, Response> method() {
      MethodDescriptor<Request, Response> method =
          switch (rpc) {
            case "Unary" -> EchoGrpc.getUnaryMethod();
            case "ServerStream" -> EchoGrpc.getServerStreamMethod();
            case "ClientStream" -> EchoGrpc.getClientStreamMethod();
            case "Bidi" -> EchoGrpc.getBidiMethod();
            default -> throw new IllegalArgumentException("there is no rpc " + rpc);
          };
      return unknown_method
          ? method.toBuilder().setFullMethodName(EchoGrpc.SERVICE_NAME + "/Missing").build()
          : method;
    }
  }

  private static final Set<String> FIELDS =
      Arrays.stream(Step.class.getDeclaredFields()).map(Field::getName).collect(Collectors.toSet());

  static List<List<Step>> read(Path path) throws IOException {
    JsonArray plan = JsonParser.parseString(Files.readString(path)).getAsJsonArray();
    List<List<Step>> stages = new ArrayList<>();
    for (JsonElement stage : plan) {
      List<Step> steps = new ArrayList<>();
      for (JsonElement step : stage.getAsJsonArray()) {
        steps.add(parse(step.getAsJsonObject()));
      }
      stages.add(steps);
    }
    return stages;
  }

  private static Step parse(JsonObject step) {
    for (String name : step.keySet()) {
      if (!FIELDS.contains(name)) {
        throw new IllegalArgumentException("a step says " + name + ", which means nothing");
      }
    }
    return new Gson().fromJson(step, Step.class);
  }
}
