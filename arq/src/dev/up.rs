//! `arq dev up`: makes what is missing, starts the parts, and stops them in order.

use std::process::ExitStatus;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::children::{Program, Running, find_brain, find_program};
use super::layout;
use super::ports::{PortOptions, Ports};
use super::record::{Lock, Process, Record, stop_leftovers};
use super::restart::Request;
use super::telemetry::TelemetryOptions;
use crate::Globals;
use crate::context::Context;
use crate::failure::{Doing, Failure, Result};
use crate::http;
use crate::output::{Output, Paint};
use crate::progress::Progress;

/// How long a part may take to become ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long Shield may drain: its manifest's default and something for the rest.
const SHIELD_STOP_LIMIT: Duration = Duration::from_secs(40);
/// How long NATS or a Brain may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Runs until a signal or the end of a part.
pub(super) async fn run(
    mut context: Context,
    options: PortOptions,
    brains: usize,
    telemetry: &TelemetryOptions,
    quiet: bool,
    globals: &Globals,
) -> Result {
    let output = &globals.output;
    let Some(_lock) = Lock::take(&context)? else {
        return already_up(&context, output);
    };
    let mut stops = Stops::new()?;
    if let Some(record) = Record::read(&context) {
        let left = stop_leftovers(&context, &record);
        if left > 0 {
            output.note(format!(
                "stopped {left} processes that an earlier `arq dev up` left behind"
            ));
        }
    }
    let ports = options.over(layout::ports(&context))?;
    ports.check_free(brains)?;
    let nats = arqon_spine::server::find().hint(
        "`scripts/setup` puts a nats-server into .tools/bin; or install one and have it in PATH",
    )?;
    let shield = find_program("arqon-shield").ok_or_else(|| {
        Failure::new("there is no arqon-shield beside arq or in PATH")
            .hint("`cargo build -p arqon-shield` builds it")
    })?;
    let brain = match brains {
        0 => None,
        _ => Some(find_brain().ok_or_else(|| {
            Failure::new("there is no Brain: no release of it beside arq or in the tree of its build").hint(
                "`scripts/brain` builds it (Elixir comes by `scripts/setup`); or run without presence: `arq dev up --native --no-brain`",
            )
        })?),
    };
    layout::prepare(&mut context, ports, brains, telemetry, output)?;

    let mut up = Up {
        context,
        ports,
        brains: layout::BRAINS
            .into_iter()
            .zip(ports.brains)
            .take(brains)
            .collect(),
        quiet,
        output: *output,
        running: Vec::new(),
    };
    let outcome = tokio::select! {
        outcome = up.start_and_watch(nats.path, shield, brain) => outcome,
        why = stops.next() => {
            output.note(format!("{why}: stopping (Ctrl-C once more kills)"));
            Ok(())
        }
    };
    let stopped = tokio::select! {
        stopped = up.stop() => stopped,
        _ = stops.interrupt.recv() => {
            up.kill().await;
            Err(Failure::new("killed"))
        }
    };
    Record::remove(&up.context);
    outcome.and(stopped)
}

/// Up twice is harmless.
pub(super) fn already_up(context: &Context, output: &Output) -> Result {
    let pid = Record::read(context).map(|record| record.supervisor.pid);
    if output.json {
        return output.object_line(&json!({"already_running": true, "pid": pid, "shield_url": context.settings.shield_url}));
    }
    let by = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    output.note(format!(
        "it already runs here{by}; clients connect to {}",
        context.settings.shield_url
    ));
    Ok(())
}

