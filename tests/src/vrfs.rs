//! Two customers on the same gateways, each in a VRF of its own, with the same addresses.
//!
//! ```text
//!   red-a  10.1.0.10 --+            +-- ipsec-...  (if_id 1) --+            +-- red-b  10.2.0.10
//!                      gateway-a ---+                          +--- gateway-b
//!   blue-a 10.1.0.10 --+            +-- ipsec-...  (if_id 2) --+            +-- blue-b 10.2.0.10
//!     VRF red, VRF blue              default VRF: WAN, IKE, ESP
//! ```
//!
//! Each host has a service that says its name.
// What a test builds on is there, or the test fails.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::namespace::Namespace;
use serde_json::{Value, json};

use crate::configuration::{SECRET, identity};
use crate::laboratory::{Laboratory, wait_for};
use crate::lan_host::LanHost;
use crate::who::{Heard, Named, who};

/// The routing instances.
pub const VRFS: [&str; 2] = ["red", "blue"];
/// Of every service.
pub const PORT: u16 = 7400;
/// A start, DAD and a negotiation on a busy machine.
pub const UP: Duration = Duration::from_mins(1);
/// An answer comes within milliseconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(10);
/// When none is expected.
pub const MOMENT: Duration = Duration::from_millis(1500);

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Which gateway says something, in the VRF of this place in [`VRFS`].
pub fn loopback(side: Side, vrf: usize, family: Family) -> IpAddr {
    let last = usize::from(side == Side::B) + 1 + 10 * vrf;
    match family {
        Family::V4 => ip(&format!("203.0.113.{last}")),
        Family::V6 => ip(&format!("2001:db8:ff::{last}")),
    }
}

/// Interfaces of one gateway, and the way to the other one. No tunnels yet.
pub fn links(side: Side, vrfs: &[&str]) -> Value {
    let own = side.addresses();
    let far = side.other().addresses();
    let both = |address: &dyn Fn(Family) -> String| {
        json!(Family::BOTH.map(|family| json!({ "address": address(family) })))
    };
    let mut interfaces = vec![json!({ "name": "wan", "device": "wan0",
                "addresses": both(&|family| own.gateway_wan(family).to_string()) })];
    let mut loopbacks = Vec::new();
    for (at, vrf) in vrfs.iter().enumerate() {
        interfaces.push(json!({
            "name": vrf, "device": format!("lan-{vrf}"), "vrf": vrf,
            // Linux has one table for all TAPs: only one of two that overlap may be known to it.
            "self_traffic": at == 0,
            "addresses": both(&|family| own.gateway_lan(family).to_string()),
        }));
        loopbacks.push(json!({
            "name": format!("lo-{vrf}"), "vrf": vrf,
            "addresses": both(&|family| {
                let length = if family == Family::V4 { 32 } else { 128 };
                format!("{}/{length}", loopback(side, at, family))
            }),
        }));
    }
    let routes = Family::BOTH.map(|family| {
        let via = own.router(family).addr().to_string();
        json!({ "destination": far.wan_network(family).to_string(), "next_hops": [{ "gateway": via }] })
    });
    json!({
        "vrfs": vrfs.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "interfaces": interfaces,
        "loopbacks": loopbacks,
        "routes": routes,
    })
}

/// Adds to a list of the configuration.
pub fn push(configuration: &mut Value, list: &str, item: Value) {
    let list = &mut configuration[list];
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

/// A tunnel between the gateways, whose connection is told from others between the same addresses by its identities.
pub fn add_tunnel(configuration: &mut Value, side: Side, name: &str, if_id: u32, vrf: &str) {
    let tunnel = format!("ipsec-{name}");
    let who = |side| format!("{name}.{}", identity(side));
    let all = json!([{ "selector": "0.0.0.0/0" }, { "selector": "::/0" }]);
    push(
        configuration,
        "tunnels",
        json!({ "name": tunnel, "if_id": if_id, "vrf": vrf }),
    );
    let (own, far) = (side.addresses(), side.other().addresses());
    let connection = json!({
        "name": name,
        "local_address": own.gateway_wan(Family::V4).addr().to_string(),
        "remote_address": far.gateway_wan(Family::V4).addr().to_string(),
        "local": { "method": "psk", "identity": who(side) },
        "remote": { "method": "psk", "identity": who(side.other()) },
        "children": [{
            "name": name, "tunnel": tunnel, "local_selectors": all, "remote_selectors": all,
            "start_action": if side == Side::A { "start" } else { "none" },
        }],
    });
    push(configuration, "connections", connection);
    let key = json!({
        "name": name, "secret": SECRET,
        "identities": [{ "identity": who(Side::A) }, { "identity": who(Side::B) }],
    });
    push(&mut configuration["credentials"], "pre_shared_keys", key);
}

/// The LAN of the other side, over these tunnels.
pub fn add_routes(configuration: &mut Value, side: Side, vrf: &str, tunnels: &[&str]) {
    for family in Family::BOTH {
        let hops: Vec<_> = tunnels
            .iter()
            .map(|tunnel| json!({ "interface": format!("ipsec-{tunnel}") }))
            .collect();
        let route = json!({
            "vrf": vrf, "next_hops": hops,
            "destination": side.other().addresses().lan_network(family).to_string(),
        });
        push(configuration, "routes", route);
    }
}

/// A host and its services.
pub struct Member {
    /// Where it is.
    pub host: LanHost,
    services: Vec<Named>,
}

impl Member {
    /// Comes into being behind the gateway of this side, with a service at both its addresses.
    pub fn join(lab: &Laboratory, side: Side, vrf: &str) -> Self {
        let host = LanHost::build(lab, side, vrf).unwrap();
        let services = Family::BOTH
            .map(|family| {
                let at = SocketAddr::new(side.addresses().host(family).addr(), PORT);
                Named::start(&host.namespace, at, &name(vrf, side)).unwrap()
            })
            .into();
        Self { host, services }
    }

    /// One more address with a service.
    pub fn offer(&mut self, address: &str, name: &str) {
        self.host
            .ip(&format!("address add {address}/32 dev eth0"))
            .unwrap();
        let at = SocketAddr::new(ip(address), PORT);
        let service = Named::start(&self.host.namespace, at, name).unwrap();
        self.services.push(service);
    }

    /// Where it is.
    pub fn namespace(&self) -> &Namespace {
        &self.host.namespace
    }

    /// Asks from its own address until something comes.
    pub fn ask(&self, side: Side, to: IpAddr, limit: Duration) -> Heard {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        self.ask_as(side.addresses().host(family).addr(), to, limit)
    }

    /// Asks from one of its addresses until something comes.
    pub fn ask_as(&self, from: IpAddr, to: IpAddr, limit: Duration) -> Heard {
        who((self.namespace(), from), SocketAddr::new(to, PORT), limit).unwrap()
    }
}

/// What the service of a host says.
pub fn name(vrf: &str, side: Side) -> String {
    format!("{vrf} {}", side.host().name())
}

/// A service of this name has answered.
pub fn answer(name: &str) -> Heard {
    Heard::Name(name.to_owned())
}

/// Asks until this is the answer: what a change of the configuration leads to.
pub fn becomes(what: &str, wanted: &Heard, mut ask: impl FnMut() -> Heard) {
    let mut last = Heard::Silence;
    wait_for(what, UP, || {
        last = ask();
        (last == *wanted).then_some(())
    })
    .unwrap_or_else(|error| panic!("{error}: {last:?}"));
}
