//! Secrets out of the gateway, sealed with a passphrase, and a new key for those within.

use culvert_model::api;
use zeroize::Zeroizing;

use super::changing::{no_files, write_new};
use super::{Console, Output, Session};
use crate::error::CliError;
use crate::grammar::Parsed;
use crate::words::Word;

impl Session {
    pub(super) async fn save_sealed(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let name = parsed.value("FILE", words).map(str::to_owned);
        if name.is_some() && !self.files {
            return Err(no_files("save terminal with-secrets"));
        }
        let mut passphrase = new_passphrase(console)?;
        let request = api::ExportRequest {
            source: Some(self.what_is_saved()),
            passphrase: std::mem::take(&mut *passphrase),
        };
        let reply = self.service().await?.export(request).await?.into_inner();
        let Some(name) = name else {
            return Ok(Output {
                text: reply.text,
                no_more: true,
                ..Output::default()
            });
        };
        write_new(&name, &reply.text)?;
        Ok(Output::note(format!(
            "written to {name}; `load override {name}` restores it, on any gateway, with the passphrase"
        )))
    }

    pub(super) async fn rotate_key(&mut self) -> Result<Output, CliError> {
        let request = api::RotateKeyRequest {};
        let reply = self.service().await?.rotate_key(request).await?;
        Ok(Output::note(format!(
            "all secrets are sealed with key {}; the one before is gone",
            reply.into_inner().generation
        )))
    }
}

/// The one that something was sealed with.
pub(super) fn passphrase(console: &mut dyn Console) -> Result<Zeroizing<String>, CliError> {
    asked(console, "Passphrase: ")
}

/// Whoever mistypes one without seeing it would never open what it seals.
fn new_passphrase(console: &mut dyn Console) -> Result<Zeroizing<String>, CliError> {
    let first = asked(console, "Passphrase, at least 12 characters: ")?;
    if console.is_person() && *asked(console, "The same again: ")? != *first {
        return Err(CliError::Not(
            "the two are not the same: nothing was written".to_owned(),
        ));
    }
    Ok(first)
}

fn asked(console: &mut dyn Console, question: &str) -> Result<Zeroizing<String>, CliError> {
    console
        .secret(question)?
        .filter(|given| !given.is_empty())
        .ok_or_else(|| CliError::Not("it takes a passphrase: none was given".to_owned()))
}
