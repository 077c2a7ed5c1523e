//! Places of a configuration, and the words that lead to them.
//!
//! ```text
//! PLACE    := { FIELD [ KEY ] }            interfaces lan0 addresses 10.1.0.1/24
//! FIELD    := its name in the schema       next_hops; next-hops is the same
//! KEY      := REQUIRED... { NAME VALUE }   routes 10.0.0.0/8 vrf blue
//!           | [ FIRST ] { NAME VALUE }     next_hops 192.0.2.254 interface wan0
//! SETTING  := PLACE [ VALUE ]              interfaces lan0 mtu 1400
//! ```
//!
//! The keys that an item must have come first, in the order of the schema and without their names; those
//! that it may have follow, each after its name, in any order. Of a list whose items must have none of their
//! keys the first may stand without its name. A key that has its default is left out. Nothing depends on
//! what a tree holds: a line means the same wherever it is read.

use super::complete::hint;
use super::error::{WordError, WordReason};
use super::leaf::Leaf;
use super::node::ItemKey;
use super::shape::{self, Field, FieldKind, Message, same_name};
use super::words::quote;
use crate::decode::error::nearest;
use crate::decode::leaf::shortened;
use crate::decode::path;

/// A place of a configuration. It may be that nothing is there.
#[derive(Clone, Default)]
pub struct Location {
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone)]
pub(crate) enum Step {
    /// Into a field of the message that one is at.
    Field(&'static Field),
    /// To an item of the list that one is at.
    Item(ItemKey),
}

impl PartialEq for Step {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // There is one of each.
            (Self::Field(own), Self::Field(other)) => std::ptr::eq(*own, *other),
            (Self::Item(own), Self::Item(other)) => own == other,
            _ => false,
        }
    }
}

impl PartialEq for Location {
    fn eq(&self, other: &Self) -> bool {
        self.steps == other.steps
    }
}

impl Eq for Location {}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Location({self})")
    }
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The whole configuration.
    Root,
    /// A group of fields that there is once.
    Branch,
    /// A list.
    List,
    /// An item of a list.
    Item,
    /// One value.
    Leaf,
}

impl Location {
    /// The whole configuration.
    pub fn root() -> Self {
        Self::default()
    }

    /// The place that words lead to from `at`.
    pub fn parse<W: AsRef<str>>(words: &[W], at: &Self) -> Result<Self, WordError> {
        let cursor = Cursor::walk(words, at)?;
        match cursor.state {
            State::Full(_) => Err(WordError {
                word: words.len().saturating_sub(1),
                reason: cursor.extra(),
            }),
            State::Key(_, _) => Err(cursor.missing(words.len())),
            _ => Ok(cursor.location),
        }
    }

    /// The item of the same list that the words of a key name: the new name of `rename` and `copy`.
    pub fn sibling<W: AsRef<str>>(&self, words: &[W]) -> Result<Self, WordError> {
        let mut list = self.clone();
        if self.place() == Place::Item {
            list.steps.pop();
        }
        let sibling = Self::parse(words, &list)?;
        if sibling.place() == Place::Item && sibling.steps.len() == list.steps.len() + 1 {
            Ok(sibling)
        } else {
            Err(WordError {
                word: words.len(),
                reason: WordReason::Missing {
                    expected: "the new key of an item".to_owned(),
                },
            })
        }
    }

    /// One step up: from an item to its list, from a field to what it is in. The root stays.
    #[must_use]
    pub fn parent(&self) -> Self {
        let mut parent = self.clone();
        parent.steps.pop();
        parent
    }

    /// What is there.
    pub fn place(&self) -> Place {
        match self.steps.last() {
            None => Place::Root,
            Some(Step::Item(_)) => Place::Item,
            Some(Step::Field(field)) => match field.kind {
                FieldKind::Branch(_) => Place::Branch,
                FieldKind::List(_) => Place::List,
                _ => Place::Leaf,
            },
        }
    }

    /// Whether it is the whole configuration.
    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether `other` is the same place or below it.
    pub fn contains(&self, other: &Self) -> bool {
        other.steps.starts_with(&self.steps)
    }

    /// The words that lead there from the root, without quotation marks.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut list = None;
        for step in &self.steps {
            match step {
                Step::Field(field) => {
                    words.push(field.name.clone());
                    list = Some(*field);
                }
                Step::Item(key) => {
                    if let Some(item) = list.and_then(Field::inner) {
                        key_words(item, key, |word| words.push(word.to_owned()));
                    }
                }
            }
        }
        words
    }

    /// As errors of the decoder and the planner name it: `interfaces[lan0].mtu`.
    pub fn path(&self) -> String {
        let mut text = String::new();
        let mut list = None;
        for step in &self.steps {
            match step {
                Step::Field(field) => {
                    text = path::field(&text, &field.name);
                    list = Some(*field);
                }
                Step::Item(key) => {
                    if let Some(item) = list.and_then(Field::inner) {
                        text.push_str(&path_of_key(item, key));
                    }
                }
            }
        }
        text
    }

    pub(crate) fn field(&self, field: &'static Field) -> Self {
        let mut inner = self.clone();
        inner.steps.push(Step::Field(field));
        inner
    }

    pub(crate) fn item(&self, key: &ItemKey) -> Self {
        let mut inner = self.clone();
        inner.steps.push(Step::Item(key.clone()));
        inner
    }

    /// The last field on the way: of an item its list.
    pub(crate) fn last_field(&self) -> Option<&'static Field> {
        self.steps.iter().rev().find_map(|step| match step {
            Step::Field(field) => Some(*field),
            Step::Item(_) => None,
        })
    }

    /// What is inside; of a leaf nothing.
    pub(crate) fn message(&self) -> Option<&'static Message> {
        match self.last_field() {
            None => Some(shape::root()),
            Some(field) => field.inner(),
        }
    }
}

