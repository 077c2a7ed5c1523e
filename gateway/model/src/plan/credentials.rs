//! What iked-bridge loads into charon before it negotiates.

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Before, DigestKey, Entry, Key, Part, PlanReason, Planned, Planner};
use crate::bus::{self, credential, value::Kind};
use crate::config::{Config, Credentials, OwnerIdentity};
use crate::decode::{key_bytes, path};

/// The key of a credential.
pub(super) fn credential_key(name: &str) -> Key {
    Key::from(format!("credential/{name}"))
}

/// Plans all credentials, and gives their values. One name stands for one credential, whatever its kind.
pub(super) fn plan(
    config: &Config,
    digests: &DigestKey,
    before: Option<Before<'_>>,
    planner: &mut Planner,
) -> Vec<Entry> {
    let same = before.filter(|before| before.config.credentials == config.credentials);
    let all = match (same, &config.credentials) {
        (Some(before), _) => before.kept.credentials.clone(),
        (None, Some(credentials)) => read(credentials, digests, planner),
        (None, None) => Vec::new(),
    };
    for credential in &all {
        planner.share(credential);
    }
    all
}

fn read(credentials: &Credentials, digests: &DigestKey, planner: &mut Planner) -> Vec<Entry> {
    let mut adder = Adder {
        names: HashMap::new(),
        all: Vec::new(),
        digests,
        planner,
    };
    for psk in &credentials.pre_shared_keys {
        let origin = origin("pre_shared_keys", psk.name());
        if let Some(shared) = adder.shared(psk.secret(), &psk.identities, &origin) {
            adder.add(psk.name(), credential::Kind::Psk(shared), &origin);
        }
    }
    for password in &credentials.eap_secrets {
        let origin = origin("eap_secrets", password.name());
        if let Some(shared) = adder.shared(password.secret(), &password.identities, &origin) {
            adder.add(password.name(), credential::Kind::Eap(shared), &origin);
        }
    }
    for item in &credentials.certificates {
        let origin = origin("certificates", item.name());
        let der = adder.der(
            item.pem.as_deref(),
            item.file.as_deref(),
            &CERTIFICATE,
            &origin,
        );
        if let Some(der) = der {
            adder.add(item.name(), credential::Kind::Certificate(der), &origin);
        }
    }
    for item in &credentials.ca_certificates {
        let origin = origin("ca_certificates", item.name());
        let der = adder.der(
            item.pem.as_deref(),
            item.file.as_deref(),
            &CERTIFICATE,
            &origin,
        );
        if let Some(der) = der {
            adder.add(item.name(), credential::Kind::CaCertificate(der), &origin);
        }
    }
    for item in &credentials.private_keys {
        let origin = origin("private_keys", item.name());
        let der = adder.der(
            item.pem.as_deref(),
            item.file.as_deref(),
            &PRIVATE_KEY,
            &origin,
        );
        if let Some(secret) = der {
            let kind = credential::Kind::PrivateKey(bus::PrivateKey { secret });
            adder.add(item.name(), kind, &origin);
        }
    }
    adder.all
}

fn origin(list: &str, name: &str) -> String {
    path::item(&path::field("credentials", list), &[name.to_owned()], 0)
}

/// What a PEM text must hold.
struct Content {
    called: &'static str,
    labels: &'static [&'static str],
}

const CERTIFICATE: Content = Content {
    called: "a certificate",
    labels: &["CERTIFICATE"],
};

/// PKCS#8, PKCS#1 and SEC1.
const PRIVATE_KEY: Content = Content {
    called: "a private key that is not encrypted",
    labels: &["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"],
};

/// A private key of the configuration, as DER of whatever form its PEM has.
pub fn private_key_der(pem: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    decode_pem(pem, &PRIVATE_KEY).map(Zeroizing::new)
}

struct Adder<'a> {
    /// The origin of each name so far.
    names: HashMap<String, String>,
    all: Vec<Entry>,
    digests: &'a DigestKey,
    planner: &'a mut Planner,
}

impl Adder<'_> {
    fn add(&mut self, name: &str, kind: credential::Kind, origin: &str) {
        if let Some(other) = self.names.insert(name.to_owned(), origin.to_owned()) {
            let what = name.to_owned();
            self.planner.refuse(
                path::field(origin, "name"),
                PlanReason::Taken { what, other },
            );
            return;
        }
        let mut credential = bus::Credential {
            name: name.to_owned(),
            kind: Some(kind),
            digest: Vec::new(),
        };
        credential.digest = self.digests.digest(&credential);
        let planned = Planned::new(Kind::Credential(credential), Part::Iked, origin);
        self.all.push((credential_key(name), Arc::new(planned)));
    }

    /// What is known on both sides, and whose it is.
    fn shared(
        &mut self,
        secret: &str,
        owners: &[OwnerIdentity],
        origin: &str,
    ) -> Option<bus::PreSharedKey> {
        let Some(secret) = key_bytes(secret) else {
            let reason = PlanReason::Malformed {
                given: String::new(),
                expected: "a secret",
            };
            self.planner.refuse(path::field(origin, "secret"), reason);
            return None;
        };
        Some(bus::PreSharedKey {
            identities: owners
                .iter()
                .map(|owner| owner.identity().to_owned())
                .collect(),
            secret: secret.to_vec(),
        })
    }

    fn der(
        &mut self,
        pem: Option<&str>,
        file: Option<&str>,
        content: &Content,
        origin: &str,
    ) -> Option<Vec<u8>> {
        let (reason, at) = match (pem, file) {
            (Some(_), Some(_)) | (None, None) => (PlanReason::PemOrFile, origin.to_owned()),
            (None, Some(_)) => (PlanReason::FileNotRead, path::field(origin, "file")),
            (Some(pem), None) => match decode_pem(pem, content) {
                Ok(der) => return Some(der),
                Err(message) => {
                    let expected = content.called;
                    let reason = PlanReason::Pem { expected, message };
                    (reason, path::field(origin, "pem"))
                }
            },
        };
        self.planner.refuse(at, reason);
        None
    }
}

/// The first block of a PEM text with a label that is wanted. Others, such as the curve parameters that
/// openssl writes before a key, are passed over.
fn decode_pem(pem: &str, content: &Content) -> Result<Vec<u8>, String> {
    let mut rest = pem;
    let mut seen = Vec::new();
    while let Some(start) = rest.find("-----BEGIN ") {
        let block = rest.get(start..).unwrap_or_default();
        let label = block
            .strip_prefix("-----BEGIN ")
            .and_then(|text| text.split_once("-----"))
            .map_or("", |(label, _)| label);
        let end_line = format!("-----END {label}-----");
        let Some(end) = block.find(&end_line) else {
            return Err(format!("the block {label:?} does not end"));
        };
        let (text, after) = block.split_at(end + end_line.len());
        if content.labels.contains(&label) {
            return pem_rfc7468::decode_vec(text.as_bytes())
                .map(|(_, der)| der)
                .map_err(|error| error.to_string());
        }
        seen.push(label);
        rest = after;
    }
    if seen.is_empty() {
        Err("no block".to_owned())
    } else {
        Err(format!("only {}", seen.join(", ")))
    }
}
