//! The audit trail for those who collect logs: the machine's own syslog, and the servers of the configuration.
//!
//! ```text
//!   audit ── try_send ──> 256 places ──> one thread ──┬─ /dev/log, if somebody listens        RFC 3164, as libc writes it
//!            never waits; what finds no place         ├─ udp: a datagram each                 RFC 5424 in RFC 5426
//!            is counted and said later                └─ tcp: a stream, counted octets        RFC 5424 in RFC 6587
//! ```
//!
//! The trail of the store is the one that counts: nothing here is repeated, and nothing waits for it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use culvert_model::config::{Config, Severity, SyslogTransport};

use crate::store::{NewAuditEntry, WallTime};

/// Where the machine's own syslog listens.
pub const LOCAL: &str = "/dev/log";
/// Messages that wait for the thread.
const PLACES: usize = 256;
/// Security and authorisation messages of a restricted kind: `authpriv`.
const FACILITY: u8 = 10;
/// RFC 5424: every receiver takes 480 octets and should take 2048.
const LONGEST: usize = 2048;
/// A server that is not reached in time is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names are looked up again after it, and servers that failed are tried again.
const AGAIN: Duration = Duration::from_mins(1);
/// Without a name of the box (RFC 5424 NILVALUE).
const NIL: &str = "-";

/// Where messages go beside the machine's own syslog; of the running configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    host_name: String,
    servers: Vec<Server>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    host: String,
    port: u16,
    tcp: bool,
    /// The least severe level that is sent.
    level: u8,
}

impl Targets {
    /// As configured.
    pub fn of(config: &Config) -> Self {
        let Some(system) = &config.system else {
            return Self::default();
        };
        let servers = system.syslog_targets.iter().map(|target| Server {
            host: target.host().to_owned(),
            port: match target.port() {
                0 => 514,
                port => u16::try_from(port).unwrap_or(514),
            },
            tcp: target.transport() == SyslogTransport::Tcp,
            level: match target.severity() {
                Severity::Unspecified => 6,
                severity => severity as u8 - 1,
            },
        });
        Self {
            host_name: system.host_name().to_owned(),
            servers: servers.collect(),
        }
    }
}

/// How much an entry matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It was done.
    Notice,
    /// It was refused.
    Warning,
}

struct Message {
    time: WallTime,
    weight: Weight,
    entry: NewAuditEntry,
    targets: Arc<Targets>,
}

/// The way to the thread; one for a process.
#[derive(Clone, Debug)]
pub struct Syslog {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Syslog {
    /// With a thread that ends when this is dropped, and what it was told is told.
    pub fn start(local: PathBuf) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(PLACES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new()
            .name("syslog".to_owned())
            .spawn(move || Teller::new(local, counted).tell_all(&messages))?;
        Ok(Self { queue, lost })
    }

    /// Tells an entry, or counts it.
    pub fn tell(
        &self,
        entry: &NewAuditEntry,
        weight: Weight,
        time: WallTime,
        targets: &Arc<Targets>,
    ) {
        let message = Message {
            time,
            weight,
            entry: entry.clone(),
            targets: Arc::clone(targets),
        };
        if self.queue.try_send(message).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the thread has.
struct Teller {
    local: PathBuf,
    lost: Arc<AtomicU64>,
    datagrams: Option<UnixDatagram>,
    udp: [Option<UdpSocket>; 2],
    servers: HashMap<Server, Reached>,
}

/// A server as it was last found.
struct Reached {
    since: Instant,
    address: Option<SocketAddr>,
    stream: Option<TcpStream>,
}

impl Teller {
    fn new(local: PathBuf, lost: Arc<AtomicU64>) -> Self {
        let datagrams = UnixDatagram::unbound().ok();
        if let Some(datagrams) = &datagrams {
            // One that does not listen is not waited for.
            let _ = datagrams.set_nonblocking(true);
        }
        Self {
            local,
            lost,
            datagrams,
            udp: [
                UdpSocket::bind("0.0.0.0:0").ok(),
                UdpSocket::bind("[::]:0").ok(),
            ],
            servers: HashMap::new(),
        }
    }

    fn tell_all(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let entry = NewAuditEntry {
                    who: "culvert".to_owned(),
                    origin: "console".to_owned(),
                    what: "syslog".to_owned(),
                    result: format!("{lost} messages were not sent: they are in the audit trail"),
                };
                self.tell(&Message {
                    time: message.time,
                    weight: Weight::Warning,
                    entry,
                    targets: Arc::clone(&message.targets),
                });
            }
            self.tell(&message);
        }
    }

