package io.rerankd.example

import io.grpc.StatusException
import java.io.File
import java.io.IOException
import java.io.PrintStream
import java.util.concurrent.Callable
import kotlin.system.exitProcess
import kotlinx.coroutines.TimeoutCancellationException
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.serialization.encodeToString
import kotlinx.serialization.json.Json
import picocli.CommandLine
import picocli.CommandLine.Command
import picocli.CommandLine.Model.CommandSpec
import picocli.CommandLine.Option
import picocli.CommandLine.ParameterException
import picocli.CommandLine.Parameters
import picocli.CommandLine.Spec

@Suppress("EnumEntryName")
enum class Kind {
    unary,
    stream,
    batch,
}

/** Lines of JSON in, lines of JSON out; README.md has their fields. */
@Command(name = "run", sortOptions = false, description = ["Ranks the queries on standard input."])
class Main : Callable<Int> {
    @Option(names = ["--target"], required = true, paramLabel = "HOST:PORT") private lateinit var target: String

    @Option(names = ["--ca"], paramLabel = "FILE", description = ["The authorities to trust; speak TLS."])
    private var ca: File? = null

    @Option(names = ["--cert"], paramLabel = "FILE", description = ["Our certificate, for a server that asks for one."])
    private var cert: File? = null

    @Option(names = ["--key"], paramLabel = "FILE") private var key: File? = null

    @Option(names = ["--token-file"], paramLabel = "FILE") private var tokenFile: File? = null

    @Option(names = ["--model"], paramLabel = "NAME") private var model = ""

    @Option(names = ["--deadline-ms"], paramLabel = "N", description = ["Of each call."]) private var deadlineMs = 10_000L

    @Option(names = ["--cancel-after-ms"], paramLabel = "N") private var cancelAfterMs: Long? = null

    @Parameters(paramLabel = "unary|stream|batch") private lateinit var kind: Kind

    @Spec private lateinit var spec: CommandSpec

    private val out = PrintStream(System.out, true, Charsets.UTF_8)
    private var failed = false

    /** The exit status: 1 where a call failed. What it throws for bad usage, picocli makes a sentence and a 2. */
    override fun call(): Int {
        try {
            if ((cert == null) != (key == null)) {
                throw IllegalArgumentException("--cert and --key go together; give both.")
            }
            if (cert != null && ca == null) {
                throw IllegalArgumentException("--cert is of no use without --ca; give that too.")
            }
            val channel = open(target, ca, cert, key, tokenFile)
            val questions = readQuestions(System.`in`.bufferedReader().lineSequence())
            val client = Client(channel, model, deadlineMs)
            runBlocking {
                when (kind) {
                    Kind.unary -> unary(client, questions)
                    Kind.stream -> stream(client, questions)
                    Kind.batch -> batch(client, questions)
                }
            }
            channel.shutdownNow()
        } catch (error: IOException) {
            throw ParameterException(spec.commandLine(), error.message, error)
        } catch (error: IllegalArgumentException) {
            throw ParameterException(spec.commandLine(), error.message, error)
        }
        return if (failed) 1 else 0
    }

    private suspend fun unary(client: Client, questions: List<Question>) {
        for ((at, question) in questions.withIndex()) {
            told("$at") { print(ranked("$at", client.rank(question))) }
        }
    }

    private suspend fun stream(client: Client, questions: List<Question>) {
        for ((at, question) in questions.withIndex()) {
            told("$at") {
                client.rankStream(question).collect {
                    if (it.hasScored()) {
                        print(Scored("$at", scores(it.scored.resultsList)))
                    } else {
                        print(ranked("$at", it.ranking))
                    }
                }
            }
        }
    }

    private suspend fun batch(client: Client, questions: List<Question>) {
        told("") {
            client.rankBatch(questions).collect {
                if (it.hasError()) {
                    fail(it.requestId, failure(it.error))
                } else {
                    print(ranked(it.requestId, it.response))
                }
            }
        }
    }

    /** Makes a call, and cancels it after a while where that is asked for; prints, where it fails, why. */
    private suspend fun told(id: String, call: suspend () -> Unit) {
        try {
            cancelAfterMs.let { if (it == null) call() else withTimeout(it) { call() } }
        } catch (error: StatusException) {
            fail(id, failure(error))
        } catch (error: TimeoutCancellationException) {
            fail(id, Failure("CANCELLED", "cancelled after $cancelAfterMs ms", "", "", 0))
        }
    }

    private fun fail(id: String, error: Failure) {
        failed = true
        print(Failed(id, error))
    }

    private inline fun <reified T : Line> print(line: T) {
        out.println(Json.encodeToString(line))
    }
}

fun main(arguments: Array<String>) {
    exitProcess(CommandLine(Main()).execute(*arguments))
}
