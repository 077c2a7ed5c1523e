//! The keys that are let in, and for whom each speaks (sshd(8), on the format of `authorized_keys`).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use base64ct::{Base64Unpadded, Encoding as _};
use culvert_model::config::User;
use ring::digest::{SHA256, digest};

use super::{LoginError, plain};

/// RSA keys below 2048 bits are refused by sshd's own `RequiredRSASize`.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];
/// Of a user's name, as in the configuration.
const LONGEST_NAME: usize = 32;

/// `authorized_keys`: one line a key, that ends in the command line speaking for its user.
///
/// Everything in it is checked again, whatever came before: nothing but names and keys gets into a line. Comments of keys
/// stay out.
pub fn authorized_keys(
    users: &[User],
    root: &Path,
    idle_timeout: Duration,
) -> Result<String, LoginError> {
    let root = plain(root)?;
    let idle = idle_timeout.as_secs();
    let mut text = String::from("# Written by culvert mgmt from system.users: changes are lost.\n");
    let mut owners: HashMap<&str, &str> = HashMap::new();
    for user in users {
        let name = user.name();
        if !is_name(name) {
            return Err(LoginError::Name {
                name: name.to_owned(),
            });
        }
        for key in &user.ssh_keys {
            let (kind, body) = parts(key.public_key()).ok_or_else(|| LoginError::Key {
                user: name.to_owned(),
                key: key.name().to_owned(),
            })?;
            if let Some(other) = owners.insert(body, name).filter(|other| *other != name) {
                return Err(LoginError::Shared {
                    first: other.to_owned(),
                    second: name.to_owned(),
                });
            }
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "restrict,pty,command=\"culvert cli --root {root} --idle-timeout {idle} --principal {name} --key {}\" {kind} {body} {name}",
                hash(body)
            );
        }
    }
    Ok(text)
}

/// What stands for a public key in the command of its sessions: its SHA-256 as `ssh-keygen -l` has it, without the name
/// of the hash. None: it is no key.
pub fn fingerprint(line: &str) -> Option<String> {
    parts(line).map(|(_, body)| hash(body))
}

/// Letters, digits, `+` and `/` only.
fn hash(body: &str) -> String {
    // sshd takes none that is not base64; each still stands for itself.
    let key = Base64Unpadded::decode_vec(body.trim_end_matches('='))
        .unwrap_or_else(|_| body.as_bytes().to_vec());
    Base64Unpadded::encode_string(digest(&SHA256, &key).as_ref())
}

/// `[a-z][a-z0-9_-]*`: no option of a command, no quote, no blank.
fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}

/// Kind and base64 of a public key.
fn parts(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    let kind = words.next().filter(|kind| KINDS.contains(kind))?;
    let body = words.next()?;
    let bare = body.trim_end_matches('=');
    let good = bare.len() >= 40
        && body.len() - bare.len() <= 3
        && bare
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte));
    good.then_some((kind, body))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::config::SshKey;
    use proptest::prelude::*;

    use super::*;

    const IDLE: Duration = Duration::from_mins(15);
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjPx0FZ5xwVYvVnZ0dPTLuLpM6pGz8J1l0b9WmAqCk7";

    /// By `ssh-keygen -lf`.
    const HASH: &str = "wo5Gv5zRRyH/ggISLy9duToTUmlKSzlVFkArpGBlE4w";

    fn user(name: &str, keys: &[&str]) -> User {
        User {
            name: Some(name.to_owned()),
            ssh_keys: keys
                .iter()
                .map(|key| SshKey {
                    name: Some("laptop".to_owned()),
                    public_key: Some((*key).to_owned()),
                })
                .collect(),
            ..User::default()
        }
    }

    #[test]
    fn a_key_is_a_line_that_leads_to_the_command_line() {
        let alice = user("alice", &[&format!("{KEY} alice's \"laptop\", really")]);
        let text = authorized_keys(&[alice], Path::new("/var/lib/culvert"), IDLE).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [format!(
                "restrict,pty,command=\"culvert cli --root /var/lib/culvert --idle-timeout 900 --principal alice --key {HASH}\" {KEY} alice"
            )]
        );
    }

    #[test]
    fn nobody_has_the_key_of_another() {
        let users = [user("alice", &[KEY]), user("bob", &[KEY])];
        let refused = authorized_keys(&users, Path::new("/r"), IDLE);
        assert!(
            matches!(refused, Err(LoginError::Shared { .. })),
            "{refused:?}"
        );
        // What is twice somebody's own says the same twice.
        authorized_keys(&[user("alice", &[KEY, KEY])], Path::new("/r"), IDLE).unwrap();
    }

    #[test]
    fn roots_that_mean_more_than_themselves_are_refused() {
        for root in [
            "relative", "", "/a b", "/a\"b", "/a'b", "/a\nb", "/%h", "/a$b", "/a\\b", "/ä",
        ] {
            let refused = authorized_keys(&[], Path::new(root), IDLE);
            assert!(matches!(refused, Err(LoginError::Root { .. })), "{root:?}");
        }
    }

    #[test]
    fn what_is_no_name_or_key_is_refused() {
        for name in [
            "",
            "-o",
            "Root",
            "a b",
            "a\"",
            "a\nb",
            "a,b",
            "--root",
            &"a".repeat(33),
        ] {
            let refused = authorized_keys(&[user(name, &[])], Path::new("/r"), IDLE);
            assert!(matches!(refused, Err(LoginError::Name { .. })), "{name:?}");
        }
        let keys = [
            "",
            "ssh-ed25519",
            "ssh-ed25519 short",
            "ssh-dss AAAAC3NzaC1lZDI1NTE5AAAAIFjPx0FZ5xwVYvVnZ0dPTLuLpM6pGz8J",
            "command=\"sh\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjPx0FZ5xwVYvVnZ0dPTLuLpM6pGz8J",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFjPx0FZ5x\nssh-ed25519 VYvVnZ0dPTLuLpM6pGz8J",
            "ssh-ed25519\tAAAAC3NzaC1lZDI1NTE5AAAAIFjPx0FZ5xwVYvVnZ0dPTLuLpM6pGz8J",
        ];
        for key in keys {
            let refused = authorized_keys(&[user("a", &[key])], Path::new("/r"), IDLE);
            assert!(matches!(refused, Err(LoginError::Key { .. })), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_gets_a_line_or_an_option_of_its_own(name in "\\PC{0,12}|[a-z]{1,4}", key in any::<String>(), comment in any::<String>()) {
            let users = [user(&name, &[&key, &format!("{KEY} {comment}")])];
            if let Ok(text) = authorized_keys(&users, Path::new("/r"), IDLE) {
                let start = format!("restrict,pty,command=\"culvert cli --root /r --idle-timeout 900 --principal {name} --key ");
                for line in text.lines().skip(1) {
                    let rest = line.strip_prefix(&start).unwrap();
                    let (hash, rest) = rest.split_once("\" ").unwrap();
                    prop_assert!(hash.len() == 43 && !hash.contains([' ', '"']));
                    prop_assert_eq!(rest.split(' ').count(), 3);
                    prop_assert!(!rest.contains('"'));
                }
            }
        }
    }
}
