package io.rerankd.example;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.regex.Pattern;

/** How a channel to rerankd is made: one for the process, shared by all its threads. */
final class Connection {
  private static final int MAX_MESSAGE_BYTES = 16 << 20;
  private static final Pattern SCHEME = Pattern.compile("[a-z][a-z0-9+.-]*:(/.*|[^0-9].*)");

  private Connection() {}

  /**
   * Connects when the first call is made.
   *
   * @param target "host:port", looked up by DNS and all its addresses used in turn, or any name that gRPC resolves
   * @param ca the authorities to trust, a file in PEM; null for plaintext
   * @param cert our certificate for a server that asks for one, with its key; null for none
   * @param tokenFile a file that holds a bearer token; null for none
   * @throws IOException where a file can't be read, or is no certificate or key
   */
  static ManagedChannel open(String target, File ca, File cert, File key, Path tokenFile) throws IOException {
    var builder =
        Grpc.newChannelBuilder(SCHEME.matcher(target).matches() ? target : "dns:///" + target, credentials(ca, cert, key))
            .defaultServiceConfig(serviceConfig())
            .maxInboundMessageSize(MAX_MESSAGE_BYTES)
            // A call larger than its buffer is not tried again, and gRPC's own are 1 MiB a call and 16 MiB for all.
            .perRpcBufferLimit(MAX_MESSAGE_BYTES + (64 << 10))
            .retryBufferSize(4L * MAX_MESSAGE_BYTES);
    if (tokenFile != null) {
      Metadata headers = new Metadata();
      headers.put(
          Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER),
          "Bearer " + Files.readString(tokenFile).trim());
      builder.intercept(MetadataUtils.newAttachHeadersInterceptor(headers));
    }
    return builder.build();
  }

  private static ChannelCredentials credentials(File ca, File cert, File key) throws IOException {
    if (ca == null) {
      return InsecureChannelCredentials.create();
    }
    var tls = TlsChannelCredentials.newBuilder().trustManager(ca);
    if (cert != null) {
      tls.keyManager(cert, key);
    }
    return tls.build();
  }

  /** Round robin, health and retries. gRPC wants it as maps, lists, strings and doubles, which is how Gson reads JSON. */
  private static Map<String, Object> serviceConfig() throws IOException {
    try (Reader json =
        new InputStreamReader(Connection.class.getResourceAsStream("/service-config.json"), StandardCharsets.UTF_8)) {
      return new Gson().fromJson(json, new TypeToken<Map<String, Object>>() {});
    }
  }
}
