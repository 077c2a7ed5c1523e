//! What a session goes on from after its commit, also when mgmt dies in between.

use super::*;

const LAN: &str = "interfaces lan addresses 10.1.0.1/24";

impl Bench {
    async fn of(&self, candidate: &str) -> String {
        self.text(api::source::Which::Candidate(candidate.to_owned()))
            .await
    }
}

#[tokio::test]
async fn what_others_took_back_does_not_come_back_after_a_restart() {
    let bench = Bench::new();
    let one = bench.open().await;
    bench.set(&one, &[WAN, "interfaces wan mtu 1400"]).await;
    bench.applies(&one).await;
    let other = bench.open().await;
    bench.set(&other, &["delete interfaces wan mtu"]).await;
    bench.applies(&other).await;
    let bench = bench.restart().await;
    // Nothing of it is an edit.
    let reply = bench.commit(&one).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Unchanged, 3));
    bench.set(&one, &[LAN]).await;
    bench.applies(&one).await;
    let running = bench.running().await;
    assert!(
        running.contains("lan") && !running.contains("mtu"),
        "{running}"
    );
}

#[tokio::test]
async fn edits_of_a_commit_that_was_taken_back_are_edits_after_a_restart() {
    let bench = Bench::new();
    let one = bench.open().await;
    bench.set(&one, &[WAN]).await;
    bench.applies(&one).await;
    let before = bench.running().await;
    let lan = ("interface/lan".to_owned(), true);
    bench.hands.told().failing.extend([lan]);
    bench.set(&one, &[LAN]).await;
    let reply = bench.commit(&one).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Reverted, 4));
    let bench = bench.restart().await;
    assert_eq!(bench.running().await, before);
    assert!(bench.of(&one).await.contains("lan"));
    // Somebody else goes on meanwhile; the cause is mended.
    let other = bench.open().await;
    bench.set(&other, &["interfaces wan mtu 1400"]).await;
    bench.applies(&other).await;
    bench.hands.told().failing.clear();
    bench.applies(&one).await;
    let running = bench.running().await;
    assert!(
        running.contains("lan") && running.contains("mtu 1400"),
        "{running}"
    );
}

#[tokio::test]
async fn what_is_edited_in_the_middle_of_a_commit_is_the_next_ones() {
    let bench = Bench::new();
    let one = bench.open().await;
    bench.set(&one, &[WAN, "interfaces wan mtu 1400"]).await;
    let gate = Arc::new(Gate::default());
    bench.hands.told().gate = Some(Arc::clone(&gate));
    let meanwhile = async {
        gate.reached.notified().await;
        // The same once more, and something new.
        bench.set(&one, &["interfaces wan mtu 1300", LAN]).await;
        gate.open.notify_one();
    };
    let (reply, ()) = tokio::join!(bench.commit(&one), meanwhile);
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 2));
    let running = bench.running().await;
    assert!(
        running.contains("mtu 1400") && !running.contains("lan"),
        "{running}"
    );
    // Others take back what was committed: only what was edited since is still an edit.
    let other = bench.open().await;
    bench
        .set(&other, &["delete interfaces wan addresses"])
        .await;
    bench.applies(&other).await;
    let bench = bench.restart().await;
    bench.applies(&one).await;
    let running = bench.running().await;
    assert!(
        running.contains("mtu 1300") && running.contains("lan") && !running.contains("192.0.2.1"),
        "{running}"
    );
}

#[tokio::test]
async fn what_is_discarded_in_the_middle_of_its_commit_undoes_nothing() {
    let bench = Bench::new();
    let one = bench.open().await;
    bench.set(&one, &[WAN]).await;
    let gate = Arc::new(Gate::default());
    bench.hands.told().gate = Some(Arc::clone(&gate));
    let meanwhile = async {
        gate.reached.notified().await;
        let request = api::DiscardRequest {
            candidate: one.clone(),
            keep: true,
        };
        bench.agent.discard(&root(), request).await.unwrap();
        gate.open.notify_one();
    };
    let (reply, ()) = tokio::join!(bench.commit(&one), meanwhile);
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 2));
    assert!(bench.of(&one).await.contains("wan"));
    let bench = bench.restart().await;
    assert_eq!(bench.commit(&one).await.outcome(), Outcome::Unchanged);
    bench.set(&one, &[LAN]).await;
    bench.applies(&one).await;
    let running = bench.running().await;
    assert!(
        running.contains("wan") && running.contains("lan"),
        "{running}"
    );
}
