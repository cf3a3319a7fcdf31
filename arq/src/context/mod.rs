//! Which ArqonBus a command speaks to: a folder with a `context.toml`, the nearest `.arqon` or one
//! that has a name.

mod command;
mod registry;

use std::path::{Path, PathBuf};

use arqon_spine::files;
pub(crate) use command::{ContextArgs, run};
use registry::Registry;

use serde::{Deserialize, Serialize};

use crate::failure::{Doing, Failure, Result};

/// The name of the folder that is looked for from the current one upward.
const FOLDER: &str = ".arqon";
/// The file of a context's settings.
const FILE: &str = "context.toml";

/// `context.toml`: where this ArqonBus is reached, and what commands take by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// NATS servers.
    pub(crate) nats: Vec<String>,
    /// The NATS server's monitoring endpoint, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nats_monitor: Option<String>,
    /// Where clients connect to Shield.
    pub(crate) shield_url: String,
    /// Shield's admin listener.
    pub(crate) admin_url: String,
    /// The tenant where a command names none.
    pub(crate) default_tenant: String,
    /// The user of tokens where a command names none.
    pub(crate) default_user: String,
    /// `aud` of the tokens `arq auth gen` makes.
    pub(crate) audience: String,
    /// `iss` of the tokens `arq auth gen` makes.
    pub(crate) issuer: String,
    /// PEM file of the authority that signed Shield's certificate, for `wss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// File with the token of sessions, where none is signed with a development key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nats: vec!["nats://127.0.0.1:4222".to_owned()],
            nats_monitor: None,
            shield_url: "ws://127.0.0.1:8080/v1/socket".to_owned(),
            admin_url: "http://127.0.0.1:8081".to_owned(),
            default_tenant: "acme".to_owned(),
            default_user: "dev".to_owned(),
            audience: "arqon".to_owned(),
            issuer: "arqon-development".to_owned(),
            ca_file: None,
            token_file: None,
        }
    }
}

/// The name of whatever `.arqon` is nearest, as `arq context use` takes it.
pub(crate) const LOCAL: &str = "local";

/// How a context is chosen: by its folder, by its name, or neither.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice {
    /// `--state`.
    pub(crate) state: Option<PathBuf>,
    /// `--context`.
    pub(crate) name: Option<String>,
}

/// A folder with what stands in it.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Its name, where it was chosen by one.
    pub(crate) name: Option<String>,
    /// The folder itself.
    pub(crate) folder: PathBuf,
    /// The settings read from it.
    pub(crate) settings: Settings,
    /// Whether it is merely the nearest one, and nobody named it: it may have come with a
    /// repository that was cloned.
    found: bool,
}

impl Context {
    /// The context chosen; else the one in use; else the nearest `.arqon`.
    pub(crate) fn load(choice: &Choice) -> Result<Self> {
        if choice.state.is_some() {
            return Self::local(choice);
        }
        let registry = Registry::read()?;
        match choice.name.as_deref().or(registry.current()) {
            None | Some(LOCAL) => Self::local(&Choice::default()),
            Some(name) => Self::read(Some(name.to_owned()), registry.folder(name)?),
        }
    }

    /// The folder of `--state`, or the nearest `.arqon` upward, or the one to be made here; what a
    /// development ArqonBus is, whatever context is in use.
    pub(crate) fn local(choice: &Choice) -> Result<Self> {
        if let Some(name) = choice.name.as_deref().filter(|name| *name != LOCAL) {
            return Err(Failure::usage(format!(
                "this command is for an ArqonBus of this machine, and not for the context `{name}`"
            ))
            .hint("--state DIR names another folder"));
        }
        if let Some(state) = &choice.state {
            return Self::read(None, std::path::absolute(state)?);
        }
        let here = std::env::current_dir().doing("cannot tell the current folder")?;
        let found = here
            .ancestors()
            .map(|folder| folder.join(FOLDER))
            .find(|folder| folder.is_dir());
        if let Some(folder) = &found
            && !is_own(folder)
        {
            return Err(Failure::new(format!(
                "{} is of another user, whose settings and keys would be taken",
                folder.display()
            ))
            .hint("`--state DIR` takes it all the same, or names another folder"));
        }
        let context = Self::read(None, found.unwrap_or_else(|| here.join(FOLDER)))?;
        Ok(Self {
            found: true,
            ..context
        })
    }

