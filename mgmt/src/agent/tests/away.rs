//! Hands that are away, deaf or mute: what they were not told they are told later.

use super::*;

#[tokio::test]
async fn gone_hands_are_told_later() {
    let bench = Bench::new();
    bench.hands.told().away = true;
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let request = api::CommitRequest {
        candidate,
        ..api::CommitRequest::default()
    };
    // Nobody can say whether the machine has what it takes: nothing is stored.
    assert!(matches!(
        bench.agent.commit(&root(), request).await,
        Err(Refusal::Hands(HandsError::Away(_)))
    ));
    assert_eq!(bench.running().await, "");
}

#[tokio::test]
async fn who_does_not_take_a_plan_is_told_again_until_they_do() {
    let bench = Bench::new();
    bench.hands.told().deaf = true;
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 2));
    assert_eq!(reply.waiting.len(), 1);
    let reason = &reply.waiting[0].reason;
    assert!(reason.contains("does not answer"), "{reason}");
    assert_eq!(bench.hands.revision(), 0);
    assert!(bench.agent.catch_up().await.is_err());
    let status = async || {
        let asked = api::StatusRequest::default();
        bench.agent.status(&root(), asked).await.unwrap()
    };
    let behind = status().await;
    assert!(!behind.settled && behind.waiting[0].standing == "away");

    bench.hands.told().deaf = false;
    // The other one waits for its turn, and finds it told.
    let both = tokio::join!(bench.agent.catch_up(), bench.agent.catch_up());
    assert!(matches!(both, (Ok(()), Ok(()))));
    assert_eq!(bench.hands.revision(), 2);
    let after = status().await;
    assert!(after.settled && after.waiting.is_empty());
    // Once is enough.
    bench.agent.catch_up().await.unwrap();
    assert_eq!(bench.hands.told().followed.len(), 1);
}

#[tokio::test]
async fn who_falls_silent_after_a_plan_has_not_applied_it() {
    let mut bench = Bench::new();
    bench.agent.patience = Duration::from_millis(30);
    bench.hands.told().mute = true;
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let reply = bench.commit(&candidate).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Pending, 2));
    let reason = &reply.waiting[0].reason;
    assert!(reason.contains("does not answer"), "{reason}");
    // It may have begun anew with another plan: it is told again.
    bench.hands.told().mute = false;
    bench.agent.catch_up().await.unwrap();
    assert_eq!(bench.hands.told().followed.len(), 2);
}
