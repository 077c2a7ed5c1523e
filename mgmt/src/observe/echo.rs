//! Echo requests of the box itself, without privilege: an ICMP datagram socket, whose replies and errors the kernel sorts.
//!
//! ```text
//!   ping        seq 1 ──> ... seq n ──>         schedule (pure): what to send, what has been answered, what is lost
//!   traceroute  hops 1, 2, 3 ... three probes each, until the destination answers
//!
//!   socket(SOCK_DGRAM, IPPROTO_ICMP) ──> reply        received from the socket
//!                                    └─> ICMP error   from its error queue (IP_RECVERR): who said it, and what
//! ```
//!
//! Linux allows such sockets to the groups of `net.ipv4.ping_group_range`, which `culvert run` sets for the box's own network
//! namespace. The packets take the way of all the box's own packets: by a TAP into the dataplane, and through tunnels where
//! routes lead into them.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, setsockopt, sockopt,
};

/// Of an ICMP message.
const HEADER: usize = 8;
const REQUEST: [u8; 2] = [8, 128];
const REPLY: [u8; 2] = [0, 129];
/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6`: a router or the destination said it, not this kernel.
const FROM_ICMP: [u8; 2] = [libc_origin::ICMP, libc_origin::ICMP6];

/// From linux/errqueue.h.
mod libc_origin {
    pub const ICMP: u8 = 2;
    pub const ICMP6: u8 = 3;
}

/// Largest payload of an echo request: that of an IPv4 packet, less its headers.
pub const LARGEST: u32 = 65_507 - HEADER as u32;

/// Why there is no echo at all.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// The kernel does not give one.
    #[error("no socket for echo requests: {0}")]
    Socket(#[source] io::Error),
    /// Not an address of the box.
    #[error("{address} is no address of this gateway that packets can be sent from: {source}")]
    Source {
        /// As asked for.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No route, for example.
    #[error("{address} cannot be reached: {source}")]
    Destination {
        /// As asked for.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// An echo reply.
    Reply {
        /// Of its request.
        sequence: u16,
        /// Of the message.
        bytes: usize,
    },
    /// An ICMP error.
    Error {
        /// Of the request that it is about.
        sequence: u16,
        /// Who said so; none: this kernel.
        from: Option<IpAddr>,
        /// The request died of its age: the way went so far.
        expired: bool,
        /// What was said.
        reason: String,
    },
}

/// A socket for echo requests to one address.
pub struct Echo {
    socket: OwnedFd,
    six: bool,
}

impl Echo {
    /// Towards a destination, from an address of the box if one is named.
    pub fn open(destination: IpAddr, source: Option<IpAddr>) -> Result<Self, EchoError> {
        let six = destination.is_ipv6();
        let (family, protocol) = if six {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let failed = |errno: Errno| EchoError::Socket(errno.into());
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(family, SockType::Datagram, flags, protocol).map_err(failed)?;
        if six {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).map_err(failed)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).map_err(failed)?;
        }
        let place = |address| SockaddrStorage::from(SocketAddr::new(address, 0));
        if let Some(address) = source {
            // The kernel binds to addresses that are yet to come, too: sshd wants it so.
            if !is_own(address) {
                return Err(EchoError::Source {
                    address,
                    source: Errno::EADDRNOTAVAIL.into(),
                });
            }
            socket::bind(socket.as_raw_fd(), &place(address)).map_err(|errno| {
                EchoError::Source {
                    address,
                    source: errno.into(),
                }
            })?;
        }
        socket::connect(socket.as_raw_fd(), &place(destination)).map_err(|errno| {
            EchoError::Destination {
                address: destination,
                source: errno.into(),
            }
        })?;
        Ok(Self { socket, six })
    }

    /// Requests live for so many hops from now on.
    pub fn set_hops(&self, hops: u8) -> Result<(), EchoError> {
        let hops = i32::from(hops);
        if self.six {
            setsockopt(&self.socket, sockopt::Ipv6Ttl, &hops)
        } else {
            setsockopt(&self.socket, sockopt::Ipv4Ttl, &hops)
        }
        .map_err(|errno| EchoError::Socket(errno.into()))
    }

    /// Sends a request with so many bytes behind its header; the kernel writes identifier and checksum.
    pub fn send(&self, sequence: u16, size: u32) -> io::Result<()> {
        let message = request(self.six, sequence, size);
        match socket::send(
            self.socket.as_raw_fd(),
            &message,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        ) {
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for something to come, at most until then.
    pub fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        // One millisecond more: a wait of zero would go round and round until the time has come.
        let left = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        let mut files = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is a short one.
        let _ = poll(&mut files, PollTimeout::from(left));
    }

    /// What has come, if anything has.
    pub fn receive(&self) -> Option<Came> {
        // The error queue first: a pending error would be given by the next call instead of what it is asked for.
        self.error().or_else(|| self.reply())
    }

    fn reply(&self) -> Option<Came> {
        let mut buffer = vec![0; HEADER + LARGEST as usize];
        loop {
            let length = socket::recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
            match length {
                Ok(length) => {
                    if let Some(came) = buffer
                        .get(..length)
                        .and_then(|bytes| reply(self.six, bytes))
                    {
                        return Some(came);
                    }
                }
                // What it was about is in the queue, or was no answer.
                Err(Errno::EAGAIN) => return None,
                Err(Errno::EINTR) => {}
                Err(_) => return self.error(),
            }
        }
    }

    fn error(&self) -> Option<Came> {
        let mut buffer = [0; 512];
        let mut control = nix::cmsg_space!([u8; 256]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = socket::recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )
        .ok()?;
        let length = message.bytes;
        let mut said = None;
        for part in message.cmsgs().ok()? {
            said = match part {
                ControlMessageOwned::Ipv4RecvErr(error, from) => {
                    let from = from.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()));
                    Some((error, from))
                }
                ControlMessageOwned::Ipv6RecvErr(error, from) => {
                    Some((error, from.map(|from| IpAddr::from(from.sin6_addr.s6_addr))))
                }
                _ => said,
            };
        }
        let (error, from) = said?;
        let icmp = FROM_ICMP.contains(&error.ee_origin);
        let errno = Errno::from_raw(i32::try_from(error.ee_errno).unwrap_or_default());
        Some(Came::Error {
            sequence: sequence(buffer.get(..length)?)?,
            from: from.filter(|_| icmp),
            expired: icmp && matches!((self.six, error.ee_type), (false, 11) | (true, 3)),
            reason: match errno {
                Errno::EMSGSIZE => format!("too big: {} bytes fit", error.ee_info),
                Errno::EHOSTUNREACH => "host unreachable".to_owned(),
                Errno::ENETUNREACH => "network unreachable".to_owned(),
                Errno::EACCES => "administratively prohibited".to_owned(),
                Errno::ECONNREFUSED => "port unreachable".to_owned(),
                other => other.desc().to_owned(),
            },
        })
    }
}

/// An address of the box.
fn is_own(address: IpAddr) -> bool {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    all.filter_map(|one| one.address).any(|own| {
        let four = own.as_sockaddr_in().map(|own| IpAddr::from(own.ip()));
        let six = own.as_sockaddr_in6().map(|own| IpAddr::from(own.ip()));
        four.or(six) == Some(address)
    })
}

fn request(six: bool, sequence: u16, size: u32) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message.splice(..1, [REQUEST[usize::from(six)]]);
    message.splice(6..8, sequence.to_be_bytes());
    // Bytes that differ: what is shortened or mixed up on the way is no reply to it.
    message.extend((0..size.min(LARGEST)).map(|at| at as u8));
    message
}

fn reply(six: bool, bytes: &[u8]) -> Option<Came> {
    let (kind, rest) = bytes.split_first()?;
    let payload = bytes.get(HEADER..)?;
    let whole = payload
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == at as u8);
    (*kind == REPLY[usize::from(six)] && rest.first() == Some(&0) && whole).then_some(())?;
    Some(Came::Reply {
        sequence: sequence(bytes)?,
        bytes: bytes.len(),
    })
}

/// Of an echo message.
fn sequence(message: &[u8]) -> Option<u16> {
    let bytes = message.get(6..8)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// When to send, and what became of it: without sockets or clocks.
#[derive(Debug)]
pub struct Schedule {
    count: u32,
    interval: Duration,
    patience: Duration,
    sent: u32,
    next: Instant,
    waiting: BTreeMap<u32, Instant>,
}

impl Schedule {
    /// So many requests, the first one now, each given up after so long.
    pub fn new(count: u32, interval: Duration, patience: Duration, now: Instant) -> Self {
        Self {
            count,
            interval,
            patience,
            sent: 0,
            next: now,
            waiting: BTreeMap::new(),
        }
    }

    /// The request that is to be sent now, counted from 1.
    pub fn due(&mut self, now: Instant) -> Option<u32> {
        if self.sent >= self.count || now < self.next {
            return None;
        }
        self.sent += 1;
        // Late is late: the ones after it are not sent in a burst.
        self.next = now + self.interval;
        self.waiting.insert(self.sent, now);
        Some(self.sent)
    }

    /// What came for a request: which it was, and how long it took. None: it was given up, or answered before.
    pub fn came(&mut self, sequence: u16, now: Instant) -> Option<(u32, Duration)> {
        let number = *self
            .waiting
            .keys()
            .rev()
            .find(|number| **number as u16 == sequence)?;
        let sent = self.waiting.remove(&number)?;
        Some((number, now.saturating_duration_since(sent)))
    }

    /// Forgets a request that could not be sent.
    pub fn unsent(&mut self, number: u32) {
        self.waiting.remove(&number);
    }

    /// Those that are waited for no longer.
    pub fn lost(&mut self, now: Instant) -> Vec<u32> {
        let patience = self.patience;
        let gone: Vec<u32> = self
            .waiting
            .iter()
            .filter(|(_, sent)| now.saturating_duration_since(**sent) >= patience)
            .map(|(number, _)| *number)
            .collect();
        for number in &gone {
            self.waiting.remove(number);
        }
        gone
    }

    /// When there is something to do; none: it is over.
    pub fn deadline(&self) -> Option<Instant> {
        let next = (self.sent < self.count).then_some(self.next);
        let lost = self
            .waiting
            .values()
            .min()
            .map(|sent| *sent + self.patience);
        [next, lost].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn requests_are_those_of_rfc_792_and_4443() {
        assert_eq!(
            request(false, 0x1234, 3),
            [8, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 1, 2]
        );
        assert_eq!(request(true, 1, 0), [128, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(request(false, 1, u32::MAX).len(), 65_507);
    }

    #[test]
    fn replies_bring_back_what_was_sent() {
        let mut message = request(false, 7, 300);
        message[0] = 0;
        let came = Came::Reply {
            sequence: 7,
            bytes: 308,
        };
        assert_eq!(reply(false, &message), Some(came));
        assert_eq!(reply(true, &message), None);
        message[300] ^= 1;
        assert_eq!(reply(false, &message), None);
        for length in 0..8 {
            assert_eq!(reply(false, &message[..length]), None);
        }
    }

    #[test]
    fn each_request_is_answered_or_lost_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new(3, SECOND, 2 * SECOND, now);
        assert_eq!(schedule.due(now), Some(1));
        assert_eq!(schedule.due(now), None);
        assert_eq!(schedule.deadline(), Some(now + SECOND));
        assert_eq!(schedule.came(1, now + SECOND / 2), Some((1, SECOND / 2)));
        assert_eq!(schedule.came(1, now + SECOND), None);
        // Late by two intervals: the third waits for its own.
        assert_eq!(schedule.due(now + 3 * SECOND), Some(2));
        assert_eq!(schedule.due(now + 3 * SECOND), None);
        assert_eq!(schedule.due(now + 4 * SECOND), Some(3));
        assert_eq!(schedule.lost(now + 5 * SECOND), [2]);
        assert_eq!(schedule.came(2, now + 5 * SECOND), None);
        schedule.unsent(3);
        assert_eq!(schedule.deadline(), None);
    }

    #[test]
    fn numbers_beyond_sixteen_bits_find_their_request() {
        let now = Instant::now();
        let mut schedule = Schedule::new(70_000, Duration::ZERO, SECOND, now);
        for _ in 0..65_537 {
            schedule.due(now).unwrap();
        }
        schedule.lost(now + SECOND);
        schedule.due(now + SECOND).unwrap();
        assert_eq!(
            schedule.came(2, now + SECOND),
            Some((65_538, Duration::ZERO))
        );
    }
}
