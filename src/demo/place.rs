//! The demo's folder: configuration, model bundle, store and decision log.
//!
//! Invariant: nothing is written into a folder that holds anything the demo did not put there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::setup::Setup;

/// How often a temporary folder is tried to be removed, and the time between: the store's own threads may still close files in it.
const REMOVALS: usize = 100;
const REMOVAL: Duration = Duration::from_millis(50);
/// Names a folder as the demo's.
const MARK: &str = ".interdict-demo";
const CONFIGURATION: &str = "interdict.toml";
/// The handbook's configuration and its trained bundle, so that the program needs no other file.
const FILES: [(&str, &[u8]); 5] = [
    (CONFIGURATION, include_bytes!("../../examples/handbook/interdict.toml")),
    ("bundle/bundle.toml", include_bytes!("../../examples/handbook/bundle/bundle.toml")),
    ("bundle/model.onnx", include_bytes!("../../examples/handbook/bundle/model.onnx")),
    ("bundle/golden.json", include_bytes!("../../examples/handbook/bundle/golden.json")),
    ("bundle/reference.parquet", include_bytes!("../../examples/handbook/bundle/reference.parquet")),
];

/// Where one demo lives.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    /// Removes the folder in the end.
    temporary: Option<TempDir>,
}

impl Place {
    /// Makes the folder, or takes up the named one, and writes configuration and bundle into it.
    pub(super) fn prepare(named: Option<&Path>) -> anyhow::Result<Self> {
        let (folder, temporary) = match named {
            Some(folder) => (folder.to_owned(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("interdict-demo-").tempdir();
                let temporary = temporary.context("no temporary folder can be made; name a folder with --folder")?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let failed = || format!("{} cannot be written; name another folder with --folder", folder.display());
        fs::create_dir_all(folder.join("bundle")).with_context(failed).and_then(|()| {
            let is_new = !folder.join(MARK).exists();
            if is_new && holds_other_files(&folder)? {
                // What was made above is taken back where nothing else is in it.
                let _kept_if_filled = fs::remove_dir(folder.join("bundle"));
                bail!("{} holds other files; name a new or empty folder with --folder", folder.display());
            }
            fs::write(folder.join(MARK), "made by interdict demo\n").with_context(failed)?;
            for (name, bytes) in FILES {
                fs::write(folder.join(name), bytes).with_context(failed)?;
            }
            Ok(())
        })?;
        Ok(Self { folder, temporary })
    }

    /// The configuration, as written.
    pub(super) fn setup(&self) -> anyhow::Result<Setup> {
        Ok(Setup::load(&self.folder.join(CONFIGURATION))?)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }

    /// What to try when the system does not start.
    pub(super) fn advice(&self) -> String {
        if self.is_kept() {
            let folder = self.folder.display();
            format!("the demo cannot start in {folder}; it may be of another --seed or in use: name another --folder")
        } else {
            "the demo cannot start".to_owned()
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(folder) = self.temporary.take().map(TempDir::keep) else { return };
        for _ in 0..REMOVALS {
            let removed = fs::remove_dir_all(&folder);
            if removed.is_ok() || !folder.exists() {
                return;
            }
            std::thread::park_timeout(REMOVAL);
        }
        tracing::warn!(path = %folder.display(), "the temporary folder cannot be removed");
    }
}

fn holds_other_files(folder: &Path) -> anyhow::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_own = entry.file_name() == "bundle" && fs::read_dir(entry.path())?.next().is_none();
        if !is_own {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_and_a_named_one_stays() {
        let place = Place::prepare(None).unwrap();
        let folder = place.folder().to_owned();
        assert!(folder.join("bundle/model.onnx").exists());
        drop(place);
        assert!(!folder.exists());

        let parent = tempfile::tempdir().unwrap();
        let named = parent.path().join("a/b");
        drop(Place::prepare(Some(&named)).unwrap());
        assert!(named.join(CONFIGURATION).exists());
        assert!(Place::prepare(Some(&named)).unwrap().is_kept(), "taken up again");
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CONFIGURATION), "mine").unwrap();
        let refused = Place::prepare(Some(folder.path())).unwrap_err().to_string();
        assert!(refused.contains("holds other files"), "{refused}");
        assert_eq!(fs::read_to_string(folder.path().join(CONFIGURATION)).unwrap(), "mine");
        assert!(!folder.path().join("bundle").exists());
    }
}
