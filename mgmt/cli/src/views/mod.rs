//! What the gateway tells of itself, as people and programs read it.
//!
//! ```text
//!   show routes vrf blue ──> Question ──> ShowRequest ── mgmt ──> State ──┬── a table: columns over the fields of a list
//!                                                                         └── JSON: the list as the schema has it
//! ```
//!
//! Which columns a table has is data. `culvert show` and the command line show the same.

mod clock;
pub mod json;
pub mod packets;
pub mod pcapng;
mod rows;
mod system;
pub mod trace;

use culvert_model::api::{RouteChoice, ShowReply, ShowRequest, Subject};
use culvert_model::state::State;

/// A subject of `show`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The gateway's processes, and how far it is with its configuration.
    System,
    /// Which firmware runs.
    Version,
    /// The clock, and whom it is set by.
    Clock,
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
    /// DHCP clients with their leases.
    Dhcp,
}

impl Topic {
    fn subjects(self) -> &'static [Subject] {
        match self {
            Self::System => &[Subject::System, Subject::Values],
            Self::Version => &[Subject::System],
            Self::Clock => &[Subject::Clock],
            Self::Interfaces => &[Subject::Interfaces],
            Self::Routes => &[Subject::Routes],
            Self::Neighbours => &[Subject::Neighbours],
            Self::Ike => &[Subject::Ike],
            Self::Children => &[Subject::Children],
            Self::Sas => &[Subject::Sas],
            Self::Policies => &[Subject::Policies],
            Self::Reassembly => &[Subject::Reassembly],
            Self::Paths => &[Subject::Paths],
            Self::TooBig => &[Subject::TooBig],
            Self::Drops => &[Subject::Drops],
            Self::Nodes => &[Subject::Nodes],
            Self::Dhcp => &[Subject::Dhcp],
        }
    }
}

/// Rows of a table of routes unless the question says otherwise.
pub const ROUTES: usize = 1000;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// About what.
    pub topic: Topic,
    /// Rows that are all zero, too.
    pub all: bool,
    /// Of this routing instance only.
    pub vrf: Option<String>,
    /// Within this network only: `192.0.2.0/24`.
    pub prefix: Option<String>,
    /// The one by which this address is reached.
    pub towards: Option<String>,
    /// At most so many routes.
    pub limit: usize,
}

impl Question {
    /// About a topic, without anything special.
    pub fn about(topic: Topic) -> Self {
        Self {
            topic,
            all: false,
            vrf: None,
            prefix: None,
            towards: None,
            limit: ROUTES,
        }
    }

    fn request(&self, limit: usize, after: Vec<u8>) -> ShowRequest {
        ShowRequest {
            subjects: self
                .topic
                .subjects()
                .iter()
                .map(|&subject| subject.into())
                .collect(),
            routes: (self.topic == Topic::Routes).then(|| RouteChoice {
                vrf: self.vrf.clone().unwrap_or_default(),
                prefix: self.prefix.clone().unwrap_or_default(),
                towards: self.towards.clone().unwrap_or_default(),
                limit: u32::try_from(limit).unwrap_or(u32::MAX),
                after,
            }),
        }
    }

    /// Asks, several times where the answer comes in parts, and says whether there is more than was asked for.
    pub async fn ask<E>(
        &self,
        mut ask: impl AsyncFnMut(ShowRequest) -> Result<ShowReply, E>,
    ) -> Result<Answer, E> {
        let mut answer = Answer::default();
        let mut after = Vec::new();
        loop {
            let room = self.limit.saturating_sub(answer.state.routes.len());
            let reply = ask(self.request(room, after)).await?;
            let mut state = reply.state.unwrap_or_default();
            let got = state.routes.len();
            state.routes.splice(..0, answer.state.routes.drain(..));
            answer.state = state;
            after = reply.more_routes;
            let routes = &mut answer.state.routes;
            answer.more = routes.len() > self.limit || !after.is_empty();
            if after.is_empty() || got == 0 || routes.len() >= self.limit {
                routes.truncate(self.limit);
                return Ok(answer);
            }
        }
    }

    /// For people.
    pub fn text(&self, state: &State) -> String {
        match self.topic {
            Topic::System => system::text(state),
            Topic::Version => system::version(state),
            Topic::Clock => clock::text(state),
            topic => rows::table(topic, state, self.all),
        }
    }

    /// For programs: what the schema has, by its names.
    pub fn json(&self, state: &State) -> String {
        let mut text = match self.topic {
            Topic::System | Topic::Version | Topic::Clock => json::state(state),
            topic => rows::json(topic, state, self.all),
        };
        text.push('\n');
        text
    }
}

/// What is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Of it, what was asked for.
    pub state: State,
    /// There are more routes than were asked for.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::convert::Infallible;

    use culvert_model::state::RouteState;

    use super::*;

    fn reply(numbers: std::ops::Range<u8>, more: &[u8]) -> ShowReply {
        let route = |number| RouteState {
            destination: Some(format!("10.0.{number}.0/24")),
            ..RouteState::default()
        };
        ShowReply {
            state: Some(State {
                routes: numbers.map(route).collect(),
                ..State::default()
            }),
            more_routes: more.to_vec(),
        }
    }

    fn destinations(answer: &Answer) -> Vec<&str> {
        let routes = answer.state.routes.iter();
        routes.map(RouteState::destination).collect()
    }

    #[tokio::test]
    async fn an_answer_in_parts_is_put_together_and_cut() {
        let mut question = Question::about(Topic::Routes);
        question.limit = 3;
        let ask = async |request: ShowRequest| {
            let choice = request.routes.unwrap();
            Ok::<_, Infallible>(match choice.after.as_slice() {
                [] => reply(0..2, b"1"),
                _ => {
                    assert_eq!(choice.limit, 1);
                    // A prefix with two routes is not parted.
                    reply(2..4, b"")
                }
            })
        };
        let answer = question.ask(ask).await.unwrap();
        assert_eq!(
            destinations(&answer),
            ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
        );
        assert!(answer.more);
    }
}
