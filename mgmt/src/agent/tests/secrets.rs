//! Secrets that are written as their digests, that leave and come back sealed, and the key of the store.

use super::*;

const CANARY: &str = "canary-psk-that-nobody-reads";
const PASSPHRASE: &str = "a passphrase of some length";

/// A pre-shared key of that name.
fn psk(name: &str, secret: &str) -> [String; 2] {
    [
        format!("credentials pre_shared_keys {name} identities {name}.example"),
        format!("credentials pre_shared_keys {name} secret {secret}"),
    ]
}

async fn set(bench: &Bench, candidate: &str, lines: &[String]) {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    bench.set(candidate, &lines).await;
}

fn candidate_of(id: &str) -> api::source::Which {
    api::source::Which::Candidate(id.to_owned())
}

/// The digest that stands for a secret in set lines.
async fn digest_of(bench: &Bench, which: api::source::Which, name: &str) -> String {
    let text = bench.text(which).await;
    let line = format!("set credentials pre_shared_keys {name} secret ");
    let found = text.lines().find_map(|one| one.strip_prefix(&line));
    let digest = found.unwrap_or_else(|| panic!("{text}")).to_owned();
    assert!(digest.contains("$digest:"), "{digest}");
    digest.trim_matches('"').to_owned()
}

async fn load(
    bench: &Bench,
    candidate: &str,
    format: api::Format,
    text: &str,
    passphrase: &str,
) -> Result<Vec<api::Problem>, Refusal> {
    let mut load = api::Load {
        text: text.to_owned(),
        passphrase: passphrase.to_owned(),
        ..api::Load::default()
    };
    load.set_mode(api::load::Mode::Override);
    load.set_format(format);
    let request = api::EditRequest {
        candidate: candidate.to_owned(),
        at: Vec::new(),
        edits: vec![edit(Change::Load(load))],
    };
    Ok(bench.agent.edit(&root(), request).await?.problems)
}

async fn export(bench: &Bench, passphrase: &str) -> Result<String, Refusal> {
    let request = api::ExportRequest {
        source: None,
        passphrase: passphrase.to_owned(),
    };
    Ok(bench.agent.export(&root(), request).await?.text)
}

async fn trail(bench: &Bench) -> Vec<(String, String)> {
    let request = api::ListAuditRequest::default();
    let reply = bench.agent.audit_trail(&root(), request).await.unwrap();
    let entries = reply.entries.into_iter();
    entries.map(|entry| (entry.what, entry.result)).collect()
}

/// The secret that the parts were told of last.
fn told_secret(bench: &Bench) -> Vec<u8> {
    let told = bench.hands.told();
    let plan = &told.followed.last().unwrap().1;
    let found = plan.values().find_map(|planned| match &planned.value.kind {
        Some(culvert_model::bus::value::Kind::Credential(credential)) => match &credential.kind {
            Some(culvert_model::bus::credential::Kind::Psk(psk)) => Some(psk.secret.clone()),
            _ => None,
        },
        _ => None,
    });
    found.unwrap()
}

#[tokio::test]
async fn a_digest_stands_for_a_secret_of_the_candidate_also_after_a_restart() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    set(&bench, &candidate, &psk("hq", CANARY)).await;
    // Of a secret that is nowhere but in the candidate, in a set line, in another place.
    let digest = digest_of(&bench, candidate_of(&candidate), "hq").await;
    set(&bench, &candidate, &psk("branch", &digest)).await;
    set(
        &bench,
        &candidate,
        &["delete credentials pre_shared_keys hq".to_owned()],
    )
    .await;
    let bench = bench.restart().await;
    assert_eq!(
        digest_of(&bench, candidate_of(&candidate), "branch").await,
        digest
    );
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    assert_eq!(told_secret(&bench), CANARY.as_bytes());

    // Of a secret that runs, in a candidate that has lost it.
    let candidate = bench.open().await;
    set(&bench, &candidate, &["delete credentials".to_owned()]).await;
    set(&bench, &candidate, &psk("again", &digest)).await;
    let bench = bench.restart().await;
    assert_eq!(
        digest_of(&bench, candidate_of(&candidate), "again").await,
        digest
    );
}

#[tokio::test]
async fn a_digest_of_no_secret_is_a_problem_with_its_path_and_nothing_is_lost() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    set(&bench, &candidate, &[WAN.to_owned()]).await;
    let before = bench.text(candidate_of(&candidate)).await;
    let unknown = format!("$digest:{}", "ab".repeat(32));
    let lines = psk("hq", &unknown);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let problems = bench.try_set(&candidate, &lines).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].path, "credentials pre_shared_keys hq secret");
    assert_eq!(problems[0].edit, Some(1));
    assert!(problems[0].message.contains("no secret"), "{problems:?}");
    let json = format!(
        r#"{{"credentials": {{"pre_shared_keys": [{{"name": "hq", "identities": [{{"identity": "a"}}], "secret": "{unknown}"}}]}}}}"#
    );
    let problems = load(&bench, &candidate, api::Format::Json, &json, "")
        .await
        .unwrap();
    assert_eq!(problems[0].path, "credentials pre_shared_keys hq secret");
    let bench = bench.restart().await;
    assert_eq!(bench.text(candidate_of(&candidate)).await, before);
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
}

