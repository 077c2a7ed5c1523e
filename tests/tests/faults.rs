//! Two gateways whose processes die and whose messages get lost, under marked traffic and an unfiltered capture at
//! both WAN ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use culvert_model::bus::{
    self, AddPolicyRequest, AddSaRequest, DelPolicyRequest, DelSaRequest, Direction,
    QuerySasRequest,
};
use culvert_netlab::addressing::{Family, Side};
use culvert_tests::configuration::{CHILD, CONNECTION, IF_ID, child, gateway};
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::losses::{Losses, Lost};
use culvert_tests::nonces::KeyWatch;
use culvert_tests::traffic::{Delivered, Traffic};
use culvert_tests::wire::{CREATE_CHILD_SA, INFORMATIONAL, Kind, Seized, Wire};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// More than a start, DAD and a negotiation take together on a busy machine.
const UP: Duration = Duration::from_mins(1);
/// Time in which a fault shows, and traffic before it.
const MOMENT: Duration = Duration::from_secs(1);
/// Rekeyed SAs are deleted 5 s later, and a lost delete is repeated after 2 s.
const OLD_GONE: Duration = Duration::from_secs(20);

/// Two gateways with a tunnel between them.
fn pair() -> Laboratory {
    pair_with(&gateway(Side::A), &gateway(Side::B))
}

fn pair_with(a: &Value, b: &Value) -> Laboratory {
    let mut lab = Laboratory::build().unwrap();
    lab.launch(Side::B, b).unwrap();
    lab.start(Side::A, a).unwrap();
    lab.wait_ready(Side::B).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    lab
}

/// Traffic, capture and key watch around a fault.
struct Under<'l> {
    lab: &'l Laboratory,
    traffic: Traffic,
    wire: Wire,
    keys: KeyWatch,
}

impl<'l> Under<'l> {
    fn traffic(lab: &'l Laboratory) -> Self {
        let under = Self {
            lab,
            wire: Wire::tap(lab).unwrap(),
            keys: KeyWatch::start(lab),
            traffic: Traffic::start(lab, Family::V4, 7100).unwrap(),
        };
        sleep(MOMENT);
        under
    }

    /// Nothing was in the clear and no nonce came twice.
    fn end(self) -> (Delivered, Seized) {
        sleep(MOMENT);
        let delivered = self.traffic.stop().unwrap();
        let seized = self.wire.cut().unwrap();
        seized.assert_nothing_in_the_clear();
        assert!(self.keys.prove(&seized).unwrap() > 200);
        (delivered, seized)
    }

    fn installed(&self, side: Side) -> Vec<u32> {
        let children = self.lab.gateway(side).control().installed(CHILD);
        children.iter().map(|child| child.spi_out).collect()
    }

    /// Waits until each side has exactly one CHILD_SA, installed, and not among `old`: those are deleted.
    fn wait_rekeyed(&self, old: &[u32]) {
        for side in Side::BOTH {
            let children = || self.lab.gateway(side).control().children(CHILD);
            wait_for("one new CHILD_SA", OLD_GONE, || {
                let [child] = children().try_into().ok()?;
                (child.state == "INSTALLED" && !old.contains(&child.spi_out)).then_some(())
            })
            .unwrap_or_else(|error| panic!("{side:?}: {error}: {:?}, old {old:x?}", children()));
        }
    }

    fn spis(&self) -> Vec<u32> {
        Side::BOTH
            .into_iter()
            .flat_map(|side| self.installed(side))
            .collect()
    }
}

#[test]
fn nothing_is_in_the_clear_before_the_tunnel_is_up_nor_after_it_is_down() {
    let mut lab = Laboratory::build().unwrap();
    let wire = Wire::tap(&lab).unwrap();
    let traffic = Traffic::start(&lab, Family::V4, 7100).unwrap();
    lab.launch(Side::A, &gateway(Side::A)).unwrap();
    // A long way ahead of its peer: policies and routes are there, and no SA.
    lab.wait_ready(Side::A).unwrap();
    sleep(MOMENT);
    lab.start(Side::B, &gateway(Side::B)).unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    sleep(MOMENT);
    lab.stop(Side::B).unwrap();
    sleep(MOMENT);
    lab.stop(Side::A).unwrap();
    sleep(MOMENT);
    let delivered = traffic.stop().unwrap();
    assert!(delivered.forth.received > 50, "{delivered:?}");
    assert!(delivered.back.received > 50, "{delivered:?}");
    wire.cut().unwrap().assert_nothing_in_the_clear();
}

