//! All clients of a gateway: those of its share of the plan, begun and ended as it says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_model::bus::{self, operation::Verb, value::Kind};
use tokio::sync::{oneshot, watch};

use crate::client::{self, Before, End, Snapshot};
use crate::moment::{Age, Moment};
use crate::store::{Store, StoreError};
use crate::terms::Terms;

/// A client that does not end in this time, having given its lease back or handed it over, is left.
const PATIENCE: Duration = Duration::from_secs(1);

/// What clients share.
pub struct Shared {
    store: Mutex<Store>,
    states: Mutex<BTreeMap<String, Snapshot>>,
    generation: watch::Sender<u64>,
}

impl Shared {
    /// Without clients. Generations are unlike those of the process before.
    pub fn new(store: Store) -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            store: Mutex::new(store),
            states: Mutex::default(),
            generation: watch::Sender::new(since.as_nanos() as u64 | 1),
        }
    }

    /// Counts the changes that others want to know of.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Every client as it is now.
    pub fn clients(&self) -> Vec<bus::DhcpClientState> {
        let states = lock(&self.states);
        let one = |(name, state): (&String, &Snapshot)| state.on_the_bus(name);
        states.iter().map(one).collect()
    }

    pub(crate) fn tell(&self, interface: &str, snapshot: Snapshot) {
        let mut states = lock(&self.states);
        // One that was taken away meanwhile has nothing more to say.
        let Some(state) = states.get_mut(interface) else {
            return;
        };
        let news = state.differs(&snapshot);
        *state = snapshot;
        if news {
            self.generation.send_modify(|generation| *generation += 1);
        }
    }

    fn begin(&self, interface: &str) {
        lock(&self.states).insert(interface.to_owned(), Snapshot::default());
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn end(&self, interface: &str) {
        lock(&self.states).remove(interface);
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub(crate) fn find(&self, interface: &str, client: &[u8]) -> Option<(Terms, Age)> {
        or_complain(lock(&self.store).find(interface, client, &Moment::now())).flatten()
    }

    pub(crate) fn keep(&self, interface: &str, client: &[u8], terms: &Terms, age: Duration) {
        let began = Moment::now().earlier(age);
        or_complain(lock(&self.store).keep(interface, client, terms, &began));
    }

    pub(crate) fn forget(&self, interface: &str) {
        or_complain(lock(&self.store).forget(interface));
    }
}

/// A lease that is not stored is good all the same.
fn or_complain<T>(outcome: Result<T, StoreError>) -> Option<T> {
    outcome
        .inspect_err(|error| tracing::error!(%error, "leases do not outlive this process"))
        .ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why an operation is refused.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error("operation {0} is unknown")]
    Verb(i32),
    #[error("{0} carries no DHCP client")]
    Kind(String),
    #[error("{0} has a client already")]
    Taken(String),
}

/// See the module.
pub struct Clients {
    shared: Arc<Shared>,
    by_key: BTreeMap<String, Running>,
}

struct Running {
    value: bus::DhcpClient,
    end: oneshot::Sender<End>,
    task: tokio::task::JoinHandle<()>,
}

impl Clients {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            by_key: BTreeMap::new(),
        }
    }

    /// Carries out operations: one result each, in their order.
    pub async fn apply(&mut self, operations: Vec<bus::Operation>) -> Vec<bus::OperationResult> {
        let mut results = Vec::with_capacity(operations.len());
        for operation in operations {
            let error = self.one(operation).await.err();
            results.push(bus::OperationResult {
                error: error.map(|error| bus::OperationError {
                    retriable: false,
                    message: error.to_string(),
                    fields: Vec::new(),
                }),
            });
        }
        results
    }

    /// What there is.
    pub fn retrieve(&self) -> Vec<bus::KeyedValue> {
        let one = |(key, running): (&String, &Running)| bus::KeyedValue {
            key: key.clone(),
            value: Some(bus::Value {
                kind: Some(Kind::DhcpClient(running.value.clone())),
            }),
        };
        self.by_key.iter().map(one).collect()
    }

    async fn one(&mut self, operation: bus::Operation) -> Result<(), ApplyError> {
        let key = operation.key.clone();
        match operation.verb() {
            Verb::Create | Verb::Update => {
                let Some(Kind::DhcpClient(value)) = operation.value.and_then(|value| value.kind)
                else {
                    return Err(ApplyError::Kind(key));
                };
                let mut others = self.by_key.iter().filter(|(other, _)| **other != key);
                if others.any(|(_, other)| other.value.interface == value.interface) {
                    return Err(ApplyError::Taken(value.interface));
                }
                let before = match self.by_key.remove(&key) {
                    Some(before)
                        if before.value.interface != value.interface
                            || before.value.client_id != value.client_id =>
                    {
                        self.release(before).await;
                        self.shared.begin(&value.interface);
                        Before::Stored
                    }
                    // The same client goes on with what it has.
                    Some(before) => hand_over(before).await,
                    None => {
                        self.shared.begin(&value.interface);
                        Before::Stored
                    }
                };
                let (end, receiver) = oneshot::channel();
                let task = client::run(value.clone(), Arc::clone(&self.shared), before, receiver);
                let running = Running {
                    value,
                    end,
                    task: tokio::spawn(task),
                };
                self.by_key.insert(key, running);
            }
            Verb::Delete => {
                if let Some(before) = self.by_key.remove(&key) {
                    self.release(before).await;
                }
            }
            Verb::Unspecified => return Err(ApplyError::Verb(operation.verb)),
        }
        Ok(())
    }

    async fn release(&self, running: Running) {
        let (done, released) = oneshot::channel();
        if running.end.send(End::Release(done)).is_ok() {
            let _ = tokio::time::timeout(PATIENCE, released).await;
        }
        running.task.abort();
        self.shared.end(&running.value.interface);
    }
}

