package io.rerankd.example

import io.grpc.ChannelCredentials
import io.grpc.Grpc
import io.grpc.InsecureChannelCredentials
import io.grpc.ManagedChannel
import io.grpc.Metadata
import io.grpc.TlsChannelCredentials
import io.grpc.stub.MetadataUtils
import java.io.File

private const val MAX_MESSAGE_BYTES = 16 shl 20

/**
 * What a client does about replicas that are full, or restart: docs/grpc.md. gRPC wants it as maps, lists, strings and
 * doubles.
 */
private val SERVICE_CONFIG: Map<String, Any> =
    mapOf(
        "loadBalancingConfig" to listOf(mapOf("round_robin" to emptyMap<String, Any>())),
        "healthCheckConfig" to mapOf("serviceName" to "rerankd.v1.RerankService"),
        "methodConfig" to
            listOf(
                mapOf(
                    "name" to listOf(mapOf("service" to "rerankd.v1.RerankService")),
                    "retryPolicy" to
                        mapOf(
                            "maxAttempts" to 3.0,
                            "initialBackoff" to "0.1s",
                            "maxBackoff" to "1s",
                            "backoffMultiplier" to 2.0,
                            "retryableStatusCodes" to listOf("UNAVAILABLE", "CANCELLED"),
                        ),
                ),
            ),
        "retryThrottling" to mapOf("maxTokens" to 100.0, "tokenRatio" to 0.5),
    )

private val SCHEME = Regex("[a-z][a-z0-9+.-]*:(/.*|[^0-9].*)")

/**
 * A channel, one for the process; it connects when the first call is made.
 *
 * [target]: "host:port", looked up by DNS and all its addresses used in turn, or any name that gRPC resolves. [ca]: the
 * authorities to trust, a file in PEM; null for plaintext. [cert] and [key]: ours, for a server that asks for one.
 * [tokenFile]: a file that holds a bearer token. Throws IOException where a file can't be read, IllegalArgumentException
 * where it is no certificate or key.
 */
fun open(target: String, ca: File?, cert: File?, key: File?, tokenFile: File?): ManagedChannel {
    val name = if (SCHEME.matches(target)) target else "dns:///$target"
    val builder =
        Grpc.newChannelBuilder(name, credentials(ca, cert, key))
            .defaultServiceConfig(SERVICE_CONFIG)
            .maxInboundMessageSize(MAX_MESSAGE_BYTES)
            // A call larger than its buffer is not tried again, and gRPC's own are 1 MiB a call and 16 MiB for all.
            .perRpcBufferLimit(MAX_MESSAGE_BYTES + (64L shl 10))
            .retryBufferSize(4L * MAX_MESSAGE_BYTES)
    if (tokenFile != null) {
        val headers = Metadata()
        headers.put(
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER),
            "Bearer ${tokenFile.readText().trim()}",
        )
        builder.intercept(MetadataUtils.newAttachHeadersInterceptor(headers))
    }
    return builder.build()
}

private fun credentials(ca: File?, cert: File?, key: File?): ChannelCredentials {
    if (ca == null) return InsecureChannelCredentials.create()
    val tls = TlsChannelCredentials.newBuilder().trustManager(ca)
    if (cert != null) tls.keyManager(cert, key)
    return tls.build()
}
