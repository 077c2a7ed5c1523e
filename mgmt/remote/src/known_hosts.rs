//! Whether a gateway is who it is taken for: its host key, and what the files of known hosts (sshd(8)) say of it.
//!
//! ```text
//!   name and port ──┬─ known      one line has this key
//!   host key        ├─ unknown    no line is about this gateway       --accept-new adds one
//!                   ├─ changed    lines are about it, none has the key    nothing is sent
//!                   └─ revoked    a line says that nobody may have the key
//! ```
//!
//! Names may be hashed. As OpenSSH has it, a gateway on another port than 22 is called `[host]:port`, and is known by a line
//! of its host alone, too; but such a line says nothing against it, since another sshd of the host may have another key. A
//! gateway that shows a key of another type than it is known by is a changed one: were it unknown, whoever is in between
//! would choose that type.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Base64Unpadded, Encoding as _};
use ssh2::{CheckResult, KnownHostFileKind, Session};

use crate::destination::Destination;

/// Read beside one's own, as OpenSSH does.
const OF_THE_MACHINE: &str = "/etc/ssh/ssh_known_hosts";
/// A larger file is none.
const LARGEST: u64 = 16 << 20;

/// Why a gateway is not believed.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// Nobody has said yet which key it has.
    #[error(
        "the host key of {name} is not known: {kind} {fingerprint}\n\
         compare it with what `ssh-keygen -l -f ROOT/etc/ssh/ssh_host_ed25519_key.pub` says on the gateway; if it is the same, \
         `--accept-new` adds it to {}", file.display()
    )]
    Unknown {
        /// As the file would call it.
        name: String,
        /// Kind of the key.
        kind: String,
        /// `SHA256:...`
        fingerprint: String,
        /// Where it would be.
        file: PathBuf,
    },
    /// It is known by another.
    #[error(
        "THE HOST KEY OF {name} HAS CHANGED: somebody may be between you and the gateway, or it was installed anew.\n\
         It shows {kind} {fingerprint}; {}, line {line}, knows it by another key. Nothing was sent to it.\n\
         If the new key is right, `ssh-keygen -R '{name}' -f {}` forgets the old one", file.display(), file.display()
    )]
    Changed {
        /// As the file calls it.
        name: String,
        /// Kind of the key.
        kind: String,
        /// `SHA256:...`
        fingerprint: String,
        /// The file.
        file: PathBuf,
        /// The line in it, counted from 1.
        line: usize,
    },
    /// Nobody may have it.
    #[error("THE HOST KEY OF {name} IS REVOKED by {}, line {line}: {kind} {fingerprint}. Nothing was sent to it", file.display())]
    Revoked {
        /// As the file would call it.
        name: String,
        /// Kind of the key.
        kind: String,
        /// `SHA256:...`
        fingerprint: String,
        /// The file.
        file: PathBuf,
        /// The line in it, counted from 1.
        line: usize,
    },
    /// A file.
    #[error("{}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// libssh2 could not compare.
    #[error("host keys cannot be compared: {0}")]
    Library(#[from] ssh2::Error),
    /// It is no key.
    #[error("the gateway shows a host key that is none")]
    Malformed,
}

/// What the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Known,
    Unknown,
    Changed { file: PathBuf, line: usize },
    Revoked { file: PathBuf, line: usize },
}

/// The files of known hosts; the first is where new ones go.
#[derive(Debug, Clone)]
pub struct KnownHosts {
    files: Vec<PathBuf>,
}

/// A key was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// As the file calls the gateway.
    pub name: String,
    /// `SHA256:...`
    pub fingerprint: String,
    /// Where it is now.
    pub file: PathBuf,
}

impl KnownHosts {
    /// A file of one's choice, alone; or one's own below the home, and the machine's.
    pub fn new(chosen: Option<&Path>, home: &Path) -> Self {
        Self {
            files: match chosen {
                Some(file) => vec![file.to_owned()],
                None => vec![home.join(".ssh/known_hosts"), PathBuf::from(OF_THE_MACHINE)],
            },
        }
    }

    /// Whether this key is the gateway's; an unknown one is added if that is wanted.
    pub fn verify(
        &self,
        session: &Session,
        destination: &Destination,
        accept_new: bool,
    ) -> Result<Option<Added>, HostKeyError> {
        let (key, _) = session.host_key().ok_or(HostKeyError::Malformed)?;
        let kind = kind(key)?;
        let digest = session
            .host_key_hash(ssh2::HashType::Sha256)
            .ok_or(HostKeyError::Malformed)?;
        let fingerprint = fingerprint(digest);
        let name = destination.name();
        match self.judge(session, destination, key)? {
            Verdict::Known => Ok(None),
            Verdict::Unknown if accept_new => {
                let file = self.own().to_owned();
                add(
                    &file,
                    &format!("{name} {kind} {}", Base64::encode_string(key)),
                )
                .map_err(failed(&file))?;
                Ok(Some(Added {
                    name,
                    fingerprint,
                    file,
                }))
            }
            Verdict::Unknown => Err(HostKeyError::Unknown {
                name,
                kind,
                fingerprint,
                file: self.own().to_owned(),
            }),
            Verdict::Changed { file, line } => Err(HostKeyError::Changed {
                name,
                kind,
                fingerprint,
                file,
                line,
            }),
            Verdict::Revoked { file, line } => Err(HostKeyError::Revoked {
                name,
                kind,
                fingerprint,
                file,
                line,
            }),
        }
    }

