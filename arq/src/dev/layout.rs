//! What stands in `.arqon` for development: made on first use, left alone after.
//!
//! `arq dev up --native` and the containers of Compose (`arq dev init`) are made by the same
//! functions; they differ in addresses, and in where each part finds its secrets.

mod keys;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use arqon_proto::names::{NodeId, TenantId};
use arqon_proto::v1::{Issuer, PemKey, PemKeys, TenantLimits, issuer};
use arqon_spine::admin::{Admin, CreateTenant};
use arqon_spine::manifest::{self, BrainManifest, Manifest};
use arqon_spine::server_config::{self, ServerParams};
use arqon_spine::state::{Role, StateFolder};

use super::ports::{MAX_BRAINS, Ports, port_of};
use super::telemetry::TelemetryOptions;
use crate::auth::DevelopmentKey;
use crate::context::{Context, create_folder, write_private};
use crate::failure::{Doing, Exit, Failure, Result};
use crate::output::Output;

/// The tenants that stand in a development ArqonBus from the start.
const DEVELOPMENT_TENANTS: [&str; 2] = ["acme", "globex"];

/// The id of the one Shield.
const SHIELD: &str = "shield-1";
/// The ids of the Brains.
pub(super) const BRAINS: [&str; MAX_BRAINS] = ["brain-1", "brain-2", "brain-3"];
/// The pool it serves.
pub(super) const POOL: &str = "default";

/// The ports in force: Shield's from its manifest, which may have been edited, NATS's from the
/// context.
pub(super) fn ports(context: &Context) -> Ports {
    let settings = &context.settings;
    let shield = read_manifest(&context.manifest_file());
    let listen = |key: &str| written_port(shield.as_ref()?, "listen", key);
    let mut brains = [8082, 8083, 8084];
    for (port, id) in brains.iter_mut().zip(BRAINS) {
        let written = read_manifest(&brain_manifest(context, id));
        *port = written
            .and_then(|table| written_port(&table, "brain", "listen"))
            .unwrap_or(*port);
    }
    Ports {
        nats: settings
            .nats
            .first()
            .and_then(|url| port_of(url))
            .unwrap_or(4222),
        shield: listen("public")
            .or_else(|| port_of(&settings.shield_url))
            .unwrap_or(8080),
        admin: listen("admin")
            .or_else(|| port_of(&settings.admin_url))
            .unwrap_or(8081),
        brains,
        monitor: settings
            .nats_monitor
            .as_deref()
            .and_then(port_of)
            .unwrap_or(8222),
    }
}

fn read_manifest(file: &Path) -> Option<toml::Table> {
    std::fs::read_to_string(file).ok()?.parse().ok()
}

fn written_port(manifest: &toml::Table, section: &str, key: &str) -> Option<u16> {
    let address = manifest.get(section)?.get(key)?.as_str()?;
    address
        .parse::<SocketAddr>()
        .ok()
        .map(|address| address.port())
}

/// The manifest of a Brain.
pub(super) fn brain_manifest(context: &Context, id: &str) -> PathBuf {
    context.folder.join(format!("{id}.toml"))
}

/// The NATS server's configuration.
pub(super) fn nats_config(context: &Context) -> PathBuf {
    context.nats_folder().join("nats.conf")
}

/// What arqon-shield is given.
pub(super) fn shield_arguments(context: &Context) -> Vec<String> {
    vec![
        "--config".to_owned(),
        context.manifest_file().display().to_string(),
    ]
}

/// Makes keys and configuration files. True where this is the first use.
pub(super) fn prepare(
    context: &mut Context,
    ports: Ports,
    brains: usize,
    telemetry: &TelemetryOptions,
    output: &Output,
) -> Result<bool> {
    let first = !context.spine_folder().is_dir();
    create_folder(&context.folder)?;
    if first {
        output.note(format!(
            "making {}: keys, configuration, two tenants",
            context.folder.display()
        ));
    }
    let state = StateFolder::create(context.spine_folder())?;
    let monitor = format!("http://127.0.0.1:{}", ports.monitor);
    context.settings.nats = vec![format!("nats://127.0.0.1:{}", ports.nats)];
    context.settings.nats_monitor = Some(monitor.clone());
    context.settings.shield_url = format!("ws://127.0.0.1:{}/v1/socket", ports.shield);
    context.settings.admin_url = format!("http://127.0.0.1:{}", ports.admin);
    context.save()?;
    write_nats_config(context, &state, ports)?;
    state.ensure_fleet_key(&NodeId::parse(POOL)?)?;
    let servers = &context.settings.nats;
    write_shield(
        &state,
        &Node {
            id: &NodeId::parse(SHIELD)?,
            file: context.manifest_file(),
            secrets: Secrets::InPlace,
            servers,
            telemetry,
        },
        (local(ports.shield), local(ports.admin)),
        true,
    )?;
    for (id, port) in BRAINS.into_iter().zip(ports.brains).take(brains) {
        // One Brain tells of the server; more would tell the same.
        let monitors = (id == BRAINS[0]).then(|| vec![monitor.clone()]);
        write_brain(
            &state,
            &Node {
                id: &NodeId::parse(id)?,
                file: brain_manifest(context, id),
                secrets: Secrets::InPlace,
                servers,
                telemetry,
            },
            local(port),
            monitors.as_deref(),
        )?;
    }
    Ok(first)
}

