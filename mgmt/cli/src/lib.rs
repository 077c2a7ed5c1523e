//! The command line of a gateway: the login shell, `culvert cli`.
//!
//! ```text
//!   terminal ── editor ── words ── grammar ──┐                        ┌── mgmt, over ROOT/run/api: configurations
//!   ssh, heredoc ── script ── words ─────────┴── session ── pipes ────┤
//!                                               one mode,             └── mgmt, too: what the gateway does now
//!                                               one candidate
//! ```
//!
//! It is a thin client: what is right in a configuration, who may do what, and what came of a commit is said by mgmt.
//! Here is only how it is asked for. No process is started, and no file is written but the history of each user's lines.
//!
//! Everything is asked of mgmt. What it tells of the gateway becomes tables or JSON by [`views`], which `culvert show` has, too.

mod client;
mod commands;
mod completion;
mod editor;
mod error;
mod grammar;
mod idle;
mod interactive;
mod moment;
mod pipes;
mod presence;
mod screen;
mod script;
mod secrets;
mod session;
mod table;
pub mod views;
mod words;

use std::env;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use culvert_model::api::WhoAmIReply;
use tokio::runtime::Builder;

use crate::client::{Client, Identity};
pub use crate::error::CliError;
use crate::screen::Screen;
use crate::session::Session;

/// How the command line is started.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// The folder of the gateway.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/culvert")]
    pub root: PathBuf,
    /// Speak for this user: for the login shell, which sshd starts after it knows who is there.
    #[arg(long, value_name = "NAME")]
    pub principal: Option<String>,
    /// The fingerprint of the SSH key that they came in with: the session ends when it is theirs no more.
    #[arg(long, value_name = "FINGERPRINT", requires = "principal")]
    pub key: Option<String>,
    /// Do these lines instead of reading any.
    #[arg(long, value_name = "TEXT")]
    pub command: Option<String>,
    /// Answer as JSON, as `| display json` does.
    #[arg(long, requires = "command")]
    pub json: bool,
    /// End the session when nobody presses a key for so many seconds; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub idle_timeout: u64,
}

/// Runs a session to its end.
pub fn execute(arguments: Arguments) -> Result<ExitCode, CliError> {
    // As sshd says it: both ends with their ports.
    let origin = env::var("SSH_CONNECTION").unwrap_or_default();
    let origin = match origin.trim() {
        "" => "console",
        connection => connection,
    };
    let identity = Identity::new(
        arguments.principal.as_deref(),
        origin,
        arguments.key.as_deref(),
    )?;
    let client = Client::new(arguments.root.join("run/api"), identity);
    // One thread moves the connection while another waits for keys.
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(CliError::io("cannot start the runtime"))?;
    if arguments.principal.is_some() {
        presence::end_with_the_user(&runtime, client.clone());
    }
    // What sshd was asked to run instead of its forced command.
    let command = match arguments.command {
        Some(command) if secrets::may_hold_secret(&command) => {
            return Err(CliError::Not(
                "other users of this machine see the arguments of a command: give lines that may hold a secret by standard input"
                    .to_owned(),
            ));
        }
        Some(command) if arguments.json => Some(format!("{} | display json", command.trim_end())),
        Some(command) => Some(command),
        None => env::var("SSH_ORIGINAL_COMMAND")
            .ok()
            .filter(|command| !command.trim().is_empty()),
    };
    let screen = Screen::of_process();
    let files = arguments.principal.is_none();
    let name = arguments.principal.unwrap_or_else(user_name);
    let interactive = command.is_none() && screen.person;
    let mut session = Session::new(client, files, interactive && screen.capable);
    // mgmt knows of the session from its beginning on, and tells who may not have one. Without mgmt there is still much to look at.
    let greeted = if !files || interactive {
        match runtime.block_on(session.greet()) {
            Err(error) if error.ends_the_session() => return Err(error),
            greeted => greeted.ok(),
        }
    } else {
        None
    };
    let outcome = match command {
        Some(command) => Ok(script::run(
            &runtime,
            &mut session,
            screen,
            command.as_bytes(),
            command.trim().contains('\n'),
            true,
        )),
        None if interactive => interactive::run(
            &runtime,
            session,
            screen,
            interactive::Beginning {
                history: editor::history_of(&arguments.root, &name),
                name,
                host: host_name(greeted),
                idle: (arguments.idle_timeout > 0)
                    .then(|| Duration::from_secs(arguments.idle_timeout)),
            },
        ),
        None => Ok(script::run(
            &runtime,
            &mut session,
            screen,
            io::stdin(),
            true,
            false,
        )),
    };
    // A question that is still being answered keeps nobody.
    runtime.shutdown_background();
    outcome
}

/// Of whoever runs the process.
fn user_name() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten()
        .map_or_else(|| "admin".to_owned(), |user| user.name)
}

/// The gateway's, or if it has none the machine's; the first label does for a prompt.
fn host_name(greeted: Option<WhoAmIReply>) -> String {
    let name = greeted
        .map(|reply| reply.host_name)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| {
            let uname = rustix::system::uname();
            uname.nodename().to_string_lossy().into_owned()
        });
    name.split('.').next().unwrap_or("gateway").to_owned()
}
