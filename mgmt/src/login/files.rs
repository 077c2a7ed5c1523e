//! The files of sshd below the root: each replaced whole, and only when its text changes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use culvert_model::config::Config;

use super::{BANNER, CONFIG, FOLDER, KEYS, LoginError, Settings, authorized_keys, sshd_config};

/// sshd passes through it as the account, and trusts it because only its owner may write.
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
/// Longer texts were not written by this.
const LONGEST: u64 = 16 << 20;

/// Keeps sshd's files as the configuration has them.
#[derive(Clone, Debug)]
pub struct Writer {
    root: PathBuf,
}

impl Writer {
    /// Below this root.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Makes the files those of a configuration; tells whether any changed.
    ///
    /// When they cannot be, the keys go: better that nobody comes in than somebody who was removed.
    pub fn write(&self, config: &Config) -> Result<bool, LoginError> {
        let written = self.render_and_write(config);
        if written.is_err() {
            let _ = fs::remove_file(self.root.join(FOLDER).join(KEYS));
        }
        written
    }

    fn render_and_write(&self, config: &Config) -> Result<bool, LoginError> {
        let root = self.root.canonicalize().map_err(failed(&self.root))?;
        let settings = Settings::of(config)?;
        let users = config
            .system
            .as_ref()
            .map_or(&[][..], |system| &system.users);
        let keys = authorized_keys(users, &root, settings.idle_timeout)?;
        let server = sshd_config(&settings, &root)?;
        let banner = settings.banner.map(|text| format!("{}\n", text.trim_end()));

        let folder = root.join(FOLDER);
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&folder)
            // Whatever the mask of this process.
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(FOLDER_MODE)))
            .map_err(failed(&folder))?;
        let mut changed = false;
        // Whoever loses a key loses it first.
        for (name, text) in [(KEYS, Some(keys)), (BANNER, banner), (CONFIG, server)] {
            changed |= replace(&folder, name, text.as_deref())?;
        }
        if changed {
            File::open(&folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed(&folder))?;
        }
        Ok(changed)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> LoginError {
    let path = path.to_owned();
    move |source| LoginError::File { path, source }
}

/// Whether it had to be.
fn replace(folder: &Path, name: &str, text: Option<&str>) -> Result<bool, LoginError> {
    let path = folder.join(name);
    let Some(text) = text else {
        return match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&path)(error)),
        };
    };
    if is_there(&path, text) {
        return Ok(false);
    }
    let new = folder.join(format!("{name}.new"));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&new)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&new)
        .map_err(failed(&new))?;
    // Whatever the mask of this process: sshd must be able to read it, and nobody else to write it.
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .map_err(failed(&new))?;
    fs::rename(&new, &path).map_err(failed(&path))?;
    Ok(true)
}

fn is_there(path: &Path, text: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| {
        found.is_file()
            && found.len() <= LONGEST
            && found.permissions().mode() & 0o7777 == FILE_MODE
            && fs::read(path).is_ok_and(|there| there == text.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::MetadataExt as _;

    use culvert_model::config::{ListenAddress, Login, SshKey, SshServer, System, User};

    use super::*;

    fn config(users: &[&str]) -> Config {
        let users = users
            .iter()
            .map(|name| User {
                name: Some((*name).to_owned()),
                ssh_keys: vec![SshKey {
                    name: Some("laptop".to_owned()),
                    public_key: Some(format!("ssh-ed25519 {}{name}", "A".repeat(60))),
                }],
                ..User::default()
            })
            .collect();
        Config {
            system: Some(System {
                users,
                ssh_server: Some(SshServer {
                    listen_addresses: vec![ListenAddress {
                        address: Some("192.0.2.1".to_owned()),
                    }],
                    port: None,
                }),
                ..System::default()
            }),
            ..Config::default()
        }
    }

    #[test]
    fn files_change_when_their_text_does() {
        let place = tempfile::tempdir().unwrap();
        // As a process of the gateway would make it that keeps everything to itself.
        let folder = place.path().join("etc/ssh");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let writer = Writer::new(place.path());
        assert!(writer.write(&config(&["alice", "bob"])).unwrap());
        let keys = place.path().join("etc/ssh/authorized_keys");
        let before = fs::metadata(&keys).unwrap();
        assert_eq!(before.mode() & 0o7777, 0o644);
        let folder = fs::metadata(place.path().join("etc/ssh")).unwrap();
        assert_eq!(folder.mode() & 0o777, FOLDER_MODE);
        assert!(!writer.write(&config(&["alice", "bob"])).unwrap());
        assert_eq!(fs::metadata(&keys).unwrap().ino(), before.ino());

        assert!(writer.write(&config(&["alice"])).unwrap());
        let text = fs::read_to_string(&keys).unwrap();
        assert!(
            text.contains("--principal alice --key ") && !text.contains("bob"),
            "{text}"
        );

        // How long somebody may say nothing is as configured, from the next login on.
        assert!(text.contains("--idle-timeout 900 "), "{text}");
        let mut patient = config(&["alice"]);
        patient.system.as_mut().unwrap().login = Some(Login {
            idle_timeout: Some(300),
            ..Login::default()
        });
        assert!(writer.write(&patient).unwrap());
        let text = fs::read_to_string(&keys).unwrap();
        assert!(
            text.contains("--idle-timeout 300 ") && !text.contains("900"),
            "{text}"
        );

        // Rights that somebody widened are those of the file again.
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(writer.write(&config(&["alice"])).unwrap());
        assert_eq!(fs::metadata(&keys).unwrap().mode() & 0o7777, 0o644);
    }

    #[test]
    fn without_an_address_there_is_nothing_to_start_sshd_with() {
        let place = tempfile::tempdir().unwrap();
        let writer = Writer::new(place.path());
        writer.write(&config(&["alice"])).unwrap();
        let file = place.path().join("etc/ssh/sshd_config");
        assert!(file.exists());
        assert!(writer.write(&Config::default()).unwrap());
        assert!(!file.exists());
    }

    #[test]
    fn what_cannot_be_rendered_lets_nobody_in() {
        let place = tempfile::tempdir().unwrap();
        let writer = Writer::new(place.path());
        writer.write(&config(&["alice"])).unwrap();
        writer.write(&config(&["not a name"])).unwrap_err();
        assert!(!place.path().join("etc/ssh/authorized_keys").exists());
    }
}
