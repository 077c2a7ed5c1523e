//! What the plugin asks of the bridge: `kernel_ipsec_t`, one message a function.

use std::fmt;

use zeroize::Zeroize;

use crate::address::{Host, Selector};

/// A call, with the id its answer carries.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ToBridge {
    /// Never 0, never used twice in an epoch but to repeat the very same call.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is asked.
    #[prost(oneof = "Call", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub call: Option<Call>,
}

/// Everything charon can ask of its IPsec backend.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Call {
    /// First on every connection. Answer: `Done`, or `Failed` and the connection closes.
    #[prost(message, tag = "2")]
    Hello(Hello),
    /// Answer: `Spi`.
    #[prost(message, tag = "3")]
    GetSpi(GetSpi),
    /// Answer: `Done` once the dataplane has acknowledged.
    #[prost(message, tag = "4")]
    AddSa(AddSa),
    /// Answer: `Done`.
    #[prost(message, tag = "5")]
    UpdateSa(UpdateSa),
    /// Answer: `Usage`.
    #[prost(message, tag = "6")]
    QuerySa(QuerySa),
    /// Answer: `Done`; `Failed` with `NotFound` when there is no such SA.
    #[prost(message, tag = "7")]
    DelSa(DelSa),
    /// Answer: `Done`.
    #[prost(message, tag = "8")]
    FlushSas(FlushSas),
    /// Answer: `Done`.
    #[prost(message, tag = "9")]
    AddPolicy(AddPolicy),
    /// Answer: `Done`; `Failed` with `NotFound` when there is no such policy.
    #[prost(message, tag = "10")]
    DelPolicy(DelPolicy),
    /// Answer: `Done`.
    #[prost(message, tag = "11")]
    FlushPolicies(FlushPolicies),
}

/// Who is calling.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// Random, drawn once per charon process.
    #[prost(fixed64, tag = "1")]
    pub epoch: u64,
    /// charon's process id.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// [`crate::PROTOCOL_VERSION`].
    #[prost(uint32, tag = "3")]
    pub protocol_version: u32,
    /// The charon the plugin was built for and found: `5.9.8`.
    #[prost(string, tag = "4")]
    pub charon_version: String,
}

/// Allocate an inbound SPI.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetSpi {
    /// The peer's end.
    #[prost(message, optional, tag = "1")]
    pub src: Option<Host>,
    /// Our end.
    #[prost(message, optional, tag = "2")]
    pub dst: Option<Host>,
    /// 50 or 51.
    #[prost(uint32, tag = "3")]
    pub protocol: u32,
}

/// What names an SA.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SaId {
    /// Outer source.
    #[prost(message, optional, tag = "1")]
    pub src: Option<Host>,
    /// Outer destination.
    #[prost(message, optional, tag = "2")]
    pub dst: Option<Host>,
    /// In host order.
    #[prost(uint32, tag = "3")]
    pub spi: u32,
    /// 50 or 51.
    #[prost(uint32, tag = "4")]
    pub protocol: u32,
    /// Mark a packet must have.
    #[prost(message, optional, tag = "5")]
    pub mark: Option<Mark>,
    /// Tunnel interface the SA belongs to; 0: none.
    #[prost(uint32, tag = "6")]
    pub if_id: u32,
}

/// Value and mask; both 0: no mark.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Mark {
    /// Value.
    #[prost(uint32, tag = "1")]
    pub value: u32,
    /// Mask.
    #[prost(uint32, tag = "2")]
    pub mask: u32,
}

/// Encapsulation mode, numbered as charon numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Mode {
    /// Not set.
    None = 0,
    /// Transport mode.
    Transport = 1,
    /// Tunnel mode.
    Tunnel = 2,
    /// Bound end-to-end tunnel.
    Beet = 3,
    /// A policy that lets traffic through.
    Pass = 4,
    /// A policy that drops.
    Drop = 5,
}

/// Which DSCP is copied: outer to inner (`in`), inner to outer (`out`). Numbered as charon numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum DscpCopy {
    /// Inner to outer; the default.
    OutOnly = 0,
    /// Outer to inner.
    InOnly = 1,
    /// Both.
    Yes = 2,
    /// Neither.
    No = 3,
}

/// One limit of an SA; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Limit {
    /// The SA must be replaced (soft); jitter is applied already.
    #[prost(uint64, tag = "1")]
    pub rekey: u64,
    /// The SA ends (hard).
    #[prost(uint64, tag = "2")]
    pub life: u64,
}

