//! Which rows there are, and in which sets.

use clap::ValueEnum;
use culvert_crypto::{Cipher, Integrity, KeyBits, Suite, SuiteError};
use culvert_dataplane::graph::NodeId;

use super::scene::Shape;
use super::traffic::Destinations;

/// Bytes of the IP packets.
const SIZES: [usize; 3] = [64, 512, 1400];
/// A small and a large one, where two say enough.
const TWO_SIZES: [usize; 2] = [64, 1400];
/// Routes of the forwarding rows.
const ROUTES: [u32; 3] = [1, 100_000, 1_000_000];
/// The same of IPv6.
const ROUTES6: [u32; 3] = [1, 100_000, 500_000];
/// Tunnels of the rows with many.
const THOUSAND: u32 = 1000;
/// Packets of a vector in the sweep.
pub const VECTORS: [usize; 7] = [256, 64, 32, 16, 8, 4, 1];

/// Rows that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Set {
    /// Every suite at 64, 512 and 1400 bytes, both ways; IPv4 forwarding.
    Main,
    /// IPv6, UDP encapsulation, ESN, many tunnels, 4 KiB pages.
    Variants,
    /// Vectors of 256 to one packet.
    Sweep,
    /// Two workers against one, with SAs of their own and with one for both.
    Workers,
    /// Forwarding tables: how fast they load, what they take, what a lookup costs.
    Tables,
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// In the clear from the LAN, out as ESP.
    Encrypt(Suite),
    /// In as ESP, out in the clear.
    Decrypt(Suite),
    /// In and out in the clear.
    Forward,
}

/// One line of the table, to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What is done.
    pub work: Work,
    /// With packets of so many bytes, of the inner packet where there are two.
    pub bytes: usize,
    /// In this box.
    pub shape: Shape,
    /// Packets lie in pages of 4 KiB.
    pub small_pages: bool,
}

impl Plan {
    /// In a box with one tunnel.
    pub const fn encrypt(suite: Suite, bytes: usize) -> Self {
        Self {
            work: Work::Encrypt(suite),
            bytes,
            shape: Shape::gateway(1),
            small_pages: false,
        }
    }

    /// In a box with one tunnel.
    pub const fn decrypt(suite: Suite, bytes: usize) -> Self {
        Self {
            work: Work::Decrypt(suite),
            ..Self::encrypt(suite, bytes)
        }
    }

    /// 64 bytes, to random addresses of so many networks.
    pub const fn forward(networks: u32) -> Self {
        Self {
            work: Work::Forward,
            bytes: 64,
            shape: Shape::router(networks),
            small_pages: false,
        }
    }

    const fn in_shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    const fn in_small_pages(self) -> Self {
        Self {
            small_pages: true,
            ..self
        }
    }

    /// Rows of a set that go into the table.
    pub fn all(set: Set, tunnels: u32) -> Result<Vec<Self>, SuiteError> {
        Ok(match set {
            Set::Main => Self::main()?,
            Set::Variants => Self::variants(tunnels),
            Set::Sweep | Set::Workers | Set::Tables => Vec::new(),
        })
    }

    fn main() -> Result<Vec<Self>, SuiteError> {
        let cbc = |bits, integrity| Suite::new(Cipher::AesCbc(bits), integrity);
        let suites = [
            Suite::AES128GCM16,
            Suite::AES256GCM16,
            Suite::CHACHA20POLY1305,
            cbc(KeyBits::B128, Integrity::HmacSha1_96)?,
            cbc(KeyBits::B256, Integrity::HmacSha2_256_128)?,
        ];
        let mut all = Vec::new();
        for suite in suites {
            all.extend(SIZES.map(|bytes| Self::encrypt(suite, bytes)));
            all.extend(SIZES.map(|bytes| Self::decrypt(suite, bytes)));
        }
        all.extend(ROUTES.map(Self::forward));
        Ok(all)
    }

