//! Between the messages of the bus and the types of this module: everything is checked on the way in.

use std::net::IpAddr;

use culvert_crypto::{Cipher, Integrity, KeyBits, Suite};
use culvert_model::bus;
use culvert_model::types;
use culvert_net::{AddressRange, Addresses, Flow, PortRange, Protocol, Selector, Spi};

use super::association::{Sa, Usage};
use super::manager::{PolicyId, PolicySpec};
use super::order::{Configured, ConfiguredPolicy, Guard};
use super::outer::UdpPorts;
use super::policy::PolicyAction;
use super::spec::{Limits, SaDirection, SaKeyId, SaMode, SaSpec, SpecError};
use crate::event::Event;

/// Pairs of source and destination selectors that one SA, or one policy of the configuration, may have: both have up to
/// 64 on each side.
const MAX_SELECTORS: usize = 64 * 64;
/// Packets of the largest replay window.
const MAX_WINDOW: u32 = 4096;

/// Reads an address of 4 or 16 bytes.
pub fn address(
    field: &'static str,
    message: Option<&types::IpAddress>,
) -> Result<IpAddr, SpecError> {
    let message = message.ok_or(SpecError::Missing(field))?;
    IpAddr::try_from(message).map_err(|source| SpecError::Address { field, source })
}

/// Reads the name of an SA.
pub fn id_from_bus(key: Option<&bus::SaKey>) -> Result<SaKeyId, SpecError> {
    let key = key.ok_or(SpecError::Missing("key"))?;
    let direction = match key.direction() {
        bus::Direction::In => SaDirection::In,
        bus::Direction::Out => SaDirection::Out,
        bus::Direction::Unspecified => return Err(SpecError::Missing("direction")),
    };
    Ok(SaKeyId {
        spi: Spi::new(key.spi)?,
        direction,
        destination: address("destination", key.destination.as_ref())?,
    })
}

/// Writes the name of an SA.
pub fn id_to_bus(id: SaKeyId) -> bus::SaKey {
    let direction = match id.direction {
        SaDirection::In => bus::Direction::In,
        SaDirection::Out => bus::Direction::Out,
    };
    bus::SaKey {
        spi: id.spi.get(),
        direction: direction.into(),
        destination: Some(id.destination.into()),
    }
}

/// Reads the ports of UDP encapsulation.
pub fn udp_from_bus(udp: Option<&bus::UdpEncapsulation>) -> Result<Option<UdpPorts>, SpecError> {
    let port = |number: u32| match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(SpecError::Port(number)),
    };
    udp.map(|udp| {
        Ok(UdpPorts {
            source: port(udp.source_port)?,
            destination: port(udp.destination_port)?,
        })
    })
    .transpose()
}

/// Reads an SA without its keys.
pub fn sa_from_bus(sa: &bus::Sa) -> Result<SaSpec, SpecError> {
    let id = id_from_bus(sa.key.as_ref())?;
    let source = address("source", sa.source.as_ref())?;
    if source.is_ipv4() != id.destination.is_ipv4() {
        return Err(SpecError::Family);
    }
    let mode = match sa.mode() {
        bus::SaMode::Tunnel => SaMode::Tunnel,
        bus::SaMode::Transport => SaMode::Transport,
        bus::SaMode::Unspecified => {
            return Err(SpecError::Unsupported(format!("mode {}", sa.mode)));
        }
    };
    if sa.replay_window > MAX_WINDOW {
        return Err(SpecError::ReplayWindow(sa.replay_window));
    }
    Ok(SaSpec {
        id,
        source,
        mode,
        suite: suite(sa)?,
        esn: sa.esn,
        replay_window: sa.replay_window,
        udp: udp_from_bus(sa.udp.as_ref())?,
        if_id: sa.if_id,
        selectors: pairs(&sa.source_selectors, &sa.destination_selectors)?,
        limits: sa.limits.as_ref().map_or(Limits::NONE, limits),
        copy_df: sa.copy_df,
        copy_ecn: sa.copy_ecn,
        copy_dscp: sa.copy_dscp,
        tfc_padding: sa.tfc_padding,
        timers: [
            sa.installed_at_ms,
            sa.soft_expires_at_ms,
            sa.hard_expires_at_ms,
        ],
        reqid: sa.reqid,
    })
}

