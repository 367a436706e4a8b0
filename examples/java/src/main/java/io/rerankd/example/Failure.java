package io.rerankd.example;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.Code;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.protobuf.StatusProto;

/**
 * What is known of a call, or of an item of a batch, that failed.
 *
 * @param code a google.rpc.Code's name
 * @param message for people
 * @param reason ErrorInfo's, for programs; "" where the failure is not the server's
 * @param field the field at fault, as contexts[3].text; ""
 * @param retry_ms after how many milliseconds to come back; 0
 */
record Failure(String code, String message, String reason, String field, long retry_ms) {
  /** Reads the details that the server has sent with the status. */
  static Failure of(Throwable error) {
    Status status = StatusProto.fromThrowable(error);
    String reason = "";
    String field = "";
    long retryMs = 0;
    try {
      for (Any detail : status.getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          reason = detail.unpack(ErrorInfo.class).getReason();
        } else if (detail.is(BadRequest.class)) {
          field = detail.unpack(BadRequest.class).getFieldViolations(0).getField();
        } else if (detail.is(RetryInfo.class)) {
          Duration delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryMs = delay.getSeconds() * 1000 + delay.getNanos() / 1_000_000;
        }
      }
    } catch (InvalidProtocolBufferException damaged) {
      throw new IllegalStateException("the server's error details are damaged", damaged);
    }
    return new Failure(Code.forNumber(status.getCode()).name(), status.getMessage(), reason, field, retryMs);
  }

  static Failure of(io.rerankd.v1.Error error) {
    return new Failure(
        Code.forNumber(error.getCode()).name(), error.getMessage(), error.getReason(), error.getField(), 0);
  }
}
