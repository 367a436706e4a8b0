package io.rerankd.example

import io.grpc.ManagedChannel
import io.rerankd.v1.RerankBatchResponse
import io.rerankd.v1.RerankRequest
import io.rerankd.v1.RerankResponse
import io.rerankd.v1.RerankServiceGrpcKt.RerankServiceCoroutineStub
import io.rerankd.v1.RerankStreamResponse
import io.rerankd.v1.context
import io.rerankd.v1.contextChunk
import io.rerankd.v1.rerankBatchRequest
import io.rerankd.v1.rerankRequest
import io.rerankd.v1.rerankStreamRequest
import java.util.concurrent.TimeUnit.MILLISECONDS
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.asFlow
import kotlinx.coroutines.flow.flow

private const val CONTEXTS_A_MESSAGE = 16

/**
 * The three calls, each with a deadline. All throw StatusException; who cancels their coroutine cancels them, and the
 * server stops working on them. Messages are taken from a flow only as fast as the connection takes them.
 */
class Client(private val channel: ManagedChannel, private val model: String, private val deadlineMs: Long) {
    /** One query, one answer. */
    suspend fun rank(question: Question): RerankResponse = stub().rerank(request(question))

    /** One query whose candidates go in several messages, while scores come back. */
    fun rankStream(question: Question): Flow<RerankStreamResponse> =
        stub()
            .rerankStream(
                flow {
                    emit(rerankStreamRequest { start = request(question.copy(contexts = emptyList())) })
                    for (texts in question.contexts.chunked(CONTEXTS_A_MESSAGE)) {
                        val chunk = contextChunk { contexts += texts.map { context { text = it } } }
                        emit(rerankStreamRequest { more = chunk })
                    }
                },
            )

    /** Many queries on one call, each answered when it is ready, by its index. */
    fun rankBatch(questions: List<Question>): Flow<RerankBatchResponse> =
        stub()
            .rerankBatch(
                questions
                    .asSequence()
                    .mapIndexed { at, question ->
                        rerankBatchRequest {
                            requestId = at.toString()
                            request = request(question)
                        }
                    }
                    .asFlow(),
            )

    private fun stub() = RerankServiceCoroutineStub(channel).withDeadlineAfter(deadlineMs, MILLISECONDS)

    private fun request(question: Question): RerankRequest = rerankRequest {
        query = question.query
        contexts += question.contexts.map { context { text = it } }
        question.topK?.let { topK = it.toInt() }
        question.budgetMs?.let { budgetMs = it.toInt() }
        model = this@Client.model
    }
}
