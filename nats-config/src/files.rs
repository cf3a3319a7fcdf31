//! Files that are there as a whole or not at all, whenever the writer is killed.
//!
//! The content goes into a file beside it, which is flushed to the disk and
//! then takes the name; the folder is flushed after that. What a killed writer
//! leaves behind is read by nobody, and secrets have their mode from the start.
//! Nobody knows the name of the file beside it before it is there, and one that
//! is there is never opened: a link planted in a shared folder leads nowhere.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::sys;

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    // One that is there is not ours, and stays.
    let created = sys::create_new_file(&beside, true)?;
    put(Ok(created), &beside, path, bytes)
}

/// Writes a file that is no secret. One that is there keeps its mode; a link is
/// followed, and what is no regular file is written to as it is.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (path, permissions) = match fs::canonicalize(path) {
        Ok(real) => {
            let found = fs::metadata(&real)?;
            if !found.is_file() {
                return fs::write(&real, bytes);
            }
            (real, Some(found.permissions()))
        }
        Err(_) => (path.to_owned(), None),
    };
    let beside = beside(&path);
    let created = sys::create_new_file(&beside, false)?;
    let created = match permissions {
        Some(permissions) => created.set_permissions(permissions).map(|()| created),
        None => Ok(created),
    };
    put(created, &beside, &path, bytes)
}

/// Has what was renamed, linked or deleted in the folder of `path` last.
pub fn settle(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    sys::flush_folder(folder)
}

fn put(created: io::Result<File>, beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    created
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(beside, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(beside);
        })?;
    settle(path)
}

/// A name that nobody else takes.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}.tmp", rand::random::<u64>()));
    PathBuf::from(name)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.nk");
        write_private(&file, b"one").unwrap();
        write_private(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(mode(&file), 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let folder_in_place = folder.path().join("taken");
        fs::create_dir(&folder_in_place).unwrap();
        assert!(write_private(&folder_in_place, b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_where_the_new_file_would_be_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, victim) = (folder.path().join("key.nk"), folder.path().join("victim"));
        fs::write(&victim, b"precious").unwrap();
        // Whatever name is taken: one that is there is refused, as a link too.
        let planted = folder.path().join("planted");
        symlink(&victim, &planted).unwrap();
        for private in [true, false] {
            let refused = sys::create_new_file(&planted, private);
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
        // The name that a writer of this process took before it was random.
        let known = format!("key.nk.{}.tmp", std::process::id());
        symlink(&victim, folder.path().join(&known)).unwrap();
        write_private(&file, b"secret").unwrap();
        write(&file, b"text").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&file).unwrap(), b"text");
        let planted = folder.path().join(known).symlink_metadata().unwrap();
        assert!(planted.is_symlink());
        assert_ne!(beside(&file), beside(&file));
    }

    #[test]
    fn what_is_there_keeps_its_mode_and_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (
            folder.path().join("config.toml"),
            folder.path().join("link"),
        );
        write(&file, b"one").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        write(&link, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(mode(&file), 0o640);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }
}
