//! Who answers at an address: a service that says its name, and a host that asks and hears what its kernel hears, ICMP
//! errors and their senders too.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use culvert_netlab::namespace::Namespace;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use crate::wire::MARKER;

/// Between two questions.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two looks for an answer.
const LOOK: Duration = Duration::from_millis(5);
/// Who says where an error comes from: `SO_EE_ORIGIN_ICMP`, `SO_EE_ORIGIN_ICMP6`.
const FROM_THE_NETWORK: [u8; 2] = [2, 3];

/// A service that answers every datagram with its name.
pub struct Named {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a host hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A service has answered, with its name.
    Name(String),
    /// An ICMP error came.
    Error {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// Who has sent it.
        from: IpAddr,
    },
    /// Nothing came in time.
    Silence,
}

/// A host's socket to ask from.
pub struct Asker {
    socket: UdpSocket,
}

impl Named {
    /// Begins to answer at this address of a namespace.
    pub fn start(namespace: &Namespace, at: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind(at))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, answer) = (Arc::clone(&stop), [MARKER, name.as_bytes()].concat());
        let thread = thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Asker {
    /// A socket of this namespace, with this address and any port.
    pub fn open(namespace: &Namespace, from: IpAddr) -> anyhow::Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind((from, 0)))??;
        socket.set_nonblocking(true)?;
        if from.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
        }
        Ok(Self { socket })
    }

    /// Packets from here have this many hops.
    pub fn set_hops(&self, hops: u8) -> anyhow::Result<()> {
        if self.socket.local_addr()?.is_ipv4() {
            self.socket.set_ttl(hops.into())?;
        } else {
            setsockopt(&self.socket, sockopt::Ipv6Ttl, &hops.into())?;
        }
        Ok(())
    }

    /// Asks once.
    pub fn send(&self, to: SocketAddr) -> anyhow::Result<()> {
        for _ in 0..8 {
            match self.socket.send_to(MARKER, to) {
                Ok(_) => return Ok(()),
                // What an ICMP error has left, which is read from the queue of errors.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::HostUnreachable
                            | ErrorKind::NetworkUnreachable
                            | ErrorKind::ConnectionRefused
                            | ErrorKind::PermissionDenied
                    ) => {}
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("{to}: only errors of earlier packets")
    }

    /// Takes what has come; does not wait.
    pub fn take(&self) -> Option<Heard> {
        let mut buffer = [0; 2048];
        if let Some(error) = self.take_error() {
            return Some(error);
        }
        // An error that is pending hides what is behind it once.
        for _ in 0..2 {
            if let Ok(length) = self.socket.recv(&mut buffer) {
                let name = buffer.get(MARKER.len()..length).unwrap_or_default();
                return Some(Heard::Name(String::from_utf8_lossy(name).into_owned()));
            }
        }
        None
    }

    /// Asks again and again until something comes.
    pub fn ask(&self, to: SocketAddr, limit: Duration) -> anyhow::Result<Heard> {
        let until = Instant::now() + limit;
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if let Some(heard) = self.take() {
                return Ok(heard);
            }
            if now >= until {
                return Ok(Heard::Silence);
            }
            if now >= next {
                self.send(to)?;
                next = now + AGAIN;
            }
            thread::sleep(LOOK);
        }
    }

    fn take_error(&self) -> Option<Heard> {
        let mut data = [0; 2048];
        let mut slices = [std::io::IoSliceMut::new(&mut data)];
        let mut control = nix::cmsg_space!(nix::libc::sock_extended_err, nix::libc::sockaddr_in6);
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT,
        )
        .ok()?;
        message.cmsgs().ok()?.find_map(|message| {
            let (error, from) = match message {
                ControlMessageOwned::Ipv4RecvErr(error, from) => {
                    let octets = from?.sin_addr.s_addr.to_ne_bytes();
                    (error, IpAddr::V4(Ipv4Addr::from(octets)))
                }
                ControlMessageOwned::Ipv6RecvErr(error, from) => {
                    (error, IpAddr::V6(Ipv6Addr::from(from?.sin6_addr.s6_addr)))
                }
                _ => return None,
            };
            let heard = Heard::Error {
                kind: error.ee_type,
                code: error.ee_code,
                from,
            };
            FROM_THE_NETWORK.contains(&error.ee_origin).then_some(heard)
        })
    }
}

/// Asks from an address of a host until something comes.
pub fn who(from: (&Namespace, IpAddr), to: SocketAddr, limit: Duration) -> anyhow::Result<Heard> {
    Asker::open(from.0, from.1)?.ask(to, limit)
}
