//! charon's side of the fence, as strongSwan 5.9.8 (Debian 12: 5.9.8-5+deb12u6) lays it out on LP64.
//!
//! Only what the plugin touches is spelt out; tables of functions have their unused slots as opaque pointers. Every size
//! and offset here was printed by a C program compiled against that version's headers and is asserted below, so that a
//! slip in this file does not compile. Another version of strongSwan gets a module of its own.
//!
//! Enumerations of C are `i32` here: reading one that is out of range must not be undefined behaviour. C's `bool`, where
//! it is read, is a `u8` for the same reason.

use core::ffi::{c_char, c_int, c_void};
use core::mem::{offset_of, size_of};

/// The version these layouts are of, as charon spells it.
pub(crate) const VERSION: &str = "5.9.8";

/// `status_t`.
pub(crate) mod status {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const FAILED: i32 = 1;
    pub(crate) const NOT_SUPPORTED: i32 = 4;
    pub(crate) const INVALID_ARG: i32 = 5;
}

/// `kernel_feature_t`: TFC padding, SPIs on policies, and (named by later versions, unread by this one) use times on SAs.
pub(crate) const KERNEL_FEATURES: i32 = 1 | 1 << 4 | 1 << 5;

/// `debug_t`: the kernel interface.
pub(crate) const DBG_KNL: c_int = 6;

/// `ts_type_t`.
pub(crate) const TS_IPV4_ADDR_RANGE: i32 = 7;
pub(crate) const TS_IPV6_ADDR_RANGE: i32 = 8;

/// `plugin_feature_t.kind` and `.type`.
pub(crate) const FEATURE_PROVIDE: i32 = 0;
pub(crate) const FEATURE_CALLBACK: i32 = 4;
pub(crate) const FEATURE_NONE: i32 = 0;
pub(crate) const FEATURE_CUSTOM: i32 = 30;

/// A slot of a function table that the plugin never calls.
type Unused = *const c_void;

/// `chunk_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) ptr: *mut u8,
    pub(crate) len: usize,
}

/// `host_t`.
#[repr(C)]
pub(crate) struct Host {
    _clone_to_len: [Unused; 3],
    pub(crate) get_family: unsafe extern "C" fn(*mut Host) -> c_int,
    _is_anyaddr: Unused,
    pub(crate) get_address: unsafe extern "C" fn(*mut Host) -> Chunk,
    pub(crate) get_port: unsafe extern "C" fn(*mut Host) -> u16,
    _set_port_to_equals: [Unused; 3],
    pub(crate) destroy: unsafe extern "C" fn(*mut Host),
}

/// `traffic_selector_t`.
#[repr(C)]
pub(crate) struct TrafficSelector {
    _get_subset_clone: [Unused; 2],
    pub(crate) get_from_address: unsafe extern "C" fn(*mut TrafficSelector) -> Chunk,
    pub(crate) get_to_address: unsafe extern "C" fn(*mut TrafficSelector) -> Chunk,
    pub(crate) get_from_port: unsafe extern "C" fn(*mut TrafficSelector) -> u16,
    pub(crate) get_to_port: unsafe extern "C" fn(*mut TrafficSelector) -> u16,
    pub(crate) get_type: unsafe extern "C" fn(*mut TrafficSelector) -> i32,
    pub(crate) get_protocol: unsafe extern "C" fn(*mut TrafficSelector) -> u8,
    _is_host_to_hash: [Unused; 8],
    pub(crate) destroy: unsafe extern "C" fn(*mut TrafficSelector),
}

/// `enumerator_t`.
#[repr(C)]
pub(crate) struct Enumerator {
    pub(crate) enumerate: unsafe extern "C" fn(*mut Enumerator, ...) -> bool,
    _venumerate: Unused,
    pub(crate) destroy: unsafe extern "C" fn(*mut Enumerator),
}

/// `linked_list_t`, its first two functions.
#[repr(C)]
pub(crate) struct LinkedList {
    _get_count: Unused,
    pub(crate) create_enumerator: unsafe extern "C" fn(*mut LinkedList) -> *mut Enumerator,
}

/// `mark_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) value: u32,
    pub(crate) mask: u32,
}

/// One limit of `lifetime_cfg_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) life: u64,
    pub(crate) rekey: u64,
    pub(crate) jitter: u64,
}

/// `lifetime_cfg_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LifetimeCfg {
    pub(crate) time: Limit,
    pub(crate) bytes: Limit,
    pub(crate) packets: Limit,
}

/// `kernel_ipsec_sa_id_t`. The SPI is in network order.
#[repr(C)]
pub(crate) struct SaId {
    pub(crate) src: *mut Host,
    pub(crate) dst: *mut Host,
    pub(crate) spi: u32,
    pub(crate) proto: u8,
    pub(crate) mark: Mark,
    pub(crate) if_id: u32,
}

