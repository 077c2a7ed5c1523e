//! What the gateways of a test are configured with: one connection, one CHILD_SA for both LANs and both families.
//!
//! A test changes what it needs in the JSON value, as a person would in the file.

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::canary;
use serde_json::{Value, json};

/// Binds the CHILD_SAs to `ipsec0`.
pub const IF_ID: u32 = 1;
/// Of the CHILD_SA.
pub const CHILD: &str = "lans";
/// Of the connection, on both sides.
pub const CONNECTION: &str = "peer";
/// Of both sides.
pub const SECRET: &str = canary::PRE_SHARED_KEY;

/// Who a side says it is.
pub fn identity(side: Side) -> String {
    format!("{}.culvert.example", side.gateway().name())
}

/// A whole configuration; a begins when it is ready.
pub fn gateway(side: Side) -> Value {
    let own = side.addresses();
    let far = side.other().addresses();
    let interface = |name: &str, device: &str, address: &dyn Fn(Family) -> String| {
        let addresses = Family::BOTH.map(|family| json!({ "address": address(family) }));
        json!({ "name": name, "device": device, "addresses": addresses })
    };
    let routes: Vec<Value> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            let via = own.router(family).addr().to_string();
            [
                json!({ "destination": far.wan_network(family).to_string(), "next_hops": [{ "gateway": via }] }),
                json!({ "destination": far.lan_network(family).to_string(), "next_hops": [{ "interface": "ipsec0" }] }),
            ]
        })
        .collect();
    let identities = Side::BOTH.map(|side| json!({ "identity": identity(side) }));
    json!({
        "system": { "host_name": side.gateway().name() },
        "interfaces": [
            interface("wan", "wan0", &|family| own.gateway_wan(family).to_string()),
            interface("lan", "lan0", &|family| own.gateway_lan(family).to_string()),
        ],
        "tunnels": [{ "name": "ipsec0", "if_id": IF_ID }],
        "routes": routes,
        "connections": [connection(side)],
        "credentials": { "pre_shared_keys": [
            { "name": "test", "identities": identities, "secret": SECRET },
        ] },
    })
}

fn connection(side: Side) -> Value {
    let (own, far) = (side.addresses(), side.other().addresses());
    json!({
        "name": CONNECTION,
        "local_address": own.gateway_wan(Family::V4).addr().to_string(),
        "remote_address": far.gateway_wan(Family::V4).addr().to_string(),
        "proposals": [{ "proposal": "aes256gcm16-prfsha384-ecp384" }],
        "local": { "method": "psk", "identity": identity(side) },
        "remote": { "method": "psk", "identity": identity(side.other()) },
        "children": [child(side, CHILD, &Family::BOTH)],
    })
}

/// A CHILD_SA for the LANs of these families.
pub fn child(side: Side, name: &str, families: &[Family]) -> Value {
    let (own, far) = (side.addresses(), side.other().addresses());
    let selectors = |networks: Vec<String>| -> Vec<Value> {
        networks
            .into_iter()
            .map(|network| json!({ "selector": network }))
            .collect()
    };
    let local = families
        .iter()
        .map(|family| own.lan_network(*family).to_string())
        .collect();
    let remote = families
        .iter()
        .map(|family| far.lan_network(*family).to_string())
        .collect();
    json!({
        "name": name,
        "tunnel": "ipsec0",
        "local_selectors": selectors(local),
        "remote_selectors": selectors(remote),
        "proposals": [{ "proposal": "aes128gcm16" }],
        "start_action": if side == Side::A { "start" } else { "none" },
    })
}