    /// Reads a folder; without it or its file, the defaults.
    fn read(name: Option<String>, folder: PathBuf) -> Result<Self> {
        let file = folder.join(FILE);
        let settings = match std::fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                Failure::new(format!(
                    "{} does not hold: {}",
                    file.display(),
                    error.message()
                ))
                .hint("mend the file, or delete it to go back to the defaults")
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Settings::default(),
            Err(error) => return Err(error).doing(format!("cannot read {}", file.display())),
        };
        Ok(Self {
            name,
            folder,
            settings,
            found: false,
        })
    }

    /// What stands in this folder.
    #[cfg(test)]
    pub(crate) fn at(folder: &Path) -> Result<Self> {
        Self::read(None, folder.to_owned())
    }

    /// Where a question or an error is about, for people.
    pub(crate) fn place(&self) -> String {
        match &self.name {
            Some(name) => format!("context {name}"),
            None => self.folder.display().to_string(),
        }
    }

    /// Writes `context.toml`.
    pub(crate) fn save(&self) -> Result {
        let body = toml::to_string(&self.settings)?;
        let text = format!(
            "# Where arq finds this ArqonBus, and what its commands take by default.\n{body}"
        );
        let file = self.folder.join(FILE);
        create_folder(&self.folder)?;
        write(&file, text.as_bytes())
    }

    /// The state folder of the Spine: operator, accounts, keys.
    pub(crate) fn spine_folder(&self) -> PathBuf {
        self.folder.join("spine")
    }

    /// The NATS server's configuration and store.
    pub(crate) fn nats_folder(&self) -> PathBuf {
        self.folder.join("nats")
    }

    /// What only development needs: token keys, the record of running processes.
    pub(crate) fn dev_folder(&self) -> PathBuf {
        self.folder.join("dev")
    }

    /// The logs of `arq dev up`.
    pub(crate) fn logs_folder(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// The token that `token_file` names.
    pub(crate) fn token(&self) -> Result<Option<String>> {
        let Some(file) = &self.settings.token_file else {
            return Ok(None);
        };
        let file = self.folder.join(file);
        self.may_send(&file)?;
        let text = std::fs::read_to_string(&file)
            .doing(format!("cannot read the token in {}", file.display()))
            .hint("`arq context set` names another file")?;
        Ok(Some(text.trim().to_owned()))
    }

    /// Settings that came with a cloned repository must not have a secret of this user's sent to
    /// a server that they name too.
    fn may_send(&self, file: &Path) -> Result {
        if !self.found || Registry::read()?.all().any(|(_, own)| own == self.folder) {
            return Ok(());
        }
        let real = |path: &Path| path.canonicalize();
        match (real(file), real(&self.folder)) {
            (Ok(file), Ok(folder)) if !file.starts_with(&folder) => Err(Failure::new(format!(
                "token_file = {} lies outside of {}, which was found and not named",
                file.display(),
                folder.display()
            ))
            .hint(format!(
                "if you trust this folder: `arq context add NAME --folder {}`, or --state",
                folder.display()
            ))),
            // What cannot be read is told by whoever reads it.
            _ => Ok(()),
        }
    }

    /// The certificate that `ca_file` names, PEM.
    pub(crate) fn authority(&self) -> Result<Option<Vec<u8>>> {
        let Some(file) = &self.settings.ca_file else {
            return Ok(None);
        };
        let file = self.folder.join(file);
        Ok(Some(
            std::fs::read(&file).doing(format!("cannot read {}", file.display()))?,
        ))
    }

    /// Shield's manifest.
    pub(crate) fn manifest_file(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    /// Opens the Spine's state folder.
    pub(crate) fn spine_state(&self) -> Result<arqon_spine::state::StateFolder> {
        let folder = self.spine_folder();
        if !folder.is_dir() {
            let failure = Failure::new(format!("there is no Spine state in {}", folder.display()));
            return Err(match &self.name {
                Some(name) => failure.hint(format!(
                    "this command needs the admin's keys, and the context `{name}` has none; `--state DIR` names a folder that does"
                )),
                None => failure.hint(
                    "`arq dev up` makes one and starts everything; `arq spine init` only makes it; \
                 `--state DIR` or `--context NAME` names another",
                ),
            });
        }
        arqon_spine::state::StateFolder::open(&folder)
            .doing(format!("cannot open {}", folder.display()))
    }
}

/// Whether a file or folder that was come upon is this user's, or root's; under sudo also that of
/// who called it. What others put in the way of who works below /tmp is theirs.
pub(crate) fn is_own(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let me = rustix::process::getuid().as_raw();
    let caller = std::env::var("SUDO_UID").ok();
    let caller = caller.filter(|_| me == 0).and_then(|uid| uid.parse().ok());
    // A link, and what it leads to.
    [path.symlink_metadata(), path.metadata()]
        .into_iter()
        .all(|data| data.is_ok_and(|data| belongs(data.uid(), me, caller)))
}

fn belongs(owner: u32, me: u32, caller: Option<u32>) -> bool {
    owner == me || owner == 0 || Some(owner) == caller
}

/// Makes a folder that only its owner may enter.
pub(crate) fn create_folder(folder: &Path) -> Result {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .doing(format!("cannot make {}", folder.display()))
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(file: &Path, content: &[u8]) -> Result {
    files::write_private(file, content).doing(format!("cannot write {}", file.display()))
}

/// Writes a file that is no secret, whole or not at all.
pub(crate) fn write(file: &Path, content: &[u8]) -> Result {
    files::write(file, content).doing(format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn settings_survive_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep").join(FOLDER);
        let mut context = Context::at(&state).unwrap();
        assert_eq!(context.settings, Settings::default());
        context.settings.default_tenant = "globex".to_owned();
        context.save().unwrap();
        assert_eq!(Context::at(&state).unwrap().settings, context.settings);
    }

    #[test]
    fn a_command_for_this_machine_takes_no_other_context() {
        let choice = Choice {
            state: None,
            name: Some("prod".to_owned()),
        };
        let failure = Context::local(&choice).unwrap_err();
        assert!(failure.message.contains("`prod`"), "{}", failure.message);
    }

    #[test]
    fn a_folder_that_was_found_sends_no_file_from_elsewhere() {
        let place = tempfile::tempdir().unwrap();
        let secret = place.path().join("secret.jwt");
        std::fs::write(&secret, "mine").unwrap();
        let folder = place.path().join(FOLDER);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("own.jwt"), "its own\n").unwrap();
        std::os::unix::fs::symlink(&secret, folder.join("link.jwt")).unwrap();
        let mut context = Context::at(&folder).unwrap();
        for (file, within) in [
            (secret.clone(), false),
            (PathBuf::from("../secret.jwt"), false),
            (PathBuf::from("link.jwt"), false),
            (PathBuf::from("own.jwt"), true),
        ] {
            context.settings.token_file = Some(file.clone());
            context.found = false;
            assert!(context.token().unwrap().is_some(), "{}", file.display());
            context.found = true;
            assert_eq!(context.token().is_ok(), within, "{}", file.display());
        }
    }

    #[test]
    fn a_folder_of_another_user_is_not_come_upon() {
        assert!(belongs(1000, 1000, None) && belongs(0, 1000, None));
        assert!(!belongs(1001, 1000, None) && !belongs(1000, 0, None));
        assert!(belongs(1000, 0, Some(1000)) && !belongs(1001, 0, Some(1000)));
        let mine = tempfile::tempdir().unwrap();
        assert!(is_own(mine.path()));
        assert!(!is_own(&mine.path().join("absent")));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("context.toml"), "natz = 1\n").unwrap();
        let failure = Context::at(folder.path()).unwrap_err();
        assert!(failure.message.contains("natz"), "{}", failure.message);
        assert!(failure.hint.is_some());
    }

    #[test]
    fn private_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        write_private(&file, b"one").unwrap();
        write_private(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
