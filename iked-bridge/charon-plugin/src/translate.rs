//! charon's structures, read into messages. Numbers of C enumerations are the numbers on the wire.

#![allow(unsafe_code)]

use core::ffi::{CStr, c_char};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_plugin_wire as wire;

use crate::abi_5_9_8 as abi;

/// # Safety
/// `host` is null or a live `host_t`.
pub(crate) unsafe fn host(host: *mut abi::Host) -> Option<wire::Host> {
    if host.is_null() {
        return None;
    }
    // SAFETY: live, by the caller; the address chunk points into the host.
    let (address, port) = unsafe { (bytes(((*host).get_address)(host)), ((*host).get_port)(host)) };
    Some(SocketAddr::new(ip(address)?, port).into())
}

/// # Safety
/// `selector` is null or a live `traffic_selector_t`.
pub(crate) unsafe fn selector(selector: *mut abi::TrafficSelector) -> Option<wire::Selector> {
    if selector.is_null() {
        return None;
    }
    // SAFETY: live, by the caller; the address chunks point into the selector.
    unsafe {
        let functions = &*selector;
        let kind = (functions.get_type)(selector);
        if kind != abi::TS_IPV4_ADDR_RANGE && kind != abi::TS_IPV6_ADDR_RANGE {
            return None;
        }
        Some(wire::Selector {
            from: bytes((functions.get_from_address)(selector)).to_vec(),
            to: bytes((functions.get_to_address)(selector)).to_vec(),
            protocol: (functions.get_protocol)(selector).into(),
            from_port: (functions.get_from_port)(selector).into(),
            to_port: (functions.get_to_port)(selector).into(),
        })
    }
}

/// # Safety
/// `list` is null or a live `linked_list_t` of `traffic_selector_t`.
unsafe fn selectors(list: *mut abi::LinkedList) -> Vec<wire::Selector> {
    let mut selectors = Vec::new();
    if list.is_null() {
        return selectors;
    }
    // SAFETY: live, by the caller; an enumerator writes one pointer for each item and is destroyed once.
    unsafe {
        let enumerator = ((*list).create_enumerator)(list);
        let mut item: *mut abi::TrafficSelector = core::ptr::null_mut();
        while ((*enumerator).enumerate)(enumerator, &raw mut item) {
            selectors.extend(selector(item));
        }
        ((*enumerator).destroy)(enumerator);
    }
    selectors
}

/// # Safety
/// `id` is null or points to a live structure with live hosts.
pub(crate) unsafe fn sa_id(id: *mut abi::SaId) -> Option<wire::SaId> {
    // SAFETY: by the caller.
    unsafe {
        let id = id.as_ref()?;
        Some(wire::SaId {
            src: host(id.src),
            dst: host(id.dst),
            spi: u32::from_be(id.spi),
            protocol: id.proto.into(),
            mark: mark(id.mark),
            if_id: id.if_id,
        })
    }
}

/// # Safety
/// Both are null or point to live structures with live members.
pub(crate) unsafe fn add_sa(id: *mut abi::SaId, data: *mut abi::AddSa) -> Option<wire::AddSa> {
    // SAFETY: by the caller.
    unsafe {
        let data = data.as_ref()?;
        Some(wire::AddSa {
            id: Some(sa_id(id)?),
            reqid: data.reqid,
            mode: data.mode,
            src_ts: selectors(data.src_ts),
            dst_ts: selectors(data.dst_ts),
            lifetimes: data.lifetime.as_ref().map(lifetimes),
            encryption: data.enc_alg.into(),
            integrity: data.int_alg.into(),
            keys: Some(wire::SaKeys {
                encryption: bytes(data.enc_key).to_vec(),
                integrity: bytes(data.int_key).to_vec(),
            }),
            replay_window: data.replay_window,
            tfc: data.tfc,
            ipcomp: data.ipcomp.into(),
            encap: data.encap != 0,
            set_mark: mark(data.mark),
            esn: data.esn != 0,
            copy_df: data.copy_df != 0,
            copy_ecn: data.copy_ecn != 0,
            copy_dscp: data.copy_dscp,
            initiator: data.initiator != 0,
            inbound: data.inbound != 0,
            update: data.update != 0,
            interface: text(data.interface),
        })
    }
}

/// # Safety
/// Both are null or point to live structures with live hosts.
pub(crate) unsafe fn update_sa(
    id: *mut abi::SaId,
    data: *mut abi::UpdateSa,
) -> Option<wire::UpdateSa> {
    // SAFETY: by the caller.
    unsafe {
        let data = data.as_ref()?;
        Some(wire::UpdateSa {
            id: Some(sa_id(id)?),
            new_src: host(data.new_src),
            new_dst: host(data.new_dst),
            encap: data.encap != 0,
            new_encap: data.new_encap != 0,
            new_reqid: data.new_reqid,
        })
    }
}

/// # Safety
/// `id` is null or points to a live structure with live selectors.
pub(crate) unsafe fn policy_id(id: *mut abi::PolicyId) -> Option<wire::PolicyId> {
    // SAFETY: by the caller.
    unsafe {
        let id = id.as_ref()?;
        Some(wire::PolicyId {
            direction: id.dir,
            src_ts: Some(selector(id.src_ts)?),
            dst_ts: Some(selector(id.dst_ts)?),
            mark: mark(id.mark),
            if_id: id.if_id,
            interface: text(id.interface),
        })
    }
}

/// # Safety
/// `data` is null or points to a live structure with live members.
pub(crate) unsafe fn manage_policy(data: *mut abi::ManagePolicy) -> Option<wire::ManagePolicy> {
    // SAFETY: by the caller.
    unsafe {
        let data = data.as_ref()?;
        Some(wire::ManagePolicy {
            policy_type: data.policy_type,
            priority: data.prio,
            manual_priority: data.manual_prio,
            src: host(data.src),
            dst: host(data.dst),
            sa: data.sa.as_ref().map(sa_cfg),
        })
    }
}

fn sa_cfg(cfg: &abi::SaCfg) -> wire::SaCfg {
    let protocol = |protocol: abi::ProtocolUse| wire::EspOrAh {
        used: protocol.used != 0,
        spi: u32::from_be(protocol.spi),
    };
    wire::SaCfg {
        mode: cfg.mode,
        reqid: cfg.reqid,
        policy_count: cfg.policy_count,
        esp: Some(protocol(cfg.esp)),
        ah: Some(protocol(cfg.ah)),
        ipcomp: cfg.ipcomp_transform.into(),
    }
}

fn lifetimes(cfg: &abi::LifetimeCfg) -> wire::Lifetimes {
    // charon subtracts a random part of the jitter before it hands the limits over.
    let limit = |limit: abi::Limit| {
        Some(wire::Limit {
            rekey: limit.rekey,
            life: limit.life,
        })
    };
    wire::Lifetimes {
        time: limit(cfg.time),
        bytes: limit(cfg.bytes),
        packets: limit(cfg.packets),
    }
}

fn mark(mark: abi::Mark) -> Option<wire::Mark> {
    (mark.value != 0 || mark.mask != 0).then_some(wire::Mark {
        value: mark.value,
        mask: mark.mask,
    })
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the caller.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// # Safety
/// The chunk is empty or points to as many bytes as it says, for as long as the slice is used.
unsafe fn bytes<'a>(chunk: abi::Chunk) -> &'a [u8] {
    if chunk.ptr.is_null() || chunk.len == 0 {
        return &[];
    }
    // SAFETY: by the caller.
    unsafe { core::slice::from_raw_parts(chunk.ptr, chunk.len) }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}
