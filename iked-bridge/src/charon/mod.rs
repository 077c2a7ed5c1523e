//! charon's other half: VICI. Connections, credentials, the list of SAs, initiating.
//!
//! ```text
//!   bus: Apply, ShowIke ... ──> Control ──┐            ┌── commands ──> charon.vici
//!   manager: ListCharon ─────────────────>│   Actor    │
//!                                         └────────────┴── events <─── charon.vici (its own connection)
//! ```
//!
//! What the box wants of charon is held in memory and loaded into every new charon, credentials before connections
//! before anything is initiated. A connection to VICI that breaks is a charon that died: the supervisor starts the
//! next one, and nobody has to send anything again. While no charon is there, [`Control::apply`] waits for it shortly,
//! then takes the operations into memory and answers that they can be tried again: a connection that no charon has
//! seen is not yet known to be good.

pub mod connection;
pub mod credentials;
pub mod keeper;
pub mod show;

mod actor;

use std::time::{Duration, Instant};

use culvert_model::bus::{ApplyRequest, IkeState, KeyedValue, OperationResult};
use tokio::sync::{mpsc, oneshot};

pub(crate) use actor::Actor;

/// A part of charon that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No charon, or it died while it was asked.
    #[error("charon is not there")]
    Absent,
    /// charon said no.
    #[error("{0}")]
    Refused(String),
    /// Nothing of that name.
    #[error("nothing matches {0:?}")]
    NotFound(String),
}

/// Which SAs a person means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Of a connection.
    Ike(String),
    /// Of a child.
    Child(String),
}

type Answer<T> = oneshot::Sender<T>;

/// What the actor is asked.
pub(crate) enum Command {
    Apply {
        request: ApplyRequest,
        until: Instant,
        answer: Answer<Vec<OperationResult>>,
    },
    Retrieve {
        credentials: bool,
        answer: Answer<Vec<KeyedValue>>,
    },
    /// List the SAs for the manager.
    List,
    /// Traps are gone from the dataplane.
    TrapsLost,
    /// Traffic wants the tunnel of this `if_id`.
    Wanted { if_id: u32 },
}

/// The way to charon for everybody else. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    commands: mpsc::UnboundedSender<Command>,
    vici: strongswan_vici::Vici,
}

impl Control {
    /// Carries out operations on connections and credentials; one result each.
    pub async fn apply(&self, request: ApplyRequest, until: Instant) -> Vec<OperationResult> {
        let (answer, result) = oneshot::channel();
        let command = Command::Apply {
            request,
            until,
            answer,
        };
        let _ = self.commands.send(command);
        result.await.unwrap_or_default()
    }

    /// What is loaded, or will be as soon as charon is there: connections, or credentials without their secrets.
    pub async fn retrieve(&self, credentials: bool) -> Vec<KeyedValue> {
        let (answer, result) = oneshot::channel();
        let _ = self.commands.send(Command::Retrieve {
            credentials,
            answer,
        });
        result.await.unwrap_or_default()
    }

    /// Every IKE SA.
    pub async fn ikes(&self) -> Result<Vec<IkeState>, ControlError> {
        let all = strongswan_vici::SaFilter::default();
        let listed = self.vici.list_sas(&all).await.map_err(failed)?;
        Ok(listed.iter().map(show::ike_state).collect())
    }

    /// Brings a child up and waits for it.
    pub async fn initiate(&self, child: &str, within: Duration) -> Result<(), ControlError> {
        let what = strongswan_vici::Initiate {
            child: Some(child.to_owned()),
            ike: None,
            timeout: Some(within),
        };
        self.vici.initiate(&what).await.map_err(failed)
    }

    /// Rekeys; gives how many SAs matched.
    pub async fn rekey(&self, which: &Which) -> Result<u32, ControlError> {
        let mut what = strongswan_vici::Rekey::default();
        match which {
            Which::Ike(name) => what.ike = Some(name.clone()),
            Which::Child(name) => what.child = Some(name.clone()),
        }
        matched(which, self.vici.rekey(&what).await)
    }

    /// Terminates; gives how many SAs matched.
    pub async fn terminate(&self, which: &Which, within: Duration) -> Result<u32, ControlError> {
        let mut what = strongswan_vici::Terminate {
            timeout: Some(within),
            ..strongswan_vici::Terminate::default()
        };
        match which {
            Which::Ike(name) => what.ike = Some(name.clone()),
            Which::Child(name) => what.child = Some(name.clone()),
        }
        let terminated = self.vici.terminate(&what).await;
        matched(which, terminated.map(|terminated| terminated.matches))
    }

    pub(crate) fn list(&self) {
        let _ = self.commands.send(Command::List);
    }

    pub(crate) fn traps_lost(&self) {
        let _ = self.commands.send(Command::TrapsLost);
    }

    pub(crate) fn wanted(&self, if_id: u32) {
        let _ = self.commands.send(Command::Wanted { if_id });
    }
}

fn matched(
    which: &Which,
    result: Result<u32, strongswan_vici::ViciError>,
) -> Result<u32, ControlError> {
    let (Which::Ike(name) | Which::Child(name)) = which;
    match result {
        Ok(0) => Err(ControlError::NotFound(name.clone())),
        // charon says it in words only.
        Err(strongswan_vici::ViciError::Refused { message, .. })
            if message.starts_with("no matching") =>
        {
            Err(ControlError::NotFound(name.clone()))
        }
        other => other.map_err(failed),
    }
}

#[allow(clippy::needless_pass_by_value)] // A function for map_err.
fn failed(error: strongswan_vici::ViciError) -> ControlError {
    if error.is_disconnect() {
        ControlError::Absent
    } else {
        ControlError::Refused(error.to_string())
    }
}
