//! `culvert show`: what a running gateway knows, asked over its bus.
//!
//! ```text
//!   topic -> one call to dataplane or iked-bridge -> rows -> a table for people, or JSON for programs
//! ```
//!
//! It reads only, and never a key: the messages that it asks for have none.

mod operations;
mod rows;
mod table;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub use self::operations::OverTheBus;
use clap::{Parser, ValueEnum};
use culvert_bus::{BusError, Call, CallError, Client};
use culvert_model::bus;
use ipnet::IpNet;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

use self::table::{Row, render};

/// A gateway that does not answer within it is busy beyond help.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is shown of which gateway.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// What to show.
    topic: Topic,
    /// The folder of the gateway.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/culvert")]
    root: PathBuf,
    /// Write JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Rows that are all zero, too.
    #[arg(long)]
    all: bool,
    /// Routes: of this routing instance only.
    #[arg(long, value_name = "NAME")]
    vrf: Option<String>,
    /// Routes: those within this network only.
    #[arg(long, value_name = "NETWORK")]
    prefix: Option<IpNet>,
    /// Routes: the one by which this address is reached.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<IpAddr>,
    /// Routes: at most so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    limit: usize,
}

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// Interfaces and tunnels with their counters.
    Interfaces,
    /// Routes with what they lead to now, as packets find it.
    Routes,
    /// Neighbours with what is known of them.
    Neighbours,
    /// `IKE_SAs`.
    Ike,
    /// `CHILD_SAs` with their selectors.
    Children,
    /// Security associations of the dataplane.
    Sas,
    /// Policies of the dataplane.
    Policies,
    /// Fragments that wait for the rest of their packets.
    Reassembly,
    /// Paths to peers that take less than the link by which they begin.
    Paths,
    /// What became of messages of routers that ESP packets were too big.
    TooBig,
    /// Packets dropped, by reason.
    Drops,
    /// What each node of the packet graph has cost.
    Nodes,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// There is no socket.
    #[error(
        "no gateway runs in {root}: it has no {socket}; name the folder of a running one with --root",
        root = root.display(), socket = socket.display()
    )]
    NotRunning {
        /// As given.
        root: PathBuf,
        /// What is missing.
        socket: PathBuf,
    },
    /// No runtime for the bus.
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    /// The socket cannot be used.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The process refused, or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What the command line asks for is not understood.
    #[error("{0}")]
    Question(String),
    /// `culvert run` has not said what it does.
    #[error("no gateway runs in {}: it has no {}", root.display(), path.display())]
    Status {
        /// As given.
        root: PathBuf,
        /// The file that it keeps.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Write(#[source] std::io::Error),
}

/// Shows.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, ShowError> {
    let (text, note) = answer(arguments)?;
    if let Some(note) = note {
        eprintln!("{note}");
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        outcome => outcome
            .map(|()| ExitCode::SUCCESS)
            .map_err(ShowError::Write),
    }
}

