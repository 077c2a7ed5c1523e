//! Writes the services of `culvert.api.v1`; their messages are those of `culvert-model`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("../../gateway/model/proto");
    let files = protox::compile(["culvert/api/v1/api.proto"], [root])?;
    tonic_prost_build::configure()
        .extern_path(".culvert.api.v1", "::culvert_model::api")
        .compile_fds(files)?;
    println!("cargo:rerun-if-changed=../../gateway/model/proto");
    println!("cargo:rerun-if-changed=build.rs");
    Ok(())
}
