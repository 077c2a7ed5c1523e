//! Datagrams and streams from one Linux host to the other and back, which must come back as they were sent.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use culvert_netlab::addressing::{Family, Side};
use culvert_netlab::namespace::Namespace;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

use crate::laboratory::Laboratory;

/// After it a datagram counts as lost; the way there and back takes a millisecond.
pub const LOST: Duration = Duration::from_millis(500);
const PORT: u16 = 7300;
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
    let destination = far.local_addr()?;
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
    let again = bounce(&near, destination, sizes);
    near.send_to(&[], destination)?;
    mirror
        .join()
        .unwrap_or_else(|_| panic!("the mirror failed"));
    Ok(again)
}

/// The same with whoever sends back what comes to `destination`.
pub fn bounce(
    near: &UdpSocket,
    destination: SocketAddr,
    sizes: impl Iterator<Item = usize>,
) -> usize {
    let mut again = 0;
    let mut buffer = vec![0; 65_536];
    for size in sizes {
        let sent: Vec<u8> = (0..size).map(|at| (at * 31 + size) as u8).collect();
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(
                tries <= 4,
                "{size} bytes do not come back from {destination}"
            );
            let _ = near.send_to(&sent, destination);
            match near.recv_from(&mut buffer) {
                Ok((length, _)) => {
                    assert_eq!(length, size);
                    assert!(buffer[..length] == sent, "{size} bytes were changed");
                    break;
                }
                Err(_) => again += 1,
            }
        }
    }
    again
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
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
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
