//! Datagrams and streams from one Linux host to the other and back, which must come back as they were sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::iter;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::namespace::Namespace;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

use crate::laboratory::Laboratory;

/// After it a datagram counts as lost; the way there and back takes a millisecond, on a busy machine many.
pub const LOST: Duration = Duration::from_secs(2);
const PORT: u16 = 7300;
/// Datagrams under way at once, and their bytes: a socket's buffer holds about five times as many.
const MOST: usize = 24;
const MOST_BYTES: usize = 40_000;
/// The largest datagram of IPv6 that a link of 1500 takes in one piece.
const FULL: usize = 1500 - 48;
/// How often a datagram is sent before it counts as one that cannot pass.
const TRIES: usize = 4;
/// Writes to a stream before the first of them must have come back.
const WRITES: usize = 4;
/// A stream that stands still as long as this is broken.
const STREAM: Duration = Duration::from_secs(20);
/// Of a stream.
const BYTES: usize = 1 << 20;

/// Whether the host's kernel sets DF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DontFragment {
    /// The kernel and every router on the way may cut.
    Never,
    /// Nobody may.
    Always,
}

fn host(lab: &Laboratory, side: Side, family: Family) -> (Namespace, IpAddr) {
    (lab.open(side.host()), side.addresses().host(family).addr())
}

fn socket(
    lab: &Laboratory,
    side: Side,
    family: Family,
    dont_fragment: DontFragment,
) -> anyhow::Result<UdpSocket> {
    let (namespace, address) = host(lab, side, family);
    let socket = namespace.enter(|| UdpSocket::bind((address, PORT)))??;
    socket.set_read_timeout(Some(LOST))?;
    if family == Family::V4 {
        let value = match dont_fragment {
            DontFragment::Never => Ipv4PathMtuDiscovery::DONT,
            DontFragment::Always => Ipv4PathMtuDiscovery::DO,
        };
        set_ip_mtu_discover(&socket, value)?;
    }
    Ok(socket)
}

/// Sends datagrams of these sizes from host a to host b, which sends each back; answers how many had to be sent again.
pub fn echo(
    lab: &Laboratory,
    family: Family,
    sizes: impl Iterator<Item = usize>,
    dont_fragment: DontFragment,
) -> anyhow::Result<usize> {
    let near = socket(lab, Side::A, family, dont_fragment)?;
    let far = socket(lab, Side::B, family, dont_fragment)?;
    mirrored(&near, far, sizes)
}

/// The same from one socket to another.
pub fn mirrored(
    near: &UdpSocket,
    far: UdpSocket,
    sizes: impl Iterator<Item = usize>,
) -> anyhow::Result<usize> {
    let destination = far.local_addr()?;
    near.set_read_timeout(Some(LOST))?;
    let mirror = thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        // An empty datagram ends it.
        loop {
            match far.recv_from(&mut buffer) {
                Ok((0, _)) => break,
                Ok((length, from)) => {
                    // Refused once, when the path turns out to be narrower.
                    let _ = far.send_to(&buffer[..length], from);
                }
                Err(_) => {}
            }
        }
    });
    let mut again = 0;
    if destination.is_ipv6() {
        // Fills the host's link: alone, so that to learn what the path takes costs one datagram each way and no more.
        again += exchange(near, destination, iter::once(FULL), 1);
    }
    again += exchange(near, destination, sizes, MOST);
    near.send_to(&[], destination)?;
    mirror
        .join()
        .unwrap_or_else(|_| panic!("the mirror failed"));
    Ok(again)
}

/// What a datagram of this size carries.
fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + size) as u8).collect()
}

/// The same with whoever sends back what comes to `destination`, one after the other.
pub fn bounce(
    near: &UdpSocket,
    destination: SocketAddr,
    sizes: impl Iterator<Item = usize>,
) -> usize {
    exchange(near, destination, sizes, 1)
}

