//! `arq dev` by Docker Compose: the same commands, over the stack of `compose.yaml`.

mod docker;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::docker::{engine, log_line, refused, run, services};
use super::ports::{PortOptions, Ports};
use crate::context::{Context, Settings, create_folder, is_own, write_private};
use crate::failure::{Doing, Failure, Result};
use crate::output::{Output, Paint};

/// What a Compose file of ours is known by.
const PROJECT: &str = "name: arqonbus";
/// Where the admin's state lies in the containers that have it.
const STATE: &str = "/var/lib/arqon/.arqon/.";

/// How much of the stack is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Profile {
    /// NATS, Brain and Shield
    Core,
    /// Jaeger, Prometheus and Grafana too
    Full,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Full => "full",
        }
    }
}

/// The stack that a folder's commands are about; written when it is started first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stack {
    /// The `compose.yaml`.
    file: PathBuf,
    profile: Profile,
    ports: [u16; 5],
}

/// The environment variables of `compose.yaml` that name the ports, in the order of `Stack::ports`.
const PORT_VARIABLES: [&str; 5] = [
    "ARQON_NATS_PORT",
    "ARQON_SHIELD_PORT",
    "ARQON_ADMIN_PORT",
    "ARQON_BRAIN_PORT",
    "ARQON_MONITOR_PORT",
];
/// The ports where nothing was asked for.
const DEFAULT_PORTS: Ports = Ports {
    nats: 4222,
    shield: 8080,
    admin: 8081,
    brains: [8082, 8083, 8084],
    monitor: 8222,
};

impl Stack {
    fn record(context: &Context) -> PathBuf {
        context.dev_folder().join("stack.json")
    }

    /// The stack of a folder, if it has one.
    pub(super) fn read(context: &Context) -> Option<Self> {
        let stack: Self =
            serde_json::from_slice(&std::fs::read(Self::record(context)).ok()?).ok()?;
        // The record may come with a folder of others' making, and names what Docker is to run.
        (!stack.file.exists() || is_own(&stack.file)).then_some(stack)
    }

    /// `docker compose` for this stack. Every profile is named where the whole stack is meant, so
    /// that nothing that was started stays behind.
    fn compose(&self, profiles: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("compose").arg("--file").arg(&self.file);
        for profile in profiles {
            command.args(["--profile", profile]);
        }
        command.envs(
            PORT_VARIABLES
                .into_iter()
                .zip(self.ports.map(|port| port.to_string())),
        );
        command
    }

    fn everything(&self) -> Command {
        self.compose(&["core", "full", "tools"])
    }
}

