//! Keys and certificates: made, asked for, shown.

use culvert_model::api::{self, KeyAlgorithm, source::Which};

use super::{Output, Session, problems};
use crate::error::CliError;
use crate::grammar::Parsed;
use crate::table::table;
use crate::views;
use crate::words::Word;

impl Session {
    pub(super) async fn generate_key(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let name = parsed.value("NAME", words).unwrap_or_default().to_owned();
        let algorithm = [
            ("ecdsa-p384", KeyAlgorithm::EcdsaP384),
            ("ed25519", KeyAlgorithm::Ed25519),
            ("rsa-3072", KeyAlgorithm::Rsa3072),
        ]
        .into_iter()
        .find(|(keyword, _)| parsed.has(keyword))
        .map_or(KeyAlgorithm::EcdsaP256, |(_, algorithm)| algorithm);
        let request = api::GenerateKeyRequest {
            candidate: self.candidate()?.candidate.clone(),
            name: name.clone(),
            algorithm: algorithm.into(),
        };
        let reply = self.service().await?.generate_key(request).await?;
        let found = reply.into_inner().problems;
        if !found.is_empty() {
            return Err(CliError::Problems(found));
        }
        Ok(Output::note(format!(
            "the private key {name} is in the candidate; `generate certificate-request key {name} subject ...` asks for its certificate"
        )))
    }

    pub(super) async fn request_certificate(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let text = |name| parsed.value(name, words).unwrap_or_default();
        let request = api::RequestCertificateRequest {
            source: Some(api::Source {
                which: Some(Which::Candidate(self.candidate()?.candidate.clone())),
            }),
            key: text("KEY").to_owned(),
            subject: text("SUBJECT").to_owned(),
            alternative_names: text("NAMES")
                .split(',')
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
                .collect(),
        };
        let reply = self.service().await?.request_certificate(request).await?;
        let reply = reply.into_inner();
        if !reply.problems.is_empty() {
            return Err(problems(reply.problems, |word| word));
        }
        Ok(Output::text(reply.pem))
    }

    pub(super) async fn show_certificates(&mut self, json: bool) -> Result<Output, CliError> {
        let request = api::ListCertificatesRequest {};
        let reply = self.service().await?.list_certificates(request).await?;
        let reply = reply.into_inner();
        if json {
            return Ok(Output::text(views::json::answer(
                "ListCertificatesReply",
                &reply,
            )));
        }
        let certificates = reply.certificates;
        if certificates.is_empty() {
            return Ok(Output::note("there are no certificates"));
        }
        let zone = self.zone().await;
        let rows: Vec<_> = certificates
            .into_iter()
            .map(|one| {
                [
                    one.name,
                    if one.authority { "authority" } else { "" }.to_owned(),
                    one.subject,
                    one.issuer,
                    zone.moment(one.not_before_unix_ms),
                    zone.moment(one.not_after_unix_ms),
                    one.key,
                    one.warning,
                ]
            })
            .collect();
        Ok(Output::text(table(
            [
                "name", "kind", "subject", "issuer", "from", "until", "key", "warning",
            ],
            &rows,
        )))
    }
}
