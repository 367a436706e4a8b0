//! The one channel that all calls share; nothing is connected before the first.

use std::fs::read;
use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};

use crate::Given;
use crate::rerankd::rerank_service_client::RerankServiceClient;

const MAX_MESSAGE_BYTES: usize = 16 << 20;

pub type Client = RerankServiceClient<InterceptedService<Channel, Bearer>>;

/// tonic reads no service config: calls are spread over the host's addresses by `balance_list`, and tried again
/// by limits.rs.
pub async fn connect(given: &Given) -> Result<Client, String> {
    let target = given.target.strip_prefix("dns:///").unwrap_or(&given.target);
    let scheme = if given.ca.is_some() { "https" } else { "http" };
    let origin: Uri =
        format!("{scheme}://{target}").parse().map_err(|e| format!("--target {target}: {e}"))?;
    let host = origin.host().ok_or(format!("--target {target}: there is no host"))?.to_owned();
    let tls = tls(given, &host)?;
    let addresses = tokio::net::lookup_host(target).await.map_err(|e| format!("--target {target}: {e}"))?;
    let mut endpoints = Vec::new();
    for address in addresses {
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(|e| e.to_string())?
            .origin(origin.clone());
        endpoints.push(match &tls {
            Some(tls) => endpoint.tls_config(tls.clone()).map_err(|e| format!("--ca, --cert, --key: {e}"))?,
            None => endpoint,
        });
    }
    let channel = Channel::balance_list(endpoints.into_iter());
    Ok(RerankServiceClient::with_interceptor(channel, Bearer::read(given.token_file.as_deref())?)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// None for plaintext.
fn tls(given: &Given, host: &str) -> Result<Option<ClientTlsConfig>, String> {
    let pem = |flag: &str, path: &Path| read(path).map_err(|e| format!("{flag} {}: {e}", path.display()));
    let Some(ca) = &given.ca else { return Ok(None) };
    let config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(pem("--ca", ca)?))
        .domain_name(host.trim_start_matches('[').trim_end_matches(']'));
    Ok(Some(match (&given.cert, &given.key) {
        (Some(cert), Some(key)) => {
            config.identity(Identity::from_pem(pem("--cert", cert)?, pem("--key", key)?))
        }
        _ => config,
    }))
}

/// A token that every call carries, where there is one.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    fn read(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self(None)) };
        let told = |e: &dyn std::fmt::Display| format!("--token-file {}: {e}", path.display());
        let token = std::fs::read_to_string(path).map_err(|e| told(&e))?;
        let value = format!("Bearer {}", token.trim()).parse().map_err(|e| told(&e))?;
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}
