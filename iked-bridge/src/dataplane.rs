//! The bridge's end of the dataplane's SA socket.
//!
//! A ticket of the manager is one request id of the bus, as long as the ticket lives: asked again, the dataplane gives
//! its first answer again, and another dataplane refuses.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use culvert_bus::{BusError, Call, CallError, Client, RequestId, Snapshot, Subscription, Update};
use culvert_model::bus;
use tokio::sync::mpsc;

use crate::manager::{Outcome, Reply, Request, Ticket};

/// One attempt; the manager repeats.
const ATTEMPT: Duration = Duration::from_secs(1);

/// A dump of thousands of SAs takes longer.
const DUMP: Duration = Duration::from_secs(5);

/// What comes from the dataplane.
pub enum FromDataplane {
    /// It is there, or events were lost.
    Snapshot(bus::DumpSasReply),
    /// It published something.
    Published(bus::SaEvent),
    /// A request ended.
    Answered {
        /// Which.
        ticket: Ticket,
        /// Who answered.
        incarnation: Option<u64>,
        /// How.
        outcome: Outcome,
        /// For the next attempt.
        id: RequestId,
    },
}

/// The way to the dataplane.
pub struct Dataplane {
    client: Client,
    to: mpsc::UnboundedSender<FromDataplane>,
    ids: HashMap<Ticket, RequestId>,
}

impl Dataplane {
    /// Connects to the sockets under `bus`, now or later, and follows the dataplane's events.
    pub fn connect(bus: &Path, to: mpsc::UnboundedSender<FromDataplane>) -> Result<Self, BusError> {
        let client = Client::for_secrets(&bus.join("dataplane-sa"))?;
        let asked = client.clone();
        let mut subscription: Subscription<bus::DumpSasReply, bus::SaEvent> =
            Subscription::follow(&bus.join("dataplane-sa.events"), move || {
                let client = asked.clone();
                async move {
                    let dump = client.call(&bus::DumpSasRequest {}, DUMP).await?;
                    Ok::<_, CallError>(Snapshot {
                        published: dump.published,
                        incarnation: dump.incarnation,
                        state: by_server(&client, dump),
                    })
                }
            })?;
        let updates = to.clone();
        tokio::spawn(async move {
            loop {
                let update = match subscription.next().await {
                    Update::Snapshot(dump) => FromDataplane::Snapshot(dump),
                    Update::Event(event) => FromDataplane::Published(event),
                };
                if updates.send(update).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            client,
            to,
            ids: HashMap::new(),
        })
    }

    /// Asks, or asks again.
    pub fn ask(&mut self, ticket: Ticket, request: Request) {
        let client = self.client.clone();
        let to = self.to.clone();
        let mut id = self.ids.remove(&ticket).unwrap_or_else(|| client.draw_id());
        tokio::spawn(async move {
            let outcome = carry(&client, &mut id, request).await;
            let incarnation = client.session().map(|session| session.incarnation);
            let _ = to.send(FromDataplane::Answered {
                ticket,
                incarnation,
                outcome,
                id,
            });
        });
    }

    /// Keeps the id of a request that may be asked again.
    pub fn keep(&mut self, ticket: Ticket, id: RequestId) {
        self.ids.insert(ticket, id);
    }

    /// The ticket is not used again.
    pub fn forget(&mut self, ticket: Ticket) {
        self.ids.remove(&ticket);
    }
}

/// The number that tells one dataplane from the next is that of its server, everywhere in the bridge; the publisher's is
/// the subscription's affair.
fn by_server(client: &Client, mut dump: bus::DumpSasReply) -> bus::DumpSasReply {
    if let Some(session) = client.session() {
        dump.incarnation = session.incarnation;
    }
    dump
}

async fn carry(client: &Client, id: &mut RequestId, request: Request) -> Outcome {
    match request {
        Request::AddSa(installation) => {
            let installation = Arc::clone(&installation);
            outcome(client.call_as(id, &*installation, ATTEMPT).await, |_| {
                Reply::Done
            })
        }
        Request::UpdateSa(request) => call(client, id, &request, ATTEMPT, |_| Reply::Done).await,
        Request::DelSa(request) => {
            call(client, id, &request, ATTEMPT, |reply| {
                Reply::Deleted(reply.usage)
            })
            .await
        }
        Request::QuerySas => {
            let request = bus::QuerySasRequest::default();
            call(client, id, &request, ATTEMPT, |reply| {
                Reply::Usages(reply.usages)
            })
            .await
        }
        Request::DumpSas => {
            let request = bus::DumpSasRequest {};
            call(client, id, &request, DUMP, |dump| {
                Reply::Dump(by_server(client, dump))
            })
            .await
        }
        Request::AddPolicy(request) => call(client, id, &request, ATTEMPT, |_| Reply::Done).await,
        Request::DelPolicy(request) => call(client, id, &request, ATTEMPT, |_| Reply::Done).await,
    }
}

async fn call<C: Call>(
    client: &Client,
    id: &mut RequestId,
    request: &C,
    within: Duration,
    reply: impl FnOnce(C::Reply) -> Reply,
) -> Outcome {
    outcome(client.call_as(id, request, within).await, reply)
}

fn outcome<R>(result: Result<R, CallError>, reply: impl FnOnce(R) -> Reply) -> Outcome {
    match result {
        Ok(answer) => Outcome::Done(reply(answer)),
        Err(CallError::Refused { code, message, .. }) => match code {
            // Later it may be different: the same as no answer.
            bus::refusal::Code::Unavailable | bus::refusal::Code::Deadline => Outcome::NoAnswer,
            code => Outcome::Refused { code, message },
        },
        Err(CallError::Restarted { .. }) => Outcome::Restarted,
        Err(CallError::TimedOut { .. } | CallError::Unreachable { .. }) => Outcome::NoAnswer,
        Err(error) => Outcome::Refused {
            code: bus::refusal::Code::Internal,
            message: error.to_string(),
        },
    }
}