#[test]
fn charon_killed_loses_nothing_and_is_replaced_in_ten_seconds() {
    let lab = pair();
    let under = Under::traffic(&lab);
    let old = under.spis();
    let killed = Instant::now();
    let charon = lab
        .gateway(Side::A)
        .signal("charon", Signal::SIGKILL)
        .unwrap();
    wait_for("new SAs", Duration::from_secs(20), || {
        let new = under.installed(Side::A);
        (!new.is_empty() && new.iter().all(|spi| !old.contains(spi))).then_some(())
    })
    .unwrap();
    let took = killed.elapsed();
    assert!(!charon.is_running());
    // Until the orphans are flushed.
    under.wait_rekeyed(&old);
    let (delivered, _) = under.end();
    delivered.assert_nothing_lost();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn iked_bridge_killed_loses_nothing_and_keeps_the_sas() {
    let lab = pair();
    let under = Under::traffic(&lab);
    let old = under.spis();
    lab.gateway(Side::A)
        .signal("iked-bridge", Signal::SIGKILL)
        .unwrap();
    sleep(MOMENT);
    lab.gateway(Side::A).wait_healthy(UP).unwrap();
    assert_eq!(under.spis(), old, "SAs that agree stay");
    // It works: a rekey needs bridge, plugin and dataplane.
    let rekeyed = lab.gateway(Side::A).control().rekey_child(CHILD).unwrap();
    assert_eq!(rekeyed, 1);
    under.wait_rekeyed(&old);
    let (delivered, _) = under.end();
    delivered.assert_nothing_lost();
}

#[test]
fn dataplane_killed_is_back_in_five_seconds_with_other_spis() {
    let lab = pair();
    let under = Under::traffic(&lab);
    let old = under.spis();
    let killed = SystemTime::now();
    lab.gateway(Side::A)
        .signal("dataplane", Signal::SIGKILL)
        .unwrap();
    wait_for("new SAs", UP, || {
        let new = under.installed(Side::A);
        (!new.is_empty() && new.iter().all(|spi| !old.contains(spi))).then_some(())
    })
    .unwrap();
    lab.wait_open(Family::V4, UP).unwrap();
    sleep(MOMENT);
    let (delivered, seized) = under.end();
    let silence = delivered.longest_silence();
    assert!(silence < Duration::from_secs(5), "{silence:?}");
    // What was queued for the capture when it was killed was sent before.
    let killed = killed + Duration::from_millis(100);
    let mut before = BTreeSet::new();
    let mut after = BTreeSet::new();
    for packet in seized.of(Side::A) {
        if let Kind::Esp { spi, .. } = packet.kind {
            if packet.time < killed {
                before.insert(spi);
            } else {
                after.insert(spi);
            }
        }
    }
    assert!(!before.is_empty() && !after.is_empty());
    assert_eq!(
        before.intersection(&after).count(),
        0,
        "{before:x?} {after:x?}"
    );
}

#[test]
fn both_ends_rekey_at_once() {
    let lab = pair();
    let under = Under::traffic(&lab);
    // Neither hears of the other's request before it has sent its own: the first one of each is lost.
    let at_once = |begin: &(dyn Fn(Side) -> u32 + Sync)| {
        let losses = Losses::begin(&lab, &Side::BOTH.map(Lost::IkeFrom)).unwrap();
        std::thread::scope(|scope| {
            for side in Side::BOTH {
                scope.spawn(move || assert_eq!(begin(side), 1));
            }
        });
        wait_for("both requests", UP, || {
            (losses.count().unwrap() >= 2).then_some(())
        })
        .unwrap();
    };
    for _ in 0..2 {
        let old = under.spis();
        at_once(&|side| lab.gateway(side).control().rekey_child(CHILD).unwrap());
        under.wait_rekeyed(&old);
    }
    at_once(&|side| lab.gateway(side).control().rekey_ike(CONNECTION).unwrap());
    for side in Side::BOTH {
        wait_for("one IKE_SA", OLD_GONE, || {
            let ikes = lab.gateway(side).control().established(CONNECTION);
            (ikes.len() == 1).then_some(())
        })
        .unwrap();
    }
    let (delivered, _) = under.end();
    delivered.assert_nothing_lost();
}

#[test]
fn an_acknowledgement_is_lost_and_the_request_repeated() {
    let lab = pair();
    let under = Under::traffic(&lab);
    for initiator in Side::BOTH {
        let old = under.spis();
        let begin = SystemTime::now();
        let losses =
            Losses::begin(&lab, &[Lost::Exchange(initiator.other(), CREATE_CHILD_SA)]).unwrap();
        let control = lab.gateway(initiator).control();
        assert_eq!(control.rekey_child(CHILD).unwrap(), 1);
        wait_for("a lost answer", UP, || {
            (losses.count().unwrap() > 0).then_some(())
        })
        .unwrap();
        drop(losses);
        under.wait_rekeyed(&old);
        assert!(begin.elapsed().unwrap() > MOMENT, "nothing was repeated");
    }
    let (delivered, seized) = under.end();
    delivered.assert_nothing_lost();
    let all = SystemTime::UNIX_EPOCH..SystemTime::now();
    for side in Side::BOTH {
        let requests = seized.requests(side, CREATE_CHILD_SA, all.clone());
        assert!(requests.len() >= 2, "{side:?}: {requests:?}");
    }
}

#[test]
fn a_rekey_whose_messages_get_lost_loses_no_packet() {
    let lab = pair();
    let under = Under::traffic(&lab);
    let control = lab.gateway(Side::A).control();
    for lost in [
        Lost::IkeFrom(Side::A),
        Lost::IkeFrom(Side::B),
        // The CHILD_SA is there, and nobody deletes the old one.
        Lost::Exchange(Side::A, INFORMATIONAL),
        Lost::Exchange(Side::B, INFORMATIONAL),
    ] {
        let old = under.spis();
        let losses = Losses::begin(&lab, &[lost]).unwrap();
        assert_eq!(control.rekey_child(CHILD).unwrap(), 1);
        wait_for("a lost message", UP, || {
            (losses.count().unwrap() > 0).then_some(())
        })
        .unwrap();
        drop(losses);
        under.wait_rekeyed(&old);
    }
    let old: Vec<u64> = control
        .established(CONNECTION)
        .iter()
        .map(|ike| ike.unique_id)
        .collect();
    let losses = Losses::begin(&lab, &[Lost::IkeFrom(Side::B)]).unwrap();
    assert_eq!(control.rekey_ike(CONNECTION).unwrap(), 1);
    wait_for("a lost message", UP, || {
        (losses.count().unwrap() > 0).then_some(())
    })
    .unwrap();
    drop(losses);
    wait_for("a new IKE_SA", UP, || {
        let ikes = control.established(CONNECTION);
        (ikes.len() == 1 && !old.contains(&ikes[0].unique_id)).then_some(())
    })
    .unwrap();
    let (delivered, _) = under.end();
    delivered.assert_nothing_lost();
}

#[test]
fn a_peer_that_deletes_late_is_sent_to_on_the_old_sa_until_then() {
    let lab = pair();
    let under = Under::traffic(&lab);
    let old = under.spis();
    // B begins; A has the new SA at once, and uses it when B deletes the old one.
    let losses = Losses::begin(&lab, &[Lost::Exchange(Side::B, INFORMATIONAL)]).unwrap();
    let control = lab.gateway(Side::B).control();
    assert_eq!(control.rekey_child(CHILD).unwrap(), 1);
    wait_for("a lost delete", UP, || {
        (losses.count().unwrap() > 0).then_some(())
    })
    .unwrap();
    let lost_at = SystemTime::now();
    sleep(2 * MOMENT);
    let until = SystemTime::now();
    drop(losses);
    under.wait_rekeyed(&old);
    let (delivered, seized) = under.end();
    delivered.assert_nothing_lost();
    let used: BTreeSet<u32> = seized
        .of(Side::A)
        .filter(|packet| (lost_at..until).contains(&packet.time))
        .filter_map(|packet| match packet.kind {
            Kind::Esp { spi, .. } => Some(spi),
            _ => None,
        })
        .collect();
    assert_eq!(used.len(), 1, "{used:x?}");
    assert!(
        used.iter().all(|spi| old.contains(spi)),
        "{used:x?} {old:x?}"
    );
}

#[test]
fn two_child_sas_share_an_interface() {
    let configuration = |side| {
        let mut configuration = gateway(side);
        configuration["connections"][0]["children"] = json!([
            child(side, "four", &[Family::V4]),
            child(side, "six", &[Family::V6]),
        ]);
        configuration
    };
    let lab = pair_with(&configuration(Side::A), &configuration(Side::B));
    lab.wait_open(Family::V6, UP).unwrap();
    let spi = |side, name: &str| -> u32 {
        let children = lab.gateway(side).control().installed(name);
        assert_eq!(children.len(), 1, "{name}: {children:?}");
        children[0].spi_out
    };
    let under = Under::traffic(&lab);
    let six = Traffic::start(&lab, Family::V6, 7200).unwrap();
    sleep(MOMENT);
    let old = Side::BOTH.map(|side| (spi(side, "four"), spi(side, "six")));
    let control = lab.gateway(Side::A).control();
    assert_eq!(control.rekey_child("four").unwrap(), 1);
    wait_for("a new CHILD_SA", OLD_GONE, || {
        let children = control.children("four");
        (children.len() == 1 && children[0].spi_out != old[0].0).then_some(())
    })
    .unwrap();
    sleep(MOMENT);
    assert_eq!(
        Side::BOTH.map(|side| spi(side, "six")),
        old.map(|old| old.1)
    );
    six.stop().unwrap().assert_nothing_lost();
    let (delivered, seized) = under.end();
    delivered.assert_nothing_lost();
    for (side, (four, six)) in Side::BOTH.into_iter().zip(old) {
        let spis = seized.spis(side);
        assert!(spis.len() >= 3, "{side:?}: {spis:x?}");
        assert!(
            spis[&four].1 > 100 && spis[&six].1 > 300,
            "{side:?}: {spis:x?}"
        );
    }
}

#[test]
fn what_the_peer_narrows_is_carried_and_the_rest_stays_inside() {
    // A asks for a network of 65,536 addresses on the first packet, B grants 256 of them.
    let mut a = gateway(Side::A);
    let asked = "10.2.0.0/16";
    let child = &mut a["connections"][0]["children"][0];
    child["start_action"] = json!("trap");
    child["remote_selectors"] = json!([{ "selector": asked }]);
    child["local_selectors"] = json!([{ "selector": "10.1.0.0/24" }]);
    a["routes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "destination": asked, "next_hops": [{ "interface": "ipsec0" }] }));
    let mut lab = Laboratory::build().unwrap();
    lab.start(Side::B, &gateway(Side::B)).unwrap();
    lab.start(Side::A, &a).unwrap();
    let control = lab.gateway(Side::A).control();
    assert!(control.installed(CHILD).is_empty());
    let wire = Wire::tap(&lab).unwrap();
    // 64 packets are held while the SA is negotiated.
    let traffic = Traffic::start_at(&lab, Family::V4, 7100, 50).unwrap();
    let states = wait_for("an acquired CHILD_SA", UP, || {
        Some(control.installed(CHILD)).filter(|children| !children.is_empty())
    })
    .unwrap();
    assert_eq!(states[0].remote_selectors, ["10.2.0.0/24"], "{states:?}");
    // Outside of what was granted: no SA carries it.
    let from = lab.open(Side::A.host());
    from.enter(|| {
        let socket = std::net::UdpSocket::bind("10.1.0.10:7300").unwrap();
        for number in 0..200_u8 {
            let payload = [culvert_tests::wire::MARKER, &[number]].concat();
            // ICMP's answers to the one before come as errors.
            let _ = socket.send_to(&payload, "10.2.9.9:7300");
            sleep(Duration::from_millis(5));
        }
    })
    .unwrap();
    sleep(2 * MOMENT);
    let delivered = traffic.stop().unwrap();
    assert!(delivered.forth.sent > 50);
    assert_eq!(delivered.forth.lost(), 0, "{delivered:?}");
    wire.cut().unwrap().assert_nothing_in_the_clear();
}

/// An SA from A to B that charon knows nothing of, as iked-bridge would install it.
fn foreign_sa(direction: Direction, first_byte: u8) -> AddSaRequest {
    let end = |side: Side| Some(side.addresses().gateway_wan(Family::V4).addr().into());
    let lan = |side: Side| {
        let network = side.addresses().lan_network(Family::V4);
        culvert_model::types::Selector {
            first: Some(network.network().into()),
            last: Some(network.broadcast().into()),
            protocol: 0,
            first_port: 0,
            last_port: 65_535,
        }
    };
    AddSaRequest {
        sa: Some(bus::Sa {
            key: Some(bus::SaKey {
                spi: 0xcafe_0001,
                direction: direction.into(),
                destination: end(Side::B),
            }),
            source: end(Side::A),
            mode: bus::SaMode::Tunnel.into(),
            encryption: bus::EncryptionAlgorithm::AesGcm16.into(),
            encryption_key_bits: 128,
            integrity: bus::IntegrityAlgorithm::Aead.into(),
            replay_window: 64,
            if_id: IF_ID,
            reqid: 4000,
            source_selectors: vec![lan(Side::A)],
            destination_selectors: vec![lan(Side::B)],
            ..bus::Sa::default()
        }),
        keys: Some(bus::SaKeys {
            encryption: (first_byte..).take(20).collect(),
            integrity: Vec::new(),
        }),
    }
}

#[test]
fn an_installation_repeated_under_traffic_goes_on_counting() {
    let lab = pair();
    let under = Under::traffic(&lab);
    let [a, b] = Side::BOTH.map(|side| lab.gateway(side).control());
    b.ask_dataplane(&foreign_sa(Direction::In, 1)).unwrap();
    let outbound = foreign_sa(Direction::Out, 1);
    a.ask_dataplane(&outbound).unwrap();
    let sa = outbound.sa.clone().unwrap();
    let key = bus::PolicyKey {
        direction: bus::policy_key::Direction::Out.into(),
        if_id: IF_ID,
        source: Some(sa.source_selectors[0].clone()),
        destination: Some(sa.destination_selectors[0].clone()),
        spi: sa.key.as_ref().unwrap().spi,
    };
    let policy = bus::Policy {
        key: Some(key.clone()),
        action: bus::policy::Action::Protect.into(),
        priority: 1,
        reqid: 4000,
        tunnel_source: sa.source.clone(),
        tunnel_destination: sa.key.as_ref().unwrap().destination.clone(),
    };
    a.ask_dataplane(&AddPolicyRequest {
        policy: Some(policy),
    })
    .unwrap();
    let packets = || {
        let request = QuerySasRequest {
            keys: vec![sa.key.clone().unwrap()],
        };
        a.ask_dataplane(&request).unwrap().usages[0].packets
    };
    wait_for("traffic on the SA", UP, || (packets() > 100).then_some(())).unwrap();
    for _ in 0..20 {
        let before = packets();
        a.ask_dataplane(&outbound).unwrap();
        assert!(packets() >= before);
        // The same SPI with another key, and the same key under another SPI, are refused.
        let refused = a.ask_dataplane(&foreign_sa(Direction::Out, 2)).unwrap_err();
        assert!(
            refused.to_string().contains("xists") || format!("{refused:?}").contains("Exists"),
            "{refused:?}"
        );
        let mut renamed = outbound.clone();
        if let Some(key) = renamed.sa.as_mut().and_then(|sa| sa.key.as_mut()) {
            key.spi = 0xcafe_0002;
        }
        a.ask_dataplane(&renamed).unwrap_err();
        sleep(Duration::from_millis(20));
    }
    a.ask_dataplane(&DelPolicyRequest { key: Some(key) })
        .unwrap();
    sleep(MOMENT);
    a.ask_dataplane(&DelSaRequest {
        key: sa.key.clone(),
    })
    .unwrap();
    a.ask_dataplane(&outbound).unwrap_err();
    let (delivered, seized) = under.end();
    delivered.assert_nothing_lost();
    let sequences: Vec<u32> = seized
        .of(Side::A)
        .filter_map(|packet| match packet.kind {
            Kind::Esp {
                spi: 0xcafe_0001,
                sequence,
                ..
            } => Some(sequence),
            _ => None,
        })
        .collect();
    assert!(sequences.len() > 100);
    assert!(
        sequences.is_sorted_by(|earlier, later| earlier < later),
        "a number came again"
    );
}
