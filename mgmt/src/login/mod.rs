//! Logging in over SSH: what sshd is told, so that whoever comes in meets the command line and nothing else.
//!
//! ```text
//!   configuration ── render ──┬── ROOT/etc/ssh/authorized_keys   one line a key: restrict,pty,command="culvert cli ..."
//!     system.users            ├── ROOT/etc/ssh/sshd_config       no forwarding, no files, no environment, no passwords
//!     system.login            └── ROOT/etc/ssh/banner
//!     system.ssh_server
//!
//!   ssh ── sshd ── key ── passwd's shell of the account: culvert -c "culvert cli --root R --principal NAME --key K"
//!                                                           │  one process, no shell, may start nothing
//!                                                           └── ROOT/run/api ── mgmt: role of NAME
//! ```
//!
//! There is one Unix account, [`ACCOUNT`], for everybody. Its entry in passwd has three properties that this stands on:
//!
//! - Its shell is the `culvert` binary. sshd runs even a forced command as `SHELL -c COMMAND`; were SHELL a real shell,
//!   what the client chooses (`SSH_ORIGINAL_COMMAND`, `TERM`) would be in the environment of a shell, which has gone wrong
//!   before (CVE-2014-6271). `culvert -c` splits the text at blanks, knows `culvert cli` alone, and gives up `execve`.
//! - Its home is ROOT. sshd (`StrictModes`) looks at the owner and mode of every folder from the keys up to the home: all
//!   of them are root's, so that nobody who logs in can give himself keys, an environment or an rc file.
//! - It has no password (`*`, not `!`, which sshd takes for a locked account).
//!
//! The file of keys is world-readable: sshd reads it as the account. What is in it is no secret.
//!
//! sshd reads the keys at every login, so that who is removed cannot come in again; who is in already is unknown to mgmt
//! from then on, and the command line ends when it hears so. The same for one of several keys: a session says which one
//! it came in with.

mod files;
mod keys;
mod server;

use std::path::{Path, PathBuf};

pub use files::Writer;
pub use keys::{authorized_keys, fingerprint};
pub use server::{Settings, sshd_config};

/// The Unix account that everybody logs in as.
pub const ACCOUNT: &str = "culvert";
/// Of everything that sshd reads, below the root.
pub const FOLDER: &str = "etc/ssh";
/// Within [`FOLDER`]: the key by which the gateway is known. `culvert run` makes it before it starts sshd for the first time.
pub const HOST_KEY: &str = "ssh_host_ed25519_key";

const KEYS: &str = "authorized_keys";
/// Within [`FOLDER`]: what sshd is told; absent where there is to be no sshd.
pub const CONFIG: &str = "sshd_config";
const BANNER: &str = "banner";

/// Why sshd is not told.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// sshd's files have quotes, blanks and `%` of their own.
    #[error(
        "{} cannot be the root of a gateway that is logged in to: it must be absolute, of letters, digits and /._-+",
        path.display()
    )]
    Root {
        /// The path.
        path: PathBuf,
    },
    /// It would be more than a name in a command.
    #[error("{name:?} is no name of a user")]
    Name {
        /// As given.
        name: String,
    },
    /// It would be more than a key in a line.
    #[error("key {key:?} of user {user} is no public key of a kind that is accepted")]
    Key {
        /// Whose.
        user: String,
        /// What the key is called.
        key: String,
    },
    /// Somebody could not be told from somebody else.
    #[error("users {first} and {second} have the same key")]
    Shared {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// An address to listen on.
    #[error("{address:?} is no address")]
    Address {
        /// As given.
        address: String,
    },
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A root that stands for itself wherever it is written.
fn plain(root: &Path) -> Result<&str, LoginError> {
    root.to_str()
        .filter(|text| text.starts_with('/'))
        .filter(|text| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte))
        })
        .ok_or_else(|| LoginError::Root {
            path: root.to_owned(),
        })
}
