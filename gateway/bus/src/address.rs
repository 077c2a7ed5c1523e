//! Where a socket is: a path that was checked, and nng's spelling of it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::BusError;

/// `sun_path` of a Unix socket address holds 108 bytes, the closing NUL among them (unix(7)).
pub const PATH_LIMIT: usize = 107;

/// A path that a socket can have.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Address {
    path: PathBuf,
    url: String,
}

impl Address {
    pub(crate) fn new(path: &Path) -> Result<Self, BusError> {
        let bytes = path.as_os_str().len();
        if bytes > PATH_LIMIT {
            return Err(BusError::PathTooLong {
                path: path.to_owned(),
                bytes,
                limit: PATH_LIMIT,
            });
        }
        match path.to_str() {
            Some(text) if !text.is_empty() && !text.contains('\0') => Ok(Self {
                path: path.to_owned(),
                url: format!("ipc://{text}"),
            }),
            _ => Err(BusError::PathUnusable {
                path: path.to_owned(),
            }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn failed(&self, source: nng::Error) -> BusError {
        let path = self.path.clone();
        match source {
            nng::Error::AddressInUse => BusError::InUse { path },
            nng::Error::SystemErr(code) => {
                let source = std::io::Error::from_raw_os_error(code.cast_signed());
                BusError::File { path, source }
            }
            nng::Error::PermissionDenied => BusError::File {
                path,
                source: std::io::ErrorKind::PermissionDenied.into(),
            },
            nng::Error::EntryNotFound => BusError::File {
                path,
                source: std::io::ErrorKind::NotFound.into(),
            },
            source => BusError::Socket { path, source },
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_longest_path_is_107_bytes() {
        let longest = format!("/{}", "a".repeat(PATH_LIMIT - 1));
        assert_eq!(
            Address::new(Path::new(&longest)).unwrap().url(),
            format!("ipc://{longest}")
        );
        let longer = format!("{longest}a");
        match Address::new(Path::new(&longer)) {
            Err(BusError::PathTooLong {
                bytes: 108,
                limit: 107,
                ..
            }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_that_are_no_addresses() {
        for path in ["", "/run/a\0b"] {
            assert!(matches!(
                Address::new(Path::new(path)),
                Err(BusError::PathUnusable { .. })
            ));
        }
    }
}
