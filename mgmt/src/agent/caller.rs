//! Who asks, and what they may do.
//!
//! ```text
//!   socket's peer (kernel) ──┐
//!   principal (login shell) ─┴── identify ── name, role, origin
//! ```
//!
//! The kernel says which Unix account is at the other end. root is an administrator without being configured: who has
//! that account has the box. Everybody else comes by the one account of the login shell, which sshd starts with the name
//! that belongs to the key (`command="culvert cli --principal NAME"`); of that account, and of root, the name is believed,
//! and its role is that of the running configuration. Other accounts are nobody. A session that came in with a key of
//! somebody is theirs for as long as they have that key.

use std::net::IpAddr;

use culvert_model::config;

use super::refusal::Refusal;
use crate::login::fingerprint;

/// What somebody may do; each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    ReadOnly,
    /// Look, and do what passes: clear, restart, capture.
    Operator,
    /// Change the configuration.
    Admin,
}

impl Role {
    /// As configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// The other end of a connection, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Of its process.
    pub uid: u32,
}

/// What the other end says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// For whom it speaks.
    pub principal: Option<String>,
    /// Where that one is.
    pub origin: Option<String>,
    /// The fingerprint of the key that they came in with; none: not over SSH.
    pub key: Option<String>,
}

/// Somebody who is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// A user of the configuration, or root.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Where they are, as sshd says it (`CLIENT PORT SERVER PORT`), or `console`.
    pub origin: String,
}

impl Caller {
    /// The address of this box that their session came in by.
    pub fn entrance(&self) -> Option<IpAddr> {
        self.origin.split_ascii_whitespace().nth(2)?.parse().ok()
    }

    /// The other end of their session.
    pub fn place(&self) -> &str {
        self.origin
            .split_ascii_whitespace()
            .next()
            .unwrap_or("console")
    }
}

/// Why somebody is nobody here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// Neither root nor the login shell's.
    #[error("the account {uid} has no business here")]
    Account {
        /// Its number.
        uid: u32,
    },
    /// The login shell did not say for whom it speaks.
    #[error("the login shell must name a principal")]
    Nameless,
    /// No such user.
    #[error("{name:?} is no user of this gateway")]
    Unknown {
        /// As claimed.
        name: String,
    },
    /// The session goes with its key.
    #[error("the SSH key of this session is none of {name:?} any more")]
    Key {
        /// Whose it was.
        name: String,
    },
}

/// The accounts that are believed.
#[derive(Clone, Copy, Debug)]
pub struct Accounts {
    /// Of this process: who runs mgmt may do what mgmt may.
    pub own: u32,
    /// Of the login shell, if the box has one.
    pub shell: Option<u32>,
}

impl Accounts {
    /// Who that is, by the users of the running configuration.
    pub fn identify(
        &self,
        peer: Peer,
        claim: Claim,
        users: &[config::User],
    ) -> Result<Caller, Stranger> {
        let trusted = peer.uid == 0 || peer.uid == self.own;
        if !trusted && self.shell != Some(peer.uid) {
            return Err(Stranger::Account { uid: peer.uid });
        }
        let origin = claim.origin.unwrap_or_else(|| "console".to_owned());
        match claim.principal {
            Some(name) => {
                let Some(user) = users.iter().find(|user| user.name() == name) else {
                    return Err(Stranger::Unknown { name });
                };
                if claim.key.is_some_and(|key| !has(user, &key)) {
                    return Err(Stranger::Key { name });
                }
                let role = role_of(user);
                Ok(Caller { name, role, origin })
            }
            None if trusted => Ok(Caller {
                name: "root".to_owned(),
                role: Role::Admin,
                origin,
            }),
            None => Err(Stranger::Nameless),
        }
    }
}

fn role_of(user: &config::User) -> Role {
    match user.role() {
        config::Role::Admin => Role::Admin,
        config::Role::Operator => Role::Operator,
        config::Role::ReadOnly | config::Role::Unspecified => Role::ReadOnly,
    }
}

/// Whether this is the fingerprint of one of their keys.
fn has(user: &config::User, key: &str) -> bool {
    user.ssh_keys
        .iter()
        .any(|one| fingerprint(one.public_key()).as_deref() == Some(key))
}

/// Whether somebody may.
pub fn allowed(caller: &Caller, takes: Role) -> Result<(), Refusal> {
    if caller.role >= takes {
        Ok(())
    } else {
        Err(Refusal::Role {
            name: caller.name.clone(),
            has: caller.role,
            takes,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const ACCOUNTS: Accounts = Accounts {
        own: 0,
        shell: Some(900),
    };

    fn users() -> Vec<config::User> {
        let mut user = config::User {
            name: Some("alice".to_owned()),
            ..config::User::default()
        };
        user.set_role(config::Role::Operator);
        vec![user]
    }

    fn identify(uid: u32, principal: Option<&str>) -> Result<Caller, Stranger> {
        let claim = Claim {
            principal: principal.map(str::to_owned),
            origin: Some("198.51.100.7 50000 192.0.2.1 22".to_owned()),
            key: None,
        };
        ACCOUNTS.identify(Peer { uid }, claim, &users())
    }

    #[test]
    fn root_is_an_administrator_and_may_speak_for_others() {
        let root = identify(0, None).unwrap();
        assert_eq!((root.name.as_str(), root.role), ("root", Role::Admin));
        assert_eq!(identify(0, Some("alice")).unwrap().role, Role::Operator);
    }

    #[test]
    fn the_login_shell_speaks_for_users_only() {
        let alice = identify(900, Some("alice")).unwrap();
        assert_eq!(alice.role, Role::Operator);
        assert_eq!(alice.entrance(), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(alice.place(), "198.51.100.7");
        assert_eq!(identify(900, None), Err(Stranger::Nameless));
        assert!(matches!(
            identify(900, Some("root")),
            Err(Stranger::Unknown { .. })
        ));
    }

    #[test]
    fn a_session_goes_with_its_key_and_not_with_another() {
        let line = |first: &str| format!("ssh-ed25519 {first}{} laptop", "A".repeat(67));
        let key = |first: &str| config::SshKey {
            name: Some("laptop".to_owned()),
            public_key: Some(line(first)),
        };
        let mut users = users();
        let with = |key: Option<String>, users: &[config::User]| {
            let claim = Claim {
                principal: Some("alice".to_owned()),
                origin: None,
                key,
            };
            ACCOUNTS.identify(Peer { uid: 900 }, claim, users)
        };
        let (one, two) = (fingerprint(&line("B")), fingerprint(&line("C")));
        assert!(one.is_some() && one != two);
        users[0].ssh_keys = vec![key("B"), key("C")];
        with(one.clone(), &users).unwrap();
        with(two.clone(), &users).unwrap();
        users[0].ssh_keys.remove(0);
        let name = "alice".to_owned();
        assert_eq!(with(one, &users), Err(Stranger::Key { name }));
        with(two, &users).unwrap();
        with(None, &users).unwrap();
    }

    #[test]
    fn other_accounts_are_nobody() {
        assert_eq!(
            identify(1000, Some("alice")),
            Err(Stranger::Account { uid: 1000 })
        );
        assert_eq!(identify(1000, None), Err(Stranger::Account { uid: 1000 }));
    }

    #[test]
    fn roles_include_those_before_them() {
        assert!(Role::Admin > Role::Operator && Role::Operator > Role::ReadOnly);
    }
}
