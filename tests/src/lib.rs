//! Whole-box tests against software nobody here wrote, and what they share.
//!
//! ```text
//!   tests/esp_against_scapy   ESP packets both ways        our nodes in memory <-> scapy
//!   tests/esp_edges_...       replay, padding, headers     our nodes in memory <-> scapy
//!   tests/stock_strongswan    a gateway of ours            culvert run <-> Debian's strongSwan, its own ESP
//!   tests/nat                 two gateways of ours         a NAT of Linux between them that changes its mapping
//!   tests/faults              two gateways of ours         killed, silenced, robbed of messages, under traffic
//!   tests/whole_box           one gateway of ours          what it owns, refuses and leaves behind
//!   tests/fragmentation       two gateways of ours         Linux hosts, packets that do not fit
//!   tests/encapsulation        gateways of ours           GRE and IPIP: protected; scapy's in the clear; OSPF of bird
//!   tests/vrf                 two gateways of ours         the same addresses in two VRFs, leaks, ECMP, MSS
//!   tests/route_actions       one gateway of ours          blackhole, unreachable, prohibit; forged sources
//!   tests/neighbours          one gateway of ours          Linux hosts that move and go, announcements, floods
//!   tests/system              gateways of ours             their names; dnsmasq and chronyd on a host of the LAN
//!   tests/dhcp                one gateway of ours          dnsmasq lends its uplink an address
//!   tests/bad_input           the keeper of configurations   what is wrong, by every entrance that there is
//!   tests/corpora             bytes from outside           each parser and the whole graph in memory
//! ```
//!
//! Tests of gateways need root, and the binary with its feature `fingerprint`; `make test` builds it. Nothing is
//! skipped: what a machine lacks is installed by `make setup`, or the test fails and says so.

// An assertion is how a test says what it found.
#![allow(clippy::missing_panics_doc, clippy::panic)]

pub mod authority;
pub mod bad_input;
pub mod bird;
pub mod configuration;
pub mod control;
pub mod dnsmasq;
pub mod esp_nodes;
pub mod exchange;
pub mod fuzz;
pub mod gateway;
pub mod laboratory;
pub mod lan_host;
pub mod losses;
pub mod names;
pub mod nat;
pub mod nonces;
pub mod scapy;
pub mod ssh_key;
pub mod stock;
pub mod traffic;
pub mod vrfs;
pub mod who;
pub mod wire;
