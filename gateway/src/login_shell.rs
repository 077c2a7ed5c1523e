//! `culvert` as the shell of the account that everybody logs in as: `culvert -c COMMAND`, as sshd starts a forced command.
//!
//! It is no shell: blanks part words, and no character means anything else. The one command is the command line on behalf
//! of a user; what the client asked for is in `SSH_ORIGINAL_COMMAND`, and the command line reads it as lines of its own.
//! Before the first of them this process gives up starting programs, for good and by the kernel's word.

use std::ffi::OsString;

use thiserror::Error;

use crate::process::confinement::{Confined, ConfinementError, confine};

/// What follows `culvert cli`: each with a value.
const OPTIONS: [&str; 4] = ["--root", "--idle-timeout", "--principal", "--key"];

/// Why nothing is done for who comes in.
#[derive(Debug, Error)]
pub enum ShellError {
    /// Not a forced command of this gateway.
    #[error(
        "this account is for `culvert cli --root DIR --idle-timeout SECONDS --principal NAME --key FINGERPRINT` alone, not for {0:?}"
    )]
    Command(String),
    /// The process could still start others.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
}

/// The arguments that are meant: given ones, or those in the command that a login shell is started with.
pub fn arguments(given: Vec<OsString>) -> Result<Vec<OsString>, ShellError> {
    if given.get(1).is_none_or(|flag| flag != "-c") {
        return Ok(given);
    }
    let command = match given.get(2..) {
        Some([command]) => command.to_string_lossy(),
        _ => "several words".into(),
    };
    let words = words(&command).ok_or_else(|| ShellError::Command(command.into_owned()))?;
    confine(Confined::Other)?;
    Ok(words)
}

/// Of the one command there is; none: it is another.
fn words(command: &str) -> Option<Vec<OsString>> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" /._-+".contains(&byte);
    if !command.bytes().all(plain) {
        return None;
    }
    let words: Vec<&str> = command.split(' ').collect();
    let options = words.strip_prefix(&["culvert", "cli"])?;
    let right = options.len() == 2 * OPTIONS.len()
        && options.chunks_exact(2).zip(OPTIONS).all(|(pair, name)| {
            matches!(pair, [option, value] if *option == name && !value.is_empty() && !value.starts_with('-'))
        });
    right.then(|| words.into_iter().map(OsString::from).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const COMMAND: &str =
        "culvert cli --root /var/lib/culvert --idle-timeout 900 --principal alice --key a+b/C";

    #[test]
    fn the_forced_command_is_taken_apart() {
        let words = words(COMMAND).unwrap();
        assert_eq!(words.len(), 10);
        assert_eq!(words.last().unwrap(), "a+b/C");
    }

    #[test]
    fn everything_else_is_refused() {
        for command in [
            "",
            "culvert",
            "culvert cli",
            "sh",
            "culvert run --root /var/lib/culvert",
            "culvert dataplane --root /r --idle-timeout 900 --principal alice --key k",
            "/bin/culvert cli --root /r --idle-timeout 900 --principal alice --key k",
            "culvert cli --root /r --idle-timeout 900",
            "culvert cli --root /r --idle-timeout 900 --principal alice",
            "culvert cli --root /r --idle-timeout 900 --principal --command --key",
            "culvert cli --root /r --idle-timeout 900 --command show",
            "culvert cli --root /r --idle-timeout 900 --principal alice --principal bob",
            "culvert cli --root /r --idle-timeout 900 --principal alice --key",
            "culvert cli --root /r --idle-timeout 900 --principal alice --key -x",
            "culvert cli --root /r --idle-timeout 900 --principal alice --key k; sh",
            "culvert cli --root /r --idle-timeout 900 --principal $USER --key k",
            "culvert cli --root /r --idle-timeout 900 --principal `id` --key k",
            "culvert cli --root '/r' --idle-timeout 900 --principal alice --key k",
            "culvert cli  --root /r --idle-timeout 900 --principal alice --key k",
            "culvert cli --root /r --idle-timeout 900 --principal alice --key k\nsh",
        ] {
            assert_eq!(words(command), None, "{command}");
        }
    }

    #[test]
    fn who_is_no_shell_keeps_its_arguments() {
        let given = ["culvert", "show", "-c"].map(OsString::from).to_vec();
        assert_eq!(arguments(given.clone()).unwrap(), given);
    }
}
