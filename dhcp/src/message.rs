//! Messages (RFC 2131 section 2, RFC 2132): what a client sends, and what it reads of a server's.
//!
//! Options are taken apart here, and only those that mean something to a client are handed to dhcproto, one by one: what
//! a server says beside them, right or wrong, hides none of the others.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable as _, Decoder, Encodable as _};

use crate::refusal::Refusal;
use crate::terms::Offered;

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who has an address?
    Discover,
    /// This one, or this one again.
    Request,
    /// It is not needed any more.
    Release,
}

/// A message of a client; RFC 2131 table 5 says what goes into which.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Which.
    pub kind: Kind,
    /// By which the answer is known.
    pub transaction: u32,
    /// Since it began to ask.
    pub seconds: u16,
    /// Of the interface.
    pub mac: [u8; 6],
    /// `ciaddr`: it has this address now.
    pub current: Option<Ipv4Addr>,
    /// Option 50: it would have this one.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: of this server.
    pub server: Option<Ipv4Addr>,
    /// Option 61, its type first.
    pub client_id: &'a [u8],
    /// Option 12; empty: none.
    pub host_name: &'a str,
    /// Name servers are wanted.
    pub dns: bool,
}

/// Longest datagram that is read; option 57. Every link takes it.
pub const LONGEST: u16 = 1472;
/// RFC 1542 section 2.1: some relays drop what is shorter than a message of BOOTP.
const SHORTEST: usize = 300;

impl Request<'_> {
    /// The message as bytes. None: the library refuses it, which it does for no such message.
    pub fn write(&self) -> Option<Vec<u8>> {
        let mut message = Message::new_with_id(
            self.transaction,
            self.current.unwrap_or(Ipv4Addr::UNSPECIFIED),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            &self.mac,
        );
        message.set_secs(self.seconds);
        // Without an address it hears nothing that is sent to one.
        if self.current.is_none() {
            message.set_flags(Flags::default().set_broadcast());
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(match self.kind {
            Kind::Discover => MessageType::Discover,
            Kind::Request => MessageType::Request,
            Kind::Release => MessageType::Release,
        }));
        options.insert(DhcpOption::ClientIdentifier(self.client_id.to_vec()));
        if let Some(server) = self.server {
            options.insert(DhcpOption::ServerIdentifier(server));
        }
        if let Some(requested) = self.requested {
            options.insert(DhcpOption::RequestedIpAddress(requested));
        }
        if self.kind != Kind::Release {
            if !self.host_name.is_empty() {
                options.insert(DhcpOption::Hostname(self.host_name.to_owned()));
            }
            options.insert(DhcpOption::MaxMessageSize(LONGEST));
            // RFC 3442: option 121 before option 3.
            let mut wanted = vec![
                OptionCode::SubnetMask,
                OptionCode::ClasslessStaticRoute,
                OptionCode::Router,
                OptionCode::Renewal,
                OptionCode::Rebinding,
            ];
            if self.dns {
                wanted.extend([OptionCode::DomainNameServer, OptionCode::DomainName]);
            }
            options.insert(DhcpOption::ParameterRequestList(wanted));
        }
        let mut bytes = message.to_vec().ok()?;
        bytes.resize(bytes.len().max(SHORTEST), 0);
        Some(bytes)
    }
}

/// What a server answers.
#[derive(Clone, Debug)]
pub struct Reply {
    /// By which it is known.
    pub transaction: u32,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// What it says.
    pub said: Said,
}

/// See [`Reply`].
#[derive(Clone, Debug)]
pub enum Said {
    /// This could be had.
    Offer(Offered),
    /// This is had now.
    Ack(Offered),
    /// Not that.
    Nak,
}

// RFC 2131 figure 1, in bytes.
const SERVER_NAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const OPTIONS: usize = 240;
/// RFC 2131 section 3.
const COOKIE: [u8; 4] = [99, 130, 83, 99];

// RFC 2132.
const PAD: u8 = 0;
const MASK: u8 = 1;
const ROUTERS: u8 = 3;
const DNS_SERVERS: u8 = 6;
const DOMAIN: u8 = 15;
const LEASE_TIME: u8 = 51;
const OVERLOAD: u8 = 52;
const TYPE: u8 = 53;
const SERVER: u8 = 54;
const RENEW: u8 = 58;
const REBIND: u8 = 59;
const CLASSLESS_ROUTES: u8 = 121;
const END: u8 = 255;
const READ: [u8; 11] = [
    MASK,
    ROUTERS,
    DNS_SERVERS,
    DOMAIN,
    LEASE_TIME,
    OVERLOAD,
    TYPE,
    SERVER,
    RENEW,
    REBIND,
    CLASSLESS_ROUTES,
];

