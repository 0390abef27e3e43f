//! Compiles the `.proto` files in Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=phalanx");
    let files = [
        "phalanx/v1/bus.proto",
        "phalanx/v1/executor.proto",
        "phalanx/v1/monitor.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    // For reflection: who asks a service by hand learns its methods from it.
    let out = std::env::var("OUT_DIR")?;
    std::fs::write(
        format!("{out}/phalanx.bin"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