/// What there is to say, and beside it.
fn answer(arguments: &Arguments) -> Result<(String, Option<String>), ShowError> {
    let mut note = None;
    let gateway = Gateway::of(&arguments.root)?;
    let all = arguments.all;
    let text = match arguments.topic {
        Topic::Interfaces => {
            let reply = gateway.dataplane(&bus::ShowInterfacesRequest {})?;
            arguments.text(&rows::interfaces(&reply))
        }
        Topic::Routes => {
            let (routes, more) = gateway.routes(arguments)?;
            if more {
                note = Some(format!(
                    "There are more than {} routes: --vrf, --prefix and --to choose, --limit shows more.",
                    arguments.limit
                ));
            }
            arguments.text(&rows::routes(&routes))
        }
        Topic::Neighbours => {
            let reply = gateway.dataplane(&bus::ShowNeighboursRequest {})?;
            arguments.text(&rows::neighbours(&reply))
        }
        Topic::Ike => arguments.text(&rows::ikes(&gateway.bridge(&bus::ShowIkeRequest {})?)),
        Topic::Children => {
            arguments.text(&rows::children(&gateway.bridge(&bus::ShowIkeRequest {})?))
        }
        Topic::Sas => arguments.text(&rows::sas(&gateway.sas(&bus::DumpSasRequest {})?)),
        Topic::Policies => arguments.text(&rows::policies(&gateway.sas(&bus::DumpSasRequest {})?)),
        Topic::Reassembly => {
            let reply = gateway.dataplane(&bus::ShowReassemblyRequest {})?;
            arguments.text(&rows::reassembly(&reply))
        }
        Topic::Paths => {
            let reply = gateway.dataplane(&bus::ShowPathsRequest {})?;
            arguments.text(&rows::paths(&reply))
        }
        Topic::TooBig => {
            let reply = gateway.dataplane(&bus::ShowPathsRequest {})?;
            arguments.text(&rows::verdicts(&reply))
        }
        Topic::Drops => {
            let reply = gateway.dataplane(&bus::ShowDropsRequest {})?;
            arguments.text(&rows::drops(&reply, all))
        }
        Topic::Nodes => {
            let reply = gateway.dataplane(&bus::ShowNodesRequest { reset: false })?;
            arguments.text(&rows::nodes(&reply, all))
        }
    };
    Ok((text, note))
}

impl Arguments {
    fn text<R: Row + Serialize>(&self, rows: &[R]) -> String {
        if self.json {
            let mut text = serde_json::to_string_pretty(rows).unwrap_or_default();
            text.push('\n');
            text
        } else {
            render(rows)
        }
    }
}

/// The processes of one gateway.
struct Gateway {
    root: PathBuf,
    runtime: Runtime,
}

impl Gateway {
    fn of(root: &Path) -> Result<Self, ShowError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(ShowError::Runtime)?;
        Ok(Self {
            root: root.to_owned(),
            runtime,
        })
    }

    fn dataplane<C: Call>(&self, request: &C) -> Result<C::Reply, ShowError> {
        self.ask("dataplane", Client::new, request)
    }

    /// Routes, page by page, and whether there are more than are asked for.
    fn routes(&self, arguments: &Arguments) -> Result<(Vec<bus::RouteState>, bool), ShowError> {
        let mut routes = Vec::new();
        let mut after = None;
        loop {
            let request = bus::ShowRoutesRequest {
                vrf: arguments.vrf.clone().unwrap_or_default(),
                within: arguments.prefix.map(Into::into),
                towards: arguments.to.map(Into::into),
                after,
                // One more tells whether there are any.
                most: u32::try_from(arguments.limit - routes.len() + 1).unwrap_or(u32::MAX),
            };
            let reply = self.dataplane(&request)?;
            routes.extend(reply.routes);
            after = reply.next;
            if routes.len() > arguments.limit {
                routes.truncate(arguments.limit);
                return Ok((routes, true));
            }
            if after.is_none() {
                return Ok((routes, false));
            }
        }
    }

    fn bridge<C: Call>(&self, request: &C) -> Result<C::Reply, ShowError> {
        self.ask("iked-bridge", Client::new, request)
    }

    /// On the socket by which keys travel, inwards only.
    fn sas<C: Call>(&self, request: &C) -> Result<C::Reply, ShowError> {
        self.ask("dataplane-sa", Client::for_secrets, request)
    }

    fn ask<C: Call>(
        &self,
        socket: &str,
        open: fn(&Path) -> Result<Client, BusError>,
        request: &C,
    ) -> Result<C::Reply, ShowError> {
        let path = socket_of(&self.root, socket)?;
        let guard = self.runtime.enter();
        let client = open(&path)?;
        drop(guard);
        Ok(self.runtime.block_on(client.call(request, PATIENCE))?)
    }
}

/// Where a process of a running gateway is asked.
pub fn socket_of(root: &Path, name: &str) -> Result<PathBuf, ShowError> {
    let path = root.join("run/bus").join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(ShowError::NotRunning {
            root: root.to_owned(),
            socket: path,
        })
    }
}