/// Up to `most` are under way at once; they are told apart by their sizes.
fn exchange(
    near: &UdpSocket,
    destination: SocketAddr,
    sizes: impl Iterator<Item = usize>,
    most: usize,
) -> usize {
    let mut sizes = sizes.peekable();
    // Size, and how often it was sent.
    let mut under_way: BTreeMap<usize, usize> = BTreeMap::new();
    let mut repeated = BTreeSet::new();
    let (mut bytes, mut again) = (0, 0);
    let mut buffer = vec![0; 65_536];
    loop {
        while let Some(size) = sizes.next_if(|size| {
            under_way.len() < most
                && (bytes + size <= MOST_BYTES || under_way.is_empty())
                && !under_way.contains_key(size)
        }) {
            under_way.insert(size, 1);
            bytes += size;
            let _ = near.send_to(&payload(size), destination);
        }
        if under_way.is_empty() {
            return again;
        }
        let Ok((size, _)) = near.recv_from(&mut buffer) else {
            for (size, times) in &mut under_way {
                *times += 1;
                assert!(
                    *times <= TRIES,
                    "{size} bytes do not come back from {destination}"
                );
                again += 1;
                repeated.insert(*size);
                let _ = near.send_to(&payload(*size), destination);
            }
            continue;
        };
        assert!(buffer[..size] == payload(size), "{size} bytes were changed");
        if under_way.remove(&size).is_some() {
            bytes -= size;
        } else {
            // What was sent again may come twice.
            assert!(repeated.contains(&size), "{size} bytes came unasked");
        }
    }
}

/// A stream from host a to host b and back, by a write without delay for each of these sizes: every byte arrives in its
/// place.
pub fn writes(
    lab: &Laboratory,
    family: Family,
    sizes: impl Iterator<Item = usize>,
) -> anyhow::Result<()> {
    let (near, _) = host(lab, Side::A, family);
    let (far, address) = host(lab, Side::B, family);
    let destination = SocketAddr::new(address, PORT);
    let listener = far.enter(|| TcpListener::bind(destination))??;
    let mirror = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; 65_536];
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..length])?;
        }
    });
    let mut stream = near.enter(|| TcpStream::connect(destination))??;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STREAM))?;
    stream.set_write_timeout(Some(STREAM))?;
    let mut buffer = vec![0; 65_536];
    let mut under_way = VecDeque::new();
    let mut take = |stream: &mut TcpStream, size: usize| -> std::io::Result<()> {
        stream.read_exact(&mut buffer[..size])?;
        assert!(
            buffer[..size] == payload(size),
            "a write of {size} bytes was changed"
        );
        Ok(())
    };
    for size in sizes {
        if under_way.len() == WRITES {
            take(&mut stream, under_way.pop_front().unwrap_or_default())?;
        }
        stream.write_all(&payload(size))?;
        under_way.push_back(size);
    }
    for size in under_way {
        take(&mut stream, size)?;
    }
    drop(stream);
    mirror
        .join()
        .unwrap_or_else(|_| panic!("the mirror failed"))?;
    Ok(())
}

/// A stream from host a to host b and back arrives as it was sent.
pub fn stream(lab: &Laboratory, family: Family) -> anyhow::Result<()> {
    let (near, _) = host(lab, Side::A, family);
    let (far, address) = host(lab, Side::B, family);
    let destination = SocketAddr::new(address, PORT);
    let listener = far.enter(|| TcpListener::bind(destination))??;
    let mirror = thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = vec![0; BYTES];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)
    });
    let mut stream = near.enter(|| TcpStream::connect(destination))??;
    stream.set_read_timeout(Some(STREAM))?;
    let sent: Vec<u8> = (0..BYTES).map(|at| (at * 31 / 7) as u8).collect();
    stream.write_all(&sent)?;
    let mut back = vec![0; BYTES];
    stream.read_exact(&mut back)?;
    assert!(back == sent, "the stream was changed");
    mirror
        .join()
        .unwrap_or_else(|_| panic!("the mirror failed"))?;
    Ok(())
}
