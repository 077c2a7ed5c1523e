//! What is measured between the two hosts of a laboratory.

use std::{net::SocketAddr, time::Duration};

use culvert_netlab::{
    addressing::{Family, Side},
    iperf::{self, Transport, Way},
    knock::Knock,
    namespace::Namespace,
    ping::{Ping, PingReport},
    probe::{Probe, ProbeSettings},
    process::Interrupt,
    topology::Topology,
};

use super::{DemoError, report::BothWays};

const KNOCK_PORTS: [u16; 2] = [7001, 7002];
/// One pair a direction.
const PROBE_PORTS: [[u16; 2]; 2] = [[7003, 7004], [7005, 7006]];
/// 200 requests at 10 ms: two seconds a family.
const PINGS: u32 = 200;
const PING_INTERVAL: Duration = Duration::from_millis(10);
/// Datagrams a second each way.
const PROBE_RATE: u32 = 5000;
/// Bytes of each datagram's payload: about what a call or a small record has.
const PROBE_SIZE: usize = 256;

/// The two hosts, opened.
#[derive(Debug)]
pub struct Hosts {
    a: Namespace,
    b: Namespace,
}

impl Hosts {
    /// Of a laboratory that is there.
    pub fn open(topology: &Topology) -> Result<Self, DemoError> {
        Ok(Self {
            a: topology.open(Side::A.host())?,
            b: topology.open(Side::B.host())?,
        })
    }

    /// The host in the LAN of a gateway.
    pub fn beside(&self, side: Side) -> &Namespace {
        match side {
            Side::A => &self.a,
            Side::B => &self.b,
        }
    }

    /// Knocks at host b from host a.
    pub fn knock(&self, marker: &[u8]) -> Result<Knock, DemoError> {
        let [source, destination] = KNOCK_PORTS;
        Ok(Knock::start(
            &self.a,
            address(Side::A, source),
            &self.b,
            address(Side::B, destination),
            marker,
        )?)
    }

    /// Waits until host b answers host a.
    pub fn wait_open(
        &self,
        marker: &[u8],
        limit: Duration,
        interrupt: &Interrupt,
    ) -> Result<bool, DemoError> {
        Ok(self.knock(marker)?.wait(limit, interrupt)?.is_some())
    }

    /// Echo requests from host a to host b, IPv4 then IPv6.
    pub fn ping(&self, marker: &[u8], interrupt: &Interrupt) -> Result<[PingReport; 2], DemoError> {
        let one = |family| {
            let mut ping = Ping {
                destination: Side::B.addresses().host(family).addr(),
                count: 1,
                interval: PING_INTERVAL,
                patience: Duration::from_secs(1),
                size: 64,
                marker,
            };
            // Neighbours are found first: that is not what the others shall wait for.
            ping.run(&self.a, interrupt)?;
            ping.count = PINGS;
            ping.run(&self.a, interrupt)
        };
        Ok([one(Family::V4)?, one(Family::V6)?])
    }

    /// One stream each way, one after the other.
    pub fn throughput(
        &self,
        transport: Transport,
        seconds: u32,
        interrupt: &Interrupt,
    ) -> Result<BothWays, DemoError> {
        let far = Side::B.addresses().host(Family::V4).addr();
        let way =
            |way| iperf::measure_over(transport, &self.a, &self.b, far, way, seconds, interrupt);
        Ok(BothWays::of(way(Way::Forth)?, way(Way::Back)?))
    }

    /// Numbered datagrams both ways, until stopped.
    pub fn probes(&self, marker: &[u8]) -> Result<[Probe; 2], DemoError> {
        let start =
            |from: &Namespace, side: Side, to: &Namespace, [source, destination]: [u16; 2]| {
                let settings = ProbeSettings {
                    source: address(side, source),
                    destination: address(side.other(), destination),
                    rate: PROBE_RATE,
                    size: PROBE_SIZE,
                    marker: marker.to_vec(),
                };
                Probe::start(from, to, &settings)
            };
        let [forth, back] = PROBE_PORTS;
        Ok([
            start(&self.a, Side::A, &self.b, forth)?,
            start(&self.b, Side::B, &self.a, back)?,
        ])
    }
}

fn address(side: Side, port: u16) -> SocketAddr {
    SocketAddr::new(side.addresses().host(Family::V4).addr(), port)
}
