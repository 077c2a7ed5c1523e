//! What a demonstration found, as data.

use std::{collections::BTreeMap, fs, io, path::Path};

use culvert_netlab::iperf::Throughput;
use serde::Serialize;

use crate::lab::control::NodeCost;

/// The file that `--json` writes. What was not measured is null.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Everything was measured, and all of `checks` held.
    pub ok: bool,
    /// From the request to initiate until the first packet was answered through the tunnel.
    pub ike_up_ms: Option<f64>,
    /// Echo requests through the tunnel without an answer, IPv4 and IPv6 together.
    pub ping_loss_percent: Option<f64>,
    /// Mean round trip of the answered ones.
    pub ping_avg_ms: Option<f64>,
    /// TCP payload over the same hosts, hops and dataplanes with plain routes; the slower of both ways.
    pub tcp_clear_mbit: Option<f64>,
    /// The same through the tunnel.
    pub tcp_tunnel_mbit: Option<f64>,
    /// Numbered datagrams, 5,000 a second each way, that were lost while CHILD_SAs and IKE_SAs were
    /// rekeyed from both sides.
    pub rekey_lost_packets: Option<u64>,
    /// Frames that gateways put on the untrusted side and that are neither ARP, ND, IKE, ESP nor keepalive.
    pub wan_cleartext_packets: Option<u64>,
    /// As `tcp_clear_mbit`, forwarded by the kernel instead, offloads as before.
    pub tcp_kernel_mbit: Option<f64>,
    /// Processor time of all processes of both gateways while nothing was sent, in percent of one core.
    pub idle_percent: Option<f64>,
    /// By what the frames of each interface of each gateway came and went at its last start.
    pub drivers: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// What each node of each gateway cost while TCP ran through the tunnel.
    pub nodes: Vec<GatewayNode>,
    /// Each way of each TCP measurement.
    pub tcp: BTreeMap<&'static str, BothWays>,
    /// Who, algorithms, SPIs.
    pub ike: Option<IkeFacts>,
    /// Rekeyings done under traffic.
    pub rekeys: Option<RekeyFacts>,
    /// Frames on the untrusted side by class.
    pub wan: BTreeMap<String, u64>,
    /// Packets that each dataplane dropped, by reason.
    pub drops: BTreeMap<&'static str, BTreeMap<String, u64>>,
    /// What had to hold, and whether it did.
    pub checks: Vec<Check>,
    /// Why the demonstration did not run to its end.
    pub error: Option<String>,
}

/// A node of a gateway.
#[derive(Debug, Clone, Serialize)]
pub struct GatewayNode {
    /// gateway-a or gateway-b.
    pub gateway: &'static str,
    /// The node and its cost.
    #[serde(flatten)]
    pub cost: NodeCost,
}

/// TCP in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BothWays {
    /// Host a to host b.
    pub forth_mbit: f64,
    /// Host b to host a.
    pub back_mbit: f64,
    /// Segments sent again, both ways together.
    pub retransmits: u64,
}

/// The tunnel as gateway a sees it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct IkeFacts {
    /// Identity and address.
    pub local: String,
    /// Identity and address.
    pub remote: String,
    /// Algorithms of the IKE_SA.
    pub ike_proposal: String,
    /// Algorithms of the CHILD_SA.
    pub esp_proposal: String,
    /// Hexadecimal.
    pub spi_in: String,
    /// Hexadecimal.
    pub spi_out: String,
}

/// Rekeyings, and what the numbered datagrams met meanwhile.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RekeyFacts {
    /// Begun by gateway a and by gateway b.
    pub child: [u32; 2],
    /// Begun by gateway a and by gateway b.
    pub ike: [u32; 2],
    /// Both ways together.
    pub sent: u64,
    /// Both ways together.
    pub duplicated: u64,
    /// Both ways together.
    pub reordered: u64,
    /// Longest time without a datagram, the worse way.
    pub longest_silence_ms: f64,
}

/// Something that had to hold.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// Whether it did.
    pub held: bool,
}

impl BothWays {
    /// Of two measurements.
    pub fn of(forth: Throughput, back: Throughput) -> Self {
        Self {
            forth_mbit: forth.mbit,
            back_mbit: back.mbit,
            retransmits: forth.retransmits + back.retransmits,
        }
    }

    /// The slower way.
    pub fn slower(self) -> f64 {
        self.forth_mbit.min(self.back_mbit)
    }
}

impl Report {
    /// Notes whether something held, and gives it back.
    pub fn check(&mut self, what: impl Into<String>, held: bool) -> bool {
        self.checks.push(Check {
            what: what.into(),
            held,
        });
        held
    }

    /// Decides `ok`.
    pub fn conclude(&mut self, error: Option<String>) {
        let measured = self.ike_up_ms.is_some()
            && self.ping_loss_percent.is_some()
            && self.tcp_clear_mbit.is_some()
            && self.tcp_tunnel_mbit.is_some()
            && self.rekey_lost_packets.is_some()
            && self.wan_cleartext_packets.is_some()
            && self.tcp_kernel_mbit.is_some()
            && !self.nodes.is_empty();
        self.ok = error.is_none() && measured && self.checks.iter().all(|check| check.held);
        self.error = error;
    }

    /// Writes it for programs.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn complete() -> Report {
        Report {
            ike_up_ms: Some(1.0),
            ping_loss_percent: Some(0.0),
            ping_avg_ms: Some(1.0),
            tcp_clear_mbit: Some(1.0),
            tcp_tunnel_mbit: Some(1.0),
            rekey_lost_packets: Some(0),
            wan_cleartext_packets: Some(0),
            tcp_kernel_mbit: Some(1.0),
            nodes: vec![GatewayNode {
                gateway: "gateway-a",
                cost: NodeCost {
                    node: "rx".to_owned(),
                    packets: 1,
                    packets_per_vector: 1.0,
                    clocks_per_packet: 1.0,
                },
            }],
            ..Report::default()
        }
    }

    #[test]
    fn ok_needs_everything() {
        let mut report = complete();
        report.check("it held", true);
        report.conclude(None);
        assert!(report.ok);
        report.conclude(Some("it broke".to_owned()));
        assert!(!report.ok, "an error");
        let mut unmeasured = Report {
            tcp_clear_mbit: None,
            ..complete()
        };
        unmeasured.conclude(None);
        assert!(!unmeasured.ok, "not measured");
        report.check("it did not", false);
        report.conclude(None);
        assert!(!report.ok, "a check");
    }

    #[test]
    fn the_names_in_the_file_are_the_agreed_ones() {
        let json = serde_json::to_value(complete()).unwrap();
        for key in [
            "ok",
            "ike_up_ms",
            "ping_loss_percent",
            "ping_avg_ms",
            "tcp_clear_mbit",
            "tcp_tunnel_mbit",
            "rekey_lost_packets",
            "wan_cleartext_packets",
            "tcp_kernel_mbit",
            "nodes",
        ] {
            assert!(!json[key].is_null(), "{key}");
        }
        assert_eq!(json["nodes"][0]["node"], "rx");
    }
}