    fn tell(&mut self, message: &Message) {
        let (level, text) = (level(message.weight), text(&message.entry));
        if let Some(datagrams) = &self.datagrams {
            // Without anybody who listens there is nobody to be told.
            let _ = datagrams.send_to(old(level, message.time, &text).as_bytes(), &self.local);
        }
        // Those that are configured no longer.
        self.servers
            .retain(|server, _| message.targets.servers.contains(server));
        for server in &message.targets.servers {
            if level <= server.level {
                let line = new(level, message.time, &message.targets.host_name, &text);
                self.send(server, &line);
            }
        }
    }

    fn send(&mut self, server: &Server, line: &str) {
        let now = Instant::now();
        let old = |reached: &Reached| now.saturating_duration_since(reached.since) > AGAIN;
        if self.servers.get(server).is_none_or(|reached| {
            let failed = if server.tcp {
                reached.stream.is_none()
            } else {
                reached.address.is_none()
            };
            (failed || !server.tcp) && old(reached)
        }) {
            let address = (server.host.as_str(), server.port)
                .to_socket_addrs()
                .ok()
                .and_then(|mut found| found.next());
            let stream = address.filter(|_| server.tcp).and_then(|address| {
                let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
                stream.set_write_timeout(Some(PATIENCE)).ok()?;
                Some(stream)
            });
            let reached = Reached {
                since: now,
                address,
                stream,
            };
            self.servers.insert(server.clone(), reached);
        }
        let Some(reached) = self.servers.get_mut(server) else {
            return;
        };
        if server.tcp {
            let frame = format!("{} {line}", line.len());
            if let Some(stream) = &mut reached.stream
                && stream.write_all(frame.as_bytes()).is_err()
            {
                reached.stream = None;
            }
        } else if let Some(address) = reached.address
            && let [Some(four), Some(six)] = &self.udp
        {
            let socket = if address.is_ipv4() { four } else { six };
            // RFC 5426: any may be lost.
            let _ = socket.send_to(line.as_bytes(), address);
        }
    }
}

fn level(weight: Weight) -> u8 {
    match weight {
        Weight::Notice => 5,
        Weight::Warning => 4,
    }
}

/// Values in quotes: whatever somebody calls himself, it stays one line and one message.
fn text(entry: &NewAuditEntry) -> String {
    let NewAuditEntry {
        who,
        origin,
        what,
        result,
    } = entry;
    let mut text = format!("who={who:?} from={origin:?} what={what:?} result={result:?}");
    text.truncate(text.floor_char_boundary(LONGEST / 2));
    text
}

/// RFC 3164, as `syslog(3)` writes it to the local socket: in UTC, since that is the time zone of the process.
fn old(level: u8, time: WallTime, text: &str) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let date = Date::of(time);
    let month = MONTHS.get(date.month as usize - 1).unwrap_or(&"Jan");
    format!(
        "<{}>{month} {:2} {:02}:{:02}:{:02} culvert-audit[{}]: {text}",
        FACILITY * 8 + level,
        date.day,
        date.hour,
        date.minute,
        date.second,
        std::process::id()
    )
}

