//! Routes as many and as scattered as those of the Internet, and addresses behind them.
//!
//! Route and address follow from a number, so that whoever asks for random addresses reads no memory but the table's.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_dataplane::driver::generator::Random;
use culvert_dataplane::fib::{Fib4Writer, Fib6Writer};
use culvert_net::{Ipv4Prefix, Ipv6Prefix};

/// An odd factor reaches every number of so many bits exactly once.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The IPv4 route of a number: six of ten are /24, the others up to 16 times as large. Not every number has one.
pub fn route4(number: u64) -> Option<Ipv4Prefix> {
    let network = number.wrapping_mul(SCATTER) >> 16 & 0x00ff_ffff;
    let address = Ipv4Addr::from_bits((network as u32) << 8);
    let length = match number % 10 {
        0..6 => 24,
        rest => 14 + rest as u8,
    };
    let unicast = matches!(address.octets()[0], 1..=9 | 11..=126 | 128..=223);
    unicast.then(|| Ipv4Prefix::covering(address, length).ok())?
}

/// The IPv6 route of a number: six of ten are /48, the others up to 4,096 times as large.
pub fn route6(number: u64) -> Option<Ipv6Prefix> {
    let network = number.wrapping_mul(SCATTER) >> 19 & 0x0fff_ffff_ffff;
    let address = Ipv6Addr::from_bits(0x2u128 << 124 | u128::from(network) << 80);
    let length = match number % 10 {
        0..6 => 48,
        rest => 18 + 3 * rest as u8,
    };
    Ipv6Prefix::covering(address, length).ok()
}

/// An IPv4 table, and the numbers below which its routes are.
pub struct Internet4 {
    /// The table.
    pub fib: Fib4Writer,
    /// See there.
    pub numbers: u64,
}

impl Internet4 {
    /// So many routes to one adjacency.
    pub fn new(routes: usize, adjacency: u32) -> Self {
        let mut this = Self {
            fib: Fib4Writer::default(),
            numbers: 0,
        };
        while this.fib.len() < routes {
            if let Some(prefix) = route4(this.numbers) {
                this.fib
                    .insert(prefix, adjacency)
                    .expect("there is room for so many routes");
            }
            this.numbers += 1;
        }
        this
    }
}

/// A random address behind a random route of those with numbers below this one.
pub fn address4(numbers: u64, random: &mut Random) -> Ipv4Addr {
    loop {
        if let Some(prefix) = route4(random.below(numbers)) {
            let host = random.bits() as u32 & (u32::MAX >> prefix.length());
            return Ipv4Addr::from_bits(prefix.address().to_bits() | host);
        }
    }
}

/// An IPv6 table, and the numbers below which its routes are.
pub struct Internet6 {
    /// The table.
    pub fib: Fib6Writer,
    /// See there.
    pub numbers: u64,
}

impl Internet6 {
    /// So many routes to one adjacency.
    pub fn new(routes: usize, adjacency: u32) -> Self {
        let mut this = Self {
            fib: Fib6Writer::default(),
            numbers: 0,
        };
        while this.fib.len() < routes {
            if let Some(prefix) = route6(this.numbers) {
                this.fib
                    .insert(prefix, adjacency)
                    .expect("there is room for so many routes");
            }
            this.numbers += 1;
        }
        this
    }
}

/// A random address behind a random route of those with numbers below this one.
pub fn address6(numbers: u64, random: &mut Random) -> Ipv6Addr {
    loop {
        if let Some(prefix) = route6(random.below(numbers)) {
            let host = u128::from(random.bits()) | u128::from(random.bits()) << 64;
            let host = host & (u128::MAX >> prefix.length());
            return Ipv6Addr::from_bits(prefix.address().to_bits() | host);
        }
    }
}
