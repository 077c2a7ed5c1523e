//! A connection of the plan in charon's vocabulary (swanctl.conf(5)).
//!
//! What starts and restarts tunnels is the bridge's [keeper](super::keeper), not charon's `start_action`: charon starts
//! once and gives up, and two ends that both restart a closed CHILD SA (`close_action = start`) make duplicates for
//! ever. So START children are loaded without an action of their own; only dead-peer detection restarts them, since
//! charon keeps the queued CHILD SA over it. TRAP children are charon's: trap now, trap again whatever closes them.

use std::collections::BTreeMap;

use culvert_model::bus::{AuthRound, Child, Connection, Credential, StartAction, credential};
use strongswan_vici::Message;

/// A connection that cannot be loaded as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// A part that a connection must have.
    #[error("connection {connection} has no {what}")]
    Missing {
        /// Its name.
        connection: String,
        /// What it lacks.
        what: &'static str,
    },
    /// A certificate it refers to is not there (yet).
    #[error("connection {connection} refers to certificate {certificate}, which is not loaded")]
    Certificate {
        /// Its name.
        connection: String,
        /// Of the credential.
        certificate: String,
    },
    /// An authentication that the box does not do.
    #[error("connection {connection}: authentication {method:?}; there is {}", METHODS.join(", "))]
    Method {
        /// Its name.
        connection: String,
        /// As configured.
        method: String,
    },
}

impl ConnectionError {
    /// Whether it may pass without a change of this connection.
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Certificate { .. })
    }

    /// Of the connection.
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Missing { what, .. } => what,
            Self::Certificate { .. } => "certificates",
            Self::Method { .. } => "method",
        }
    }
}

/// The field that charon names when it refuses `load-conn`: `invalid value for: proposals, config discarded`.
pub fn refused_field(message: &str) -> Option<String> {
    let (_, rest) = message.split_once(": ")?;
    let (field, said) = rest.split_once(", ")?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (said == "config discarded" && !field.is_empty() && field.bytes().all(word))
        .then(|| field.to_owned())
}

/// What the plugins that charon loads can do on either side.
const METHODS: [&str; 5] = ["psk", "pubkey", "eap-mschapv2", "eap-tls", "eap-md5"];

/// What charon uses when the plan says nothing.
const REPLAY_WINDOW: u32 = 1024;

/// The section that `load-conn` takes under the connection's name.
///
/// `credentials` by the name of the credential: certificates travel inside the connection.
pub fn to_vici(
    connection: &Connection,
    credentials: &BTreeMap<String, Credential>,
) -> Result<Message, ConnectionError> {
    let missing = |what| ConnectionError::Missing {
        connection: connection.name.clone(),
        what,
    };
    let local = connection
        .local
        .as_ref()
        .ok_or_else(|| missing("local authentication"))?;
    let remote = connection
        .remote
        .as_ref()
        .ok_or_else(|| missing("remote authentication"))?;
    if connection.children.is_empty() {
        return Err(missing("children"));
    }
    let mut message = Message::new().with("version", "2");
    set_list(&mut message, "local_addrs", &connection.local_addresses);
    set_list(&mut message, "remote_addrs", &connection.remote_addresses);
    set_list(&mut message, "proposals", &connection.ike_proposals);
    message
        .set("mobike", yes_no(connection.mobike))
        .set("encap", yes_no(connection.force_encap))
        .set("dpd_delay", seconds(connection.dpd_delay));
    if connection.dpd_timeout != 0 {
        message.set("dpd_timeout", seconds(connection.dpd_timeout));
    }
    set_some(
        &mut message,
        "rekey_time",
        connection.rekey_time.map(seconds),
    );
    set_some(&mut message, "over_time", connection.over_time.map(seconds));
    // Said at all it is in place of rekeying: charon then has no default for that.
    if connection.reauth_time != 0 {
        message.set("reauth_time", seconds(connection.reauth_time));
    }
    message.set_section("local", auth(connection, local, credentials)?);
    message.set_section("remote", auth(connection, remote, credentials)?);
    let mut children = Message::new();
    for one in &connection.children {
        children.set_section(&one.name, child(one));
    }
    message.set_section("children", children);
    Ok(message)
}

