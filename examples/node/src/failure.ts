import { type ServiceError, status } from "@grpc/grpc-js";

import { BadRequest, ErrorInfo, RetryInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import type { Error as ItemError } from "./gen/rerankd/v1/rerank.js";

/** What is known of a call, or of an item of a batch, that failed. */
export interface Failure {
  /** A google.rpc.Code's name. */
  code: string;
  /** For people. */
  message: string;
  /** ErrorInfo's, for programs; "" where the failure is not the server's. */
  reason: string;
  /** The field at fault, as `contexts[3].text`; "". */
  field: string;
  /** After how many milliseconds to come back; 0. */
  retry_ms: number;
}

export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "metadata" in error;
}

/** Reads the details that the server has sent with the status. */
export function ofCall(error: ServiceError): Failure {
  const failure = { code: codeName(error.code), message: error.details, reason: "", field: "", retry_ms: 0 };
  const [trailer] = error.metadata.get("grpc-status-details-bin");
  if (trailer instanceof Buffer) {
    for (const { typeUrl, value } of Status.decode(trailer).details) {
      switch (typeUrl) {
        case "type.googleapis.com/google.rpc.ErrorInfo":
          failure.reason = ErrorInfo.decode(value).reason;
          break;
        case "type.googleapis.com/google.rpc.BadRequest":
          failure.field = BadRequest.decode(value).fieldViolations[0]?.field ?? "";
          break;
        case "type.googleapis.com/google.rpc.RetryInfo": {
          const delay = RetryInfo.decode(value).retryDelay ?? { seconds: 0, nanos: 0 };
          failure.retry_ms = delay.seconds * 1000 + Math.trunc(delay.nanos / 1e6);
          break;
        }
      }
    }
  }
  return failure;
}

export function ofItem({ code, message, reason, field }: ItemError): Failure {
  return { code: codeName(code), message, reason, field, retry_ms: 0 };
}

function codeName(code: number): string {
  return status[code] ?? "UNKNOWN";
}