fn suite(sa: &bus::Sa) -> Result<Suite, SpecError> {
    let bits = sa.encryption_key_bits;
    let unsupported = |what: String| SpecError::Unsupported(what);
    let key_bits = || match bits {
        128 => Ok(KeyBits::B128),
        192 => Ok(KeyBits::B192),
        256 => Ok(KeyBits::B256),
        _ => Err(unsupported(format!("an AES key of {bits} bits"))),
    };
    let cipher = match sa.encryption() {
        bus::EncryptionAlgorithm::AesGcm16 => Cipher::AesGcm16(key_bits()?),
        bus::EncryptionAlgorithm::AesGcm12 => Cipher::AesGcm12(key_bits()?),
        bus::EncryptionAlgorithm::AesGcm8 => Cipher::AesGcm8(key_bits()?),
        bus::EncryptionAlgorithm::AesGmac => Cipher::AesGmac(key_bits()?),
        bus::EncryptionAlgorithm::AesCbc => Cipher::AesCbc(key_bits()?),
        bus::EncryptionAlgorithm::AesCtr => Cipher::AesCtr(key_bits()?),
        bus::EncryptionAlgorithm::Null => Cipher::Null,
        bus::EncryptionAlgorithm::Chacha20Poly1305 => Cipher::ChaCha20Poly1305,
        bus::EncryptionAlgorithm::Unspecified => {
            return Err(unsupported(format!(
                "encryption algorithm {}",
                sa.encryption
            )));
        }
    };
    let integrity = match sa.integrity() {
        bus::IntegrityAlgorithm::Aead => Integrity::Aead,
        bus::IntegrityAlgorithm::HmacSha196 => Integrity::HmacSha1_96,
        bus::IntegrityAlgorithm::HmacSha2256128 => Integrity::HmacSha2_256_128,
        bus::IntegrityAlgorithm::HmacSha2384192 => Integrity::HmacSha2_384_192,
        bus::IntegrityAlgorithm::HmacSha2512256 => Integrity::HmacSha2_512_256,
        bus::IntegrityAlgorithm::Unspecified => {
            return Err(unsupported(format!("integrity algorithm {}", sa.integrity)));
        }
    };
    Suite::new(cipher, integrity).map_err(|error| unsupported(error.to_string()))
}

fn limits(limits: &bus::SaLimits) -> Limits {
    let or_none = |limit: u64| if limit == 0 { u64::MAX } else { limit };
    Limits {
        soft_bytes: or_none(limits.soft_bytes),
        hard_bytes: or_none(limits.hard_bytes),
        soft_packets: or_none(limits.soft_packets),
        hard_packets: or_none(limits.hard_packets),
    }
}

/// Reads a policy of the configuration.
pub fn configured_from_bus(policy: &bus::TrafficPolicy) -> Result<Configured, SpecError> {
    use bus::traffic_policy::Action;
    let selectors = pairs(&policy.local, &policy.remote)?;
    let action = match policy.action() {
        Action::Unspecified => return Err(SpecError::Missing("action")),
        Action::Protect => {
            let guards = selectors.into_iter().map(|selector| Guard { selector });
            return Ok(Configured::Guards(guards.collect()));
        }
        Action::Bypass => PolicyAction::Bypass,
        Action::Discard => PolicyAction::Discard,
    };
    let Ok(priority @ 1..) = u16::try_from(policy.priority) else {
        return Err(SpecError::Priority(policy.priority));
    };
    let policies = selectors.into_iter().map(|selector| ConfiguredPolicy {
        selector,
        action,
        priority,
    });
    Ok(Configured::Policies(policies.collect()))
}