/// All limits of an SA. charon keeps none of them itself: the backend reports them by upcall.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Lifetimes {
    /// Seconds since the SA was added.
    #[prost(message, optional, tag = "1")]
    pub time: Option<Limit>,
    /// Bytes.
    #[prost(message, optional, tag = "2")]
    pub bytes: Option<Limit>,
    /// Packets.
    #[prost(message, optional, tag = "3")]
    pub packets: Option<Limit>,
}

/// The keys of an SA. Wiped when dropped; never formatted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct SaKeys {
    /// For counter modes the last 4 bytes are the salt.
    #[prost(bytes = "vec", tag = "1")]
    pub encryption: Vec<u8>,
    /// Empty for AEAD.
    #[prost(bytes = "vec", tag = "2")]
    pub integrity: Vec<u8>,
}

impl fmt::Debug for SaKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SaKeys({} + {} bytes)",
            self.encryption.len(),
            self.integrity.len()
        )
    }
}

impl Drop for SaKeys {
    fn drop(&mut self) {
        self.encryption.zeroize();
        self.integrity.zeroize();
    }
}

/// Install an SA.
#[allow(clippy::struct_excessive_bools)] // As many flags as charon delivers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AddSa {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<SaId>,
    /// Ties SAs to policies; the same over rekeys.
    #[prost(uint32, tag = "2")]
    pub reqid: u32,
    /// Tunnel, transport ...
    #[prost(enumeration = "Mode", tag = "3")]
    pub mode: i32,
    /// Negotiated selectors of the sending side.
    #[prost(message, repeated, tag = "4")]
    pub src_ts: Vec<Selector>,
    /// Negotiated selectors of the receiving side.
    #[prost(message, repeated, tag = "5")]
    pub dst_ts: Vec<Selector>,
    /// When it ends.
    #[prost(message, optional, tag = "6")]
    pub lifetimes: Option<Lifetimes>,
    /// See [`crate::algorithm`].
    #[prost(uint32, tag = "7")]
    pub encryption: u32,
    /// See [`crate::algorithm`].
    #[prost(uint32, tag = "8")]
    pub integrity: u32,
    /// The keys of both.
    #[prost(message, optional, tag = "9")]
    pub keys: Option<SaKeys>,
    /// Packets; 0: no replay protection.
    #[prost(uint32, tag = "10")]
    pub replay_window: u32,
    /// Pad inner packets to this many bytes; `u32::MAX`: to the path MTU; 0: no padding.
    #[prost(uint32, tag = "11")]
    pub tfc: u32,
    /// IPComp transform; 0: none (the plugin allocates no CPI, so charon never negotiates another).
    #[prost(uint32, tag = "12")]
    pub ipcomp: u32,
    /// ESP in UDP between the ports of `id`.
    #[prost(bool, tag = "13")]
    pub encap: bool,
    /// Mark to set on packets after processing.
    #[prost(message, optional, tag = "14")]
    pub set_mark: Option<Mark>,
    /// Extended sequence numbers.
    #[prost(bool, tag = "15")]
    pub esn: bool,
    /// Copy DF to the outer header.
    #[prost(bool, tag = "16")]
    pub copy_df: bool,
    /// Copy ECN both ways.
    #[prost(bool, tag = "17")]
    pub copy_ecn: bool,
    /// Copy DSCP.
    #[prost(enumeration = "DscpCopy", tag = "18")]
    pub copy_dscp: i32,
    /// We began the exchange that made this SA.
    #[prost(bool, tag = "19")]
    pub initiator: bool,
    /// Inbound: we receive on it.
    #[prost(bool, tag = "20")]
    pub inbound: bool,
    /// The SPI was allocated by `GetSpi`: this replaces the reservation.
    #[prost(bool, tag = "21")]
    pub update: bool,
    /// Interface the policy is restricted to; empty: none.
    #[prost(string, tag = "22")]
    pub interface: String,
}

/// Change addresses, ports or encapsulation of an SA in place.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UpdateSa {
    /// As it is named now.
    #[prost(message, optional, tag = "1")]
    pub id: Option<SaId>,
    /// New outer source.
    #[prost(message, optional, tag = "2")]
    pub new_src: Option<Host>,
    /// New outer destination.
    #[prost(message, optional, tag = "3")]
    pub new_dst: Option<Host>,
    /// Encapsulated in UDP now.
    #[prost(bool, tag = "4")]
    pub encap: bool,
    /// Encapsulated in UDP from now on.
    #[prost(bool, tag = "5")]
    pub new_encap: bool,
    /// 0: unchanged.
    #[prost(uint32, tag = "6")]
    pub new_reqid: u32,
}

