//! Operating: what is told bit by bit (logs, ping, traceroute, capture, trace, monitor), and what changes something now
//! (clear, restart).
//!
//! ```text
//!   replies ──> lines ──┬── pipes that choose lines ──> written as they come
//!                       └── pipes that need them all ──> collected, then written
//!   Ctrl-C ──> the stream ends, its summary is still said
//! ```

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_model::api::{
    self, capture_request, clear_request::Counters, clear_request::Neighbours, clear_request::What,
};
use tokio::sync::Notify;
use tonic::Streaming;

use super::{Console, Output, Session};
use crate::error::CliError;
use crate::grammar::Parsed;
use crate::pipes::Pipes;
use crate::views::pcapng::{self, Writer};
use crate::views::{Question, Topic, packets, trace};
use crate::words::Word;

/// What is collected for a pipe that needs it all.
const MOST_COLLECTED: usize = 16 << 20;
/// Between two looks of `monitor`.
const LOOK: u64 = 2;

/// How a person ends what goes on without an end.
#[derive(Debug, Default)]
pub struct Stop {
    streaming: AtomicBool,
    asked: Notify,
}

impl Stop {
    /// Asks for the end; false: nothing goes on that could come to one.
    pub fn ask(&self) -> bool {
        let streaming = self.streaming.swap(false, Ordering::Relaxed);
        if streaming {
            self.asked.notify_one();
        }
        streaming
    }

    fn begin(&self) -> Going<'_> {
        self.streaming.store(true, Ordering::Relaxed);
        Going(self)
    }
}

struct Going<'a>(&'a Stop);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.streaming.store(false, Ordering::Relaxed);
    }
}

/// Where lines go.
struct Sink<'a> {
    console: &'a mut dyn Console,
    pipes: &'a Pipes,
    collected: String,
}

impl<'a> Sink<'a> {
    fn new(console: &'a mut dyn Console, pipes: &'a Pipes) -> Self {
        Self {
            console,
            pipes,
            collected: String::new(),
        }
    }

    /// False: nobody reads any more.
    fn lines(&mut self, text: &str) -> Result<bool, CliError> {
        if !self.pipes.choose_lines() {
            if self.collected.len() + text.len() > MOST_COLLECTED {
                return Err(CliError::Not(format!(
                    "more than {} MiB came before the end",
                    MOST_COLLECTED >> 20
                )));
            }
            self.collected.push_str(text);
            return Ok(true);
        }
        let mut chosen = String::new();
        for line in text.lines().filter(|line| self.pipes.keeps(line)) {
            chosen.push_str(line);
            chosen.push('\n');
        }
        if chosen.is_empty() {
            return Ok(true);
        }
        self.console.tell(chosen.as_bytes())
    }

    fn output(self, note: Option<String>) -> Output {
        Output {
            text: self.collected,
            note,
            ..Output::default()
        }
    }
}

/// Takes replies until the end, until nobody reads, or until the person has seen enough.
async fn each<T>(
    stop: &Stop,
    mut replies: Streaming<T>,
    mut take: impl FnMut(T) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let _going = stop.begin();
    loop {
        let reply = tokio::select! {
            reply = replies.message() => reply?,
            () = stop.asked.notified() => return Ok(()),
        };
        let Some(reply) = reply else {
            return Ok(());
        };
        if !take(reply)? {
            return Ok(());
        }
    }
}

/// What `clear` is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// All, or some.
    Counters,
    /// All, or some.
    Neighbours,
    /// Of a connection.
    Ike,
    /// Of a name.
    Ipsec,
}

impl Session {
    /// For whoever hears of Ctrl-C.
    pub fn stop(&self) -> Arc<Stop> {
        Arc::clone(&self.stop)
    }

    pub(super) async fn show_log(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        pipes: &Pipes,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let process = parsed.value("PROCESS", words).unwrap_or_default();
        let request = api::ReadLogRequest {
            process: process.to_owned(),
            last: small(parsed.number("LINES", words)),
            follow: parsed.has("monitor"),
        };
        let several = process.is_empty();
        let replies = self.client.operations().await?.read_log(request).await?;
        let mut sink = Sink::new(console, pipes);
        let take = |reply: api::ReadLogReply| {
            let mut text = String::new();
            for line in reply.lines {
                if several {
                    let _ = write!(text, "{}: ", line.process);
                }
                text.push_str(&line.text);
                text.push('\n');
            }
            sink.lines(&text)
        };
        each(&self.stop, replies.into_inner(), take).await?;
        Ok(sink.output(None))
    }

