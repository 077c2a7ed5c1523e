//! A tree as text: set lines, JSON, and text in braces.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::leaf::Scalar;
use super::location::{Location, Place, Step, push_key};
use super::node::{Branch, ItemKey, List, Node, Weight};
use super::shape::{Field, FieldKind, Message};
use super::wire::{Secrets, Sink};
use super::words::quote;
use super::{Found, Leaf, Tree};
use crate::decode::MAX_BYTES;

/// How a tree is shown.
#[derive(Debug, Clone, Copy)]
pub struct Show<'a> {
    /// What stands where secrets are.
    pub secrets: Secrets<'a>,
    /// Whether what holds without being said is said, too.
    pub defaults: bool,
}

impl Show<'static> {
    /// With the secrets themselves: for a tree that has none, or a file that is sealed.
    pub const PLAIN: Self = Self {
        secrets: Secrets::Plain,
        defaults: false,
    };
}

impl<'a> Show<'a> {
    /// With digests for secrets: what people are shown.
    pub fn digests(key: &'a crate::plan::DigestKey) -> Self {
        Self {
            secrets: Secrets::Digests(key),
            defaults: false,
        }
    }

    /// And what holds without being said.
    #[must_use]
    pub fn with_defaults(self) -> Self {
        Self {
            defaults: true,
            ..self
        }
    }
}

impl Tree {
    /// What is at a place, as lines that set it, each with all words from the root. Nothing is there: no line.
    pub fn to_set_lines(&self, at: &Location, show: &Show<'_>) -> Zeroizing<String> {
        let mut writer = Writer::new(show);
        let mut prefix = String::from("set");
        for word in at.words() {
            prefix.push(' ');
            quote(&word, |part| prefix.push_str(part));
        }
        match (self.find(at), at.last_field(), at.message()) {
            (Some(Found::Leaf(leaf)), Some(field), _) => {
                writer.text(&prefix);
                writer.value(field, leaf);
                writer.text("\n");
            }
            (Some(Found::List(list)), Some(field), Some(item)) => {
                writer.set_items(field, item, list, &prefix);
            }
            (Some(Found::Branch(branch)), _, Some(message)) => {
                writer.set_branch(message, branch, &prefix, at.place() == Place::Item);
            }
            _ => {}
        }
        writer.into_text()
    }

    /// What is at a place, as JSON that [`Tree::from_json`] takes if it is the root.
    pub fn to_json(&self, at: &Location, show: &Show<'_>) -> Zeroizing<String> {
        let pretty = self.json(at, show, false);
        // The spaces may be what makes it longer than what is taken.
        if pretty.len() <= MAX_BYTES {
            pretty
        } else {
            self.json(at, show, true)
        }
    }

    pub(super) fn json(&self, at: &Location, show: &Show<'_>, compact: bool) -> Zeroizing<String> {
        let mut writer = Writer::new(show);
        writer.compact = compact;
        let empty = Branch::default();
        match (self.find(at), at.last_field(), at.message()) {
            (Some(Found::Leaf(leaf)), Some(field), _) => writer.json_leaf(field, leaf),
            (Some(Found::List(list)), Some(field), Some(item)) => {
                writer.json_list(field, item, list, 0);
            }
            (Some(Found::Branch(branch)), _, Some(message)) => {
                let key = match at.steps.last() {
                    Some(Step::Item(key)) => Some(key),
                    _ => None,
                };
                writer.json_branch(message, branch, key, 0);
            }
            (None, None, Some(message)) => writer.json_branch(message, &empty, None, 0),
            (None, Some(field), _) if field.is_list() && at.place() == Place::List => {
                writer.text("[]");
            }
            (None, _, Some(_)) => writer.text("{}"),
            _ => writer.text("null"),
        }
        writer.text("\n");
        writer.into_text()
    }

