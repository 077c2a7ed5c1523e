//! What is done with a candidate before it is committed: changed, read, compared, completed.

use culvert_model::api::{self, Problem, edit::Change, load::Mode, source::Which};
use culvert_model::tree::{
    CandidateKind, Location, Position, Purpose, Setting, Show, Tree, TreeError, WordError,
    complete, diff,
};

use super::caller::{Caller, Role, allowed};
use super::commit::problem;
use super::hands::Hands;
use super::records::Records;
use super::secrets::wipe;
use super::{Agent, Refusal};
use crate::store::RevisionNumber;

/// Of one request.
const MOST_EDITS: usize = 100_000;
/// Longer completions help nobody.
const MOST_COMPLETIONS: usize = 500;

impl<H: Hands> Agent<H> {
    /// Begins a private candidate on what runs, or finds one again.
    pub async fn open(
        &self,
        caller: &Caller,
        request: api::OpenRequest,
    ) -> Result<api::OpenReply, Refusal> {
        allowed(caller, Role::Admin)?;
        let caller = caller.clone();
        self.with(move |records| {
            let now = records.now()?;
            let session = if request.candidate.is_empty() {
                records.new_candidate(&caller, &now)?
            } else {
                records.expire(&now)?;
                let (session, ..) = records.candidate(&caller, &request.candidate)?;
                records.store.touch_candidate(&session, &now)?;
                session
            };
            if request.exclusive
                && let Err(error) = records.hold(&session, &caller, &now)
            {
                if request.candidate.is_empty() {
                    records.discard(&session)?;
                }
                return Err(error);
            }
            let (_, base, _) = records.candidate(&caller, session.as_str())?;
            let (all, holder) = records.candidates(&now)?;
            let others = all
                .into_iter()
                .filter(|info| info.session != session)
                .map(|info| api::Candidate {
                    exclusive: holder.as_ref() == Some(&info.session),
                    id: info.session.to_string(),
                    principal: info.principal,
                    base: info.base.map_or(0, RevisionNumber::get),
                    idle_seconds: now.since(&info.last_used).as_secs(),
                })
                .collect();
            Ok(api::OpenReply {
                candidate: session.to_string(),
                base: base.get(),
                others,
            })
        })
        .await
    }

    /// Changes a candidate: all edits or none.
    pub async fn edit(
        &self,
        caller: &Caller,
        mut request: api::EditRequest,
    ) -> Result<api::EditReply, Refusal> {
        allowed(caller, Role::Admin)?;
        if request.edits.len() > MOST_EDITS {
            return Err(Refusal::Malformed(format!(
                "at most {MOST_EDITS} edits at a time"
            )));
        }
        if let Err(problem) = self.unsealed(caller, &mut request).await? {
            return Ok(api::EditReply {
                problems: vec![problem],
            });
        }
        let caller = caller.clone();
        self.with(move |records| {
            let edited = edit(records, &caller, &request);
            wipe(&mut request.edits);
            edited
        })
        .await
    }

    /// Text of a configuration.
    pub async fn get(
        &self,
        caller: &Caller,
        request: api::GetRequest,
    ) -> Result<api::GetReply, Refusal> {
        let caller = caller.clone();
        self.with(move |records| {
            let (revision, tree) = source(records, &caller, request.source.as_ref())?;
            let at = match Location::parse(&request.at, &Location::root()) {
                Ok(at) => at,
                Err(error) => {
                    return Ok(api::GetReply {
                        problems: vec![word_problem(&request.at, &error)],
                        ..api::GetReply::default()
                    });
                }
            };
            let mut show = Show::digests(&records.digests);
            show.defaults = request.defaults;
            let text = match request.format() {
                api::Format::Set => tree.to_set_lines(&at, &show),
                api::Format::Json => tree.to_json(&at, &show),
                api::Format::Sealed => {
                    return Err(Refusal::Malformed(
                        "with secrets a configuration is exported, not read".to_owned(),
                    ));
                }
                api::Format::Text | api::Format::Unspecified => tree.to_text(&at, &show),
            };
            Ok(api::GetReply {
                text: text.to_string(),
                problems: Vec::new(),
                revision,
                hash: tree.hash(&records.digests).to_vec(),
            })
        })
        .await
    }

