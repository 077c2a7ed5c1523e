//! The task that keeps charon loaded with what the box wants of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_model::bus::{
    ApplyRequest, Child, Connection, Credential, KeyedValue, Operation, OperationError,
    OperationResult, StartAction, Value, operation, value,
};
use strongswan_vici::{EventStream, Initiate, SA_EVENTS, SaFilter, Terminate, Vici, ViciError};
use tokio::sync::mpsc;

use super::connection::{ConnectionError, certificates, refused_field, to_vici};
use super::credentials::{self, CredentialError, KeyIds};
use super::keeper::{Keeper, Step, Wanted};
use super::{Answer, Command, Control, show};
use crate::manager::CharonChild;

/// Between attempts to reach charon. It is restarted within seconds; nothing waits for a failed connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// Events of one negotiation come together: one list for all of them.
const EVENT_PAUSE: Duration = Duration::from_millis(60);

/// A list of many SAs takes its time, and charon holds each IKE SA meanwhile: the pause before the next is so many times
/// as long.
const LIST_SHARE: u32 = 4;

/// How long an `Apply` waits for a charon that is just being started.
const ABSENCE: Duration = Duration::from_secs(3);

/// A list that failed is tried again.
const LIST_PAUSE: Duration = Duration::from_millis(200);

/// See [`super`].
pub(crate) struct Actor {
    vici: Vici,
    commands: mpsc::UnboundedReceiver<Command>,
    lists: mpsc::UnboundedSender<Vec<CharonChild>>,
    /// By the plan's key.
    connections: BTreeMap<String, Held<Connection>>,
    credentials: BTreeMap<String, Held<Credential>>,
    key_ids: KeyIds,
    keeper: Keeper,
    started: Instant,
    present: bool,
    /// Operations that wait for charon.
    waiting: VecDeque<(ApplyRequest, Instant, Answer<Vec<OperationResult>>)>,
    list_wanted: bool,
    look_at: Instant,
    /// How long the last list took.
    list_took: Duration,
    /// Traps of connections that charon has had since before this bridge are not in the dataplane.
    traps_lost: bool,
    /// Connections that the running charon had when it was met.
    met_with: BTreeSet<String>,
}

/// A value that the box wants charon to have.
struct Held<T> {
    value: T,
    /// The running charon has it.
    loaded: bool,
}

impl Actor {
    /// For the charon that listens at `path`. Lists that the manager asked for go to `lists`.
    pub(crate) fn new(
        path: &Path,
        lists: mpsc::UnboundedSender<Vec<CharonChild>>,
    ) -> (Self, Control) {
        let vici = Vici::new(path);
        let (sender, commands) = mpsc::unbounded_channel();
        let control = Control {
            commands: sender,
            vici: vici.clone(),
        };
        let actor = Self {
            vici,
            commands,
            lists,
            connections: BTreeMap::new(),
            credentials: BTreeMap::new(),
            key_ids: KeyIds::new(),
            keeper: Keeper::default(),
            started: Instant::now(),
            present: false,
            waiting: VecDeque::new(),
            list_wanted: false,
            look_at: Instant::now(),
            list_took: Duration::ZERO,
            traps_lost: false,
            met_with: BTreeSet::new(),
        };
        (actor, control)
    }

