//! A configuration in a file, and the files that it names.
//!
//! The decoder and `plan()` do no I/O; this does: it reads the document, and puts the text of every
//! certificate and key that is named by its file where the text itself could have stood.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::Config;
use crate::decode::{self, DecodeErrors, path};

/// Longest certificate or key, in bytes: what the schema allows as text.
const MAX_CREDENTIAL_BYTES: u64 = 65_536;

/// Why a configuration could not be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The document itself.
    #[error("{}: {source}", file.display())]
    Read {
        /// Its name.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What it says.
    #[error("{errors}")]
    Decode {
        /// All that is wrong.
        errors: DecodeErrors,
    },
    /// A file that it names.
    #[error("{path}: {}: {source}", file.display())]
    Credential {
        /// Where it is named in the configuration.
        path: String,
        /// Its name.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Reads a configuration in JSON. Relative names of files are relative to its folder.
pub fn load(file: &Path) -> Result<Config, LoadError> {
    let limit = decode::MAX_BYTES as u64 + 1;
    let text = read(file, limit).map_err(|source| LoadError::Read {
        file: file.to_owned(),
        source,
    })?;
    let mut config =
        decode::config_from_json(&text).map_err(|errors| LoadError::Decode { errors })?;
    let folder = file.parent().unwrap_or(Path::new("."));
    read_credentials(&mut config, folder)?;
    Ok(config)
}

/// Puts the text of each certificate and key in place of the name of its file. One that has both is left
/// as it is for `plan()` to refuse.
pub fn read_credentials(config: &mut Config, folder: &Path) -> Result<(), LoadError> {
    let Some(credentials) = &mut config.credentials else {
        return Ok(());
    };
    for item in &mut credentials.certificates {
        inline(
            "certificates",
            item.name().to_owned(),
            &mut item.pem,
            &mut item.file,
            folder,
        )?;
    }
    for item in &mut credentials.ca_certificates {
        inline(
            "ca_certificates",
            item.name().to_owned(),
            &mut item.pem,
            &mut item.file,
            folder,
        )?;
    }
    for item in &mut credentials.private_keys {
        inline(
            "private_keys",
            item.name().to_owned(),
            &mut item.pem,
            &mut item.file,
            folder,
        )?;
    }
    Ok(())
}

fn inline(
    list: &str,
    name: String,
    pem: &mut Option<String>,
    file: &mut Option<String>,
    folder: &Path,
) -> Result<(), LoadError> {
    let Some(named) = file.as_ref().filter(|_| pem.is_none()) else {
        return Ok(());
    };
    let full = folder.join(named);
    let text = read(&full, MAX_CREDENTIAL_BYTES).and_then(|bytes| {
        std::str::from_utf8(&bytes)
            .map(str::to_owned)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    });
    match text {
        Ok(text) => {
            *pem = Some(text);
            *file = None;
            Ok(())
        }
        Err(source) => Err(LoadError::Credential {
            path: path::field(
                &path::item(&path::field("credentials", list), &[name], 0),
                "file",
            ),
            file: full,
            source,
        }),
    }
}

/// At most `limit` bytes of a file, wiped on drop: it may hold secrets.
fn read(file: &Path, limit: u64) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let opened = std::fs::File::open(file)?;
    // Room for all of it at once: a vector that grows leaves copies behind.
    let size = opened.metadata()?.len().min(limit);
    let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    opened.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("culvert-model-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn files_are_read_in_place() {
        let folder = folder("inline");
        let document = folder.join("gateway.json");
        std::fs::write(
            &document,
            r#"{"credentials": {"private_keys": [{"name": "own", "file": "own.pem"}]}}"#,
        )
        .unwrap();
        let error = load(&document).unwrap_err().to_string();
        assert!(
            error.starts_with("credentials.private_keys[own].file: "),
            "{error}"
        );
        assert!(error.contains("own.pem"), "{error}");
        std::fs::write(folder.join("own.pem"), "-----BEGIN PRIVATE KEY-----").unwrap();
        let config = load(&document).unwrap();
        let key = &config.credentials.as_ref().unwrap().private_keys[0];
        assert_eq!(key.pem(), "-----BEGIN PRIVATE KEY-----");
        assert_eq!(key.file, None);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_missing_document_is_named() {
        let error = load(Path::new("/nonexistent/gateway.json")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/gateway.json: "));
    }
}
