//! The Unix socket that charon's plugin connects to.
//!
//! One connection at a time is the session: the newest that said a valid `Hello`. Only the bridge's own user and root
//! may connect; whoever can speak here can read keys on their way.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_plugin_wire::{
    Answer, Call, FrameDecoder, Hello, PROTOCOL_VERSION, Status, ToBridge, ToPlugin, WireError,
    encode,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use zeroize::Zeroize;

/// Tells connections apart.
pub type ConnectionId = u64;

/// What comes from the socket.
#[allow(clippy::large_enum_variant)] // Calls are its commonest variant and its largest.
#[derive(Debug)]
pub enum FromPlugin {
    /// A plugin said hello.
    Up {
        /// Of its connection.
        connection: ConnectionId,
        /// Drawn once in the life of its charon.
        epoch: u64,
        /// charon's process id, as the kernel tells it.
        pid: u32,
        /// The way back. Dropping it closes the connection.
        answers: mpsc::UnboundedSender<ToPlugin>,
    },
    /// A call.
    Call {
        /// Of which connection.
        connection: ConnectionId,
        /// Of the call.
        id: u64,
        /// The call.
        call: Call,
    },
    /// The connection ended.
    Down {
        /// Which.
        connection: ConnectionId,
    },
}

/// Why a connection was closed from this side.
#[derive(Debug, thiserror::Error)]
enum RefusalError {
    #[error("user {0} may not connect")]
    User(u32),
    #[error("the first message is not a hello")]
    NoHello,
    #[error("the plugin speaks protocol {theirs}, this bridge {PROTOCOL_VERSION}")]
    Version { theirs: u32 },
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The listening socket. Its file is removed when it is dropped.
pub struct PluginSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl PluginSocket {
    /// Listens at `path`, mode 0600. A file that a dead bridge left is replaced.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Accepts connections for ever and reports what they say to `to`.
    pub async fn serve(self, to: mpsc::UnboundedSender<FromPlugin>) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let connection = NEXT.fetch_add(1, Ordering::Relaxed);
                    let to = to.clone();
                    tokio::spawn(async move {
                        if let Err(error) = attend(stream, connection, &to).await {
                            tracing::debug!(%error, "a connection of the plugin ended");
                        }
                        let _ = to.send(FromPlugin::Down { connection });
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection of the plugin could be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for PluginSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn attend(
    stream: UnixStream,
    connection: ConnectionId,
    to: &mpsc::UnboundedSender<FromPlugin>,
) -> Result<(), RefusalError> {
    let peer = stream.peer_cred()?;
    let ours = nix::unistd::geteuid().as_raw();
    if peer.uid() != ours && peer.uid() != 0 {
        tracing::warn!(uid = peer.uid(), "a stranger at the plugin's socket");
        return Err(RefusalError::User(peer.uid()));
    }
    let (mut reader, mut writer) = stream.into_split();
    let mut messages = Messages::default();
    let Some(ToBridge {
        id,
        call: Some(Call::Hello(hello)),
    }) = messages.next(&mut reader).await?
    else {
        return Err(RefusalError::NoHello);
    };
    if hello.protocol_version != PROTOCOL_VERSION {
        let error = RefusalError::Version {
            theirs: hello.protocol_version,
        };
        tracing::error!(%error, "charon's plugin does not fit this bridge");
        let answer = Answer::failed(Status::NotSupported, error.to_string());
        writer
            .write_all(&encode(&ToPlugin::answer(id, answer))?)
            .await?;
        return Err(error);
    }
    let (answers, waiting) = mpsc::unbounded_channel();
    let _ = answers.send(ToPlugin::answer(id, Answer::done()));
    let pid = peer
        .pid()
        .and_then(|pid| u32::try_from(pid).ok())
        .unwrap_or(hello.pid);
    greet(&hello, pid);
    let _ = to.send(FromPlugin::Up {
        connection,
        epoch: hello.epoch,
        pid,
        answers,
    });
    tokio::select! {
        result = receive(messages, reader, connection, to) => result,
        result = send(writer, waiting) => result,
    }
}

fn greet(hello: &Hello, pid: u32) {
    tracing::info!(
        pid,
        charon = hello.charon_version,
        "charon's plugin is connected"
    );
}

async fn receive(
    mut messages: Messages,
    mut reader: OwnedReadHalf,
    connection: ConnectionId,
    to: &mpsc::UnboundedSender<FromPlugin>,
) -> Result<(), RefusalError> {
    while let Some(message) = messages.next(&mut reader).await? {
        // A call that this bridge does not know: only a plugin of another protocol version has one.
        let Some(call) = message.call else { continue };
        let id = message.id;
        if to
            .send(FromPlugin::Call {
                connection,
                id,
                call,
            })
            .is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

async fn send(
    mut writer: OwnedWriteHalf,
    mut waiting: mpsc::UnboundedReceiver<ToPlugin>,
) -> Result<(), RefusalError> {
    while let Some(message) = waiting.recv().await {
        writer.write_all(&encode(&message)?).await?;
    }
    Ok(())
}

/// Messages out of a stream. What was read is wiped: it holds keys.
#[derive(Default)]
struct Messages {
    decoder: FrameDecoder,
}

impl Messages {
    async fn next(&mut self, reader: &mut OwnedReadHalf) -> Result<Option<ToBridge>, RefusalError> {
        let mut bytes = [0_u8; 4096];
        loop {
            if let Some(message) = self.decoder.next_message()? {
                bytes.zeroize();
                return Ok(Some(message));
            }
            let count = reader.read(&mut bytes).await?;
            if count == 0 {
                return Ok(None);
            }
            if let Some(read) = bytes.get(..count) {
                self.decoder.push(read);
            }
            bytes.zeroize();
        }
    }
}
