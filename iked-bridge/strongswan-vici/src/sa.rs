//! SAs as charon lists them.

use std::net::IpAddr;
use std::str::FromStr;

use crate::message::Message;

/// Why an SA could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SaError {
    /// A field that must be there is not.
    #[error("no {0}")]
    Missing(&'static str),
    /// A field that is not what it should be.
    #[error("{field} = {value}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What it was.
        value: String,
    },
}

/// An IKE SA.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // As many flags as charon lists.
pub struct IkeSa {
    /// Name of its connection.
    pub name: String,
    /// Unique while charon lives.
    pub unique_id: u32,
    /// IKE version, 1 or 2.
    pub version: u32,
    /// `CONNECTING`, `ESTABLISHED`, `REKEYING`, `REKEYED`, `DELETING` ...
    pub state: String,
    /// Our address.
    pub local_host: Option<IpAddr>,
    /// Our port.
    pub local_port: u16,
    /// Our identity.
    pub local_id: String,
    /// The peer's address.
    pub remote_host: Option<IpAddr>,
    /// The peer's port.
    pub remote_port: u16,
    /// The peer's identity.
    pub remote_id: String,
    /// We began it.
    pub initiator: bool,
    /// SPI of the initiator.
    pub initiator_spi: u64,
    /// SPI of the responder; 0: none yet.
    pub responder_spi: u64,
    /// We are behind a NAT.
    pub nat_local: bool,
    /// The peer is behind a NAT.
    pub nat_remote: bool,
    /// Any end is behind a NAT, or pretends to be.
    pub nat_any: bool,
    /// `AES_GCM_16` ...; empty: none yet.
    pub encr_alg: String,
    /// Bits; 0: the algorithm has one size only.
    pub encr_keysize: u32,
    /// Empty with an AEAD.
    pub integ_alg: String,
    /// `PRF_HMAC_SHA2_256` ...
    pub prf_alg: String,
    /// `CURVE_25519` ...
    pub dh_group: String,
    /// Seconds since it was established.
    pub established: Option<u64>,
    /// Seconds until it is rekeyed; negative: overdue.
    pub rekey_time: Option<i64>,
    /// Seconds until it is re-authenticated; negative: overdue.
    pub reauth_time: Option<i64>,
    /// Virtual addresses given to us.
    pub local_vips: Vec<String>,
    /// Virtual addresses given to the peer.
    pub remote_vips: Vec<String>,
    /// Its CHILD SAs.
    pub children: Vec<ChildSa>,
}

/// A CHILD SA: a pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSa {
    /// Name of its configuration.
    pub name: String,
    /// Unique while charon lives.
    pub unique_id: u32,
    /// Ties SAs to policies; the same over rekeys.
    pub reqid: u32,
    /// `INSTALLED`, `REKEYING`, `REKEYED`, `DELETING` ...
    pub state: String,
    /// `TUNNEL`, `TRANSPORT` ...
    pub mode: String,
    /// `ESP` or `AH`; empty until it is installed.
    pub protocol: String,
    /// In UDP.
    pub encap: bool,
    /// Inbound SPI, in host order; absent until it is installed.
    pub spi_in: Option<u32>,
    /// Outbound SPI, in host order.
    pub spi_out: Option<u32>,
    /// Tunnel interface of what comes in; 0: none.
    pub if_id_in: u32,
    /// Tunnel interface of what goes out; 0: none.
    pub if_id_out: u32,
    /// `AES_GCM_16` ...; empty: none.
    pub encr_alg: String,
    /// Bits; 0: the algorithm has one size only.
    pub encr_keysize: u32,
    /// Empty with an AEAD.
    pub integ_alg: String,
    /// Group of its own key exchange; empty: none.
    pub dh_group: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Bytes received.
    pub bytes_in: u64,
    /// Packets received.
    pub packets_in: u64,
    /// Seconds since the last packet received.
    pub use_in: Option<u64>,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Seconds since the last packet sent.
    pub use_out: Option<u64>,
    /// Seconds until it is rekeyed; negative: overdue.
    pub rekey_time: Option<i64>,
    /// Seconds until it ends; negative: overdue.
    pub life_time: Option<i64>,
    /// Seconds since it was installed.
    pub install_time: u64,
    /// Selectors of our side, as charon prints them: `10.1.0.0/16`, `10.1.0.0/16[tcp/80]`.
    pub local_ts: Vec<String>,
    /// Selectors of the peer's side.
    pub remote_ts: Vec<String>,
}

