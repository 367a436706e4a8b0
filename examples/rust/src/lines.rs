//! The input and the output.

use std::io::Write;

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::rerankd::rerank_stream_request::Part;
use crate::rerankd::{
    Context, ContextChunk, Error, RankedContext, RerankRequest, RerankResponse, RerankStreamRequest,
};

/// Contexts in one message of a stream.
const CHUNK: usize = 16;

/// One query, as it stands in the input.
#[derive(Deserialize)]
pub struct Line {
    query: String,
    contexts: Vec<String>,
    top_k: Option<u32>,
    budget_ms: Option<u32>,
}

pub fn read() -> Result<Vec<Line>, String> {
    let lines = std::io::stdin().lines().enumerate();
    lines
        .map(|(at, text)| {
            let told = |e: &dyn std::fmt::Display| format!("line {at} of the input: {e}");
            serde_json::from_str(&text.map_err(|e| told(&e))?).map_err(|e| told(&e))
        })
        .collect()
}

impl Line {
    pub fn request(&self, model: &str) -> RerankRequest {
        RerankRequest { contexts: contexts(&self.contexts), ..self.start(model) }
    }

    fn start(&self, model: &str) -> RerankRequest {
        RerankRequest {
            query: self.query.clone(),
            top_k: self.top_k,
            budget_ms: self.budget_ms,
            model: model.to_owned(),
            ..Default::default()
        }
    }

    /// A stream's messages: the query and its options, then the contexts in chunks.
    pub fn parts(&self, model: &str) -> Vec<RerankStreamRequest> {
        let more = |chunk| Part::More(ContextChunk { contexts: contexts(chunk) });
        let parts =
            std::iter::once(Part::Start(self.start(model))).chain(self.contexts.chunks(CHUNK).map(more));
        parts.map(|part| RerankStreamRequest { part: Some(part) }).collect()
    }
}

fn contexts(texts: &[String]) -> Vec<Context> {
    texts.iter().map(|text| Context { text: text.clone(), ..Default::default() }).collect()
}

#[derive(Serialize)]
struct Printed<'a> {
    id: &'a str,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Ranking { results: Vec<Scored>, unscored: &'a [u32] },
    Scored { scored: Vec<Scored> },
    Failed { error: Failure<'a> },
}

#[derive(Serialize)]
struct Scored {
    id: u32,
    score: f32,
}

#[derive(Serialize)]
struct Failure<'a> {
    code: &'static str,
    message: &'a str,
    reason: &'a str,
    field: &'a str,
    retry_ms: u128,
}

/// Writes the output's lines, and remembers whether something failed.
#[derive(Default)]
pub struct Printer {
    pub failed: bool,
}

impl Printer {
    pub fn ranking(&self, id: &str, response: &RerankResponse) {
        print(id, What::Ranking { results: scored(&response.results), unscored: &response.unscored });
    }

    pub fn scored(&self, id: &str, results: &[RankedContext]) {
        print(id, What::Scored { scored: scored(results) });
    }

    /// Tells why a call failed: its code, and the google.rpc details that came with it.
    pub fn failure(&mut self, id: &str, status: &Status) {
        let details = status.get_error_details();
        let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
        let delay = details.retry_info().and_then(|retry| retry.retry_delay);
        self.fail(
            id,
            Failure {
                code: name(status.code()),
                message: status.message(),
                reason: details.error_info().map_or("", |info| &info.reason),
                field: violation.map_or("", |violation| &violation.field),
                retry_ms: delay.map_or(0, |delay| delay.as_millis()),
            },
        );
    }

    pub fn item_failure(&mut self, id: &str, error: &Error) {
        let Error { code, reason, message, field } = error;
        self.fail(id, Failure { code: name((*code).into()), message, reason, field, retry_ms: 0 });
    }

    fn fail(&mut self, id: &str, error: Failure) {
        self.failed = true;
        print(id, What::Failed { error });
    }
}

fn scored(results: &[RankedContext]) -> Vec<Scored> {
    results.iter().map(|result| Scored { id: result.id, score: result.score }).collect()
}

fn print(id: &str, what: What) {
    let line = serde_json::to_string(&Printed { id, what }).expect("its parts are strings and numbers");
    // Whoever read our output may have left: then there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// As google.rpc.Code has it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