/// A Shield or a Brain: who it is, what it reads, and whom it speaks to.
pub(super) struct Node<'a> {
    pub(super) id: &'a NodeId,
    /// Its manifest.
    pub(super) file: PathBuf,
    pub(super) secrets: Secrets,
    /// NATS.
    pub(super) servers: &'a [String],
    pub(super) telemetry: &'a TelemetryOptions,
}

/// Where a manifest finds the secrets that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    /// Where the state folder has them.
    InPlace,
    /// Beside the manifest, which is all that its service sees.
    Copied,
}

impl Node<'_> {
    /// Makes a secret reachable from the manifest, and gives the name it has there, quoted.
    fn secret(&self, source: &Path, name: &str) -> Result<String> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        if self.secrets == Secrets::InPlace {
            let path = source.strip_prefix(folder).unwrap_or(source);
            return Ok(quoted(&path.display().to_string()));
        }
        let content = std::fs::read(source).doing(format!("cannot read {}", source.display()))?;
        write_private(&folder.join(name), &content)?;
        Ok(quoted(name))
    }

    fn servers(&self) -> String {
        list(self.servers)
    }
}

/// Makes the manifest of a Shield, and its credentials where there are none. `alone`: its clients
/// have no other to go to, so it does not spread them when it stops.
pub(super) fn write_shield(
    state: &StateFolder,
    node: &Node<'_>,
    (public, admin): (String, String),
    alone: bool,
) -> Result {
    let creds = state.creds(Role::Shield, node.id)?;
    let fleet_key = state.fleet_key_path(&NodeId::parse(POOL)?);
    let id = quoted(node.id.as_str());
    let creds = node.secret(&creds, "control.creds")?;
    let fleet_key = node.secret(&fleet_key, "fleet.nk")?;
    let mut first = vec![
        ("node.id", id.as_str()),
        ("spine.control_creds_file", &creds),
        ("spine.fleet_key_file", &fleet_key),
        ("tokens.allow_development", "true"),
        (
            "session.json",
            "true  # wscat and browsers' consoles; leave it out in production",
        ),
    ];
    if alone {
        // Who presses Ctrl-C does not want to wait for clients that do not listen.
        first.extend([("drain.timeout_secs", "4"), ("drain.spread_secs", "0")]);
    }
    write_manifest(
        &node.file,
        manifest::Role::Shield,
        &first,
        &[
            ("listen", "public", public),
            ("listen", "admin", admin),
            ("spine", "servers", node.servers()),
        ],
        node.telemetry,
    )?;
    // Before anything starts: Shield would say the same, later and among other lines.
    Manifest::load(&node.file).map_err(bad_manifest)?;
    Ok(())
}

/// Makes the manifest of a Brain, and its credentials where there are none.
pub(super) fn write_brain(
    state: &StateFolder,
    node: &Node<'_>,
    listen: String,
    monitors: Option<&[String]>,
) -> Result {
    let id = quoted(node.id.as_str());
    let control = state.creds(Role::ControlBrain, node.id)?;
    let presence = state.creds(Role::Brain, node.id)?;
    let control = node.secret(&control, "control.creds")?;
    let presence = node.secret(&presence, "presence.creds")?;
    let mut set = vec![
        ("brain", "listen", listen),
        ("spine", "servers", node.servers()),
    ];
    if let Some(monitors) = monitors {
        set.push(("telemetry", "nats_monitors", list(monitors)));
    }
    write_manifest(
        &node.file,
        manifest::Role::Brain,
        &[
            ("node.id", &id),
            ("spine.control_creds_file", &control),
            ("brain.creds_file", &presence),
        ],
        &set,
        node.telemetry,
    )?;
    BrainManifest::load(&node.file).map_err(bad_manifest)?;
    Ok(())
}