/// Every pair of a source and a destination of one family.
fn pairs(
    sources: &[types::Selector],
    destinations: &[types::Selector],
) -> Result<Vec<Selector>, SpecError> {
    let pairs = sources.len().saturating_mul(destinations.len());
    if pairs > MAX_SELECTORS {
        return Err(SpecError::TooManySelectors(pairs));
    }
    let mut all = Vec::with_capacity(pairs);
    for source in sources {
        for destination in destinations {
            all.extend(pair(source, destination)?);
        }
    }
    Ok(all)
}

/// One source and one destination; `None` if their families or protocols have no packet in common.
fn pair(
    source: &types::Selector,
    destination: &types::Selector,
) -> Result<Option<Selector>, SpecError> {
    let range = |field, selector: &types::Selector| {
        let (first, last) = (
            address(field, selector.first.as_ref())?,
            address(field, selector.last.as_ref())?,
        );
        AddressRange::new(first, last).map_err(|error| SpecError::Selector(error.to_string()))
    };
    let (from, to) = (
        range("source selector", source)?,
        range("destination selector", destination)?,
    );
    if from.first().is_ipv4() != to.first().is_ipv4() {
        return Ok(None);
    }
    let protocol = match (source.protocol, destination.protocol) {
        (0, any) | (any, 0) => any,
        (one, other) if one == other => one,
        _ => return Ok(None),
    };
    let protocol = match u8::try_from(protocol) {
        Ok(0) => None,
        Ok(number) => Some(Protocol(number)),
        Err(_) => return Err(SpecError::Selector(format!("{protocol} is no protocol"))),
    };
    Ok(Some(Selector {
        source: from,
        destination: to,
        protocol,
        source_ports: ports(source, protocol)?,
        destination_ports: ports(destination, protocol)?,
    }))
}

/// Zero to zero is port 0, or ICMP's type 0 with code 0, the answer to a ping. Only what has no ports at all is given
/// as zeros by some (RFC 7296 section 3.13.1 asks for 0 to 65535), and means every packet.
fn ports(selector: &types::Selector, protocol: Option<Protocol>) -> Result<PortRange, SpecError> {
    let absent = (selector.first_port, selector.last_port) == (0, 0);
    if absent && !protocol.is_some_and(Flow::has_ports) {
        return Ok(PortRange::ANY);
    }
    let number = |port: u32| {
        u16::try_from(port).map_err(|_| SpecError::Selector(format!("{port} is no port")))
    };
    PortRange::new(number(selector.first_port)?, number(selector.last_port)?)
        .map_err(|error| SpecError::Selector(error.to_string()))
}

/// Reads the name of a policy.
pub fn policy_id_from_bus(key: Option<&bus::PolicyKey>) -> Result<PolicyId, SpecError> {
    use bus::policy_key::Direction;
    let key = key.ok_or(SpecError::Missing("key"))?;
    let (outbound, forward) = match key.direction() {
        Direction::In => (false, false),
        Direction::Forward => (false, true),
        Direction::Out => (true, false),
        Direction::Unspecified => return Err(SpecError::Missing("direction")),
    };
    let source = key.source.as_ref().ok_or(SpecError::Missing("source"))?;
    let destination = key
        .destination
        .as_ref()
        .ok_or(SpecError::Missing("destination"))?;
    let selector = pair(source, destination)?.ok_or(SpecError::Family)?;
    Ok(PolicyId {
        outbound,
        forward,
        if_id: key.if_id,
        selector,
        spi: key.spi,
    })
}

