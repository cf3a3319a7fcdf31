//! The engine, its slots, and modules that are ready to start.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use wasmtime::{
    Engine,
    component::{
        Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower,
        types::ComponentItem,
    },
};

use crate::{
    Digest, Fault, Limits, ShapeLimits,
    check::check,
    engine::{HostOptions, engine},
    instance::Instance,
    state::{self, State},
    ticker::Ticker,
    wire::{
        CONFIGURE, ConfigureParams, ConfigureResult, HOST_INTERFACE, MessageParams, MessageResult,
        ON_MESSAGE,
    },
};

/// Why there is no host or no module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The engine cannot be set up on this machine.
    #[error("the Wasm engine cannot start: {0}")]
    Engine(String),
    /// The check found that the component is no policy.
    #[error("the component is refused: {0}")]
    Refused(String),
    /// The component does not compile.
    #[error("the component does not compile: {0}")]
    Compile(String),
    /// The machine code is not of this engine, or is broken.
    #[error("the machine code cannot be loaded: {0}")]
    Load(String),
    /// The component is no policy.
    #[error("the component is no policy: {0}")]
    Interface(String),
}

/// The engine with its slots. It ends, and its thread with it, when the last
/// clone, module and instance is gone.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    engine: Engine,
    linker: Linker<State>,
    ticker: Ticker,
    options: HostOptions,
}

/// A compiled policy, ready to start. Cheap to clone; the last one of a big
/// module takes a while to drop.
#[derive(Clone)]
pub struct Module(Arc<Loaded>);

struct Loaded {
    host: Host,
    digest: Digest,
    pre: InstancePre<State>,
    configure: ComponentExportIndex,
    on_message: ComponentExportIndex,
}

/// The right to one instance.
pub(crate) struct Slot(Host);

impl Host {
    /// An engine with its own slots.
    pub fn new(options: &HostOptions) -> Result<Self, HostError> {
        let engine = engine(options)?;
        let mut linker = Linker::new(&engine);
        linker
            .instance(HOST_INTERFACE)
            .and_then(|mut host| host.func_wrap("log", state::log))
            .map_err(|error| HostError::Engine(format!("{error:#}")))?;
        let ticker = Ticker::start(engine.clone())
            .map_err(|error| HostError::Engine(format!("no thread for its clock: {error}")))?;
        Ok(Self(Arc::new(Inner {
            engine,
            linker,
            ticker,
            options: *options,
        })))
    }

    /// Names the engine's release, settings and machine: machine code of
    /// another one does not load.
    #[must_use]
    pub fn compatibility(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.0
            .engine
            .precompile_compatibility_hash()
            .hash(&mut hasher);
        format!("wasmtime-48-{:016x}", hasher.finish())
    }

    /// Machine code of a component. Takes time and memory out of proportion to
    /// some inputs: for a process with limits.
    pub fn precompile(&self, component: &[u8]) -> Result<Vec<u8>, HostError> {
        let compiled = self.0.engine.precompile_component(component);
        compiled.map_err(|error| HostError::Compile(format!("{error:#}")))
    }

    /// A module of machine code.
    ///
    /// # Safety
    ///
    /// `compiled` runs as it is: it must be what [`Host::precompile`] made, unchanged.
    #[allow(unsafe_code)]
    pub unsafe fn load(&self, digest: Digest, compiled: &[u8]) -> Result<Module, HostError> {
        // SAFETY: the caller answers for it.
        let component = unsafe { Component::deserialize(&self.0.engine, compiled) }
            .map_err(|error| HostError::Load(format!("{error:#}")))?;
        self.module(digest, &component)
    }

    /// A module of a component, checked and compiled in this process: for tests
    /// and tools.
    #[allow(unsafe_code)]
    pub fn load_component(&self, component: &[u8]) -> Result<Module, HostError> {
        check(component, &ShapeLimits::default()).map_err(|findings| {
            let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
            HostError::Refused(findings.join("; "))
        })?;
        let compiled = self.precompile(component)?;
        // SAFETY: this line's predecessor made it.
        unsafe { self.load(Digest::of(component), &compiled) }
    }

    /// Instances that are alive.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.0.ticker.alive() as usize
    }

    /// Instances that may be alive at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.0.options.slots as usize
    }

    /// How it was set up. A process that compiles for it needs the same.
    #[must_use]
    pub fn options(&self) -> &HostOptions {
        &self.0.options
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn slot(&self) -> Option<Slot> {
        let inner = &self.0;
        inner
            .ticker
            .enter(inner.options.slots)
            .then(|| Slot(self.clone()))
    }

    fn module(&self, digest: Digest, component: &Component) -> Result<Module, HostError> {
        let interface = |error: wasmtime::Error| HostError::Interface(format!("{error:#}"));
        let pre = self
            .0
            .linker
            .instantiate_pre(component)
            .map_err(interface)?;
        let configure = export::<ConfigureParams<'_>, ConfigureResult>(&pre, CONFIGURE)?;
        let on_message = export::<MessageParams<'_>, MessageResult>(&pre, ON_MESSAGE)?;
        // Else the first message would pay for it.
        component
            .initialize_copy_on_write_image()
            .map_err(|error| HostError::Load(format!("{error:#}")))?;
        Ok(Module(Arc::new(Loaded {
            host: self.clone(),
            digest,
            pre,
            configure,
            on_message,
        })))
    }
}

fn export<P, R>(pre: &InstancePre<State>, name: &str) -> Result<ComponentExportIndex, HostError>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift,
{
    match pre.component().get_export(None, name) {
        Some((ComponentItem::ComponentFunc(func), index)) => {
            func.typecheck::<P, R>(&pre.instance_type())
                .map_err(|error| HostError::Interface(format!("export {name}: {error:#}")))?;
            Ok(index)
        }
        _ => Err(HostError::Interface(format!(
            "it exports no function {name}"
        ))),
    }
}

impl Module {
    /// Which component it is of.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// A new instance that took its configuration. It may use
    /// [`Limits::configure`] of CPU time, and four times that of wall-clock time.
    pub fn start(&self, config: &[u8], limits: &Limits) -> Result<Instance, Fault> {
        Instance::start(self, config, limits)
    }

    pub(crate) fn host(&self) -> &Host {
        &self.0.host
    }

    pub(crate) fn pre(&self) -> &InstancePre<State> {
        &self.0.pre
    }

    pub(crate) fn configure(&self) -> &ComponentExportIndex {
        &self.0.configure
    }

    pub(crate) fn on_message(&self) -> &ComponentExportIndex {
        &self.0.on_message
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.0.ticker.leave();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("slots", &self.0.options.slots)
            .field("instances", &self.instances())
            .finish()
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Module").field(&self.0.digest).finish()
    }
}
