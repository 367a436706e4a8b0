import { Readable, type Writable } from "node:stream";
import { pipeline } from "node:stream/promises";

import type { ClientDuplexStream, Metadata, ServiceError } from "@grpc/grpc-js";

import {
  type ContextChunk,
  type RerankBatchRequest,
  type RerankBatchResponse,
  RerankRequest,
  type RerankResponse,
  type RerankServiceClient,
  type RerankStreamRequest,
  type RerankStreamResponse,
} from "./gen/rerankd/v1/rerank.js";
import type { Question } from "./question.js";

const CONTEXTS_A_MESSAGE = 16;

export interface Options {
  metadata: Metadata;
  model: string;
  /** Of each call. */
  deadlineMs: number;
  /** When to cancel a call, from its start. */
  cancelAfterMs?: number | undefined;
}

/** The three calls. All throw ServiceError. */
export class Client {
  constructor(
    private readonly stub: RerankServiceClient,
    private readonly options: Options,
  ) {}

  /** One query, one answer. */
  rank(question: Question): Promise<RerankResponse> {
    return new Promise((resolve, reject) => {
      const done = (error: ServiceError | null, response: RerankResponse) => {
        stop();
        if (error === null) {
          resolve(response);
        } else {
          reject(error);
        }
      };
      const call = this.stub.rerank(this.request(question), this.options.metadata, this.deadline(), done);
      const stop = this.cancelLater(call);
    });
  }

  /** One query whose candidates go in several messages, while scores come back. */
  rankStream(question: Question): AsyncGenerator<RerankStreamResponse> {
    const call = this.stub.rerankStream(this.options.metadata, this.deadline());
    return this.exchange(call, this.parts(question));
  }

  /** Many queries on one call, each answered when it is ready, by its index. */
  rankBatch(questions: Question[]): AsyncGenerator<RerankBatchResponse> {
    const call = this.stub.rerankBatch(this.options.metadata, this.deadline());
    return this.exchange(call, this.items(questions));
  }

  /**
   * Writes while it reads. `pipeline` takes the next message when the call has drained: the server reads no more than it
   * can work on, and what was written ahead of it would lie in our memory.
   */
  private async *exchange<Q, A>(call: ClientDuplexStream<Q, A>, messages: Iterable<Q>): AsyncGenerator<A> {
    const stop = this.cancelLater(call);
    // A failed call is told to its reader, below. Where it is the messages that failed, nothing has ended the call yet.
    pipeline(Readable.from(messages), call as Writable).catch(() => call.cancel());
    try {
      yield* call as AsyncIterable<A>;
    } finally {
      stop();
      call.cancel(); // a reader who has left; nothing, where the call is over
    }
  }

  private *parts(question: Question): Generator<RerankStreamRequest> {
    yield { part: { $case: "start", start: this.request({ ...question, contexts: [] }) } };
    for (let at = 0; at < question.contexts.length; at += CONTEXTS_A_MESSAGE) {
      const texts = question.contexts.slice(at, at + CONTEXTS_A_MESSAGE);
      const more: ContextChunk = { contexts: texts.map((text) => ({ text, key: "" })) };
      yield { part: { $case: "more", more } };
    }
  }

  private *items(questions: Question[]): Generator<RerankBatchRequest> {
    for (const [at, question] of questions.entries()) {
      yield { requestId: String(at), request: this.request(question) };
    }
  }

  private request({ query, contexts, top_k, budget_ms }: Question): RerankRequest {
    return RerankRequest.fromPartial({
      query,
      contexts: contexts.map((text) => ({ text })),
      topK: top_k,
      budgetMs: budget_ms,
      model: this.options.model,
    });
  }

  private deadline(): { deadline: number } {
    return { deadline: Date.now() + this.options.deadlineMs };
  }

  /** Cancels the call after a while, where that is asked for; gives what calls it off. */
  private cancelLater(call: { cancel(): void }): () => void {
    const { cancelAfterMs } = this.options;
    if (cancelAfterMs === undefined) {
      return () => {};
    }
    const timer = setTimeout(() => call.cancel(), cancelAfterMs);
    return () => clearTimeout(timer);
  }
}
