//! The folder of one source's archive: who writes there, how far it is complete, and how files appear in it.
//!
//! Layout, below `source=NAME/` of the archive:
//! ```text
//! _lock            held by whoever changes anything but `_staging`, for as long as that takes
//! _manifest.json   whose changes these are, who writes them (epoch), up to which position every one is there, and the files that are being
//!                  published
//! _staging/        encoded files on their way; not part of the archive
//! stream=NAME/date=YYYY-MM-DD/FIRST-LAST-PART.parquet
//! ```
//! Readers skip names that begin with `_`. The order of a publication:
//! 1. every file is written to `_staging` and synced, then `_staging` is synced;
//! 2. the manifest is replaced (`.tmp`, sync, rename, sync folder): it names the files and the position up to which they
//!    complete the archive. **From here on they are published**;
//! 3. the files are renamed into their partitions, and every folder touched is synced;
//! 4. the manifest is replaced by one that names no files.
//!
//! A process that takes a source over takes its folder over with the next epoch; one that was taken for dead and comes back finds that it is
//! not its any more, and publishes nothing. So no process waits for one that is paused, unless that was paused within a publication.
//!
//! What cannot be read again once the store has passed it (a snapshot) is *prepared* before the store may: the manifest names its files and
//! position, and whoever takes the folder over publishes them if the store got there. If it did not they go with the next publication.
//!
//! Invariants:
//! - Before step 2 nothing of a publication is in a partition; after it every file is in its partition, or complete in `_staging`.
//! - The manifest's position never shrinks, and never passes what the store holds.
//! - Under one epoch one process publishes.
//! - A staged file that the manifest may name is never written again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use interdict_features::hive::folder_text;
use serde::{Deserialize, Serialize};

use super::error::ArchiveError;

const MANIFEST: &str = "_manifest.json";
const STAGING: &str = "_staging";
const LOCK: &str = "_lock";
const FORMAT: u32 = 1;

/// A step of a publication, told to the probe before it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    CreateFile,
    WriteFile,
    SyncFile,
    Rename,
    CreateFolder,
    SyncFolder,
}

/// Called before every step: an error stands for the step failing. Tests put crashes and full disks here.
pub(crate) type Probe = Box<dyn FnMut(Step) -> io::Result<()> + Send>;

/// Whose changes a folder holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// The deployment's namespace.
    pub namespace: String,
    /// The source's name.
    pub source: String,
    /// The source's identity.
    pub incarnation: String,
}

/// A file on its way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Staged {
    /// Its name in `_staging`.
    pub(super) staged: String,
    /// Where it belongs, relative to the source's folder.
    pub(super) file: String,
}

/// Files whose publication waits for the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Prepared {
    position: u64,
    files: Vec<Staged>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    #[serde(flatten)]
    owner: Owner,
    /// Counts the processes that took the folder over.
    epoch: u64,
    /// Every change up to it is in a partition, or in a file named in `publishing`. 0: the source's beginning. `None`: nothing has begun yet.
    position: Option<u64>,
    #[serde(default)]
    publishing: Vec<Staged>,
    #[serde(default)]
    prepared: Option<Prepared>,
}

/// Whether other processes work on the same sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// This process alone.
    Alone,
    /// Several, and all of them share the folder.
    Shared,
}

/// A source's folder, taken by this process.
pub struct SourceFolder {
    dir: PathBuf,
    probe: Probe,
    sharing: Sharing,
    is_new: bool,
    epoch: u64,
    position: u64,
    next_staged: u64,
}

impl SourceFolder {
    /// Takes the folder of `owner`'s source in the archive at `dir` over: from now on no other process publishes there. `None` while another
    /// process is just publishing.
    ///
    /// # Errors
    /// Fatal when the folder is another's or is not whole; Transient when a file operation fails.
    pub fn take(dir: &Path, owner: &Owner, sharing: Sharing) -> Result<Option<Self>, ArchiveError> {
        Self::take_probed(dir, owner, sharing, Box::new(|_| Ok(())))
    }

    pub(super) fn take_probed(
        dir: &Path,
        owner: &Owner,
        sharing: Sharing,
        probe: Probe,
    ) -> Result<Option<Self>, ArchiveError> {
        let dir = dir.join(format!("source={}", folder_text(&owner.source)));
        let staging = dir.join(STAGING);
        // One that was made by hand holds nothing of ours yet.
        let is_new = !exists(&dir)? || (exists(&staging)? && !exists(&dir.join(MANIFEST))?);
        fs::create_dir_all(&staging).map_err(|error| ArchiveError::io("creating", &staging, error))?;
        let mut folder = Self { dir, probe, sharing, is_new, epoch: 0, position: 0, next_staged: 0 };
        let Some(_lock) = folder.try_lock()? else { return Ok(None) };
        let path = folder.dir.join(MANIFEST);
        let mut manifest = match read_manifest(&path)? {
            Some(manifest) if manifest.owner == *owner => manifest,
            Some(manifest) => {
                let (held, found) = (told(&manifest.owner), told(owner));
                return Err(ArchiveError::Other { path: folder.dir, held, found });
            }
            None if has_files(&folder.dir)? => {
                let why = "it is missing, yet the folder holds files; restore it, or move the folder away to begin a new archive";
                return Err(ArchiveError::corrupt(&path, why));
            }
            None => Manifest {
                format: FORMAT,
                owner: owner.clone(),
                epoch: 0,
                position: None,
                publishing: Vec::new(),
                prepared: None,
            },
        };
        manifest.epoch += 1;
        folder.epoch = manifest.epoch;
        folder.commit(&manifest)?;
        folder.sync_upwards()?;
        Ok(Some(folder))
    }

