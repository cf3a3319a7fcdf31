//! Running a policy here: the same engine, limits and compiler as a Shield's.

use std::time::{Duration, Instant};

use arqon_policy::compile::{CompileCommand, Compiled, Compiler, CompilerOptions};
use arqon_policy::{
    Draft, Fault, FaultClass, Host, HostOptions, Instance, Limits, Message, Module, Verdict,
};
use arqon_proto::v1::PolicyIsolation;

use super::component::Component;
use crate::failure::{Doing, Failure, Result};

/// The hidden command that compiles: a child of its own, so that nothing a component does to a
/// compiler hurts the command.
pub(crate) const COMPILE: &str = "compile-policy";

/// How long a component may take to compile.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);

/// Instances of one command.
const SLOTS: u32 = 8;

/// Starts of which the cheapest counts.
const STARTS: u32 = 5;

/// An engine in this process.
pub(super) struct Local {
    compiler: Compiler,
}

impl Local {
    pub(super) fn new() -> Result<Self> {
        let options = HostOptions {
            slots: SLOTS,
            ..HostOptions::default()
        };
        let host = Host::new(&options).doing("cannot start the engine of policies")?;
        let compiler = Compiler::new(
            host,
            CompilerOptions {
                command: CompileCommand {
                    program: std::env::current_exe()?,
                    args: vec![COMPILE.into()],
                },
                cache_dir: None,
                cache_key: rand::random(),
                timeout: COMPILE_TIMEOUT,
            },
        )
        .doing("cannot start the compiler of policies")?;
        Ok(Self { compiler })
    }

    /// Compiles a component in a child process.
    pub(super) fn compile(&self, component: &[u8]) -> Result<Compiled> {
        self.compiler
            .module(component)
            .doing("it does not compile")
            .hint("`arq policy check FILE` tells why and what helps")
    }

    /// Compiles and starts it with a configuration, and shows it one message: what a Shield will
    /// do before it counts the binding as active.
    pub(super) fn rehearse(
        &self,
        component: &Component,
        config: &[u8],
        limits: &Limits,
        isolation: PolicyIsolation,
    ) -> Result<Rehearsal> {
        let compiled = self.compile(&component.bytes)?;
        let mut instance = start(&compiled.module, config, limits)?;
        let first = judge(&mut instance, limits);
        if let Err(fault) = &first
            && fault.class.is_of_message()
        {
            return Err(
                Failure::new(format!("it fails on a message of one word: {fault}"))
                    .hint("`arq policy test` runs it on messages of your choice, here"),
            );
        }
        let configure = cheapest_start(&compiled.module, config, limits)?;
        if isolation == PolicyIsolation::Message && configure > limits.cpu {
            return Err(Failure::new(format!(
                "with a new instance for each message, each would pay {} µs for configure, and one message has {} µs",
                configure.as_micros(),
                limits.cpu.as_micros()
            ))
            .hint("leave --isolation message away, configure less, or give it more with --cpu"));
        }
        Ok(Rehearsal {
            configure,
            compile: compiled.took,
        })
    }
}

/// What a rehearsal showed.
#[derive(Debug)]
pub(super) struct Rehearsal {
    /// The cheapest of some starts.
    pub(super) configure: Duration,
    pub(super) compile: Duration,
}

/// Starts an instance; a refused configuration is told as such.
pub(super) fn start(module: &Module, config: &[u8], limits: &Limits) -> Result<Instance> {
    module
        .start(config, limits)
        .map_err(|fault| refused(&fault))
}

fn refused(fault: &Fault) -> Failure {
    if fault.class == FaultClass::Configure {
        Failure::new(format!("it refuses this configuration: {}", fault.detail)).hint(
            "--config FILE gives another; `arq policy bench FILE --config FILE` tries one here",
        )
    } else {
        Failure::new(format!("it does not start: {fault}"))
            .hint("`arq policy check FILE` shows what it needs")
    }
}

/// Its verdict on a message of one word.
fn judge(instance: &mut Instance, limits: &Limits) -> Result<Verdict, Fault> {
    let draft = Draft {
        payload: "hello".into(),
        ..Draft::default()
    };
    let message = Message {
        tenant: "acme",
        room: "lobby",
        user: "dev",
        role: "user",
        draft: &draft,
    };
    instance.run(&message, limits).result
}

/// What a start costs when nothing disturbs it.
fn cheapest_start(module: &Module, config: &[u8], limits: &Limits) -> Result<Duration> {
    let mut cheapest = Duration::MAX;
    for _ in 0..STARTS {
        let began = Instant::now();
        let instance = start(module, config, limits)?;
        cheapest = cheapest.min(began.elapsed());
        drop(instance);
    }
    Ok(cheapest)
}
