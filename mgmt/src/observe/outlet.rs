//! What is told bit by bit, to readers who may be slow, gone, or many.
//!
//! ```text
//!   who finds out ── Outlet (a few replies wait) ── gRPC ── reader
//!                      │ full for long: the reader has stopped reading, and it is over
//! ```
//!
//! Each reader has a place; there are few for all, and fewer for each user. Whoever stops reading keeps neither memory nor
//! anybody else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Replies that wait for their reader.
const WAITING: usize = 8;
/// A reader who takes nothing for so long has stopped reading.
const STALLED: Duration = Duration::from_secs(10);
/// Between two looks whether there is room.
const LOOK: Duration = Duration::from_millis(20);
/// At a time, of all and of one user.
const PLACES: usize = 24;
const PLACES_EACH: usize = 8;

/// The replies of one call.
pub type Replies<T> = ReceiverStream<Result<T, Status>>;

/// Where replies go. Dropped, they end.
#[derive(Debug)]
pub struct Outlet<T> {
    sender: mpsc::Sender<Result<T, Status>>,
    /// For room.
    patience: Duration,
    place: Place,
}

impl<T> Outlet<T> {
    /// For whoever has a place.
    pub fn new(place: Place) -> (Self, Replies<T>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let this = Self {
            sender,
            patience: STALLED,
            place,
        };
        (this, ReceiverStream::new(receiver))
    }

    /// Tells it, waiting a while for room. False: nobody reads any more.
    pub async fn tell(&self, reply: T) -> bool {
        self.put(Ok(reply)).await
    }

    /// The same from a thread that may wait.
    pub fn tell_blocking(&self, reply: T) -> bool {
        self.put_blocking(Ok(reply))
    }

    /// Ends with what went wrong.
    pub async fn fail(self, status: Status) {
        self.put(Err(status)).await;
    }

    /// The same from a thread that may wait.
    pub fn fail_blocking(self, status: Status) {
        self.put_blocking(Err(status));
    }

    /// Nobody reads any more, or everything ends.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.place.all.over.load(Ordering::Relaxed)
    }

    /// When nobody reads any more.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    async fn put(&self, reply: Result<T, Status>) -> bool {
        let sent = tokio::time::timeout(self.patience, self.sender.send(reply)).await;
        matches!(sent, Ok(Ok(())))
    }

    fn put_blocking(&self, mut reply: Result<T, Status>) -> bool {
        let until = Instant::now() + self.patience;
        loop {
            match self.sender.try_send(reply) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Full(back)) if Instant::now() < until => {
                    reply = back;
                    std::thread::sleep(LOOK);
                }
                Err(_) => return false,
            }
        }
    }
}

/// How many read at a time.
#[derive(Debug, Clone, Default)]
pub struct Places {
    taken: Arc<Mutex<BTreeMap<String, usize>>>,
    over: Arc<AtomicBool>,
}

/// Of one reader, until it is dropped.
#[derive(Debug)]
pub struct Place {
    all: Places,
    name: String,
}

impl Places {
    /// Everything that is told comes to its end soon: the process waits for it.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// A place for a user, if there is one.
    pub fn take(&self, name: &str) -> Option<Place> {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.get(name).copied().unwrap_or(0);
        if own >= PLACES_EACH || all.values().sum::<usize>() >= PLACES {
            return None;
        }
        all.insert(name.to_owned(), own + 1);
        Some(Place {
            all: self.clone(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self
            .all
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.name) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use tokio_stream::StreamExt as _;

    use super::*;

    #[test]
    fn places_are_few_for_each_and_for_all() {
        let places = Places::default();
        let mut taken: Vec<Place> = (0..PLACES_EACH)
            .map(|_| places.take("ada").unwrap())
            .collect();
        assert!(places.take("ada").is_none());
        for name in ["bob", "eve"] {
            taken.extend((0..PLACES_EACH).map(|_| places.take(name).unwrap()));
        }
        assert!(places.take("dan").is_none());
        taken.pop();
        assert!(places.take("dan").is_some());
        taken.clear();
        assert!(places.taken.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_stops_reading_is_given_up_and_holds_little() {
        let places = Places::default();
        let (mut outlet, mut replies) = Outlet::new(places.take("ada").unwrap());
        outlet.patience = Duration::from_millis(50);
        let mut told = 0;
        while outlet.tell(told).await {
            told += 1;
            assert!(told <= WAITING, "it waits for nobody");
        }
        assert_eq!(told, WAITING);
        drop(outlet);
        assert!(places.taken.lock().unwrap().is_empty());
        let mut read = Vec::new();
        while let Some(Ok(reply)) = replies.next().await {
            read.push(reply);
        }
        assert_eq!(read.len(), WAITING);
    }

    #[tokio::test]
    async fn who_is_gone_is_known() {
        let places = Places::default();
        let (outlet, replies) = Outlet::<u8>::new(places.take("ada").unwrap());
        assert!(!outlet.is_closed());
        places.end();
        assert!(outlet.is_closed());
        drop(replies);
        outlet.closed().await;
        assert!(outlet.is_closed());
        assert!(!outlet.tell(1).await);
        assert!(!outlet.tell_blocking(1));
    }
}