impl Reply {
    /// Reads a message for the client of this Ethernet address.
    pub fn read(bytes: &[u8], mac: [u8; 6]) -> Result<Self, Refusal> {
        let (header, area) = bytes.split_at_checked(OPTIONS).ok_or(Refusal::Malformed)?;
        let mut alone = header.to_vec();
        alone.push(END);
        let message = Message::decode(&mut Decoder::new(&alone)).map_err(|_| Refusal::Malformed)?;
        if message.opcode() != Opcode::BootReply || !header.ends_with(&COOKIE) {
            return Err(Refusal::NotOfServer);
        }
        if message.htype() != HType::Eth || message.hlen() != 6 || message.chaddr() != mac {
            return Err(Refusal::OtherClient);
        }
        let options = Options::read(header, area)?;
        let Some(DhcpOption::MessageType(kind)) = options.get(TYPE) else {
            return Err(Refusal::NotOfServer);
        };
        let server = options.address(SERVER);
        let offered = || Offered {
            address: Some(message.yiaddr()),
            server,
            mask: options.address(MASK),
            duration: options.seconds(LEASE_TIME),
            renew: options.seconds(RENEW),
            rebind: options.seconds(REBIND),
            routers: options.addresses(ROUTERS),
            routes: match options.get(CLASSLESS_ROUTES) {
                Some(DhcpOption::ClasslessStaticRoute(routes)) => Some(routes),
                _ => None,
            },
            dns_servers: options.addresses(DNS_SERVERS),
            domain: match options.get(DOMAIN) {
                Some(DhcpOption::DomainName(name)) => name,
                _ => String::new(),
            },
        };
        let said = match kind {
            MessageType::Offer => Said::Offer(offered()),
            MessageType::Ack => Said::Ack(offered()),
            MessageType::Nak => Said::Nak,
            _ => return Err(Refusal::NotOfServer),
        };
        Ok(Self {
            transaction: message.xid(),
            server,
            said,
        })
    }
}

/// The options that are read, each in one piece.
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    fn read(header: &[u8], area: &[u8]) -> Result<Self, Refusal> {
        let mut this = Self(BTreeMap::new());
        this.collect(area)?;
        // They may go on where the names would be (RFC 2132 section 9.3).
        let overload = match this.0.get(&OVERLOAD).map(Vec::as_slice) {
            Some([overload]) => *overload,
            _ => 0,
        };
        for (bit, place) in [(1, FILE), (2, SERVER_NAME)] {
            if overload & bit != 0 {
                this.collect(header.get(place).ok_or(Refusal::Malformed)?)?;
            }
        }
        Ok(this)
    }

    /// One that comes in several pieces is put together (RFC 3396).
    fn collect(&mut self, area: &[u8]) -> Result<(), Refusal> {
        let mut rest = area;
        loop {
            rest = match rest {
                [] | [END, ..] => return Ok(()),
                [PAD, rest @ ..] => rest,
                [_] => return Err(Refusal::Malformed),
                [code, length, rest @ ..] => {
                    let (value, rest) = rest
                        .split_at_checked(usize::from(*length))
                        .ok_or(Refusal::Malformed)?;
                    if READ.contains(code) {
                        self.0.entry(*code).or_default().extend(value);
                    }
                    rest
                }
            };
        }
    }

    /// What dhcproto makes of one; none: it is not there, or not what it should be.
    fn get(&self, code: u8) -> Option<DhcpOption> {
        let mut bytes = Vec::new();
        for piece in self.0.get(&code)?.chunks(255) {
            bytes.extend([code, piece.len() as u8]);
            bytes.extend(piece);
        }
        DhcpOption::decode(&mut Decoder::new(&bytes)).ok()
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        match self.get(code)? {
            DhcpOption::SubnetMask(address) | DhcpOption::ServerIdentifier(address) => {
                Some(address)
            }
            _ => None,
        }
    }

    fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        match self.get(code) {
            Some(DhcpOption::Router(all) | DhcpOption::DomainNameServer(all)) => all,
            _ => Vec::new(),
        }
    }

    fn seconds(&self, code: u8) -> Option<u32> {
        match self.get(code)? {
            DhcpOption::AddressLeaseTime(seconds)
            | DhcpOption::Renewal(seconds)
            | DhcpOption::Rebinding(seconds) => Some(seconds),
            _ => None,
        }
    }
}
