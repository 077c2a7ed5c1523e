//! One asynchronous operation of nng at a time, as a future of tokio.
//!
//! ```text
//!   tokio task                          nng's threads
//!   lane.send(..).await  --submit-->    write, read ...
//!         ^                                  |
//!         +------ oneshot <---- callback ----+
//! ```
//!
//! Nothing here waits on a thread of tokio. A future that is dropped half-way leaves its operation to be
//! cancelled; the lane takes up its end before the next operation begins.

use std::sync::{Arc, Mutex, PoisonError};

use nng::{Aio, AioResult, Context, Message, Socket};
use tokio::sync::oneshot;
use zeroize::Zeroize;

/// Where the callback finds who waits for the operation.
type Slot = Arc<Mutex<Option<oneshot::Sender<AioResult>>>>;

/// An nng `Aio` and the end of the operation that it has under way, if any.
pub(crate) struct Lane {
    aio: Aio,
    slot: Slot,
    under_way: Option<oneshot::Receiver<AioResult>>,
}

impl Lane {
    pub(crate) fn new() -> Result<Self, nng::Error> {
        let slot = Slot::default();
        let waiting = Arc::clone(&slot);
        let aio = Aio::new(move |aio, result| {
            // Dropping the last handle waits for this callback to return: it must not be the last one. The
            // lane keeps its own until it has the result.
            drop(aio);
            let sender = waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(sender) = sender
                && let Err(unclaimed) = sender.send(result)
            {
                wipe_result(unclaimed);
            }
        })?;
        Ok(Self {
            aio,
            slot,
            under_way: None,
        })
    }

    /// Hands a message to nng; done when nng has taken it over.
    pub(crate) async fn send(
        &mut self,
        context: &Context,
        message: Message,
    ) -> Result<(), nng::Error> {
        self.settle().await;
        self.expect_result();
        if let Err((message, error)) = context.send(&self.aio, message) {
            self.under_way = None;
            wipe_message(message);
            return Err(error);
        }
        match self.result().await {
            AioResult::Send(Ok(())) => Ok(()),
            AioResult::Send(Err((message, error))) => {
                wipe_message(message);
                Err(error)
            }
            other => Err(out_of_order(other)),
        }
    }

    /// Waits for the next message of a context.
    pub(crate) async fn recv(&mut self, context: &Context) -> Result<Message, nng::Error> {
        self.settle().await;
        self.expect_result();
        if let Err(error) = context.recv(&self.aio) {
            self.under_way = None;
            return Err(error);
        }
        match self.result().await {
            AioResult::Recv(result) => result,
            other => Err(out_of_order(other)),
        }
    }

    /// Waits for the next message of a socket. Unlike the others this goes on where a dropped future stopped:
    /// no message is lost when the caller gives up waiting.
    pub(crate) async fn resume_recv(&mut self, socket: &Socket) -> Result<Message, nng::Error> {
        if self.under_way.is_none() {
            self.expect_result();
            if let Err(error) = socket.recv_async(&self.aio) {
                self.under_way = None;
                return Err(error);
            }
        }
        match self.result().await {
            AioResult::Recv(result) => result,
            other => Err(out_of_order(other)),
        }
    }

    /// Stops the operation under way; its end is taken up later.
    pub(crate) fn cancel(&self) {
        if self.under_way.is_some() {
            self.aio.cancel();
        }
    }

    /// Brings the operation under way to its end.
    pub(crate) async fn settle(&mut self) {
        if self.under_way.is_some() {
            self.aio.cancel();
            wipe_result(self.result().await);
        }
    }

    /// Takes a send under way back; true if nng still had the message, false if it had left already.
    pub(crate) async fn withdraw(&mut self) -> bool {
        if self.under_way.is_none() {
            return false;
        }
        self.aio.cancel();
        let result = self.result().await;
        let withdrawn = matches!(result, AioResult::Send(Err(_)));
        wipe_result(result);
        withdrawn
    }

    fn expect_result(&mut self) {
        let (sender, receiver) = oneshot::channel();
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        self.under_way = Some(receiver);
    }

    async fn result(&mut self) -> AioResult {
        let closed = AioResult::Recv(Err(nng::Error::Closed));
        let Some(receiver) = self.under_way.as_mut() else {
            return closed;
        };
        let result = receiver.await.unwrap_or(closed);
        self.under_way = None;
        result
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(mut receiver) = self.under_way.take() {
            // The callback has a handle of its own for an instant; it must be gone before ours is. A cancelled
            // operation ends at once.
            self.aio.cancel();
            self.aio.wait();
            if let Ok(result) = receiver.try_recv() {
                wipe_result(result);
            }
        }
    }
}

/// The callback of another operation than the one that was asked for.
fn out_of_order(result: AioResult) -> nng::Error {
    let error = match &result {
        AioResult::Send(Err((_, error))) | AioResult::Recv(Err(error)) => *error,
        _ => nng::Error::IncorrectState,
    };
    wipe_result(result);
    error
}

fn wipe_result(result: AioResult) {
    match result {
        AioResult::Send(Err((message, _))) | AioResult::Recv(Ok(message)) => wipe_message(message),
        AioResult::Send(Ok(())) | AioResult::Recv(Err(_)) | AioResult::Sleep(_) => {}
    }
}

/// Overwrites the body of a message that nng gave back before its memory is freed.
fn wipe_message(mut message: Message) {
    message.as_mut_slice().zeroize();
}
