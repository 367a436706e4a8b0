//! The three ways to ask.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Status};

use crate::channel::Client;
use crate::limits::{Limits, retrying};
use crate::lines::{Line, Printer};
use crate::rerankd::{RerankBatchRequest, rerank_batch_response::Outcome, rerank_stream_response::Event};

pub struct Asking {
    pub client: Client,
    pub limits: Limits,
    pub model: String,
}

impl Asking {
    /// Asks each line in a call of its own, one after the other.
    pub async fn unary(&self, lines: &[Line], out: &mut Printer) {
        for (at, line) in lines.iter().enumerate() {
            let message = line.request(&self.model);
            let call = async |deadline| {
                retrying(async || self.client.clone().rerank(until(deadline, message.clone())).await).await
            };
            match self.limits.keep(call).await {
                Ok(response) => out.ranking(&at.to_string(), response.get_ref()),
                Err(status) => out.failure(&at.to_string(), &status),
            }
        }
    }

    /// Asks each line in a streamed call of its own: contexts leave while scores already come.
    pub async fn stream(&self, lines: &[Line], out: &mut Printer) {
        for (at, line) in lines.iter().enumerate() {
            let id = at.to_string();
            if let Err(status) = self.limits.keep(async |end| self.streamed(line, &id, end, out).await).await
            {
                out.failure(&id, &status);
            }
        }
    }

    async fn streamed(&self, line: &Line, id: &str, end: Instant, out: &mut Printer) -> Result<(), Status> {
        let parts = line.parts(&self.model);
        let opening =
            async || self.client.clone().rerank_stream(until(end, tokio_stream::iter(parts.clone()))).await;
        let mut answers = retrying(opening).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            match answer.event {
                Some(Event::Scored(chunk)) => out.scored(id, &chunk.results),
                Some(Event::Ranking(ranking)) => out.ranking(id, &ranking),
                None => {}
            }
        }
        Ok(())
    }

    /// Asks all lines in one call; each is answered when it is ready, in any order.
    pub async fn batch(&self, lines: &[Line], out: &mut Printer) {
        let item = |(at, line): (usize, &Line)| RerankBatchRequest {
            request_id: at.to_string(),
            request: Some(line.request(&self.model)),
        };
        let items: Vec<_> = lines.iter().enumerate().map(item).collect();
        if let Err(status) = self.limits.keep(async |end| self.batched(items, end, out).await).await {
            out.failure("", &status);
        }
    }

    async fn batched(
        &self,
        items: Vec<RerankBatchRequest>,
        end: Instant,
        out: &mut Printer,
    ) -> Result<(), Status> {
        let opening =
            async || self.client.clone().rerank_batch(until(end, tokio_stream::iter(items.clone()))).await;
        let mut answers = retrying(opening).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            match answer.outcome {
                Some(Outcome::Response(response)) => out.ranking(&answer.request_id, &response),
                Some(Outcome::Error(error)) => out.item_failure(&answer.request_id, &error),
                None => {}
            }
        }
        Ok(())
    }
}

/// A request that tells the server until when its answer is of use.
fn until<T>(deadline: Instant, message: T) -> Request<T> {
    let mut request = Request::new(message);
    // The header's unit may be the millisecond, cut off: our own timer is to be the first.
    request.set_timeout(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
    request
}