impl IkeSa {
    /// The one IKE SA of a `list-sa` event.
    pub fn from_listing(message: &Message) -> Result<Self, SaError> {
        let (name, section) = message
            .sections()
            .next()
            .ok_or(SaError::Missing("IKE SA"))?;
        Self::read(name, section)
    }

    pub(crate) fn read(name: &str, section: &Message) -> Result<Self, SaError> {
        let mut ike = Self::read_without_children(name, section)?;
        if let Some(children) = section.section("child-sas") {
            ike.children = children
                .sections()
                .map(|(_, child)| ChildSa::read(child))
                .collect::<Result<_, _>>()?;
        }
        Ok(ike)
    }

    pub(crate) fn read_without_children(name: &str, section: &Message) -> Result<Self, SaError> {
        Ok(Self {
            name: name.to_owned(),
            unique_id: number(section, "uniqueid")?.ok_or(SaError::Missing("uniqueid"))?,
            version: number(section, "version")?.unwrap_or_default(),
            state: text(section, "state"),
            // `%any` before it is known.
            local_host: section.parse("local-host"),
            local_port: number(section, "local-port")?.unwrap_or_default(),
            local_id: text(section, "local-id"),
            remote_host: section.parse("remote-host"),
            remote_port: number(section, "remote-port")?.unwrap_or_default(),
            remote_id: text(section, "remote-id"),
            initiator: section.is_yes("initiator"),
            initiator_spi: hex(section, "initiator-spi")?.unwrap_or_default(),
            responder_spi: hex(section, "responder-spi")?.unwrap_or_default(),
            nat_local: section.is_yes("nat-local"),
            nat_remote: section.is_yes("nat-remote"),
            nat_any: section.is_yes("nat-any"),
            encr_alg: text(section, "encr-alg"),
            encr_keysize: number(section, "encr-keysize")?.unwrap_or_default(),
            integ_alg: text(section, "integ-alg"),
            prf_alg: text(section, "prf-alg"),
            dh_group: text(section, "dh-group"),
            established: number(section, "established")?,
            rekey_time: number(section, "rekey-time")?,
            reauth_time: number(section, "reauth-time")?,
            local_vips: section.list("local-vips").map(str::to_owned).collect(),
            remote_vips: section.list("remote-vips").map(str::to_owned).collect(),
            children: Vec::new(),
        })
    }
}

impl ChildSa {
    pub(crate) fn read(section: &Message) -> Result<Self, SaError> {
        Ok(Self {
            name: text(section, "name"),
            unique_id: number(section, "uniqueid")?.ok_or(SaError::Missing("uniqueid"))?,
            reqid: number(section, "reqid")?.unwrap_or_default(),
            state: text(section, "state"),
            mode: text(section, "mode"),
            protocol: text(section, "protocol"),
            encap: section.is_yes("encap"),
            spi_in: hex32(section, "spi-in")?,
            spi_out: hex32(section, "spi-out")?,
            if_id_in: hex32(section, "if-id-in")?.unwrap_or_default(),
            if_id_out: hex32(section, "if-id-out")?.unwrap_or_default(),
            encr_alg: text(section, "encr-alg"),
            encr_keysize: number(section, "encr-keysize")?.unwrap_or_default(),
            integ_alg: text(section, "integ-alg"),
            dh_group: text(section, "dh-group"),
            esn: section.text("esn") == Some("1"),
            bytes_in: number(section, "bytes-in")?.unwrap_or_default(),
            packets_in: number(section, "packets-in")?.unwrap_or_default(),
            use_in: number(section, "use-in")?,
            bytes_out: number(section, "bytes-out")?.unwrap_or_default(),
            packets_out: number(section, "packets-out")?.unwrap_or_default(),
            use_out: number(section, "use-out")?,
            rekey_time: number(section, "rekey-time")?,
            life_time: number(section, "life-time")?,
            install_time: number(section, "install-time")?.unwrap_or_default(),
            local_ts: section.list("local-ts").map(str::to_owned).collect(),
            remote_ts: section.list("remote-ts").map(str::to_owned).collect(),
        })
    }
}

