//! `commit confirmed`, whatever becomes of clocks, mgmt and the box.

use super::*;

#[tokio::test]
async fn an_unconfirmed_commit_is_taken_back_in_time_and_a_confirmed_one_stays() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    assert_eq!(
        bench.commit_for(&candidate, 1).await.outcome(),
        Outcome::Applied
    );
    assert!(bench.running().await.contains("wan"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.agent.go_back_in_time().await.unwrap();
    assert_eq!(bench.running().await, "");
    assert_eq!(bench.hands.revision(), 3);

    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit_for(&candidate, 1).await;
    let reply = bench
        .agent
        .confirm(&root(), api::ConfirmRequest::default())
        .await
        .unwrap();
    assert_eq!(reply.revision, 4);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    bench.agent.go_back_in_time().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    let late = bench
        .agent
        .confirm(&root(), api::ConfirmRequest::default())
        .await;
    assert!(matches!(late, Err(Refusal::Malformed(_))));
}

#[tokio::test]
async fn a_new_mgmt_goes_on_waiting_and_a_new_box_starts_on_the_confirmed_revision() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    bench.commit_for(&candidate, 600).await;
    // mgmt alone: the parts follow the revision already.
    let bench = bench.restart().await;
    bench.agent.begin_once().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    assert_eq!(bench.hands.revision(), 2);
    assert_eq!(bench.hands.told().resynchronised, 1);
    // The whole box: nobody follows anything yet.
    let bench = bench.restart().await;
    bench.hands.told().followed.clear();
    bench.agent.begin_once().await.unwrap();
    assert_eq!(bench.running().await, "");
    assert_eq!(bench.hands.revision(), 3);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_moves_no_deadline_whoever_dies() {
    let clocks = Clocks::new();
    let probation = async |bench: &Bench| {
        let asked = api::StatusRequest::default();
        let status = bench.agent.status(&root(), asked).await.unwrap();
        status.probation_seconds
    };
    let on_probation = async |bench: &Bench| {
        let candidate = bench.open().await;
        bench.set(&candidate, &[WAN]).await;
        let reply = bench.commit_for(&candidate, 600).await;
        assert_eq!(reply.outcome(), Outcome::Applied);
    };
    let bench = Bench::new().by(&clocks);
    on_probation(&bench).await;

    // A day back, and mgmt is killed: the window goes on where it was.
    clocks.pass(Duration::from_secs(100));
    clocks.set_a_day_back();
    let bench = bench.restart().await.by(&clocks);
    clocks.pass(Duration::from_secs(200));
    bench.agent.begin_once().await.unwrap();
    assert_eq!(probation(&bench).await, Some(300));
    bench.agent.go_back_in_time().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    // It ends when it would have ended, and not a day later.
    clocks.pass(Duration::from_secs(299));
    bench.agent.go_back_in_time().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    clocks.pass(Duration::from_secs(1));
    bench.agent.go_back_in_time().await.unwrap();
    assert_eq!(
        (bench.running().await.as_str(), bench.hands.revision()),
        ("", 3)
    );

    // It ends while mgmt is away: a new one goes back at once.
    on_probation(&bench).await;
    clocks.set_a_day_back();
    let bench = bench.restart().await.by(&clocks);
    clocks.pass(Duration::from_secs(601));
    bench.agent.begin_once().await.unwrap();
    assert_eq!(
        (bench.running().await.as_str(), bench.hands.revision()),
        ("", 5)
    );

    // The machine starts anew with the clock of the day before: it starts on what was confirmed.
    on_probation(&bench).await;
    let bench = bench.restart().await.by(&clocks);
    bench.hands.told().followed.clear();
    clocks.set_a_day_back();
    clocks.boot();
    bench.agent.begin_once().await.unwrap();
    assert_eq!(
        (bench.running().await.as_str(), bench.hands.revision()),
        ("", 7)
    );
    assert_eq!(probation(&bench).await, None);
}

#[tokio::test]
async fn what_fails_on_top_of_what_waits_for_its_confirmation_confirms_nothing() {
    let clocks = Clocks::new();
    let bench = Bench::new().by(&clocks);
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let reply = bench.commit_for(&candidate, 600).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Applied, 2));
    let failing = ("interface/lan".to_owned(), true);
    bench.hands.told().failing.extend([failing]);
    bench
        .set(&candidate, &["interfaces lan addresses 10.1.0.1/24"])
        .await;
    let reply = bench.commit_for(&candidate, 300).await;
    assert_eq!((reply.outcome(), reply.revision), (Outcome::Reverted, 4));
    assert!(bench.running().await.contains("wan"));
    // Still nobody has said that they can reach it.
    clocks.pass(Duration::from_secs(299));
    bench.agent.go_back_in_time().await.unwrap();
    assert!(bench.running().await.contains("wan"));
    clocks.pass(Duration::from_secs(1));
    bench.agent.go_back_in_time().await.unwrap();
    assert_eq!(
        (bench.running().await.as_str(), bench.hands.revision()),
        ("", 5)
    );
}