/// Reads a policy.
pub fn policy_from_bus(policy: &bus::Policy) -> Result<PolicySpec, SpecError> {
    let action = match policy.action() {
        bus::policy::Action::Protect => PolicyAction::Protect,
        bus::policy::Action::Bypass => PolicyAction::Bypass,
        bus::policy::Action::Discard => PolicyAction::Discard,
        bus::policy::Action::Unspecified => return Err(SpecError::Missing("action")),
    };
    Ok(PolicySpec {
        id: policy_id_from_bus(policy.key.as_ref())?,
        action,
        priority: policy.priority,
        reqid: policy.reqid,
        tunnel: match (&policy.tunnel_source, &policy.tunnel_destination) {
            (Some(source), Some(destination)) => Some((
                address("tunnel source", Some(source))?,
                address("tunnel destination", Some(destination))?,
            )),
            _ => None,
        },
    })
}

/// Writes a policy.
pub fn policy_to_bus(spec: &PolicySpec) -> bus::Policy {
    use bus::policy_key::Direction;
    let action = match spec.action {
        PolicyAction::Protect => bus::policy::Action::Protect,
        PolicyAction::Bypass => bus::policy::Action::Bypass,
        PolicyAction::Discard => bus::policy::Action::Discard,
    };
    let direction = match (spec.id.outbound, spec.id.forward) {
        (true, _) => Direction::Out,
        (false, true) => Direction::Forward,
        (false, false) => Direction::In,
    };
    let (source, destination) = selector_to_bus(&spec.id.selector);
    bus::Policy {
        key: Some(bus::PolicyKey {
            direction: direction.into(),
            if_id: spec.id.if_id,
            source: Some(source),
            destination: Some(destination),
            spi: spec.id.spi,
        }),
        action: action.into(),
        priority: spec.priority,
        reqid: spec.reqid,
        tunnel_source: spec.tunnel.map(|(source, _)| source.into()),
        tunnel_destination: spec.tunnel.map(|(_, destination)| destination.into()),
    }
}

/// Writes the two halves of a selector.
pub fn selector_to_bus(selector: &Selector) -> (types::Selector, types::Selector) {
    let half = |range: AddressRange, ports: PortRange| types::Selector {
        first: Some(range.first().into()),
        last: Some(range.last().into()),
        protocol: selector
            .protocol
            .map_or(0, |protocol| u32::from(protocol.0)),
        first_port: u32::from(ports.first()),
        last_port: u32::from(ports.last()),
    };
    (
        half(selector.source, selector.source_ports),
        half(selector.destination, selector.destination_ports),
    )
}

/// Writes what a packet is as two selectors that match just it, or any port where it shows none.
fn flow_to_bus(flow: &Flow) -> (types::Selector, types::Selector) {
    let half = |address: IpAddr, ports: PortRange| types::Selector {
        first: Some(address.into()),
        last: Some(address.into()),
        protocol: u32::from(flow.protocol.0),
        first_port: u32::from(ports.first()),
        last_port: u32::from(ports.last()),
    };
    let (source, destination) = match flow.addresses {
        Addresses::V4 {
            source,
            destination,
        } => (source.into(), destination.into()),
        Addresses::V6 {
            source,
            destination,
        } => (source.into(), destination.into()),
    };
    let (source_ports, destination_ports) = match flow.ports {
        Some((from, to)) => (PortRange::one(from), PortRange::one(to)),
        None => (PortRange::ANY, PortRange::ANY),
    };
    (
        half(source, source_ports),
        half(destination, destination_ports),
    )
}

/// Writes what an SA has carried.
pub fn usage_to_bus(id: SaKeyId, usage: Usage) -> bus::SaUsage {
    bus::SaUsage {
        key: Some(id_to_bus(id)),
        packets: usage.packets,
        bytes: usage.bytes,
        last_use_s: usage.last_use_s,
        replayed: usage.replayed,
        late: usage.late,
        bad_icv: usage.bad_icv,
        lost: usage.lost,
    }
}

