//! Knocks at the far host until it answers: tells when a path through gateways opens.
//!
//! ```text
//!   from: a small datagram every 2 ms ---> to: the same one back
//!         the time of the first answer
//! ```

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    namespace::{Namespace, NamespaceError},
    process::{Interrupt, ProcessError},
};

/// Between two knocks, and so the resolution of the answer.
const INTERVAL: Duration = Duration::from_millis(2);
/// How often the echo looks whether it shall stop.
const POLL: Duration = Duration::from_millis(20);

/// Why nobody could knock.
#[derive(Debug, thiserror::Error)]
pub enum KnockError {
    /// A namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A socket failed.
    #[error("knock: {call}: {source}")]
    Socket {
        /// What was tried.
        call: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody asked for an end.
    #[error(transparent)]
    Interrupted(#[from] ProcessError),
}

/// Knocking, until dropped.
#[derive(Debug)]
pub struct Knock {
    answered: Arc<OnceLock<Instant>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Knock {
    /// Starts to knock from `source` at `destination`, with `marker` in every datagram.
    pub fn start(
        from: &Namespace,
        source: SocketAddr,
        to: &Namespace,
        destination: SocketAddr,
        marker: &[u8],
    ) -> Result<Self, KnockError> {
        let bind = |address| move || UdpSocket::bind(address);
        let failed = |call| move |source| KnockError::Socket { call, source };
        let echo = to.enter(bind(destination))?.map_err(failed("bind"))?;
        let knocker = from.enter(bind(source))?.map_err(failed("bind"))?;
        echo.set_read_timeout(Some(POLL))
            .map_err(failed("set a timeout"))?;
        knocker
            .set_read_timeout(Some(INTERVAL))
            .map_err(failed("set a timeout"))?;
        let mut this = Self {
            answered: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let stop = Arc::clone(&this.stop);
        this.threads
            .push(thread::spawn(move || answer(&echo, &stop)));
        let stop = Arc::clone(&this.stop);
        let answered = Arc::clone(&this.answered);
        let marker = marker.to_vec();
        this.threads.push(thread::spawn(move || {
            knock(&knocker, destination, &marker, &answered, &stop);
        }));
        Ok(this)
    }

    /// Waits for the first answer and gives its time; `None` when there is none in time.
    pub fn wait(
        &self,
        limit: Duration,
        interrupt: &Interrupt,
    ) -> Result<Option<Instant>, KnockError> {
        let until = Instant::now() + limit;
        loop {
            match self.answered.get() {
                Some(time) => return Ok(Some(*time)),
                None if Instant::now() >= until => return Ok(None),
                None => interrupt.sleep(INTERVAL)?,
            }
        }
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Acquire) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && let Some(datagram) = buffer.get(..length)
        {
            let _ = socket.send_to(datagram, from);
        }
    }
}

fn knock(
    socket: &UdpSocket,
    destination: SocketAddr,
    marker: &[u8],
    answered: &OnceLock<Instant>,
    stop: &AtomicBool,
) {
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Acquire) && answered.get().is_none() {
        let begin = Instant::now();
        // A path that is not open yet may well answer with an error.
        let _ = socket.send_to(marker, destination);
        match socket.recv(&mut buffer) {
            Ok(length) if buffer.get(..length) == Some(marker) => {
                let _ = answered.set(Instant::now());
            }
            _ => thread::sleep(INTERVAL.saturating_sub(begin.elapsed())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_first_answer_is_as_late_as_the_path() {
        let name = format!("culvert-unit-{}-knock", std::process::id());
        let namespace = Namespace::ensure(&name).unwrap();
        let source = "127.0.0.1:7003".parse().unwrap();
        let destination = "127.0.0.1:7004".parse().unwrap();
        namespace
            .netlink(async |netlink| {
                netlink
                    .add_address("lo", "127.0.0.1/8".parse().unwrap())
                    .await
            })
            .unwrap();
        let knock = Knock::start(&namespace, source, &namespace, destination, b"knock").unwrap();
        let interrupt = Interrupt::default();
        assert!(
            knock
                .wait(Duration::from_millis(50), &interrupt)
                .unwrap()
                .is_none(),
            "lo is down"
        );
        let opened = Instant::now();
        namespace
            .netlink(async |netlink| netlink.set_up("lo").await)
            .unwrap();
        let answered = knock
            .wait(Duration::from_secs(5), &interrupt)
            .unwrap()
            .unwrap();
        assert!(answered > opened && answered - opened < Duration::from_secs(1));
        drop(knock);
        Namespace::remove(&name).unwrap();
    }
}
