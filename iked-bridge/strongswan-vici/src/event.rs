//! What charon tells of its own accord, on a connection apart.

use std::path::Path;

use crate::connection::Connection;
use crate::error::ViciError;
use crate::message::Message;
use crate::packet::{Incoming, Outgoing};
use crate::sa::{ChildSa, IkeSa, SaError};

/// The events that tell of SAs: [`Event::sa_event`] reads them all.
pub const SA_EVENTS: [&str; 5] = [
    "ike-updown",
    "ike-rekey",
    "ike-update",
    "child-updown",
    "child-rekey",
];

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `child-updown`, `log` ...
    pub name: String,
    /// What it says.
    pub message: Message,
}

/// An event of an SA, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaEvent {
    /// An IKE SA was established (`up`) or is gone.
    IkeUpDown {
        /// Established.
        up: bool,
        /// The IKE SA.
        ike: IkeSa,
    },
    /// An IKE SA was replaced.
    IkeRekey {
        /// The one replaced.
        old: Box<IkeSa>,
        /// Its successor.
        new: Box<IkeSa>,
    },
    /// An address or port of an IKE SA is about to change; what it carries is the state before.
    IkeUpdate {
        /// The IKE SA, with the old addresses.
        ike: IkeSa,
    },
    /// A CHILD SA was installed (`up`) or is gone.
    ChildUpDown {
        /// Installed.
        up: bool,
        /// Its IKE SA, with that CHILD SA alone.
        ike: IkeSa,
    },
    /// A CHILD SA was replaced.
    ChildRekey {
        /// Its IKE SA, without CHILD SAs.
        ike: IkeSa,
        /// The one replaced.
        old: Box<ChildSa>,
        /// Its successor.
        new: Box<ChildSa>,
    },
}

impl Event {
    /// The event as one of an SA; `None` when it is of another kind.
    pub fn sa_event(&self) -> Result<Option<SaEvent>, ViciError> {
        let up = self.message.is_yes("up");
        let Some((name, section)) = self.message.sections().next() else {
            return Ok(None);
        };
        let part = |key: &'static str| section.section(key).ok_or(SaError::Missing(key));
        Ok(Some(match self.name.as_str() {
            "ike-updown" => SaEvent::IkeUpDown {
                up,
                ike: IkeSa::read(name, section)?,
            },
            "ike-update" => SaEvent::IkeUpdate {
                ike: IkeSa::read(name, section)?,
            },
            "child-updown" => SaEvent::ChildUpDown {
                up,
                ike: IkeSa::read(name, section)?,
            },
            "ike-rekey" => SaEvent::IkeRekey {
                old: Box::new(IkeSa::read(name, part("old")?)?),
                new: Box::new(IkeSa::read(name, part("new")?)?),
            },
            "child-rekey" => {
                let (_, child) = part("child-sas")?
                    .sections()
                    .next()
                    .ok_or(SaError::Missing("child-sas"))?;
                let child = |key: &'static str| child.section(key).ok_or(SaError::Missing(key));
                SaEvent::ChildRekey {
                    ike: IkeSa::read_without_children(name, section)?,
                    old: Box::new(ChildSa::read(child("old")?)?),
                    new: Box::new(ChildSa::read(child("new")?)?),
                }
            }
            _ => return Ok(None),
        }))
    }
}

/// Events as they come. Ends with [`ViciError::Closed`] when charon dies; open another then.
pub struct EventStream {
    connection: Connection,
    /// Events that came while later ones were still being registered.
    early: std::collections::VecDeque<Event>,
    ended: bool,
}

impl EventStream {
    /// Connects and registers for events, all of which charon has confirmed when this returns.
    pub async fn connect(path: impl AsRef<Path>, events: &[&str]) -> Result<Self, ViciError> {
        let mut connection = Connection::open(path.as_ref()).await?;
        let mut early = std::collections::VecDeque::new();
        for event in events {
            connection.send(&Outgoing::Register { event }).await?;
            loop {
                match connection.receive().await? {
                    Incoming::EventConfirmed => break,
                    Incoming::Event { name, message } => early.push_back(Event { name, message }),
                    Incoming::UnknownEvent => {
                        return Err(ViciError::UnknownEvent((*event).to_owned()));
                    }
                    _ => return Err(ViciError::Unexpected("a confirmation")),
                }
            }
        }
        Ok(Self {
            connection,
            early,
            ended: false,
        })
    }

    /// The next event. May be abandoned and called again: nothing is lost, so it fits in a `select!`.
    ///
    /// After an error the stream has ended: every further call is [`ViciError::Closed`], so check, do not loop.
    pub async fn next(&mut self) -> Result<Event, ViciError> {
        if let Some(event) = self.early.pop_front() {
            return Ok(event);
        }
        if self.ended {
            return Err(ViciError::Closed);
        }
        let received = self.connection.receive().await;
        match received {
            Ok(Incoming::Event { name, message }) => Ok(Event { name, message }),
            Ok(_) => {
                self.ended = true;
                Err(ViciError::Unexpected("an event"))
            }
            Err(error) => {
                self.ended = true;
                Err(error)
            }
        }
    }
}