/// How much an SA carried.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct QuerySa {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<SaId>,
}

/// Remove an SA.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DelSa {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<SaId>,
}

/// Remove every SA.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FlushSas {}

/// Remove every policy.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FlushPolicies {}

/// Direction of a policy, numbered as charon numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PolicyDirection {
    /// To the box.
    In = 0,
    /// From the box.
    Out = 1,
    /// Through the box, decrypted.
    Forward = 2,
}

/// What names a policy. Policies of rekeyed SAs share a name: see [`ManagePolicy`] for what tells them apart.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PolicyId {
    /// Direction.
    #[prost(enumeration = "PolicyDirection", tag = "1")]
    pub direction: i32,
    /// Source selector.
    #[prost(message, optional, tag = "2")]
    pub src_ts: Option<Selector>,
    /// Destination selector.
    #[prost(message, optional, tag = "3")]
    pub dst_ts: Option<Selector>,
    /// Mark a packet must have.
    #[prost(message, optional, tag = "4")]
    pub mark: Option<Mark>,
    /// Tunnel interface; 0: none.
    #[prost(uint32, tag = "5")]
    pub if_id: u32,
    /// Interface the policy is restricted to; empty: none.
    #[prost(string, tag = "6")]
    pub interface: String,
}

/// What a policy does, numbered as charon numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PolicyType {
    /// Not set.
    Unspecified = 0,
    /// Protect by an SA.
    Ipsec = 1,
    /// Let through in the clear.
    Pass = 2,
    /// Discard.
    Drop = 3,
}

/// Class of a policy's priority, numbered as charon numbers it; the lower one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PolicyPriority {
    /// Pass-through policies.
    Pass = 0,
    /// Policies of established SAs.
    Default = 1,
    /// Traps.
    Routed = 2,
    /// Drop policies behind everything.
    Fallback = 3,
}

/// Use of ESP or AH by a policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct EspOrAh {
    /// In use.
    #[prost(bool, tag = "1")]
    pub used: bool,
    /// In host order; 0: any of the reqid, or a trap.
    #[prost(uint32, tag = "2")]
    pub spi: u32,
}

/// The SAs a policy is tied to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct SaCfg {
    /// Tunnel, transport ...
    #[prost(enumeration = "Mode", tag = "1")]
    pub mode: i32,
    /// Ties SAs to policies.
    #[prost(uint32, tag = "2")]
    pub reqid: u32,
    /// How many policies of the same direction hang on the SA.
    #[prost(uint32, tag = "3")]
    pub policy_count: u32,
    /// ESP.
    #[prost(message, optional, tag = "4")]
    pub esp: Option<EspOrAh>,
    /// AH.
    #[prost(message, optional, tag = "5")]
    pub ah: Option<EspOrAh>,
    /// IPComp transform; 0: none.
    #[prost(uint32, tag = "6")]
    pub ipcomp: u32,
}

/// What a policy says, also what tells it from others of the same name when it is deleted.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ManagePolicy {
    /// What it does.
    #[prost(enumeration = "PolicyType", tag = "1")]
    pub policy_type: i32,
    /// Its class.
    #[prost(enumeration = "PolicyPriority", tag = "2")]
    pub priority: i32,
    /// Priority set by configuration; 0: by class and selectors.
    #[prost(uint32, tag = "3")]
    pub manual_priority: u32,
    /// Outer source of its SAs.
    #[prost(message, optional, tag = "4")]
    pub src: Option<Host>,
    /// Outer destination of its SAs.
    #[prost(message, optional, tag = "5")]
    pub dst: Option<Host>,
    /// Its SAs.
    #[prost(message, optional, tag = "6")]
    pub sa: Option<SaCfg>,
}

/// Add a policy.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct AddPolicy {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<PolicyId>,
    /// What it says.
    #[prost(message, optional, tag = "2")]
    pub manage: Option<ManagePolicy>,
}

/// Remove a policy.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DelPolicy {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<PolicyId>,
    /// What it says.
    #[prost(message, optional, tag = "2")]
    pub manage: Option<ManagePolicy>,
}
