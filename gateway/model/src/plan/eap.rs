//! EAP in connections: what IKEv2 (RFC 7296 section 2.16) and charon's plugins make of it.
//!
//! ```text
//!   the side that begins                the side that is called
//!     by EAP: name and password,          by certificate or pre-shared key, first;
//!     or a certificate inside EAP         then it checks the other
//! ```
//!
//! So one side at most uses EAP, and where that is the peer this gateway waits to be called.

use std::collections::HashMap;

use super::credentials::credential_key;
use super::{Key, PlanReason, Planner};
use crate::config::{Authentication, AuthenticationMethod, Connection, Credentials, StartAction};
use crate::decode::path;

/// Any user name: the peer is asked for its own.
const ANYBODY: &str = "%any";

/// As charon writes a method of EAP; `None`: it is none.
pub(super) fn method(round: &Authentication) -> Option<&'static str> {
    match round.method() {
        AuthenticationMethod::EapMschapv2 => Some("eap-mschapv2"),
        AuthenticationMethod::EapTls => Some("eap-tls"),
        AuthenticationMethod::EapMd5 => Some("eap-md5"),
        AuthenticationMethod::Psk
        | AuthenticationMethod::Certificate
        | AuthenticationMethod::Unspecified => None,
    }
}

/// The user name that charon is told for one side; empty: its default.
pub(super) fn user_name(round: &Authentication, own: bool) -> String {
    match (&round.eap_identity, method(round)) {
        (Some(name), Some(_)) => name.clone(),
        // Without it charon would take the identity of IKE for the user name.
        (None, Some(_)) if !own => ANYBODY.to_owned(),
        _ => String::new(),
    }
}

/// Whether this side has a certificate of its own to show, in IKE or in EAP.
pub(super) fn shows_certificate(round: &Authentication) -> bool {
    matches!(
        round.method(),
        AuthenticationMethod::Certificate | AuthenticationMethod::EapTls
    )
}

/// Names of the passwords of EAP by whose they are.
pub(super) struct Passwords<'a>(HashMap<&'a str, Vec<&'a str>>);

impl<'a> Passwords<'a> {
    pub(super) fn of(credentials: Option<&'a Credentials>) -> Self {
        let mut all: HashMap<&str, Vec<&str>> = HashMap::new();
        for password in credentials.iter().flat_map(|all| &all.eap_secrets) {
            for owner in &password.identities {
                all.entry(owner.identity())
                    .or_default()
                    .push(password.name());
            }
        }
        Self(all)
    }

    /// Those that charon may choose for a user name.
    fn keys(&self, user: &str) -> Vec<Key> {
        let names: Vec<&&str> = if user == ANYBODY {
            self.0.values().flatten().collect()
        } else {
            [user, ANYBODY]
                .iter()
                .filter_map(|owner| self.0.get(owner))
                .flatten()
                .collect()
        };
        names.into_iter().map(|name| credential_key(name)).collect()
    }
}

/// The passwords that a connection needs; what cannot work is refused.
pub(super) fn plan(
    connection: &Connection,
    origin: &str,
    passwords: &Passwords<'_>,
    planner: &mut Planner,
) -> Vec<Key> {
    let (Some(local), Some(remote)) = (&connection.local, &connection.remote) else {
        return Vec::new();
    };
    let at = |side: &str, field: &str| path::field(&path::field(origin, side), field);
    let sides = [("local", local), ("remote", remote)];
    for (side, round) in sides {
        if round.eap_identity.is_some() && method(round).is_none() {
            planner.refuse(at(side, "eap_identity"), PlanReason::OnlyWithEap);
        }
    }
    if remote.aaa_identity.is_some() {
        planner.refuse(at("remote", "aaa_identity"), PlanReason::OnlyWithEapTls);
    } else if local.aaa_identity.is_some() && local.method() != AuthenticationMethod::EapTls {
        planner.refuse(at("local", "aaa_identity"), PlanReason::OnlyWithEapTls);
    }
    match (method(local), method(remote)) {
        (None, None) => return Vec::new(),
        (Some(_), Some(_)) => {
            planner.refuse(at("remote", "method"), PlanReason::EapOnBothSides);
            return Vec::new();
        }
        (Some(_), None) => refuse_without_peer(connection, origin, planner),
        (None, Some(_)) => {
            if remote.method() == AuthenticationMethod::EapTls && !shows_certificate(local) {
                planner.refuse(at("local", "method"), PlanReason::EapTlsByPassword);
            }
            for child in &connection.children {
                if matches!(child.start_action(), StartAction::Start | StartAction::Trap) {
                    let list = path::field(origin, "children");
                    let child = path::item(&list, &[child.name().to_owned()], 0);
                    let at = path::field(&child, "start_action");
                    planner.refuse(at, PlanReason::EapPeerBegins);
                }
            }
        }
    }
    let mut needs = Vec::new();
    for (side, round) in sides {
        if method(round).is_none() {
            continue;
        }
        let own = side == "local";
        let named = round.eap_identity.as_ref().or(round.identity.as_ref());
        let user = match (own, named) {
            (true, Some(name)) => name.clone(),
            (true, None) => {
                planner.refuse(at(side, "eap_identity"), PlanReason::NoUserName);
                continue;
            }
            (false, _) => user_name(round, false),
        };
        if round.method() == AuthenticationMethod::EapTls {
            continue;
        }
        let found = passwords.keys(&user);
        if found.is_empty() {
            planner.refuse(path::field(origin, side), PlanReason::NoPassword { user });
        }
        needs.extend(found);
    }
    needs
}

/// With EAP of its own this gateway begins, so there must be somebody to call.
fn refuse_without_peer(connection: &Connection, origin: &str, planner: &mut Planner) {
    let remote = connection.remote_address();
    if remote.starts_with('%') || remote.contains('/') {
        let at = path::field(origin, "remote_address");
        planner.refuse(at, PlanReason::EapWithoutPeer);
    }
}