/// Names of the certificates that a connection refers to.
pub fn certificates(connection: &Connection) -> impl Iterator<Item = &str> {
    [&connection.local, &connection.remote]
        .into_iter()
        .flatten()
        .flat_map(|round| round.certificates.iter().chain(&round.ca_certificates))
        .map(String::as_str)
}

fn auth(
    connection: &Connection,
    round: &AuthRound,
    credentials: &BTreeMap<String, Credential>,
) -> Result<Message, ConnectionError> {
    if !METHODS.contains(&round.method.as_str()) {
        return Err(ConnectionError::Method {
            connection: connection.name.clone(),
            method: round.method.clone(),
        });
    }
    let mut message = Message::new().with("auth", &round.method);
    if !round.identity.is_empty() {
        message.set("id", &round.identity);
    }
    for (name, identity) in [
        ("eap_id", &round.eap_identity),
        ("aaa_id", &round.aaa_identity),
    ] {
        if !identity.is_empty() {
            message.set(name, identity);
        }
    }
    let der = |names: &[String]| {
        names
            .iter()
            .map(
                |name| match credentials.get(name).and_then(|one| one.kind.as_ref()) {
                    Some(
                        credential::Kind::Certificate(der) | credential::Kind::CaCertificate(der),
                    ) => Ok(der.clone()),
                    _ => Err(ConnectionError::Certificate {
                        connection: connection.name.clone(),
                        certificate: name.clone(),
                    }),
                },
            )
            .collect::<Result<Vec<_>, _>>()
    };
    set_list(&mut message, "certs", &der(&round.certificates)?);
    set_list(&mut message, "cacerts", &der(&round.ca_certificates)?);
    Ok(message)
}

fn child(child: &Child) -> Message {
    let (start, close, dpd) = match child.start_action() {
        StartAction::Start => ("none", "none", "start"),
        StartAction::Trap => ("trap", "trap", "trap"),
        StartAction::None | StartAction::Unspecified => ("none", "none", "clear"),
    };
    let mut message = Message::new()
        .with(
            "mode",
            if child.transport {
                "transport"
            } else {
                "tunnel"
            },
        )
        .with("start_action", start)
        .with("close_action", close)
        .with("dpd_action", dpd)
        .with(
            "replay_window",
            child.replay_window.unwrap_or(REPLAY_WINDOW).to_string(),
        );
    if !child.tfc_padding.is_empty() {
        message.set("tfc_padding", &child.tfc_padding);
    }
    if child.if_id != 0 {
        message
            .set("if_id_in", child.if_id.to_string())
            .set("if_id_out", child.if_id.to_string());
    }
    set_list(&mut message, "local_ts", &child.local_selectors);
    set_list(&mut message, "remote_ts", &child.remote_selectors);
    set_list(&mut message, "esp_proposals", &child.esp_proposals);
    set_some(&mut message, "rekey_time", child.rekey_time.map(seconds));
    set_some(&mut message, "life_time", child.life_time.map(seconds));
    for (name, value) in [
        ("rekey_bytes", child.rekey_bytes),
        ("life_bytes", child.life_bytes),
        ("rekey_packets", child.rekey_packets),
        ("life_packets", child.life_packets),
    ] {
        set_some(&mut message, name, value.map(|value| value.to_string()));
    }
    message
}

fn set_list<V: AsRef<[u8]>>(message: &mut Message, name: &str, values: &[V]) {
    if !values.is_empty() {
        message.set_list(name, values);
    }
}

fn set_some(message: &mut Message, name: &str, value: Option<String>) {
    if let Some(value) = value {
        message.set(name, value);
    }
}