    /// What differs between two configurations.
    pub async fn compare(
        &self,
        caller: &Caller,
        request: api::CompareRequest,
    ) -> Result<api::CompareReply, Refusal> {
        let caller = caller.clone();
        self.with(move |records| {
            let (_, from) = source(records, &caller, request.from.as_ref())?;
            let (_, to) = source(records, &caller, request.to.as_ref())?;
            let at = Location::parse(&request.at, &Location::root())
                .map_err(|error| Refusal::Malformed(error.to_string()))?;
            let differences = diff(&from, &to)
                .iter()
                .filter(|change| at.is_root() || at.contains(change.location()))
                .map(|change| api::Difference {
                    words: change.location().words(),
                    before: change.before(),
                    after: change.after(),
                    secret: change.is_secret(),
                    lines: change.lines(),
                })
                .collect();
            Ok(api::CompareReply { differences })
        })
        .await
    }

    /// What can be written next.
    pub async fn complete(
        &self,
        caller: &Caller,
        request: api::CompleteRequest,
    ) -> Result<api::CompleteReply, Refusal> {
        use api::complete_request::Verb;
        let caller = caller.clone();
        self.with(move |records| {
            let tree = if request.candidate.is_empty() {
                records.running.tree.clone()
            } else {
                records.candidate(&caller, &request.candidate)?.2
            };
            let at = Location::parse(&request.at, &Location::root()).unwrap_or_default();
            let purpose = match request.verb() {
                Verb::Set => Purpose::Set,
                Verb::Delete => Purpose::Existing,
                Verb::Location | Verb::Unspecified => Purpose::Edit,
            };
            let completions = complete(&request.words, &request.partial, &at, &tree, purpose)
                .into_iter()
                .take(MOST_COMPLETIONS)
                .map(|candidate| {
                    let mut completion = api::Completion {
                        text: candidate.text,
                        help: candidate.help,
                        ..api::Completion::default()
                    };
                    completion.set_kind(match candidate.kind {
                        CandidateKind::Keyword => api::completion::Kind::Keyword,
                        CandidateKind::Item | CandidateKind::Reference => {
                            api::completion::Kind::Name
                        }
                        CandidateKind::Value => api::completion::Kind::Value,
                        CandidateKind::Hint => api::completion::Kind::Hint,
                    });
                    completion
                })
                .collect();
            Ok(api::CompleteReply { completions })
        })
        .await
    }

    /// Ends a candidate, or makes it like what runs.
    pub async fn discard(
        &self,
        caller: &Caller,
        request: api::DiscardRequest,
    ) -> Result<api::DiscardReply, Refusal> {
        let caller = caller.clone();
        self.with(move |records| {
            let (session, ..) = records.candidate(&caller, &request.candidate)?;
            if request.keep {
                let (number, tree) = (records.running.number, records.running.tree.clone());
                records.save(&session, &caller.name, number, tree, &records.now()?)?;
            } else {
                records.discard(&session)?;
            }
            Ok(api::DiscardReply {})
        })
        .await
    }
}

/// Makes all changes of a request, or none.
pub(super) fn edit(
    records: &mut Records,
    caller: &Caller,
    request: &api::EditRequest,
) -> Result<api::EditReply, Refusal> {
    let now = records.now()?;
    let (session, base, before) = records.candidate(caller, &request.candidate)?;
    records.renew(&session, &now)?;
    let at = match Location::parse(&request.at, &Location::root()) {
        Ok(at) => at,
        Err(error) => {
            let problem = Problem {
                path: request.at.join(" "),
                message: error.to_string(),
                ..Problem::default()
            };
            return Ok(api::EditReply {
                problems: vec![problem],
            });
        }
    };
    let mut tree = before.clone();
    let mut problems = Vec::new();
    for (number, edit) in request.edits.iter().enumerate() {
        let Some(change) = &edit.change else {
            return Err(Refusal::Malformed(format!("edit {number} says nothing")));
        };
        if let Err(mut found) = make(records, &mut tree, &at, change)? {
            for problem in &mut found {
                problem.edit = Some(number as u32);
            }
            problems.append(&mut found);
        }
    }
    if problems.is_empty() {
        match with_secrets(records, &tree, &before) {
            Ok(whole) => tree = whole,
            Err(error) => problems.push(digest_problem(&error, request, &at)),
        }
    }
    if problems.is_empty() {
        if tree != before {
            records.save(&session, &caller.name, base, tree, &now)?;
        }
        if let Some(to) = rolled_back(&request.edits) {
            records.rolled_back(&session, to);
        }
    }
    Ok(api::EditReply { problems })
}

