//! When two values are the same, and when one can become the other in place.

use zeroize::Zeroize;

use crate::bus::value::Kind;
use crate::bus::{Credential, Interface, LinuxLink, Route, Value, Wwan};

/// Whether a part holds what was planned. Not all of a value can be read back:
///
/// - of a credential only its digest, and so of password and PIN of a modem;
/// - the Ethernet address of a TAP, when the plan does not say one.
pub fn same(planned: &Value, held: &Value) -> bool {
    match (&planned.kind, &held.kind) {
        (Some(Kind::Credential(planned)), Some(Kind::Credential(held))) => {
            same_credential(planned, held)
        }
        (Some(Kind::LinuxLink(planned)), Some(Kind::LinuxLink(held))) => same_link(planned, held),
        (Some(Kind::Route(planned)), Some(Kind::Route(held))) => same_route(planned, held),
        (Some(Kind::Wwan(planned)), Some(Kind::Wwan(held))) => same_wwan(planned, held),
        _ => planned == held,
    }
}

fn same_credential(planned: &Credential, held: &Credential) -> bool {
    planned.name == held.name && !planned.digest.is_empty() && planned.digest == held.digest
}

fn same_wwan(planned: &Wwan, held: &Wwan) -> bool {
    let open = |value: &Wwan| {
        let mut open = value.clone();
        open.password.zeroize();
        open.pin.zeroize();
        open
    };
    !planned.digest.is_empty() && open(planned) == open(held)
}

fn same_link(planned: &LinuxLink, held: &LinuxLink) -> bool {
    let mut held = held.clone();
    if planned.mac.is_empty() || held.mac.is_empty() {
        held.mac.clone_from(&planned.mac);
    }
    *planned == held
}

/// The order of next hops means nothing.
fn same_route(planned: &Route, held: &Route) -> bool {
    planned.vrf == held.vrf
        && planned.learnt == held.learnt
        && planned.destination == held.destination
        && planned.action == held.action
        && planned.next_hops.len() == held.next_hops.len()
        && planned
            .next_hops
            .iter()
            .all(|hop| held.next_hops.contains(hop))
}

/// Whether a part can turn `old` into `new` without taking it away first.
pub fn updates_in_place(old: &Value, new: &Value) -> bool {
    match (&old.kind, &new.kind) {
        (Some(Kind::Interface(old)), Some(Kind::Interface(new))) => {
            let place = |value: &Interface| (value.parent.clone(), value.vlan, value.outer_vlan);
            old.device == new.device
                && old.vrf == new.vrf
                && old.tap == new.tap
                && place(old) == place(new)
        }
        (Some(Kind::Tunnel(old)), Some(Kind::Tunnel(new))) => {
            old.if_id == new.if_id
                && old.vrf == new.vrf
                && old.underlay_vrf == new.underlay_vrf
                && old.tap == new.tap
        }
        (Some(Kind::Loopback(old)), Some(Kind::Loopback(new))) => {
            old.vrf == new.vrf && old.tap == new.tap
        }
        (Some(Kind::IpTunnel(old)), Some(Kind::IpTunnel(new))) => {
            (old.mode, &old.local, &old.remote, old.key, old.if_id)
                == (new.mode, &new.local, &new.remote, new.key, new.if_id)
                && old.vrf == new.vrf
                && old.underlay_vrf == new.underlay_vrf
                && old.tap == new.tap
        }
        (Some(Kind::Wwan(old)), Some(Kind::Wwan(new))) => {
            // The network is told the rest when a session with it begins.
            let mut changed = old.clone();
            changed.mtu = new.mtu;
            changed.mss_clamp = new.mss_clamp;
            changed.admin_up = new.admin_up;
            changed.default_route = new.default_route;
            same_wwan(new, &changed)
        }
        (Some(Kind::Vrf(_)), Some(Kind::Vrf(_)))
        | (Some(Kind::Route(_)), Some(Kind::Route(_)))
        | (Some(Kind::Forwarding(_)), Some(Kind::Forwarding(_)))
        | (Some(Kind::Reassembly(_)), Some(Kind::Reassembly(_)))
        | (Some(Kind::IcmpErrors(_)), Some(Kind::IcmpErrors(_)))
        | (Some(Kind::Policy(_)), Some(Kind::Policy(_)))
        | (Some(Kind::LinuxLink(_)), Some(Kind::LinuxLink(_)))
        | (Some(Kind::LinuxRoute(_)), Some(Kind::LinuxRoute(_)))
        | (Some(Kind::Resolver(_)), Some(Kind::Resolver(_)))
        | (Some(Kind::Ntp(_)), Some(Kind::Ntp(_)))
        | (Some(Kind::HostName(_)), Some(Kind::HostName(_)))
        | (Some(Kind::DhcpClient(_)), Some(Kind::DhcpClient(_)))
        | (Some(Kind::Connection(_)), Some(Kind::Connection(_)))
        | (Some(Kind::Credential(_)), Some(Kind::Credential(_))) => true,
        // Of addresses the key says all: what differs is another one.
        _ => false,
    }
}