/// Writes all of an SA that is not secret, as it was asked for and with the addresses that it has now.
pub fn dump(sa: &Sa) -> bus::SaDump {
    let spec = &sa.spec;
    let (encryption, bits) = match spec.suite.cipher() {
        Cipher::AesGcm16(bits) => (bus::EncryptionAlgorithm::AesGcm16, bits.bits()),
        Cipher::AesGcm12(bits) => (bus::EncryptionAlgorithm::AesGcm12, bits.bits()),
        Cipher::AesGcm8(bits) => (bus::EncryptionAlgorithm::AesGcm8, bits.bits()),
        Cipher::AesGmac(bits) => (bus::EncryptionAlgorithm::AesGmac, bits.bits()),
        Cipher::AesCbc(bits) => (bus::EncryptionAlgorithm::AesCbc, bits.bits()),
        Cipher::AesCtr(bits) => (bus::EncryptionAlgorithm::AesCtr, bits.bits()),
        Cipher::Null => (bus::EncryptionAlgorithm::Null, 0),
        Cipher::ChaCha20Poly1305 => (bus::EncryptionAlgorithm::Chacha20Poly1305, 256),
    };
    let integrity = match spec.suite.integrity() {
        Integrity::Aead => bus::IntegrityAlgorithm::Aead,
        Integrity::HmacSha1_96 => bus::IntegrityAlgorithm::HmacSha196,
        Integrity::HmacSha2_256_128 => bus::IntegrityAlgorithm::HmacSha2256128,
        Integrity::HmacSha2_384_192 => bus::IntegrityAlgorithm::HmacSha2384192,
        Integrity::HmacSha2_512_256 => bus::IntegrityAlgorithm::HmacSha2512256,
    };
    let or_zero = |limit: u64| if limit == u64::MAX { 0 } else { limit };
    let (mut sources, mut destinations) = (Vec::new(), Vec::new());
    for (source, destination) in spec.selectors.iter().map(selector_to_bus) {
        if !sources.contains(&source) {
            sources.push(source);
        }
        if !destinations.contains(&destination) {
            destinations.push(destination);
        }
    }
    let [installed_at_ms, soft_expires_at_ms, hard_expires_at_ms] = spec.timers;
    bus::SaDump {
        sa: Some(bus::Sa {
            key: Some(id_to_bus(spec.id)),
            source: Some(spec.source.into()),
            mode: match spec.mode {
                SaMode::Tunnel => bus::SaMode::Tunnel,
                SaMode::Transport => bus::SaMode::Transport,
            }
            .into(),
            encryption: encryption.into(),
            encryption_key_bits: u32::from(bits),
            integrity: integrity.into(),
            esn: spec.esn,
            replay_window: spec.replay_window,
            udp: spec.udp.map(|udp| bus::UdpEncapsulation {
                source_port: u32::from(udp.source),
                destination_port: u32::from(udp.destination),
            }),
            if_id: spec.if_id,
            reqid: spec.reqid,
            source_selectors: sources,
            destination_selectors: destinations,
            limits: Some(bus::SaLimits {
                soft_bytes: or_zero(spec.limits.soft_bytes),
                hard_bytes: or_zero(spec.limits.hard_bytes),
                soft_packets: or_zero(spec.limits.soft_packets),
                hard_packets: or_zero(spec.limits.hard_packets),
            }),
            installed_at_ms,
            soft_expires_at_ms,
            hard_expires_at_ms,
            copy_df: spec.copy_df,
            copy_ecn: spec.copy_ecn,
            copy_dscp: spec.copy_dscp,
            tfc_padding: spec.tfc_padding,
        }),
        usage: Some(usage_to_bus(spec.id, sa.state.usage())),
        fingerprint: fingerprint(sa),
        cleared: None,
    }
}

#[cfg(feature = "fingerprint")]
fn fingerprint(sa: &Sa) -> Vec<u8> {
    sa.state.fingerprint().to_vec()
}

