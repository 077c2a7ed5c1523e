//! `culvert capture`: packets as they pass an interface, reach a node, or are dropped, as a pcapng file.
//!
//! ```text
//!   culvert capture --interface wan --write wan.pcapng esp
//!   culvert capture --node drop --write - | wireshark -k -i -
//! ```
//!
//! Each dropped packet has its reason as a comment.

use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use culvert_cli::views::pcapng::{LinkType, Packet, Writer, comment};
use culvert_model::bus;
use culvert_model::bus::start_capture_request::{Direction as Way, Point};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Dataplane, ObserveError, Which, is_open};

/// A reading with so many bytes is followed by the next at once.
const MUCH: usize = 1 << 20;

/// What is captured.
#[derive(Debug, Parser)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    place: PlaceArguments,
    /// Of an interface, only packets that come in or that leave.
    #[arg(long, value_enum, default_value_t = Direction::Both, conflicts_with = "node")]
    direction: Direction,
    /// End after so many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    duration: Option<u64>,
    /// Bytes of each packet at most; none: all.
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(14..=65_535))]
    snaplen: Option<u32>,
    /// The file, readable by nobody else; `-`: standard output.
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
}

/// Where.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PlaceArguments {
    /// What passes this interface; of a tunnel, the packets inside.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// What this node of the packet graph is given (`culvert show nodes --all` names them); `drop`: what is dropped, with
    /// the reason as comment.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Which way packets pass an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// They come in.
    In,
    /// They leave.
    Out,
    /// Both.
    Both,
}

impl PlaceArguments {
    fn point(&self) -> Option<Point> {
        match (&self.interface, &self.node) {
            (Some(interface), _) => Some(Point::Interface(interface.clone())),
            (None, Some(node)) if node == "drop" => Some(Point::Drops(true)),
            (None, node) => node.clone().map(Point::Node),
        }
    }
}

/// Captures.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, ObserveError> {
    let filter = arguments.which.filter()?;
    if arguments.write == Path::new("-") && std::io::stdout().is_terminal() {
        return Err(ObserveError::Terminal);
    }
    let way = match arguments.direction {
        Direction::In => Way::In,
        Direction::Out => Way::Out,
        Direction::Both => Way::Unspecified,
    };
    Dataplane::with(&arguments.which.root, async |dataplane| {
        let request = bus::StartCaptureRequest {
            point: arguments.place.point(),
            direction: way.into(),
            filter,
            packets: arguments.count.unwrap_or(0),
            snaplen: arguments.snaplen.unwrap_or(0),
        };
        let started = dataplane.call(&request).await?;
        let id = started.id;
        let outcome = record(dataplane, &started, arguments).await;
        let stopped = dataplane.call(&bus::StopCaptureRequest { id }).await;
        outcome?;
        stopped?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn record(
    dataplane: &mut Dataplane,
    started: &bus::StartCaptureReply,
    arguments: &Arguments,
) -> Result<(), ObserveError> {
    // Only when the dataplane has agreed: an earlier file is not lost to a misspelt name.
    let to = open(&arguments.write)?;
    let mut writer = Writer::begin(to, &started.filter, arguments.snaplen.unwrap_or(0))
        .map_err(ObserveError::Write)?;
    // Whoever reads from a pipe sees that something is there.
    writer.flush().map_err(ObserveError::Write)?;
    let until = arguments
        .duration
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let progress = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("{spinner} {pos} packets, {elapsed}, Ctrl-C ends")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let (mut written, mut missed, mut busy) = (0, 0, false);
    loop {
        let now = Instant::now();
        let next = if busy { Some(now) } else { until };
        let goes_on = dataplane.wait(next).await;
        let ending = !goes_on || until.is_some_and(|until| Instant::now() >= until);
        let request = bus::ReadCaptureRequest { id: started.id };
        let mut reply = dataplane.call(&request).await?;
        // Workers take turns.
        reply.packets.sort_by_key(|packet| packet.time_ns);
        missed += reply.missed;
        written += reply.packets.len() as u64;
        let open = is_open(write(&mut writer, &reply, arguments))?;
        progress.set_position(written);
        if ending || reply.complete || !open {
            if open {
                is_open(writer.finish(missed).map(drop))?;
            }
            progress.finish_and_clear();
            eprintln!("{written} packets written, {missed} found no room");
            return Ok(());
        }
        let bytes: usize = reply.packets.iter().map(|packet| packet.bytes.len()).sum();
        busy = bytes >= MUCH || reply.missed > 0;
    }
}

fn open(file: &Path) -> Result<Box<dyn Write>, ObserveError> {
    if file == Path::new("-") {
        return Ok(Box::new(BufWriter::new(std::io::stdout())));
    }
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file);
    match opened {
        Ok(opened) => Ok(Box::new(BufWriter::new(opened))),
        Err(source) => Err(ObserveError::File {
            file: file.to_owned(),
            source,
        }),
    }
}

fn write(
    writer: &mut Writer<Box<dyn Write>>,
    reply: &bus::ReadCaptureReply,
    arguments: &Arguments,
) -> std::io::Result<()> {
    for packet in &reply.packets {
        let nodes = arguments.place.node.is_some();
        let comment = comment(&packet.drop, &packet.node, packet.worker, nodes);
        writer.packet(&Packet {
            interface: &packet.interface,
            link: LinkType::of(packet.ethernet),
            time_ns: packet.time_ns,
            outbound: packet.outbound,
            length: packet.length,
            bytes: &packet.bytes,
            comment: comment.as_deref(),
        })?;
    }
    writer.flush()
}
