package io.rerankd.example

import com.google.rpc.BadRequest
import com.google.rpc.Code
import com.google.rpc.ErrorInfo
import com.google.rpc.RetryInfo
import io.grpc.StatusException
import io.grpc.protobuf.StatusProto
import io.rerankd.v1.Error
import kotlinx.serialization.SerialName
import kotlinx.serialization.Serializable

/** What is known of a call, or of an item of a batch, that failed. */
@Serializable
data class Failure(
    /** A google.rpc.Code's name. */
    val code: String,
    /** For people. */
    val message: String,
    /** ErrorInfo's, for programs; "" where the failure is not the server's. */
    val reason: String,
    /** The field at fault, as contexts[3].text; "". */
    val field: String,
    /** After how many milliseconds to come back; 0. */
    @SerialName("retry_ms") val retryMs: Long,
)

/** Reads the details that the server has sent with the status. */
fun failure(error: StatusException): Failure {
    val status = checkNotNull(StatusProto.fromThrowable(error))
    var reason = ""
    var field = ""
    var retryMs = 0L
    for (detail in status.detailsList) {
        when {
            detail.`is`(ErrorInfo::class.java) -> reason = detail.unpack(ErrorInfo::class.java).reason
            detail.`is`(BadRequest::class.java) ->
                field = detail.unpack(BadRequest::class.java).fieldViolationsList.first().field
            detail.`is`(RetryInfo::class.java) -> {
                val delay = detail.unpack(RetryInfo::class.java).retryDelay
                retryMs = delay.seconds * 1000 + delay.nanos / 1_000_000
            }
        }
    }
    return Failure(Code.forNumber(status.code).name, status.message, reason, field, retryMs)
}

fun failure(error: Error) = Failure(Code.forNumber(error.code).name, error.message, error.reason, error.field, 0)
