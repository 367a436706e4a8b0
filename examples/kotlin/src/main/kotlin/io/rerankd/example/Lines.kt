package io.rerankd.example

import io.rerankd.v1.RankedContext
import io.rerankd.v1.RerankResponse
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable
import kotlinx.serialization.SerializationException
import kotlinx.serialization.json.Json

/** A line of input: a query, its candidates, and what may be asked of them. */
@Serializable
data class Question(
    val query: String,
    val contexts: List<String>,
    @SerialName("top_k") val topK: UInt? = null,
    @SerialName("budget_ms") val budgetMs: UInt? = null,
)

/** A line of output: the answer to the line of input that [id] numbers, or what has been scored of it, or its failure. */
sealed interface Line

@Serializable data class Score(val id: Int, val score: Double)

@Serializable data class Scored(val id: String, val scored: List<Score>) : Line

@Serializable data class Ranked(val id: String, val results: List<Score>, val unscored: List<Int>) : Line

@Serializable data class Failed(val id: String, val error: Failure) : Line

/** Throws IllegalArgumentException, with a sentence that names the line. */
fun readQuestions(lines: Sequence<String>): List<Question> =
    lines
        .mapIndexed { at, line ->
            try {
                Json.decodeFromString<Question>(line)
            } catch (error: SerializationException) {
                throw IllegalArgumentException("Line $at of the input: ${error.message}", error)
            }
        }
        .toList()

fun ranked(id: String, response: RerankResponse) = Ranked(id, scores(response.resultsList), response.unscoredList)

fun scores(results: List<RankedContext>) = results.map { Score(it.id, it.score.toDouble()) }
