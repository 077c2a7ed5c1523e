//! Five namespaces in a row: two hosts, two places for gateways, and a router between them.
//!
//! ```text
//!  host-a          gateway-a               wan               gateway-b          host-b
//!  eth0 ────── lan0      wan0 ───── wan-a      wan-b ───── wan0      lan0 ────── eth0
//!  10.1.0.10   10.1.0.1 192.0.2.2   .1   (kernel   .1 198.51.100.2  10.2.0.1  10.2.0.10
//!  fd00:1::10  fd00:1::1            router)                         fd00:2::1 fd00:2::10
//!              2001:db8:a::2        ::1            ::1  2001:db8:b::2
//! ```
//!
//! Every link has an MTU of 1500. Hosts and router are plain Linux; all that is changed on them is that
//! the offloads of [`crate::offload`] are off at both ends of every pair. The router knows both LANs: a
//! packet that leaves a gateway in the clear *arrives*, and a capture sees it.
//!
//! The devices `wan0` and `lan0` of a gateway belong to whatever is run there. When it was killed with
//! them in a namespace of its own they vanish; [`Topology::build`] makes again what is missing.

use std::{
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nix::sys::signal::Signal;

use crate::{
    addressing::{Family, Place, Side},
    namespace::{Namespace, NamespaceError, set_kernel_setting},
    netlink::{Netlink, NetlinkError, VethEnd, add_veth},
    offload::{self, OffloadError},
    process::ProcessIdentity,
};

/// Of every link.
pub const MTU: u32 = 1500;
/// After it, a process that was asked to end is killed.
const GRACE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);

