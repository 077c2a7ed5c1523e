//! What is there of certificates, for people: whose, by whom, how long, and whether there is a key.

use culvert_model::bus::{credential, value::Kind};
use culvert_model::plan::Plan;
use rcgen::PublicKeyData as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::key;

/// Who has to renew a certificate wants to know this long before.
const SOON: i64 = 30 * DAY;
const DAY: i64 = 86400;

/// One certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// As the configuration calls it.
    pub name: String,
    /// Of an authority.
    pub authority: bool,
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// In hexadecimal digits.
    pub serial: String,
    /// From when on, in Unix time.
    pub not_before: i64,
    /// Until when, in Unix time.
    pub not_after: i64,
    /// The name of the private key that belongs to it; empty: it is not here.
    pub key: String,
    /// What is wrong with it; empty: nothing.
    pub warning: String,
}

/// All of a plan, at this moment of Unix time.
pub fn list(plan: &Plan, now: i64) -> Vec<Listed> {
    let credentials = || {
        plan.values()
            .filter_map(|planned| match &planned.value.kind {
                Some(Kind::Credential(credential)) => Some((credential, credential.kind.as_ref()?)),
                _ => None,
            })
    };
    let keys: Vec<(&str, Vec<u8>)> = credentials()
        .filter_map(|(credential, kind)| match kind {
            credential::Kind::PrivateKey(private) => {
                let pair = key::read(&private.secret).ok()?;
                Some((credential.name.as_str(), pair.subject_public_key_info()))
            }
            _ => None,
        })
        .collect();
    credentials()
        .filter_map(|(credential, kind)| {
            let (der, authority) = match kind {
                credential::Kind::Certificate(der) => (der, false),
                credential::Kind::CaCertificate(der) => (der, true),
                _ => return None,
            };
            let mut listed = read(der, &keys, now);
            listed.name.clone_from(&credential.name);
            listed.authority = authority;
            Some(listed)
        })
        .collect()
}

fn read(der: &[u8], keys: &[(&str, Vec<u8>)], now: i64) -> Listed {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Listed {
            warning: "not an X.509 certificate".to_owned(),
            ..Listed::default()
        };
    };
    let public = certificate.public_key().raw;
    let key = keys.iter().find(|(_, own)| own == public);
    let validity = certificate.validity();
    let (not_before, not_after) = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    Listed {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        serial: certificate.raw_serial_as_string(),
        not_before,
        not_after,
        key: key.map_or_else(String::new, |(name, _)| (*name).to_owned()),
        warning: warning(not_before, not_after, now),
        ..Listed::default()
    }
}

fn warning(not_before: i64, not_after: i64, now: i64) -> String {
    if now > not_after {
        "expired".to_owned()
    } else if now < not_before {
        "not valid yet".to_owned()
    } else if not_after.saturating_sub(now) < SOON {
        format!("expires in {} days", not_after.saturating_sub(now) / DAY)
    } else {
        String::new()
    }
}
