//! charon's IPsec backend: a plugin that hands every SA, key and policy to iked-bridge.
//!
//! charon is unmodified. It loads this library as `libstrongswan-culvert.so`, asks `culvert_plugin_create` for a plugin,
//! and gets a `kernel_ipsec_t` whose functions are messages on a Unix socket. Addresses, routes and interface events
//! stay with charon's own `kernel-netlink`.
//!
//! # The way of a key
//!
//! ```text
//!   peer ══ IKE ══> charon ── derives keys
//!                     │ add_sa(id, keys, selectors, lifetimes)          C call, charon's thread
//!                     ▼
//!              kernel_ipsec ── translate ──> wire::AddSa                this library
//!                     │ encoded once, wiped when answered
//!                     ▼
//!              client ══ Unix stream ($CULVERT_PLUGIN_SOCKET) ══> iked-bridge ── bus ──> dataplane
//!                     ▲                                               │
//!                     └── Done: charon's thread goes on ◄── acknowledged ◄──┘
//!
//!   the way back:  dataplane ── limit, acquire, new address ──> iked-bridge ── upcall ──> reader thread
//!                      ──> charon->kernel->expire / acquire / mapping ──> a job of charon's
//! ```
//!
//! The packet itself never comes here: ESP is the dataplane's, IKE reaches charon's socket through the TAP.
//!
//! # Loading it
//!
//! The file stands beside charon's other plugins (`/usr/lib/ipsec/plugins`; where that cannot be written, a bind mount
//! in charon's mount namespace puts a copy with this file over it). charon gets `CULVERT_PLUGIN_SOCKET` in its
//! environment and this in `strongswan.conf`:
//!
//! ```text
//! charon {
//!   load_modular = no
//!   load = openssl random nonce aes sha1 sha2 hmac gcm ccm ctr chapoly curve25519 kdf drbg pem pkcs1 pkcs8 x509
//!          revocation constraints pubkey culvert! kernel-netlink socket-default vici
//!   install_routes = no
//!   install_virtual_ip = no
//!   routing_table = 0
//!   plugins { vici { socket = "unix:///.../vici" } }
//! }
//! ```
//!
//! The `!` matters: without it a charon that cannot load the plugin quietly gives its keys to the Linux kernel; with it
//! charon exits with status 66. `culvert_plugin_wire::CharonConf` writes such a file.
//!
//! The plugin refuses a charon of any version but the one its layouts are of (module `abi_5_9_8`).
//!
//! # When iked-bridge is away
//!
//! Calls wait up to 10 s for it to come back and then fail; counters fail at once (charon then probes the peer by DPD);
//! deletes succeed at once and are told to the bridge when it is back. charon itself never blocks for longer and never
//! ends. A new connection begins with the epoch of this charon, so that the bridge can tell a charon that was restarted
//! from one that was only out of reach.
//!
//! # Licence
//!
//! It works on libcharon's own structures, so this library alone is GPL-2.0-or-later, built and shipped as a file of
//! its own. Everything else of Culvert talks to it over the socket.

#![warn(unsafe_op_in_unsafe_fn)]

#[allow(unsafe_code)]
mod abi_5_9_8;
mod charon;
mod client;
mod kernel_ipsec;
mod plugin;
mod translate;
