//! Who speaks: the key that somebody logs in with. Everybody is the same Unix user; the key tells the gateway who it is.
//!
//! ```text
//!   --identity FILE ──┬─ the agent holds it (FILE.pub)   the agent signs
//!                     └─ else                            FILE, with its passphrase if it has one
//!   nothing said ─────┬─ the agent's keys, as it lists them
//!                     └─ ~/.ssh/id_ed25519, id_ecdsa, id_rsa
//! ```
//!
//! A key that is named is the only one that is offered: it might be somebody else's turn to speak otherwise.

use std::env;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding as _};
use ssh2::{ErrorCode, Session};
use zeroize::Zeroizing;

use crate::deadline::{Deadline, Late};
use crate::terminal;

/// The Unix account of everybody.
const ACCOUNT: &str = "culvert";
/// Below the home, as ssh has them.
const USUAL: [&str; 3] = [".ssh/id_ed25519", ".ssh/id_ecdsa", ".ssh/id_rsa"];
/// sshd takes six tries of a connection; one is left for a file.
const FROM_AGENT: usize = 5;
/// How often a passphrase is asked for.
const TRIES: usize = 3;
/// A larger file holds no key.
const LARGEST: u64 = 1 << 20;
/// `LIBSSH2_ERROR_AUTHENTICATION_FAILED` and `LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED`: the gateway does not want the key.
const NOT_WANTED: [i32; 2] = [-18, -19];

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// None of the keys is anybody's there.
    #[error("the gateway knows none of these keys: {}. Which it knows is in `system users`; --identity names another", .0.join(", "))]
    NotWanted(Vec<String>),
    /// There is nothing to log in with.
    #[error(
        "there is no key to log in with: no agent has one, and there is none of {}; --identity names one",
        .0.join(", ")
    )]
    None(Vec<String>),
    /// A file.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others could have read it.
    #[error("{}: others may read this key (mode {mode:04o}): `chmod 600` it, or better make a new one", file.display())]
    Open {
        /// Which.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Nobody is there who could be asked.
    #[error("{} has a passphrase, and there is no terminal to ask for it: `ssh-add {}` gives it to an agent", .0.display(), .0.display())]
    NoTerminal(PathBuf),
    /// It was wrong every time.
    #[error("this is not the passphrase of {}", .0.display())]
    Passphrase(PathBuf),
    /// The public half was given.
    #[error("{} is the public half of a key: --identity names the private one", .0.display())]
    Public(PathBuf),
    /// libssh2 could not use it.
    #[error("{what}: {source}")]
    Library {
        /// Which key.
        what: String,
        /// What it said.
        source: ssh2::Error,
    },
    /// It took too long.
    #[error(transparent)]
    Late(#[from] Late),
}

/// A private key as its file has it.
struct Key {
    file: PathBuf,
    text: Zeroizing<String>,
    encrypted: bool,
}

/// Logs in; answers with which key.
pub fn authenticate(
    session: &Session,
    chosen: Option<&Path>,
    home: &Path,
    deadline: Deadline,
) -> Result<String, IdentityError> {
    let mut refused = Vec::new();
    let wanted = match chosen {
        // Also read when the agent has it: who names a file that is not there means another.
        Some(file) => Some((Key::read(file)?, public_half(file))),
        None => None,
    };
    if let Some(by) = by_agent(session, wanted.as_ref(), deadline, &mut refused)? {
        return Ok(by);
    }
    let keys: Vec<Key> = match wanted {
        Some((key, _)) => vec![key],
        None => USUAL
            .iter()
            .map(|name| home.join(name))
            .filter(|file| file.exists())
            .map(|file| Key::read(&file))
            .collect::<Result<_, _>>()?,
    };
    for key in &keys {
        if key.log_in(session, deadline)? {
            return Ok(key.file.display().to_string());
        }
        refused.push(key.file.display().to_string());
    }
    Err(if refused.is_empty() {
        IdentityError::None(USUAL.map(|name| format!("~/{name}")).to_vec())
    } else {
        IdentityError::NotWanted(refused)
    })
}

/// With a key that the agent holds, if there is an agent.
fn by_agent(
    session: &Session,
    wanted: Option<&(Key, Option<Vec<u8>>)>,
    deadline: Deadline,
    refused: &mut Vec<String>,
) -> Result<Option<String>, IdentityError> {
    if env::var_os("SSH_AUTH_SOCK").is_none_or(|socket| socket.is_empty()) {
        return Ok(None);
    }
    let Ok(mut agent) = session.agent() else {
        return Ok(None);
    };
    // One that is gone is none.
    if agent.connect().is_err() || agent.list_identities().is_err() {
        return Ok(None);
    }
    let identities = agent.identities().unwrap_or_default();
    let chosen = identities.iter().filter(|identity| match wanted {
        None => true,
        Some((_, Some(public))) => identity.blob() == public,
        Some((_, None)) => false,
    });
    for identity in chosen.take(FROM_AGENT) {
        let what = format!("{} of the agent", identity.comment());
        session.set_timeout(deadline.milliseconds()?);
        match agent.userauth(ACCOUNT, identity) {
            Ok(()) => return Ok(Some(what)),
            Err(source) => match deadline.late(&source) {
                Some(late) => return Err(late.into()),
                // An agent that will not sign is no reason to end, unless the connection did.
                None if source.code() == ErrorCode::Session(-13) => {
                    return Err(IdentityError::Library { what, source });
                }
                None => refused.push(what),
            },
        }
    }
    Ok(None)
}

/// What is beside a private key, as the agent would list it.
fn public_half(file: &Path) -> Option<Vec<u8>> {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    let text = read(Path::new(&name)).ok()?;
    Base64::decode_vec(text.split_ascii_whitespace().nth(1)?).ok()
}

fn read(file: &Path) -> io::Result<Zeroizing<String>> {
    let opened = File::open(file)?;
    let length = opened.metadata()?.len();
    if length > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    // All at once: nothing of it is left behind where it was too small.
    let mut text = Zeroizing::new(String::with_capacity(
        usize::try_from(length).unwrap_or(0) + 1,
    ));
    opened.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

impl Key {
    fn read(file: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::File {
            file: file.to_owned(),
            source,
        };
        let found = file.metadata().map_err(failed)?;
        let mode = found.permissions().mode() & 0o7777;
        let text = read(file).map_err(failed)?;
        if !text.contains("PRIVATE KEY-----") && text.split(' ').nth(1).is_some() {
            return Err(IdentityError::Public(file.to_owned()));
        }
        // As ssh has it: a matter of one's own keys.
        if mode & 0o077 != 0 && found.uid() == nix::unistd::getuid().as_raw() {
            return Err(IdentityError::Open {
                file: file.to_owned(),
                mode,
            });
        }
        Ok(Self {
            file: file.to_owned(),
            encrypted: is_encrypted(&text),
            text,
        })
    }

    /// Whether the gateway lets whoever has this key in.
    fn log_in(&self, session: &Session, deadline: Deadline) -> Result<bool, IdentityError> {
        if !self.encrypted {
            return self.attempt(session, None, deadline);
        }
        for _ in 0..TRIES {
            let question = format!("Passphrase of {}: ", self.file.display());
            let passphrase = terminal::secret(&question)
                .map_err(|_| IdentityError::NoTerminal(self.file.clone()))?;
            match self.attempt(session, Some(&passphrase), deadline) {
                // Whatever else: libssh2 does not tell a wrong passphrase from a key that it cannot read.
                Err(IdentityError::Library { source, .. })
                    if source.code() != ErrorCode::Session(-13) => {}
                outcome => return outcome,
            }
        }
        Err(IdentityError::Passphrase(self.file.clone()))
    }

    fn attempt(
        &self,
        session: &Session,
        passphrase: Option<&str>,
        deadline: Deadline,
    ) -> Result<bool, IdentityError> {
        session.set_timeout(deadline.milliseconds()?);
        match session.userauth_pubkey_memory(ACCOUNT, None, &self.text, passphrase) {
            Ok(()) => Ok(true),
            Err(source) => match (deadline.late(&source), source.code()) {
                (Some(late), _) => Err(late.into()),
                (None, ErrorCode::Session(code)) if NOT_WANTED.contains(&code) => Ok(false),
                (None, _) => Err(IdentityError::Library {
                    what: self.file.display().to_string(),
                    source,
                }),
            },
        }
    }
}

/// Whether a passphrase is needed: said in PEM by a header, by OpenSSH's own format in the name of its cipher.
fn is_encrypted(text: &str) -> bool {
    const MAGIC: &[u8] = b"openssh-key-v1\0";
    if !text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        return text.contains("ENCRYPTED");
    }
    // 48 characters are 36 bytes: the magic, a length, and more than `none`.
    let start: String = text
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .flat_map(str::chars)
        .take(48)
        .collect();
    let decoded = Base64::decode_vec(&start).unwrap_or_default();
    decoded
        .strip_prefix(MAGIC)
        .is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;
    use std::process::Command;

    use super::*;

    fn made(arguments: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-f"])
            .arg(&file)
            .args(arguments)
            .output();
        assert!(made.unwrap().status.success());
        (folder, file)
    }

    #[test]
    fn a_key_says_whether_it_needs_a_passphrase() {
        for (arguments, encrypted) in [
            (&["-t", "ed25519", "-N", ""][..], false),
            (&["-t", "ed25519", "-N", "open sesame"], true),
            (&["-t", "ecdsa", "-m", "PEM", "-N", ""], false),
            (&["-t", "ecdsa", "-m", "PEM", "-N", "open sesame"], true),
            (&["-t", "ecdsa", "-m", "PKCS8", "-N", "open sesame"], true),
        ] {
            let (_folder, file) = made(arguments);
            assert_eq!(
                Key::read(&file).unwrap().encrypted,
                encrypted,
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn what_is_no_private_key_of_ones_own_is_refused() {
        let (_folder, file) = made(&["-t", "ed25519", "-N", ""]);
        let public = file.with_extension("pub");
        assert!(matches!(Key::read(&public), Err(IdentityError::Public(_))));
        assert!(
            public_half(&file)
                .unwrap()
                .starts_with(b"\0\0\0\x0bssh-ed25519")
        );
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Key::read(&file),
            Err(IdentityError::Open { mode: 0o644, .. })
        ));
        assert!(matches!(
            Key::read(Path::new("/nowhere/key")),
            Err(IdentityError::File { .. })
        ));
    }
}
