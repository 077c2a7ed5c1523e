//! Two customers on the same two gateways, with the same addresses: what is in one VRF stays in it, on the LANs, in the
//! tunnels and in what the gateways say of themselves. See `culvert_tests::vrfs` for a drawing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{SocketAddr, TcpListener, TcpStream};

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::namespace::set_kernel_setting;
use culvert_tests::laboratory::{Laboratory, wait_for};
use culvert_tests::vrfs::{
    MOMENT, Member, PORT, SOON, UP, VRFS, add_routes, add_tunnel, answer, becomes, ip, links,
    loopback, name, push,
};
use culvert_tests::who::{Asker, Heard};
use culvert_tests::wire::Wire;
use nix::sys::socket::{getsockopt, sockopt};
use serde_json::{Value, json};

/// Behind blue-a, and behind red-a: nobody else has these.
const BEHIND: [(&str, &str); 2] = [("blue", "172.31.0.0/24"), ("red", "172.31.1.0/24")];
/// What blue-a offers beside its own address.
const SHARED: &str = "172.31.0.5";
const PRIVATE: &str = "172.31.0.6";
/// What red-a is called where 10.1.0.10 is another.
const GUEST: &str = "172.31.1.7";

#[test]
fn the_same_addresses_in_two_vrfs_reach_their_own_over_tunnels_of_their_own() {
    let mut lab = Laboratory::build().unwrap();
    let configured = |side| {
        let mut configuration = links(side, &VRFS);
        for (vrf, if_id) in VRFS.into_iter().zip(1..) {
            add_tunnel(&mut configuration, side, vrf, if_id, vrf);
            add_routes(&mut configuration, side, vrf, &[vrf]);
        }
        let host = side.addresses().host(Family::V4).addr().to_string();
        for (vrf, network) in BEHIND.into_iter().filter(|_| side == Side::A) {
            let hops = json!([{ "gateway": host }]);
            let route = json!({ "vrf": vrf, "destination": network, "next_hops": hops });
            push(&mut configuration, "routes", route);
        }
        configuration
    };
    let members = |side| VRFS.map(|vrf| Member::join(&lab, side, vrf));
    let [mut near, far] = [members(Side::A), members(Side::B)];
    let wire = Wire::tap(&lab).unwrap();
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    lab.start(Side::A, &configured(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();

    for family in Family::BOTH {
        for (at, vrf) in VRFS.into_iter().enumerate() {
            let to = |side: Side| side.addresses().host(family).addr();
            let reaches = |member: &Member, side: Side| {
                let wanted = answer(&name(vrf, side.other()));
                becomes(vrf, &wanted, || member.ask(side, to(side.other()), MOMENT));
                // And never the other one's.
                for _ in 0..20 {
                    assert_eq!(member.ask(side, to(side.other()), SOON), wanted);
                }
            };
            reaches(&near[at], Side::A);
            reaches(&far[at], Side::B);
        }
    }
    who_routers_say_they_are(&near);
    tunnels_are_told_apart(&lab);
    // IKE runs in the default VRF, whose other address is one of IPv6: MOBIKE tells no address of customers.
    for side in Side::BOTH {
        let log = lab.gateway(side).root().join("var/log/charon.log");
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("N(MOBIKE_SUP)") && log.contains("N(ADD_6_ADDR)"));
        assert!(!log.contains("N(ADD_4_ADDR)"));
    }

    // What is announced to nobody but its own VRF, until a route leads there.
    near[1].offer(SHARED, "shared");
    near[1].offer(PRIVATE, "private");
    near[0].offer(GUEST, "guest");
    leaks(&lab, &near, &configured(Side::A));
    down(&lab, &near, &configured(Side::A));

    // Both sides stop while hosts still ask.
    lab.stop(Side::B).unwrap();
    let heard = near[0].ask(Side::A, Side::B.addresses().host(Family::V4).addr(), MOMENT);
    assert!(!matches!(heard, Heard::Name(_)), "{heard:?}");
    lab.stop(Side::A).unwrap();
    let seized = wire.cut().unwrap();
    seized.assert_nothing_in_the_clear();
}

/// Hops on the way have the addresses of their own VRF: the near gateway that of the host's link, the far one, whose
/// tunnels have none, that of the loopback there.
fn who_routers_say_they_are(near: &[Member; 2]) {
    for family in Family::BOTH {
        let expired = |from| Heard::Error {
            kind: if family == Family::V4 { 11 } else { 3 },
            code: 0,
            from,
        };
        for (at, member) in near.iter().enumerate() {
            let own = Side::A.addresses();
            let to = SocketAddr::new(Side::B.addresses().host(family).addr(), PORT);
            for (hops, router) in [
                (1, own.gateway_lan(family).addr()),
                (2, loopback(Side::B, at, family)),
            ] {
                let asker = Asker::open(member.namespace(), own.host(family).addr()).unwrap();
                asker.set_hops(hops).unwrap();
                assert_eq!(asker.ask(to, SOON).unwrap(), expired(router));
            }
        }
    }
}

/// One pair of SAs for each tunnel, all between the same two addresses, and each of them used.
fn tunnels_are_told_apart(lab: &Laboratory) {
    for side in Side::BOTH {
        let sas = lab.gateway(side).control().sas().unwrap().sas;
        let mut if_ids: Vec<u32> = sas
            .iter()
            .map(|dump| {
                let (sa, usage) = (dump.sa.as_ref().unwrap(), dump.usage.as_ref().unwrap());
                assert!(usage.packets > 0, "{sa:?}");
                sa.if_id
            })
            .collect();
        if_ids.sort_unstable();
        assert_eq!(if_ids, [1, 1, 2, 2]);
    }
}

/// A route into another VRF makes one service reachable from there, and nothing else.
fn leaks(lab: &Laboratory, near: &[Member; 2], configuration: &Value) {
    let gateway = Side::A.addresses().gateway_lan(Family::V4).addr();
    let host = Side::A.addresses().host(Family::V4).addr();
    let no_route = Heard::Error {
        kind: 3,
        code: 0,
        from: gateway,
    };
    let guest = |to: &str| near[0].ask_as(ip(GUEST), ip(to), SOON);
    assert_eq!(guest(SHARED), no_route);
    let mut leaking = configuration.clone();
    // There by a gateway of the other VRF, back by whatever its routes say.
    for (vrf, to, hop) in [
        (
            "red",
            SHARED,
            json!({ "gateway": host.to_string(), "vrf": "blue" }),
        ),
        ("blue", GUEST, json!({ "vrf": "red" })),
    ] {
        let route = json!({ "vrf": vrf, "destination": format!("{to}/32"), "next_hops": [hop] });
        push(&mut leaking, "routes", route);
    }
    lab.gateway(Side::A).reload(&leaking).unwrap();
    becomes("the leak", &answer("shared"), || guest(SHARED));
    for _ in 0..20 {
        assert_eq!(guest(SHARED), answer("shared"));
    }
    assert_eq!(guest(PRIVATE), no_route);
    // Not from the far side of red either, whose routes know nothing of it; and the hosts are who they were.
    let far = Side::B.addresses().host(Family::V4).addr();
    for (at, vrf) in VRFS.into_iter().enumerate() {
        assert_eq!(
            near[at].ask(Side::A, far, SOON),
            answer(&name(vrf, Side::B))
        );
    }
    lab.gateway(Side::A).reload(configuration).unwrap();
    becomes("the end of the leak", &no_route, || guest(SHARED));
}

/// A tunnel that is administratively down drops and counts what is routed to it; the other one goes on.
fn down(lab: &Laboratory, near: &[Member; 2], configuration: &Value) {
    let control = lab.gateway(Side::A).control();
    let far = Side::B.addresses().host(Family::V4).addr();
    let (red, blue) = (&near[0], &near[1]);
    let mut changed = configuration.clone();
    changed["tunnels"][0]["enabled"] = json!(false);
    lab.gateway(Side::A).reload(&changed).unwrap();
    wait_for("the tunnel to go down", SOON, || {
        let state = control.interface("ipsec-red").unwrap()?;
        (!state.admin_up).then_some(())
    })
    .unwrap();
    let before = control.dropped("tunnel-down").unwrap();
    let sent = control.interface("ipsec-red").unwrap().unwrap().tx_packets;
    let asker = Asker::open(red.namespace(), Side::A.addresses().host(Family::V4).addr()).unwrap();
    for _ in 0..50 {
        asker.send(SocketAddr::new(far, PORT)).unwrap();
    }
    let mut dropped = 0;
    wait_for("50 packets to be counted", SOON, || {
        dropped = control.dropped("tunnel-down").unwrap() - before;
        (dropped >= 50).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {dropped}"));
    let state = control.interface("ipsec-red").unwrap().unwrap();
    assert_eq!(state.tx_packets, sent);
    assert!(!matches!(asker.take(), Some(Heard::Name(_))));
    assert_eq!(blue.ask(Side::A, far, SOON), answer(&name("blue", Side::B)));
    lab.gateway(Side::A).reload(configuration).unwrap();
    becomes("the tunnel again", &answer(&name("red", Side::B)), || {
        red.ask(Side::A, far, MOMENT)
    });
}

#[test]
fn flows_are_spread_over_two_tunnels_and_each_stays_on_one() {
    const MSS: u32 = 1200;
    const TUNNELS: [&str; 2] = ["one", "two"];
    let mut lab = Laboratory::build().unwrap();
    let configured = |side| {
        let mut configuration = links(side, &["red"]);
        for (tunnel, if_id) in TUNNELS.into_iter().zip(1..) {
            add_tunnel(&mut configuration, side, tunnel, if_id, "red");
        }
        add_routes(&mut configuration, side, "red", &TUNNELS);
        if side == Side::A {
            for tunnel in configuration["tunnels"].as_array_mut().unwrap() {
                tunnel["mss"] = json!(MSS);
            }
        }
        configuration
    };
    let [near, far] = Side::BOTH.map(|side| Member::join(&lab, side, "red"));
    lab.launch(Side::B, &configured(Side::B)).unwrap();
    lab.start(Side::A, &configured(Side::A)).unwrap();
    lab.wait_ready(Side::B).unwrap();
    let control = lab.gateway(Side::A).control();
    let sent = || {
        TUNNELS.map(|name| {
            let state = control.interface(&format!("ipsec-{name}")).unwrap();
            state.unwrap().tx_packets
        })
    };

    for family in Family::BOTH {
        let from = Side::A.addresses().host(family).addr();
        let to = SocketAddr::new(Side::B.addresses().host(family).addr(), PORT);
        let wanted = answer(&name("red", Side::B));
        becomes("both tunnels", &wanted, || {
            near.ask_as(from, to.ip(), MOMENT)
        });
        for child in TUNNELS {
            wait_for(child, UP, || {
                (control.installed(child).len() == 1).then_some(())
            })
            .unwrap();
        }
        // By flow: every port of the host is one.
        let before = sent();
        let askers: Vec<Asker> = (0..64)
            .map(|_| Asker::open(near.namespace(), from).unwrap())
            .collect();
        for asker in &askers {
            assert_eq!(asker.ask(to, SOON).unwrap(), wanted);
        }
        let after = sent();
        let shares = [0, 1].map(|at| after[at] - before[at]);
        // A fair coin gives fewer than 8 of 64 to one side less than once in 10^10 times.
        assert!(
            shares.iter().all(|share| *share >= 8),
            "{family:?}: {shares:?}"
        );
        for asker in askers.iter().take(8) {
            let before = sent();
            for _ in 0..50 {
                asker.send(to).unwrap();
            }
            let mut moved = [0, 0];
            wait_for("50 packets", SOON, || {
                let now = sent();
                moved = [0, 1].map(|at| now[at] - before[at]);
                (moved.iter().sum::<u64>() >= 50).then_some(())
            })
            .unwrap();
            assert!(
                moved.contains(&0),
                "{family:?}: one flow on both: {moved:?}"
            );
        }
    }

    one_tunnel_takes_over(&lab, &near, &configured);

    // Host a, before whose tunnels the segment size is lowered, and host b, to whom it was told, both know it.
    for family in Family::BOTH {
        for side in Side::BOTH {
            assert_eq!(
                segment_size(&near, &far, side, family),
                MSS,
                "{side:?} {family:?}"
            );
        }
    }
    // By the tunnel's own MTU where no size is configured.
    let mut computed = configured(Side::A);
    for tunnel in computed["tunnels"].as_array_mut().unwrap() {
        tunnel.as_object_mut().unwrap().remove("mss");
    }
    lab.gateway(Side::A).reload(&computed).unwrap();
    let mtu = control.interface("ipsec-one").unwrap().unwrap().mtu;
    for (family, headers) in Family::BOTH.into_iter().zip([40, 60]) {
        let mut last = 0;
        wait_for("the size that fits", SOON, || {
            last = segment_size(&near, &far, Side::A, family);
            (last == mtu - headers).then_some(())
        })
        .unwrap_or_else(|error| panic!("{error}: {last} of an MTU of {mtu}"));
        assert!(mtu < 1500);
    }
}

/// What went over a tunnel that is administratively down goes over the other one.
fn one_tunnel_takes_over(lab: &Laboratory, near: &Member, configured: &dyn Fn(Side) -> Value) {
    let enable = |enabled: bool| {
        for side in Side::BOTH {
            let mut configuration = configured(side);
            configuration["tunnels"][0]["enabled"] = json!(enabled);
            lab.gateway(side).reload(&configuration).unwrap();
        }
        for side in Side::BOTH {
            let control = lab.gateway(side).control();
            wait_for("the tunnel to change", SOON, || {
                let state = control.interface("ipsec-one").unwrap()?;
                (state.admin_up == enabled).then_some(())
            })
            .unwrap();
        }
    };
    enable(false);
    for family in Family::BOTH {
        let to = Side::B.addresses().host(family).addr();
        for _ in 0..16 {
            assert_eq!(near.ask(Side::A, to, SOON), answer(&name("red", Side::B)));
        }
    }
    enable(true);
}

/// The segment size that Linux uses for a connection which this side begins, on both sides the same.
fn segment_size(near: &Member, far: &Member, side: Side, family: Family) -> u32 {
    let (own, other) = if side == Side::A {
        (near, far)
    } else {
        (far, near)
    };
    // Time stamps take 12 bytes of each segment.
    for member in [near, far] {
        member
            .namespace()
            .enter(|| set_kernel_setting("net/ipv4/tcp_timestamps", "0"))
            .unwrap()
            .unwrap();
    }
    let to = side.other().addresses().host(family).addr();
    let listener = other
        .namespace()
        .enter(|| TcpListener::bind((to, PORT)).unwrap())
        .unwrap();
    let at = listener.local_addr().unwrap();
    let begun = own
        .namespace()
        .enter(|| TcpStream::connect_timeout(&at, SOON).unwrap())
        .unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let sizes = [&begun, &accepted].map(|end| getsockopt(end, sockopt::TcpMaxSeg).unwrap());
    assert_eq!(sizes[0], sizes[1]);
    sizes[0]
}
