//! Numbered UDP datagrams from one namespace to another, and a count of what became of them.
//!
//! ```text
//!   from: sender thread --- marker, number, time ---> to: receiver thread
//!         a fixed rate                                    lost, duplicated, reordered, longest silence
//! ```

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::{Namespace, NamespaceError};

/// Datagrams that leave together: one sleep of the sender each. At 5,000 a second that is 1 ms.
const BURST: u32 = 5;
/// How long the receiver waits before it looks whether it shall stop.
const POLL: Duration = Duration::from_millis(20);
/// Holds half a second of 5,000 datagrams a second, should the receiver not get its processor.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Gaps that are kept to be shown.
const GAPS: usize = 32;

/// Why a probe could not run.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A socket failed.
    #[error("probe {call}: {source}")]
    Socket {
        /// What was tried.
        call: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A thread of the probe ended by a panic.
    #[error("a thread of the probe died")]
    Died,
}

/// What a probe sends, where, and how often.
#[derive(Debug, Clone)]
pub struct ProbeSettings {
    /// Where the sender is bound.
    pub source: SocketAddr,
    /// Where the receiver is bound.
    pub destination: SocketAddr,
    /// Datagrams a second.
    pub rate: u32,
    /// Bytes of UDP payload; made longer when marker, number and time need more.
    pub size: usize,
    /// Opens every payload.
    pub marker: Vec<u8>,
}

/// A run of datagrams that never came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Number of the first one.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// What became of the datagrams of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeReport {
    /// Handed to the sending host's kernel.
    pub sent: u64,
    /// Came, each counted once.
    pub received: u64,
    /// Came again.
    pub duplicated: u64,
    /// Came after one of a higher number.
    pub reordered: u64,
    /// Longest time from sending to receiving.
    pub slowest: Duration,
    /// Longest time without any datagram between the first and the last.
    pub longest_silence: Duration,
    /// The first few runs that never came.
    pub gaps: Vec<Gap>,
}

impl ProbeReport {
    /// Sent and never received.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// A running probe in one direction.
#[derive(Debug)]
pub struct Probe {
    sent: Arc<AtomicU64>,
    stop_sending: Arc<AtomicBool>,
    stop_receiving: Arc<AtomicBool>,
    sender: Option<JoinHandle<Result<(), ProbeError>>>,
    receiver: Option<JoinHandle<Result<Ledger, ProbeError>>>,
}

impl Probe {
    /// Starts receiver and sender.
    pub fn start(
        from: &Namespace,
        to: &Namespace,
        settings: &ProbeSettings,
    ) -> Result<Self, ProbeError> {
        let incoming = to.enter(|| bind(settings.destination))??;
        let outgoing = from.enter(|| bind(settings.source))??;
        outgoing
            .connect(settings.destination)
            .map_err(|source| ProbeError::Socket {
                call: "connect",
                source,
            })?;
        incoming
            .set_read_timeout(Some(POLL))
            .map_err(|source| ProbeError::Socket {
                call: "set a timeout",
                source,
            })?;
        let epoch = Instant::now();
        let sent = Arc::new(AtomicU64::new(0));
        let stop_sending = Arc::new(AtomicBool::new(false));
        let stop_receiving = Arc::new(AtomicBool::new(false));
        let started = |result: io::Result<_>| {
            result.map_err(|source| ProbeError::Socket {
                call: "thread",
                source,
            })
        };
        let receiver = started(
            thread::Builder::new()
                .name("probe-receive".to_owned())
                .spawn({
                    let stop = Arc::clone(&stop_receiving);
                    let marker = settings.marker.clone();
                    move || receive(&incoming, &marker, epoch, &stop)
                }),
        )?;
        let mut probe = Self {
            sent,
            stop_sending,
            stop_receiving,
            sender: None,
            receiver: Some(receiver),
        };
        let sender = thread::Builder::new().name("probe-send".to_owned()).spawn({
            let stop = Arc::clone(&probe.stop_sending);
            let sent = Arc::clone(&probe.sent);
            let settings = settings.clone();
            move || send(&outgoing, &settings, epoch, &sent, &stop)
        });
        probe.sender = Some(sender.map_err(|source| ProbeError::Socket {
            call: "thread",
            source,
        })?);
        Ok(probe)
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// Ends the sender, waits `settle` for what is under way, and counts.
    pub fn stop(mut self, settle: Duration) -> Result<ProbeReport, ProbeError> {
        self.stop_sending.store(true, Ordering::Release);
        if let Some(sender) = self.sender.take() {
            sender.join().map_err(|_| ProbeError::Died)??;
        }
        thread::sleep(settle);
        self.stop_receiving.store(true, Ordering::Release);
        let ledger = match self.receiver.take() {
            Some(receiver) => receiver.join().map_err(|_| ProbeError::Died)??,
            None => Ledger::default(),
        };
        Ok(ledger.close(self.sent()))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop_sending.store(true, Ordering::Release);
        self.stop_receiving.store(true, Ordering::Release);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
    }
}

/// Which numbers came, and how.
#[derive(Debug, Default)]
struct Ledger {
    seen: Vec<u64>,
    next: u64,
    last: Option<Duration>,
    report: ProbeReport,
}

impl Ledger {
    /// Takes down a datagram that was sent and received at these times since the probe's start.
    fn enter(&mut self, number: u64, sent: Duration, received: Duration) {
        let Ok(word) = usize::try_from(number / 64) else {
            return;
        };
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        let bit = 1_u64 << (number % 64);
        let Some(slot) = self.seen.get_mut(word) else {
            return;
        };
        if *slot & bit == 0 {
            *slot |= bit;
            self.report.received += 1;
            if number < self.next {
                self.report.reordered += 1;
            }
        } else {
            self.report.duplicated += 1;
        }
        self.next = self.next.max(number + 1);
        self.report.slowest = self.report.slowest.max(received.saturating_sub(sent));
        if let Some(last) = self.last.replace(received) {
            self.report.longest_silence = self
                .report
                .longest_silence
                .max(received.saturating_sub(last));
        }
    }

