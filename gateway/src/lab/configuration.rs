//! What the two gateways of a laboratory are configured with.

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::canary;
use serde_json::{Value, json};

/// Binds the CHILD_SA to `ipsec0`.
const IF_ID: u32 = 1;
/// Both sides know it, and so does whoever reads this: a laboratory protects nothing.
const SECRET: &str = canary::PRE_SHARED_KEY;
/// Of the CHILD_SA on both sides.
pub const CHILD: &str = "lans";

/// What carries the traffic between the two LANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Plain routes over the untrusted side: the measure for [`Path::Tunnel`].
    Clear,
    /// An IPsec tunnel interface.
    Tunnel(Start),
}

/// Who begins the negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Gateway a, as soon as it is ready.
    GatewayA,
    /// Whoever is asked to.
    OnRequest,
}

/// The name of the IKE connection on this side: where it leads to.
pub fn connection(side: Side) -> String {
    format!("to-{}", side.other().gateway().name())
}

/// The public half of the key of the one admin, if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Admin<'a> {
    /// What he is called.
    pub name: &'a str,
    /// The line of the file that ssh-keygen wrote.
    pub public_key: &'a str,
}

/// What a gateway comes from the factory with: its name, an admin, and a LAN that he logs in from.
pub fn first(side: Side, admin: Admin<'_>) -> Value {
    json!({ "system": system(side, Some(admin)), "interfaces": [lan(side)] })
}

/// The whole configuration of one gateway that an admin logs in to.
pub fn managed(side: Side, path: Path, admin: Admin<'_>) -> Value {
    let mut configuration = configuration(side, path);
    if let Some(object) = configuration.as_object_mut() {
        object.insert("system".to_owned(), system(side, Some(admin)));
    }
    configuration
}

fn system(side: Side, admin: Option<Admin<'_>>) -> Value {
    let mut system = json!({ "host_name": side.gateway().name() });
    if let (Some(admin), Some(object)) = (admin, system.as_object_mut()) {
        let key = json!({ "name": "laboratory", "public_key": admin.public_key });
        let user = json!({ "name": admin.name, "role": "admin", "ssh_keys": [key] });
        object.insert("users".to_owned(), json!([user]));
        let addresses = Family::BOTH
            .map(|family| side.addresses().gateway_lan(family).addr().to_string())
            .map(|address| json!({ "address": address }));
        object.insert(
            "ssh_server".to_owned(),
            json!({ "listen_addresses": addresses }),
        );
    }
    system
}

fn interface(name: &str, device: &str, address: impl Fn(Family) -> String) -> Value {
    let addresses = Family::BOTH.map(|family| json!({ "address": address(family) }));
    json!({ "name": name, "device": device, "addresses": addresses })
}

fn lan(side: Side) -> Value {
    interface("lan", "lan0", |family| {
        side.addresses().gateway_lan(family).to_string()
    })
}

/// The whole configuration of one gateway.
pub fn configuration(side: Side, path: Path) -> Value {
    let own = side.addresses();
    let far = side.other().addresses();
    let mut routes = Vec::new();
    for family in Family::BOTH {
        let via = own.router(family).addr().to_string();
        routes.push(json!({
            "destination": far.wan_network(family).to_string(),
            "next_hops": [{ "gateway": via }],
        }));
        let next_hop = match path {
            Path::Clear => json!({ "gateway": via }),
            Path::Tunnel(_) => json!({ "interface": "ipsec0" }),
        };
        routes.push(
            json!({ "destination": far.lan_network(family).to_string(), "next_hops": [next_hop] }),
        );
    }
    let mut configuration = json!({
        "system": system(side, None),
        "interfaces": [
            interface("wan", "wan0", |family| own.gateway_wan(family).to_string()),
            lan(side),
        ],
        "routes": routes,
    });
    if let (Path::Tunnel(start), Some(object)) = (path, configuration.as_object_mut()) {
        object.insert(
            "tunnels".to_owned(),
            json!([{ "name": "ipsec0", "if_id": IF_ID }]),
        );
        object.insert("connections".to_owned(), json!([ike(side, start)]));
        let identities = Side::BOTH.map(|side| json!({ "identity": identity(side) }));
        object.insert(
            "credentials".to_owned(),
            json!({ "pre_shared_keys": [{ "name": "lab", "identities": identities, "secret": SECRET }] }),
        );
    }
    configuration
}

fn ike(side: Side, start: Start) -> Value {
    let own = side.addresses();
    let far = side.other().addresses();
    let selectors = |networks: [String; 2]| networks.map(|network| json!({ "selector": network }));
    let start_action = match (side, start) {
        (Side::A, Start::GatewayA) => "start",
        (Side::B, _) | (_, Start::OnRequest) => "none",
    };
    json!({
        "name": connection(side),
        "local_address": own.gateway_wan(Family::V4).addr().to_string(),
        "remote_address": far.gateway_wan(Family::V4).addr().to_string(),
        "proposals": [{ "proposal": "aes256gcm16-prfsha384-ecp384" }],
        "local": { "method": "psk", "identity": identity(side) },
        "remote": { "method": "psk", "identity": identity(side.other()) },
        "children": [{
            "name": CHILD,
            "tunnel": "ipsec0",
            "local_selectors": selectors(Family::BOTH.map(|family| own.lan_network(family).to_string())),
            "remote_selectors": selectors(Family::BOTH.map(|family| far.lan_network(family).to_string())),
            "proposals": [{ "proposal": "aes128gcm16" }],
            "start_action": start_action,
        }],
    })
}

fn identity(side: Side) -> String {
    format!("{}.culvert.example", side.gateway().name())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const ADMIN: Admin<'static> = Admin {
        name: "operator",
        public_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f laboratory",
    };

    #[test]
    fn every_configuration_is_accepted_and_planned() {
        let digests = culvert_model::plan::DigestKey::new([7; 32]);
        let tunnels = [Start::GatewayA, Start::OnRequest].map(Path::Tunnel);
        for side in Side::BOTH {
            let mut all = vec![first(side, ADMIN)];
            for path in tunnels.into_iter().chain([Path::Clear]) {
                all.extend([configuration(side, path), managed(side, path, ADMIN)]);
            }
            for configuration in all {
                let text = configuration.to_string();
                let config = culvert_model::decode::config_from_json(text.as_bytes())
                    .unwrap_or_else(|error| panic!("{side:?} {text}: {error}"));
                culvert_model::plan::plan(&config, &digests)
                    .unwrap_or_else(|error| panic!("{side:?} {text}: {error}"));
            }
        }
    }

    #[test]
    fn a_clear_path_has_no_trace_of_ipsec() {
        let text = configuration(Side::A, Path::Clear).to_string();
        assert!(
            !text.contains("ipsec0") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn only_gateway_a_begins_and_only_when_it_shall() {
        let action = |side, start| {
            configuration(side, Path::Tunnel(start))["connections"][0]["children"][0]["start_action"].clone()
        };
        assert_eq!(action(Side::A, Start::GatewayA), "start");
        assert_eq!(action(Side::B, Start::GatewayA), "none");
        assert_eq!(action(Side::A, Start::OnRequest), "none");
    }
}
