//! `arq dev init`: what the parts of an ArqonBus in containers read, each in a folder of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use arqon_proto::names::NodeId;
use arqon_spine::server_config::{self, ClusterParams, ServerParams};
use arqon_spine::state::StateFolder;
use clap::Args;
use serde_json::json;

use super::layout::{self, Node, Secrets, quoted};
use super::telemetry::TelemetryOptions;
use crate::Globals;
use crate::context::{Context, create_folder, write_private};
use crate::failure::{Failure, Result};

/// Where a NATS server finds its folder of `--parts` mounted.
const NATS_HOME: &str = "/var/lib/nats";
/// Ports within the containers' network.
const NATS: u16 = 4222;
const CLUSTER: u16 = 6222;
const MONITOR: u16 = 8222;
const SHIELD: u16 = 8080;
const ADMIN: u16 = 8081;
const BRAIN: u16 = 8082;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where each part has a folder, by its host name, for what it reads
    #[arg(long, value_name = "DIR", required_unless_present = "tenants")]
    parts: Option<PathBuf>,
    /// Host name of a NATS server, repeatable: three make a cluster
    #[arg(long, value_name = "HOST", value_parser = NodeId::parse, required_unless_present = "tenants")]
    nats: Vec<NodeId>,
    /// Host name of a Shield, which is its id too; repeatable
    #[arg(long, value_name = "HOST", value_parser = NodeId::parse, required_unless_present = "tenants")]
    shield: Vec<NodeId>,
    /// Host name of a Brain, which is its id too; repeatable
    #[arg(long, value_name = "HOST", value_parser = NodeId::parse)]
    brain: Vec<NodeId>,
    /// Where clients connect, if it is not the first Shield
    #[arg(long, value_name = "HOST", value_parser = NodeId::parse)]
    entry: Option<NodeId>,
    /// Make the pool and the tenants instead, over the running NATS
    #[arg(long, conflicts_with_all = ["parts", "nats", "shield", "brain", "entry"])]
    tenants: bool,
    #[command(flatten)]
    telemetry: TelemetryOptions,
}

/// Does what was asked.
pub(super) fn run(mut context: Context, args: &InitArgs, globals: &Globals) -> Result {
    let output = &globals.output;
    if args.tenants {
        let tenants = globals.wait(Box::pin(layout::furnish(&context, output)))?;
        if output.json {
            return output.object(&json!({"tenants": tenants}));
        }
        output.note(format!("tenants: {}", tenants.join(", ")));
        return Ok(());
    }
    let Some(parts) = &args.parts else {
        return Err(Failure::usage("--parts is missing"));
    };
    files(&mut context, args, parts)?;
    if output.json {
        return output.object(&json!({"folder": context.folder, "parts": parts}));
    }
    output.note(format!(
        "keys in {}, what each part reads in {}",
        context.folder.display(),
        parts.display()
    ));
    Ok(())
}

/// Makes what is missing, and writes anew what follows from the arguments.
fn files(context: &mut Context, args: &InitArgs, parts: &Path) -> Result {
    create_folder(&context.folder)?;
    let state = StateFolder::create(context.spine_folder())?;
    state.ensure_fleet_key(&NodeId::parse(layout::POOL)?)?;
    settings(context, args)?;

    for host in &args.nats {
        let folder = parts.join(host.as_str());
        create_folder(&folder)?;
        let text = server_config::render(&state, &server(host, &args.nats))?;
        write_private(&folder.join("nats.conf"), text.as_bytes())?;
    }
    let node = |id| -> Result<Node<'_>> {
        let folder = parts.join(NodeId::as_str(id));
        create_folder(&folder)?;
        Ok(Node {
            id,
            file: folder.join("config.toml"),
            secrets: Secrets::Copied,
            servers: &context.settings.nats,
            telemetry: &args.telemetry,
        })
    };
    for id in &args.shield {
        let listen = (everywhere(SHIELD), everywhere(ADMIN));
        layout::write_shield(&state, &node(id)?, listen, args.shield.len() == 1)?;
    }
    let monitors: Vec<String> = args.nats.iter().map(|host| http(host, MONITOR)).collect();
    for (index, id) in args.brain.iter().enumerate() {
        // One Brain tells of the servers; more would tell the same.
        let monitors = (index == 0).then_some(monitors.as_slice());
        layout::write_brain(&state, &node(id)?, everywhere(BRAIN), monitors)?;
    }
    Ok(())
}

/// Writes where commands within the containers' network find everything.
fn settings(context: &mut Context, args: &InitArgs) -> Result {
    let settings = &mut context.settings;
    settings.nats = args
        .nats
        .iter()
        .map(|host| format!("nats://{host}:{NATS}"))
        .collect();
    settings.nats_monitor = args.nats.first().map(|host| http(host, MONITOR));
    if let Some(shield) = args.shield.first() {
        let entry = args.entry.as_ref().unwrap_or(shield);
        settings.shield_url = format!("ws://{entry}:{SHIELD}/v1/socket");
        settings.admin_url = http(shield, ADMIN);
    }
    context.save()
}