    fn close(mut self, sent: u64) -> ProbeReport {
        self.report.sent = sent;
        let mut open: Option<Gap> = None;
        for number in 0..sent {
            let word = usize::try_from(number / 64)
                .ok()
                .and_then(|word| self.seen.get(word))
                .copied()
                .unwrap_or(0);
            if word & (1 << (number % 64)) == 0 {
                open.get_or_insert(Gap {
                    first: number,
                    count: 0,
                })
                .count += 1;
            } else if let Some(gap) = open.take() {
                self.report.gaps.push(gap);
            }
            if self.report.gaps.len() == GAPS {
                break;
            }
        }
        self.report.gaps.extend(open);
        self.report
    }
}

fn send(
    socket: &UdpSocket,
    settings: &ProbeSettings,
    epoch: Instant,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(), ProbeError> {
    let head = settings.marker.len();
    let mut payload = settings.marker.clone();
    payload.resize(settings.size.max(head + 16), 0);
    let rate = f64::from(settings.rate.max(1));
    let begin = Instant::now();
    let mut number = 0_u64;
    while !stop.load(Ordering::Acquire) {
        // Against the clock and not from sleep to sleep: the rate holds however late a sleep ends.
        let due = (begin.elapsed().as_secs_f64() * rate) as u64;
        // A sender that was off its processor catches up in bursts, not all at once.
        for _ in 0..due.saturating_sub(number).min(u64::from(BURST) * 8) {
            let now = epoch.elapsed().as_nanos() as u64;
            if let Some(room) = payload.get_mut(head..head + 8) {
                room.copy_from_slice(&number.to_be_bytes());
            }
            if let Some(room) = payload.get_mut(head + 8..head + 16) {
                room.copy_from_slice(&now.to_be_bytes());
            }
            match socket.send(&payload) {
                Ok(_) => number += 1,
                // The answer to an earlier datagram (unreachable): this one goes with the next round.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EHOSTUNREACH | libc::ENETUNREACH)
                    ) => {}
                Err(source) => {
                    return Err(ProbeError::Socket {
                        call: "send",
                        source,
                    });
                }
            }
            sent.store(number, Ordering::Release);
        }
        thread::sleep(Duration::from_secs_f64(f64::from(BURST) / rate));
    }
    Ok(())
}

fn receive(
    socket: &UdpSocket,
    marker: &[u8],
    epoch: Instant,
    stop: &AtomicBool,
) -> Result<Ledger, ProbeError> {
    let mut ledger = Ledger::default();
    let mut buffer = [0; 2048];
    loop {
        let stopping = stop.load(Ordering::Acquire);
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let stamp = buffer
                    .get(..length)
                    .and_then(|payload| payload.strip_prefix(marker));
                let number = stamp.and_then(|stamp| stamp.first_chunk());
                let sent = stamp.and_then(|stamp| stamp.get(8..)?.first_chunk());
                if let (Some(number), Some(sent)) = (number, sent) {
                    let sent = Duration::from_nanos(u64::from_be_bytes(*sent));
                    ledger.enter(u64::from_be_bytes(*number), sent, epoch.elapsed());
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                if stopping {
                    return Ok(ledger);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(ProbeError::Socket {
                    call: "receive",
                    source,
                });
            }
        }
    }
}

fn bind(address: SocketAddr) -> Result<UdpSocket, ProbeError> {
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::RcvBufForce,
            &RECEIVE_BUFFER,
        )?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| ProbeError::Socket {
        call: "bind",
        source,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn the_ledger_tells_lost_from_late_from_twice() {
        let mut ledger = Ledger::default();
        for number in [0, 1, 4, 3, 3, 70, 71] {
            ledger.enter(number, at(number), at(number + 2));
        }
        let report = ledger.close(75);
        assert_eq!(
            (report.received, report.duplicated, report.reordered),
            (6, 1, 1)
        );
        assert_eq!(report.lost(), 69);
        assert_eq!(
            report.gaps,
            vec![
                Gap { first: 2, count: 1 },
                Gap {
                    first: 5,
                    count: 65
                },
                Gap {
                    first: 72,
                    count: 3
                }
            ]
        );
        assert_eq!(report.slowest, at(2));
        assert_eq!(report.longest_silence, at(67));
    }

    #[test]
    fn nothing_is_lost_on_loopback() {
        let name = format!("culvert-unit-{}-probe", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        namespace
            .netlink(async |netlink| netlink.set_up("lo").await)
            .unwrap();
        let settings = ProbeSettings {
            source: "127.0.0.1:7001".parse().unwrap(),
            destination: "127.0.0.2:7002".parse().unwrap(),
            rate: 5000,
            size: 100,
            marker: b"marker".to_vec(),
        };
        let probe = Probe::start(&namespace, &namespace, &settings).unwrap();
        thread::sleep(Duration::from_millis(500));
        let report = probe.stop(Duration::from_millis(100)).unwrap();
        assert!(report.sent > 1500, "{report:?}");
        assert_eq!(
            (report.lost(), report.duplicated, report.reordered),
            (0, 0, 0),
            "{report:?}"
        );
        Namespace::remove(&name).unwrap();
    }
}
