//! Bundles: a folder with a model, what it is to be fed, its thresholds and the proof that it runs as it was trained.
//!
//! Layout: `bundle.toml` (read by [`manifest`]), and the files it names in the same folder: the model, golden vectors
//! ([`golden`]) and a reference sample. The bundle's hash is SHA-256 over its files in order of name, each as
//! name, a zero byte, its length as 8 bytes big-endian, its bytes.
//!
//! Invariant: the bytes that were hashed are the bytes that are used; a folder that changes later changes nothing here.

pub mod golden;
pub mod manifest;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interdict_features::config::Problems;
use sha2::{Digest, Sha256};

use golden::{Golden, GoldenError};
use manifest::Manifest;

/// The name of the file that describes the others.
pub const MANIFEST_NAME: &str = "bundle.toml";
/// The largest model taken, in bytes: a forest of 10,000 deep trees fits twice.
pub const MODEL_BYTES_MAX: u64 = 512 << 20;
/// The largest file beside the model that is held in memory: 200 vectors of 4,000 values fit.
const TEXT_BYTES_MAX: u64 = 32 << 20;
/// The most files a bundle's folder may hold.
const FILES_MAX: usize = 64;

/// Why a folder is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// There is no such folder.
    #[error("there is no bundle at {path}; name a folder that holds {MANIFEST_NAME}")]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A file that belongs to the bundle is missing.
    #[error("the bundle at {folder} has no {file}; copy the whole folder that training wrote")]
    MissingFile {
        /// The bundle's folder.
        folder: PathBuf,
        /// The file.
        file: String,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than is taken.
    #[error("{path} is larger than {limit} bytes, the most that is taken")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// The folder holds more files than a bundle has.
    #[error("{path} holds more than {FILES_MAX} files; a bundle is a folder of its own")]
    TooManyFiles {
        /// The folder.
        path: PathBuf,
    },
    /// `bundle.toml` has mistakes.
    #[error("{0}")]
    Manifest(#[from] Problems),
    /// The golden vectors are not as they must be.
    #[error("{path}: {source}")]
    Golden {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: GoldenError,
    },
}

/// A bundle as it was read from its folder; not yet known to fit anything.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What `bundle.toml` says.
    pub manifest: Manifest,
    /// SHA-256 over its files, hex.
    pub hash: String,
    /// The model's bytes.
    pub model: Arc<[u8]>,
    /// Vectors with the scores and outcomes they must have.
    pub golden: Golden,
    /// Where the reference sample stands.
    pub reference: PathBuf,
}

impl Bundle {
    /// Reads and checks the bundle in `folder`. Files whose names begin with a dot and folders are left out.
    ///
    /// # Errors
    /// As [`BundleError`] says; all mistakes of `bundle.toml` at once.
    pub fn load(folder: &Path) -> Result<Self, BundleError> {
        let names = file_names(folder)?;
        let manifest_path = folder.join(MANIFEST_NAME);
        if !names.iter().any(|name| name == MANIFEST_NAME) {
            return Err(BundleError::MissingFile { folder: folder.to_owned(), file: MANIFEST_NAME.to_owned() });
        }
        let manifest_bytes = read_whole(&manifest_path, TEXT_BYTES_MAX)?;
        let manifest = Manifest::read(&manifest_path.display().to_string(), &String::from_utf8_lossy(&manifest_bytes))?;
        for file in [&manifest.model, &manifest.golden, &manifest.reference] {
            if !names.contains(file) {
                return Err(BundleError::MissingFile { folder: folder.to_owned(), file: file.clone() });
            }
        }
        let model = read_whole(&folder.join(&manifest.model), MODEL_BYTES_MAX)?;
        let golden_path = folder.join(&manifest.golden);
        let golden_bytes = read_whole(&golden_path, TEXT_BYTES_MAX)?;
        let mut digest = Sha256::new();
        for name in &names {
            match name {
                name if name == MANIFEST_NAME => hash_bytes(&mut digest, name, &manifest_bytes),
                name if *name == manifest.model => hash_bytes(&mut digest, name, &model),
                name if *name == manifest.golden => hash_bytes(&mut digest, name, &golden_bytes),
                name => hash_file(&mut digest, name, &folder.join(name))?,
            }
        }
        let golden = Golden::read(&golden_bytes, manifest.inputs.len())
            .map_err(|source| BundleError::Golden { path: golden_path, source })?;
        let reference = folder.join(&manifest.reference);
        Ok(Self { hash: hex(&digest.finalize()), model: model.into(), golden, reference, manifest })
    }
}

/// The names of the files of a bundle's folder, ascending.
fn file_names(folder: &Path) -> Result<Vec<String>, BundleError> {
    if !folder.is_dir() {
        return Err(BundleError::NoFolder { path: folder.to_owned() });
    }
    let unreadable = |source| BundleError::Io { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || entry.path().is_dir() {
            continue;
        }
        if names.len() == FILES_MAX {
            return Err(BundleError::TooManyFiles { path: folder.to_owned() });
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

fn read_whole(path: &Path, limit: u64) -> Result<Vec<u8>, BundleError> {
    let unreadable = |source| BundleError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    let read = file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > limit {
        return Err(BundleError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

fn hash_bytes(digest: &mut Sha256, name: &str, bytes: &[u8]) {
    digest.update(name.as_bytes());
    digest.update([0]);
    digest.update((bytes.len() as u64).to_be_bytes());
    digest.update(bytes);
}

fn hash_file(digest: &mut Sha256, name: &str, path: &Path) -> Result<(), BundleError> {
    let unreadable = |source| BundleError::Io { path: path.to_owned(), source };
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    digest.update(name.as_bytes());
    digest.update([0]);
    digest.update(length.to_be_bytes());
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut chunk).map_err(unreadable)?;
        if read == 0 {
            return Ok(());
        }
        digest.update(&chunk[..read]);
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}
