//! The plugin in a real charon, against a stock charon with kernel-libipsec, with a bridge played by the test.
//!
//! ```text
//!   [ charon + culvert ] ── wan ── [ charon + kernel-libipsec ]
//!           ║ CULVERT_PLUGIN_SOCKET
//!      FakeBridge: records calls, answers them, raises upcalls, goes away, comes back
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bridge;
#[path = "../../strongswan-vici/tests/charon/mod.rs"]
mod charon;
mod setup;

use std::net::SocketAddr;
use std::time::Duration;

use bridge::FakeBridge;
use charon::{Host, PROGRAM, within};
use culvert_plugin_wire::{
    Acquire, AddPolicy, Answer, Limit, Mapping, Mode, PLUGIN_FILE, PolicyDirection, PolicyPriority,
    PolicyType, algorithm,
};
use setup::*;
use strongswan_vici::{Message, SaFilter, Terminate, Vici};

#[tokio::test(flavor = "multi_thread")]
async fn everything_charon_negotiates_arrives() {
    let setup = Setup::new().await;
    let (inbound, outbound) = setup.establish().await;
    let (us, them): (SocketAddr, SocketAddr) = (
        "192.0.2.1:4500".parse().unwrap(),
        "192.0.2.2:4500".parse().unwrap(),
    );
    for (sa, (src, dst), (src_ts, dst_ts)) in [
        (&inbound, (them, us), (network(2), network(1))),
        (&outbound, (us, them), (network(1), network(2))),
    ] {
        let id = sa.id.as_ref().unwrap();
        assert_eq!(id.src.as_ref().unwrap().socket_addr().unwrap(), src);
        assert_eq!(id.dst.as_ref().unwrap().socket_addr().unwrap(), dst);
        assert_eq!(
            (id.protocol, id.if_id, sa.mode()),
            (algorithm::PROTO_ESP, IF_ID, Mode::Tunnel)
        );
        assert_eq!((&sa.src_ts, &sa.dst_ts), (&vec![src_ts], &vec![dst_ts]));
        let keys = sa.keys.as_ref().unwrap();
        assert_eq!(
            (sa.encryption, keys.encryption.len()),
            (algorithm::ENCR_AES_GCM_16, 20)
        );
        assert_eq!(
            (sa.integrity, keys.integrity.len()),
            (algorithm::AUTH_UNDEFINED, 0)
        );
        let limits = sa.lifetimes.unwrap();
        assert_eq!(
            limits.bytes,
            Some(Limit {
                rekey: 5_000_000,
                life: 6_000_000
            })
        );
        assert_eq!(
            limits.packets,
            Some(Limit {
                rekey: 70_000,
                life: 80_000
            })
        );
        assert_eq!(limits.time.unwrap().life, 3600);
        // kernel-libipsec asks for encapsulation by pretending that there is a NAT.
        assert!(sa.encap && sa.initiator && !sa.esn, "{sa:?}");
        assert_eq!(
            (sa.replay_window, sa.ipcomp, sa.update),
            (128, 0, sa.inbound)
        );
    }
    // With no random part, the soft limit of the outbound SA is dropped: one rekey event is enough.
    assert_eq!(inbound.lifetimes.unwrap().time.unwrap().rekey, 3000);
    assert_eq!(outbound.lifetimes.unwrap().time.unwrap().rekey, 0);
    assert_eq!(outbound.tfc, 600, "the peer understands the padding");
    assert_ne!(inbound.keys, outbound.keys);
    assert_eq!(inbound.reqid, outbound.reqid);
    assert_eq!(setup.bridge.spis(), [spi(&inbound)]);

    let child = setup
        .vici
        .list_sas(&SaFilter::default())
        .await
        .unwrap()
        .remove(0)
        .children
        .remove(0);
    assert_eq!(
        (child.spi_in, child.spi_out),
        (Some(spi(&inbound)), Some(spi(&outbound)))
    );
    assert_eq!(
        (child.bytes_in, child.packets_in, child.use_in),
        (bridge::BYTES, bridge::PACKETS, Some(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_name_the_sas_they_choose() {
    let setup = Setup::new().await;
    let (inbound, outbound) = setup.establish().await;
    let policies = setup.bridge.calls(added_policy);
    for direction in [
        PolicyDirection::In,
        PolicyDirection::Forward,
        PolicyDirection::Out,
    ] {
        let policy = policies
            .iter()
            .find(|policy| policy.id.as_ref().unwrap().direction() == direction)
            .unwrap();
        let (id, manage) = (policy.id.as_ref().unwrap(), policy.manage.as_ref().unwrap());
        let out = direction == PolicyDirection::Out;
        let selectors = (id.src_ts.clone().unwrap(), id.dst_ts.clone().unwrap());
        assert_eq!(
            selectors,
            if out {
                (network(1), network(2))
            } else {
                (network(2), network(1))
            }
        );
        assert_eq!((id.if_id, manage.policy_type()), (IF_ID, PolicyType::Ipsec));
        assert_eq!(manage.priority(), PolicyPriority::Default);
        let cfg = manage.sa.unwrap();
        let esp = cfg.esp.unwrap();
        assert_eq!(
            (cfg.mode(), cfg.reqid, esp.used),
            (Mode::Tunnel, inbound.reqid, true)
        );
        assert_eq!(esp.spi, if out { spi(&outbound) } else { spi(&inbound) });
    }
}

/// Proposal, encryption and integrity as the backend sees them, bytes of both keys, ESN.
type Expected = (&'static str, u32, usize, u32, usize, bool);

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_get_the_same_keys_of_the_right_length_for_every_algorithm() {
    const EXPECTED: [Expected; 18] = [
        ("aes128gcm16-esn", 20, 20, 1024, 0, true),
        ("aes192gcm16", 20, 28, 1024, 0, false),
        ("aes256gcm16-esn-noesn", 20, 36, 1024, 0, true),
        ("aes256gcm12", 19, 36, 1024, 0, false),
        ("chacha20poly1305", 28, 36, 1024, 0, false),
        ("aes128-sha1", 12, 16, 2, 20, false),
        ("aes192-sha256-esn", 12, 24, 12, 32, true),
        ("aes256-sha384", 12, 32, 13, 48, false),
        ("aes256-sha512", 12, 32, 14, 64, false),
        ("aes128gcm8", 18, 20, 1024, 0, false),
        ("aes192gcm8-esn", 18, 28, 1024, 0, true),
        ("aes128gcm12-esn", 19, 20, 1024, 0, true),
        ("aes128ctr-sha256", 13, 20, 12, 32, false),
        ("aes256ctr-sha1-esn", 13, 36, 2, 20, true),
        ("aes128gmac", 21, 20, 1024, 0, false),
        ("aes256gmac-esn", 21, 36, 1024, 0, true),
        ("null-sha1", 11, 0, 2, 20, false),
        ("null-sha512-esn", 11, 0, 14, 64, true),
    ];
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
    for (number, (proposal, encryption, key, integrity, auth_key, esn)) in
        EXPECTED.into_iter().enumerate()
    {
        for (vici, ours, theirs) in [(&vici[0], 1, 2), (&vici[1], 2, 1)] {
            load(vici, connection(ours, theirs, proposal, Message::new())).await;
        }
        vici[0].initiate(&initiate()).await.unwrap();
        let ends = [0, 1].map(|end: usize| bridges[end].calls(added).split_off(2 * number));
        let sa = |end: usize, inbound| ends[end].iter().find(|sa| sa.inbound == inbound).unwrap();
        for (sender, receiver) in [(sa(0, false), sa(1, true)), (sa(1, false), sa(0, true))] {
            assert_eq!(sender.keys, receiver.keys, "{proposal}");
            assert_eq!(
                (spi(sender), sender.encap),
                (spi(receiver), false),
                "{proposal}"
            );
            let keys = sender.keys.as_ref().unwrap();
            let got = (
                sender.encryption,
                keys.encryption.len(),
                sender.integrity,
                keys.integrity.len(),
                sender.esn,
            );
            assert_eq!(
                got,
                (encryption, key, integrity, auth_key, esn),
                "{proposal}"
            );
        }
        let timeout = Some(Duration::from_secs(20));
        vici[0]
            .terminate(&Terminate {
                ike: Some("hq".into()),
                timeout,
                ..Terminate::default()
            })
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_expire_rekeys_and_a_hard_one_deletes() {
    let setup = Setup::new().await;
    let (inbound, _) = setup.establish().await;
    let first = setup.bridge.calls(added).len();
    within(Duration::from_secs(10), "rekeyed pair", || {
        // charon ignores the expiry of a CHILD SA whose set-up it is just ending, so a backend repeats it.
        if setup.bridge.calls(added).len() == first {
            setup.bridge.upcall(expire(&inbound, false));
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok((setup.bridge.calls(added).len() == first + 2).then_some(()))
    })
    .unwrap();
    let rekeyed = setup.bridge.calls(added).split_off(first);
    assert!(
        rekeyed
            .iter()
            .all(|sa| sa.reqid == inbound.reqid && sa.keys != inbound.keys)
    );
    // The old inbound SA goes a few seconds later, for packets still on their way.
    within(Duration::from_secs(15), "old SAs' deletion", || {
        Ok((setup.bridge.calls(deleted).len() == 2).then_some(()))
    })
    .unwrap();
    assert!(setup.bridge.calls(deleted).contains(&spi(&inbound)));
    let new = rekeyed.iter().find(|sa| sa.inbound).unwrap();
    setup.bridge.upcall(expire(new, true));
    within(Duration::from_secs(10), "deletion", || {
        Ok(setup
            .bridge
            .calls(deleted)
            .contains(&spi(new))
            .then_some(()))
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_establishes_and_a_mapping_updates() {
    let setup = Setup::new().await;
    setup.vici.install("net", None).await.unwrap();
    let traps = setup.bridge.calls(added_policy);
    let out = |policy: &&AddPolicy| policy.id.as_ref().unwrap().direction() == PolicyDirection::Out;
    let trap = traps.iter().find(out).unwrap().manage.clone().unwrap();
    assert_eq!(
        (trap.priority(), trap.sa.unwrap().esp.unwrap().spi),
        (PolicyPriority::Routed, 0)
    );
    let acquire = Acquire {
        reqid: trap.sa.unwrap().reqid,
        src_ts: Some(network(1)),
        dst_ts: Some(network(2)),
    };
    setup.bridge.upcall(Answer::Acquire(acquire));
    within(Duration::from_secs(10), "SAs", || {
        Ok((setup.bridge.calls(added).len() == 2).then_some(()))
    })
    .unwrap();

    let inbound = setup
        .bridge
        .calls(added)
        .into_iter()
        .find(|sa| sa.inbound)
        .unwrap();
    let id = inbound.id.as_ref().unwrap();
    let moved: SocketAddr = "192.0.2.2:4600".parse().unwrap();
    within(Duration::from_secs(10), "update of both SAs", || {
        // An SA that is still being set up is not updated, so the peer's move is told until it is heard.
        setup.bridge.upcall(Answer::Mapping(Mapping {
            reqid: inbound.reqid,
            spi: id.spi,
            dst: id.dst.clone(),
            remote: Some(moved.into()),
            protocol: 0,
        }));
        std::thread::sleep(Duration::from_millis(200));
        Ok((setup.bridge.calls(updated).len() >= 2).then_some(()))
    })
    .unwrap();
    let updates = setup.bridge.calls(updated);
    let update = updates
        .iter()
        .find(|update| update.id.as_ref().unwrap().spi == id.spi)
        .unwrap();
    assert_eq!(
        update.new_src.as_ref().unwrap().socket_addr().unwrap(),
        moved
    );
    assert!(update.encap && update.new_encap);
}