    pub(super) async fn ping(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        pipes: &Pipes,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let request = api::PingRequest {
            destination: text(parsed, words, "DESTINATION"),
            source: text(parsed, words, "SOURCE"),
            count: small(parsed.number("COUNT", words)),
            size: parsed.number("BYTES", words).map(|size| size as u32),
            interval_ms: small(parsed.number("MILLISECONDS", words)),
        };
        let replies = self.client.operations().await?.ping(request).await?;
        let mut sink = Sink::new(console, pipes);
        let mut times: Vec<u64> = Vec::new();
        let mut sent = 0_u32;
        let take = |reply: api::PingReply| {
            sent += 1;
            let line = match reply.round_trip_us {
                Some(time) => {
                    times.push(time);
                    format!(
                        "{} bytes from {}: seq {}, {}\n",
                        reply.bytes,
                        reply.from,
                        reply.sequence,
                        milliseconds(time)
                    )
                }
                None if reply.reason.is_empty() => format!("seq {}: no answer\n", reply.sequence),
                None if reply.from.is_empty() => {
                    format!("seq {}: {}\n", reply.sequence, reply.reason)
                }
                None => format!("seq {}: {}: {}\n", reply.sequence, reply.from, reply.reason),
            };
            sink.lines(&line)
        };
        each(&self.stop, replies.into_inner(), take).await?;
        let summary = summary(sent, &times);
        if sent > 0 && times.is_empty() {
            let rest = sink.collected;
            if !rest.is_empty() {
                console.tell(pipes.apply(rest).as_bytes())?;
            }
            return Err(CliError::Not(summary));
        }
        Ok(sink.output(Some(summary)))
    }

    pub(super) async fn traceroute(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        pipes: &Pipes,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let request = api::TracerouteRequest {
            destination: text(parsed, words, "DESTINATION"),
            source: text(parsed, words, "SOURCE"),
            hops: small(parsed.number("HOPS", words)),
        };
        let replies = self.client.operations().await?.traceroute(request).await?;
        let mut sink = Sink::new(console, pipes);
        let take = |reply: api::TracerouteReply| sink.lines(&hop(&reply));
        each(&self.stop, replies.into_inner(), take).await?;
        Ok(sink.output(None))
    }

    pub(super) async fn capture(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        pipes: &Pipes,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        use capture_request::{Direction, Point};
        let binary = pipes.pcapng;
        if binary && console.is_person() {
            return Err(CliError::Not(
                "pcapng is no text: let another program read it, as in `ssh GATEWAY 'capture interface wan | display pcapng' > wan.pcapng`"
                    .to_owned(),
            ));
        }
        let point = match (
            parsed.value("INTERFACE", words),
            parsed.value("NODE", words),
        ) {
            (Some(name), _) => Point::Interface(name.to_owned()),
            (None, Some(name)) => Point::Node(name.to_owned()),
            (None, None) => Point::Drops(true),
        };
        let direction = match (parsed.has("in"), parsed.has("out")) {
            (true, false) => Direction::In,
            (false, true) => Direction::Out,
            _ => Direction::Unspecified,
        };
        let snaplen = match parsed.number("BYTES", words) {
            Some(bytes) => small(Some(bytes)),
            None if binary => 0,
            None => packets::HEADERS,
        };
        let nodes = !matches!(point, Point::Interface(_));
        let request = api::CaptureRequest {
            point: Some(point),
            direction: direction.into(),
            filter: text(parsed, words, "FILTER"),
            packets: small(parsed.number("COUNT", words)),
            snaplen,
            seconds: small(parsed.number("SECONDS", words)),
        };
        let replies = self.client.operations().await?.capture(request).await?;
        let replies = replies.into_inner();
        let (mut seen, mut missed) = (0_usize, 0);
        if binary {
            let mut file = None;
            let take = |reply: api::CaptureReply| {
                seen += reply.packets.len();
                missed += reply.missed;
                record(&mut file, &reply, snaplen, nodes)
                    .and_then(|bytes| Ok(bytes.is_empty() || console.tell(&bytes)?))
            };
            each(&self.stop, replies, take).await?;
            if let Some(file) = file {
                let ended = Writer::finish(file, missed);
                let rest = ended.map_err(CliError::io("cannot write the capture"))?;
                console.tell(&rest)?;
            }
            return Ok(Output::note(counted(seen, missed)));
        }
        let mut sink = Sink::new(console, pipes);
        let take = |reply: api::CaptureReply| {
            seen += reply.packets.len();
            missed += reply.missed;
            let mut text = String::new();
            for packet in &reply.packets {
                text.push_str(&packets::line(packet));
                text.push('\n');
            }
            sink.lines(&text)
        };
        each(&self.stop, replies, take).await?;
        Ok(sink.output(Some(counted(seen, missed))))
    }