fn bad_manifest(error: manifest::ManifestError) -> Failure {
    Failure {
        exit: Exit::BadManifest,
        ..error.into()
    }
}

fn local(port: u16) -> String {
    quoted(&format!("127.0.0.1:{port}"))
}

/// Makes a manifest where there is none, and sets in it what depends on the ports and on what was
/// asked for.
fn write_manifest(
    file: &Path,
    role: manifest::Role,
    first: &[(&str, &str)],
    set: &[(&str, &str, String)],
    telemetry: &TelemetryOptions,
) -> Result {
    let mut text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            manifest::template(role, first)
        }
        Err(error) => return Err(error).doing(format!("cannot read {}", file.display())),
    };
    for (section, key, value) in set {
        text = keys::set_key(&text, section, key, value);
    }
    for (key, value) in telemetry.keys() {
        text = match value {
            Some(value) => keys::set_key(&text, "telemetry", key, &value),
            None => keys::unset_key(&text, "telemetry", key),
        };
    }
    write_private(file, text.as_bytes())
}

/// Writes the configuration of a single NATS server.
fn write_nats_config(context: &Context, state: &StateFolder, ports: Ports) -> Result<PathBuf> {
    let folder = context.nats_folder();
    create_folder(&folder)?;
    let mut params = ServerParams::single(folder.clone());
    params.listen = SocketAddr::from(([127, 0, 0, 1], ports.nats));
    params.http = Some(SocketAddr::from(([127, 0, 0, 1], ports.monitor)));
    let file = folder.join("nats.conf");
    write_private(&file, server_config::render(state, &params)?.as_bytes())?;
    Ok(file)
}

/// Makes the pool and the tenants over the running server, once. Gives all tenants.
pub(super) async fn furnish(context: &Context, output: &Output) -> Result<Vec<String>> {
    let state = context.spine_state()?;
    let until = Instant::now() + Duration::from_secs(15);
    let admin = loop {
        match Admin::connect(&state, &context.settings.nats).await {
            Ok(admin) => break admin,
            Err(error) if Instant::now() > until => return Err(error).doing("cannot reach NATS"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let done = context.dev_folder().join("furnished");
    // A tenant that was deleted stays away; a store that was lost is filled again.
    let lost = !matches!(admin.list_pools().await, Ok(pools) if !pools.is_empty());
    if lost || !done.exists() {
        let pool = NodeId::parse(POOL)?;
        // A cluster of three loses one and goes on.
        let replicas = if context.settings.nats.len() < 3 {
            1
        } else {
            3
        };
        admin
            .bootstrap(replicas, &pool)
            .await
            .doing("cannot make the pool `default`")?;
        let issuer = development_issuer(context, output)?;
        for id in DEVELOPMENT_TENANTS {
            let create = CreateTenant {
                id: TenantId::parse(id)?,
                pool: pool.clone(),
                issuers: vec![issuer.clone()],
                limits: TenantLimits::default(),
            };
            admin
                .create_tenant(create)
                .await
                .doing(format!("cannot make the tenant `{id}`"))?;
        }
        write_private(&done, b"")?;
    }
    // What the server holds may be older than the records, after a store was lost.
    let repaired = admin.reassert().await?.pushed;
    if !repaired.is_empty() {
        output.note(format!(
            "pushed the accounts of {} again",
            repaired.join(", ")
        ));
    }
    let tenants = admin.list().await?;
    admin.close().await;
    Ok(tenants.into_iter().map(|tenant| tenant.id).collect())
}

/// The issuer of tokens that `arq auth gen` signs.
pub(crate) fn development_issuer(context: &Context, output: &Output) -> Result<Issuer> {
    let key = DevelopmentKey::open(context, output)?;
    Ok(Issuer {
        iss: context.settings.issuer.clone(),
        audiences: vec![context.settings.audience.clone()],
        keys: Some(issuer::Keys::Pem(PemKeys {
            keys: vec![PemKey {
                kid: key.kid.clone(),
                pem: key.public_pem.clone(),
            }],
        })),
        development: true,
    })
}

/// Everything under the folder that `arq` made there.
pub(super) fn made_by_dev(context: &Context) -> Vec<PathBuf> {
    let folder = &context.folder;
    [
        "spine",
        "nats",
        "logs",
        "creds",
        "dev",
        "config.toml",
        "context.toml",
        "brain-1.toml",
        "brain-2.toml",
        "brain-3.toml",
    ]
    .iter()
    .map(|name| folder.join(name))
    .filter(|path| path.exists())
    .collect()
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", quoted.join(", "))
}
