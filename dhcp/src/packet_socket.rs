//! The sockets of a client on a TAP: one that hears and says DHCP below IP, and one that keeps Linux from complaining.
//!
//! ```text
//!   client --> packet socket --> TAP --> dataplane --> link
//!                   ^-- IPv4, UDP to port 68 --'
//!              UDP socket, port 68: is told nothing; without it Linux answers servers that nobody listens there
//! ```
#![allow(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::frame::CLIENT_PORT;

/// More messages than these that wait are the kernel's to drop, in bytes of its memory.
const RECEIVE_BUFFER: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<Socket>,
    link: libc::c_int,
    mac: [u8; 6],
    _quiet: Socket,
}

impl PacketSocket {
    /// On the device of this name.
    pub fn open(device: &str) -> io::Result<Self> {
        let link = if_nametoindex(device)? as libc::c_int;
        // Nothing is heard before the filter is there.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.attach_filter(&to_client())?;
        socket.set_nonblocking(true)?;
        socket.bind(&address(link, [0xff; 6]))?;
        let mac = hardware_address(&socket)?;
        let quiet = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        quiet.set_reuse_address(true)?;
        quiet.bind_device(Some(device.as_bytes()))?;
        quiet.attach_filter(&[statement(RETURN, 0)])?;
        quiet.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
        // SAFETY: a Socket gives the same descriptor as long as it lives, and this one is never taken out again.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self {
            socket,
            link,
            mac,
            _quiet: quiet,
        })
    }

    /// Of the device, when it was opened.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends an IPv4 packet: in a frame to everybody when that is whom it is for; else the dataplane finds the way.
    pub fn send(&self, packet: &[u8], everybody: bool) -> io::Result<()> {
        let to = if everybody { [0xff; 6] } else { DATAPLANE_MAC };
        let sent = self
            .socket
            .get_ref()
            .send_to(packet, &address(self.link, to))?;
        if sent == packet.len() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::WriteZero))
        }
    }

    /// The next IPv4 packet to a client; its length, which is at most that of the buffer.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket
            .async_io(Interest::READABLE, |socket| {
                let mut socket = socket;
                io::Read::read(&mut socket, buffer)
            })
            .await
    }
}

/// The dataplane takes every frame of a TAP that is to one host; it has no MAC address there that matters.
const DATAPLANE_MAC: [u8; 6] = [0x02, 0x63, 0x75, 0x6c, 0x76, 0x74];

fn address(link: libc::c_int, mac: [u8; 6]) -> SockAddr {
    let [a, b, c, d, e, f] = mac;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain data that the storage has room for, and for which zeroes are valid.
    let place = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    *place = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
        sll_ifindex: link,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    };
    // SAFETY: the storage holds a sockaddr_ll, whose length this is.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Of the device that a packet socket is bound to (packet(7)).
fn hardware_address(socket: &Socket) -> io::Result<[u8; 6]> {
    let bound = socket.local_addr()?;
    if bound.family() != libc::AF_PACKET as libc::sa_family_t
        || (bound.len() as usize) < size_of::<libc::sockaddr_ll>() - 2
    {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    // SAFETY: the kernel wrote an address of this family, and the storage of a SockAddr has room for every family and is
    // zeroed behind what was written.
    let link = unsafe { &*bound.as_ptr().cast::<libc::sockaddr_ll>() };
    let [a, b, c, d, e, f, ..] = link.sll_addr;
    if link.sll_halen == 6 {
        Ok([a, b, c, d, e, f])
    } else {
        Err(io::Error::other("no Ethernet device"))
    }
}

// linux/filter.h, linux/bpf_common.h
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_INDEXED: u16 = 0x48;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

fn statement(code: u16, k: u32) -> SockFilter {
    SockFilter::new(code, 0, 0, k)
}

/// Whole UDP datagrams to the port of clients; what else is punted to the TAP passes by.
fn to_client() -> [SockFilter; 9] {
    [
        statement(LOAD_BYTE, 9),
        SockFilter::new(JUMP_IF_EQUAL, 0, 5, 17),
        statement(LOAD_HALF, 6),
        SockFilter::new(JUMP_IF_SET, 3, 0, 0x3fff),
        statement(LOAD_HEADER_LENGTH, 0),
        statement(LOAD_HALF_INDEXED, 2),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, u32::from(CLIENT_PORT)),
        statement(RETURN, 0),
        statement(RETURN, 0xffff),
    ]
}
