//! Replays what fuzzing has found, and damaged copies of it, the same in every run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use culvert_dataplane::driver::generator::Random;
use culvert_tests::fuzz::{TARGETS, Target};

/// Damaged inputs for each target.
const DAMAGED: usize = 2000;
/// No input grows beyond it, in bytes.
const LONGEST: usize = 4096;

fn corpus(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpora")
        .join(target.name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.expect("an entry of the corpus").path();
            let bytes = fs::read(&path).expect("a file of the corpus");
            (path, bytes)
        })
        .collect();
    files.sort();
    files
}

/// Feeds; a failure shows the input, ready to be kept as a file.
fn feed(target: Target, name: &str, input: &[u8]) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| (target.feed)(input)));
    if let Err(cause) = outcome {
        eprintln!("{} fails on {name}: {input:02x?}", target.name);
        panic::resume_unwind(cause);
    }
}

#[test]
fn every_target_takes_its_corpus() {
    for target in TARGETS {
        let files = corpus(*target);
        assert!(files.len() >= 3, "{} has no corpus", target.name);
        for (path, bytes) in files {
            feed(*target, &path.display().to_string(), &bytes);
        }
    }
}

#[test]
fn every_target_takes_damaged_inputs() {
    let mut random = Random::new(0x0c01_7e57);
    for target in TARGETS {
        let files = corpus(*target);
        for number in 0..DAMAGED {
            let (path, bytes) = &files[below(&mut random, files.len())];
            let mut input = bytes.clone();
            for _ in 0..=below(&mut random, 5) {
                let other = &files[below(&mut random, files.len())].1;
                damage(&mut input, other, &mut random);
            }
            input.truncate(LONGEST);
            let name = format!("{} damaged, number {number}", path.display());
            feed(*target, &name, &input);
        }
    }
}

fn below(random: &mut Random, end: usize) -> usize {
    random.below(end as u64) as usize
}

fn damage(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = below(random, input.len() + 1);
    match below(random, 6) {
        0 if at < input.len() => input[at] ^= 1 << below(random, 8),
        1 if at < input.len() => input[at] = below(random, 256) as u8,
        2 => input.truncate(at),
        3 => input.insert(at, below(random, 256) as u8),
        4 => {
            let end = at + below(random, input.len() + 1 - at);
            input.drain(at..end);
        }
        _ => {
            let from = below(random, other.len() + 1);
            input.splice(at..at, other[from..].iter().copied());
        }
    }
}