/// The last of all edits may have made the whole like a revision, whatever was before it.
fn rolled_back(edits: &[api::Edit]) -> Option<RevisionNumber> {
    match edits.last()?.change.as_ref()? {
        Change::Rollback(number) => RevisionNumber::new(*number),
        _ => None,
    }
}

/// The configuration that is meant, with its revision; 0: a candidate.
pub(super) fn source(
    records: &mut Records,
    caller: &Caller,
    source: Option<&api::Source>,
) -> Result<(u64, Tree), Refusal> {
    match source.and_then(|source| source.which.as_ref()) {
        None | Some(Which::Running(_)) => {
            let running = &records.running;
            Ok((running.number.get(), running.tree.clone()))
        }
        Some(Which::Candidate(name)) => Ok((0, records.candidate(caller, name)?.2)),
        Some(Which::Revision(number)) => {
            let (revision, tree) = records.revision(*number)?;
            Ok((revision.number.get(), tree))
        }
    }
}

type Changed = Result<(), Vec<Problem>>;

/// Makes one change.
fn make(
    records: &Records,
    tree: &mut Tree,
    at: &Location,
    change: &Change,
) -> Result<Changed, Refusal> {
    Ok(match change {
        Change::Set(given) => set(tree, &given.words, at),
        Change::Delete(given) => delete(tree, &given.words, at),
        Change::Rename(given) => move_item(given, at, |from, to| tree.rename(from, to)),
        Change::Copy(given) => move_item(given, at, |from, to| tree.copy(from, to)),
        Change::Deactivate(given) => at_place(&given.words, at, |place| tree.deactivate(place)),
        Change::Activate(given) => at_place(&given.words, at, |place| tree.activate(place)),
        Change::Annotate(given) => at_place(&given.words, at, |place| {
            tree.annotate(place, &given.comment)
        }),
        Change::Insert(given) => insert(tree, given, at),
        Change::Load(given) => load(tree, given),
        Change::Rollback(number) => {
            *tree = records.revision(*number)?.1;
            Ok(())
        }
    })
}

fn set<W: AsRef<str>>(tree: &mut Tree, given: &[W], at: &Location) -> Changed {
    let setting = Setting::parse(given, at).map_err(|error| vec![word_problem(given, &error)])?;
    tree.set(&setting)
        .map_err(|error| vec![problem("", &error.to_string())])
}

fn delete<W: AsRef<str>>(tree: &mut Tree, given: &[W], at: &Location) -> Changed {
    let location = Location::parse(given, at).map_err(|error| vec![word_problem(given, &error)])?;
    tree.delete(&location)
        .map_err(|error| vec![problem("", &error.to_string())])
}

/// Notes something about a place.
fn at_place(
    given: &[String],
    at: &Location,
    make: impl FnOnce(&Location) -> Result<(), TreeError>,
) -> Changed {
    let place = Location::parse(given, at).map_err(|error| vec![word_problem(given, &error)])?;
    make(&place).map_err(|error| tree_problems(&error))
}

