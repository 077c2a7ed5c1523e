//! Against the running kernel, in a network namespace that ends with the test's thread.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::device::Tap;

/// Runs `body` in a fresh network namespace: a thread of its own, whose namespace nobody else holds.
fn in_fresh_namespace<T: Send>(body: impl AsyncFnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace needs root");
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(body())
            })
            .join()
            .unwrap()
    })
}

/// What iproute2 says: the second opinion.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn name(text: &str) -> TapName {
    text.parse().unwrap()
}

async fn wan(mirror: &Mirror) -> Tap {
    let tap = Tap::create(name("wan")).unwrap();
    mirror
        .set_link(&LinkSettings {
            tap: name("wan"),
            mac: Some([2, 0, 0, 0, 0, 7]),
            mtu: 1400,
        })
        .await
        .unwrap();
    tap
}

#[test]
fn a_tap_looks_like_its_interface_and_goes_with_its_descriptor() {
    in_fresh_namespace(async || {
        let mirror = Mirror::open().unwrap();
        let tap = wan(&mirror).await;
        assert_eq!(
            mirror.links().await.unwrap()["wan"].index,
            tap.index().unwrap()
        );
        let shown = ip("link show wan");
        assert!(
            shown.contains("mtu 1400") && shown.contains("02:00:00:00:00:07"),
            "{shown}"
        );
        assert!(shown.contains("UP,LOWER_UP"), "{shown}");
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/conf/wan/rp_filter").unwrap(),
            "0\n"
        );
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/wan/accept_ra").unwrap(),
            "0\n"
        );
        assert!(matches!(
            Tap::create(name("wan")),
            Err(crate::device::TapError::Create { .. })
        ));
        drop(tap);
        // A process that another test is starting holds a copy of every descriptor until it is itself.
        let gone = async || !mirror.links().await.unwrap().contains_key("wan");
        for _ in 0..500 {
            if gone().await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(gone().await);
    });
}

#[test]
fn only_our_addresses_are_ours() {
    in_fresh_namespace(async || {
        let mirror = Mirror::open().unwrap();
        let _tap = wan(&mirror).await;
        let ours = ["192.0.2.1/24", "2001:db8::1/64"].map(|address| TapAddress {
            tap: name("wan"),
            address: address.parse().unwrap(),
        });
        for address in &ours {
            mirror.add_address(address).await.unwrap();
            mirror.add_address(address).await.unwrap();
        }
        ip("address add 198.51.100.1/24 dev wan");
        assert_eq!(mirror.addresses(&[name("wan")]).await.unwrap(), ours);
        let shown = ip("address show dev wan");
        assert!(
            shown.contains("192.0.2.1/24") && !shown.contains("tentative"),
            "{shown}"
        );

        mirror.delete_address(&ours[0]).await.unwrap();
        mirror.delete_address(&ours[0]).await.unwrap();
        assert_eq!(mirror.addresses(&[name("wan")]).await.unwrap(), ours[1..]);
        assert!(ip("address show dev wan").contains("198.51.100.1/24"));
    });
}

#[test]
fn only_our_routes_are_ours() {
    in_fresh_namespace(async || {
        let mirror = Mirror::open().unwrap();
        let _tap = wan(&mirror).await;
        for address in ["192.0.2.1/24", "2001:db8::1/64"] {
            let address = TapAddress {
                tap: name("wan"),
                address: address.parse().unwrap(),
            };
            mirror.add_address(&address).await.unwrap();
        }
        let route = |destination: &str, gateway: Option<&str>| TapRoute {
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            tap: name("wan"),
        };
        let ours = [
            route("0.0.0.0/0", Some("192.0.2.254")),
            route("10.2.0.0/16", None),
            route("::/0", Some("2001:db8::fe")),
            route("2001:db8:2::/48", None),
        ];
        for route in &ours {
            mirror.add_route(route).await.unwrap();
            mirror.add_route(route).await.unwrap();
        }
        ip("route add 10.3.0.0/16 via 192.0.2.253");
        let mut read = mirror.routes(&[name("wan")]).await.unwrap();
        read.sort();
        let mut expected = ours.to_vec();
        expected.sort();
        assert_eq!(read, expected);
        assert!(ip("route show").contains("default via 192.0.2.254 dev wan proto 213"));

        for route in &ours {
            mirror.delete_route(route).await.unwrap();
            mirror.delete_route(route).await.unwrap();
        }
        assert_eq!(mirror.routes(&[name("wan")]).await.unwrap(), []);
        assert!(ip("route show").contains("10.3.0.0/16 via 192.0.2.253"));
    });
}