/// `kernel_ipsec_add_sa_t`.
#[repr(C)]
pub(crate) struct AddSa {
    pub(crate) reqid: u32,
    pub(crate) mode: i32,
    pub(crate) src_ts: *mut LinkedList,
    pub(crate) dst_ts: *mut LinkedList,
    pub(crate) interface: *mut c_char,
    pub(crate) lifetime: *mut LifetimeCfg,
    pub(crate) enc_alg: u16,
    pub(crate) enc_key: Chunk,
    pub(crate) int_alg: u16,
    pub(crate) int_key: Chunk,
    pub(crate) replay_window: u32,
    pub(crate) tfc: u32,
    pub(crate) ipcomp: u16,
    pub(crate) cpi: u16,
    pub(crate) encap: u8,
    pub(crate) hw_offload: i32,
    pub(crate) mark: Mark,
    pub(crate) label: *mut c_void,
    pub(crate) esn: u8,
    pub(crate) copy_df: u8,
    pub(crate) copy_ecn: u8,
    pub(crate) copy_dscp: i32,
    pub(crate) initiator: u8,
    pub(crate) inbound: u8,
    pub(crate) update: u8,
}

/// `kernel_ipsec_update_sa_t`.
#[repr(C)]
pub(crate) struct UpdateSa {
    pub(crate) cpi: u16,
    pub(crate) new_src: *mut Host,
    pub(crate) new_dst: *mut Host,
    pub(crate) encap: u8,
    pub(crate) new_encap: u8,
    pub(crate) new_reqid: u32,
}

/// `kernel_ipsec_policy_id_t`.
#[repr(C)]
pub(crate) struct PolicyId {
    pub(crate) dir: i32,
    pub(crate) src_ts: *mut TrafficSelector,
    pub(crate) dst_ts: *mut TrafficSelector,
    pub(crate) mark: Mark,
    pub(crate) if_id: u32,
    pub(crate) interface: *mut c_char,
    pub(crate) label: *mut c_void,
}

/// `ipsec_sa_cfg_t.esp` and `.ah`. The SPI is in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ProtocolUse {
    pub(crate) used: u8,
    pub(crate) spi: u32,
}

/// `ipsec_sa_cfg_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SaCfg {
    pub(crate) mode: i32,
    pub(crate) reqid: u32,
    pub(crate) policy_count: u32,
    pub(crate) esp: ProtocolUse,
    pub(crate) ah: ProtocolUse,
    pub(crate) ipcomp_transform: u16,
    pub(crate) ipcomp_cpi: u16,
}

/// `kernel_ipsec_manage_policy_t`.
#[repr(C)]
pub(crate) struct ManagePolicy {
    pub(crate) policy_type: i32,
    pub(crate) prio: i32,
    pub(crate) manual_prio: u32,
    pub(crate) src: *mut Host,
    pub(crate) dst: *mut Host,
    pub(crate) sa: *mut SaCfg,
}

/// `kernel_ipsec_t`: what the plugin implements.
#[repr(C)]
pub(crate) struct KernelIpsec {
    pub(crate) get_features: unsafe extern "C" fn(*mut KernelIpsec) -> i32,
    pub(crate) get_spi:
        unsafe extern "C" fn(*mut KernelIpsec, *mut Host, *mut Host, u8, *mut u32) -> i32,
    pub(crate) get_cpi:
        unsafe extern "C" fn(*mut KernelIpsec, *mut Host, *mut Host, *mut u16) -> i32,
    pub(crate) add_sa: unsafe extern "C" fn(*mut KernelIpsec, *mut SaId, *mut AddSa) -> i32,
    pub(crate) update_sa: unsafe extern "C" fn(*mut KernelIpsec, *mut SaId, *mut UpdateSa) -> i32,
    pub(crate) query_sa: unsafe extern "C" fn(
        *mut KernelIpsec,
        *mut SaId,
        *mut c_void,
        *mut u64,
        *mut u64,
        *mut i64,
    ) -> i32,
    pub(crate) del_sa: unsafe extern "C" fn(*mut KernelIpsec, *mut SaId, *mut c_void) -> i32,
    pub(crate) flush_sas: unsafe extern "C" fn(*mut KernelIpsec) -> i32,
    pub(crate) add_policy:
        unsafe extern "C" fn(*mut KernelIpsec, *mut PolicyId, *mut ManagePolicy) -> i32,
    pub(crate) query_policy:
        unsafe extern "C" fn(*mut KernelIpsec, *mut PolicyId, *mut c_void, *mut i64) -> i32,
    pub(crate) del_policy:
        unsafe extern "C" fn(*mut KernelIpsec, *mut PolicyId, *mut ManagePolicy) -> i32,
    pub(crate) flush_policies: unsafe extern "C" fn(*mut KernelIpsec) -> i32,
    pub(crate) bypass_socket: unsafe extern "C" fn(*mut KernelIpsec, c_int, c_int) -> bool,
    pub(crate) enable_udp_decap: unsafe extern "C" fn(*mut KernelIpsec, c_int, c_int, u16) -> bool,
    pub(crate) destroy: unsafe extern "C" fn(*mut KernelIpsec),
}