/// Why a topology could not be built or removed.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A tag is 1 to 24 of `a-z 0-9 -`.
    #[error("{0:?} is not a tag: 1 to 24 of a-z, 0-9 and -")]
    Tag(String),
    /// A namespace failed.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A link, address or route failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// An offload could not be switched off.
    #[error(transparent)]
    Offload(#[from] OffloadError),
    /// A kernel setting could not be written.
    #[error("{setting} in {namespace}: {source}")]
    Setting {
        /// The namespace.
        namespace: String,
        /// The setting, below `/proc/sys`.
        setting: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The five namespaces of one laboratory, told from another's by the tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    tag: String,
}

impl Topology {
    /// A laboratory with namespaces `culvert-TAG-...`.
    pub fn new(tag: &str) -> Result<Self, TopologyError> {
        let good = (1..=24).contains(&tag.len())
            && tag
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if good {
            Ok(Self {
                tag: tag.to_owned(),
            })
        } else {
            Err(TopologyError::Tag(tag.to_owned()))
        }
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name of a namespace, as `ip netns exec` takes it.
    pub fn name(&self, place: Place) -> String {
        format!("culvert-{}-{}", self.tag, place.name())
    }

    /// Opens one of the namespaces.
    pub fn open(&self, place: Place) -> Result<Namespace, NamespaceError> {
        Namespace::open(&self.name(place))
    }

    /// The places that are there.
    pub fn present(&self) -> Vec<Place> {
        Place::ALL
            .into_iter()
            .filter(|place| self.open(*place).is_ok())
            .collect()
    }

    /// Makes everything that is missing and leaves alone what is there. Hosts and router are up after
    /// it; `wan0` and `lan0` of each gateway are there, down and without addresses, unless something
    /// that runs there has moved them away.
    pub fn build(&self) -> Result<(), TopologyError> {
        for place in Place::ALL {
            let namespace = Namespace::ensure(&self.name(place))?;
            namespace.netlink(async |netlink| netlink.set_up("lo").await)?;
        }
        for side in Side::BOTH {
            self.build_side(side)?;
        }
        let wan = self.open(Place::Wan)?;
        set(&wan, "net/ipv4/ip_forward", "1")?;
        set(&wan, "net/ipv6/conf/all/forwarding", "1")?;
        for side in Side::BOTH {
            let addresses = side.addresses();
            wan.netlink(async |netlink| {
                for family in Family::BOTH {
                    let via = addresses.gateway_wan(family).addr();
                    netlink
                        .add_route(addresses.lan_network(family), via)
                        .await?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Forwards in the kernel of both gateway places, over the same hops: the measure that a dataplane
    /// is held against. [`Topology::release_gateways`] undoes it.
    pub fn forward_in_kernel(&self) -> Result<(), TopologyError> {
        for side in Side::BOTH {
            let namespace = self.open(side.gateway())?;
            let addresses = side.addresses();
            set(&namespace, "net/ipv4/ip_forward", "1")?;
            set(&namespace, "net/ipv6/conf/all/forwarding", "1")?;
            namespace.netlink(async |netlink| {
                for device in ["lan0", "wan0"] {
                    netlink.set_up(device).await?;
                }
                for family in Family::BOTH {
                    netlink
                        .add_address("lan0", addresses.gateway_lan(family))
                        .await?;
                    netlink
                        .add_address("wan0", addresses.gateway_wan(family))
                        .await?;
                    let far = side.other().addresses();
                    let via = addresses.router(family).addr();
                    netlink.add_route(far.lan_network(family), via).await?;
                    netlink.add_route(far.wan_network(family), via).await?;
                }
                Ok(())
            })?;
        }
        // A link that has no carrier after that long shows in whatever is measured.
        self.wait_for_links(Duration::from_secs(5))?;
        Ok(())
    }

    /// Waits until every link that is there can send, which no host can while a gateway's device is down. Answers whether they have.
    pub fn wait_for_links(&self, limit: Duration) -> Result<bool, TopologyError> {
        let until = Instant::now() + limit;
        loop {
            let mut running = true;
            for place in Place::ALL {
                running &= self.open(place)?.netlink(async |netlink| {
                    for device in devices(place) {
                        if netlink.has_link(device).await? && !netlink.is_running(device).await? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })?;
            }
            if running || Instant::now() >= until {
                return Ok(running);
            }
            thread::sleep(POLL);
        }
    }

    /// Gives `wan0` and `lan0` back as [`Topology::build`] leaves them: down, without addresses, and
    /// the kernel forwards nothing.
    pub fn release_gateways(&self) -> Result<(), TopologyError> {
        for side in Side::BOTH {
            let namespace = self.open(side.gateway())?;
            set(&namespace, "net/ipv4/ip_forward", "0")?;
            set(&namespace, "net/ipv6/conf/all/forwarding", "0")?;
            namespace.netlink(async |netlink| {
                for device in ["lan0", "wan0"] {
                    if netlink.has_link(device).await? {
                        netlink.remove_addresses(device).await?;
                        netlink.set_down(device).await?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends what runs in the namespaces and takes them away, as much of it as is there.
    pub fn remove(&self) -> Result<(), TopologyError> {
        self.end_processes()?;
        for place in Place::ALL {
            // Before the name: a namespace that something still holds must not keep its links.
            if let Ok(namespace) = self.open(place) {
                namespace.netlink(async |netlink| {
                    for device in devices(place) {
                        match netlink.remove_link(device).await {
                            Ok(()) | Err(NetlinkError::NoLink(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                    Ok(())
                })?;
            }
            Namespace::remove(&self.name(place))?;
        }
        Ok(())
    }

    /// Ends every process inside: what is inside was started for this laboratory.
    fn end_processes(&self) -> Result<(), TopologyError> {
        let mut inside = Vec::new();
        for place in Place::ALL {
            if let Ok(namespace) = self.open(place) {
                inside.extend(
                    namespace
                        .processes()?
                        .into_iter()
                        .filter_map(ProcessIdentity::of),
                );
            }
        }
        for process in &inside {
            process.signal(Signal::SIGTERM);
        }
        let until = Instant::now() + GRACE;
        while inside.iter().any(|process| process.is_running()) && Instant::now() < until {
            thread::sleep(POLL);
        }
        for process in inside {
            process.end(Duration::ZERO);
        }
        Ok(())
    }

    fn build_side(&self, side: Side) -> Result<(), TopologyError> {
        let host = self.open(side.host())?;
        let gateway = self.open(side.gateway())?;
        let wan = self.open(Place::Wan)?;
        let addresses = side.addresses();
        let router_link = side.router_link();
        if ensure_veth(
            VethEnd {
                namespace: &host,
                name: "eth0",
            },
            VethEnd {
                namespace: &gateway,
                name: "lan0",
            },
        )? {
            host.netlink(async |netlink| {
                bring_up(
                    netlink,
                    "eth0",
                    [addresses.host(Family::V4), addresses.host(Family::V6)],
                )
                .await?;
                for (family, default) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
                    if let Ok(default) = default.parse() {
                        netlink
                            .add_route(default, addresses.gateway_lan(family).addr())
                            .await?;
                    }
                }
                Ok(())
            })?;
        }
        if ensure_veth(
            VethEnd {
                namespace: &wan,
                name: router_link,
            },
            VethEnd {
                namespace: &gateway,
                name: "wan0",
            },
        )? {
            wan.netlink(async |netlink| {
                bring_up(
                    netlink,
                    router_link,
                    [addresses.router(Family::V4), addresses.router(Family::V6)],
                )
                .await
            })?;
        }
        Ok(())
    }
}

fn devices(place: Place) -> &'static [&'static str] {
    match place {
        Place::HostA | Place::HostB => &["eth0"],
        Place::GatewayA | Place::GatewayB => &["lan0", "wan0"],
        Place::Wan => &["wan-a", "wan-b"],
    }
}

async fn bring_up(
    netlink: &Netlink,
    device: &str,
    addresses: [IpNet; 2],
) -> Result<(), NetlinkError> {
    netlink.set_up(device).await?;
    for address in addresses {
        netlink.add_address(device, address).await?;
    }
    Ok(())
}

/// Makes the pair, offloads off at both ends, unless its first end is there (its other end may have
/// been moved away). Answers whether it was made.
///
/// A gateway's end whose partner is not where it belongs is of a pair that is going: the kernel clears a
/// removed namespace away in its own time, and its links with it. It makes room.
fn ensure_veth(own: VethEnd<'_>, gateway: VethEnd<'_>) -> Result<bool, TopologyError> {
    if own
        .namespace
        .netlink(async |netlink| netlink.has_link(own.name).await)?
    {
        return Ok(false);
    }
    gateway.namespace.netlink(
        async |netlink| match netlink.remove_link(gateway.name).await {
            Err(error) if netlink.has_link(gateway.name).await? => Err(error),
            _ => Ok(()),
        },
    )?;
    add_veth(own, gateway, MTU)?;
    for end in [own, gateway] {
        end.namespace
            .enter(|| offload::switch_off_all(end.name))??;
    }
    Ok(true)
}

fn set(namespace: &Namespace, setting: &str, value: &str) -> Result<(), TopologyError> {
    namespace
        .enter(|| set_kernel_setting(setting, value))?
        .map_err(|source| TopologyError::Setting {
            namespace: namespace.name().to_owned(),
            setting: setting.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{
        capture::{Capture, Depth},
        classify::WanClass,
        packet_socket::Seen,
        ping::{Ping, PingReport},
        process::Interrupt,
    };

    /// Takes its namespaces with it when an assertion fails.
    struct Guarded(Topology);

    impl Drop for Guarded {
        fn drop(&mut self) {
            let _ = self.0.remove();
        }
    }

    fn ping(topology: &Topology, family: Family) -> PingReport {
        let ping = Ping {
            destination: Side::B.addresses().host(family).addr(),
            count: 5,
            interval: Duration::from_millis(20),
            patience: Duration::from_secs(1),
            size: 64,
            marker: b"culvert",
        };
        let host = topology.open(Place::HostA).unwrap();
        ping.run(&host, &Interrupt::default()).unwrap()
    }

    /// A host that has just failed to resolve its gateway needs up to three seconds to ask again.
    fn reaches(topology: &Topology, family: Family) -> bool {
        (0..5).any(|_| ping(topology, family).received == 5)
    }

    #[test]
    fn hosts_reach_each_other_through_the_kernel_and_a_capture_sees_it() {
        let guarded = Guarded(Topology::new(&format!("unit-{}", std::process::id())).unwrap());
        let topology = &guarded.0;
        topology.build().unwrap();
        topology.build().unwrap();
        assert_eq!(topology.present(), Place::ALL.to_vec());
        assert_eq!(
            ping(topology, Family::V4).received,
            0,
            "nothing forwards yet"
        );

        topology.forward_in_kernel().unwrap();
        assert!(reaches(topology, Family::V4) && reaches(topology, Family::V6));
        let wan = topology.open(Place::Wan).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("wan.pcap");
        let capture = Capture::start(&wan, Seen::Received, b"culvert", Some(&file)).unwrap();
        for family in Family::BOTH {
            assert_eq!(ping(topology, family).received, 5, "{family:?}");
        }
        let before = capture.report();
        capture.set_depth(Depth::NoEsp).unwrap();
        assert_eq!(ping(topology, Family::V4).received, 5);
        let report = capture.stop().unwrap();
        assert_eq!(report.lost, 0);
        // Five requests and five answers, received once each by the router, for each of the two families.
        assert!(before.count(WanClass::Cleartext) >= 20, "{before:?}");
        assert!(
            report.count(WanClass::Cleartext) >= before.count(WanClass::Cleartext) + 10,
            "{report:?}"
        );
        assert_eq!(report.count(WanClass::Esp), 0);
        assert!(std::fs::metadata(&file).unwrap().len() > 30 * 100);

        topology.release_gateways().unwrap();
        assert_eq!(ping(topology, Family::V4).received, 0);

        // What a crash of a dataplane that holds the devices leaves behind.
        let gateway = topology.open(Place::GatewayA).unwrap();
        gateway
            .netlink(async |netlink| netlink.remove_link("wan0").await)
            .unwrap();
        topology.build().unwrap();
        topology.forward_in_kernel().unwrap();
        assert!(reaches(topology, Family::V4));

        let mut child = gateway
            .spawn(std::process::Command::new("sleep").arg("60"))
            .unwrap();
        topology.remove().unwrap();
        assert!(
            !child.wait().unwrap().success(),
            "the process inside was ended"
        );
        assert!(topology.present().is_empty());
        topology.remove().unwrap();
    }

    #[test]
    fn tags_make_names_that_stay_apart() {
        assert!(Topology::new("").is_err());
        assert!(Topology::new("Upper").is_err());
        assert!(Topology::new("../x").is_err());
        assert_eq!(
            Topology::new("lab").unwrap().name(Place::GatewayB),
            "culvert-lab-gateway-b"
        );
    }

    #[test]
    fn the_filter_drops_esp_and_nothing_else() {
        use std::net::UdpSocket;
        let name = format!("culvert-unit-{}-filter", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        namespace
            .netlink(async |netlink| netlink.set_up("lo").await)
            .unwrap();
        let send = |port: u16, data: &[u8]| {
            namespace
                .enter(|| {
                    let _receiver = UdpSocket::bind(("127.0.0.2", port));
                    let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
                    socket.send_to(data, ("127.0.0.2", port)).unwrap();
                })
                .unwrap();
        };
        let taken = |port: u16, data: &[u8]| {
            let capture = Capture::start(&namespace, Seen::Received, b"", None).unwrap();
            capture.set_depth(Depth::NoEsp).unwrap();
            send(port, data);
            thread::sleep(Duration::from_millis(60));
            capture.stop().unwrap().total()
        };
        let esp = [&[0xc0, 0, 0, 1, 0, 0, 0, 1][..], &[0x5a; 40]].concat();
        assert_eq!(taken(4500, &esp), 0, "ESP in UDP is passed over");
        assert_eq!(taken(4501, &esp), 1, "on another port it is not ESP");
        assert_eq!(
            taken(4500, &[&[0; 4][..], &esp].concat()),
            1,
            "the non-ESP marker"
        );
        assert_eq!(taken(4500, &[0xff]), 1, "a keepalive");
        Namespace::remove(&name).unwrap();
    }
}