/// Starts the stack and waits until all of it is ready; the containers go on when this returns.
pub(super) fn up(
    mut context: Context,
    profile: Option<Profile>,
    options: PortOptions,
    quiet: bool,
    output: &Output,
) -> Result {
    let before = Stack::read(&context);
    if before.is_none() && context.spine_folder().is_dir() {
        return Err(Failure::new(format!(
            "{} has the state of an ArqonBus that runs without Docker",
            context.folder.display()
        ))
        .hint("`arq dev up --native` starts it, `arq dev reset` deletes it, --state DIR names another folder"));
    }
    engine()?;
    let file = match &before {
        Some(stack) if stack.file.is_file() => stack.file.clone(),
        _ => find_file()?,
    };
    let ports = options.over(
        before
            .as_ref()
            .map_or(DEFAULT_PORTS, |stack| stack.own_ports()),
    )?;
    let stack = Stack {
        file,
        profile: profile
            .or(before.as_ref().map(|stack| stack.profile))
            .unwrap_or(Profile::Full),
        ports: [
            ports.nats,
            ports.shield,
            ports.admin,
            ports.brains[0],
            ports.monitor,
        ],
    };
    if services(&stack)?
        .iter()
        .all(|service| service.state != "running")
    {
        ports.check_free(1)?;
    }
    create_folder(&context.dev_folder())?;
    write_private(
        &Stack::record(&context),
        &serde_json::to_vec_pretty(&stack)?,
    )?;

    let progress = if quiet || output.json {
        "quiet"
    } else {
        "auto"
    };
    let mut start = stack.compose(&[stack.profile.name()]);
    start.args(["--progress", progress]);
    start.args(["up", "--detach", "--wait", "--remove-orphans"]);
    // Where nothing is built yet Compose builds it; --build is for who has changed the sources.
    if let Err(failure) = run(&mut start, "start the stack") {
        // Such as an image that cannot be pulled: what never began is no state of Docker's.
        let nothing = before.is_none() && services(&stack).is_ok_and(|all| all.is_empty());
        if nothing {
            let _ = std::fs::remove_file(Stack::record(&context));
            return Err(failure.hint("`arq dev up --native` needs no Docker"));
        }
        return Err(failure.hint(
            "`arq dev logs` shows what the parts say, `arq dev status` which one is not healthy; \
             after `arq dev reset`, `arq dev up --native` needs no Docker",
        ));
    }

    // The keys lie in a volume; the commands of this machine need them here.
    run(
        stack
            .everything()
            .args(["cp", &format!("init:{STATE}")])
            .arg(&context.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
        "copy the keys out of the stack",
    )?;
    context.settings = Settings {
        nats: vec![format!("nats://127.0.0.1:{}", ports.nats)],
        nats_monitor: Some(format!("http://127.0.0.1:{}", ports.monitor)),
        shield_url: format!("ws://127.0.0.1:{}/v1/socket", ports.shield),
        admin_url: format!("http://127.0.0.1:{}", ports.admin),
        ..Settings::default()
    };
    context.save()?;
    ready(&context, &stack, output)
}

fn ready(context: &Context, stack: &Stack, output: &Output) -> Result {
    let settings = &context.settings;
    let pages = stack.pages();
    if output.json {
        return output.object_line(&json!({
            "ready": true,
            "native": false,
            "profile": stack.profile,
            "shield_url": settings.shield_url,
            "admin_url": settings.admin_url,
            "nats": settings.nats,
            "nats_monitor": settings.nats_monitor,
            "pages": pages.iter().map(|(name, url)| ((*name).to_owned(), json!(url)))
                .collect::<serde_json::Map<_, _>>(),
            "folder": context.folder,
        }));
    }
    output.line(output.paint(Paint::Bold, "ArqonBus is up"))?;
    output.line("")?;
    let mut pairs = vec![
        ("  clients", settings.shield_url.clone()),
        ("  metrics", format!("{}/metrics", settings.admin_url)),
        ("  NATS", super::nats(settings)),
    ];
    pairs.extend(pages);
    pairs.push(("  folder", context.folder.display().to_string()));
    output.pairs(&pairs)?;
    output.line("")?;
    output.line("Try: arq sub lobby, arq pub lobby hello, arq status, arq dev open")?;
    output.line("`arq dev logs --follow` shows what the parts say, `arq dev down` stops them")
}

impl Stack {
    fn own_ports(&self) -> Ports {
        let [nats, shield, admin, brain, monitor] = self.ports;
        Ports {
            nats,
            shield,
            admin,
            brains: [0, 1, 2].map(|by| brain.saturating_add(by)),
            monitor,
        }
    }

    /// The pages for people that come with the profile.
    fn pages(&self) -> Vec<(&'static str, String)> {
        match self.profile {
            Profile::Core => Vec::new(),
            Profile::Full => vec![
                ("  Grafana", "http://127.0.0.1:3000".to_owned()),
                ("  Jaeger", "http://127.0.0.1:16686".to_owned()),
                ("  Prometheus", "http://127.0.0.1:9090".to_owned()),
            ],
        }
    }

    /// Stops and removes the containers; what they keep stays. True where there were any.
    pub(super) fn down(&self) -> Result<bool> {
        engine()?;
        let any = !services(self)?.is_empty();
        run(
            self.everything().args(["down", "--remove-orphans"]),
            "stop the stack",
        )?;
        Ok(any)
    }

    /// Removes the containers and all they keep.
    pub(super) fn reset(&self) -> Result {
        engine()?;
        run(
            self.everything()
                .args(["down", "--volumes", "--remove-orphans"]),
            "remove the stack",
        )
    }

    /// Restarts services, or all that run, and waits until they are ready.
    pub(super) fn restart(&self, parts: &[String]) -> Result<Vec<String>> {
        engine()?;
        let running: Vec<String> = services(self)?
            .into_iter()
            .filter(|service| service.state == "running")
            .map(|service| service.service)
            .collect();
        if running.is_empty() {
            return Err(Failure::new("the stack does not run").hint("`arq dev up` starts it"));
        }
        let chosen = if parts.is_empty() { &running } else { parts };
        super::known(chosen, &running)?;
        run(
            self.everything().arg("restart").args(chosen),
            "restart the stack",
        )?;
        run(
            self.compose(&[self.profile.name()])
                .args(["up", "--detach", "--wait", "--no-recreate"])
                .stderr(Stdio::null()),
            "see the stack ready again",
        )
        .hint("`arq dev logs` shows what the parts say")?;
        Ok(chosen.to_vec())
    }

    /// Shows what the containers have said, as `arq dev logs` does without Docker.
    pub(super) fn logs(
        &self,
        parts: &[String],
        follow: bool,
        lines: Option<usize>,
        output: &Output,
    ) -> Result {
        engine()?;
        let all: Vec<String> = services(self)?
            .into_iter()
            .map(|service| service.service)
            .collect();
        super::known(parts, &all)?;
        let mut logs = self.everything();
        logs.args(["logs", "--no-color"]);
        if follow {
            logs.arg("--follow");
        }
        if let Some(lines) = lines {
            logs.args(["--tail", &lines.to_string()]);
        }
        let mut child = logs
            .args(parts)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .doing("cannot run docker")?;
        let width = all.iter().map(String::len).max().unwrap_or(0);
        for line in child
            .stdout
            .take()
            .map(BufReader::new)
            .into_iter()
            .flat_map(BufRead::lines)
        {
            let line = line.doing("cannot read what Docker says")?;
            let (part, text) = log_line(&line);
            super::logs::show(part, width, text, output)?;
        }
        let status = child.wait().doing("cannot run docker")?;
        if status.success() {
            Ok(())
        } else {
            Err(refused("show the logs", status, &[]))
        }
    }

    /// Tells which containers run and how they are. Fails where none does.
    pub(super) fn status(&self, context: &Context, output: &Output) -> Result {
        engine()?;
        let services = services(self)?;
        let running = services.iter().any(|service| service.state == "running");
        let settings = &context.settings;
        if output.json {
            output.object(&json!({
                "running": running,
                "native": false,
                "profile": self.profile,
                "parts": services.iter().map(|service| json!({
                    "name": service.service,
                    "state": service.state,
                    "health": service.health,
                    "exit_code": service.exit_code,
                    "running": service.state == "running",
                })).collect::<Vec<_>>(),
                "shield_url": settings.shield_url,
                "admin_url": settings.admin_url,
                "nats": settings.nats,
                "nats_monitor": settings.nats_monitor,
                "folder": context.folder,
            }))?;
            return if running {
                Ok(())
            } else {
                Err(Failure::told(crate::failure::Exit::Failed))
            };
        }
        if !running {
            return Err(Failure::new("the stack does not run").hint("`arq dev up` starts it"));
        }
        let rows = services
            .iter()
            .map(|service| {
                let word = service.words();
                let paint = match word.as_str() {
                    "healthy" | "running" | "done" => Paint::Green,
                    "starting" => Paint::Yellow,
                    _ => Paint::Red,
                };
                vec![service.service.clone(), output.paint(paint, &word)]
            })
            .collect();
        output.table(&["part", "state"], rows, "")?;
        output.line("")?;
        let mut pairs = vec![
            ("clients", settings.shield_url.clone()),
            ("metrics", format!("{}/metrics", settings.admin_url)),
            ("NATS", super::nats(settings)),
        ];
        pairs.extend(
            self.pages()
                .into_iter()
                .map(|(name, url)| (name.trim_start(), url)),
        );
        pairs.push(("folder", context.folder.display().to_string()));
        output.pairs(&pairs)
    }
}

/// The Compose file of the tree that one stands in, or that this program was built in.
fn find_file() -> Result<PathBuf> {
    let ours = |folder: &Path| {
        let file = folder.join("compose.yaml");
        let text = std::fs::read_to_string(&file).ok()?;
        text.lines()
            .any(|line| line.trim_end() == PROJECT)
            .then_some(file)
    };
    let here = std::env::current_dir().doing("cannot tell the current folder")?;
    let me = std::env::current_exe().unwrap_or_default();
    here.ancestors()
        .filter_map(ours)
        // It says what is run: another user's, come upon below /tmp, is not taken.
        .find(|file| is_own(file))
        .or_else(|| me.ancestors().find_map(ours))
        .ok_or_else(|| {
            Failure::new("there is no compose.yaml of ArqonBus here or above")
                .hint("run this in a checkout of ArqonBus, or take `arq dev up --native`")
        })
}
