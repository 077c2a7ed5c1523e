//! What the history and the audit trail say of what was asked.

use super::*;

async fn load(bench: &Bench, candidate: &str, mode: api::load::Mode, text: &str) {
    let mut load = api::Load {
        text: text.to_owned(),
        ..api::Load::default()
    };
    load.set_mode(mode);
    load.set_format(api::Format::Set);
    let request = api::EditRequest {
        candidate: candidate.to_owned(),
        at: Vec::new(),
        edits: vec![edit(Change::Load(load))],
    };
    assert_eq!(
        bench.agent.edit(&root(), request).await.unwrap().problems,
        []
    );
}

async fn entries(bench: &Bench) -> Vec<api::AuditEntry> {
    let request = api::ListAuditRequest::default();
    bench
        .agent
        .audit_trail(&root(), request)
        .await
        .unwrap()
        .entries
}

#[tokio::test]
async fn the_history_says_what_a_revision_comes_from() {
    use api::load::Mode;
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    load(
        &bench,
        &candidate,
        Mode::Override,
        "set interfaces lan mtu 1300\n",
    )
    .await;
    bench.commit(&candidate).await;
    // Touched by hand afterwards.
    load(
        &bench,
        &candidate,
        Mode::Override,
        "set interfaces lan mtu 1301\n",
    )
    .await;
    bench.set(&candidate, &["interfaces lan mtu 1302"]).await;
    bench.commit(&candidate).await;
    load(
        &bench,
        &candidate,
        Mode::Merge,
        "set interfaces lan mtu 1303\n",
    )
    .await;
    bench.commit(&candidate).await;
    let request = api::EditRequest {
        candidate: candidate.clone(),
        at: Vec::new(),
        edits: vec![edit(Change::Rollback(2))],
    };
    bench.agent.edit(&root(), request).await.unwrap();
    bench.commit(&candidate).await;
    // A program.
    bench.set(&candidate, &["interfaces wan mtu 1304"]).await;
    let request = api::CommitRequest {
        candidate,
        ..api::CommitRequest::default()
    };
    bench.agent.commit(&root(), request).await.unwrap();
    let request = api::ListRevisionsRequest::default();
    let reply = bench.agent.revisions(&root(), request).await.unwrap();
    let sources: Vec<&str> = reply
        .revisions
        .iter()
        .map(|one| one.source.as_str())
        .collect();
    assert_eq!(
        sources,
        ["api", "rollback", "cli", "cli", "cli", "cli", "import"]
    );
}

#[tokio::test]
async fn refusals_are_written_down_until_there_are_too_many() {
    let bench = Bench::new();
    let claim = || Claim {
        principal: None,
        origin: Some("tty9".to_owned()),
        key: None,
    };
    for _ in 0..500 {
        let refused = bench.agent.identify(Peer { uid: 1000 }, claim()).await;
        assert!(matches!(refused, Err(Refusal::Stranger(_))));
    }
    let trail = entries(&bench).await;
    let strangers = trail.iter().filter(|entry| entry.what == "connect");
    assert_eq!(strangers.count(), 10);
    // Others are not drowned by it.
    let bob = Caller {
        name: "bob".to_owned(),
        role: Role::ReadOnly,
        origin: "198.51.100.7 50000 192.0.2.1 22".to_owned(),
    };
    let refusal = bench
        .agent
        .open(&bob, api::OpenRequest::default())
        .await
        .unwrap_err();
    bench.agent.note_refusal(&bob, "open", &refusal).await;
    let trail = entries(&bench).await;
    let last = trail.last().unwrap();
    assert_eq!(
        (
            last.principal.as_str(),
            last.from.as_str(),
            last.what.as_str()
        ),
        ("bob", "198.51.100.7", "open")
    );
    assert!(
        last.result.contains("refused: bob is read-only"),
        "{last:?}"
    );
}

#[tokio::test]
async fn commits_that_come_to_nothing_are_written_down() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .set(&candidate, &[WAN, "interfaces wan vrf nowhere"])
        .await;
    let reply = bench.commit(&candidate).await;
    bench.agent.note_commit(&root(), &reply).await;
    let trail = entries(&bench).await;
    let last = trail.last().unwrap();
    assert_eq!(last.what, "commit");
    assert!(last.result.contains("interfaces[wan]"), "{last:?}");
    // The box itself goes back.
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit_for(&candidate, 1).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.agent.go_back_in_time().await.unwrap();
    let trail = entries(&bench).await;
    let last = trail.last().unwrap();
    assert_eq!(last.what, "revert");
    assert!(last.result.contains("not confirmed in time"), "{last:?}");
}

#[tokio::test]
async fn a_pinned_revision_stays_and_the_trail_says_who_pinned_it() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit(&candidate).await;
    let pinned = async |bench: &Bench| -> Vec<u64> {
        let request = api::ListRevisionsRequest::default();
        let reply = bench.agent.revisions(&root(), request).await.unwrap();
        let pinned = reply.revisions.iter().filter(|one| one.pinned);
        pinned.map(|one| one.number).collect()
    };
    let pin = async |bench: &Bench, caller: &Caller, revision, off| {
        let request = api::PinRequest { revision, off };
        bench.agent.pin(caller, request).await
    };
    assert_eq!(pinned(&bench).await, [0; 0]);
    pin(&bench, &root(), 1, false).await.unwrap();
    pin(&bench, &root(), 2, false).await.unwrap();
    assert_eq!(pinned(&bench).await, [2, 1]);
    pin(&bench, &root(), 2, true).await.unwrap();
    let bench = bench.restart().await;
    assert_eq!(pinned(&bench).await, [1]);
    assert!(matches!(
        pin(&bench, &root(), 9, false).await,
        Err(Refusal::Store(crate::store::StoreError::NoSuchRevision(_)))
    ));
    assert!(matches!(
        pin(&bench, &root(), 0, false).await,
        Err(Refusal::Malformed(_))
    ));
    let operator = Caller {
        role: Role::Operator,
        ..root()
    };
    assert!(matches!(
        pin(&bench, &operator, 1, true).await,
        Err(Refusal::Role { .. })
    ));
    assert_eq!(pinned(&bench).await, [1]);
    let trail: Vec<(String, String)> = entries(&bench)
        .await
        .into_iter()
        .filter(|entry| entry.what.ends_with("pin") && entry.principal == "root")
        .map(|entry| (entry.what, entry.result))
        .collect();
    let mut told: Vec<(&str, &str)> = trail
        .iter()
        .map(|(what, result)| (what.as_str(), result.as_str()))
        .collect();
    told.sort_unstable();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[..2], [("pin", "revision 1"), ("pin", "revision 2")]);
    assert!(told[2].1.starts_with("revision 9: "), "{told:?}");
    assert_eq!(told[3], ("unpin", "revision 2"));
}
