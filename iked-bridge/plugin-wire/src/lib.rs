//! What charon's `kernel_ipsec_t` and iked-bridge say to each other.
//!
//! charon negotiates; its kernel-ipsec plugin (`culvert-charon-plugin`) turns every call charon makes on its IPsec
//! backend into one message and sends it to iked-bridge over a Unix stream socket. This crate is that language: the
//! messages and the framing, and nothing of charon's ABI, so that the bridge can use it without being GPL. Whoever starts
//! charon finds here how it must be configured to load the plugin ([`CharonConf`]).
//!
//! ```text
//!   charon ── C calls ──> plugin (client) ══ Unix stream ══> iked-bridge (server) ── bus ──> dataplane
//!                            │   ToBridge{id, Hello | GetSpi | AddSa | ...}   ──>
//!                            │   <──   ToPlugin{id, Done | Spi | Usage | Failed}
//!                            └── <──   ToPlugin{0,  Acquire | Expire | Mapping}
//! ```
//!
//! - The plugin connects, and the first message on a connection is [`Hello`]. Its `epoch` is drawn once in the life of
//!   a charon: a known epoch is a reconnection, a new one means that the SAs of the old charon are orphans.
//! - Many calls are in flight at once. An answer carries the id of its call; answers come in any order.
//! - The plugin may repeat a call under the *same id* and epoch when the connection broke before the answer came: the
//!   server must give the first answer again and not do the work twice.
//! - Upcalls carry id 0 and are not answered.
//! - SPIs are numbers in host order, as people read them; ports too; addresses are 4 or 16 bytes.
//! - A frame is a `u32` length in network order, then that many bytes of protobuf, at most [`MAX_FRAME`].

mod address;
pub mod algorithm;
mod call;
mod charon_conf;
mod frame;
mod upcall;

pub use address::{AddressError, Host, Selector};
pub use call::{
    AddPolicy, AddSa, Call, DelPolicy, DelSa, DscpCopy, EspOrAh, FlushPolicies, FlushSas, GetSpi,
    Hello, Lifetimes, Limit, ManagePolicy, Mark, Mode, PolicyDirection, PolicyId, PolicyPriority,
    PolicyType, QuerySa, SaCfg, SaId, SaKeys, ToBridge, UpdateSa,
};
pub use charon_conf::{CharonConf, EXIT_PLUGIN_MISSING, LOAD, PLUGIN_FILE, PLUGIN_FOLDER};
pub use frame::{
    FrameDecoder, HEADER, MAX_FRAME, WireError, body_length, decode, encode, read_frame,
    write_frame,
};
pub use upcall::{Acquire, Answer, Done, Expire, Failed, Mapping, Spi, Status, ToPlugin, Usage};

/// Version of this protocol; the bridge refuses a [`Hello`] that carries another one.
pub const PROTOCOL_VERSION: u32 = 1;

/// Environment variable that tells the plugin where the bridge listens: an absolute path, at most 107 bytes.
pub const SOCKET_ENV: &str = "CULVERT_PLUGIN_SOCKET";
