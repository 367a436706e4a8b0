//! The client from the .proto.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "../../proto/rerankd/v1/rerank.proto";
    println!("cargo:rerun-if-changed={proto}");
    let files = protox::compile([proto], ["../../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
