//! A connection to a gateway: reached, believed, logged in; then asked, one channel a question.
//!
//! ```text
//!   input ──> stdin ─┐                 ┌─ stdout ──> text, bounded
//!                    ├─ one channel ───┤
//!             poll ──┘                 └─ stderr ──> sentences, bounded
//! ```
//!
//! All three move as they can: a gateway that complains while it is still being told something keeps nobody waiting.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ssh2::{BlockDirections, Channel, ErrorCode, MethodType, Session};
use zeroize::Zeroizing;

use crate::deadline::{Deadline, Late};
use crate::destination::Destination;
use crate::identity::{self, IdentityError};
use crate::known_hosts::{Added, HostKeyError, KnownHosts};

/// A gateway that is there answers a SYN sooner, over any link.
const REACHING: Duration = Duration::from_secs(15);
/// What a gateway has to say beside its answer.
const LONGEST_COMPLAINT: usize = 64 << 10;
/// What is moved at once.
const PIECE: usize = 32 << 10;
/// For the end of a channel or connection that nobody waits for, in milliseconds.
const GIVING_UP: u32 = 500;
/// `LIBSSH2_ERROR_EAGAIN`
const AGAIN: ErrorCode = ErrorCode::Session(-37);
/// The kind that a gateway has comes first; none of SHA-1, none of DSA.
const HOST_KEYS: &str = "ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256";

/// Why a gateway is not reached, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// A name that nobody knows.
    #[error("{host}: there is no such host: {source}")]
    Name {
        /// As given.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody listens there, or nothing leads there.
    #[error("{destination} is not reached: {source}")]
    Reach {
        /// Where.
        destination: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No SSH comes about.
    #[error("{destination} does not speak SSH as it should: {source}")]
    Handshake {
        /// With whom.
        destination: String,
        /// What libssh2 said.
        source: ssh2::Error,
    },
    /// It is not who it is taken for.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// It does not know who this is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// In the middle.
    #[error("the connection ended before the answer did: {0}")]
    Broken(io::Error),
    /// The command line was ended from outside.
    #[error("the gateway ended the session ({0})")]
    Killed(String),
    /// It is too large.
    #[error("the answer is larger than {} MiB", .0 >> 20)]
    TooLarge(usize),
    /// It took too long.
    #[error(transparent)]
    Late(#[from] Late),
}

/// An answer to its end.
#[derive(Debug)]
pub struct Answer {
    /// What it wrote to standard output.
    pub text: Zeroizing<Vec<u8>>,
    /// What it wrote beside it, without control characters.
    pub complaint: String,
    /// The exit status of the command line.
    pub status: i32,
}

/// A question to a gateway.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// One line; none: lines by standard input.
    pub line: Option<&'a str>,
    /// What it reads.
    pub input: &'a [u8],
    /// The most that it may answer, in bytes.
    pub largest: usize,
    /// Until when.
    pub deadline: Deadline,
}

/// Logged in.
pub struct Connection {
    session: Session,
    socket: TcpStream,
    /// Of the gateway, when it was not known before.
    pub added: Option<Added>,
}

/// How to know each other.
#[derive(Debug, Clone, Copy)]
pub struct Trust<'a> {
    /// The key to log in with.
    pub identity: Option<&'a Path>,
    /// The file of known hosts.
    pub known_hosts: Option<&'a Path>,
    /// Unknown gateways are added to it.
    pub accept_new: bool,
    /// The home of whoever runs this.
    pub home: &'a Path,
}

impl Connection {
    /// Reaches a gateway, sees that it is the right one, and logs in.
    pub fn open(
        destination: &Destination,
        trust: Trust<'_>,
        deadline: Deadline,
    ) -> Result<Self, ConnectionError> {
        let socket = reach(destination, deadline)?;
        let broken = |source| ConnectionError::Handshake {
            destination: destination.to_string(),
            source,
        };
        let mut session = Session::new().map_err(broken)?;
        session
            .method_pref(MethodType::HostKey, HOST_KEYS)
            .map_err(broken)?;
        session.set_tcp_stream(socket.try_clone().map_err(ConnectionError::Broken)?);
        session.set_timeout(deadline.milliseconds()?);
        if let Err(source) = session.handshake() {
            return Err(match deadline.late(&source) {
                Some(late) => late.into(),
                None => broken(source),
            });
        }
        // Before anything is said to it.
        let known = KnownHosts::new(trust.known_hosts, trust.home);
        let added = known.verify(&session, destination, trust.accept_new)?;
        identity::authenticate(&session, trust.identity, trust.home, deadline)?;
        Ok(Self {
            session,
            socket,
            added,
        })
    }

