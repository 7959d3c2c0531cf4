//! The bundle registry and its aliases.

use fjall::{Readable, Snapshot};

use super::engine::Engine;
use super::{EmbeddedStore, layout, read};
use crate::error::StoreError;
use crate::port::{Durability, Registered, RegistryEntry};

impl EmbeddedStore {
    /// [`crate::port::Store::register`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::BundleTaken`] for another hash under the same name and version, and as [`crate::port::Store::commit`].
    pub fn register_now(&self, entry: &RegistryEntry) -> Result<(), StoreError> {
        self.write(|_, engine| {
            let key = layout::registry_key(&entry.name, &entry.version)?;
            match bundle(engine, &engine.snapshot(), &key)? {
                Some(stored) if stored.hash != entry.hash => {
                    let (name, version) = (entry.name.clone(), entry.version.clone());
                    return Err(StoreError::BundleTaken {
                        name,
                        version,
                        stored: stored.hash,
                        given: entry.hash.clone(),
                    });
                }
                _ => {}
            }
            let mut batch = engine.batch(1);
            batch.insert(&engine.meta, key.as_slice(), layout::to_json("registry entry", entry)?.as_slice());
            engine.write(batch, Durability::Power)
        })
    }

    /// [`crate::port::Store::registry`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn registry_now(&self) -> Result<Registered, StoreError> {
        self.read(all)
    }

    /// [`crate::port::Store::set_alias`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for an alias that is not `model@name`, [`StoreError::BundleUnknown`] for a version that is
    /// not registered, and as [`crate::port::Store::commit`].
    pub fn set_alias_now(&self, alias: &str, version: &str) -> Result<(), StoreError> {
        let Some((model, _)) = alias.split_once('@') else {
            let why = "it is not of the form model@name".to_owned();
            return Err(StoreError::Invalid { what: "an alias", why });
        };
        self.write(|_, engine| {
            let key = layout::registry_key(model, version)?;
            if bundle(engine, &engine.snapshot(), &key)?.is_none() {
                let (name, version) = (model.to_owned(), version.to_owned());
                return Err(StoreError::BundleUnknown { name, version, alias: alias.to_owned() });
            }
            let mut batch = engine.batch(1);
            batch.insert(&engine.meta, layout::alias_key(alias)?.as_slice(), version);
            engine.write(batch, Durability::Power)
        })
    }
}

/// All registered bundles and aliases, in order of name.
pub(super) fn all(engine: &Engine) -> Result<Registered, StoreError> {
    let snapshot = engine.snapshot();
    let entries = snapshot
        .prefix(&engine.meta, [layout::REGISTRY])
        .map(|entry| layout::from_json("registry entry", &read::pair(engine, entry)?.1));
    let aliases = snapshot.prefix(&engine.meta, [layout::ALIAS]).map(|entry| {
        let (key, value) = read::pair(engine, entry)?;
        let (alias, _) = layout::take_text("alias", &key[1..])?;
        let version =
            String::from_utf8(value.to_vec()).map_err(|error| layout::corrupt("alias", &error.to_string()))?;
        Ok((alias, version))
    });
    Ok((entries.collect::<Result<_, StoreError>>()?, aliases.collect::<Result<_, StoreError>>()?))
}

/// A registered bundle.
fn bundle(engine: &Engine, snapshot: &Snapshot, key: &[u8]) -> Result<Option<RegistryEntry>, StoreError> {
    let value = snapshot.get(&engine.meta, key).map_err(|error| engine.failure(error))?;
    value.map(|value| layout::from_json("registry entry", &value)).transpose()
}
