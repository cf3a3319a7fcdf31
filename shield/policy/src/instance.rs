//! One running policy. Whatever its code does, a call ends with a verdict or a fault.

use std::{fmt, time::Duration};

use wasmtime::{
    PoolConcurrencyLimitError, Store, Trap,
    component::{Func, TypedFunc},
};

use crate::{
    Fault, FaultClass, Limits, Message, Verdict,
    host::Module,
    state::{Deadline, LogLine, OVERDUE_TICKS, State},
    wire::{self, ConfigureParams, ConfigureResult, MessageParams, MessageResult, WireMessage},
};

/// Longest detail of a fault; some of it is the policy's own text.
const MAX_DETAIL_BYTES: usize = 1024;
/// Wall-clock time of `configure`, in its CPU budgets.
const CONFIGURE_WALL: u32 = 4;

/// A policy with its configuration, ready for messages. It holds one slot of
/// its host, and is of no use after a fault.
pub struct Instance {
    store: Store<State>,
    on_message: Func,
    runs: u32,
    broken: bool,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The verdict, or why there is none.
    pub result: Result<Verdict, Fault>,
    /// Wall-clock time, which is the CPU time of an undisturbed thread; for a
    /// run that was overdue, CPU time.
    pub cost: Duration,
}

impl Instance {
    pub(crate) fn start(module: &Module, config: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let host = module.host();
        let slot = host.slot().ok_or_else(|| {
            Fault::new(
                FaultClass::NoSlot,
                "as many instances are alive as there may be",
            )
        })?;
        let mut store = Store::new(host.engine(), State::new(slot, limits.memory_bytes));
        store.limiter(|state| state);
        store.epoch_deadline_callback(|mut cx| Ok(cx.data_mut().deadline.tick()));
        // Strings of one list may all lie in the same place, so the memory's
        // size alone does not bound what leaves it.
        store.set_hostcall_fuel(limits.memory_bytes);
        // Start functions run in `instantiate`.
        let wall = limits.configure * CONFIGURE_WALL;
        let deadline = Deadline::exact(limits.configure, wall);
        store.data_mut().begin(deadline);
        store.set_epoch_deadline(OVERDUE_TICKS);

        match configured(module, config, &mut store) {
            Ok((Ok(()), on_message)) => Ok(Self {
                store,
                on_message,
                runs: 0,
                broken: false,
            }),
            Ok((Err(text), _)) => Err(Fault::new(
                FaultClass::Configure,
                wire::cut(text, MAX_DETAIL_BYTES),
            )),
            Err(error) if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() => {
                Err(Fault::new(FaultClass::NoSlot, format!("{error:#}")))
            }
            Err(error) => {
                let fault = fault(&error, store.data());
                let detail = wire::cut(fault.to_string(), MAX_DETAIL_BYTES);
                Err(Fault::new(FaultClass::Configure, detail))
            }
        }
    }

    /// Has the message judged. After a fault, the instance only says so again.
    pub fn run(&mut self, message: &Message<'_>, limits: &Limits) -> Ran {
        if self.broken {
            return Ran {
                result: Err(Fault::new(FaultClass::Trap, "it failed before")),
                cost: Duration::ZERO,
            };
        }
        self.runs = self.runs.saturating_add(1);
        let deadline = Deadline::new(limits.cpu, limits.wall);
        self.store.data_mut().begin(deadline);
        self.store.set_epoch_deadline(OVERDUE_TICKS);
        let result = self.call(message);
        self.broken = result.is_err();
        Ran {
            result,
            cost: self.store.data().deadline.cost(),
        }
    }

    #[allow(unsafe_code)]
    fn call(&mut self, message: &Message<'_>) -> Result<Verdict, Fault> {
        let headers = wire::headers(message);
        // SAFETY: `Host::load` has checked that `on-message` has these types.
        let on_message = unsafe {
            TypedFunc::<MessageParams<'_>, MessageResult>::new_unchecked(self.on_message)
        };
        let params = (WireMessage::new(message, &headers),);
        match on_message.call(&mut self.store, params) {
            Ok((verdict,)) => verdict.into_verdict(),
            Err(error) => Err(fault(&error, self.store.data())),
        }
    }

    /// Messages so far.
    #[must_use]
    pub fn runs(&self) -> u32 {
        self.runs
    }

    /// Bytes of its linear memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.store.data().memory.bytes
    }

    /// The lines that the last call wrote (the first time: that instantiation
    /// and `configure` wrote). What is not taken is dropped by the next call.
    pub fn take_logs(&mut self) -> Vec<LogLine> {
        std::mem::take(&mut self.store.data_mut().log)
    }
}

/// Instantiates and configures: the policy's answer, and its `on-message`.
fn configured(
    module: &Module,
    config: &[u8],
    store: &mut Store<State>,
) -> wasmtime::Result<(Result<(), String>, Func)> {
    let instance = module.pre().instantiate(&mut *store)?;
    let configure = instance
        .get_typed_func::<ConfigureParams<'_>, ConfigureResult>(&mut *store, module.configure())?;
    let on_message = instance
        .get_func(&mut *store, module.on_message())
        .ok_or_else(|| wasmtime::Error::msg("no export on-message"))?;
    let (answer,) = configure.call(&mut *store, (config,))?;
    Ok((answer, on_message))
}

/// What an error of Wasmtime's is to us. What is no trap is of the boundary: a
/// value that cannot be what the interface says.
fn fault(error: &wasmtime::Error, state: &State) -> Fault {
    let trap = error.downcast_ref::<Trap>();
    let class = match trap {
        Some(Trap::StackOverflow) => FaultClass::Stack,
        Some(Trap::Interrupt) => FaultClass::Timeout,
        _ if state.memory.refused => FaultClass::Memory,
        Some(_) => FaultClass::Trap,
        None => FaultClass::BadVerdict,
    };
    let detail = match trap {
        Some(trap) => trap.to_string(),
        None => wire::cut(format!("{error:#}"), MAX_DETAIL_BYTES),
    };
    Fault::new(class, detail)
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("runs", &self.runs)
            .field("memory_bytes", &self.memory_bytes())
            .field("broken", &self.broken)
            .finish()
    }
}
