//! A listening socket that stays open.
//!
//! ```text
//!  bind: file in the way? -- not a socket: refuse
//!                         -- somebody answers: refuse
//!                         -- nobody answers: take it away
//!  then, every second: knock; nobody opens? listen anew
//! ```
//!
//! The knocking is for a weakness of NNG 1.4: a peer that connects and is gone before it was accepted (killed, for
//! one) makes the write of the greeting fail with EPIPE, which NNG takes for its own socket being closed, and it
//! never accepts again. Connections that are there already are reset when the door is hung anew; requests under
//! way are repeated by their clients with their ids and lose nothing.

use std::fs::Permissions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_model::bus;
use nng::options::transport::ipc;
use nng::options::{Options, RecvMaxSize};
use nng::{Listener, ListenerBuilder, Socket};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::address::Address;
use crate::call::HELLO;
use crate::{BusError, MESSAGE_LIMIT, VERSION};

/// Only the owner may connect.
const MODE: u32 = 0o600;

/// Between two knocks.
const KNOCK: Duration = Duration::from_secs(1);

/// How long somebody who is at home takes to open, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// First bytes on a connection, both ways: zero, "SP", version 0, the sender's protocol, reserved (SP over IPC).
type Greeting = [u8; 8];

/// Before each message: its type and its length, in network order.
type FrameHead = [u8; 9];

/// Type of a message that is one (SP over IPC).
const FRAME: u8 = 1;

/// What the socket behind the door speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Speaks {
    Rep,
    Pub,
}

impl Speaks {
    /// Of the one who knocks: REQ to REP, SUB to PUB.
    fn knock(self) -> Greeting {
        greeting(match self {
            Self::Rep => 0x30,
            Self::Pub => 0x21,
        })
    }

    fn answer(self) -> Greeting {
        greeting(match self {
            Self::Rep => 0x31,
            Self::Pub => 0x20,
        })
    }
}

/// A greeting of this bus, as a REQ socket would send it.
fn question() -> Vec<u8> {
    let request = bus::Request {
        method: HELLO.to_owned(),
        deadline_ms: u32::try_from(PATIENCE.as_millis()).unwrap_or(u32::MAX),
        body: bus::HelloRequest { version: VERSION }.encode_to_vec(),
        ..bus::Request::default()
    };
    let body = request.encode_to_vec();
    // The id of the request as REQ numbers them: the highest bit set.
    let id = [0x80, 0, 0, 1];
    let length = (id.len() + body.len()) as u64;
    [&[FRAME][..], &length.to_be_bytes(), &id, &body].concat()
}

fn greeting(protocol: u8) -> Greeting {
    [0, b'S', b'P', 0, 0, protocol, 0, 0]
}

/// The listener of one socket.
#[derive(Debug)]
pub(crate) struct Door {
    address: Address,
    socket: Socket,
    speaks: Speaks,
    hinge: Mutex<Hinge>,
}

#[derive(Debug)]
enum Hinge {
    Hung(Listener),
    /// It could not be hung anew so far.
    Off,
    Shut,
}

