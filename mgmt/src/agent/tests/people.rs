//! Who may do what, and who is out.

use super::*;

#[tokio::test]
async fn candidates_outlive_mgmt_and_are_private() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    let secret = "credentials pre_shared_keys k secret correct-horse-battery";
    bench
        .set(
            &candidate,
            &[WAN, "credentials pre_shared_keys k identities a", secret],
        )
        .await;
    let bench = bench.restart().await;
    let text = bench
        .text(api::source::Which::Candidate(candidate.clone()))
        .await;
    assert!(text.contains("wan") && !text.contains("horse"), "{text}");
    let alice = Caller {
        name: "alice".to_owned(),
        ..root()
    };
    let request = api::EditRequest {
        candidate: candidate.clone(),
        ..api::EditRequest::default()
    };
    assert!(matches!(
        bench.agent.edit(&alice, request).await,
        Err(Refusal::NoCandidate(_))
    ));
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let told = bench.hands.told();
    let plan = &told.followed.last().unwrap().1;
    let credential = plan
        .values()
        .find_map(|planned| match &planned.value.kind {
            Some(culvert_model::bus::value::Kind::Credential(credential)) => Some(credential),
            _ => None,
        })
        .unwrap();
    assert!(matches!(
        &credential.kind,
        Some(culvert_model::bus::credential::Kind::Psk(psk)) if psk.secret == b"correct-horse-battery"
    ));
}

#[tokio::test]
async fn who_may_not_is_told_so() {
    let bench = Bench::new();
    for role in [Role::ReadOnly, Role::Operator] {
        let caller = Caller {
            name: "bob".to_owned(),
            role,
            origin: "console".to_owned(),
        };
        let open = bench.agent.open(&caller, api::OpenRequest::default()).await;
        assert!(matches!(open, Err(Refusal::Role { .. })));
        let commit = bench
            .agent
            .commit(&caller, api::CommitRequest::default())
            .await;
        assert!(matches!(commit, Err(Refusal::Role { .. })));
        let confirm = bench
            .agent
            .confirm(&caller, api::ConfirmRequest::default())
            .await;
        assert!(matches!(confirm, Err(Refusal::Role { .. })));
    }
}

#[tokio::test]
async fn whoever_holds_the_configuration_keeps_others_from_committing() {
    let bench = Bench::new();
    let other = bench.open().await;
    let held = bench
        .agent
        .open(
            &root(),
            api::OpenRequest {
                exclusive: true,
                ..api::OpenRequest::default()
            },
        )
        .await
        .unwrap()
        .candidate;
    bench.set(&other, &[WAN]).await;
    let request = api::CommitRequest {
        candidate: other.clone(),
        ..api::CommitRequest::default()
    };
    assert!(matches!(
        bench.agent.commit(&root(), request).await,
        Err(Refusal::Held(_))
    ));
    let discard = api::DiscardRequest {
        candidate: held,
        keep: false,
    };
    bench.agent.discard(&root(), discard).await.unwrap();
    assert_eq!(bench.commit(&other).await.outcome(), Outcome::Applied);
}

#[tokio::test]
async fn cutting_off_ones_own_session_takes_a_second_word() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    bench.set(&candidate, &["delete interfaces wan"]).await;
    let remote = Caller {
        origin: "198.51.100.7 50000 192.0.2.1 22".to_owned(),
        ..root()
    };
    let mut request = api::CommitRequest {
        candidate,
        ..api::CommitRequest::default()
    };
    let reply = bench.agent.commit(&remote, request.clone()).await.unwrap();
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Dangerous, 2));
    // A window is a second word, too: unless whoever is cut off confirms it, it is taken back.
    request.confirm_seconds = 60;
    let reply = bench.agent.commit(&remote, request.clone()).await.unwrap();
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 3));
    assert!(reply.problems[0].message.contains("came in by"));
    let confirm = api::ConfirmRequest::default();
    bench.agent.confirm(&root(), confirm).await.unwrap();
    bench.set(&request.candidate, &[WAN]).await;
    bench.commit(&request.candidate).await;
    bench
        .set(&request.candidate, &["delete interfaces wan"])
        .await;
    (request.confirm_seconds, request.confirmed) = (0, true);
    let reply = bench.agent.commit(&remote, request).await.unwrap();
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 5));
}