    /// What is at a place, as text in braces for people, with comments and marks of what is inactive where they
    /// belong.
    pub fn to_text(&self, at: &Location, show: &Show<'_>) -> Zeroizing<String> {
        let mut writer = Writer::new(show);
        for note in self.notes() {
            let mark = (note.comment(), note.inactive());
            writer.marks.insert(note.place.to_owned(), mark);
        }
        let place = at.to_string();
        match (self.find(at), at.last_field(), at.message()) {
            (Some(Found::Leaf(leaf)), Some(field), _) => {
                writer.mark(0, || place);
                writer.text(&field.name);
                writer.value(field, leaf);
                writer.text(";\n");
            }
            (Some(Found::List(list)), Some(field), Some(item)) => {
                writer.text_items(field, item, list, 0, &place);
            }
            (Some(Found::Branch(branch)), _, Some(message)) => {
                writer.text_branch(message, branch, 0, &place);
            }
            _ => {}
        }
        writer.into_text()
    }
}

/// The words of a field of a place.
fn join(at: &str, name: &str) -> String {
    if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at} {name}")
    }
}

/// The lines of an item, each after `prefix`, with no more of secrets than that they are there.
pub(super) fn set_lines_of_item(message: &Message, item: &Branch, prefix: &str) -> String {
    let show = Show {
        secrets: Secrets::Hidden,
        defaults: false,
    };
    let mut writer = Writer::new(&show);
    writer.set_branch(message, item, prefix, true);
    writer.into_text().to_string()
}

/// The keys of an item as the first fields of a JSON object, with a comma after each.
pub(super) fn json_of_keys(item: &Message, key: &ItemKey) -> String {
    let mut writer = Writer::new(&Show::PLAIN);
    for field in item.keys() {
        if let Some(leaf) = key.get(field) {
            writer.text(&format!("\"{}\":", field.name));
            writer.json_leaf(field, leaf);
            writer.text(",");
        }
    }
    writer.into_text().to_string()
}

/// Longest object of JSON that stays on one line.
const LINE: usize = 110;

struct Writer<'a> {
    out: Sink,
    show: &'a Show<'a>,
    compact: bool,
    /// Comments, and what is inactive, by the words of their places.
    marks: HashMap<String, (Option<String>, bool)>,
}

