//! Machine code on disk. Whoever could write here could run anything within
//! Shield, so each file is sealed with a key that does not lie beside it, and
//! what does not fit its seal is not there.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::Digest;

/// Longest machine code of one component, in the cache and from the child.
pub(crate) const MAX_CODE_BYTES: usize = 64 << 20;

const MAX_BYTES: u64 = 1 << 30;
const MAX_FILES: usize = 2_000;
const MAGIC: &[u8; 8] = b"ARQPOL01";
const SEAL_BYTES: usize = 32;
const HEADER_BYTES: usize = 8 + 32 + 32 + 8;
const SUFFIX: &str = ".code";
const UNFINISHED: &str = ".new-";
const UNFINISHED_FOR: Duration = Duration::from_secs(3600);

/// Why a folder cannot be the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made or read.
    #[error("the cache of machine code cannot be used: {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put machine code there, or it is not a folder.
    #[error("the cache of machine code cannot be trusted: {path}: {reason}")]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; 32],
    /// Digest of the engine's compatibility text.
    engine: [u8; 32],
    max_bytes: u64,
    max_files: usize,
}

impl Cache {
    pub(crate) fn open(
        folder: &Path,
        key: [u8; 32],
        compatibility: &str,
    ) -> Result<Self, CacheError> {
        let io = |source| CacheError::Io {
            path: folder.to_owned(),
            source,
        };
        let untrusted = |reason| CacheError::Unsafe {
            path: folder.to_owned(),
            reason,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io)?;
        let metadata = fs::symlink_metadata(folder).map_err(io)?;
        if !metadata.is_dir() {
            return Err(untrusted("it is a link, not a folder"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(untrusted("it belongs to somebody else"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(untrusted("others may write to it (chmod go-w)"));
        }
        let cache = Self {
            folder: folder.to_owned(),
            key,
            engine: Sha256::digest(compatibility.as_bytes()).into(),
            max_bytes: MAX_BYTES,
            max_files: MAX_FILES,
        };
        cache.tidy();
        Ok(cache)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let engine = data_encoding::HEXLOWER.encode(&self.engine[..8]);
        self.folder.join(format!("{digest}-{engine}{SUFFIX}"))
    }

    fn header(&self, digest: &Digest, code: &[u8]) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..40].copy_from_slice(digest.as_bytes());
        header[40..72].copy_from_slice(&self.engine);
        header[72..].copy_from_slice(&(code.len() as u64).to_le_bytes());
        header
    }

    fn mac(&self, header: &[u8], code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        mac.update(header);
        mac.update(code);
        Some(mac)
    }

    /// The code, if it is exactly what was put.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.path(digest);
        let code = match self.read(&path, digest) {
            Ok(code) => code,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cached machine code is not used: compiling again");
                return None;
            }
        };
        // Its age is the time since it was last of use.
        if let Ok(file) = File::open(&path) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(code)
    }