/// `kernel_acquire_data_t`.
#[repr(C)]
pub(crate) struct AcquireData {
    pub(crate) src: *mut TrafficSelector,
    pub(crate) dst: *mut TrafficSelector,
    pub(crate) label: *mut c_void,
}

/// `kernel_interface_t`, up to the functions that raise events.
#[repr(C)]
pub(crate) struct KernelInterface {
    _get_features_to_remove_listener: [Unused; 34],
    pub(crate) acquire: unsafe extern "C" fn(*mut KernelInterface, u32, *mut AcquireData),
    pub(crate) expire: unsafe extern "C" fn(*mut KernelInterface, u8, u32, *mut Host, bool),
    pub(crate) mapping: unsafe extern "C" fn(*mut KernelInterface, u8, u32, *mut Host, *mut Host),
}

/// `daemon_t`, its first two fields.
#[repr(C)]
pub(crate) struct Daemon {
    _socket: *mut c_void,
    pub(crate) kernel: *mut KernelInterface,
}

/// `plugin_feature_t` with the two arguments that the plugin's features have.
#[repr(C)]
pub(crate) struct PluginFeature {
    pub(crate) kind: i32,
    pub(crate) feature_type: i32,
    pub(crate) argument: *const c_void,
    pub(crate) data: *const c_void,
}

/// `plugin_t`.
#[repr(C)]
pub(crate) struct Plugin {
    pub(crate) get_name: unsafe extern "C" fn(*mut Plugin) -> *const c_char,
    pub(crate) get_features: unsafe extern "C" fn(*mut Plugin, *mut *const PluginFeature) -> c_int,
    pub(crate) reload: unsafe extern "C" fn(*mut Plugin) -> bool,
    pub(crate) destroy: unsafe extern "C" fn(*mut Plugin),
}

/// Functions and variables of libstrongswan and libcharon, by the types their symbols have.
pub(crate) type Dbg = unsafe extern "C" fn(c_int, c_int, *const c_char, ...);
pub(crate) type HostCreateFromChunk = unsafe extern "C" fn(c_int, Chunk, u16) -> *mut Host;
pub(crate) type TrafficSelectorCreateFromBytes =
    unsafe extern "C" fn(u8, i32, Chunk, u16, Chunk, u16) -> *mut TrafficSelector;

