//! Where a password is read from when the process starts.

use std::path::{Path, PathBuf};

use interdict_features::config::Section;

/// Where the password is read from when the process starts; never from the configuration itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PasswordSource {
    /// The server asks for none.
    None,
    /// An environment variable.
    Environment(String),
    /// A file, relative to the configuration; white space around its text is left out.
    File(PathBuf),
}

/// A password that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The variable is not set.
    #[error("the environment has no {variable}; set it to the password: the configuration names it")]
    NoVariable {
        /// Its name.
        variable: String,
    },
    /// The file cannot be read.
    #[error("the password in {} cannot be read: {source}; see that the file exists and that this user may read it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl PasswordSource {
    /// The same, with a file's path taken from `folder`.
    pub fn locate(&mut self, folder: &Path) {
        if let Self::File(path) = self {
            *path = folder.join(&*path);
        }
    }

    /// Reads the password; `environment` gives the values of variables.
    ///
    /// # Errors
    /// The variable is not set or the file cannot be read.
    pub fn load(&self, environment: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, PasswordError> {
        match self {
            Self::None => Ok(None),
            Self::Environment(variable) => {
                let missing = || PasswordError::NoVariable { variable: variable.clone() };
                Ok(Some(environment(variable).ok_or_else(missing)?))
            }
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| PasswordError::File { path: path.clone(), source })?;
                Ok(Some(text.trim().to_owned()))
            }
        }
    }
}

/// Reads `password_env` and `password_file`.
pub fn read(section: &Section<'_>) -> PasswordSource {
    if section.has("password") {
        section.know("password");
        section.report(
            "password",
            "a password does not belong into the configuration",
            "write password_env = \"NAME\" or password_file = \"PATH\"",
        );
    }
    match (section.text("password_env"), section.text("password_file")) {
        (Some(_), Some(_)) => {
            section.report("password_env", "both 'password_env' and 'password_file'", "write one of them");
            PasswordSource::None
        }
        (Some(name), None) => PasswordSource::Environment(name),
        (None, Some(path)) => PasswordSource::File(path.into()),
        (None, None) => PasswordSource::None,
    }
}
