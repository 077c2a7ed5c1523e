//! Routes that others wrote into Linux, for the dataplane: what a routing daemon has learnt is forwarded by.
//!
//! ```text
//!   bird, FRR, a DHCP client --> Linux, main table --follow--> Values --> dataplane: learnt/VRF/PREFIX
//! ```
//!
//! A route counts in the VRF of the interface whose TAP it leaves by; one by a device that is no TAP is Linux's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_model::bus::{self, value::Kind};
use culvert_model::plan::{Key, Part, Plan, Planned};
use culvert_tap_inject::mirror::{LearntRoute, LearntWay, Mirror, MirrorError, RouteWatch};
use ipnet::IpNet;

/// Changes come in flocks: a daemon that has learnt one route mostly has more to write.
const FLOCK: Duration = Duration::from_millis(50);
/// Of the time, at most one part in this many goes into looking.
const SHARE: u32 = 5;
/// Before a look that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// More routes than this are not taken over: each is a value that is planned, sent and compared.
const MOST: usize = 100_000;

/// Tells all routes of others in Linux, at first and after each change, until nobody listens.
pub async fn follow(mut tell: impl FnMut(Vec<LearntRoute>) -> bool) {
    let mut told = Vec::new();
    loop {
        match follow_while_heard(&mut told, &mut tell).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "routes of others");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Until Linux has lost count of what it had to say (true), or nobody listens (false).
async fn follow_while_heard(
    told: &mut Vec<LearntRoute>,
    tell: &mut impl FnMut(Vec<LearntRoute>) -> bool,
) -> Result<bool, MirrorError> {
    let mut watch = RouteWatch::open()?;
    let mirror = Mirror::open()?;
    loop {
        let begin = Instant::now();
        let mut routes = mirror.learnt_routes().await?;
        if routes.len() > MOST {
            tracing::error!(
                routes = routes.len(),
                most = MOST,
                "too many routes of others"
            );
            routes.truncate(MOST);
        }
        if routes != *told {
            told.clone_from(&routes);
            if !tell(routes) {
                return Ok(false);
            }
        }
        let took = begin.elapsed();
        if !watch.changed().await {
            return Ok(true);
        }
        tokio::time::sleep(FLOCK.max(took * SHARE)).await;
    }
}

/// The values that these routes are in the dataplane, beside what is configured.
pub fn plan(routes: &[LearntRoute], configured: &Plan) -> Plan {
    if routes.is_empty() {
        return Plan::new();
    }
    let ports = ports(configured);
    routes
        .iter()
        .filter(|route| is_routable(&route.destination))
        .filter_map(|route| value(route, &ports))
        .collect()
}

/// An interface of the dataplane that Linux has a TAP for.
struct Port<'a> {
    key: &'a Key,
    vrf: &'a str,
}

/// By the names of the TAPs, which are those of the interfaces.
fn ports(configured: &Plan) -> BTreeMap<&str, Port<'_>> {
    configured
        .iter()
        .filter_map(|(key, planned)| {
            let (tap, vrf) = match planned.value.kind.as_ref()? {
                Kind::Interface(interface) => (&interface.tap, &interface.vrf),
                Kind::Tunnel(tunnel) => (&tunnel.tap, &tunnel.vrf),
                Kind::IpTunnel(tunnel) => (&tunnel.tap, &tunnel.vrf),
                _ => return None,
            };
            (!tap.is_empty()).then_some((tap.as_str(), Port { key, vrf }))
        })
        .collect()
}

fn value(route: &LearntRoute, ports: &BTreeMap<&str, Port<'_>>) -> Option<(Key, Arc<Planned>)> {
    let mut needs = Vec::new();
    let mut next_hops = Vec::new();
    let mut vrf = None;
    let action = match &route.way {
        LearntWay::Hops(hops) => {
            for hop in hops {
                let Some(port) = ports.get(hop.device.as_str()) else {
                    continue;
                };
                // Several routing instances cannot share one route.
                if *vrf.get_or_insert(port.vrf) != port.vrf {
                    continue;
                }
                needs.push(port.key.clone());
                next_hops.push(bus::NextHop {
                    gateway: hop.gateway.map(Into::into),
                    interface: hop.device.clone(),
                    vrf: String::new(),
                });
            }
            if next_hops.is_empty() {
                return None;
            }
            bus::route::Action::Forward
        }
        LearntWay::Blackhole => bus::route::Action::Blackhole,
        LearntWay::Unreachable => bus::route::Action::Unreachable,
        LearntWay::Prohibit => bus::route::Action::Prohibit,
    };
    needs.sort();
    needs.dedup();
    let vrf = vrf.unwrap_or(DEFAULT_VRF);
    let key = Key::from(format!("learnt/{vrf}/{}", route.destination));
    let kind = Kind::Route(bus::Route {
        vrf: vrf.to_owned(),
        destination: Some(route.destination.into()),
        next_hops,
        action: action.into(),
        learnt: true,
    });
    let planned = Planned {
        value: bus::Value { kind: Some(kind) },
        part: Part::Dataplane,
        needs,
        after: Vec::new(),
        origins: vec!["a route of Linux".to_owned()],
    };
    Some((key, Arc::new(planned)))
}

