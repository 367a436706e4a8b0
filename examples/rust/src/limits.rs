//! How long a call may take, and how often it is tried: what other languages' gRPC does by its service config.

use std::error::Error;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};

const ATTEMPTS: u32 = 3;
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub struct Limits {
    pub deadline: Duration,
    pub cancel_after: Option<Duration>,
}

impl Limits {
    /// Runs a call, which is told when it must be over, until it is, or its deadline or cancelling comes;
    /// dropping it is what cancels a call.
    pub async fn keep<T>(&self, call: impl AsyncFnOnce(Instant) -> Result<T, Status>) -> Result<T, Status> {
        let begun = Instant::now();
        let deadline = begun + self.deadline;
        let cancelling = async {
            match self.cancel_after {
                Some(after) => sleep_until(begun + after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In this order: tonic's own timer, which may fire at the same moment, would say CANCELLED.
            biased;
            () = cancelling => Err(Status::cancelled("we cancelled it")),
            () = sleep_until(deadline) => Err(Status::deadline_exceeded("the deadline passed")),
            done = call(deadline) => done.map_err(named),
        }
    }
}

/// Tries again what the server refused, and was not even begun: it says when, or else ever later.
pub async fn retrying<T>(attempt: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    let mut backoff = FIRST_BACKOFF;
    for _ in 1..ATTEMPTS {
        let status = match attempt().await.map_err(named) {
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Cancelled) => status,
            done => return done,
        };
        // A pushback that is not a number says: not again.
        match status
            .metadata()
            .get("grpc-retry-pushback-ms")
            .map(|value| value.to_str().unwrap_or("").parse())
        {
            Some(Ok(milliseconds)) => sleep(Duration::from_millis(milliseconds)).await,
            Some(Err(_)) => return Err(status),
            None => sleep(backoff).await,
        }
        backoff = LONGEST_BACKOFF.min(backoff * 2);
    }
    attempt().await
}

/// A connection that broke before the answer is UNAVAILABLE, as in every other language; tonic says UNKNOWN, as of a
/// server that hangs up on a client without a certificate.
fn named(status: Status) -> Status {
    let broken = status.source().is_some_and(|cause| cause.is::<tonic::transport::Error>());
    if status.code() == Code::Unknown && broken { Status::unavailable(status.message()) } else { status }
}