impl Door {
    /// Waits for [`PATIENCE`] at most, when another process has the path and does not answer.
    pub(crate) fn open(
        socket: &Socket,
        address: Address,
        speaks: Speaks,
    ) -> Result<Self, BusError> {
        clear_the_way(&address, speaks)?;
        let hinge = Mutex::new(Hinge::Hung(listen(socket, &address)?));
        Ok(Self {
            address,
            socket: socket.clone(),
            speaks,
            hinge,
        })
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Sees to it that somebody opens, for ever.
    pub(crate) async fn keep(self: &Arc<Self>) {
        let mut ticks = interval(KNOCK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A runtime that was busy for a while deserves a second knock.
            if self.opens().await || self.opens().await {
                continue;
            }
            let door = Arc::clone(self);
            let hung = tokio::task::spawn_blocking(move || door.hang_anew()).await;
            match hung {
                Ok(Ok(())) => tracing::warn!(path = ?self.address, "nobody opened; listening anew"),
                Ok(Err(error)) => tracing::error!(path = ?self.address, %error, "not listening"),
                Err(error) => tracing::error!(path = ?self.address, %error, "not listening"),
            }
        }
    }

    /// Nothing is hung anew from here on: the socket is about to be closed, and its listener with it.
    pub(crate) fn shut(&self) {
        *self.hinge() = Hinge::Shut;
    }

    fn hinge(&self) -> MutexGuard<'_, Hinge> {
        self.hinge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A greeting is not enough: the part of NNG that greets goes on when the one that takes connections over has
    /// stopped. Only what the socket itself sends tells.
    async fn opens(&self) -> bool {
        let knock = async {
            let mut stream = tokio::net::UnixStream::connect(self.address.path()).await?;
            stream.write_all(&self.speaks.knock()).await?;
            let mut answer = Greeting::default();
            stream.read_exact(&mut answer).await?;
            if self.speaks == Speaks::Rep {
                stream.write_all(&question()).await?;
            }
            // The reply; or the heartbeat that a publisher has for each newcomer.
            let mut head = FrameHead::default();
            stream.read_exact(&mut head).await?;
            Ok::<_, std::io::Error>(answer == self.speaks.answer())
        };
        matches!(timeout(PATIENCE, knock).await, Ok(Ok(true)))
    }

    fn hang_anew(&self) -> Result<(), BusError> {
        let mut hinge = self.hinge();
        match std::mem::replace(&mut *hinge, Hinge::Off) {
            Hinge::Hung(listener) => listener.close(),
            Hinge::Off => {}
            Hinge::Shut => {
                *hinge = Hinge::Shut;
                return Ok(());
            }
        }
        clear_the_way(&self.address, self.speaks)?;
        *hinge = Hinge::Hung(listen(&self.socket, &self.address)?);
        Ok(())
    }
}

/// nng would take away what is at the path when nobody listens there, whatever it is; and its way to find out
/// deafens an NNG that does listen.
fn clear_the_way(address: &Address, speaks: Speaks) -> Result<(), BusError> {
    let path = || address.path().to_owned();
    match std::fs::symlink_metadata(address.path()) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(BusError::NotASocket { path: path() }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(BusError::File {
                path: path(),
                source,
            });
        }
    }
    match UnixStream::connect(address.path()) {
        Ok(mut stream) => {
            let knock = |stream: &mut UnixStream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(&speaks.knock())?;
                stream.read_exact(&mut Greeting::default())
            };
            // Whoever it is, and whether it answers or not: it lives.
            let _ = knock(&mut stream);
            Err(BusError::InUse { path: path() })
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(address.path()).map_err(|source| BusError::File {
                path: path(),
                source,
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // Its queue of connections is full.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(BusError::InUse { path: path() })
        }
        Err(source) => Err(BusError::File {
            path: path(),
            source,
        }),
    }
}

fn listen(socket: &Socket, address: &Address) -> Result<Listener, BusError> {
    let failed = |error| address.failed(error);
    let listener = ListenerBuilder::new(socket, address.url()).map_err(failed)?;
    listener
        .set_opt::<RecvMaxSize>(MESSAGE_LIMIT)
        .map_err(failed)?;
    listener.set_opt::<ipc::Permissions>(MODE).map_err(failed)?;
    let listener = listener
        .start()
        .map_err(|(_, error)| address.failed(error))?;
    let file = |source| BusError::File {
        path: address.path().to_owned(),
        source,
    };
    let mode = std::fs::metadata(address.path())
        .map_err(file)?
        .permissions()
        .mode();
    if mode & 0o777 != MODE {
        std::fs::set_permissions(address.path(), Permissions::from_mode(MODE)).map_err(file)?;
    }
    Ok(listener)
}