    fn own(&self) -> &Path {
        self.files.first().map_or(Path::new(""), PathBuf::as_path)
    }

    fn judge(
        &self,
        session: &Session,
        destination: &Destination,
        key: &[u8],
    ) -> Result<Verdict, HostKeyError> {
        let (name, host) = (destination.name(), destination.host.as_str());
        let mut verdict = Verdict::Unknown;
        let mut by_host_alone = false;
        for file in &self.files {
            for (number, line) in read(file)?.lines().enumerate() {
                let (file, number) = (file.clone(), number + 1);
                let line = line.trim();
                if let Some(marked) = line.strip_prefix('@') {
                    if revokes(marked, key) {
                        return Ok(Verdict::Revoked { file, line: number });
                    }
                    continue;
                }
                // One at a time: so it is known which line it is, and one that libssh2 cannot read hides no other.
                let mut hosts = session.known_hosts()?;
                if line.is_empty()
                    || line.starts_with('#')
                    || hosts.read_str(line, KnownHostFileKind::OpenSSH).is_err()
                {
                    continue;
                }
                match hosts.check(&name, key) {
                    CheckResult::Match => verdict = Verdict::Known,
                    CheckResult::Mismatch if verdict == Verdict::Unknown => {
                        verdict = Verdict::Changed { file, line: number };
                    }
                    CheckResult::NotFound if name != host => {
                        by_host_alone |= matches!(hosts.check(host, key), CheckResult::Match);
                    }
                    _ => {}
                }
            }
        }
        Ok(match verdict {
            Verdict::Unknown if by_host_alone => Verdict::Known,
            verdict => verdict,
        })
    }
}

/// `revoked HOSTS TYPE KEY`: of whichever hosts, for a key that is revoked for one is worth nothing elsewhere.
fn revokes(marked: &str, key: &[u8]) -> bool {
    let mut words = marked.split_ascii_whitespace();
    words.next() == Some("revoked")
        && words
            .nth(2)
            .and_then(|text| Base64::decode_vec(text).ok())
            .is_some_and(|revoked| revoked == key)
}

/// The name of its type, by which a key begins (RFC 4253 section 6.6).
fn kind(key: &[u8]) -> Result<String, HostKeyError> {
    let (length, rest) = key
        .split_first_chunk::<4>()
        .ok_or(HostKeyError::Malformed)?;
    usize::try_from(u32::from_be_bytes(*length))
        .ok()
        .and_then(|length| rest.get(..length))
        .and_then(|kind| str::from_utf8(kind).ok())
        .filter(|kind| !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_graphic()))
        .map(str::to_owned)
        .ok_or(HostKeyError::Malformed)
}

/// As `ssh-keygen -l` writes it.
fn fingerprint(digest: &[u8]) -> String {
    format!("SHA256:{}", Base64Unpadded::encode_string(digest))
}

fn failed(file: &Path) -> impl FnOnce(io::Error) -> HostKeyError {
    let file = file.to_owned();
    move |source| HostKeyError::File { file, source }
}

