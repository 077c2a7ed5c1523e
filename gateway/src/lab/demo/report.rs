//! What a demonstration found, as data.

use std::{collections::BTreeMap, fs, io, path::Path};

use culvert_netlab::{iperf::Throughput, process::ProcessorTimes};
use serde::Serialize;

use super::configure::Change;
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
    /// UDP payload that arrived while datagrams of 1,300 bytes were sent as fast as the sender could, plain routes; the
    /// slower way.
    pub udp_clear_mbit: Option<f64>,
    /// The same through the tunnel.
    pub udp_tunnel_mbit: Option<f64>,
    /// `tcp_tunnel_mbit` as a share of `tcp_clear_mbit`.
    pub tcp_ratio_to_clear: Option<f64>,
    /// `udp_tunnel_mbit` as a share of `udp_clear_mbit`.
    pub udp_ratio_to_clear: Option<f64>,
    /// Where each dataplane's processor time went while TCP ran through the tunnel.
    pub shares: BTreeMap<&'static str, Shares>,
    /// Processor time of all processes of both gateways while nothing was sent, in percent of one core.
    pub idle_percent: Option<f64>,
    /// From the first `set` line of gateway-a, by ssh, until it had committed and applied its first whole configuration.
    pub configure_a_ms: Option<f64>,
    /// The same of gateway-b, by `culvert remote config push`.
    pub configure_b_ms: Option<f64>,
    /// Every change of a configuration, in order.
    pub changes: Vec<Change>,
    /// By what the frames of each interface of each gateway came and went at its last start.
    pub drivers: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// What each node of each gateway cost while TCP ran through the tunnel.
    pub nodes: Vec<GatewayNode>,
    /// Each way of each TCP measurement.
    pub tcp: BTreeMap<&'static str, BothWays>,
    /// Each way of each UDP measurement.
    pub udp: BTreeMap<&'static str, BothWays>,
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

/// TCP or UDP in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BothWays {
    /// Host a to host b.
    pub forth_mbit: f64,
    /// Host b to host a.
    pub back_mbit: f64,
    /// Segments sent again, both ways together.
    pub retransmits: u64,
}

/// Where a dataplane's processor time went, in percent of it. Which is the kernel's, the kernel counts, in steps of 10 ms
/// and by which process it finds at work; the nodes count their clocks themselves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shares {
    /// System calls, and what the kernel did in their course: with veth that is also the way to the next namespace.
    pub kernel_percent: f64,
    /// The nodes that encrypt and decrypt: the cipher, and what makes ESP packets of its results.
    pub esp_percent: f64,
    /// All other nodes of the graph.
    pub graph_percent: f64,
    /// The rest in user mode: drivers, polling, control.
    pub drivers_percent: f64,
    /// Processor time, in seconds.
    pub seconds: f64,
}

impl Shares {
    /// Of processor times, and of the clocks of nodes at so many a second.
    pub fn of(times: ProcessorTimes, nodes: &[NodeCost], clocks_per_second: u64) -> Option<Self> {
        let (user, system) = (times.user.as_secs_f64(), times.system.as_secs_f64());
        let seconds = user + system;
        let of = |cost: &NodeCost| {
            cost.packets as f64 * cost.clocks_per_packet / clocks_per_second.max(1) as f64
        };
        let (esp, others): (Vec<_>, Vec<_>) =
            nodes.iter().partition(|cost| cost.node.starts_with("esp-"));
        let esp: f64 = esp.into_iter().map(of).sum();
        let graph: f64 = others.into_iter().map(of).sum();
        let percent = |part: f64| (part / seconds * 1000.0).round() / 10.0;
        (seconds > 0.0).then(|| Self {
            kernel_percent: percent(system),
            esp_percent: percent(esp),
            graph_percent: percent(graph),
            drivers_percent: percent((user - esp - graph).max(0.0)),
            seconds,
        })
    }
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
            && self.udp_clear_mbit.is_some()
            && self.udp_tunnel_mbit.is_some()
            && self.configure_a_ms.is_some()
            && self.configure_b_ms.is_some()
            && !self.shares.is_empty()
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
    use std::time::Duration;

    use super::*;

    fn shares() -> Shares {
        let cost = |node: &str, packets, clocks_per_packet| NodeCost {
            node: node.to_owned(),
            packets,
            packets_per_vector: 1.0,
            clocks_per_packet,
        };
        let times = ProcessorTimes {
            user: Duration::from_secs(5),
            system: Duration::from_secs(15),
        };
        let nodes = [
            cost("esp-encrypt", 1_000_000, 1000.0),
            cost("esp-decrypt", 1_000_000, 500.0),
            cost("ip4-lookup", 2_000_000, 250.0),
        ];
        Shares::of(times, &nodes, 1_000_000_000).unwrap()
    }

    #[test]
    fn shares_are_of_all_processor_time() {
        let shares = shares();
        assert!((shares.kernel_percent - 75.0).abs() < 0.1);
        assert!((shares.esp_percent - 7.5).abs() < 0.1);
        assert!((shares.graph_percent - 2.5).abs() < 0.1);
        assert!((shares.drivers_percent - 15.0).abs() < 0.1);
        assert!(Shares::of(ProcessorTimes::default(), &[], 1).is_none());
    }

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
            udp_clear_mbit: Some(1.0),
            udp_tunnel_mbit: Some(1.0),
            configure_a_ms: Some(1.0),
            configure_b_ms: Some(1.0),
            shares: BTreeMap::from([("gateway-a", shares())]),
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
            "configure_a_ms",
            "configure_b_ms",
            "nodes",
        ] {
            assert!(!json[key].is_null(), "{key}");
        }
        assert_eq!(json["nodes"][0]["node"], "rx");
    }
}
