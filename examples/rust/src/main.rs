//! Asks a rerankd server: JSON lines in, JSON lines out. The command line; the calls are in calls.rs.

mod calls;
mod channel;
mod limits;
mod lines;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// What tonic makes of the .proto.
pub mod rerankd {
    tonic::include_proto!("rerankd.v1");
}

/// Asks a rerankd server: JSON lines in, JSON lines out.
#[derive(Parser)]
pub struct Given {
    /// host:port; every address of the host is asked
    #[arg(long, default_value = "localhost:50051")]
    target: String,
    /// Authorities to trust, in PEM; speaks TLS
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Our certificate, in PEM, for mutual TLS
    #[arg(long, requires = "key", requires = "ca")]
    cert: Option<PathBuf>,
    /// Our certificate's key, in PEM
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// A file with the bearer token
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// A served name; the server's default without
    #[arg(long, default_value = "")]
    model: String,
    /// Milliseconds that a call may take
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    deadline_ms: u64,
    /// Milliseconds after which a call is cancelled
    #[arg(long)]
    cancel_after_ms: Option<u64>,
    mode: Mode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Unary,
    Stream,
    Batch,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let given = Given::parse();
    let (lines, client) = match prepare(&given).await {
        Ok(prepared) => prepared,
        Err(sentence) => {
            eprintln!("{sentence}");
            return ExitCode::from(2);
        }
    };
    let limits = limits::Limits {
        deadline: Duration::from_millis(given.deadline_ms),
        cancel_after: given.cancel_after_ms.map(Duration::from_millis),
    };
    let asking = calls::Asking { client, limits, model: given.model };
    let mut out = lines::Printer::default();
    match given.mode {
        Mode::Unary => asking.unary(&lines, &mut out).await,
        Mode::Stream => asking.stream(&lines, &mut out).await,
        Mode::Batch => asking.batch(&lines, &mut out).await,
    }
    ExitCode::from(u8::from(out.failed))
}

async fn prepare(given: &Given) -> Result<(Vec<lines::Line>, channel::Client), String> {
    Ok((lines::read()?, channel::connect(given).await?))
}