/// One of the NATS servers, as its container sees itself.
fn server(host: &NodeId, all: &[NodeId]) -> ServerParams {
    let mut params = ServerParams::single(format!("{NATS_HOME}/data"));
    params.name = host.to_string();
    params.listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, NATS));
    params.http = Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, MONITOR)));
    params.cluster = (all.len() > 1).then(|| ClusterParams {
        name: "arqon".to_owned(),
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, CLUSTER)),
        routes: all
            .iter()
            .map(|other| format!("{other}:{CLUSTER}"))
            .collect(),
        advertise: None,
    });
    params
}

fn everywhere(port: u16) -> String {
    quoted(&format!("0.0.0.0:{port}"))
}

fn http(host: &NodeId, port: u16) -> String {
    format!("http://{host}:{port}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        init: InitArgs,
    }

    const ONE: &str = "--nats nats --shield shield --brain brain";

    /// Every file under the folder, by its path there.
    fn made(folder: &Path, words: &str) -> BTreeMap<String, String> {
        let parts = folder.join("parts");
        let words = format!("init --parts {} {words}", parts.display());
        let args = Cli::try_parse_from(words.split(' ')).unwrap().init;
        let mut context = Context::at(&folder.join(".arqon")).unwrap();
        files(&mut context, &args, &parts).unwrap();
        let mut found = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.insert(name, std::fs::read_to_string(path).unwrap());
                }
            }
        }
        found
    }

    fn names<'a>(files: &'a BTreeMap<String, String>, part: &str) -> Vec<&'a str> {
        let within = format!("parts/{part}/");
        files
            .keys()
            .filter_map(|name| name.strip_prefix(&within))
            .collect()
    }

    #[test]
    fn each_part_gets_its_own_secrets_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let files = made(folder.path(), ONE);
        assert_eq!(names(&files, "nats"), ["nats.conf"]);
        assert_eq!(
            names(&files, "shield"),
            ["config.toml", "control.creds", "fleet.nk"]
        );
        assert_eq!(
            names(&files, "brain"),
            ["config.toml", "control.creds", "presence.creds"]
        );
        let fleet = &files["parts/shield/fleet.nk"];
        assert_eq!(fleet, &files[".arqon/spine/pools/default/fleet.nk"]);
        for (name, text) in &files {
            let seed = text
                .split(|c: char| !c.is_ascii_alphanumeric())
                .find(|word| word.starts_with('S') && word.len() == 58);
            let may = name.starts_with(".arqon/spine/")
                || name.ends_with(".creds")
                || name == "parts/shield/fleet.nk";
            assert!(may || seed.is_none(), "{name} holds a seed");
        }
        assert!(files[".arqon/context.toml"].contains("nats://nats:4222"));
        assert!(files["parts/shield/config.toml"].contains("\"0.0.0.0:8080\""));
        assert!(files["parts/shield/config.toml"].contains("\njson = true"));
    }

    #[test]
    fn a_second_time_changes_no_key_and_no_edit() {
        let folder = tempfile::tempdir().unwrap();
        let first = made(folder.path(), ONE);
        let manifest = folder.path().join("parts/shield/config.toml");
        let edited =
            first["parts/shield/config.toml"].replace("# max_rooms = 100", "max_rooms = 7");
        assert!(edited.contains("max_rooms = 7"));
        std::fs::write(&manifest, &edited).unwrap();
        // What a crash may have left out.
        std::fs::remove_file(folder.path().join("parts/shield/fleet.nk")).unwrap();
        std::fs::remove_file(folder.path().join("parts/brain/config.toml")).unwrap();
        let second = made(folder.path(), ONE);
        assert_eq!(second["parts/shield/config.toml"], edited);
        for (name, text) in &first {
            // nats.conf holds JWTs, which say when they were made.
            if name != "parts/shield/config.toml" && name != "parts/nats/nats.conf" {
                assert_eq!(text, &second[name], "{name}");
            }
        }
    }

    #[test]
    fn three_servers_are_a_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let files = made(
            folder.path(),
            "--nats a --nats b --nats c --shield s1 --shield s2 --brain b1 --brain b2 --entry proxy",
        );
        let config = &files["parts/b/nats.conf"];
        assert!(config.contains("server_name: b\n"));
        for route in ["a", "b", "c"] {
            assert!(config.contains(&format!("nats-route://{route}:6222")));
        }
        assert!(files[".arqon/context.toml"].contains("ws://proxy:8080/v1/socket"));
        let (first, second) = (
            &files["parts/s1/control.creds"],
            &files["parts/s2/control.creds"],
        );
        assert_ne!(first, second);
        assert_eq!(files["parts/s1/fleet.nk"], files["parts/s2/fleet.nk"]);
        assert!(files["parts/b1/config.toml"].contains("\nnats_monitors = [\"http://a:8222\""));
        assert!(!files["parts/b2/config.toml"].contains("\nnats_monitors"));
    }
}