    /// Until every [`Control`] is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let Some(events) = self.connect().await else {
                return;
            };
            tracing::info!("charon is there");
            self.present = true;
            self.load_all().await;
            if !self.attend(events).await {
                return;
            }
            tracing::warn!("charon is gone");
            self.present = false;
        }
    }

    /// Waits for a charon; meanwhile operations go into memory.
    async fn connect(&mut self) -> Option<EventStream> {
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    next = tokio::time::Instant::now() + CONNECT_PAUSE;
                    match self.vici.events(&SA_EVENTS).await {
                        Ok(events) => return Some(events),
                        Err(error) if error.is_disconnect() => {}
                        Err(error) => tracing::warn!(%error, "charon's VICI does not answer as it should"),
                    }
                    self.stop_waiting(Instant::now());
                }
                command = self.commands.recv() => match command? {
                    Command::Apply { request, until, answer } => {
                        let until = until.min(Instant::now() + ABSENCE);
                        self.waiting.push_back((request, until, answer));
                    }
                    Command::Retrieve { credentials, answer } => {
                        let _ = answer.send(self.retrieve(credentials));
                    }
                    Command::List => self.list_wanted = true,
                    Command::TrapsLost => self.traps_lost = true,
                    Command::Wanted { .. } => {}
                },
            }
        }
    }

    /// Operations that waited long enough are held, and can be tried again.
    fn stop_waiting(&mut self, now: Instant) {
        while let Some((_, until, _)) = self.waiting.front()
            && *until <= now
            && let Some((request, _, answer)) = self.waiting.pop_front()
        {
            let results = request
                .operations
                .into_iter()
                .map(|operation| match self.hold(operation) {
                    // Nothing has to be unloaded from a charon that is not there.
                    Ok(Change::Removed) => OperationResult::default(),
                    Ok(_) => failure(true, "charon is not running; it gets this when it is"),
                    Err(result) => result,
                })
                .collect();
            let _ = answer.send(results);
        }
    }

    /// Works with a charon until its events end. `false`: nobody needs it any more.
    async fn attend(&mut self, mut events: EventStream) -> bool {
        self.look_at = Instant::now();
        while let Some((request, _, answer)) = self.waiting.pop_front() {
            let results = self.apply(request).await;
            let _ = answer.send(results);
        }
        loop {
            let look_at = tokio::time::Instant::from_std(self.look_at);
            tokio::select! {
                event = events.next() => {
                    if let Err(error) = event {
                        tracing::debug!(%error, "charon's events end");
                        return true;
                    }
                    let pause = EVENT_PAUSE.max(self.list_took * LIST_SHARE);
                    self.look_at = self.look_at.min(Instant::now() + pause);
                }
                command = self.commands.recv() => match command {
                    None => return false,
                    Some(Command::Apply { request, answer, .. }) => {
                        let results = self.apply(request).await;
                        let _ = answer.send(results);
                        self.look_at = Instant::now();
                    }
                    Some(Command::Retrieve { credentials, answer }) => {
                        let _ = answer.send(self.retrieve(credentials));
                    }
                    Some(Command::List) => {
                        self.list_wanted = true;
                        self.look_at = Instant::now();
                    }
                    Some(Command::TrapsLost) => {
                        self.traps_lost = true;
                        self.renew_traps().await;
                    }
                    Some(Command::Wanted { if_id }) => {
                        self.keeper.hurry(self.started.elapsed(), if_id);
                        self.look_at = Instant::now();
                    }
                },
                () = tokio::time::sleep_until(look_at) => self.look().await,
            }
        }
    }

    /// Lists the SAs, for the manager and for the keeper.
    async fn look(&mut self) {
        let begun = Instant::now();
        let listed = self.vici.list_sas(&SaFilter::default()).await;
        self.list_took = begun.elapsed();
        let ikes = match listed {
            Ok(ikes) => ikes,
            Err(error) => {
                tracing::debug!(%error, "charon's SAs cannot be listed");
                self.look_at = Instant::now() + LIST_PAUSE;
                return;
            }
        };
        if std::mem::take(&mut self.list_wanted) {
            let _ = self.lists.send(show::children(&ikes));
        }
        let now = self.started.elapsed();
        for step in self.keeper.look(now, &ikes) {
            tracing::info!(?step, "keeping tunnels up");
            if let Err(error) = self.take(step).await {
                tracing::warn!(%error, "charon did not do it");
            }
        }
        self.look_at = Instant::now() + self.keeper.next_look();
    }

    async fn take(&self, step: Step) -> Result<(), ViciError> {
        match step {
            Step::Initiate(wanted) => {
                let what = Initiate {
                    child: Some(wanted.child),
                    ike: Some(wanted.ike),
                    timeout: None,
                };
                self.vici.initiate(&what).await
            }
            Step::DropIke(id) => {
                let what = Terminate {
                    ike_id: Some(id),
                    force: true,
                    ..Terminate::default()
                };
                self.vici.terminate(&what).await.map(drop)
            }
            Step::DropChild(id) => {
                let what = Terminate {
                    child_id: Some(id),
                    ..Terminate::default()
                };
                self.vici.terminate(&what).await.map(drop)
            }
        }
    }

    /// Gives a new charon everything that is held: credentials, then connections.
    async fn load_all(&mut self) {
        self.met_with = match self.vici.get_conns().await {
            Ok(names) => names.into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, "charon's connections cannot be listed");
                BTreeSet::new()
            }
        };
        self.key_ids.clear();
        for held in self.credentials.values_mut() {
            held.loaded = false;
        }
        for held in self.connections.values_mut() {
            held.loaded = false;
        }
        self.keeper.restart();
        let keys: Vec<String> = self.credentials.keys().cloned().collect();
        for key in keys {
            if let Err(error) = self.load_credential(&key).await {
                tracing::error!(%error, "a credential cannot be loaded");
            }
        }
        let keys: Vec<String> = self.connections.keys().cloned().collect();
        for key in keys {
            if let Err(error) = self.load_connection(&key).await {
                tracing::error!(%error, "a connection cannot be loaded");
            }
        }
        self.want();
    }

    async fn load_credential(&mut self, key: &str) -> Result<(), LoadError> {
        let Some(held) = self.credentials.get_mut(key) else {
            return Ok(());
        };
        credentials::load(&self.vici, &held.value, &mut self.key_ids).await?;
        held.loaded = true;
        Ok(())
    }

    async fn load_connection(&mut self, key: &str) -> Result<(), LoadError> {
        let Some(held) = self.connections.get_mut(key) else {
            return Ok(());
        };
        let used: BTreeSet<&str> = certificates(&held.value).collect();
        let by_name: BTreeMap<String, Credential> = self
            .credentials
            .values()
            .filter(|credential| used.contains(credential.value.name.as_str()))
            .map(|credential| {
                (
                    credential.value.name.clone(),
                    public_part(&credential.value),
                )
            })
            .collect();
        let message = to_vici(&held.value, &by_name)?;
        self.vici.load_conn(&held.value.name, message).await?;
        held.loaded = true;
        self.renew_traps().await;
        Ok(())
    }

    /// Has charon install traps again that it believes to be installed. A charon that is new installs them by itself.
    async fn renew_traps(&mut self) {
        if !self.traps_lost {
            return;
        }
        for held in self.connections.values().filter(|held| held.loaded) {
            let name = &held.value.name;
            if !self.met_with.remove(name) {
                continue;
            }
            for child in &held.value.children {
                if child.start_action() != StartAction::Trap {
                    continue;
                }
                // It may not be there at all.
                let _ = self.vici.uninstall(&child.name, Some(name)).await;
                if let Err(error) = self.vici.install(&child.name, Some(name)).await {
                    tracing::warn!(%error, child = child.name, "a trap cannot be installed again");
                }
            }
        }
    }

    /// Tells the keeper which children are to be up.
    fn want(&mut self) {
        let wanted: Vec<(Wanted, u32)> = self
            .connections
            .values()
            .filter(|held| held.loaded)
            .flat_map(|held| {
                held.value
                    .children
                    .iter()
                    .filter(|child| child.start_action() == StartAction::Start)
                    .map(|child| {
                        let wanted = Wanted {
                            ike: held.value.name.clone(),
                            child: child.name.clone(),
                        };
                        (wanted, child.if_id)
                    })
            })
            .collect();
        self.keeper.want(wanted);
    }

    /// Carries out operations on a charon that is there.
    async fn apply(&mut self, request: ApplyRequest) -> Vec<OperationResult> {
        let mut results = Vec::with_capacity(request.operations.len());
        for operation in request.operations {
            let key = operation.key.clone();
            let before = self.connections.get(&key).map(|held| held.value.clone());
            let credential_before = self.credentials.get(&key).map(|held| held.value.clone());
            let result = match self.hold(operation) {
                Ok(Change::Connection) => self.change_connection(&key, before).await,
                Ok(Change::Credential) => self.change_credential(&key).await,
                Ok(Change::Removed) => match (before, credential_before) {
                    (Some(connection), _) => self.drop_connection(&connection).await,
                    (None, Some(credential)) => self.drop_credential(&credential).await,
                    (None, None) => Ok(()),
                },
                Err(result) => {
                    results.push(result);
                    continue;
                }
            };
            results.push(match result {
                Ok(()) => OperationResult::default(),
                Err(error) => OperationResult {
                    error: Some(OperationError {
                        retriable: error.is_retriable(),
                        message: error.to_string(),
                        fields: error.fields(),
                    }),
                },
            });
        }
        self.want();
        results
    }

    /// Takes an operation into memory.
    fn hold(&mut self, operation: Operation) -> Result<Change, OperationResult> {
        let refused = |message: &str| Err(failure(false, message));
        match (
            operation.verb(),
            operation.value.and_then(|value| value.kind),
        ) {
            (operation::Verb::Delete, _) => {
                // What was there is still needed to unload it: the caller has a copy.
                self.connections.remove(&operation.key);
                self.credentials.remove(&operation.key);
                Ok(Change::Removed)
            }
            (
                operation::Verb::Create | operation::Verb::Update,
                Some(value::Kind::Connection(value)),
            ) => {
                if value.name.is_empty() {
                    return refused("a connection without a name");
                }
                self.connections.insert(
                    operation.key,
                    Held {
                        value,
                        loaded: false,
                    },
                );
                Ok(Change::Connection)
            }
            (
                operation::Verb::Create | operation::Verb::Update,
                Some(value::Kind::Credential(value)),
            ) => {
                if value.name.is_empty() || value.kind.is_none() {
                    return refused("a credential without a name or content");
                }
                self.credentials.insert(
                    operation.key,
                    Held {
                        value,
                        loaded: false,
                    },
                );
                Ok(Change::Credential)
            }
            (operation::Verb::Unspecified, _) => refused("an operation without a verb"),
            (_, None) => refused("an operation without a value"),
            (_, Some(_)) => refused("iked-bridge holds connections and credentials only"),
        }
    }

    async fn change_connection(
        &mut self,
        key: &str,
        before: Option<Connection>,
    ) -> Result<(), LoadError> {
        self.load_connection(key).await?;
        let Some(held) = self.connections.get(key) else {
            return Ok(());
        };
        // Children that are no longer configured must not go on.
        let now: BTreeSet<&str> = held
            .value
            .children
            .iter()
            .map(|child| child.name.as_str())
            .collect();
        let before = before.unwrap_or_default();
        let gone: Vec<&Child> = before
            .children
            .iter()
            .filter(|child| !now.contains(child.name.as_str()))
            .collect();
        for child in gone {
            self.terminate(Some(&child.name), &before.name).await?;
        }
        Ok(())
    }

    async fn drop_connection(&mut self, connection: &Connection) -> Result<(), LoadError> {
        match self.vici.unload_conn(&connection.name).await {
            Ok(()) | Err(ViciError::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.terminate(None, &connection.name).await
    }

    async fn terminate(&self, child: Option<&str>, ike: &str) -> Result<(), LoadError> {
        let what = Terminate {
            child: child.map(str::to_owned),
            ike: Some(ike.to_owned()),
            ..Terminate::default()
        };
        match self.vici.terminate(&what).await {
            // Nothing was up.
            Ok(_) | Err(ViciError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn change_credential(&mut self, key: &str) -> Result<(), LoadError> {
        self.load_credential(key).await?;
        let Some(name) = self
            .credentials
            .get(key)
            .map(|held| held.value.name.clone())
        else {
            return Ok(());
        };
        // Certificates travel inside connections: those that could not be loaded for want of it can be now.
        let users: Vec<String> = self
            .connections
            .iter()
            .filter(|(_, held)| certificates(&held.value).any(|used| used == name))
            .map(|(key, _)| key.clone())
            .collect();
        for user in users {
            match self.load_connection(&user).await {
                Err(error) if error.is_disconnect() => return Err(error),
                Err(error) => tracing::debug!(%error, "a connection still cannot be loaded"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn drop_credential(&mut self, credential: &Credential) -> Result<(), LoadError> {
        if credentials::unload(&self.vici, credential, &mut self.key_ids).await? {
            return Ok(());
        }
        self.vici.clear_creds().await?;
        self.key_ids.clear();
        let keys: Vec<String> = self.credentials.keys().cloned().collect();
        for key in keys {
            self.load_credential(&key).await?;
        }
        Ok(())
    }

    fn retrieve(&self, credentials: bool) -> Vec<KeyedValue> {
        if credentials {
            return self
                .credentials
                .iter()
                .filter(|(_, held)| held.loaded || !self.present)
                .map(|(key, held)| credentials::without_secret(key, &held.value))
                .collect();
        }
        self.connections
            .iter()
            .filter(|(_, held)| held.loaded || !self.present)
            .map(|(key, held)| KeyedValue {
                key: key.clone(),
                value: Some(Value {
                    kind: Some(value::Kind::Connection(held.value.clone())),
                }),
            })
            .collect()
    }
}

/// What an operation changed in memory.
enum Change {
    Connection,
    Credential,
    Removed,
}

/// Why charon does not have what it should.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Vici(#[from] ViciError),
}

impl LoadError {
    fn is_disconnect(&self) -> bool {
        match self {
            Self::Connection(_) => false,
            Self::Credential(error) => error.is_disconnect(),
            Self::Vici(error) => error.is_disconnect(),
        }
    }

    fn is_retriable(&self) -> bool {
        self.is_disconnect()
            || matches!(self, Self::Connection(error) if error.is_retriable())
            || matches!(self, Self::Vici(ViciError::Timeout { .. }))
    }

    /// Those of a value that are refused, if it is known.
    fn fields(&self) -> Vec<String> {
        match self {
            Self::Connection(error) => vec![error.field().to_owned()],
            Self::Vici(ViciError::Refused { message, .. }) => {
                refused_field(message).into_iter().collect()
            }
            Self::Vici(_) | Self::Credential(_) => Vec::new(),
        }
    }
}

fn failure(retriable: bool, message: &str) -> OperationResult {
    OperationResult {
        error: Some(OperationError {
            retriable,
            message: message.to_owned(),
            fields: Vec::new(),
        }),
    }
}

/// A credential as connections need it: certificates, no secrets.
fn public_part(credential: &Credential) -> Credential {
    use culvert_model::bus::credential::Kind;
    Credential {
        name: credential.name.clone(),
        kind: match &credential.kind {
            Some(Kind::Certificate(der)) => Some(Kind::Certificate(der.clone())),
            Some(Kind::CaCertificate(der)) => Some(Kind::CaCertificate(der.clone())),
            _ => None,
        },
        digest: Vec::new(),
    }
}
