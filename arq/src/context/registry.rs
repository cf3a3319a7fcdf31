//! The contexts that have a name: `contexts.toml` in the user's configuration folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LOCAL, create_folder, write_private};
use crate::failure::{Doing, Failure, Result};
use crate::nearest::nearest;

/// The named contexts, and which one is in use.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// The folder of `contexts.toml`.
    home: PathBuf,
    list: List,
}

/// What `contexts.toml` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    folder: PathBuf,
}

impl Registry {
    /// Reads it; where there is none, no context has a name.
    pub(super) fn read() -> Result<Self> {
        match home() {
            Some(home) => Self::read_in(home),
            None => Ok(Self::default()),
        }
    }

    fn read_in(home: PathBuf) -> Result<Self> {
        let file = home.join("contexts.toml");
        let list = match std::fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                Failure::new(format!(
                    "{} does not hold: {}",
                    file.display(),
                    error.message()
                ))
                .hint("mend the file, or delete it: `arq context add` makes it anew")
            })?,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                List::default()
            }
            Err(error) => return Err(error).doing(format!("cannot read {}", file.display())),
        };
        Ok(Self { home, list })
    }

    fn write(&self) -> Result {
        if self.home.as_os_str().is_empty() {
            return Err(Failure::new("there is no place for named contexts")
                .hint("set HOME or XDG_CONFIG_HOME, or use --state DIR"));
        }
        create_folder(&self.home)?;
        let text = toml::to_string(&self.list)?;
        write_private(&self.home.join("contexts.toml"), text.as_bytes())
    }

    /// The context in use; None where that is whatever `.arqon` is nearest.
    pub(super) fn current(&self) -> Option<&str> {
        self.list.current.as_deref()
    }

    /// Names and folders.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Path)> {
        let entries = self.list.contexts.iter();
        entries.map(|(name, entry)| (name.as_str(), entry.folder.as_path()))
    }

    /// Whether a name is taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.list.contexts.contains_key(name)
    }

    /// The folder of a name.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf> {
        match self.list.contexts.get(name) {
            Some(entry) => Ok(entry.folder.clone()),
            None => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> Failure {
        let names = self.list.contexts.keys().map(String::as_str);
        let failure = Failure::new(format!("there is no context `{name}`"));
        failure.hint(match nearest(name, names.chain([LOCAL])) {
            Some(near) => format!("did you mean `{near}`? `arq context list` shows all"),
            None => "`arq context list` shows all, `arq context add` makes one".to_owned(),
        })
    }

    /// The folder that a context has if it is given none.
    pub(super) fn own_folder(&self, name: &str) -> PathBuf {
        self.home.join("contexts").join(name)
    }

    /// Puts a name down; the first one is not in use by that.
    pub(super) fn add(&mut self, name: &str, folder: PathBuf) -> Result {
        let entry = Entry { folder };
        self.list.contexts.insert(name.to_owned(), entry);
        self.write()
    }

    /// From now on commands that name none go there.
    pub(super) fn select(&mut self, name: &str) -> Result {
        if name == LOCAL {
            self.list.current = None;
        } else if self.has(name) {
            self.list.current = Some(name.to_owned());
        } else {
            return Err(self.unknown(name));
        }
        self.write()
    }

    /// Forgets a name. Where it was in use, `local` is.
    pub(super) fn remove(&mut self, name: &str) -> Result {
        if self.list.contexts.remove(name).is_none() {
            return Err(self.unknown(name));
        }
        if self.list.current.as_deref() == Some(name) {
            self.list.current = None;
        }
        self.write()
    }
}

/// `$XDG_CONFIG_HOME/arqon`, or `~/.config/arqon`; without a home nothing has a name.
fn home() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("arqon"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_is_kept_used_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let mut registry = Registry::read_in(home.path().to_owned()).unwrap();
        registry.add("prod", "/srv/prod".into()).unwrap();
        assert_eq!(registry.current(), None);
        registry.select("prod").unwrap();
        let mut again = Registry::read_in(home.path().to_owned()).unwrap();
        assert_eq!(again.current(), Some("prod"));
        assert_eq!(again.folder("prod").unwrap(), Path::new("/srv/prod"));
        let unknown = again.folder("prd").unwrap_err();
        assert!(unknown.hint.unwrap().contains("`prod`"));
        again.remove("prod").unwrap();
        assert_eq!(again.current(), None);
        assert!(again.select("prod").is_err());
    }
}
