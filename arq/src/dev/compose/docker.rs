//! What is asked of `docker`, and how its answers are read.

use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use super::Stack;
use crate::dev::children::find_program;
use crate::failure::{Doing, Failure, Result};

/// A line of `docker compose ps`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Service {
    pub(super) service: String,
    pub(super) state: String,
    #[serde(default)]
    pub(super) health: String,
    #[serde(default)]
    pub(super) exit_code: i64,
}

impl Service {
    /// How it is, in a word.
    pub(super) fn words(&self) -> String {
        match (self.state.as_str(), self.health.as_str(), self.exit_code) {
            ("exited", _, 0) => "done".to_owned(),
            ("exited", _, code) => format!("exit code {code}"),
            ("running", "", _) => "running".to_owned(),
            ("running", health, _) => health.to_owned(),
            (state, _, _) => state.to_owned(),
        }
    }
}

/// The containers of the stack, also those that have ended.
pub(super) fn services(stack: &Stack) -> Result<Vec<Service>> {
    let output = stack
        .everything()
        .args(["ps", "--all", "--format", "json"])
        .stdin(Stdio::null())
        .output()
        .doing("cannot run docker")?;
    if !output.status.success() {
        return Err(refused("look at the stack", output.status, &output.stderr));
    }
    parse_services(&String::from_utf8_lossy(&output.stdout))
}

/// Compose has written an array, and since 2.21 an object a line.
fn parse_services(text: &str) -> Result<Vec<Service>> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).doing("cannot read what `docker compose ps` says");
    }
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).doing("cannot read what `docker compose ps` says"))
        .collect()
}

/// The service of a line such as `shield-1  | text`, and its text. Compose cleans its own line of a
/// terminal first, even where there is none.
pub(super) fn log_line(line: &str) -> (&str, &str) {
    let line = line.strip_prefix("\x1b[2K").unwrap_or(line);
    match line.split_once("| ") {
        Some((container, text)) => {
            let container = container.trim_end();
            let service = container
                .rsplit_once('-')
                .map_or(container, |(name, _)| name);
            (service, text)
        }
        None => ("", line),
    }
}

/// Runs Docker, whose output goes where ours goes.
pub(super) fn run(command: &mut Command, what: &str) -> Result {
    let status = command
        .stdin(Stdio::null())
        .status()
        .doing("cannot run docker")?;
    if status.success() {
        Ok(())
    } else {
        Err(refused(what, status, &[]))
    }
}

/// What Docker's own end says.
pub(super) fn refused(what: &str, status: ExitStatus, said: &[u8]) -> Failure {
    let said = String::from_utf8_lossy(said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let why = last.map_or_else(|| status.to_string(), |line| line.trim().to_owned());
    Failure::new(format!("Docker could not {what}: {why}"))
}

/// Whether there is a Docker, with its engine and Compose.
pub(super) fn engine() -> Result {
    const NATIVE: &str = "`arq dev up --native` runs everything without Docker";
    if find_program("docker").is_none() {
        return Err(Failure::new("there is no Docker on this machine").hint(NATIVE));
    }
    let ask = |arguments: &[&str]| {
        Command::new("docker")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .doing("cannot run docker")
    };
    let engine = ask(&["version", "--format", "{{.Server.Version}}"])?;
    if !engine.status.success() {
        let why = refused("answer", engine.status, &engine.stderr).message;
        let why = why
            .trim_start_matches("Docker could not answer: ")
            .to_owned();
        return Err(
            Failure::new(format!("Docker's engine does not answer: {why}"))
                .hint(format!("start it; or {NATIVE}")),
        );
    }
    if !ask(&["compose", "version"])?.status.success() {
        return Err(Failure::new("this Docker has no Compose").hint(format!(
            "install its plug-in (docker-compose-v2 or docker-compose-plugin); or {NATIVE}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_of_what_compose_says_are_read() {
        let line =
            r#"{"Service":"shield","State":"running","Health":"healthy","ExitCode":0,"Name":"x"}"#;
        let done = r#"{"Service":"init","State":"exited","Health":"","ExitCode":0}"#;
        for text in [format!("{line}\n{done}\n"), format!("[{line},{done}]")] {
            let all = parse_services(&text).unwrap();
            assert_eq!(all.len(), 2);
            assert_eq!(all[0].words(), "healthy");
            assert_eq!(all[1].words(), "done");
        }
        assert_eq!(log_line("\x1b[2Kshield-1  | a | b"), ("shield", "a | b"));
        assert!(parse_services("").unwrap().is_empty());
        assert!(parse_services("what?").is_err());
    }
}