    /// Asks, and waits for all of the answer. `moved` is told how many bytes went and came so far.
    pub fn ask(
        &self,
        question: Question<'_>,
        mut moved: impl FnMut(usize, usize),
    ) -> Result<Answer, ConnectionError> {
        let deadline = question.deadline;
        self.session.set_blocking(true);
        self.session.set_timeout(deadline.milliseconds()?);
        let failed = |source: ssh2::Error| match deadline.late(&source) {
            Some(late) => late.into(),
            None => ConnectionError::Broken(source.into()),
        };
        let mut channel = self.session.channel_session().map_err(failed)?;
        match question.line {
            Some(line) => channel.exec(line),
            // Without a command and without a terminal the command line reads lines.
            None => channel.shell(),
        }
        .map_err(failed)?;
        self.session.set_blocking(false);
        let outcome = self.exchange(&mut channel, question, &mut moved);
        self.session.set_blocking(true);
        // A channel that is given up is closed without much waiting.
        self.session.set_timeout(GIVING_UP);
        let (text, complaint) = outcome?;
        self.session.set_timeout(deadline.milliseconds()?);
        channel
            .close()
            .and_then(|()| channel.wait_close())
            .map_err(failed)?;
        if let Some(signal) = channel
            .exit_signal()
            .ok()
            .and_then(|signal| signal.exit_signal)
        {
            return Err(ConnectionError::Killed(format!(
                "SIG{}",
                printable(&signal)
            )));
        }
        Ok(Answer {
            text,
            complaint: printable(&String::from_utf8_lossy(&complaint)),
            status: channel.exit_status().map_err(failed)?,
        })
    }

    fn exchange(
        &self,
        channel: &mut Channel,
        question: Question<'_>,
        moved: &mut dyn FnMut(usize, usize),
    ) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), ConnectionError> {
        let (mut text, mut complaint) = (Zeroizing::new(Vec::new()), Vec::new());
        let mut piece = Zeroizing::new(vec![0; PIECE]);
        let mut sent = 0;
        let mut said_all = false;
        loop {
            let mut progress = false;
            let rest = question.input.get(sent..).unwrap_or_default();
            if !rest.is_empty() {
                match channel.write(rest.get(..PIECE).unwrap_or(rest)) {
                    Ok(written) => {
                        sent += written;
                        progress |= written > 0;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // It has heard enough, and says why; when the connection is gone, reading tells.
                    Err(_) => (sent, said_all) = (question.input.len(), true),
                }
            } else if !said_all {
                match channel.send_eof() {
                    Ok(()) => (said_all, progress) = (true, true),
                    Err(error) if error.code() == AGAIN => {}
                    Err(_) => said_all = true,
                }
            }
            match read(channel, &mut piece)? {
                0 => {}
                more => {
                    progress = true;
                    if text.len() + more > question.largest {
                        return Err(ConnectionError::TooLarge(question.largest));
                    }
                    text.extend_from_slice(piece.get(..more).unwrap_or_default());
                }
            }
            match read(&mut channel.stderr(), &mut piece)? {
                0 => {}
                more => {
                    progress = true;
                    let room = LONGEST_COMPLAINT.saturating_sub(complaint.len()).min(more);
                    complaint.extend_from_slice(piece.get(..room).unwrap_or_default());
                }
            }
            if progress {
                moved(sent, text.len());
                question.deadline.left()?;
            } else if channel.eof() {
                return Ok((text, complaint));
            } else {
                self.wait(question.deadline)?;
            }
        }
    }

    /// Until something can move.
    fn wait(&self, deadline: Deadline) -> Result<(), ConnectionError> {
        let events = match self.session.block_directions() {
            BlockDirections::None | BlockDirections::Inbound => PollFlags::POLLIN,
            BlockDirections::Outbound => PollFlags::POLLOUT,
            BlockDirections::Both => PollFlags::POLLIN | PollFlags::POLLOUT,
        };
        let timeout = i32::try_from(deadline.milliseconds()?).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), events)], timeout) {
            Ok(0) => Err(deadline.left().err().map_or_else(
                || ConnectionError::Broken(io::ErrorKind::TimedOut.into()),
                ConnectionError::from,
            )),
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(ConnectionError::Broken(error.into())),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.session.set_blocking(true);
        self.session.set_timeout(GIVING_UP);
        let _ = self.session.disconnect(None, "done", None);
    }
}

/// What is there now; nothing at the end, too.
fn read(stream: &mut impl Read, piece: &mut [u8]) -> Result<usize, ConnectionError> {
    match stream.read(piece) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        outcome => outcome.map_err(ConnectionError::Broken),
    }
}

/// One address after the other.
fn reach(destination: &Destination, deadline: Deadline) -> Result<TcpStream, ConnectionError> {
    let addresses = (destination.host.as_str(), destination.port)
        .to_socket_addrs()
        .map_err(|source| ConnectionError::Name {
            host: destination.host.clone(),
            source,
        })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let limit = deadline.at_most(REACHING).left()?;
        match TcpStream::connect_timeout(&address, limit) {
            Ok(socket) => {
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(ConnectionError::Reach {
        destination: destination.to_string(),
        source: last,
    })
}

/// What a gateway writes moves no cursor here.
pub fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_afar_moves_no_cursor() {
        assert_eq!(printable("a\x1b[2Jb\r\n\tc\u{9b}"), "a[2Jb\n\tc");
    }
}
