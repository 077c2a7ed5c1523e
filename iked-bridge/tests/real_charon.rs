//! The bridge between real charons, over real sockets, with dataplanes that hold SAs and carry nothing.
//!
//! ```text
//!   dataplane 1 == bus == bridge 1 == plugin, VICI == charon 1 ── wan ── charon 2 == bridge 2 == dataplane 2
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../strongswan-vici/tests/charon/mod.rs"]
mod charon;
mod gateway;

use std::time::Duration;

use culvert_model::bus::{self, StartAction, sa_event, value};
use gateway::{Gateway, IF_ID, agreed, eventually};
use tokio::time::{Instant, sleep};

/// Two gateways, joined, their charons running, nothing configured.
async fn pair() -> [Gateway; 2] {
    let (mut one, mut two) = tokio::join!(Gateway::new(1), Gateway::new(2));
    one.host.join(&two.host).unwrap();
    one.start_charon();
    two.start_charon();
    [one, two]
}

/// The first one starts the tunnel, the second one waits for it.
async fn tunnel() -> ([Gateway; 2], (u32, u32)) {
    let [one, two] = pair().await;
    two.configure(StartAction::None).await;
    one.configure(StartAction::Start).await;
    let spis = agreed(&one, &two, None).await;
    ([one, two], spis)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_comes_up_by_itself_and_is_shown() {
    let ([one, _two], (spi_in, spi_out)) = tunnel().await;
    let shown = eventually("readiness", || async {
        let shown = one.show().await;
        (shown.plugin_session && shown.reconciled).then_some(shown)
    })
    .await;
    assert!(shown.charon_pid > 0);
    let ike = &shown.ikes[0];
    assert_eq!(
        (ike.connection.as_str(), ike.state.as_str()),
        ("hq", "ESTABLISHED")
    );
    assert_eq!(
        (ike.local_id.as_str(), ike.remote_id.as_str()),
        ("gateway-1", "gateway-2")
    );
    assert!(
        ike.initiator && ike.proposal.contains("AES_GCM_16-128"),
        "{ike:?}"
    );
    let child = &ike.children[0];
    assert_eq!((child.name.as_str(), child.if_id), ("lan", IF_ID));
    assert_eq!((child.spi_in, child.spi_out), (spi_in, spi_out));
    // Counters come from the dataplane.
    assert_eq!((child.bytes_in, child.packets_out), (300, 3));
    let sa = one.dataplane.with(|state| state.sas[&spi_out].clone());
    assert_eq!(
        (sa.if_id, sa.encryption_key_bits, sa.replay_window),
        (IF_ID, 128, 1024)
    );
    assert_eq!(sa.encryption(), bus::EncryptionAlgorithm::AesGcm16);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_rekey_many_times_and_nothing_is_left_over() {
    let ([one, two], mut spis) = tunnel().await;
    for round in 0..4 {
        let gateway = if round % 2 == 0 { &one } else { &two };
        gateway.rekey("", "lan").await;
        spis = agreed(&one, &two, Some(spis)).await;
        gateway.rekey("hq", "").await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(agreed(&one, &two, None).await, spis);
    // At the same time.
    tokio::join!(one.rekey("", "lan"), two.rekey("", "lan"));
    agreed(&one, &two, Some(spis)).await;
    one.assert_no_key_twice();
    two.assert_no_key_twice();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataplane_that_restarts_gets_new_keys_at_once() {
    let ([mut one, two], old) = tunnel().await;
    one.dataplane.kill().await;
    sleep(Duration::from_millis(300)).await;
    one.dataplane.restart();
    let begun = Instant::now();
    let new = agreed(&one, &two, Some(old)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // Not twice, either.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(one.children().await, [new]);
    one.assert_no_key_twice();
    two.assert_no_key_twice();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_restarts_disturbs_nothing() {
    let ([mut one, two], spis) = tunnel().await;
    let policies = one.dataplane.with(|state| state.policies.clone());
    one.stop_bridge().await;
    sleep(Duration::from_millis(500)).await;
    one.start_bridge().await;
    eventually("reconciliation", || async {
        let shown = one.show().await;
        (shown.plugin_session && shown.reconciled).then_some(())
    })
    .await;
    one.configure(StartAction::Start).await;
    sleep(Duration::from_secs(4)).await;
    assert_eq!(one.settled(None).await, spis);
    assert_eq!(one.dataplane.with(|state| state.policies.clone()), policies);
    // It works on as its predecessor would have.
    one.rekey("", "lan").await;
    agreed(&one, &two, Some(spis)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_charon_gets_everything_again_and_replaces_the_orphans() {
    let ([mut one, two], old) = tunnel().await;
    one.kill_charon();
    sleep(Duration::from_millis(500)).await;
    // Traffic goes on meanwhile.
    let mut spis = one.dataplane.spis();
    spis.sort_unstable();
    let mut expected = [old.0, old.1];
    expected.sort_unstable();
    assert_eq!(spis, expected);
    assert!(!one.show().await.plugin_session);
    one.start_charon();
    let begun = Instant::now();
    agreed(&one, &two, Some(old)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    one.assert_no_key_twice();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ends_that_start_at_once_end_with_one_tunnel() {
    let [one, two] = pair().await;
    tokio::join!(
        one.configure(StartAction::Start),
        two.configure(StartAction::Start)
    );
    agreed(&one, &two, None).await;
    // There may have been two for a moment; which one stays is settled within 15 s.
    sleep(Duration::from_secs(16)).await;
    let kept = agreed(&one, &two, None).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(one.children().await, [kept]);
    assert_eq!(two.children().await, [(kept.1, kept.0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_waits_for_traffic() {
    let [one, two] = pair().await;
    two.configure(StartAction::None).await;
    one.configure(StartAction::Trap).await;
    let trap = eventually("the trap", || async {
        one.dataplane.with(|state| {
            let traps = state.policies.iter().filter(|policy| policy.priority == 2);
            traps
                .clone()
                .find(|policy| {
                    let key = policy.key.as_ref().unwrap();
                    key.direction() == bus::policy_key::Direction::Out && key.spi == 0
                })
                .cloned()
        })
    })
    .await;
    assert!(one.children().await.is_empty());
    let selector = trap.key.as_ref().unwrap().source.clone();
    one.dataplane
        .publish(sa_event::Event::Acquire(bus::Acquire {
            reqid: trap.reqid,
            if_id: IF_ID,
            source: selector.clone(),
            destination: selector,
        }));
    let children = eventually("a CHILD SA", || async {
        let children = one.children().await;
        (!children.is_empty()).then_some(children)
    })
    .await;
    assert_eq!(children.len(), 1);
    eventually("both ends", || async {
        (one.dataplane.spis().len() == 2 && two.dataplane.spis().len() == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_without_charon_is_loaded_when_it_comes() {
    let (mut one, mut two) = tokio::join!(Gateway::new(1), Gateway::new(2));
    one.host.join(&two.host).unwrap();
    two.start_charon();
    two.configure(StartAction::None).await;
    // Begun before charon is there, answered when it has it.
    let early = one.detached();
    let applied = tokio::spawn(async move { early.configure(StartAction::Start).await });
    sleep(Duration::from_millis(500)).await;
    assert!(!applied.is_finished());
    one.start_charon();
    applied.await.unwrap();
    one.settled(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_given_back_and_values_can_go() {
    let ([one, two], _) = tunnel().await;
    let values = one.retrieve("iked-bridge-secrets").await;
    assert_eq!(values.len(), 1);
    match values[0].value.as_ref().unwrap().kind.as_ref().unwrap() {
        value::Kind::Credential(credential) => {
            assert_eq!(
                (credential.name.as_str(), credential.digest.as_slice()),
                ("hq-psk", &[7][..])
            );
            assert!(credential.kind.is_none());
        }
        other => panic!("{other:?}"),
    }
    let values = one.retrieve("iked-bridge").await;
    let expected = value::Kind::Connection(one.connection(StartAction::Start));
    assert_eq!(values[0].key, "connection/hq");
    assert_eq!(
        values[0].value.as_ref().unwrap().kind.as_ref(),
        Some(&expected)
    );
    one.delete("iked-bridge", "connection/hq").await;
    one.delete("iked-bridge-secrets", "credential/hq-psk").await;
    eventually("silence", || async {
        (one.dataplane.spis().is_empty() && two.dataplane.spis().is_empty()).then_some(())
    })
    .await;
    assert!(one.retrieve("iked-bridge").await.is_empty());
    assert!(one.dataplane.with(|state| state.policies.is_empty()));
    sleep(Duration::from_secs(3)).await;
    assert!(one.show().await.ikes.is_empty());
}
