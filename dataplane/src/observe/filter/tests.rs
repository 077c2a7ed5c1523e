//! The language against pcap-filter's own rules, and evaluation against a slow model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::nodes::workbench::{frame, packet4, packet6};

fn filter(text: &str) -> Filter {
    text.parse()
        .unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn udp(source: u16, destination: u16) -> Vec<u8> {
    [source, destination, 12, 0]
        .into_iter()
        .flat_map(u16::to_be_bytes)
        .chain([0xc0, 0, 0, 1, 0, 0, 0, 7])
        .collect()
}

#[test]
fn tests_say_what_pcap_filter_says() {
    let four = |protocol, payload: &[u8]| {
        packet4(
            [10, 0, 0, 1].into(),
            [10, 1, 2, 3].into(),
            protocol,
            payload,
        )
    };
    let dns = four(17, &udp(40_000, 53));
    let ping = four(1, &[8, 0, 0, 0]);
    let esp = four(50, &[0xc0, 0, 0, 1, 0, 0, 0, 7]);
    let six = packet6(
        "2001:db8::1".parse().unwrap(),
        "2001:db8::2".parse().unwrap(),
        58,
        64,
        &[128, 0, 0, 0],
    );
    let no: &[u8] = &[];
    for (text, expected) in [
        ("", [true, true, true, true]),
        ("ip", [true, true, true, false]),
        ("ip6", [false, false, false, true]),
        ("udp", [true, false, false, false]),
        ("icmp", [false, true, false, false]),
        ("icmp6", [false, false, false, true]),
        ("esp", [false, false, true, false]),
        ("proto 50", [false, false, true, false]),
        ("ip proto \\icmp", [false, true, false, false]),
        ("ip6 proto 1", [false; 4]),
        ("host 10.0.0.1", [true, true, true, false]),
        ("10.0.0.1", [true, true, true, false]),
        ("dst host 10.0.0.1", [false; 4]),
        ("src 10.0.0.0/24", [true, true, true, false]),
        ("net 10.1.0.0/16 and udp", [true, false, false, false]),
        ("src or dst net 2001:db8::/32", [false, false, false, true]),
        ("src and dst net 10.0.0.0/8", [true, true, true, false]),
        ("src and dst net 10.0.0.0/24", [false; 4]),
        ("ip6 host 2001:db8::1", [false, false, false, true]),
        ("port 53", [true, false, false, false]),
        ("src port 53", [false; 4]),
        ("tcp port 53", [false; 4]),
        ("udp dst portrange 50-60", [true, false, false, false]),
        ("port 500 or 53", [true, false, false, false]),
        ("host 10.9.9.9 or 2001:db8::2", [false, false, false, true]),
        ("spi 0xc0000001", [true, false, true, false]),
        ("spi 3221225473 and esp", [false, false, true, false]),
        ("less 28", [false, true, true, false]),
        ("greater 30", [true, false, false, true]),
        ("not udp", [false, true, true, true]),
        ("!(udp or esp)&& ip", [false, true, false, false]),
        // As in pcap-filter, from left to right: (esp or udp) and ip6.
        ("esp or udp and ip6", [false; 4]),
        ("esp or (udp and ip6)", [false, false, true, false]),
    ] {
        // `&&` may stand without blanks around it as pcap-filter's scanner allows only between words.
        let text = text.replace(")&&", ") &&");
        let filter = filter(&text);
        for (packet, expected) in [&dns, &ping, &esp, &six].into_iter().zip(expected) {
            assert_eq!(filter.matches(packet, Layer::Network), expected, "{text}");
            let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
            if !text.contains("less") && !text.contains("greater") {
                let framed = frame([2; 6], [4; 6], kind, packet);
                assert_eq!(filter.matches(&framed, Layer::Link), expected, "{text}");
            }
        }
        assert_eq!(
            filter.matches(no, Layer::Network),
            text.is_empty() || { text.starts_with("not") || text.starts_with("less") }
        );
        assert_eq!(filter.to_string().parse(), Ok(filter), "{text}");
    }
    let arp = [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
    ];
    for layer in [Layer::Network, Layer::Link] {
        let bytes = match layer {
            Layer::Network => arp.to_vec(),
            Layer::Link => frame([255; 6], [2; 6], 0x0806, &arp),
        };
        assert!(filter("arp and src host 10.0.0.1").matches(&bytes, layer));
        assert!(filter("arp host 10.0.0.2").matches(&bytes, layer));
        assert!(!filter("ip host 10.0.0.2").matches(&bytes, layer));
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_word() {
    for (text, said) in [
        ("host", "the filter ends where an address should stand"),
        ("hots 10.0.0.1", "\"hots\" stands where a test"),
        (
            "host 10.0.0.0/8",
            "\"10.0.0.0/8\" stands where an address without",
        ),
        ("net 10.0.0.1/8", "\"10.0.0.1/8\" stands where a network"),
        ("port 65536", "\"65536\" stands where a port"),
        ("port +5", "\"+5\" stands where a port"),
        ("portrange 9-8", "\"9-8\" stands where a range"),
        ("tcp host 10.0.0.1", "tcp and an address do not go together"),
        ("ip port 53", "ip and a port do not go together"),
        (
            "ip6 host 10.0.0.1",
            "ip6 and 10.0.0.1/32 do not go together",
        ),
        ("(udp", "the filter ends where a closing parenthesis"),
        ("udp)", "\")\" stands where and, or, or the end"),
        ("udp tcp", "\"tcp\" stands where and, or"),
        ("udp and", "the filter ends where a test"),
        ("udp or 53", "\"53\" stands where a test"),
        ("spi 0x1ffffffff", "\"0x1ffffffff\" stands where an SPI"),
        ("proto 256", "\"256\" stands where a protocol's"),
    ] {
        let error = text.parse::<Filter>().unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let many = |count: usize| vec!["ip"; count].join(" or ");
    assert!(many(MOST_TESTS).parse::<Filter>().is_ok());
    assert_eq!(
        many(MOST_TESTS + 1).parse::<Filter>(),
        Err(FilterError::TooComplex)
    );
    let deep = |depth: usize| format!("{}ip{}", "(".repeat(depth), ")".repeat(depth));
    assert!(deep(DEEPEST - 1).parse::<Filter>().is_ok());
    assert_eq!(
        deep(DEEPEST).parse::<Filter>(),
        Err(FilterError::TooComplex)
    );
    assert_eq!(
        "!".repeat(500).parse::<Filter>(),
        Err(FilterError::TooComplex)
    );
    assert_eq!(
        " ".repeat(2000).parse::<Filter>(),
        Err(FilterError::TooLong(2000))
    );
}

/// A packet as one says it, not as it stands in memory.
#[derive(Clone, Debug)]
struct Said {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: (u16, u16),
}

/// The slow model: text is made of it, and it is asked by comparing what was said.
#[derive(Clone, Debug)]
enum Model {
    Ip(bool),
    Proto(u8),
    Host(u8, IpAddr),
    Net(u8, IpAddr, u8),
    Port(u8, Option<u8>, u16, u16),
    Not(Box<Self>),
    Join(bool, Box<Self>, Box<Self>),
}

const SIDES: [&str; 4] = ["", "src ", "dst ", "src and dst "];

impl Model {
    fn text(&self) -> String {
        match self {
            Self::Ip(v6) => if *v6 { "ip6" } else { "ip" }.to_owned(),
            Self::Proto(6) => "tcp".to_owned(),
            Self::Proto(number) => format!("proto {number}"),
            Self::Host(side, address) => format!("{}host {address}", SIDES[usize::from(*side)]),
            Self::Net(side, address, length) => {
                let prefix = IpPrefix::covering(*address, *length).unwrap();
                format!("{}net {prefix}", SIDES[usize::from(*side)])
            }
            Self::Port(side, protocol, first, last) => {
                let transport = match protocol {
                    Some(6) => "tcp ",
                    Some(_) => "udp ",
                    None => "",
                };
                let side = SIDES[usize::from(*side)];
                format!("{transport}{side}portrange {first}-{last}")
            }
            Self::Not(inner) => format!("not ({})", inner.text()),
            Self::Join(and, first, second) => format!(
                "({}) {} ( {} )",
                first.text(),
                if *and { "&&" } else { "or" },
                second.text()
            ),
        }
    }

    fn holds(&self, said: &Said) -> bool {
        let sides = |side: u8, source: bool, destination: bool| match side {
            0 => source || destination,
            1 => source,
            2 => destination,
            _ => source && destination,
        };
        match self {
            Self::Ip(v6) => said.source.is_ipv6() == *v6,
            Self::Proto(number) => said.protocol == *number,
            Self::Host(side, address) => {
                sides(*side, said.source == *address, said.destination == *address)
            }
            Self::Net(side, address, length) => {
                let bits = |address: IpAddr| match address {
                    IpAddr::V4(address) => format!("4{:032b}", address.to_bits()),
                    IpAddr::V6(address) => format!("6{:0128b}", address.to_bits()),
                };
                let prefix = bits(*address)[..=usize::from(*length)].to_owned();
                let inside = |address| bits(address).starts_with(&prefix);
                sides(*side, inside(said.source), inside(said.destination))
            }
            Self::Port(side, protocol, first, last) => {
                matches!(said.protocol, 6 | 17)
                    && protocol.is_none_or(|wanted| wanted == said.protocol)
                    && sides(
                        *side,
                        (*first..=*last).contains(&said.ports.0),
                        (*first..=*last).contains(&said.ports.1),
                    )
            }
            Self::Not(inner) => !inner.holds(said),
            Self::Join(true, first, second) => first.holds(said) && second.holds(said),
            Self::Join(false, first, second) => first.holds(said) || second.holds(said),
        }
    }
}

fn address(v6: bool) -> impl Strategy<Value = IpAddr> {
    // Few bits, so that addresses meet.
    (0u8..4, 0u8..3).prop_map(move |(third, last)| {
        if v6 {
            Ipv6Addr::new(
                0x2001,
                0xdb8,
                u16::from(third) << 14,
                0,
                0,
                0,
                0,
                u16::from(last),
            )
            .into()
        } else {
            Ipv4Addr::new(10, 0, third << 6, last).into()
        }
    })
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    any::<bool>().prop_flat_map(address)
}

fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Model::Ip),
        prop_oneof![Just(6u8), Just(17), Just(50)].prop_map(Model::Proto),
        (0u8..4, any_address()).prop_map(|(side, address)| Model::Host(side, address)),
        (0u8..4, any_address(), 0u8..=32)
            .prop_map(|(side, address, length)| Model::Net(side, address, length)),
        (
            0u8..4,
            prop_oneof![Just(None), Just(Some(6u8)), Just(Some(17))],
            0u16..6,
            0u16..6
        )
            .prop_map(|(side, protocol, first, more)| {
                Model::Port(side, protocol, first, first + more)
            }),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Model::Not(Box::new(inner))),
            (any::<bool>(), inner.clone(), inner).prop_map(|(and, first, second)| {
                Model::Join(and, Box::new(first), Box::new(second))
            }),
        ]
    })
}