#[test]
fn what_cannot_work_is_an_error_with_its_reason() {
    in_fresh_namespace(async || {
        let mirror = Mirror::open().unwrap();
        let _tap = wan(&mirror).await;
        let wrong = TapRoute {
            destination: "10.0.0.0/8".parse().unwrap(),
            gateway: Some("2001:db8::1".parse().unwrap()),
            tap: name("wan"),
        };
        let error = mirror.add_route(&wrong).await.unwrap_err();
        assert!(!error.is_retriable(), "{error}");
        let unreachable = TapRoute {
            gateway: Some("203.0.113.1".parse().unwrap()),
            ..wrong
        };
        let error = mirror.add_route(&unreachable).await.unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENETUNREACH), "{error}");
        assert!(error.is_retriable());
        let nowhere = TapAddress {
            tap: name("lan"),
            address: "192.0.2.1/24".parse().unwrap(),
        };
        assert!(matches!(
            mirror.add_address(&nowhere).await,
            Err(MirrorError::NoDevice(_))
        ));
        mirror.delete_address(&nowhere).await.unwrap();
    });
}

#[test]
fn routes_of_others_are_read_and_their_changes_are_noticed() {
    let within = async |watch: &mut RouteWatch| {
        tokio::time::timeout(Duration::from_secs(20), watch.changed())
            .await
            .expect("a change that is noticed")
    };
    let settled = async |watch: &mut RouteWatch| {
        let quiet = Duration::from_millis(200);
        while tokio::time::timeout(quiet, watch.changed()).await.is_ok() {}
    };
    in_fresh_namespace(async || {
        let mirror = Mirror::open().unwrap();
        let _tap = wan(&mirror).await;
        for address in ["192.0.2.1/24", "2001:db8::1/64"] {
            mirror
                .add_address(&TapAddress {
                    tap: name("wan"),
                    address: address.parse().unwrap(),
                })
                .await
                .unwrap();
        }
        mirror
            .add_route(&TapRoute {
                destination: "10.0.0.0/8".parse().unwrap(),
                gateway: Some("192.0.2.254".parse().unwrap()),
                tap: name("wan"),
            })
            .await
            .unwrap();
        // The kernel's own and ours are nobody else's.
        assert_eq!(mirror.learnt_routes().await.unwrap(), []);

        let mut watch = RouteWatch::open().unwrap();
        for route in [
            "route add default via 192.0.2.9 proto dhcp",
            "route add 10.2.0.0/24 via 192.0.2.3 proto bird metric 32",
            "route add 10.2.0.0/24 via 192.0.2.4 proto bgp metric 20",
            "route add 10.3.0.0/24 dev wan proto ospf",
            "route add 10.4.0.0/24 proto bird nexthop via 192.0.2.6 nexthop via 192.0.2.5",
            "route add blackhole 10.5.0.0/16 proto bird",
            "route add 10.6.0.0/24 via 192.0.2.3 table 77 proto bird",
            "-6 route add fd00:2::/64 via fe80::7 dev wan proto bird",
            "-6 route add unreachable fd00:3::/64 proto bird",
        ] {
            ip(route);
        }
        assert!(within(&mut watch).await);
        let hop = |gateway: &str| LearntHop {
            device: "wan".to_owned(),
            gateway: gateway.parse().ok(),
        };
        let route = |destination: &str, way| LearntRoute {
            destination: destination.parse().unwrap(),
            way,
        };
        let by = |gateways: &[&str]| LearntWay::Hops(gateways.iter().map(|one| hop(one)).collect());
        assert_eq!(
            mirror.learnt_routes().await.unwrap(),
            [
                route("0.0.0.0/0", by(&["192.0.2.9"])),
                route("10.2.0.0/24", by(&["192.0.2.4"])),
                route("10.3.0.0/24", by(&["none"])),
                route("10.4.0.0/24", by(&["192.0.2.5", "192.0.2.6"])),
                route("10.5.0.0/16", LearntWay::Blackhole),
                route("fd00:2::/64", by(&["fe80::7"])),
                route("fd00:3::/64", LearntWay::Unreachable),
            ]
        );

        settled(&mut watch).await;
        ip("route del 10.2.0.0/24 via 192.0.2.4");
        assert!(within(&mut watch).await);
        let routes = mirror.learnt_routes().await.unwrap();
        assert!(routes.contains(&route("10.2.0.0/24", by(&["192.0.2.3"]))));
        settled(&mut watch).await;
        // What the kernel takes away with the device it does not tell.
        mirror.set_link_down(&name("wan")).await.unwrap();
        assert!(within(&mut watch).await);
        assert_eq!(
            mirror.learnt_routes().await.unwrap(),
            [
                route("10.5.0.0/16", LearntWay::Blackhole),
                route("fd00:3::/64", LearntWay::Unreachable),
            ]
        );
    });
}
