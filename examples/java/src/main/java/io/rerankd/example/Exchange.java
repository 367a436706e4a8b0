package io.rerankd.example;

import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import java.util.Iterator;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;

/**
 * One call with messages both ways. Messages are taken from the iterator only as fast as the connection takes them: the
 * server reads no more than it can work on, and what was written ahead of it would lie in our memory.
 *
 * <p>gRPC calls a call's observer from one thread at a time, so there is nothing to lock here.
 */
final class Exchange<Q, A> implements ClientResponseObserver<Q, A> {
  private final Iterator<Q> messages;
  private final Consumer<A> answered;
  private final CompletableFuture<Void> ended = new CompletableFuture<>();

  Exchange(Iterator<Q> messages, Consumer<A> answered) {
    this.messages = messages;
    this.answered = answered;
  }

  @Override
  public void beforeStart(ClientCallStreamObserver<Q> call) {
    call.setOnReadyHandler(
        () -> {
          while (call.isReady()) { // not any more after onCompleted
            if (messages.hasNext()) {
              call.onNext(messages.next());
            } else {
              call.onCompleted();
            }
          }
        });
  }

  @Override
  public void onNext(A answer) {
    answered.accept(answer);
  }

  @Override
  public void onError(Throwable error) {
    ended.completeExceptionally(error);
  }

  @Override
  public void onCompleted() {
    ended.complete(null);
  }

  /** Returns when the server has ended the call; throws CompletionException, of a StatusRuntimeException, where it failed. */
  void await() {
    ended.join();
  }
}
