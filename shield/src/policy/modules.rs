//! From a digest to a module: fetched, compiled, and run once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arqon_policy::{
    Digest, Draft, FaultClass, Limits, Message, Module,
    compile::{Compiled, Compiler},
};
use arqon_spine::control::ControlStore;
use arqon_telemetry::log::chain;
use bytes::Bytes;

use super::state::VersionError;

/// Fetches and compiles a version and runs it once.
pub(super) async fn make(
    store: ControlStore,
    compiler: Arc<Compiler>,
    digest: Digest,
) -> Result<(Module, u32), VersionError> {
    let component = store
        .get_object(digest.as_bytes())
        .await
        .map_err(|error| VersionError::Fetch(chain(&error).to_string()))?;
    let made = tokio::task::spawn_blocking(move || compile(&compiler, &component));
    made.await
        .unwrap_or_else(|error| Err(VersionError::Broken(error.to_string())))
}

fn compile(compiler: &Compiler, component: &[u8]) -> Result<(Module, u32), VersionError> {
    let broken = |error: String| VersionError::Broken(error);
    let Compiled {
        module,
        took,
        cached,
        ..
    } = compiler
        .module(component)
        .map_err(|error| broken(chain(&error).to_string()))?;
    dry_run(&module).map_err(broken)?;
    let ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX).max(1);
    Ok((module, if cached { 0 } else { ms }))
}

/// A version that refuses to be configured with nothing is good nevertheless:
/// with what it is bound decides.
fn dry_run(module: &Module) -> Result<(), String> {
    let limits = Limits::default();
    match module.start(b"", &limits) {
        Ok(mut instance) => canonical(|message| match instance.run(message, &limits).result {
            Ok(_) => Ok(()),
            Err(fault) => Err(format!("its dry run failed: {fault}")),
        }),
        Err(fault) if matches!(fault.class, FaultClass::Configure | FaultClass::NoSlot) => Ok(()),
        Err(fault) => Err(format!("its dry run failed: {fault}")),
    }
}

/// The message that every version and every binding judges once before it is
/// let near a real one.
pub(super) fn canonical<T>(run: impl FnOnce(&Message<'_>) -> T) -> T {
    let draft = Draft {
        headers: BTreeMap::from([("content-type".to_owned(), "text/plain".to_owned())]),
        payload: Bytes::from_static(b"hello"),
    };
    run(&Message {
        tenant: "tenant",
        room: "room",
        user: "user",
        role: "user",
        draft: &draft,
    })
}
