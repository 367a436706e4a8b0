package io.rerankd.example;

import static java.util.concurrent.TimeUnit.MILLISECONDS;

import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.rerankd.v1.ContextChunk;
import io.rerankd.v1.RerankBatchRequest;
import io.rerankd.v1.RerankBatchResponse;
import io.rerankd.v1.RerankResponse;
import io.rerankd.v1.RerankServiceGrpc;
import io.rerankd.v1.RerankStreamRequest;
import io.rerankd.v1.RerankStreamResponse;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.function.Consumer;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import java.util.stream.Stream;

/** The three calls, each with a deadline, and cancelled after a while where that is asked for. */
final class Client implements AutoCloseable {
  private static final int CONTEXTS_A_MESSAGE = 16;

  private final ManagedChannel channel;
  private final String model;
  private final long deadlineMs;
  private final Long cancelAfterMs;
  private final ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();

  Client(ManagedChannel channel, String model, long deadlineMs, Long cancelAfterMs) {
    this.channel = channel;
    this.model = model;
    this.deadlineMs = deadlineMs;
    this.cancelAfterMs = cancelAfterMs;
  }

  /** One query, one answer. Throws StatusRuntimeException. */
  RerankResponse rank(Question question) {
    var stub = RerankServiceGrpc.newBlockingStub(channel).withDeadlineAfter(deadlineMs, MILLISECONDS);
    return cancellable(() -> stub.rerank(question.toRequest(model)));
  }

  /** One query whose candidates go in several messages, while scores come back. Throws CompletionException. */
  void rankStream(Question question, Consumer<RerankStreamResponse> answered) {
    var start = RerankStreamRequest.newBuilder().setStart(question.toStart(model)).build();
    Stream<RerankStreamRequest> more =
        chunks(question.contexts())
            .map(texts -> ContextChunk.newBuilder().addAllContexts(Question.messages(texts)))
            .map(chunk -> RerankStreamRequest.newBuilder().setMore(chunk).build());
    var exchange = new Exchange<>(Stream.concat(Stream.of(start), more).iterator(), answered);
    var stub = RerankServiceGrpc.newStub(channel).withDeadlineAfter(deadlineMs, MILLISECONDS);
    cancellable(
        () -> {
          stub.rerankStream(exchange);
          exchange.await();
          return null;
        });
  }

  /** Many queries on one call, each answered when it is ready, by its index. Throws CompletionException. */
  void rankBatch(List<Question> questions, Consumer<RerankBatchResponse> answered) {
    Stream<RerankBatchRequest> messages =
        IntStream.range(0, questions.size())
            .mapToObj(
                at ->
                    RerankBatchRequest.newBuilder()
                        .setRequestId(Integer.toString(at))
                        .setRequest(questions.get(at).toRequest(model))
                        .build());
    var exchange = new Exchange<>(messages.iterator(), answered);
    var stub = RerankServiceGrpc.newStub(channel).withDeadlineAfter(deadlineMs, MILLISECONDS);
    cancellable(
        () -> {
          stub.rerankBatch(exchange);
          exchange.await();
          return null;
        });
  }

  /** Calls in flight are cancelled. */
  @Override
  public void close() {
    timer.shutdownNow();
    channel.shutdownNow();
  }

  /** A call that is made in a cancelled context is cancelled, and the server stops working on it. */
  private <T> T cancellable(Supplier<T> call) {
    try (Context.CancellableContext context = Context.current().withCancellation()) {
      if (cancelAfterMs != null) {
        timer.schedule(() -> context.cancel(null), cancelAfterMs, MILLISECONDS);
      }
      Context before = context.attach();
      try {
        return call.get();
      } finally {
        context.detach(before);
      }
    }
  }

  private static Stream<List<String>> chunks(List<String> texts) {
    return IntStream.iterate(0, at -> at < texts.size(), at -> at + CONTEXTS_A_MESSAGE)
        .mapToObj(at -> texts.subList(at, Math.min(at + CONTEXTS_A_MESSAGE, texts.size())));
  }
}
