//! Which multicast groups Linux has joined on the TAPs: what comes for them is for Linux, and the dataplane has to know.
//!
//! ```text
//!   sockets of daemons -> Linux: /proc/net/igmp, /proc/net/igmp6 -> here, each second -> SetGroups -> dataplane
//! ```
//!
//! No netlink message of the kernels in use tells of a membership, so it is looked for. Groups of link scope (`224.0.0.0/24`,
//! `ff02::/16`) reach Linux in any case and are left out.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};
use std::{fs, io};

use super::parts::Parts;

/// Between two looks: routing daemons join when they start, and say hello several times before they give up.
const PAUSE: Duration = Duration::from_secs(1);
/// Looking takes a hundredth of the time at most, however many TAPs there are.
const SHARE: u32 = 100;

/// A TAP, or any other device of the namespace, and a group.
type Membership = (String, IpAddr);

/// Tells a dataplane that has just been started, and again whenever something changes, for as long as it is not stopped.
pub async fn tell(parts: Parts) -> Infallible {
    // One that has been told nothing takes it that there are none.
    let mut told = BTreeSet::new();
    loop {
        let began = Instant::now();
        match joined() {
            Ok(joined) if joined != told => {
                if parts.set_groups(&joined).await {
                    told = joined;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot see the multicast groups of Linux"),
        }
        tokio::time::sleep(PAUSE.max(began.elapsed() * SHARE)).await;
    }
}

/// In the network namespace of the calling thread.
fn joined() -> io::Result<BTreeSet<Membership>> {
    let four = fs::read_to_string("/proc/thread-self/net/igmp")?;
    // Not there where IPv6 is off.
    let six = fs::read_to_string("/proc/thread-self/net/igmp6").unwrap_or_default();
    Ok(of_igmp(&four).chain(of_igmp6(&six)).collect())
}

/// A line for each device, `INDEX NAME : ...`, and under it an indented one for each group, in hexadecimal digits of the
/// machine's own byte order.
fn of_igmp(text: &str) -> impl Iterator<Item = Membership> {
    let mut device = "";
    text.lines().filter_map(move |line| {
        if line.starts_with(char::is_whitespace) {
            let group = line.split_whitespace().next()?;
            let group = u32::from_str_radix(group, 16).ok()?.to_ne_bytes();
            let group = Ipv4Addr::from(group);
            let is_wide = group.is_multicast() && !matches!(group.octets(), [224, 0, 0, _]);
            return is_wide.then(|| (device.to_owned(), group.into()));
        }
        let (_, rest) = line.split_once(char::is_whitespace)?;
        device = rest.rsplit_once(':')?.0.trim();
        None
    })
}

/// A line for each group: `INDEX NAME GROUP ...`.
fn of_igmp6(text: &str) -> impl Iterator<Item = Membership> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (device, group) = (words.next()?, words.next()?);
        let group = Ipv6Addr::from_bits(u128::from_str_radix(group, 16).ok()?);
        let is_wide = group.is_multicast() && group.octets()[1] & 0x0f > 2;
        is_wide.then(|| (device.to_owned(), group.into()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::net::UdpSocket;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        let number = |group: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(group));
        let text = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t{}     1 0:00000000\t\t0\n\
             9\tlan.10:20-longer:     2      V3\n\t\t\t\t{}     1 0:00000000\t\t0\n\t\t\t\t{}     1 0:00000000\t\t0\n",
            number([224, 0, 0, 1]),
            number([239, 1, 2, 3]),
            number([224, 0, 0, 251]),
        );
        let found: Vec<_> = of_igmp(&text).collect();
        assert_eq!(
            found,
            [("lan.10:20-longer".to_owned(), [239, 1, 2, 3].into())]
        );
        let text = "4    wan             ff020000000000000000000000000001     1 0000000C 0\n\
                    4    wan             ff050000000000000000000000000002     1 00000004 0\n\
                    4    wan             ff010000000000000000000000000001     1 00000008 0\nrubbish\n";
        let found: Vec<_> = of_igmp6(text).collect();
        assert_eq!(found, [("wan".to_owned(), "ff05::2".parse().unwrap())]);
    }

    #[test]
    fn a_socket_that_joins_is_seen() {
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace needs root");
            assert_eq!(joined().unwrap(), BTreeSet::new());
            let up = std::process::Command::new("ip")
                .args(["link", "set", "lo", "up", "multicast", "on"])
                .status();
            assert!(up.unwrap().success());
            let (four, six) = ([239, 1, 2, 3], "ff05::7".parse().unwrap());
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket
                .join_multicast_v4(&four.into(), &Ipv4Addr::LOCALHOST)
                .unwrap();
            let socket6 = UdpSocket::bind("[::1]:0").unwrap();
            socket6.join_multicast_v6(&six, 1).unwrap();
            let lo = || "lo".to_owned();
            let expected = BTreeSet::from([(lo(), four.into()), (lo(), six.into())]);
            assert_eq!(joined().unwrap(), expected);
            drop(socket);
            // A process that another test begins has a copy of it, until it becomes another program.
            let left = BTreeSet::from([(lo(), six.into())]);
            let until = Instant::now() + Duration::from_secs(10);
            while joined().unwrap() != left && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(joined().unwrap(), left);
        })
        .join()
        .unwrap();
    }
}
