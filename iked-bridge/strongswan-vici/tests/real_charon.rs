//! The client against two real charons that negotiate with each other, and against the death of one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod charon;

use std::time::{Duration, Instant};

use charon::{Charon, Host};
use strongswan_vici::{
    EventStream, Initiate, Message, Rekey, SA_EVENTS, SaEvent, SaFilter, Session, SharedKey,
    SharedKeyType, Terminate, Vici, ViciError,
};

const BACKEND: &str = "kernel-libipsec!";

fn connection(local: &str, remote: &str, local_ts: &str, remote_ts: &str) -> Message {
    let side = |id: &str| Message::new().with("auth", "psk").with("id", id);
    let child = Message::new()
        .with_list("local_ts", [local_ts])
        .with_list("remote_ts", [remote_ts])
        .with_list("esp_proposals", ["aes128gcm16-x25519"])
        .with("rekey_time", "1h");
    Message::new()
        .with("version", "2")
        .with_list("local_addrs", [local])
        .with_list("remote_addrs", [remote])
        .with_list("proposals", ["aes128-sha256-x25519"])
        .with_section("local", side(local))
        .with_section("remote", side(remote))
        .with_section("children", Message::new().with_section("net", child))
}

async fn load(vici: &Vici, local: (&str, &str), remote: (&str, &str)) {
    let key = SharedKey {
        id: "psk".into(),
        kind: SharedKeyType::Ike,
        data: b"a secret of two".to_vec().into(),
        owners: vec![local.0.into(), remote.0.into()],
    };
    vici.load_shared(&key).await.unwrap();
    vici.load_conn("hq", connection(local.0, remote.0, local.1, remote.1))
        .await
        .unwrap();
}

