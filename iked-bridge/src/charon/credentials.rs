//! Credentials of the plan, as charon loads them.
//!
//! Shared keys have ids to replace and unload them by, private keys ids of charon's; certificates can only be added, or
//! all be dropped together.

use std::collections::BTreeMap;

use culvert_model::bus::{Credential, KeyedValue, PreSharedKey, Value, credential, value};
use strongswan_vici::{
    Certificate, CertificateFlag, CertificateType, KeyType, SharedKey, SharedKeyType, Vici,
    ViciError,
};
use zeroize::Zeroizing;

/// A credential that cannot be loaded as it is.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// It has no content.
    #[error("credential {0} has no content")]
    Empty(String),
    /// charon said no, or was not there.
    #[error("credential {name}: {source}")]
    Vici {
        /// Its name.
        name: String,
        /// What charon said.
        #[source]
        source: ViciError,
    },
}

impl CredentialError {
    /// Whether charon was not there.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Self::Vici { source, .. } if source.is_disconnect())
    }
}

/// What the running charon has of private keys: charon's id by the credential's name.
pub type KeyIds = BTreeMap<String, String>;

/// Loads one, in place of what had its name before.
pub async fn load(
    vici: &Vici,
    credential: &Credential,
    keys: &mut KeyIds,
) -> Result<(), CredentialError> {
    let name = &credential.name;
    let failed = |source| CredentialError::Vici {
        name: name.clone(),
        source,
    };
    match &credential.kind {
        None => Err(CredentialError::Empty(name.clone())),
        Some(credential::Kind::Psk(secret)) => {
            let key = shared(name, SharedKeyType::Ike, secret);
            vici.load_shared(&key).await.map_err(failed)
        }
        Some(credential::Kind::Eap(secret)) => {
            let key = shared(name, SharedKeyType::Eap, secret);
            vici.load_shared(&key).await.map_err(failed)
        }
        Some(credential::Kind::Certificate(der)) => vici
            .load_cert(&certificate(CertificateFlag::None, der))
            .await
            .map_err(failed),
        Some(credential::Kind::CaCertificate(der)) => vici
            .load_cert(&certificate(CertificateFlag::Ca, der))
            .await
            .map_err(failed),
        Some(credential::Kind::PrivateKey(key)) => {
            let id = load_key(vici, &key.secret).await.map_err(failed)?;
            let replaced = keys.insert(name.clone(), id.clone());
            if let Some(old) = replaced
                && old != id
            {
                vici.unload_key(&old).await.map_err(failed)?;
            }
            Ok(())
        }
    }
}

fn shared(name: &str, kind: SharedKeyType, secret: &PreSharedKey) -> SharedKey {
    SharedKey {
        id: name.to_owned(),
        kind,
        data: Zeroizing::new(secret.secret.clone()),
        owners: secret.identities.clone(),
    }
}

/// The encoding does not always say which kind it is: PKCS#8 does, the older ones of RSA and ECDSA may not.
async fn load_key(vici: &Vici, der: &[u8]) -> Result<String, ViciError> {
    let first = match vici.load_key(KeyType::Any, der).await {
        Err(ViciError::Refused { command, message }) => ViciError::Refused { command, message },
        result => return result,
    };
    for kind in [KeyType::Ecdsa, KeyType::Rsa] {
        match vici.load_key(kind, der).await {
            Err(ViciError::Refused { .. }) => {}
            result => return result,
        }
    }
    Err(first)
}

fn certificate(flag: CertificateFlag, der: &[u8]) -> Certificate {
    Certificate {
        kind: CertificateType::X509,
        flag,
        data: der.to_vec(),
    }
}

/// Takes one out of charon. `false`: that can only be done by dropping all and loading the others again.
pub async fn unload(
    vici: &Vici,
    credential: &Credential,
    keys: &mut KeyIds,
) -> Result<bool, CredentialError> {
    let name = &credential.name;
    let result = match &credential.kind {
        Some(credential::Kind::Psk(_) | credential::Kind::Eap(_)) => vici.unload_shared(name).await,
        Some(credential::Kind::PrivateKey(_)) => match keys.remove(name) {
            Some(id) => vici.unload_key(&id).await,
            None => Ok(()),
        },
        Some(credential::Kind::Certificate(_) | credential::Kind::CaCertificate(_)) => {
            return Ok(false);
        }
        None => Ok(()),
    };
    match result {
        // Not there any more is what was wanted.
        Ok(()) | Err(ViciError::Refused { .. }) => Ok(true),
        Err(source) => Err(CredentialError::Vici {
            name: name.clone(),
            source,
        }),
    }
}

/// As it may be read: name and digest, nothing else.
pub fn without_secret(key: &str, credential: &Credential) -> KeyedValue {
    KeyedValue {
        key: key.to_owned(),
        value: Some(Value {
            kind: Some(value::Kind::Credential(Credential {
                name: credential.name.clone(),
                kind: None,
                digest: credential.digest.clone(),
            })),
        }),
    }
}
