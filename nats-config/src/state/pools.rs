//! The fleet keys of pools.

use std::fs;
use std::path::PathBuf;

use arqon_proto::names::NodeId;
use nkeys::KeyPair;

use super::{
    StateError, StateFolder, create_folder, read_file, refuse_open, write_file, write_seed,
};
use crate::credentials::FleetKey;

impl StateFolder {
    /// Where Shields of a pool read their fleet key.
    pub fn fleet_key_path(&self, pool: &NodeId) -> PathBuf {
        self.pool_folder(pool).join("fleet.nk")
    }

    /// The fleet key in force of a pool.
    pub fn fleet_key(&self, pool: &NodeId) -> Result<FleetKey, StateError> {
        let path = self.fleet_key_path(pool);
        if !path.exists() {
            return Err(StateError::NoPool {
                pool: pool.to_string(),
                path,
            });
        }
        refuse_open(&path, 0o600)?;
        Ok(FleetKey::read(&path)?)
    }

    /// The fleet key with the public key `public`, in force or not.
    pub fn fleet_key_by_public(
        &self,
        pool: &NodeId,
        public: &str,
    ) -> Result<Option<FleetKey>, StateError> {
        for (_, path) in self.fleet_files(pool)? {
            let key = FleetKey::read(&path)?;
            if key.public() == public {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Makes the first fleet key of a pool, and puts it in force, unless there
    /// is one; returns the one in force.
    pub fn ensure_fleet_key(&self, pool: &NodeId) -> Result<FleetKey, StateError> {
        if !self.fleet_key_path(pool).exists() {
            let key = self.new_fleet_key(pool)?;
            self.use_fleet_key(pool, key.public())?;
        }
        self.fleet_key(pool)
    }

    /// Makes a further fleet key of a pool, not yet in force.
    pub fn new_fleet_key(&self, pool: &NodeId) -> Result<FleetKey, StateError> {
        let folder = self.pool_folder(pool);
        create_folder(&folder)?;
        let number = self.fleet_files(pool)?.last().map_or(1, |(n, _)| n + 1);
        let path = folder.join(format!("fleet-{number}.nk"));
        write_seed(&path, &KeyPair::new_account())?;
        Ok(FleetKey::read(&path)?)
    }

    /// Puts a fleet key in force: Shields that read the file from now on use it.
    pub fn use_fleet_key(&self, pool: &NodeId, public: &str) -> Result<(), StateError> {
        for (_, path) in self.fleet_files(pool)? {
            if FleetKey::read(&path)?.public() == public {
                return write_file(&self.fleet_key_path(pool), read_file(&path)?.as_bytes());
            }
        }
        Err(StateError::NoPool {
            pool: pool.to_string(),
            path: self.pool_folder(pool),
        })
    }

    /// Deletes every fleet key of a pool but this one.
    pub fn forget_other_fleet_keys(&self, pool: &NodeId, keep: &str) -> Result<(), StateError> {
        for (_, path) in self.fleet_files(pool)? {
            if FleetKey::read(&path)?.public() != keep {
                fs::remove_file(&path).map_err(|source| StateError::Io {
                    action: "delete",
                    path,
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn pool_folder(&self, pool: &NodeId) -> PathBuf {
        self.root.join("pools").join(pool.as_str())
    }

    /// The numbered fleet keys of a pool, oldest first.
    fn fleet_files(&self, pool: &NodeId) -> Result<Vec<(u32, PathBuf)>, StateError> {
        let folder = self.pool_folder(pool);
        let mut files = Vec::new();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
            entries => entries.map_err(|source| StateError::Io {
                action: "read",
                path: folder.clone(),
                source,
            })?,
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| {
                name.strip_prefix("fleet-")?
                    .strip_suffix(".nk")?
                    .parse()
                    .ok()
            });
            if let Some(number) = number {
                files.push((number, entry.path()));
            }
        }
        files.sort();
        Ok(files)
    }
}
