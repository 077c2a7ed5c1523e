//! `culvert trace`: the next packets that match, and what every node does with them.
//! It is written as the command line writes it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use culvert_cli::views::trace;
use culvert_mgmt::observe::visit;
use culvert_model::bus;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::{Dataplane, ObserveError, Which, is_open};

/// Packets that a node keeps are waited for so long after the last one has come.
const LINGER: Duration = Duration::from_secs(2);

/// What is traced. Exit status 1: no packet matched.
#[derive(Debug, Parser)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// End after so many packets.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// End after so many seconds.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Only packets that come in by this interface or tunnel.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    interface: String,
    /// The first bytes of each packet at each node: they may be what people say to each other.
    #[arg(long)]
    hex: bool,
    /// Write JSON, a packet a line; what becomes of it after a node has kept it is a line of its own.
    #[arg(long)]
    json: bool,
}

/// Traces.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, ObserveError> {
    let filter = arguments.which.filter()?;
    let packets = Dataplane::with(&arguments.which.root, async |dataplane| {
        let request = bus::StartTraceRequest {
            filter,
            packets: arguments.count,
            interface: arguments.interface.clone(),
            bytes: arguments.hex,
        };
        let id = dataplane.call(&request).await?.id;
        let outcome = follow(dataplane, id, arguments).await;
        let stopped = dataplane.call(&bus::StopTraceRequest { id }).await;
        let packets = outcome?;
        stopped?;
        Ok(packets)
    })?;
    Ok(ExitCode::from(u8::from(packets == 0)))
}

/// Reads until it is enough; gives the packets that matched.
async fn follow(
    dataplane: &mut Dataplane,
    id: u64,
    arguments: &Arguments,
) -> Result<u32, ObserveError> {
    let mut until = Instant::now() + Duration::from_secs(arguments.timeout);
    let progress = ProgressBar::new(arguments.count.into()).with_style(
        ProgressStyle::with_template("{spinner} {pos} of {len} packets, {elapsed}, Ctrl-C ends")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let (mut missed, mut seen, mut complete) = (0, 0, false);
    let mut kept = BTreeMap::new();
    loop {
        let goes_on = dataplane.wait(Some(until)).await;
        let ending = !goes_on || Instant::now() >= until;
        let mut reply = dataplane.call(&bus::ReadTraceRequest { id }).await?;
        missed += reply.missed;
        seen += reply.visits.len();
        reply.visits.sort_by_key(|visit| visit.time_ns);
        for visit in &reply.visits {
            kept.insert(visit.packet, visit.held);
        }
        progress.set_position(reply.packets.into());
        progress.tick();
        let visits = std::mem::take(&mut reply.visits);
        let text = trace::text(visits.into_iter().map(visit).collect(), arguments.json);
        let open = progress.suspend(|| is_open(std::io::stdout().write_all(text.as_bytes())))?;
        if reply.packets >= arguments.count && !complete {
            complete = true;
            until = until.min(Instant::now() + LINGER);
        }
        let settled = complete && !kept.values().any(|kept| *kept);
        if ending || settled || !open {
            progress.finish_and_clear();
            let lost = if missed > 0 {
                format!("; {missed} more found no room")
            } else {
                String::new()
            };
            eprintln!("{} packets, {seen} visits{lost}", reply.packets);
            return Ok(reply.packets);
        }
    }
}
