//! What can be written next: keywords from the table of commands, words of the configuration from the server.

use std::sync::Mutex;
use std::time::Duration;

use culvert_model::api::{self, complete_request::Verb, completion};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::commands::PIPES;
use crate::grammar::{Nodes, Token, place, steps};
use crate::table::two_columns;
use crate::words::{Word, continuation, lex_beginning, quote, texts};

/// Whoever presses TAB does not wait for longer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Something that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The word, or what stands for it.
    pub text: String,
    /// What it is for.
    pub help: String,
    /// It can be written as it stands; else it says what to write.
    pub insert: bool,
}

/// What can be written at the cursor.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// All there are.
    pub all: Vec<Offer>,
    /// Why there are none.
    pub complaint: Option<String>,
    partial: String,
    quote: Option<char>,
    touched: bool,
}

/// What TAB does.
#[derive(Debug, PartialEq, Eq)]
pub enum Tab {
    /// The text is put in.
    Insert(String),
    /// There is more than one way on: they are listed.
    List,
}

/// Where the session stands.
#[derive(Debug, Clone)]
pub struct View {
    /// Commands of the mode.
    pub commands: Nodes,
    /// The way to mgmt.
    pub client: Client,
    /// The candidate, and where in it.
    pub configuring: Option<(String, Vec<String>)>,
}

/// Answers while a line is being written.
#[derive(Debug)]
pub struct Completer {
    handle: Handle,
    view: Mutex<View>,
}

impl Completer {
    /// For a session that stands there.
    pub fn new(handle: Handle, view: View) -> Self {
        Self {
            handle,
            view: Mutex::new(view),
        }
    }

    /// The session has moved.
    pub fn stands(&self, view: View) {
        if let Ok(mut now) = self.view.lock() {
            *now = view;
        }
    }

    /// What can be written behind this. It waits for mgmt, so never from within the runtime.
    pub fn offers(&self, before_cursor: &str) -> Offers {
        let Ok(mut view) = self.view.lock().map(|view| view.clone()) else {
            return Offers::default();
        };
        let (offers, connected) = self.handle.block_on(async {
            let patience = tokio::time::timeout(PATIENCE, offers(&mut view, before_cursor));
            match patience.await {
                Ok(offers) => (offers, true),
                Err(_) => (complaint("mgmt does not answer"), false),
            }
        });
        // The connection that was made is kept.
        if connected && let Ok(mut now) = self.view.lock() {
            now.client = view.client;
        }
        offers
    }
}

async fn offers(view: &mut View, before_cursor: &str) -> Offers {
    let beginning = lex_beginning(before_cursor);
    if beginning.comment {
        return complaint("a comment");
    }
    let root = if beginning.in_pipe {
        PIPES
    } else {
        view.commands
    };
    let place = match place(root, &beginning.words) {
        Ok(place) => place,
        Err(mistake) => return complaint(&mistake.message),
    };
    let partial = &beginning.partial;
    let mut found = Offers {
        partial: partial.text.clone(),
        quote: beginning.quote,
        touched: partial.quoted,
        ..Offers::default()
    };
    let mut location = place.location.clone();
    for node in place.next {
        match node.token {
            Token::Keyword(name) if !partial.quoted && name.starts_with(&partial.text) => {
                found.all.push(Offer {
                    text: name.to_owned(),
                    help: node.help.to_owned(),
                    insert: true,
                });
            }
            Token::Keyword(_) => {}
            Token::Value(name, _) => found.all.push(Offer {
                text: name.to_owned(),
                help: node.help.to_owned(),
                insert: false,
            }),
            Token::Location(verb) => {
                location = Some((verb, beginning.words.len()..beginning.words.len()));
            }
        }
    }
    if let Some((verb, range)) = location {
        let words = texts(&beginning.words, range);
        let running =
            steps(root, &beginning.words).is_ok_and(|steps| steps.first() == Some(&"run"));
        match of_the_configuration(view, verb, words, partial, running).await {
            Ok(offers) => found.all.extend(offers),
            Err(complaint) if found.all.is_empty() => found.complaint = Some(complaint),
            Err(_) => {}
        }
    }
    // Whether a setting is whole is known to mgmt alone.
    let setting = matches!(place.location, Some((Verb::Set, _)));
    if place.ends && !setting && partial.text.is_empty() && !partial.quoted {
        found.all.push(Offer {
            text: "<return>".to_owned(),
            help: "do it".to_owned(),
            insert: false,
        });
    }
    found
}

