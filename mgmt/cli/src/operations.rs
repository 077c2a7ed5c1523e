//! What a gateway answers about itself: asked here, answered by whoever has the gateway at hand.
//!
//! ```text
//!   show routes vrf blue ──> Question ──> Operations::answer ──> text or JSON
//! ```
//!
//! This crate knows which questions there are and how they are asked; the `culvert` binary implements [`Operations`] over the bus.
//! Another implementation may ask the northbound `Gateway.Show` instead: nothing here would change.

use std::error::Error;

/// A subject of `show`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The gateway's processes, and how far it is with its configuration.
    System,
    /// Interfaces and tunnels with their counters.
    Interfaces,
    /// Routes as packets find them.
    Routes,
    /// Neighbours.
    Neighbours,
    /// `IKE_SAs`.
    Ike,
    /// `CHILD_SAs`.
    Children,
    /// Security associations of the dataplane.
    Sas,
    /// Policies of the dataplane.
    Policies,
    /// Fragments that wait.
    Reassembly,
    /// Paths to peers that take less than the link by which they begin.
    Paths,
    /// What became of messages of routers that ESP packets were too big.
    TooBig,
    /// Packets dropped, by reason.
    Drops,
    /// What each node of the packet graph has cost.
    Nodes,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// About what.
    pub topic: Topic,
    /// Answer as JSON, not as a table.
    pub json: bool,
    /// Rows that are all zero, too.
    pub all: bool,
    /// Of this routing instance only.
    pub vrf: Option<String>,
    /// Within this network only: `192.0.2.0/24`.
    pub prefix: Option<String>,
    /// The one by which this address is reached.
    pub towards: Option<String>,
    /// At most so many rows.
    pub limit: Option<usize>,
}

impl Question {
    /// About a topic, without anything special.
    pub fn about(topic: Topic) -> Self {
        Self {
            topic,
            json: false,
            all: false,
            vrf: None,
            prefix: None,
            towards: None,
            limit: None,
        }
    }
}

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Lines of text, or JSON.
    pub text: String,
    /// What the reader should know beside it: a sentence.
    pub note: Option<String>,
}

/// Answers questions about a running gateway. It is asked from a thread that may wait.
pub trait Operations: Send + Sync {
    /// The answer, or why there is none, in words for people.
    fn answer(&self, question: &Question) -> Result<Answer, Box<dyn Error + Send + Sync>>;
}
