import { readFileSync } from "node:fs";

import { type ChannelCredentials, Metadata, credentials } from "@grpc/grpc-js";

import { RerankServiceClient } from "./gen/rerankd/v1/rerank.js";
import { serviceConfig } from "./service-config.js";

const MAX_MESSAGE_BYTES = 16 << 20;

/** Files in PEM. */
export interface Security {
  /** The authorities to trust; without it, plaintext. */
  ca?: string | undefined;
  /** Our certificate, for a server that asks for one, and its key. */
  cert?: string | undefined;
  key?: string | undefined;
}

/**
 * One for the process; it connects when the first call is made.
 *
 * target: "host:port", looked up by DNS and all its addresses used in turn, or any name that gRPC resolves.
 * Throws where a file can't be read, or is no certificate or key.
 */
export function open(target: string, security: Security): RerankServiceClient {
  const name = /^[a-z][a-z0-9+.-]*:(\/|\D)/.test(target) ? target : `dns:///${target}`;
  return new RerankServiceClient(name, channelCredentials(security), {
    "grpc.service_config": JSON.stringify(serviceConfig),
    "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    // A call larger than this buffer is not tried again, and gRPC's own default is 1 MiB.
    "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE_BYTES + (64 << 10),
    "grpc.retry_buffer_size": 4 * MAX_MESSAGE_BYTES,
  });
}

/** What every call brings along: the bearer token that the file holds. */
export function authorization(tokenFile: string | undefined): Metadata {
  const metadata = new Metadata();
  if (tokenFile !== undefined) {
    metadata.set("authorization", `Bearer ${readFileSync(tokenFile, "utf8").trim()}`);
  }
  return metadata;
}

function channelCredentials({ ca, cert, key }: Security): ChannelCredentials {
  if (ca === undefined) {
    return credentials.createInsecure();
  }
  const read = (file: string | undefined) => (file === undefined ? null : readFileSync(file));
  return credentials.createSsl(read(ca), read(key), read(cert));
}