    pub(super) async fn trace(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        pipes: &Pipes,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let json = pipes.format == Some(api::Format::Json);
        let request = api::TraceRequest {
            filter: text(parsed, words, "FILTER"),
            packets: small(parsed.number("COUNT", words)),
            interface: text(parsed, words, "INTERFACE"),
            bytes: parsed.has("bytes"),
            seconds: small(parsed.number("SECONDS", words)),
        };
        let replies = self.client.operations().await?.trace(request).await?;
        let mut sink = Sink::new(console, pipes);
        let (mut followed, mut missed) = (0, 0);
        let take = |reply: api::TraceReply| {
            followed = reply.packets;
            missed += reply.missed;
            sink.lines(&trace::text(reply.visits, json))
        };
        each(&self.stop, replies.into_inner(), take).await?;
        let lost = match missed {
            0 => String::new(),
            missed => format!("; {missed} visits found no room"),
        };
        Ok(sink.output(Some(format!("{followed} packets{lost}"))))
    }

    pub(super) async fn clear(
        &mut self,
        what: Cleared,
        parsed: &Parsed,
        words: &[Word],
    ) -> Result<Output, CliError> {
        let name = text(parsed, words, "NAME");
        let (what, of) = match what {
            Cleared::Counters => {
                let counters = Counters {
                    interfaces: parsed.has("interfaces"),
                    drops: parsed.has("drops"),
                    nodes: parsed.has("nodes"),
                    tunnels: parsed.has("tunnels"),
                };
                (What::Counters(counters), "rows of counters begin anew")
            }
            Cleared::Neighbours => (
                What::Neighbours(Neighbours {
                    interface: text(parsed, words, "INTERFACE"),
                    address: text(parsed, words, "ADDRESS"),
                }),
                "neighbours are forgotten",
            ),
            Cleared::Ike => (What::Ike(name), "IKE_SAs have ended"),
            Cleared::Ipsec => (What::Ipsec(name), "CHILD_SAs have ended"),
        };
        let request = api::ClearRequest { what: Some(what) };
        let reply = self.client.operations().await?.clear(request).await?;
        Ok(Output::note(format!("{} {of}", reply.into_inner().matches)))
    }

    pub(super) async fn restart(
        &mut self,
        parsed: &Parsed,
        words: &[Word],
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let process = text(parsed, words, "PROCESS");
        if console.is_person() && !parsed.has("force") {
            let question = format!("{}\nrestart {process}? [no] ", loss(&process));
            let answer = console.ask(&question)?.unwrap_or_default();
            if !matches!(answer.trim(), "y" | "yes") {
                return Ok(Output::note("nothing was restarted"));
            }
        }
        let request = api::RestartRequest {
            process: process.clone(),
        };
        self.client.operations().await?.restart(request).await?;
        Ok(Output::note(format!(
            "{process} restarts: `show system` says how far it is"
        )))
    }

    pub(super) async fn monitor(
        &mut self,
        topic: Topic,
        parsed: &Parsed,
        words: &[Word],
        pipes: &Pipes,
        console: &mut dyn Console,
    ) -> Result<Output, CliError> {
        let pause = Duration::from_secs(parsed.number("SECONDS", words).unwrap_or(LOOK).max(1));
        let question = Question::about(topic);
        let zone = self.zone().await;
        let mut gateway = self.client.operations().await?;
        let stop = Arc::clone(&self.stop);
        let _going = stop.begin();
        let mut sink = Sink::new(console, pipes);
        loop {
            let look = question.ask(async |request| {
                let reply = gateway.show(request).await.map_err(CliError::from)?;
                Ok::<_, CliError>(reply.into_inner())
            });
            let answer = tokio::select! {
                answer = look => answer?,
                () = stop.asked.notified() => break,
            };
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_millis() as u64);
            let text = format!("{}\n{}\n", zone.moment(now), question.text(&answer.state));
            if !sink.lines(&text)? {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.asked.notified() => break,
            }
        }
        Ok(sink.output(None))
    }
}

fn text(parsed: &Parsed, words: &[Word], name: &str) -> String {
    parsed.value(name, words).unwrap_or_default().to_owned()
}

/// 0: not said.
fn small(number: Option<u64>) -> u32 {
    number.map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX))
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03} ms", microseconds / 1000, microseconds % 1000)
}

