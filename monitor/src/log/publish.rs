//! Makes encoded files of a batch appear in their partitions, all or none, over a crash at any instant.
//!
//! Layout of the log's folder:
//! ```text
//! _lock            held by the one writer
//! _manifest.json   the next position, the files of the batch that is being published, and those that the store has not noted
//! _staging/        encoded files on their way; not part of the log
//! model=NAME/date=YYYY-MM-DD/hour=HH/FIRST-LAST.parquet
//! ```
//! Readers skip names that begin with `_`. The order of a publication:
//! 1. every file of the batch is written to `_staging` and synced, then `_staging` is synced;
//! 2. the manifest is replaced (`.tmp`, sync, rename, sync folder): it names the files and the position after the
//!    batch. **From here on the batch is published**;
//! 3. the files are renamed into their partitions, and every folder touched is synced;
//! 4. the manifest is replaced by one that publishes no files.
//!
//! The store that decisions come from notes what is published, and in which folder. The manifest names the files that it was not known to
//! have noted when they were published: should another folder hold the same decisions by then, they are withdrawn, the manifest first.
//!
//! Invariants:
//! - Before step 2 nothing of the batch is in a partition, so its records can be batched anew in any other way.
//! - After step 2 every file of the batch is in its partition or complete in `_staging`; opening finishes step 3.
//! - A staged file that the manifest may name is never written again.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::partition::last_position;
use crate::error::MonitorError;

const MANIFEST: &str = "_manifest.json";
const STAGING: &str = "_staging";
const LOCK: &str = "_lock";
const FORMAT: u32 = 1;

/// Tries for the lock, and the time between two of them: a child process that is just being started holds a copy of the lock of a log that
/// was closed meanwhile.
const LOCK_TRIES: usize = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(4);

/// A step of a publication, told to the probe before it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    CreateFile,
    WriteFile,
    SyncFile,
    Rename,
    RemoveFile,
    CreateFolder,
    SyncFolder,
}

/// Called before every step: an error stands for the step failing. Tests put crashes and full disks here.
pub(crate) type Probe = Box<dyn FnMut(Step) -> io::Result<()> + Send>;

/// One encoded file of a batch.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Folder relative to the log's.
    pub(crate) folder: String,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    /// Every record before it is in a partition, in a file named below, or in another folder.
    next_position: u64,
    /// Files of the batch being published: where they belong, relative to the log's folder.
    publishing: Vec<String>,
    /// This folder among those that the decisions of a store were written to.
    #[serde(default = "Uuid::new_v4")]
    folder: Uuid,
    /// What the store was not known to have noted when it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unnoted: Option<Unnoted>,
    /// Files on their way out: another folder holds their records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    withdrawing: Vec<String>,
}

impl Manifest {
    fn new() -> Self {
        Self {
            format: FORMAT,
            next_position: 0,
            publishing: Vec::new(),
            folder: Uuid::new_v4(),
            unnoted: None,
            withdrawing: Vec::new(),
        }
    }
}

/// Published and maybe not noted by the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Unnoted {
    /// Every record before it is noted.
    from: u64,
    /// The files behind it.
    files: Vec<String>,
}

/// How far the publication of a batch has come; each stage may be tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    Encoded,
    Staged,
    Committed,
}

pub(crate) struct Publisher {
    dir: PathBuf,
    probe: Probe,
    manifest: Manifest,
    /// The position before which the store has noted every record.
    noted: u64,
    _lock: File,
}

