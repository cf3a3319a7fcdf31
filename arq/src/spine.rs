//! `arq spine`: the Spine's keys, server configuration and service credentials.

use std::net::SocketAddr;
use std::path::PathBuf;

use arqon_proto::names::NodeId;
use arqon_spine::server_config::{self, ClusterParams, ServerParams};
use arqon_spine::state::{Role, StateFolder};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::Globals;
use crate::context::create_folder;
use crate::failure::{Doing, Failure, Result};

/// The Spine's keys, server configuration and service credentials
#[derive(Debug, Args)]
pub(crate) struct Spine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the state folder: operator, system accounts and their keys; what is there stays
    Init,
    /// Print the configuration of a NATS server
    ///
    /// The operator's public JWT and the accounts SYS, CONTROL and BRAIN stand in it, no private
    /// key. Tenants come later, over the running server.
    Config(ConfigArgs),
    /// Make the credentials file with which a service connects to its account
    Creds(CredsArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Where the server listens for clients
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4222")]
    listen: SocketAddr,
    /// Where it keeps accounts and JetStream data [default: the context's nats/]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// The server's name, unique in its cluster
    #[arg(long, value_name = "NAME", requires = "cluster_listen", value_parser = NodeId::parse)]
    name: Option<NodeId>,
    /// Where it listens for the other servers of its cluster
    #[arg(long, value_name = "ADDRESS", requires_all = ["name", "route"])]
    cluster_listen: Option<SocketAddr>,
    /// Another server of the cluster, repeatable
    #[arg(long, value_name = "HOST:PORT", requires = "cluster_listen")]
    route: Vec<String>,
    /// Write to a file instead of stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CredsArgs {
    /// The kind of service
    #[arg(value_enum)]
    service: Service,
    /// Its id, which must be the node.id of its manifest
    id: String,
    /// Copy the file to here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Service {
    /// A Shield on CONTROL: reads KV and objects, publishes only under its own id
    Shield,
    /// A Brain on CONTROL: publishes its beats, hears those of Shields
    Brain,
    /// A Brain in BRAIN: hears the presence of every tenant and answers
    Presence,
    /// Writes KV and orders
    Admin,
}

/// Does what was asked.
pub(crate) fn run(spine: Spine, globals: &Globals) -> Result {
    match spine.command {
        Command::Init => init(globals),
        Command::Config(args) => config(args, globals),
        Command::Creds(args) => creds(args, globals),
    }
}

fn init(globals: &Globals) -> Result {
    let context = globals.context()?;
    let folder = context.spine_folder();
    let existed = folder.is_dir();
    create_folder(&context.folder)?;
    let state = StateFolder::create(&folder)?;
    if !context.folder.join("context.toml").exists() {
        context.save()?;
    }
    if globals.output.json {
        return globals
            .output
            .object(&json!({"folder": state.path(), "existed": existed}));
    }
    if existed {
        globals.output.note(format!(
            "{} was there already; nothing was replaced",
            folder.display()
        ));
    } else {
        globals.output.note(format!("made {}", folder.display()));
        globals
            .output
            .note("it holds the keys of the whole platform: back it up, and keep it off the nodes");
    }
    Ok(())
}

fn config(args: ConfigArgs, globals: &Globals) -> Result {
    let context = globals.context()?;
    let state = context.spine_state()?;
    let store = args.store.unwrap_or_else(|| context.nats_folder());
    let mut params = ServerParams::single(store);
    params.listen = args.listen;
    if let (Some(name), Some(listen)) = (args.name, args.cluster_listen) {
        params.name = name.to_string();
        params.cluster = Some(ClusterParams {
            name: "arqon".to_owned(),
            listen,
            routes: args.route,
            advertise: None,
        });
    }
    let text = server_config::render(&state, &params)?;
    if globals.output.json {
        return globals.output.object(&json!({"config": text}));
    }
    match args.out {
        None => globals.output.line(text.trim_end()),
        Some(file) => {
            crate::context::write(&file, text.as_bytes())?;
            globals.output.note(format!(
                "wrote {}; start it with `nats-server -c {0}`",
                file.display()
            ));
            Ok(())
        }
    }
}

fn creds(args: CredsArgs, globals: &Globals) -> Result {
    let context = globals.context()?;
    let state = context.spine_state()?;
    let id = NodeId::parse(&args.id).map_err(|error| {
        Failure::usage(format!("`{}` is no node id: {error}", args.id))
            .hint("write for instance shield-1")
    })?;
    let role = match args.service {
        Service::Shield => Role::Shield,
        Service::Brain => Role::ControlBrain,
        Service::Presence => Role::Brain,
        Service::Admin => Role::Admin,
    };
    let mut file = state.creds(role, &id)?;
    if let Some(out) = args.out {
        let content = std::fs::read(&file).doing(format!("cannot read {}", file.display()))?;
        crate::context::write_private(&out, &content)?;
        file = out;
    }
    if globals.output.json {
        return globals.output.object(&json!({"file": file}));
    }
    globals.output.line(file.display().to_string())
}
