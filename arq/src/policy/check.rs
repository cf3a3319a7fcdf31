//! `arq policy check`: whether a file is a policy, and whether it compiles.

use std::path::PathBuf;

use arqon_policy::check::Shape;
use clap::Args;
use serde_json::{Value, json};

use super::component::{Component, findings_json, tell};
use super::local::Local;
use crate::Globals;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Paint, counted};
use crate::size;

/// Check a component: interface, shapes, sizes; then compile it
///
/// Nothing of it runs. Exit code 1 where it is no policy; lints alone are no failure.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arq policy check greeter.wasm")]
pub(super) struct Check {
    /// The component, a core module, or the name of a shipped policy
    file: PathBuf,
    /// Fail on lints too
    #[arg(long)]
    strict: bool,
}

/// Does what was asked.
pub(super) fn run(args: &Check, globals: &Globals) -> Result {
    let output = &globals.output;
    let component = Component::find(&args.file)?;
    let shape = match component.check() {
        Ok(shape) => shape,
        Err(findings) => {
            if output.json {
                output.object(&json!({
                    "policy": false,
                    "digest": component.digest().to_string(),
                    "findings": findings_json(&findings),
                }))?;
            } else {
                tell(&findings, true, output);
                output.line(format!(
                    "{} is {}: {}",
                    args.file.display(),
                    output.paint(Paint::Red, "no policy"),
                    counted(findings.len(), "finding")
                ))?;
            }
            return Err(Failure::told(Exit::Failed));
        }
    };
    let compiled = Local::new()?.compile(&component.bytes);
    let fails = compiled.is_err() || (args.strict && !shape.lints.is_empty());
    if output.json {
        let mut object = shape_json(&component, &shape);
        object["policy"] = compiled.is_ok().into();
        object["compile_ms"] = compiled.as_ref().map_or(Value::Null, |compiled| {
            u64::try_from(compiled.took.as_millis())
                .unwrap_or(u64::MAX)
                .into()
        });
        object["compile_error"] = compiled
            .as_ref()
            .err()
            .map_or(Value::Null, |failure| failure.message.clone().into());
        output.object(&object)?;
    } else {
        tell(&shape.lints, false, output);
        let verdict = match &compiled {
            Ok(compiled) => format!(
                "{}, compiled in {} ms",
                output.paint(Paint::Green, "a policy"),
                compiled.took.as_millis()
            ),
            Err(failure) => format!(
                "{}: {}",
                output.paint(Paint::Red, "no policy"),
                failure.message
            ),
        };
        output.pairs(&pairs(&component, &shape, verdict))?;
    }
    if fails {
        return Err(Failure::told(Exit::Failed));
    }
    Ok(())
}

fn pairs(component: &Component, shape: &Shape, verdict: String) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("is", verdict),
        ("digest", component.digest().to_string()),
        ("size", size::words(component.bytes.len() as u64)),
        ("functions", shape.functions.to_string()),
        (
            "memory",
            format!(
                "{}{}",
                size::words(shape.initial_memory_bytes),
                if shape.can_grow_memory {
                    ", can grow"
                } else {
                    ""
                }
            ),
        ),
        (
            "stack",
            shape
                .stack_bytes
                .map_or_else(|| "unknown".to_owned(), size::words),
        ),
        (
            "imports",
            if shape.imports.is_empty() {
                "none".to_owned()
            } else {
                shape.imports.join("\n")
            },
        ),
        (
            "lints",
            if shape.lints.is_empty() {
                "none".to_owned()
            } else {
                shape.lints.len().to_string()
            },
        ),
    ];
    if component.wrapped {
        pairs.insert(
            1,
            (
                "form",
                "a core module; `arq policy build` writes the component, `push` makes it too"
                    .to_owned(),
            ),
        );
    }
    pairs
}

/// What was found of a component, as `--json` prints it.
pub(super) fn shape_json(component: &Component, shape: &Shape) -> Value {
    json!({
        "name": component.name,
        "digest": component.digest().to_string(),
        "bytes": component.bytes.len(),
        "wrapped": component.wrapped,
        "functions": shape.functions,
        "initial_memory_bytes": shape.initial_memory_bytes,
        "can_grow_memory": shape.can_grow_memory,
        "stack_bytes": shape.stack_bytes,
        "start_function": shape.start_function,
        "imports": shape.imports,
        "lints": findings_json(&shape.lints),
    })
}