impl Publisher {
    /// Takes the folder for this process and finishes what a crash interrupted.
    pub(crate) fn open(dir: &Path, probe: Probe) -> Result<Self, MonitorError> {
        let staging = dir.join(STAGING);
        fs::create_dir_all(&staging).map_err(|error| MonitorError::io("creating", &staging, error))?;
        let lock = lock(dir)?;
        let manifest = read_manifest(dir)?;
        let noted = manifest.unnoted.as_ref().map_or(manifest.next_position, |unnoted| unnoted.from);
        let mut publisher = Self { dir: dir.to_owned(), probe, manifest, noted, _lock: lock };
        publisher.roll_forward()?;
        publisher.remove_withdrawn()?;
        publisher.clear_staging()?;
        Ok(publisher)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn next_position(&self) -> u64 {
        self.manifest.next_position
    }

    /// What this folder is known by.
    pub(crate) fn folder(&self) -> Uuid {
        self.manifest.folder
    }

    /// The position before which the store has noted every record, as far as is known.
    pub(crate) fn noted(&self) -> u64 {
        self.noted
    }

    /// The store has noted every record before `position`.
    pub(crate) fn note(&mut self, position: u64) {
        self.noted = self.noted.max(position);
    }

    /// Takes out what the store has not noted, since another folder holds it, and goes on at `next_position`.
    pub(crate) fn withdraw(&mut self, next_position: u64) -> Result<(), MonitorError> {
        self.roll_forward()?;
        self.remove_withdrawn()?;
        let withdrawing = self.unnoted().files;
        let manifest = Manifest { next_position, unnoted: None, withdrawing, ..self.manifest.clone() };
        if manifest != self.manifest {
            self.commit(manifest)?;
        }
        self.noted = next_position;
        self.remove_withdrawn()
    }

    /// What is published and not noted.
    fn unnoted(&self) -> Unnoted {
        let is_unnoted = |file: &&String| last_position(file).is_none_or(|last| last >= self.noted);
        let published = self.manifest.unnoted.iter().flat_map(|unnoted| &unnoted.files);
        let files = published.filter(is_unnoted).cloned().collect();
        Unnoted { from: self.noted.min(self.manifest.next_position), files }
    }

    fn remove_withdrawn(&mut self) -> Result<(), MonitorError> {
        if self.manifest.withdrawing.is_empty() {
            return Ok(());
        }
        for file in self.manifest.withdrawing.clone() {
            let path = self.dir.join(&file);
            let remove = || match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _removed_or_gone_before => Ok(()),
            };
            self.step(Step::RemoveFile, "withdrawing", &path, remove)?;
            if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
                self.sync_folder(folder)?;
            }
        }
        self.commit(Manifest { withdrawing: Vec::new(), ..self.manifest.clone() })
    }

    /// Publishes `files`, after which every record before `next_position` is durable. `stage` says where an earlier
    /// try stopped and is advanced.
    pub(crate) fn publish(
        &mut self,
        files: &[Encoded],
        next_position: u64,
        stage: &mut Stage,
    ) -> Result<(), MonitorError> {
        if *stage == Stage::Encoded {
            self.stage(files)?;
            *stage = Stage::Staged;
        }
        if *stage == Stage::Staged {
            self.remove_withdrawn()?;
            let publishing: Vec<String> = files.iter().map(|file| format!("{}/{}", file.folder, file.name)).collect();
            let mut unnoted = self.unnoted();
            unnoted.files.extend_from_slice(&publishing);
            self.commit(Manifest { next_position, publishing, unnoted: Some(unnoted), ..self.manifest.clone() })?;
            *stage = Stage::Committed;
        }
        self.roll_forward()
    }

    fn stage(&mut self, files: &[Encoded]) -> Result<(), MonitorError> {
        let staging = self.dir.join(STAGING);
        for file in files {
            self.write(&staging.join(staged_name(&file.folder, &file.name)), &file.bytes)?;
        }
        self.sync_folder(&staging)
    }

    fn commit(&mut self, manifest: Manifest) -> Result<(), MonitorError> {
        let path = self.dir.join(MANIFEST);
        let temporary = self.dir.join(format!("{MANIFEST}.tmp"));
        self.write(&temporary, &serde_json::to_vec(&manifest)?)?;
        self.rename(&temporary, &path)?;
        let dir = self.dir.clone();
        self.sync_folder(&dir)?;
        self.manifest = manifest;
        Ok(())
    }

    /// Steps 3 and 4 for what the manifest names; nothing to do when it names nothing.
    fn roll_forward(&mut self) -> Result<(), MonitorError> {
        if self.manifest.publishing.is_empty() {
            return Ok(());
        }
        let mut folders = Vec::new();
        for file in self.manifest.publishing.clone() {
            let Some((folder, name)) = file.rsplit_once('/') else {
                return Err(corrupt(&self.dir.join(MANIFEST), &format!("'{file}' names no folder")));
            };
            let staged = self.dir.join(STAGING).join(staged_name(folder, name));
            let published = self.dir.join(&file);
            self.create_folder(folder)?;
            if exists(&staged)? {
                self.rename(&staged, &published)?;
            } else if !exists(&published)? {
                let why = "it is named by _manifest.json but is in no folder; restore it from a copy";
                return Err(corrupt(&published, why));
            }
            if !folders.iter().any(|known| known == folder) {
                folders.push(folder.to_owned());
            }
        }
        for folder in folders {
            self.sync_upwards(&folder)?;
        }
        self.commit(Manifest { publishing: Vec::new(), ..self.manifest.clone() })
    }

    /// Removes what an unfinished batch left in `_staging`.
    fn clear_staging(&mut self) -> Result<(), MonitorError> {
        let staging = self.dir.join(STAGING);
        let entries = fs::read_dir(&staging).map_err(|error| MonitorError::io("listing", &staging, error))?;
        for entry in entries {
            let path = entry.map_err(|error| MonitorError::io("listing", &staging, error))?.path();
            fs::remove_file(&path).map_err(|error| MonitorError::io("removing", &path, error))?;
        }
        Ok(())
    }

    fn step<T>(
        &mut self,
        step: Step,
        what: &'static str,
        path: &Path,
        run: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, MonitorError> {
        (self.probe)(step).and_then(|()| run()).map_err(|error| MonitorError::io(what, path, error))
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<(), MonitorError> {
        let mut file = self.step(Step::CreateFile, "creating", path, || File::create(path))?;
        self.step(Step::WriteFile, "writing", path, || file.write_all(bytes))?;
        self.step(Step::SyncFile, "syncing", path, || file.sync_all())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), MonitorError> {
        self.step(Step::Rename, "publishing", to, || fs::rename(from, to))
    }

    fn create_folder(&mut self, folder: &str) -> Result<(), MonitorError> {
        let path = self.dir.join(folder);
        self.step(Step::CreateFolder, "creating", &path, || fs::create_dir_all(&path))
    }

    fn sync_folder(&mut self, path: &Path) -> Result<(), MonitorError> {
        self.step(Step::SyncFolder, "syncing", path, || File::open(path)?.sync_all())
    }

    /// Syncs a partition's folder and those above it up to the log's, any of which may be new.
    fn sync_upwards(&mut self, folder: &str) -> Result<(), MonitorError> {
        let mut path = self.dir.join(folder);
        while path.starts_with(&self.dir) {
            self.sync_folder(&path)?;
            if !path.pop() {
                break;
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("dir", &self.dir).field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

/// The one name of a partition's file in `_staging`.
pub(super) fn staged_name(folder: &str, name: &str) -> String {
    format!("{}--{name}.tmp", Uuid::new_v5(&Uuid::NAMESPACE_OID, folder.as_bytes()))
}

fn lock(dir: &Path) -> Result<File, MonitorError> {
    let path = dir.join(LOCK);
    let file = File::create(&path).map_err(|error| MonitorError::io("creating", &path, error))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => pause(LOCK_PAUSE),
            Err(fs::TryLockError::Error(error)) => return Err(MonitorError::io("locking", &path, error)),
        }
    }
    Err(MonitorError::Locked { path: dir.to_owned() })
}

#[expect(clippy::disallowed_methods, reason = "nothing tells when another process lets go of a lock")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

fn read_manifest(dir: &Path) -> Result<Manifest, MonitorError> {
    let path = dir.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if super::read::has_files(dir)? {
                let why = "it is missing, yet the log holds files; restore it, or choose an empty [monitor] log_dir";
                Err(corrupt(&path, why))
            } else {
                Ok(Manifest::new())
            };
        }
        Err(error) => return Err(MonitorError::io("reading", &path, error)),
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| corrupt(&path, &error.to_string()))?;
    if manifest.format != FORMAT {
        let why = format!("its format is {}, this version writes {FORMAT}", manifest.format);
        return Err(corrupt(&path, &why));
    }
    Ok(manifest)
}

fn exists(path: &Path) -> Result<bool, MonitorError> {
    path.try_exists().map_err(|error| MonitorError::io("looking for", path, error))
}

fn corrupt(path: &Path, why: &str) -> MonitorError {
    MonitorError::Corrupt { path: path.to_owned(), why: why.to_owned() }
}
