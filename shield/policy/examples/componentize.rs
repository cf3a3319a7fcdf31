//! Wraps a core module into a component, for scripts/policies: `componentize CORE COMPONENT`.

use std::{env, fs, io, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [core, component] = &arguments[..] else {
        eprintln!("componentize: two arguments: the core module, the component");
        return ExitCode::from(2);
    };
    let done = fs::read(core)
        .and_then(|core| arqon_policy::wrap::componentize(&core).map_err(io::Error::other))
        .and_then(|bytes| fs::write(component, bytes));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("componentize: {}: {error}", core.display());
            ExitCode::FAILURE
        }
    }
}