    fn read(&self, path: &Path, digest: &Digest) -> io::Result<Vec<u8>> {
        let broken = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(broken("it is no file"));
        }
        // Read once, judged, and used from memory: the file may change meanwhile.
        let mut bytes = Vec::new();
        let most = SEAL_BYTES + HEADER_BYTES + MAX_CODE_BYTES;
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() < SEAL_BYTES + HEADER_BYTES || bytes.len() > most {
            return Err(broken("it has an impossible length"));
        }
        let (seal, rest) = bytes.split_at(SEAL_BYTES);
        let (header, code) = rest.split_at(HEADER_BYTES);
        let sealed = self
            .mac(header, code)
            .is_some_and(|mac| mac.verify_slice(seal).is_ok());
        if !sealed {
            return Err(broken("its seal is wrong"));
        }
        if header != self.header(digest, code) {
            return Err(broken("it is of another component or engine"));
        }
        bytes.drain(..SEAL_BYTES + HEADER_BYTES);
        Ok(bytes)
    }

    /// Keeps the code. Without a cache there is only more to compile, so
    /// failures are told and nothing more.
    pub(crate) fn put(&self, digest: &Digest, code: &[u8]) {
        if let Err(error) = self.write(digest, code) {
            tracing::warn!(folder = %self.folder.display(), %error, "machine code is not cached");
        }
        self.tidy();
    }

    fn write(&self, digest: &Digest, code: &[u8]) -> io::Result<()> {
        let header = self.header(digest, code);
        let mac = self
            .mac(&header, code)
            .ok_or_else(|| io::Error::other("no key"))?;
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.folder)?;
        file.write_all(&mac.finalize().into_bytes())?;
        file.write_all(&header)?;
        file.write_all(code)?;
        // No fsync: what a crash leaves does not fit its seal.
        file.persist(self.path(digest))?;
        Ok(())
    }

    /// Removes the oldest above the bounds, and what a killed process left.
    fn tidy(&self) {
        if let Err(error) = self.try_tidy() {
            tracing::warn!(folder = %self.folder.display(), %error, "the cache of machine code cannot be tidied");
        }
    }

    fn try_tidy(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // Gone already: another Shield shares the folder.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let Ok(changed) = metadata.modified() else {
                continue;
            };
            if name.starts_with(UNFINISHED) {
                if changed.elapsed().is_ok_and(|age| age > UNFINISHED_FOR) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if name.ends_with(SUFFIX) && metadata.is_file() {
                files.push((changed, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
        let mut count = files.len();
        for (_, length, path) in &files {
            if bytes <= self.max_bytes && count <= self.max_files {
                break;
            }
            let _ = fs::remove_file(path);
            bytes -= length;
            count -= 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(folder: &Path) -> Cache {
        Cache::open(folder, [7; 32], "engine").expect("a cache")
    }

    fn names(folder: &Path) -> usize {
        fs::read_dir(folder).expect("the folder").count()
    }

    #[test]
    fn what_was_put_is_there_for_this_engine_and_key_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = Digest::of(b"component");
        let cache = cache(folder.path());
        assert_eq!(cache.get(&digest), None);
        cache.put(&digest, b"code");
        assert_eq!(cache.get(&digest).as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.get(&Digest::of(b"other")), None);

        let other = Cache::open(folder.path(), [7; 32], "another engine").expect("a cache");
        assert_eq!(other.get(&digest), None);
        let other = Cache::open(folder.path(), [8; 32], "engine").expect("a cache");
        assert_eq!(other.get(&digest), None);
    }

    #[test]
    fn any_flipped_bit_and_any_other_length_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest = Digest::of(b"component");
        let cache = cache(folder.path());
        cache.put(&digest, b"some machine code");
        let path = cache.path(&digest);
        let whole = fs::read(&path).expect("the file");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, &bytes).expect("written");
                assert_eq!(cache.get(&digest), None, "byte {at}, bit {bit}");
            }
            fs::write(&path, &whole[..at]).expect("written");
            assert_eq!(cache.get(&digest), None, "cut at {at}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        fs::write(&path, &longer).expect("written");
        assert_eq!(cache.get(&digest), None);
        fs::write(&path, &whole).expect("written");
        assert!(cache.get(&digest).is_some());
    }

    #[test]
    fn a_file_of_another_component_is_not_taken_under_this_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path());
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        cache.put(&one, b"code of one");
        fs::rename(cache.path(&one), cache.path(&two)).expect("renamed");
        assert_eq!(cache.get(&two), None);
        cache.put(&two, b"code of two");
        assert_eq!(cache.get(&two).as_deref(), Some(&b"code of two"[..]));
    }

    #[test]
    fn the_least_used_go_when_there_are_too_many_or_too_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut cache = cache(folder.path());
        cache.max_files = 3;
        let digests: Vec<Digest> = (0..4_u8).map(|n| Digest::of(&[n])).collect();
        let old = SystemTime::now() - Duration::from_secs(100);
        for (age, digest) in digests.iter().take(3).enumerate() {
            cache.put(digest, b"code");
            let file = File::open(cache.path(digest)).expect("the file");
            file.set_modified(old + Duration::from_secs(age as u64))
                .expect("its age");
        }
        // Of use now, so the second is the oldest.
        assert!(cache.get(&digests[0]).is_some());
        cache.put(&digests[3], b"code");
        let there: Vec<bool> = digests
            .iter()
            .map(|digest| cache.path(digest).exists())
            .collect();
        assert_eq!(there, [true, false, true, true]);

        cache.max_bytes = 2 * (SEAL_BYTES + HEADER_BYTES + 4) as u64;
        cache.put(&digests[1], b"code");
        assert_eq!(names(folder.path()), 2);
    }

    #[test]
    fn leftovers_of_killed_processes_go_after_an_hour() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, age) in [(".new-old", 7200), (".new-young", 60)] {
            let file = File::create(folder.path().join(name)).expect("a file");
            file.set_modified(SystemTime::now() - Duration::from_secs(age))
                .expect("its age");
        }
        fs::write(folder.path().join("README"), b"not ours").expect("a file");
        cache(folder.path());
        assert!(!folder.path().join(".new-old").exists());
        assert!(folder.path().join(".new-young").exists());
        assert!(folder.path().join("README").exists());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/er");
        cache(&path);
        assert_eq!(
            fs::metadata(&path).expect("the folder").mode() & 0o777,
            0o700
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).expect("chmod");
        let error = Cache::open(&path, [7; 32], "engine").expect_err("anybody's folder");
        assert!(matches!(error, CacheError::Unsafe { .. }), "{error}");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("a link");
        let error = Cache::open(&link, [7; 32], "engine").expect_err("a link");
        assert!(matches!(error, CacheError::Unsafe { .. }), "{error}");

        let file = folder.path().join("file");
        fs::write(&file, b"").expect("a file");
        let error = Cache::open(&file, [7; 32], "engine").expect_err("a file");
        assert!(matches!(error, CacheError::Io { .. }), "{error}");
    }

    #[test]
    fn a_link_or_a_pipe_in_place_of_a_file_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path());
        let digest = Digest::of(b"component");
        cache.put(&digest, b"code");
        let path = cache.path(&digest);
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).expect("renamed");
        std::os::unix::fs::symlink(&aside, &path).expect("a link");
        assert_eq!(cache.get(&digest), None);
        fs::remove_file(&path).expect("removed");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, 0o600.into(), 0).expect("a pipe");
        assert_eq!(cache.get(&digest), None);
    }
}