/// RFC 5424.
fn new(level: u8, time: WallTime, host_name: &str, text: &str) -> String {
    let date = Date::of(time);
    // Of the process, where the configuration has none: what the machine is called, mostly.
    let uname = rustix::system::uname();
    let host = [host_name, &uname.nodename().to_string_lossy()]
        .into_iter()
        .find(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(|| NIL.to_owned(), str::to_owned);
    let mut line = format!("<{}>1 ", FACILITY * 8 + level);
    let _ = write!(
        line,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z {host} culvert-audit {} audit - \u{feff}{text}",
        date.year,
        date.month,
        date.day,
        date.hour,
        date.minute,
        date.second,
        date.milli,
        std::process::id()
    );
    line
}

/// UTC.
#[derive(Debug, PartialEq, Eq)]
struct Date {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    milli: u64,
}

impl Date {
    /// Days since 1970-01-01 as a date: Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
    fn of(time: WallTime) -> Self {
        let (milli, seconds) = (time.0 % 1000, time.0 / 1000);
        let (second_of_day, days) = (seconds % 86_400, seconds / 86_400);
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            milli,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Read as _;
    use std::net::TcpListener;

    use culvert_model::decode::config_from_json;

    use super::*;

    const TIME: WallTime = WallTime(1_709_164_799_042);

    fn entry(who: &str) -> NewAuditEntry {
        NewAuditEntry {
            who: who.to_owned(),
            origin: "198.51.100.7".to_owned(),
            what: "commit".to_owned(),
            result: "stored: revision 2".to_owned(),
        }
    }

    fn targets(servers: &str) -> Arc<Targets> {
        let text =
            format!(r#"{{"system": {{"host_name": "gateway-a", "syslog_targets": [{servers}]}}}}"#);
        Arc::new(Targets::of(&config_from_json(text.as_bytes()).unwrap()))
    }

    #[test]
    fn times_are_dates() {
        let date = |time| {
            let Date {
                year, month, day, ..
            } = Date::of(WallTime(time));
            (year, month, day)
        };
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(951_782_400_000), (2000, 2, 29));
        assert_eq!(date(4_107_542_400_000), (2100, 3, 1));
        assert_eq!(
            new(5, TIME, "gateway-a", "x").split(" culvert").next(),
            Some("<85>1 2024-02-28T23:59:59.042Z gateway-a")
        );
        let unnamed = new(5, TIME, "", "x");
        let name = rustix::system::uname();
        let name = name.nodename().to_string_lossy();
        assert!(unnamed.contains(&format!("Z {name} culvert")), "{unnamed}");
        assert!(old(4, TIME, "x").starts_with("<84>Feb 28 23:59:59 culvert-audit["));
    }

    #[test]
    fn a_message_is_one_line_whoever_is_in_it() {
        let text = text(&entry("a\n<85>1 forged \u{202e}\"\u{7}"));
        assert!(!text.contains(['\n', '\u{7}', '\u{202e}']), "{text}");
        assert!(text.contains(r#"who="a\n<85>1 forged"#), "{text}");
        assert!(super::text(&entry(&"ü".repeat(5000))).len() <= LONGEST);
    }

    #[test]
    fn everybody_who_listens_is_told() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let local = UnixDatagram::bind(&path).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        local
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let targets = targets(&format!(
            r#"{{"host": "127.0.0.1", "port": {}}},
               {{"host": "127.0.0.1", "port": {}, "transport": "tcp", "severity": "warning"}}"#,
            udp.local_addr().unwrap().port(),
            tcp.local_addr().unwrap().port()
        ));
        let syslog = Syslog::start(path).unwrap();
        syslog.tell(&entry("alice"), Weight::Notice, TIME, &targets);
        syslog.tell(&entry("bob"), Weight::Warning, TIME, &targets);
        let mut bytes = [0; 4096];
        for (who, level) in [("alice", 5), ("bob", 4)] {
            let length = local.recv(&mut bytes).unwrap();
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            assert!(
                text.starts_with(&format!("<{}>", 80 + level)) && text.contains(who),
                "{text}"
            );
            let length = udp.recv(&mut bytes).unwrap();
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            assert!(
                text.contains(" gateway-a culvert-audit ") && text.contains(who),
                "{text}"
            );
        }
        // Only what is severe enough.
        let (mut stream, _) = tcp.accept().unwrap();
        drop(syslog);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (length, line) = text.split_once(' ').unwrap();
        assert_eq!(length.parse(), Ok(line.len()), "{text}");
        assert!(line.starts_with("<84>1 ") && line.contains("bob"), "{line}");
    }

    #[test]
    fn who_does_not_listen_keeps_nobody_waiting() {
        let place = tempfile::tempdir().unwrap();
        // Of TEST-NET-1: nobody answers.
        let targets =
            targets(r#"{"host": "192.0.2.99", "transport": "tcp"}, {"host": "192.0.2.98"}"#);
        let syslog = Syslog::start(place.path().join("nobody")).unwrap();
        let begin = Instant::now();
        for _ in 0..1000 {
            syslog.tell(&entry("alice"), Weight::Notice, TIME, &targets);
        }
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());

        // A thread that does nothing more.
        let (queue, _messages) = sync_channel(PLACES);
        let lost = Arc::new(AtomicU64::new(0));
        let syslog = Syslog { queue, lost };
        for _ in 0..1000 {
            syslog.tell(&entry("alice"), Weight::Notice, TIME, &targets);
        }
        assert_eq!(syslog.lost.load(Ordering::Relaxed), 1000 - PLACES as u64);
    }
}