/// Moves an item to another place of its list.
fn insert(tree: &mut Tree, given: &api::Insertion, at: &Location) -> Changed {
    use api::insertion::Position as To;
    let item = Location::parse(&given.words, at)
        .map_err(|error| vec![word_problem(&given.words, &error)])?;
    let sibling = |key: &api::Words| {
        item.sibling(&key.words).map_err(|error| {
            let mut problem = word_problem(&key.words, &error);
            problem.word = None;
            vec![problem]
        })
    };
    let position = match &given.position {
        Some(To::First(_)) => Position::First,
        Some(To::Last(_)) => Position::Last,
        Some(To::Before(key)) => Position::Before(sibling(key)?),
        Some(To::After(key)) => Position::After(sibling(key)?),
        None => return Err(vec![problem("", "say where: first, last, before or after")]),
    };
    tree.reorder(&item, &position)
        .map_err(|error| tree_problems(&error))
}

fn move_item<T, E: std::fmt::Display>(
    given: &api::Move,
    at: &Location,
    mut make: impl FnMut(&Location, &Location) -> Result<T, E>,
) -> Changed {
    let wrong = |error: &WordError| vec![word_problem(&given.from, error)];
    let from = Location::parse(&given.from, at).map_err(|error| wrong(&error))?;
    let to = from.sibling(&given.to).map_err(|error| {
        let mut problem = word_problem(&given.to, &error);
        problem.word = None;
        vec![problem]
    })?;
    make(&from, &to)
        .map(|_| ())
        .map_err(|error| vec![problem("", &error.to_string())])
}

/// Reads a text over a tree, or in its place.
fn load(tree: &mut Tree, given: &api::Load) -> Changed {
    let override_all = given.mode() == Mode::Override;
    match given.format() {
        api::Format::Set => {
            let under = if override_all {
                Tree::empty()
            } else {
                tree.clone()
            };
            let loaded = under
                .load(&given.text, &Location::root())
                .map_err(|faults| {
                    let problems = faults.iter().map(|fault| Problem {
                        message: fault.reason.to_string(),
                        line: Some(fault.line as u32),
                        ..Problem::default()
                    });
                    problems.collect::<Vec<_>>()
                })?;
            *tree = loaded;
            Ok(())
        }
        api::Format::Json => {
            let loaded =
                Tree::from_json(given.text.as_bytes()).map_err(|error| tree_problems(&error))?;
            if override_all {
                *tree = loaded;
                Ok(())
            } else {
                tree.overlay(&loaded).map_err(|error| tree_problems(&error))
            }
        }
        // What is sealed was opened before.
        api::Format::Text | api::Format::Sealed | api::Format::Unspecified => {
            Err(vec![problem("", "only set lines and JSON can be loaded")])
        }
    }
}

/// What was read can be written back: a digest stands for the secret that is in the candidate, or in what runs.
fn with_secrets(records: &Records, tree: &Tree, before: &Tree) -> Result<Tree, TreeError> {
    tree.with_present_secrets(&[&records.running.tree, before], &records.digests)
}

/// A digest of no secret that is there, and which edit wrote it if that can be told.
fn digest_problem(error: &TreeError, request: &api::EditRequest, at: &Location) -> Problem {
    let TreeError::UnknownDigest { path } = error else {
        return problem("", &error.to_string());
    };
    let wrote = request.edits.iter().rposition(|edit| match &edit.change {
        Some(Change::Set(given)) => Setting::parse(&given.words, at)
            .is_ok_and(|setting| setting.location().to_string() == *path),
        Some(Change::Load(_)) => true,
        _ => false,
    });
    Problem {
        path: path.clone(),
        message: "the digest is of no secret that is there; give the secret itself".to_owned(),
        edit: wrote.map(|number| number as u32),
        ..Problem::default()
    }
}

fn tree_problems(error: &TreeError) -> Vec<Problem> {
    match error {
        TreeError::Decode(errors) => errors
            .0
            .iter()
            .map(|error| Problem {
                path: error.path.clone(),
                message: error.reason.to_string(),
                ..Problem::default()
            })
            .collect(),
        other => vec![problem("", &other.to_string())],
    }
}

fn word_problem<W: AsRef<str>>(given: &[W], error: &WordError) -> Problem {
    // The words up to the wrong one: what comes after may be a secret.
    let known: Vec<&str> = given.iter().take(error.word).map(AsRef::as_ref).collect();
    Problem {
        path: known.join(" "),
        message: error.to_string(),
        word: Some(error.word as u32),
        ..Problem::default()
    }
}
