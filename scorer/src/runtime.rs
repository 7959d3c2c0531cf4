//! The ONNX Runtime library, loaded once per process.
//!
//! Invariant: nothing is downloaded here. Where the library is missing, the message names the command that fetches it.

use std::path::{Path, PathBuf};

use ort::environment::Environment;

/// The release of ONNX Runtime that golden vectors are checked against in our own tests; `make onnxruntime` fetches it.
pub const LIBRARY_VERSION: &str = "1.31.1";

/// The environment variable that names the library's file.
pub const LIBRARY_VARIABLE: &str = "INTERDICT_ONNXRUNTIME";

/// Why ONNX Runtime cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The library's file is nowhere.
    #[error(
        "the ONNX Runtime library is missing (looked at {}); run `make onnxruntime`, or name its file in {LIBRARY_VARIABLE}",
        list(.tried)
    )]
    Missing {
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// The file is no library that can be loaded.
    #[error(
        "{path} cannot be loaded as ONNX Runtime {LIBRARY_VERSION}: {reason}; run `make onnxruntime` to fetch it anew"
    )]
    Unloadable {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The library refused to start.
    #[error("ONNX Runtime did not start: {0}")]
    Start(#[from] ort::Error),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The loaded library. Cheap to clone; sessions keep it alive.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
}

impl Runtime {
    /// Finds the library's file: `named` (the value of [`LIBRARY_VARIABLE`]) if given, otherwise the first
    /// `FOLDER/.onnxruntime/libonnxruntime.so.VERSION` of `folders` that exists.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`] with every place looked at. A `named` file that does not exist is an error even
    /// where another one would be found.
    pub fn locate(named: Option<&Path>, folders: &[&Path]) -> Result<PathBuf, RuntimeError> {
        let file = format!("libonnxruntime.so.{LIBRARY_VERSION}");
        let tried: Vec<PathBuf> = match named {
            Some(path) => vec![path.to_owned()],
            None => folders.iter().map(|folder| folder.join(".onnxruntime").join(&file)).collect(),
        };
        match tried.iter().find(|path| path.is_file()) {
            Some(found) => Ok(found.clone()),
            None => Err(RuntimeError::Missing { tried }),
        }
    }

    /// Loads the library at `path`. Takes some 30 ms the first time; a process keeps the first library it loaded.
    ///
    /// # Errors
    /// [`RuntimeError::Missing`], [`RuntimeError::Unloadable`] for a file of another kind or release,
    /// [`RuntimeError::Start`].
    pub fn load(path: &Path) -> Result<Self, RuntimeError> {
        if !path.is_file() {
            return Err(RuntimeError::Missing { tried: vec![path.to_owned()] });
        }
        let builder = ort::init_from(path)
            .map_err(|error| RuntimeError::Unloadable { path: path.to_owned(), reason: error.to_string() })?;
        Ok(Self { environment: builder.with_name("interdict").with_telemetry(false).build()? })
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}
