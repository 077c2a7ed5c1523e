//! Private keys that nobody but this gateway ever has, and the certificates that belong to them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_model::api::{self, KeyAlgorithm, Problem, edit::Change};
use culvert_model::plan::private_key_der;
use culvert_model::tree::{Location, Show};
use zeroize::Zeroizing;

use super::caller::{Caller, Role, allowed};
use super::candidates::{edit, source};
use super::commit::problem;
use super::hands::Hands;
use super::secrets::wipe;
use super::{Agent, Refusal};
use crate::pki::{self, Algorithm, Wish};

/// Names in a request; more are a mistake.
const MOST_NAMES: usize = 100;
/// Of a name or of a subject, in bytes.
const LONGEST_NAME: usize = 1024;

impl<H: Hands> Agent<H> {
    /// Makes a private key in a candidate.
    pub async fn generate_key(
        &self,
        caller: &Caller,
        request: api::GenerateKeyRequest,
    ) -> Result<api::EditReply, Refusal> {
        allowed(caller, Role::Admin)?;
        let algorithm = match request.algorithm() {
            KeyAlgorithm::EcdsaP256 => Algorithm::EcdsaP256,
            KeyAlgorithm::EcdsaP384 => Algorithm::EcdsaP384,
            KeyAlgorithm::Rsa3072 => Algorithm::Rsa3072,
            KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
            KeyAlgorithm::Unspecified => {
                return Err(Refusal::Malformed("an algorithm must be named".to_owned()));
            }
        };
        // One of RSA takes a while: never while the records are held.
        let pem = tokio::task::spawn_blocking(move || pki::generate(algorithm))
            .await
            .map_err(|error| Refusal::Inside(error.to_string()))?
            .map_err(|error| Refusal::Inside(error.to_string()))?;
        let (who, name) = (caller.clone(), request.name);
        let result = format!("{name}, {}, into a candidate", algorithm.name());
        let reply = self
            .with(move |records| {
                let (_, _, tree) = records.candidate(&who, &request.candidate)?;
                let item = key_words(&name);
                if let Ok(at) = Location::parse(&item, &Location::root())
                    && tree.contains(&at)
                {
                    let message =
                        "there is a private key of this name; delete it first, or make another";
                    return Ok(problems(&at.to_string(), message));
                }
                let mut words = item.to_vec();
                words.extend(["pem".to_owned(), pem.as_str().to_owned()]);
                let change = Change::Set(api::Words { words });
                let mut request = api::EditRequest {
                    candidate: request.candidate,
                    at: Vec::new(),
                    edits: vec![api::Edit {
                        change: Some(change),
                    }],
                };
                let edited = edit(records, &who, &request);
                wipe(&mut request.edits);
                edited
            })
            .await?;
        if reply.problems.is_empty() {
            self.done(caller, "generate private-key", result).await?;
        }
        Ok(reply)
    }

    /// What an authority makes a certificate of.
    pub async fn request_certificate(
        &self,
        caller: &Caller,
        request: api::RequestCertificateRequest,
    ) -> Result<api::RequestCertificateReply, Refusal> {
        // It says with the key that this gateway wants something.
        allowed(caller, Role::Admin)?;
        let names = &request.alternative_names;
        if names.len() > MOST_NAMES
            || names
                .iter()
                .chain([&request.subject])
                .any(|name| name.len() > LONGEST_NAME)
        {
            return Err(Refusal::Malformed(format!(
                "at most {MOST_NAMES} names of at most {LONGEST_NAME} bytes each"
            )));
        }
        let (who, key) = (caller.clone(), request.key.clone());
        let asked = request.source;
        let found = self
            .with(move |records| {
                let (_, tree) = source(records, &who, asked.as_ref())?;
                let mut words = key_words(&key).to_vec();
                words.push("pem".to_owned());
                let Ok(at) = Location::parse(&words, &Location::root()) else {
                    return Ok(None);
                };
                let text = tree.contains(&at).then(|| tree.to_json(&at, &Show::PLAIN));
                Ok(text.and_then(|text| {
                    let pem: Zeroizing<String> = Zeroizing::new(serde_json::from_str(&text).ok()?);
                    private_key_der(&pem).ok()
                }))
            })
            .await?;
        let refused = |path: &str, message: &str| api::RequestCertificateReply {
            pem: String::new(),
            problems: vec![problem(path, message)],
        };
        let Some(der) = found else {
            let path = format!("credentials.private_keys[{}]", request.key);
            return Ok(refused(&path, "there is no such private key"));
        };
        let wish = Wish {
            subject: request.subject,
            alternative_names: request.alternative_names,
        };
        let subject = wish.subject.clone();
        let made = tokio::task::spawn_blocking(move || pki::request(&der, &wish))
            .await
            .map_err(|error| Refusal::Inside(error.to_string()))?;
        match made {
            Ok(pem) => {
                let result = format!("{subject}, with the key {}", request.key);
                self.done(caller, "request certificate", result).await?;
                Ok(api::RequestCertificateReply {
                    pem,
                    problems: Vec::new(),
                })
            }
            Err(error) => Ok(refused("", &error.to_string())),
        }
    }

    /// Certificates of the running configuration.
    pub async fn list_certificates(
        &self,
        _caller: &Caller,
        _request: api::ListCertificatesRequest,
    ) -> Result<api::ListCertificatesReply, Refusal> {
        let plan = self
            .with(|records| Ok(Arc::clone(&records.running.plan)))
            .await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
        let listed = tokio::task::spawn_blocking(move || pki::list(&plan, now))
            .await
            .map_err(|error| Refusal::Inside(error.to_string()))?;
        let unix_ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let certificates = listed
            .into_iter()
            .map(|one| api::CertificateInfo {
                name: one.name,
                authority: one.authority,
                subject: one.subject,
                issuer: one.issuer,
                serial: one.serial,
                not_before_unix_ms: unix_ms(one.not_before),
                not_after_unix_ms: unix_ms(one.not_after),
                key: one.key,
                warning: one.warning,
            })
            .collect();
        Ok(api::ListCertificatesReply { certificates })
    }
}

fn key_words(name: &str) -> [String; 3] {
    ["credentials", "private_keys", name].map(str::to_owned)
}

fn problems(path: &str, message: &str) -> api::EditReply {
    let problems: Vec<Problem> = vec![problem(path, message)];
    api::EditReply { problems }
}