/// A place, and what is to be there: what follows `set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub(crate) location: Location,
    /// Of a leaf; an item is only to be there.
    pub(crate) value: Option<Leaf>,
}

impl Setting {
    /// From the words that follow `set` at `at`.
    pub fn parse<W: AsRef<str>>(words: &[W], at: &Location) -> Result<Self, WordError> {
        let cursor = Cursor::walk(words, at)?;
        let value = match &cursor.state {
            State::Full(value) => Some(value.clone()),
            State::Message(_) if cursor.location.place() == Place::Item => None,
            _ => return Err(cursor.missing(words.len())),
        };
        Ok(Self {
            location: cursor.location,
            value,
        })
    }

    /// Where.
    pub fn location(&self) -> &Location {
        &self.location
    }
}

impl std::fmt::Display for Location {
    /// The words that lead there from the root, as they are written in a line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, word) in self.words().iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&super::words::quoted(word))?;
        }
        Ok(())
    }
}

/// A key as paths name it: `[default,10.0.0.0/8]`.
pub(crate) fn path_of_key(item: &Message, key: &ItemKey) -> String {
    let keys: Vec<String> = item
        .keys()
        .filter_map(|field| match key.get(field) {
            Some(value) => Some(value.word(field).into_owned()),
            None => field.default().map(str::to_owned),
        })
        .collect();
    path::item("", &keys, 0)
}

/// The words of a key.
pub(crate) fn key_words(item: &Message, key: &ItemKey, mut push: impl FnMut(&str)) {
    let required = |field: &&Field| field.rules.field.required;
    let mut positional = 0;
    for field in item.keys().filter(required) {
        if let Some(value) = key.get(field) {
            push(&value.word(field));
        }
        positional += 1;
    }
    for (index, field) in item.keys().filter(|field| !required(field)).enumerate() {
        let Some(value) = key.get(field) else {
            continue;
        };
        let word = value.word(field);
        // The first may stand alone, unless it reads as the name of a key.
        let named =
            positional > 0 || index > 0 || item.keys().any(|field| same_name(&field.name, &word));
        if named {
            push(&field.name);
        }
        push(&word);
    }
}

/// Writes the words of a key as they stand in a line, each after a space.
pub(crate) fn push_key(item: &Message, key: &ItemKey, mut push: impl FnMut(&str)) {
    key_words(item, key, |word| {
        push(" ");
        quote(word, &mut push);
    });
}