async fn next_of(events: &mut EventStream, wanted: impl Fn(&SaEvent) -> bool) -> SaEvent {
    let search = async {
        loop {
            if let Some(event) = events
                .next()
                .await
                .unwrap()
                .sa_event()
                .unwrap()
                .filter(&wanted)
            {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search)
        .await
        .expect("an event")
}

/// Two charons that know each other and have an SA, with their namespaces.
struct Pair {
    vici: Vici,
    peer: Vici,
    events: EventStream,
    _charons: [Charon; 2],
    _hosts: [Host; 2],
}

impl Pair {
    async fn establish() -> Self {
        let (left, right) = (Host::new(&[]).unwrap(), Host::new(&[]).unwrap());
        left.join(&right).unwrap();
        let (a, b) = (
            Charon::start(&left, BACKEND, &[]).unwrap(),
            Charon::start(&right, BACKEND, &[]).unwrap(),
        );
        let (vici, peer) = (Vici::new(&a.vici), Vici::new(&b.vici));
        load(
            &vici,
            ("192.0.2.1", "10.1.0.0/16"),
            ("192.0.2.2", "10.2.0.0/16"),
        )
        .await;
        load(
            &peer,
            ("192.0.2.2", "10.2.0.0/16"),
            ("192.0.2.1", "10.1.0.0/16"),
        )
        .await;
        assert!(
            vici.list_sas(&SaFilter::default())
                .await
                .unwrap()
                .is_empty()
        );
        let events = vici.events(&SA_EVENTS).await.unwrap();
        let timeout = Some(Duration::from_secs(20));
        let initiate = Initiate {
            child: Some("net".into()),
            ike: Some("hq".into()),
            timeout,
        };
        vici.initiate(&initiate).await.unwrap();
        Self {
            vici,
            peer,
            events,
            _charons: [a, b],
            _hosts: [left, right],
        }
    }
}

#[tokio::test]
async fn what_is_loaded_and_negotiated_is_listed_until_it_is_unloaded_and_terminated() {
    let Pair {
        vici, peer, events, ..
    } = &mut Pair::establish().await;
    assert_eq!(vici.version().await.unwrap().version, "5.9.8");
    assert_eq!(vici.get_conns().await.unwrap(), ["hq"]);
    assert_eq!(vici.get_shared().await.unwrap(), ["psk"]);
    assert!(vici.get_keys().await.unwrap().is_empty());
    let conns = vici.list_conns().await.unwrap();
    let children = conns[0].section("hq").unwrap().section("children").unwrap();
    assert_eq!(
        children
            .section("net")
            .unwrap()
            .list("local-ts")
            .collect::<Vec<_>>(),
        ["10.1.0.0/16"]
    );
    let stats = vici.stats().await.unwrap();
    assert!(
        stats.ike_sas == 1
            && stats
                .plugins
                .iter()
                .any(|plugin| plugin == "kernel-libipsec"),
        "{stats:?}"
    );

    let sas = vici.list_sas(&SaFilter::default()).await.unwrap();
    let [sa] = sas.as_slice() else {
        panic!("{sas:?}")
    };
    assert_eq!(
        (sa.name.as_str(), sa.state.as_str(), sa.initiator),
        ("hq", "ESTABLISHED", true)
    );
    assert_eq!(
        (sa.encr_alg.as_str(), sa.integ_alg.as_str()),
        ("AES_CBC", "HMAC_SHA2_256_128")
    );
    let [child] = sa.children.as_slice() else {
        panic!("{sa:?}")
    };
    assert_eq!(
        (
            child.state.as_str(),
            child.encr_alg.as_str(),
            child.encr_keysize
        ),
        ("INSTALLED", "AES_GCM_16", 128)
    );
    assert_eq!(
        (child.local_ts.concat(), child.remote_ts.concat()),
        ("10.1.0.0/16".into(), "10.2.0.0/16".into())
    );
    let other_side = &peer.list_sas(&SaFilter::default()).await.unwrap()[0].children[0];
    assert_eq!(
        (child.spi_in, child.spi_out),
        (other_side.spi_out, other_side.spi_in)
    );

    let timeout = Some(Duration::from_secs(20));
    let terminate = Terminate {
        ike: Some("hq".into()),
        timeout,
        ..Terminate::default()
    };
    assert_eq!(vici.terminate(&terminate).await.unwrap().terminated, 1);
    next_of(events, |event| {
        matches!(event, SaEvent::IkeUpDown { up: false, .. })
    })
    .await;
    assert!(
        vici.list_sas(&SaFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    vici.unload_conn("hq").await.unwrap();
    vici.unload_shared("psk").await.unwrap();
    vici.clear_creds().await.unwrap();
    assert!(vici.get_conns().await.unwrap().is_empty());
}

#[tokio::test]
async fn events_follow_an_sa_through_its_rekeys() {
    let Pair { vici, events, .. } = &mut Pair::establish().await;
    let up = next_of(events, |event| matches!(event, SaEvent::ChildUpDown { .. })).await;
    let SaEvent::ChildUpDown { up: true, ike } = up else {
        panic!("{up:?}")
    };
    let sa = &vici.list_sas(&SaFilter::default()).await.unwrap()[0];
    assert_eq!(ike.children[0].spi_in, sa.children[0].spi_in);

    assert_eq!(
        vici.rekey(&Rekey {
            child: Some("net".into()),
            ..Rekey::default()
        })
        .await
        .unwrap(),
        1
    );
    let rekeyed = next_of(events, |event| matches!(event, SaEvent::ChildRekey { .. })).await;
    let SaEvent::ChildRekey { old, new, .. } = rekeyed else {
        panic!("{rekeyed:?}")
    };
    assert_eq!(old.spi_in, sa.children[0].spi_in);
    assert!(new.spi_in.is_some() && new.spi_in != old.spi_in);

    assert_eq!(
        vici.rekey(&Rekey {
            ike: Some("hq".into()),
            ..Rekey::default()
        })
        .await
        .unwrap(),
        1
    );
    let rekeyed = next_of(events, |event| matches!(event, SaEvent::IkeRekey { .. })).await;
    let SaEvent::IkeRekey { old, new } = rekeyed else {
        panic!("{rekeyed:?}")
    };
    assert_eq!(
        (old.unique_id, old.initiator_spi != new.initiator_spi),
        (sa.unique_id, true)
    );
}

#[tokio::test]
async fn what_charon_refuses_or_does_not_know_is_told_apart() {
    let host = Host::new(&[]).unwrap();
    let charon = Charon::start(&host, BACKEND, &[]).unwrap();
    let vici = Vici::new(&charon.vici);
    let none = vici
        .rekey(&Rekey {
            ike: Some("nobody".into()),
            ..Rekey::default()
        })
        .await;
    assert!(
        matches!(&none, Err(ViciError::Refused { command, .. }) if command == "rekey"),
        "{none:?}"
    );
    let unknown = vici.request("no-such-command", &Message::new()).await;
    assert!(
        matches!(unknown, Err(ViciError::UnknownCommand(_))),
        "{unknown:?}"
    );
    let unknown = vici.events(&["no-such-event"]).await.err();
    assert!(
        matches!(unknown, Some(ViciError::UnknownEvent(_))),
        "{unknown:?}"
    );
    assert_eq!(vici.version().await.unwrap().daemon, "charon");
}

#[tokio::test]
async fn charons_death_is_an_error_at_once_and_the_next_charon_is_used() {
    let host = Host::new(&[]).unwrap();
    let mut charon = Charon::start(&host, BACKEND, &[]).unwrap();
    let vici = Vici::new(&charon.vici);
    load(
        &vici,
        ("127.0.0.1", "10.1.0.0/16"),
        ("192.0.2.9", "10.2.0.0/16"),
    )
    .await;
    let mut events = vici.events(&["log", "ike-updown"]).await.unwrap();
    let mut session = Session::connect(vici.path()).await.unwrap();

    // A command that waits while charon dies: there is no peer, so the negotiation never ends.
    let waiting = {
        let vici = vici.clone();
        tokio::spawn(async move {
            let initiate = Initiate {
                child: Some("net".into()),
                timeout: Some(Duration::from_mins(1)),
                ..Initiate::default()
            };
            vici.initiate(&initiate).await
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        vici.version().await.is_ok(),
        "another command goes on beside the one that waits"
    );
    charon.kill().unwrap();
    let died = Instant::now();
    let result = tokio::time::timeout(Duration::from_secs(2), waiting)
        .await
        .expect("an end")
        .unwrap();
    assert!(
        matches!(&result, Err(error) if error.is_disconnect()),
        "{result:?}"
    );
    let ended = async { while events.next().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .expect("the end of the events");
    assert!(matches!(events.next().await, Err(ViciError::Closed)));
    assert!(
        matches!(session.request("version", &Message::new()).await, Err(error) if error.is_disconnect())
    );
    let gone = vici.version().await;
    assert!(matches!(gone, Err(ViciError::Connect(_))), "{gone:?}");
    assert!(died.elapsed() < Duration::from_secs(3));

    let _charon = Charon::start(&host, BACKEND, &[]).unwrap();
    assert_eq!(vici.version().await.unwrap().version, "5.9.8");
    assert!(
        vici.get_conns().await.unwrap().is_empty(),
        "a new charon knows nothing"
    );
    assert!(vici.events(&["ike-updown"]).await.is_ok());
}

#[tokio::test]
async fn an_abandoned_command_does_not_spoil_the_next_one() {
    let host = Host::new(&[]).unwrap();
    let charon = Charon::start(&host, BACKEND, &[]).unwrap();
    let vici = Vici::new(&charon.vici);
    load(
        &vici,
        ("127.0.0.1", "10.1.0.0/16"),
        ("192.0.2.9", "10.2.0.0/16"),
    )
    .await;
    let endless = Message::new().with("child", "net").with("timeout", "60000");
    let limit = Duration::from_millis(200);
    let given_up = vici.request_within(limit, "initiate", &endless).await;
    assert!(
        matches!(given_up, Err(ViciError::Timeout { after, .. }) if after == limit),
        "{given_up:?}"
    );
    assert_eq!(vici.get_conns().await.unwrap(), ["hq"]);
    let sas = vici.list_sas(&SaFilter::default()).await.unwrap();
    assert_eq!(
        (sas[0].state.as_str(), sas[0].children.len()),
        ("CONNECTING", 0)
    );
}