/// Of echo requests, and of the times that those took that were answered.
fn summary(sent: u32, times: &[u64]) -> String {
    let answered = times.len();
    let lost = (sent as usize).saturating_sub(answered);
    let mut text = format!(
        "{sent} sent, {answered} answered, {} % lost",
        lost * 100 / (sent as usize).max(1)
    );
    if let (Some(least), Some(most)) = (times.iter().min(), times.iter().max()) {
        let average = times.iter().sum::<u64>() / answered.max(1) as u64;
        let _ = write!(
            text,
            "; round trip {} at least, {} on average, {} at most",
            milliseconds(*least),
            milliseconds(average),
            milliseconds(*most)
        );
    }
    text
}

/// A hop: who answered, how long it took, and what else was said.
fn hop(reply: &api::TracerouteReply) -> String {
    let mut text = format!("{:>2}", reply.hop);
    let mut from = "";
    for probe in &reply.probes {
        if probe.from.is_empty() && probe.reason.is_empty() {
            text.push_str("  *");
            continue;
        }
        if probe.from != from {
            let _ = write!(text, "  {}", probe.from);
            from = &probe.from;
        }
        if probe.from.is_empty() {
            let _ = write!(text, "  {}", probe.reason);
            continue;
        }
        let _ = write!(text, "  {}", milliseconds(probe.round_trip_us));
        if !probe.reason.is_empty() {
            let _ = write!(text, " ({})", probe.reason);
        }
    }
    text.push('\n');
    text
}

fn counted(seen: usize, missed: u64) -> String {
    match missed {
        0 => format!("{seen} packets"),
        missed => format!("{seen} packets; {missed} more found no room"),
    }
}

/// What the end of a process costs.
fn loss(process: &str) -> &'static str {
    match process {
        "dataplane" => "nothing is forwarded until it is back, and every tunnel is negotiated anew",
        "charon" => {
            "every tunnel is negotiated anew; traffic goes on for two minutes at most until then"
        }
        "iked-bridge" => "tunnels carry traffic meanwhile; nothing is negotiated until it is back",
        "dhcp" => "leases hold meanwhile",
        "mgmt" => "traffic goes on; this session is asked to wait for some seconds",
        _ => "what it does stops until it is back",
    }
}

/// The bytes of a pcapng file that a reply adds.
fn record(
    file: &mut Option<Writer<Vec<u8>>>,
    reply: &api::CaptureReply,
    snaplen: u32,
    nodes: bool,
) -> Result<Vec<u8>, CliError> {
    let mut write = || {
        let writer = match file {
            Some(writer) => writer,
            None => file.insert(Writer::begin(Vec::new(), &reply.filter, snaplen)?),
        };
        for packet in &reply.packets {
            let comment = pcapng::comment(&packet.drop, &packet.node, packet.worker, nodes);
            writer.packet(&pcapng::Packet {
                interface: &packet.interface,
                link: pcapng::LinkType::of(packet.ethernet),
                time_ns: packet.time_ns,
                outbound: packet.outbound,
                length: packet.length,
                bytes: &packet.bytes,
                comment: comment.as_deref(),
            })?;
        }
        Ok(std::mem::take(writer.get_mut()))
    };
    write().map_err(CliError::io("cannot write the capture"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_hop_says_who_and_how_long() {
        let probe = |from: &str, time, reason: &str| api::Probe {
            from: from.to_owned(),
            round_trip_us: time,
            reason: reason.to_owned(),
        };
        let reply = api::TracerouteReply {
            hop: 3,
            probes: vec![
                probe("192.0.2.1", 1234, ""),
                probe("", 0, ""),
                probe("192.0.2.2", 56, "host unreachable"),
            ],
            last: true,
        };
        assert_eq!(
            hop(&reply),
            " 3  192.0.2.1  1.234 ms  *  192.0.2.2  0.056 ms (host unreachable)\n"
        );
    }

    #[test]
    fn a_summary_counts() {
        assert_eq!(
            summary(3, &[1000, 3000]),
            "3 sent, 2 answered, 33 % lost; round trip 1.000 ms at least, 2.000 ms on average, 3.000 ms at most"
        );
        assert_eq!(summary(2, &[]), "2 sent, 0 answered, 100 % lost");
    }

    #[test]
    fn what_goes_on_ends_once_when_asked() {
        let stop = Stop::default();
        assert!(!stop.ask());
        let going = stop.begin();
        assert!(stop.ask());
        assert!(!stop.ask());
        drop(going);
        assert!(!stop.ask());
    }
}
