//! Secrets out and in: sealed with a passphrase, and the key that all of them are sealed with on the disk.
//!
//! ```text
//!   save ... with-secrets ──> export ── JSON ── seal ──> text ──┐  any box, any key of its store
//!   load override ...     <── unsealed ── JSON <── open ────────┘
//! ```
//!
//! Deriving a key from a passphrase takes a second and 64 MiB: one at a time, and never while the records are held.

use culvert_model::api::{self, Problem, edit::Change};
use culvert_model::tree::{Location, Show};
use zeroize::Zeroize as _;

use super::caller::{Caller, Role, allowed};
use super::candidates::source;
use super::commit::problem;
use super::hands::Hands;
use super::{Agent, Refusal};
use crate::sealed::{self, SealError};

impl<H: Hands> Agent<H> {
    /// A configuration with its secrets, sealed with a passphrase.
    pub async fn export(
        &self,
        caller: &Caller,
        mut request: api::ExportRequest,
    ) -> Result<api::ExportReply, Refusal> {
        allowed(caller, Role::Admin)?;
        let passphrase = zeroize::Zeroizing::new(std::mem::take(&mut request.passphrase));
        let (who, which) = (caller.clone(), request.source);
        let (name, clear) = self
            .with(move |records| {
                let (revision, tree) = source(records, &who, which.as_ref())?;
                let name = match revision {
                    0 => "a candidate".to_owned(),
                    number => format!("revision {number}"),
                };
                Ok((name, tree.to_json(&Location::root(), &Show::PLAIN)))
            })
            .await?;
        let sealed = {
            let _one_at_a_time = self.sealing.lock().await;
            blocking(move || sealed::seal(&clear, &passphrase)).await?
        };
        let result = match &sealed {
            Ok(_) => format!("{name}, sealed with a passphrase"),
            Err(error) => format!("refused: {error}"),
        };
        self.done(caller, "read secrets", result).await?;
        let text = sealed.map_err(|error| Refusal::Malformed(error.to_string()))?;
        Ok(api::ExportReply { text })
    }

    /// Opens what is sealed in a request, so that it can be loaded as if it had not been; or says what is wrong.
    pub(super) async fn unsealed(
        &self,
        caller: &Caller,
        request: &mut api::EditRequest,
    ) -> Result<Result<(), Problem>, Refusal> {
        let mut sealed_ones = 0;
        for (number, edit) in request.edits.iter_mut().enumerate() {
            let Some(Change::Load(load)) = &mut edit.change else {
                continue;
            };
            if load.format() != api::Format::Sealed {
                continue;
            }
            sealed_ones += 1;
            if sealed_ones > 1 {
                return Err(Refusal::Malformed(
                    "one sealed configuration at a time".to_owned(),
                ));
            }
            let passphrase = zeroize::Zeroizing::new(std::mem::take(&mut load.passphrase));
            let text = std::mem::take(&mut load.text);
            let opened = {
                let _one_at_a_time = self.sealing.lock().await;
                blocking(move || sealed::open(&text, &passphrase)).await?
            };
            match opened {
                Ok(mut clear) => {
                    load.text = std::mem::take(&mut *clear);
                    load.set_format(api::Format::Json);
                    let what = "load a sealed configuration";
                    self.done(caller, what, "opened, into a candidate".to_owned())
                        .await?;
                }
                Err(error) => {
                    let what = "load a sealed configuration";
                    self.done(caller, what, format!("refused: {error}")).await?;
                    let mut found = problem("", &error.to_string());
                    found.edit = Some(number as u32);
                    return Ok(Err(found));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Seals everything that is secret on the disk with a new key.
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        _request: api::RotateKeyRequest,
    ) -> Result<api::RotateKeyReply, Refusal> {
        allowed(caller, Role::Admin)?;
        let _no_commit_meanwhile = self.commits.lock().await;
        let who = caller.clone();
        self.with(move |records| {
            // Said before it is done, too: who is killed in between has begun it, and the next start ends it.
            records.audit(&who, "rotate key", "begun", &records.now()?);
            let rotated = records.store.rotate_key();
            let generation = records.store.key_generation();
            let result = match &rotated {
                Ok(()) => format!("all secrets are sealed with key {generation}"),
                Err(error) => format!("failed: {error}"),
            };
            records.audit(&who, "rotate key", &result, &records.now()?);
            rotated?;
            Ok(api::RotateKeyReply { generation })
        })
        .await
    }
}

/// Texts with secrets that are no longer needed.
pub(super) fn wipe(edits: &mut [api::Edit]) {
    for edit in edits {
        match &mut edit.change {
            Some(Change::Load(load)) => {
                load.text.zeroize();
                load.passphrase.zeroize();
            }
            Some(Change::Set(given)) => given.words.zeroize(),
            _ => {}
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SealError> + Send + 'static,
) -> Result<Result<T, SealError>, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Refusal::Inside(error.to_string()))
}
