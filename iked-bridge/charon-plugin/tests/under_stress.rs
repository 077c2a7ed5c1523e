//! The plugin in a real charon when things are not as they should be: no bridge, a bridge that restarts, a slow one, the
//! wrong charon.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bridge;
#[path = "../../strongswan-vici/tests/charon/mod.rs"]
mod charon;
mod setup;

use std::path::Path;
use std::time::{Duration, Instant};

use bridge::FakeBridge;
use charon::{Charon, Host, PROGRAM, within};
use culvert_plugin_wire::{EXIT_PLUGIN_MISSING, PLUGIN_FILE};
use setup::*;
use strongswan_vici::{Initiate, Message, SharedKey, SharedKeyType, Terminate, Vici};

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bridge_charon_lives_and_calls_fail_in_time() {
    let mut setup = Setup::new().await;
    let epoch = setup.bridge.epochs();
    setup.bridge.leave();
    let begun = Instant::now();
    let what = initiate();
    let (failed, version) = tokio::join!(setup.vici.initiate(&what), setup.vici.version());
    assert!(failed.is_err() && version.is_ok(), "{failed:?} {version:?}");
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(9) && took < Duration::from_secs(13),
        "{took:?}"
    );
    assert!(setup.charon.is_alive());
    setup.bridge.come_back();
    setup.establish().await;
    assert_eq!(setup.bridge.epochs(), [epoch[0], epoch[0]]);
    setup.charon.terminate().unwrap();
    assert_eq!(setup.charon.wait(Duration::from_secs(10)).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_made_while_the_bridge_is_away_are_told_when_it_is_back() {
    let mut setup = Setup::new().await;
    let (inbound, outbound) = setup.establish().await;
    setup.bridge.leave();
    let begun = Instant::now();
    let what = Terminate {
        ike: Some("hq".into()),
        timeout: Some(Duration::from_secs(20)),
        ..Terminate::default()
    };
    setup.vici.terminate(&what).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "deletes do not wait: {:?}",
        begun.elapsed()
    );
    assert!(setup.bridge.calls(deleted).is_empty());
    setup.bridge.come_back();
    within(Duration::from_secs(5), "remembered deletes", || {
        Ok((setup.bridge.calls(deleted).len() == 2
            && setup.bridge.calls(deleted_policy).len() >= 3)
            .then_some(()))
    })
    .unwrap();
    let mut spis = setup.bridge.calls(deleted);
    let mut expected = [spi(&inbound), spi(&outbound)];
    spis.sort_unstable();
    expected.sort_unstable();
    assert_eq!(spis, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_restarts_within_the_limit_costs_a_negotiation_nothing() {
    let mut setup = Setup::new().await;
    setup.bridge.leave();
    let vici = setup.vici.clone();
    let negotiation = tokio::spawn(async move { vici.initiate(&initiate()).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.bridge.come_back();
    negotiation.await.unwrap().unwrap();
    assert_eq!(setup.bridge.calls(added).len(), 2);
}

/// One of many connections between the same two addresses, told apart by their identities.
fn tunnel_connection(tunnel: usize, ours: u8, theirs: u8) -> Message {
    let side = |number: u8| {
        Message::new()
            .with("auth", "psk")
            .with("id", format!("t{tunnel}-{number}"))
    };
    let child = Message::new()
        .with_list("local_ts", [format!("10.{ours}.{tunnel}.0/24")])
        .with_list("remote_ts", [format!("10.{theirs}.{tunnel}.0/24")])
        .with_list("esp_proposals", ["aes128gcm16"]);
    Message::new()
        .with("version", "2")
        .with_list("local_addrs", [format!("192.0.2.{ours}")])
        .with_list("remote_addrs", [format!("192.0.2.{theirs}")])
        .with_list("proposals", ["aes128-sha256-x25519"])
        .with_section("local", side(ours))
        .with_section("remote", side(theirs))
        .with_section(
            "children",
            Message::new().with_section(format!("net{tunnel}"), child),
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_many_negotiations_are_under_way_at_once() {
    const TUNNELS: usize = 100;
    // A tunnel takes six calls one after the other: an SPI, two SAs, three policies.
    const DELAY: Duration = Duration::from_millis(20);
    let file = plugin_file();
    let hosts = [1, 2].map(|_| Host::new(&[(PLUGIN_FILE, &file)]).unwrap());
    hosts[0].join(&hosts[1]).unwrap();
    let bridges = [0, 1].map(|end| FakeBridge::start(&hosts[end].path("bridge")));
    let charons = [0, 1].map(|end| {
        start(&hosts[end], PROGRAM, bridges[end].path())
            .ready()
            .unwrap()
    });
    let vici = [0, 1].map(|end: usize| Vici::new(&charons[end].vici));
    for tunnel in 0..TUNNELS {
        for (vici, ours, theirs) in [(&vici[0], 1, 2), (&vici[1], 2, 1)] {
            vici.load_conn(
                &format!("t{tunnel}"),
                tunnel_connection(tunnel, ours, theirs),
            )
            .await
            .unwrap();
        }
    }
    for vici in &vici {
        let data = b"a secret of two".to_vec().into();
        let key = SharedKey {
            id: "psk".into(),
            kind: SharedKeyType::Ike,
            data,
            owners: Vec::new(),
        };
        vici.load_shared(&key).await.unwrap();
    }
    for bridge in &bridges {
        bridge.delay(DELAY);
    }
    let begun = Instant::now();
    for tunnel in 0..TUNNELS {
        let what = Initiate {
            child: Some(format!("net{tunnel}")),
            ike: None,
            timeout: None,
        };
        vici[0].initiate(&what).await.unwrap();
    }
    within(Duration::from_secs(30), "all SAs", || {
        Ok(bridges
            .iter()
            .all(|bridge| bridge.calls(added).len() == 2 * TUNNELS)
            .then_some(()))
    })
    .unwrap();
    let (took, one_after_the_other) =
        (begun.elapsed(), DELAY * 6 * u32::try_from(TUNNELS).unwrap());
    assert!(
        took < one_after_the_other / 3,
        "{TUNNELS} tunnels took {took:?}"
    );
}

#[test]
fn charon_ends_rather_than_use_another_backend() {
    let file = plugin_file();
    let host = Host::new(&[(PLUGIN_FILE, &file)]).unwrap();
    let mut charon = Charon::spawn(&host, "culvert!", &[]).unwrap();
    assert_eq!(
        charon.wait(Duration::from_secs(10)).unwrap(),
        EXIT_PLUGIN_MISSING,
        "{}",
        charon.log()
    );
    assert!(
        charon.log().contains("CULVERT_PLUGIN_SOCKET is not set"),
        "{}",
        charon.log()
    );
}

#[test]
fn a_charon_of_another_version_is_refused() {
    let file = plugin_file();
    let host = Host::new(&[(PLUGIN_FILE, &file)]).unwrap();
    let mut program = std::fs::read(PROGRAM).unwrap();
    let at = program
        .windows(7)
        .position(|bytes| bytes == b"\x005.9.8\0")
        .unwrap();
    program[at..at + 7].copy_from_slice(b"\x005.9.9\0");
    let other = host.path("charon");
    std::fs::write(&other, program).unwrap();
    host.run(&["chmod", "0755", path(&other)]).unwrap();
    let socket = host.path("bridge");
    let mut charon = start(&host, path(&other), path(&socket));
    assert_eq!(
        charon.wait(Duration::from_secs(10)).unwrap(),
        EXIT_PLUGIN_MISSING,
        "{}",
        charon.log()
    );
    assert!(
        charon.log().contains("this charon is not strongSwan 5.9.8"),
        "{}",
        charon.log()
    );
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
