//! Private keys that are made in a candidate, and what is asked with them.

use super::*;

async fn generate(
    bench: &Bench,
    caller: &Caller,
    candidate: &str,
    name: &str,
) -> Result<Vec<api::Problem>, Refusal> {
    let request = api::GenerateKeyRequest {
        candidate: candidate.to_owned(),
        name: name.to_owned(),
        algorithm: api::KeyAlgorithm::EcdsaP256.into(),
    };
    Ok(bench.agent.generate_key(caller, request).await?.problems)
}

async fn wish(
    bench: &Bench,
    caller: &Caller,
    candidate: &str,
    key: &str,
    subject: &str,
) -> Result<api::RequestCertificateReply, Refusal> {
    let which = api::source::Which::Candidate(candidate.to_owned());
    let request = api::RequestCertificateRequest {
        source: Some(api::Source { which: Some(which) }),
        key: key.to_owned(),
        subject: subject.to_owned(),
        alternative_names: vec!["branch.example.com".into()],
    };
    bench.agent.request_certificate(caller, request).await
}

#[tokio::test]
async fn a_key_is_made_in_a_candidate_and_told_to_nobody() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let operator = Caller {
        role: Role::Operator,
        ..root()
    };
    for refused in [
        generate(&bench, &operator, &candidate, "own").await.err(),
        wish(&bench, &operator, &candidate, "own", "CN=a")
            .await
            .err(),
    ] {
        assert!(matches!(refused, Some(Refusal::Role { .. })), "{refused:?}");
    }

    assert_eq!(
        generate(&bench, &root(), &candidate, "own").await.unwrap(),
        []
    );
    let which = api::source::Which::Candidate(candidate.clone());
    let text = bench.text(which).await;
    assert!(
        text.contains("set credentials private_keys own pem"),
        "{text}"
    );
    assert!(
        text.contains("$digest:") && !text.contains("BEGIN"),
        "{text}"
    );
    let again = generate(&bench, &root(), &candidate, "own").await.unwrap();
    assert!(again[0].message.contains("delete it first"), "{again:?}");
    assert_eq!(again[0].path, "credentials private_keys own");
    let odd = generate(&bench, &root(), &candidate, "no name")
        .await
        .unwrap();
    assert_eq!(odd.len(), 1, "{odd:?}");

    let reply = wish(&bench, &root(), &candidate, "own", "CN=branch")
        .await
        .unwrap();
    assert_eq!(reply.problems, []);
    assert!(
        reply.pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"),
        "{}",
        reply.pem
    );
    for (key, subject, expected) in [
        ("other", "CN=branch", "there is no such private key"),
        (
            "own",
            "branch",
            "\"branch\" is not a part of a name such as CN=branch.example.com",
        ),
    ] {
        let reply = wish(&bench, &root(), &candidate, key, subject)
            .await
            .unwrap();
        assert_eq!(
            (reply.pem.as_str(), reply.problems[0].message.as_str()),
            ("", expected)
        );
    }

    // Committed it goes to the parts whole, and there is no certificate of it yet.
    let reply = bench.commit(&candidate).await;
    assert_eq!(reply.outcome(), Outcome::Applied, "{reply:?}");
    let listed = bench
        .agent
        .list_certificates(&operator, api::ListCertificatesRequest {})
        .await
        .unwrap();
    assert_eq!(listed.certificates, []);
    let trail = bench
        .agent
        .audit_trail(&root(), api::ListAuditRequest::default())
        .await
        .unwrap();
    for (what, result) in [
        ("generate private-key", "own, ecdsa-p256, into a candidate"),
        ("request certificate", "CN=branch, with the key own"),
    ] {
        let found = trail.entries.iter().filter(|entry| entry.what == what);
        let results: Vec<&str> = found.map(|entry| entry.result.as_str()).collect();
        assert_eq!(results, [result]);
    }
}
