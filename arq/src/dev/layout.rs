//! What stands in `.arqon` for development: made on first use, left alone after.

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
const POOL: &str = "default";

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

    let pool = NodeId::parse(POOL)?;
    state.ensure_fleet_key(&pool)?;
    let creds = state.creds(Role::Shield, &NodeId::parse(SHIELD)?)?;
    let fleet_key = state.fleet_key_path(&pool);
    let servers = format!("[{}]", quoted(&context.settings.nats[0]));
    let file = context.manifest_file();
    write_manifest(
        &file,
        manifest::Role::Shield,
        &[
            ("node.id", &quoted(SHIELD)),
            (
                "spine.control_creds_file",
                &quoted(&relative(context, creds)),
            ),
            (
                "spine.fleet_key_file",
                &quoted(&relative(context, fleet_key)),
            ),
            ("tokens.allow_development", "true"),
            // Who presses Ctrl-C does not want to wait for clients that do not listen.
            ("drain.timeout_secs", "4"),
            ("drain.spread_secs", "0"),
        ],
        &[
            ("listen", "public", local(ports.shield)),
            ("listen", "admin", local(ports.admin)),
            ("spine", "servers", servers.clone()),
        ],
        telemetry,
    )?;
    // Before anything starts: Shield would say the same, later and among other lines.
    Manifest::load(&file).map_err(bad_manifest)?;
    for (id, port) in BRAINS.into_iter().zip(ports.brains).take(brains) {
        let node = NodeId::parse(id)?;
        let control = state.creds(Role::ControlBrain, &node)?;
        let presence = state.creds(Role::Brain, &node)?;
        let file = brain_manifest(context, id);
        let mut set = vec![
            ("brain", "listen", local(port)),
            ("spine", "servers", servers.clone()),
        ];
        // One Brain tells of the server; more would tell the same.
        if id == BRAINS[0] {
            let monitors = format!("[{}]", quoted(&monitor));
            set.push(("telemetry", "nats_monitors", monitors));
        }
        write_manifest(
            &file,
            manifest::Role::Brain,
            &[
                ("node.id", &quoted(id)),
                (
                    "spine.control_creds_file",
                    &quoted(&relative(context, control)),
                ),
                ("brain.creds_file", &quoted(&relative(context, presence))),
            ],
            &set,
            telemetry,
        )?;
        BrainManifest::load(&file).map_err(bad_manifest)?;
    }
    Ok(first)
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
        text = set_key(&text, section, key, value);
    }
    for (key, value) in telemetry.keys() {
        text = match value {
            Some(value) => set_key(&text, "telemetry", key, &value),
            None => unset_key(&text, "telemetry", key),
        };
    }
    std::fs::write(file, text).doing(format!("cannot write {}", file.display()))
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
    if !done.exists() {
        let pool = NodeId::parse(POOL)?;
        admin
            .bootstrap(1, &pool)
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

/// A path as the manifest writes it: from its own folder where it lies below it.
fn relative(context: &Context, path: PathBuf) -> String {
    path.strip_prefix(&context.folder)
        .unwrap_or(&path)
        .display()
        .to_string()
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Sets one key of a TOML text and leaves every other line as it is.
fn set_key(text: &str, section: &str, key: &str, value: &str) -> String {
    let wanted = format!("{key} = {value}");
    let header = format!("[{section}]");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let Some((start, end)) = find_section(&lines, &header) else {
        return format!("{}\n\n{header}\n{wanted}\n", text.trim_end());
    };
    let set = (start..end)
        .find(|&at| names_key(&lines[at], key) && !lines[at].trim_start().starts_with('#'));
    let shown = (start..end).find(|&at| names_key(&lines[at], key));
    match set.or(shown) {
        Some(at) => lines[at] = wanted,
        None => lines.insert(start, wanted),
    }
    lines.join("\n") + "\n"
}

/// Makes a comment of one key of a TOML text, where it is set.
fn unset_key(text: &str, section: &str, key: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some((start, end)) = find_section(&lines, &format!("[{section}]")) {
        for line in &mut lines[start..end] {
            if names_key(line, key) && !line.trim_start().starts_with('#') {
                line.insert_str(0, "# ");
            }
        }
    }
    lines.join("\n") + "\n"
}

/// The lines of a section, without its header.
fn find_section(lines: &[String], header: &str) -> Option<(usize, usize)> {
    let start = lines.iter().position(|line| line.trim() == header)? + 1;
    let end = lines[start..]
        .iter()
        .position(|line| line.trim_start().starts_with('['))
        .map_or(lines.len(), |offset| start + offset);
    Some((start, end))
}

/// Whether a line sets a key, or shows it as a comment.
fn names_key(line: &str, key: &str) -> bool {
    line.split_once('=')
        .is_some_and(|(name, _)| name.trim().trim_start_matches('#').trim() == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_set_and_the_rest_stays() {
        let text =
            "# top\n[listen]\n# public = \"a\"\nadmin = \"b\"\n\n[spine]\n# public = \"x\"\n";
        let once = set_key(text, "listen", "public", "\"c\"");
        assert_eq!(
            once,
            "# top\n[listen]\npublic = \"c\"\nadmin = \"b\"\n\n[spine]\n# public = \"x\"\n"
        );
        assert_eq!(set_key(&once, "listen", "public", "\"c\""), once);
        assert_eq!(set_key("[a]\n", "a", "k", "1"), "[a]\nk = 1\n");
        assert_eq!(set_key("[a]\n", "b", "k", "1"), "[a]\n\n[b]\nk = 1\n");
    }

    #[test]
    fn a_key_becomes_a_comment_and_comes_back() {
        let text = "[a]\nk = 1\n\n[b]\nk = 2\n";
        let off = unset_key(text, "a", "k");
        assert_eq!(off, "[a]\n# k = 1\n\n[b]\nk = 2\n");
        assert_eq!(unset_key(&off, "a", "k"), off);
        assert_eq!(unset_key(&off, "c", "k"), off);
        assert_eq!(set_key(&off, "a", "k", "1"), text);
    }
}
