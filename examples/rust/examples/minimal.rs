//! The least that asks: README.md's lines to copy.

use rerankd::rerank_service_client::RerankServiceClient;
use rerankd::{Context, RerankRequest};

mod rerankd {
    tonic::include_proto!("rerankd.v1");
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut client = RerankServiceClient::connect("http://localhost:50051").await?;
    let texts = ["Freeze it.", "It opens at six."];
    let contexts = texts.map(|text| Context { text: text.into(), ..Default::default() }).into();
    let query = "How do I keep bread fresh for longer?".into();
    let mut request = tonic::Request::new(RerankRequest { query, contexts, ..Default::default() });
    request.set_timeout(std::time::Duration::from_secs(10));
    for result in client.rerank(request).await?.into_inner().results {
        println!("{} {}", result.id, result.score);
    }
    Ok(())
}