#[tokio::test]
async fn what_is_saved_with_secrets_is_restored_on_another_box() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    set(&bench, &candidate, &[WAN.to_owned()]).await;
    set(&bench, &candidate, &psk("hq", CANARY)).await;
    bench.commit(&candidate).await;
    let text = export(&bench, PASSPHRASE).await.unwrap();
    assert!(text.starts_with(culvert_mgmt_api::SEALED), "{text}");
    assert!(text.is_ascii() && !text.contains("canary"), "{text}");

    let other = Bench::new();
    let candidate = other.open().await;
    let sealed = api::Format::Sealed;
    let wrong = load(&other, &candidate, sealed, &text, "another passphrase")
        .await
        .unwrap();
    assert_eq!(
        wrong[0].message,
        "the passphrase is wrong, or the sealed configuration was changed"
    );
    assert_eq!(other.text(candidate_of(&candidate)).await, "");
    assert_eq!(
        load(&other, &candidate, sealed, &text, PASSPHRASE)
            .await
            .unwrap(),
        []
    );
    let other = other.restart().await;
    assert_eq!(other.commit(&candidate).await.outcome(), Outcome::Applied);
    assert_eq!(told_secret(&other), CANARY.as_bytes());
    let lines = |text: String| {
        let lines = text.lines().filter(|line| !line.contains("$digest:"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(other.running().await), lines(bench.running().await));

    // Both boxes know of it.
    let read = trail(&bench).await;
    assert!(read.contains(&(
        "read secrets".into(),
        "revision 2, sealed with a passphrase".into()
    )));
    let loads: Vec<_> = trail(&other).await;
    let loads: Vec<_> = loads
        .iter()
        .filter(|(what, _)| what.contains("sealed"))
        .collect();
    assert!(loads[0].1.contains("passphrase is wrong"), "{loads:?}");
    assert!(loads[1].1.contains("opened"), "{loads:?}");
    for bench in [&bench, &other] {
        let trail = format!("{:?}", trail(bench).await);
        assert!(
            !trail.contains(CANARY) && !trail.contains(PASSPHRASE),
            "{trail}"
        );
    }
}

#[tokio::test]
async fn who_may_not_reads_no_secret_and_turns_no_key() {
    let bench = Bench::new();
    for role in [Role::ReadOnly, Role::Operator] {
        let caller = Caller {
            name: "bob".to_owned(),
            role,
            origin: "console".to_owned(),
        };
        let export = bench
            .agent
            .export(&caller, api::ExportRequest::default())
            .await;
        assert!(matches!(export, Err(Refusal::Role { .. })));
        let rotate = bench
            .agent
            .rotate_key(&caller, api::RotateKeyRequest::default())
            .await;
        assert!(matches!(rotate, Err(Refusal::Role { .. })));
    }
    assert!(matches!(
        export(&bench, "short").await,
        Err(Refusal::Malformed(_))
    ));
}

#[tokio::test]
async fn a_new_key_opens_everything_that_the_old_one_did() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    set(&bench, &candidate, &psk("hq", CANARY)).await;
    bench.commit(&candidate).await;
    let waiting = bench.open().await;
    set(&bench, &waiting, &psk("branch", "another-canary")).await;
    let digest = digest_of(&bench, candidate_of(&waiting), "hq").await;
    let key = std::fs::read(bench.place.path().join("mgmt/store.key")).unwrap();
    let root = root();
    let rotate = || {
        bench
            .agent
            .rotate_key(&root, api::RotateKeyRequest::default())
    };
    let first = rotate().await.unwrap().generation;
    assert_eq!(rotate().await.unwrap().generation, first + 1);
    assert_ne!(
        std::fs::read(bench.place.path().join("mgmt/store.key")).unwrap(),
        key
    );
    let bench = bench.restart().await;
    // Digests are of another key, which stays: nothing looks changed.
    assert_eq!(
        digest_of(&bench, candidate_of(&waiting), "hq").await,
        digest
    );
    assert_eq!(bench.commit(&waiting).await.outcome(), Outcome::Applied);
    let entries = trail(&bench).await;
    let rotations: Vec<_> = entries
        .iter()
        .filter(|(what, _)| what == "rotate key")
        .collect();
    assert_eq!(rotations.len(), 4, "begun and done, twice: {entries:?}");
}