fn said() -> impl Strategy<Value = Said> {
    (
        any::<bool>().prop_flat_map(|v6| (address(v6), address(v6))),
        prop_oneof![Just(6u8), Just(17), Just(50)],
        (0u16..12, 0u16..12),
    )
        .prop_map(|((source, destination), protocol, ports)| Said {
            source,
            destination,
            protocol,
            ports,
        })
}

proptest! {
    #[test]
    fn a_filter_takes_what_the_model_takes(model in model(), packets in prop::collection::vec(said(), 1..20)) {
        let text = model.text();
        prop_assume!(text.len() <= LONGEST_TEXT);
        let filter: Filter = text.parse().unwrap();
        prop_assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter.clone()));
        for said in packets {
            let mut payload = udp(said.ports.0, said.ports.1);
            if said.protocol == 50 {
                payload[0] = 0xc0;
            }
            let bytes = match (said.source, said.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    packet4(source, destination, said.protocol, &payload)
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    packet6(source, destination, said.protocol, 64, &payload)
                }
                _ => panic!("addresses of two families"),
            };
            prop_assert_eq!(filter.matches(&bytes, Layer::Network), model.holds(&said), "{} {:?}", text, said);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(words in prop::collection::vec(prop_oneof![
        Just("host"), Just("net"), Just("src"), Just("dst"), Just("or"), Just("and"), Just("not"), Just("("), Just(")"),
        Just("udp"), Just("ip6"), Just("port"), Just("53"), Just("10.0.0.1"), Just("2001:db8::/32"), Just("proto"),
        Just("spi"), Just("!"), Just("portrange"), Just("1-2"), Just("é"),
    ], 0..20)) {
        if let Ok(filter) = words.join(" ").parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }
    }
}