#[cfg(not(feature = "fingerprint"))]
fn fingerprint(_sa: &Sa) -> Vec<u8> {
    Vec::new()
}

/// What a worker's event says to iked-bridge; `None` for events of other parts. `policy` finds a policy by number.
pub fn sa_event(
    event: &Event,
    policy: impl FnOnce(u32) -> Option<PolicySpec>,
) -> Option<bus::SaEvent> {
    use bus::sa_event::Event as Kind;
    let event = match event {
        Event::SaLimit { sa, hard } => Kind::Limit(bus::SaLimitReached {
            key: Some(id_to_bus(*sa)),
            hard: *hard,
        }),
        Event::MappingChanged { sa, source, port } => Kind::Mapping(bus::MappingChanged {
            key: Some(id_to_bus(*sa)),
            source: Some((*source).into()),
            source_port: u32::from(*port),
        }),
        Event::Acquire {
            policy: number,
            flow,
        } => {
            let spec = policy(*number)?;
            let (source, destination) = flow_to_bus(flow);
            Kind::Acquire(bus::Acquire {
                reqid: spec.reqid,
                if_id: spec.id.if_id,
                source: Some(source),
                destination: Some(destination),
            })
        }
        _ => return None,
    };
    Some(bus::SaEvent { event: Some(event) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Arc;

    use culvert_crypto::Portable;

    use super::*;
    use crate::sa::{SaManager, SaTables};

    fn range(first: [u8; 4], last: [u8; 4], ports: (u32, u32), protocol: u32) -> types::Selector {
        types::Selector {
            first: Some(IpAddr::from(first).into()),
            last: Some(IpAddr::from(last).into()),
            protocol,
            first_port: ports.0,
            last_port: ports.1,
        }
    }

    fn whole() -> bus::Sa {
        let address = |bytes: [u8; 4]| Some(types::IpAddress::from(IpAddr::from(bytes)));
        bus::Sa {
            key: Some(bus::SaKey {
                spi: 0xc123_4567,
                direction: bus::Direction::Out.into(),
                destination: address([198, 51, 100, 2]),
            }),
            source: address([192, 0, 2, 2]),
            mode: bus::SaMode::Tunnel.into(),
            encryption: bus::EncryptionAlgorithm::AesCbc.into(),
            encryption_key_bits: 192,
            integrity: bus::IntegrityAlgorithm::HmacSha2384192.into(),
            esn: true,
            replay_window: 256,
            udp: Some(bus::UdpEncapsulation {
                source_port: 4500,
                destination_port: 40_000,
            }),
            if_id: 7,
            reqid: 9,
            source_selectors: vec![range([10, 1, 0, 0], [10, 1, 0, 255], (0, 65535), 17)],
            destination_selectors: vec![range([10, 2, 0, 3], [10, 2, 0, 9], (80, 90), 17)],
            limits: Some(bus::SaLimits {
                soft_bytes: 1,
                hard_bytes: 2,
                soft_packets: 0,
                hard_packets: 4,
            }),
            installed_at_ms: 11,
            soft_expires_at_ms: 12,
            hard_expires_at_ms: 13,
            copy_df: true,
            copy_ecn: false,
            copy_dscp: true,
            tfc_padding: 700,
        }
    }

    #[test]
    fn a_dump_gives_back_what_was_asked_for_and_no_key() {
        for mode in [bus::SaMode::Tunnel, bus::SaMode::Transport] {
            let mut sa = whole();
            sa.mode = mode.into();
            dump_gives_back(sa);
        }
    }

    fn dump_gives_back(sa: bus::Sa) {
        let mut tables = SaTables::default();
        let mut manager = SaManager::new(Arc::new(Portable)).unwrap();
        let (encryption, integrity) = ([0xa5; 24], [0x5a; 48]);
        let index = manager
            .add(
                &mut tables,
                sa_from_bus(&sa).unwrap(),
                &encryption,
                &integrity,
            )
            .unwrap();
        let dumped = dump(tables.sas.get(index).unwrap());
        assert_eq!(dumped.sa, Some(sa));
        let bytes = prost::Message::encode_to_vec(&dumped);
        for key in [&encryption[..8], &integrity[..8]] {
            assert!(!bytes.windows(8).any(|window| window == key));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        type Change = fn(&mut bus::Sa);
        let cases: [(Change, &str); 11] = [
            (|sa| sa.key = None, "key is missing"),
            (|sa| sa.key.as_mut().unwrap().spi = 255, "255"),
            (
                |sa| sa.key.as_mut().unwrap().direction = 0,
                "direction is missing",
            ),
            (|sa| sa.source.as_mut().unwrap().address.push(1), "5 bytes"),
            (
                |sa| sa.source = Some(IpAddr::from([0u16; 8]).into()),
                "different families",
            ),
            (|sa| sa.mode = 77, "mode 77 is not supported"),
            (
                |sa| sa.encryption_key_bits = 136,
                "136 bits is not supported",
            ),
            (
                |sa| sa.integrity = bus::IntegrityAlgorithm::Aead.into(),
                "integrity",
            ),
            (|sa| sa.udp.as_mut().unwrap().source_port = 70_000, "70000"),
            (|sa| sa.replay_window = 5000, "5000"),
            (
                |sa| sa.source_selectors[0].last = Some(IpAddr::from([1, 1, 1, 1]).into()),
                "selector",
            ),
        ];
        for (change, expected) in cases {
            let mut sa = whole();
            change(&mut sa);
            let error = sa_from_bus(&sa).unwrap_err().to_string();
            assert!(
                error.contains(expected),
                "{error:?} does not say {expected:?}"
            );
        }
    }

    #[test]
    fn selectors_pair_by_family_and_protocol() {
        let mut sa = whole();
        sa.source_selectors
            .push(range([10, 3, 0, 0], [10, 3, 0, 255], (0, 0), 6));
        // TCP sources have no UDP destination.
        assert_eq!(sa_from_bus(&sa).unwrap().selectors.len(), 1);
        sa.source_selectors[1].protocol = 0;
        assert_eq!(sa_from_bus(&sa).unwrap().selectors.len(), 2);
        sa.source_selectors = vec![sa.source_selectors[0].clone(); 64 * 64 + 1];
        assert!(matches!(
            sa_from_bus(&sa),
            Err(SpecError::TooManySelectors(4097))
        ));
    }

    /// The most that the configuration takes: 64 networks here, 64 there.
    #[test]
    fn an_sa_carries_every_pair_of_a_connection_with_all_its_selectors() {
        let networks = |second: u8| {
            let network = |third: u8| {
                range(
                    [10, second, third, 0],
                    [10, second, third, 255],
                    (0, 65535),
                    0,
                )
            };
            (0..64).map(network).collect::<Vec<_>>()
        };
        let mut sa = whole();
        (sa.source_selectors, sa.destination_selectors) = (networks(1), networks(2));
        let mut tables = SaTables::default();
        let mut manager = SaManager::new(Arc::new(Portable)).unwrap();
        let index = manager
            .add(&mut tables, sa_from_bus(&sa).unwrap(), &[1; 24], &[2; 48])
            .unwrap();
        let installed = tables.sas.get(index).unwrap();
        for here in 0..65_u8 {
            for there in 0..65_u8 {
                let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0];
                packet.extend([10, 1, here, 9, 10, 2, there, 9, 0, 9, 0, 9, 0, 8, 0, 0]);
                let carried = installed.carries(false, || Flow::of(&packet).ok());
                assert_eq!(carried, here < 64 && there < 64, "{here} {there}");
            }
        }
        assert_eq!(dump(installed).sa, Some(sa));
    }

    /// As charon gives them: type and code on both sides, those of an echo reply being zero to zero.
    #[test]
    fn icmp_is_carried_by_type_and_code_both_ways() {
        let packet = |from: [u8; 4], to: [u8; 4], kind: u8| {
            let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0];
            packet.extend(from.iter().chain(&to));
            packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            Flow::of(&packet).unwrap()
        };
        let (here, there) = ([10, 1, 0, 1], [10, 2, 0, 1]);
        for (kind, other, remote_ports) in [
            (8, 0, (0x0800, 0x0800)),
            (0, 8, (0, 0)),
            (8, 0, (0, 65535)),
            (0, 8, (0, 65535)),
        ] {
            let number = u32::from(kind) << 8;
            let mut sa = whole();
            sa.source_selectors = vec![range([10, 1, 0, 0], [10, 1, 0, 255], (number, number), 1)];
            sa.destination_selectors = vec![range([10, 2, 0, 0], [10, 2, 0, 255], remote_ports, 1)];
            for inwards in [false, true] {
                if inwards {
                    let sides = (&mut sa.source_selectors, &mut sa.destination_selectors);
                    std::mem::swap(sides.0, sides.1);
                }
                let selectors = sa_from_bus(&sa).unwrap().selectors;
                let (from, to) = if inwards {
                    (there, here)
                } else {
                    (here, there)
                };
                assert_eq!(selectors.len(), 1);
                assert!(selectors[0].matches(&packet(from, to, kind)));
                assert!(!selectors[0].matches(&packet(from, to, other)));
            }
        }
    }

    #[test]
    fn zero_to_zero_is_every_port_only_where_there_are_none() {
        let ports = |protocol| {
            let half = range([10, 1, 0, 0], [10, 1, 0, 255], (0, 0), protocol);
            pair(&half, &half).unwrap().unwrap().destination_ports
        };
        for with_ports in [1, 6, 17, 58, 132] {
            assert_eq!(ports(with_ports), PortRange::one(0), "{with_ports}");
        }
        for without in [0, 47, 50, 89] {
            assert_eq!(ports(without), PortRange::ANY, "{without}");
        }
    }

    /// What charon negotiates for: the packet's own type and code on both sides, or any port where it shows none.
    #[test]
    fn an_acquire_names_the_packet_that_asked() {
        let packet = |offset: u8, protocol: u8, rest: [u8; 4]| {
            let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0, offset, 64, protocol, 0, 0];
            packet.extend([10, 1, 0, 1, 10, 2, 0, 1]);
            packet.extend(rest.iter().chain(&[0; 4]));
            let (source, destination) = flow_to_bus(&Flow::of(&packet).unwrap());
            let ports = |half: types::Selector| (half.first_port, half.last_port);
            (ports(source), ports(destination))
        };
        let one = |port| (port, port);
        assert_eq!(packet(0, 1, [8, 0, 1, 2]), (one(0x0800), one(0x0800)));
        assert_eq!(packet(0, 17, [0, 9, 0, 53]), (one(9), one(53)));
        assert_eq!(packet(0, 47, [0; 4]), ((0, 65535), (0, 65535)));
        assert_eq!(packet(1, 17, [9; 4]), ((0, 65535), (0, 65535)));
    }

    #[test]
    fn policies_come_back_as_they_were() {
        let policy = bus::Policy {
            key: Some(bus::PolicyKey {
                direction: bus::policy_key::Direction::Out.into(),
                if_id: 7,
                source: Some(range([10, 1, 0, 0], [10, 1, 0, 255], (0, 65535), 0)),
                destination: Some(range([10, 2, 0, 0], [10, 2, 0, 255], (0, 65535), 0)),
                spi: 5000,
            }),
            action: bus::policy::Action::Protect.into(),
            priority: 1,
            reqid: 3,
            tunnel_source: None,
            tunnel_destination: None,
        };
        assert_eq!(policy_to_bus(&policy_from_bus(&policy).unwrap()), policy);
    }
}