/// Of a route without a device.
const DEFAULT_VRF: &str = "default";

/// Not of one link, one box or a group.
fn is_routable(destination: &IpNet) -> bool {
    let address = destination.network();
    let on_link = match destination {
        IpNet::V4(net) => net.network().is_link_local(),
        IpNet::V6(net) => net.network().is_unicast_link_local(),
    };
    !(address.is_multicast() || address.is_loopback() || on_link)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use culvert_model::decode;
    use culvert_model::plan::{DigestKey, plan as plan_configured};
    use culvert_tap_inject::mirror::LearntHop;

    use super::*;

    fn configured() -> Plan {
        let config = decode::config_from_json(
            br#"{
                "vrfs": [{"name": "guests"}],
                "interfaces": [
                    {"name": "wan", "addresses": [{"address": "192.0.2.1/24"}]},
                    {"name": "bare", "self_traffic": false},
                    {"name": "lan", "vrf": "guests", "addresses": [{"address": "10.1.0.1/24"}]}
                ],
                "ip_tunnels": [{
                    "name": "gre0", "mode": "gre", "local_address": "192.0.2.1",
                    "remote_address": "198.51.100.2", "addresses": [{"address": "172.31.0.1/30"}]
                }]
            }"#,
        )
        .unwrap();
        plan_configured(&config, &DigestKey::new([0; 32])).unwrap()
    }

    fn route(destination: &str, hops: &[(&str, &str)]) -> LearntRoute {
        let hops = hops.iter().map(|(device, gateway)| LearntHop {
            device: (*device).to_owned(),
            gateway: gateway.parse().ok(),
        });
        LearntRoute {
            destination: destination.parse().unwrap(),
            way: LearntWay::Hops(hops.collect()),
        }
    }

    #[test]
    fn routes_by_taps_become_values_that_need_their_interfaces() {
        let routes = [
            route("10.2.0.0/24", &[("gre0", "172.31.0.2")]),
            route(
                "0.0.0.0/0",
                &[("eth9", "203.0.113.1"), ("wan", "192.0.2.9")],
            ),
            route("10.7.0.0/24", &[("lan", "none")]),
            // Of other devices, of no device that Linux has of ours, of one link and of groups.
            route("10.8.0.0/24", &[("eth9", "203.0.113.1")]),
            route("10.9.0.0/24", &[("bare", "none")]),
            route("169.254.0.0/16", &[("wan", "none")]),
            route("fe80::/64", &[("wan", "none")]),
            route("224.0.0.0/4", &[("wan", "none")]),
        ];
        let planned = plan(&routes, &configured());
        let keys: Vec<&str> = planned.keys().map(Key::as_str).collect();
        assert_eq!(
            keys,
            [
                "learnt/default/0.0.0.0/0",
                "learnt/default/10.2.0.0/24",
                "learnt/guests/10.7.0.0/24"
            ]
        );
        let ospf = &planned[&Key::from("learnt/default/10.2.0.0/24")];
        assert_eq!(ospf.needs, [Key::from("ip_tunnel/gre0")]);
        let Some(Kind::Route(value)) = &ospf.value.kind else {
            panic!("{ospf:?}");
        };
        assert!(value.learnt);
        assert_eq!(value.next_hops.len(), 1);
        assert_eq!(value.next_hops[0].interface, "gre0");
        assert!(value.next_hops[0].gateway.is_some());
        let default = &planned[&Key::from("learnt/default/0.0.0.0/0")];
        let Some(Kind::Route(value)) = &default.value.kind else {
            panic!("{default:?}");
        };
        assert_eq!(value.next_hops.len(), 1);
    }
}
