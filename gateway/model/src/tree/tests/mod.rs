#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod changes;
mod forms;
mod properties;
mod words;

use super::words::split;
use super::*;

const EXAMPLE: &str = include_str!("../../../tests/data/gateway.json");

fn key() -> DigestKey {
    DigestKey::new([7; 32])
}

fn example() -> Tree {
    Tree::from_json(EXAMPLE.as_bytes()).unwrap()
}

fn at(words: &str) -> Location {
    Location::parse(&split(words).unwrap(), &Location::root()).unwrap_or_else(|e| panic!("{e:?}"))
}

fn set(tree: &mut Tree, words: &str) {
    let setting = Setting::parse(&split(words).unwrap(), &Location::root());
    tree.set(&setting.unwrap_or_else(|error| panic!("{words}: {error}")))
        .unwrap();
}

fn from_lines(lines: &str) -> Tree {
    let mut tree = Tree::empty();
    for line in lines.lines() {
        set(&mut tree, line.strip_prefix("set ").unwrap());
    }
    tree
}

fn lines(tree: &Tree) -> String {
    tree.to_set_lines(&Location::root(), &Show::PLAIN)
        .to_string()
}
