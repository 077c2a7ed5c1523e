//! Security associations as the table knows them: everything but the keys.
//!
//! The non-secret half of an SA is the bus message [`bus::Sa`] itself, since that is what the dataplane keeps and gives
//! back in a dump. What the manager decides on (name, direction, limits) is parsed out of it once.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use culvert_model::bus::{self, Direction};
use culvert_plugin_wire as wire;

use crate::algorithm::{AlgorithmError, Transforms};
use crate::selector::{Selector, SelectorError};

/// An SA that the bridge cannot take as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssociationError {
    /// The message lacks what an SA must have.
    #[error("an SA without {0}")]
    Missing(&'static str),
    /// An address that is none.
    #[error("an SA with {0}")]
    Address(#[from] wire::AddressError),
    /// A selector that is none.
    #[error("an SA with {0}")]
    Selector(#[from] SelectorError),
    /// Not ESP.
    #[error("IP protocol {0} instead of ESP (50)")]
    Protocol(u32),
    /// RFC 4303 section 2.1: 0 to 255 are reserved.
    #[error("the reserved SPI {0}")]
    Spi(u32),
    /// Algorithms the dataplane does not have.
    #[error(transparent)]
    Algorithm(#[from] AlgorithmError),
    /// A mode the dataplane does not have.
    #[error("{0} mode is not supported")]
    Mode(&'static str),
    /// Compression the dataplane does not have.
    #[error("IPComp transform {0} is not supported")]
    Compression(u32),
}

/// What tells an SA from every other: its SPI and outer destination (RFC 4301 section 4.1; the protocol is always ESP).
///
/// For an outbound SA the SPI is the peer's choice, and two peers may choose the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SaName {
    /// In host order.
    pub spi: u32,
    /// Outer destination.
    pub destination: IpAddr,
}

impl fmt::Display for SaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}@{}", self.spi, self.destination)
    }
}

impl fmt::Debug for SaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SaName {
    /// From the plugin's name of an SA.
    pub fn from_wire(id: Option<&wire::SaId>) -> Result<Self, AssociationError> {
        let id = id.ok_or(AssociationError::Missing("a name"))?;
        if id.protocol != wire::algorithm::PROTO_ESP {
            return Err(AssociationError::Protocol(id.protocol));
        }
        let destination = id
            .dst
            .as_ref()
            .ok_or(AssociationError::Missing("a destination"))?
            .ip()?;
        Ok(Self {
            spi: id.spi,
            destination,
        })
    }

    /// From the dataplane's name of an SA, with its direction.
    pub fn from_bus(key: Option<&bus::SaKey>) -> Result<(Self, Direction), AssociationError> {
        let key = key.ok_or(AssociationError::Missing("a key"))?;
        let destination = key
            .destination
            .as_ref()
            .and_then(|address| IpAddr::try_from(address).ok())
            .ok_or(AssociationError::Missing("a destination"))?;
        match key.direction() {
            Direction::Unspecified => Err(AssociationError::Missing("a direction")),
            direction => Ok((
                Self {
                    spi: key.spi,
                    destination,
                },
                direction,
            )),
        }
    }

    /// As the dataplane names it.
    pub fn to_bus(self, direction: Direction) -> bus::SaKey {
        bus::SaKey {
            spi: self.spi,
            direction: direction.into(),
            destination: Some(self.destination.into()),
        }
    }
}

/// A request to install an SA, keys included. The last reference that goes wipes the keys.
pub type Installation = Arc<bus::AddSaRequest>;

