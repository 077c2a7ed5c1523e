//! charon's list of SAs, as the box shows it and as the manager compares it.

use culvert_model::bus::{ChildState, IkeState};
use strongswan_vici::{ChildSa, IkeSa};

use crate::manager::CharonChild;

/// As `show` prints it.
pub fn ike_state(ike: &IkeSa) -> IkeState {
    let host = |host: Option<std::net::IpAddr>| host.map_or(String::new(), |host| host.to_string());
    IkeState {
        connection: ike.name.clone(),
        unique_id: ike.unique_id.into(),
        state: ike.state.clone(),
        local_address: host(ike.local_host),
        remote_address: host(ike.remote_host),
        local_id: ike.local_id.clone(),
        remote_id: ike.remote_id.clone(),
        proposal: proposal(&[
            (&ike.encr_alg, ike.encr_keysize),
            (&ike.integ_alg, 0),
            (&ike.prf_alg, 0),
            (&ike.dh_group, 0),
        ]),
        established_s: ike.established.unwrap_or_default(),
        children: ike.children.iter().map(child_state).collect(),
        initiator: ike.initiator,
    }
}

fn child_state(child: &ChildSa) -> ChildState {
    ChildState {
        name: child.name.clone(),
        unique_id: child.unique_id.into(),
        state: child.state.clone(),
        spi_in: child.spi_in.unwrap_or_default(),
        spi_out: child.spi_out.unwrap_or_default(),
        proposal: proposal(&[
            (&child.encr_alg, child.encr_keysize),
            (&child.integ_alg, 0),
            (&child.dh_group, 0),
            (if child.esn { "ESN" } else { "" }, 0),
        ]),
        local_selectors: child.local_ts.clone(),
        remote_selectors: child.remote_ts.clone(),
        bytes_in: child.bytes_in,
        bytes_out: child.bytes_out,
        packets_in: child.packets_in,
        packets_out: child.packets_out,
        if_id: child.if_id_in,
        udp: child.encap,
    }
}

/// Algorithms in charon's names, with the key size where there is one: `AES_GCM_16-128/PRF_HMAC_SHA2_256/ECP_256`.
fn proposal(parts: &[(&str, u32)]) -> String {
    let parts: Vec<String> = parts
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, bits)| match bits {
            0 => (*name).to_owned(),
            bits => format!("{name}-{bits}"),
        })
        .collect();
    parts.join("/")
}

/// What the manager compares its table with.
pub fn children(ikes: &[IkeSa]) -> Vec<CharonChild> {
    ikes.iter()
        .flat_map(|ike| ike.children.iter().map(move |child| (ike, child)))
        .filter_map(|(ike, child)| {
            Some(CharonChild {
                spi_in: child.spi_in?,
                spi_out: child.spi_out?,
                local: ike.local_host?,
                installed: matches!(child.state.as_str(), "INSTALLED" | "REKEYING"),
                rekeying: child.state.starts_with("REKEY"),
            })
        })
        .collect()
}