    fn variants(tunnels: u32) -> Vec<Self> {
        let suite = Suite::AES128GCM16;
        let one = Shape::gateway(1);
        let both = [Self::encrypt as fn(Suite, usize) -> Self, Self::decrypt];
        let mut all = Vec::new();
        for shape in [
            Shape { v6: true, ..one },
            Shape { udp: true, ..one },
            Shape { esn: true, ..one },
        ] {
            for way in both {
                all.extend(TWO_SIZES.map(|bytes| way(suite, bytes).in_shape(shape)));
            }
        }
        for number in [THOUSAND, tunnels] {
            let shape = Shape::gateway(number);
            all.extend(SIZES.map(|bytes| Self::encrypt(suite, bytes).in_shape(shape)));
        }
        let shape = Shape::gateway(THOUSAND);
        all.extend(SIZES.map(|bytes| Self::decrypt(suite, bytes).in_shape(shape)));
        all.extend(ROUTES6.map(|networks| {
            let shape = Shape {
                v6: true,
                ..Shape::router(networks)
            };
            Self::forward(networks).in_shape(shape)
        }));
        for way in both {
            all.extend(TWO_SIZES.map(|bytes| way(suite, bytes).in_small_pages()));
        }
        all.push(Self::forward(1).in_small_pages());
        all
    }

    /// The rows of the sweep over vector sizes, each measured at all of [`VECTORS`].
    pub const fn swept() -> [Self; 3] {
        [
            Self::encrypt(Suite::AES128GCM16, 64),
            Self::encrypt(Suite::AES128GCM16, 1400),
            Self::forward(1),
        ]
    }

    /// `encrypt`, `decrypt` or `forward`.
    pub const fn path(self) -> &'static str {
        match self.work {
            Work::Encrypt(_) => "encrypt",
            Work::Decrypt(_) => "decrypt",
            Work::Forward => "forward",
        }
    }

    /// Suite or routes, and what is not as usual.
    pub fn algorithm(self) -> String {
        let Shape {
            v6,
            udp,
            esn,
            tunnels,
            networks,
            ..
        } = self.shape;
        let mut words = vec![match (self.work, networks) {
            (Work::Encrypt(suite) | Work::Decrypt(suite), _) => suite.to_string(),
            (Work::Forward, 1) => "1 route".to_owned(),
            (Work::Forward, routes) => format!("{routes} routes"),
        }];
        let mut add = |really: bool, word: &str| {
            if really {
                words.push(word.to_owned());
            }
        };
        add(v6, "IPv6");
        add(udp, "UDP");
        add(esn, "ESN");
        add(tunnels > 1, &format!("{tunnels} tunnels"));
        add(self.small_pages, "4 KiB pages");
        words.join(", ")
    }

    /// All of it.
    pub fn name(self) -> String {
        format!("{} {} {}", self.path(), self.algorithm(), self.bytes)
    }

    /// Where packets enter the graph.
    pub const fn input(self) -> NodeId {
        if self.shape.v6 {
            NodeId::Ip6Input
        } else {
            NodeId::Ip4Input
        }
    }

    /// Where the inner packets go.
    pub const fn destinations(self) -> Destinations {
        match (self.work, self.shape.tunnels) {
            (Work::Forward, _) => Destinations::Networks(self.shape.networks),
            (Work::Encrypt(_), 1) => Destinations::Far,
            (Work::Decrypt(_), 1) => Destinations::Near,
            (Work::Encrypt(_), tunnels) => Destinations::Tunnels(tunnels),
            (Work::Decrypt(_), tunnels) => Destinations::FromTunnels(tunnels),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let sets = [Set::Main, Set::Variants];
        let plans: Vec<_> = sets
            .into_iter()
            .flat_map(|set| Plan::all(set, 10_000).unwrap())
            .collect();
        let names: BTreeSet<_> = plans.iter().map(|plan| plan.name()).collect();
        assert_eq!(names.len(), plans.len());
        for name in [
            "encrypt aes128gcm16 1400",
            "decrypt aes128gcm16, 1000 tunnels 64",
            "encrypt aes128gcm16, IPv6 64",
            "decrypt aes128gcm16, UDP 1400",
            "forward 500000 routes, IPv6 64",
            "forward 1 route, 4 KiB pages 64",
        ] {
            assert!(names.contains(name), "{name}");
        }
    }
}