/// Turns charon's call into what the dataplane installs. The keys leave `call`, which is wiped with what is left.
///
/// `now_ms` is `CLOCK_BOOTTIME`; the time limits of the SA count from it.
pub fn installation(
    mut call: wire::AddSa,
    now_ms: u64,
) -> Result<(SaName, Installation), AssociationError> {
    let name = SaName::from_wire(call.id.as_ref())?;
    if name.spi < 256 {
        return Err(AssociationError::Spi(name.spi));
    }
    let mode = match call.mode() {
        wire::Mode::Tunnel => bus::SaMode::Tunnel,
        wire::Mode::Transport => bus::SaMode::Transport,
        wire::Mode::Beet => return Err(AssociationError::Mode("BEET")),
        wire::Mode::None | wire::Mode::Pass | wire::Mode::Drop => {
            return Err(AssociationError::Mode("no"));
        }
    };
    if call.ipcomp != 0 {
        return Err(AssociationError::Compression(call.ipcomp));
    }
    let (copy_df, copy_ecn) = (call.copy_df, call.copy_ecn);
    let copy_dscp = matches!(
        call.copy_dscp(),
        wire::DscpCopy::OutOnly | wire::DscpCopy::Yes
    );
    let mut keys = call.keys.take().ok_or(AssociationError::Missing("keys"))?;
    let transforms = Transforms::from_charon(
        call.encryption,
        call.integrity,
        keys.encryption.len(),
        keys.integrity.len(),
    )?;
    let id = call.id.take().ok_or(AssociationError::Missing("a name"))?;
    let source = id
        .src
        .as_ref()
        .ok_or(AssociationError::Missing("a source"))?
        .socket_addr()?;
    let destination = id
        .dst
        .as_ref()
        .ok_or(AssociationError::Missing("a destination"))?
        .socket_addr()?;
    let selectors = |from: &[wire::Selector]| {
        from.iter()
            .map(|selector| Selector::from_wire(selector).map(Selector::to_bus))
            .collect::<Result<Vec<_>, _>>()
    };
    let lifetimes = call.lifetimes.unwrap_or_default();
    let time = lifetimes.time.unwrap_or_default();
    let bytes = lifetimes.bytes.unwrap_or_default();
    let packets = lifetimes.packets.unwrap_or_default();
    let at = |seconds: u64| match seconds {
        0 => 0,
        seconds => now_ms.saturating_add(seconds.saturating_mul(1000)),
    };
    let direction = if call.inbound {
        Direction::In
    } else {
        Direction::Out
    };
    let sa = bus::Sa {
        key: Some(name.to_bus(direction)),
        source: Some(source.ip().into()),
        mode: mode.into(),
        encryption: transforms.encryption.into(),
        encryption_key_bits: transforms.encryption_key_bits,
        integrity: transforms.integrity.into(),
        esn: call.esn,
        replay_window: call.replay_window,
        udp: call.encap.then(|| bus::UdpEncapsulation {
            source_port: source.port().into(),
            destination_port: destination.port().into(),
        }),
        if_id: id.if_id,
        reqid: call.reqid,
        source_selectors: selectors(&call.src_ts)?,
        destination_selectors: selectors(&call.dst_ts)?,
        limits: Some(bus::SaLimits {
            soft_bytes: bytes.rekey,
            hard_bytes: bytes.life,
            soft_packets: packets.rekey,
            hard_packets: packets.life,
        }),
        installed_at_ms: now_ms,
        soft_expires_at_ms: at(time.rekey),
        hard_expires_at_ms: at(time.life),
        copy_df,
        copy_ecn,
        copy_dscp,
        tfc_padding: call.tfc,
    };
    let installation = bus::AddSaRequest {
        sa: Some(sa),
        keys: Some(bus::SaKeys {
            encryption: std::mem::take(&mut keys.encryption),
            integrity: std::mem::take(&mut keys.integrity),
        }),
    };
    Ok((name, Arc::new(installation)))
}

/// What an SA carried, as charon asks for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// `CLOCK_MONOTONIC` seconds of the last good packet; 0: none yet.
    pub last_use_s: u64,
}

impl Usage {
    /// Takes a newer sample. Counts never go back: charon ignores the use time unless the bytes grow.
    pub fn merge(&mut self, sample: &bus::SaUsage) {
        self.bytes = self.bytes.max(sample.bytes);
        self.packets = self.packets.max(sample.packets);
        self.last_use_s = self.last_use_s.max(sample.last_use_s);
    }

    /// As charon reads it.
    pub fn to_wire(self) -> wire::Usage {
        wire::Usage {
            bytes: self.bytes,
            packets: self.packets,
            use_time: self.last_use_s,
        }
    }
}

/// Which of its byte and packet limits an SA with this usage has reached: soft, hard.
pub fn limits_reached(limits: Option<&bus::SaLimits>, usage: Usage) -> (bool, bool) {
    let Some(limits) = limits else {
        return (false, false);
    };
    let over = |limit: u64, count: u64| limit != 0 && count >= limit;
    (
        over(limits.soft_bytes, usage.bytes) || over(limits.soft_packets, usage.packets),
        over(limits.hard_bytes, usage.bytes) || over(limits.hard_packets, usage.packets),
    )
}

