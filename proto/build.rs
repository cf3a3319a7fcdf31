//! Generates the wire types from `arqon/v1/*.proto` and the codes from
//! `codes.toml`. No protoc: protox is a Protobuf compiler in Rust.

#[path = "build/docs.rs"]
mod docs;
#[path = "build/operations.rs"]
mod operations;
#[path = "build/registry.rs"]
mod registry;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

const PROTOS: [&str; 4] = [
    "arqon/v1/envelope.proto",
    "arqon/v1/control.proto",
    "arqon/v1/policy.proto",
    "arqon/v1/presence.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let others = ["codes.toml", "operations.toml", "build", "build.rs"];
    for input in PROTOS.iter().chain(&others) {
        println!("cargo::rerun-if-changed={input}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let registry = codes(&out)?;
    wire_types(&out, &registry)
}

fn wire_types(out: &Path, codes: &registry::Registry) -> Result<(), Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).open_files(PROTOS)?;
    let descriptors = compiler.file_descriptor_set();

    let operations = operations::Operations::parse(&fs::read_to_string("operations.toml")?)?;
    let problems = operations.problems(&descriptors, codes);
    if !problems.is_empty() {
        return Err(format!("operations.toml:\n{}", problems.join("\n")).into());
    }
    let reference = docs::Reference::collect(&descriptors);
    let first = operations.render(&reference.opcodes, codes)?;
    fs::write(out.join("protocol.md"), reference.render(&first))?;
    fs::write(
        out.join("uncommented.txt"),
        reference.uncommented.join("\n"),
    )?;
    fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    // What the program carries for ProtoJSON: the Envelope alone, without comments.
    let mut envelope = protox::Compiler::new(["."])?;
    envelope.open_file("arqon/v1/envelope.proto")?;
    fs::write(
        out.join("envelope.bin"),
        envelope.encode_file_descriptor_set(),
    )?;

    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        // Debug text ends up in logs and panics, where tokens and payloads must not.
        .skip_debug([".arqon.v1.Envelope", ".arqon.v1.Refresh"])
        .type_attribute(".arqon.v1.Envelope.body", "#[derive(Debug)]")
        .compile_fds(descriptors)?;
    Ok(())
}

fn codes(out: &Path) -> Result<registry::Registry, Box<dyn Error>> {
    let registry = registry::Registry::parse(&fs::read_to_string("codes.toml")?)?;
    let problems = registry.problems();
    if !problems.is_empty() {
        return Err(format!("codes.toml:\n{}", problems.join("\n")).into());
    }
    fs::write(out.join("codes.rs"), registry.render_rust())?;
    fs::write(out.join("codes.md"), registry.render_markdown())?;
    Ok(registry)
}