#[tokio::test]
async fn who_is_removed_is_unknown_from_then_on() {
    let mut bench = Bench::new();
    bench.agent = bench.agent.with_login(Writer::new(bench.place.path()));
    let keys = bench.place.path().join("etc/ssh/authorized_keys");
    let asks = async || {
        let claim = Claim {
            principal: Some("carol".to_owned()),
            origin: Some("198.51.100.7 50000 192.0.2.1 22".to_owned()),
            key: None,
        };
        bench.agent.identify(Peer { uid: 900 }, claim).await
    };
    let candidate = bench.open().await;
    let mut key = words("system users carol ssh_keys laptop public_key");
    key.words.push(format!("ssh-ed25519 {}", "A".repeat(68)));
    bench
        .set(&candidate, &["system users carol role read-only"])
        .await;
    let request = api::EditRequest {
        candidate: candidate.clone(),
        at: Vec::new(),
        edits: vec![edit(Change::Set(key))],
    };
    let edited = bench.agent.edit(&root(), request).await.unwrap();
    assert_eq!(edited.problems, []);
    assert!(!keys.exists(), "before the commit");
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let text = std::fs::read_to_string(&keys).unwrap();
    assert!(text.contains("--principal carol --key "), "{text}");
    assert_eq!(asks().await.unwrap().role, Role::ReadOnly);

    let candidate = bench.open().await;
    bench.set(&candidate, &["delete system users carol"]).await;
    assert_eq!(bench.commit(&candidate).await.outcome(), Outcome::Applied);
    let text = std::fs::read_to_string(&keys).unwrap();
    assert!(!text.contains("carol"), "{text}");
    assert!(matches!(asks().await, Err(Refusal::Stranger(_))));

    // Where it came from is remembered.
    let trail = bench
        .agent
        .audit_trail(&root(), api::ListAuditRequest::default())
        .await
        .unwrap();
    let refused = trail.entries.iter().find(|entry| entry.what == "connect");
    let refused = refused.unwrap();
    assert_eq!(
        (refused.principal.as_str(), refused.from.as_str()),
        ("carol", "198.51.100.7")
    );
}

#[tokio::test]
async fn whoever_attends_hears_of_their_end_and_of_nothing_else() {
    let bench = Bench::new();
    let claim = |name: &str| Claim {
        principal: Some(name.to_owned()),
        origin: None,
        key: None,
    };
    let candidate = bench.open().await;
    let users = [
        "system users alice role operator",
        "system users carol role read-only",
    ];
    bench.set(&candidate, &users).await;
    bench.commit(&candidate).await;
    let attend = async |name| {
        let peer = Peer { uid: 900 };
        let caller = bench.agent.identify(peer, claim(name)).await?;
        bench.agent.attend(&caller, peer, claim(name)).await
    };
    assert!(matches!(attend("bob").await, Err(Refusal::Stranger(_))));

    let (mut alice, mut carol) = (Box::pin(attend("alice")), Box::pin(attend("carol")));
    let soon = Duration::from_millis(50);
    let quiet = async |one: &mut (dyn Future<Output = _> + Unpin)| {
        tokio::time::timeout(soon, one).await.is_err()
    };
    assert!(quiet(&mut alice).await && quiet(&mut carol).await);
    // Another role is no end.
    bench
        .set(&candidate, &["system users alice role read-only", WAN])
        .await;
    bench.commit(&candidate).await;
    assert!(quiet(&mut alice).await && quiet(&mut carol).await);
    bench.set(&candidate, &["delete system users carol"]).await;
    bench.commit(&candidate).await;
    assert!(matches!(carol.await, Err(Refusal::Stranger(_))));
    assert!(quiet(&mut alice).await);
    // mgmt does not wait for those who only attend.
    bench.agent.dismiss();
    alice.await.unwrap();
}