struct Up {
    context: Context,
    ports: Ports,
    /// Id and port of each Brain.
    brains: Vec<(&'static str, u16)>,
    quiet: bool,
    output: Output,
    /// In the order they were started.
    running: Vec<Running>,
}

impl Up {
    async fn start_and_watch(
        &mut self,
        nats: std::path::PathBuf,
        shield: std::path::PathBuf,
        brain: Option<std::path::PathBuf>,
    ) -> Result {
        // Before the record names this process: unheard, the signal of a restart would end it.
        let mut asked = signal(SignalKind::user_defined1())?;
        self.start(Program {
            name: "nats",
            paint: Paint::Magenta,
            file: nats,
            arguments: vec![
                "-c".to_owned(),
                layout::nats_config(&self.context).display().to_string(),
            ],
            environment: Vec::new(),
            log: self.context.logs_folder().join("nats.log"),
        })?;
        self.ready("nats").await?;
        let tenants = {
            let furnish = Box::pin(layout::furnish(&self.context, &self.output));
            tokio::select! {
                outcome = furnish => outcome?,
                (index, status) = ended(&mut self.running) => return Err(self.died(index, status).await),
            }
        };
        // Before Shield, so that they stop after it: they tell the others that it left.
        for (id, _) in self.brains.clone() {
            let Some(file) = brain.clone() else { break };
            let manifest = layout::brain_manifest(&self.context, id);
            self.start(Program {
                name: id,
                paint: Paint::Yellow,
                file,
                arguments: vec!["start".to_owned()],
                environment: vec![("ARQON_CONFIG", manifest.display().to_string())],
                log: self.context.logs_folder().join(format!("{id}.log")),
            })?;
        }
        self.start(Program {
            name: "shield",
            paint: Paint::Cyan,
            file: shield,
            arguments: layout::shield_arguments(&self.context),
            environment: Vec::new(),
            log: self.context.logs_folder().join("shield.log"),
        })?;
        self.ready("shield").await?;
        for (id, _) in self.brains.clone() {
            self.ready(id).await?;
        }
        self.summary(&tenants)?;
        loop {
            tokio::select! {
                (index, status) = ended(&mut self.running) => return Err(self.died(index, status).await),
                _ = asked.recv() => self.restart_as_asked().await?,
            }
        }
    }

    /// Restarts what `arq dev restart` asks for. A part that does not come back ends everything,
    /// as a part that dies does.
    async fn restart_as_asked(&mut self) -> Result {
        let Some(request) = Request::open(&self.context) else {
            return Ok(());
        };
        let mut outcome = Ok(());
        for part in &request.parts {
            outcome = self.restart(part).await;
            if outcome.is_err() {
                break;
            }
        }
        request.answer(&self.context, &outcome)?;
        outcome
    }

    async fn restart(&mut self, part: &str) -> Result {
        let Some(index) = self.running.iter().position(|running| running.name == part) else {
            return Ok(());
        };
        self.output.note(format!("restarting {part}"));
        let running = self.running.remove(index);
        let program = running.program.clone();
        // One that had to be killed is started all the same.
        if let Err(failure) = running.stop(stop_limit(part), &self.output).await {
            self.output.warn(failure.message);
        }
        self.start_at(index, program)?;
        self.ready(part).await
    }

    fn start(&mut self, program: Program) -> Result {
        self.start_at(self.running.len(), program)
    }

    fn start_at(&mut self, index: usize, program: Program) -> Result {
        let running = program.start(self.output, self.quiet)?;
        self.running.insert(index, running);
        // Written anew with each part, so that even a crash in the middle leaves no stray.
        let supervisor = Process::of("arq", std::process::id())
            .ok_or_else(|| Failure::new("cannot read /proc; `arq dev` needs Linux"))?;
        let children = self
            .running
            .iter()
            .map(|running| running.process.clone())
            .collect();
        Record {
            supervisor,
            children,
        }
        .write(&self.context)
    }

    /// Whether a part answers.
    async fn answers(ports: Ports, brains: &[(&str, u16)], name: &str) -> bool {
        let port = match brains.iter().find(|(id, _)| *id == name) {
            Some((_, port)) => *port,
            None if name == "shield" => ports.shield,
            None => {
                let address = (std::net::Ipv4Addr::LOCALHOST, ports.nats);
                return tokio::net::TcpStream::connect(address).await.is_ok();
            }
        };
        let readyz = format!("http://127.0.0.1:{port}/readyz");
        matches!(http::get(&readyz, None).await, Ok((200, _)))
    }