    #[cfg(test)]
    pub(super) fn fail_with(&mut self, probe: Probe) {
        self.probe = probe;
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Begins to write; the store holds the source up to `stored`. Finishes what was being published, removes what is not to be, and gives the
    /// position up to which the archive is complete.
    pub(super) fn begin(&mut self, stored: u64) -> Result<u64, ArchiveError> {
        let (_lock, mut manifest) = self.locked()?;
        if manifest.position.is_none() {
            if self.sharing == Sharing::Shared && self.is_new && stored > 0 {
                // Left there it would look as if somebody had made it.
                let _best_effort = fs::remove_dir_all(&self.dir);
                return Err(ArchiveError::NotShared { path: self.dir.clone(), stored });
            }
            manifest.position = Some(stored);
            self.commit(&manifest)?;
        }
        self.roll_forward(&mut manifest)?;
        if let Some(Prepared { position, files }) = manifest.prepared.take_if(|prepared| stored >= prepared.position) {
            self.publish_in(&mut manifest, &files, position)?;
        }
        self.clear_staging(&manifest)?;
        self.position = manifest.position.unwrap_or_default();
        Ok(self.position)
    }

    /// Every change up to it is in the archive.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Writes an encoded file to `_staging`.
    pub(super) fn stage(&mut self, bytes: &[u8]) -> Result<String, ArchiveError> {
        let name = format!("{:08}-{:08}.parquet.tmp", self.epoch, self.next_staged);
        self.write(&self.dir.join(STAGING).join(&name), bytes)?;
        self.next_staged += 1;
        Ok(name)
    }

    /// Notes `files` as what completes the archive up to `position` once the store is there.
    pub(super) fn prepare(&mut self, files: &[Staged], position: u64) -> Result<(), ArchiveError> {
        let (_lock, mut manifest) = self.locked()?;
        self.sync_folder(&self.dir.join(STAGING))?;
        manifest.prepared = Some(Prepared { position, files: files.to_vec() });
        self.commit(&manifest)
    }

    /// Publishes `files`, which complete the archive up to `position`. May be tried again.
    pub(super) fn publish(&mut self, files: &[Staged], position: u64) -> Result<(), ArchiveError> {
        let (_lock, mut manifest) = self.locked()?;
        self.publish_in(&mut manifest, files, position)?;
        self.position = position;
        Ok(())
    }

    fn publish_in(&mut self, manifest: &mut Manifest, files: &[Staged], position: u64) -> Result<(), ArchiveError> {
        self.roll_forward(manifest)?;
        // It is there already where an earlier try failed after it was.
        if manifest.position < Some(position) {
            self.sync_folder(&self.dir.join(STAGING))?;
            manifest.publishing = files.to_vec();
            manifest.position = Some(position);
            manifest.prepared = None;
            self.commit(manifest)?;
        }
        self.roll_forward(manifest)
    }

    /// Removes staged files that are not to be published.
    pub(super) fn discard(&mut self, files: &[Staged]) -> Result<(), ArchiveError> {
        for file in files {
            let path = self.dir.join(STAGING).join(&file.staged);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(ArchiveError::io("removing", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The lock, if no other process has it.
    fn try_lock(&self) -> Result<Option<File>, ArchiveError> {
        let path = self.dir.join(LOCK);
        let lock = File::create(&path).map_err(|error| ArchiveError::io("creating", &path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(ArchiveError::io("locking", &path, error)),
        }
    }

    /// The lock and the manifest as it is, which nobody else changes while the lock is held.
    fn locked(&self) -> Result<(File, Manifest), ArchiveError> {
        let lock = self.try_lock()?.ok_or_else(|| ArchiveError::Busy { path: self.dir.clone() })?;
        let path = self.dir.join(MANIFEST);
        let manifest = read_manifest(&path)?;
        let manifest =
            manifest.ok_or_else(|| ArchiveError::corrupt(&path, "it has gone while the archive is written"))?;
        if manifest.epoch == self.epoch {
            Ok((lock, manifest))
        } else {
            Err(ArchiveError::TakenOver { path: self.dir.clone() })
        }
    }

    fn commit(&mut self, manifest: &Manifest) -> Result<(), ArchiveError> {
        let path = self.dir.join(MANIFEST);
        let temporary = self.dir.join(format!("{MANIFEST}.tmp"));
        let bytes = serde_json::to_vec(manifest).map_err(|error| ArchiveError::corrupt(&path, error.to_string()))?;
        self.write(&temporary, &bytes)?;
        self.rename(&temporary, &path)?;
        self.sync_folder(&self.dir.clone())
    }

    /// Steps 3 and 4 for what the manifest names; nothing to do when it names nothing.
    fn roll_forward(&mut self, manifest: &mut Manifest) -> Result<(), ArchiveError> {
        if manifest.publishing.is_empty() {
            return Ok(());
        }
        let mut folders: Vec<PathBuf> = Vec::new();
        for Staged { staged, file } in &manifest.publishing {
            let (staged, published) = (self.dir.join(STAGING).join(staged), self.dir.join(file));
            let folder = published.parent().unwrap_or(&self.dir).to_owned();
            self.create_folder(&folder)?;
            if exists(&staged)? {
                self.rename(&staged, &published)?;
            } else if !exists(&published)? {
                let why = "it is named by _manifest.json but is in no folder; restore it from a copy";
                return Err(ArchiveError::corrupt(&published, why));
            }
            for folder in folder.ancestors().take_while(|folder| folder.starts_with(&self.dir)) {
                if !folders.iter().any(|known| known == folder) {
                    folders.push(folder.to_owned());
                }
            }
        }
        for folder in folders {
            self.sync_folder(&folder)?;
        }
        manifest.publishing.clear();
        self.commit(manifest)
    }

    /// Removes what unfinished publications left in `_staging`, but for what is prepared.
    fn clear_staging(&mut self, manifest: &Manifest) -> Result<(), ArchiveError> {
        let staging = self.dir.join(STAGING);
        let entries = fs::read_dir(&staging).map_err(|error| ArchiveError::io("listing", &staging, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| ArchiveError::io("listing", &staging, error))?;
            let (path, name) = (entry.path(), entry.file_name());
            let prepared = manifest.prepared.iter().flat_map(|prepared| &prepared.files);
            if prepared.into_iter().all(|file| *file.staged != *name) {
                fs::remove_file(&path).map_err(|error| ArchiveError::io("removing", &path, error))?;
            }
        }
        Ok(())
    }

    fn step<T>(
        &mut self,
        step: Step,
        what: &'static str,
        path: &Path,
        run: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, ArchiveError> {
        (self.probe)(step).and_then(|()| run()).map_err(|error| ArchiveError::io(what, path, error))
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), ArchiveError> {
        let mut file = self.step(Step::CreateFile, "creating", path, || File::create(path))?;
        self.step(Step::WriteFile, "writing", path, || file.write_all(bytes))?;
        self.step(Step::SyncFile, "syncing", path, || file.sync_all())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), ArchiveError> {
        self.step(Step::Rename, "publishing", to, || fs::rename(from, to))
    }

    fn create_folder(&mut self, path: &Path) -> Result<(), ArchiveError> {
        self.step(Step::CreateFolder, "creating", path, || fs::create_dir_all(path))
    }

    fn sync_folder(&mut self, path: &Path) -> Result<(), ArchiveError> {
        self.step(Step::SyncFolder, "syncing", path, || File::open(path)?.sync_all())
    }

    /// Syncs the folders above the source's, which may be new.
    fn sync_upwards(&mut self) -> Result<(), ArchiveError> {
        let above: Vec<PathBuf> = self.dir.ancestors().skip(1).take(2).map(Path::to_owned).collect();
        above.iter().filter(|folder| !folder.as_os_str().is_empty()).try_for_each(|folder| self.sync_folder(folder))
    }
}

impl std::fmt::Debug for SourceFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceFolder").field("dir", &self.dir).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

fn told(owner: &Owner) -> String {
    let Owner { namespace, source, incarnation } = owner;
    format!("source '{source}' ({incarnation}) in namespace '{namespace}'")
}

fn read_manifest(path: &Path) -> Result<Option<Manifest>, ArchiveError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ArchiveError::io("reading", path, error)),
    };
    let damaged = |why: String| {
        ArchiveError::corrupt(path, format!("{why}; restore it, or move its folder away to begin a new archive"))
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(damaged(format!("its format is {}, this version writes {FORMAT}", manifest.format)));
    }
    Ok(Some(manifest))
}

/// Whether any stream has a folder here.
fn has_files(dir: &Path) -> Result<bool, ArchiveError> {
    let listed = |error| ArchiveError::io("listing", dir, error);
    for entry in fs::read_dir(dir).map_err(listed)? {
        if entry.map_err(listed)?.file_name().to_string_lossy().starts_with("stream=") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn exists(path: &Path) -> Result<bool, ArchiveError> {
    path.try_exists().map_err(|error| ArchiveError::io("looking for", path, error))
}