fn seconds(value: u32) -> String {
    format!("{value}s")
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn connection() -> Connection {
        let round = |identity: &str| AuthRound {
            method: "psk".into(),
            identity: identity.into(),
            ..AuthRound::default()
        };
        Connection {
            name: "headquarters".into(),
            remote_addresses: vec!["192.0.2.2".into()],
            ike_proposals: vec!["aes128gcm16-prfsha256-ecp256".into()],
            local: Some(round("a")),
            remote: Some(round("b")),
            mobike: true,
            dpd_delay: 30,
            children: vec![Child {
                name: "lan".into(),
                if_id: 7,
                local_selectors: vec!["10.1.0.0/24".into(), "10.3.0.0/24".into()],
                start_action: StartAction::Start.into(),
                rekey_time: Some(60),
                life_bytes: Some(1000),
                tfc_padding: "mtu".into(),
                ..Child::default()
            }],
            ..Connection::default()
        }
    }

    #[test]
    fn a_connection_in_charons_words() {
        let message = to_vici(&connection(), &BTreeMap::new()).unwrap();
        assert_eq!(message.text("version"), Some("2"));
        assert_eq!(message.text("mobike"), Some("yes"));
        assert_eq!(message.text("dpd_delay"), Some("30s"));
        assert_eq!(message.text("rekey_time"), None);
        let child = message.section("children").unwrap().section("lan").unwrap();
        assert_eq!(child.text("if_id_out"), Some("7"));
        assert_eq!(child.text("start_action"), Some("none"));
        assert_eq!(child.text("dpd_action"), Some("start"));
        assert_eq!(child.text("rekey_time"), Some("60s"));
        assert_eq!(child.text("life_bytes"), Some("1000"));
        assert_eq!(child.text("replay_window"), Some("1024"));
        assert_eq!(child.text("tfc_padding"), Some("mtu"));
        assert_eq!(
            child.list("local_ts").collect::<Vec<_>>(),
            ["10.1.0.0/24", "10.3.0.0/24"]
        );
    }

    #[test]
    fn traps_are_charons() {
        let mut connection = connection();
        connection.children[0].start_action = StartAction::Trap.into();
        let message = to_vici(&connection, &BTreeMap::new()).unwrap();
        let child = message.section("children").unwrap().section("lan").unwrap();
        for action in ["start_action", "close_action", "dpd_action"] {
            assert_eq!(child.text(action), Some("trap"));
        }
    }

    #[test]
    fn what_charon_refuses_is_named() {
        let field = |message| refused_field(message);
        assert_eq!(
            field("invalid value for: esp_proposals, config discarded").as_deref(),
            Some("esp_proposals")
        );
        assert_eq!(
            field("unknown option: colour, config discarded").as_deref(),
            Some("colour")
        );
        assert_eq!(field("parsing request failed"), None);
        assert_eq!(field("mediation peer missing, config discarded"), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut with_certificate = connection();
        let local = with_certificate.local.as_mut().unwrap();
        local.method = "pubkey".into();
        local.certificates = vec!["box".into()];
        let error = to_vici(&with_certificate, &BTreeMap::new()).unwrap_err();
        assert!(error.is_retriable() && error.to_string().contains("box"));
        let credentials = BTreeMap::from([(
            "box".to_owned(),
            Credential {
                name: "box".into(),
                kind: Some(credential::Kind::Certificate(vec![0x30, 0x82])),
                digest: vec![],
            },
        )]);
        let message = to_vici(&with_certificate, &credentials).unwrap();
        assert!(message.section("local").unwrap().get("certs").is_some());

        let mut without = connection();
        without.children.clear();
        assert!(
            !to_vici(&without, &BTreeMap::new())
                .unwrap_err()
                .is_retriable()
        );
        let mut unknown = connection();
        unknown.local.as_mut().unwrap().method = "eap-sim".into();
        let error = to_vici(&unknown, &BTreeMap::new()).unwrap_err().to_string();
        assert!(
            error.contains("eap-sim") && error.contains("eap-tls"),
            "{error}"
        );
    }

    #[test]
    fn eap_and_reauthentication_in_charons_words() {
        let mut connection = connection();
        let plain = to_vici(&connection, &BTreeMap::new()).unwrap();
        assert_eq!(plain.text("reauth_time"), None);
        assert_eq!(plain.section("local").unwrap().text("eap_id"), None);
        connection.reauth_time = 3600;
        let local = connection.local.as_mut().unwrap();
        local.method = "eap-tls".into();
        local.eap_identity = "branch".into();
        local.aaa_identity = "radius".into();
        let message = to_vici(&connection, &BTreeMap::new()).unwrap();
        assert_eq!(message.text("reauth_time"), Some("3600s"));
        let local = message.section("local").unwrap();
        assert_eq!(local.text("auth"), Some("eap-tls"));
        assert_eq!(local.text("eap_id"), Some("branch"));
        assert_eq!(local.text("aaa_id"), Some("radius"));
    }
}