    /// Waits until a part answers; its end or a long silence is a failure.
    async fn ready(&mut self, name: &str) -> Result {
        let ports = self.ports;
        let brains = self.brains.clone();
        // Where the parts' own lines are shown they tell enough.
        let _progress = self
            .quiet
            .then(|| Progress::waiting(format!("waiting for {name}")));
        let wait = async {
            while !Self::answers(ports, &brains, name).await {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        };
        tokio::select! {
            outcome = tokio::time::timeout(READY_LIMIT, wait) => outcome.map_err(|_| {
                Failure::new(format!("{name} is not ready after {} s", READY_LIMIT.as_secs()))
                    .hint(format!("its log is {}", self.context.logs_folder().join(format!("{name}.log")).display()))
            }),
            (index, status) = ended(&mut self.running) => Err(self.died(index, status).await),
        }
    }

    async fn died(&mut self, index: usize, status: ExitStatus) -> Failure {
        let mut dead = self.running.remove(index);
        dead.died(status, self.quiet).await
    }

    fn summary(&self, tenants: &[String]) -> Result {
        let settings = &self.context.settings;
        if self.output.json {
            return self.output.object_line(&json!({
                "ready": true,
                "pid": std::process::id(),
                "shield_url": settings.shield_url,
                "admin_url": settings.admin_url,
                "nats": settings.nats,
                "nats_monitor": settings.nats_monitor,
                "brains": self.brains.iter().map(|(id, port)| json!({
                    "id": id,
                    "url": format!("http://127.0.0.1:{port}"),
                })).collect::<Vec<_>>(),
                "tenants": tenants,
                "folder": self.context.folder,
            }));
        }
        let output = &self.output;
        output.line("")?;
        output.line(output.paint(Paint::Bold, "ArqonBus is up"))?;
        output.line("")?;
        output.pairs(&[
            ("  clients", settings.shield_url.clone()),
            ("  metrics", format!("{}/metrics", settings.admin_url)),
            ("  NATS", super::nats(settings)),
            ("  presence", self.presence()),
            ("  tenants", tenants.join(", ")),
            ("  folder", self.context.folder.display().to_string()),
        ])?;
        output.line("")?;
        output.line("Try in other terminals:")?;
        output.line("  arq sub lobby")?;
        output.line("  arq pub lobby hello")?;
        if !self.brains.is_empty() {
            output.line("  arq presence lobby --watch")?;
        }
        output.line("  arq status")?;
        output.line("")?;
        output.line("Ctrl-C stops everything")?;
        output.line("")
    }

    fn presence(&self) -> String {
        let brains: Vec<String> = self
            .brains
            .iter()
            .map(|(id, port)| format!("{id} (http://127.0.0.1:{port}/metrics)"))
            .collect();
        if brains.is_empty() {
            "unavailable: no Brain was asked for".to_owned()
        } else {
            brains.join(", ")
        }
    }

    /// Stops the parts, the last started first.
    async fn stop(&mut self) -> Result {
        let mut outcome = Ok(());
        while let Some(running) = self.running.pop() {
            let limit = stop_limit(running.name);
            let stopped = running.stop(limit, &self.output).await;
            outcome = outcome.and(stopped);
        }
        outcome
    }

    async fn kill(&mut self) {
        while let Some(running) = self.running.pop() {
            running.kill().await;
        }
    }
}

/// How long a part may take to stop.
fn stop_limit(name: &str) -> Duration {
    match name {
        "shield" => SHIELD_STOP_LIMIT,
        _ => STOP_LIMIT,
    }
}

/// The first part that ends.
async fn ended(running: &mut [Running]) -> (usize, ExitStatus) {
    let waits = running.iter_mut().map(|running| Box::pin(running.ended()));
    let (status, index, _) = futures_util::future::select_all(waits).await;
    (index, status)
}

/// The signals that mean: stop.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stops {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
