//! A component as a command was given it: a file, or the name of one that is shipped inside `arq`.

use std::path::Path;

use arqon_policy::check::{self, Finding, Shape};
use arqon_policy::shipped::{Shipped, shipped};
use arqon_policy::{Digest, ShapeLimits, wrap};
use serde_json::{Value, json};

use crate::failure::{Doing, Failure, Result};
use crate::output::{Output, Paint};

/// A component.
#[derive(Debug)]
pub(super) struct Component {
    /// For people: the file's name without its ending, or the shipped name.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Where it is one of those inside `arq`.
    pub(super) shipped: Option<&'static Shipped>,
    /// It was a core module.
    pub(super) wrapped: bool,
}

impl Component {
    /// Reads a file; a core module is made into a component.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let bytes = std::fs::read(file)
            .doing(format!("cannot read {}", file.display()))
            .hint("`arq policy build` makes a component of a project, of C, of Zig or of a core module")?;
        let name = file
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        // What is neither is left to the check, which says what it is.
        let wrapped = wrap::is_core_module(&bytes);
        let bytes = if wrapped {
            componentize(&bytes).doing(file.display())?
        } else {
            bytes
        };
        Ok(Self {
            name,
            bytes,
            shipped: None,
            wrapped,
        })
    }

    /// One of those inside `arq`.
    pub(super) fn of_shipped(shipped: &'static Shipped) -> Self {
        Self {
            name: shipped.name.to_owned(),
            bytes: shipped.component.to_vec(),
            shipped: Some(shipped),
            wrapped: false,
        }
    }

    /// From the object store.
    pub(super) fn of_bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            bytes,
            shipped: None,
            wrapped: false,
        }
    }

    /// What a version made of it is noted as, where it is one of those inside `arq`.
    pub(super) fn note(&self) -> Option<String> {
        self.shipped
            .map(|shipped| format!("shipped {} {}", shipped.name, shipped.version))
    }

    /// A file, or else a shipped name.
    pub(super) fn find(what: &Path) -> Result<Self> {
        if !what.exists()
            && let Some(name) = what.to_str()
            && let Some(found) = find_shipped(name)
        {
            return Ok(Self::of_shipped(found));
        }
        Self::read(what).map_err(|failure| {
            let names: Vec<&str> = shipped().iter().map(|shipped| shipped.name).collect();
            let own = failure.hint.clone().unwrap_or_default();
            failure.hint(format!("{own}; shipped inside arq: {}", names.join(", ")))
        })
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Checks it, without running anything.
    pub(super) fn check(&self) -> Result<Shape, Vec<Finding>> {
        check::check(&self.bytes, &ShapeLimits::default())
    }

    /// Checks it; findings are printed to stderr, and are a failure.
    pub(super) fn checked(&self, output: &Output) -> Result<Shape> {
        self.check().map_err(|findings| {
            tell(&findings, true, output);
            Failure::new(format!("{} is no policy", self.name))
                .hint("`arq policy check FILE` shows this without changing anything")
        })
    }
}

/// One of the policies inside `arq`.
pub(super) fn find_shipped(name: &str) -> Option<&'static Shipped> {
    shipped().iter().find(|shipped| shipped.name == name)
}

/// A component of a core module.
pub(super) fn componentize(core: &[u8]) -> Result<Vec<u8>> {
    wrap::componentize(core).map_err(|error| {
        let hint = error.hint();
        Failure::from(error).hint(hint)
    })
}

/// Findings, for people.
pub(super) fn tell(findings: &[Finding], wrong: bool, output: &Output) {
    for finding in findings {
        let (paint, label) = if wrong {
            (Paint::Red, "wrong:")
        } else {
            (Paint::Yellow, "lint:")
        };
        output.note(format!(
            "{} {} ({})",
            output.paint_stderr(paint, label),
            finding.message,
            finding.code
        ));
        if !finding.hint.is_empty() {
            output.note(format!(
                "{} {}",
                output.paint_stderr(Paint::Cyan, "hint:"),
                finding.hint
            ));
        }
    }
}

/// Findings as `--json` prints them.
pub(super) fn findings_json(findings: &[Finding]) -> Value {
    findings
        .iter()
        .map(|finding| json!({"code": finding.code, "message": finding.message, "hint": finding.hint}))
        .collect()
}