fn text(section: &Message, field: &str) -> String {
    section.text(field).unwrap_or_default().to_owned()
}

fn number<T: FromStr>(section: &Message, field: &'static str) -> Result<Option<T>, SaError> {
    read_with(section, field, |text| text.parse().ok())
}

fn hex(section: &Message, field: &'static str) -> Result<Option<u64>, SaError> {
    read_with(section, field, |text| u64::from_str_radix(text, 16).ok())
}

fn hex32(section: &Message, field: &'static str) -> Result<Option<u32>, SaError> {
    read_with(section, field, |text| u32::from_str_radix(text, 16).ok())
}

fn read_with<T>(
    section: &Message,
    field: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, SaError> {
    let Some(value) = section.value(field) else {
        return Ok(None);
    };
    match std::str::from_utf8(value).ok().and_then(read) {
        Some(read) => Ok(Some(read)),
        None => Err(SaError::Invalid {
            field,
            value: String::from_utf8_lossy(value).into_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn listing() -> Message {
        let child = Message::new()
            .with("name", "net")
            .with("uniqueid", "3")
            .with("reqid", "1")
            .with("state", "INSTALLED")
            .with("spi-in", "c0ffee01")
            .with("spi-out", "c0ffee02")
            .with("if-id-in", "0000002a")
            .with("encr-alg", "AES_GCM_16")
            .with("encr-keysize", "128")
            .with("esn", "1")
            .with("bytes-in", "18446744073709551615")
            .with("rekey-time", "-5")
            .with_list("local-ts", ["10.1.0.0/16", "fd00::/64"]);
        let ike = Message::new()
            .with("uniqueid", "1")
            .with("version", "2")
            .with("state", "ESTABLISHED")
            .with("local-host", "192.0.2.1")
            .with("remote-host", "%any")
            .with("remote-port", "4500")
            .with("initiator", "yes")
            .with("initiator-spi", "0123456789abcdef")
            .with_section("child-sas", Message::new().with_section("net-3", child));
        Message::new().with_section("hq", ike)
    }

    #[test]
    fn a_listing_is_read() {
        let ike = IkeSa::from_listing(&listing()).unwrap();
        assert_eq!(
            (ike.name.as_str(), ike.unique_id, ike.initiator),
            ("hq", 1, true)
        );
        assert_eq!(
            (ike.local_host, ike.remote_host),
            (Some("192.0.2.1".parse().unwrap()), None)
        );
        assert_eq!(
            (ike.remote_port, ike.initiator_spi),
            (4500, 0x0123_4567_89ab_cdef)
        );
        let child = &ike.children[0];
        assert_eq!(
            (child.spi_in, child.spi_out, child.if_id_in),
            (Some(0xc0ff_ee01), Some(0xc0ff_ee02), 42)
        );
        assert_eq!(
            (child.bytes_in, child.rekey_time, child.esn),
            (u64::MAX, Some(-5), true)
        );
        assert_eq!(child.local_ts, ["10.1.0.0/16", "fd00::/64"]);
    }

    #[test]
    fn a_field_that_is_nonsense_is_named() {
        let broken = Message::new().with_section("hq", Message::new().with("uniqueid", "one"));
        let error = SaError::Invalid {
            field: "uniqueid",
            value: "one".into(),
        };
        assert_eq!(IkeSa::from_listing(&broken), Err(error));
        assert_eq!(
            IkeSa::from_listing(&Message::new()),
            Err(SaError::Missing("IKE SA"))
        );
    }
}
