//! The configuration file that an empty root begins with: read, decoded strictly, planned - or refused with the paths
//! and reasons.
//!
//! Certificates and keys that the configuration names as files are read here, because planning is pure. A relative
//! name is looked for beside the configuration.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use culvert_model::config::Config;
use culvert_model::decode::{self, DecodeErrors};
use culvert_model::plan::{DigestKey, Plan, PlanErrors, plan};
use thiserror::Error;
use zeroize::Zeroizing;

/// Larger than any chain of certificates.
const LONGEST_FILE: u64 = 1 << 20;

/// Why a configuration is refused. Nothing is started or changed then.
#[derive(Debug, Error)]
pub enum ConfigurationError {
    /// The file itself.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is in it.
    #[error("{}:\n{source}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Each with its path in the configuration.
        source: DecodeErrors,
    },
    /// A file that it names.
    #[error("{at}: cannot read {}: {source}", path.display())]
    Credential {
        /// The path in the configuration.
        at: String,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What does not fit together.
    #[error("{}:\n{source}", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// Each with its path in the configuration.
        source: PlanErrors,
    },
}

/// Reads a configuration file and the files it names; with it what would be followed.
///
/// The plan is for being looked at before anything is stored: its digests of secrets are of no key in particular.
pub fn load(path: &Path) -> Result<(Config, Plan), ConfigurationError> {
    let config = read_whole(path)?;
    let plan =
        plan(&config, &DigestKey::new([0; 32])).map_err(|source| ConfigurationError::Plan {
            path: path.to_owned(),
            source,
        })?;
    Ok((config, plan))
}

fn read_whole(path: &Path) -> Result<Config, ConfigurationError> {
    let text = read(path).map_err(|source| ConfigurationError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut config =
        decode::config_from_json(&text).map_err(|source| ConfigurationError::Decode {
            path: path.to_owned(),
            source,
        })?;
    let beside = path.parent().unwrap_or(Path::new("."));
    read_credentials(&mut config, beside)?;
    Ok(config)
}

fn read_credentials(config: &mut Config, beside: &Path) -> Result<(), ConfigurationError> {
    let Some(credentials) = &mut config.credentials else {
        return Ok(());
    };
    let certificates = credentials.certificates.iter_mut().map(|item| {
        (
            "certificates",
            item.name.clone(),
            &mut item.pem,
            &mut item.file,
        )
    });
    let authorities = credentials.ca_certificates.iter_mut().map(|item| {
        (
            "ca_certificates",
            item.name.clone(),
            &mut item.pem,
            &mut item.file,
        )
    });
    let keys = credentials.private_keys.iter_mut().map(|item| {
        (
            "private_keys",
            item.name.clone(),
            &mut item.pem,
            &mut item.file,
        )
    });
    for (list, name, pem, file) in certificates.chain(authorities).chain(keys) {
        // Both given is for the plan to refuse.
        if pem.is_some() {
            continue;
        }
        let Some(named) = file.take() else {
            continue;
        };
        let path = beside.join(named);
        let refused = |source| ConfigurationError::Credential {
            at: format!("credentials.{list}[{}].file", name.unwrap_or_default()),
            path: path.clone(),
            source,
        };
        let bytes = match fs::metadata(&path) {
            Ok(found) if found.len() > LONGEST_FILE => {
                return Err(refused(io::Error::from(io::ErrorKind::FileTooLarge)));
            }
            _ => read(&path),
        };
        let text = bytes.and_then(|bytes| match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it is not PEM")),
        });
        *pem = Some(text.map_err(refused)?);
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    fs::read(path).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn load_text(text: &str) -> Result<Plan, ConfigurationError> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("config.json");
        fs::write(&path, text).unwrap();
        fs::write(place.path().join("ca.pem"), "no certificate").unwrap();
        load(&path).map(|(_, plan)| plan)
    }

    #[test]
    fn an_error_names_its_path_and_its_reason() {
        let error = load_text(r#"{"interfaces": [{"name": "wan", "mtuu": 1400}]}"#).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ConfigurationError::Decode { .. }));
        assert!(
            text.contains("interfaces") && text.contains("mtuu") && text.contains("mtu"),
            "{text}"
        );
    }

    #[test]
    fn a_credential_file_is_looked_for_beside_the_configuration() {
        let with = |file: &str| {
            load_text(&format!(
                r#"{{"credentials": {{"ca_certificates": [{{"name": "ca", "file": "{file}"}}]}}}}"#
            ))
            .unwrap_err()
        };
        // Found and read: it is the plan that refuses what is in it.
        let error = with("ca.pem");
        assert!(matches!(error, ConfigurationError::Plan { .. }), "{error}");
        let error = with("missing.pem").to_string();
        assert!(
            error.contains("credentials.ca_certificates[ca].file"),
            "{error}"
        );
    }
}
