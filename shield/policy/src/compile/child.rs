//! The child: reads a component on standard input, writes machine code to
//! standard output, and can neither use much nor take long.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};

use super::frame;
use crate::{Digest, HostOptions, engine};

/// Longest component that is read; the parent has checked it.
const MAX_COMPONENT_BYTES: u64 = 64 << 20;
/// Memory on top of what the empty engine has reserved.
const MEMORY_BYTES: u64 = 2 << 30;
const MAX_FILES: u64 = 32;

const GUARDED: &str = "--guarded";
const MAX_MEMORY: &str = "--max-memory-bytes=";
const CPU: &str = "--cpu-seconds=";

/// The engine's settings decide whether the code fits, so they are told.
pub(super) fn args(host: &HostOptions, cpu: Duration) -> Vec<OsString> {
    let mut args = vec![
        format!("{MAX_MEMORY}{}", host.max_memory_bytes).into(),
        format!("{CPU}{}", cpu.as_secs()).into(),
    ];
    if host.guarded {
        args.push(GUARDED.into());
    }
    args
}

/// The whole compile child. `shield compile-policy`, `arq compile-policy` and
/// `arqon-policy-compile` are nothing else.
#[must_use]
pub fn child_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let (options, cpu) = parse(std::env::args().skip(1))?;
    let engine = engine::engine(&options).map_err(|error| error.to_string())?;
    // From here on the bytes are somebody else's.
    limit(cpu)?;
    let mut component = Vec::new();
    io::stdin()
        .take(MAX_COMPONENT_BYTES)
        .read_to_end(&mut component)
        .map_err(|error| format!("the component cannot be read: {error}"))?;
    let code = engine
        .precompile_component(&component)
        .map_err(|error| format!("{error:#}"))?;
    let mut out = io::stdout().lock();
    out.write_all(&frame(Digest::of(&component), &code))
        .and_then(|()| out.flush())
        .map_err(|error| format!("the code cannot be written: {error}"))
}

fn parse(args: impl Iterator<Item = String>) -> Result<(HostOptions, u64), String> {
    let mut options = HostOptions {
        // Nothing runs here.
        slots: 1,
        ..HostOptions::default()
    };
    let mut cpu = None;
    // The first argument may be the name of the subcommand.
    for arg in args.skip_while(|arg| !arg.starts_with("--")) {
        let number = |text: &str| text.parse().map_err(|_| format!("not a number: {arg}"));
        if arg == GUARDED {
            options.guarded = true;
        } else if let Some(bytes) = arg.strip_prefix(MAX_MEMORY) {
            options.max_memory_bytes = usize::try_from(number(bytes)?).unwrap_or(usize::MAX);
        } else if let Some(seconds) = arg.strip_prefix(CPU) {
            cpu = Some(number(seconds)?);
        } else {
            return Err(format!("not understood: {arg}"));
        }
    }
    let cpu = cpu.ok_or("this is started by Shield and arq, not by hand")?;
    Ok((options, cpu))
}

fn limit(cpu: u64) -> Result<(), String> {
    let failed = |error| format!("the limits cannot be set: {error}");
    let set = |resource, soft: u64, hard: u64| {
        // What is stricter already stays.
        let now = rustix::process::getrlimit(resource).maximum;
        let least = |value: u64| Some(now.map_or(value, |now| now.min(value)));
        let limit = Rlimit {
            current: least(soft),
            maximum: least(hard),
        };
        setrlimit(resource, limit).map_err(failed)
    };
    // The thread that started it waits for it, so its end is that of its process.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(failed)?;
    setpriority_process(None, 19).map_err(failed)?;
    // The first ends it with a signal that tells the reason.
    set(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    let memory = reserved().saturating_add(MEMORY_BYTES);
    set(Resource::As, memory, memory)?;
    set(Resource::Core, 0, 0)?;
    set(Resource::Nofile, MAX_FILES, MAX_FILES)
}

/// Address space in use: an engine with guard pages has reserved gigabytes of
/// it, of which none is memory.
fn reserved() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<(HostOptions, u64), String> {
        parse(args.iter().map(ToString::to_string))
    }

    #[test]
    fn the_child_gets_the_engine_of_its_parent() {
        for guarded in [false, true] {
            let host = HostOptions {
                guarded,
                slots: 77,
                max_memory_bytes: 5 << 20,
            };
            let args = args(&host, Duration::from_secs(9));
            let mut texts: Vec<String> = vec!["compile-policy".into()];
            texts.extend(args.iter().map(|arg| arg.to_string_lossy().into_owned()));
            let expected = HostOptions { slots: 1, ..host };
            assert_eq!(parse(texts.into_iter()), Ok((expected, 9)));
        }
    }

    #[test]
    fn other_arguments_are_refused() {
        assert!(parsed(&["--cpu-seconds=1", "--what"]).is_err());
        assert!(parsed(&["--cpu-seconds=x"]).is_err());
        assert!(parsed(&[]).is_err());
        assert!(parsed(&["compile-policy"]).is_err());
    }
}