/// One that is not there is empty.
fn read(file: &Path) -> Result<String, HostKeyError> {
    let mut text = Vec::new();
    match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened
            .and_then(|opened| opened.take(LARGEST).read_to_end(&mut text))
            .map_err(failed(file))?,
    };
    if text.len() as u64 == LARGEST {
        return Err(failed(file)(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A line more, which others that add one at the same time do not tear apart.
fn add(file: &Path, line: &str) -> io::Result<()> {
    if let Some(folder) = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut opened = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    let mut last = [b'\n'];
    if opened.seek(SeekFrom::End(0))? > 0 {
        opened.seek(SeekFrom::End(-1))?;
        opened.read_exact(&mut last)?;
    }
    let before = if last == *b"\n" { "" } else { "\n" };
    opened.write_all(format!("{before}{line}\n").as_bytes())?;
    opened.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;

    const RIGHT: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    const OTHER: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIP8BAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    fn judged(lines: &str, destination: &str) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        fs::write(&file, lines).unwrap();
        let verdict = KnownHosts { files: vec![file] }
            .judge(
                &Session::new().unwrap(),
                &destination.parse().unwrap(),
                &Base64::decode_vec(RIGHT).unwrap(),
            )
            .unwrap();
        match verdict {
            Verdict::Changed { line, .. } => Verdict::Changed {
                file: PathBuf::new(),
                line,
            },
            Verdict::Revoked { line, .. } => Verdict::Revoked {
                file: PathBuf::new(),
                line,
            },
            other => other,
        }
    }

    fn changed(line: usize) -> Verdict {
        Verdict::Changed {
            file: PathBuf::new(),
            line,
        }
    }

    #[test]
    fn a_line_with_the_key_makes_it_known() {
        let line = format!("10.1.0.1 ssh-ed25519 {RIGHT} somebody\n");
        assert_eq!(judged(&line, "10.1.0.1"), Verdict::Known);
        assert_eq!(judged(&line, "10.1.0.2"), Verdict::Unknown);
        assert_eq!(judged("", "10.1.0.1"), Verdict::Unknown);
        let several = format!("# of the branch\n\nbox,10.1.0.1 ssh-ed25519 {RIGHT}");
        assert_eq!(judged(&several, "BOX"), Verdict::Known);
        // What cannot be read hides nothing.
        assert_eq!(
            judged(&format!("10.1.0.1\nx y\n{line}"), "10.1.0.1"),
            Verdict::Known
        );
    }

    #[test]
    fn another_key_is_a_change_unless_a_line_has_this_one_too() {
        let other = format!("# first\n10.1.0.1 ssh-ed25519 {OTHER}\n");
        assert_eq!(judged(&other, "10.1.0.1"), changed(2));
        let both = format!("{other}10.1.0.1 ssh-ed25519 {RIGHT}\n");
        assert_eq!(judged(&both, "10.1.0.1"), Verdict::Known);
        // Of another type: whoever is in between could choose one.
        let rsa = "10.1.0.1 ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7\n";
        assert_eq!(judged(rsa, "10.1.0.1"), changed(1));
    }

    #[test]
    fn a_port_is_part_of_the_name() {
        let of_port = format!("[10.1.0.1]:2222 ssh-ed25519 {RIGHT}\n");
        assert_eq!(judged(&of_port, "10.1.0.1:2222"), Verdict::Known);
        assert_eq!(judged(&of_port, "10.1.0.1:2223"), Verdict::Unknown);
        assert_eq!(judged(&of_port, "10.1.0.1"), Verdict::Unknown);
        let changed_port = format!("[10.1.0.1]:2222 ssh-ed25519 {OTHER}\n");
        assert_eq!(judged(&changed_port, "10.1.0.1:2222"), changed(1));
        // The host alone speaks for its ports, but not against them.
        let of_host = format!("10.1.0.1 ssh-ed25519 {RIGHT}\n");
        assert_eq!(judged(&of_host, "10.1.0.1:2222"), Verdict::Known);
        let another_sshd = format!("10.1.0.1 ssh-ed25519 {OTHER}\n");
        assert_eq!(judged(&another_sshd, "10.1.0.1:2222"), Verdict::Unknown);
        assert_eq!(
            judged(&format!("{of_host}{changed_port}"), "10.1.0.1:2222"),
            changed(2)
        );
    }

    #[test]
    fn names_may_be_hashed() {
        // As OpenSSH hashes them.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        fs::write(
            &file,
            format!("10.1.0.1 ssh-ed25519 {RIGHT}\n[box]:2222 ssh-ed25519 {OTHER}\n"),
        )
        .unwrap();
        let hashed = Command::new("ssh-keygen")
            .arg("-H")
            .arg("-f")
            .arg(&file)
            .output()
            .unwrap();
        assert!(hashed.status.success(), "{hashed:?}");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("|1|") && !text.contains("box"), "{text}");
        assert_eq!(judged(&text, "10.1.0.1"), Verdict::Known);
        assert_eq!(judged(&text, "box:2222"), changed(2));
        assert_eq!(judged(&text, "box"), Verdict::Unknown);
    }

    #[test]
    fn a_revoked_key_is_nobodys() {
        let text = format!("10.1.0.1 ssh-ed25519 {RIGHT}\n@revoked * ssh-ed25519 {RIGHT}\n");
        let revoked = Verdict::Revoked {
            file: PathBuf::new(),
            line: 2,
        };
        assert_eq!(judged(&text, "10.1.0.1"), revoked);
        let other =
            format!("@revoked * ssh-ed25519 {OTHER}\n@cert-authority * ssh-ed25519 {RIGHT}\n");
        assert_eq!(judged(&other, "10.1.0.1"), Verdict::Unknown);
    }

    #[test]
    fn a_new_line_stands_alone_in_a_file_for_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/known_hosts");
        add(&file, "a b c").unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&file, "x y z").unwrap();
        add(&file, "a b c").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "x y z\na b c\n");
    }

    #[test]
    fn a_fingerprint_is_as_ssh_keygen_writes_it() {
        assert_eq!(fingerprint(&[0; 32]), format!("SHA256:{}", "A".repeat(43)));
        assert_eq!(
            kind(&Base64::decode_vec(RIGHT).unwrap()).unwrap(),
            "ssh-ed25519"
        );
        for wrong in [&[][..], &[0, 0, 0, 9, 1], &[255; 8], &[0, 0, 0, 0]] {
            kind(wrong).unwrap_err();
        }
    }
}