/// Ends a client without a word to its server; what it knows goes on with the next.
async fn hand_over(running: Running) -> Before {
    let (hand, taken) = oneshot::channel();
    let mut before = Before::Stored;
    if running.end.send(End::HandOver(hand)).is_ok()
        && let Ok(Ok(handed)) = tokio::time::timeout(PATIENCE, taken).await
    {
        before = handed;
    }
    running.task.abort();
    before
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::terms::Offered;

    /// On a device that is not there: the client waits for it.
    fn wanted(host_name: &str) -> bus::DhcpClient {
        bus::DhcpClient {
            interface: "wan".to_owned(),
            tap: "no-such-device".to_owned(),
            client_id: b"me".to_vec(),
            host_name: host_name.to_owned(),
            ..bus::DhcpClient::default()
        }
    }

    fn operation(verb: Verb, value: Option<bus::DhcpClient>) -> bus::Operation {
        bus::Operation {
            verb: verb.into(),
            key: "dhcp_client/wan".to_owned(),
            value: value.map(|value| bus::Value {
                kind: Some(Kind::DhcpClient(value)),
            }),
        }
    }

    fn shared(folder: &tempfile::TempDir) -> Arc<Shared> {
        Arc::new(Shared::new(Store::open(folder.path()).unwrap()))
    }

    #[tokio::test]
    async fn a_change_of_settings_keeps_the_lease_and_the_end_of_the_client_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let shared = shared(&folder);
        let terms = Offered {
            address: Some([192, 0, 2, 10].into()),
            server: Some([192, 0, 2, 1].into()),
            mask: Some([255, 255, 255, 0].into()),
            duration: Some(3600),
            ..Offered::default()
        };
        shared.keep("wan", b"me", &terms.check().unwrap(), Duration::ZERO);
        let mut clients = Clients::new(Arc::clone(&shared));
        for (verb, value, kept) in [
            (Verb::Create, Some(wanted("one")), true),
            (Verb::Update, Some(wanted("two")), true),
            (Verb::Delete, None, false),
        ] {
            let results = clients.apply(vec![operation(verb, value.clone())]).await;
            assert!(results.iter().all(|one| one.error.is_none()), "{results:?}");
            // The client has run.
            tokio::task::yield_now().await;
            let there = clients.retrieve().pop().and_then(|one| one.value?.kind);
            assert_eq!(there, value.map(Kind::DhcpClient));
            assert_eq!(shared.find("wan", b"me").is_some(), kept, "{verb:?}");
            assert_eq!(shared.clients().len(), usize::from(kept));
        }
    }

    #[tokio::test]
    async fn what_was_handed_over_is_handed_on_without_a_socket() {
        let folder = tempfile::tempdir().unwrap();
        let (end, receiver) = oneshot::channel();
        let value = wanted("one");
        let before = Before::Handed(None);
        let task = client::run(value.clone(), shared(&folder), before, receiver);
        let running = Running {
            value,
            end,
            task: tokio::spawn(task),
        };
        // Not what is stored, that is: the client before had no lease.
        let after = hand_over(running).await;
        assert!(matches!(after, Before::Handed(None)), "{after:?}");
    }
}