async fn of_the_configuration(
    view: &mut View,
    verb: Verb,
    words: Vec<String>,
    partial: &Word,
    running: bool,
) -> Result<Vec<Offer>, String> {
    let (candidate, at) = match &view.configuring {
        Some(configuring) if !running => configuring.clone(),
        _ => Default::default(),
    };
    let request = api::CompleteRequest {
        candidate,
        at,
        verb: verb.into(),
        words,
        partial: partial.text.clone(),
    };
    let service = view
        .client
        .service()
        .await
        .map_err(|error| error.sentence())?;
    let said = |status: tonic::Status| status.message().to_owned();
    let reply = service.complete(request.clone()).await.map_err(said)?;
    let mut completions = reply.into_inner().completions;
    if completions.is_empty() && !partial.text.is_empty() {
        // Nothing begins so: then what is written is one's own, and what it should be like is all there is to say.
        let all = api::CompleteRequest {
            partial: String::new(),
            ..request
        };
        let reply = service.complete(all).await.map_err(said)?;
        completions = reply.into_inner().completions;
        completions.retain(|completion| completion.kind() == completion::Kind::Hint);
    }
    Ok(completions
        .into_iter()
        .map(|completion| Offer {
            insert: completion.kind() != completion::Kind::Hint,
            text: completion.text,
            help: completion.help,
        })
        .collect())
}

/// Fields may be written with `-` where their name has `_`.
fn begins(word: &str, partial: &str) -> bool {
    word.starts_with(partial) || word.starts_with(&partial.replace('-', "_"))
}

fn complaint(text: &str) -> Offers {
    Offers {
        complaint: Some(text.to_owned()),
        ..Offers::default()
    }
}

impl Offers {
    /// What TAB does with them.
    pub fn tab(&self) -> Tab {
        let partial = self.partial.as_str();
        let mut words: Vec<&str> = self
            .all
            .iter()
            .filter(|offer| offer.insert && begins(&offer.text, partial))
            .map(|offer| offer.text.as_str())
            .collect();
        words.sort_unstable();
        words.dedup();
        let Some(first) = words.first() else {
            return Tab::List;
        };
        let hinted = self.all.iter().any(|offer| !offer.insert);
        // A name of one's own may be meant.
        if hinted && partial.is_empty() {
            return Tab::List;
        }
        if words.len() == 1 {
            return Tab::Insert(self.rest_of_word(first));
        }
        let last = words.last().unwrap_or(first);
        let shared: usize = first
            .chars()
            .zip(last.chars())
            .take_while(|(a, b)| a == b)
            .map(|(c, _)| c.len_utf8())
            .sum();
        match first.get(partial.len()..shared) {
            Some(more) if !more.is_empty() => Tab::Insert(continuation(more, self.quote)),
            _ => Tab::List,
        }
    }

    /// The whole rest, and a blank.
    fn rest_of_word(&self, word: &str) -> String {
        let rest = word.get(self.partial.len()..).unwrap_or_default();
        let mut text = if self.partial.is_empty() && !self.touched {
            quote(rest)
        } else {
            continuation(rest, self.quote)
        };
        text.extend(self.quote);
        text.push(' ');
        text
    }

    /// As a list for people.
    pub fn list(&self) -> String {
        match &self.complaint {
            Some(complaint) => format!("{complaint}\n"),
            None if self.all.is_empty() => "nothing more can be written here\n".to_owned(),
            None => {
                let rows: Vec<_> = self
                    .all
                    .iter()
                    .map(|offer| (offer.text.clone(), offer.help.clone()))
                    .collect();
                two_columns(&rows)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(partial: &str, quote: Option<char>, words: &[(&str, bool)]) -> Offers {
        Offers {
            all: words
                .iter()
                .map(|(text, insert)| Offer {
                    text: (*text).to_owned(),
                    help: String::new(),
                    insert: *insert,
                })
                .collect(),
            partial: partial.to_owned(),
            quote,
            touched: quote.is_some(),
            complaint: None,
        }
    }

    fn inserted(text: &str) -> Tab {
        Tab::Insert(text.to_owned())
    }

    #[test]
    fn what_is_certain_is_inserted() {
        assert_eq!(
            of("int", None, &[("interfaces", true)]).tab(),
            inserted("erfaces ")
        );
        assert_eq!(
            of("", None, &[("wan 0", true)]).tab(),
            inserted("\"wan 0\" ")
        );
        assert_eq!(of("wan", None, &[("wan 0", true)]).tab(), inserted("\\ 0 "));
        assert_eq!(
            of("wan", Some('"'), &[("wan \"0", true)]).tab(),
            inserted(" \\\"0\" ")
        );
        assert_eq!(
            of("wan", None, &[("wan0", true), ("wan0.100", true)]).tab(),
            inserted("0")
        );
        assert_eq!(
            of("e", None, &[("einsä", true), ("einsö", true)]).tab(),
            inserted("ins")
        );
    }

    #[test]
    fn what_is_not_is_listed() {
        assert_eq!(
            of("wan0", None, &[("wan0", true), ("wan0.100", true)]).tab(),
            Tab::List
        );
        assert_eq!(
            of("", None, &[("wan0", true), ("NAME", false)]).tab(),
            Tab::List
        );
        assert_eq!(of("14", None, &[("NUMBER", false)]).tab(), Tab::List);
        assert_eq!(of("", None, &[]).tab(), Tab::List);
    }
}
