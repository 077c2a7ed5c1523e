//! A packet socket that sees every frame a namespace receives.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use socket2::{SockFilter, Socket};

use crate::namespace::{Namespace, NamespaceError};

/// 64 MiB: 16 thousand frames of 4 KiB of kernel memory each, more than a second of a busy probe.
const RECEIVE_BUFFER: libc::c_int = 64 << 20;

/// Why frames could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum PacketSocketError {
    /// The namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A system call was refused.
    #[error("packet socket: {call}: {source}")]
    System {
        /// What was tried.
        call: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Which frames a socket is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// What the links receive: everything that others put on the wire.
    Received,
    /// That, and what this namespace sends itself.
    Both,
}

/// A frame and where it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameInfo {
    /// Bytes of the frame on the wire; more than were stored when the buffer was too small.
    pub length: usize,
    /// Index of the link.
    pub link: u32,
    /// Sent by this namespace.
    pub outgoing: bool,
}

/// A raw packet socket for every protocol and every link of a namespace.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    /// Opens the socket inside a namespace. Frames are queued from now on.
    pub fn open(namespace: &Namespace, seen: Seen) -> Result<Self, PacketSocketError> {
        namespace.enter(|| {
            // SAFETY: no pointers; the descriptor is checked and owned at once.
            let raw =
                unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            if raw < 0 {
                return Err(failed("socket", io::Error::last_os_error()));
            }
            // SAFETY: `raw` was just opened and belongs to nobody else.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(raw) });
            let this = Self { socket };
            this.set(
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                RECEIVE_BUFFER,
                "SO_RCVBUFFORCE",
            )?;
            let ignore = libc::c_int::from(seen == Seen::Received);
            this.set(
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                ignore,
                "PACKET_IGNORE_OUTGOING",
            )?;
            this.bind()?;
            Ok(this)
        })?
    }

    /// Lets the kernel pass on only the frames that a classic BPF program accepts.
    pub fn set_filter(&self, program: &[SockFilter]) -> Result<(), PacketSocketError> {
        self.socket
            .attach_filter(program)
            .map_err(|source| failed("SO_ATTACH_FILTER", source))
    }

    /// Passes on every frame again.
    pub fn clear_filter(&self) -> Result<(), PacketSocketError> {
        match self.socket.detach_filter() {
            Err(source) if source.raw_os_error() != Some(libc::ENOENT) => {
                Err(failed("SO_DETACH_FILTER", source))
            }
            _ => Ok(()),
        }
    }

    /// Waits at most `timeout` for each frame; zero means for ever.
    pub fn set_timeout(&self, timeout: Duration) -> Result<(), PacketSocketError> {
        let timeout = (!timeout.is_zero()).then_some(timeout);
        self.socket
            .set_read_timeout(timeout)
            .map_err(|source| failed("SO_RCVTIMEO", source))
    }

    /// Takes the next frame into `buffer`; `None` when the time is over.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<FrameInfo>, PacketSocketError> {
        // SAFETY: sockaddr_ll is plain data for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut address_length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: buffer and address are writable for the lengths given, and outlive the call.
        let length = unsafe {
            libc::recvfrom(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
                (&raw mut address).cast(),
                &raw mut address_length,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                // A link that the socket watched went down: nothing is lost by it.
                _ if error.raw_os_error() == Some(libc::ENETDOWN) => Ok(None),
                _ => Err(failed("recvfrom", error)),
            };
        };
        Ok(Some(FrameInfo {
            length,
            link: address.sll_ifindex.unsigned_abs(),
            outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
        }))
    }

    /// Frames that the kernel had no room for since the last call.
    pub fn take_lost(&self) -> Result<u32, PacketSocketError> {
        // SAFETY: tpacket_stats is plain data for which zeroes are valid.
        let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `stats`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(failed("PACKET_STATISTICS", io::Error::last_os_error()));
        }
        Ok(stats.tp_drops)
    }

    fn bind(&self) -> Result<(), PacketSocketError> {
        // SAFETY: sockaddr_ll is plain data for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a whole sockaddr_ll of the length given.
        let result =
            unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length) };
        if result < 0 {
            Err(failed("bind", io::Error::last_os_error()))
        } else {
            Ok(())
        }
    }

    fn set(
        &self,
        level: libc::c_int,
        option: libc::c_int,
        value: libc::c_int,
        call: &'static str,
    ) -> Result<(), PacketSocketError> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the kernel reads `length` bytes of `value`.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                length,
            )
        };
        if result < 0 {
            Err(failed(call, io::Error::last_os_error()))
        } else {
            Ok(())
        }
    }
}

fn failed(call: &'static str, source: io::Error) -> PacketSocketError {
    PacketSocketError::System { call, source }
}
