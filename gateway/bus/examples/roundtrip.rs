//! How many round trips a second two processes make over the bus, with 1 and with 16 requests in flight.
//!
//! `cargo run --release -p culvert-bus --example roundtrip`

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use culvert_bus::{Client, Context, Router, Server};
use culvert_model::bus::{RekeyReply, RekeyRequest};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LASTS: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if let Some(path) = std::env::args().nth(1) {
        return serve(Path::new(&path)).await;
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("roundtrip");
    let mut server = Command::new(std::env::current_exe()?)
        .arg(&path)
        .stdin(Stdio::null())
        .spawn()
        .context("start the server")?;
    let measured = measure(&path).await;
    server.kill()?;
    server.wait()?;
    measured
}

async fn serve(path: &Path) -> anyhow::Result<()> {
    let router = Router::new("roundtrip").on(|request: RekeyRequest, _: Context| async move {
        Ok(RekeyReply {
            matches: request.child.len() as u32,
        })
    });
    Server::bind(path, router)?
        .run(CancellationToken::new())
        .await?;
    Ok(())
}

async fn measure(path: &Path) -> anyhow::Result<()> {
    let client = Client::new(path)?;
    client.hello(Duration::from_secs(10)).await?;
    println!(
        "{:>9}  {:>14}  {:>10}  {:>10}",
        "in flight", "round trips/s", "p50 us", "p99 us"
    );
    for in_flight in [1, 16] {
        let begin = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..in_flight {
            let client = client.clone();
            callers.spawn(async move { call_until(&client, begin + LASTS).await });
        }
        let mut times = Vec::new();
        while let Some(finished) = callers.join_next().await {
            times.extend(finished??);
        }
        times.sort_unstable();
        let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
        let at = |percent: usize| {
            times
                .get(times.len() * percent / 100)
                .map_or(0, Duration::as_micros)
        };
        println!(
            "{in_flight:>9}  {rate:>14.0}  {:>10}  {:>10}",
            at(50),
            at(99)
        );
    }
    Ok(())
}

async fn call_until(client: &Client, end: Instant) -> anyhow::Result<Vec<Duration>> {
    // Some 256 bytes, as an SA has.
    let request = RekeyRequest {
        ike: String::new(),
        child: "c".repeat(256),
    };
    let mut times = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        client.call(&request, Duration::from_secs(10)).await?;
        times.push(begin.elapsed());
    }
    Ok(times)
}