const _: () = {
    assert!(size_of::<usize>() == 8);
    assert!(size_of::<Chunk>() == 16);

    assert!(size_of::<Host>() == 88);
    assert!(offset_of!(Host, get_family) == 24);
    assert!(offset_of!(Host, get_address) == 40);
    assert!(offset_of!(Host, get_port) == 48);
    assert!(offset_of!(Host, destroy) == 80);

    assert!(size_of::<TrafficSelector>() == 136);
    assert!(offset_of!(TrafficSelector, get_from_address) == 16);
    assert!(offset_of!(TrafficSelector, get_to_address) == 24);
    assert!(offset_of!(TrafficSelector, get_from_port) == 32);
    assert!(offset_of!(TrafficSelector, get_to_port) == 40);
    assert!(offset_of!(TrafficSelector, get_type) == 48);
    assert!(offset_of!(TrafficSelector, get_protocol) == 56);
    assert!(offset_of!(TrafficSelector, destroy) == 128);

    assert!(size_of::<Enumerator>() == 24);
    assert!(offset_of!(Enumerator, destroy) == 16);
    assert!(offset_of!(LinkedList, create_enumerator) == 8);

    assert!(size_of::<LifetimeCfg>() == 72);
    assert!(offset_of!(LifetimeCfg, time.rekey) == 8);
    assert!(offset_of!(LifetimeCfg, bytes) == 24);
    assert!(offset_of!(LifetimeCfg, packets) == 48);

    assert!(size_of::<SaId>() == 40);
    assert!(offset_of!(SaId, spi) == 16);
    assert!(offset_of!(SaId, proto) == 20);
    assert!(offset_of!(SaId, mark) == 24);
    assert!(offset_of!(SaId, if_id) == 32);

    assert!(size_of::<AddSa>() == 144);
    assert!(offset_of!(AddSa, mode) == 4);
    assert!(offset_of!(AddSa, src_ts) == 8);
    assert!(offset_of!(AddSa, dst_ts) == 16);
    assert!(offset_of!(AddSa, interface) == 24);
    assert!(offset_of!(AddSa, lifetime) == 32);
    assert!(offset_of!(AddSa, enc_alg) == 40);
    assert!(offset_of!(AddSa, enc_key) == 48);
    assert!(offset_of!(AddSa, int_alg) == 64);
    assert!(offset_of!(AddSa, int_key) == 72);
    assert!(offset_of!(AddSa, replay_window) == 88);
    assert!(offset_of!(AddSa, tfc) == 92);
    assert!(offset_of!(AddSa, ipcomp) == 96);
    assert!(offset_of!(AddSa, cpi) == 98);
    assert!(offset_of!(AddSa, encap) == 100);
    assert!(offset_of!(AddSa, hw_offload) == 104);
    assert!(offset_of!(AddSa, mark) == 108);
    assert!(offset_of!(AddSa, label) == 120);
    assert!(offset_of!(AddSa, esn) == 128);
    assert!(offset_of!(AddSa, copy_df) == 129);
    assert!(offset_of!(AddSa, copy_ecn) == 130);
    assert!(offset_of!(AddSa, copy_dscp) == 132);
    assert!(offset_of!(AddSa, initiator) == 136);
    assert!(offset_of!(AddSa, inbound) == 137);
    assert!(offset_of!(AddSa, update) == 138);

    assert!(size_of::<UpdateSa>() == 32);
    assert!(offset_of!(UpdateSa, new_src) == 8);
    assert!(offset_of!(UpdateSa, new_dst) == 16);
    assert!(offset_of!(UpdateSa, encap) == 24);
    assert!(offset_of!(UpdateSa, new_encap) == 25);
    assert!(offset_of!(UpdateSa, new_reqid) == 28);

    assert!(size_of::<PolicyId>() == 56);
    assert!(offset_of!(PolicyId, src_ts) == 8);
    assert!(offset_of!(PolicyId, dst_ts) == 16);
    assert!(offset_of!(PolicyId, mark) == 24);
    assert!(offset_of!(PolicyId, if_id) == 32);
    assert!(offset_of!(PolicyId, interface) == 40);
    assert!(offset_of!(PolicyId, label) == 48);

    assert!(size_of::<SaCfg>() == 32);
    assert!(offset_of!(SaCfg, reqid) == 4);
    assert!(offset_of!(SaCfg, policy_count) == 8);
    assert!(offset_of!(SaCfg, esp) == 12);
    assert!(offset_of!(SaCfg, esp.spi) == 16);
    assert!(offset_of!(SaCfg, ah) == 20);
    assert!(offset_of!(SaCfg, ah.spi) == 24);
    assert!(offset_of!(SaCfg, ipcomp_transform) == 28);

    assert!(size_of::<ManagePolicy>() == 40);
    assert!(offset_of!(ManagePolicy, prio) == 4);
    assert!(offset_of!(ManagePolicy, manual_prio) == 8);
    assert!(offset_of!(ManagePolicy, src) == 16);
    assert!(offset_of!(ManagePolicy, dst) == 24);
    assert!(offset_of!(ManagePolicy, sa) == 32);

    assert!(size_of::<KernelIpsec>() == 120);
    assert!(offset_of!(KernelIpsec, get_spi) == 8);
    assert!(offset_of!(KernelIpsec, add_sa) == 24);
    assert!(offset_of!(KernelIpsec, query_sa) == 40);
    assert!(offset_of!(KernelIpsec, del_sa) == 48);
    assert!(offset_of!(KernelIpsec, add_policy) == 64);
    assert!(offset_of!(KernelIpsec, del_policy) == 80);
    assert!(offset_of!(KernelIpsec, bypass_socket) == 96);
    assert!(offset_of!(KernelIpsec, destroy) == 112);

    assert!(size_of::<AcquireData>() == 24);
    assert!(offset_of!(KernelInterface, acquire) == 272);
    assert!(offset_of!(KernelInterface, expire) == 280);
    assert!(offset_of!(KernelInterface, mapping) == 288);
    assert!(offset_of!(Daemon, kernel) == 8);

    assert!(size_of::<PluginFeature>() == 24);
    assert!(offset_of!(PluginFeature, feature_type) == 4);
    assert!(offset_of!(PluginFeature, argument) == 8);
    assert!(offset_of!(PluginFeature, data) == 16);
    assert!(size_of::<Plugin>() == 32);
};
