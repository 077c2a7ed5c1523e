//! A TAP's own settings: MAC address, MTU, up, and the switches that keep Linux from acting as a router or host of its
//! own on it.

use std::fs;
use std::path::PathBuf;

use rtnetlink::LinkUnspec;

use super::{LinkSettings, Mirror, MirrorError, refused};
use crate::device::TapName;
use crate::nodes::TUNNEL_MAC;

/// Of the TAPs of tunnels, which have one MAC address on every box: a random link-local address instead of the one that
/// follows from it, or both ends of a tunnel would have the same (RFC 7217).
const RANDOM_LINK_LOCAL: [(&str, &str, &str); 1] = [("ipv6", "addr_gen_mode", "3")];

/// Below `/proc/sys/net`, with the family directory before and the device between.
///
/// The dataplane routes, answers ARP and NS, detects duplicates and hears router advertisements; Linux behind the TAP
/// is only the box's own sockets.
const SWITCHES: &[(&str, &str, &str)] = &[
    // The reply may leave through another TAP than the request came by: the dataplane decides.
    ("ipv4", "rp_filter", "0"),
    ("ipv4", "forwarding", "0"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
    // An address answers only on the TAP that has it.
    ("ipv4", "arp_ignore", "1"),
    ("ipv4", "arp_announce", "2"),
    // A box may have IPv6 off everywhere else.
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "forwarding", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "autoconf", "0"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv6", "accept_dad", "0"),
    ("ipv6", "dad_transmits", "0"),
    ("ipv6", "router_solicitations", "0"),
];

impl Mirror {
    /// Makes a TAP look like its interface and sets it up.
    pub async fn set_link(&self, settings: &LinkSettings) -> Result<(), MirrorError> {
        let links = self.links().await?;
        let state = links
            .get(settings.tap.as_str())
            .ok_or_else(|| MirrorError::NoDevice(settings.tap.clone()))?;
        set_switches(&settings.tap, SWITCHES)?;
        if settings.mac == Some(TUNNEL_MAC.0) {
            set_switches(&settings.tap, &RANDOM_LINK_LOCAL)?;
        }
        let mut message = LinkUnspec::new_with_index(state.index)
            .mtu(settings.mtu)
            .up();
        // Setting the same address again would make Linux announce a change of neighbours.
        if let Some(mac) = settings.mac.filter(|mac| state.mac != mac) {
            message = message.address(mac.to_vec());
        }
        self.handle
            .link()
            .set(message.build())
            .execute()
            .await
            .map_err(|source| refused(format!("set up {}", settings.tap), source))
    }

    /// Sets a TAP down, which removes its routes and keeps the device.
    pub async fn set_link_down(&self, tap: &TapName) -> Result<(), MirrorError> {
        let index = self.index_of(tap).await?;
        self.handle
            .link()
            .set(LinkUnspec::new_with_index(index).down().build())
            .execute()
            .await
            .map_err(|source| refused(format!("set down {tap}"), source))
    }
}

fn set_switches(tap: &TapName, switches: &[(&str, &str, &'static str)]) -> Result<(), MirrorError> {
    for (family, switch, value) in switches {
        let path: PathBuf = ["/proc/sys/net", family, "conf", tap.as_str(), switch]
            .iter()
            .collect();
        // A kernel without IPv6 has no such folder, and nothing to switch off.
        if *family == "ipv6" && path.parent().is_some_and(|folder| !folder.exists()) {
            continue;
        }
        fs::write(&path, value).map_err(|source| MirrorError::Switch {
            path: path.display().to_string(),
            value,
            source,
        })?;
    }
    Ok(())
}
