//! `arq policy build`: from a project, a source file or a core module to a component.

mod tools;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use self::tools::Project;
use super::check::shape_json;
use super::component::{Component, tell};
use crate::Globals;
use crate::failure::{Doing, Failure, Result};
use crate::output::counted;
use crate::size;

/// Build a component of a project in Rust, C or Zig, or of a core module
///
/// Uses the toolchain that is there: cargo with the target wasm32-unknown-unknown for Rust; zig
/// (also `python3 -m ziglang`) or clang for C; zig for Zig.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  arq policy build greeter\n  arq policy build filter.c -o filter.wasm\n  arq policy build core.wasm -o policy.wasm"
)]
pub(super) struct Build {
    /// A folder, or a file .c, .zig or .wasm
    #[arg(default_value = ".")]
    source: PathBuf,
    /// The component to write [default: beside the source, named like it]
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Does what was asked.
pub(super) fn run(args: &Build, globals: &Globals) -> Result {
    let output = &globals.output;
    let (name, folder, project) = find(&args.source)?;
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| folder.join(format!("{name}.wasm")));
    let built = project.build(output)?;
    let mut component = Component::read(&built.file)?;
    component.name = name;
    let shape = component.checked(output)?;
    if same(&out, &args.source) && component.wrapped {
        return Err(Failure::usage(format!(
            "{} would replace the core module it is made of",
            out.display()
        ))
        .hint("-o FILE names another"));
    }
    crate::context::write(&out, &component.bytes)?;
    if output.json {
        let mut object = shape_json(&component, &shape);
        object["file"] = json!(out);
        object["built_with"] = built.with.into();
        return output.object(&object);
    }
    tell(&shape.lints, false, output);
    output.line(out.display().to_string())?;
    output.note(format!(
        "built with {}: {}, {}, digest {}",
        built.with,
        size::words(component.bytes.len() as u64),
        counted(shape.lints.len(), "lint"),
        component.digest()
    ));
    Ok(())
}

fn same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// What is to be built: its name, where the component goes, and how.
fn find(source: &Path) -> Result<(String, PathBuf, Project)> {
    let absolute = source
        .canonicalize()
        .doing(format!("cannot find {}", source.display()))
        .hint("`arq policy new NAME` makes a folder to begin with")?;
    let name = absolute.file_stem().map_or_else(
        || "policy".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    if absolute.is_dir() {
        let project = Project::of_folder(source)?;
        return Ok((name, source.to_owned(), project));
    }
    let folder = source.parent().unwrap_or(Path::new("")).to_owned();
    let project = Project::of_file(source)?;
    Ok((name, folder, project))
}