/// What the next word may be.
#[derive(Clone)]
pub(crate) enum State {
    /// The name of a field, or of a key that the item may have.
    Message(&'static Message),
    /// A key, or the name of one.
    List(&'static Field),
    /// The value of a key of a list's items.
    Key(&'static Field, &'static Field),
    /// A value.
    Leaf(&'static Field),
    /// Nothing.
    Full(Leaf),
}

/// Goes from word to word.
#[derive(Clone)]
pub(crate) struct Cursor {
    pub(crate) location: Location,
    pub(crate) state: State,
    pub(crate) open: Option<OpenKey>,
}

/// A key to which something may be added yet.
#[derive(Clone)]
pub(crate) struct OpenKey {
    pub(crate) list: &'static Field,
    pub(crate) item: &'static Message,
    pub(crate) values: Vec<Option<Leaf>>,
    given: Vec<bool>,
    /// Whether the last step of the location is this item.
    stepped: bool,
}

impl OpenKey {
    fn given(&self, key: &Field) -> bool {
        key.key
            .and_then(|index| self.given.get(index))
            .copied()
            .unwrap_or_default()
    }

    /// The keys that are not given.
    pub(crate) fn left(&self) -> impl Iterator<Item = &'static Field> {
        self.item.keys().filter(|key| !self.given(key))
    }
}

impl Cursor {
    pub(crate) fn at(location: &Location) -> Self {
        let state = match (location.steps.last(), location.last_field()) {
            (Some(Step::Item(_)), Some(list)) => match list.inner() {
                Some(item) => State::Message(item),
                None => State::Message(shape::root()),
            },
            (_, Some(field)) => Self::entering(field),
            (_, None) => State::Message(shape::root()),
        };
        Self {
            location: location.clone(),
            state,
            open: None,
        }
    }

    /// Follows words as far as they lead.
    pub(crate) fn walk<W: AsRef<str>>(words: &[W], at: &Location) -> Result<Self, WordError> {
        let mut cursor = Self::at(at);
        for (index, word) in words.iter().enumerate() {
            cursor.step(word.as_ref()).map_err(|reason| WordError {
                word: index,
                reason,
            })?;
        }
        Ok(cursor)
    }

    fn entering(field: &'static Field) -> State {
        match &field.kind {
            FieldKind::Branch(inner) => State::Message(inner),
            FieldKind::List(_) => State::List(field),
            _ => State::Leaf(field),
        }
    }

    /// Follows one word.
    pub(crate) fn step(&mut self, word: &str) -> Result<(), WordReason> {
        match &self.state {
            State::Message(message) => self.field(message, word),
            State::List(list) => self.first_key(list, word),
            State::Key(_, key) => self.key_value(key, word),
            State::Leaf(field) => {
                let value = Leaf::from_word(field, word).map_err(WordReason::Value)?;
                self.state = State::Full(value);
                Ok(())
            }
            State::Full(_) => Err(self.extra()),
        }
    }

    fn field(&mut self, message: &'static Message, word: &str) -> Result<(), WordReason> {
        let Some(field) = message.field(word) else {
            let known: Vec<String> = self
                .fields(message)
                .map(|field| field.name.clone())
                .collect();
            let like = word.replace('-', "_");
            return Err(WordReason::Unknown {
                given: shortened(word),
                nearest: nearest(&like, known.iter().map(String::as_str)),
                known,
            });
        };
        if field.key.is_some() {
            let name = field.name.clone();
            return match &self.open {
                Some(_) if field.rules.field.required => Err(WordReason::Key { name }),
                Some(open) if open.given(field) => Err(WordReason::Twice { name }),
                Some(open) => {
                    self.state = State::Key(open.list, field);
                    Ok(())
                }
                None => Err(WordReason::Key { name }),
            };
        }
        self.open = None;
        self.location.steps.push(Step::Field(field));
        self.state = Self::entering(field);
        Ok(())
    }

    /// The names that may follow in a message.
    pub(crate) fn fields(&self, message: &'static Message) -> impl Iterator<Item = &'static Field> {
        let open: Vec<&Field> = self.open.iter().flat_map(OpenKey::left).collect();
        message.fields.iter().filter(move |field| {
            field.key.is_none() || open.iter().any(|other| std::ptr::eq(*other, *field))
        })
    }

    fn first_key(&mut self, list: &'static Field, word: &str) -> Result<(), WordReason> {
        let Some(item) = list.inner() else {
            return Err(self.extra());
        };
        let count = item.keys().count();
        self.open = Some(OpenKey {
            list,
            item,
            values: vec![None; count],
            given: vec![false; count],
            stepped: false,
        });
        let required = item.keys().find(|key| key.rules.field.required);
        if required.is_none()
            && let Some(key) = item.keys().find(|key| same_name(&key.name, word))
        {
            self.state = State::Key(list, key);
            return Ok(());
        }
        match required.or_else(|| item.keys().next()) {
            Some(key) => self.key_value(key, word),
            None => Err(self.extra()),
        }
    }

    fn key_value(&mut self, key: &'static Field, word: &str) -> Result<(), WordReason> {
        let value = Leaf::from_word(key, word).map_err(WordReason::Value)?;
        let Some((open, index)) = self.open.as_mut().zip(key.key) else {
            return Err(self.extra());
        };
        // What holds without being said is left out: there is one spelling of a key.
        let default = key
            .default()
            .and_then(|text| Leaf::from_word(key, text).ok());
        if let (Some(slot), Some(given)) = (open.values.get_mut(index), open.given.get_mut(index)) {
            *slot = Some(value).filter(|value| Some(value) != default.as_ref());
            *given = true;
        }
        if let Some(next) = open.left().find(|key| key.rules.field.required) {
            self.state = State::Key(open.list, next);
            return Ok(());
        }
        if std::mem::replace(&mut open.stepped, true) {
            self.location.steps.pop();
        }
        let item = ItemKey(open.values.as_slice().into());
        self.location.steps.push(Step::Item(item));
        self.state = State::Message(open.item);
        Ok(())
    }

    fn extra(&self) -> WordReason {
        WordReason::Extra {
            after: self.location.to_string(),
        }
    }

    /// What is missing after the last word.
    pub(crate) fn missing(&self, words: usize) -> WordError {
        let expected = match &self.state {
            State::Message(message) => {
                let names: Vec<&str> = self
                    .fields(message)
                    .map(|field| field.name.as_str())
                    .collect();
                format!("one of {}", names.join(", "))
            }
            State::List(list) => match list.inner().and_then(|item| item.keys().next()) {
                Some(key) => format!("the {} of one of {}", key.name, list.name),
                None => "nothing".to_owned(),
            },
            State::Key(_, field) | State::Leaf(field) => format!("{}: {}", field.name, hint(field)),
            State::Full(_) => "nothing".to_owned(),
        };
        WordError {
            word: words,
            reason: WordReason::Missing { expected },
        }
    }
}