/// The pairs of selectors (near end, far end) of an SA, the near end being ours whatever the direction.
pub fn selector_pairs(sa: &bus::Sa, direction: Direction) -> Vec<(Selector, Selector)> {
    let parse = |from: &[culvert_model::types::Selector]| {
        from.iter()
            .filter_map(|selector| Selector::from_bus(selector).ok())
            .collect::<Vec<_>>()
    };
    let (near, far) = match direction {
        Direction::In => (&sa.destination_selectors, &sa.source_selectors),
        _ => (&sa.source_selectors, &sa.destination_selectors),
    };
    let far = parse(far);
    parse(near)
        .into_iter()
        .flat_map(|near| far.iter().map(move |far| (near, *far)))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn call() -> wire::AddSa {
        let host = |text: &str| wire::Host::from(text.parse::<std::net::SocketAddr>().unwrap());
        let any =
            wire::Selector::addresses("10.1.0.0".parse().unwrap(), "10.1.0.255".parse().unwrap());
        wire::AddSa {
            id: Some(wire::SaId {
                src: Some(host("192.0.2.1:4500")),
                dst: Some(host("192.0.2.2:1024")),
                spi: 0xc000_0001,
                protocol: 50,
                mark: None,
                if_id: 7,
            }),
            reqid: 3,
            mode: wire::Mode::Tunnel.into(),
            src_ts: vec![any.clone()],
            dst_ts: vec![any],
            lifetimes: Some(wire::Lifetimes {
                time: Some(wire::Limit {
                    rekey: 100,
                    life: 120,
                }),
                bytes: Some(wire::Limit { rekey: 5, life: 6 }),
                packets: None,
            }),
            encryption: 20,
            integrity: 1024,
            keys: Some(wire::SaKeys {
                encryption: vec![0xa5; 20],
                integrity: vec![],
            }),
            replay_window: 64,
            encap: true,
            esn: true,
            tfc: 700,
            ..wire::AddSa::default()
        }
    }

    #[test]
    fn a_call_becomes_what_the_dataplane_installs() {
        let (name, installation) = installation(call(), 1000).unwrap();
        assert_eq!(name.to_string(), "c0000001@192.0.2.2");
        let sa = installation.sa.as_ref().unwrap();
        assert_eq!(
            SaName::from_bus(sa.key.as_ref()).unwrap(),
            (name, Direction::Out)
        );
        assert_eq!(
            (
                sa.soft_expires_at_ms,
                sa.hard_expires_at_ms,
                sa.installed_at_ms
            ),
            (101_000, 121_000, 1000)
        );
        assert_eq!(sa.udp.unwrap().destination_port, 1024);
        assert_eq!(sa.limits.unwrap().hard_bytes, 6);
        assert_eq!(sa.tfc_padding, 700);
        assert_eq!(sa.mode(), bus::SaMode::Tunnel);
        assert_eq!(installation.keys.as_ref().unwrap().encryption.len(), 20);
        assert!(!format!("{installation:?}").contains("165"));
        let mut transport = call();
        transport.mode = wire::Mode::Transport.into();
        let (_, installation) = super::installation(transport, 1000).unwrap();
        assert_eq!(
            installation.sa.as_ref().unwrap().mode(),
            bus::SaMode::Transport
        );
    }

    #[test]
    fn what_cannot_be_installed_is_refused_by_name() {
        type Spoil = fn(&mut wire::AddSa);
        let cases: [(Spoil, &str); 6] = [
            (|call| call.mode = wire::Mode::Beet.into(), "BEET"),
            (|call| call.encryption = 13, "AES-CTR"),
            (|call| call.id.as_mut().unwrap().spi = 255, "255"),
            (|call| call.id.as_mut().unwrap().protocol = 51, "51"),
            (|call| call.ipcomp = 2, "IPComp"),
            (|call| call.keys = None, "keys"),
        ];
        for (spoil, word) in cases {
            let mut call = call();
            spoil(&mut call);
            let message = installation(call, 0).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn usage_never_goes_back() {
        let mut usage = Usage {
            bytes: 10,
            packets: 2,
            last_use_s: 5,
        };
        usage.merge(&bus::SaUsage {
            bytes: 9,
            packets: 3,
            last_use_s: 4,
            ..bus::SaUsage::default()
        });
        assert_eq!((usage.bytes, usage.packets, usage.last_use_s), (10, 3, 5));
    }
}
