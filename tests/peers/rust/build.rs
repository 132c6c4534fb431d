//! Generates code from `tests/peers/proto/echo.proto`, with the compiler that the daemon's dependencies have too.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/echo.proto");
    let descriptors = protox::compile(["echo.proto"], ["../proto"])?;
    // The client names its methods itself: one of them exists nowhere.
    tonic_prost_build::configure().build_client(false).compile_fds(descriptors)?;
    Ok(())
}
