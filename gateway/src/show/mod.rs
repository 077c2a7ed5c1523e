//! `culvert show`: what a running gateway knows, for whoever has the box: asked over its bus, so that it answers without mgmt, too.
//!
//! ```text
//!   topic -> culvert_mgmt::observe -> state -> culvert_cli::views -> a table for people, or JSON for programs
//! ```
//!
//! Both are those of the command line, which asks mgmt. It reads only, and never a key: the state has none.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use culvert_bus::BusError;
use culvert_cli::views::{self, Question};
use culvert_mgmt::observe::{ObserveError, Observer};
use ipnet::IpNet;
use tokio::runtime::Builder;

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
    /// The clock, and the servers that it is set by.
    Ntp,
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
    Observe(#[from] ObserveError),
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Write(#[source] std::io::Error),
}

/// Shows.
pub fn execute(arguments: &Arguments) -> Result<ExitCode, ShowError> {
    socket_of(&arguments.root, arguments.topic.socket())?;
    let question = arguments.question();
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(ShowError::Runtime)?;
    let answer = runtime.block_on(async {
        let observer = Observer::new(&arguments.root)?;
        let ask = async |request| observer.show(&request).await;
        Ok::<_, ShowError>(question.ask(ask).await?)
    })?;
    if answer.more {
        eprintln!(
            "There are more than {} routes: --vrf, --prefix and --to choose, --limit shows more.",
            arguments.limit
        );
    }
    let text = if arguments.json {
        question.json(&answer.state)
    } else {
        question.text(&answer.state)
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        outcome => outcome
            .map(|()| ExitCode::SUCCESS)
            .map_err(ShowError::Write),
    }
}

impl Arguments {
    fn question(&self) -> Question {
        Question {
            all: self.all,
            vrf: self.vrf.clone(),
            prefix: self.prefix.map(|prefix| prefix.to_string()),
            towards: self.to.map(|address| address.to_string()),
            limit: self.limit,
            ..Question::about(self.topic.of_view())
        }
    }
}

impl Topic {
    fn of_view(self) -> views::Topic {
        match self {
            Self::Interfaces => views::Topic::Interfaces,
            Self::Routes => views::Topic::Routes,
            Self::Neighbours => views::Topic::Neighbours,
            Self::Ike => views::Topic::Ike,
            Self::Children => views::Topic::Children,
            Self::Sas => views::Topic::Sas,
            Self::Policies => views::Topic::Policies,
            Self::Reassembly => views::Topic::Reassembly,
            Self::Paths => views::Topic::Paths,
            Self::TooBig => views::Topic::TooBig,
            Self::Drops => views::Topic::Drops,
            Self::Nodes => views::Topic::Nodes,
            Self::Ntp => views::Topic::Clock,
        }
    }

    /// Of the process that knows it.
    fn socket(self) -> &'static str {
        match self {
            Self::Ike | Self::Children => "iked-bridge",
            Self::Sas | Self::Policies => "dataplane-sa",
            Self::Ntp => "run",
            _ => "dataplane",
        }
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