impl<'a> Writer<'a> {
    fn new(show: &'a Show<'a>) -> Self {
        Self {
            out: Sink::default(),
            show,
            compact: false,
            marks: HashMap::new(),
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push(text.as_bytes());
    }

    fn into_text(self) -> Zeroizing<String> {
        let mut bytes = self.out.into_bytes();
        // Only whole texts were written.
        Zeroizing::new(String::from_utf8(std::mem::take(&mut *bytes)).unwrap_or_default())
    }

    /// A space and a value as it stands in a line.
    fn value(&mut self, field: &Field, leaf: &Leaf) {
        self.text(" ");
        let word = self.show.secrets.word(field, leaf);
        quote(&word, |part| self.out.push(part.as_bytes()));
    }

    /// What holds for a leaf that is not there, if that is asked for.
    fn default<'b>(&self, field: &'b Field) -> Option<&'b str> {
        field
            .default()
            .filter(|_| self.show.defaults && field.key.is_none())
    }

    fn set_branch(&mut self, message: &Message, branch: &Branch, prefix: &str, item: bool) {
        let before = self.out.len();
        let empty = Branch::default();
        for field in &message.fields {
            if field.key.is_some() {
                continue;
            }
            match (branch.get(field.number), &field.kind) {
                (Some(Node::Leaf(leaf)), _) => {
                    self.text(prefix);
                    self.text(" ");
                    self.text(&field.name);
                    self.value(field, leaf);
                    self.text("\n");
                }
                (Some(Node::List(list)), FieldKind::List(item)) => {
                    self.set_items(field, item, list, &format!("{prefix} {}", field.name));
                }
                (node, FieldKind::Branch(inner)) => {
                    let branch = match node {
                        Some(Node::Branch(branch)) => branch,
                        _ if self.show.defaults => &empty,
                        _ => continue,
                    };
                    self.set_branch(inner, branch, &format!("{prefix} {}", field.name), false);
                }
                _ => {
                    if let Some(default) = self.default(field) {
                        self.text(prefix);
                        self.text(" ");
                        self.text(&field.name);
                        self.text(" ");
                        quote(default, |part| self.out.push(part.as_bytes()));
                        self.text(" # default\n");
                    }
                }
            }
        }
        if item && self.out.len() == before {
            self.text(prefix);
            self.text("\n");
        }
    }

    fn set_items(&mut self, field: &Field, item: &Message, list: &List, prefix: &str) {
        for (key, branch) in list.entries(field) {
            let mut prefix = prefix.to_owned();
            push_key(item, key, |part| prefix.push_str(part));
            self.set_branch(item, branch, &prefix, true);
        }
    }

    fn indent(&mut self, depth: usize) {
        for _ in 0..depth {
            self.text("    ");
        }
    }

    /// Begins a line, with what is noted about its place.
    fn mark(&mut self, depth: usize, place: impl FnOnce() -> String) {
        let mark = if self.marks.is_empty() {
            None
        } else {
            self.marks.get(&place()).cloned()
        };
        let (comment, inactive) = mark.unwrap_or_default();
        if let Some(comment) = comment {
            for line in comment.lines() {
                self.indent(depth);
                self.text("# ");
                self.text(line);
                self.text("\n");
            }
        }
        self.indent(depth);
        if inactive {
            self.text("inactive: ");
        }
    }

    fn text_branch(&mut self, message: &Message, branch: &Branch, depth: usize, at: &str) {
        let empty = Branch::default();
        for field in &message.fields {
            if field.key.is_some() {
                continue;
            }
            let place = || join(at, &field.name);
            match (branch.get(field.number), &field.kind) {
                (Some(Node::Leaf(leaf)), _) => {
                    self.mark(depth, place);
                    self.text(&field.name);
                    self.value(field, leaf);
                    self.text(";\n");
                }
                (Some(Node::List(list)), FieldKind::List(item)) => {
                    self.text_items(field, item, list, depth, &place());
                }
                (node, FieldKind::Branch(inner)) => {
                    let branch = match node {
                        Some(Node::Branch(branch)) => branch,
                        _ if self.show.defaults => &empty,
                        _ => continue,
                    };
                    self.mark(depth, place);
                    self.text(&field.name);
                    self.text(" {\n");
                    self.text_branch(inner, branch, depth + 1, &place());
                    self.indent(depth);
                    self.text("}\n");
                }
                _ => {
                    if let Some(default) = self.default(field) {
                        self.indent(depth);
                        self.text(&field.name);
                        self.text(" ");
                        quote(default, |part| self.out.push(part.as_bytes()));
                        self.text("; # default\n");
                    }
                }
            }
        }
    }

    fn text_items(&mut self, field: &Field, item: &Message, list: &List, depth: usize, at: &str) {
        for (key, branch) in list.entries(field) {
            let mut place = at.to_owned();
            push_key(item, key, |part| place.push_str(part));
            self.mark(depth, || place.clone());
            self.text(&field.name);
            push_key(item, key, |part| self.out.push(part.as_bytes()));
            let defaults = self.show.defaults
                && item.fields.iter().any(|field| {
                    field.key.is_none() && (field.default().is_some() || !field.is_leaf())
                });
            if branch.is_empty() && !defaults {
                self.text(";\n");
                continue;
            }
            self.text(" {\n");
            self.text_branch(item, branch, depth + 1, &place);
            self.indent(depth);
            self.text("}\n");
        }
    }

    /// A line of its own for what follows, or only a space.
    fn json_break(&mut self, inline: bool, depth: usize) {
        if self.compact {
            return;
        }
        if inline {
            self.text(" ");
            return;
        }
        self.text("\n");
        for _ in 0..depth {
            self.text("  ");
        }
    }

    /// Whether something of that weight fits what is left of a line.
    fn fits(&self, weight: Weight, depth: usize) -> bool {
        !self.show.defaults && 2 * depth + weight.bytes + 4 * weight.values <= LINE
    }

    fn json_branch(
        &mut self,
        message: &Message,
        branch: &Branch,
        key: Option<&ItemKey>,
        depth: usize,
    ) {
        let weight = match key {
            Some(key) => Weight::of_item(message, key, branch),
            None => Weight::of_branch(message, branch),
        };
        let inline = depth > 0 && self.fits(weight, depth);
        let empty = Node::Branch(std::sync::Arc::default());
        self.text("{");
        let mut first = true;
        for field in &message.fields {
            let stored;
            let node = match (field.key, key) {
                (Some(_), Some(key)) => {
                    stored = key.get(field).cloned().map(Node::Leaf);
                    stored.as_ref()
                }
                _ => branch.get(field.number),
            };
            let default = field.default().filter(|_| self.show.defaults);
            let node = match (node, &field.kind) {
                (None, FieldKind::Branch(_)) if self.show.defaults => Some(&empty),
                (None, _) if default.is_none() => continue,
                (node, _) => node,
            };
            if !first {
                self.text(",");
            }
            first = false;
            self.json_break(inline, depth + 1);
            self.text("\"");
            self.text(&field.name);
            self.text(if self.compact { "\":" } else { "\": " });
            match (node, &field.kind) {
                (Some(Node::Leaf(leaf)), _) => self.json_leaf(field, leaf),
                (Some(Node::Branch(inner)), FieldKind::Branch(message)) => {
                    self.json_branch(message, inner, None, depth + 1);
                }
                (Some(Node::List(list)), FieldKind::List(item)) => {
                    self.json_list(field, item, list, depth + 1);
                }
                _ => match Leaf::from_word(field, default.unwrap_or_default()) {
                    Ok(leaf) => self.json_leaf(field, &leaf),
                    // The lint of the schema checks defaults.
                    Err(_) => self.text("null"),
                },
            }
        }
        if !first {
            self.json_break(inline, depth);
        }
        self.text("}");
    }

    fn json_list(&mut self, field: &Field, item: &Message, list: &List, depth: usize) {
        let weight = Weight::of_node(field, &Node::List(std::sync::Arc::new(List::default())));
        // A list as long as a line is short: only few items are weighed.
        let few = list.items.len() <= LINE / 4;
        let weight = list
            .items
            .iter()
            .take(if few { usize::MAX } else { 0 })
            .map(|(key, branch)| Weight::of_item(item, key, branch))
            .fold(weight, std::ops::Add::add);
        let inline = few && self.fits(weight, depth);
        self.text("[");
        for (index, (key, branch)) in list.entries(field).enumerate() {
            if index > 0 {
                self.text(",");
                if inline && !self.compact {
                    self.text(" ");
                }
            }
            if !inline {
                self.json_break(false, depth + 1);
            }
            self.json_branch(item, branch, Some(key), depth + 1);
        }
        if !inline {
            self.json_break(false, depth);
        }
        self.text("]");
    }

    fn json_leaf(&mut self, field: &Field, leaf: &Leaf) {
        let word = self.show.secrets.word(field, leaf);
        if matches!(leaf.0, Scalar::Bool(_) | Scalar::Number(_)) {
            self.text(&word);
            return;
        }
        self.text("\"");
        let mut buffer = [0; 4];
        for letter in word.chars() {
            match letter {
                '"' => self.text("\\\""),
                '\\' => self.text("\\\\"),
                '\n' => self.text("\\n"),
                '\r' => self.text("\\r"),
                '\t' => self.text("\\t"),
                letter if u32::from(letter) < 32 => {
                    self.text(&format!("\\u{:04x}", u32::from(letter)));
                }
                letter => self.text(letter.encode_utf8(&mut buffer)),
            }
        }
        self.text("\"");
    }
}
