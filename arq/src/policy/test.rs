//! `arq policy test`: a policy against a file of cases.

use std::path::PathBuf;
use std::time::Duration;

use arqon_policy::{Fault, Limits, Module, Verdict};
use clap::Args;
use serde_json::json;

use super::cases::{self, Case};
use super::component::Component;
use super::junit;
use super::local::Local;
use super::place::Usage;
use crate::Globals;
use crate::failure::{Doing, Exit, Failure, Result};
use crate::output::{Paint, counted};

/// Run a policy on messages and compare its verdicts with those expected
///
/// Each case has an instance of its own. Exit code 1 where one differs.
#[derive(Debug, Args)]
#[command(
    after_help = "A file of cases:\n  [config]\n  words = [\"malware\"]\n\n  [[case]]\n  name = \"a listed word\"\n  payload = \"this is malware\"\n  expect = \"block\"\n  reason_contains = \"blocklist\"\n\nA case may also say tenant, room, user, role, headers, payload_base64, payload_file, repeat,\nconfig, config_file. `expect` is allow, block (reason, reason_contains), transform (to_payload,\nto_payload_base64, to_headers) or fault (fault = \"timeout\").\n\nExample:\n  arq policy test greeter.wasm --cases cases.toml --junit report.xml"
)]
pub(super) struct Test {
    /// The component, a core module, or the name of a shipped policy
    file: PathBuf,
    /// The cases
    #[arg(long, value_name = "FILE")]
    cases: PathBuf,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    #[command(flatten)]
    usage: Usage,
}

/// A case that was run.
struct Done<'a> {
    case: &'a Case,
    came: Result<Verdict, Fault>,
    took: Duration,
    /// Why it failed.
    differs: Option<String>,
    logs: Vec<String>,
}

/// Does what was asked.
pub(super) fn run(args: &Test, globals: &Globals) -> Result {
    let output = &globals.output;
    let cases = cases::read(&args.cases)?;
    let component = Component::find(&args.file)?;
    component.checked(output)?;
    let compiled = Local::new()?.compile(&component.bytes)?;
    let limits = args.usage.limits()?;
    let done: Vec<Done<'_>> = cases
        .iter()
        .map(|case| try_case(case, &compiled.module, &limits))
        .collect();
    if let Some(file) = &args.junit {
        let entries: Vec<_> = done
            .iter()
            .map(|done| junit::Entry {
                name: &done.case.name,
                took: done.took,
                failure: done.differs.as_deref(),
            })
            .collect();
        std::fs::write(file, junit::document(&component.name, &entries))
            .doing(format!("cannot write {}", file.display()))?;
    }
    let failed = done.iter().filter(|done| done.differs.is_some()).count();
    if output.json {
        output.object(&json!({
            "policy": component.name,
            "digest": component.digest().to_string(),
            "cases": done.len(),
            "failed": failed,
            "results": done.iter().map(|done| json!({
                "name": done.case.name,
                "expected": done.case.expect.word(),
                "came": cases::word(&done.came),
                "ok": done.differs.is_none(),
                "why": done.differs,
                "took_us": u64::try_from(done.took.as_micros()).unwrap_or(u64::MAX),
                "logs": done.logs,
            })).collect::<Vec<_>>(),
        }))?;
    } else {
        let rows = done
            .iter()
            .map(|done| {
                vec![
                    match done.differs {
                        None => "ok".to_owned(),
                        Some(_) => "FAILED".to_owned(),
                    },
                    done.case.name.clone(),
                    done.case.expect.word(),
                    cases::word(&done.came),
                    format!("{} µs", done.took.as_micros()),
                ]
            })
            .collect();
        output.table(&["", "case", "expected", "came", "took"], rows, "no cases")?;
        for done in &done {
            for line in &done.logs {
                output.note(format!("{}: log: {line}", done.case.name));
            }
            if let Some(why) = &done.differs {
                let label = output.paint_stderr(Paint::Red, "failed:");
                output.note(format!("{label} {}: {why}", done.case.name));
            }
        }
        output.line(format!(
            "{}, {} failed",
            counted(done.len(), "case"),
            failed
        ))?;
    }
    if failed > 0 {
        return Err(Failure::told(Exit::Failed));
    }
    Ok(())
}

/// An instance of its own for each case: nothing an earlier message left behind may help.
fn try_case<'a>(case: &'a Case, module: &Module, limits: &Limits) -> Done<'a> {
    let mut took = Duration::ZERO;
    let mut logs = Vec::new();
    let came = module.start(&case.config, limits).and_then(|mut instance| {
        let ran = instance.run(&case.message(), limits);
        took = ran.cost;
        logs = instance
            .take_logs()
            .into_iter()
            .map(|line| line.text)
            .collect();
        ran.result
    });
    Done {
        case,
        took,
        differs: case.differs(&came),
        came,
        logs,
    }
}
